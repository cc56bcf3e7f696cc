//! Batch: plain data between the scheduler and whatever runs it; enough for a rank, another node or the simulator.
//!
//! Also the seam itself, [`ModelRunner`]: it lives here because neither side of it may know the other.
use std::sync::Arc;
use std::time::{Duration, Instant};

use minisgl_kernels::{PageId, RowError, Sampling, Slot, TokenId, Want};

/// Some rows to run at once. At most two batches are out at a time.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Never two rows of one slot.
    pub rows: Vec<Row>,
}

/// One sequence's part of a batch.
#[derive(Clone, Debug)]
pub struct Row {
    /// The sequence's place, given by the scheduler, mirrored by the engine.
    pub slot: Slot,
    /// Set on a slot's first row: forget what the slot held and start anew.
    pub begin: Option<Arc<Sampling>>,
    /// Position of the first input token: everything before it is in the cache or in an earlier batch.
    pub start: usize,
    /// The input.
    pub tokens: RowTokens,
    /// Pages added to the slot's table before this row runs (on a first row also those of the prefix hit). Tables only grow.
    pub new_pages: Vec<PageId>,
    /// What to return.
    pub want: Want,
}

/// A row's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowTokens {
    /// A chunk of known tokens, at least one.
    Chunk(Vec<TokenId>),
    /// The one that this slot sampled last: the host may not know it yet.
    LastSampled,
}

impl RowTokens {
    /// Input tokens, at least 1.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        match self {
            RowTokens::Chunk(tokens) => tokens.len(),
            RowTokens::LastSampled => 1,
        }
    }
}

impl Batch {
    /// Input tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.tokens.len()).sum()
    }
}

/// A batch's results, a row each, in order.
#[derive(Clone, Debug)]
pub struct BatchOutput {
    /// As many as the batch had.
    pub rows: Vec<RowOutput>,
    /// How long the engine computed, the wait in its queue apart.
    pub elapsed: Duration,
}

/// A row's result.
#[derive(Clone, Debug, PartialEq)]
pub enum RowOutput {
    /// Nothing was wanted.
    Nothing,
    /// The token sampled at the row's end.
    Token(TokenId),
    /// `[tokens, vocabulary]` logits, and the token sampled at the row's end.
    Scores {
        /// Row-major.
        logits: Vec<f32>,
        /// Sampled from the last of them.
        token: TokenId,
    },
    /// Its sequence fails; the batch goes on.
    Failed(RowError),
    /// It comes later, by [`ModelRunner::take_due`]: a simulated device keeps each sequence to its own time.
    Held,
}

/// What an engine can hold, learnt when it has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// K/V pages in all.
    pub pages: usize,
    /// Tokens a page.
    pub page_size: usize,
    /// Slots: sequences that may run at once.
    pub slots: usize,
    /// The model's longest sequence (or the override), in tokens.
    pub context: usize,
    /// Token ids are below this.
    pub vocabulary: usize,
    /// Input tokens that one batch may have.
    pub batch_tokens: usize,
}

impl Capacity {
    /// The longest sequence that can run alone: n tokens need n - 1 places, since the last is never fed.
    pub fn longest_sequence(&self) -> usize {
        self.context.min(self.pages.saturating_mul(self.page_size).saturating_add(1))
    }
}

/// The engine's end: a batch's error, a panic or a lost rank. Every sequence fails.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the engine stopped: {0}")]
pub struct EngineError(pub String);

/// Runs batches in order. `submit` queues and returns at once; `collect` gives the oldest result.
pub trait ModelRunner: Send {
    /// What it holds.
    fn capacity(&self) -> Capacity;
    /// The device in words, for the start-up line.
    fn device(&self) -> String;
    /// Queues a batch. Two may be out.
    fn submit(&mut self, batch: Batch) -> Result<(), EngineError>;
    /// The oldest batch's output, or `None` after `timeout` so that the caller can tick.
    fn collect(&mut self, timeout: Duration) -> Result<Option<BatchOutput>, EngineError>;
    /// The profile, where the device is a simulated one: its figures are labelled with it.
    fn simulated(&self) -> Option<String> {
        None
    }
    /// When to ask for the rows that were answered with [`RowOutput::Held`]; `None` where there are none. A runner that
    /// holds rows must be given one batch at a time.
    fn held_until(&self) -> Option<Instant> {
        None
    }
    /// The results of held rows that are due, by their slots.
    fn take_due(&mut self) -> Vec<(Slot, RowOutput)> {
        Vec::new()
    }
}
