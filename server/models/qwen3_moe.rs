//! Qwen3-MoE: Qwen3 with mixtures of experts in place of MLPs, in some layers or in all.
use minisgl_checkpoint::ModelConfig;

use super::spec::{DecoderSpec, ModelError, Moe};

pub(super) fn spec(config: &ModelConfig) -> Result<DecoderSpec, ModelError> {
    let mut spec = DecoderSpec::base(config)?;
    let attention_bias = config.attention_bias.unwrap_or(false);
    spec.qkv_bias = attention_bias;
    spec.o_bias = attention_bias;
    spec.qk_norm = true;
    // transformers gives every layer of this architecture the same window, where it is used at all.
    let window = config.sliding_window.filter(|_| config.use_sliding_window == Some(true));
    spec.windows = vec![window; config.layers];
    let experts = config.experts.as_ref();
    let experts = experts.ok_or_else(|| ModelError::Config("a mixture of experts without experts".to_owned()))?;
    spec.moe = Some(Moe {
        experts: experts.count,
        per_token: experts.per_token,
        intermediate_size: experts.intermediate_size,
        normalise: experts.normalise,
        layers: experts.sparse_layers.clone(),
    });
    Ok(spec)
}
