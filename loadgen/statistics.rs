//! Mean, percentiles and maximum of what was measured.
//!
//! Owns the definitions: a percentile is the **nearest rank**, the smallest value that at least that share of all values
//! does not exceed. One value a request is kept and ranked exactly; gaps between chunks, of which there is no bound, go
//! into a histogram of microseconds that is right to 3 significant digits, with their mean and maximum exact. Knows
//! nothing of what the values are.
use hdrhistogram::Histogram;
use serde::Serialize;

/// Figures of one quantity, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

const NANOSECONDS_A_MS: f64 = 1e6;
const MICROSECONDS_A_MS: f64 = 1e3;

impl Summary {
    /// The exact figures of `nanoseconds`, in any order; `None` where there are none.
    pub(crate) fn exact(mut nanoseconds: Vec<u64>) -> Option<Self> {
        nanoseconds.sort_unstable();
        let (&max, n) = (nanoseconds.last()?, nanoseconds.len());
        let rank = |percent: usize| nanoseconds[(percent * n).div_ceil(100) - 1] as f64 / NANOSECONDS_A_MS;
        let sum: u128 = nanoseconds.iter().map(|&value| u128::from(value)).sum();
        Some(Self {
            mean: sum as f64 / n as f64 / NANOSECONDS_A_MS,
            p50: rank(50),
            p90: rank(90),
            p99: rank(99),
            max: max as f64 / NANOSECONDS_A_MS,
        })
    }
}

/// Durations without bound of number, in constant memory.
pub(crate) struct Gaps {
    histogram: Histogram<u64>,
    sum_us: u128,
    max_us: u64,
}

impl Gaps {
    /// Longest gap that is told from longer ones: twelve hours.
    const LONGEST_US: u64 = 12 * 3600 * 1_000_000;

    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, Self::LONGEST_US, 3).expect("constant bounds");
        Self { histogram, sum_us: 0, max_us: 0 }
    }

    /// Adds one gap of so many microseconds.
    pub(crate) fn add(&mut self, us: u64) {
        self.histogram.saturating_record(us);
        self.sum_us += u128::from(us);
        self.max_us = self.max_us.max(us);
    }

    /// The figures; `None` where nothing was added.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let n = self.histogram.len();
        if n == 0 {
            return None;
        }
        let rank = |share| self.histogram.value_at_quantile(share).min(self.max_us) as f64 / MICROSECONDS_A_MS;
        Some(Summary {
            mean: self.sum_us as f64 / n as f64 / MICROSECONDS_A_MS,
            p50: rank(0.5),
            p90: rank(0.9),
            p99: rank(0.99),
            max: self.max_us as f64 / MICROSECONDS_A_MS,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn values_worked_by_hand() {
        assert_eq!(Summary::exact(Vec::new()), None);
        let one = Summary::exact(vec![7 * MS]).unwrap();
        assert_eq!(one, Summary { mean: 7.0, p50: 7.0, p90: 7.0, p99: 7.0, max: 7.0 });
        // Ranks of 10 values: ceil(5) = 5th, ceil(9) = 9th, ceil(9.9) = 10th.
        let ten = Summary::exact((1..=10).rev().map(|n| n * MS).collect()).unwrap();
        assert_eq!(ten, Summary { mean: 5.5, p50: 5.0, p90: 9.0, p99: 10.0, max: 10.0 });
        // Ranks of 201 values from 0: ceil(100.5) = 101st, ceil(180.9) = 181st, ceil(198.99) = 199th.
        let many = Summary::exact((0..=200).map(|n| n * MS).collect()).unwrap();
        assert_eq!(many, Summary { mean: 100.0, p50: 100.0, p90: 180.0, p99: 198.0, max: 200.0 });
    }

    #[test]
    fn a_histogram_keeps_small_gaps_exactly() {
        let mut gaps = Gaps::new();
        assert_eq!(gaps.summary(), None);
        (0..=200).rev().for_each(|n| gaps.add(n * 10));
        assert_eq!(gaps.summary().unwrap(), Summary { mean: 1.0, p50: 1.0, p90: 1.8, p99: 1.98, max: 2.0 });
        gaps.add(u64::MAX);
        assert_eq!(gaps.summary().unwrap().max, u64::MAX as f64 / 1e3);
    }

    proptest! {
        /// The histogram is the exact figures to one part in a thousand.
        #[test]
        fn both_ways_agree(us in prop::collection::vec(0u64..100_000_000, 1..300)) {
            let mut gaps = Gaps::new();
            us.iter().for_each(|&us| gaps.add(us));
            let (gaps, exact) = (gaps.summary().unwrap(), Summary::exact(us.iter().map(|us| us * 1000).collect()).unwrap());
            for (a, b) in [(gaps.mean, exact.mean), (gaps.p50, exact.p50), (gaps.p90, exact.p90), (gaps.p99, exact.p99), (gaps.max, exact.max)] {
                prop_assert!((a - b).abs() <= b * 1e-3 + 1e-9, "{a} {b}");
            }
        }
    }
}
