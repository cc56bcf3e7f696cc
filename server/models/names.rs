//! What a decoder's tensors are called: Hugging Face's names and GGUF's.
//!
//! Knows names alone, not shapes or which of them a model has.
use minisgl_checkpoint::ModelConfig;
use minisgl_checkpoint::config::Format;

/// A tensor of a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the usual names
pub enum Part {
    AttentionNorm,
    Q,
    K,
    V,
    QNorm,
    KNorm,
    O,
    MlpNorm,
    Gate,
    Up,
    Down,
    Router,
}

/// A matrix of a mixture's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the usual names
pub enum ExpertMatrix {
    Gate,
    Up,
    /// Both, gate first.
    GateUp,
    Down,
}

impl ExpertMatrix {
    fn hugging_face(self) -> &'static str {
        match self {
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::GateUp => "gate_up_proj",
            Self::Down => "down_proj",
        }
    }
}

/// A checkpoint's way to name tensors.
#[derive(Clone, Debug)]
pub struct Names {
    format: Format,
    prefix: String,
}

/// GGUF's factors that divide the rotary frequencies (llama3's scaling).
pub const GGUF_ROPE_FACTORS: &str = "rope_freqs.weight";

impl Names {
    /// This checkpoint's.
    pub fn of(config: &ModelConfig) -> Self {
        Self { format: config.format, prefix: config.tensor_prefix.clone() }
    }

    /// The embedding, `[vocabulary, hidden]`.
    pub fn embedding(&self) -> String {
        self.outside("model.embed_tokens.weight", "token_embd.weight")
    }

    /// The last norm's weight, `[hidden]`.
    pub fn norm(&self) -> String {
        self.outside("model.norm.weight", "output_norm.weight")
    }

    /// The output matrix, `[vocabulary, hidden]`.
    pub fn head(&self) -> String {
        self.outside("lm_head.weight", "output.weight")
    }

    /// A layer's matrix or norm.
    pub fn weight(&self, layer: usize, part: Part) -> String {
        self.inside(layer, part, "weight")
    }

    /// A layer's bias.
    pub fn bias(&self, layer: usize, part: Part) -> String {
        self.inside(layer, part, "bias")
    }

    /// One expert's matrix, in the form that has a tensor for each: Hugging Face's files, not GGUF's.
    pub fn expert(&self, layer: usize, expert: usize, matrix: ExpertMatrix) -> Option<String> {
        let matrix = matrix.hugging_face();
        let name = || format!("{}model.layers.{layer}.mlp.experts.{expert}.{matrix}.weight", self.prefix);
        (self.format == Format::HuggingFace).then(name)
    }

    /// All experts' matrices as one tensor, `[experts, rows, columns]`: GGUF's form, and that of transformers 5's own
    /// computation.
    pub fn experts(&self, layer: usize, matrix: ExpertMatrix) -> String {
        match self.format {
            Format::HuggingFace => {
                format!("{}model.layers.{layer}.mlp.experts.{}", self.prefix, matrix.hugging_face())
            }
            Format::Gguf => {
                let matrix = match matrix {
                    ExpertMatrix::Gate => "ffn_gate_exps",
                    ExpertMatrix::Up => "ffn_up_exps",
                    ExpertMatrix::GateUp => "ffn_gate_up_exps",
                    ExpertMatrix::Down => "ffn_down_exps",
                };
                format!("blk.{layer}.{matrix}.weight")
            }
        }
    }

    fn outside(&self, hugging_face: &str, gguf: &str) -> String {
        match self.format {
            Format::HuggingFace => format!("{}{hugging_face}", self.prefix),
            Format::Gguf => gguf.to_owned(),
        }
    }

    fn inside(&self, layer: usize, part: Part, kind: &str) -> String {
        match self.format {
            Format::HuggingFace => {
                let part = match part {
                    Part::AttentionNorm => "input_layernorm",
                    Part::Q => "self_attn.q_proj",
                    Part::K => "self_attn.k_proj",
                    Part::V => "self_attn.v_proj",
                    Part::QNorm => "self_attn.q_norm",
                    Part::KNorm => "self_attn.k_norm",
                    Part::O => "self_attn.o_proj",
                    Part::MlpNorm => "post_attention_layernorm",
                    Part::Gate => "mlp.gate_proj",
                    Part::Up => "mlp.up_proj",
                    Part::Down => "mlp.down_proj",
                    Part::Router => "mlp.gate",
                };
                format!("{}model.layers.{layer}.{part}.{kind}", self.prefix)
            }
            Format::Gguf => {
                let part = match part {
                    Part::AttentionNorm => "attn_norm",
                    Part::Q => "attn_q",
                    Part::K => "attn_k",
                    Part::V => "attn_v",
                    Part::QNorm => "attn_q_norm",
                    Part::KNorm => "attn_k_norm",
                    Part::O => "attn_output",
                    Part::MlpNorm => "ffn_norm",
                    Part::Gate => "ffn_gate",
                    Part::Up => "ffn_up",
                    Part::Down => "ffn_down",
                    Part::Router => "ffn_gate_inp",
                };
                format!("blk.{layer}.{part}.{kind}")
            }
        }
    }
}
