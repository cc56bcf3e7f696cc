//! What a run has done so far, counted without locks where chunks are read.
//!
//! Owns the counts that the progress display and the live `/metrics` read, and the two peaks that the report gives. Knows
//! nothing of time. The report's own figures are made from records: nothing here is in them but the peaks.
//!
//! Cost: a chunk is two relaxed additions in a cache line that its thread shares with few others (one for a chunk before
//! the first token); a request is besides two short locks, at its first token and at its end.
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::records::{End, Record};
use crate::statistics::Gaps;

/// Upper bounds of the live histogram of gaps, in microseconds; beyond the last is one more bucket.
pub(crate) const GAP_BOUNDS_US: [u64; 19] = [
    100, 1_000, 2_500, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 40_000, 50_000, 75_000, 100_000, 150_000, 250_000,
    500_000, 1_000_000, 2_500_000, 10_000_000,
];
const GAP_BUCKETS: usize = GAP_BOUNDS_US.len() + 1;

/// Cache lines that chunks are counted in: threads beyond so many share them.
const LANES: usize = 16;

/// Counts of one run. Relaxed throughout: they order nothing, they are only shown.
#[derive(Debug)]
pub(crate) struct Counters {
    sent: AtomicU64,
    completed: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    first_tokens: AtomicU64,
    connections: AtomicU64,
    in_flight: Peak,
    queued: Peak,
    lanes: Box<[Lane; LANES]>,
    /// In microseconds; a lock at a request's first token.
    ttft: Mutex<Gaps>,
    /// In microseconds; a lock at a request's end.
    e2e: Mutex<Gaps>,
}

/// Chunks that some threads read. Aligned so that no other thread's counts are in its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane {
    gaps: [AtomicU64; GAP_BUCKETS],
    gap_sum_us: AtomicU64,
    without_gap: AtomicU64,
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

/// Counts at one instant. Each is right; of two that belong together one may be a moment older.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Live {
    pub(crate) sent: u64,
    pub(crate) completed: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed: u64,
    pub(crate) first_tokens: u64,
    /// Content chunks but the first with text of each answer.
    pub(crate) further_chunks: u64,
    pub(crate) in_flight: u64,
    pub(crate) queued: u64,
    /// Gaps between chunks, by [`GAP_BOUNDS_US`].
    pub(crate) gaps: [u64; GAP_BUCKETS],
    pub(crate) gap_sum_us: u64,
}

impl Live {
    /// Requests that are over.
    pub(crate) fn done(&self) -> u64 {
        self.completed + self.cancelled + self.failed
    }

    /// All content chunks.
    pub(crate) fn chunks(&self) -> u64 {
        self.first_tokens + self.further_chunks
    }

    /// Mean gap so far.
    pub(crate) fn gap_mean_ms(&self) -> Option<f64> {
        let n: u64 = self.gaps.iter().sum();
        (n > 0).then(|| self.gap_sum_us as f64 / n as f64 / 1e3)
    }
}

impl Default for Counters {
    fn default() -> Self {
        let count = AtomicU64::default;
        Self {
            sent: count(),
            completed: count(),
            cancelled: count(),
            failed: count(),
            first_tokens: count(),
            connections: count(),
            in_flight: Peak::default(),
            queued: Peak::default(),
            lanes: Box::default(),
            ttft: Mutex::new(Gaps::new()),
            e2e: Mutex::new(Gaps::new()),
        }
    }
}

impl Counters {
    /// A request is being sent.
    pub(crate) fn on_sent(&self) {
        self.sent.fetch_add(1, Relaxed);
        self.in_flight.up();
        self.queued.up();
    }

    /// A connection is being opened.
    pub(crate) fn on_connect(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// A request's first token came, so long after its send.
    pub(crate) fn on_first_token(&self, ttft_ns: u64) {
        self.first_tokens.fetch_add(1, Relaxed);
        self.queued.down();
        lock(&self.ttft).add(ttft_ns / 1000);
    }

    /// A further content chunk of a request came, so long after the last; `None` before the first token.
    pub(crate) fn on_chunk(&self, gap_us: Option<u64>) {
        let lane = &self.lanes[lane()];
        match gap_us {
            Some(us) => {
                lane.gaps[GAP_BOUNDS_US.partition_point(|&bound| bound < us)].fetch_add(1, Relaxed);
                lane.gap_sum_us.fetch_add(us, Relaxed);
            }
            None => _ = lane.without_gap.fetch_add(1, Relaxed),
        }
    }

    /// A request that was sent ended as this record says; its first token was counted if it has one.
    pub(crate) fn on_done(&self, record: &Record) {
        match record.end {
            End::Completed => {
                self.completed.fetch_add(1, Relaxed);
                lock(&self.e2e).add(record.ended.saturating_sub(record.sent) / 1000);
            }
            End::Cancelled => _ = self.cancelled.fetch_add(1, Relaxed),
            End::Failed(_) => _ = self.failed.fetch_add(1, Relaxed),
        }
        self.in_flight.down();
        if record.first_token.is_none() {
            self.queued.down();
        }
    }

    /// A request is never sent, since the turn before it failed.
    pub(crate) fn on_never_sent(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Everything as it is now.
    pub(crate) fn live(&self) -> Live {
        let of = |count: &AtomicU64| count.load(Relaxed);
        let lanes = || self.lanes.iter();
        let gaps: [u64; GAP_BUCKETS] = std::array::from_fn(|i| lanes().map(|lane| of(&lane.gaps[i])).sum());
        Live {
            sent: of(&self.sent),
            completed: of(&self.completed),
            cancelled: of(&self.cancelled),
            failed: of(&self.failed),
            first_tokens: of(&self.first_tokens),
            further_chunks: gaps.iter().sum::<u64>() + lanes().map(|lane| of(&lane.without_gap)).sum::<u64>(),
            in_flight: of(&self.in_flight.now),
            queued: of(&self.queued.now),
            gaps,
            gap_sum_us: lanes().map(|lane| of(&lane.gap_sum_us)).sum(),
        }
    }

    /// The times to the first token so far, in microseconds.
    pub(crate) fn ttft(&self) -> Gaps {
        lock(&self.ttft).clone()
    }

    /// The times to the end of completed requests so far, in microseconds.
    pub(crate) fn e2e(&self) -> Gaps {
        lock(&self.e2e).clone()
    }

    /// The four counts of the progress bars: sent, done, first tokens, further tokens.
    pub(crate) fn bars(&self) -> [u64; 4] {
        let live = self.live();
        [live.sent, live.done(), live.first_tokens, live.further_chunks]
    }

    /// Most requests that were in flight at once.
    pub(crate) fn max_in_flight(&self) -> u64 {
        self.in_flight.highest.load(Relaxed)
    }

    /// Most requests that waited for their first token at once.
    pub(crate) fn max_queued(&self) -> u64 {
        self.queued.highest.load(Relaxed)
    }

    /// Connections that were opened.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }
}

fn lock(gaps: &Mutex<Gaps>) -> std::sync::MutexGuard<'_, Gaps> {
    gaps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The calling thread's lane: threads take them in turn, so the few that read answers have one each.
fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static LANE: usize = NEXT.fetch_add(1, Relaxed) % LANES);
    LANE.with(|lane| *lane)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Failure, Reason};

    #[test]
    fn counts_and_peaks() {
        let counters = Counters::default();
        let record = |first_token, end| Record { sent: 1_000, first_token, ended: 51_000, end, ..Record::default() };
        counters.on_sent();
        counters.on_sent();
        counters.on_chunk(None);
        counters.on_first_token(20_000);
        // From many threads, on whatever lanes.
        std::thread::scope(|scope| {
            for us in [0, 100, 101, 20_000, u64::from(u32::MAX)] {
                let counters = &counters;
                scope.spawn(move || counters.on_chunk(Some(us)));
            }
        });
        counters.on_done(&record(Some(21_000), End::Completed));
        counters.on_sent();
        counters.on_done(&record(None, End::Failed(Failure::new(Reason::Reset, ""))));
        counters.on_done(&record(None, End::Cancelled));
        let mut gaps = [0; GAP_BUCKETS];
        (gaps[0], gaps[1], gaps[7], gaps[GAP_BUCKETS - 1]) = (2, 1, 1, 1);
        let expected = Live {
            sent: 3,
            completed: 1,
            cancelled: 1,
            failed: 1,
            first_tokens: 1,
            further_chunks: 6,
            in_flight: 0,
            queued: 0,
            gaps,
            gap_sum_us: 20_201 + u64::from(u32::MAX),
        };
        assert_eq!(counters.live(), expected);
        assert_eq!(counters.bars(), [3, 3, 1, 6]);
        assert_eq!((counters.max_in_flight(), counters.max_queued()), (2, 2));
        assert_eq!((counters.ttft().quantile_ms(0.5), counters.e2e().quantile_ms(0.5)), (0.02, 0.05));
    }
}
