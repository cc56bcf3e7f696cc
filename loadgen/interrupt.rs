//! Ctrl-C and SIGTERM while a command runs.
//!
//! Owns what a signal means and when: before the first measured run it ends the process, as ever. From then on the first
//! one ends the run, whose figures are kept, and a second one ends the process. Knows nothing of requests.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::EXIT_INTERRUPTED;

/// Whether a run is to end early.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    /// A signal ends the process.
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Nothing ends a run early but the end of the process.
    pub fn never() -> Self {
        Self::default()
    }

    /// Ctrl-C (SIGINT) and SIGTERM do.
    ///
    /// # Errors
    /// Where the system takes no handler.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = Self { asked: Arc::default(), at_once: Arc::new(AtomicBool::new(true)) };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the signal that asks is not yet the one that ends the process.
            flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED.into(), interrupt.at_once.clone())?;
            flag::register(signal, interrupt.asked.clone())?;
            flag::register(signal, interrupt.at_once.clone())?;
        }
        Ok(interrupt)
    }

    /// There are figures to keep from now on.
    pub(crate) fn keep_figures(&self) {
        if !self.asked() {
            self.at_once.store(false, Relaxed);
        }
    }

    /// Whether what runs is to end.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// For tests: as a signal would.
    #[cfg(test)]
    pub(crate) fn ask(&self) {
        self.asked.store(true, Relaxed);
    }
}
