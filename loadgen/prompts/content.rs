//! What a prompt's tokens are: sequences of numbers, of which prompts that share a beginning share the first.
//!
//! Owns which parts of a prompt are whose. Knows nothing of tokenizers: a number becomes a token where there is one.
//!
//! ```text
//!  blocks   |─ id 7 ─|─ id 8 ─|─ id 9 ·|── own ──|    an id is one sequence, of which a partial block has the beginning
//!  group    |──── the group's ────|───── own ────|
//!  shared   |─────── the run's one sequence ─────|
//! ```
//! Every sequence is salted with the run's number: another run shares as much and none of it.
use crate::request::Prompt;
use crate::rng::SplitMix;
use crate::traces::block_ranges;

/// Kinds of sequences, for they must not meet.
const OWN: u64 = 0;
const BLOCK: u64 = 1;
const GROUP: u64 = 2;
const SHARED: u64 = 3;
const SPARE: u64 = 4;

/// What a prompt consists of.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// In order.
    pub(crate) spans: Vec<Span>,
    /// Where tokens come from that a text lacks.
    pub(crate) spare: SplitMix,
}

/// The beginning of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// The sequence.
    pub(crate) from: SplitMix,
    /// How many of it.
    pub(crate) tokens: usize,
}

impl Content {
    /// Tokens in all.
    pub(crate) fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.tokens).sum()
    }
}

/// What the prompts of one run are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt {
    /// The command's seed.
    pub(crate) seed: u64,
    /// Which of the command's runs.
    pub(crate) run: u64,
}

/// Whose own tokens: a request's place in its run, and how often they were made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// The place.
    pub(crate) index: usize,
    /// From 0.
    pub(crate) attempt: u64,
}

impl Salt {
    /// The first `tokens` tokens of what `prompt` says, and `own` ones where it says no more.
    pub(crate) fn content(self, prompt: &Prompt, tokens: usize, own: Own) -> Content {
        let mut spans = Vec::new();
        let mut left = tokens;
        let mut push = |from: SplitMix, tokens: usize| {
            let tokens = tokens.min(left);
            left -= tokens;
            if tokens > 0 {
                spans.push(Span { from, tokens });
            }
        };
        match prompt {
            Prompt::Shared => push(self.sequence(SHARED, [0, 0]), tokens),
            Prompt::Group { group, tokens: common } => push(self.sequence(GROUP, [*group, 0]), *common),
            Prompt::Blocks { ids, block_size, scale } => {
                for (&id, range) in ids.iter().zip(block_ranges(tokens, *block_size, *scale)) {
                    push(self.sequence(BLOCK, [id, 0]), range.len());
                }
            }
            Prompt::Random | Prompt::Text(_) | Prompt::Messages(_) => {}
        }
        let place = [own.index as u64, own.attempt];
        push(self.sequence(OWN, place), tokens);
        Content { spans, spare: self.sequence(SPARE, place) }
    }

    fn sequence(self, kind: u64, [a, b]: [u64; 2]) -> SplitMix {
        SplitMix::of(self.seed, &[self.run, kind, a, b])
    }
}
