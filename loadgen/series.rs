//! What is kept of a run over time, in memory that does not grow with it: gaps by time and length, samples, own cost.
//!
//! Owns the two bounds (cells, samples) and how time is coarsened to hold them. Knows nothing of requests.
use serde::{Deserialize, Serialize};

/// Gaps between chunks, counted by when they ended and how long they were.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GapsOverTime {
    /// Nanoseconds a column; doubles when the run outgrows the columns.
    column_ns: u64,
    /// `[COLUMNS][BINS]`, row-major.
    counts: Vec<u32>,
    /// Columns that any gap fell into, from the first.
    used: usize,
}

impl GapsOverTime {
    /// Columns of time.
    pub(crate) const COLUMNS: usize = 256;
    /// Bins of length: four an octave of microseconds, from 1 µs to beyond an hour.
    pub(crate) const BINS: usize = 128;
    /// A column's first width.
    const FIRST_COLUMN_NS: u64 = 100_000_000;

    pub(crate) fn new() -> Self {
        Self { column_ns: Self::FIRST_COLUMN_NS, counts: vec![0; Self::COLUMNS * Self::BINS], used: 0 }
    }

    /// Adds a gap of `gap_us` that ended at `at_ns`.
    pub(crate) fn add(&mut self, at_ns: u64, gap_us: u64) {
        while at_ns / self.column_ns >= Self::COLUMNS as u64 {
            self.coarsen();
        }
        let column = (at_ns / self.column_ns) as usize;
        self.used = self.used.max(column + 1);
        let cell = &mut self.counts[column * Self::BINS + Self::bin(gap_us)];
        *cell = cell.saturating_add(1);
    }

    /// Adds another's counts.
    pub(crate) fn merge(&mut self, mut other: Self) {
        while self.column_ns < other.column_ns {
            self.coarsen();
        }
        while other.column_ns < self.column_ns {
            other.coarsen();
        }
        self.used = self.used.max(other.used);
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine = mine.saturating_add(*theirs));
    }

    /// Seconds a column.
    pub(crate) fn column_s(&self) -> f64 {
        self.column_ns as f64 / 1e9
    }

    /// The counts of each column by bin, as far as there were any.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &[u32]> {
        self.counts.chunks(Self::BINS).take(self.used)
    }

    /// The counts that are not 0, as (column, bin, count).
    pub(crate) fn cells(&self) -> impl Iterator<Item = (usize, usize, u32)> {
        let column = |(at, bins): (usize, &[u32])| -> Vec<(usize, usize, u32)> {
            bins.iter().enumerate().filter(|(_, n)| **n > 0).map(|(bin, &n)| (at, bin, n)).collect()
        };
        self.columns().enumerate().flat_map(column)
    }

    /// Smallest length of a bin, in microseconds.
    pub(crate) fn bin_start_us(bin: usize) -> f64 {
        2f64.powi(bin as i32 / 4) * (1.0 + (bin % 4) as f64 / 4.0)
    }

    fn bin(gap_us: u64) -> usize {
        // 4·log2 by the leading bits: exact enough for a picture, and without a logarithm a chunk.
        let us = gap_us.max(1);
        let octave = us.ilog2() as usize;
        let fraction = if octave >= 2 { (us >> (octave - 2)) & 3 } else { (us << (2 - octave)) & 3 };
        (octave * 4 + fraction as usize).min(Self::BINS - 1)
    }

    fn coarsen(&mut self) {
        self.column_ns *= 2;
        for column in 0..Self::COLUMNS {
            for bin in 0..Self::BINS {
                let of = |c: usize| if c < Self::COLUMNS { self.counts[c * Self::BINS + bin] } else { 0 };
                self.counts[column * Self::BINS + bin] = of(2 * column).saturating_add(of(2 * column + 1));
            }
        }
        self.used = self.used.div_ceil(2);
    }
}

/// The run at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds after the run's start.
    pub(crate) at_s: f64,
    /// Requests sent so far.
    pub(crate) sent: u64,
    /// Requests over so far, either way.
    pub(crate) done: u64,
    /// Requests that wait for their first token.
    pub(crate) queued: u64,
    /// Content chunks so far.
    pub(crate) chunks: u64,
}

/// What the load generator itself took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientCost {
    /// CPU seconds of the process through the run, all threads.
    pub(crate) cpu_s: f64,
    /// The run's wall-clock seconds, sending to last end.
    pub(crate) wall_s: f64,
    /// Most memory that was resident, in bytes, since the process began.
    pub(crate) peak_rss_bytes: u64,
    /// Content chunks read.
    pub(crate) chunks: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bins_are_quarter_octaves() {
        assert_eq!(GapsOverTime::bin(0), 0);
        for (us, bin) in [(1, 0), (2, 4), (3, 6), (4, 8), (5, 9), (1024, 40), (1280, 41), (u64::MAX, 127)] {
            assert_eq!(GapsOverTime::bin(us), bin, "{us}");
        }
        assert_eq!((GapsOverTime::bin_start_us(40), GapsOverTime::bin_start_us(41)), (1024.0, 1280.0));
    }

    proptest! {
        /// Whatever the order, and however the gaps are spread over counters that are merged, the counts are the same.
        #[test]
        fn any_order_and_any_split_count_the_same(
            gaps in prop::collection::vec((0u64..1_000_000_000_000, 0u64..100_000_000), 0..200), cut in 0usize..200,
        ) {
            let mut whole = GapsOverTime::new();
            gaps.iter().for_each(|&(at, gap)| whole.add(at, gap));
            let cut = cut.min(gaps.len());
            let (mut a, mut b) = (GapsOverTime::new(), GapsOverTime::new());
            gaps[cut..].iter().rev().for_each(|&(at, gap)| a.add(at, gap));
            gaps[..cut].iter().for_each(|&(at, gap)| b.add(at, gap));
            a.merge(b);
            prop_assert_eq!(whole.columns().flatten().map(|&n| u64::from(n)).sum::<u64>(), gaps.len() as u64);
            prop_assert_eq!(a, whole);
        }
    }
}
