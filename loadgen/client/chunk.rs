//! What one event of a streamed chat answer holds: a token, the role, the finish, the usage, an error.
//!
//! Owns the few fields that a measurement needs, told apart without copying the text. Knows nothing of time.
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

/// One chunk of a streamed answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chunk {
    /// The token it carries, if any.
    pub(crate) token: TokenDelta,
    /// It says why the answer ends.
    pub(crate) finished: bool,
    /// The server's count of tokens.
    pub(crate) usage: Option<Usage>,
    /// The server's error, which ends the answer.
    pub(crate) error: Option<String>,
}

/// Whether a chunk is a token's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TokenDelta {
    /// Nothing generated: role, finish or usage alone.
    #[default]
    None,
    /// A token without text of its own yet, such as the first half of a character.
    Empty,
    /// Content or reasoning.
    Text,
}

/// Tokens as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    /// Of the prompt, chat template included.
    #[serde(default)]
    pub(crate) prompt_tokens: u64,
    /// Of the answer.
    #[serde(default)]
    pub(crate) completion_tokens: u64,
}

impl Chunk {
    /// Reads an event's data; otherwise says what is wrong with it.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, String> {
        // serde would also take an array for the fields in their order.
        if data.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err("not a JSON object".to_owned());
        }
        let wire: WireChunk = serde_json::from_slice(data).map_err(|error| error.to_string())?;
        let mut chunk = Self { usage: wire.usage, error: wire.error.as_ref().map(error_text), ..Self::default() };
        for choice in &wire.choices {
            chunk.finished |= choice.finish_reason.is_some();
            let delta = &choice.delta;
            let text = delta.content.max(delta.reasoning_content).max(delta.reasoning);
            let token = match text {
                Text::Some => TokenDelta::Text,
                // `{"role": …, "content": ""}` opens an answer and `{"content": ""}` beside a finish closes it; neither is a token.
                Text::Empty if delta.role.is_none() && choice.finish_reason.is_none() => TokenDelta::Empty,
                Text::Empty | Text::Absent => TokenDelta::None,
            };
            if chunk.token == TokenDelta::None || token == TokenDelta::Text {
                chunk.token = token;
            }
        }
        Ok(chunk)
    }
}

/// The message of an error as OpenAI, or a plainer server, words it.
pub(crate) fn error_text(error: &serde_json::Value) -> String {
    let message = error.get("message").unwrap_or(error);
    message.as_str().map_or_else(|| message.to_string(), str::to_owned)
}

#[derive(Deserialize)]
struct WireChunk<'a> {
    #[serde(default, borrow)]
    choices: Vec<WireChoice<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct WireChoice<'a> {
    #[serde(default, borrow)]
    delta: WireDelta<'a>,
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct WireDelta<'a> {
    #[serde(default, borrow)]
    role: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    content: Text,
    #[serde(default)]
    reasoning_content: Text,
    #[serde(default)]
    reasoning: Text,
}

/// Whether a text field is there and holds anything; the text itself is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Text {
    #[default]
    Absent,
    Empty,
    Some,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string, null or an array of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(if text.is_empty() { Text::Empty } else { Text::Some })
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text::Absent)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Text, A::Error> {
                let mut text = Text::Empty;
                while parts.next_element::<IgnoredAny>()?.is_some() {
                    text = Text::Some;
                }
                Ok(text)
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(delta: &str, finish: &str) -> TokenDelta {
        let data = format!(r#"{{"id":"x","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#);
        Chunk::parse(data.as_bytes()).unwrap_or_else(|error| panic!("{data}: {error}")).token
    }

    #[test]
    fn tokens_and_what_only_looks_like_one() {
        for (delta, finish, expected) in [
            (r#"{"role":"assistant","content":""}"#, "null", TokenDelta::None),
            (r#"{"role":"assistant","content":null}"#, "null", TokenDelta::None),
            (r#"{"role":"assistant"}"#, "null", TokenDelta::None),
            (r#"{"role":"assistant","content":"Hi"}"#, "null", TokenDelta::Text),
            (r#"{"content":"Hi"}"#, "null", TokenDelta::Text),
            (r#"{"content":"H\u00e9\n"}"#, "null", TokenDelta::Text),
            (r#"{"content":""}"#, "null", TokenDelta::Empty),
            (r#"{"content":"","reasoning_content":"hm"}"#, "null", TokenDelta::Text),
            (r#"{"content":null,"reasoning":"hm"}"#, "null", TokenDelta::Text),
            (r#"{"content":"","reasoning_content":null}"#, "null", TokenDelta::Empty),
            (r#"{"content":"."}"#, "\"length\"", TokenDelta::Text),
            (r#"{"content":""}"#, "\"length\"", TokenDelta::None),
            ("{}", "\"stop\"", TokenDelta::None),
        ] {
            assert_eq!(token(delta, finish), expected, "{delta} {finish}");
        }
    }

    #[test]
    fn finish_usage_and_errors() {
        let last = br#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#;
        assert_eq!(Chunk::parse(last).unwrap(), Chunk { finished: true, ..Chunk::default() });
        let usage = br#"{"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":7,"total_tokens":47}}"#;
        let expected = Usage { prompt_tokens: 40, completion_tokens: 7 };
        assert_eq!(Chunk::parse(usage).unwrap(), Chunk { usage: Some(expected), ..Chunk::default() });
        for (data, said) in [
            (r#"{"error":{"message":"out of pages","type":"x"}}"#, "out of pages"),
            (r#"{"error":"plain"}"#, "plain"),
            (r#"{"error":{"code":3}}"#, r#"{"code":3}"#),
        ] {
            assert_eq!(Chunk::parse(data.as_bytes()).unwrap().error.as_deref(), Some(said), "{data}");
        }
        assert_eq!(Chunk::parse(br#"{"error":null,"usage":null}"#).unwrap(), Chunk::default());
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for data in
            ["", "x", "[DONE]", "[]", r#"{"choices":3}"#, r#"{"choices":[{"delta":{"content":5}}]}"#, "{\"choices\":[{"]
        {
            assert!(Chunk::parse(data.as_bytes()).is_err(), "{data}");
        }
    }
}
