//! The figures of one request: TTFT, TPOT, E2E, N.
//!
//! Owns their definitions. Sums nothing up.
use serde::{Deserialize, Serialize};

use crate::records::Record;

/// Who counted output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountedBy {
    /// The server, in `usage`.
    Usage,
    /// The client's tokenizer, from the answer's text.
    Tokenizer,
    /// Nobody: a content chunk is taken for a token.
    #[default]
    Chunks,
    /// Not the same one for every answer.
    Mixed,
}

impl CountedBy {
    /// For a sentence.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Usage => "the server",
            Self::Tokenizer => "the client's tokenizer",
            Self::Chunks => "content chunks",
            Self::Mixed => "the server, or else the client's tokenizer or content chunks",
        }
    }
}

/// N and who counted it: the server where it does, else the tokenizer, else chunks.
pub(crate) fn tokens(record: &Record) -> (u64, CountedBy) {
    let usage = record.usage.map(|usage| usage.completion_tokens).filter(|&n| n > 0);
    match (usage, record.tokenizer_count.filter(|&n| n > 0)) {
        (Some(n), _) => (n, CountedBy::Usage),
        (None, Some(n)) => (n, CountedBy::Tokenizer),
        (None, None) => (record.chunks, CountedBy::Chunks),
    }
}

/// Nanoseconds from the send to the first token.
pub(crate) fn ttft(record: &Record) -> Option<u64> {
    Some(record.first_token?.saturating_sub(record.sent))
}

/// Nanoseconds from the send to the last content chunk.
pub(crate) fn e2e(record: &Record) -> Option<u64> {
    Some(record.last_token?.saturating_sub(record.sent))
}

/// Nanoseconds a token after the first, rounded down; none of an answer of one token.
pub(crate) fn tpot(record: &Record) -> Option<u64> {
    let n = tokens(record).0;
    if n < 2 { None } else { Some(e2e(record)?.saturating_sub(ttft(record)?) / (n - 1)) }
}

/// Nanoseconds from the intended time to the send; none without a schedule.
pub(crate) fn lag(record: &Record) -> Option<u64> {
    Some(record.sent.saturating_sub(record.intended?))
}

/// Nanoseconds from the intended time to the first token.
pub(crate) fn ttft_from_intended(record: &Record) -> Option<u64> {
    Some(record.first_token?.saturating_sub(record.intended?))
}

/// Nanoseconds from the intended time to the last content chunk.
pub(crate) fn e2e_from_intended(record: &Record) -> Option<u64> {
    Some(record.last_token?.saturating_sub(record.intended?))
}

/// Nanoseconds from before the connection to the first byte that it took.
pub(crate) fn connect(record: &Record) -> Option<u64> {
    Some(record.written?.saturating_sub(record.sent))
}
