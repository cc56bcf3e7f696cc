//! Sequence: one choice of a request as the scheduler sees it, waiting or running.
//!
//! Owns the arithmetic of what is known, computed and planned. Knows no other sequence and no page pool.
use std::sync::Arc;

use minisgl_kernels::{Sampling, Slot, TokenId};

use super::pages::PageTable;
use crate::request::SeqId;

/// Order of arrival, and so of service: the lower is served first and retracted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Age(pub(super) u64);

/// What a sequence is, whether it waits or runs.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SeqId,
    /// Prompt and output so far; empty until it has its first slot (choices of one request share the prompt till then).
    generated: Vec<TokenId>,
    prompt: Arc<[TokenId]>,
    /// K/V places that it needs at most: prompt + max_tokens - 1, for the last token is never fed.
    pub(super) places: usize,
    pub(super) sampling: Arc<Sampling>,
    pub(super) ignore_eos: bool,
    /// Whose prompt, once committed, it will find in the cache. Until then it waits.
    pub(super) leader: Option<Age>,
    /// Its client has been told that it started.
    pub(super) started: bool,
    /// Its whole prompt was committed once: those that follow it need not wait.
    pub(super) prompt_done: bool,
}

impl Sequence {
    /// A new one, of a prompt that is not empty.
    pub(super) fn new(id: SeqId, prompt: Arc<[TokenId]>, max_tokens: usize, sampling: Arc<Sampling>) -> Self {
        let places = prompt.len() + max_tokens - 1;
        Self {
            id,
            generated: Vec::new(),
            prompt,
            places,
            sampling,
            ignore_eos: false,
            leader: None,
            started: false,
            prompt_done: false,
        }
    }

    /// Prompt and output so far.
    pub(super) fn tokens(&self) -> &[TokenId] {
        if self.generated.is_empty() { &self.prompt } else { &self.generated }
    }

    /// Tokens of the prompt.
    pub(super) fn prompt_len(&self) -> usize {
        self.prompt.len()
    }

    /// One more token of output.
    pub(super) fn push(&mut self, token: TokenId) {
        if self.generated.is_empty() {
            self.generated.reserve(self.places + 1);
            self.generated.extend_from_slice(&self.prompt);
        }
        self.generated.push(token);
    }

    /// Whether it has all the output it may have.
    pub(super) fn at_length(&self) -> bool {
        self.tokens().len() > self.places
    }
}

/// Why a running sequence is not planned any more. It is released when its last row is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Leaving {
    /// Ended, failed or aborted: nobody listens.
    Gone,
    /// To wait again, with prompt and output as prompt.
    Retracted,
}

/// What a running sequence could do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This many known tokens are not fed yet.
    Prefill(usize),
    /// Feed what was sampled last.
    Decode,
    /// Nothing: it is leaving, or its last row is out.
    Nothing,
}

/// A sequence with a slot.
///
/// ```text
///  tokens   |── prefix hit ──|── computed ──|── in flight ──|      a token's K/V is written when it is fed,
///           0                               computed        planned     so n tokens need n - 1 places
/// ```
#[derive(Debug)]
pub(super) struct Running {
    pub(super) sequence: Sequence,
    pub(super) slot: Slot,
    pub(super) table: PageTable,
    /// Tokens that were known when it got the slot: prefill feeds them, decode all later ones.
    pub(super) fill: usize,
    /// Tokens fed by committed rows.
    pub(super) computed: usize,
    /// Tokens fed by rows planned.
    pub(super) planned: usize,
    /// Rows in flight.
    pub(super) rows_out: usize,
    /// Its one row in flight is held by the engine beyond its batch: it is not planned until that comes.
    pub(super) held: bool,
    pub(super) leaving: Option<Leaving>,
    /// A row failed: what it computed from there on is not to be trusted.
    pub(super) broken: bool,
}

impl Running {
    /// What it could do next.
    pub(super) fn next(&self) -> Next {
        if self.leaving.is_some() || self.planned == self.sequence.places {
            Next::Nothing
        } else if self.planned < self.fill {
            Next::Prefill(self.fill - self.planned)
        } else {
            Next::Decode
        }
    }

    /// Its pages come back once the rows in flight are committed.
    pub(super) fn is_departing(&self) -> bool {
        self.next() == Next::Nothing
    }
}
