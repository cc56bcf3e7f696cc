//! DecoderSpec: everything that a forward pass needs to know of an architecture, as numbers.
//!
//! Owns the list of architectures. Does not know tensors or devices.
use minisgl_checkpoint::config::Format;
use minisgl_checkpoint::{Checkpoint, CheckpointError, HiddenActivation, ModelConfig};
use minisgl_kernels::{Activation, DeviceError, KvShape, MoeShape, Shard};

use super::names::{Names, Part};
use super::rope::{Rope, rope_factors};
use super::{llama, mistral, qwen2, qwen3, qwen3_moe};

/// A decoder-only transformer: what varies between architectures is a field here, not code.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// K/V heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Which layers have a mixture of experts in place of the MLP, and what it is like.
    pub moe: Option<Moe>,
    /// Rows of the embedding, and logits a position.
    pub vocab_size: usize,
    /// The longest sequence that the model was made for, in tokens.
    pub context: usize,
    /// RMS norm's epsilon.
    pub rms_norm_eps: f32,
    /// A decoder layer each: keys that a query sees, where not all.
    pub windows: Vec<Option<usize>>,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// The attention's output has a bias.
    pub o_bias: bool,
    /// gate, up and down have biases.
    pub mlp_bias: bool,
    /// q and k are normalised, head by head, before they are rotated.
    pub qk_norm: bool,
    /// The gate's.
    pub activation: Activation,
    /// Rotary embedding.
    pub rope: Rope,
    /// Multiplies q·k.
    pub attention_scale: f32,
    /// The output matrix is the embedding's.
    pub tied: bool,
}

/// A mixture of experts, the same in every layer that has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token goes through.
    pub per_token: usize,
    /// Width of an expert's MLP.
    pub intermediate_size: usize,
    /// The weights of a token's experts are made to sum to 1.
    pub normalise: bool,
    /// A decoder layer each: whether it is such a mixture.
    pub layers: Vec<bool>,
}

/// This model cannot be run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum ModelError {
    #[error("architecture '{found}' is not supported; these are: {}", supported())]
    Architecture { found: String },
    #[error("{0}")]
    Config(String),
    #[error("{ranks} ranks cannot share {what}: {can} can")]
    Ranks { ranks: usize, what: String, can: String },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Which of the ranks that share a model this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// From 0.
    pub rank: usize,
    /// How many.
    pub of: usize,
}

impl Rank {
    /// The only one.
    pub const SOLE: Self = Self { rank: 0, of: 1 };

    /// Its rows of a matrix whose outputs are shared out: query heads, MLP columns, vocabulary.
    pub fn rows(self) -> Shard {
        if self.of == 1 { Shard::Whole } else { Shard::Rows { rank: self.rank, of: self.of } }
    }

    /// Its columns of a matrix whose inputs are shared out.
    pub fn columns(self) -> Shard {
        if self.of == 1 { Shard::Whole } else { Shard::Columns { rank: self.rank, of: self.of } }
    }
}

/// Every architecture: where its config comes from, what it is called there, and what reads it.
type Build = fn(&ModelConfig) -> Result<DecoderSpec, ModelError>;
const ARCHITECTURES: [(Format, &str, Build); 10] = [
    (Format::HuggingFace, "LlamaForCausalLM", llama::spec),
    (Format::HuggingFace, "MistralForCausalLM", mistral::spec),
    (Format::HuggingFace, "Mistral3ForConditionalGeneration", mistral::spec),
    (Format::HuggingFace, "Qwen2ForCausalLM", qwen2::spec),
    (Format::HuggingFace, "Qwen3ForCausalLM", qwen3::spec),
    (Format::HuggingFace, "Qwen3MoeForCausalLM", qwen3_moe::spec),
    (Format::Gguf, "llama", llama::spec),
    (Format::Gguf, "qwen2", qwen2::spec),
    (Format::Gguf, "qwen3", qwen3::spec),
    (Format::Gguf, "qwen3moe", qwen3_moe::spec),
];

fn supported() -> String {
    let of = |wanted: Format| {
        let names = ARCHITECTURES.iter().filter(|(format, ..)| *format == wanted).map(|(_, name, _)| *name);
        names.collect::<Vec<_>>().join(", ")
    };
    format!("{} (config.json); {} (GGUF)", of(Format::HuggingFace), of(Format::Gguf))
}

impl DecoderSpec {
    /// What the checkpoint's model is.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let config = checkpoint.config();
        let mut spec = Self::from_config(config)?;
        if config.format == Format::Gguf {
            // GGUF metadata does not say which biases there are: the tensors do.
            let names = Names::of(config);
            spec.qkv_bias = checkpoint.has(&names.bias(0, Part::Q));
            spec.o_bias = checkpoint.has(&names.bias(0, Part::O));
            spec.mlp_bias = checkpoint.has(&names.bias(0, Part::Gate));
            if let Some(factors) = rope_factors(checkpoint, config.rope.dim)? {
                spec.rope.divide(&factors);
            }
        }
        Ok(spec)
    }

    /// What a config alone says.
    pub fn from_config(config: &ModelConfig) -> Result<Self, ModelError> {
        let found =
            ARCHITECTURES.iter().find(|(format, name, _)| *format == config.format && *name == config.architecture);
        let (_, _, build) =
            found.ok_or_else(|| ModelError::Architecture { found: config.architecture.escape_debug().to_string() })?;
        build(config)
    }

    /// The part that all architectures share: no biases, no QK-norm, no windows. Each architecture's file says what differs.
    pub(super) fn base(config: &ModelConfig) -> Result<Self, ModelError> {
        if !config.rope.dim.is_multiple_of(2) || config.rope.dim > config.head_dim {
            let (dim, head_dim) = (config.rope.dim, config.head_dim);
            return Err(ModelError::Config(format!(
                "{dim} elements of a head are rotated: it must be an even number, at most the head's {head_dim}"
            )));
        }
        Ok(Self {
            hidden_size: config.hidden_size,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            intermediate_size: config.intermediate_size,
            moe: None,
            vocab_size: config.vocab_size,
            context: config.context,
            rms_norm_eps: config.rms_norm_eps,
            windows: vec![None; config.layers],
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            activation: match config.activation {
                HiddenActivation::Silu => Activation::Silu,
                HiddenActivation::Gelu => Activation::Gelu,
                HiddenActivation::GeluTanh => Activation::GeluTanh,
            },
            rope: Rope::new(&config.rope),
            attention_scale: 1.0 / (config.head_dim as f32).sqrt(),
            tied: config.tie_word_embeddings,
        })
    }

    /// One rank's part: its query heads, the K/V heads that those read, its MLP columns. The residual stream stays whole,
    /// and `vocab_size` is the model's: the vocabulary need not divide.
    pub fn of_rank(&self, rank: Rank) -> Result<Self, ModelError> {
        let shared = self.shared();
        let counts = self.rank_counts();
        if !counts.contains(&rank.of) {
            let what: Vec<_> = shared.iter().map(|(n, what)| format!("{n} {what}")).collect();
            let counts: Vec<_> = counts.iter().map(usize::to_string).collect();
            return Err(ModelError::Ranks { ranks: rank.of, what: listed(&what, "and"), can: listed(&counts, "or") });
        }
        // A width that no layer has is not shared.
        let dense = self.has_dense_layers();
        Ok(Self {
            heads: self.heads / rank.of,
            kv_heads: self.kv_heads_of(rank).len(),
            intermediate_size: if dense { self.intermediate_size / rank.of } else { self.intermediate_size },
            moe: self.moe.clone().map(|moe| Moe { intermediate_size: moe.intermediate_size / rank.of, ..moe }),
            ..self.clone()
        })
    }

    /// What every rank has as many of as the others.
    fn shared(&self) -> Vec<(usize, &'static str)> {
        let dense = self.has_dense_layers().then_some((self.intermediate_size, "MLP columns"));
        let moe = self.moe.as_ref().map(|moe| (moe.intermediate_size, "columns of an expert"));
        [Some((self.heads, "query heads")), dense, moe].into_iter().flatten().collect()
    }

    /// How many ranks can share the model.
    pub fn rank_counts(&self) -> Vec<usize> {
        let shared = self.shared();
        (1..=self.heads).filter(|of| shared.iter().all(|(n, _)| n.is_multiple_of(*of))).collect()
    }

    /// The K/V heads that a rank's query heads read, in the order of those, each for the same number of query heads. Where
    /// there are more ranks than K/V heads, or the two do not divide, several ranks have the same one:
    /// ```text
    ///   12 query heads over 4 K/V heads:   000 111 222 333
    ///   2 ranks                            000 111|222 333     0 1 | 2 3
    ///   12 ranks                           0|0|0|1|1|1|…       0 | 0 | 0 | 1 | …
    ///   3 ranks                            0001|1122|2333      0 0 0 1 | 1 1 2 2 | 2 3 3 3
    /// ```
    pub fn kv_heads_of(&self, rank: Rank) -> Vec<usize> {
        let (own, readers) = (self.heads / rank.of, self.heads / self.kv_heads);
        let run = gcd(own, readers);
        (rank.rank * own..(rank.rank + 1) * own).step_by(run).map(|head| head / readers).collect()
    }

    /// Decoder layers.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }

    /// The layer's mixture of experts, where it is one.
    pub fn moe_of(&self, layer: usize) -> Option<&Moe> {
        self.moe.as_ref().filter(|moe| moe.layers[layer])
    }

    /// Whether a layer has an MLP.
    pub fn has_dense_layers(&self) -> bool {
        (0..self.layers()).any(|layer| self.moe_of(layer).is_none())
    }

    /// The mixtures' shape, where a layer has one.
    pub fn moe_shape(&self) -> Option<MoeShape> {
        let moe = self.moe.as_ref().filter(|moe| moe.layers.contains(&true))?;
        let Moe { experts, per_token, intermediate_size: inner, .. } = *moe;
        Some(MoeShape { experts, per_token, width: self.hidden_size, inner })
    }

    /// Width of a row of q, k and v together.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// The cache for so many pages.
    pub fn kv_shape(&self, pages: usize, page_size: usize) -> KvShape {
        KvShape { layers: self.layers(), pages, page_size, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// Elements of all activations a token, as [`Activations`](super::Activations) of this rank holds them. A mixture keeps
    /// its probabilities, and for each of a token's experts the input (later the output), gate, up, and what they make.
    pub fn activation_width(&self) -> usize {
        let dense = if self.has_dense_layers() { 3 * self.intermediate_size } else { 0 };
        let mixture = self.moe_shape().map_or(0, |moe| moe.experts + moe.per_token * (moe.width + 3 * moe.inner));
        self.hidden_size + self.qkv_width() + self.heads * self.head_dim + dense + mixture
    }
}

/// `a, b and c`
fn listed(words: &[String], last: &str) -> String {
    match words {
        [rest @ .., end] if !rest.is_empty() => format!("{} {last} {end}", rest.join(", ")),
        _ => words.concat(),
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Qwen2's and Qwen3's rule: which layers see a window alone.
pub(super) fn qwen_windows(config: &ModelConfig) -> Vec<Option<usize>> {
    // A window that is stated and not used is no window (Qwen2.5's own configs have one).
    let window = config.sliding_window.filter(|_| config.use_sliding_window == Some(true));
    // transformers' default, where the config does not say: as many layers as the largest such model then had.
    const MAX_WINDOW_LAYERS: usize = 28;
    let first = config.max_window_layers.unwrap_or(MAX_WINDOW_LAYERS);
    (0..config.layers)
        .map(|layer| {
            let slides = config.sliding_layers.as_ref().map_or(layer >= first, |slides| slides[layer]);
            window.filter(|_| slides)
        })
        .collect()
}

#[cfg(test)]
#[path = "spec_tests.rs"]
pub(crate) mod tests;
