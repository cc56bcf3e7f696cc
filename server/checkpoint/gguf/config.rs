//! GGUF metadata as a [`ModelConfig`]: the keys of the architectures llama, qwen2, qwen3 and qwen3moe.
use std::collections::HashMap;

use minisgl_kernels::DType;

use super::value::Metadata;
use super::{Entry, Stored};
use crate::config::{ExpertsConfig, Format, GenerationConfig, HiddenActivation, ModelConfig, RopeConfig, RopeScaling};
use crate::error::{CheckpointError, quoted};
use crate::limits::{
    self, MAX_CONTEXT, MAX_EXPERTS, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_INTERMEDIATE, MAX_LAYERS, MAX_VOCAB,
};

const ARCHITECTURES: [&str; 4] = ["llama", "qwen2", "qwen3", MIXTURE];
/// The one that is a mixture of experts.
const MIXTURE: &str = "qwen3moe";
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";
const TOKENS: &str = "tokenizer.ggml.tokens";

/// Keys below the architecture's name.
struct Keys<'a> {
    metadata: &'a Metadata<'a>,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str, most: usize) -> Result<Option<usize>, CheckpointError> {
        self.metadata.size(&self.key(name), most)
    }

    fn required_size(&self, name: &str, most: usize) -> Result<usize, CheckpointError> {
        let missing = || self.metadata.error(&self.key(name), "missing; the model's size cannot be known without it");
        self.size(name, most)?.ok_or_else(missing)
    }

    fn positive(&self, name: &str) -> Result<Option<f64>, CheckpointError> {
        self.metadata.positive(&self.key(name))
    }
}

/// The config that the file states.
pub(super) fn model_config(
    metadata: &Metadata<'_>,
    tensors: &HashMap<String, Entry>,
) -> Result<ModelConfig, CheckpointError> {
    let keys = Keys { metadata, architecture: architecture(metadata)? };
    let hidden_size = keys.required_size("embedding_length", MAX_HIDDEN)?;
    let heads = keys.required_size("attention.head_count", MAX_HEADS)?;
    let head_dim = match keys.size("attention.key_length", MAX_HEAD_DIM)? {
        Some(dim) => dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => 0, // check_heads asks for it
    };
    if let Some(values) = keys.size("attention.value_length", MAX_HEAD_DIM)?
        && values != head_dim
    {
        let why = format!("{values} must equal the key length, {head_dim}");
        return Err(metadata.error(&keys.key("attention.value_length"), why));
    }
    let context = keys.required_size("context_length", MAX_CONTEXT)?;
    let layers = keys.required_size("block_count", MAX_LAYERS)?;
    let config = ModelConfig {
        format: Format::Gguf,
        architecture: keys.architecture.into(),
        tensor_prefix: String::new(),
        hidden_size,
        layers,
        heads,
        kv_heads: keys.size("attention.head_count_kv", MAX_HEADS)?.unwrap_or(heads),
        head_dim,
        intermediate_size: keys.required_size("feed_forward_length", MAX_INTERMEDIATE)?,
        experts: experts(&keys, layers)?,
        vocab_size: vocabulary(&keys, tensors)?,
        context,
        rms_norm_eps: epsilon(&keys)?,
        rope: rope(&keys, head_dim, context)?,
        sliding_window: sliding_window(&keys)?,
        use_sliding_window: None,
        max_window_layers: None,
        sliding_layers: None,
        attention_bias: None,
        mlp_bias: false,
        tie_word_embeddings: !tensors.contains_key(OUTPUT),
        activation: HiddenActivation::Silu,
        dtype: most_bytes(tensors),
    };
    let names = limits::Names {
        heads: &keys.key("attention.head_count"),
        kv_heads: &keys.key("attention.head_count_kv"),
        head_dim: &keys.key("attention.key_length"),
        rope_dim: &keys.key("rope.dimension_count"),
    };
    limits::check_heads(metadata.path, &config, &names)?;
    Ok(config)
}

fn architecture<'a>(metadata: &Metadata<'a>) -> Result<&'a str, CheckpointError> {
    const KEY: &str = "general.architecture";
    match metadata.string(KEY)? {
        Some(name) if ARCHITECTURES.contains(&name) => Ok(name),
        Some(name) => {
            let why = format!("'{}' is not supported in GGUF form; {} are", quoted(name), ARCHITECTURES.join(", "));
            Err(metadata.error(KEY, why))
        }
        None => Err(metadata.error(KEY, "missing; it names the model's architecture")),
    }
}

/// The mixture of experts. All layers of a qwen3moe file are sparse, and the weights of a token's experts sum to 1, as
/// llama.cpp computes it, unless the file says otherwise.
fn experts(keys: &Keys<'_>, layers: usize) -> Result<Option<ExpertsConfig>, CheckpointError> {
    const COUNT: &str = "expert_count";
    const PER_TOKEN: &str = "expert_used_count";
    const SOFTMAX: f64 = 1.0;
    let metadata = keys.metadata;
    let number = |name: &str| metadata.number(&keys.key(name));
    if keys.architecture != MIXTURE {
        if number(COUNT)?.is_some_and(|n| n != 0.0) {
            let why = format!("a mixture of experts is supported as {MIXTURE} alone, not as {}", keys.architecture);
            return Err(metadata.error(&keys.key(COUNT), why));
        }
        return Ok(None);
    }
    // What other mixtures do, and this one does not. Zero is how files say "none".
    for (name, only) in [
        ("expert_gating_func", SOFTMAX),
        ("expert_weights_scale", 1.0),
        ("expert_shared_count", 0.0),
        ("leading_dense_block_count", 0.0),
    ] {
        if let Some(n) = number(name)?.filter(|n| *n != only && *n != 0.0) {
            return Err(metadata.error(&keys.key(name), format!("{n} is not supported; only {only} is")));
        }
    }
    let count = keys.required_size(COUNT, MAX_EXPERTS)?;
    let per_token = keys.required_size(PER_TOKEN, MAX_EXPERTS)?;
    limits::check_experts(metadata.path, per_token, count, [&keys.key(PER_TOKEN), &keys.key(COUNT)])?;
    Ok(Some(ExpertsConfig {
        count,
        per_token,
        intermediate_size: keys.required_size("expert_feed_forward_length", MAX_INTERMEDIATE)?,
        normalise: metadata.bool(&keys.key("expert_weights_norm"))?.unwrap_or(true),
        sparse_layers: vec![true; layers],
    }))
}

/// Rows of the embedding. More tokens than rows would let a prompt read beyond it.
fn vocabulary(keys: &Keys<'_>, tensors: &HashMap<String, Entry>) -> Result<usize, CheckpointError> {
    let metadata = keys.metadata;
    let tokens = metadata.array_len(TOKENS)?;
    let rows = match tensors.get(EMBEDDING).map(|t| t.shape.as_slice()) {
        Some([rows, _]) => *rows,
        Some(shape) => {
            let why = format!("expected [vocabulary, width], found {shape:?}");
            return Err(CheckpointError::tensor(metadata.path, EMBEDDING, why));
        }
        None if tokens > 0 => tokens,
        None => keys.required_size("vocab_size", MAX_VOCAB)?,
    };
    if rows > MAX_VOCAB {
        let why = format!("{rows} rows, one a token; at most {MAX_VOCAB} are read");
        return Err(CheckpointError::tensor(metadata.path, EMBEDDING, why));
    }
    if tokens > rows {
        return Err(metadata.error(TOKENS, format!("{tokens} tokens, but the embedding has {rows} rows")));
    }
    Ok(rows)
}

fn epsilon(keys: &Keys<'_>) -> Result<f32, CheckpointError> {
    const NAME: &str = "attention.layer_norm_rms_epsilon";
    match keys.positive(NAME)? {
        Some(eps) => Ok(eps as f32),
        None => Err(keys.metadata.error(&keys.key(NAME), "missing; every norm needs it")),
    }
}

/// Zero is llama.cpp's "none".
fn sliding_window(keys: &Keys<'_>) -> Result<Option<usize>, CheckpointError> {
    const NAME: &str = "attention.sliding_window";
    if keys.metadata.number(&keys.key(NAME))? == Some(0.0) {
        return Ok(None);
    }
    // A file may say "no window" as one as long as any context.
    Ok(keys.size(NAME, u32::MAX as usize)?.filter(|window| *window <= MAX_CONTEXT))
}

fn rope(keys: &Keys<'_>, head_dim: usize, context: usize) -> Result<RopeConfig, CheckpointError> {
    Ok(RopeConfig {
        theta: keys.positive("rope.freq_base")?.unwrap_or(10_000.0),
        dim: keys.size("rope.dimension_count", MAX_HEAD_DIM)?.unwrap_or(head_dim),
        scaling: scaling(keys, context)?,
    })
}

fn scaling(keys: &Keys<'_>, context: usize) -> Result<RopeScaling, CheckpointError> {
    const TYPE: &str = "rope.scaling.type";
    let metadata = keys.metadata;
    let factor = match keys.positive("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.positive("rope.scale_linear")?, // its older name
    };
    let required = || {
        factor.ok_or_else(|| metadata.error(&keys.key("rope.scaling.factor"), "missing; this scaling type needs it"))
    };
    match metadata.string(&keys.key(TYPE))? {
        Some("none") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: required()? }),
        Some("yarn") => yarn(keys, required()?, context),
        None => Ok(factor.filter(|f| *f != 1.0).map_or(RopeScaling::Default, |factor| RopeScaling::Linear { factor })),
        Some(other) => {
            let why = format!("'{}' is not supported; none, linear and yarn are", quoted(other));
            Err(metadata.error(&keys.key(TYPE), why))
        }
    }
}

/// GGML multiplies the paper's attention factor, `0.1 ln(factor) + 1`, by its own; [`RopeScaling::Yarn`] states the product.
fn yarn(keys: &Keys<'_>, factor: f64, context: usize) -> Result<RopeScaling, CheckpointError> {
    for (name, only) in [("rope.scaling.yarn_ext_factor", 1.0), ("rope.scaling.yarn_log_multiplier", 0.0)] {
        if keys.metadata.number(&keys.key(name))?.is_some_and(|n| n != only) {
            return Err(keys.metadata.error(&keys.key(name), format!("only {only} is supported")));
        }
    }
    let multiplier = match keys.positive("rope.scaling.yarn_attn_factor")? {
        Some(n) => Some(n),
        None => keys.positive("rope.scaling.attn_factor")?,
    };
    let beta_fast = keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
    let beta_slow = keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
    if beta_slow >= beta_fast {
        let why = format!("{beta_slow} must be less than yarn_beta_fast ({beta_fast})");
        return Err(keys.metadata.error(&keys.key("rope.scaling.yarn_beta_slow"), why));
    }
    Ok(RopeScaling::Yarn {
        factor,
        original_max_position_embeddings: keys
            .size("rope.scaling.original_context_length", MAX_CONTEXT)?
            .unwrap_or(context),
        attention_factor: multiplier.map(|n| n * (0.1 * factor.ln().max(0.0) + 1.0)),
        beta_fast,
        beta_slow,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    })
}

fn most_bytes(tensors: &HashMap<String, Entry>) -> Option<DType> {
    let mut bytes: HashMap<DType, u64> = HashMap::new();
    for entry in tensors.values() {
        if let Stored::Known(dtype, range) = &entry.stored {
            *bytes.entry(*dtype).or_default() += range.len() as u64;
        }
    }
    bytes.into_iter().max_by_key(|(dtype, bytes)| (*bytes, dtype.block_bytes())).map(|(dtype, _)| dtype)
}

/// The ids that the metadata states; GGUF has no sampling defaults.
pub(super) fn generation(metadata: &Metadata<'_>) -> Result<GenerationConfig, CheckpointError> {
    let mut generation =
        GenerationConfig { bos_token_id: metadata.token("tokenizer.ggml.bos_token_id")?, ..Default::default() };
    for key in ["eos", "eot", "eom"] {
        if let Some(id) = metadata.token(&format!("tokenizer.ggml.{key}_token_id"))?
            && !generation.eos_token_ids.contains(&id)
        {
            generation.eos_token_ids.push(id);
        }
    }
    Ok(generation)
}
