//! An HTTP client that sees the bytes: one request a connection, the body as the chunks that came.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

/// An answer, as far as its head; the body is still to be read.
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
}

/// Sends these bytes and reads the answer's head.
pub fn raw(address: SocketAddr, request: &[u8]) -> Reply {
    let mut socket = TcpStream::connect(address).expect("the server listens");
    socket.write_all(request).expect("the request is taken");
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status line");
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("a status in {line:?}")).parse().expect("a number");
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    Reply { status, headers, reader }
}

/// A request without a body.
pub fn ask(address: SocketAddr, method: &str, path: &str) -> Reply {
    raw(address, format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes())
}

/// A POST of any text.
pub fn post_text(address: SocketAddr, path: &str, body: &str) -> Reply {
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    raw(address, (head + body).as_bytes())
}

/// A POST of JSON.
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    post_text(address, path, &body.to_string())
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The next chunk of a chunked body, or nothing at its end.
    pub fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.reader.read_line(&mut size).expect("a chunk's size");
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or_else(|_| panic!("a size, not {size:?}"));
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).expect("the chunk");
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).expect("UTF-8"))
    }

    /// The whole body.
    pub fn text(mut self) -> String {
        if self.header("transfer-encoding") == Some("chunked") {
            return std::iter::from_fn(|| self.chunk()).collect();
        }
        let mut text = String::new();
        self.reader.read_to_string(&mut text).expect("a body");
        text
    }

    pub fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The payloads of an event stream. Each event must be one `data:` line and a blank line.
    pub fn events(self) -> Vec<String> {
        assert_eq!(self.status, 200);
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let text = self.text();
        let frames = text.strip_suffix("\n\n").unwrap_or_else(|| panic!("a blank line at the end of {text:?}"));
        frames.split("\n\n").map(|frame| frame.strip_prefix("data: ").expect("a data line").to_owned()).collect()
    }

    /// The chunks of an event stream that ends in `[DONE]`.
    pub fn chunks(self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "after {events:?}");
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}
