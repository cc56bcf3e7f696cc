//! Chat's checks: a typed body becomes one whose every value is good, or an error that names the field.
use minisgl_tokenizer::ChatMessage;

use super::types::{ChatBody, ChatPrompt, WireContent, WireMessage};
use crate::http::error::ApiError;
use crate::http::fields::missing;
use crate::http::sampling::SamplingFields;
use crate::request::{MaxTokens, Prompt};

/// A checked body. Sampling ranges are checked as the request is made.
#[derive(Debug)]
pub(super) struct ChatAsk {
    pub(super) prompt: Prompt,
    pub(super) max_tokens: MaxTokens,
    pub(super) sampling: SamplingFields,
    pub(super) expected_content_tokens: Option<usize>,
}

pub(super) fn check(body: ChatBody, served: &str) -> Result<ChatAsk, ApiError> {
    if body.model != served {
        return Err(ApiError::no_such_model(&body.model, served));
    }
    let max_tokens = max_tokens(&body)?;
    let prompt = match body.prompt {
        ChatPrompt::Text(text) => Prompt::Text(text),
        ChatPrompt::Messages(messages) if messages.is_empty() => {
            let message = "Invalid value: 'messages' must have at least one message.";
            return Err(ApiError::bad_field("messages", "invalid_value", message));
        }
        ChatPrompt::Messages(messages) => {
            let messages = messages.into_iter().enumerate().map(|(i, message)| checked(message, i));
            Prompt::Chat(messages.collect::<Result<_, _>>()?)
        }
    };
    let expected_content_tokens = body.input_length_override;
    Ok(ChatAsk { prompt, max_tokens, sampling: body.sampling, expected_content_tokens })
}

/// The two names are one bound.
fn max_tokens(body: &ChatBody) -> Result<MaxTokens, ApiError> {
    let (param, asked) = match (body.max_completion_tokens, body.max_tokens) {
        (Some(new), Some(old)) if new != old => {
            let message = "'max_tokens' and 'max_completion_tokens' are one bound, and differ here: send one of them.";
            return Err(ApiError::bad_field("max_tokens", "invalid_value", message));
        }
        (Some(asked), _) => ("max_completion_tokens", asked),
        (None, Some(asked)) => ("max_tokens", asked),
        (None, None) => return Ok(MaxTokens::Room),
    };
    if asked == 0 {
        let message = format!("Invalid value: {param} must be at least 1, not 0.");
        return Err(ApiError::bad_field(param, "invalid_value", message));
    }
    Ok(MaxTokens::AtMost(asked))
}

fn checked(message: WireMessage, index: usize) -> Result<ChatMessage, ApiError> {
    let path = |field: &str| format!("messages[{index}].{field}");
    if !matches!(message.role.as_str(), "system" | "developer" | "user" | "assistant" | "tool") {
        let role = &message.role;
        let said = format!("Invalid value: '{role}'. Roles are 'system', 'developer', 'user', 'assistant' and 'tool'.");
        return Err(ApiError::bad_field(path("role"), "invalid_value", said));
    }
    match (message.role == "tool", &message.tool_call_id) {
        (true, None) => return Err(missing(path("tool_call_id"))),
        (false, Some(_)) => {
            let said = "Only messages of role 'tool' have a 'tool_call_id'.";
            return Err(ApiError::bad_field(path("tool_call_id"), "invalid_value", said));
        }
        _ => {}
    }
    let content = match message.content {
        None => return Err(missing(path("content"))),
        Some(WireContent::Text(text)) => text,
        Some(WireContent::Parts(parts)) if parts.is_empty() => {
            let said = "Invalid value: an array of parts must have at least one.";
            return Err(ApiError::bad_field(path("content"), "invalid_value", said));
        }
        // As vLLM and llama.cpp join them.
        Some(WireContent::Parts(parts)) => parts.join("\n"),
    };
    Ok(ChatMessage { role: message.role, content, name: message.name, tool_call_id: message.tool_call_id })
}
