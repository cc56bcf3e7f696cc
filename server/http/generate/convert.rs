//! `/generate`'s conversions: a checked body into a [`Request`], events into lines of text.
use bytes::Bytes;

use super::validate::GenerateAsk;
use crate::http::choices::{Chunks, WireUsage};
use crate::http::error::ApiError;
use crate::http::sse;
use crate::llm::SamplingParams;
use crate::request::{FinishReason, Prompt, Request};

/// Greedy, whatever the model's defaults.
pub(super) fn request(ask: GenerateAsk) -> Result<Request, ApiError> {
    let params = SamplingParams {
        temperature: 0.0,
        max_tokens: ask.max_tokens,
        ignore_eos: ask.ignore_eos,
        ..SamplingParams::default()
    };
    Ok(params.request(Prompt::Text(ask.prompt), 1)?)
}

/// One event a token; text that was held back to the end is one more.
pub(super) struct TextLines;

impl Chunks for TextLines {
    fn token(&mut self, _choice: usize, text: &str) -> Bytes {
        sse::text(text)
    }

    fn finished(&mut self, _choice: usize, text: &str, _reason: FinishReason) -> Option<Bytes> {
        (!text.is_empty()).then(|| sse::text(text))
    }

    fn usage(&mut self, _usage: &WireUsage) -> Option<Bytes> {
        None
    }
}
