//! Mistral, and the text model inside Mistral3.
use minisgl_checkpoint::ModelConfig;

use super::spec::{DecoderSpec, ModelError};

pub(super) fn spec(config: &ModelConfig) -> Result<DecoderSpec, ModelError> {
    let mut spec = DecoderSpec::base(config)?;
    // One window for all layers: transformers reads `layer_types` for other architectures only.
    spec.windows = vec![config.sliding_window; config.layers];
    Ok(spec)
}
