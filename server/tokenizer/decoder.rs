//! A `tokenizer.json`'s decoder, reduced to what each token says by itself and what happens at a text's start.
//!
//! So a token can be turned into text when it comes, which the library's own decoders, functions of all tokens, cannot.
use serde_json::Value;

use crate::detokenizer::{AtStart, Decoding, Invalid};
use crate::vocabulary::{Joins, byte_level, fallback_byte};

/// How to turn a token into its piece.
#[derive(Debug, PartialEq)]
pub(crate) struct PieceRules {
    byte_level: bool,
    byte_fallback: bool,
    /// Texts and what they become, in turn.
    replace: Vec<(String, String)>,
    pub(crate) decoding: Decoding,
}

impl PieceRules {
    /// Reads `decoder`, a chain of the steps that byte-level and SentencePiece tokenizers have.
    pub(crate) fn parse(decoder: &Value) -> Result<Self, String> {
        let mut steps = Vec::new();
        flatten(decoder, &mut steps)?;
        let mut rules = Self {
            byte_level: false,
            byte_fallback: false,
            replace: Vec::new(),
            decoding: Decoding { invalid: Invalid::PerSequence, at_start: AtStart::Keep },
        };
        let mut fused = false;
        for (kind, step) in &steps {
            match *kind {
                "ByteLevel" => rules.byte_level = true,
                "Fuse" => fused = true,
                "ByteFallback" => {
                    rules.byte_fallback = true;
                    rules.decoding.invalid = Invalid::PerByte;
                }
                "Replace" => rules.replace.push(replacement(step)?),
                "Metaspace" => {
                    let mark = step["replacement"].as_str().filter(|s| s.chars().count() == 1);
                    let mark = mark.ok_or("decoder Metaspace: replacement must be one character")?;
                    rules.replace.push((mark.to_owned(), " ".to_owned()));
                    let keeps = step["prepend_scheme"] == "never" || step["add_prefix_space"] == false;
                    rules.decoding.at_start = if keeps { AtStart::Keep } else { AtStart::DropSpaces };
                }
                "Strip" if fused => rules.decoding.at_start = strip(step)?,
                "Strip" => return Err("decoder Strip is supported only after Fuse".into()),
                other => {
                    return Err(format!(
                        "decoder '{other}' is not supported: ByteLevel is, and sequences of Replace, ByteFallback, \
                         Metaspace, Fuse and Strip"
                    ));
                }
            }
        }
        if rules.byte_level && steps.iter().any(|(kind, _)| !matches!(*kind, "ByteLevel" | "Fuse")) {
            return Err("decoder ByteLevel is supported only by itself".into());
        }
        Ok(rules)
    }

    /// What `token` says, and how it joins its neighbours.
    pub(crate) fn piece(&self, token: &str) -> (Vec<u8>, Joins) {
        if self.byte_level {
            return (byte_level(token), Joins::Bytes);
        }
        if let Some(byte) = self.byte(token) {
            return (vec![byte], Joins::Bytes);
        }
        let text = self.replace.iter().fold(token.to_owned(), |text, (from, to)| text.replace(from, to));
        (text.into_bytes(), Joins::Text)
    }

    /// Whether `token` is a byte, spelled out.
    pub(crate) fn is_byte(&self, token: &str) -> bool {
        !self.byte_level && self.byte(token).is_some()
    }

    fn byte(&self, token: &str) -> Option<u8> {
        if self.byte_fallback { fallback_byte(token) } else { None }
    }
}

/// The chain's steps, nested sequences laid out, each with its type.
fn flatten<'a>(decoder: &'a Value, steps: &mut Vec<(&'a str, &'a Value)>) -> Result<(), String> {
    match decoder["type"].as_str() {
        Some("Sequence") => {
            let parts = decoder["decoders"].as_array().ok_or("decoder Sequence: decoders must be a list")?;
            parts.iter().try_for_each(|part| flatten(part, steps))
        }
        Some(kind) => {
            steps.push((kind, decoder));
            Ok(())
        }
        None => Err("decoder is missing, or has no type: without it tokens cannot be turned into text".into()),
    }
}

fn replacement(step: &Value) -> Result<(String, String), String> {
    let from = step["pattern"]["String"].as_str().filter(|from| !from.is_empty());
    match (from, step["content"].as_str()) {
        (Some(from), Some(to)) => Ok((from.to_owned(), to.to_owned())),
        _ => Err("decoder Replace: only a pattern of the form {\"String\": \"…\"} with a content is supported".into()),
    }
}

fn strip(step: &Value) -> Result<AtStart, String> {
    let content = step["content"].as_str().and_then(|s| {
        let mut chars = s.chars();
        chars.next().filter(|_| chars.next().is_none())
    });
    match (content, step["start"].as_u64(), step["stop"].as_u64()) {
        (Some(c), Some(start), Some(0)) => Ok(AtStart::Strip(c, start as usize)),
        _ => Err("decoder Strip: content must be one character, start a number, and stop 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn llama_2s_decoder() {
        let rules = PieceRules::parse(&json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}))
        .unwrap();
        assert_eq!(rules.decoding, Decoding { invalid: Invalid::PerByte, at_start: AtStart::Strip(' ', 1) });
        assert_eq!(rules.piece("▁a▁"), (b" a ".to_vec(), Joins::Text));
        assert_eq!(rules.piece("<0xE2>"), (vec![0xe2], Joins::Bytes));
    }

    #[test]
    fn what_cannot_be_decoded_a_token_at_a_time_is_refused() {
        let fuse = json!({"type": "Fuse"});
        let cases = [
            (json!(null), "missing"),
            (json!({"type": "WordPiece", "prefix": "##"}), "'WordPiece' is not supported"),
            (json!({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "ByteFallback"}]}), "by itself"),
            (json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}), "after Fuse"),
            (
                json!({"type": "Sequence", "decoders": [fuse, {"type": "Strip", "content": " ", "start": 1, "stop": 9}]}),
                "stop 0",
            ),
            (json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}), "String"),
            (json!({"type": "Sequence"}), "decoders must be a list"),
        ];
        for (decoder, expected) in cases {
            let why = PieceRules::parse(&decoder).expect_err(expected);
            assert!(why.contains(expected), "{why}");
        }
    }
}
