//! What one event of a streamed answer holds: a token and its kind, the role, the finish, the usage, an error.
//!
//! Owns the few fields that a measurement needs, told apart without copying the text. Knows nothing of time.
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::records::{Finish, Usage};

/// One chunk of a streamed answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chunk {
    /// The token it carries, if any.
    pub(crate) token: TokenDelta,
    /// What kind of token.
    pub(crate) kind: Kind,
    /// It says why the answer ends.
    pub(crate) finish: Option<Finish>,
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
    /// Content, reasoning, or a piece of a tool call.
    Text,
}

/// What a token belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Content,
    Reasoning,
    ToolCall,
}

impl Chunk {
    /// Reads an event's data; otherwise says what is wrong with it.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, String> {
        // serde would also take an array for the fields in their order.
        if data.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err("not a JSON object".to_owned());
        }
        let wire: WireChunk = serde_json::from_slice(data).map_err(|error| error.to_string())?;
        let usage = wire.usage.map(Usage::from);
        let mut chunk = Self { usage, error: wire.error.as_ref().map(error_text), ..Self::default() };
        for choice in &wire.choices {
            chunk.finish = choice.finish_reason.or(chunk.finish);
            let delta = &choice.delta;
            let (content, reasoning) = (delta.content.max(choice.text), delta.reasoning_content.max(delta.reasoning));
            let tool_call = delta.tool_calls;
            let kind = match (content, reasoning, tool_call) {
                (Text::Some, ..) => Kind::Content,
                (_, Text::Some, _) => Kind::Reasoning,
                (.., Text::Some) => Kind::ToolCall,
                _ => Kind::Content,
            };
            let token = match content.max(reasoning).max(tool_call) {
                Text::Some => TokenDelta::Text,
                // `{"role": …, "content": ""}` opens an answer and `{"content": ""}` beside a finish closes it; neither is a token.
                Text::Empty if delta.role.is_none() && choice.finish_reason.is_none() => TokenDelta::Empty,
                Text::Empty | Text::Absent => TokenDelta::None,
            };
            if chunk.token == TokenDelta::None || token == TokenDelta::Text {
                (chunk.token, chunk.kind) = (token, kind);
            }
        }
        Ok(chunk)
    }

    /// The content of the first choice, still escaped as in JSON, and without its quotation marks; a second look, for the
    /// answers whose text is kept.
    pub(crate) fn escaped_content(data: &[u8]) -> Option<&[u8]> {
        let wire: RawChunk = serde_json::from_slice(data).ok()?;
        let choice = wire.choices.first()?;
        let raw = choice.delta.as_ref().and_then(|delta| delta.content).or(choice.text)?.get();
        Some(raw.strip_prefix('"')?.strip_suffix('"')?.as_bytes())
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
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct WireChoice<'a> {
    #[serde(default, borrow)]
    delta: WireDelta<'a>,
    /// Of `/v1/completions`.
    #[serde(default)]
    text: Text,
    #[serde(default, deserialize_with = "finish")]
    finish_reason: Option<Finish>,
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
    #[serde(default)]
    tool_calls: Text,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        Self {
            prompt_tokens: wire.prompt_tokens,
            completion_tokens: wire.completion_tokens,
            cached_tokens: wire.prompt_tokens_details.and_then(|details| details.cached_tokens),
            reasoning_tokens: wire.completion_tokens_details.and_then(|details| details.reasoning_tokens),
        }
    }
}

/// A reason's word; what is no string is some other reason.
fn finish<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Finish>, D::Error> {
    let word = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    Ok(word.map(|word| match word.as_ref() {
        "stop" => Finish::Stop,
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        _ => Finish::Other,
    }))
}

#[derive(Deserialize)]
struct RawChunk<'a> {
    #[serde(default, borrow)]
    choices: Vec<RawChoice<'a>>,
}

#[derive(Deserialize)]
struct RawChoice<'a> {
    #[serde(default, borrow)]
    delta: Option<RawDelta<'a>>,
    #[serde(default, borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawDelta<'a> {
    #[serde(default, borrow)]
    content: Option<&'a RawValue>,
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
        assert_eq!(Chunk::parse(last).unwrap(), Chunk { finish: Some(Finish::Length), ..Chunk::default() });
        let usage = br#"{"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":7,"total_tokens":47,
            "prompt_tokens_details":{"cached_tokens":32},"completion_tokens_details":null}}"#;
        let expected =
            Usage { prompt_tokens: 40, completion_tokens: 7, cached_tokens: Some(32), reasoning_tokens: None };
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
    fn completions_reasoning_and_tool_calls_are_told_apart() {
        let kind = |choice: &str| {
            let chunk = Chunk::parse(format!(r#"{{"choices":[{choice}]}}"#).as_bytes()).unwrap();
            (chunk.token, chunk.kind)
        };
        assert_eq!(kind(r#"{"text":" a"}"#), (TokenDelta::Text, Kind::Content));
        assert_eq!(kind(r#"{"text":"","finish_reason":"stop"}"#), (TokenDelta::None, Kind::Content));
        assert_eq!(kind(r#"{"delta":{"reasoning_content":"a"}}"#), (TokenDelta::Text, Kind::Reasoning));
        let call = r#"{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}"#;
        assert_eq!(kind(call), (TokenDelta::Text, Kind::ToolCall));
    }

    #[test]
    fn kept_text_stays_escaped() {
        let escaped = |data: &str| Chunk::escaped_content(data.as_bytes()).map(<[u8]>::to_vec);
        let chat = r#"{"choices":[{"delta":{"content":"a\"\n\u00e9"}}]}"#;
        assert_eq!(escaped(chat).unwrap(), br#"a\"\n\u00e9"#);
        assert_eq!(escaped(r#"{"choices":[{"text":" b"}]}"#).unwrap(), b" b");
        for nothing in [r#"{"choices":[]}"#, r#"{"choices":[{"delta":{"content":null}}]}"#, "x"] {
            assert_eq!(escaped(nothing), None, "{nothing}");
        }
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
