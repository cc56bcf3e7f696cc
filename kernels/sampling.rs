//! Sampling: logits and parameters to a token. A pure function, so that a token depends on (logits, seed, position) alone.
//!
//! Does not know batches, slots or who asked.

/// How a token is chosen. Values are checked by whoever builds it; here they are trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the best k; 0 keeps all. 1 is greedy.
    pub top_k: u32,
    /// Keep the smallest set of best tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than this times the best; 0 keeps all.
    pub min_p: f32,
    /// With the position it keys the random number.
    pub seed: u64,
}
