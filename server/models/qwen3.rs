//! Qwen3: q and k are normalised head by head; biases where the config states them; Qwen2's windows.
use minisgl_checkpoint::ModelConfig;

use super::spec::{DecoderSpec, ModelError, qwen_windows};

pub(super) fn spec(config: &ModelConfig) -> Result<DecoderSpec, ModelError> {
    let mut spec = DecoderSpec::base(config)?;
    let attention_bias = config.attention_bias.unwrap_or(false);
    spec.qkv_bias = attention_bias;
    spec.o_bias = attention_bias;
    spec.qk_norm = true;
    spec.windows = qwen_windows(config);
    Ok(spec)
}
