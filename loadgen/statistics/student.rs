//! Student's t: confidence intervals over repeated runs, and whether two means differ.
//!
//! Owns the distribution and the two tests. Knows nothing of what the values are.
//!
//! An interval is mean ± t·s/√k over the k values, one a run, with k − 1 degrees of freedom: it says how the figure would
//! spread if the whole run were repeated. No resampling: runs are few and their means near normal.
use serde::{Deserialize, Serialize};

/// A mean over repeated runs and its 95% confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean of the runs' figures.
    pub mean: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// Runs that have the figure.
    pub runs: u64,
}

/// Confidence of an interval.
const CONFIDENCE: f64 = 0.95;

impl Interval {
    /// Of one figure of each run; `None` of fewer than two.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let moments = Moments::of(values)?;
        let t = quantile(0.5 + CONFIDENCE / 2.0, moments.n - 1.0);
        let half = t * (moments.variance / moments.n).sqrt();
        let mean = moments.mean;
        Some(Self { mean, low: mean - half, high: mean + half, runs: values.len() as u64 })
    }
}

/// Number, mean and sample variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) n: f64,
    pub(crate) mean: f64,
    pub(crate) variance: f64,
}

impl Moments {
    /// Of at least two values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.len() < 2 {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Some(Self { n, mean, variance })
    }
}

/// Welch's test of two means, whose variances may differ: the chance of a difference as large as theirs or larger if
/// there were none.
pub(crate) fn welch(a: Moments, b: Moments) -> f64 {
    let (va, vb) = (a.variance / a.n, b.variance / b.n);
    if va + vb <= 0.0 {
        return if a.mean == b.mean { 1.0 } else { 0.0 };
    }
    let t = (a.mean - b.mean) / (va + vb).sqrt();
    let df = (va + vb).powi(2) / (va.powi(2) / (a.n - 1.0) + vb.powi(2) / (b.n - 1.0));
    two_sided(t, df)
}

/// The chance of a normal value at least this many deviations from its mean.
pub(crate) fn normal_two_sided(z: f64) -> f64 {
    // With so many degrees of freedom Student's t is the normal distribution to nine digits.
    two_sided(z, 1e9)
}

/// P(|T| ≥ |t|) with `df` degrees of freedom.
fn two_sided(t: f64, df: f64) -> f64 {
    incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
}

/// The t that a share of the distribution lies below; `share` in [0.5, 1).
fn quantile(share: f64, df: f64) -> f64 {
    let above = 2.0 * (1.0 - share);
    let (mut low, mut high) = (0.0, 1.0);
    while two_sided(high, df) > above {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if two_sided(middle, df) > above { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz's method).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges fast on this side of the mean; the other side is its complement.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            change = d * c;
            fraction *= change;
        }
        if (change - 1.0).abs() < 1e-14 {
            break;
        }
    }
    fraction
}

/// ln Γ(x) for x > 0: Stirling's series, after the recurrence has brought x to where six terms are exact to 1e-15.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 0.0);
    while x < 12.0 {
        below += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let coefficients = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0];
    let series = coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * inverse + coefficient) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - below
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, by: f64) {
        assert!((a - b).abs() <= by, "{a} is not {b}");
    }

    #[test]
    fn the_quantiles_of_the_textbooks_table() {
        for (df, t) in [(1.0, 12.7062), (2.0, 4.3027), (4.0, 2.7764), (9.0, 2.2622), (30.0, 2.0423), (1e6, 1.95996)] {
            near(quantile(0.975, df), t, 1e-4);
        }
        near(two_sided(2.2622, 9.0), 0.05, 1e-5);
        near(two_sided(0.0, 5.0), 1.0, 1e-12);
        near(ln_gamma(5.0), 24f64.ln(), 1e-12);
        near(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-12);
    }

    #[test]
    fn an_interval_worked_by_hand() {
        // Mean 11, s² = 1, s/√3 = 0.57735, t(2) = 4.30265: ± 2.48414.
        let interval = Interval::of(&[10.0, 11.0, 12.0]).unwrap();
        near(interval.low, 8.515_86, 1e-4);
        near(interval.high, 13.484_14, 1e-4);
        assert_eq!((interval.mean, interval.runs), (11.0, 3));
        assert_eq!(Interval::of(&[1.0]), None);
        assert_eq!(Interval::of(&[2.0, 2.0]), Some(Interval { mean: 2.0, low: 2.0, high: 2.0, runs: 2 }));
    }

    #[test]
    fn welch_worked_by_hand() {
        // Means 3 and 6, variances 2.5 and 2.5, n 5 and 5: t = -3, df = 8, p = 0.01707.
        let test = |a: &[f64], b: &[f64]| welch(Moments::of(a).unwrap(), Moments::of(b).unwrap());
        near(test(&[1.0, 2.0, 3.0, 4.0, 5.0], &[4.0, 5.0, 6.0, 7.0, 8.0]), 0.017_07, 1e-5);
        assert_eq!(test(&[1.0, 1.0], &[1.0, 1.0]), 1.0);
        assert_eq!(test(&[1.0, 1.0], &[2.0, 2.0]), 0.0);
        assert_eq!(Moments::of(&[1.0]), None);
        near(normal_two_sided(1.959_964), 0.05, 1e-5);
    }
}
