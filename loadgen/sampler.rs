//! A thread that looks at a run now and then: its counts over time, and what the load generator itself takes.
//!
//! Owns the intervals and where a process's own CPU time and memory are read (Linux's `/proc`; elsewhere they are 0, which
//! reports show as unknown). Touches nothing that the run waits for.
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::Clock;
use crate::counters::Counters;
use crate::series::{ClientCost, Sample};

/// Between samples at first; doubled whenever there are too many.
const EVERY: Duration = Duration::from_millis(100);
const MOST_SAMPLES: usize = 2048;

/// The thread, until stopped.
pub(crate) struct Sampler {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
    cpu_before_s: f64,
    clock: Clock,
    counters: Arc<Counters>,
}

impl Sampler {
    /// Starts it.
    pub(crate) fn start(clock: Clock, counters: Arc<Counters>) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let shown = counters.clone();
        let thread = std::thread::spawn(move || {
            let (mut samples, mut every) = (Vec::new(), EVERY);
            loop {
                let last = stopped.recv_timeout(every) == Err(RecvTimeoutError::Disconnected);
                let live = shown.live();
                samples.push(Sample {
                    at_s: clock.now() as f64 / 1e9,
                    sent: live.sent,
                    done: live.done(),
                    queued: live.queued,
                    chunks: live.chunks(),
                });
                if last {
                    return samples;
                }
                if samples.len() >= MOST_SAMPLES {
                    let mut odd = false;
                    samples.retain(|_| {
                        odd = !odd;
                        odd
                    });
                    every *= 2;
                }
            }
        });
        Self { stop, thread, cpu_before_s: cpu_s(), clock, counters }
    }

    /// Stops it: the samples, and what the process took meanwhile.
    pub(crate) fn stop(self) -> (Vec<Sample>, ClientCost) {
        let cost = ClientCost {
            cpu_s: cpu_s() - self.cpu_before_s,
            wall_s: self.clock.now() as f64 / 1e9,
            peak_rss_bytes: peak_rss_bytes(),
            chunks: self.counters.live().chunks(),
        };
        drop(self.stop);
        (self.thread.join().unwrap_or_default(), cost)
    }
}

/// CPU seconds of this process so far, user and system.
pub(crate) fn cpu_s() -> f64 {
    /// `USER_HZ`, which Linux has fixed for its interfaces.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in brackets, may hold anything; fields 14 and 15 are counted from 1.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_A_SECOND
}

/// Most resident memory of this process since it began, or since [`forget_peak_rss`].
pub(crate) fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Starts the peak anew, where the system can.
pub(crate) fn forget_peak_rss() {
    // A system that cannot keeps the older peak, which is at least as high.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
