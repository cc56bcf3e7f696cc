//! A decoder layer's weights: which tensors make them up, loaded onto a device.
//!
//! Knows shapes and stacking; the device decides what a weight becomes.
use std::ops::Range;

use minisgl_checkpoint::{Checkpoint, Tensor};
use minisgl_kernels::{Device, Shard, TensorView};

use super::names::{Names, Part};
use super::spec::{DecoderSpec, ModelError, Rank};

/// One decoder layer on a device. Widths are this rank's.
pub(super) struct Layer<D: Device> {
    /// `[hidden]`
    pub(super) attention_norm: D::Vector,
    /// `[(heads + 2 * kv_heads) * head_dim, hidden]`: q, k, v
    pub(super) qkv: D::Weight,
    /// `[(heads + 2 * kv_heads) * head_dim]`
    pub(super) qkv_bias: Option<D::Vector>,
    /// `[head_dim]` each
    pub(super) qk_norm: Option<(D::Vector, D::Vector)>,
    /// `[hidden, heads * head_dim]`
    pub(super) o: D::Weight,
    /// `[hidden]`
    pub(super) o_bias: Option<D::Vector>,
    /// `[hidden]`
    pub(super) mlp_norm: D::Vector,
    pub(super) mlp: Mlp<D>,
}

/// What follows attention.
pub(super) enum Mlp<D: Device> {
    /// One for all tokens.
    Dense {
        /// `[2 * intermediate, hidden]`: gate, up
        gate_up: D::Weight,
        /// `[2 * intermediate]`
        gate_up_bias: Option<D::Vector>,
        /// `[hidden, intermediate]`
        down: D::Weight,
        /// `[hidden]`
        down_bias: Option<D::Vector>,
    },
    /// Experts, of which each token goes through some.
    Mixture {
        /// `[experts, hidden]`
        router: D::Weight,
        /// `[2 * inner, hidden]` each: gate, up
        gate_up: D::Experts,
        /// `[hidden, inner]` each
        down: D::Experts,
    },
}

/// Where weights come from and go to.
pub(super) struct Loader<'a, D: Device> {
    pub(super) device: &'a mut D,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) names: Names,
    pub(super) rank: Rank,
    /// The whole model's, since files hold whole tensors.
    pub(super) spec: &'a DecoderSpec,
}

/// Which rows of each tensor of a stack a rank keeps.
#[derive(Clone, Copy)]
enum Cut {
    /// Its share of each, or all.
    Shard(Shard),
    /// Of q its own heads, of k and v the heads that those read.
    Heads,
}

impl<D: Device> Loader<'_, D> {
    /// Layer `i`.
    pub(super) fn layer(&mut self, i: usize) -> Result<Layer<D>, ModelError> {
        let spec = self.spec;
        let (hidden, head_dim) = (spec.hidden_size, spec.head_dim);
        let (q, kv) = (spec.heads * head_dim, spec.kv_heads * head_dim);
        let (columns, heads, whole) = (Cut::Shard(self.rank.columns()), Cut::Heads, Cut::Shard(Shard::Whole));
        let qkv = [(Part::Q, q), (Part::K, kv), (Part::V, kv)];
        Ok(Layer {
            attention_norm: self.norm(i, Part::AttentionNorm, hidden)?,
            qkv: self.matrices(i, &qkv, hidden, heads)?,
            qkv_bias: self.biases(spec.qkv_bias, i, &qkv, heads)?,
            qk_norm: match spec.qk_norm {
                true => Some((self.norm(i, Part::QNorm, head_dim)?, self.norm(i, Part::KNorm, head_dim)?)),
                false => None,
            },
            o: self.matrices(i, &[(Part::O, hidden)], q, columns)?,
            o_bias: self.biases(spec.o_bias, i, &[(Part::O, hidden)], whole)?,
            mlp_norm: self.norm(i, Part::MlpNorm, hidden)?,
            mlp: match spec.moe_shape().filter(|_| spec.moe_of(i).is_some()) {
                Some(shape) => self.mixture(i, shape)?,
                None => self.dense(i)?,
            },
        })
    }

    fn dense(&mut self, i: usize) -> Result<Mlp<D>, ModelError> {
        let (hidden, inter) = (self.spec.hidden_size, self.spec.intermediate_size);
        let (rows, columns) = (Cut::Shard(self.rank.rows()), Cut::Shard(self.rank.columns()));
        let biased = self.spec.mlp_bias;
        let gate_up = [(Part::Gate, inter), (Part::Up, inter)];
        Ok(Mlp::Dense {
            gate_up: self.matrices(i, &gate_up, hidden, rows)?,
            gate_up_bias: self.biases(biased, i, &gate_up, rows)?,
            down: self.matrices(i, &[(Part::Down, hidden)], inter, columns)?,
            down_bias: self.biases(biased, i, &[(Part::Down, hidden)], Cut::Shard(Shard::Whole))?,
        })
    }

    /// A mixture's router, `[experts, hidden]`.
    pub(super) fn router(&mut self, layer: usize, [experts, hidden]: [usize; 2]) -> Result<D::Weight, ModelError> {
        self.matrices(layer, &[(Part::Router, experts)], hidden, Cut::Shard(Shard::Whole))
    }

    /// A matrix outside the layers, `[vocabulary, hidden]`: this rank's rows.
    pub(super) fn vocabulary_matrix(&mut self, name: &str) -> Result<D::Weight, ModelError> {
        let tensor = self.checkpoint.tensor(name, &[self.spec.vocab_size, self.spec.hidden_size])?;
        Ok(self.device.load(&[tensor.view()], self.rank.rows())?)
    }

    /// A vector outside the layers, `[n]`.
    pub(super) fn vector(&mut self, name: &str, n: usize) -> Result<D::Vector, ModelError> {
        let tensor = self.checkpoint.tensor(name, &[n])?;
        Ok(self.device.load_vector(&[tensor.view()], Shard::Whole)?)
    }

    fn norm(&mut self, layer: usize, part: Part, n: usize) -> Result<D::Vector, ModelError> {
        self.vector(&self.names.weight(layer, part), n)
    }

    /// Matrices of so many rows each, stacked into one.
    fn matrices(
        &mut self,
        layer: usize,
        parts: &[(Part, usize)],
        columns: usize,
        cut: Cut,
    ) -> Result<D::Weight, ModelError> {
        let tensor =
            |(part, rows): &(Part, usize)| self.checkpoint.tensor(&self.names.weight(layer, *part), &[*rows, columns]);
        let tensors = parts.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
        let (tensors, shard) = self.cut(parts, &tensors, cut);
        Ok(self.device.load(&views(&tensors), shard)?)
    }

    /// Biases of so many elements each, one after the other, where the model has them.
    fn biases(
        &mut self,
        has: bool,
        layer: usize,
        parts: &[(Part, usize)],
        cut: Cut,
    ) -> Result<Option<D::Vector>, ModelError> {
        if !has {
            return Ok(None);
        }
        let tensor = |(part, n): &(Part, usize)| self.checkpoint.tensor(&self.names.bias(layer, *part), &[*n]);
        let tensors = parts.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
        let (tensors, shard) = self.cut(parts, &tensors, cut);
        Ok(Some(self.device.load_vector(&views(&tensors), shard)?))
    }

    /// What to load of these tensors, and how the device is still to cut it.
    fn cut<'t>(&self, parts: &[(Part, usize)], tensors: &'t [Tensor<'_>], cut: Cut) -> (Vec<Tensor<'t>>, Shard) {
        let (rank, head_dim) = (self.rank.rank, self.spec.head_dim);
        let (own, kv) = (self.spec.heads / self.rank.of, self.spec.kv_heads_of(self.rank));
        let heads =
            |tensor: &'t Tensor<'_>, heads: Range<usize>| tensor.rows(heads.start * head_dim..heads.end * head_dim);
        let own_heads = |((part, _), tensor): (&(Part, usize), &'t Tensor<'_>)| match part {
            Part::Q => vec![heads(tensor, rank * own..(rank + 1) * own)],
            _ => runs(&kv).map(|run| heads(tensor, run)).collect(),
        };
        match cut {
            Cut::Shard(shard) => (tensors.iter().map(|tensor| tensor.rows(0..tensor.shape[0])).collect(), shard),
            Cut::Heads => (parts.iter().zip(tensors).flat_map(own_heads).collect(), Shard::Whole),
        }
    }
}

/// Numbers that follow each other, together: `1 2 2 3` are `1..3` and `2..4`.
fn runs(numbers: &[usize]) -> impl Iterator<Item = Range<usize>> {
    numbers.chunk_by(|a, b| *b == a + 1).map(|run| run[0]..run[run.len() - 1] + 1)
}

fn views<'a>(tensors: &'a [Tensor<'_>]) -> Vec<TensorView<'a>> {
    tensors.iter().map(Tensor::view).collect()
}
