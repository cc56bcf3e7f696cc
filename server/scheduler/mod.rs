//! Scheduler: which sequence gets which slot, pages and tokens of the next batch. Plans ahead; changes ownership only at commit.
//!
//! Owns every accepted sequence from its admission until it has left, and who may use which page. A state machine without
//! threads or clocks: [`run`](run::run) is the loop that drives it. Knows no tokenizer, no HTTP and no device.
//!
//! ```text
//!   pages/        pool, prefix tree, page tables      sequence.rs   what is known, computed, planned of one sequence
//!   plan.rs       the next batch                      commit.rs     its results: tokens, ends, releases, retractions
//!   budget.rs     prefill beside decode rows          integrity.rs  the invariants, checked
//!   run.rs        the loop, on its own thread
//! ```
//! - Service is by age. Pages go to the oldest first; when they run out the newest is *retracted*: it waits again, with its
//!   output as part of its prompt, and its client sees nothing. The oldest never is, and any accepted sequence fits alone,
//!   so something always ends.
//! - Up to two batches are out, so a sequence may have two rows in flight: a further chunk, or a decode row that feeds
//!   the token that the row before is still sampling. An end by length is known when planning; after an end-of-sequence
//!   token one surplus row runs, and commit drops its token.
//! - A sequence that ends, aborts or is retracted is *leaving*: it is not planned any more, and commit releases it with
//!   its last row. So no page moves while a row in flight may write it.
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use minisgl_config::CacheType;
use minisgl_kernels::{Sampling, Slot, TokenId};

use crate::batch::Capacity;
use crate::metrics::SchedulerStats;
use crate::request::{Failure, FinishReason, SeqId};

mod budget;
mod commit;
mod integrity;
mod pages;
mod plan;
pub mod run;
mod sequence;
#[cfg(test)]
mod tests;

use budget::{Load, Pace};
use pages::Pages;
use sequence::{Age, Leaving, Running, Sequence};

/// What a [`Scheduler`] is made for.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// What the engine holds.
    pub capacity: Capacity,
    /// Tokens that end a sequence, unless it ignores them.
    pub eos: Vec<TokenId>,
    /// Whether prefixes are kept.
    pub cache: CacheType,
    /// Batches that may be out at a time: 2 overlaps planning with the engine's work, 1 does not.
    pub batches_out: usize,
    /// What a batch with prefill in it may take, in times what its decode rows take alone; 0 for no bound.
    pub max_decode_gap: f64,
}

/// A sequence to run, checked: the prompt has a token, there is room for one of output, and all fits the capacity.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Which; new to the scheduler.
    pub id: SeqId,
    /// Its input. Choices of one request share it.
    pub prompt: Arc<[TokenId]>,
    /// Output bound, at least 1.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Arc<Sampling>,
    /// End-of-sequence tokens do not end it.
    pub ignore_eos: bool,
    /// The choice of the same request that computes the prompt for it.
    pub leader: Option<SeqId>,
}

/// Something that a sequence's client, or its handle's owner, should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whose.
    pub id: SeqId,
    /// What.
    pub what: What,
}

/// `Started Token* (Finished | Failed) Left`, or any part of that before `Left` where the sequence was aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Its first row is planned.
    Started {
        /// Prompt tokens that the prefix cache held.
        cached_tokens: usize,
    },
    /// One token of output.
    Token(TokenId),
    /// The end.
    Finished(FinishReason),
    /// The end, badly.
    Failed(Failure),
    /// It holds nothing any more, and is not known any more.
    Left,
}

/// A batch that is out.
#[derive(Debug)]
struct BatchOut {
    parts: Vec<Part>,
    load: Load,
}

/// A row that is out.
#[derive(Clone, Copy, Debug)]
struct Part {
    age: Age,
    /// Input tokens.
    tokens: usize,
    /// Feeds known tokens.
    prefill: bool,
    /// Its output is a token.
    samples: bool,
}

/// Running totals for the metrics.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    prefix_queries: u64,
    prefix_hits: u64,
    preemptions: u64,
}

/// The state machine. See the module's page.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pages: Pages,
    waiting: BTreeMap<Age, Sequence>,
    /// Those with a slot, leaving ones included.
    running: BTreeMap<Age, Running>,
    /// The age of each that waits or runs.
    ages: HashMap<SeqId, Age>,
    free_slots: Vec<Slot>,
    /// Oldest first.
    out: VecDeque<BatchOut>,
    /// Rows that the engine holds beyond their batch.
    held: HashMap<Slot, Part>,
    pace: Pace,
    notices: Vec<Notice>,
    next_age: Age,
    totals: Totals,
}

impl Scheduler {
    /// An idle one; all pages and slots are free.
    pub fn new(config: SchedulerConfig) -> Self {
        let Capacity { slots, batch_tokens, pages, page_size, .. } = config.capacity;
        assert!((1..=2).contains(&config.batches_out), "one or two batches may be out, not {}", config.batches_out);
        assert!(slots > 0 && batch_tokens > 0 && pages > 0 && page_size > 0, "no room at all: {:?}", config.capacity);
        let slots = u32::try_from(slots).expect("slot numbers are u32");
        Self {
            pages: Pages::new(config.capacity, config.cache),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            ages: HashMap::new(),
            free_slots: (0..slots).rev().map(Slot).collect(),
            out: VecDeque::new(),
            held: HashMap::new(),
            pace: Pace::new(config.max_decode_gap),
            notices: Vec::new(),
            next_age: Age(0),
            totals: Totals::default(),
            config,
        }
    }

    /// Queues a sequence.
    ///
    /// # Panics
    /// If it is not what [`NewSequence`] says it must be: whoever queues has to refuse it.
    pub fn admit(&mut self, new: NewSequence) {
        let NewSequence { id, prompt, max_tokens, sampling, ignore_eos, leader } = new;
        let (tokens, limit) = (prompt.len().saturating_add(max_tokens), self.config.capacity.longest_sequence());
        assert!(!prompt.is_empty() && max_tokens > 0 && tokens <= limit, "{id:?}: {tokens} tokens of at most {limit}");
        let age = self.next_age;
        self.next_age.0 += 1;
        let other = self.ages.insert(id, age);
        assert!(other.is_none(), "{id:?} is already here");
        let mut sequence = Sequence::new(id, prompt, max_tokens, sampling);
        sequence.ignore_eos = ignore_eos;
        if self.pages.keeps_prefixes() {
            sequence.leader = leader.and_then(|leader| self.ages.get(&leader)).copied();
        }
        self.waiting.insert(age, sequence);
    }

    /// Nobody listens to this sequence any more. It gets no further notice but `Left`. Unknown ones have left already.
    pub fn abort(&mut self, id: SeqId) {
        let Some(&age) = self.ages.get(&id) else { return };
        if let Some(sequence) = self.waiting.remove(&age) {
            return self.farewell(age, sequence);
        }
        self.running.get_mut(&age).expect("it waits or runs").leaving = Some(Leaving::Gone);
        if self.out.is_empty() {
            self.settle(); // no commit will
        }
    }

    /// The engine is gone, and the batches out with it: every sequence fails and leaves.
    pub fn fail_all(&mut self, failure: &Failure) {
        self.out.clear();
        self.held.clear();
        for (_, sequence) in std::mem::take(&mut self.waiting) {
            self.notices.push(Notice { id: sequence.id, what: What::Failed(failure.clone()) });
            self.notices.push(Notice { id: sequence.id, what: What::Left });
        }
        for (_, running) in std::mem::take(&mut self.running) {
            let id = running.sequence.id;
            if running.leaving != Some(Leaving::Gone) {
                self.notices.push(Notice { id, what: What::Failed(failure.clone()) });
            }
            self.notices.push(Notice { id, what: What::Left });
            self.free_slots.push(running.slot);
            self.pages.discard(running.table);
        }
        self.ages.clear();
    }

    /// What has happened since the last call, in order.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// No sequence is here and no batch is out.
    pub fn is_idle(&self) -> bool {
        self.ages.is_empty() && self.out.is_empty()
    }

    /// Batches that are out.
    pub fn batches_out(&self) -> usize {
        self.out.len()
    }

    /// Tokens of a prompt that the prefix cache holds now; as a sequence it would find them, if it started at once.
    pub fn cached_tokens(&self, prompt: &[TokenId]) -> usize {
        self.pages.lookup(prompt).pages * self.config.capacity.page_size
    }

    /// Where things stand.
    pub fn stats(&self) -> SchedulerStats {
        let pages = self.pages.counts();
        SchedulerStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            pages_free: pages.free,
            pages_cached: pages.cached,
            pages_in_use: pages.in_use,
            pages_total: pages.total,
            pages_available: self.pages.available(),
            prefix_queries: self.totals.prefix_queries,
            prefix_hits: self.totals.prefix_hits,
            preemptions: self.totals.preemptions,
        }
    }

    fn notify(&mut self, id: SeqId, what: What) {
        self.notices.push(Notice { id, what });
    }

    /// A sequence that holds nothing leaves. If others wait for its prompt in vain, the next of them computes it.
    fn farewell(&mut self, age: Age, sequence: Sequence) {
        self.ages.remove(&sequence.id);
        self.notify(sequence.id, What::Left);
        if sequence.prompt_done {
            return;
        }
        let mut leader = None;
        for (&follower, waiting) in self.waiting.range_mut(age..) {
            if waiting.leader == Some(age) {
                waiting.leader = leader;
                leader = leader.or(Some(follower));
            }
        }
    }
}
