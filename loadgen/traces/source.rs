//! A trace's bytes: hashed as they are read, unpacked if they are packed, cut into records of bounded length.
//!
//! Owns the one pass over the file, and what a line is. Knows nothing of what a record means.
use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest, Sha256};

/// Longest line or array element that is read: a prompt of a million tokens in 16-token blocks needs half a megabyte.
pub const LONGEST_LINE: usize = 16 << 20;

const BUFFER: usize = 1 << 16;

/// A reader whose every byte is hashed.
pub(super) struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashed<R> {
    /// Reads `inner`.
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// The SHA-256 of the whole, once what nobody has read yet is read as well.
    pub(super) fn finish(mut self) -> io::Result<[u8; 32]> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hash.finalize().into())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// Text, whatever it came from.
pub(crate) type Text<'a> = Box<dyn BufRead + 'a>;

/// The text in `input`, unpacked if its first bytes are gzip's or zstd's: as a stream, so that a file which unpacks to more
/// than any disk holds costs time and no memory. zstd's own limit on its window (128 MB) stands.
pub(crate) fn unpacked<'a>(input: impl Read + 'a) -> io::Result<Text<'a>> {
    let (magic, whole) = begins::<4>(Box::new(BufReader::with_capacity(BUFFER, input)))?;
    let text: Text = match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            Box::new(BufReader::with_capacity(BUFFER, zstd::stream::read::Decoder::with_buffer(whole)?))
        }
        _ => whole,
    };
    let (mark, whole) = begins::<3>(text)?;
    if mark != b"\xef\xbb\xbf" {
        return Ok(whole);
    }
    let mut past_mark = whole;
    io::copy(&mut (&mut past_mark).take(3), &mut io::sink())?;
    Ok(past_mark)
}

/// The first `N` bytes, or as many as there are, and the whole. A pipe may give them one at a time.
fn begins<'a, const N: usize>(mut text: Text<'a>) -> io::Result<(Vec<u8>, Text<'a>)> {
    let mut first = Vec::with_capacity(N);
    (&mut text).take(N as u64).read_to_end(&mut first)?;
    Ok((first.clone(), Box::new(io::Cursor::new(first).chain(text))))
}

/// Why there is no next record.
pub(crate) enum Broken {
    /// The bytes cannot be read.
    Io(io::Error),
    /// They are no record, at this line.
    Line(usize, String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// How records follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One a line; JSON's objects.
    Objects,
    /// The elements of a JSON array.
    Array,
    /// One a line; no JSON.
    Lines,
}

/// A text's records, one at a time, none longer than [`LONGEST_LINE`].
pub(crate) struct Records<'a> {
    input: Text<'a>,
    shape: Shape,
    /// The line that is read next, from 1.
    line: usize,
    record: Vec<u8>,
    /// Elements of the array so far.
    elements: usize,
    ended: bool,
}

impl<'a> Records<'a> {
    /// Looks at the first character that is not blank, which tells the shape.
    pub(crate) fn new(mut input: Text<'a>) -> io::Result<Self> {
        let mut line = 1;
        let shape = match next_character(&mut input, &mut line)? {
            Some(b'[') => {
                input.consume(1);
                Shape::Array
            }
            Some(b'{') => Shape::Objects,
            _ => Shape::Lines,
        };
        Ok(Self { input, shape, line, record: Vec::new(), elements: 0, ended: false })
    }

    /// How the records follow each other.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The next record that is not blank, and the line on which it begins.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, &[u8])>, Broken> {
        self.record.clear();
        match self.shape {
            Shape::Objects | Shape::Lines => self.next_line(),
            Shape::Array => self.next_element(),
        }
    }

    fn next_line(&mut self) -> Result<Option<(usize, &[u8])>, Broken> {
        loop {
            self.record.clear();
            let taken = (&mut self.input).take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut self.record)?;
            if taken == 0 {
                return Ok(None);
            }
            if taken > LONGEST_LINE {
                return Err(self.too_long("line", self.line));
            }
            self.line += 1;
            if !self.record.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some((self.line - 1, &self.record)));
            }
        }
    }

    fn next_element(&mut self) -> Result<Option<(usize, &[u8])>, Broken> {
        if self.ended {
            return Ok(None);
        }
        let broken = |line, problem: &str| Err(Broken::Line(line, problem.to_owned()));
        let mut next = next_character(&mut self.input, &mut self.line)?;
        if self.elements > 0 && next == Some(b',') {
            self.input.consume(1);
            next = next_character(&mut self.input, &mut self.line)?;
            if next == Some(b']') {
                return broken(self.line, "a comma before the array's end");
            }
        } else if next == Some(b']') {
            self.input.consume(1);
            self.ended = true;
            return match next_character(&mut self.input, &mut self.line)? {
                None => Ok(None),
                Some(_) => broken(self.line, "text behind the array's end"),
            };
        } else if self.elements > 0 && next.is_some() {
            return broken(self.line, "no comma between two elements of the array");
        }
        if next.is_none() {
            return broken(self.line, "the array does not end: is the file cut short?");
        }
        self.elements += 1;
        let begins = self.line;
        self.take_element(begins)?;
        Ok(Some((begins, &self.record)))
    }

    /// Takes bytes up to the comma or bracket behind the element; whether they are JSON is for others to say.
    fn take_element(&mut self, begins: usize) -> Result<(), Broken> {
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        loop {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                let problem = "the element that begins here does not end: is the file cut short?";
                return Err(Broken::Line(begins, problem.to_owned()));
            }
            let mut end = None;
            for (at, &byte) in bytes.iter().enumerate() {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    b'\n' => self.line += 1,
                    _ if in_string => {}
                    b',' | b']' if depth == 0 => {
                        end = Some(at);
                        break;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            let taken = end.unwrap_or(bytes.len());
            self.record.extend_from_slice(&bytes[..taken]);
            self.input.consume(taken);
            if self.record.len() > LONGEST_LINE {
                return Err(self.too_long("element", begins));
            }
            if end.is_some() {
                return Ok(());
            }
        }
    }

    fn too_long(&self, what: &str, line: usize) -> Broken {
        Broken::Line(line, format!("the {what} is longer than {LONGEST_LINE} bytes: is this a trace?"))
    }
}

/// The next character that is not blank; it is not consumed.
fn next_character(input: &mut impl BufRead, line: &mut usize) -> io::Result<Option<u8>> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let blank = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        *line += bytes[..blank].iter().filter(|&&byte| byte == b'\n').count();
        let next = bytes.get(blank).copied();
        input.consume(blank);
        if next.is_some() {
            return Ok(next);
        }
    }
}
