//! Exact timings, whatever else runs: each row has an instant of its own, and its result is held until then.
//!
//! A batch ends when the last of its rows does, so batches cannot keep 512 sequences of different phase to their own
//! times. Instead a batch is over at once, and the rows that are not due yet are *held*: the scheduler plans their
//! sequences no further until they come. So no sequence's tokens wait for another's.
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use minisgl_kernels::Slot;

use super::clock::SLEEP_LATENESS;
use crate::batch::RowOutput;

/// Rows that are due within this are given together: with thousands of streams a wake-up a row would cost more than all
/// else. They come early by at most this, which is less than what the way to the client takes.
const GRAIN: Duration = Duration::from_micros(100);

/// When tokens come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timings {
    /// From a sequence's first row to its first token.
    pub(super) ttft: Duration,
    /// From each token to the next.
    pub(super) itl: Duration,
}

/// Results that wait for their time. A sequence has one row out at a time, so a slot has one at most.
#[derive(Debug)]
pub(super) struct HeldRows {
    timings: Timings,
    /// By slot: when its next token is due. Each is `itl` after the one before, however late that was asked for, so that
    /// lateness does not add up.
    next_due: Vec<Option<Instant>>,
    /// `(due, slot)`, the earliest first.
    order: BinaryHeap<Reverse<(Instant, Slot)>>,
    /// By slot.
    outputs: Vec<Option<RowOutput>>,
}

impl HeldRows {
    pub(super) fn new(timings: Timings, slots: usize) -> Self {
        Self { timings, next_due: vec![None; slots], order: BinaryHeap::new(), outputs: vec![None; slots] }
    }

    /// A slot's first row is here: its sequence's clock starts.
    pub(super) fn begin(&mut self, slot: Slot, now: Instant) {
        self.next_due[slot.0 as usize] = Some(now + self.timings.ttft);
    }

    /// A result that gives a token: as it is where it is due, else kept, and `Held` in its place.
    pub(super) fn hold(&mut self, slot: Slot, output: RowOutput, now: Instant) -> RowOutput {
        let next_due = self.next_due[slot.0 as usize].as_mut().expect("a slot's first row begins it");
        let due = *next_due;
        *next_due = due + self.timings.itl;
        if due <= now {
            return output;
        }
        self.order.push(Reverse((due, slot)));
        let other = self.outputs[slot.0 as usize].replace(output);
        assert!(other.is_none(), "two rows of {slot:?} are held");
        RowOutput::Held
    }

    /// When to ask for the next of them: so much earlier than it is due as a sleep is late.
    pub(super) fn first(&self) -> Option<Instant> {
        self.order.peek().map(|Reverse((due, _))| due.checked_sub(SLEEP_LATENESS).unwrap_or(*due))
    }

    /// Those that are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(Slot, RowOutput)> {
        let mut taken = Vec::new();
        while let Some(&Reverse((due, slot))) = self.order.peek()
            && due <= now + GRAIN
        {
            self.order.pop();
            taken.push((slot, self.outputs[slot.0 as usize].take().expect("held")));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_keeps_its_own_time_whatever_the_others_do() {
        let (ttft, itl) = (Duration::from_millis(50), Duration::from_millis(20));
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut held = HeldRows::new(Timings { ttft, itl }, 2);
        held.begin(Slot(0), start);
        assert_eq!(held.hold(Slot(0), RowOutput::Token(1), start), RowOutput::Held);
        held.begin(Slot(1), start + ms(7));
        assert_eq!(held.hold(Slot(1), RowOutput::Token(2), start + ms(7)), RowOutput::Held);
        assert_eq!(held.first(), Some(start + ttft - SLEEP_LATENESS));
        assert_eq!(held.take_due(start + ms(49)), []);
        assert_eq!(held.take_due(start + ms(50)), [(Slot(0), RowOutput::Token(1))]);
        // Asked for late, it is due when it would have been: 70 ms.
        assert_eq!(held.hold(Slot(0), RowOutput::Token(3), start + ms(52)), RowOutput::Held);
        assert_eq!(held.take_due(start + ms(57)), [(Slot(1), RowOutput::Token(2))]);
        assert_eq!(held.take_due(start + ms(69)), []);
        assert_eq!(held.take_due(start + ms(70)), [(Slot(0), RowOutput::Token(3))]);
        // So late that it is due already.
        assert_eq!(held.hold(Slot(1), RowOutput::Token(4), start + ms(90)), RowOutput::Token(4));
        assert_eq!(held.first(), None);
    }

    #[test]
    fn no_time_is_never_held() {
        let mut held = HeldRows::new(Timings { ttft: Duration::ZERO, itl: Duration::ZERO }, 1);
        let now = Instant::now();
        held.begin(Slot(0), now);
        for token in 0..3 {
            assert_eq!(held.hold(Slot(0), RowOutput::Token(token), now), RowOutput::Token(token));
        }
    }
}
