//! The tokenizer workers' loop: template, encode, refuse.
//!
//! Owns the step from what was asked to what can run: past it every prompt is tokens that fit, and every bound is
//! clamped. Does not know who asked or when it will run. A panic while encoding fails its own request alone.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use minisgl_kernels::TokenId;
use minisgl_tokenizer::{AddSpecial, ChatOptions, Tokenizer};

use crate::batch::Capacity;
use crate::request::{Admission, Event, Failure, MaxTokens, Prompt, Refusal, Request, Submission};

/// No vocabulary's tokens are longer on average; the longest single ones, runs of spaces, have 128 to 256 bytes.
const MOST_BYTES_A_TOKEN: usize = 512;

/// What a worker needs. Workers share both channels.
#[derive(Clone)]
pub struct Intake {
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// What the engine holds.
    pub capacity: Capacity,
    /// To the scheduler. It has room for every permit.
    pub admissions: flume::Sender<Admission>,
}

impl Intake {
    /// Works until every sender of submissions is gone. The scheduler's end closes when the last worker returns.
    pub fn run(self, submissions: &flume::Receiver<Submission>) {
        for submission in submissions {
            self.take(submission);
        }
    }

    fn take(&self, Submission { request, sequences }: Submission) {
        if sequences.iter().all(|sequence| sequence.events.is_disconnected()) {
            return;
        }
        let tell = |event: Event| {
            for sequence in &sequences {
                // A closed channel is an abort, which the scheduler sees as well.
                let _ = sequence.events.send(event.clone());
            }
        };
        let encoded = catch_unwind(AssertUnwindSafe(|| self.encode(&request))).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            let said = said.unwrap_or("a panic without words");
            Err(NotEncoded::Panicked(said.to_owned()))
        });
        let (prompt, max_tokens) = match encoded {
            Ok(encoded) => encoded,
            Err(NotEncoded::Refused(refusal)) => return tell(Event::Refused(refusal)),
            Err(NotEncoded::Panicked(said)) => {
                return tell(Event::Failed(Failure(format!("encoding the prompt panicked: {said}"))));
            }
        };
        tell(Event::Queued { prompt: prompt.clone(), at: Instant::now() });
        let Request { sampling, ignore_eos, .. } = request;
        // Fails only where the scheduler is gone: dropping the handles then says so.
        let _ = self.admissions.send(Admission { prompt, max_tokens, sampling, ignore_eos, sequences });
    }

    /// The prompt's tokens and the output bound that fits beside them.
    fn encode(&self, request: &Request) -> Result<(Arc<[TokenId]>, usize), NotEncoded> {
        let encoding = |error: minisgl_tokenizer::TokenizerError| Refusal::Encoding(error.to_string());
        self.check_bytes(&request.prompt)?;
        if let Some(expected) = request.expected_content_tokens {
            self.compare(&request.prompt, expected);
        }
        let tokens = match &request.prompt {
            Prompt::Chat(messages) => {
                self.tokenizer.encode_chat(messages, &ChatOptions::default()).map_err(encoding)?
            }
            Prompt::Text(text) => self.tokenizer.encode(text, AddSpecial::Yes).map_err(encoding)?,
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        if tokens.is_empty() {
            return Err(Refusal::EmptyPrompt.into());
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= self.capacity.vocabulary) {
            return Err(Refusal::BadToken { id, last: self.capacity.vocabulary as TokenId - 1 }.into());
        }
        let longest = self.capacity.longest_sequence();
        if tokens.len() >= longest {
            return Err(Refusal::PromptTooLong { tokens: tokens.len(), limit: longest.saturating_sub(1) }.into());
        }
        let room = longest - tokens.len();
        let max_tokens = match request.max_tokens {
            MaxTokens::Room => room,
            MaxTokens::AtMost(asked) => asked.min(room),
        };
        Ok((tokens.into(), max_tokens))
    }

    /// Refuses text that cannot fit before it costs what encoding it would: gigabytes, for a body of the largest size.
    fn check_bytes(&self, prompt: &Prompt) -> Result<(), Refusal> {
        let bytes = match prompt {
            Prompt::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
            Prompt::Text(text) => text.len(),
            Prompt::Tokens(_) => 0,
        };
        let limit = self.capacity.longest_sequence().saturating_mul(MOST_BYTES_A_TOKEN);
        if bytes > limit { Err(Refusal::TextTooLong { bytes, limit }) } else { Ok(()) }
    }

    /// A client's count of the messages' own tokens, the template apart. Wrong counts make wrong benchmarks, so they are said.
    fn compare(&self, prompt: &Prompt, expected: usize) {
        let count = |text: &str| self.tokenizer.encode(text, AddSpecial::No).map(|tokens| tokens.len());
        let counted = match prompt {
            Prompt::Chat(messages) => messages.iter().map(|message| count(&message.content)).sum(),
            Prompt::Text(text) => count(text),
            Prompt::Tokens(tokens) => Ok(tokens.len()),
        };
        if let Ok(counted) = counted
            && counted != expected
        {
            tracing::warn!(expected, counted, "input_length_override is not the number of tokens of the messages");
        }
    }
}

enum NotEncoded {
    Refused(Refusal),
    Panicked(String),
}

impl From<Refusal> for NotEncoded {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
