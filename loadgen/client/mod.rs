//! The client: one streamed chat request, measured.
//!
//! Owns connections, HTTP and the reading of streams, and takes every time. Knows nothing of traces, schedules or
//! statistics, and shares no code with the server.
//!
//! - **A connection a request**, closed after it: a request's time begins before the connection is opened, as it does for
//!   a user who comes anew, and no request waits for another's connection. TCP_NODELAY is set on each.
//! - **Sent** is taken before the connection is opened and the first byte is written. **A chunk's time** is taken when the
//!   socket read that completed it returned, below TLS and HTTP, before anything is parsed.
//! - Connection and body are polled on one task, so that no chunk waits for another task to be scheduled.
//! - A failed request is never sent again.
mod chunk;
mod connect;
mod exchange;
mod sse;
mod stream;

pub(crate) use chunk::Usage;
pub(crate) use connect::{Target, plain};
pub(crate) use exchange::{Ask, Outcome, get_json, stream_chat};

use std::time::Instant;

/// The run's clock: nanoseconds after its start, 0 before it. Monotonic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock that is 0 at `start`.
    pub(crate) fn starting(start: Instant) -> Self {
        Self(start)
    }

    /// Now.
    pub(crate) fn now(self) -> u64 {
        Instant::now().saturating_duration_since(self.0).as_nanos() as u64
    }
}
