//! The clock: warm-up, repetitions, medians, and what they are a percentage of.
use std::time::{Duration, Instant};

use super::{Arithmetic, Bound, Ceilings, Measurement, Options};

/// Repetitions at least, whatever they take.
const FEWEST: usize = 5;
const MOST: usize = 2000;

/// What all cases share.
pub(super) struct Bench<'a> {
    pub(super) options: &'a Options,
    pub(super) ceilings: Ceilings,
    pub(super) report: &'a mut dyn FnMut(Measurement),
}

/// What a case must do at least, whoever computes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Read or written, each once.
    pub(super) bytes: f64,
    /// A multiplication and an addition are two.
    pub(super) operations: f64,
    pub(super) arithmetic: Arithmetic,
}

/// One case, prepared.
pub(super) struct Case<'a> {
    pub(super) name: &'static str,
    pub(super) shape: String,
    pub(super) work: Work,
    pub(super) max_error: Option<f64>,
    /// Does it for the `i`th time, and says how long the operation alone took.
    pub(super) once: &'a mut dyn FnMut(usize) -> Duration,
}

impl Bench<'_> {
    /// Whether such a case is asked for: what is not need not be prepared.
    pub(super) fn wants(&self, name: &str, shape: &str) -> bool {
        format!("{name} {shape}").contains(&self.options.only)
    }

    /// Runs a case and reports it.
    pub(super) fn measure(&mut self, case: Case<'_>) {
        let Case { name, shape, work, max_error, once } = case;
        let seconds = median_seconds(self.options.seconds, once);
        let memory_s = work.bytes / self.ceilings.read_gb_s / 1e9;
        let compute_s = work.operations / self.ceilings.peak(work.arithmetic) / 1e9;
        let bound = if memory_s >= compute_s { Bound::Memory } else { Bound::Arithmetic(work.arithmetic) };
        (self.report)(Measurement {
            name,
            shape,
            ms: seconds * 1e3,
            gb_s: work.bytes / seconds / 1e9,
            gflop_s: work.operations / seconds / 1e9,
            percent_of_ceiling: 100.0 * memory_s.max(compute_s) / seconds,
            bound,
            copy_ms: work.bytes / self.ceilings.copy_gb_s / 1e6,
            max_error,
        });
    }
}

/// The median of repetitions that take about so many seconds in all, after a fifth of that to warm up.
fn median_seconds(seconds: f64, once: &mut dyn FnMut(usize) -> Duration) -> f64 {
    let started = Instant::now();
    let mut turn = 0;
    while turn < 2 || started.elapsed().as_secs_f64() < seconds / 5.0 {
        once(turn);
        turn += 1;
    }
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < FEWEST || (times.len() < MOST && started.elapsed().as_secs_f64() < seconds) {
        times.push(once(turn).as_secs_f64());
        turn += 1;
    }
    times.sort_by(f64::total_cmp);
    // No clock can tell it from nothing: then as long as the clock's own step.
    times[times.len() / 2].max(1e-9)
}

/// How long `run` took.
pub(super) fn timed(run: impl FnOnce()) -> Duration {
    let started = Instant::now();
    run();
    started.elapsed()
}

/// The largest difference, over the largest expected value.
pub(super) fn error<'a>(pairs: impl Iterator<Item = (&'a [f32], &'a [f32])>) -> f64 {
    let (mut difference, mut largest) = (0.0f64, 0.0f64);
    for (got, expected) in pairs {
        assert_eq!(got.len(), expected.len(), "results of one shape");
        for (got, expected) in got.iter().zip(expected) {
            // A NaN must not vanish in `max`.
            let by = f64::from((got - expected).abs());
            difference = if by.is_nan() { f64::INFINITY } else { difference.max(by) };
            largest = largest.max(f64::from(expected.abs()));
        }
    }
    difference / largest.max(f64::MIN_POSITIVE)
}
