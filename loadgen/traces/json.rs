//! The traces whose records are JSON objects: which one it is, and Qwen-Bailian's and Mooncake's own.
//!
//! Owns detection by fields, and how requests of one file are linked. Knows nothing of files or lines.
use std::collections::HashMap;

use super::aiperf::{self, Sessions};
use super::fields::Fields;
use super::{LATEST_S, TraceFormat, TraceRequest, Turn, sharegpt};

/// What is told where nothing fits; the fields that would.
pub(super) const FORMATS: &str = "the formats that can be replayed are Qwen-Bailian (JSONL with `chat_id`, \
    `parent_chat_id`, `timestamp`, `input_length`, `output_length`, `type`, `turn`, `hash_ids`), Mooncake (`timestamp`, \
    `input_length`, `output_length`, `hash_ids`), AIPerf single_turn (`text`), multi_turn (`turns`) and mooncake_trace \
    (`text_input`, `messages` or `input_length`), ShareGPT (`conversations`), BurstGPT (CSV with `Timestamp`, `Request \
    tokens`, `Response tokens`) and Azure (`TIMESTAMP`, `ContextTokens`, `GeneratedTokens`)";

/// The reader of one file's objects.
pub(super) struct Objects {
    format: TraceFormat,
    chats: Chats,
    sessions: Sessions,
    requests: Vec<TraceRequest>,
    skipped: usize,
}

/// What a whole file held, parents as places in the file.
pub(super) struct Found {
    pub(super) format: TraceFormat,
    pub(super) timed: bool,
    pub(super) skipped: usize,
    pub(super) requests: Vec<TraceRequest>,
}

impl Objects {
    /// A reader for what the first object shows.
    pub(super) fn detect(first: &Fields) -> Result<Self, String> {
        let format = if first.has("chat_id") || first.has("parent_chat_id") {
            TraceFormat::QwenBailian
        } else if first.has("conversations") {
            TraceFormat::ShareGpt
        } else if first.has("turns") {
            TraceFormat::AiperfMultiTurn
        } else if ["text", "texts"].iter().any(|name| first.has(name)) {
            TraceFormat::AiperfSingleTurn
        } else if ["text_input", "messages", "session_id", "delay"].iter().any(|name| first.has(name)) {
            TraceFormat::AiperfMooncake
        } else if first.has("hash_ids") && first.has("timestamp") {
            TraceFormat::Mooncake
        } else if first.has("input_length") {
            TraceFormat::AiperfMooncake
        } else {
            return Err(format!("no trace that can be replayed: this object has {}; {FORMATS}", first.names()));
        };
        let (chats, sessions) = (Chats::default(), Sessions::default());
        Ok(Self { format, chats, sessions, requests: Vec::new(), skipped: 0 })
    }

    /// Requests so far.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Takes the object that begins on this line.
    pub(super) fn take(&mut self, line: usize, fields: &Fields) -> Result<(), String> {
        let Self { requests, sessions, .. } = self;
        match self.format {
            TraceFormat::QwenBailian => requests.push(qwen_bailian(fields, &mut self.chats)?),
            TraceFormat::AiperfSingleTurn => aiperf::single_turn(line, fields, sessions, requests)?,
            TraceFormat::AiperfMultiTurn => aiperf::multi_turn(line, fields, sessions, requests)?,
            TraceFormat::AiperfMooncake => aiperf::mooncake_trace(line, fields, sessions, requests)?,
            TraceFormat::ShareGpt => self.skipped += usize::from(sharegpt::chat(fields, requests)? == 0),
            // CSV is not read here.
            TraceFormat::Mooncake | TraceFormat::BurstGpt | TraceFormat::Azure => requests.push(mooncake(fields)?),
        }
        Ok(())
    }

    /// Everything; or the line that is wrong in the light of the others.
    pub(super) fn finish(mut self) -> Result<Found, (usize, String)> {
        let timed = match self.format {
            TraceFormat::ShareGpt => false,
            TraceFormat::AiperfSingleTurn | TraceFormat::AiperfMultiTurn | TraceFormat::AiperfMooncake => {
                self.sessions.times(&mut self.requests)?
            }
            _ => true,
        };
        self.chats.link(&mut self.requests);
        Ok(Found { format: self.format, timed, skipped: self.skipped, requests: self.requests })
    }
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
