//! The shape that nearly every event has, told without a parser: one choice that carries text, and nothing that matters
//! besides.
//!
//! Owns a scan of an event's bytes that either is sure or leaves it to `chunk.rs`: a chunk of a stream costs the load
//! generator a few hundred nanoseconds of JSON otherwise. Never wrong where it answers: it accepts only objects whose
//! every member it knows, in their plain form. A server's events differ in their text, and from stream to stream in their id
//! and time, so that it looks first whether all other bytes are those of the last such event.

/// The form of the last plain event, of whatever stream.
#[derive(Default)]
pub(crate) struct Form {
    /// Its bytes without what fills the gaps.
    fixed: Vec<u8>,
    gaps: Vec<Gap>,
}

/// Where events of a form differ.
#[derive(Clone, Copy)]
struct Gap {
    /// In `fixed`, or in an event that is being learnt; none of an event's gaps fills its beginning.
    at: usize,
    kind: GapKind,
}

#[derive(Clone, Copy)]
enum GapKind {
    Scalar,
    Text,
}

impl Form {
    /// As [`plain_text`].
    pub(crate) fn plain_text<'a>(&mut self, data: &'a [u8]) -> Option<&'a [u8]> {
        self.same(data).or_else(|| self.learn(data))
    }

    /// The text of an event that differs from the last one in nothing else that matters.
    fn same<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        let (mut scan, mut from, mut text) = (Scan { data, at: 0, gaps: None }, 0, None);
        for gap in &self.gaps {
            scan.literally(&self.fixed[from..gap.at])?;
            match gap.kind {
                GapKind::Scalar => drop(scan.ignored_scalar()?),
                GapKind::Text => text = scan.some_text()?,
            }
            from = gap.at;
        }
        text.filter(|_| data[scan.at..] == self.fixed[from..])
    }

    fn learn<'a>(&mut self, data: &'a [u8]) -> Option<&'a [u8]> {
        let mut gaps = Vec::new();
        let text = Scan { data, at: 0, gaps: Some(&mut gaps) }.event()?;
        self.fixed.clear();
        self.gaps.clear();
        let mut from = 0;
        for (gap, to) in gaps {
            self.fixed.extend_from_slice(&data[from..gap.at]);
            self.gaps.push(Gap { at: self.fixed.len(), ..gap });
            from = to;
        }
        self.fixed.extend_from_slice(&data[from..]);
        Some(text)
    }
}

/// A byte that stands for itself in a JSON string, which it does not end.
fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'\\' && byte != b'"'
}

struct Scan<'a, 'g> {
    data: &'a [u8],
    at: usize,
    /// Where the gaps of a form go, each with its end.
    gaps: Option<&'g mut Vec<(Gap, usize)>>,
}

/// What a member holds: nothing that matters, or a text; and nothing at all where it is of no form that is known.
type Found<'a> = Option<Option<&'a [u8]>>;

impl<'a> Scan<'a, '_> {
    /// The text of an event of the plain form, never empty, and the same escaped and not; nothing where it is any other.
    fn event(&mut self) -> Option<&'a [u8]> {
        let text = self.object(|scan, key| match key {
            b"object" | b"model" | b"system_fingerprint" | b"service_tier" => scan.ignored_scalar(),
            b"id" | b"created" => scan.gap(GapKind::Scalar, Self::ignored_scalar),
            b"usage" | b"error" => scan.null(),
            b"choices" => scan.only_choice(),
            _ => None,
        })?;
        text.filter(|_| self.at == self.data.len())
    }

    /// What `member` takes, and notes that it is a gap.
    fn gap(&mut self, kind: GapKind, member: impl FnOnce(&mut Self) -> Found<'a>) -> Found<'a> {
        self.space();
        let at = self.at;
        let found = member(self)?;
        if let Some(gaps) = &mut self.gaps {
            gaps.push((Gap { at, kind }, self.at));
        }
        Some(found)
    }

    fn literally(&mut self, wanted: &[u8]) -> Option<()> {
        self.data[self.at..].starts_with(wanted).then(|| self.at += wanted.len())
    }

    fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|byte| byte == b' ') {
            self.at += 1;
        }
    }

    fn byte(&mut self, wanted: u8) -> Option<()> {
        self.space();
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn word(&mut self, wanted: &[u8]) -> Option<()> {
        self.space();
        self.literally(wanted)
    }

    /// The content of a string without escapes and control characters.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.byte(b'"')?;
        let start = self.at;
        let end = start + memchr::memchr(b'"', &self.data[start..])?;
        let content = &self.data[start..end];
        self.at = end + 1;
        // An escape may hide the string's end; text beyond ASCII must be UTF-8, which the parser checks.
        content.iter().all(|&byte| is_plain(byte)).then_some(content)
    }

    fn null(&mut self) -> Found<'a> {
        self.word(b"null").map(|()| None)
    }

    /// A plain string, a whole number or null.
    fn ignored_scalar(&mut self) -> Found<'a> {
        self.space();
        match self.peek()? {
            b'"' => drop(self.string()?),
            b'n' => drop(self.null()?),
            b'1'..=b'9' => {
                while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                    self.at += 1;
                }
            }
            b'0' => self.at += 1,
            _ => return None,
        }
        Some(None)
    }

    /// An object whose members `member` knows, no two of them with a text: the text of the one that has it.
    fn object(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Found<'a>) -> Found<'a> {
        self.byte(b'{')?;
        self.space();
        let mut text = None;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(text);
        }
        loop {
            let key = self.string()?;
            self.byte(b':')?;
            let found = member(self, key)?;
            if found.is_some() {
                if text.is_some() {
                    return None;
                }
                text = found;
            }
            self.space();
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(text);
                }
                _ => return None,
            }
        }
    }

    /// `[{"index":0,"delta":{"content":"…"},"logprobs":null,"finish_reason":null}]`, or the same with `"text":"…"`.
    fn only_choice(&mut self) -> Found<'a> {
        self.byte(b'[')?;
        let text = self.object(|scan, key| match key {
            b"index" => scan.ignored_scalar(),
            b"logprobs" | b"finish_reason" | b"stop_reason" | b"matched_stop" | b"token_ids" => scan.null(),
            b"text" => scan.gap(GapKind::Text, Self::some_text),
            b"delta" => scan.object(|scan, key| match key {
                b"content" => scan.gap(GapKind::Text, Self::some_text),
                b"reasoning_content" | b"reasoning" | b"tool_calls" | b"refusal" | b"function_call" => scan.null(),
                _ => None,
            }),
            _ => None,
        })?;
        self.byte(b']')?;
        Some(text)
    }

    /// Text that is there: an empty one means different things in different places.
    fn some_text(&mut self) -> Found<'a> {
        let text = self.string()?;
        (!text.is_empty()).then_some(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::chunk::{Chunk, Kind, TokenDelta};
    use super::*;

    fn plain_text(data: &[u8]) -> Option<&[u8]> {
        Scan { data, at: 0, gaps: None }.event()
    }

    #[test]
    fn events_of_a_form_differ_in_id_time_and_text() {
        let event = |id: &str, created: &str, model: &str, text: &str| {
            format!(
                r#"{{"id":"{id}","created":{created},"model":"{model}","choices":[{{"delta":{{"content":"{text}"}}}}]}}"#
            )
        };
        let mut form = Form::default();
        let first = event("a", "17", "m", "one");
        assert!(form.same(first.as_bytes()).is_none());
        assert_eq!(form.plain_text(first.as_bytes()), Some(&b"one"[..]));
        for (other, text) in [
            (first.clone(), Some("one")),
            (event("another", "1800000000", "m", " two"), Some(" two")),
            (event("a", "17", "M", "one"), None),
            (event("a", "17", "m", ""), None),
            (event("a", "x", "m", "one"), None),
            (event("a\\", "17", "m", "one"), None),
            (format!("{first} "), None),
            (first[..first.len() - 1].to_owned(), None),
        ] {
            assert_eq!(form.same(other.as_bytes()), text.map(str::as_bytes), "{other}");
        }
    }

    #[test]
    fn the_usual_forms_are_plain_and_others_are_left() {
        for (plain, text) in [
            (
                r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":17,"model":"m","choices":[{"index":0,"delta":{"content":" a"},"logprobs":null,"finish_reason":null}]}"#,
                " a",
            ),
            (r#"{"id": "1", "choices": [{"index": 0, "text": " b", "finish_reason": null}], "usage": null}"#, " b"),
        ] {
            assert_eq!(plain_text(plain.as_bytes()), Some(text.as_bytes()), "{plain}");
        }
        for other in [
            r#"{"choices":[{"delta":{"content":""}}]}"#,
            r#"{"choices":[{"delta":{"content":"a\n"}}]}"#,
            r#"{"choices":[{"delta":{"content":"é"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"role":"assistant","content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}"#,
            r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"delta":{"content":"a"}}]} x"#,
            r#"{"choices":[{"delta":{"content":"a"}]"#,
            "",
            "[DONE]",
        ] {
            assert_eq!(plain_text(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        /// Where the scan answers, the parser says the same.
        #[test]
        fn never_against_the_parser(
            edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"\"{}[]:,\\ nul0a\n".to_vec())), 0..6),
            text in "[ -~]{0,6}", completions: bool,
        ) {
            let choice = if completions { format!("\"text\":\"{text}\"") } else { format!("\"delta\":{{\"content\":\"{text}\"}}") };
            let mut data = format!(r#"{{"id":"x","created":1,"choices":[{{"index":0,{choice},"finish_reason":null}}],"usage":null}}"#).into_bytes();
            let unedited = data.clone();
            for (at, byte) in edits {
                let at = at.index(data.len());
                data[at] = byte;
            }
            // Events of a stream, each of the form of the one before or not.
            let mut form = Form::default();
            for other in [&unedited, &data, &unedited, &data] {
                prop_assert_eq!(form.plain_text(other), plain_text(other), "{}", String::from_utf8_lossy(other));
            }
            if let Some(text) = plain_text(&data) {
                prop_assert_eq!(Chunk::escaped_content(&data), Some(text));
                let chunk = Chunk::parse(&data);
                prop_assert_eq!(chunk, Ok(Chunk { token: TokenDelta::Text, kind: Kind::Content, ..Chunk::default() }), "{}", String::from_utf8_lossy(&data));
            }
        }
    }
}
