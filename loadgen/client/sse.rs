//! Server-sent events, read as bytes: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
//!
//! Owns lines, comments, multi-line data and whatever way a network cuts them. Knows nothing of JSON, tokens or time; bytes
//! are never taken for text here, so a character split across two reads stays whole.

/// Longest line, and longest event. A chunk of a streamed answer has a few hundred bytes.
pub(crate) const LONGEST_EVENT: usize = 1 << 20;

/// One event, as lent to the reader's callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    /// Its `event` field; empty where there is none.
    pub(crate) name: &'a [u8],
    /// Its `data` lines, joined by line feeds.
    pub(crate) data: &'a [u8],
}

/// An event longer than [`LONGEST_EVENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// The state between two reads.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    /// The line that the last read cut.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    name: Vec<u8>,
    /// The last read ended in a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    /// A byte order mark may stand before the first line only.
    past_first_line: bool,
}

impl SseParser {
    /// Takes the bytes of one read and hands over every event that they complete.
    pub(crate) fn push<E: From<TooLong>>(
        &mut self,
        bytes: &[u8],
        mut on_event: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        if self.after_return && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            self.after_return = false;
        }
        while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
            let (end, returned) = (&rest[..at], rest[at] == b'\r');
            rest = &rest[at + 1..];
            if returned {
                self.after_return = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            if let Some(data) = self.whole_event(end, rest).filter(|_| !returned) {
                rest = &rest[1..];
                on_event(Event { name: &[], data })?;
            } else if self.line.is_empty() {
                self.take_line(end, &mut on_event)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(end);
                self.take_line(&line, &mut on_event)?;
                line.clear();
                self.line = line;
            }
        }
        if self.line.len() + rest.len() > LONGEST_EVENT {
            return Err(TooLong.into());
        }
        self.line.extend_from_slice(rest);
        Ok(())
    }

    /// Whether the bytes so far end within an event.
    pub(crate) fn is_inside_event(&self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    /// The data of an event that is this one line, with the end of the empty one behind it at hand: what nearly every event
    /// is, lent from where it lies.
    fn whole_event<'a>(&self, line: &'a [u8], rest: &[u8]) -> Option<&'a [u8]> {
        let between = self.line.is_empty() && !self.has_data && self.name.is_empty() && self.past_first_line;
        let value = line.strip_prefix(b"data:").filter(|_| between && rest.first() == Some(&b'\n'))?;
        Some(value.strip_prefix(b" ").unwrap_or(value)).filter(|value| value.len() < LONGEST_EVENT)
    }

    fn take_line<E: From<TooLong>>(
        &mut self,
        line: &[u8],
        on_event: &mut impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        let line = match std::mem::replace(&mut self.past_first_line, true) {
            true => line,
            false => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
        };
        if line.is_empty() {
            let result = match std::mem::take(&mut self.has_data) {
                true => on_event(Event { name: &self.name, data: &self.data }),
                false => Ok(()),
            };
            self.data.clear();
            self.name.clear();
            return result;
        }
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.data.len() + value.len() >= LONGEST_EVENT {
                    return Err(TooLong.into());
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(&value[..value.len().min(LONGEST_EVENT)]);
            }
            // Comments (an empty name), `id`, `retry` and what nobody defined.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Vec<u8>, Vec<u8>);

    impl From<TooLong> for String {
        fn from(_: TooLong) -> Self {
            "too long".to_owned()
        }
    }

    /// The events of a stream that arrives in these pieces.
    fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
        let (mut parser, mut events) = (SseParser::default(), Vec::new());
        for piece in pieces {
            let taken: Result<(), String> = parser.push(piece, |event| {
                events.push((event.name.to_vec(), event.data.to_vec()));
                Ok(())
            });
            taken.unwrap();
        }
        events
    }

    fn data(stream: &str) -> Vec<String> {
        events([stream.as_bytes()]).into_iter().map(|(_, data)| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn what_the_standard_says() {
        assert_eq!(data("data: a\n\ndata: b\n\n"), ["a", "b"]);
        assert_eq!(data("data: a\r\n\r\ndata: b\r\rdata: c\n\r\n"), ["a", "b", "c"]);
        assert_eq!(data(": comment\n\n:\n\ndata:a\ndata\ndata:  b\n\n"), ["a\n\n b"]);
        assert_eq!(data("id: 1\nretry: 2\nother: 3\n\n\n\ndata:\n\n"), [""]);
        assert_eq!(data("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
        assert_eq!(data("data: never dispatched\n"), [""; 0]);
        let named = events([&b"event: error\ndata: x\n\ndata: y\n\n"[..]]);
        assert_eq!(named, [(b"error".to_vec(), b"x".to_vec()), (Vec::new(), b"y".to_vec())]);
    }

    #[test]
    fn an_end_within_an_event_shows() {
        for (stream, inside) in
            [("", false), ("data: a\n\n", false), ("data: a\n", true), ("data: a", true), ("data: a\r\n\r", false)]
        {
            let mut parser = SseParser::default();
            parser.push(stream.as_bytes(), |_| Ok::<_, String>(())).unwrap();
            assert_eq!(parser.is_inside_event(), inside, "{stream:?}");
        }
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let fill = vec![b'x'; 1 << 16];
        let mut endless_line = SseParser::default();
        assert!((0..100).any(|_| endless_line.push(&fill, |_| Ok::<_, String>(())).is_err()));
        let mut endless_event = SseParser::default();
        let line = [b"data: ", &fill[..], b"\n"].concat();
        assert!((0..100).any(|_| endless_event.push(&line, |_| Ok::<_, String>(())).is_err()));
    }

    /// Streams made of the pieces that matter, so that most of them hold events.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("data: ".to_owned()),
            Just("data:".to_owned()),
            Just("data".to_owned()),
            Just("event: error".to_owned()),
            Just("\n".to_owned()),
            Just("\r\n".to_owned()),
            Just("\r".to_owned()),
            Just("\n\n".to_owned()),
            Just(": ping".to_owned()),
            Just("\u{feff}".to_owned()),
            Just("é漢🦀".to_owned()),
            "[ -~]{0,12}",
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        /// However a network cuts the bytes, the events are those of one read.
        #[test]
        fn any_split_gives_the_same_events(stream in streams(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let whole = events([stream.as_slice()]);
            prop_assert_eq!(&events(stream.chunks(1)), &whole);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(stream.len());
            let mut from = 0;
            let pieces: Vec<&[u8]> = cuts.iter().map(|&to| &stream[std::mem::replace(&mut from, to)..to]).collect();
            prop_assert_eq!(events(pieces), whole);
        }

        /// No bytes are a panic.
        #[test]
        fn noise_is_read(stream in prop::collection::vec(any::<u8>(), 0..300)) {
            events(stream.chunks(7));
        }
    }
}
