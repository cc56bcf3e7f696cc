//! What a run has done so far, counted without locks on the hot path.
//!
//! Owns the counts that the progress display reads and the two peaks that the report gives. Knows nothing of time.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of one run. Relaxed throughout: they order nothing, they are only shown.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    done: AtomicU64,
    first_tokens: AtomicU64,
    further_tokens: AtomicU64,
    in_flight: Peak,
    queued: Peak,
}

/// A count that goes both ways, and the highest it reached.
#[derive(Debug, Default)]
struct Peak {
    now: AtomicU64,
    highest: AtomicU64,
}

impl Peak {
    fn up(&self) {
        self.highest.fetch_max(self.now.fetch_add(1, Relaxed) + 1, Relaxed);
    }

    fn down(&self) {
        let before = self.now.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "more ends than beginnings");
    }
}

impl Counters {
    /// A request is being sent.
    pub(crate) fn on_sent(&self) {
        self.sent.fetch_add(1, Relaxed);
        self.in_flight.up();
        self.queued.up();
    }

    /// A request's first token came.
    pub(crate) fn on_first_token(&self) {
        self.first_tokens.fetch_add(1, Relaxed);
        self.queued.down();
    }

    /// A further content chunk of a request came.
    pub(crate) fn on_token(&self) {
        self.further_tokens.fetch_add(1, Relaxed);
    }

    /// A request ended; whether its first token had come.
    pub(crate) fn on_done(&self, had_first_token: bool) {
        self.done.fetch_add(1, Relaxed);
        self.in_flight.down();
        if !had_first_token {
            self.queued.down();
        }
    }

    /// The four counts of the progress bars: sent, done, first tokens, further tokens.
    pub(crate) fn bars(&self) -> [u64; 4] {
        [&self.sent, &self.done, &self.first_tokens, &self.further_tokens].map(|count| count.load(Relaxed))
    }

    /// Most requests that were in flight at once.
    pub(crate) fn max_in_flight(&self) -> u64 {
        self.in_flight.highest.load(Relaxed)
    }

    /// Most requests that waited for their first token at once.
    pub(crate) fn max_queued(&self) -> u64 {
        self.queued.highest.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_the_highest_ever() {
        let counters = Counters::default();
        counters.on_sent();
        counters.on_sent();
        counters.on_first_token();
        counters.on_token();
        counters.on_done(true);
        counters.on_sent();
        counters.on_done(false);
        counters.on_done(false);
        assert_eq!(counters.bars(), [3, 3, 1, 1]);
        assert_eq!((counters.max_in_flight(), counters.max_queued()), (2, 2));
    }
}
