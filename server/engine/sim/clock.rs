//! Waiting for an instant, to within a fraction of what a sleep is late by.
use std::time::{Duration, Instant};

/// Linux lets a sleep end up to 50 us late (the timer slack of ordinary threads), and waking takes some more.
pub(super) const SLEEP_LATENESS: Duration = Duration::from_micros(60);

/// Sleeps until shortly before `at`, then gives way to other threads in a loop for the rest: that takes tens of
/// microseconds of one core a call, where a whole wait in a loop would take all of it.
pub(super) fn wait_until(at: Instant) {
    if let Some(rest) = at.checked_duration_since(Instant::now()).and_then(|rest| rest.checked_sub(SLEEP_LATENESS)) {
        std::thread::sleep(rest);
    }
    while Instant::now() < at {
        std::thread::yield_now();
    }
}
