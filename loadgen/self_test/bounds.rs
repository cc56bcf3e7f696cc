//! What the load generator promises of itself: how far each of its self-test's figures may be from the truth.
//!
//! Owns the bounds. They are of the test's own TTFT and tokens, on two cores that it shares with the server and with nothing
//! else: beside other work, what is beyond them is the machine's.
use super::{Outcome, What};

/// The TTFT and the tokens of an answer that the bounds are of.
pub(super) const TTFT_MS: u64 = 50;
pub(super) const TOKENS: u64 = 64;

/// Errors of TTFT in milliseconds (mean, p99), by streams, milliseconds between their tokens and whether they come at once.
const TTFT: [(u64, u64, bool, f64, f64); 4] = [
    (512, 20, false, 0.5, 1.5),
    (2_000, 100, false, 0.5, 2.0),
    (4_000, 100, false, 1.0, 3.0),
    (512, 20, true, 2.0, 5.0),
];

/// Error of the mean TPOT in milliseconds, of every step that has a bound of TTFT.
const TPOT_MS: f64 = 0.1;

/// CPU microseconds a chunk, from so many chunks a second on.
const CPU_US: f64 = 5.0;
const CPU_FROM_CHUNKS_PER_S: f64 = 50_000.0;

/// Peak RSS in MB, of 4,000 streams.
const RSS_MB: f64 = 100.0;
const RSS_STREAMS: u64 = 4_000;

/// The pacing step: lag p99 in milliseconds, achieved over requested rate, and how far the arrivals' coefficient of
/// variation is from 1.
const LAG_P99_MS: f64 = 1.0;
const ACHIEVED: f64 = 0.999;
const CV: f64 = 0.1;

/// What of a step is beyond its bound, in words; nothing where all is within, or has none.
pub(super) fn beyond(outcome: &Outcome) -> Vec<String> {
    let mut beyond = Vec::new();
    let mut most = |what: &str, value: f64, bound: f64, unit: &str| {
        // A figure that is not there is no figure within bounds.
        if value.is_nan() || value > bound {
            beyond.push(format!("{what} {value:.3}{unit}, at most {bound}{unit}"));
        }
    };
    match outcome.what {
        What::Streams(step) => {
            let itl_ms = step.itl.as_millis() as u64;
            let of_step = |&&(streams, itl, burst, ..): &&(u64, u64, bool, f64, f64)| {
                (streams, itl, burst) == (step.streams, itl_ms, step.burst)
            };
            if let Some(&(.., mean, p99)) = TTFT.iter().find(of_step) {
                most("|TTFT mean error|", outcome.ttft_ms.error_mean.abs(), mean, " ms");
                most("|TTFT p99 error|", outcome.ttft_ms.error_p99.abs(), p99, " ms");
                most("|TPOT mean error|", outcome.tpot_ms.error_mean.abs(), TPOT_MS, " ms");
            }
            if outcome.chunks_per_s >= CPU_FROM_CHUNKS_PER_S {
                most("CPU a chunk", outcome.client_cpu_us_per_chunk, CPU_US, " us");
            }
            if step.streams == RSS_STREAMS {
                most("peak RSS", outcome.client_peak_rss_mb, RSS_MB, " MB");
            }
        }
        What::Pacing(_) => {
            most("lag p99", outcome.lag_ms_p99.unwrap_or(f64::NAN), LAG_P99_MS, " ms");
            most("|arrivals' CV - 1|", (outcome.arrival_cv.unwrap_or(f64::NAN) - 1.0).abs(), CV, "");
            let achieved = outcome.achieved_requested.unwrap_or(0.0);
            if achieved < ACHIEVED {
                beyond.push(format!("achieved/requested {achieved:.4}, at least {ACHIEVED}"));
            }
        }
    }
    beyond
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use minisgl_config::loadgen::self_test::Step;

    use super::super::{Compared, Figures};
    use super::*;

    fn outcome(what: What, mean_ms: f64, p99_ms: f64) -> Outcome {
        let of = |mean: f64, p99: f64| Figures { mean: mean * 1e6, p99: p99 * 1e6 };
        Outcome {
            what,
            step: String::new(),
            requests: 1,
            failed: 0,
            max_in_flight: 1,
            chunks: 1,
            chunks_per_s: 20_000.0,
            ttft_ms: Compared::new(of(50.0 + mean_ms, 52.0 + p99_ms), of(50.0, 52.0)),
            tpot_ms: Compared::new(of(20.0, 20.0), of(20.0, 20.0)),
            lag_ms_p99: Some(0.2),
            lag_ms_max: Some(0.3),
            achieved_requested: Some(1.0),
            arrival_cv: Some(1.02),
            client_cpu_share: 0.1,
            client_cpu_us_per_chunk: 9.0,
            server_read_lag_ms_p99: 0.0,
            server_cpu_us_per_chunk: 3.0,
            client_peak_rss_mb: 20.0,
            beyond: Vec::new(),
        }
    }

    #[test]
    fn each_bound_is_held_against_its_own_step() {
        let step = |streams, itl_ms, burst| What::Streams(Step { streams, itl: Duration::from_millis(itl_ms), burst });
        assert_eq!(beyond(&outcome(step(512, 20, false), 0.4, 1.4)), [""; 0]);
        let both = beyond(&outcome(step(512, 20, false), -0.6, 1.6));
        assert_eq!(both[0], "|TTFT mean error| 0.600 ms, at most 0.5 ms");
        assert_eq!(both.len(), 2, "{both:?}");
        assert_eq!(beyond(&outcome(step(512, 20, true), 1.9, 4.9)), [""; 0]);
        // No bound of TTFT is promised for this one, but one of CPU.
        let busy = Outcome { chunks_per_s: 80_000.0, ..outcome(step(8_000, 100, false), 9.0, 9.0) };
        assert_eq!(beyond(&busy), ["CPU a chunk 9.000 us, at most 5 us"]);
        let late = Outcome {
            lag_ms_p99: None,
            arrival_cv: None,
            achieved_requested: None,
            ..outcome(What::Pacing(9), 0.0, 0.0)
        };
        assert_eq!(beyond(&late).len(), 3, "a figure that is not there is not within bounds");
    }
}
