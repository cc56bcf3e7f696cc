//! What a streamed answer shows as it arrives.
//!
//! Owns which chunk counts as what and at which time, and when an answer is whole. Takes times as given; knows nothing of
//! sockets or HTTP.
use minisgl_config::loadgen::settings::Endpoint;

use super::chunk::{Chunk, Kind, TokenDelta};
use super::reactor::Tally;
use super::scan::Form;
use super::sse::{Event, LONGEST_EVENT, SseParser, TooLong};
use crate::records::{Failure, Reason, Record};

/// Events that an answer may have for each token asked for, and besides: more is a stream without end.
const EVENTS_A_TOKEN: u64 = 16;
const EVENTS_BESIDES: u64 = 1024;

/// One answer, read as far as it came. What it shows goes into the request's record.
pub(crate) struct Answer {
    parser: SseParser,
    endpoint: Endpoint,
    events_left: u64,
    done: bool,
    /// Its text, JSON-escaped, where it is kept.
    text: Option<Vec<u8>>,
    /// The time of every event but `[DONE]`, where they are kept.
    tics: Option<Vec<u64>>,
}

/// What of an answer is kept besides its figures.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keep {
    pub(crate) text: bool,
    pub(crate) tics: bool,
}

impl From<TooLong> for Failure {
    fn from(_: TooLong) -> Self {
        Self::new(Reason::BadEvent, format!("an event of more than {LONGEST_EVENT} bytes"))
    }
}

impl Answer {
    /// An answer of at most `output_len` tokens.
    pub(crate) fn new(endpoint: Endpoint, output_len: usize, keep: Keep) -> Self {
        Self {
            parser: SseParser::default(),
            endpoint,
            events_left: match output_len {
                0 => EVENTS_A_TOKEN * minisgl_config::LONGEST as u64, // it ends where the model ends it
                n => EVENTS_A_TOKEN * n as u64 + EVENTS_BESIDES,
            },
            done: false,
            text: keep.text.then(Vec::new),
            tics: keep.tics.then(Vec::new),
        }
    }

    /// See `Exchange::touch`.
    pub(super) fn touch(&self) -> u64 {
        self.events_left + self.parser.is_inside_event() as u64 + self.tics.is_some() as u64
    }

    /// Takes the bytes that a read at `at` brought.
    pub(crate) fn read(&mut self, bytes: &[u8], at: u64, seen: &mut Seen<'_>) -> Result<(), Failure> {
        // The parser lends its events while the rest of the answer takes them.
        let mut parser = std::mem::take(&mut self.parser);
        let result = parser.push(bytes, |event| self.event(event, at, seen));
        self.parser = parser;
        result
    }

    /// Whether `[DONE]` came: nothing after it counts.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// The body ended here, `how` if not as HTTP would have it: was the answer whole?
    pub(crate) fn end(&self, record: &Record, how: Option<Failure>) -> Result<(), Failure> {
        let whole = self.done || (record.finish.is_some() && how.is_none());
        if !whole {
            return Err(how.unwrap_or_else(|| {
                let place = if self.parser.is_inside_event() { "within an event" } else { "between two events" };
                let chunks = record.chunks;
                let missing = "without finish_reason or [DONE]";
                Failure::new(Reason::EndedEarly, format!("after {chunks} content chunks, {place}, {missing}"))
            }));
        }
        // A token may have no text, and a server no chunk for it: an end-of-sequence token that is the whole answer.
        match (record.chunks, record.usage.map_or(0, |usage| usage.completion_tokens)) {
            (0, 0) => Err(Failure::new(Reason::NoToken, "the answer ended without a content chunk")),
            _ => Ok(()),
        }
    }

    /// The text and the chunks' times, where they were kept.
    pub(crate) fn into_kept(self) -> (Option<Vec<u8>>, Option<Vec<u64>>) {
        (self.text, self.tics)
    }

    fn event(&mut self, event: Event<'_>, at: u64, seen: &mut Seen<'_>) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        self.events_left = self.events_left.checked_sub(1).ok_or_else(|| {
            let chunks = seen.record.chunks;
            Failure::new(Reason::Endless, format!("{chunks} content chunks came, far more than asked for"))
        })?;
        if event.data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        if let Some(tics) = &mut self.tics {
            tics.push(at);
        }
        if self.endpoint == Endpoint::Generate && event.name != b"error" {
            self.generated_text(event.data, at, seen);
            return Ok(());
        }
        if event.name.is_empty()
            && let Some(more) = seen.form.plain_text(event.data)
        {
            if let Some(text) = &mut self.text {
                text.extend_from_slice(more);
            }
            self.token(TokenDelta::Text, at, seen);
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
        seen.record.finish = chunk.finish.or(seen.record.finish);
        seen.record.usage = chunk.usage.or(seen.record.usage);
        seen.record.usage_alone = chunk.usage.is_some() && chunk.finish.is_none() && chunk.token == TokenDelta::None;
        if chunk.token != TokenDelta::None {
            match chunk.kind {
                Kind::Content => {}
                Kind::Reasoning => seen.record.reasoning_chunks += 1,
                Kind::ToolCall => seen.record.tool_call_chunks += 1,
            }
            if let (Some(text), Some(more)) = (&mut self.text, Chunk::escaped_content(event.data)) {
                text.extend_from_slice(more);
            }
            self.token(chunk.token, at, seen);
        }
        Ok(())
    }

    /// An event of `/generate` is a token's text.
    fn generated_text(&mut self, data: &[u8], at: u64, seen: &mut Seen<'_>) {
        if let Some(text) = &mut self.text {
            let quoted = serde_json::to_string(&String::from_utf8_lossy(data)).expect("a string becomes JSON");
            text.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        }
        let token = if data.is_empty() { TokenDelta::Empty } else { TokenDelta::Text };
        self.token(token, at, seen);
    }

    fn token(&mut self, token: TokenDelta, at: u64, seen: &mut Seen<'_>) {
        let record = &mut *seen.record;
        match (record.first_token, record.last_token) {
            (Some(_), Some(last)) => seen.tally.on_gap(at, at.saturating_sub(last)),
            _ if token == TokenDelta::Text => {
                record.first_token = Some(at);
                seen.tally.on_first_token(at.saturating_sub(record.sent));
            }
            // An empty delta before any text is a token, but a reader has seen nothing yet.
            _ => seen.tally.on_empty_chunk(),
        }
        record.last_token = Some(at);
        record.chunks += 1;
    }
}

/// Where an answer's figures go, and what is known of its events.
pub(crate) struct Seen<'a> {
    pub(crate) record: &'a mut Record,
    pub(crate) tally: &'a mut Tally,
    /// Of the events that the thread has read.
    pub(crate) form: &'a mut Form,
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

    /// What the reads at 1 ms, 2 ms, … leave.
    struct Read {
        record: Record,
        tally: Tally,
        text: Option<Vec<u8>>,
        tics: Option<Vec<u64>>,
        ended: Result<(), Reason>,
    }

    fn read(endpoint: Endpoint, reads: &[&str]) -> Read {
        let (mut record, mut tally) = (Record::default(), Tally::unseen());
        let mut answer = Answer::new(endpoint, 4, Keep { text: true, tics: true });
        let mut form = Form::default();
        let mut seen = Seen { record: &mut record, tally: &mut tally, form: &mut form };
        let times = (1..).map(|ms| ms * 1_000_000);
        let read = reads.iter().zip(times).try_for_each(|(read, at)| answer.read(read.as_bytes(), at, &mut seen));
        let ended = read.and_then(|()| answer.end(&record, None)).map_err(|failure| failure.reason);
        let (text, tics) = answer.into_kept();
        Read { record, tally, text, tics, ended }
    }

    #[test]
    fn times_are_of_the_right_chunks() {
        let (empty, a, both) = (content(""), content("a"), [content(""), content("b")].concat());
        let read = read(Endpoint::Chat, &[ROLE, &empty, &a, &both, FINISH, USAGE, DONE]);
        assert_eq!(read.ended, Ok(()));
        let record = &read.record;
        assert_eq!((record.first_token, record.last_token, record.chunks), (Some(3_000_000), Some(4_000_000), 4));
        let usage = record.usage.unwrap();
        assert!(record.usage_alone);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (9, 4));
        assert_eq!(read.text.unwrap(), b"ab");
        assert_eq!(read.tics.unwrap(), [1, 2, 3, 4, 4, 5, 6].map(|ms| ms * 1_000_000));
        let gaps = read.tally.gaps.summary().unwrap();
        assert_eq!((gaps.mean, gaps.max), (0.5, 1.0));
    }

    #[test]
    fn generate_streams_plain_text() {
        let reads = ["data: a\n\n", "data: \ndata: \n\n", "data: \n\ndata: [DONE]\n\n"];
        let read = read(Endpoint::Generate, &reads);
        assert_eq!((read.ended, read.record.chunks, read.text.unwrap()), (Ok(()), 3, b"a\\n".to_vec()));
    }

    #[test]
    fn only_a_finish_or_done_makes_an_answer_whole() {
        let a = content("a");
        let reason = |reads: &[&str]| read(Endpoint::Chat, reads).ended;
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
    fn tokens_without_text_are_an_answer_where_the_server_counts_them() {
        let counted = read(Endpoint::Chat, &[ROLE, FINISH, USAGE, DONE]);
        assert_eq!((counted.ended, counted.record.first_token, counted.record.chunks), (Ok(()), None, 0));
        let none = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":0}}\n\n";
        assert_eq!(read(Endpoint::Chat, &[ROLE, FINISH, none, DONE]).ended, Err(Reason::NoToken));
    }

    #[test]
    fn a_stream_without_end_ends_here() {
        let many = content("a").repeat(10_000);
        let read = read(Endpoint::Chat, &[&many]);
        assert_eq!(read.ended, Err(Reason::Endless));
        assert!(read.record.chunks < 2000);
    }
}
