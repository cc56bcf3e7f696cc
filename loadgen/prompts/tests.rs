//! Exact counts, and what is shared, by the small tokenizers of the fixtures.
use proptest::prelude::*;

use super::content::{Own, Salt};
use super::*;
use crate::request::Prompt;

/// A byte-level vocabulary of 512 tokens with a chat template.
pub(crate) fn tiny() -> Prompts {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/tiny-chat");
    Prompts::open(Wanted { asked: Some(path), ..Wanted::default() }).unwrap()
}

/// SentencePiece's form: another way of writing a space.
fn sentencepiece() -> Prompts {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../server/tokenizer/fixtures/sentencepiece.json");
    let fixture: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), fixture["tokenizer"].to_string()).unwrap();
    Prompts::read("sentencepiece", folder.path()).unwrap()
}

fn own(index: usize) -> Own {
    Own { index, attempt: 0 }
}

fn blocks(ids: &[u64], scale: f64) -> Prompt {
    Prompt::Blocks { ids: ids.into(), block_size: 16, scale }
}

const SALT: Salt = Salt { seed: 1, run: 0 };

#[test]
fn every_count_is_exact_as_ids_and_as_text() {
    for prompts in [tiny(), sentencepiece()] {
        let tokenizer = &prompts.maker.as_ref().unwrap().tokenizer;
        for tokens in (1..80).chain([500, 3001]) {
            for prompt in [Prompt::Random, Prompt::Shared, blocks(&[7, 9], 1.0), Prompt::Group { group: 3, tokens: 50 }]
            {
                let content = || SALT.content(&prompt, tokens, own(tokens));
                let ids = prompts.ids(content()).unwrap();
                assert_eq!(ids.len(), tokens);
                assert!(ids.iter().all(|&id| !tokenizer.is_special(id)));
                for first in [true, false] {
                    let text = prompts.text(content(), first).unwrap();
                    assert_eq!(prompts.count(&text).unwrap(), Some(tokens), "{} {prompt:?} {text:?}", prompts.name);
                    assert!(!first || text.trim_start() == text);
                }
            }
        }
    }
}

/// Most words stand by themselves: then the text's own tokens are those that would have been sent as ids.
#[test]
fn a_text_is_read_as_the_ids_it_was_made_of() {
    let prompts = tiny();
    let tokenizer = &prompts.maker.as_ref().unwrap().tokenizer;
    let content = || SALT.content(&blocks(&[1, 2, 3, 4, 5], 1.0), 70, own(0));
    let text = prompts.text(content(), false).unwrap();
    assert_eq!(tokenizer.encode(&text, AddSpecial::No).unwrap(), prompts.ids(content()).unwrap());
}

#[test]
fn a_long_prompt_is_no_trouble() {
    let prompts = tiny();
    let content = SALT.content(&blocks(&(0..7000).collect::<Vec<_>>(), 1.0), 120_000, own(0));
    assert_eq!(prompts.count(&prompts.text(content, true).unwrap()).unwrap(), Some(120_000));
}

fn common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Prompts share exactly the tokens that their ids say (but for a chance of one more), in any run, at any scale and
    /// however a last block is cut; another run shares none of it.
    #[test]
    fn ids_are_shared_as_blocks_are(
        same in 0usize..6, a_more in 1usize..60, b_more in 1usize..60, scale in prop::sample::select(vec![0.4, 1.0, 1.5]),
    ) {
        let prompts = tiny();
        let ids = |other: u64| -> Vec<u64> { (0..10).map(|at| if at < same as u64 { at } else { other + at }).collect() };
        let shared = (same as f64 * 16.0 * scale + 0.5).floor() as usize;
        let made = |run, other, tokens, index| {
            let content = Salt { seed: 1, run }.content(&blocks(&ids(other), scale), tokens, own(index));
            prompts.ids(content).unwrap()
        };
        for run in [0, 5] {
            let (a, b) = (made(run, 100, shared + a_more, 0), made(run, 200, shared + b_more, 1));
            prop_assert!((shared..=shared + 2).contains(&common(&a, &b)), "{} of {shared}", common(&a, &b));
            let cut = made(run, 100, (shared + a_more).div_ceil(2), 2);
            prop_assert_eq!(common(&a, &cut), cut.len().min((160.0 * scale) as usize), "a cut block is the whole one's beginning");
        }
        prop_assert!(common(&made(0, 100, 60, 0), &made(1, 100, 60, 0)) < 4);
    }
}

#[test]
fn whole_blocks_are_shared_as_text() {
    for prompts in [tiny(), sentencepiece()] {
        let text =
            |ids: &[u64], tokens| prompts.text(SALT.content(&blocks(ids, 1.0), tokens, own(tokens)), true).unwrap();
        let (a, b) = (text(&[1, 2, 3], 48), text(&[1, 2, 9], 45));
        let shared = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        let counted = prompts.count(&a[..shared]).unwrap().unwrap();
        assert!((31..=35).contains(&counted), "{counted}: {a:?} {b:?}");
    }
}

#[test]
fn what_is_shared_and_what_is_not() {
    let prompts = tiny();
    let text = |prompt: &Prompt, tokens, index| prompts.text(SALT.content(prompt, tokens, own(index)), true).unwrap();
    assert!(text(&Prompt::Shared, 90, 0).starts_with(&text(&Prompt::Shared, 40, 1)));
    let group = |group| Prompt::Group { group, tokens: 30 };
    let beginning = text(&group(1), 30, 0);
    assert!(text(&group(1), 50, 1).starts_with(&beginning) && text(&group(1), 60, 2).starts_with(&beginning));
    assert!(!text(&group(2), 50, 3).starts_with(&beginning));
    assert_ne!(text(&Prompt::Random, 40, 0), text(&Prompt::Random, 40, 1));
    let again = prompts.text(SALT.content(&Prompt::Random, 40, Own { index: 0, attempt: 1 }), true).unwrap();
    assert_ne!(text(&Prompt::Random, 40, 0), again);
}

#[test]
fn the_template_adds_its_tokens_around_a_message() {
    // <|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n
    let added = tiny().template_tokens().unwrap();
    assert!((5..40).contains(&added), "{added}");
    assert_eq!(sentencepiece().template_tokens(), None);
}

#[test]
fn what_cannot_be_had_is_an_error_where_it_is_needed() {
    let open = |asked, root, needed| Prompts::open(Wanted { asked, root, needed, progress: false });
    let error = |asked, root| open(asked, root, true).err().unwrap().to_string();
    assert!(error(None, None).contains("give --tokenizer"));
    let elsewhere = error(None, Some("/elsewhere/model.gguf"));
    assert!(elsewhere.contains("/elsewhere/model.gguf") && elsewhere.contains("give --tokenizer"), "{elsewhere}");
    assert!(error(Some("/elsewhere"), None).contains("tokenizer /elsewhere"));
    assert!(error(Some("no-such-alias"), Some("/")).contains("no-such-alias"));
    assert!(open(Some("/elsewhere"), None, false).is_err(), "what was asked for must be there");
    let none = open(None, Some("/elsewhere"), false).unwrap();
    assert_eq!((none.name.as_str(), none.count("text").unwrap(), none.template_tokens()), ("", None, None));
    assert!(none.ids(SALT.content(&Prompt::Random, 1, own(0))).is_err());
}

/// The way without encoding a whole text is taken where it is right, and only there.
#[test]
fn words_that_stay_apart_are_found() {
    for (prompts, expected) in [(tiny(), true), (sentencepiece(), false)] {
        let maker = prompts.maker.as_ref().unwrap();
        assert_eq!(maker.apart, expected, "{}", prompts.name);
        assert!(!apart(&maker.tokenizer, &[]));
    }
    let tiny = tiny();
    let tokenizer = &tiny.maker.as_ref().unwrap().tokenizer;
    let letter = tokenizer.encode("a", AddSpecial::No).unwrap();
    assert!(!apart(tokenizer, &letter), "letters merge");
}
