//! Values into the bars and steps that a figure takes.
//!
//! Owns counting into bins. Knows nothing of drawing.
use super::Bar;

/// Most steps that a CDF is drawn with: more than a figure has pixels.
const MOST_STEPS: usize = 1000;

/// Bars, and what each stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Bins {
    /// The bars, in order.
    pub bars: Vec<Bar>,
    /// Values that have no place: not finite, or not above 0.
    pub left_out: usize,
}

/// How many of `values` fall into each of some bins that are equally wide on a logarithmic axis; for whole numbers no bin
/// is narrower than 1.
pub fn log_histogram(values: impl Iterator<Item = f64> + Clone, bins: usize) -> Bins {
    let fits = |value: &f64| value.is_finite() && *value > 0.0;
    let (mut low, mut high, mut left_out) = (f64::INFINITY, 0f64, 0);
    for value in values.clone() {
        match fits(&value) {
            true => (low, high) = (low.min(value), high.max(value)),
            false => left_out += 1,
        }
    }
    if low > high || bins == 0 {
        return Bins { bars: Vec::new(), left_out };
    }
    let whole = values.clone().filter(fits).all(|value| value.fract() == 0.0);
    let ratio = (high / low).max(1.1).ln() / bins as f64;
    let mut edges = vec![low];
    while edges[edges.len() - 1] <= high && edges.len() <= bins + 1 {
        let last = edges[edges.len() - 1];
        let next = last * ratio.exp();
        edges.push(if whole { next.round().max(last + 1.0) } else { next });
    }
    let mut counts = vec![0u64; edges.len() - 1];
    for value in values.filter(fits) {
        let bin = edges.partition_point(|&edge| edge <= value).clamp(1, counts.len()) - 1;
        counts[bin] += 1;
    }
    let bars = counts.iter().zip(edges.windows(2));
    Bins { bars: bars.map(|(&n, edge)| Bar { from: edge[0], to: edge[1], height: n as f64 }).collect(), left_out }
}

/// How many of `times` (seconds from 0 to `span`) come per second, in at most `most` windows of a round width.
pub fn over_time(times: impl Iterator<Item = f64>, span: f64, most: usize) -> Bins {
    let width = round_width(span / most.max(1) as f64);
    let windows = ((span / width).floor() as usize + 1).min(most.max(1) + 1);
    let (mut counts, mut left_out) = (vec![0u64; windows], 0);
    for time in times {
        match time.is_finite() && (0.0..=span).contains(&time) {
            true => counts[((time / width) as usize).min(windows - 1)] += 1,
            false => left_out += 1,
        }
    }
    let bar =
        |(i, &n): (usize, &u64)| Bar { from: i as f64 * width, to: (i + 1) as f64 * width, height: n as f64 / width };
    Bins { bars: counts.iter().enumerate().map(bar).collect(), left_out }
}

/// The least of 1, 2, 5, 10, 15, 30, 60 … seconds, or a power of ten of them, that is not below `least`.
fn round_width(least: f64) -> f64 {
    const WIDTHS: [f64; 16] =
        [0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 600.0, 3600.0, 21600.0, 86400.0];
    let found = WIDTHS.into_iter().find(|&width| width >= least);
    found.unwrap_or_else(|| (least / 86400.0).ceil().max(1.0) * 86400.0)
}

/// The share of values that are at most x, at every x where it changes (at a thousand of them where there are more).
/// `values` are sorted.
pub fn cdf(sorted: &[f64]) -> Vec<(f64, f64)> {
    let n = sorted.len();
    let every = n.div_ceil(MOST_STEPS).max(1);
    let mut points: Vec<(f64, f64)> = Vec::with_capacity(n.min(MOST_STEPS) + 2);
    points.extend(sorted.first().map(|&first| (first, 0.0)));
    for rank in (every..=n).step_by(every).chain((!n.is_multiple_of(every)).then_some(n)) {
        let value = sorted[rank - 1];
        // Equal values are one step.
        match points.last_mut().filter(|last| last.0 == value && last.1 > 0.0) {
            Some(last) => last.1 = rank as f64 / n as f64,
            None => points.push((value, rank as f64 / n as f64)),
        }
    }
    points
}
