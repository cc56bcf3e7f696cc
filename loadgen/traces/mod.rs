//! Traces: who asked how much and when, read from untrusted files.
//!
//! Owns the formats, their detection from content and the naming of what is wrong where. Knows nothing of prompts,
//! servers or scales: a trace is its own times and lengths.
//!
//! A file is read line by line and only what is replayed is kept, so that its size is bounded by nothing but the disk;
//! a line is at most [`LONGEST_LINE`].
mod blocks;
mod fields;
pub(crate) mod public;
mod source;
mod types;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

pub use blocks::block_ranges;
pub use types::{Conversation, Message, Trace, TraceFormat, TracePrompt, TraceRequest, Turn};

use fields::Fields;
use source::Hashed;

/// Longest line that is read: a prompt of a million tokens in 16-token blocks needs half a megabyte.
pub const LONGEST_LINE: usize = 16 << 20;

/// Latest time in a trace: beyond any count of seconds since 1970 that a recorder could have written.
const LATEST_S: f64 = 1e10;

/// A trace that cannot be replayed, and where it is wrong.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be opened or read.
    #[error("cannot read the trace {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not what its format says.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong, with the field's name.
        problem: String,
    },
    /// There is no request in it.
    #[error("{file}: no request in it: a trace has one JSON object a line")]
    Empty {
        /// The file.
        file: String,
    },
}

/// Reads the trace at `path`; with a limit, only as many requests, and nothing beyond them is looked at.
pub fn read_file(path: &Path, limit: Option<usize>) -> Result<Trace, TraceError> {
    let name = path.display().to_string();
    let io = |source| TraceError::Io { file: name.clone(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(io(std::io::Error::other("it is a directory")));
    }
    read(&name, file, limit)
}

/// Reads a trace called `name` in messages.
pub fn read(name: &str, input: impl Read, limit: Option<usize>) -> Result<Trace, TraceError> {
    let mut hashed = Hashed::new(input);
    let (format, requests) = lines(name, BufReader::with_capacity(1 << 16, &mut hashed), limit)?;
    let sha256 = hashed.finish().map_err(|source| TraceError::Io { file: name.to_owned(), source })?;
    let block_size = Some(match format {
        TraceFormat::QwenBailian => 16,
        TraceFormat::Mooncake => 512,
    });
    Ok(Trace { name: name.to_owned(), format, sha256, block_size, timed: true, requests: types::sorted(requests) })
}

fn lines(
    name: &str,
    mut input: impl BufRead,
    limit: Option<usize>,
) -> Result<(TraceFormat, Vec<TraceRequest>), TraceError> {
    let (mut format, mut requests) = (None, Vec::new());
    let mut chats = Chats::default();
    let mut line = Vec::new();
    for number in 1.. {
        if limit.is_some_and(|limit| requests.len() >= limit) {
            break;
        }
        let wrong = |problem| TraceError::Line { file: name.to_owned(), line: number, problem };
        line.clear();
        let taken = (&mut input).take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut line);
        if taken.map_err(|source| TraceError::Io { file: name.to_owned(), source })? == 0 {
            break;
        }
        if line.len() > LONGEST_LINE {
            return Err(wrong(format!("the line is longer than {LONGEST_LINE} bytes: is this a trace?")));
        }
        let mut text = line.as_slice();
        if number == 1 {
            text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let fields = Fields::parse(text).map_err(|problem| match format {
            None => wrong(problem + "; a trace has one JSON object a line, in Qwen-Bailian's form or Mooncake's"),
            Some(_) => wrong(problem),
        })?;
        let format = match format {
            Some(format) => format,
            None => *format.insert(detect(&fields).map_err(wrong)?),
        };
        let request = match format {
            TraceFormat::QwenBailian => qwen_bailian(&fields, &mut chats),
            TraceFormat::Mooncake => mooncake(&fields),
        };
        requests.push(request.map_err(wrong)?);
    }
    let Some(format) = format else {
        return Err(TraceError::Empty { file: name.to_owned() });
    };
    chats.link(&mut requests);
    Ok((format, requests))
}

/// Which chat is whose parent: a parent may stand behind its child in the file.
#[derive(Default)]
struct Chats {
    line_of: HashMap<u64, usize>,
    parents: Vec<Option<u64>>,
}

impl Chats {
    fn add(&mut self, chat: u64, parent: Option<u64>) {
        self.line_of.insert(chat, self.parents.len());
        self.parents.push(parent);
    }

    fn link(self, requests: &mut [TraceRequest]) {
        for (request, parent) in requests.iter_mut().zip(&self.parents) {
            if let Some(turn) = &mut request.session {
                turn.parent = parent.and_then(|parent| self.line_of.get(&parent).copied());
            }
        }
    }
}

/// Which format the first line shows.
fn detect(fields: &Fields) -> Result<TraceFormat, String> {
    if fields.has("chat_id") || fields.has("parent_chat_id") {
        Ok(TraceFormat::QwenBailian)
    } else if fields.has("hash_ids") && fields.has("timestamp") {
        Ok(TraceFormat::Mooncake)
    } else {
        Err(format!(
            "neither of the formats that can be replayed: a Qwen-Bailian line has `chat_id`, `parent_chat_id`, \
             `timestamp`, `input_length`, `output_length`, `type`, `turn` and `hash_ids`; a Mooncake line has \
             `timestamp`, `input_length`, `output_length` and `hash_ids`; this one has {}",
            fields.names()
        ))
    }
}

fn qwen_bailian(fields: &Fields, chats: &mut Chats) -> Result<TraceRequest, String> {
    let chat = fields.whole("chat_id")?;
    let parent = fields.whole_or_minus_one("parent_chat_id")?;
    fields.text("type")?;
    let number = u32::try_from(fields.whole("turn")?).unwrap_or(u32::MAX);
    let mut request = request(fields, fields.time("timestamp", "seconds", LATEST_S)?)?;
    request.session = Some(Turn { parent: None, number, delay_s: None });
    chats.add(chat, parent);
    Ok(request)
}

fn mooncake(fields: &Fields) -> Result<TraceRequest, String> {
    request(fields, fields.time("timestamp", "milliseconds", LATEST_S * 1e3)? / 1e3)
}

fn request(fields: &Fields, timestamp_s: f64) -> Result<TraceRequest, String> {
    let mut request =
        TraceRequest::of_lengths(timestamp_s, fields.length("input_length")?, fields.length("output_length")?);
    request.hash_ids = fields.hash_ids()?;
    Ok(request)
}

#[cfg(test)]
mod tests;
