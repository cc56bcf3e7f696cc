//! The scheduler's invariants, checked from scratch: what must hold after every plan, commit, admission and abort.
use std::collections::HashSet;

use super::Scheduler;
use super::sequence::{Leaving, Running};

impl Scheduler {
    /// Everything that [this module](super) claims: each page and slot has one owner, what is in flight adds up, and no
    /// sequence is in two places. Takes time in proportion to all pages; for tests, and for debug builds when idle.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_integrity(&self) -> Result<(), String> {
        let tables: Vec<_> = self.running.values().map(|running| &running.table).collect();
        self.pages.check_integrity(&tables)?;
        self.check_places()?;
        for (age, running) in &self.running {
            let held = self.held.get(&running.slot);
            let parts = self.out.iter().flat_map(|batch| &batch.parts).chain(held).filter(|part| part.age == *age);
            let (rows, tokens, sampling) = parts.fold((0, 0, 0), |(rows, tokens, sampling), part| {
                (rows + 1, tokens + part.tokens, sampling + usize::from(part.samples))
            });
            let fine = running.rows_out == rows
                && running.held == held.is_some()
                && (running.broken || running.computed + tokens == running.planned)
                && running.planned <= running.sequence.places
                && running.planned <= self.pages.places(&running.table)
                && self.pages.shared_places(&running.table) <= running.computed
                && tokens_add_up(running, sampling);
            if !fine {
                return Err(format!("{rows} rows of {tokens} tokens in flight do not fit {running:?}"));
            }
            if running.rows_out == 0 && running.leaving.is_some() && self.out.is_empty() {
                return Err(format!("nothing will release {running:?}"));
            }
        }
        if self.out.len() > self.config.batches_out {
            return Err(format!("{} batches are out", self.out.len()));
        }
        Ok(())
    }

    /// Slots and names: each sequence has one age and one place, each slot one sequence at most.
    fn check_places(&self) -> Result<(), String> {
        let slots = self.running.values().map(|running| running.slot).chain(self.free_slots.iter().copied());
        let distinct: HashSet<_> = slots.clone().collect();
        if slots.count() != self.config.capacity.slots || distinct.len() != self.config.capacity.slots {
            return Err(format!("{} of {} slots have one owner", distinct.len(), self.config.capacity.slots));
        }
        let here = self.running.iter().map(|(age, running)| (age, &running.sequence)).chain(&self.waiting);
        let mut count = 0;
        for (age, sequence) in here {
            count += 1;
            if self.ages.get(&sequence.id) != Some(age) {
                return Err(format!("{:?} is not the age of {sequence:?}", self.ages.get(&sequence.id)));
            }
        }
        if count != self.ages.len() {
            return Err(format!("{count} sequences wait or run, {} are known", self.ages.len()));
        }
        Ok(())
    }
}

/// Once prefill is planned, a sequence knows, or has in flight, exactly one token more than it has fed.
fn tokens_add_up(running: &Running, sampling: usize) -> bool {
    let tokens = running.sequence.tokens().len();
    if running.leaving == Some(Leaving::Gone) {
        return true; // its surplus tokens were dropped
    }
    if running.planned < running.fill {
        sampling == 0 && tokens == running.fill
    } else {
        tokens + sampling == running.planned + 1
    }
}
