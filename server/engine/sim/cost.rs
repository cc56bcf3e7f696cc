//! How long GPUs would take for a batch: a roofline over what a decoder does, as a pure function.
//!
//! Owns the arithmetic; every input is a named field of a profile (`config/sim/*.toml`), where its source stands.
//!
//! ```text
//!   step = step_us
//!        + max(linear FLOPs / compute, weight bytes / memory)                       all layers, all tokens at once
//!        + sum over rows of max(attention FLOPs / compute, K/V bytes / memory)      each row reads its own context
//!        + max(logits FLOPs / compute, output matrix bytes / memory)                where a row wants a token
//!        + 2 layers * (all_reduce_us + bytes / link)                                where ranks share the model
//! ```
//! A mixture's tokens are taken to choose among all experts alike: of `E`, each token `k`, `n` tokens read
//! `E (1 - (1 - k/E)^n)`, and each computes `k`.
//!
//! Not in it: norms, activations' own traffic, sliding windows (each layer sees all).
use std::time::Duration;

use minisgl_config::sim::{MOST_GPUS, SimModel, SimProfile};

/// A row of a batch as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowCost {
    /// Tokens that it feeds, at least 1.
    pub tokens: usize,
    /// Tokens before them in its context.
    pub start: usize,
    /// Positions whose logits it wants.
    pub logits: usize,
}

/// A model on simulated GPUs.
#[derive(Clone, Debug)]
pub struct CostModel {
    model: SimModel,
    ranks: f64,
    /// Seconds for one floating-point operation of a matrix product, of one rank.
    linear_flop_s: f64,
    /// Seconds a byte of weights.
    linear_byte_s: f64,
    attention_flop_s: f64,
    attention_byte_s: f64,
    link_byte_s: f64,
    all_reduce_s: f64,
    step_s: f64,
}

/// Elements of matrices, as a step uses them.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// From memory, once.
    read: f64,
    /// With each vector.
    multiplied: f64,
}

impl Used {
    /// Every vector meets every element.
    fn all(elements: f64) -> Self {
        Self { read: elements, multiplied: elements }
    }
}

/// Width of what ranks exchange: activations in 16 bits.
const ACTIVATION_BYTES: f64 = 2.0;

impl CostModel {
    /// `model` on `ranks` of the profile's GPUs.
    ///
    /// # Errors
    /// Where the ranks cannot share the model's heads.
    pub fn new(profile: &SimProfile, model: SimModel, ranks: usize) -> Result<Self, String> {
        let SimModel { heads, kv_heads, .. } = model;
        if !(1..=MOST_GPUS).contains(&ranks) || !heads.is_multiple_of(ranks) || !kv_heads.is_multiple_of(ranks) {
            return Err(format!("{ranks} ranks cannot share {heads} query heads and {kv_heads} K/V heads evenly"));
        }
        let (gpu, efficiency) = (profile.gpu, profile.efficiency);
        Ok(Self {
            model,
            ranks: ranks as f64,
            linear_flop_s: 1.0 / (gpu.dense_tflop_s * 1e12 * efficiency.linear_compute),
            linear_byte_s: 1.0 / (gpu.memory_gb_s * 1e9 * efficiency.linear_memory),
            attention_flop_s: 1.0 / (gpu.dense_tflop_s * 1e12 * efficiency.attention_compute),
            attention_byte_s: 1.0 / (gpu.memory_gb_s * 1e9 * efficiency.attention_memory),
            link_byte_s: 1.0 / (gpu.link_gb_s * 1e9 * efficiency.link),
            all_reduce_s: profile.overhead.all_reduce_us * 1e-6,
            step_s: profile.overhead.step_us * 1e-6,
        })
    }

    /// How long the batch takes once it runs.
    pub fn batch_time(&self, rows: impl IntoIterator<Item = RowCost>) -> Duration {
        let (mut tokens, mut logits, mut attention_s) = (0.0, 0.0, 0.0);
        for row in rows {
            tokens += row.tokens as f64;
            logits += row.logits as f64;
            attention_s += self.attention_s(row);
        }
        let seconds = self.step_s
            + self.linear_s(self.layers_by(tokens), tokens)
            + attention_s
            + if logits > 0.0 { self.linear_s(Used::all(self.output_parameters()), logits) } else { 0.0 }
            + self.all_reduces_s(tokens);
        Duration::from_secs_f64(seconds)
    }

    /// Bytes of all weights, on all ranks together.
    pub fn weight_bytes(&self) -> f64 {
        let embeddings = if self.model.tied { 1.0 } else { 2.0 };
        (self.layers_by(f64::INFINITY).read + embeddings * self.output_parameters()) * self.model.weight_bytes
    }

    /// Bytes of K/V a token, on all ranks together.
    pub fn kv_token_bytes(&self) -> f64 {
        let SimModel { layers, kv_heads, head_dim, kv_bytes, .. } = self.model;
        2.0 * layers as f64 * kv_heads as f64 * head_dim as f64 * kv_bytes
    }

    /// The model's shape.
    pub fn model(&self) -> &SimModel {
        &self.model
    }

    /// Elements of all layers' matrices, as so many tokens use them.
    fn layers_by(&self, tokens: f64) -> Used {
        let m = &self.model;
        let [layers, hidden, heads, kv_heads, head_dim, intermediate] =
            [m.layers, m.hidden_size, m.heads, m.kv_heads, m.head_dim, m.intermediate_size].map(|n| n as f64);
        let attention = hidden * (heads + 2.0 * kv_heads) * head_dim + heads * head_dim * hidden;
        let (sparse, mixture) = match m.experts {
            Some(experts) => {
                let [sparse, count, per_token, inner] =
                    [experts.layers, experts.count, experts.per_token, experts.intermediate_size].map(|n| n as f64);
                let (router, expert) = (count * hidden, 3.0 * hidden * inner);
                let chosen = count * (1.0 - (1.0 - per_token / count).powf(tokens));
                (sparse, Used { read: router + chosen * expert, multiplied: router + per_token * expert })
            }
            None => (0.0, Used::all(0.0)),
        };
        let dense = layers * attention + (layers - sparse) * 3.0 * hidden * intermediate;
        Used { read: dense + sparse * mixture.read, multiplied: dense + sparse * mixture.multiplied }
    }

    fn output_parameters(&self) -> f64 {
        self.model.hidden_size as f64 * self.model.vocab_size as f64
    }

    /// Matrices, each read once, times so many vectors.
    fn linear_s(&self, matrices: Used, vectors: f64) -> f64 {
        let compute_s = 2.0 * matrices.multiplied * vectors * self.linear_flop_s;
        let memory_s = matrices.read * self.model.weight_bytes * self.linear_byte_s;
        compute_s.max(memory_s) / self.ranks
    }

    /// q·k and p·v are two operations an element each; token `i` of the row sees `start + i + 1` keys.
    fn attention_s(&self, row: RowCost) -> f64 {
        let m = &self.model;
        let (tokens, start) = (row.tokens as f64, row.start as f64);
        let seen = tokens * start + tokens * (tokens + 1.0) / 2.0;
        let compute_s = 4.0 * (m.layers * m.heads * m.head_dim) as f64 * seen * self.attention_flop_s;
        let memory_s = (start + tokens) * self.kv_token_bytes() * self.attention_byte_s;
        compute_s.max(memory_s) / self.ranks
    }

    /// After attention and after the MLP of each layer, as a ring moves it: `2 (n - 1) / n` of the bytes.
    fn all_reduces_s(&self, tokens: f64) -> f64 {
        if self.ranks == 1.0 {
            return 0.0;
        }
        let bytes = tokens * self.model.hidden_size as f64 * ACTIVATION_BYTES;
        let moved = 2.0 * (self.ranks - 1.0) / self.ranks * bytes;
        2.0 * self.model.layers as f64 * (self.all_reduce_s + moved * self.link_byte_s)
    }
}

#[cfg(test)]
mod tests {
    use minisgl_config::sim::SimExperts;

    use super::*;

    fn cost(name: &str) -> CostModel {
        let profile = SimProfile::find(name).unwrap();
        CostModel::new(&profile, profile.model.unwrap(), profile.gpus).unwrap()
    }

    fn decode(rows: usize, context: usize) -> Vec<RowCost> {
        vec![RowCost { tokens: 1, start: context, logits: 1 }; rows]
    }

    fn prefill(tokens: usize) -> Vec<RowCost> {
        vec![RowCost { tokens, start: 0, logits: 1 }]
    }

    /// Qwen3-32B has 32.8e9 parameters, Qwen3-14B 14.8e9, Qwen3-0.6B 0.6e9, as their model cards say.
    #[test]
    fn the_shapes_have_their_published_sizes() {
        for (name, parameters) in
            [("4xh200-qwen3-32b", 32.8e9), ("1xh200-qwen3-14b", 14.8e9), ("1xh200-qwen3-0.6b", 0.6e9)]
        {
            let counted = cost(name).weight_bytes() / 2.0;
            assert!((counted / parameters - 1.0).abs() < 0.01, "{name}: {counted:e}");
        }
        assert_eq!(cost("4xh200-qwen3-32b").kv_token_bytes(), 262_144.0);
    }

    /// By hand, for one rank: 13.2e9 layer parameters and 0.78e9 of the output, in 2 bytes, at 3.84e12 bytes a second.
    #[test]
    fn one_decode_row_reads_every_weight_once() {
        let seconds = cost("1xh200-qwen3-14b").batch_time(decode(1, 0)).as_secs_f64();
        let layers = 40.0 * (5120.0 * 56.0 * 128.0 + 40.0 * 128.0 * 5120.0 + 3.0 * 5120.0 * 17_408.0);
        let expected = 300e-6 + (layers + 5120.0 * 151_936.0) * 2.0 / 3.84e12;
        assert!((seconds / expected - 1.0).abs() < 1e-3, "{seconds} where {expected} is due");
    }

    /// By hand: 2 * 13.2e9 operations a token at 643e12 a second, and attention's half square.
    #[test]
    fn a_long_prompt_is_bound_by_arithmetic() {
        let seconds = cost("1xh200-qwen3-14b").batch_time(prefill(8192)).as_secs_f64();
        let layers = 40.0 * (5120.0 * 56.0 * 128.0 + 40.0 * 128.0 * 5120.0 + 3.0 * 5120.0 * 17_408.0);
        let linear = 2.0 * layers * 8192.0 / (989.5e12 * 0.65);
        let attention = 4.0 * 40.0 * 40.0 * 128.0 * (8192.0 * 8193.0 / 2.0) / (989.5e12 * 0.5);
        let output = 5120.0 * 151_936.0 * 2.0 / 3.84e12;
        let expected = 300e-6 + linear + attention + output;
        assert!((seconds / expected - 1.0).abs() < 1e-3, "{seconds} where {expected} is due");
    }

    /// Qwen3-30B-A3B's shape on one H200; its card says 30.5e9 parameters, 3.3e9 of them active.
    #[test]
    fn a_mixture_reads_the_chosen_experts_and_computes_a_token_s() {
        let experts = Some(SimExperts { layers: 48, count: 128, per_token: 8, intermediate_size: 768 });
        let profile = SimProfile::find("1xh200-qwen3-14b").unwrap();
        let shape = SimModel {
            layers: 48,
            hidden_size: 2048,
            heads: 32,
            kv_heads: 4,
            head_dim: 128,
            intermediate_size: 6144,
            experts,
            tied: false,
            ..profile.model.unwrap()
        };
        let cost = CostModel::new(&profile, shape, 1).unwrap();
        let all = cost.weight_bytes() / 2.0;
        assert!((all / 30.5e9 - 1.0).abs() < 0.01, "{all:e}");
        let one = cost.layers_by(1.0);
        let active = one.multiplied + 2.0 * cost.output_parameters();
        assert!((active / 3.3e9 - 1.0).abs() < 0.05, "{active:e}");
        assert!((one.read / one.multiplied - 1.0).abs() < 1e-9, "one token reads what it computes with");
        let many = cost.layers_by(1000.0);
        assert!((many.multiplied - one.multiplied).abs() < 1.0 && many.read > 8.0 * one.read);
        // 64 rows choose nearly every expert: they wait for memory, more than twice the time of a row alone.
        let (one, many) = (cost.batch_time(decode(1, 0)), cost.batch_time(decode(64, 0)));
        assert!(many > 2 * one, "{one:?} {many:?}");
    }

    #[test]
    fn more_work_never_takes_less_time() {
        for name in ["4xh200-qwen3-32b", "1xh200-qwen3-0.6b"] {
            let cost = cost(name);
            let mut before = Duration::ZERO;
            for rows in [1, 8, 64, 256, 1024] {
                let now = cost.batch_time(decode(rows, 4096));
                assert!(now > before, "{name}: {rows} rows");
                before = now;
            }
            assert!(cost.batch_time(decode(64, 8192)) > cost.batch_time(decode(64, 4096)));
            assert!(cost.batch_time(prefill(4096)) > cost.batch_time(prefill(2048)));
            let whole = cost.batch_time(prefill(4096));
            let second = vec![RowCost { tokens: 2048, start: 2048, logits: 1 }];
            let first = vec![RowCost { tokens: 2048, start: 0, logits: 0 }];
            assert!(cost.batch_time(first) + cost.batch_time(second) > whole, "chunks read the weights again");
        }
    }

    #[test]
    fn ranks_share_the_work_and_pay_for_it() {
        let profile = SimProfile::find("4xh200-qwen3-32b").unwrap();
        let model = profile.model.unwrap();
        let time = |ranks| CostModel::new(&profile, model, ranks).unwrap().batch_time(prefill(4096)).as_secs_f64();
        let (one, four) = (time(1), time(4));
        assert!(four < one / 2.0 && four > one / 4.0, "one rank {one} s, four {four} s");
        for ranks in [0, 3, 16] {
            assert!(CostModel::new(&profile, model, ranks).unwrap_err().contains("ranks cannot share"));
        }
    }
}
