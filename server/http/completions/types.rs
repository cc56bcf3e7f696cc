//! Completions' wire types: the body as read, the objects as sent. Types only: what a value means is `validate`'s.
use minisgl_kernels::TokenId;
use serde::Serialize;
use serde_json::Value;

use crate::http::choices::WireUsage;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, missing, read, wrong_type};
use crate::http::sampling::{COMPLETION_NO_OPS, Delivery, NO_OPS, SamplingFields};
use crate::request::Prompt;

/// A body, typed, unchecked.
#[derive(Debug)]
pub(super) struct CompletionBody {
    pub(super) model: String,
    pub(super) prompts: Vec<Prompt>,
    pub(super) max_tokens: Option<usize>,
    pub(super) sampling: SamplingFields,
    pub(super) delivery: Delivery,
}

impl CompletionBody {
    pub(super) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let body = Self {
            model: fields.required("model")?,
            prompts: fields.optional("prompt")?.map_or_else(|| Err(missing("prompt".into())), prompts)?,
            max_tokens: fields.optional("max_tokens")?,
            sampling: SamplingFields::read(&mut fields)?,
            delivery: Delivery::read(&mut fields)?,
        };
        fields.end(&[NO_OPS, COMPLETION_NO_OPS])?;
        Ok(body)
    }
}

/// A text, some texts, token ids, or some of those. The first element says which of them an array is.
fn prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, an array of strings, an array of token ids, or an array of such arrays";
    match value {
        Value::String(text) => Ok(vec![Prompt::Text(text)]),
        Value::Array(values) => match values.first() {
            Some(Value::Number(_)) => Ok(vec![Prompt::Tokens(tokens(values, "prompt")?)]),
            Some(Value::String(_)) => {
                numbered(values).map(|(value, path)| Ok(Prompt::Text(read(value, path)?))).collect()
            }
            Some(Value::Array(_)) => numbered(values)
                .map(|(value, path)| Ok(Prompt::Tokens(tokens(read(value, path.clone())?, &path)?)))
                .collect(),
            Some(other) => Err(wrong_type("prompt[0]".into(), "a string, a token id or an array of token ids", other)),
            None => Ok(Vec::new()),
        },
        other => Err(wrong_type("prompt".into(), EXPECTED, &other)),
    }
}

fn numbered(values: Vec<Value>) -> impl Iterator<Item = (Value, String)> {
    values.into_iter().enumerate().map(|(i, value)| (value, format!("prompt[{i}]")))
}

fn tokens(values: Vec<Value>, path: &str) -> Result<Vec<TokenId>, ApiError> {
    let mut tokens = Vec::with_capacity(values.len());
    for (i, value) in values.into_iter().enumerate() {
        match value.as_u64().and_then(|id| TokenId::try_from(id).ok()) {
            Some(id) => tokens.push(id),
            None => tokens.push(read(value, format!("{path}[{i}]"))?),
        }
    }
    Ok(tokens)
}

/// `text_completion`, whole or a chunk: OpenAI gives both the same shape.
#[derive(Debug, Serialize)]
pub(super) struct Completion<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    /// Empty in the chunk that has the usage.
    pub(super) choices: &'a [CompletionChoice<'a>],
    /// In a stream absent unless asked for; then null in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<&'a WireUsage>>,
}

#[derive(Debug, Serialize)]
pub(super) struct CompletionChoice<'a> {
    pub(super) index: usize,
    pub(super) text: &'a str,
    /// Always null: a request that asks for them is refused.
    pub(super) logprobs: (),
    /// Null until the choice's last chunk.
    pub(super) finish_reason: Option<&'static str>,
}
