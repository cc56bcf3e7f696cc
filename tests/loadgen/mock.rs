//! A server on raw sockets that answers each request as a test says, well or badly.
//!
//! Owns the wire. Knows nothing of the load generator: what is right is the test's.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::tiny_chat;

/// What becomes of one request.
pub enum Act {
    /// A stream that ends well.
    Answer(Answer),
    /// The connection is reset before a byte is answered.
    Reset,
    /// Nothing comes until the client leaves.
    Stall,
    /// A token and half an event, then the end of the connection.
    HalfEvent,
    /// This status, these header lines (each with its line end) and this body.
    Status(u16, &'static str, Value),
}

/// A stream that ends well.
pub struct Answer {
    /// Before the first token.
    pub ttft: Duration,
    /// Between tokens.
    pub itl: Duration,
    /// Tokens sent; `None` is as many as the request asks for.
    pub tokens: Option<u64>,
    /// `usage.prompt_tokens`.
    pub prompt_tokens: u64,
    /// What `usage.completion_tokens` says beyond the tokens sent.
    pub overcount: u64,
    /// Each token's text.
    pub text: String,
}

impl Default for Answer {
    fn default() -> Self {
        let itl = Duration::from_millis(2);
        Self { ttft: itl, itl, tokens: None, prompt_tokens: 30, overcount: 0, text: "a ".to_owned() }
    }
}

/// The server; its threads end with the test binary.
pub struct Mock {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Mock {
    /// Answers each POST by `act`, which is told its number in the order of arrival and its body.
    pub fn start(act: impl Fn(usize, &Value) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let bodies = Arc::<Mutex<Vec<Value>>>::default();
        let (seen, act) = (bodies.clone(), Arc::new(act));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, act) = (seen.clone(), act.clone());
                // A client that leaves is an error here and nobody's loss.
                thread::spawn(move || serve(stream, &seen, &*act));
            }
        });
        Self { url, bodies }
    }

    /// The bodies of the POSTs so far, in the order of their arrival.
    pub fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().expect("no test thread panicked").clone()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Value>>, act: &dyn Fn(usize, &Value) -> Act) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    while reader.read_line(&mut head)? > 2 {
        let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    if !head.starts_with("POST ") {
        let models = json!({"object": "list", "data": [
            {"id": "m", "object": "model", "root": tiny_chat(), "max_model_len": 2048}]});
        let (status, body) = if head.starts_with("GET /v1/models ") { (200, models) } else { (404, json!({})) };
        return whole(&mut stream, status, "", &body);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).expect("the body is JSON");
    let number = {
        let mut seen = seen.lock().expect("no test thread panicked");
        seen.push(body.clone());
        seen.len() - 1
    };
    match act(number, &body) {
        Act::Answer(answer) => answer.send(&mut stream, &body),
        Act::Reset => reset(&stream),
        Act::Stall => reader.read(&mut [0]).map(drop),
        Act::HalfEvent => {
            stream.write_all(STREAM_HEAD.as_bytes())?;
            event(&mut stream, &content("a"))?;
            stream.write_all(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"cont")
        }
        Act::Status(status, headers, body) => whole(&mut stream, status, headers, &body),
    }
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

fn whole(stream: &mut TcpStream, status: u16, headers: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    stream.write_all(
        format!(
            "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}content-length: \
             {length}\r\n\r\n{body}"
        )
        .as_bytes(),
    )
}

fn content(text: &str) -> Value {
    json!({"id": "x", "object": "chat.completion.chunk", "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
}

fn event(stream: &mut TcpStream, data: &Value) -> std::io::Result<()> {
    stream.write_all(format!("data: {data}\n\n").as_bytes())
}

/// Closes with a reset: a close that does not linger discards what the peer was to be told of a clean end.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

impl Answer {
    fn send(&self, stream: &mut TcpStream, body: &Value) -> std::io::Result<()> {
        let asked = ["max_tokens", "max_completion_tokens"].iter().find_map(|name| body[name].as_u64());
        let tokens = self.tokens.or(asked).expect("the request says how many tokens");
        stream.write_all(STREAM_HEAD.as_bytes())?;
        thread::sleep(self.ttft);
        for nth in 0..tokens {
            if nth > 0 {
                thread::sleep(self.itl);
            }
            event(stream, &content(&self.text))?;
        }
        event(stream, &json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))?;
        let completion = tokens + self.overcount;
        event(
            stream,
            &json!({"choices": [], "usage": {"prompt_tokens": self.prompt_tokens, "completion_tokens": completion,
                "total_tokens": self.prompt_tokens + completion}}),
        )?;
        stream.write_all(b"data: [DONE]\n\n")
    }
}
