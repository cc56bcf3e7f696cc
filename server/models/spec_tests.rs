//! Configs into specs, architecture by architecture. The goldens in tests/ hold what the specs then compute.
use minisgl_checkpoint::{RopeConfig, RopeScaling};
use minisgl_kernels::RopeLayout;

use super::*;

pub(crate) fn config(format: Format, architecture: &str) -> ModelConfig {
    ModelConfig {
        format,
        architecture: architecture.to_owned(),
        tensor_prefix: String::new(),
        hidden_size: 64,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        intermediate_size: 96,
        vocab_size: 128,
        context: 256,
        rms_norm_eps: 1e-5,
        rope: RopeConfig { theta: 10000.0, dim: 32, scaling: RopeScaling::Default },
        sliding_window: None,
        use_sliding_window: None,
        max_window_layers: None,
        sliding_layers: None,
        attention_bias: None,
        mlp_bias: false,
        tie_word_embeddings: false,
        activation: HiddenActivation::Silu,
        dtype: None,
    }
}

/// A small Llama's.
pub(crate) fn spec() -> DecoderSpec {
    DecoderSpec::from_config(&config(Format::HuggingFace, "LlamaForCausalLM")).unwrap()
}

fn of(config: &ModelConfig) -> DecoderSpec {
    DecoderSpec::from_config(config).unwrap()
}

#[test]
fn llama_takes_biases_from_its_config() {
    let plain = of(&config(Format::HuggingFace, "LlamaForCausalLM"));
    assert_eq!((plain.qkv_bias, plain.o_bias, plain.mlp_bias, plain.qk_norm), (false, false, false, false));
    assert_eq!((plain.windows.as_slice(), plain.rope.layout), (&[None; 3][..], RopeLayout::Halves));
    assert_eq!((plain.qkv_width(), plain.attention_scale), (8 * 32, 1.0 / 32f32.sqrt()));

    let mut biased = config(Format::HuggingFace, "LlamaForCausalLM");
    (biased.attention_bias, biased.mlp_bias, biased.activation) = (Some(true), true, HiddenActivation::GeluTanh);
    let biased = of(&biased);
    assert_eq!((biased.qkv_bias, biased.o_bias, biased.mlp_bias), (true, true, true));
    assert_eq!(biased.activation, Activation::GeluTanh);
}

#[test]
fn gguf_llama_alone_rotates_pairs() {
    assert_eq!(of(&config(Format::Gguf, "llama")).rope.layout, RopeLayout::Pairs);
    assert_eq!(of(&config(Format::Gguf, "qwen2")).rope.layout, RopeLayout::Halves);
    assert_eq!(of(&config(Format::Gguf, "qwen3")).rope.layout, RopeLayout::Halves);
}

#[test]
fn qwen_windows_are_on_upper_layers_and_only_where_used() {
    let mut qwen = config(Format::HuggingFace, "Qwen2ForCausalLM");
    (qwen.sliding_window, qwen.max_window_layers) = (Some(16), Some(1));
    assert_eq!(of(&qwen).windows, [None; 3], "stated, not used");
    assert!(of(&qwen).qkv_bias && !of(&qwen).o_bias);

    qwen.use_sliding_window = Some(true);
    assert_eq!(of(&qwen).windows, [None, Some(16), Some(16)]);
    qwen.max_window_layers = None;
    assert_eq!(of(&qwen).windows, [None; 3], "transformers' default is 28 layers");
    qwen.sliding_layers = Some(vec![true, false, true]);
    assert_eq!(of(&qwen).windows, [Some(16), None, Some(16)]);
    qwen.architecture = "Qwen3ForCausalLM".to_owned();
    assert_eq!(of(&qwen).windows, [Some(16), None, Some(16)]);
    assert!(of(&qwen).qk_norm && !of(&qwen).qkv_bias);
}

#[test]
fn mistral_has_one_window_for_all_layers() {
    for name in ["MistralForCausalLM", "Mistral3ForConditionalGeneration"] {
        let mut mistral = config(Format::HuggingFace, name);
        assert_eq!(of(&mistral).windows, [None; 3]);
        mistral.sliding_window = Some(8);
        assert_eq!(of(&mistral).windows, [Some(8); 3]);
    }
}

#[test]
fn what_cannot_run_is_said() {
    let said = |config: &ModelConfig| DecoderSpec::from_config(config).unwrap_err().to_string();
    let unknown = said(&config(Format::HuggingFace, "GemmaForCausalLM"));
    for word in ["GemmaForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM", "GGUF"] {
        assert!(unknown.contains(word), "{unknown}");
    }
    // A name of one format is none of the other's.
    assert!(said(&config(Format::HuggingFace, "llama")).contains("not supported"));
    let mut odd = config(Format::HuggingFace, "LlamaForCausalLM");
    odd.rope.dim = 31;
    assert!(said(&odd).contains("even"), "{}", said(&odd));
}

#[test]
fn ranks_share_heads_and_mlp() {
    let part = spec().of_rank(Rank { rank: 1, of: 2 }).unwrap();
    assert_eq!((part.heads, part.kv_heads, part.intermediate_size, part.vocab_size), (2, 1, 48, 128));
    let said = spec().of_rank(Rank { rank: 0, of: 4 }).unwrap_err().to_string();
    assert!(said.contains("2 K/V heads"), "{said}");
    assert_eq!(
        (Rank::SOLE.rows(), Rank { rank: 0, of: 2 }.columns()),
        (Shard::Whole, Shard::Columns { rank: 0, of: 2 })
    );
}
