//! Chat's conversions: a checked body into a [`Request`], answers and events into OpenAI's objects.
use std::collections::HashSet;

use bytes::Bytes;

use super::types::{AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, Delta};
use super::validate::ChatAsk;
use crate::http::choices::{Answer, Chunks, WireUsage, reason};
use crate::http::error::ApiError;
use crate::http::{random_id, sse, unix_seconds};
use crate::llm::SamplingParams;
use crate::request::{FinishReason, Request};

pub(super) fn request(ask: ChatAsk, defaults: &SamplingParams) -> Result<Request, ApiError> {
    let n = ask.sampling.n.unwrap_or(1);
    let mut request = ask.sampling.params(defaults).request(ask.prompt, n)?;
    request.max_tokens = ask.max_tokens;
    request.expected_content_tokens = ask.expected_content_tokens;
    Ok(request)
}

/// What all of an answer's objects share.
pub(super) struct Answerer {
    id: String,
    created: u64,
    model: String,
}

impl Answerer {
    pub(super) fn new(model: &str) -> Self {
        Self { id: random_id("chatcmpl-"), created: unix_seconds(), model: model.to_owned() }
    }

    pub(super) fn whole(&self, answers: Vec<Answer>, usage: WireUsage) -> ChatCompletion<'_> {
        let choice = |(index, answer): (usize, Answer)| ChatChoice {
            index,
            message: AssistantMessage { role: "assistant", content: answer.text, refusal: () },
            logprobs: (),
            finish_reason: reason(answer.reason),
        };
        ChatCompletion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: answers.into_iter().enumerate().map(choice).collect(),
            usage,
        }
    }

    pub(super) fn stream(self, include_usage: bool) -> impl Chunks {
        ChatChunks { head: self, include_usage, opened: HashSet::new() }
    }
}

struct ChatChunks {
    head: Answerer,
    include_usage: bool,
    /// Choices whose first chunk, which has the role, has gone out.
    opened: HashSet<usize>,
}

impl ChatChunks {
    fn chunk(&self, choices: &[ChunkChoice<'_>], usage: Option<&WireUsage>) -> Bytes {
        sse::data(&ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage: self.include_usage.then_some(usage),
        })
    }

    fn role(&mut self, choice: usize) -> Option<&'static str> {
        self.opened.insert(choice).then_some("assistant")
    }
}

impl Chunks for ChatChunks {
    fn token(&mut self, choice: usize, text: &str) -> Bytes {
        let delta = Delta { role: self.role(choice), content: Some(text) };
        self.chunk(&[ChunkChoice { index: choice, delta, logprobs: (), finish_reason: None }], None)
    }

    fn finished(&mut self, choice: usize, text: &str, why: FinishReason) -> Option<Bytes> {
        let delta = Delta { role: self.role(choice), content: (!text.is_empty()).then_some(text) };
        Some(self.chunk(&[ChunkChoice { index: choice, delta, logprobs: (), finish_reason: Some(reason(why)) }], None))
    }

    fn usage(&mut self, usage: &WireUsage) -> Option<Bytes> {
        self.include_usage.then(|| self.chunk(&[], Some(usage)))
    }
}
