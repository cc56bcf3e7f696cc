//! When the bytes of a read arrived: as the kernel noted it, whatever the reader was doing then.
//!
//! Owns the way from the system's clock, by which the kernel notes arrivals (`SO_TIMESTAMPNS`), to the run's. Knows nothing
//! of sockets.
//!
//! The two clocks run at one rate and differ by a constant until somebody sets the system's. That is looked for before each
//! round of reads; the reads of a round in which it shows, like those whose arrival was not noted, are stamped when they
//! return.
use std::time::{Duration, SystemTime};

use super::Clock;

/// Two looks at one clock further apart than this had something between them, and say nothing of the other clock.
const APART: u64 = 20_000;

/// A clock that differs from what it was by more than this, in nanoseconds, has been set.
const SET: u64 = 100_000;

/// Tells when bytes arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    clock: Clock,
    /// 1970 by the system's clock in nanoseconds of the run's.
    epoch: Option<i64>,
    /// It was set just now: an arrival may be noted by what it was before.
    was_set: bool,
    /// The last stamp was an arrival.
    are_noted: bool,
}

impl Stamps {
    /// Stamps by `clock`.
    pub(crate) fn new(clock: Clock) -> Self {
        let epoch = (0..16).filter_map(|_| look(clock)).min_by_key(|look| look.apart).map(|look| look.epoch);
        Self { clock, epoch, was_set: false, are_noted: false }
    }

    /// The run's clock.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Looks whether the system's clock was set; due before each round of reads.
    pub(crate) fn check(&mut self) {
        if let Some(look) = look(self.clock) {
            self.see(look.epoch);
        }
    }

    fn see(&mut self, seen: i64) {
        self.was_set = self.epoch.is_none_or(|epoch| epoch.abs_diff(seen) > SET);
        if self.was_set {
            self.epoch = Some(seen);
        }
    }

    /// Whether arrivals are noted: a stamp is then the same however late a read is.
    pub(crate) fn are_noted(&self) -> bool {
        self.are_noted
    }

    /// The time of bytes that `arrived` so long after 1970, if that was noted, and that were read just now.
    pub(crate) fn of(&mut self, arrived: Option<Duration>) -> u64 {
        let now = self.clock.now();
        let noted = arrived.zip(self.epoch).filter(|_| !self.was_set);
        self.are_noted = noted.is_some();
        noted.map_or(now, |(arrived, epoch)| (nanoseconds(arrived) + epoch).clamp(0, now as i64) as u64)
    }
}

struct Look {
    epoch: i64,
    apart: u64,
}

/// Looks at both clocks at once; nothing where something came between.
fn look(clock: Clock) -> Option<Look> {
    let (before, system, after) = (clock.now(), SystemTime::now(), clock.now());
    let apart = after - before;
    let system = nanoseconds(system.duration_since(SystemTime::UNIX_EPOCH).ok()?);
    (apart <= APART).then_some(Look { epoch: (before + apart / 2) as i64 - system, apart })
}

/// As a number that holds those of three centuries.
fn nanoseconds(since_1970: Duration) -> i64 {
    i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn wall() -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn an_arrival_is_when_it_was_noted_and_never_later_than_now() {
        let clock = Clock::starting(Instant::now());
        let mut stamps = Stamps::new(clock);
        let (before, noted, after) = (clock.now(), wall(), clock.now());
        std::thread::sleep(Duration::from_millis(20));
        stamps.check();
        let stamp = stamps.of(Some(noted));
        assert!(before.saturating_sub(APART) <= stamp && stamp <= after + APART, "{before} {stamp} {after}");
        let now = clock.now();
        assert!(stamps.of(None) >= now);
        let ahead = stamps.of(Some(noted + Duration::from_secs(9)));
        assert!(now <= ahead && ahead <= clock.now());
    }

    #[test]
    fn a_clock_that_was_set_is_not_believed_until_the_next_round() {
        let clock = Clock::starting(Instant::now());
        let mut stamps = Stamps::new(clock);
        let epoch = stamps.epoch.expect("one look in sixteen without a pause");
        std::thread::sleep(Duration::from_millis(5));
        let hour = Duration::from_secs(3600);
        stamps.see(epoch - 3_600_000_000_000);
        let now = clock.now();
        // One noted before it was set, and one after.
        assert!(stamps.of(Some(wall())) >= now && stamps.of(Some(wall() + hour)) >= now);
        stamps.see(epoch - 3_600_000_000_000);
        assert!(!stamps.was_set);
        assert!(stamps.of(Some(wall() + hour - Duration::from_millis(1))) <= clock.now() - 500_000);
    }
}
