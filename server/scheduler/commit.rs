//! Committing: a batch's results become tokens and ends; what left is released, what was computed is shared, and where pages
//! run out the newest is retracted. Nothing else does any of this.
use minisgl_kernels::{Slot, TokenId};

use super::sequence::{Age, Leaving, Next, Running};
use super::{Part, Scheduler, What};
use crate::batch::{BatchOutput, RowOutput};
use crate::request::{Failure, FinishReason};

impl Scheduler {
    /// Takes the result of the oldest batch that is out.
    ///
    /// # Panics
    /// If it is no result of that batch.
    pub fn commit(&mut self, output: BatchOutput) {
        let batch = self.out.pop_front().expect("a result without a batch");
        assert_eq!(output.rows.len(), batch.parts.len(), "a result has a row for each of the batch's");
        self.pace.observe(batch.load, output.elapsed);
        for (part, row) in batch.parts.into_iter().zip(output.rows) {
            self.commit_row(part, row);
        }
        self.settle();
        self.retract();
    }

    /// Takes the results of rows that were held.
    ///
    /// # Panics
    /// If a slot holds no row.
    pub fn release(&mut self, rows: Vec<(Slot, RowOutput)>) {
        for (slot, row) in rows {
            let part = self.held.remove(&slot).expect("a held row");
            self.running.get_mut(&part.age).expect("a row in flight keeps its sequence").held = false;
            self.commit_row(part, row);
        }
        self.settle();
        self.retract();
    }

    fn commit_row(&mut self, part: Part, output: RowOutput) {
        let running = self.running.get_mut(&part.age).expect("a row in flight keeps its sequence");
        if output == RowOutput::Held {
            assert_eq!(running.rows_out, 1, "a row is held, and its sequence has another in flight");
            running.held = true;
            self.held.insert(running.slot, part);
            return;
        }
        running.rows_out -= 1;
        let token = match output {
            RowOutput::Held => unreachable!("it has left above"),
            RowOutput::Failed(error) => {
                running.broken = true;
                if running.leaving.replace(Leaving::Gone) != Some(Leaving::Gone) {
                    let id = running.sequence.id;
                    self.notify(id, What::Failed(Failure(error.to_string())));
                }
                return;
            }
            RowOutput::Nothing => None,
            RowOutput::Token(token) | RowOutput::Scores { token, .. } => Some(token),
        };
        assert_eq!(token.is_some(), part.samples, "a row gives what it was asked for");
        if !running.broken {
            running.computed += part.tokens;
        }
        if running.leaving == Some(Leaving::Gone) {
            return; // a surplus row: nobody listens
        }
        if part.prefill {
            let known = running.sequence.prompt_len();
            running.sequence.prompt_done |= running.computed >= known;
            if running.leaving.is_none() {
                let computed = &running.sequence.tokens()[..running.computed];
                self.pages.share(&mut running.table, computed);
            }
        }
        if let Some(token) = token {
            self.commit_token(part, token);
        }
    }

    /// A token of a sequence that someone listens to; a retracted one keeps it too.
    fn commit_token(&mut self, part: Part, token: TokenId) {
        let running = self.running.get_mut(&part.age).expect("a row in flight keeps its sequence");
        running.sequence.push(token);
        let id = running.sequence.id;
        let reason = if !running.sequence.ignore_eos && self.config.eos.contains(&token) {
            Some(FinishReason::Stop)
        } else if running.sequence.at_length() {
            Some(FinishReason::Length)
        } else {
            None
        };
        if reason.is_some() {
            running.leaving = Some(Leaving::Gone);
        }
        self.notify(id, What::Token(token));
        if let Some(reason) = reason {
            self.notify(id, What::Finished(reason));
        }
    }

    /// Releases those that are leaving and have no row in flight.
    pub(super) fn settle(&mut self) {
        let leaves = |running: &Running| running.leaving.filter(|_| running.rows_out == 0);
        let left: Vec<(Age, Leaving)> =
            self.running.iter().filter_map(|(&age, running)| leaves(running).map(|leaving| (age, leaving))).collect();
        for (age, leaving) in left {
            let running = self.running.remove(&age).expect("it runs");
            self.free_slots.push(running.slot);
            if running.broken {
                self.pages.discard(running.table);
            } else {
                // A token that was dropped because nobody listens is not known, though it may have been fed.
                let tokens = running.sequence.tokens();
                self.pages.close(running.table, &tokens[..running.computed.min(tokens.len())]);
            }
            match leaving {
                Leaving::Gone => self.farewell(age, running.sequence),
                Leaving::Retracted => {
                    self.waiting.insert(age, running.sequence);
                }
            }
        }
    }

    /// Makes room: while the next rows lack pages and nobody's are on their way back, the newest goes. The oldest never
    /// does, for alone it lacks none.
    fn retract(&mut self) {
        while self.short_of_pages() && !self.running.values().any(|running| running.is_departing()) {
            assert!(self.running.len() > 1, "a sequence alone has the pages that it needs");
            let (_, newest) = self.running.iter_mut().next_back().expect("someone lacks a page");
            newest.leaving = Some(Leaving::Retracted);
            self.totals.preemptions += 1;
            self.settle();
        }
    }

    /// Whether some sequence could not be given a place for its next token.
    fn short_of_pages(&self) -> bool {
        let lacks = |running: &&Running| {
            running.next() != Next::Nothing && self.pages.places(&running.table) == running.planned
        };
        self.running.values().filter(lacks).count() > self.pages.available()
    }
}
