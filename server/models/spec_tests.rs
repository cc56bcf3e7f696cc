//! Configs into specs, architecture by architecture. The goldens in tests/ hold what the specs then compute.
use minisgl_checkpoint::{ExpertsConfig, RopeConfig, RopeScaling};
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
        experts: None,
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

/// A mixture of 8 experts of width 16, 3 a token, in the layers given.
fn mixture(sparse_layers: [bool; 3]) -> ModelConfig {
    let sparse_layers = sparse_layers.to_vec();
    let experts = ExpertsConfig { count: 8, per_token: 3, intermediate_size: 16, normalise: true, sparse_layers };
    ModelConfig { experts: Some(experts), ..config(Format::HuggingFace, "Qwen3MoeForCausalLM") }
}

#[test]
fn qwen3_moe_mixes_in_its_sparse_layers() {
    let some = of(&mixture([true, false, true]));
    assert_eq!([0, 1, 2].map(|layer| some.moe_of(layer).is_some()), [true, false, true]);
    assert_eq!(some.moe_shape(), Some(MoeShape { experts: 8, per_token: 3, width: 64, inner: 16 }));
    assert!(some.has_dense_layers() && some.qk_norm && !some.qkv_bias);
    let base = 64 + some.qkv_width() + 4 * 32;
    assert_eq!(some.activation_width(), base + 3 * 96 + 8 + 3 * (64 + 3 * 16));
    // No layer of a kind: nothing of its widths.
    let all = of(&mixture([true; 3]));
    assert_eq!(all.activation_width(), base + 8 + 3 * (64 + 3 * 16));
    let none = of(&mixture([false; 3]));
    assert_eq!((none.moe_shape(), none.activation_width()), (None, base + 3 * 96));
    assert_eq!(of(&config(Format::HuggingFace, "Qwen3ForCausalLM")).activation_width(), base + 3 * 96);

    let mut slides = mixture([true; 3]);
    (slides.sliding_window, slides.max_window_layers) = (Some(16), Some(1));
    assert_eq!(of(&slides).windows, [None; 3]);
    slides.use_sliding_window = Some(true);
    assert_eq!(of(&slides).windows, [Some(16); 3], "in every layer, unlike Qwen3");

    let without = config(Format::HuggingFace, "Qwen3MoeForCausalLM");
    assert!(DecoderSpec::from_config(&without).unwrap_err().to_string().contains("without experts"));
}

#[test]
fn ranks_share_the_columns_of_every_expert() {
    let rank = Rank { rank: 1, of: 2 };
    let part = of(&mixture([true, false, true])).of_rank(rank).unwrap();
    assert_eq!((part.intermediate_size, part.moe_shape().unwrap().inner), (48, 8));
    let mut odd = mixture([true; 3]);
    odd.experts.as_mut().unwrap().intermediate_size = 15;
    assert!(of(&odd).of_rank(rank).unwrap_err().to_string().contains("15 columns of an expert"));
    // Nobody has the MLP of the config: it need not be shared.
    odd.experts.as_mut().unwrap().intermediate_size = 16;
    odd.intermediate_size = 97;
    assert_eq!(of(&odd).of_rank(rank).unwrap().intermediate_size, 97);
}

#[test]
fn what_cannot_run_is_said() {
    let said = |config: &ModelConfig| DecoderSpec::from_config(config).unwrap_err().to_string();
    let unknown = said(&config(Format::HuggingFace, "GemmaForCausalLM"));
    for word in ["GemmaForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "qwen3moe", "GGUF"]
    {
        assert!(unknown.contains(word), "{unknown}");
    }
    // A name of one format is none of the other's.
    assert!(said(&config(Format::HuggingFace, "llama")).contains("not supported"));
    let mut odd = config(Format::HuggingFace, "LlamaForCausalLM");
    odd.rope.dim = 31;
    assert!(said(&odd).contains("even"), "{}", said(&odd));
}

#[test]
fn each_query_head_has_its_kv_head_on_its_rank() {
    for (heads, kv_heads) in [(4, 2), (9, 3), (16, 8), (16, 2), (24, 8), (12, 4), (32, 1), (6, 6), (40, 8)] {
        let whole = DecoderSpec { heads, kv_heads, intermediate_size: 960 * heads, ..spec() };
        for of in whole.rank_counts() {
            for rank in (0..of).map(|rank| Rank { rank, of }) {
                let part = whole.of_rank(rank).unwrap();
                let kv = whole.kv_heads_of(rank);
                assert_eq!((part.heads, part.kv_heads), (heads / of, kv.len()));
                assert!(part.heads.is_multiple_of(part.kv_heads), "{heads} over {kv_heads}, {of} ranks");
                for head in 0..part.heads {
                    // As `Attend` says which a query head reads.
                    let read = kv[head * part.kv_heads / part.heads];
                    assert_eq!(read, (rank.rank * part.heads + head) * kv_heads / heads, "head {head} of {rank:?}");
                }
                if kv_heads.is_multiple_of(of) {
                    assert_eq!(kv.len(), kv_heads / of, "nothing is there twice");
                } else if of.is_multiple_of(kv_heads) {
                    assert_eq!(kv.len(), 1);
                }
            }
        }
    }
}

#[test]
fn ranks_share_heads_and_mlp() {
    let part = spec().of_rank(Rank { rank: 1, of: 2 }).unwrap();
    assert_eq!((part.heads, part.kv_heads, part.intermediate_size, part.vocab_size), (2, 1, 48, 128));
    let said = spec().of_rank(Rank { rank: 0, of: 3 }).unwrap_err().to_string();
    assert_eq!(said, "3 ranks cannot share 4 query heads and 96 MLP columns: 1, 2 or 4 can");
    assert_eq!(
        (Rank::SOLE.rows(), Rank { rank: 0, of: 2 }.columns()),
        (Shard::Whole, Shard::Columns { rank: 0, of: 2 })
    );
}
