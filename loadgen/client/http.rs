//! HTTP/1.1 responses, read as bytes: the head by `httparse`, and where the body ends.
//!
//! Owns framing (length, chunks, close) and what of a head matters here. Knows nothing of events, sockets or time.
//! A body's bytes are handed on as slices of what was read: nothing is copied or kept.

/// Longest head, and longest line of a chunk's size.
const LONGEST_HEAD: usize = 64 << 10;
const LONGEST_SIZE_LINE: usize = 4 << 10;
const MOST_HEADERS: usize = 100;

/// What of a response's head matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) retry_after: Option<String>,
}

/// A response, read as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Response {
    /// Bytes of a head that is not whole yet.
    pending: Vec<u8>,
    head: Option<Head>,
    framing: Framing,
    /// The server will take another request on this connection.
    keeps_alive: bool,
    /// Bytes came after the body.
    has_surplus: bool,
}

/// Where the body ends.
#[derive(Debug, Default)]
enum Framing {
    /// The head has not said yet, or the connection's end is the body's.
    #[default]
    UntilClose,
    /// After so many bytes more.
    Length(u64),
    Chunked(Chunked),
    /// Here.
    Ended,
}

/// Within chunked transfer coding: <https://www.rfc-editor.org/rfc/rfc9112#section-7.1>.
#[derive(Debug)]
enum Chunked {
    /// In a line with a chunk's size: the digits so far, and whether they are over.
    Size {
        line: Vec<u8>,
    },
    Data {
        left: u64,
    },
    /// In the line end after a chunk.
    DataEnd,
    /// In the lines after the last chunk; how many bytes this one has.
    Trailer {
        length: usize,
    },
}

/// What is wrong with a response.
pub(crate) type Problem = &'static str;

impl Response {
    /// The head, once it is whole.
    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// See `Exchange::touch`.
    pub(super) fn touch(&self) -> u64 {
        self.has_ended() as u64 + self.head.as_ref().map_or(0, |head| u64::from(head.status))
    }

    /// Whether anything came.
    pub(crate) fn has_begun(&self) -> bool {
        self.head.is_some() || !self.pending.is_empty()
    }

    /// Whether the body is whole.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.framing, Framing::Ended) && self.head.is_some()
    }

    /// Whether another request may follow on the connection: the body is whole, and the server keeps it open.
    pub(crate) fn may_be_followed(&self) -> bool {
        self.has_ended() && self.keeps_alive && !self.has_surplus
    }

    /// Whether the connection's end here is the body's.
    pub(crate) fn may_end_by_close(&self) -> bool {
        self.head.is_some() && matches!(self.framing, Framing::UntilClose | Framing::Ended)
    }

    /// Takes the bytes of a read until the head is whole: how many of them belong to it.
    pub(crate) fn take_head(&mut self, bytes: &[u8]) -> Result<usize, Problem> {
        let mut taken = 0;
        while self.head.is_none() && taken < bytes.len() {
            let before = self.pending.len();
            let room = LONGEST_HEAD.checked_sub(before).filter(|&room| room > 0).ok_or("its head does not end")?;
            let more = &bytes[taken..bytes.len().min(taken + room)];
            self.pending.extend_from_slice(more);
            let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
            let mut parsed = httparse::Response::new(&mut headers);
            match parsed.parse(&self.pending).map_err(|_| "what came is not HTTP/1.1")? {
                httparse::Status::Partial => taken += more.len(),
                httparse::Status::Complete(length) => {
                    taken += length - before;
                    let status = parsed.code.ok_or("its head has no status")?;
                    // 1xx comes before the response itself.
                    if !(100..200).contains(&status) {
                        self.framing = framing(&parsed)?;
                        self.keeps_alive = parsed.version == Some(1) && !says_close(parsed.headers);
                        self.head = Some(head(status, parsed.headers));
                    }
                    self.pending.clear();
                }
            }
        }
        Ok(taken)
    }

    /// Takes the bytes of a read after the head, and hands on those of the body.
    pub(crate) fn take_body<E: From<Problem>>(
        &mut self,
        mut bytes: &[u8],
        mut on_body: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            match &mut self.framing {
                Framing::Ended => {
                    self.has_surplus = true; // nothing was asked for that could follow
                    return Ok(());
                }
                Framing::UntilClose => return on_body(bytes),
                Framing::Length(left) => {
                    let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= n as u64;
                    if *left == 0 {
                        self.framing = Framing::Ended;
                    }
                    on_body(&bytes[..n])?;
                    bytes = &bytes[n..];
                }
                Framing::Chunked(chunked) => match chunked.take(bytes)? {
                    Piece::Data(n) => {
                        on_body(&bytes[..n])?;
                        bytes = &bytes[n..];
                    }
                    Piece::Framing(n) => bytes = &bytes[n..],
                    Piece::End(n) => {
                        self.framing = Framing::Ended;
                        bytes = &bytes[n..];
                    }
                },
            }
        }
        Ok(())
    }
}

/// What the next bytes of a chunked body are.
enum Piece {
    Data(usize),
    Framing(usize),
    End(usize),
}

impl Chunked {
    fn take(&mut self, bytes: &[u8]) -> Result<Piece, Problem> {
        match self {
            Self::Data { left } => {
                let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                Ok(Piece::Data(n))
            }
            Self::Size { line } => {
                let end = memchr::memchr(b'\n', bytes);
                let part = &bytes[..end.unwrap_or(bytes.len())];
                if line.len() + part.len() > LONGEST_SIZE_LINE {
                    return Err("the line of a chunk's size does not end");
                }
                let Some(end) = end else {
                    line.extend_from_slice(part);
                    return Ok(Piece::Framing(bytes.len()));
                };
                let size = match line.is_empty() {
                    true => size(part)?,
                    false => size(&[line.as_slice(), part].concat())?,
                };
                *self = if size == 0 { Self::Trailer { length: 0 } } else { Self::Data { left: size } };
                Ok(Piece::Framing(end + 1))
            }
            Self::DataEnd => match bytes[0] {
                b'\r' => Ok(Piece::Framing(1)),
                b'\n' => {
                    *self = Self::Size { line: Vec::new() };
                    Ok(Piece::Framing(1))
                }
                _ => Err("a chunk is longer than its size"),
            },
            Self::Trailer { length } => match bytes[0] {
                b'\n' if *length == 0 => Ok(Piece::End(1)),
                b'\n' => {
                    *length = 0;
                    Ok(Piece::Framing(1))
                }
                b'\r' => Ok(Piece::Framing(1)),
                _ => {
                    *length += 1;
                    if *length > LONGEST_SIZE_LINE { Err("a trailer does not end") } else { Ok(Piece::Framing(1)) }
                }
            },
        }
    }
}

/// A chunk's size; an extension may follow it.
fn size(line: &[u8]) -> Result<u64, Problem> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    let text = std::str::from_utf8(&line[..digits]).unwrap_or_default();
    let size = u64::from_str_radix(text, 16).ok().filter(|_| rest.is_empty() || rest[0] == b';');
    size.ok_or("a chunk's size is no hexadecimal number")
}

fn framing(response: &httparse::Response<'_, '_>) -> Result<Framing, Problem> {
    if let Some(coding) = values(response.headers, "transfer-encoding").next_back() {
        return match coding.as_str() {
            "chunked" => Ok(Framing::Chunked(Chunked::Size { line: Vec::new() })),
            _ => Err("its transfer-encoding is not chunked"),
        };
    }
    match values(response.headers, "content-length").next() {
        Some(length) => match length.parse() {
            Ok(0) => Ok(Framing::Ended),
            Ok(length) => Ok(Framing::Length(length)),
            Err(_) => Err("its content-length is no number"),
        },
        None if matches!(response.code, Some(204 | 304)) => Ok(Framing::Ended),
        None => Ok(Framing::UntilClose),
    }
}

/// Whether the connection is closed behind the response: <https://www.rfc-editor.org/rfc/rfc9112#section-9.3>.
fn says_close(headers: &[httparse::Header<'_>]) -> bool {
    values(headers, "connection").any(|options| options.split(',').any(|option| option.trim() == "close"))
}

/// Values of the headers of a name, in lower case.
fn values(headers: &[httparse::Header<'_>], name: &'static str) -> impl DoubleEndedIterator<Item = String> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| std::str::from_utf8(header.value).unwrap_or("").trim().to_ascii_lowercase())
}

fn head(status: u16, headers: &[httparse::Header<'_>]) -> Head {
    let text = |name: &str| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(header.value).into_owned())
    };
    Head { status, content_type: text("content-type"), retry_after: text("retry-after") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Head and body of a response that arrives in these pieces, and whether it is whole.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Option<Head>, Vec<u8>, bool), Problem> {
        let (mut response, mut body) = (Response::default(), Vec::new());
        for piece in pieces {
            let taken = response.take_head(piece)?;
            response.take_body(&piece[taken..], |bytes| {
                body.extend_from_slice(bytes);
                Ok::<_, Problem>(())
            })?;
        }
        Ok((response.head().cloned(), body, response.has_ended()))
    }

    const CHUNKED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\nsurplus";

    #[test]
    fn bodies_end_where_they_say() {
        let (head, body, ended) = read([CHUNKED]).unwrap();
        let head = head.unwrap();
        assert_eq!((head.status, head.content_type.as_deref()), (200, Some("text/event-stream")));
        assert_eq!((body.as_slice(), ended), (&b"hello!0123456789"[..], true));
        let length = b"HTTP/1.1 429 Too Many\r\nretry-after: 3\r\ncontent-length: 4\r\n\r\nslow down";
        let (head, body, ended) = read([&length[..]]).unwrap();
        assert_eq!((head.unwrap().retry_after.as_deref(), body.as_slice(), ended), (Some("3"), &b"slow"[..], true));
        let close = read([&b"HTTP/1.0 200 OK\r\n\r\nall of it"[..]]).unwrap();
        assert_eq!((close.1.as_slice(), close.2), (&b"all of it"[..], false));
        let cut = &CHUNKED[..CHUNKED.len() - 40];
        assert!(!read([cut]).unwrap().2);
    }

    #[test]
    fn a_request_may_follow_where_both_sides_know_the_end() {
        for (response, may) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nx", false),
            ("HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\na", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", false),
            ("HTTP/1.1 200 OK\r\n\r\na", false),
        ] {
            let mut read = Response::default();
            let taken = read.take_head(response.as_bytes()).unwrap();
            read.take_body(&response.as_bytes()[taken..], |_| Ok::<_, Problem>(())).unwrap();
            assert_eq!(read.may_be_followed(), may, "{response}");
        }
    }

    #[test]
    fn what_is_no_response_is_refused_within_bounds() {
        assert!(read([&b"SSH-2.0-x\r\n"[..]]).is_err());
        assert!(read([&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"[..]]).is_err());
        assert!(read([&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n"[..]]).is_err());
        assert!(read([&b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n"[..]]).is_err());
        assert!(read([&b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"[..]]).is_err());
        let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'y'; 1 << 17]].concat();
        assert!(read(endless.chunks(1000)).is_err());
        let endless = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice(), &[b'0'; 1 << 14]].concat();
        assert!(read(endless.chunks(1000)).is_err());
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(cuts in prop::collection::vec(0usize..CHUNKED.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            cuts.push(CHUNKED.len());
            let mut from = 0;
            let pieces: Vec<&[u8]> = cuts.iter().map(|&to| &CHUNKED[std::mem::replace(&mut from, to)..to]).collect();
            prop_assert_eq!(read(pieces).unwrap(), read([CHUNKED]).unwrap());
            prop_assert_eq!(read(CHUNKED.chunks(1)).unwrap(), read([CHUNKED]).unwrap());
        }

        #[test]
        fn noise_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), chunked: bool) {
            let start: &[u8] = if chunked { b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" } else { b"" };
            let _ = read([start, &bytes].concat().chunks(7));
        }
    }
}
