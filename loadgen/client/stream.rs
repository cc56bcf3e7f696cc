//! What a streamed answer shows as it arrives.
//!
//! Owns which chunk counts as what and at which time, and when an answer is whole. Takes times as given; knows nothing of
//! sockets or HTTP.
use super::chunk::{Chunk, TokenDelta, Usage};
use super::sse::{Event, LONGEST_EVENT, SseParser, TooLong};
use crate::counters::Counters;
use crate::records::{Failure, Reason};

/// Events that an answer may have for each token asked for, and besides: more is a stream without end.
const EVENTS_A_TOKEN: u64 = 16;
const EVENTS_BESIDES: u64 = 1024;

/// One answer, read as far as it came.
pub(crate) struct Answer<'a> {
    parser: SseParser,
    seen: Seen<'a>,
}

/// What the events so far showed.
struct Seen<'a> {
    counters: &'a Counters,
    /// The read that brought the first non-empty content or reasoning delta.
    first_token: Option<u64>,
    /// The read that brought the last content chunk.
    last_token: Option<u64>,
    chunks: u64,
    /// Between content chunks from the first token on, in microseconds. Kept until the request's end, then summed up.
    gaps_us: Vec<u32>,
    usage: Option<Usage>,
    finished: bool,
    done: bool,
    events_left: u64,
}

/// What remains of an answer when it is over.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) first_token: Option<u64>,
    pub(crate) last_token: Option<u64>,
    pub(crate) chunks: u64,
    pub(crate) gaps_us: Vec<u32>,
    pub(crate) usage: Option<Usage>,
}

impl From<TooLong> for Failure {
    fn from(_: TooLong) -> Self {
        Self::new(Reason::BadEvent, format!("an event of more than {LONGEST_EVENT} bytes"))
    }
}

impl<'a> Answer<'a> {
    /// An answer of at most `output_len` tokens.
    pub(crate) fn new(output_len: usize, counters: &'a Counters) -> Self {
        let seen = Seen {
            counters,
            first_token: None,
            last_token: None,
            chunks: 0,
            gaps_us: Vec::new(),
            usage: None,
            finished: false,
            done: false,
            events_left: EVENTS_A_TOKEN * output_len as u64 + EVENTS_BESIDES,
        };
        Self { parser: SseParser::default(), seen }
    }

    /// Takes the bytes that a read at `at` brought.
    pub(crate) fn read(&mut self, bytes: &[u8], at: u64) -> Result<(), Failure> {
        let seen = &mut self.seen;
        self.parser.push(bytes, |event| seen.event(event, at))
    }

    /// Whether `[DONE]` came: nothing after it counts.
    pub(crate) fn is_done(&self) -> bool {
        self.seen.done
    }

    /// The body ended here, `how` if not as HTTP would have it: was the answer whole?
    pub(crate) fn end(&self, how: Option<Failure>) -> Result<(), Failure> {
        let seen = &self.seen;
        let whole = seen.done || (seen.finished && how.is_none());
        if !whole {
            return Err(how.unwrap_or_else(|| {
                let place = if self.parser.is_inside_event() { "within an event" } else { "between two events" };
                Failure::new(
                    Reason::EndedEarly,
                    format!("after {} content chunks, {place}, without finish_reason or [DONE]", seen.chunks),
                )
            }));
        }
        match seen.chunks {
            0 => Err(Failure::new(Reason::NoToken, "the answer ended without a content chunk")),
            _ => Ok(()),
        }
    }

    /// What was measured.
    pub(crate) fn measured(self) -> Measured {
        let Seen { first_token, last_token, chunks, gaps_us, usage, .. } = self.seen;
        Measured { first_token, last_token, chunks, gaps_us, usage }
    }
}

impl Seen<'_> {
    fn event(&mut self, event: Event, at: u64) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        self.events_left = self.events_left.checked_sub(1).ok_or_else(|| {
            Failure::new(Reason::Endless, format!("{} content chunks came, far more than asked for", self.chunks))
        })?;
        if event.data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk = match Chunk::parse(event.data) {
            Ok(chunk) => chunk,
            Err(_) if event.name == b"error" => {
                return Err(Failure::new(Reason::ErrorEvent, String::from_utf8_lossy(event.data)));
            }
            Err(error) => {
                let said = String::from_utf8_lossy(event.data);
                return Err(Failure::new(Reason::BadEvent, format!("{error} in `{said}`")));
            }
        };
        if let Some(error) = chunk.error {
            return Err(Failure::new(Reason::ErrorEvent, error));
        }
        if event.name == b"error" {
            return Err(Failure::new(Reason::ErrorEvent, String::from_utf8_lossy(event.data)));
        }
        self.finished |= chunk.finished;
        self.usage = chunk.usage.or(self.usage);
        if chunk.token != TokenDelta::None {
            self.token(chunk.token, at);
        }
        Ok(())
    }

    fn token(&mut self, token: TokenDelta, at: u64) {
        match (self.first_token, self.last_token) {
            (Some(_), Some(last)) => {
                let us = (at.saturating_sub(last) + 500) / 1000;
                self.gaps_us.push(u32::try_from(us).unwrap_or(u32::MAX));
                self.counters.on_token();
            }
            _ if token == TokenDelta::Text => {
                self.first_token = Some(at);
                self.counters.on_first_token();
            }
            // An empty delta before any text is a token, but a reader has seen nothing yet.
            _ => self.counters.on_token(),
        }
        self.last_token = Some(at);
        self.chunks += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> String {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    }

    const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    const FINISH: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    /// Reads at 1 ms, 2 ms, …
    fn answer<'a>(counters: &'a Counters, reads: &[&str]) -> (Answer<'a>, Result<(), Failure>) {
        counters.on_sent();
        let mut answer = Answer::new(4, counters);
        for (i, read) in reads.iter().enumerate() {
            if let Err(failure) = answer.read(read.as_bytes(), (i as u64 + 1) * 1_000_000) {
                return (answer, Err(failure));
            }
        }
        let ended = answer.end(None);
        (answer, ended)
    }

    #[test]
    fn times_are_of_the_right_chunks() {
        let counters = Counters::default();
        let (empty, a, both) = (content(""), content("a"), [content(""), content("b")].concat());
        let (answer, ended) = answer(&counters, &[ROLE, &empty, &a, &both, FINISH, USAGE, DONE]);
        assert_eq!(ended, Ok(()));
        let measured = answer.measured();
        assert_eq!((measured.first_token, measured.last_token), (Some(3_000_000), Some(4_000_000)));
        assert_eq!((measured.chunks, measured.gaps_us), (4, vec![1000, 0]));
        assert_eq!(measured.usage, Some(Usage { prompt_tokens: 9, completion_tokens: 4 }));
        assert_eq!(counters.bars(), [1, 0, 1, 3]);
    }

    #[test]
    fn only_a_finish_or_done_makes_an_answer_whole() {
        let a = content("a");
        let reason = |reads: &[&str]| answer(&Counters::default(), reads).1.map_err(|failure| failure.reason);
        assert_eq!(reason(&[ROLE, &a, DONE]), Ok(()));
        assert_eq!(reason(&[ROLE, &a, FINISH]), Ok(()));
        assert_eq!(reason(&[ROLE, &a]), Err(Reason::EndedEarly));
        assert_eq!(reason(&[ROLE, &a, "data: {\"choi"]), Err(Reason::EndedEarly));
        assert_eq!(reason(&[ROLE, FINISH, DONE]), Err(Reason::NoToken));
        assert_eq!(reason(&[]), Err(Reason::EndedEarly));
        assert_eq!(reason(&[&a, "data: {\"error\":{\"message\":\"x\"}}\n\n"]), Err(Reason::ErrorEvent));
        assert_eq!(reason(&[&a, "event: error\ndata: {}\n\n"]), Err(Reason::ErrorEvent));
        assert_eq!(reason(&[&a, "event: error\ndata: plain words\n\n"]), Err(Reason::ErrorEvent));
        assert_eq!(reason(&[&a, "data: words\n\n"]), Err(Reason::BadEvent));
        // Nothing after [DONE] counts.
        assert_eq!(reason(&[&a, DONE, "data: words\n\n"]), Ok(()));
    }

    #[test]
    fn a_stream_without_end_ends_here() {
        let counters = Counters::default();
        counters.on_sent();
        let mut answer = Answer::new(4, &counters);
        let reads = (0..10_000).map(|i| answer.read(content("a").as_bytes(), i)).find_map(Result::err);
        assert_eq!(reads.unwrap().reason, Reason::Endless);
        assert!(answer.measured().chunks < 2000);
    }
}
