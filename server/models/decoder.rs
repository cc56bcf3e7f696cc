//! The decoder: one model's weights on one device, and the one forward pass of every architecture, device and rank count.
//!
//! Does not know batches: which tokens, pages and rows a step has is staged in the device before `forward` runs.
use minisgl_checkpoint::Checkpoint;
use minisgl_kernels::{Attend, Device, DeviceError, Moe, Norm, RopeStore};

use super::names::Names;
use super::spec::{DecoderSpec, ModelError, Rank};
use super::weights::{Layer, Loader, Mlp};

/// A model on a device: its weights. Activations are apart, so that a pass borrows the one and changes the other.
pub struct Decoder<D: Device> {
    /// This rank's sizes.
    spec: DecoderSpec,
    /// `[vocabulary, hidden]`, this rank's rows
    embedding: D::Weight,
    layers: Vec<Layer<D>>,
    /// `[hidden]`
    norm: D::Vector,
    /// `[vocabulary, hidden]`, this rank's rows, where they are not the embedding itself
    head: Option<D::Weight>,
    /// `[rotary_dim / 2]`
    inv_freq: D::Vector,
}

/// Buffers of a pass, each `[Limits::tokens, width]`; rows are the step's tokens.
pub struct Activations<D: Device> {
    /// `hidden`
    residual: D::Tensor,
    /// `(heads + 2 * kv_heads) * head_dim`
    qkv: D::Tensor,
    /// `heads * head_dim`
    attention: D::Tensor,
    dense: Option<Dense<D>>,
    moe: Option<D::MoeScratch>,
}

/// Those of the layers that have an MLP, where any has.
struct Dense<D: Device> {
    /// `2 * intermediate`
    gate_up: D::Tensor,
    /// `intermediate`
    mlp: D::Tensor,
}

impl<D: Device> Activations<D> {
    /// Allocates them; the device's limits must have been reserved.
    pub fn new(device: &mut D, spec: &DecoderSpec) -> Result<Self, DeviceError> {
        Ok(Self {
            residual: device.tensor(spec.hidden_size)?,
            qkv: device.tensor(spec.qkv_width())?,
            attention: device.tensor(spec.heads * spec.head_dim)?,
            dense: match spec.has_dense_layers() {
                true => Some(Dense {
                    gate_up: device.tensor(2 * spec.intermediate_size)?,
                    mlp: device.tensor(spec.intermediate_size)?,
                }),
                false => None,
            },
            moe: spec.moe_shape().map(|shape| device.moe_scratch(shape)).transpose()?,
        })
    }
}

impl<D: Device> Decoder<D> {
    /// Loads a rank's part of the weights. `progress` hears after each layer how many are loaded, of how many.
    pub fn load(
        device: &mut D,
        checkpoint: &Checkpoint,
        rank: Rank,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        let whole = DecoderSpec::of(checkpoint)?;
        let spec = whole.of_rank(rank)?;
        let inv_freq = device.vector(&spec.rope.inv_freq)?;
        let names = Names::of(checkpoint.config());
        let mut loader = Loader { device, checkpoint, names: names.clone(), rank, spec: &whole };
        let embedding = loader.vocabulary_matrix(&names.embedding())?;
        let mut layers = Vec::with_capacity(spec.layers());
        for i in 0..spec.layers() {
            layers.push(loader.layer(i)?);
            progress(i + 1, spec.layers());
        }
        let norm = loader.vector(&names.norm(), spec.hidden_size)?;
        let head = if spec.tied { None } else { Some(loader.vocabulary_matrix(&names.head())?) };
        Ok(Self { spec, embedding, layers, norm, head, inv_freq })
    }

    /// This rank's sizes.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The forward pass: from the step's tokens to the logits of its rows. Pre-norm transformer; see `Device` for each operation.
    pub fn forward(&self, device: &mut D, x: &mut Activations<D>) {
        device.embed(&self.embedding, &mut x.residual);
        for (i, layer) in self.layers.iter().enumerate() {
            device.norm_matmul(&x.residual, &self.rms(&layer.attention_norm), &layer.qkv, &mut x.qkv);
            device.rope_store_kv(&mut x.qkv, &self.rope_store(i, layer));
            device.attend(&x.qkv, &self.attend(i), &mut x.attention);
            device.matmul_reduce_add(&x.attention, &layer.o, layer.o_bias.as_ref(), &mut x.residual);

            self.mlp(device, layer, x);
        }
        device.logits(&x.residual, &self.rms(&self.norm), self.head.as_ref().unwrap_or(&self.embedding));
    }

    fn mlp(&self, device: &mut D, layer: &Layer<D>, x: &mut Activations<D>) {
        let (norm, act) = (self.rms(&layer.mlp_norm), self.spec.activation);
        match &layer.mlp {
            Mlp::Dense { gate_up, gate_up_bias, down, down_bias } => {
                let dense = x.dense.as_mut().expect("the spec has dense layers");
                device.norm_matmul(&x.residual, &norm, gate_up, &mut dense.gate_up);
                device.gated(&dense.gate_up, gate_up_bias.as_ref(), act, &mut dense.mlp);
                device.matmul_reduce_add(&dense.mlp, down, down_bias.as_ref(), &mut x.residual);
            }
            Mlp::Mixture { router, gate_up, down } => {
                let moe = self.spec.moe.as_ref().expect("the spec has mixtures");
                let (per_token, normalise) = (moe.per_token, moe.normalise);
                let op = Moe { norm, router, gate_up, down, per_token, normalise, act };
                device.moe(&op, x.moe.as_mut().expect("the spec has mixtures"), &mut x.residual);
            }
        }
    }

    fn rms<'a>(&self, weight: &'a D::Vector) -> Norm<'a, D::Vector> {
        Norm { weight, eps: self.spec.rms_norm_eps }
    }

    fn rope_store<'a>(&'a self, i: usize, layer: &'a Layer<D>) -> RopeStore<'a, D::Vector> {
        RopeStore {
            layer: i,
            heads: self.spec.heads,
            kv_heads: self.spec.kv_heads,
            head_dim: self.spec.head_dim,
            bias: layer.qkv_bias.as_ref(),
            q_norm: layer.qk_norm.as_ref().map(|(q, _)| self.rms(q)),
            k_norm: layer.qk_norm.as_ref().map(|(_, k)| self.rms(k)),
            layout: self.spec.rope.layout,
            inv_freq: &self.inv_freq,
            rope_scale: self.spec.rope.scale,
        }
    }

    fn attend(&self, i: usize) -> Attend {
        Attend {
            layer: i,
            heads: self.spec.heads,
            kv_heads: self.spec.kv_heads,
            head_dim: self.spec.head_dim,
            scale: self.spec.attention_scale,
            window: self.spec.windows[i],
        }
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
