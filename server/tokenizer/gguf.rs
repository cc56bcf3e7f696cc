//! A tokenizer rebuilt from a GGUF file's metadata: byte-level BPE or SentencePiece.
//!
//! Owns the checks of that metadata. What is found here is what the model's own tokenizer files say, as far as the
//! metadata tells: where llama.cpp leaves something out (Qwen's NFC), the model's own files count.
use minisgl_checkpoint::GgufTokenizer;
use minisgl_kernels::TokenId;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, Tokenizer as Library};

use crate::chat::{ChatTemplate, TemplateTokens};
use crate::detokenizer::{AtStart, Decoding, Invalid};
use crate::pretokenizer::Pretokenizer;
use crate::sentencepiece::{Parts, SPACE, SentencePiece};
use crate::vocabulary::{Joins, MAX_VOCABULARY, Role, Vocabulary, byte_level, fallback_byte};
use crate::{Affixes, Encoder, Inner, TokenizerError};

/// `tokenizer.ggml.token_type`'s values.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Builds a tokenizer from `source`.
pub(crate) fn build(source: GgufTokenizer) -> Result<Inner, TokenizerError> {
    let path = source.path.clone();
    build_unnamed(source).map_err(|why| TokenizerError::file(&path, why))
}

fn build_unnamed(mut source: GgufTokenizer) -> Result<Inner, String> {
    check_lengths(&source)?;
    if source.model == "llama" {
        number_special_tokens(&mut source);
    }
    let template = source.chat_template.as_ref().map(|template| {
        let text = |id: Option<TokenId>| id.map(|id| source.tokens[id as usize].clone());
        let named = [
            ("bos_token", source.bos),
            ("eos_token", source.eos),
            ("unk_token", source.unk),
            ("pad_token", source.pad),
        ];
        let tokens: TemplateTokens =
            named.into_iter().filter_map(|(name, id)| Some((name.to_owned(), text(id)?.into()))).collect();
        ChatTemplate::new(template.clone(), tokens)
    });
    match source.model.as_str() {
        "gpt2" => byte_level_bpe(source, template),
        "llama" => sentencepiece(source, template),
        other => Err(format!(
            "tokenizer.ggml.model '{other}' is not supported: gpt2 (byte-level BPE) and llama (SentencePiece) are"
        )),
    }
}

fn check_lengths(source: &GgufTokenizer) -> Result<(), String> {
    let count = source.tokens.len();
    if count == 0 {
        return Err("tokenizer.ggml.tokens is empty or missing: a vocabulary is needed".into());
    }
    if count > MAX_VOCABULARY {
        return Err(format!("tokenizer.ggml.tokens has {count} entries; at most {MAX_VOCABULARY} are supported"));
    }
    for (name, len) in [("scores", source.scores.len()), ("token_type", source.token_types.len())] {
        if len != 0 && len != count {
            return Err(format!("tokenizer.ggml.{name} has {len} entries, but tokenizer.ggml.tokens has {count}"));
        }
    }
    let ids = [
        ("bos", source.bos),
        ("eos", source.eos),
        ("unknown", source.unk),
        ("padding", source.pad),
        ("eot", source.eot),
    ];
    for (name, id) in ids {
        if let Some(id) = id.filter(|&id| id as usize >= count) {
            return Err(format!("tokenizer.ggml.{name}_token_id is {id}, but the vocabulary ends at {}", count - 1));
        }
    }
    Ok(())
}

fn token_type(source: &GgufTokenizer, id: usize) -> i32 {
    source.token_types.get(id).copied().unwrap_or(1)
}

fn role(token_type: i32) -> Role {
    match token_type {
        CONTROL | UNKNOWN => Role::Special,
        USER_DEFINED | UNUSED | BYTE => Role::Other,
        _ => Role::Ordinary,
    }
}

/// Where the file does not say, unknown, BOS and EOS are what SentencePiece's trainer numbers them.
fn number_special_tokens(source: &mut GgufTokenizer) {
    let default = |id: usize| (role(token_type(source, id)) == Role::Special).then_some(id as TokenId);
    let (unk, bos, eos) = (default(0), default(1), default(2));
    source.unk = source.unk.or(unk);
    source.bos = source.bos.or(bos);
    source.eos = source.eos.or(eos);
}

/// The tokens around an encoded text; `default_bos` is what holds where the file does not say.
fn affixes(source: &GgufTokenizer, default_bos: bool) -> Result<Affixes, String> {
    let wanted = |flag: Option<bool>, default: bool, id: Option<TokenId>, name: &str| match (flag, id) {
        (Some(true), None) => {
            Err(format!("tokenizer.ggml.add_{name}_token is set, but tokenizer.ggml.{name}_token_id is missing"))
        }
        (flag, id) => Ok(id.filter(|_| flag.unwrap_or(default))),
    };
    Ok(Affixes::Fixed {
        bos: wanted(source.add_bos, default_bos, source.bos, "bos")?,
        eos: wanted(source.add_eos, false, source.eos, "eos")?,
    })
}

fn byte_level_bpe(source: GgufTokenizer, template: Option<ChatTemplate>) -> Result<Inner, String> {
    let pretokenizer = Pretokenizer::named(source.pre.as_deref())?;
    let mut vocabulary = Vocabulary::default();
    let mut added = Vec::new();
    for (id, token) in source.tokens.iter().enumerate() {
        let kind = token_type(&source, id);
        let whole = matches!(kind, CONTROL | USER_DEFINED | UNKNOWN);
        let bytes = if whole { token.as_bytes().to_vec() } else { byte_level(token) };
        vocabulary.set(id as TokenId, &bytes, role(kind), Joins::Bytes);
        if whole {
            added.push(AddedToken::from(token.as_str(), role(kind) == Role::Special).normalized(false));
        }
    }
    let affixes = affixes(&source, pretokenizer.adds_bos())?;
    let eos = source.eos.or(source.eot);
    // Of several tokens of one text the first counts, as in a vocabulary's file.
    let tokens: Vocab = source.tokens.into_iter().enumerate().rev().map(|(id, t)| (t, id as TokenId)).collect();
    let merges = merges(&source.merges, &tokens)?;
    let bpe = BPE::builder().vocab_and_merges(tokens, merges).ignore_merges(pretokenizer.ignores_merges());
    let mut library = Library::new(bpe.build().map_err(|e| format!("tokenizer.ggml.merges: {e}"))?);
    pretokenizer.install(&mut library)?;
    library.add_tokens(&added);
    Ok(Inner {
        encoder: Encoder::Library(Box::new(library)),
        vocabulary,
        decoding: Decoding { invalid: Invalid::PerSequence, at_start: AtStart::Keep },
        affixes,
        eos,
        template,
        words: Default::default(),
    })
}

/// Merges as pairs. Each half and their union must be tokens.
fn merges(merges: &[String], tokens: &Vocab) -> Result<Merges, String> {
    let pair = |(index, merge): (usize, &String)| {
        let whole = |why: &str| format!("tokenizer.ggml.merges[{index}] '{merge}': {why}");
        let (left, right) =
            merge.split_once(' ').ok_or_else(|| whole("two tokens with a space between are expected"))?;
        for token in [left, right, &format!("{left}{right}")] {
            if !tokens.contains_key(token) {
                return Err(whole(&format!("'{token}' is not in tokenizer.ggml.tokens")));
            }
        }
        Ok((left.to_owned(), right.to_owned()))
    };
    merges.iter().enumerate().map(pair).collect()
}

fn sentencepiece(source: GgufTokenizer, template: Option<ChatTemplate>) -> Result<Inner, String> {
    if source.scores.is_empty() {
        return Err("tokenizer.ggml.scores is missing: SentencePiece merges by score".into());
    }
    let add_space_prefix = source.add_space_prefix.unwrap_or(true);
    let mut parts = Parts { unknown: source.unk, add_space_prefix, ..Parts::default() };
    let mut vocabulary = Vocabulary::default();
    for (index, token) in source.tokens.iter().enumerate() {
        let id = index as TokenId;
        let kind = token_type(&source, index);
        // A file without types tells bytes by their spelling.
        let byte = (kind == BYTE || source.token_types.is_empty()).then(|| fallback_byte(token)).flatten();
        if let Some(byte) = byte {
            parts.bytes.push((byte, id));
            vocabulary.set(id, &[byte], Role::Other, Joins::Bytes);
            continue;
        }
        match kind {
            BYTE => {
                return Err(format!(
                    "tokenizer.ggml.tokens[{index}] '{token}' is a byte token, but not of the form <0x0A>"
                ));
            }
            CONTROL | UNKNOWN | USER_DEFINED => {
                vocabulary.set(id, token.as_bytes(), role(kind), Joins::Text);
                parts.whole.push((token.clone(), id));
            }
            _ => {
                vocabulary.set(id, token.replace(SPACE, " ").as_bytes(), role(kind), Joins::Text);
                parts.pieces.push((token.clone(), id, source.scores[index]));
            }
        }
    }
    let affixes = affixes(&source, true)?;
    Ok(Inner {
        encoder: Encoder::SentencePiece(Box::new(SentencePiece::new(parts))),
        vocabulary,
        decoding: Decoding {
            invalid: Invalid::PerByte,
            at_start: if add_space_prefix { AtStart::Strip(' ', 1) } else { AtStart::Keep },
        },
        affixes,
        eos: source.eos.or(source.eot),
        template,
        words: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddSpecial, ChatOptions, Tokenizer, TokenizerSource};

    fn small() -> GgufTokenizer {
        GgufTokenizer {
            model: "gpt2".into(),
            pre: Some("gpt-2".into()),
            tokens: ["a", "b", "ab", "<|end|>"].map(str::to_owned).to_vec(),
            scores: vec![],
            token_types: vec![1, 1, 1, CONTROL],
            merges: vec!["a b".into()],
            bos: None,
            eos: Some(3),
            unk: None,
            pad: None,
            eot: None,
            add_bos: None,
            add_eos: None,
            add_space_prefix: None,
            chat_template: None,
            path: "model.gguf".into(),
        }
    }

    fn why(source: GgufTokenizer) -> String {
        Tokenizer::new(TokenizerSource::Gguf(source)).expect_err("must be refused").to_string()
    }

    #[test]
    fn metadata_that_cannot_be_is_named() {
        type Case = (fn(&mut GgufTokenizer), &'static [&'static str]);
        let cases: [Case; 10] = [
            (|s| s.pre = Some("tulu".into()), &["model.gguf", "tokenizer.ggml.pre 'tulu'", "llama-bpe", "smollm"]),
            (|s| s.model = "bert".into(), &["tokenizer.ggml.model 'bert'", "gpt2", "llama"]),
            (|s| s.merges.push("a c".into()), &["merges[1] 'a c'", "'c'"]),
            (|s| s.merges.push("b a".into()), &["merges[1] 'b a'", "'ba'"]),
            (|s| s.merges.push("ab".into()), &["merges[1] 'ab'", "space"]),
            (|s| s.tokens.clear(), &["tokenizer.ggml.tokens"]),
            (|s| s.token_types.push(1), &["tokenizer.ggml.token_type has 5", "has 4"]),
            (|s| s.eos = Some(4), &["tokenizer.ggml.eos_token_id is 4", "ends at 3"]),
            (|s| s.add_bos = Some(true), &["tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"]),
            (|s| s.model = "llama".into(), &["tokenizer.ggml.scores"]),
        ];
        for (spoil, words) in cases {
            let mut source = small();
            spoil(&mut source);
            let why = why(source);
            assert!(words.iter().all(|word| why.contains(word)), "{why}");
        }
        assert!(Tokenizer::new(TokenizerSource::Gguf(small())).is_ok());
    }

    #[test]
    fn a_bad_byte_token_is_named() {
        let mut source = small();
        source.model = "llama".into();
        source.scores = vec![0.0; 4];
        source.token_types[2] = BYTE;
        assert!(why(source).contains("tokens[2] 'ab' is a byte token"));
    }

    #[test]
    fn sentencepiece_special_tokens_have_their_usual_numbers() {
        let mut source = small();
        source.model = "llama".into();
        source.tokens = ["<unk>", "<s>", "</s>", "▁a"].map(str::to_owned).to_vec();
        source.token_types = vec![UNKNOWN, CONTROL, CONTROL, 1];
        source.scores = vec![0.0; 4];
        source.merges.clear();
        source.eos = None;
        source.chat_template = Some("{{ bos_token }}{{ eos_token }}".into());
        let tokenizer = Tokenizer::new(TokenizerSource::Gguf(source)).unwrap();
        assert_eq!(tokenizer.encode("b b", AddSpecial::Yes).unwrap(), [1, 0], "unknown characters are one token");
        assert_eq!(tokenizer.eos_token_id(), Some(2));
        assert_eq!(tokenizer.render_chat(&[], &ChatOptions::default()).unwrap(), "<s></s>");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

        #[test]
        fn metadata_made_at_random_does_no_harm(
            llama: bool,
            tokens in proptest::collection::vec("[ab▁Ġ <x>é]{0,4}", 1..20),
            types in proptest::collection::vec(0..8i32, 0..20),
            scores in proptest::collection::vec(proptest::num::f32::ANY, 20),
            merges in proptest::collection::vec("[ab]{1,2} ?[ab]{0,2}", 0..3),
            text in "[ab▁ <x>é]{0,20}",
            seed: u64,
        ) {
            let mut source = small();
            source.model = if llama { "llama" } else { "gpt2" }.into();
            source.token_types = (0..tokens.len()).map(|i| types.get(i).copied().unwrap_or(1)).collect();
            source.scores = scores[..tokens.len()].to_vec();
            (source.tokens, source.merges, source.eos) = (tokens, merges, None);
            if let Ok(tokenizer) = Tokenizer::new(TokenizerSource::Gguf(source)) {
                let ids = tokenizer.encode(&text, AddSpecial::Yes).unwrap();
                tokenizer.decode(&ids, true);
                let _ = tokenizer.exact_prompt(5, || seed);
            }
        }
    }
}
