//! A server of known timings: every answer's first token comes so long after its request arrived, and each next one so
//! long after the one before.
//!
//! Owns the timings and the truth about them, by its own clock. A request arrives when the kernel has the last of its bytes
//! (`SO_TIMESTAMPNS`), or where the system does not note that, when it is read: what it waits in the socket is time that a
//! server takes, and is published too (`read_lag`). It is as cheap as a server can be (one thread, one epoll,
//! one write a token), so that on a small machine it leaves the load generator the other core. It shares no code with the
//! client that it tests, nor with minisgl's own server.
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

/// What the server does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timings {
    pub(super) ttft: Duration,
    pub(super) itl: Duration,
    /// Tokens of an answer whose request does not say.
    pub(super) tokens: u64,
}

/// Most bytes of a request.
const LONGEST_REQUEST: usize = 16 << 20;

/// Most tokens of an answer.
const MOST_TOKENS: u64 = 1_000_000;

/// A wait below this is slept, since an epoll counts in milliseconds; in naps, since a request that came is to be read.
const SHORT: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_micros(100);

/// Connections that may wait to be met: a burst's.
const BACKLOG: i32 = 4096;

const LISTENER: Token = Token(0);

/// The head of an answer.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The model's name.
pub(super) const MODEL: &str = "known-timings";

/// The server, listening.
pub(super) struct Server {
    poll: Poll,
    listener: TcpListener,
    timings: Timings,
    connections: HashMap<usize, Connection>,
    next_id: usize,
    /// Streams that wait for their first token, and for a further one, each in the order of what is due.
    first: VecDeque<(Instant, usize)>,
    further: VecDeque<(Instant, usize)>,
    start: Instant,
    tokens: Tokens,
    truth: Truth,
}

struct Connection {
    socket: TcpStream,
    /// Bytes of a request that is not whole yet.
    request: Vec<u8>,
    /// When the last of them arrived.
    arrived: Instant,
    /// Bytes that the socket has not taken.
    unsent: Vec<u8>,
    stream: Option<Stream>,
    close: bool,
}

/// An answer on its way.
struct Stream {
    arrived: Instant,
    first_at: Option<Instant>,
    sent: u64,
    tokens: u64,
    is_chat: bool,
    prompt_bytes: usize,
}

/// What was really so, by this server's clock; nanoseconds.
#[derive(Default)]
struct Truth {
    /// When requests arrived.
    arrivals: Vec<u64>,
    /// How much later they were read.
    read_lag: Vec<u64>,
    ttft: Vec<u64>,
    /// (last − first) / (tokens − 1)
    tpot: Vec<u64>,
}

impl Server {
    /// Listens on `port` of this machine; 0 lets the system choose.
    pub(super) fn bind(port: u16, timings: Timings) -> io::Result<Self> {
        let poll = Poll::new()?;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Connections that it accepts do as it does; a system that cannot counts from the read.
        let _ = minisgl_kernels::socket::stamp_arrivals(&socket);
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            timings,
            connections: HashMap::new(),
            next_id: 1,
            first: VecDeque::new(),
            further: VecDeque::new(),
            start: Instant::now(),
            tokens: Tokens::new(),
            truth: Truth::default(),
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for good.
    pub(super) fn run(mut self) -> io::Result<()> {
        // Tokens are to be sent when they are due; a system that cannot gives turns as ever.
        let _ = minisgl_kernels::thread::prefer_short_turns(NAP);
        let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; 64 << 10]);
        loop {
            let wait = self.next_due().map(|due| due.saturating_duration_since(Instant::now()));
            let timeout = match wait {
                Some(wait) if wait < SHORT => {
                    if !wait.is_zero() {
                        std::thread::sleep(wait.min(NAP));
                    }
                    Some(Duration::ZERO)
                }
                // Whole milliseconds, rounded down: the rest is slept.
                Some(wait) => Some(Duration::from_millis(wait.as_millis() as u64 - 1)),
                None => None,
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(&mut buffer)?,
                    Token(id) => self.on_ready(id, &mut buffer),
                }
            }
            self.send_due();
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let front = |queue: &VecDeque<(Instant, usize)>| queue.front().map(|&(due, _)| due);
        front(&self.first).into_iter().chain(front(&self.further)).min()
    }

    fn accept(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            let (mut socket, _) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // A client that left before it was met.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let id = self.next_id;
            self.next_id += 1;
            self.poll.registry().register(&mut socket, Token(id), Interest::READABLE | Interest::WRITABLE)?;
            let connection = Connection {
                socket,
                request: Vec::new(),
                arrived: self.start,
                unsent: Vec::new(),
                stream: None,
                close: false,
            };
            self.connections.insert(id, connection);
            self.on_ready(id, buffer); // the request is often there already
        }
    }

    fn on_ready(&mut self, id: usize, buffer: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.flush().is_err() {
            self.connections.remove(&id);
            return;
        }
        loop {
            match receive(&mut connection.socket, buffer) {
                Ok((0, _)) => break,
                Ok((n, arrived)) => {
                    connection.request.extend_from_slice(&buffer[..n]);
                    connection.arrived = arrived;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.on_request(id);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.connections.remove(&id); // its client has left
    }

    /// Answers the request that has been read, if it is whole.
    fn on_request(&mut self, id: usize) {
        let connection = self.connections.get_mut(&id).expect("a connection that was read");
        if connection.stream.is_some() {
            return;
        }
        let request = match Request::parse(&connection.request) {
            Ok(Some(request)) => request,
            Ok(None) if connection.request.len() <= LONGEST_REQUEST => return,
            _ => {
                self.connections.remove(&id);
                return;
            }
        };
        connection.close = request.close;
        let body = connection.request[request.head..request.head + request.body].to_vec();
        connection.request.drain(..request.head + request.body);
        let sent = match request.target.as_str() {
            "GET /truth" => {
                let truth = std::mem::take(&mut self.truth).summary();
                connection.send_json(&truth)
            }
            "GET /v1/models" => {
                let model = json!({"id": MODEL, "object": "model", "created": 0, "owned_by": "minisgl"});
                connection.send_json(&json!({"object": "list", "data": [model]}))
            }
            "POST /v1/chat/completions" | "POST /v1/completions" => {
                let arrived = connection.arrived;
                let said: Asked = serde_json::from_slice(&body).unwrap_or_default();
                let asked = said.max_completion_tokens.or(said.max_tokens);
                let tokens = asked.unwrap_or(self.timings.tokens).clamp(1, MOST_TOKENS);
                let is_chat = request.target.contains("chat");
                let stream = Stream { arrived, first_at: None, sent: 0, tokens, is_chat, prompt_bytes: body.len() };
                self.truth.arrivals.push(arrived.duration_since(self.start).as_nanos() as u64);
                self.truth.read_lag.push(arrived.elapsed().as_nanos() as u64);
                put_in_order(&mut self.first, arrived + self.timings.ttft, id);
                connection.stream = Some(stream);
                Ok(()) // the head goes out with the first token, as it does from servers that may still refuse
            }
            _ => connection.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
        };
        let over = connection.stream.is_none() && connection.close;
        if sent.is_err() || over {
            self.connections.remove(&id);
        }
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        for is_first in [true, false] {
            loop {
                let queue = if is_first { &mut self.first } else { &mut self.further };
                let Some(&(due, id)) = queue.front().filter(|(due, _)| *due <= now) else { break };
                queue.pop_front();
                // A stream whose client has left is forgotten here.
                let Some(connection) = self.connections.get_mut(&id) else { continue };
                match connection.send_token(&self.tokens, &mut self.truth) {
                    // The schedule is absolute: a late token does not push those after it.
                    Ok(true) => self.further.push_back((due + self.timings.itl, id)),
                    Ok(false) if connection.close => drop(self.connections.remove(&id)),
                    Ok(false) => self.on_request(id), // one that came while this was answered
                    Err(_) => drop(self.connections.remove(&id)),
                }
            }
        }
    }
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unsent.is_empty() {
            match self.socket.write(bytes) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(n) => self.unsent.extend_from_slice(&bytes[n..]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.unsent.extend_from_slice(bytes),
                Err(error) => return Err(error),
            }
        } else {
            self.unsent.extend_from_slice(bytes);
        }
        match self.unsent.len() > LONGEST_REQUEST {
            true => Err(io::Error::other("a client that does not read")),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send_json(&mut self, value: &Value) -> io::Result<()> {
        let body = value.to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body.as_bytes()].concat())
    }

    /// Sends a stream's next token; false when it was the last, and the stream's end with it.
    fn send_token(&mut self, tokens: &Tokens, truth: &mut Truth) -> io::Result<bool> {
        let stream = self.stream.as_mut().expect("a stream that is due");
        let now = Instant::now();
        let first_at = *stream.first_at.get_or_insert_with(|| {
            truth.ttft.push(now.duration_since(stream.arrived).as_nanos() as u64);
            now
        });
        let is_first = stream.sent == 0;
        stream.sent += 1;
        let (is_chat, last) = (stream.is_chat, stream.sent == stream.tokens);
        let token = if is_chat { &tokens.chat } else { &tokens.text };
        match is_first {
            true => self.send(&[HEAD, token].concat())?,
            false => self.send(token)?,
        }
        if !last {
            return Ok(true);
        }
        let stream = self.stream.take().expect("it was here");
        if stream.tokens > 1 {
            truth.tpot.push(now.duration_since(first_at).as_nanos() as u64 / (stream.tokens - 1));
        }
        let usage = json!({"prompt_tokens": stream.prompt_bytes / 4, "completion_tokens": stream.tokens});
        let choice = match is_chat {
            true => json!({"index": 0, "delta": {}, "finish_reason": "length"}),
            false => json!({"index": 0, "text": "", "finish_reason": "length"}),
        };
        let finish = json!({"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]});
        let usage =
            json!({"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": [], "usage": usage});
        let end = framed(&format!("data: {finish}\n\ndata: {usage}\n\ndata: [DONE]\n\n"));
        self.send(&[end.as_slice(), b"0\r\n\r\n"].concat())?;
        Ok(false)
    }
}

/// Puts a stream where its time is: nearly always last, since requests are read nearly in the order in which they arrived.
fn put_in_order(streams: &mut VecDeque<(Instant, usize)>, due: Instant, id: usize) {
    let later = streams.iter().rev().take_while(|(other, _)| *other > due).count();
    streams.insert(streams.len() - later, (due, id));
}

/// Reads, and tells when the last of the bytes arrived.
fn receive(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<(usize, Instant)> {
    /// Looks at both clocks: those between which nothing came are this close.
    const CLOSE: Duration = Duration::from_micros(20);
    let (n, noted) = match minisgl_kernels::socket::receive(socket, buffer, false) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => (socket.read(buffer)?, None),
        other => other?,
    };
    let Some(noted) = noted else { return Ok((n, Instant::now())) };
    let looks = (0..100).map(|_| (Instant::now(), SystemTime::now(), Instant::now()));
    let arrived = looks.filter(|(before, _, after)| *after - *before <= CLOSE).find_map(|(before, system, _)| {
        let age = system.duration_since(SystemTime::UNIX_EPOCH + noted).unwrap_or_default();
        before.checked_sub(age)
    });
    Ok((n, arrived.unwrap_or_else(Instant::now)))
}

/// A token as servers send it, with the framing of its chunk.
struct Tokens {
    chat: Vec<u8>,
    text: Vec<u8>,
}

impl Tokens {
    fn new() -> Self {
        let event = |object: &str, choice: Value| {
            let chunk = json!({
                "id": "0123456789abcdef0123456789abcdef", "object": object, "created": 1_700_000_000, "model": MODEL,
                "choices": [choice],
            });
            framed(&format!("data: {chunk}\n\n"))
        };
        let delta = json!({"index": 0, "delta": {"content": " token"}, "finish_reason": null});
        let text = json!({"index": 0, "text": " token", "finish_reason": null});
        Self { chat: event("chat.completion.chunk", delta), text: event("text_completion", text) }
    }
}

/// A chunk of a body.
fn framed(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// What of a request's body matters.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Asked {
    max_completion_tokens: Option<u64>,
    max_tokens: Option<u64>,
}

/// A request's outline.
struct Request {
    /// Method and path.
    target: String,
    /// Bytes of its head and of its body.
    head: usize,
    body: usize,
    close: bool,
}

impl Request {
    /// `None` while it is not whole.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, ()> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        let head = match parsed.parse(bytes).map_err(drop)? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => return Ok(None),
        };
        let value = |name: &str| {
            let header = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            header.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
        };
        let body = value("content-length").map_or(Ok(0), |length| length.parse::<usize>().map_err(drop))?;
        if body > LONGEST_REQUEST {
            return Err(());
        }
        let close = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let target = format!("{} {}", parsed.method.unwrap_or(""), parsed.path.unwrap_or(""));
        Ok((bytes.len() - head >= body).then_some(Self { target, head, body, close }))
    }
}

impl Truth {
    fn summary(mut self) -> Value {
        self.arrivals.sort_unstable();
        let gaps: Vec<f64> = self.arrivals.windows(2).map(|two| (two[1] - two[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean) * (gap - mean)).sum::<f64>() / gaps.len() as f64;
        let cv = (gaps.len() > 1 && mean > 0.0).then(|| variance.sqrt() / mean);
        json!({
            "requests": self.arrivals.len(), "arrival_cv": cv, "cpu_s": crate::sampler::cpu_s(),
            "read_lag_ns": super::Figures::of(self.read_lag).json(),
            "ttft_ns": super::Figures::of(self.ttft).json(), "tpot_ns": super::Figures::of(self.tpot).json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_met_when_they_are_whole() {
        let text = b"POST /v1/completions HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabcd";
        for cut in 0..text.len() {
            let parsed = Request::parse(&text[..cut]).unwrap();
            assert_eq!(parsed.is_some(), cut >= text.len() - 1, "{cut}");
        }
        let whole = Request::parse(text).unwrap().unwrap();
        assert_eq!((whole.target.as_str(), whole.body, whole.close), ("POST /v1/completions", 3, true));
        assert!(Request::parse(b"\0\0\r\n\r\n").is_err());
    }
}
