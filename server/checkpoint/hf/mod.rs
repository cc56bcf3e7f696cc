//! A Hugging Face directory's `config.json`, of transformers 4 and 5, as a [`ModelConfig`].
//!
//! Knows the format's defaults and its two spellings; not which architectures there are, nor their tensors.
mod experts;
mod generation;
mod rope;
#[cfg(test)]
mod tests;

use std::path::Path;

use minisgl_kernels::DType;
use serde_json::{Map, Value};

pub(crate) use generation::read as read_generation;

use crate::config::{Format, HiddenActivation, ModelConfig};
use crate::error::CheckpointError;
use crate::json::{self, Fields};
use crate::limits::{self, MAX_CONTEXT, MAX_HEADS, MAX_HIDDEN, MAX_INTERMEDIATE, MAX_LAYERS, MAX_VOCAB};

/// `tensor_prefix` of a text model that is nested in a multi-modal one.
pub(crate) const NESTED_PREFIX: &str = "language_model.";

/// `config.json`, parsed.
pub(crate) type Raw = Map<String, Value>;

/// Reads `config.json` of the directory.
pub(crate) fn read_raw(directory: &Path) -> Result<Raw, CheckpointError> {
    let path = directory.join("config.json");
    match json::read_json(&path, json::MAX_CONFIG_BYTES)? {
        Some(raw) => Ok(raw),
        None => {
            let why = "no config.json there; a model is a directory in Hugging Face form or a GGUF file (name the file itself)";
            Err(CheckpointError::file(directory, why))
        }
    }
}

/// The config that the raw one states. `path` is the file's, for errors.
pub(crate) fn model_config(path: &Path, raw: &Raw) -> Result<ModelConfig, CheckpointError> {
    let outer = Fields::new(path, raw);
    let nested = outer.object("text_config")?;
    let text = nested.clone().unwrap_or_else(|| outer.clone());
    refuse_quantization(&outer, &text)?;
    let model_type = text.string("model_type")?.unwrap_or_default();

    let hidden_size = text.required_size("hidden_size", MAX_HIDDEN)?;
    let layers = text.required_size("num_hidden_layers", MAX_LAYERS)?;
    let heads = text.required_size("num_attention_heads", MAX_HEADS)?;
    let kv_heads = text.size("num_key_value_heads", MAX_HEADS)?.unwrap_or(heads);
    let head_dim = match text.size("head_dim", limits::MAX_HEAD_DIM)? {
        Some(dim) => dim,
        None if model_type == "qwen3" && !text.states("head_dim") => 128, // transformers' default
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => 0, // check_heads asks for it
    };
    let context = text.required_size("max_position_embeddings", MAX_CONTEXT)?;
    let architecture = architecture(&outer)?;
    let mixes = model_type == "qwen3_moe" || architecture == "Qwen3MoeForCausalLM";
    let config = ModelConfig {
        format: Format::HuggingFace,
        architecture,
        tensor_prefix: if nested.is_some() { NESTED_PREFIX.into() } else { String::new() },
        hidden_size,
        layers,
        heads,
        kv_heads,
        head_dim,
        intermediate_size: text.required_size("intermediate_size", MAX_INTERMEDIATE)?,
        experts: if mixes { Some(experts::read(path, &text, layers)?) } else { None },
        vocab_size: text.required_size("vocab_size", MAX_VOCAB)?,
        context,
        rms_norm_eps: text.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: rope::read(&text, head_dim, context)?,
        sliding_window: sliding_window(&text, model_type)?,
        use_sliding_window: text.bool("use_sliding_window")?,
        max_window_layers: max_window_layers(&text)?,
        sliding_layers: sliding_layers(&text, layers)?,
        attention_bias: text.bool("attention_bias")?,
        mlp_bias: text.bool("mlp_bias")?.unwrap_or(false),
        tie_word_embeddings: tie(&outer, &text)?,
        activation: activation(&text)?,
        dtype: dtype(&text)?.or(dtype(&outer)?),
    };
    let names = limits::Names {
        heads: "num_attention_heads",
        kv_heads: "num_key_value_heads",
        head_dim: "head_dim",
        rope_dim: "partial_rotary_factor",
    };
    limits::check_heads(path, &config, &names)?;
    Ok(config)
}

fn architecture(outer: &Fields<'_>) -> Result<String, CheckpointError> {
    let first = outer.get("architectures").and_then(Value::as_array).and_then(|list| list.first());
    match first.and_then(Value::as_str) {
        Some(name) => Ok(name.to_string()),
        None => Err(outer
            .error("architectures", "expected a list that starts with the model's class, as [\"LlamaForCausalLM\"]")),
    }
}

fn refuse_quantization(outer: &Fields<'_>, text: &Fields<'_>) -> Result<(), CheckpointError> {
    for (fields, name) in
        [outer, text].into_iter().flat_map(|f| [(f, "quantization_config"), (f, "compression_config")])
    {
        let Some(value) = fields.get(name) else { continue };
        let method = value.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        let why = format!(
            "the weights are quantised ({}), which is not supported here; use the float16 or bfloat16 model, or a GGUF file of it",
            crate::error::quoted(method)
        );
        return Err(fields.error(name, why));
    }
    Ok(())
}

/// The outer value is transformers' own choice for nested models. `Checkpoint::open` corrects it by the tensors there are.
fn tie(outer: &Fields<'_>, text: &Fields<'_>) -> Result<bool, CheckpointError> {
    let tie = outer.bool("tie_word_embeddings")?.or(text.bool("tie_word_embeddings")?);
    Ok(tie.unwrap_or(false))
}

fn sliding_window(text: &Fields<'_>, model_type: &str) -> Result<Option<usize>, CheckpointError> {
    if model_type == "mistral" && !text.states("sliding_window") {
        return Ok(Some(4096));
    }
    text.size("sliding_window", MAX_CONTEXT)
}

/// Zero is a real value here: every layer slides.
fn max_window_layers(text: &Fields<'_>) -> Result<Option<usize>, CheckpointError> {
    match text.get("max_window_layers") {
        Some(v) if v.as_u64() == Some(0) => Ok(Some(0)),
        _ => text.size("max_window_layers", MAX_LAYERS),
    }
}

fn sliding_layers(text: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, CheckpointError> {
    const FIELD: &str = "layer_types";
    let Some(value) = text.get(FIELD) else { return Ok(None) };
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.len() != layers {
        let why = format!("expected a list of {layers} (num_hidden_layers), found {} entries", list.len());
        return Err(text.error(FIELD, why));
    }
    let sliding = list.iter().map(|kind| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => {
            let why = "expected \"full_attention\" or \"sliding_attention\", found ";
            Err(text.error(FIELD, format!("{why}{}", crate::error::quoted(&kind.to_string()))))
        }
    });
    sliding.collect::<Result<_, _>>().map(Some)
}

fn activation(text: &Fields<'_>) -> Result<HiddenActivation, CheckpointError> {
    match text.string("hidden_act")? {
        None | Some("silu" | "swish") => Ok(HiddenActivation::Silu),
        Some("gelu") => Ok(HiddenActivation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh") => Ok(HiddenActivation::GeluTanh),
        Some(other) => {
            let why = format!(
                "'{}' is not supported; silu, gelu, gelu_new and gelu_pytorch_tanh are",
                crate::error::quoted(other)
            );
            Err(text.error("hidden_act", why))
        }
    }
}

fn dtype(fields: &Fields<'_>) -> Result<Option<DType>, CheckpointError> {
    for field in ["dtype", "torch_dtype"] {
        let Some(name) = fields.string(field)? else { continue };
        return match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" => Ok(Some(DType::F32)),
            "float16" => Ok(Some(DType::F16)),
            "bfloat16" => Ok(Some(DType::BF16)),
            "auto" => Ok(None),
            other => {
                let why =
                    format!("'{}' is not supported; float32, float16 and bfloat16 are", crate::error::quoted(other));
                Err(fields.error(field, why))
            }
        };
    }
    Ok(None)
}
