//! A model's numbers as its files state them, `config.json` (transformers 4 and 5) and GGUF metadata normalised to one form.
//!
//! Does not know what an architecture does with them: that is the server's `models`.
use minisgl_kernels::DType;

/// Where the config came from, hence how its tensors are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A Hugging Face directory.
    HuggingFace,
    /// A GGUF file.
    Gguf,
}

/// An architecture's numbers. All sizes have been checked to be non-zero and within bounds that make later
/// products safe; `heads % kv_heads == 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Where it came from.
    pub format: Format,
    /// `architectures[0]` of `config.json` (of the outer config where the text model is nested: `Mistral3ForConditionalGeneration`),
    /// or GGUF's `general.architecture`.
    pub architecture: String,
    /// What stands before `model.` and `lm_head.` in tensor names: `language_model.` for nested text models, else empty.
    /// Both spellings of files (`language_model.model.…`, `model.language_model.…`) are found under the first.
    pub tensor_prefix: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// K/V heads.
    pub kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Width of the MLP; in a mixture of experts, of the layers that have none.
    pub intermediate_size: usize,
    /// The mixture of experts, where the model is one.
    pub experts: Option<ExpertsConfig>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence, in tokens (`max_position_embeddings`, `context_length`).
    pub context: usize,
    /// RMS norm's epsilon.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// `sliding_window`, where stated and not null; transformers' 4096 where a `mistral` config does not mention it.
    pub sliding_window: Option<usize>,
    /// Qwen's `use_sliding_window`, where stated.
    pub use_sliding_window: Option<bool>,
    /// Qwen's `max_window_layers`, where stated.
    pub max_window_layers: Option<usize>,
    /// `layer_types`, where stated: `true` is `sliding_attention`, `false` is `full_attention`; as long as `layers`.
    pub sliding_layers: Option<Vec<bool>>,
    /// `attention_bias`, where stated.
    pub attention_bias: Option<bool>,
    /// `mlp_bias`, where stated.
    pub mlp_bias: bool,
    /// The output matrix is the embedding's. For GGUF: there is no `output.weight`. For a nested text model whose weights
    /// are open: there is no `lm_head.weight`, because inner and outer config contradict each other in real files.
    pub tie_word_embeddings: bool,
    /// `hidden_act`.
    pub activation: HiddenActivation,
    /// `torch_dtype`/`dtype`; for GGUF the type of most weight bytes.
    pub dtype: Option<DType>,
}

/// A mixture of experts. Checked: `1 <= per_token <= count`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsConfig {
    /// Experts of a sparse layer (`num_experts`, in transformers 5 `num_local_experts`; `expert_count`).
    pub count: usize,
    /// Experts that a token goes through (`num_experts_per_tok`, `expert_used_count`).
    pub per_token: usize,
    /// Width of an expert's MLP (`moe_intermediate_size`, `expert_feed_forward_length`).
    pub intermediate_size: usize,
    /// The weights of a token's experts are made to sum to 1 (`norm_topk_prob`, `expert_weights_norm`).
    pub normalise: bool,
    /// Which layers have experts, by `decoder_sparse_step` and `mlp_only_layers`; as long as `layers`.
    pub sparse_layers: Vec<bool>,
}

/// Rotary embedding, wherever the file states it.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Rotated elements of a head (`head_dim` unless `partial_rotary_factor` or `rope.dimension_count` says less).
    pub dim: usize,
    /// How positions beyond the trained context are reached.
    pub scaling: RopeScaling,
}

/// Kinds of RoPE scaling, with the parameters' standard names.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names are transformers' own
pub enum RopeScaling {
    Default,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    Yarn {
        factor: f64,
        original_max_position_embeddings: usize,
        attention_factor: Option<f64>,
        beta_fast: f64,
        beta_slow: f64,
        mscale: Option<f64>,
        mscale_all_dim: Option<f64>,
        truncate: bool,
    },
}

/// `hidden_act`'s values that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HiddenActivation {
    Silu,
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`
    GeluTanh,
}

/// `generation_config.json` (or the ids of `config.json` and GGUF metadata): the model's own defaults.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct GenerationConfig {
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    /// This and the next three are `None` also where `do_sample` is stated as false: the server then uses its own defaults.
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
}
