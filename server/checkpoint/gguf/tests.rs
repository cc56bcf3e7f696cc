//! Whole files written byte by byte: what is read back, and what every kind of damage gives.
use std::path::Path;

use minisgl_kernels::DType;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::config::{ExpertsConfig, RopeScaling};
use crate::testing::{GgufWriter, tiny_gguf, tiny_gguf_of, write};

fn open(bytes: &[u8]) -> Result<Gguf, CheckpointError> {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "m.gguf", bytes);
    Gguf::open(&directory.path().join("m.gguf"))
}

/// Everything a caller can ask of a file; the first error.
fn read_all(bytes: &[u8]) -> Result<(), String> {
    let path = Path::new("m.gguf");
    let Parsed { values, tensors } = parse(path, bytes).map_err(|e| e.to_string())?;
    let metadata = Metadata { path, bytes, values: &values };
    let config = config::model_config(&metadata, &tensors).map(|_| ());
    let generation = config::generation(&metadata).map(|_| ());
    let tokenizer = tokenizer::read(&metadata).map(|_| ());
    config.and(generation).and(tokenizer).map_err(|e| e.to_string())
}

fn error_of(writer: GgufWriter) -> String {
    read_all(&writer.bytes()).expect_err("the file is bad")
}

#[test]
fn reads_back_what_was_written() {
    let gguf = open(&tiny_gguf().bytes()).unwrap();
    let config = gguf.config().unwrap();
    assert_eq!((config.hidden_size, config.layers, config.heads, config.kv_heads), (32, 2, 8, 2));
    assert_eq!((config.head_dim, config.rope.dim, config.vocab_size, config.context), (4, 4, 3, 64));
    assert_eq!((config.rms_norm_eps, config.rope.theta), (1e-5, 100_000.0));
    assert_eq!((config.tie_word_embeddings, config.dtype), (true, Some(DType::F32)));
    let generation = gguf.generation().unwrap();
    assert_eq!((generation.eos_token_ids, generation.bos_token_id), (vec![0], Some(1)));

    let tensor = gguf.tensor("token_embd.weight", &[3, 32]).unwrap();
    assert_eq!((tensor.dtype, tensor.data.as_ref()), (DType::Q4_0, &(0..54).collect::<Vec<u8>>()[..]));
    let view = tensor.view();
    assert_eq!((view.name, view.shape), ("token_embd.weight", &[3, 32][..]));
    assert_eq!(gguf.tensor("output_norm.weight", &[32]).unwrap().data.as_ref(), [7; 128]);
    assert_eq!(gguf.bytes(), 54 + 128);

    let tokenizer = gguf.tokenizer().unwrap();
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_deref()), ("gpt2", Some("smollm")));
    assert_eq!(
        (tokenizer.tokens, tokenizer.token_types),
        (vec!["<|end|>".into(), "a".into(), "b".into()], vec![3, 1, 1])
    );
    assert_eq!((tokenizer.merges, tokenizer.scores), (vec!["a b".to_string()], vec![]));
    assert_eq!((tokenizer.bos, tokenizer.eos, tokenizer.eot, tokenizer.unk), (Some(1), Some(0), None, None));
    assert_eq!((tokenizer.add_bos, tokenizer.add_eos), (Some(false), None));
    assert_eq!(tokenizer.chat_template.as_deref(), Some("{{ messages }}"));
}

#[test]
fn a_tensor_that_cannot_be_given_says_why() {
    let gguf = open(&tiny_gguf().tensor("odd.weight", 10, &[256], &[0; 84]).bytes()).unwrap();
    let error = |name: &str, shape: &[usize]| gguf.tensor(name, shape).unwrap_err().to_string();
    assert!(error("nope", &[1]).ends_with("m.gguf: tensor 'nope': not in the file"));
    assert!(
        error("output_norm.weight", &[31]).ends_with("tensor 'output_norm.weight': expected shape [31], found [32]")
    );
    assert!(error("odd.weight", &[256]).contains("tensor 'odd.weight': stored as Q2_K, which is not supported"));
}

#[test]
fn every_metadata_type_is_read() {
    let writer = tiny_gguf()
        .raw("a", 0, &[200])
        .raw("b", 1, &[0xff])
        .raw("c", 2, &500u16.to_le_bytes())
        .raw("d", 3, &(-5i16).to_le_bytes())
        .raw("e", 5, &(-7i32).to_le_bytes())
        .raw("f", 10, &(1u64 << 40).to_le_bytes())
        .raw("g", 11, &(-9i64).to_le_bytes())
        .raw("h", 12, &0.25f64.to_le_bytes())
        .array("i", 2, 2, &[1, 0, 2, 0])
        .array("j", 6, 1, &1.5f32.to_le_bytes())
        .array("k", 7, 2, &[0, 1])
        .array("l", 8, 0, &[]);
    let bytes = writer.bytes();
    let Parsed { values, .. } = parse(Path::new("m"), &bytes).unwrap();
    let metadata = Metadata { path: Path::new("m"), bytes: &bytes, values: &values };
    let numbers = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|key| metadata.number(key).unwrap().unwrap());
    assert_eq!(numbers, [200.0, -1.0, 500.0, -5.0, -7.0, (1u64 << 40) as f64, -9.0, 0.25]);
    assert_eq!(metadata.integers("i").unwrap().unwrap(), [1, 2]);
    assert_eq!(metadata.floats("j").unwrap().unwrap(), [1.5]);
    assert_eq!((metadata.array_len("k").unwrap(), metadata.array_len("l").unwrap()), (2, 0));
    assert!(metadata.integers("j").unwrap_err().to_string().contains("j[0]: expected a whole number"));
    assert!(metadata.strings("i").unwrap_err().to_string().contains("expected an array of strings"));
    assert!(metadata.bool("a").unwrap_err().to_string().contains("expected a bool, found an integer"));
}

#[test]
fn hostile_headers_are_refused_by_name() {
    let huge = u64::MAX.to_le_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGML....".to_vec(), "it starts with \"GGML\", not \"GGUF\""),
        ([b"GGUF".to_vec(), 3u32.to_be_bytes().to_vec()].concat(), "big-endian"),
        ([b"GGUF".to_vec(), 9u32.to_le_bytes().to_vec()].concat(), "version 9 is not supported"),
        (
            [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec(), huge.to_vec()].concat(),
            "18446744073709551615 tensors of at least",
        ),
        (GgufWriter::default().array("x", 4, u64::MAX, &[]).bytes(), "x: 18446744073709551615 array elements"),
        (GgufWriter::default().array("x", 8, 1, &huge).bytes(), "x: needs 18446744073709551615 bytes"),
        (GgufWriter::default().array("x", 9, 1, &[0; 12]).bytes(), "x: an array of arrays is not supported"),
        (GgufWriter::default().raw("x", 13, &[0; 8]).bytes(), "x: type 13 is not one of GGUF's"),
        (GgufWriter::default().raw("x", 8, &huge).bytes(), "x: needs 18446744073709551615 bytes at offset"),
        (GgufWriter::default().u32("x", 1).u32("x", 2).bytes(), "x: stated twice"),
        (GgufWriter::default().u32("general.alignment", 24).bytes(), "general.alignment: 24 must be a power of two"),
        (GgufWriter::default().u32("split.count", 3).bytes(), "split.count: a model in several files"),
        (GgufWriter::default().info("t", 0, &[8], 0).bytes(), "tensor 't': needs 32 bytes at offset 0"),
        (GgufWriter::default().info("t", 0, &[8], u64::MAX - 31).bytes(), "tensor 't': needs 32 bytes at offset"),
        (GgufWriter::default().info("t", 0, &[u64::MAX, 8], 0).bytes(), "overflows"),
        (GgufWriter::default().info("t", 0, &[1 << 40, 1 << 40], 0).bytes(), "overflows"),
        (GgufWriter::default().info("t", 0, &[0], 0).bytes(), "tensor 't': a dimension of [0] is zero"),
        (GgufWriter::default().info("t", 0, &[1; 5], 0).bytes(), "tensor 't': 5 dimensions"),
        (GgufWriter::default().info("t", 2, &[33], 0).bytes(), "rows of 33 elements are not whole Q4_0 blocks of 32"),
        (
            GgufWriter::default().tensor("t", 0, &[9], &[0; 36]).info("u", 0, &[1], 4).bytes(),
            "offset 4 is not a multiple",
        ),
        (GgufWriter::default().tensor("t", 0, &[9], &[0; 36]).info("u", 0, &[1], 32).bytes(), "overlap those of 't'"),
        (
            GgufWriter::default().tensor("t", 0, &[1], &[0; 4]).tensor("t", 0, &[1], &[0; 4]).bytes(),
            "'t': stated twice",
        ),
        (GgufWriter::default().bytes(), "general.architecture: missing"),
    ];
    for (bytes, expected) in cases {
        let error = read_all(&bytes).expect_err(expected);
        assert!(error.starts_with("m.gguf: ") && error.contains(expected), "{error}\n  lacks: {expected}");
    }
}

#[test]
fn configs_that_cannot_be_are_refused_by_key() {
    let with = |f: fn(GgufWriter) -> GgufWriter| error_of(f(GgufWriter::default()));
    assert!(
        with(|w| w.text("general.architecture", "mamba")).contains("general.architecture: 'mamba' is not supported")
    );
    assert!(with(|w| w.text("general.architecture", "llama")).contains("llama.embedding_length: missing"));
    let more = |f: fn(GgufWriter) -> GgufWriter, expected: &str| {
        let error = error_of(f(tiny_gguf()));
        assert!(error.contains(expected), "{error}\n  lacks: {expected}");
    };
    more(|w| w.u32("llama.expert_count", 8), "llama.expert_count: a mixture of experts is supported as qwen3moe alone");
    more(|w| w.u32("llama.attention.key_length", 3), "llama.attention.key_length: 3 must be even");
    more(|w| w.u32("llama.attention.value_length", 8), "llama.attention.value_length: 8 must equal the key length, 4");
    more(|w| w.u32("llama.rope.dimension_count", 6), "llama.rope.dimension_count: 6 rotated elements");
    more(|w| w.text("llama.rope.scaling.type", "longrope"), "llama.rope.scaling.type: 'longrope' is not supported");
    more(|w| w.text("llama.rope.scaling.type", "yarn"), "llama.rope.scaling.factor: missing");
    more(|w| w.f32("llama.rope.scaling.factor", f32::NAN), "llama.rope.scaling.factor: NaN is not a finite number");
    more(|w| w.u32("tokenizer.ggml.unknown_token_id", 3), "unknown_token_id: 3 is not one of the 3 tokens");
    more(
        |w| w.array("tokenizer.ggml.scores", 6, 1, &[0; 4]),
        "tokenizer.ggml.scores: 1 entries, but there are 3 tokens",
    );
}

/// A mixture of 4 experts of width 6, 2 a token.
fn mixture() -> GgufWriter {
    tiny_gguf_of("qwen3moe")
        .u32("qwen3moe.expert_count", 4)
        .u32("qwen3moe.expert_used_count", 2)
        .u32("qwen3moe.expert_feed_forward_length", 6)
}

#[test]
fn a_mixture_of_experts_is_read() {
    let experts = |writer: GgufWriter| open(&writer.bytes()).unwrap().config().unwrap().experts;
    let expected =
        ExpertsConfig { count: 4, per_token: 2, intermediate_size: 6, normalise: true, sparse_layers: vec![true; 2] };
    assert_eq!(experts(mixture()), Some(expected.clone()));
    let harmless = mixture().u32("qwen3moe.expert_gating_func", 1).f32("qwen3moe.expert_weights_scale", 0.0);
    assert_eq!(experts(harmless), Some(expected.clone()));
    let sums_to_less = mixture().bool("qwen3moe.expert_weights_norm", false);
    assert_eq!(experts(sums_to_less), Some(ExpertsConfig { normalise: false, ..expected }));
    assert_eq!(experts(tiny_gguf().u32("llama.expert_count", 0)), None);
}

#[test]
fn a_mixture_that_cannot_be_is_refused_by_key() {
    let few = tiny_gguf_of("qwen3moe").u32("qwen3moe.expert_count", 4).u32("qwen3moe.expert_used_count", 5);
    for (writer, expected) in [
        (tiny_gguf_of("qwen3moe"), "qwen3moe.expert_count: missing"),
        (tiny_gguf_of("qwen3moe").u32("qwen3moe.expert_count", 1 << 11), "qwen3moe.expert_count: "),
        (few, "qwen3moe.expert_used_count: 5 experts a token must be at most qwen3moe.expert_count (4)"),
        (mixture().u32("qwen3moe.expert_gating_func", 2), "qwen3moe.expert_gating_func: 2 is not supported; only 1 is"),
        (mixture().f32("qwen3moe.expert_weights_scale", 2.5), "qwen3moe.expert_weights_scale: 2.5 is not supported"),
        (mixture().u32("qwen3moe.expert_shared_count", 1), "qwen3moe.expert_shared_count: 1 is not supported"),
    ] {
        let error = error_of(writer);
        assert!(error.contains(expected), "{error}\n  lacks: {expected}");
    }
}

/// The tiny file with one key's line replaced.
fn heads_array(kv: &[u32]) -> GgufWriter {
    let elements: Vec<u8> = kv.iter().flat_map(|n| n.to_le_bytes()).collect();
    GgufWriter::default()
        .text("general.architecture", "qwen3")
        .u32("qwen3.embedding_length", 32)
        .u32("qwen3.block_count", 2)
        .u32("qwen3.feed_forward_length", 16)
        .u32("qwen3.attention.head_count", 8)
        .array("qwen3.attention.head_count_kv", 4, kv.len() as u64, &elements)
        .u32("qwen3.attention.key_length", 16)
        .u32("qwen3.context_length", 64)
        .u32("qwen3.vocab_size", 7)
        .f32("qwen3.attention.layer_norm_rms_epsilon", 1e-5)
}

#[test]
fn per_layer_values_are_right_where_they_are_equal() {
    let config = open(&heads_array(&[4, 4]).bytes()).unwrap().config().unwrap();
    assert_eq!((config.kv_heads, config.head_dim, config.vocab_size, config.dtype), (4, 16, 7, None));
    for (kv, expected) in
        [(&[4, 2][..], "differs from layer to layer"), (&[], "empty array"), (&[3, 3], "3 must divide")]
    {
        let error = error_of(heads_array(kv));
        assert!(error.contains("qwen3.attention.head_count_kv: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn rope_scaling_is_read_in_ggml_s_terms() {
    let scaling = |writer: GgufWriter| open(&writer.bytes()).unwrap().config().unwrap().rope.scaling;
    assert_eq!(scaling(tiny_gguf().f32("llama.rope.scale_linear", 2.0)), RopeScaling::Linear { factor: 2.0 });
    assert_eq!(scaling(tiny_gguf().text("llama.rope.scaling.type", "none")), RopeScaling::Default);
    let yarn = tiny_gguf()
        .text("llama.rope.scaling.type", "yarn")
        .f32("llama.rope.scaling.factor", 4.0)
        .u32("llama.rope.scaling.original_context_length", 16);
    let expected = |attention_factor| RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 16,
        attention_factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    };
    assert_eq!(scaling(yarn), expected(None));
    let stated = tiny_gguf()
        .text("llama.rope.scaling.type", "yarn")
        .f32("llama.rope.scaling.factor", 4.0)
        .u32("llama.rope.scaling.original_context_length", 16)
        .f32("llama.rope.scaling.attn_factor", 0.5);
    assert_eq!(scaling(stated), expected(Some(0.5 * (0.1 * 4f64.ln() + 1.0))));
}

#[test]
fn a_vocabulary_beyond_the_embedding_is_refused() {
    let tokens = GgufWriter::default()
        .text("general.architecture", "llama")
        .u32("llama.embedding_length", 32)
        .u32("llama.attention.head_count", 8)
        .u32("llama.context_length", 64)
        .u32("llama.block_count", 1)
        .u32("llama.feed_forward_length", 16)
        .texts("tokenizer.ggml.tokens", &["a", "b", "c"])
        .tensor("token_embd.weight", 0, &[2, 2], &[0; 16]);
    assert!(error_of(tokens).contains("tokenizer.ggml.tokens: 3 tokens, but the embedding has 2 rows"));
}

#[test]
fn truncation_anywhere_is_an_error_that_names_the_file() {
    let bytes = tiny_gguf().bytes();
    for len in 0..bytes.len() {
        let error = read_all(&bytes[..len]).expect_err("a truncated file");
        assert!(error.starts_with("m.gguf: "), "{error}");
    }
    assert!(open(&[]).err().unwrap().to_string().ends_with("m.gguf: empty"));
    assert!(read_all(&bytes).is_ok());
}

#[test]
fn thousands_of_mutations_never_panic() {
    let original = tiny_gguf().bytes();
    let mut random = StdRng::seed_from_u64(6);
    for _ in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 => bytes[at] ^= 1 << random.random_range(0..8),
                2 => bytes[at..].iter_mut().take(8).for_each(|b| *b = 0xff),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let _ = read_all(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_behind_the_magic_are_read_or_refused(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_all(&[b"GGUF\x03\0\0\0", &tail[..]].concat());
    }

    #[test]
    fn tensors_of_any_shape_come_back_whole(rows in 1u64..9, columns in 1u64..9, seed in any::<u8>()) {
        let data: Vec<u8> = (0..rows * columns * 4).map(|i| (i as u8).wrapping_add(seed)).collect();
        let gguf = open(&GgufWriter::default().tensor("t", 0, &[columns, rows], &data).bytes()).unwrap();
        let tensor = gguf.tensor("t", &[rows as usize, columns as usize]).unwrap();
        prop_assert_eq!(tensor.data.as_ref(), &data[..]);
    }
}
