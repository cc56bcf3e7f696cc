//! A request's choices: accepted together, their events merged as they come, their usage summed.
//!
//! Owns the order of choices (`prompt * n + i`) and what one stream of several sequences does at its end and on failure.
//! Does not know how a route words its chunks.
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use futures_util::{Stream, pin_mut};
use serde::Serialize;

use super::app::InFlight;
use super::error::ApiError;
use super::sse;
use crate::llm::{Generation, NotAccepted, TextEvent, Usage};
use crate::request::{Failure, FinishReason};

/// All sequences of one request, accepted.
pub(crate) struct Choices {
    generations: Vec<Generation>,
    /// Choices a prompt.
    n: usize,
    /// Held until the answer is made.
    guard: InFlight,
}

/// One choice's whole text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) reason: FinishReason,
}

/// OpenAI's `usage`, in its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct WireUsage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

impl WireUsage {
    /// A prompt counts once, whatever its number of choices; what its first choice found cached is what it found.
    fn add(&mut self, usage: Usage, first_choice: bool) {
        if first_choice {
            self.prompt_tokens += usage.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += usage.cached_tokens;
        }
        self.completion_tokens += usage.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// A finish reason as on the wire.
pub(crate) fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// How a route words the pieces of a stream.
pub(crate) trait Chunks: Send + 'static {
    /// One token of a choice.
    fn token(&mut self, choice: usize, text: &str) -> Bytes;
    /// A choice's end, with the text that was held back; `None` where the route says nothing.
    fn finished(&mut self, choice: usize, text: &str, reason: FinishReason) -> Option<Bytes>;
    /// After all choices; `None` where it was not asked for.
    fn usage(&mut self, usage: &WireUsage) -> Option<Bytes>;
}

impl Choices {
    /// Waits until every sequence is accepted. `prompts` has the choices of each prompt.
    pub(crate) async fn accept(prompts: Vec<Vec<Generation>>, guard: InFlight) -> Result<Self, NotAccepted> {
        let n = prompts.first().map_or(1, Vec::len);
        let mut generations: Vec<Generation> = prompts.into_iter().flatten().collect();
        for generation in &mut generations {
            generation.accepted().await?;
        }
        Ok(Self { generations, n, guard })
    }

    /// Every choice's events with its index, as they come.
    fn events(generations: Vec<Generation>) -> impl Stream<Item = (usize, TextEvent)> + Send {
        stream::select_all(generations.into_iter().enumerate().map(|(index, generation)| {
            let next = move |mut generation: Generation| async move {
                let event = generation.next().await?;
                Some(((index, event), generation))
            };
            stream::unfold(generation, next).boxed()
        }))
    }

    /// The whole texts. The first failure ends all.
    pub(crate) async fn whole(self) -> Result<(Vec<Answer>, WireUsage), Failure> {
        let mut answers: Vec<Answer> = Vec::new();
        answers.resize_with(self.generations.len(), || Answer { text: String::new(), reason: FinishReason::Stop });
        let mut total = WireUsage::default();
        let events = Self::events(self.generations);
        pin_mut!(events);
        while let Some((index, event)) = events.next().await {
            match event {
                TextEvent::Token { text, .. } => answers[index].text += &text,
                TextEvent::Finished { reason, text, usage } => {
                    answers[index].text += &text;
                    answers[index].reason = reason;
                    total.add(usage, index % self.n == 0);
                }
                TextEvent::Failed(failure) => return Err(failure),
            }
        }
        drop(self.guard);
        Ok((answers, total))
    }

    /// One frame a token, then `[DONE]`. A failure is an error frame, and the stream ends without `[DONE]`.
    pub(crate) fn stream(self, mut chunks: impl Chunks) -> axum::response::Response {
        let Self { generations, n, guard } = self;
        sse::response(async_stream::stream! {
            let _in_flight = guard;
            let mut total = WireUsage::default();
            let events = Self::events(generations);
            pin_mut!(events);
            while let Some((index, event)) = events.next().await {
                match event {
                    TextEvent::Token { text, .. } => yield chunks.token(index, &text),
                    TextEvent::Finished { reason, text, usage } => {
                        total.add(usage, index % n == 0);
                        if let Some(frame) = chunks.finished(index, &text, reason) {
                            yield frame;
                        }
                    }
                    TextEvent::Failed(failure) => {
                        yield sse::json(&ApiError::from(failure).json());
                        return;
                    }
                }
            }
            if let Some(frame) = chunks.usage(&total) {
                yield frame;
            }
            yield sse::done();
        })
    }
}
