//! What a trace is, whatever form it was read from.
//!
//! Owns the types and their order. Knows nothing of files, prompts or servers.
use std::fmt;
use std::sync::Arc;

/// A trace that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The file's name, for messages.
    pub name: String,
    /// What its content showed it to be.
    pub format: TraceFormat,
    /// SHA-256 of the file as it is stored, compressed or not; of the whole file, also where a limit stopped the reading.
    pub sha256: [u8; 32],
    /// Tokens that a hash id stands for; `None`: no request has ids.
    pub block_size: Option<usize>,
    /// Whether it says when requests arrive; otherwise every time is 0.
    pub timed: bool,
    /// Records that hold no request: chats without an answered question.
    pub skipped: usize,
    /// Its requests by time; those of one time in the file's order. Never empty.
    pub requests: Vec<TraceRequest>,
}

impl Trace {
    /// The SHA-256 as it is usually written.
    pub fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// One request of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRequest {
    /// When it arrived, in seconds of the trace's own clock. A turn of which only [`Turn::delay_s`] is known has the earliest
    /// time that it could have: its parent's and the delay.
    pub timestamp_s: f64,
    /// Tokens of its whole prompt, history included; 0 where the trace says so, `None` where it gives a text instead, whose
    /// tokens are to be counted.
    pub input_length: Option<usize>,
    /// Tokens of its answer; 0 where the trace says so, `None` where it does not say: the count of [`TracePrompt::answer`], if
    /// there is one, else the model's own end.
    pub output_length: Option<usize>,
    /// Ids of the prompt's blocks of [`Trace::block_size`] tokens, in order, the last one partial: equal ids are equal tokens.
    /// There may be fewer or more than the prompt's length asks for; see [`super::block_ranges`].
    pub hash_ids: Vec<u64>,
    /// Its place in a chat; `None`: the trace links nothing here.
    pub session: Option<Turn>,
    /// What is asked.
    pub prompt: TracePrompt,
    /// Recorded as failed, without an answer: not to be replayed.
    pub failed: bool,
}

impl TraceRequest {
    /// A request of these lengths, of which nothing else is known.
    pub fn of_lengths(timestamp_s: f64, input_length: usize, output_length: usize) -> Self {
        Self {
            timestamp_s,
            input_length: Some(input_length),
            output_length: Some(output_length),
            hash_ids: Vec::new(),
            session: None,
            prompt: TracePrompt::Lengths,
            failed: false,
        }
    }
}

/// A request's place in a chat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// The request that this one follows, as its index in [`Trace::requests`]: always an earlier one. `None`: the first of
    /// its chat, or its parent is not in the trace.
    pub parent: Option<usize>,
    /// Which turn of its chat it is, as the trace counts (mostly from 1).
    pub number: u32,
    /// How long after the end of the parent's answer it is sent, where the trace says so.
    pub delay_s: Option<f64>,
}

/// What a request asks.
#[derive(Clone, Debug, PartialEq)]
pub enum TracePrompt {
    /// Tokens made to its length: from its ids, or at random.
    Lengths,
    /// One user message. Where the turn has a parent, that one's prompt and its answer, as it came, stand before it.
    Text(String),
    /// The messages of a chat so far, recorded answers among them.
    Messages(Conversation),
}

impl TracePrompt {
    /// The recorded answer, if there is one.
    pub fn answer(&self) -> Option<&str> {
        match self {
            Self::Messages(conversation) => conversation.answer(),
            Self::Lengths | Self::Text(_) => None,
        }
    }
}

/// The beginning of a recorded chat; all turns of a chat share its messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    messages: Arc<[Message]>,
    prompt: usize,
}

impl Conversation {
    /// The first `prompt` of these messages.
    pub fn new(messages: Arc<[Message]>, prompt: usize) -> Self {
        let prompt = prompt.min(messages.len());
        Self { messages, prompt }
    }

    /// What is sent.
    pub fn prompt(&self) -> &[Message] {
        &self.messages[..self.prompt]
    }

    /// The answer that was recorded to it.
    pub fn answer(&self) -> Option<&str> {
        let next = self.messages.get(self.prompt)?;
        (next.role == "assistant").then_some(next.content.as_str())
    }
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// A trace's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// Alibaba's Qwen-Bailian usage traces: JSONL, seconds, chats linked by `parent_chat_id`, 16-token blocks.
    QwenBailian,
    /// Moonshot's Mooncake traces: JSONL, milliseconds, 512-token blocks.
    Mooncake,
    /// BurstGPT: CSV, seconds, sessions where the header names them.
    BurstGpt,
    /// Azure's LLM inference traces of 2023 and 2024: CSV, dates.
    Azure,
    /// ShareGPT: a JSON array of recorded chats, without times or lengths.
    ShareGpt,
    /// AIPerf's `single_turn`: JSONL, a text a line.
    AiperfSingleTurn,
    /// AIPerf's `multi_turn`: JSONL, a chat a line.
    AiperfMultiTurn,
    /// AIPerf's `mooncake_trace`: Mooncake's, with texts or messages instead of ids where a line has them, and sessions.
    AiperfMooncake,
}

impl fmt::Display for TraceFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QwenBailian => "Qwen-Bailian JSONL",
            Self::Mooncake => "Mooncake JSONL",
            Self::BurstGpt => "BurstGPT CSV",
            Self::Azure => "Azure CSV",
            Self::ShareGpt => "ShareGPT JSON",
            Self::AiperfSingleTurn => "AIPerf single_turn JSONL",
            Self::AiperfMultiTurn => "AIPerf multi_turn JSONL",
            Self::AiperfMooncake => "AIPerf mooncake_trace JSONL",
        })
    }
}

/// Sorts by time, equals by the file's order, and makes the parents, given as places in the file, places in the result. A
/// parent that does not come earlier is none.
pub(super) fn sorted(requests: Vec<TraceRequest>) -> Vec<TraceRequest> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by(|&a, &b| requests[a].timestamp_s.total_cmp(&requests[b].timestamp_s));
    let mut place = vec![0; requests.len()];
    for (to, &from) in order.iter().enumerate() {
        place[from] = to;
    }
    let mut requests: Vec<Option<TraceRequest>> = requests.into_iter().map(Some).collect();
    let in_order = order.iter().filter_map(|&from| requests[from].take());
    in_order
        .enumerate()
        .map(|(to, mut request)| {
            if let Some(turn) = &mut request.session {
                turn.parent = turn.parent.and_then(|parent| place.get(parent).copied()).filter(|&parent| parent < to);
            }
            request
        })
        .collect()
}
