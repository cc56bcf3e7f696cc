//! One request and its answer, as a state machine that is told when its socket is ready.
//!
//! Owns the order connect, write, head, body, and what each kind of end means. Knows nothing of threads or queues, nor of
//! what an answer's events mean.
use std::io::{self, IoSlice};

use bytes::Bytes;
use minisgl_config::loadgen::settings::Endpoint;

use super::answer::{Answer, Keep, Seen};
use super::chunk::error_text;
use super::http::{Head, Response};
use super::idle::Leftover;
use super::scan::Form;
use super::socket::Socket;
use super::{Clock, Target, plain};
use crate::client::reactor::{Tally, Tools};
use crate::records::{End, Failure, Reason, Record};

/// Most of an error's body that is read.
const LONGEST_ERROR: usize = 16 << 10;

const HAS_SOCKET: &str = "a request on its way has its socket";

/// A request, prepared.
pub(crate) struct Outgoing {
    /// Its JSON, in pieces.
    pub(crate) body: Vec<Bytes>,
    pub(crate) endpoint: Endpoint,
    pub(crate) keep: Keep,
    /// What is known of it: place, lengths, intended time. The rest is filled in here.
    pub(crate) record: Record,
    /// Nanoseconds after it was sent at which it has failed.
    pub(crate) timeout_ns: u64,
    /// Nanoseconds after it was sent at which its client leaves.
    pub(crate) cancel_ns: Option<u64>,
}

/// A request on its way, until its end.
pub(crate) struct Exchange {
    /// Gone once it lingers elsewhere.
    socket: Option<Socket>,
    outgoing: Vec<Bytes>,
    /// Bytes of `outgoing` that were taken.
    written: usize,
    response: Response,
    /// The beginning of an error's body.
    error_body: Vec<u8>,
    answer: Answer,
    record: Record,
    deadline: u64,
    cancel_at: Option<u64>,
    /// Whether the connection carried a request before, and whether it may carry another.
    is_reused: bool,
    keep_alive: bool,
}

/// What is left when a request is over.
pub(crate) struct Over {
    pub(crate) record: Record,
    pub(crate) text: Option<Vec<u8>>,
    pub(crate) tics: Option<Vec<u64>>,
}

impl From<&'static str> for Failure {
    fn from(problem: &'static str) -> Self {
        Self::new(Reason::NoResponse, problem)
    }
}

impl Exchange {
    /// Writes what the connection takes at once: `kept`, which carried a request before, or one that is opened. Takes the
    /// time before it does anything.
    pub(crate) fn start(
        target: &Target,
        kept: Option<Socket>,
        outgoing: Outgoing,
        clock: Clock,
    ) -> Result<Box<Self>, Box<Over>> {
        let Outgoing { body, endpoint, keep, mut record, timeout_ns, cancel_ns } = outgoing;
        let length = body.iter().map(Bytes::len).sum();
        record.sent = clock.now();
        let is_reused = kept.is_some();
        let socket = match kept.map_or_else(|| target.connect(), Ok) {
            Ok(socket) => socket,
            Err(error) => {
                record.ended = clock.now();
                record.end = End::Failed(Failure::new(Reason::Connect(plain(&error)), plain(&error)));
                return Err(Box::new(Over { record, text: None, tics: None }));
            }
        };
        let mut pieces = vec![Bytes::from(target.request_head(length))];
        pieces.extend(body);
        let mut exchange = Box::new(Self {
            socket: Some(socket),
            outgoing: pieces,
            written: 0,
            response: Response::default(),
            error_body: Vec::new(),
            answer: Answer::new(endpoint, record.output_len, keep),
            deadline: record.sent.saturating_add(timeout_ns),
            cancel_at: cancel_ns.map(|after| record.sent.saturating_add(after)),
            is_reused,
            keep_alive: target.keeps_alive(),
            record,
        });
        match exchange.write(clock) {
            Ok(()) => Ok(exchange),
            Err(failure) => Err(Box::new(exchange.over(End::Failed(failure), clock))),
        }
    }

    /// The socket, to be registered.
    pub(crate) fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect(HAS_SOCKET)
    }

    /// The connection of an answer that is whole.
    pub(super) fn take_leftover(&mut self, clock: Clock) -> Option<Leftover> {
        let socket = self.socket.take()?;
        Some(Leftover::new(socket, std::mem::take(&mut self.response), self.keep_alive, clock.now()))
    }

    /// Whether its connection carried a request before: it is known to the epoll.
    pub(crate) fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Whether it must hear of it when the connection takes bytes.
    pub(crate) fn awaits_room(&mut self) -> bool {
        !self.outgoing.is_empty() || !self.socket().is_plain()
    }

    /// The request's place in the run.
    pub(crate) fn index(&self) -> usize {
        self.record.index
    }

    /// When something is due even if no byte comes.
    pub(crate) fn due(&self) -> u64 {
        self.cancel_at.map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// What became due by `now`.
    pub(crate) fn on_time(&self, now: u64) -> Option<End> {
        if self.cancel_at.is_some_and(|at| at <= now) {
            return Some(End::Cancelled);
        }
        let seconds = self.deadline.saturating_sub(self.record.sent) as f64 / 1e9;
        let failure = || Failure::new(Reason::Timeout, format!("not over after {seconds} s"));
        (self.deadline <= now).then(|| End::Failed(failure()))
    }

    /// Looks at what a read will need, in each part of memory where it lies; the result means nothing. Many at a time, the
    /// waits for memory overlap.
    pub(crate) fn touch(&self) -> u64 {
        let Self { socket, outgoing, response, answer, record, .. } = self;
        let socket = u64::from(socket.as_ref().is_some_and(Socket::is_plain));
        let record = record.first_token.is_some() as u64 + record.chunks + record.sent;
        socket + outgoing.len() as u64 + response.touch() + answer.touch() + record
    }

    /// The socket is ready, for one thing or both; `closed` if the server will send no more. Some end, if this was it.
    pub(crate) fn on_ready(&mut self, closed: bool, tools: &mut Tools, tally: &mut Tally) -> Option<End> {
        let step = self.write(tools.stamps.clock()).and_then(|()| self.read(closed, tools, tally));
        match step {
            Ok(false) => None,
            Ok(true) => Some(End::Completed),
            Err(failure) => Some(End::Failed(failure)),
        }
    }

    /// Ends it: what is left of it.
    pub(crate) fn over(mut self, end: End, clock: Clock) -> Over {
        // What follows the last token (usage, the end of the body) is no part of an answer.
        self.record.ended = match end {
            End::Completed => self.record.last_token.unwrap_or_else(|| clock.now()),
            _ => clock.now(),
        };
        self.record.end = end;
        let (text, tics) = self.answer.into_kept();
        Over { record: self.record, text, tics }
    }

    fn write(&mut self, clock: Clock) -> Result<(), Failure> {
        if self.outgoing.is_empty() && self.socket().is_plain() {
            return Ok(());
        }
        let total: usize = self.outgoing.iter().map(Bytes::len).sum();
        while self.written < total {
            let mut skip = self.written;
            let mut slices = Vec::with_capacity(self.outgoing.len());
            for piece in &self.outgoing {
                if skip < piece.len() {
                    slices.push(IoSlice::new(&piece[skip..]));
                }
                skip = skip.saturating_sub(piece.len());
            }
            let socket = self.socket.as_mut().expect(HAS_SOCKET);
            match socket.write(&slices) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(&error)),
            }
            self.note_written(clock);
        }
        if !self.outgoing.is_empty() {
            self.outgoing = Vec::new(); // sent: the memory of a long prompt is not held through its answer
        }
        match self.socket().flush() {
            Ok(sent) => {
                if sent {
                    self.note_written(clock);
                }
                Ok(())
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// The connection stands: with TLS, its handshake is over too.
    fn note_written(&mut self, clock: Clock) {
        if self.record.written.is_none() && (self.socket().is_plain() || self.outgoing.is_empty()) {
            self.record.written = Some(clock.now());
        }
    }

    /// Reads what is there; true when the answer is whole.
    fn read(&mut self, closed: bool, tools: &mut Tools, tally: &mut Tally) -> Result<bool, Failure> {
        let Tools { buffer, stamps, form } = tools;
        loop {
            let (n, at) = match self.socket().read(buffer, stamps) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.on_close(Some(self.broken(&error))).map(|()| true),
            };
            if n == 0 {
                return self.on_close(None).map(|()| true);
            }
            if self.take(&buffer[..n], at, form, tally)? {
                return Ok(true);
            }
            // An edge-triggered socket that gave less than it was asked for is empty; an end that came with the data shows
            // as `closed`, and one that comes later as another event.
            if n < buffer.len() && !closed && self.socket().is_drained_by_short_read() {
                return Ok(false);
            }
        }
    }

    /// Takes the bytes of one read, which arrived `at`; true when the answer is whole.
    fn take(&mut self, mut bytes: &[u8], at: u64, form: &mut Form, tally: &mut Tally) -> Result<bool, Failure> {
        if self.response.head().is_none() {
            let taken = self.response.take_head(bytes)?;
            bytes = &bytes[taken..];
            let Some(head) = self.response.head() else { return Ok(false) };
            self.record.head = Some(at);
            if (200..300).contains(&head.status)
                && let Some(kind) = &head.content_type
                && !kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
            {
                return Err(Failure::new(Reason::NotAStream, format!("content-type: {kind}")));
            }
        }
        let is_answer = self.response.head().is_some_and(|head| (200..300).contains(&head.status));
        let (answer, error_body) = (&mut self.answer, &mut self.error_body);
        let mut seen = Seen { record: &mut self.record, tally, form };
        self.response.take_body(bytes, |body| {
            if is_answer {
                return answer.read(body, at, &mut seen);
            }
            let room = LONGEST_ERROR - error_body.len();
            error_body.extend_from_slice(&body[..body.len().min(room)]);
            Ok(())
        })?;
        if !is_answer && (self.response.has_ended() || self.error_body.len() == LONGEST_ERROR) {
            return Err(self.refused());
        }
        if self.answer.is_done() || (is_answer && self.response.has_ended()) {
            return self.answer.end(&self.record, None).map(|()| true);
        }
        Ok(false)
    }

    /// The connection's end, `how` if not an orderly one.
    fn on_close(&self, how: Option<Failure>) -> Result<(), Failure> {
        match self.response.head() {
            None => Err(how.unwrap_or_else(|| {
                let place = if self.response.has_begun() { "within the response's head" } else { "without an answer" };
                let which = if self.is_reused { ", which had carried an earlier request," } else { "" };
                Failure::new(Reason::NoResponse, format!("the connection{which} closed {place}"))
            })),
            Some(head) if !(200..300).contains(&head.status) => Err(self.refused()),
            Some(_) => {
                let cut = || Failure::new(Reason::EndedEarly, self.cut());
                let how = how.or_else(|| (!self.response.may_end_by_close()).then(cut));
                self.answer.end(&self.record, how)
            }
        }
    }

    fn cut(&self) -> String {
        format!("the connection closed within the body, after {} content chunks", self.record.chunks)
    }

    fn refused(&self) -> Failure {
        let Head { status, retry_after, .. } = self.response.head().expect("a head with a status");
        let retry = retry_after.as_ref().map_or(String::new(), |after| format!(" (Retry-After: {after})"));
        Failure::new(Reason::Status(*status), error_of(&self.error_body) + &retry)
    }

    /// What a system's error is to a user.
    fn broken(&self, error: &io::Error) -> Failure {
        match error.kind() {
            _ if !self.is_reused && self.record.written.is_none() && !self.response.has_begun() => {
                Failure::new(Reason::Connect(plain(error)), plain(error))
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::new(Reason::Reset, plain(error)),
            _ if self.response.head().is_none() => Failure::new(Reason::NoResponse, plain(error)),
            _ => Failure::new(Reason::EndedEarly, plain(error)),
        }
    }
}

/// The message of an error's body: OpenAI's, or the text itself.
fn error_of(body: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(json) => error_text(json.get("error").unwrap_or(&json)),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}
