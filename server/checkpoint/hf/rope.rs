//! RoPE as `config.json` states it: `rope_scaling` with `rope_theta` beside it (transformers 4), or `rope_parameters` (5).
use crate::config::{RopeConfig, RopeScaling};
use crate::error::{CheckpointError, quoted};
use crate::json::Fields;
use crate::limits::MAX_CONTEXT;

const DEFAULT_THETA: f64 = 10_000.0; // transformers' `default_theta`

/// The text model's RoPE. `context` is its `max_position_embeddings`.
pub(super) fn read(text: &Fields<'_>, head_dim: usize, context: usize) -> Result<RopeConfig, CheckpointError> {
    let scaling = text.object("rope_scaling")?;
    let parameters = text.object("rope_parameters")?;
    // Where both are, transformers lets the older name win.
    let stated = scaling.as_ref().or(parameters.as_ref());
    if let Some(fields) = stated
        && fields.nests()
    {
        let field = if scaling.is_some() { "rope_scaling" } else { "rope_parameters" };
        return Err(text.error(field, "parameters that differ by layer type are not supported"));
    }
    let either = |field: &str| -> Result<Option<f64>, CheckpointError> {
        for fields in [scaling.as_ref(), parameters.as_ref(), Some(text)].into_iter().flatten() {
            if let Some(n) = fields.positive(field)? {
                return Ok(Some(n));
            }
        }
        Ok(None)
    };
    let partial = either("partial_rotary_factor")?.unwrap_or(1.0);
    if partial > 1.0 {
        return Err(text.error("partial_rotary_factor", format!("{partial} must be at most 1")));
    }
    Ok(RopeConfig {
        theta: either("rope_theta")?.unwrap_or(DEFAULT_THETA),
        dim: (head_dim as f64 * partial) as usize,
        scaling: match stated {
            Some(fields) => read_scaling(fields, text, context)?,
            None => RopeScaling::Default,
        },
    })
}

fn read_scaling(rope: &Fields<'_>, text: &Fields<'_>, context: usize) -> Result<RopeScaling, CheckpointError> {
    for unsupported in ["llama_4_scaling_beta", "mrope_section"] {
        if rope.get(unsupported).is_some_and(|v| v.as_f64() != Some(0.0)) {
            return Err(rope.error(unsupported, "not supported"));
        }
    }
    let original = match text.size("original_max_position_embeddings", MAX_CONTEXT)? {
        Some(n) => n,
        None => rope.size("original_max_position_embeddings", MAX_CONTEXT)?.unwrap_or(context),
    };
    let required = |field: &str| -> Result<f64, CheckpointError> {
        rope.positive(field)?.ok_or_else(|| rope.error(field, "missing; this rope type needs it"))
    };
    let kind = match rope.string("rope_type")? {
        Some(kind) => kind,
        None => rope.string("type")?.unwrap_or("default"),
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => {
            let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if low >= high {
                return Err(rope.error("low_freq_factor", format!("{low} must be less than high_freq_factor ({high})")));
            }
            Ok(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            })
        }
        "yarn" => {
            let beta_fast = beta(rope, "beta_fast", 32.0)?;
            let beta_slow = beta(rope, "beta_slow", 1.0)?;
            if beta_slow >= beta_fast {
                return Err(rope.error("beta_slow", format!("{beta_slow} must be less than beta_fast ({beta_fast})")));
            }
            Ok(RopeScaling::Yarn {
                factor: rope.positive("factor")?.unwrap_or(context as f64 / original as f64),
                original_max_position_embeddings: original,
                attention_factor: rope.positive("attention_factor")?,
                beta_fast,
                beta_slow,
                mscale: rope.number("mscale")?.filter(|n| *n != 0.0),
                mscale_all_dim: rope.number("mscale_all_dim")?.filter(|n| *n != 0.0),
                truncate: rope.bool("truncate")?.unwrap_or(true),
            })
        }
        other => {
            let why = format!("'{}' is not supported; default, linear, llama3 and yarn are", quoted(other));
            Err(rope.error(if rope.get("rope_type").is_some() { "rope_type" } else { "type" }, why))
        }
    }
}

/// Zero reads as absent, as in transformers.
fn beta(rope: &Fields<'_>, field: &str, default: f64) -> Result<f64, CheckpointError> {
    if rope.get(field).is_some_and(|v| v.as_f64() == Some(0.0)) {
        return Ok(default);
    }
    Ok(rope.positive(field)?.unwrap_or(default))
}
