//! What is kept of each request: a few numbers, whatever it streamed.
//!
//! Owns the record and the reasons of failure. Takes no time itself and sums nothing up.
use std::fmt;

use crate::client::Usage;

/// One request, from its intended time to its end. Times are nanoseconds after the run's start.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// When it was to be sent; `None` in a closed loop, which has no schedule.
    pub(crate) intended: Option<u64>,
    /// Taken before its connection is opened.
    pub(crate) sent: u64,
    /// The socket read that brought its first non-empty content or reasoning delta.
    pub(crate) first_token: Option<u64>,
    /// The socket read that brought its last content chunk.
    pub(crate) last_token: Option<u64>,
    /// When it was over, either way.
    pub(crate) ended: u64,
    /// Content chunks, empty ones included.
    pub(crate) chunks: u64,
    /// Tokens by the server's count.
    pub(crate) usage: Option<Usage>,
    /// Tokens of its message.
    pub(crate) input_len: usize,
    /// Tokens it asked for.
    pub(crate) output_len: usize,
    /// Why it failed, if it did.
    pub(crate) failure: Option<Failure>,
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
    /// An answer that ended well, without one token.
    NoToken,
    /// Not over within the timeout.
    Timeout,
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
        }
    }
}
