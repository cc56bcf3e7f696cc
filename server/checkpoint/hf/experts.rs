//! The mixture of experts that a `config.json` of Qwen3-MoE states.
use std::path::Path;

use serde_json::Value;

use crate::config::ExpertsConfig;
use crate::error::CheckpointError;
use crate::json::Fields;
use crate::limits::{self, MAX_EXPERTS, MAX_INTERMEDIATE, MAX_LAYERS};

const PER_TOKEN: &str = "num_experts_per_tok";

/// The mixture; what is not stated is as in transformers, sizes apart, which must be.
pub(super) fn read(path: &Path, text: &Fields<'_>, layers: usize) -> Result<ExpertsConfig, CheckpointError> {
    let (count, count_name) = count(text)?;
    let per_token = text.required_size(PER_TOKEN, MAX_EXPERTS)?;
    limits::check_experts(path, per_token, count, [PER_TOKEN, count_name])?;
    Ok(ExpertsConfig {
        count,
        per_token,
        intermediate_size: text.required_size("moe_intermediate_size", MAX_INTERMEDIATE)?,
        normalise: text.bool("norm_topk_prob")?.unwrap_or(false),
        sparse_layers: sparse_layers(text, layers)?,
    })
}

/// How many experts there are, and the field that says it: transformers 5 writes `num_local_experts`.
fn count(text: &Fields<'_>) -> Result<(usize, &'static str), CheckpointError> {
    const OLD: &str = "num_experts";
    const NEW: &str = "num_local_experts";
    match (text.size(OLD, MAX_EXPERTS)?, text.size(NEW, MAX_EXPERTS)?) {
        (Some(old), Some(new)) if old != new => {
            Err(text.error(NEW, format!("{new}, but {OLD} is {old}: both are the number of experts")))
        }
        (None, Some(count)) => Ok((count, NEW)),
        _ => Ok((text.required_size(OLD, MAX_EXPERTS)?, OLD)),
    }
}

/// Every `decoder_sparse_step`th layer, but those of `mlp_only_layers`.
fn sparse_layers(text: &Fields<'_>, layers: usize) -> Result<Vec<bool>, CheckpointError> {
    const FIELD: &str = "mlp_only_layers";
    let step = text.size("decoder_sparse_step", MAX_LAYERS)?.unwrap_or(1);
    let mut sparse: Vec<bool> = (0..layers).map(|layer| (layer + 1).is_multiple_of(step)).collect();
    let dense = match text.get(FIELD) {
        None => &[][..],
        Some(Value::Array(list)) => list,
        Some(_) => return Err(text.error(FIELD, "expected a list of layers")),
    };
    for layer in dense {
        let index = layer.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let Some(layer) = index.and_then(|layer| sparse.get_mut(layer)) else {
            let why =
                format!("expected layers from 0 to {}, found {}", layers - 1, crate::error::quoted(&layer.to_string()));
            return Err(text.error(FIELD, why));
        };
        *layer = false;
    }
    Ok(sparse)
}
