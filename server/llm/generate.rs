//! Offline use: many prompts in, texts or a stream of events out, without an async runtime.
//!
//! Prompts beyond the permits wait their turn. Does not know http; chat and bench stand on this.
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};
use minisgl_kernels::TokenId;
use minisgl_tokenizer::ChatMessage;

use super::generation::{Generation, NotAccepted, TextEvent};
use super::params::{BadParam, SamplingParams};
use super::{Llm, SubmitError};
use crate::request::{FinishReason, Prompt, Request};

/// One or many prompts: texts, token ids, or conversations. Anything that is one of these converts.
#[derive(Clone, Debug)]
pub struct Prompts(Vec<Prompt>);

/// One set of parameters for all prompts, or one for each.
#[derive(Clone, Debug)]
pub enum Params {
    /// The same for all.
    All(SamplingParams),
    /// As many as there are prompts.
    Each(Vec<SamplingParams>),
}

/// What a prompt was completed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The text, up to a stop string or an end-of-sequence token.
    pub text: String,
    /// Every token that was generated, an end-of-sequence token and those of a stop string too.
    pub token_ids: Vec<TokenId>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens that the prefix cache held.
    pub cached_tokens: usize,
}

/// Why there are no texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// A parameter out of its range.
    #[error(transparent)]
    Param(#[from] BadParam),
    /// As many parameters as prompts are needed, or one for all.
    #[error("{params} sampling parameters for {prompts} prompts")]
    Lengths {
        /// How many prompts.
        prompts: usize,
        /// How many parameters.
        params: usize,
    },
    /// The server takes nothing.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A prompt cannot run, or its sequence failed.
    #[error("prompt {index}: {why}")]
    Prompt {
        /// Which, from 0.
        index: usize,
        /// Why.
        why: NotAccepted,
    },
}

impl Llm {
    /// Completes every prompt, in order. The first that cannot run, or fails, fails all.
    pub fn generate(
        &self,
        prompts: impl Into<Prompts>,
        params: impl Into<Params>,
    ) -> Result<Vec<Completion>, GenerateError> {
        let events = self.generate_stream(prompts, params)?;
        let mut texts: Vec<(String, Vec<TokenId>)> = vec![Default::default(); events.prompts];
        let mut done: Vec<Option<Completion>> = vec![None; events.prompts];
        for event in events {
            let (index, event) = event?;
            match event {
                TextEvent::Token { id, text } => {
                    texts[index].0 += &text;
                    texts[index].1.push(id);
                }
                TextEvent::Finished { reason, text: rest, usage } => {
                    let (text, token_ids) = std::mem::take(&mut texts[index]);
                    done[index] = Some(Completion {
                        text: text + &rest,
                        token_ids,
                        finish_reason: reason,
                        prompt_tokens: usage.prompt_tokens,
                        cached_tokens: usage.cached_tokens,
                    });
                }
                TextEvent::Failed(why) => return Err(GenerateError::Prompt { index, why: why.into() }),
            }
        }
        Ok(done.into_iter().map(|completion| completion.expect("every prompt ended")).collect())
    }

    /// The same as events, each with the index of its prompt, in the order in which they come. Dropping the iterator
    /// aborts what is left.
    pub fn generate_stream(
        &self,
        prompts: impl Into<Prompts>,
        params: impl Into<Params>,
    ) -> Result<GenerateStream<'_>, GenerateError> {
        let Prompts(prompts) = prompts.into();
        let params = match params.into() {
            Params::All(params) => vec![params; prompts.len()],
            Params::Each(params) => params,
        };
        if params.len() != prompts.len() {
            return Err(GenerateError::Lengths { prompts: prompts.len(), params: params.len() });
        }
        let waiting: VecDeque<Request> = prompts
            .into_iter()
            .zip(params)
            .map(|(prompt, params)| params.request(prompt, 1))
            .collect::<Result<_, _>>()?;
        Ok(GenerateStream { llm: self, prompts: waiting.len(), waiting, running: SelectAll::new() })
    }
}

type Indexed = (usize, Result<TextEvent, NotAccepted>);

/// Events of many prompts as they come. See [`Llm::generate_stream`].
pub struct GenerateStream<'a> {
    llm: &'a Llm,
    /// How many there are in all.
    prompts: usize,
    waiting: VecDeque<Request>,
    running: SelectAll<BoxStream<'static, Indexed>>,
}

impl GenerateStream<'_> {
    /// Submits what finds a permit; waits for one only where nothing else would come.
    fn submit(&mut self) -> Result<(), SubmitError> {
        while let Some(request) = self.waiting.pop_front() {
            let submitted = if self.running.is_empty() {
                self.llm.submit_waiting(request)
            } else {
                match self.llm.permits().try_acquire(request.n) {
                    Some(permits) => self.llm.submit_with(request, permits, std::time::Instant::now()),
                    None => {
                        self.waiting.push_front(request);
                        return Ok(());
                    }
                }
            };
            let generation = submitted?.pop().expect("one choice was asked for");
            let index = self.prompts - self.waiting.len() - 1;
            self.running.push(events(index, generation).boxed());
        }
        Ok(())
    }
}

impl Iterator for GenerateStream<'_> {
    type Item = Result<(usize, TextEvent), GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.submit() {
            self.waiting.clear();
            return Some(Err(error.into()));
        }
        let (index, event) = block_on(self.running.next())?;
        Some(event.map(|event| (index, event)).map_err(|why| GenerateError::Prompt { index, why }))
    }
}

/// A generation's events as a stream; a refusal is its only item.
fn events(index: usize, generation: Generation) -> impl futures_util::Stream<Item = Indexed> + Send {
    let admitted = stream::once(async move {
        let mut generation = generation;
        let accepted = generation.accepted().await;
        (generation, accepted)
    });
    admitted.flat_map(move |(generation, accepted)| {
        let refused = stream::iter(accepted.err().map(|why| (index, Err(why))));
        let texts = stream::unfold(generation, move |mut generation| async move {
            let event = generation.next().await?;
            Some(((index, Ok(event)), generation))
        });
        refused.chain(texts)
    })
}

/// Runs a future on this thread, parked while it waits: a whole runtime would forbid callers that are inside one.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

impl From<Prompt> for Prompts {
    fn from(prompt: Prompt) -> Self {
        Self(vec![prompt])
    }
}

impl From<Vec<Prompt>> for Prompts {
    fn from(prompts: Vec<Prompt>) -> Self {
        Self(prompts)
    }
}

impl From<&str> for Prompts {
    fn from(text: &str) -> Self {
        Prompt::Text(text.to_owned()).into()
    }
}

impl From<String> for Prompts {
    fn from(text: String) -> Self {
        Prompt::Text(text).into()
    }
}

impl From<Vec<TokenId>> for Prompts {
    fn from(tokens: Vec<TokenId>) -> Self {
        Prompt::Tokens(tokens).into()
    }
}

impl From<Vec<ChatMessage>> for Prompts {
    fn from(messages: Vec<ChatMessage>) -> Self {
        Prompt::Chat(messages).into()
    }
}

impl<const N: usize> From<[&str; N]> for Prompts {
    fn from(texts: [&str; N]) -> Self {
        Self(texts.iter().map(|text| Prompt::Text((*text).to_owned())).collect())
    }
}

impl From<&[&str]> for Prompts {
    fn from(texts: &[&str]) -> Self {
        Self(texts.iter().map(|text| Prompt::Text((*text).to_owned())).collect())
    }
}

impl From<Vec<String>> for Prompts {
    fn from(texts: Vec<String>) -> Self {
        Self(texts.into_iter().map(Prompt::Text).collect())
    }
}

impl From<Vec<Vec<TokenId>>> for Prompts {
    fn from(prompts: Vec<Vec<TokenId>>) -> Self {
        Self(prompts.into_iter().map(Prompt::Tokens).collect())
    }
}

impl From<SamplingParams> for Params {
    fn from(params: SamplingParams) -> Self {
        Self::All(params)
    }
}

impl From<&SamplingParams> for Params {
    fn from(params: &SamplingParams) -> Self {
        Self::All(params.clone())
    }
}

impl From<Vec<SamplingParams>> for Params {
    fn from(params: Vec<SamplingParams>) -> Self {
        Self::Each(params)
    }
}
