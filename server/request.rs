//! What was asked, and what comes back: the vocabulary of the front half.
//!
//! Plain data. Nothing here has run yet, and past this type no `Option` means "not checked yet".
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use minisgl_kernels::{Sampling, TokenId};
use minisgl_tokenizer::ChatMessage;

/// One choice of a request, unique in the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// What was asked, checked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The input.
    pub prompt: Prompt,
    /// Choices, at least 1. Choice `i` samples with `sampling.seed + i`.
    pub n: usize,
    /// Output bound.
    pub max_tokens: MaxTokens,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// An end-of-sequence token does not end it.
    pub ignore_eos: bool,
    /// Texts that end it, none of them empty. The text before the earliest match is the output.
    pub stop: Vec<String>,
    /// A client's claim of how many tokens the messages' contents have, compared and logged.
    pub expected_content_tokens: Option<usize>,
}

/// A request's input.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Rendered through the model's chat template.
    Chat(Vec<ChatMessage>),
    /// Encoded with the model's own special tokens (BOS).
    Text(String),
    /// Taken as they are.
    Tokens(Vec<TokenId>),
}

/// Output bound, as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxTokens {
    /// What room the context leaves.
    Room,
    /// This many, clamped to the room.
    AtMost(usize),
}

/// What a sequence tells its [`Generation`](crate::llm::Generation): `Refused`, or `Queued Started Token* (Finished | Failed)`.
/// Instants are of the commit that made the event, so a slow reader is not our latency.
#[derive(Clone, Debug)]
pub enum Event {
    /// Never accepted.
    Refused(Refusal),
    /// Encoded, fits, waits for its turn.
    Queued {
        /// The prompt as encoded: its length is usage, and a completion's text goes on where its text ends.
        prompt: Arc<[TokenId]>,
        /// When.
        at: Instant,
    },
    /// Its first row is planned. Sent once, however often it is retracted.
    Started {
        /// Prompt tokens that the prefix cache held.
        cached_tokens: usize,
        /// When.
        at: Instant,
    },
    /// One token, an end-of-sequence token too.
    Token {
        /// Which.
        id: TokenId,
        /// When.
        at: Instant,
    },
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// When.
        at: Instant,
    },
    /// The end, badly: its row, its batch or the engine failed.
    Failed(Failure),
}

/// Why a sequence ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// `max_tokens`, or the context.
    Length,
}

/// Why a request cannot run, said before it is queued. The client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It leaves no room for one output token.
    #[error(
        "the prompt has {tokens} tokens, and {limit} is the most that this server takes (context or K/V cache, less one token of output)"
    )]
    PromptTooLong {
        /// Its tokens.
        tokens: usize,
        /// The most that fits.
        limit: usize,
    },
    /// It is text of so many bytes that its tokens cannot fit: said without encoding it.
    #[error("the prompt has {bytes} bytes, and text of more than {limit} cannot fit what this server takes")]
    TextTooLong {
        /// Its bytes.
        bytes: usize,
        /// The most that could fit.
        limit: usize,
    },
    /// It has no tokens.
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    /// A token id beyond the vocabulary.
    #[error("token id {id} is not in the vocabulary (0 to {last})")]
    BadToken {
        /// The id.
        id: TokenId,
        /// The last id that is.
        last: TokenId,
    },
    /// The template or the tokenizer refused.
    #[error("{0}")]
    Encoding(String),
}

/// Why a sequence died. Not the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// A sequence's end of the pipeline: travels from `Llm::submit` through intake to the scheduler's loop, and is dropped
/// when the sequence has left, which closes the channel and frees the permit.
#[derive(Debug)]
pub struct SequenceHandle {
    /// Which.
    pub id: SeqId,
    /// To its Generation. Unbounded, but at most `max_tokens + 4` events are ever sent: the scheduler never waits for a reader.
    pub events: flume::Sender<Event>,
    /// Its place among `max_running + max_queued`.
    pub permit: Permit,
}

/// What intake takes: a request and a handle a choice.
#[derive(Debug)]
pub struct Submission {
    /// What was asked.
    pub request: Request,
    /// `n` of them.
    pub sequences: Vec<SequenceHandle>,
}

/// What the scheduler takes: an encoded request that can fit, choices in order; the first is the others' leader.
#[derive(Debug)]
pub struct Admission {
    /// The prompt, at least one token.
    pub prompt: Arc<[TokenId]>,
    /// Output bound, at least 1; `prompt + max_tokens` fits context and cache.
    pub max_tokens: usize,
    /// Shared but for the seed: choice `i` uses `seed + i` (wrapping).
    pub sampling: Sampling,
    /// End-of-sequence tokens do not end it.
    pub ignore_eos: bool,
    /// `n` of them.
    pub sequences: Vec<SequenceHandle>,
}

/// The one bound: `max_running + max_queued` sequences from acceptance to their end. Every later queue has room for all.
#[derive(Clone, Debug)]
pub struct Permits(Arc<PermitsInner>);

#[derive(Debug)]
struct PermitsInner {
    total: usize,
    free: Mutex<usize>,
    freed: Condvar,
}

/// One place; dropping it frees it.
#[derive(Debug)]
pub struct Permit(Arc<PermitsInner>);

impl Permits {
    /// `total` places.
    pub fn new(total: usize) -> Self {
        Self(Arc::new(PermitsInner { total, free: Mutex::new(total), freed: Condvar::new() }))
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.0.total - *self.lock()
    }

    /// `n` places at once, or none.
    pub fn try_acquire(&self, n: usize) -> Option<Vec<Permit>> {
        let mut free = self.lock();
        if *free < n {
            return None;
        }
        *free -= n;
        Some(self.make(n))
    }

    /// Waits for `n` places, which must be no more than there are.
    pub fn acquire(&self, n: usize) -> Vec<Permit> {
        assert!(n <= self.0.total, "{n} permits asked of {}", self.0.total);
        let mut free = self.lock();
        while *free < n {
            free = self.0.freed.wait(free).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *free -= n;
        self.make(n)
    }

    fn make(&self, n: usize) -> Vec<Permit> {
        (0..n).map(|_| Permit(self.0.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        self.0.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += 1;
        self.0.freed.notify_all();
    }
}
