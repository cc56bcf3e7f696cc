//! ShareGPT: recorded chats, each question of which is a request.
//!
//! Owns who speaks. Knows nothing of files or lines; a chat has no times.
use std::sync::Arc;

use super::fields::Fields;
use super::{Conversation, Message, TracePrompt, TraceRequest, Turn};

/// Adds a request for each question that was answered, and says how many those are. All share the chat's messages.
pub(super) fn chat(fields: &Fields, to: &mut Vec<TraceRequest>) -> Result<usize, String> {
    let mut messages = Vec::new();
    for (at, message) in fields.objects("conversations")?.iter().enumerate() {
        let within = |problem| format!("field `conversations`: its element {at}: {problem}");
        let role = role(message).map_err(within)?;
        // Chats that were cut at a length begin in the middle; no chat template begins with an answer.
        if role == "assistant" && messages.is_empty() {
            continue;
        }
        let content = message.text("value").map_err(within)?.to_owned();
        messages.push(Message { role: role.to_owned(), content });
    }
    let messages: Arc<[Message]> = messages.into();
    let asked = |pair: &[Message]| pair[0].role == "user" && pair[1].role == "assistant";
    let questions = messages.windows(2).enumerate().filter(|(_, pair)| asked(pair)).map(|(at, _)| at + 1);
    let first = to.len();
    for (number, prompt) in questions.enumerate() {
        let parent = number.checked_sub(1).map(|before| first + before);
        let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
        to.push(TraceRequest {
            input_length: None,
            output_length: None,
            session: Some(Turn { parent, number, delay_s: None }),
            prompt: TracePrompt::Messages(Conversation::new(messages.clone(), prompt)),
            ..TraceRequest::of_lengths(0.0, 0, 0)
        });
    }
    Ok(to.len() - first)
}

/// Who speaks, by the names that the data set's versions use.
fn role(message: &Fields) -> Result<&'static str, String> {
    match message.text("from")? {
        "human" | "user" => Ok("user"),
        "gpt" | "chatgpt" | "assistant" | "bing" | "bard" | "model" => Ok("assistant"),
        "system" => Ok("system"),
        _ => Err("field `from`: `human`, `gpt` or `system` should be there".to_owned()),
    }
}
