//! Traces: who asked how much and when, read from untrusted files.
//!
//! Owns the formats, their detection from content and the naming of what is wrong where. Knows nothing of prompts,
//! servers or scales: a trace is its own times and lengths.
//!
//! A file is read record by record, unpacked on the way, and only what is replayed is kept, so that its size is bounded by
//! nothing but the disk; a record is at most [`LONGEST_LINE`] bytes. Nothing in here uses the rest of this crate, so that
//! `fuzz/` compiles it alone.
mod aiperf;
mod blocks;
mod fields;
mod json;
mod prefix;
mod sharegpt;
mod source;
mod tables;
mod types;

use std::io::Read;
use std::path::Path;

pub use blocks::block_ranges;
pub use prefix::{IdealHits, PrefixOptions, ideal_hits, ideal_hits_of};
pub use source::LONGEST_LINE;
pub use types::{Conversation, Message, Trace, TraceFormat, TracePrompt, TraceRequest, Turn};

pub(crate) use fields::Fields;
use json::{Found, Objects};
pub(crate) use source::{Broken, Records, unpacked};
use source::{Hashed, Shape};
use tables::Table;

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
    #[error("{file}: no request in it{why}")]
    Empty {
        /// The file.
        file: String,
        /// What there is instead.
        why: String,
    },
}

impl TraceError {
    fn of(file: &str, broken: Broken) -> Self {
        let file = file.to_owned();
        match broken {
            Broken::Io(source) => Self::Io { file, source },
            Broken::Line(line, problem) => Self::Line { file, line, problem },
        }
    }
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
    let mut found = found(&mut hashed, limit.unwrap_or(usize::MAX)).map_err(|broken| TraceError::of(name, broken))?;
    let sha256 = hashed.finish().map_err(|source| TraceError::Io { file: name.to_owned(), source })?;
    // A chat may hold more turns than are wanted.
    found.requests.truncate(limit.unwrap_or(usize::MAX));
    if found.requests.is_empty() {
        let why = match found.skipped {
            0 => format!("; {}", json::FORMATS),
            n => format!(": in none of its {n} chats was a question answered"),
        };
        return Err(TraceError::Empty { file: name.to_owned(), why });
    }
    let block_size = match found.format {
        TraceFormat::QwenBailian => Some(16),
        TraceFormat::Mooncake => Some(512),
        _ => found.requests.iter().any(|request| !request.hash_ids.is_empty()).then_some(512),
    };
    let Found { format, timed, skipped, requests } = found;
    let requests = types::sorted(requests);
    Ok(Trace { name: name.to_owned(), format, sha256, block_size, timed, skipped, requests })
}

/// Reads records until there are `limit` requests.
fn found(input: impl Read, limit: usize) -> Result<Found, Broken> {
    let mut records = Records::new(source::unpacked(input)?)?;
    if records.shape() == Shape::Lines {
        return table(records, limit);
    }
    let mut objects: Option<Objects> = None;
    while objects.as_ref().is_none_or(|objects| objects.len() < limit) {
        let Some((line, record)) = records.next()? else { break };
        let wrong = |problem| Broken::Line(line, problem);
        let fields = Fields::parse(record).map_err(wrong)?;
        let objects = match &mut objects {
            Some(objects) => objects,
            None => objects.insert(Objects::detect(&fields).map_err(wrong)?),
        };
        objects.take(line, &fields).map_err(wrong)?;
    }
    match objects {
        Some(objects) => objects.finish().map_err(|(line, problem)| Broken::Line(line, problem)),
        None => Ok(Found { format: TraceFormat::ShareGpt, timed: false, skipped: 0, requests: Vec::new() }),
    }
}

fn table(mut records: Records, limit: usize) -> Result<Found, Broken> {
    let Some((line, header)) = records.next()? else {
        return Ok(Found { format: TraceFormat::Azure, timed: true, skipped: 0, requests: Vec::new() });
    };
    let mut table = Table::detect(header).map_err(|problem| Broken::Line(line, problem))?;
    while table.len() < limit {
        let Some((line, record)) = records.next()? else { break };
        table.take(record).map_err(|problem| Broken::Line(line, problem))?;
    }
    Ok(table.finish())
}

#[cfg(test)]
mod tests;
