//! Qwen2 and Qwen2.5: biases on q, k and v whatever the config says, windows on the upper layers where they are used.
use minisgl_checkpoint::ModelConfig;

use super::spec::{DecoderSpec, ModelError, qwen_windows};

pub(super) fn spec(config: &ModelConfig) -> Result<DecoderSpec, ModelError> {
    let mut spec = DecoderSpec::base(config)?;
    spec.qkv_bias = true;
    spec.windows = qwen_windows(config);
    Ok(spec)
}
