//! The caller's end of a sequence: its events become text.
//!
//! Owns detokenising, stop strings, the token count and the finish reason, for every caller alike: SSE, plain JSON, chat
//! and offline. Dropping it is the whole abort path: the scheduler, and intake before it, see the closed channel.
//! Does not know how its text is framed.
use std::time::Instant;

use minisgl_kernels::TokenId;
use minisgl_tokenizer::Detokenizer;

use super::stop::{Shown, StopMatcher};
use super::timeline::Timeline;
use crate::request::{Event, Failure, FinishReason, Refusal};

/// One choice of a request, as its text comes. Drop it to abort.
#[derive(Debug)]
pub struct Generation {
    /// `None` once it has ended: dropping the receiver is what tells the scheduler.
    events: Option<flume::Receiver<Event>>,
    detokenizer: Detokenizer,
    continues_prompt: bool,
    stop: StopMatcher,
    timeline: Timeline,
    usage: Usage,
    /// The end, where the text before it has to be told first.
    end: Option<TextEvent>,
}

/// What a [`Generation`] is made of, its channel apart.
pub(crate) struct GenerationParts<'a> {
    pub(crate) detokenizer: Detokenizer,
    /// The text goes on after the prompt's, so that a leading space stays; a chat's answer is a text of its own.
    pub(crate) continues_prompt: bool,
    pub(crate) stop: &'a [String],
    pub(crate) timeline: Timeline,
}

/// How many of a prompt's last tokens tell what its text leaves open (an incomplete character, whether it has text at all).
const PROMPT_TAIL: usize = 16;

/// Tokens in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that were generated; an end-of-sequence token and those of a stop string count.
    pub completion_tokens: usize,
    /// Prompt tokens that the prefix cache held.
    pub cached_tokens: usize,
}

/// What a [`Generation`] gives: `Token* (Finished | Failed)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextEvent {
    /// One token, and what text is ready with it: empty where a character or a stop string may be only half there.
    Token {
        /// Which.
        id: TokenId,
        /// The text.
        text: String,
    },
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that was held back.
        text: String,
        /// Tokens in and out.
        usage: Usage,
    },
    /// The end, badly.
    Failed(Failure),
}

/// The prompt is encoded and fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// A request that will give no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// The client's fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not the client's fault.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Generation {
    pub(crate) fn new(events: flume::Receiver<Event>, parts: GenerationParts<'_>) -> Self {
        Self {
            events: Some(events),
            detokenizer: parts.detokenizer,
            continues_prompt: parts.continues_prompt,
            stop: StopMatcher::new(parts.stop),
            timeline: parts.timeline,
            usage: Usage::default(),
            end: None,
        }
    }

    /// Waits for the first event. Call it once, before `next`.
    pub async fn accepted(&mut self) -> Result<Accepted, NotAccepted> {
        let received = match &self.events {
            Some(events) => events.recv_async().await.ok(),
            None => None,
        };
        self.admit(received)
    }

    /// As [`accepted`](Self::accepted), for a thread that may block.
    pub fn accepted_blocking(&mut self) -> Result<Accepted, NotAccepted> {
        let received = self.events.as_ref().and_then(|events| events.recv().ok());
        self.admit(received)
    }

    fn admit(&mut self, received: Option<Event>) -> Result<Accepted, NotAccepted> {
        match received {
            Some(Event::Queued { prompt, at }) => {
                self.queued(&prompt, at);
                Ok(Accepted { prompt_tokens: prompt.len() })
            }
            Some(Event::Refused(refusal)) => {
                self.refused();
                Err(refusal.into())
            }
            other => match self.absorb(other) {
                Some(TextEvent::Failed(failure)) => Err(failure.into()),
                event => unreachable!("a sequence's first event is Queued, Refused or Failed, not {event:?}"),
            },
        }
    }

    /// The next piece of text, or `None` after the end.
    pub async fn next(&mut self) -> Option<TextEvent> {
        loop {
            if let Some(end) = self.end.take() {
                return Some(end);
            }
            let received = self.events.as_ref()?.recv_async().await.ok();
            if let Some(event) = self.absorb(received) {
                return Some(event);
            }
        }
    }

    /// As [`next`](Self::next), for a thread that may block.
    pub fn next_blocking(&mut self) -> Option<TextEvent> {
        loop {
            if let Some(end) = self.end.take() {
                return Some(end);
            }
            let received = self.events.as_ref()?.recv().ok();
            if let Some(event) = self.absorb(received) {
                return Some(event);
            }
        }
    }

    /// Tokens in and out so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// `None` is a channel that closed without a terminal event: whatever held its other end is gone.
    fn absorb(&mut self, received: Option<Event>) -> Option<TextEvent> {
        match received {
            Some(Event::Queued { prompt, at }) => {
                self.queued(&prompt, at);
                None
            }
            Some(Event::Started { cached_tokens, at }) => {
                self.usage.cached_tokens = cached_tokens;
                self.timeline.started(cached_tokens, at);
                None
            }
            Some(Event::Token { id, at }) => Some(self.token(id, at)),
            Some(Event::Finished { reason, at }) => Some(self.finish(reason, at)),
            Some(Event::Refused(refusal)) => {
                self.refused();
                Some(TextEvent::Failed(Failure(refusal.to_string())))
            }
            Some(Event::Failed(failure)) => Some(self.fail(failure)),
            None => Some(self.fail(Failure("the sequence was lost: its worker has stopped".into()))),
        }
    }

    fn queued(&mut self, prompt: &[TokenId], at: Instant) {
        if self.continues_prompt {
            let tail = &prompt[prompt.len().saturating_sub(PROMPT_TAIL)..];
            self.detokenizer = self.detokenizer.clone().with_prefix(tail);
        }
        self.usage.prompt_tokens = prompt.len();
        self.timeline.queued(prompt.len(), at);
    }

    fn token(&mut self, id: TokenId, at: Instant) -> TextEvent {
        self.usage.completion_tokens += 1;
        self.timeline.token(at);
        let text = match self.stop.push(self.detokenizer.push(id)) {
            Shown::Text(text) => text,
            Shown::Last(text) => {
                self.end = Some(self.ended(FinishReason::Stop, String::new(), at));
                text
            }
        };
        TextEvent::Token { id, text }
    }

    fn finish(&mut self, reason: FinishReason, at: Instant) -> TextEvent {
        match self.stop.push(self.detokenizer.finish()) {
            Shown::Text(text) => {
                let text = text + &self.stop.finish();
                self.ended(reason, text, at)
            }
            Shown::Last(text) => self.ended(FinishReason::Stop, text, at),
        }
    }

    fn ended(&mut self, reason: FinishReason, text: String, at: Instant) -> TextEvent {
        self.events = None;
        self.timeline.finished(reason, at);
        TextEvent::Finished { reason, text, usage: self.usage }
    }

    fn fail(&mut self, failure: Failure) -> TextEvent {
        self.events = None;
        self.timeline.failed();
        TextEvent::Failed(failure)
    }

    fn refused(&mut self) {
        self.events = None;
        self.timeline.refused();
    }
}

/// What was sent and never read still happened: the metrics get it.
impl Drop for Generation {
    fn drop(&mut self) {
        while let Some(event) = self.events.as_ref().and_then(|events| events.try_recv().ok()) {
            match event {
                Event::Queued { prompt, at } => self.timeline.queued(prompt.len(), at),
                Event::Started { cached_tokens, at } => self.timeline.started(cached_tokens, at),
                Event::Token { at, .. } => self.timeline.token(at),
                Event::Finished { reason, at } => self.timeline.finished(reason, at),
                Event::Refused(_) => self.timeline.refused(),
                Event::Failed(_) => self.timeline.failed(),
            }
        }
    }
}
