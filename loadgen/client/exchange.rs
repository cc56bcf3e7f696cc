//! One request over one connection: HTTP/1.1 by hyper, driven on the caller's task.
//!
//! Owns the request's head, the response's status and how a body ends. Knows nothing of what an answer's events mean.
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;

use super::Clock;
use super::connect::{LastRead, Link, Stream, Target, plain};
use super::stream::{Answer, Measured};
use crate::counters::Counters;
use crate::records::{Failure, Reason};

/// Most of an error's body, and most of a small JSON answer, that is read.
const LONGEST_ERROR: usize = 16 << 10;
const LONGEST_JSON: usize = 4 << 20;

/// How long the end of a body is waited for once `[DONE]` came: closing with bytes unread would reset the connection and
/// look to the server like a client that left.
const END_WITHIN: Duration = Duration::from_secs(1);

/// What became of a request.
pub(crate) struct Outcome {
    /// What was measured, of a failed one as far as it came.
    pub(crate) measured: Measured,
    /// Why it failed, if it did.
    pub(crate) failure: Option<Failure>,
}

/// Sends `body` to the chat endpoint and measures the streamed answer.
pub(crate) async fn stream_chat(target: &Target, ask: Ask, clock: Clock, counters: &Counters) -> Outcome {
    let mut answer = Answer::new(ask.output_len, counters);
    let exchange = exchange(target, ask.body, clock, &mut answer);
    let failure = match tokio::time::timeout(ask.timeout, exchange).await {
        Ok(result) => result.err(),
        Err(_) => Some(Failure::new(Reason::Timeout, format!("not over after {} s", ask.timeout.as_secs_f64()))),
    };
    Outcome { measured: answer.measured(), failure }
}

/// One chat request, prepared.
pub(crate) struct Ask {
    /// Its JSON.
    pub(crate) body: Bytes,
    /// Tokens it asks for.
    pub(crate) output_len: usize,
    /// When it has failed.
    pub(crate) timeout: Duration,
}

async fn exchange(target: &Target, body: Bytes, clock: Clock, answer: &mut Answer<'_>) -> Result<(), Failure> {
    let mut call = Call::open(target, clock).await?;
    let response = call.send(request(target, Method::POST, "chat/completions", body)).await?;
    let status = response.status();
    let kind = header(&response, CONTENT_TYPE.as_str());
    if !status.is_success() {
        let retry = header(&response, RETRY_AFTER.as_str()).map(|after| format!(" (Retry-After: {after})"));
        let said = call.text(response, LONGEST_ERROR).await;
        return Err(Failure::new(Reason::Status(status.as_u16()), error_of(&said) + &retry.unwrap_or_default()));
    }
    if let Some(kind) = kind.filter(|kind| !kind.trim_start().starts_with("text/event-stream")) {
        return Err(Failure::new(Reason::NotAStream, format!("content-type: {kind}")));
    }
    let mut body = response.into_body();
    let how = loop {
        match call.frame(&mut body).await {
            Some(Ok(bytes)) => answer.read(&bytes, call.last_read.get())?,
            Some(Err(failure)) => break Some(failure),
            None => break None,
        }
        if answer.is_done() {
            let rest = async { while let Some(Ok(_)) = call.frame(&mut body).await {} };
            // Late or broken, the end after `[DONE]` changes no figure.
            let _ = tokio::time::timeout(END_WITHIN, rest).await;
            break None;
        }
    };
    answer.end(how)
}

/// GETs a small JSON answer, e.g. of `/v1/models`; the status, where it is not 2xx.
pub(crate) async fn get_json(target: &Target, endpoint: &str, timeout: Duration) -> Result<serde_json::Value, Failure> {
    let get = async {
        let mut call = Call::open(target, Clock::starting(std::time::Instant::now())).await?;
        let response = call.send(request(target, Method::GET, endpoint, Bytes::new())).await?;
        let status = response.status();
        let said = call.text(response, LONGEST_JSON).await;
        if !status.is_success() {
            return Err(Failure::new(Reason::Status(status.as_u16()), error_of(&said)));
        }
        serde_json::from_slice(&said).map_err(|error| Failure::new(Reason::BadEvent, format!("not JSON: {error}")))
    };
    let late = |_| Failure::new(Reason::Timeout, format!("no answer within {} s", timeout.as_secs_f64()));
    tokio::time::timeout(timeout, get).await.map_err(late)?
}

fn request(target: &Target, method: Method, endpoint: &str, body: Bytes) -> Request<Full<Bytes>> {
    let url = target.url();
    let mut builder = Request::builder()
        .method(&method)
        .uri(url.path(endpoint))
        .header(HOST, url.authority())
        .header(USER_AGENT, concat!("minisgl-loadgen/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    if method == Method::POST {
        builder = builder.header(CONTENT_TYPE, "application/json").header(ACCEPT, "text/event-stream");
    }
    builder.body(Full::new(body)).expect("a URL that was checked, and constants")
}

fn header(response: &Response<Incoming>, name: &str) -> Option<String> {
    Some(String::from_utf8_lossy(response.headers().get(name)?.as_bytes()).into_owned())
}

/// The message of an error's body: OpenAI's, or the text itself.
fn error_of(body: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(json) => super::chunk::error_text(json.get("error").unwrap_or(&json)),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}

type HttpConnection = Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// A connection and what it carries, polled together on one task.
struct Call {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    connection: Option<HttpConnection>,
    last_read: LastRead,
}

impl Call {
    async fn open(target: &Target, clock: Clock) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::new(Reason::Connect(plain(&error)), plain(&error));
        let Link { stream, last_read } = target.connect(clock).await.map_err(failed)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error, true))?;
        Ok(Self { sender, connection: Some(connection), last_read })
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let response = self.sender.send_request(request);
        drive(&mut self.connection, response).await.map_err(|error| broken(&error, true))
    }

    /// The next bytes of a body; `None` at its end.
    async fn frame(&mut self, body: &mut Incoming) -> Option<Result<Bytes, Failure>> {
        loop {
            match drive(&mut self.connection, body.frame()).await? {
                Ok(frame) => {
                    // Trailers are no bytes of it.
                    if let Ok(bytes) = frame.into_data() {
                        return Some(Ok(bytes));
                    }
                }
                Err(error) => return Some(Err(broken(&error, false))),
            }
        }
    }

    /// The beginning of a body.
    async fn text(&mut self, response: Response<Incoming>, most: usize) -> Vec<u8> {
        let (mut body, mut text) = (response.into_body(), Vec::new());
        while let Some(Ok(bytes)) = self.frame(&mut body).await {
            text.extend_from_slice(&bytes[..bytes.len().min(most - text.len())]);
            if text.len() == most {
                break;
            }
        }
        text
    }
}

/// Awaits `wanted` while polling the connection that it comes from. The connection hands over one read's bytes and then
/// waits for them to be taken, so that its last read is the one that `wanted` came with.
async fn drive<T>(connection: &mut Option<HttpConnection>, wanted: impl Future<Output = T>) -> T {
    let mut wanted = pin!(wanted);
    poll_fn(|cx| {
        if let Poll::Ready(value) = wanted.as_mut().poll(cx) {
            return Poll::Ready(value);
        }
        if let Some(running) = connection
            && Pin::new(running).poll(cx).is_ready()
        {
            // How it ended, `wanted` learns from hyper.
            *connection = None;
        }
        wanted.as_mut().poll(cx)
    })
    .await
}

/// What hyper's error is to a user.
fn broken(error: &hyper::Error, before_response: bool) -> Failure {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            if matches!(io.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) {
                return Failure::new(Reason::Reset, io);
            }
            return Failure::new(if before_response { Reason::NoResponse } else { Reason::EndedEarly }, io);
        }
        source = cause.source();
    }
    Failure::new(if before_response { Reason::NoResponse } else { Reason::EndedEarly }, error)
}
