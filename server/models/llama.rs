//! Llama 2 and 3, and GGUF's `llama`, which also holds other models of that shape (SmolLM2, Mistral).
use minisgl_checkpoint::ModelConfig;
use minisgl_checkpoint::config::Format;
use minisgl_kernels::RopeLayout;

use super::spec::{DecoderSpec, ModelError};

pub(super) fn spec(config: &ModelConfig) -> Result<DecoderSpec, ModelError> {
    let mut spec = DecoderSpec::base(config)?;
    let attention_bias = config.attention_bias.unwrap_or(false);
    spec.qkv_bias = attention_bias;
    spec.o_bias = attention_bias;
    spec.mlp_bias = config.mlp_bias;
    if config.format == Format::Gguf {
        // llama.cpp's converter permutes the rows of q and k for this architecture alone.
        spec.rope.layout = RopeLayout::Pairs;
    }
    Ok(spec)
}
