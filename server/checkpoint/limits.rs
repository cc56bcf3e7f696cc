//! Bounds on a config's numbers: far above any model there is, low enough that products of them do not overflow.
//!
//! `layers * (4 * heads * head_dim * hidden + 3 * hidden * intermediate) + 2 * vocab * hidden < 2^50` elements, experts take
//! `layers * experts * 3 * hidden * intermediate < 2^59` and the K/V of one whole context is below 2^58 bytes.
use std::path::Path;

use crate::config::ModelConfig;
use crate::error::CheckpointError;

pub(crate) const MAX_HIDDEN: usize = 1 << 17;
pub(crate) const MAX_LAYERS: usize = 1 << 10;
pub(crate) const MAX_HEADS: usize = 1 << 10;
pub(crate) const MAX_HEAD_DIM: usize = 1 << 10;
pub(crate) const MAX_INTERMEDIATE: usize = 1 << 20;
pub(crate) const MAX_EXPERTS: usize = 1 << 10;
pub(crate) const MAX_VOCAB: usize = 1 << 21;
pub(crate) const MAX_CONTEXT: usize = 1 << 24;

/// What the file calls the numbers that [`check_heads`] compares.
pub(crate) struct Names<'a> {
    pub(crate) heads: &'a str,
    pub(crate) kv_heads: &'a str,
    pub(crate) head_dim: &'a str,
    pub(crate) rope_dim: &'a str,
}

/// A token goes through at most all experts; `names` are what the file calls how many it goes through, and how many there are.
pub(crate) fn check_experts(
    path: &Path,
    per_token: usize,
    count: usize,
    names: [&str; 2],
) -> Result<(), CheckpointError> {
    if per_token > count {
        let why = format!("{per_token} experts a token must be at most {} ({count})", names[1]);
        return Err(CheckpointError::field(path, names[0], why));
    }
    Ok(())
}

/// What must hold between the numbers of heads, whichever format stated them.
pub(crate) fn check_heads(path: &Path, config: &ModelConfig, names: &Names<'_>) -> Result<(), CheckpointError> {
    let ModelConfig { heads, kv_heads, head_dim, hidden_size, .. } = *config;
    if head_dim == 0 {
        let why = format!("must be stated: {hidden_size} elements cannot be split over {heads} heads");
        return Err(CheckpointError::field(path, names.head_dim, why));
    }
    if head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(2) {
        let why = format!("{head_dim} must be even and at most {MAX_HEAD_DIM}");
        return Err(CheckpointError::field(path, names.head_dim, why));
    }
    if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
        let why = format!("{kv_heads} must divide {} ({heads})", names.heads);
        return Err(CheckpointError::field(path, names.kv_heads, why));
    }
    let dim = config.rope.dim;
    if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
        let why = format!("{dim} rotated elements must be even, more than 0 and at most {head_dim}");
        return Err(CheckpointError::field(path, names.rope_dim, why));
    }
    Ok(())
}
