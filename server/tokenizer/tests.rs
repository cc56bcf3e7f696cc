//! Against the real counterparts: what transformers and SentencePiece make of the same tokenizers (`fixtures/make.py`),
//! read from both forms that a model's files take.
use std::path::PathBuf;

use minisgl_checkpoint::{GgufTokenizer, HfTokenizer};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
pub(crate) struct Fixture {
    pub(crate) tokenizer: serde_json::Value,
    pub(crate) config: serde_json::Value,
    gguf: Metadata,
    ids: Vec<Vec<TokenId>>,
    with_special: Vec<TokenId>,
    decoded: Vec<Decoded>,
}

#[derive(Deserialize)]
struct Metadata {
    model: String,
    pre: Option<String>,
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    merges: Vec<String>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    unk: Option<TokenId>,
}

#[derive(Deserialize)]
struct Decoded {
    ids: Vec<TokenId>,
    all: String,
    skipped: String,
}

const FIXTURES: [(&str, &str); 6] = [
    ("default", include_str!("fixtures/default.json")),
    ("gpt-2", include_str!("fixtures/gpt-2.json")),
    ("llama-bpe", include_str!("fixtures/llama-bpe.json")),
    ("qwen2", include_str!("fixtures/qwen2.json")),
    ("smollm", include_str!("fixtures/smollm.json")),
    ("sentencepiece", include_str!("fixtures/sentencepiece.json")),
];

fn texts() -> Vec<String> {
    serde_json::from_str(include_str!("fixtures/texts.json")).unwrap()
}

impl Fixture {
    pub(crate) fn named(name: &str) -> Self {
        let (_, text) = FIXTURES.iter().find(|(n, _)| *n == name).unwrap();
        serde_json::from_str(text).unwrap()
    }

    pub(crate) fn hugging_face(&self) -> HfTokenizer {
        HfTokenizer {
            tokenizer_json: serde_json::to_vec(&self.tokenizer).unwrap(),
            tokenizer_config: self.config.clone(),
            chat_template: None,
            path: PathBuf::from("model/tokenizer.json"),
        }
    }

    fn gguf(&self) -> GgufTokenizer {
        let Metadata { model, pre, tokens, scores, types, merges, bos, eos, unk } = &self.gguf;
        GgufTokenizer {
            model: model.clone(),
            pre: pre.clone(),
            tokens: tokens.clone(),
            scores: scores.clone(),
            token_types: types.clone(),
            merges: merges.clone(),
            bos: *bos,
            eos: *eos,
            unk: *unk,
            pad: None,
            eot: None,
            add_bos: None,
            add_eos: None,
            add_space_prefix: None,
            chat_template: None,
            path: PathBuf::from("model.gguf"),
        }
    }

    fn both(&self) -> [(&'static str, Tokenizer); 2] {
        [
            ("tokenizer.json", Tokenizer::new(TokenizerSource::HuggingFace(self.hugging_face())).unwrap()),
            ("gguf", Tokenizer::new(TokenizerSource::Gguf(self.gguf())).unwrap()),
        ]
    }
}

/// Every fixture in both forms.
pub(crate) fn all() -> Vec<(String, Tokenizer)> {
    let forms = |(name, _): &(&str, &str)| Fixture::named(name).both().map(|(form, t)| (format!("{name}, {form}"), t));
    FIXTURES.iter().flat_map(forms).collect()
}

#[test]
fn encodes_as_transformers() {
    let texts = texts();
    for (name, _) in FIXTURES {
        let fixture = Fixture::named(name);
        for (form, tokenizer) in fixture.both() {
            for (text, expected) in texts.iter().zip(&fixture.ids) {
                let ids = tokenizer.encode(text, AddSpecial::No).unwrap();
                assert_eq!(&ids, expected, "{name}, {form}: {text:?}");
            }
            assert_eq!(
                tokenizer.encode("Hello, world!", AddSpecial::Yes).unwrap(),
                fixture.with_special,
                "{name}, {form}"
            );
        }
    }
}

#[test]
fn decodes_as_transformers() {
    for (name, _) in FIXTURES {
        let fixture = Fixture::named(name);
        for (form, tokenizer) in fixture.both() {
            for Decoded { ids, all, skipped } in &fixture.decoded {
                assert_eq!(&tokenizer.decode(ids, false), all, "{name}, {form}: {ids:?}");
                assert_eq!(&tokenizer.decode(ids, true), skipped, "{name}, {form}: {ids:?}");
            }
        }
    }
}

#[test]
fn texts_come_back() {
    for (name, tokenizer) in all() {
        for text in texts().iter().filter(|text| !name.starts_with("qwen2") || text.is_ascii()) {
            let ids = tokenizer.encode(text, AddSpecial::No).unwrap();
            // SentencePiece writes spaces as U+2581, and puts one before each stretch between special tokens.
            if !name.starts_with("sentencepiece")
                || !(text.contains('▁') || text.contains("<|") || text.contains("<tool"))
            {
                assert_eq!(&tokenizer.decode(&ids, false), text, "{name}");
            }
        }
    }
}

#[test]
fn facts_about_a_vocabulary() {
    for (name, tokenizer) in all() {
        let end = tokenizer.token_to_id(if name.starts_with("sentencepiece") { "</s>" } else { "<|im_end|>" }).unwrap();
        assert_eq!(tokenizer.eos_token_id(), Some(end), "{name}");
        assert!(tokenizer.is_special(end), "{name}");
        let tool = tokenizer.token_to_id("<tool>").unwrap();
        assert!(!tokenizer.is_special(tool), "{name}");
        assert_eq!(tokenizer.encode("<tool>", AddSpecial::No).unwrap(), [tool], "{name}");
        let last = tokenizer.vocab_size() as TokenId - 1;
        assert!(tokenizer.0.vocabulary.piece(last).is_some(), "{name}");
        assert!(tokenizer.0.vocabulary.piece(last + 1).is_none(), "{name}");
        assert_eq!(tokenizer.decode(&[last + 1, TokenId::MAX], false), "", "{name}");
        assert!(!tokenizer.is_special(TokenId::MAX), "{name}");
        assert_eq!(tokenizer.token_to_id("no such token"), None, "{name}");
        assert!(!tokenizer.has_chat_template(), "{name}");
        assert_eq!(tokenizer.render_chat(&[], &ChatOptions::default()), Err(TokenizerError::NoChatTemplate), "{name}");
    }
}

#[test]
fn byte_pieces_have_ids_by_their_spelling() {
    for (form, tokenizer) in Fixture::named("sentencepiece").both() {
        let id = tokenizer.token_to_id("<0x0A>").unwrap();
        assert_eq!(tokenizer.decode(&[id], false), "\n", "{form}");
    }
}

#[test]
fn a_prefix_keeps_a_texts_space_and_completes_its_character() {
    for (form, tokenizer) in Fixture::named("sentencepiece").both() {
        let ids = tokenizer.encode("the capital", AddSpecial::Yes).unwrap();
        let (prompt, rest) = ids.split_at(2);
        let options = DetokenizerOptions { skip_special: true };
        let mut after = tokenizer.detokenizer(options).with_prefix(prompt);
        assert_eq!(after.push(rest[0]), " capital", "{form}");
        let mut alone = tokenizer.detokenizer(options);
        assert_eq!(alone.push(rest[0]), "capital", "{form}");
        let mut only_bos = tokenizer.detokenizer(options).with_prefix(&prompt[..1]);
        assert_eq!(only_bos.push(rest[0]), "capital", "{form}");
    }
    let tokenizer = Fixture::named("gpt-2").both().map(|(_, t)| t)[1].clone();
    let ids = tokenizer.encode("😀", AddSpecial::No).unwrap();
    assert!(ids.len() > 1);
    let mut after = tokenizer.detokenizer(DetokenizerOptions::default()).with_prefix(&ids[..1]);
    let text: String = ids[1..].iter().map(|&id| after.push(id)).collect();
    assert_eq!(text + &after.finish(), "😀");
}

#[test]
fn characters_come_when_they_are_whole() {
    for name in ["gpt-2", "sentencepiece"] {
        for (form, tokenizer) in Fixture::named(name).both() {
            let ids = tokenizer.encode("😀😀", AddSpecial::No).unwrap();
            let mut detokenizer = tokenizer.detokenizer(DetokenizerOptions::default());
            let pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
            let given: Vec<&str> = pieces.iter().map(String::as_str).filter(|piece| !piece.is_empty()).collect();
            assert_eq!(given, ["😀", "😀"], "{name}, {form}");
            assert!(pieces.last().is_some_and(|last| last == "😀"), "{name}, {form}: not held to the end");
            assert_eq!(detokenizer.finish(), "");
            // Cut inside a character: what is held back shows at the end.
            let mut cut = tokenizer.detokenizer(DetokenizerOptions::default());
            ids[..ids.len() - 1].iter().for_each(|&id| drop(cut.push(id)));
            assert!(cut.finish().starts_with('\u{fffd}'), "{name}, {form}");
            assert_eq!(cut.finish(), "");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_join_to_the_whole(ids in prop::collection::vec(0u32..600, 0..200), skip_special: bool, cut in 0usize..200) {
        for (name, tokenizer) in shared() {
            let mut detokenizer = tokenizer.detokenizer(DetokenizerOptions { skip_special });
            let mut text = String::new();
            for &id in &ids {
                text += &detokenizer.push(id);
                prop_assert!(!text.is_empty() || detokenizer.clone().finish().chars().count() <= 3);
            }
            text += &detokenizer.finish();
            prop_assert_eq!(&text, &tokenizer.decode(&ids, skip_special), "{}", name);
            // A prefix and what comes after it join too.
            let (prompt, rest) = ids.split_at(cut.min(ids.len()));
            let mut before = tokenizer.detokenizer(DetokenizerOptions { skip_special });
            let given: String = prompt.iter().map(|&id| before.push(id)).collect();
            let mut after = tokenizer.detokenizer(DetokenizerOptions { skip_special }).with_prefix(prompt);
            let more: String = rest.iter().map(|&id| after.push(id)).collect();
            prop_assert_eq!(given + &more + &after.finish(), text, "{}", name);
        }
    }

    #[test]
    fn byte_level_decoding_is_the_librarys(ids in prop::collection::vec(0u32..464, 0..64), skip_special: bool) {
        for (name, tokenizer) in shared() {
            if let (Encoder::Library(library), false) = (&tokenizer.0.encoder, name.starts_with("sentencepiece"))
                && name.ends_with("tokenizer.json")
            {
                prop_assert_eq!(tokenizer.decode(&ids, skip_special), library.decode(&ids, skip_special).unwrap(), "{}", name);
            }
        }
    }

    #[test]
    fn both_forms_agree(text in "\\PC{0,40}|[ \\n\\ta-z0-9'é日]{0,40}|[▁ aehort]{0,40}") {
        let tokenizers = shared();
        for pair in tokenizers.chunks(2) {
            let [(name, a), (_, b)] = pair else { unreachable!("two forms each") };
            prop_assert_eq!(a.encode(&text, AddSpecial::No), b.encode(&text, AddSpecial::No), "{}", name);
        }
    }
}

/// [`all`], built once.
fn shared() -> &'static [(String, Tokenizer)] {
    static ALL: OnceLock<Vec<(String, Tokenizer)>> = OnceLock::new();
    ALL.get_or_init(all)
}

#[test]
fn made_up_prompts_have_the_length_asked_for() {
    use rand::{RngCore, SeedableRng};
    for (name, tokenizer) in all() {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
        let mut seen = std::collections::HashSet::new();
        for n in (0..40).chain([100, 777, 8000]) {
            let (text, ids) = tokenizer.exact_prompt(n, || rng.next_u64()).unwrap();
            assert_eq!(ids.len(), n, "{name}");
            assert_eq!(tokenizer.encode(&text, AddSpecial::No).unwrap(), ids, "{name}");
            assert!(ids.iter().all(|&id| !tokenizer.is_special(id)), "{name}");
            assert!(seen.insert(text), "{name}: twice the same text of {n} tokens");
        }
    }
}

#[test]
fn made_up_prompts_from_letters_that_merge() {
    use rand::{RngCore, SeedableRng};
    // No words; every letter merges with some other.
    let letters = "abcdefgh".chars().map(String::from);
    let pairs = ["ab", "ba", "cd", "ef", "gh", "abab"].map(String::from);
    let tokens: Vec<String> = letters.chain(pairs).collect();
    let mut source = Fixture::named("gpt-2").gguf();
    source.token_types = vec![1; tokens.len()];
    source.merges = ["a b", "b a", "c d", "e f", "g h", "ab ab"].map(String::from).to_vec();
    (source.tokens, source.bos, source.eos) = (tokens, None, None);
    let tokenizer = Tokenizer::new(TokenizerSource::Gguf(source.clone())).unwrap();
    let mut rng = rand::rngs::SmallRng::seed_from_u64(2);
    for n in (1..40).chain([1000]) {
        let (text, ids) = tokenizer.exact_prompt(n, || rng.next_u64()).unwrap();
        assert_eq!((ids.len(), tokenizer.encode(&text, AddSpecial::No).unwrap()), (n, ids));
    }
    // Nothing but special tokens: nothing to draw from.
    source.token_types = vec![3; source.tokens.len()];
    let none = Tokenizer::new(TokenizerSource::Gguf(source)).unwrap();
    assert_eq!(none.exact_prompt(3, || 0), Err(TokenizerError::ExactPrompt { n: 3 }));
}

#[test]
fn is_shared_between_threads() {
    fn check<T: Send + Sync + Clone>() {}
    check::<Tokenizer>();
    fn send<T: Send>() {}
    send::<Detokenizer>();
}
