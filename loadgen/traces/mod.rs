//! Traces: who asked how much and when, read from untrusted files.
//!
//! Owns the formats, their detection from content and the naming of what is wrong where. Knows nothing of prompts,
//! servers or scales: a trace is its own times and lengths.
//!
//! A file is read line by line and only what is replayed is kept, so that its size is bounded by nothing but the disk;
//! a line is at most [`LONGEST_LINE`].
mod fields;
pub(crate) mod public;

use std::fmt;
use std::io::{BufRead, Read};
use std::path::Path;

use fields::Fields;

/// Longest line that is read: a prompt of a million tokens in 16-token blocks needs half a megabyte.
pub const LONGEST_LINE: usize = 16 << 20;

/// Latest time in a trace: beyond any count of seconds since 1970 that a recorder could have written.
const LATEST_S: f64 = 1e10;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceRequest {
    /// When it arrived, in seconds of the trace's own clock.
    pub timestamp_s: f64,
    /// Tokens of its prompt; 0 where the trace says so.
    pub input_length: usize,
    /// Tokens of its answer; 0 where the trace says so.
    pub output_length: usize,
}

/// A trace's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// Alibaba's Qwen-Bailian usage traces: JSONL, seconds, chats linked by `parent_chat_id`, 16-token blocks.
    QwenBailian,
    /// Moonshot's Mooncake traces: JSONL, milliseconds, 512-token blocks.
    Mooncake,
}

impl fmt::Display for TraceFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QwenBailian => "Qwen-Bailian JSONL",
            Self::Mooncake => "Mooncake JSONL",
        })
    }
}

/// A trace that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The file's name, for messages.
    pub name: String,
    /// What its content showed it to be.
    pub format: TraceFormat,
    /// Its requests by time; those of one time in the file's order. Never empty.
    pub requests: Vec<TraceRequest>,
}

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
    read(&name, std::io::BufReader::with_capacity(1 << 16, file), limit)
}

/// Reads a trace called `name` in messages.
pub fn read(name: &str, mut input: impl BufRead, limit: Option<usize>) -> Result<Trace, TraceError> {
    let (mut format, mut requests) = (None, Vec::new());
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
            TraceFormat::QwenBailian => qwen_bailian(&fields),
            TraceFormat::Mooncake => mooncake(&fields),
        };
        requests.push(request.map_err(wrong)?);
    }
    let Some(format) = format else {
        return Err(TraceError::Empty { file: name.to_owned() });
    };
    requests.sort_by(|a, b| a.timestamp_s.total_cmp(&b.timestamp_s));
    Ok(Trace { name: name.to_owned(), format, requests })
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

fn qwen_bailian(fields: &Fields) -> Result<TraceRequest, String> {
    fields.whole("chat_id", 0)?;
    fields.whole("parent_chat_id", -1)?;
    fields.text("type")?;
    fields.whole("turn", 0)?;
    fields.hash_ids()?;
    request(fields, fields.time("timestamp", "seconds", LATEST_S)?)
}

fn mooncake(fields: &Fields) -> Result<TraceRequest, String> {
    fields.hash_ids()?;
    request(fields, fields.time("timestamp", "milliseconds", LATEST_S * 1e3)? / 1e3)
}

fn request(fields: &Fields, timestamp_s: f64) -> Result<TraceRequest, String> {
    Ok(TraceRequest {
        timestamp_s,
        input_length: fields.length("input_length")?,
        output_length: fields.length("output_length")?,
    })
}

#[cfg(test)]
mod tests;
