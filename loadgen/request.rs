//! A run's requests as planned, and as they are sent: plain data between the workload, the prompts and the run.
//!
//! Owns the vocabulary of the three. Decides nothing.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::lengths::{Clamped, Lengths};
use crate::traces::Conversation;

/// The requests of one run, and what holds for all of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunPlan {
    /// In the order in which they are sent; only turns that wait for others may change it.
    pub(crate) requests: Vec<Request>,
    /// Closed loop: the places, each of which sends its next request when its last one ends. None where every request
    /// says its own time.
    pub(crate) places: Option<Places>,
    /// No request begins later than this after the run's start.
    pub(crate) until: Option<Duration>,
    /// How many requests the model's context made shorter.
    pub(crate) clamped: Clamped,
    /// A loop that ends by time alone: where these do not last until then, more can be had.
    pub(crate) endless: bool,
}

/// A closed loop's places. They open one after another, so that no burst's own queueing stands in the first figures; each
/// then goes on as fast as the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// Requests in flight at most.
    pub(crate) count: usize,
    /// Over which they open, the first at once.
    pub(crate) ramp: Duration,
}

impl Places {
    /// When a place opens, after the run's start.
    pub(crate) fn opens(self, place: usize) -> Duration {
        match self.count {
            0 | 1 => Duration::ZERO,
            count => self.ramp.mul_f64(place.min(count - 1) as f64 / (count - 1) as f64),
        }
    }
}

/// One request of a run, before its prompt is made. Its place in the run is its index; a parent stands before its children.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// When it is sent.
    pub(crate) start: Start,
    /// Tokens in and out, history included. Of a text prompt, what its text has: filled in when the tokenizer is known,
    /// 0 until then or without one.
    pub(crate) lengths: Lengths,
    /// The answer ends where the model ends it: nothing makes it go on, and the output length is the most it may have, 0
    /// for no bound.
    pub(crate) ends_itself: bool,
    /// What its prompt is made of.
    pub(crate) prompt: Prompt,
    /// The turn before it, whose live answer its prompt quotes; only with causal turns.
    pub(crate) parent: Option<usize>,
    /// Its client leaves so long after it was sent.
    pub(crate) cancel_after: Option<Duration>,
    /// Index into the workload's length classes; 0 where there is one.
    pub(crate) class: u16,
}

/// When a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Open loop: so long after the run's start, whatever the server does.
    At(Duration),
    /// Closed loop: when a place is free.
    WhenFree,
    /// So long after another request of the run ended (causal turns), and not before `not_before`; never where that one
    /// failed. In a closed loop it then takes the next free place, in front of all that never began.
    After {
        /// Its index.
        parent: usize,
        /// From its end.
        delay: Duration,
        /// After the run's start: the trace's own time, where it has one.
        not_before: Duration,
    },
}

/// What a prompt is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Prompt {
    /// Tokens that no other prompt shares.
    Random,
    /// A prefix of the one text that all prompts are prefixes of.
    Shared,
    /// Blocks of tokens named by the trace.
    Blocks {
        /// The ids, first block first.
        ids: Arc<[u64]>,
        /// Tokens of a whole block.
        block_size: usize,
        /// Factor of the prompt's length, so of a block's.
        scale: f64,
    },
    /// A group's common beginning of so many tokens, then its own.
    Group {
        /// Which group.
        group: u64,
        /// Tokens in common.
        tokens: usize,
    },
    /// A text of the trace's: one user message.
    Text(Arc<str>),
    /// Messages of the trace's.
    Messages(Conversation),
}

impl Prompt {
    /// How many messages it has.
    pub(crate) fn messages(&self) -> usize {
        if let Self::Messages(conversation) = self { conversation.prompt().len() } else { 1 }
    }
}

/// One request as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) start: Start,
    pub(crate) body: Body,
    pub(crate) lengths: Lengths,
    pub(crate) cancel_after: Option<Duration>,
    pub(crate) class: u16,
    /// Its answer's text is wanted: a later body quotes it, or its tokens are to be counted.
    pub(crate) keep_answer: bool,
}

/// A request's JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// Complete.
    Whole(Bytes),
    /// With the answers of earlier requests in it, as JSON string contents.
    Quoting(Vec<Piece>),
}

/// A part of a body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// As it stands.
    Json(Bytes),
    /// The escaped text of this request's answer, without quotation marks; a cancelled one's as far as it came.
    AnswerOf(usize),
}
