//! The device seam: a dozen whole-batch operations on opaque tensors, each as fused as the best device wants.
//!
//! `reference` defines what each operation means; every other device is tested against it.
//! A forward pass written on this trait reads device buffers and sizes only, allocates nothing and branches on no
//! value, so that a device may capture and replay it.
//!
//! One rule binds all devices: **an output row depends on its own sequence alone**, with one order of summation
//! whatever else is in the batch, however a prompt was chunked and whatever the page size.
use crate::collective::Collective;
use crate::dtype::DType;
use crate::sampling::Sampling;

/// A vocabulary index. An alias: token ids cross JSON, tokenizer libraries and kernels in bulk, and mean the same in each.
pub type TokenId = u32;

/// A page of the K/V cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// A place in the running batch; what a device keeps for a sequence it keeps by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// A tensor as a checkpoint stores it: row-major, the last dimension contiguous (and blocked, where quantised).
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// Its name in the file, for errors.
    pub name: &'a str,
    /// How its elements are stored.
    pub dtype: DType,
    /// `[rows, columns]` of a matrix (a matrix maps `columns` inputs to `rows` outputs), `[n]` of a vector.
    pub shape: &'a [usize],
    /// The bytes: exactly `dtype.row_bytes(columns) * rows`.
    pub data: &'a [u8],
}

/// Which part of a matrix a rank keeps. Each part of a stacked load is cut by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shard {
    /// All of it.
    Whole,
    /// Rows `rank * rows / of ..` ([`share`](crate::collective::share)): heads, MLP columns, vocabulary. Each rank has some.
    Rows {
        /// This rank.
        rank: usize,
        /// How many ranks.
        of: usize,
    },
    /// Columns `rank * columns / of ..`: the input side of a row-parallel matrix. A cut inside a quantisation block is an error.
    Columns {
        /// This rank.
        rank: usize,
        /// How many ranks.
        of: usize,
    },
}

/// A device could not load or allocate. The engine cannot start; nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A tensor that the device cannot take; the message says what would be right.
    #[error("tensor '{name}': {why}")]
    Tensor {
        /// The tensor's name in the checkpoint.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Memory for caches or buffers cannot be had.
    #[error("cannot allocate {bytes} bytes for {what}")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: usize,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// One row's computation failed; its sequence fails, the batch goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The logits hold a NaN.
    #[error("the model's logits are not numbers (NaN)")]
    NotANumber,
    /// The device cannot give what the row wants.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// How K and V are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFormat {
    /// IEEE single: exact.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
    /// Signed bytes, and an f32 scale for each token's K and V of each head.
    Int8,
}

impl KvFormat {
    /// Bytes of one element.
    pub fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Whether elements are multiplied by a scale that is stored with them.
    pub fn is_scaled(self) -> bool {
        self == Self::Int8
    }
}

/// The K/V cache: both K and V of `[layers][pages][page_size][kv_heads][head_dim]`, laid out as the device likes.
#[derive(Clone, Copy, Debug)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: usize,
    /// Pages in all.
    pub pages: usize,
    /// Tokens a page.
    pub page_size: usize,
    /// K/V heads of this rank.
    pub kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
}

/// The largest step a device must be able to run, known before the first.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens a step.
    pub tokens: usize,
    /// Rows a step, and slots.
    pub slots: usize,
    /// Tokens a sequence may have (positions for RoPE tables).
    pub context: usize,
}

/// Where a row's input tokens come from.
#[derive(Clone, Copy, Debug)]
pub enum TokenSource<'a> {
    /// These, a chunk of a prompt or one known token.
    Tokens(&'a [TokenId]),
    /// The one token that this slot sampled last: the host does not know it yet.
    LastSampled,
}

/// What a row gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing: a prompt's chunk but not its last.
    Nothing,
    /// A token sampled from the last position's logits.
    Sample,
    /// The logits of every position of the row, `[tokens, vocabulary]` in f32. Sampled as well.
    Scores,
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepRow<'a> {
    /// Whose last token, penalties and the like.
    pub slot: Slot,
    /// Position of the first input token; everything before it is in the cache.
    pub start: usize,
    /// The input.
    pub tokens: TokenSource<'a>,
    /// The sequence's whole page table: page `i` holds positions `i * page_size ..`.
    pub pages: &'a [PageId],
    /// What to give back.
    pub want: Want,
}

impl StepRow<'_> {
    /// Input tokens of this row.
    #[allow(clippy::len_without_is_empty)] // a row is never empty
    pub fn len(&self) -> usize {
        match self.tokens {
            TokenSource::Tokens(t) => t.len(),
            TokenSource::LastSampled => 1,
        }
    }
}

/// A whole step: rows in order; activations are `[tokens of all rows, width]` in that order.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// The rows. Never two of one slot.
    pub rows: &'a [StepRow<'a>],
}

/// What a captured step may be replayed for: steps of equal keys run the same launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepKey {
    /// Input tokens, padded.
    pub tokens: usize,
    /// Rows, padded.
    pub rows: usize,
}

/// RMS norm's weight and epsilon. `y = x / sqrt(mean(x²) + eps) * weight`, computed in f32.
#[derive(Debug)]
pub struct Norm<'a, V> {
    /// `[width]`
    pub weight: &'a V,
    /// Added to the mean square.
    pub eps: f32,
}

/// How the two halves of a rotated pair lie in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(x[i], x[i + d/2])`: Hugging Face, GPT-NeoX.
    Halves,
    /// `(x[2i], x[2i + 1])`: GGUF's permuted llama weights.
    Pairs,
}

/// Biases, QK-norm and rotation of q and k in place, then k and v into their pages.
#[derive(Debug)]
pub struct RopeStore<'a, V> {
    /// Decoder layer, for the cache.
    pub layer: usize,
    /// Query heads of this rank: a row of qkv is `[q heads | k heads | v heads] * head_dim`.
    pub heads: usize,
    /// K/V heads of this rank.
    pub kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Added to the whole qkv row first.
    pub bias: Option<&'a V>,
    /// RMS norm over each query head, after the bias.
    pub q_norm: Option<Norm<'a, V>>,
    /// RMS norm over each key head, after the bias.
    pub k_norm: Option<Norm<'a, V>>,
    /// How pairs lie.
    pub layout: RopeLayout,
    /// `[rotary_dim / 2]` angles a position: `angle = position * inv_freq[i]`, cosine and sine taken in f32. A shorter
    /// table than `head_dim / 2` leaves the rest of the head unrotated.
    pub inv_freq: &'a V,
    /// cos and sin are multiplied by this (YaRN's attention factor; otherwise 1).
    pub rope_scale: f32,
}

/// Causal attention of each row's queries over its own pages.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// Decoder layer, for the cache.
    pub layer: usize,
    /// Query heads of this rank.
    pub heads: usize,
    /// K/V heads of this rank; query head `h` reads K/V head `h * kv_heads / heads`.
    pub kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// A query at position `p` sees keys `p - window + 1 ..= p` alone, where set.
    pub window: Option<usize>,
}

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// GELU by the error function.
    Gelu,
    /// GELU by the tanh approximation.
    GeluTanh,
}

/// Sizes of a mixture of experts, of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeShape {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token goes through: 1 to all.
    pub per_token: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Columns of each expert's MLP that this rank has.
    pub inner: usize,
}

/// A mixture of experts in place of an MLP, norm and residual included. For each token:
/// ```text
///   n        = norm(residual[t])
///   p        = softmax(router · n), in f32 over all experts
///   chosen   = the per_token largest of p; of equals the lower index
///   p'       = p, divided by the sum over the chosen where `normalise`
///   residual[t] += sum over the chosen of p'[e] * (down[e] · (act(gate[e] · n) * (up[e] · n)))
/// ```
/// The sum over the chosen has one order, whatever else is in the batch; it is then summed over the ranks.
pub struct Moe<'a, D: Device + ?Sized> {
    /// Before router and experts.
    pub norm: Norm<'a, D::Vector>,
    /// `[experts, width]`, whole on every rank.
    pub router: &'a D::Weight,
    /// `[2 * inner, width]` each: gate, up.
    pub gate_up: &'a D::Experts,
    /// `[width, inner]` each.
    pub down: &'a D::Experts,
    /// Experts that a token goes through.
    pub per_token: usize,
    /// The weights of the chosen are made to sum to 1.
    pub normalise: bool,
    /// The gate's.
    pub act: Activation,
}

/// One sampled row, in the order of the step's rows that want anything.
#[derive(Clone, Copy, Debug)]
pub struct SampleRow<'a> {
    /// Gets the token as its last sampled one.
    pub slot: Slot,
    /// How to choose.
    pub sampling: &'a Sampling,
    /// The position that the token will have: with the seed it keys the random number.
    pub position: usize,
}

/// A device: loads weights, holds the K/V cache, computes steps. See the module's page for the rule that binds all.
pub trait Device: Send + 'static {
    /// A matrix as this device wants it: repacked or uploaded, once.
    type Weight: Send;
    /// A vector of f32: norms, biases, frequencies.
    type Vector: Send;
    /// Activations, `[Limits::tokens, width]`.
    type Tensor: Send;
    /// One matrix of each of a layer's experts, in the order of the experts.
    type Experts: Send;
    /// What [`Device::moe`] keeps while it runs; one serves all layers.
    type MoeScratch: Send;

    /// In words, for the start-up line: `cpu (AVX2, 2 threads)`.
    fn name(&self) -> String;
    /// Makes the device one rank of several that compute a model together; called before anything is loaded, or never.
    /// From then on `embed` and `logits` have this rank's share of the vocabulary's rows ([`Collective::share`]) and
    /// `matmul_reduce_add` its columns; they, and `sample`, give what the whole would, up to rounding. All ranks run the same
    /// steps; rank 0 alone has logits, so it alone samples and has scores.
    fn join(&mut self, ranks: Collective);
    /// Loads matrices stacked along their rows (q, k, v; gate, up) as one. All parts have the same columns.
    fn load(&mut self, parts: &[TensorView<'_>], shard: Shard) -> Result<Self::Weight, DeviceError>;
    /// Loads experts' matrices, all of one shape: for each what [`load`](Self::load) would get.
    fn load_experts(&mut self, experts: &[Vec<TensorView<'_>>], shard: Shard) -> Result<Self::Experts, DeviceError>;
    /// Loads vectors, concatenated.
    fn load_vector(&mut self, parts: &[TensorView<'_>], shard: Shard) -> Result<Self::Vector, DeviceError>;
    /// A vector from values (frequencies).
    fn vector(&mut self, values: &[f32]) -> Result<Self::Vector, DeviceError>;
    /// Fixes the largest step. Called once, before `tensor` and `kv_cache`.
    fn reserve(&mut self, limits: Limits, vocabulary: usize) -> Result<(), DeviceError>;
    /// Activations of `[limits.tokens, width]`.
    fn tensor(&mut self, width: usize) -> Result<Self::Tensor, DeviceError>;
    /// Memory for mixtures of experts of this shape, `limits.tokens` at a time.
    fn moe_scratch(&mut self, shape: MoeShape) -> Result<Self::MoeScratch, DeviceError>;
    /// Allocates the cache. `layers` etc. are this rank's.
    fn kv_cache(&mut self, shape: KvShape) -> Result<(), DeviceError>;
    /// Bytes of K/V that one page takes, both K and V, all layers.
    fn page_bytes(&self, shape: KvShape) -> usize;
    /// Memory in bytes that caches may still take.
    fn available_memory(&self) -> usize;

    /// Does a little, some milliseconds at most, of what later steps gain by; called while none is to be done. Says whether
    /// there may be more.
    fn idle(&mut self) -> bool {
        false
    }
    /// Stages a step's inputs.
    fn begin(&mut self, step: &Step<'_>);
    /// Runs the forward pass, or replays one captured under the same key.
    fn step(&mut self, key: StepKey, forward: &mut dyn FnMut(&mut Self));

    /// `out[t] = table[token[t]]`; of several ranks, from the one that has the token's row.
    fn embed(&mut self, table: &Self::Weight, out: &mut Self::Tensor);
    /// `out[t] = w · norm(x[t])`
    fn norm_matmul(
        &mut self,
        x: &Self::Tensor,
        norm: &Norm<'_, Self::Vector>,
        w: &Self::Weight,
        out: &mut Self::Tensor,
    );
    /// See [`RopeStore`].
    fn rope_store_kv(&mut self, qkv: &mut Self::Tensor, op: &RopeStore<'_, Self::Vector>);
    /// See [`Attend`]; `out[t] = [heads * head_dim]`.
    fn attend(&mut self, qkv: &Self::Tensor, op: &Attend, out: &mut Self::Tensor);
    /// `out[t] = act(gate + bias) * (up + bias)` where a row of `gate_up` is `[gate | up]`, and so is `bias`.
    fn gated(&mut self, gate_up: &Self::Tensor, bias: Option<&Self::Vector>, act: Activation, out: &mut Self::Tensor);
    /// `residual[t] += w · x[t] + bias`, summed over the ranks.
    fn matmul_reduce_add(
        &mut self,
        x: &Self::Tensor,
        w: &Self::Weight,
        bias: Option<&Self::Vector>,
        residual: &mut Self::Tensor,
    );
    /// See [`Moe`].
    fn moe(&mut self, op: &Moe<'_, Self>, scratch: &mut Self::MoeScratch, residual: &mut Self::Tensor);
    /// Logits `head · norm(x[t])` of the positions that the step's rows want: the last of a `Sample` row, all of a `Scores` row.
    /// Rank 0 gathers all ranks'.
    fn logits(&mut self, x: &Self::Tensor, norm: &Norm<'_, Self::Vector>, head: &Self::Weight);
    /// Chooses a token for each row that wants one, in the order of the step's rows, and keeps it as its slot's last.
    /// Ranks but 0 keep what rank 0 chose, and give that.
    fn sample(&mut self, rows: &[SampleRow<'_>]) -> Vec<Result<TokenId, RowError>>;
    /// The logits of one `Scores` row of the step (`row` counts the step's rows), `[tokens, vocabulary]`.
    fn scores(&self, row: usize) -> Vec<f32>;
}
