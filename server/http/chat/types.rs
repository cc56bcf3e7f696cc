//! Chat's wire types: the body as read, the objects as sent. Types only: what a value means is `validate`'s.
use serde::Serialize;
use serde_json::Value;

use crate::http::choices::WireUsage;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, NoOp, missing, read, wrong_type};
use crate::http::sampling::{CHAT_NO_OPS, Delivery, NO_OPS, SamplingFields, is_empty};

/// A body, typed, unchecked.
#[derive(Debug)]
pub(super) struct ChatBody {
    pub(super) model: String,
    pub(super) prompt: ChatPrompt,
    pub(super) max_tokens: Option<usize>,
    pub(super) max_completion_tokens: Option<usize>,
    pub(super) sampling: SamplingFields,
    pub(super) delivery: Delivery,
    pub(super) input_length_override: Option<usize>,
}

/// Messages, or mini-sglang's plain text.
#[derive(Debug, PartialEq)]
pub(super) enum ChatPrompt {
    Messages(Vec<WireMessage>),
    Text(String),
}

/// One message, typed.
#[derive(Debug, PartialEq)]
pub(super) struct WireMessage {
    pub(super) role: String,
    pub(super) content: Option<WireContent>,
    pub(super) name: Option<String>,
    pub(super) tool_call_id: Option<String>,
}

#[derive(Debug, PartialEq)]
pub(super) enum WireContent {
    Text(String),
    Parts(Vec<String>),
}

/// What SDKs echo of an assistant's message, at values that say nothing.
const MESSAGE_NO_OPS: &[NoOp] =
    &[NoOp { name: "tool_calls", is: is_empty }, NoOp { name: "annotations", is: is_empty }];

impl ChatBody {
    pub(super) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let body = Self {
            model: fields.required("model")?,
            prompt: ChatPrompt::read(&mut fields)?,
            max_tokens: fields.optional("max_tokens")?,
            max_completion_tokens: fields.optional("max_completion_tokens")?,
            sampling: SamplingFields::read(&mut fields)?,
            delivery: Delivery::read(&mut fields)?,
            input_length_override: fields.optional("input_length_override")?,
        };
        fields.end(&[NO_OPS, CHAT_NO_OPS])?;
        Ok(body)
    }
}

impl ChatPrompt {
    /// The field that holds it.
    pub(super) fn param(&self) -> &'static str {
        match self {
            Self::Messages(_) => "messages",
            Self::Text(_) => "prompt",
        }
    }

    fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        match (fields.optional::<Vec<Value>>("messages")?, fields.optional("prompt")?) {
            (Some(messages), None) => {
                let messages = messages.into_iter().enumerate();
                let messages = messages.map(|(i, value)| WireMessage::read(value, format!("messages[{i}]")));
                Ok(Self::Messages(messages.collect::<Result<_, _>>()?))
            }
            (None, Some(text)) => Ok(Self::Text(text)),
            (None, None) => Err(missing("messages".into())),
            (Some(_), Some(_)) => {
                let message = "'messages' and 'prompt' exclude each other: send one of them.";
                Err(ApiError::bad_field("prompt", "invalid_value", message))
            }
        }
    }
}

impl WireMessage {
    fn read(value: Value, path: String) -> Result<Self, ApiError> {
        let mut fields = Fields::of(value, path)?;
        let content_path = fields.path("content");
        let message = Self {
            role: fields.required("role")?,
            content: fields.optional("content")?.map(|value| WireContent::read(value, content_path)).transpose()?,
            name: fields.optional("name")?,
            tool_call_id: fields.optional("tool_call_id")?,
        };
        fields.end(&[MESSAGE_NO_OPS])?;
        Ok(message)
    }
}

impl WireContent {
    fn read(value: Value, path: String) -> Result<Self, ApiError> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Array(parts) => {
                let parts = parts.into_iter().enumerate().map(|(i, part)| text_part(part, format!("{path}[{i}]")));
                Ok(Self::Parts(parts.collect::<Result<_, _>>()?))
            }
            other => Err(wrong_type(path, "a string or an array of text parts", &other)),
        }
    }
}

fn text_part(value: Value, path: String) -> Result<String, ApiError> {
    if let Value::String(_) = value {
        return read(value, path); // a part that is only its text, as some SDKs send
    }
    let mut part = Fields::of(value, path)?;
    let kind: String = part.required("type")?;
    if kind != "text" {
        let message = format!("Unsupported value: '{kind}'. This server takes parts of type 'text' alone.");
        return Err(ApiError::bad_field(part.path("type"), "unsupported_value", message));
    }
    let text = part.required("text")?;
    part.end(&[])?;
    Ok(text)
}

/// `chat.completion`
#[derive(Debug, Serialize)]
pub(super) struct ChatCompletion<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<ChatChoice>,
    pub(super) usage: WireUsage,
}

#[derive(Debug, Serialize)]
pub(super) struct ChatChoice {
    pub(super) index: usize,
    pub(super) message: AssistantMessage,
    /// Always null: a request that asks for them is refused.
    pub(super) logprobs: (),
    pub(super) finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct AssistantMessage {
    pub(super) role: &'static str,
    pub(super) content: String,
    pub(super) refusal: (),
}

/// `chat.completion.chunk`
#[derive(Debug, Serialize)]
pub(super) struct ChatChunk<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    /// Empty in the chunk that has the usage.
    pub(super) choices: &'a [ChunkChoice<'a>],
    /// Absent unless asked for; then null in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<&'a WireUsage>>,
}

#[derive(Debug, Serialize)]
pub(super) struct ChunkChoice<'a> {
    pub(super) index: usize,
    pub(super) delta: Delta<'a>,
    pub(super) logprobs: (),
    pub(super) finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct Delta<'a> {
    /// In a choice's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
}
