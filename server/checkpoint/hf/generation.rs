//! `generation_config.json`, with `config.json`'s token ids where it has none.
use std::path::Path;

use super::Raw;
use crate::config::GenerationConfig;
use crate::error::CheckpointError;
use crate::json::{self, Fields};

/// Reads the directory's; `raw` is its `config.json`.
pub(crate) fn read(directory: &Path, raw: &Raw) -> Result<GenerationConfig, CheckpointError> {
    let config_path = directory.join("config.json");
    let outer = Fields::new(&config_path, raw);
    let mut configs = vec![outer.clone()];
    configs.extend(outer.object("text_config")?);

    let path = directory.join("generation_config.json");
    let own: Raw = json::read_json(&path, json::MAX_CONFIG_BYTES)?.unwrap_or_default();
    let own = Fields::new(&path, &own);

    let mut generation = GenerationConfig::default();
    for fields in std::iter::once(&own).chain(&configs) {
        if generation.eos_token_ids.is_empty() {
            generation.eos_token_ids = fields.tokens("eos_token_id")?.unwrap_or_default();
        }
        if generation.bos_token_id.is_none() {
            generation.bos_token_id = fields.token("bos_token_id")?;
        }
    }
    if own.bool("do_sample")? != Some(false) {
        read_sampling(&own, &mut generation)?;
    }
    Ok(generation)
}

fn read_sampling(own: &Fields<'_>, generation: &mut GenerationConfig) -> Result<(), CheckpointError> {
    let within = |field: &str, range: std::ops::RangeInclusive<f64>| -> Result<Option<f32>, CheckpointError> {
        match own.number(field)? {
            Some(n) if !range.contains(&n) => {
                Err(own.error(field, format!("{n} must be from {} to {}", range.start(), range.end())))
            }
            n => Ok(n.map(|n| n as f32)),
        }
    };
    generation.temperature = within("temperature", 0.0..=2.0)?;
    generation.top_p = within("top_p", 0.0..=1.0)?;
    generation.min_p = within("min_p", 0.0..=1.0)?;
    if generation.top_p == Some(0.0) {
        return Err(own.error("top_p", "0 must be more than 0"));
    }
    generation.top_k = match own.get("top_k") {
        None => None,
        Some(v) => match v.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(k) => Some(k),
            None => return Err(own.error("top_k", format!("expected a whole number from 0, found {v}"))),
        },
    };
    Ok(())
}
