//! A tokenizer from Hugging Face files: `tokenizer.json` and `tokenizer_config.json`.
//!
//! The tokenizers library reads and encodes; this checks first what the library takes on trust, and keeps the decoder
//! for itself (see `decoder.rs`).
use std::collections::BTreeMap;
use std::fmt;

use minisgl_checkpoint::HfTokenizer;
use minisgl_kernels::TokenId;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Library};

use crate::chat::{ChatTemplate, TemplateTokens};
use crate::decoder::PieceRules;
use crate::vocabulary::{MAX_VOCABULARY, Role, Vocabulary};
use crate::{Affixes, Encoder, Inner, TokenizerError, guarded};

/// Builds a tokenizer from `source`.
pub(crate) fn build(source: HfTokenizer) -> Result<Inner, TokenizerError> {
    let HfTokenizer { tokenizer_json, tokenizer_config, chat_template, path } = source;
    let bad = |why: String| TokenizerError::file(&path, why);
    let head: Head = serde_json::from_slice(&tokenizer_json).map_err(|e| bad(e.to_string()))?;
    head.check().map_err(bad)?;
    let rules = PieceRules::parse(&head.decoder).map_err(bad)?;
    let mut library =
        guarded(|| Library::from_bytes(&tokenizer_json)).and_then(|r| r.map_err(|e| e.to_string())).map_err(bad)?;
    drop(tokenizer_json);
    library.with_truncation(None).map_err(|e| bad(e.to_string()))?;
    library.with_padding(None);

    let bad_config = |why: String| TokenizerError::file(&path.with_file_name("tokenizer_config.json"), why);
    let config =
        Some(tokenizer_config).filter(|config| !config.is_null()).unwrap_or_else(|| Value::Object(Default::default()));
    let mut config: Config = serde_json::from_value(config).map_err(|e| bad_config(e.to_string()))?;
    config.add_tokens(&mut library).map_err(bad_config)?;
    let vocabulary = vocabulary(&library, &rules).map_err(bad)?;
    let affixes = config.affixes(&library).map_err(bad_config)?;
    let eos = config.token("eos_token").and_then(|token| library.token_to_id(token));
    let template = chat_template.map(|template| ChatTemplate::new(template, config.template_tokens()));
    let encoder = Encoder::Library(Box::new(library));
    // A file that is well formed and inconsistent (a post-processor that names a token it does not define) shows here.
    encoder.encode("a", affixes == Affixes::Processor).map_err(|e| bad(e.to_string()))?;
    Ok(Inner { encoder, vocabulary, decoding: rules.decoding, affixes, eos, template, words: Default::default() })
}

/// Every id's bytes: the model's tokens, then the added ones, which replace them.
fn vocabulary(library: &Library, rules: &PieceRules) -> Result<Vocabulary, String> {
    let mut vocabulary = Vocabulary::default();
    let mut model: Vec<(TokenId, String)> = library.get_vocab(false).into_iter().map(|(t, id)| (id, t)).collect();
    model.sort_unstable();
    let mut added: Vec<(TokenId, String)> =
        library.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content)).collect();
    added.sort_unstable();
    if let Some(id) = model.iter().chain(&added).map(|&(id, _)| id).max().filter(|&id| id as usize >= MAX_VOCABULARY) {
        return Err(too_high(id));
    }
    for (id, token) in &model {
        let (bytes, joins) = rules.piece(token);
        let role = if rules.is_byte(token) { Role::Other } else { Role::Ordinary };
        vocabulary.set(*id, &bytes, role, joins);
    }
    for (id, token) in &added {
        let (bytes, joins) = rules.piece(token);
        let special = library.get_added_vocabulary().is_special_token(token);
        vocabulary.set(*id, &bytes, if special { Role::Special } else { Role::Other }, joins);
    }
    Ok(vocabulary)
}

fn too_high(id: impl fmt::Display) -> String {
    format!("token id {id} is too high: ids below {MAX_VOCABULARY} are supported")
}

/// What of `tokenizer.json` is checked before the library reads it.
#[derive(Deserialize)]
struct Head {
    model: ModelHead,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Option<Vec<AddedHead>>,
}

#[derive(Deserialize)]
struct ModelHead {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    vocab: HighestId,
}

#[derive(Deserialize)]
struct AddedHead {
    id: u64,
}

impl Head {
    fn check(&self) -> Result<(), String> {
        let model = &self.model;
        match model.kind.as_deref() {
            None | Some("BPE" | "Unigram") => {}
            Some(other) => return Err(format!("model.type '{other}' is not supported: BPE and Unigram are")),
        }
        if model.dropout.is_some_and(|p| p != 0.0) {
            return Err("model.dropout is set: it makes encoding random; only 0 or null is supported".into());
        }
        // The library cuts merges at the prefix's length unchecked.
        for (name, affix) in [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
                return Err(format!("model.{name} is not supported: only an empty one or null is"));
            }
        }
        let added = self.added_tokens.iter().flatten().map(|token| token.id).max();
        match added.max(model.vocab.0) {
            None => Err("model.vocab is empty".into()),
            Some(id) if id >= MAX_VOCABULARY as u64 => Err(too_high(id)),
            Some(_) => Ok(()),
        }
    }
}

/// The highest id of a vocabulary, `{"token": id}` or `[["token", score]]`, none of which is kept.
struct HighestId(Option<u64>);

impl<'de> Deserialize<'de> for HighestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = HighestId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: token ids by token, or a list of tokens and scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HighestId, A::Error> {
                let mut highest = None;
                while map.next_key::<IgnoredAny>()?.is_some() {
                    highest = highest.max(Some(map.next_value::<u64>()?));
                }
                Ok(HighestId(highest))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HighestId, A::Error> {
                let mut count = 0;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(HighestId(u64::checked_sub(count, 1)))
            }
        }
        deserializer.deserialize_any(Ids)
    }
}

/// What of `tokenizer_config.json` counts.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    add_bos_token: Option<bool>,
    #[serde(default)]
    add_eos_token: Option<bool>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, ConfigToken>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// An added token as `tokenizer_config.json` has it.
#[derive(Deserialize)]
struct ConfigToken {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl ConfigToken {
    fn into_added(self) -> AddedToken {
        let token = AddedToken::from(self.content, self.special);
        let normalized = self.normalized.unwrap_or(token.normalized);
        token.single_word(self.single_word).lstrip(self.lstrip).rstrip(self.rstrip).normalized(normalized)
    }
}

impl Config {
    /// The text of `eos_token` and the like: a string, or an object with the text as `content`.
    fn token(&self, name: &str) -> Option<&str> {
        let token = self.rest.get(name)?;
        token.as_str().or_else(|| token["content"].as_str())
    }

    /// What templates see: every named token that is set, and the lists of further ones.
    fn template_tokens(&self) -> TemplateTokens {
        let names = self.rest.keys().filter(|name| name.ends_with("_token"));
        let mut tokens: TemplateTokens =
            names.filter_map(|name| Some((name.clone(), self.token(name)?.into()))).collect();
        if let Some(list @ Value::Array(_)) = self.rest.get("additional_special_tokens") {
            tokens.push(("additional_special_tokens".into(), list.clone()));
        }
        tokens
    }

    /// Adds the tokens that only `tokenizer_config.json` knows, or knows other things about. A token whose id there is
    /// not the one that it has, or would get, is left alone.
    fn add_tokens(&mut self, library: &mut Library) -> Result<(), String> {
        let mut tokens = Vec::with_capacity(self.added_tokens_decoder.len());
        for (id, token) in std::mem::take(&mut self.added_tokens_decoder) {
            let id: u64 = id.parse().map_err(|_| format!("added_tokens_decoder: '{id}' is not a token id"))?;
            if id >= MAX_VOCABULARY as u64 {
                return Err(format!("added_tokens_decoder: {}", too_high(id)));
            }
            tokens.push((id as TokenId, token.into_added()));
        }
        tokens.sort_by_key(|&(id, _)| id);
        let known = library.get_added_tokens_decoder();
        let size = library.get_vocab_size(false) as TokenId;
        let mut next = known.keys().max().map_or(size, |&highest| size.max(highest + 1));
        let mut add = Vec::new();
        for (id, token) in tokens {
            let has = library.token_to_id(&token.content);
            if has == Some(id) && known.get(&id) != Some(&token) {
                add.push(token);
            } else if has.is_none() && id == next && !token.content.is_empty() {
                add.push(token);
                next += 1;
            }
        }
        guarded(|| library.add_tokens(&add)).map(drop)
    }

    /// The tokens around an encoded text. `add_bos_token` or `add_eos_token`, where the file has one, decide; else
    /// `tokenizer.json`'s post-processor does.
    fn affixes(&self, library: &Library) -> Result<Affixes, String> {
        if self.add_bos_token.is_none() && self.add_eos_token.is_none() {
            return Ok(Affixes::Processor);
        }
        let affix = |wanted: Option<bool>, name: &str| match self.token(name).filter(|_| wanted == Some(true)) {
            None => Ok(None),
            Some(token) => match library.token_to_id(token) {
                Some(id) => Ok(Some(id)),
                None => Err(format!("add_{name} is set, but {name} '{token}' is not in the vocabulary")),
            },
        };
        Ok(Affixes::Fixed {
            bos: affix(self.add_bos_token, "bos_token")?,
            eos: affix(self.add_eos_token, "eos_token")?,
        })
    }
}

#[cfg(test)]
mod tests;
