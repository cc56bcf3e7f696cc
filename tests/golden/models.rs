//! Every architecture's tiny model, on every device: logits within [`TOLERANCE`] of transformers' float32, the same greedy
//! tokens, and the very same bits however the work is cut: chunks, page sizes, prefix hits, batch mixes, threads.
use std::path::PathBuf;

use minisgl::batch::RowTokens;
use minisgl_config::{DTypeChoice, DeviceKind, EngineSettings};
use minisgl_kernels::{TokenId, Want};
use safetensors::SafeTensors;

use super::feed::{Feeder, Sequence, scores_of, token_of};
use crate::support::root;

/// Of every position: the largest difference of a logit, over the largest logit of that position.
pub(super) const TOLERANCE: f32 = 1e-4;

/// What transformers computed.
pub(super) struct Golden {
    /// The prompt, then all but the last of its greedy continuation.
    pub(super) tokens: Vec<TokenId>,
    prompt: usize,
    pub(super) continuation: Vec<TokenId>,
    /// `[tokens, vocabulary]`
    logits: Vec<f32>,
    vocabulary: usize,
}

fn folder(name: &str) -> PathBuf {
    root().join("tests/fixtures/models").join(name)
}

/// What `--model` would be.
pub(super) fn model(name: &str) -> PathBuf {
    let gguf = folder(name).join("model.gguf");
    if gguf.exists() { gguf } else { folder(name) }
}

pub(super) fn golden(name: &str) -> Golden {
    let bytes = std::fs::read(folder(name).join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> { file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec() };
    let ids = |name: &str| -> Vec<TokenId> { words(name).into_iter().map(u32::from_le_bytes).collect() };
    let (prompt, continuation) = (ids("prompt"), ids("continuation"));
    let tokens = [&prompt[..], &continuation[..continuation.len() - 1]].concat();
    let vocabulary = file.tensor("logits").unwrap().shape()[1];
    let logits: Vec<f32> = words("logits").into_iter().map(f32::from_le_bytes).collect();
    assert_eq!(logits.len(), tokens.len() * vocabulary);
    Golden { tokens, prompt: prompt.len(), continuation, logits, vocabulary }
}

fn settings(device: DeviceKind, page_size: usize) -> EngineSettings {
    EngineSettings {
        dtype: DTypeChoice::Float32,
        device,
        page_size: Some(page_size),
        threads: 2,
        max_running_requests: 4,
        max_prefill_length: 256,
        num_pages: Some(320 / page_size),
        ..Default::default()
    }
}

/// The largest error of any position, relative to that position's largest logit.
pub(super) fn error(golden: &Golden, logits: &[f32]) -> f32 {
    assert_eq!(logits.len(), golden.logits.len());
    let positions = golden.logits.chunks(golden.vocabulary).zip(logits.chunks(golden.vocabulary));
    let relative = positions.map(|(theirs, ours)| {
        let largest = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
        let apart = theirs.iter().zip(ours).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        if ours.iter().any(|x| x.is_nan()) { f32::INFINITY } else { apart / largest }
    });
    relative.fold(0f32, f32::max)
}

fn same_bits(what: &str, a: &[f32], b: &[f32], vocabulary: usize) {
    assert_eq!(a.len(), b.len(), "{what}");
    let differs = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(i) = differs {
        panic!("{what}: position {}, token {}: {} is not {}", i / vocabulary, i % vocabulary, a[i], b[i]);
    }
}

/// Everything that must hold of one model on one device.
fn check(name: &str, device: DeviceKind) {
    let golden = golden(name);
    let mut feeder = Feeder::load(&model(name), &settings(device, 1));
    let mut sequence = feeder.begin(0);
    let (whole, next) = feeder.scores(&mut sequence, &golden.tokens);
    let error = error(&golden, &whole);
    assert!(error <= TOLERANCE, "{name}: logits differ from transformers' by {error:.2e}");
    assert_eq!(Some(&next), golden.continuation.last(), "{name}");

    for page_size in [1, 16, 64] {
        let mut feeder = Feeder::load(&model(name), &settings(device, page_size));
        let same = |what: &str, logits: &[f32], from: usize| {
            let expected = &whole[from * golden.vocabulary..];
            same_bits(&format!("{name}, {what}, pages of {page_size}"), logits, expected, golden.vocabulary);
        };
        let (first, logits) = in_chunks(&mut feeder, &golden, &[1, 7, 16, 3, 20, 9]);
        same("in chunks", &logits, 0);
        let (slow, logits) = in_chunks(&mut feeder, &golden, &[1; 56]);
        same("token by token", &logits, 0);
        feeder.release(slow);
        let shared = 37 / feeder.page_size() * feeder.page_size();
        let mut hit = feeder.begin_after(1, &first, 37);
        same("after a prefix hit", &feeder.scores(&mut hit, &golden.tokens[shared..]).0, shared);
        feeder.release(hit);
        same("beside other rows", &beside_others(&mut feeder, &golden), 0);
        let tokens = greedy(&mut feeder, &golden);
        assert_eq!(tokens, golden.continuation, "{name}, greedy, pages of {page_size}");
    }
    let one_thread = EngineSettings { threads: 1, ..settings(device, 16) };
    let mut feeder = Feeder::load(&model(name), &one_thread);
    let mut sequence = feeder.begin(3);
    let (logits, _) = feeder.scores(&mut sequence, &golden.tokens);
    same_bits(&format!("{name}, one thread"), &logits, &whole, golden.vocabulary);
}

/// All tokens in rows of so many.
fn in_chunks(feeder: &mut Feeder, golden: &Golden, sizes: &[usize]) -> (Sequence, Vec<f32>) {
    assert_eq!(sizes.iter().sum::<usize>(), golden.tokens.len());
    let (mut sequence, mut logits, mut rest) = (feeder.begin(0), Vec::new(), &golden.tokens[..]);
    for size in sizes {
        let (chunk, left) = rest.split_at(*size);
        logits.extend(feeder.scores(&mut sequence, chunk).0);
        rest = left;
    }
    (sequence, logits)
}

/// All tokens in three chunks, each in a batch with prefill chunks and decode rows of other sequences.
fn beside_others(feeder: &mut Feeder, golden: &Golden) -> Vec<f32> {
    let backwards: Vec<TokenId> = golden.tokens.iter().rev().copied().collect();
    let (mut it, mut long, mut decoding) = (feeder.begin(2), feeder.begin(0), feeder.begin(3));
    let first = feeder.chunk(&mut decoding, &backwards[..5], Want::Sample);
    feeder.run(vec![first]);

    let mut logits = Vec::new();
    for (i, chunk) in [&golden.tokens[..11], &golden.tokens[11..12], &golden.tokens[12..]].into_iter().enumerate() {
        let other = feeder.chunk(&mut long, &backwards[i * 17..(i + 1) * 17], Want::Nothing);
        let row = feeder.chunk(&mut it, chunk, Want::Scores);
        let decode = feeder.row(&mut decoding, RowTokens::LastSampled, Want::Sample);
        let mut outputs = feeder.run(vec![other, row, decode]);
        logits.extend(scores_of(outputs.remove(1)).0);
    }
    [it, long, decoding].into_iter().for_each(|sequence| feeder.release(sequence));
    logits
}

/// The prompt, then one token after the other, each fed as "the last sampled one".
pub(super) fn greedy(feeder: &mut Feeder, golden: &Golden) -> Vec<TokenId> {
    let mut sequence = feeder.begin(1);
    let prompt = feeder.chunk(&mut sequence, &golden.tokens[..golden.prompt], Want::Sample);
    let mut tokens = vec![token_of(&feeder.run(vec![prompt])[0])];
    while tokens.len() < golden.continuation.len() {
        tokens.push(feeder.decode(&mut sequence));
    }
    tokens
}

macro_rules! golden_models {
    ($($test:ident: $folder:literal),* $(,)?) => {
        $(mod $test {
            #[test]
            fn cpu() {
                super::check($folder, minisgl_config::DeviceKind::Cpu);
            }
            #[test]
            fn reference() {
                super::check($folder, minisgl_config::DeviceKind::Reference);
            }
        })*
        /// Every folder with a golden file.
        pub(super) const ALL: &[&str] = &[$($folder),*];
    };
}

golden_models! {
    gguf_llama: "gguf-llama",
    gguf_qwen2: "gguf-qwen2",
    gguf_qwen3: "gguf-qwen3",
    gguf_qwen3moe: "gguf-qwen3moe",
    llama: "llama",
    llama_bias: "llama-bias",
    llama_gelu_tanh: "llama-gelu-tanh",
    llama_linear: "llama-linear",
    llama_llama3: "llama-llama3",
    llama_yarn: "llama-yarn",
    llama_yarn_mscale: "llama-yarn-mscale",
    mistral: "mistral",
    mistral3: "mistral3",
    mistral_full: "mistral-full",
    qwen2: "qwen2",
    qwen2_layer_types: "qwen2-layer-types",
    qwen2_window: "qwen2-window",
    qwen2_window_off: "qwen2-window-off",
    qwen3: "qwen3",
    qwen3_moe: "qwen3-moe",
    qwen3_moe_stacked: "qwen3-moe-stacked",
    qwen3_moe_unnormalised: "qwen3-moe-unnormalised",
    tiny_chat: "tiny-chat",
}

#[test]
fn every_fixture_is_tested_and_small() {
    let mut found = Vec::new();
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder("")).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            found.push(entry.file_name().into_string().unwrap());
            let files = std::fs::read_dir(entry.path()).unwrap();
            // A symlink's own size: shared weights count once.
            bytes += files.map(|file| file.unwrap().path().symlink_metadata().unwrap().len()).sum::<u64>();
        }
    }
    found.sort();
    let mut tested = ALL.to_vec();
    tested.sort_unstable();
    assert_eq!(found, tested);
    assert!(bytes < 6_000_000, "{bytes} bytes of fixtures");
}

/// Half-precision computation stays near: the error is that of the number format, not of a wrong step.
#[test]
fn half_precision_is_near() {
    for (dtype, tolerance) in [(DTypeChoice::BFloat16, 0.03), (DTypeChoice::Float16, 0.005)] {
        for device in [DeviceKind::Cpu, DeviceKind::Reference] {
            let golden = golden("qwen3");
            let mut feeder = Feeder::load(&model("qwen3"), &EngineSettings { dtype, ..settings(device, 16) });
            let mut sequence = feeder.begin(0);
            let error = error(&golden, &feeder.scores(&mut sequence, &golden.tokens).0);
            assert!(error < tolerance, "{dtype:?} on {device:?}: {error:.2e}");
        }
    }
}
