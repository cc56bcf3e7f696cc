//! Connections that carry no request: between two of them, and behind the last.
//!
//! Owns which connection may carry another request, for how long one is kept, and who closes it. Knows nothing of what is
//! asked, or of events.
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use super::http::{Problem, Response};
use super::reactor::Tools;
use super::socket::Socket;

/// How long a connection waits for the next request. Servers close theirs after some seconds (those of uvicorn, Node and
/// llama.cpp 5), and a request that crosses the server's end on the wire is lost: this is well before it. Not shorter, since a
/// closed loop's next request often leaves before the last one's body has ended, on another connection: where answers
/// take seconds, each would find the other's too old.
const IDLE: Duration = Duration::from_secs(4);

/// How long the server has to end a whole answer's body, or to close a connection that is not kept. The side that closes
/// first keeps the port in TIME_WAIT, and the client's run out first; a body left unread would be reset and look like a
/// client that left.
const LINGER: Duration = Duration::from_secs(1);

/// A connection whose answer is whole, though its body may not have ended.
pub(super) struct Leftover {
    socket: Socket,
    response: Response,
    keep_alive: bool,
    until: u64,
}

impl Leftover {
    /// It is kept from `now` on.
    pub(super) fn new(mut socket: Socket, response: Response, keep_alive: bool, now: u64) -> Self {
        socket.take_all();
        Self { socket, response, keep_alive, until: now + LINGER.as_nanos() as u64 }
    }

    /// Whether it may carry another request now.
    pub(super) fn is_free(&self) -> bool {
        self.keep_alive && self.response.may_be_followed()
    }

    /// Whether it may go on to wait.
    pub(super) fn lingers_at(&self, now: u64) -> bool {
        now < self.until
    }

    /// Reads what is there; `closed` if the server will send no more. Whether the connection is of any further use.
    pub(super) fn read(&mut self, closed: bool, tools: &mut Tools) -> bool {
        let Tools { buffer, stamps, .. } = tools;
        loop {
            match self.socket.read(buffer, stamps) {
                Ok((0, _)) => return false,
                Ok((n, _)) => {
                    if self.response.take_body(&buffer[..n], |_| Ok::<_, Problem>(())).is_err() {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.socket.take_all();
        !closed
    }

    /// The connection, for another request. Where the reader is `busy`, it goes on to be read sparingly.
    pub(super) fn into_free(mut self, busy: bool) -> Socket {
        debug_assert!(self.is_free(), "a connection that waits for something");
        if !busy {
            self.socket.stop_saving();
        }
        self.socket
    }
}

/// The connections of one reader thread that may carry another request. The launcher takes, the reader puts; a lock a
/// request on either side.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<Free>>);

/// One of them; the one that was free last stands last.
struct Free {
    socket: Socket,
    /// What its epoll knows it by: the last request that it carried.
    index: usize,
    since: u64,
}

impl Free {
    fn is_fresh(&self, now: u64) -> bool {
        now < self.since + IDLE.as_nanos() as u64
    }
}

impl Idle {
    /// It carried request `index`, and is free from `now` on.
    pub(super) fn put(&self, socket: Socket, index: usize, now: u64) {
        self.free().push(Free { socket, index, since: now });
    }

    /// The one that was free last: those that are not needed grow old together.
    pub(super) fn take(&self, now: u64) -> Option<Socket> {
        self.free().pop().filter(|free| free.is_fresh(now)).map(|free| free.socket)
    }

    /// Closes that which carried request `index`, if it is here.
    pub(super) fn remove(&self, index: usize) {
        let mut free = self.free();
        if let Some(at) = free.iter().rposition(|free| free.index == index) {
            free.remove(at);
        }
    }

    /// Closes what has been free for too long.
    pub(super) fn expire(&self, now: u64) {
        let mut free = self.free();
        let old = free.partition_point(|free| !free.is_fresh(now));
        drop(free.drain(..old));
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Free>> {
        self.0.lock().expect("no panic while it is held")
    }
}
