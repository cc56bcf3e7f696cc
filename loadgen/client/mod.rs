//! The client: requests over sockets, streamed answers measured as they arrive.
//!
//! Owns connections, HTTP/1.1 and the reading of streams, and takes every time. Knows nothing of traces, schedules or
//! statistics, and shares no code with the server.
//!
//! ```text
//!   run.rs (launcher thread) ─▶ exchange.rs  one request and its answer: a state machine that is told when its socket is ready
//!                                  │  target.rs address, TLS, head     socket.rs  TCP, or TLS over it; stamps.rs  when bytes arrived
//!                                  │  http.rs   head, body framing     sse.rs ▶ scan.rs, chunk.rs ▶ answer.rs  bytes to tokens to times
//!                                  ▼
//!   reactor.rs (reader threads): one epoll each; a ready socket costs one read, and no lock, allocation or formatting
//!                                  │  idle.rs   connections between two requests
//! ```
//! - **No async runtime.** A chunk of a stream is an event, a read of some hundred bytes and a few counters; tasks, wakers
//!   and timers would cost more than that work. The launcher connects and writes on its own thread, so that a request
//!   leaves on time however busy the readers are.
//! - **Connections are kept** and carry the next request, as those of the OpenAI packages and of other clients do, as long as
//!   one is free and has been for less than four seconds; no request waits for another's connection, and where none is free one is
//!   opened (`--disable-keepalive`: for every request). TCP_NODELAY is set on each.
//! - **Sent** is taken before a connection is looked for or opened; **written** when the socket took the first bytes. **A chunk's
//!   time** is when the packet that completed it arrived in this machine, as the kernel noted it (`stamps.rs`), whatever
//!   the reader was doing then; where the system cannot, when the socket read returned. Both are below TLS and HTTP.
//! - A failed request is never sent again.
mod answer;
mod chunk;
mod exchange;
mod http;
mod idle;
mod reactor;
mod scan;
mod socket;
pub(crate) mod sse;
mod stamps;
mod target;
mod trust;

pub(crate) use answer::Keep;
pub(crate) use exchange::{Exchange, Outgoing};
pub(crate) use reactor::{Ended, Ends, Reactors};
pub(crate) use target::{HeadOptions, Target};
pub(crate) use trust::Trust;

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

/// A system's error in its words, without its number.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let (first, rest) = text[..end].split_at(text.chars().next().map_or(0, char::len_utf8));
    first.to_lowercase() + rest
}
