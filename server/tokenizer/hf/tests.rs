//! What `tokenizer.json` and `tokenizer_config.json` may say, and what happens when they lie.
use minisgl_checkpoint::TokenizerSource;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::*;
use crate::tests::Fixture;
use crate::{AddSpecial, DetokenizerOptions, Tokenizer};

fn build_with(change: impl FnOnce(&mut Value, &mut Value)) -> Result<Tokenizer, TokenizerError> {
    let mut fixture = Fixture::named("llama-bpe");
    let (mut json, mut config) = (fixture.tokenizer.clone(), fixture.config.clone());
    change(&mut json, &mut config);
    (fixture.tokenizer, fixture.config) = (json, config);
    Tokenizer::new(TokenizerSource::HuggingFace(fixture.hugging_face()))
}

#[test]
fn files_that_cannot_be_are_named() {
    type Case = (fn(&mut Value, &mut Value), &'static [&'static str]);
    let cases: [Case; 13] = [
        (|j, _| *j = json!([]), &["tokenizer.json"]),
        (|j, _| *j = json!({}), &["tokenizer.json", "model"]),
        (|j, _| j["model"]["type"] = "WordPiece".into(), &["model.type 'WordPiece'", "BPE"]),
        (|j, _| j["model"]["dropout"] = 0.5.into(), &["model.dropout"]),
        (|j, _| j["model"]["continuing_subword_prefix"] = "##".into(), &["model.continuing_subword_prefix"]),
        (|j, _| j["model"]["vocab"]["x"] = u32::MAX.into(), &["4294967295", "1048576"]),
        (|j, _| j["model"]["vocab"]["x"] = (1u64 << 40).into(), &["1099511627776"]),
        (|j, _| j["model"]["merges"][0] = json!(["a", "nope"]), &["nope"]),
        (|j, _| j["added_tokens"][0]["id"] = (1 << 30).into(), &["1073741824"]),
        (|j, _| j["decoder"] = Value::Null, &["decoder is missing"]),
        (
            |_, c| c["added_tokens_decoder"] = json!({"x": {"content": "x"}}),
            &["tokenizer_config.json", "'x' is not a token id"],
        ),
        (|_, c| c["add_bos_token"] = "yes".into(), &["tokenizer_config.json", "boolean"]),
        (
            |_, c| (c["add_eos_token"], c["eos_token"]) = (true.into(), "<nope>".into()),
            &["tokenizer_config.json", "add_eos_token", "'<nope>'"],
        ),
    ];
    for (spoil, words) in cases {
        let why = build_with(spoil).expect_err(words[0]).to_string();
        assert!(why.starts_with("model/") && words.iter().all(|word| why.contains(word)), "{words:?}: {why}");
    }
}

#[test]
fn text_that_is_not_json_names_line_and_column() {
    let mut source = Fixture::named("gpt-2").hugging_face();
    source.tokenizer_json.truncate(1000);
    let why = Tokenizer::new(TokenizerSource::HuggingFace(source)).expect_err("truncated").to_string();
    assert!(why.contains("model/tokenizer.json") && why.contains("line 1 column 1000"), "{why}");
}

#[test]
fn the_config_decides_about_bos_and_eos() {
    let ids = |tokenizer: &Tokenizer| tokenizer.encode("a", AddSpecial::Yes).unwrap();
    let plain = build_with(|_, _| {}).unwrap();
    let (bos, eos) = (plain.token_to_id("<|endoftext|>").unwrap(), plain.token_to_id("<|im_end|>").unwrap());
    let a = plain.encode("a", AddSpecial::No).unwrap()[0];
    assert_eq!(ids(&plain), [bos, a], "tokenizer.json's post-processor");
    assert_eq!(ids(&build_with(|_, c| c["add_bos_token"] = false.into()).unwrap()), [a]);
    let both = build_with(|_, c| (c["add_bos_token"], c["add_eos_token"]) = (true.into(), true.into())).unwrap();
    assert_eq!(ids(&both), [bos, a, eos]);
    let object = build_with(|_, c| {
        c["eos_token"] = json!({"content": "<|im_end|>", "lstrip": false});
        c["add_eos_token"] = true.into();
    });
    assert_eq!(ids(&object.unwrap()), [a, eos]);
    assert_eq!(build_with(|_, c| *c = json!({})).unwrap().eos_token_id(), None);
    assert_eq!(build_with(|_, c| *c = Value::Null).unwrap().eos_token_id(), None);
}

#[test]
fn tokens_that_only_the_config_knows_are_added() {
    let size = build_with(|_, _| {}).unwrap().vocab_size();
    let tokenizer = build_with(|_, c| {
        c["added_tokens_decoder"] = json!({
            (size + 1).to_string(): {"content": "<|second|>", "special": true},
            (size).to_string(): {"content": "<|first|>", "special": false},
            (size + 9).to_string(): {"content": "<|far|>", "special": true},
            "0": {"content": "<tool>", "special": true},
        })
    })
    .unwrap();
    assert_eq!(tokenizer.vocab_size(), size + 2);
    let ids = tokenizer.encode("<|first|><|second|>", AddSpecial::No).unwrap();
    assert_eq!(ids, [size as TokenId, size as TokenId + 1]);
    assert!(!tokenizer.is_special(ids[0]) && tokenizer.is_special(ids[1]));
    assert_eq!(tokenizer.token_to_id("<|far|>"), None, "its id is not the one that it would get");
    assert!(!tokenizer.is_special(tokenizer.token_to_id("<tool>").unwrap()), "its id is another");
}

#[test]
fn truncation_and_padding_are_not_for_serving() {
    let tokenizer = build_with(|j, _| {
        j["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        j["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a"});
    })
    .unwrap();
    assert_eq!(tokenizer.encode("1 2 3", AddSpecial::No).unwrap().len(), 5);
}

#[test]
fn templates_see_the_named_tokens() {
    let mut source = Fixture::named("gpt-2").hugging_face();
    source.chat_template =
        Some("{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ additional_special_tokens[0] }}".into());
    source.tokenizer_config["pad_token"] = json!({"content": "P"});
    source.tokenizer_config["unk_token"] = Value::Null;
    source.tokenizer_config["additional_special_tokens"] = json!(["A"]);
    let tokenizer = Tokenizer::new(TokenizerSource::HuggingFace(source)).unwrap();
    assert!(tokenizer.has_chat_template());
    assert_eq!(tokenizer.render_chat(&[], &Default::default()).unwrap(), "<|endoftext|><|im_end|>PA");
}

#[test]
fn unigram_and_metaspace() {
    let pieces = ["<unk>", "▁", "▁a", "▁ab", "b", "c", "▁▁", "<0xC3>", "<0xA9>"];
    let vocab: Vec<Value> = pieces.iter().enumerate().map(|(i, piece)| json!([piece, -(i as f64)])).collect();
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": metaspace, "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": true},
    });
    let mut source = Fixture::named("gpt-2").hugging_face();
    source.tokenizer_json = serde_json::to_vec(&tokenizer).unwrap();
    source.tokenizer_config = json!({});
    let library = Library::from_bytes(&source.tokenizer_json).unwrap();
    let tokenizer = Tokenizer::new(TokenizerSource::HuggingFace(source)).unwrap();
    assert_eq!(tokenizer.encode("ab c\u{e9}", AddSpecial::No).unwrap(), [3, 1, 5, 7, 8]);
    for ids in [vec![3, 2, 1, 5], vec![6, 4, 6], vec![7, 8, 2], vec![0, 3], vec![0, 6, 2], vec![], vec![4, 1, 1, 7]] {
        for skip in [false, true] {
            assert_eq!(tokenizer.decode(&ids, skip), library.decode(&ids, skip).unwrap(), "{ids:?}");
        }
    }
}

/// A post-processor that names a token which it does not define makes the library panic when it encodes: found at the start.
#[test]
fn a_post_processor_that_lies_is_refused() {
    let why =
        build_with(|j, _| j["post_processor"]["special_tokens"] = json!({})).expect_err("no such token").to_string();
    assert!(why.contains("tokenizer.json"), "{why}");
}

/// Everything that mutations of a small `tokenizer.json` do: an error, or a tokenizer that works.
#[test]
fn mutated_files_do_no_harm() {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(3);
    for name in ["llama-bpe", "sentencepiece"] {
        let mut source = Fixture::named(name).hugging_face();
        let mut small: Value = serde_json::from_slice(&source.tokenizer_json).unwrap();
        shrink(&mut small);
        for round in 0..400 {
            source.tokenizer_json = if round % 2 == 0 {
                let mut value = small.clone();
                for _ in 0..rng.random_range(1..4) {
                    mutate(&mut value, &mut rng, 0);
                }
                serde_json::to_vec(&value).unwrap()
            } else {
                let mut bytes = serde_json::to_vec(&small).unwrap();
                for _ in 0..rng.random_range(1..4) {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = *b"\"0919,:[]{}ae\\\x00\xff".get(rng.random_range(0..17)).unwrap_or(&b'x');
                }
                bytes
            };
            if let Ok(tokenizer) = Tokenizer::new(TokenizerSource::HuggingFace(source.clone())) {
                for text in ["The <|im_end|> 日本 capital", "<tool>", "", " ▁ 😀\r\n 123"] {
                    if let Ok(ids) = tokenizer.encode(text, AddSpecial::Yes) {
                        tokenizer.decode(&ids, true);
                    }
                }
                let mut detokenizer = tokenizer.detokenizer(DetokenizerOptions::default());
                (0..600).for_each(|id| drop(detokenizer.push(id)));
                let _ = tokenizer.exact_prompt(3, || rng.random());
            }
        }
    }
}

/// Leaves few tokens and merges, so that mutations find the rest.
fn shrink(json: &mut Value) {
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(8);
    let needed: Vec<String> = merges
        .iter()
        .flat_map(|m| [m[0].as_str().unwrap().to_owned(), m[1].as_str().unwrap().to_owned()])
        .flat_map(|t| [t.clone(), t])
        .collect();
    let made: Vec<String> =
        merges.iter().map(|m| format!("{}{}", m[0].as_str().unwrap(), m[1].as_str().unwrap())).collect();
    let special: Vec<String> =
        json["added_tokens"].as_array().unwrap().iter().map(|t| t["content"].as_str().unwrap().to_owned()).collect();
    let kept =
        |token: &String| needed.contains(token) || made.contains(token) || special.contains(token) || token.len() == 1;
    json["model"]["vocab"].as_object_mut().unwrap().retain(|token, _| kept(token));
}

/// Replaces, removes or swaps one value somewhere in the tree.
fn mutate(value: &mut Value, rng: &mut impl Rng, depth: usize) {
    let children = match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if children > 0 && (depth == 0 || rng.random_ratio(4, 5)) {
        let at = rng.random_range(0..children);
        match value {
            Value::Array(items) => return mutate(&mut items[at], rng, depth + 1),
            Value::Object(fields) => {
                let key = fields.keys().nth(at).cloned().unwrap();
                if rng.random_ratio(1, 8) {
                    fields.remove(&key);
                } else {
                    mutate(&mut fields[&key], rng, depth + 1);
                }
                return;
            }
            _ => {}
        }
    }
    *value = match rng.random_range(0..10) {
        0 => Value::Null,
        1 => json!(u32::MAX),
        2 => json!(-1),
        3 => json!("((("),
        4 => json!([]),
        5 => json!({}),
        6 => json!(""),
        7 => json!({"type": "Sequence", "decoders": [], "pretokenizers": [], "normalizers": [], "processors": []}),
        8 => json!(1e300),
        _ => json!(true),
    };
}
