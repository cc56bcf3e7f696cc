//! The figures that the server shows: one registry, passed in, no globals.
//!
//! Owns names, labels and buckets. Knows nothing of who observes what, or when.

/// The scheduler's state after a commit, as gauges and running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Sequences with a slot.
    pub running: usize,
    /// Sequences that wait for one.
    pub waiting: usize,
    /// Pages in the pool.
    pub pages_free: usize,
    /// Pages that the prefix tree owns.
    pub pages_cached: usize,
    /// Pages that sequences own.
    pub pages_in_use: usize,
    /// `free + cached + in_use`
    pub pages_total: usize,
    /// Prompt tokens that were looked up in the prefix tree, in all.
    pub prefix_queries: u64,
    /// Prompt tokens that were found there, in all.
    pub prefix_hits: u64,
    /// Retractions, in all.
    pub preemptions: u64,
}
