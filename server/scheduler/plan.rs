//! Planning: the next batch, from what runs and what waits. Takes pages; releases, inserts and retracts nothing.
use minisgl_kernels::{PageId, Want};

use super::budget::{Budget, Demand, Load, Prefill};
use super::pages::Pages;
use super::sequence::{Age, Next, Running};
use super::{BatchOut, Part, Scheduler, What};
use crate::batch::{Batch, Row, RowTokens};

/// A waiting sequence gets its slot when every running one could go on for this many more tokens (or to its end) beside
/// it: less, and the newest would soon be retracted again; all of max_tokens, and slots would stand empty.
const HEADROOM_TOKENS: usize = 32;

/// A batch in the making.
struct Draft {
    rows: Vec<Row>,
    parts: Vec<Part>,
    load: Load,
    left: Budget,
}

impl Draft {
    /// Plans as much of a sequence's next row as tokens and pages allow. With no page at all it sits this batch out.
    fn add(&mut self, age: Age, running: &mut Running, pages: &mut Pages, mut new_pages: Vec<PageId>) {
        let next = running.next();
        let tokens = match next {
            _ if running.held => 0,
            Next::Nothing => 0,
            Next::Decode => self.left.decode_tokens.min(1),
            Next::Prefill(rest) => self.left.prefill(running.planned, rest),
        };
        if tokens == 0 {
            return;
        }
        let start = running.planned;
        let end = pages.grow(&mut running.table, start + tokens, &mut new_pages);
        let tokens = end - start;
        if tokens == 0 {
            return;
        }
        let prefill = next != Next::Decode;
        if prefill {
            let chunk = Prefill::chunk(start, tokens);
            self.left.take_prefill(chunk);
            self.load.prefill.add(chunk);
        } else {
            self.left.decode_tokens -= tokens;
            self.load.decode_rows += 1;
        }
        let samples = end >= running.fill;
        running.planned = end;
        running.rows_out += 1;
        self.parts.push(Part { age, tokens, prefill, samples });
        self.rows.push(Row {
            slot: running.slot,
            begin: None,
            start,
            tokens: if prefill {
                RowTokens::Chunk(running.sequence.tokens()[start..end].to_vec())
            } else {
                RowTokens::LastSampled
            },
            new_pages,
            want: if samples { Want::Sample } else { Want::Nothing },
        });
    }
}

impl Scheduler {
    /// The next batch, or nothing when as many are out as may be or no sequence can go on before a commit. With none out
    /// there is nothing only when the scheduler is idle, or every row in flight is held.
    pub fn plan(&mut self) -> Option<Batch> {
        if self.out.len() == self.config.batches_out {
            return None;
        }
        let left = self.pace.divide(self.config.capacity.batch_tokens, self.demand());
        let mut draft = Draft { rows: Vec::new(), parts: Vec::new(), load: Load::default(), left };
        // By age, so that pages go to the oldest first; that decode rows come first is in the budget.
        for (&age, running) in &mut self.running {
            draft.add(age, running, &mut self.pages, Vec::new());
        }
        self.start_waiting(&mut draft);
        if draft.rows.is_empty() {
            return None;
        }
        self.out.push_back(BatchOut { parts: draft.parts, load: draft.load });
        Some(Batch { rows: draft.rows })
    }

    fn demand(&self) -> Demand {
        let startable = self.waiting.len().min(self.free_slots.len());
        let some_page = self.pages.available() > 0;
        let mut demand = Demand { decode_rows: 0, decode_certain: false, prompts: startable };
        for running in self.running.values().filter(|running| !running.held) {
            match running.next() {
                Next::Nothing => {}
                Next::Prefill(_) => demand.prompts += 1,
                Next::Decode => {
                    demand.decode_rows += 1;
                    demand.decode_certain |= some_page || self.pages.places(&running.table) > running.planned;
                }
            }
        }
        demand
    }

    /// Gives slots and a first row to those that wait, oldest first, as long as there are tokens, slots and pages for them.
    fn start_waiting(&mut self, draft: &mut Draft) {
        if self.waiting.is_empty() || self.free_slots.is_empty() || draft.left.prefill(0, 1) == 0 {
            return;
        }
        let mut wished: usize = self.running.values().map(|running| self.wish(running)).sum();
        let mut after = None;
        while draft.left.prefill(0, 1) > 0 && !self.free_slots.is_empty() {
            let Some(age) = self.next_waiting(after) else { return };
            after = Some(age);
            let Some(pages) = self.start(age, wished, draft) else { return };
            wished += pages;
        }
    }

    /// The oldest that waits for nothing but its turn.
    fn next_waiting(&self, after: Option<Age>) -> Option<Age> {
        let from = after.map_or(Age(0), |Age(age)| Age(age + 1));
        self.waiting.range(from..).find(|(_, sequence)| !self.leader_computes(sequence.leader)).map(|(&age, _)| age)
    }

    fn leader_computes(&self, leader: Option<Age>) -> bool {
        let Some(leader) = leader else { return false };
        let running = || self.running.get(&leader).map(|running| &running.sequence);
        self.waiting.get(&leader).or_else(running).is_some_and(|leader| !leader.prompt_done)
    }

    /// Starts one, if its pages are to be had beside the `wished` ones of those that run and it may have a token, and returns
    /// what it in turn wishes. What runs alone is not asked for headroom: it fits.
    fn start(&mut self, age: Age, wished: usize, draft: &mut Draft) -> Option<usize> {
        let sequence = &self.waiting[&age];
        let fill = sequence.tokens().len();
        let hit = self.pages.lookup(sequence.tokens());
        let wish = self.pages.pages_for((fill + HEADROOM_TOKENS).min(sequence.places)) - hit.pages;
        let cached_tokens = hit.pages * self.config.capacity.page_size;
        let has_pages = self.running.is_empty() || wished + wish <= self.pages.available() - hit.unlocked;
        if !has_pages || draft.left.prefill(cached_tokens, 1) == 0 {
            return None;
        }
        let mut sequence = self.waiting.remove(&age).expect("it waits");
        if !sequence.started {
            sequence.started = true;
            self.totals.prefix_hits += cached_tokens as u64;
            if self.pages.keeps_prefixes() {
                self.totals.prefix_queries += sequence.prompt_len() as u64;
            }
            self.notify(sequence.id, What::Started { cached_tokens });
        }
        let table = self.pages.open(hit);
        let pages_hit = table.pages().collect();
        let begin = sequence.sampling.clone();
        let running = Running {
            sequence,
            slot: self.free_slots.pop().expect("a free slot"),
            table,
            fill,
            computed: cached_tokens,
            planned: cached_tokens,
            rows_out: 0,
            held: false,
            leaving: None,
            broken: false,
        };
        let running = self.running.entry(age).or_insert(running);
        draft.add(age, running, &mut self.pages, pages_hit);
        assert!(running.rows_out == 1, "the pages that were there for it are gone");
        draft.rows.last_mut().expect("its row").begin = Some(begin);
        let running = &self.running[&age];
        Some(self.wish(running))
    }

    /// Pages that a running sequence should find to go on for a while.
    fn wish(&self, running: &Running) -> usize {
        if running.is_departing() {
            return 0;
        }
        let places = (running.planned.max(running.fill) + HEADROOM_TOKENS).min(running.sequence.places);
        self.pages.pages_for(places).saturating_sub(running.table.len())
    }
}
