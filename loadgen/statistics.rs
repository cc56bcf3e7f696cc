//! Mean, spread, percentiles and maximum of what was measured.
//!
//! Owns the definitions: a percentile is the **nearest rank**, the smallest value that at least that share of all values
//! does not exceed. One value a request is kept and ranked exactly; gaps between chunks, of which there is no bound, go
//! into a histogram of microseconds that is right to 3 significant digits, with their mean, deviation and maximum exact.
//! Sums are of integers, so the figures depend on the values alone and not on their order or on who counted them. Knows
//! nothing of what the values are.
mod student;

pub use student::Interval;
pub(crate) use student::{Moments, normal_two_sided, welch};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Fewest values of which a 99th percentile is given: MLPerf's bound, below which one lucky tail moves it at will.
pub const LEAST_FOR_P99: u64 = 662;

/// Figures of one quantity, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile; none of fewer than [`LEAST_FOR_P99`] values.
    pub p99: Option<f64>,
    /// Largest.
    pub max: f64,
    /// How many values there were.
    #[serde(default)]
    pub n: u64,
    /// Their standard deviation (of a sample); none of one value.
    #[serde(default)]
    pub sd: Option<f64>,
}

const NANOSECONDS_A_MS: f64 = 1e6;
const MICROSECONDS_A_MS: f64 = 1e3;

/// The nearest rank of `percent` in values that are sorted and at least one.
pub(crate) fn nearest_rank(sorted: &[u64], percent: usize) -> u64 {
    sorted[(percent * sorted.len()).div_ceil(100).max(1) - 1]
}

impl Summary {
    /// Number, mean and variance; `None` of one value.
    pub(crate) fn moments(&self) -> Option<Moments> {
        Some(Moments { n: self.n as f64, mean: self.mean, variance: self.sd?.powi(2) })
    }

    /// The exact figures of `nanoseconds`, in any order; `None` where there are none.
    pub(crate) fn exact(mut nanoseconds: Vec<u64>) -> Option<Self> {
        nanoseconds.sort_unstable();
        let (&max, n) = (nanoseconds.last()?, nanoseconds.len());
        let rank = |percent| nearest_rank(&nanoseconds, percent) as f64 / NANOSECONDS_A_MS;
        let sum: u128 = nanoseconds.iter().map(|&value| u128::from(value)).sum();
        let mean_ns = sum as f64 / n as f64;
        let squares: f64 = nanoseconds.iter().map(|&value| (value as f64 - mean_ns).powi(2)).sum();
        Some(Self {
            mean: mean_ns / NANOSECONDS_A_MS,
            p50: rank(50),
            p90: rank(90),
            p99: (n as u64 >= LEAST_FOR_P99).then(|| rank(99)),
            max: max as f64 / NANOSECONDS_A_MS,
            n: n as u64,
            sd: (n > 1).then(|| (squares / (n - 1) as f64).sqrt() / NANOSECONDS_A_MS),
        })
    }
}

/// Durations without bound of number, in constant memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gaps {
    histogram: Histogram<u64>,
    sum_us: u128,
    squares_us: u128,
    max_us: u64,
}

impl Gaps {
    /// Longest gap that is told from longer ones: twelve hours.
    const LONGEST_US: u64 = 12 * 3600 * 1_000_000;

    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, Self::LONGEST_US, 3).expect("constant bounds");
        Self { histogram, sum_us: 0, squares_us: 0, max_us: 0 }
    }

    /// Adds one gap of so many microseconds.
    pub(crate) fn add(&mut self, us: u64) {
        self.add_times(us, 1);
    }

    /// Adds `times` gaps of so many microseconds.
    pub(crate) fn add_times(&mut self, us: u64, times: u64) {
        if times == 0 {
            return;
        }
        self.histogram.saturating_record_n(us, times);
        let (us, times) = (u128::from(us), u128::from(times));
        self.sum_us += us * times;
        self.squares_us = self.squares_us.saturating_add((us * us).saturating_mul(times));
        self.max_us = self.max_us.max(us as u64);
    }

    /// Adds what another counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("equal bounds");
        self.sum_us += other.sum_us;
        self.squares_us = self.squares_us.saturating_add(other.squares_us);
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// How many do not exceed this, as exact as the histogram is.
    pub(crate) fn count_up_to(&self, us: u64) -> u64 {
        self.histogram.count_between(0, us)
    }

    /// Their sum in seconds.
    pub(crate) fn sum_s(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// The length in milliseconds that this share of them does not exceed; 0 where there are none.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        self.histogram.value_at_quantile(share).min(self.max_us) as f64 / MICROSECONDS_A_MS
    }

    /// The figures; `None` where nothing was added.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let n = self.len();
        if n == 0 {
            return None;
        }
        let mean_us = self.sum_us as f64 / n as f64;
        let squares = (self.squares_us as f64 - mean_us * self.sum_us as f64).max(0.0);
        Some(Summary {
            mean: mean_us / MICROSECONDS_A_MS,
            p50: self.quantile_ms(0.5),
            p90: self.quantile_ms(0.9),
            p99: (n >= LEAST_FOR_P99).then(|| self.quantile_ms(0.99)),
            max: self.max_us as f64 / MICROSECONDS_A_MS,
            n,
            sd: (n > 1).then(|| (squares / (n - 1) as f64).sqrt() / MICROSECONDS_A_MS),
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
        assert_eq!(one, Summary { mean: 7.0, p50: 7.0, p90: 7.0, p99: None, max: 7.0, n: 1, sd: None });
        // Ranks of 10 values: ceil(5) = 5th, ceil(9) = 9th. Deviations from 5.5 squared: 82.5 in all, over 9.
        let ten = Summary::exact((1..=10).rev().map(|n| n * MS).collect()).unwrap();
        let sd = Some((82.5f64 / 9.0).sqrt());
        assert_eq!(ten, Summary { mean: 5.5, p50: 5.0, p90: 9.0, p99: None, max: 10.0, n: 10, sd });
        // Ranks of 201 values from 0: ceil(100.5) = 101st, ceil(180.9) = 181st.
        let many = Summary::exact((0..=200).map(|n| n * MS).collect()).unwrap();
        assert_eq!((many.mean, many.p50, many.p90, many.p99, many.max), (100.0, 100.0, 180.0, None, 200.0));
    }

    #[test]
    fn a_p99_needs_662_values() {
        let of = |n: u64| Summary::exact((1..=n).map(|n| n * MS).collect()).unwrap().p99;
        // Rank ceil(655.38) = 656th.
        assert_eq!((of(661), of(662)), (None, Some(656.0)));
        let mut gaps = Gaps::new();
        (1..=661).for_each(|us| gaps.add(us));
        assert_eq!(gaps.summary().unwrap().p99, None);
        gaps.add(662);
        assert_eq!(gaps.summary().unwrap().p99, Some(0.656));
    }

    #[test]
    fn a_histogram_keeps_small_gaps_exactly() {
        let mut gaps = Gaps::new();
        assert_eq!(gaps.summary(), None);
        (0..=200).rev().for_each(|n| gaps.add(n * 10));
        let summary = gaps.summary().unwrap();
        assert_eq!((summary.mean, summary.p50, summary.p90, summary.max, summary.n), (1.0, 1.0, 1.8, 2.0, 201));
        assert!((summary.sd.unwrap() - 0.581_68).abs() < 2e-6, "{summary:?}");
        gaps.add(u64::MAX);
        assert_eq!(gaps.summary().unwrap().max, u64::MAX as f64 / 1e3);
    }

    proptest! {
        /// The histogram is the exact figures to one part in a thousand.
        #[test]
        fn both_ways_agree(us in prop::collection::vec(0u64..100_000_000, 1..900)) {
            let mut gaps = Gaps::new();
            us.iter().for_each(|&us| gaps.add(us));
            let (gaps, exact) = (gaps.summary().unwrap(), Summary::exact(us.iter().map(|us| us * 1000).collect()).unwrap());
            let figures = |s: Summary| [s.mean, s.p50, s.p90, s.p99.unwrap_or(0.0), s.max, s.sd.unwrap_or(0.0)];
            for (a, b) in figures(gaps).into_iter().zip(figures(exact)) {
                prop_assert!((a - b).abs() <= b * 1e-3 + 1e-6, "{a} {b}");
            }
            prop_assert_eq!(gaps.n, exact.n);
        }

        /// Whatever the order, and however the values are spread over counters that are merged, the figures are the same bits.
        #[test]
        fn any_interleaving_gives_the_same_statistics(
            us in prop::collection::vec(0u64..u64::MAX, 0..300), parts in prop::collection::vec(0usize..4, 300),
            shuffled in Just(()).prop_perturb(|(), mut rng| rng.next_u64()),
        ) {
            let mut whole = Gaps::new();
            us.iter().for_each(|&us| whole.add(us));
            let mut threads = [Gaps::new(), Gaps::new(), Gaps::new(), Gaps::new()];
            let mut order: Vec<(u64, usize)> = us.iter().copied().zip(parts).collect();
            order.sort_by_key(|(us, _)| us.wrapping_mul(shuffled | 1));
            order.iter().for_each(|&(us, part)| threads[part].add(us));
            let mut merged = Gaps::new();
            threads.iter().rev().for_each(|part| merged.merge(part));
            prop_assert_eq!(&merged, &whole);
            prop_assert_eq!(merged.summary(), whole.summary());
            let values = |of: Vec<u64>| Summary::exact(of.into_iter().map(|v| v >> 16).collect());
            prop_assert_eq!(values(order.iter().map(|(us, _)| *us).collect()), values(us));
        }
    }
}
