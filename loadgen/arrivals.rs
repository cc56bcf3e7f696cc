//! When requests are to be sent.
//!
//! Owns arrival times, drawn or scaled. Knows nothing of what is sent, nor how a time is kept (`run.rs`).
use std::time::Duration;

use minisgl_config::loadgen::settings::Arrival;

use crate::draw;
use crate::rng::SplitMix;

/// No time is beyond this, whatever the scale: it can still be added to the clock's.
const LATEST: Duration = Duration::from_secs(1 << 56);

/// An open loop's arrivals at a rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AtRate {
    /// Arrivals a second, once grown.
    pub(crate) per_s: f64,
    /// How gaps are spread.
    pub(crate) arrival: Arrival,
    /// Over which the rate grows evenly from nothing; half as many arrive in it as at the full rate.
    pub(crate) ramp: Duration,
}

impl AtRate {
    /// The arrival times, endlessly, ascending, the first at 0: what one seed draws for one rate, it draws for another, only
    /// faster or slower, so that the points of a sweep differ by their rate alone.
    pub(crate) fn times(self, mut rng: SplitMix) -> impl Iterator<Item = Duration> {
        let mut arrived = 0.0;
        std::iter::repeat_with(move || {
            let at = self.when(arrived);
            arrived += match self.arrival {
                Arrival::Constant => 1.0,
                Arrival::Poisson => draw::exponential(&mut rng),
                Arrival::Gamma { burstiness } => draw::gamma(&mut rng, burstiness),
            };
            at
        })
    }

    /// When so many will have arrived: the inverse of rate·t²/2·ramp within the ramp, and of rate·(t − ramp/2) after it.
    fn when(self, arrived: f64) -> Duration {
        let ramp = self.ramp.as_secs_f64();
        let seconds = match arrived < self.per_s * ramp / 2.0 {
            true => (2.0 * ramp * arrived / self.per_s).sqrt(),
            false => ramp / 2.0 + arrived / self.per_s,
        };
        bounded(seconds)
    }
}

/// A time of the trace, counted from its first, multiplied.
pub(crate) fn scaled(seconds: f64, scale: f64) -> Duration {
    bounded(seconds.max(0.0) * scale)
}

fn bounded(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(LATEST).min(LATEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(per_s: f64, arrival: Arrival, ramp_s: f64, n: usize) -> Vec<f64> {
        let at = AtRate { per_s, arrival, ramp: Duration::from_secs_f64(ramp_s) };
        at.times(SplitMix::of(5, &[])).take(n).map(|time| time.as_secs_f64()).collect()
    }

    #[test]
    fn constant_arrivals_are_even() {
        assert_eq!(times(4.0, Arrival::Constant, 0.0, 5), [0.0, 0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn a_ramp_grows_to_the_full_rate() {
        // 10 a second after 4 s: 20 arrive within the ramp, the first quarter of them in its first half.
        let times = times(10.0, Arrival::Constant, 4.0, 60);
        assert_eq!((times[0], times[5], times[20], times[30]), (0.0, 2.0, 4.0, 5.0));
    }

    #[test]
    fn a_sweeps_points_are_the_same_draws_at_another_rate() {
        let arrival = Arrival::Gamma { burstiness: 0.5 };
        let (slow, fast) = (times(1.0, arrival, 0.0, 50), times(8.0, arrival, 0.0, 50));
        assert!(slow.iter().zip(&fast).all(|(slow, fast)| (slow - fast * 8.0).abs() < 1e-6), "{slow:?} {fast:?}");
    }

    #[test]
    fn the_largest_times_and_scales_are_no_overflow() {
        for time in [scaled(1e10, 1e6), scaled(f64::MAX, 1e6), scaled(f64::NAN, 1.0)] {
            assert!(std::time::Instant::now().checked_add(time).is_some(), "{time:?}");
        }
    }

    proptest! {
        #[test]
        fn arrivals_ascend_from_zero_at_their_mean_rate(seed in any::<u64>(), per_s in 0.01f64..1e5, ramp_s in 0f64..100.0) {
            for arrival in [Arrival::Constant, Arrival::Poisson, Arrival::Gamma { burstiness: 0.3 }] {
                let at = AtRate { per_s, arrival, ramp: Duration::from_secs_f64(ramp_s) };
                let times: Vec<Duration> = at.times(SplitMix::of(seed, &[])).take(4000).collect();
                prop_assert_eq!(times[0], Duration::ZERO);
                prop_assert!(times.is_sorted());
                let last = times[3999].as_secs_f64();
                let arrived = if last < ramp_s { per_s * last * last / 2.0 / ramp_s } else { per_s * (last - ramp_s / 2.0) };
                prop_assert!((arrived / 3999.0 - 1.0).abs() < 0.15, "{arrived}");
            }
        }
    }
}
