//! What is kept of each request: a few numbers, whatever it streamed.
//!
//! Owns the record and the reasons of failure. Takes no time itself and sums nothing up.
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::series::{ClientCost, GapsOverTime, Sample};
use crate::statistics::Gaps;

/// One request, from its intended time to its end. Times are nanoseconds after the run's start, on one monotonic clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    /// Its place in the run.
    pub(crate) index: usize,
    /// Its length class.
    pub(crate) class: u16,
    /// Which turn of its conversation it is, from 1; 0 where turns are not told apart.
    pub(crate) turn: u32,
    /// When it was to be sent; `None` in a closed loop, which has no schedule.
    pub(crate) intended: Option<u64>,
    /// Taken before its connection is opened.
    pub(crate) sent: u64,
    /// The first byte of the request was taken by the socket: the connection stood.
    pub(crate) written: Option<u64>,
    /// When the end of the response's head arrived (`client/stamps.rs`).
    pub(crate) head: Option<u64>,
    /// When its first non-empty content or reasoning delta arrived.
    pub(crate) first_token: Option<u64>,
    /// When its last content chunk arrived.
    pub(crate) last_token: Option<u64>,
    /// When it was over, either way.
    pub(crate) ended: u64,
    /// Content chunks, empty ones included; reasoning and tool-call chunks are among them.
    pub(crate) chunks: u64,
    /// Of them, with reasoning.
    pub(crate) reasoning_chunks: u64,
    /// Of them, with a piece of a tool call.
    pub(crate) tool_call_chunks: u64,
    /// Tokens by the server's count.
    pub(crate) usage: Option<Usage>,
    /// Tokens of its answer's text by the client's tokenizer, where that was counted.
    pub(crate) tokenizer_count: Option<u64>,
    /// Tokens of its message.
    pub(crate) input_len: usize,
    /// Tokens it asked for.
    pub(crate) output_len: usize,
    /// Why the answer ended, in the server's word.
    pub(crate) finish: Option<Finish>,
    /// Its last event held the server's count and nothing else.
    pub(crate) usage_alone: bool,
    /// How it ended, for us.
    pub(crate) end: End,
    /// The arrival of each event that a client library would hand out (role, content, finish, usage; not `[DONE]`).
    /// Kept only where `--raw` asks for it: it is the one thing that grows with an answer.
    pub(crate) tics: Option<Vec<u64>>,
}

/// Tokens as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of the prompt, chat template included.
    pub(crate) prompt_tokens: u64,
    /// Of the answer.
    pub(crate) completion_tokens: u64,
    /// Of the prompt's, those that a prefix cache held, where the server says.
    pub(crate) cached_tokens: Option<u64>,
    /// Of the answer's, those of reasoning, where the server says.
    pub(crate) reasoning_tokens: Option<u64>,
}

/// How a request ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// With a whole answer.
    #[default]
    Completed,
    /// Our side left: as planned, or because the run was interrupted.
    Cancelled,
    /// For this reason.
    Failed(Failure),
}

/// `finish_reason`, spelled as the API does in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Finish {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// The length asked for, or the context's end.
    Length,
    /// A tool is to be called.
    ToolCalls,
    /// Anything else.
    Other,
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Other => "other",
        })
    }
}

impl Record {
    /// Whether it has a whole answer.
    pub(crate) fn is_completed(&self) -> bool {
        self.end == End::Completed
    }

    /// Whether it was sent at all: a turn whose parent failed never was, and its times mean nothing.
    pub(crate) fn was_sent(&self) -> bool {
        self.failure().is_none_or(|failure| failure.reason != Reason::Parent)
    }

    /// Why it failed, if it did.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match &self.end {
            End::Failed(failure) => Some(failure),
            End::Completed | End::Cancelled => None,
        }
    }
}

/// What a run leaves: everything that a report is made from.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// One of each request, by index.
    pub(crate) records: Vec<Record>,
    /// Gaps between content chunks (ICL), of all requests whatever became of them: kept as they come, not a request.
    pub(crate) gaps: Gaps,
    /// The same gaps by time and length.
    pub(crate) gaps_over_time: GapsOverTime,
    /// In flight, queued and chunks a second, sampled.
    pub(crate) samples: Vec<Sample>,
    /// Most requests in flight at once.
    pub(crate) max_in_flight: u64,
    /// Most requests that waited for their first token at once.
    pub(crate) max_queued: u64,
    /// Connections that were opened; the others of the requests were sent on one of these. Unknown of a run that was read back.
    pub(crate) connections: Option<u64>,
    /// The client process's own cost.
    pub(crate) cost: ClientCost,
    /// Wall-clock time of the run's start, in seconds since 1970: for people, never for intervals.
    pub(crate) started_unix_s: f64,
    /// Text of the answers that were to be kept, by index; JSON string contents as they came.
    pub(crate) answers: BTreeMap<usize, Vec<u8>>,
    /// What an interrupted run left undone.
    pub(crate) interrupted: Option<Interrupted>,
}

/// What a run that was interrupted (Ctrl-C, SIGTERM) left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    /// Requests that were on their way: cancelled.
    pub left: u64,
    /// Requests that were never sent; no figure has them.
    pub unsent: u64,
}

/// Why a request failed, and in which words of whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What is counted.
    pub(crate) reason: Reason,
    /// What the server or the system said of this one.
    pub(crate) detail: String,
}

impl Failure {
    /// Longest detail that is kept.
    const LONGEST_DETAIL: usize = 300;

    /// A failure with what was said about it, shortened and without control characters: it may be printed as it is.
    pub(crate) fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        let said = detail.to_string();
        let kept = said.chars().take(Self::LONGEST_DETAIL).map(|c| if c.is_control() { ' ' } else { c });
        Self { reason, detail: kept.collect::<String>().trim().to_owned() }
    }
}

/// The kinds of failure: few, so that they can be counted. Displayed as the reports' keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// No connection; what the system says.
    Connect(String),
    /// The connection was reset.
    Reset,
    /// The connection closed before a response's head was whole.
    NoResponse,
    /// A status other than 2xx.
    Status(u16),
    /// A 2xx whose body is no event stream.
    NotAStream,
    /// The server sent an error as an event.
    ErrorEvent,
    /// The stream ended before its end was announced.
    EndedEarly,
    /// An event that cannot be read.
    BadEvent,
    /// A stream that goes on far beyond what was asked for.
    Endless,
    /// An answer that ended well, without one token by anybody's count.
    NoToken,
    /// Nothing came for the whole timeout, or it was not over within it.
    Timeout,
    /// The turn before it failed, so that it was never sent: its history lacks an answer.
    Parent,
    /// As a report of an earlier run names it.
    Recorded(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "connect: {why}"),
            Self::Reset => f.write_str("connection reset"),
            Self::NoResponse => f.write_str("no response"),
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::NotAStream => f.write_str("not an event stream"),
            Self::ErrorEvent => f.write_str("error event"),
            Self::EndedEarly => f.write_str("stream ended early"),
            Self::BadEvent => f.write_str("unreadable event"),
            Self::Endless => f.write_str("endless stream"),
            Self::NoToken => f.write_str("no token"),
            Self::Timeout => f.write_str("timeout"),
            Self::Parent => f.write_str("earlier turn failed"),
            Self::Recorded(name) => f.write_str(name),
        }
    }
}
