//! When requests are to be sent.
//!
//! Owns arrival times and the pacing by them, on a thread of its own with absolute targets: a timer of an async runtime
//! counts in milliseconds, and one that sleeps from request to request adds up its errors. Knows nothing of what is sent.
use std::time::{Duration, Instant};

use crate::traces::TraceRequest;

/// How a run's requests follow each other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arrivals {
    /// Open loop: each at its time after the run's start, whatever the server does. Sorted.
    Schedule(Vec<Duration>),
    /// Closed loop: so many in flight, the next when one ends.
    Closed(usize),
}

/// The arrival times of a trace: `scale` times the trace's own, the first at 0.
pub(crate) fn scaled(trace: &[TraceRequest], scale: f64) -> Vec<Duration> {
    let first = trace.first().map_or(0.0, |request| request.timestamp_s);
    // Times and scales are bounded where they are read, so that their product is no overflow.
    trace.iter().map(|request| Duration::from_secs_f64((request.timestamp_s - first).max(0.0) * scale)).collect()
}

/// Calls `send(i)` at each time of `schedule` after `start`, on the calling thread. Late calls are made at once, and each
/// later target stays where it was.
pub(crate) fn pace(start: Instant, schedule: &[Duration], mut send: impl FnMut(usize)) {
    for (index, &at) in schedule.iter().enumerate() {
        let target = start + at;
        loop {
            let left = target.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left);
        }
        send(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_arrival_is_zero_and_gaps_are_scaled() {
        let trace = [3.0, 3.5, 5.0].map(|timestamp_s| TraceRequest::of_lengths(timestamp_s, 1, 1));
        let times = |scale| scaled(&trace, scale).iter().map(|t| t.as_millis()).collect::<Vec<_>>();
        assert_eq!(times(1.0), [0, 500, 2000]);
        assert_eq!(times(0.4), [0, 200, 800]);
        assert_eq!(times(0.0), [0, 0, 0]);
        assert!(scaled(&[], 1.0).is_empty());
    }

    #[test]
    fn the_largest_times_and_scales_are_no_overflow() {
        let trace = [0.0, 1e10].map(|timestamp_s| TraceRequest::of_lengths(timestamp_s, 1, 1));
        let last = scaled(&trace, 1e6)[1];
        assert!(Instant::now().checked_add(last).is_some());
    }

    #[test]
    fn none_is_sent_before_its_time_and_all_in_order() {
        let start = Instant::now();
        let schedule = [0, 2, 2, 5].map(Duration::from_millis);
        let mut sent = Vec::new();
        pace(start, &schedule, |index| {
            assert!(start.elapsed() >= schedule[index]);
            sent.push(index);
        });
        assert_eq!(sent, [0, 1, 2, 3]);
    }
}
