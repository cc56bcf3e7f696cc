//! Recorded chats as prompts: the first question of each, from a file or from WildChat.
//!
//! Owns which rows are taken: English or Chinese, neither redacted nor toxic, as mini-sglang's `bench_wildchat` takes them.
//! Knows nothing of tokens: a prompt is a text.
mod rows;

use std::path::{Path, PathBuf};

use minisgl_checkpoint::FindError;
use serde::Serialize;

use crate::traces::Fields;

/// Where chats come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatasetSource {
    /// A file: parquet, or JSON (an array, or an object a line; gzip and zstd are unpacked).
    File(PathBuf),
    /// WildChat's first part, downloaded once.
    WildChat,
}

impl DatasetSource {
    /// `wildchat`, or a file's path.
    pub fn named(text: &str) -> Self {
        if text == "wildchat" { Self::WildChat } else { Self::File(text.into()) }
    }
}

/// WildChat on the hub, and the first of its fourteen files: 60,000 chats.
const WILDCHAT: (&str, &str) = ("allenai/WildChat-1M", "data/train-00000-of-00014.parquet");

/// Languages whose chats are taken.
const LANGUAGES: [&str; 2] = ["English", "Chinese"];

/// The prompts that were asked for, in the file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The file.
    pub name: String,
    /// First questions; as many as were asked for, or as there are.
    pub prompts: Vec<String>,
    /// Rows that were read for them.
    pub rows: usize,
    /// Rows that were not taken, by why.
    pub skipped: Skipped,
}

/// Why rows were not taken; the first reason counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// In another language.
    pub language: usize,
    /// Redacted.
    pub redacted: usize,
    /// Toxic.
    pub toxic: usize,
    /// Without a question at its beginning.
    pub empty: usize,
}

/// A data set that cannot be used, and where it is wrong.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file cannot be opened or read.
    #[error("cannot read the dataset {file}: {problem}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        problem: String,
    },
    /// A row is not what a chat's should be.
    #[error(
        "{file}: {place}: {problem}; a row has `conversation` (messages with `role` and `content`), `language`, `redacted`, `toxic`"
    )]
    Row {
        /// The file.
        file: String,
        /// Which: a line or a row.
        place: String,
        /// What is wrong, with the field's name.
        problem: String,
    },
    /// None of its rows is taken.
    #[error("{file}: no first question in English or Chinese in its {rows} rows that is neither redacted nor toxic")]
    Empty {
        /// The file.
        file: String,
        /// How many rows there are.
        rows: usize,
    },
    /// WildChat cannot be had.
    #[error("{0}\nWhere the hub cannot be reached, fetch {file} of {repository} elsewhere and give its path with --dataset", file = WILDCHAT.1, repository = WILDCHAT.0)]
    Hub(#[from] FindError),
}

/// The first `count` prompts of a data set. Downloads with a bar where `progress` says so.
pub fn first_questions(source: &DatasetSource, count: usize, progress: bool) -> Result<Dataset, DatasetError> {
    match source {
        DatasetSource::File(path) => read(path, count),
        DatasetSource::WildChat => {
            read(&minisgl_checkpoint::find_dataset_file(WILDCHAT.0, WILDCHAT.1, progress)?, count)
        }
    }
}

/// Reads rows until there are `count` prompts.
fn read(path: &Path, count: usize) -> Result<Dataset, DatasetError> {
    let file = path.display().to_string();
    let mut found = Dataset { name: file.clone(), prompts: Vec::new(), rows: 0, skipped: Skipped::default() };
    rows::read(path, |place, fields| {
        found.rows += 1;
        match question(fields, &mut found.skipped) {
            Ok(prompt) => found.prompts.extend(prompt),
            Err(problem) => return Err(DatasetError::Row { file: file.clone(), place, problem }),
        }
        Ok(found.prompts.len() < count)
    })?;
    match found.prompts.is_empty() {
        true => Err(DatasetError::Empty { file, rows: found.rows }),
        false => Ok(found),
    }
}

/// The question that opens a chat, or which reason there is to leave it out.
fn question(row: &Fields, skipped: &mut Skipped) -> Result<Option<String>, String> {
    let says = |fields: &Fields, name: &str| Ok::<bool, String>(fields.if_there(name, Fields::truth)?.unwrap_or(false));
    let messages = row.objects("conversation")?;
    let first = messages.first();
    let named = if row.has("language") { Some(row) } else { first.filter(|message| message.has("language")) };
    let language = named.map(|fields| fields.text("language")).transpose()?;
    let within = |problem| format!("field `conversation`: its element 0: {problem}");
    if language.is_some_and(|language| !LANGUAGES.contains(&language)) {
        skipped.language += 1;
    } else if says(row, "redacted")? || first.map_or(Ok(false), |message| says(message, "redacted")).map_err(within)? {
        skipped.redacted += 1;
    } else if says(row, "toxic")? || first.map_or(Ok(false), |message| says(message, "toxic")).map_err(within)? {
        skipped.toxic += 1;
    } else {
        let asked = match first {
            Some(message) if message.text("role").map_err(within)? == "user" => {
                message.content("content").map_err(within)?
            }
            _ => String::new(),
        };
        if !asked.trim().is_empty() {
            return Ok(Some(asked));
        }
        skipped.empty += 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
