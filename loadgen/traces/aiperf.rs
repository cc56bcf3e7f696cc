//! AIPerf's own files: `single_turn`, `multi_turn` and `mooncake_trace`.
//!
//! Owns their sessions and delays. Knows nothing of files or lines beyond the number that an error names.
use std::collections::HashMap;
use std::sync::Arc;

use super::fields::Fields;
use super::{Conversation, LATEST_S, Message, TracePrompt, TraceRequest, Turn};

/// What only AIPerf's multi-modal requests have.
const MEDIA: [&str; 6] = ["image", "images", "audio", "audios", "video", "videos"];

/// The last request of each session, and which requests lack a time.
#[derive(Default)]
pub(super) struct Sessions {
    last: HashMap<String, (usize, u32)>,
    /// Whether any request has a time.
    timed: bool,
    /// Requests without a time, with their lines.
    untimed: Vec<(usize, usize)>,
}

impl Sessions {
    /// Adds a request that follows the last one of this session.
    fn add(
        &mut self,
        line: usize,
        session: Option<String>,
        when: When,
        mut request: TraceRequest,
        to: &mut Vec<TraceRequest>,
    ) {
        let (parent, number) = match session.as_ref().and_then(|session| self.last.get(session)) {
            Some(&(last, number)) => (Some(last), number.saturating_add(1)),
            None => (None, 1),
        };
        if let Some(session) = session {
            self.last.insert(session, (to.len(), number));
            request.session = Some(Turn { parent, number, delay_s: when.delay_s });
        } else if when.delay_s.is_some() {
            request.session = Some(Turn { parent: None, number, delay_s: when.delay_s });
        }
        match when.timestamp_s {
            Some(time) => (request.timestamp_s, self.timed) = (time, true),
            None => self.untimed.push((to.len(), line)),
        }
        to.push(request);
    }

    /// Gives turns without a time the earliest one that they could have. Whether there are times at all.
    pub(super) fn times(self, requests: &mut [TraceRequest]) -> Result<bool, (usize, String)> {
        if !self.timed {
            return Ok(false);
        }
        for (index, line) in self.untimed {
            let Some((turn, parent)) = requests[index].session.and_then(|turn| Some((turn, turn.parent?))) else {
                let problem = "field `timestamp` is missing: other lines have it, and this request follows no other";
                return Err((line, problem.to_owned()));
            };
            // A parent comes earlier in the file, so its own time is known by now.
            requests[index].timestamp_s = (requests[parent].timestamp_s + turn.delay_s.unwrap_or(0.0)).min(LATEST_S);
        }
        Ok(true)
    }
}

/// When a request is sent, as far as its object says.
struct When {
    timestamp_s: Option<f64>,
    delay_s: Option<f64>,
}

impl When {
    fn of(fields: &Fields) -> Result<Self, String> {
        let time = |fields: &Fields, name: &str| Ok(fields.time(name, "milliseconds", LATEST_S * 1e3)? / 1e3);
        let (timestamp_s, delay_s) = (fields.if_there("timestamp", time)?, fields.if_there("delay", time)?);
        Ok(Self { timestamp_s, delay_s })
    }
}

/// A line of `single_turn`; those that name the same session follow each other.
pub(super) fn single_turn(
    line: usize,
    fields: &Fields,
    sessions: &mut Sessions,
    to: &mut Vec<TraceRequest>,
) -> Result<(), String> {
    let session = fields.if_there("session_id", Fields::name)?;
    let request = text_turn(fields)?;
    sessions.add(line, session, When::of(fields)?, request, to);
    Ok(())
}

/// A line of `multi_turn`: a chat of its own.
pub(super) fn multi_turn(
    line: usize,
    fields: &Fields,
    sessions: &mut Sessions,
    to: &mut Vec<TraceRequest>,
) -> Result<(), String> {
    // Without a name, a chat is this line's; a name cannot be empty and hold a line feed too.
    let session = fields.if_there("session_id", Fields::name)?.unwrap_or_else(|| format!("\n{line}"));
    let turns = fields.objects("turns")?;
    if turns.is_empty() {
        return Err("field `turns`: at least one turn should be in it".to_owned());
    }
    for (at, turn) in turns.iter().enumerate() {
        let within = |problem| format!("field `turns`: its element {at}: {problem}");
        let request = text_turn(turn).map_err(within)?;
        let when = When::of(turn).map_err(within)?;
        sessions.add(line, Some(session.clone()), when, request, to);
    }
    Ok(())
}

/// A line of `mooncake_trace`: lengths with or without ids, a text, or messages.
pub(super) fn mooncake_trace(
    line: usize,
    fields: &Fields,
    sessions: &mut Sessions,
    to: &mut Vec<TraceRequest>,
) -> Result<(), String> {
    let session = fields.if_there("session_id", Fields::name)?;
    let mut request = TraceRequest::of_lengths(0.0, 0, 0);
    request.output_length = fields.if_there("output_length", Fields::length)?;
    request.input_length = fields.if_there("input_length", Fields::length)?;
    match (fields.has("text_input"), fields.has("messages")) {
        (true, true) => {
            return Err("field `messages`: `text_input` is there too; one of them says what is asked".to_owned());
        }
        (true, false) => request.prompt = TracePrompt::Text(fields.text("text_input")?.to_owned()),
        (false, true) => request.prompt = TracePrompt::Messages(messages(fields)?),
        (false, false) => {
            request.input_length = Some(fields.length("input_length")?);
            request.hash_ids = fields.if_there("hash_ids", |fields, _| fields.hash_ids())?.unwrap_or_default();
        }
    }
    sessions.add(line, session, When::of(fields)?, request, to);
    Ok(())
}

/// One user message.
fn text_turn(fields: &Fields) -> Result<TraceRequest, String> {
    fields.refuse(&MEDIA, "only texts can be replayed")?;
    fields.refuse(&["texts"], "several texts in one request cannot be replayed; `text` has one")?;
    if fields.if_there("role", Fields::name)?.is_some_and(|role| role != "user") {
        return Err("field `role`: what is asked is the user's: `user` should be there, or nothing".to_owned());
    }
    let mut request = TraceRequest::of_lengths(0.0, 0, 0);
    request.input_length = None;
    request.output_length = fields.if_there("output_length", Fields::length)?;
    request.prompt = TracePrompt::Text(fields.text("text")?.to_owned());
    Ok(request)
}

/// The whole prompt as messages.
fn messages(fields: &Fields) -> Result<Conversation, String> {
    let messages = fields.objects("messages")?;
    if messages.is_empty() {
        return Err("field `messages`: at least one message should be in it".to_owned());
    }
    let message = |(at, message): (usize, &Fields)| {
        let of = |message: &Fields| {
            let content = if message.has("content") { message.content("content")? } else { String::new() };
            Ok(Message { role: message.text("role")?.to_owned(), content })
        };
        of(message).map_err(|problem: String| format!("field `messages`: its element {at}: {problem}"))
    };
    let messages: Arc<[Message]> = messages.iter().enumerate().map(message).collect::<Result<_, _>>()?;
    let prompt = messages.len();
    Ok(Conversation::new(messages, prompt))
}
