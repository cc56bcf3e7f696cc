//! Completions' conversions: a checked body into [`Request`]s, answers and events into OpenAI's objects.
use bytes::Bytes;
use serde_json::Value;

use super::types::{Completion, CompletionChoice};
use super::validate::CompletionAsk;
use crate::http::choices::{Answer, Chunks, WireUsage, reason};
use crate::http::error::ApiError;
use crate::http::{random_id, sse, unix_seconds};
use crate::llm::SamplingParams;
use crate::request::{FinishReason, Request};

/// One request a prompt. Each prompt's choices begin at the same seed.
pub(super) fn requests(ask: CompletionAsk, defaults: &SamplingParams) -> Result<Vec<Request>, ApiError> {
    let mut params = ask.sampling.params(defaults);
    params.max_tokens = ask.max_tokens.unwrap_or(params.max_tokens);
    ask.prompts.into_iter().map(|prompt| Ok(params.clone().request(prompt, ask.n)?)).collect()
}

/// What all of an answer's objects share.
pub(super) struct Answerer {
    id: String,
    created: u64,
    model: String,
}

impl Answerer {
    pub(super) fn new(model: &str) -> Self {
        Self { id: random_id("cmpl-"), created: unix_seconds(), model: model.to_owned() }
    }

    fn object<'a>(
        &'a self,
        choices: &'a [CompletionChoice<'a>],
        usage: Option<Option<&'a WireUsage>>,
    ) -> Completion<'a> {
        Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        }
    }

    pub(super) fn whole(&self, answers: Vec<Answer>, usage: WireUsage) -> Value {
        let choices = answers.iter().enumerate().map(|(index, answer)| CompletionChoice {
            index,
            text: &answer.text,
            logprobs: (),
            finish_reason: Some(reason(answer.reason)),
        });
        let choices: Vec<_> = choices.collect();
        serde_json::to_value(self.object(&choices, Some(Some(&usage)))).expect("an answer becomes JSON")
    }

    pub(super) fn stream(self, include_usage: bool) -> impl Chunks {
        CompletionChunks { head: self, include_usage }
    }
}

struct CompletionChunks {
    head: Answerer,
    include_usage: bool,
}

impl CompletionChunks {
    fn chunk(&self, choices: &[CompletionChoice<'_>], usage: Option<&WireUsage>) -> Bytes {
        sse::data(&self.head.object(choices, self.include_usage.then_some(usage)))
    }
}

impl Chunks for CompletionChunks {
    fn token(&mut self, choice: usize, text: &str) -> Bytes {
        self.chunk(&[CompletionChoice { index: choice, text, logprobs: (), finish_reason: None }], None)
    }

    fn finished(&mut self, choice: usize, text: &str, why: FinishReason) -> Option<Bytes> {
        let finish_reason = Some(reason(why));
        Some(self.chunk(&[CompletionChoice { index: choice, text, logprobs: (), finish_reason }], None))
    }

    fn usage(&mut self, usage: &WireUsage) -> Option<Bytes> {
        self.include_usage.then(|| self.chunk(&[], Some(usage)))
    }
}
