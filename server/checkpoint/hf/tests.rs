//! Configs of both transformers' spellings, and bad ones.
use std::path::Path;

use minisgl_kernels::DType;
use serde_json::{Value, json};

use super::*;
use crate::config::{ExpertsConfig, GenerationConfig, RopeScaling};
use crate::testing::{tiny_config, tiny_json, write};

/// The tiny model's config with fields replaced; `null` removes one.
fn read_with(fields: Value) -> Result<ModelConfig, String> {
    let mut raw = tiny_json();
    for (name, value) in fields.as_object().unwrap() {
        if value == "removed" {
            raw.as_object_mut().unwrap().remove(name);
        } else {
            raw[name] = value.clone();
        }
    }
    model_config(Path::new("config.json"), raw.as_object().unwrap()).map_err(|e| e.to_string())
}

fn scaling_of(fields: Value) -> RopeScaling {
    read_with(fields).unwrap().rope.scaling
}

#[test]
fn the_least_config_gets_transformers_defaults() {
    assert_eq!(read_with(json!({})).unwrap(), tiny_config());
    assert_eq!(read_with(json!({"num_key_value_heads": null})).unwrap().kv_heads, 2);
    assert_eq!(read_with(json!({"head_dim": null, "num_attention_heads": 1})).unwrap().head_dim, 8);
    assert_eq!(read_with(json!({"model_type": "qwen3"})).unwrap().head_dim, 128);
    assert_eq!(read_with(json!({"model_type": "qwen3", "head_dim": 6})).unwrap().head_dim, 6);
    assert_eq!(read_with(json!({"model_type": "mistral"})).unwrap().sliding_window, Some(4096));
    assert_eq!(read_with(json!({"model_type": "mistral", "sliding_window": null})).unwrap().sliding_window, None);
}

#[test]
fn types_are_read_by_either_name() {
    assert_eq!(read_with(json!({"torch_dtype": "float16"})).unwrap().dtype, Some(DType::F16));
    assert_eq!(read_with(json!({"dtype": "torch.float32"})).unwrap().dtype, Some(DType::F32));
    assert_eq!(read_with(json!({"torch_dtype": null})).unwrap().dtype, None);
    assert_eq!(read_with(json!({"hidden_act": "gelu"})).unwrap().activation, HiddenActivation::Gelu);
    assert_eq!(read_with(json!({"hidden_act": "gelu_pytorch_tanh"})).unwrap().activation, HiddenActivation::GeluTanh);
}

#[test]
fn rope_is_read_in_both_spellings() {
    let old = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}});
    let new = json!({"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5e5}});
    assert_eq!(read_with(old.clone()).unwrap(), read_with(new).unwrap());
    assert_eq!(read_with(old).unwrap().rope.theta, 5e5);
    assert_eq!(scaling_of(json!({"rope_scaling": null})), RopeScaling::Default);
    assert_eq!(
        scaling_of(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})),
        RopeScaling::Default
    );
    let llama3 = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 16}});
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 16,
    };
    assert_eq!(scaling_of(llama3), expected);
    let yarn =
        json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 0, "truncate": false, "mscale": 0.5}});
    let expected = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 64,
        attention_factor: None,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: Some(0.5),
        mscale_all_dim: None,
        truncate: false,
    };
    assert_eq!(scaling_of(yarn), expected);
    assert_eq!(read_with(json!({"partial_rotary_factor": 0.5})).unwrap().rope.dim, 2);
}

#[test]
fn layers_that_slide_are_read_by_name() {
    let types = json!({"layer_types": ["full_attention", "sliding_attention"], "max_window_layers": 0, "use_sliding_window": true});
    let config = read_with(types).unwrap();
    assert_eq!((config.sliding_layers, config.max_window_layers), (Some(vec![false, true]), Some(0)));
    assert_eq!(config.use_sliding_window, Some(true));
}

#[test]
fn a_nested_text_model_is_read_from_within() {
    let mut inner = tiny_json();
    inner.as_object_mut().unwrap().remove("architectures");
    inner.as_object_mut().unwrap().remove("torch_dtype");
    let raw = json!({"architectures": ["Mistral3ForConditionalGeneration"], "dtype": "float16", "tie_word_embeddings": true,
        "text_config": inner, "vision_config": {"hidden_size": 3}});
    let config = model_config(Path::new("config.json"), raw.as_object().unwrap()).unwrap();
    let expected = ModelConfig {
        architecture: "Mistral3ForConditionalGeneration".into(),
        tensor_prefix: "language_model.".into(),
        dtype: Some(DType::F16),
        tie_word_embeddings: true,
        ..tiny_config()
    };
    assert_eq!(config, expected);
}

#[test]
fn what_is_wrong_is_named_with_its_field() {
    let cases = [
        (json!({"hidden_size": "removed"}), "hidden_size: missing"),
        (json!({"hidden_size": -1}), "hidden_size: expected a whole number from 1 to 131072, found -1"),
        (json!({"hidden_size": "8"}), "hidden_size: expected a whole number"),
        (json!({"num_hidden_layers": 1e300}), "num_hidden_layers: expected a whole number"),
        (json!({"vocab_size": 0}), "vocab_size: expected a whole number"),
        (json!({"vocab_size": 1u64 << 40}), "vocab_size: expected a whole number"),
        (json!({"num_attention_heads": 3}), "head_dim: must be stated: 8 elements cannot be split over 3 heads"),
        (json!({"num_key_value_heads": 4}), "num_key_value_heads: 4 must divide num_attention_heads (2)"),
        (json!({"head_dim": 5}), "head_dim: 5 must be even"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps: 0 must be more than 0"),
        (json!({"architectures": []}), "architectures: expected a list"),
        (json!({"hidden_act": "relu"}), "hidden_act: 'relu' is not supported; silu"),
        (json!({"torch_dtype": "float64"}), "torch_dtype: 'float64' is not supported"),
        (json!({"layer_types": ["full_attention"]}), "layer_types: expected a list of 2"),
        (json!({"layer_types": [1, 2]}), "layer_types: expected \"full_attention\""),
        (
            json!({"quantization_config": {"quant_method": "awq"}}),
            "quantization_config: the weights are quantised (awq)",
        ),
        (
            json!({"rope_scaling": {"type": "longrope"}}),
            "rope_scaling.type: 'longrope' is not supported; default, linear",
        ),
        (json!({"rope_scaling": {"rope_type": "dynamic"}}), "rope_scaling.rope_type: 'dynamic' is not supported"),
        (json!({"rope_scaling": {"rope_type": "linear"}}), "rope_scaling.factor: missing"),
        (json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}), "rope_scaling.factor: 0 must be more than 0"),
        (json!({"rope_scaling": "linear"}), "rope_scaling: expected an object, found"),
        (json!({"rope_parameters": {"full_attention": {}}}), "rope_parameters: parameters that differ by layer type"),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "llama_4_scaling_beta": 0.1}}),
            "llama_4_scaling_beta: not supported",
        ),
        (json!({"partial_rotary_factor": 0.1}), "partial_rotary_factor: 0 rotated elements"),
        (json!({"text_config": {}}), "text_config.hidden_size: missing"),
    ];
    for (fields, expected) in cases {
        let error = read_with(fields.clone()).expect_err(&fields.to_string());
        assert!(error.starts_with("config.json: ") && error.contains(expected), "{error}\n  lacks: {expected}");
    }
}

/// A mixture of 4 experts, 2 a token, with these fields.
fn mixture_with(fields: Value) -> Result<ExpertsConfig, String> {
    let mut all = json!({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_hidden_layers": 6,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    read_with(all).map(|config| config.experts.expect("a mixture"))
}

#[test]
fn a_mixture_of_experts_is_read_in_both_spellings() {
    let expected =
        ExpertsConfig { count: 4, per_token: 2, intermediate_size: 6, normalise: false, sparse_layers: vec![true; 6] };
    assert_eq!(mixture_with(json!({})).unwrap(), expected);
    assert_eq!(mixture_with(json!({"num_experts": "removed", "num_local_experts": 4})).unwrap(), expected);
    assert_eq!(mixture_with(json!({"num_local_experts": 4, "mlp_only_layers": null})).unwrap(), expected);
    assert!(mixture_with(json!({"norm_topk_prob": true})).unwrap().normalise);
    let sparse = |fields| mixture_with(fields).unwrap().sparse_layers;
    assert_eq!(sparse(json!({"decoder_sparse_step": 2})), [false, true, false, true, false, true]);
    assert_eq!(
        sparse(json!({"decoder_sparse_step": 2, "mlp_only_layers": [0, 3]})),
        [false, true, false, false, false, true]
    );
    // Other architectures' experts are not read: what they mean is not known.
    assert_eq!(read_with(json!({"num_local_experts": 8, "num_experts_per_tok": "?"})).unwrap().experts, None);
}

#[test]
fn a_mixture_that_cannot_be_is_named_with_its_field() {
    for (fields, expected) in [
        (json!({"num_experts": "removed"}), "num_experts: missing"),
        (json!({"num_experts": 2000}), "num_experts: expected a whole number from 1 to 1024, found 2000"),
        (json!({"num_local_experts": 8}), "num_local_experts: 8, but num_experts is 4"),
        (json!({"num_experts_per_tok": "removed"}), "num_experts_per_tok: missing"),
        (json!({"num_experts_per_tok": 5}), "num_experts_per_tok: 5 experts a token must be at most num_experts (4)"),
        (json!({"moe_intermediate_size": 0}), "moe_intermediate_size: expected a whole number from 1"),
        (json!({"decoder_sparse_step": 0}), "decoder_sparse_step: expected a whole number from 1"),
        (json!({"mlp_only_layers": [6]}), "mlp_only_layers: expected layers from 0 to 5, found 6"),
        (json!({"mlp_only_layers": 3}), "mlp_only_layers: expected a list of layers"),
        (json!({"norm_topk_prob": 1}), "norm_topk_prob: expected true or false"),
    ] {
        let error = mixture_with(fields.clone()).expect_err(&fields.to_string());
        assert!(error.starts_with("config.json: ") && error.contains(expected), "{error}\n  lacks: {expected}");
    }
}

fn generation(config: Value, own: Option<Value>) -> Result<GenerationConfig, String> {
    let directory = tempfile::tempdir().unwrap();
    if let Some(own) = own {
        write(directory.path(), "generation_config.json", own.to_string());
    }
    read_generation(directory.path(), config.as_object().unwrap()).map_err(|e| e.to_string())
}

#[test]
fn the_model_s_own_sampling_is_read() {
    let own = json!({"eos_token_id": [7, 8], "bos_token_id": 1, "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95});
    let expected = GenerationConfig {
        eos_token_ids: vec![7, 8],
        bos_token_id: Some(1),
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        min_p: None,
    };
    assert_eq!(generation(json!({"eos_token_id": 3}), Some(own)).unwrap(), expected);
    let greedy = generation(json!({}), Some(json!({"do_sample": false, "temperature": 0.6}))).unwrap();
    assert_eq!(greedy, GenerationConfig::default());
    let ids = generation(json!({"eos_token_id": 3, "text_config": {"bos_token_id": 4}}), None).unwrap();
    assert_eq!((ids.eos_token_ids, ids.bos_token_id), (vec![3], Some(4)));
}

#[test]
fn sampling_out_of_range_is_named() {
    for (own, expected) in [
        (json!({"temperature": 3}), "generation_config.json: temperature: 3 must be from 0 to 2"),
        (json!({"top_p": 0}), "top_p: 0 must be more than 0"),
        (json!({"top_k": -1}), "top_k: expected a whole number"),
        (json!({"eos_token_id": [1, "x"]}), "eos_token_id: expected a token id"),
    ] {
        let error = generation(json!({}), Some(own)).unwrap_err();
        assert!(error.contains(expected), "{error}\n  lacks: {expected}");
    }
}

#[test]
fn no_value_of_any_field_panics() {
    let odd = json!([null, true, -1, 0, 1, 2, 3, 0.5, 1e308, u64::MAX, "", "x", [], [null], {}, {"a": {}}]);
    let fields = "architectures model_type text_config hidden_size num_hidden_layers num_attention_heads \
        num_key_value_heads head_dim intermediate_size vocab_size max_position_embeddings rms_norm_eps rope_theta \
        rope_scaling rope_parameters partial_rotary_factor sliding_window use_sliding_window max_window_layers layer_types \
        num_experts num_local_experts num_experts_per_tok moe_intermediate_size decoder_sparse_step mlp_only_layers \
        norm_topk_prob attention_bias mlp_bias tie_word_embeddings hidden_act dtype torch_dtype quantization_config \
        original_max_position_embeddings eos_token_id bos_token_id do_sample temperature top_k top_p min_p";
    let rope = "rope_type type factor low_freq_factor high_freq_factor original_max_position_embeddings attention_factor \
        beta_fast beta_slow mscale mscale_all_dim truncate rope_theta partial_rotary_factor";
    for value in odd.as_array().unwrap() {
        for field in fields.split_whitespace() {
            let _ = read_with(json!({field: value}));
            let _ = mixture_with(json!({field: value}));
            let _ = generation(json!({field: value}), Some(json!({field: value})));
        }
        for (field, kind) in rope.split_whitespace().flat_map(|f| ["linear", "llama3", "yarn"].map(|kind| (f, kind))) {
            let mut scaling = json!({"rope_type": kind, "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4});
            scaling[field] = value.clone();
            let _ = read_with(json!({"rope_scaling": scaling}));
        }
    }
}
