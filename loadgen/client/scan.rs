//! The shape that nearly every event has, told without a parser: one choice that carries text, and nothing that matters
//! besides.
//!
//! Owns a scan of an event's bytes that either is sure or leaves it to `chunk.rs`: a chunk of a stream costs the load
//! generator a few hundred nanoseconds of JSON otherwise. Never wrong where it answers: it accepts only objects whose
//! every member it knows, in their plain form. A stream's events differ in their text alone, so that it looks first whether
//! the bytes around the text are those of the last such event.

/// What surrounds the text of a stream's last plain event.
#[derive(Default)]
pub(super) struct Form {
    /// Bytes before the text, then those after it.
    around: Vec<u8>,
    before: usize,
}

impl Form {
    /// As [`plain_text`].
    pub(super) fn plain_text<'a>(&mut self, data: &'a [u8]) -> Option<&'a [u8]> {
        if let Some(text) = self.same(data) {
            return Some(text);
        }
        let text = plain_text(data)?;
        self.before = text.as_ptr().addr() - data.as_ptr().addr();
        self.around.clear();
        self.around.extend_from_slice(&data[..self.before]);
        self.around.extend_from_slice(&data[self.before + text.len()..]);
        Some(text)
    }

    /// The text of an event that differs from the last one in nothing else.
    fn same<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        let (before, after) = self.around.split_at(self.before);
        let text = data.strip_prefix(before)?.strip_suffix(after)?;
        (!self.around.is_empty() && !text.is_empty() && text.iter().all(|&byte| is_plain(byte))).then_some(text)
    }
}

/// A byte that stands for itself in a JSON string, which it does not end.
fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'\\' && byte != b'"'
}

/// The text of an event of the plain form, never empty, and the same escaped and not; nothing where it is any other.
fn plain_text(data: &[u8]) -> Option<&[u8]> {
    let mut scan = Scan { data, at: 0 };
    let text = scan.object(|scan, key| match key {
        b"id" | b"object" | b"model" | b"system_fingerprint" | b"service_tier" => scan.ignored_scalar(),
        b"created" => scan.ignored_scalar(),
        b"usage" | b"error" => scan.null(),
        b"choices" => scan.only_choice(),
        _ => None,
    })?;
    text.filter(|_| scan.at == data.len())
}

struct Scan<'a> {
    data: &'a [u8],
    at: usize,
}

/// What a member holds: nothing that matters, or a text; and nothing at all where it is of no form that is known.
type Found<'a> = Option<Option<&'a [u8]>>;

impl<'a> Scan<'a> {
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
        self.data[self.at..].starts_with(wanted).then(|| self.at += wanted.len())
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
            b"text" => scan.some_text(),
            b"delta" => scan.object(|scan, key| match key {
                b"content" => scan.some_text(),
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
