//! What several tests need: small configs, and writers of both forms' bytes.
use std::path::Path;

use minisgl_kernels::DType;

use crate::config::{Format, HiddenActivation, ModelConfig, RopeConfig, RopeScaling};

/// Two layers, untied, no biases.
pub(crate) fn tiny_config() -> ModelConfig {
    ModelConfig {
        format: Format::HuggingFace,
        architecture: "LlamaForCausalLM".into(),
        tensor_prefix: String::new(),
        hidden_size: 8,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        intermediate_size: 16,
        experts: None,
        vocab_size: 32,
        context: 64,
        rms_norm_eps: 1e-6,
        rope: RopeConfig { theta: 10_000.0, dim: 4, scaling: RopeScaling::Default },
        sliding_window: None,
        use_sliding_window: None,
        max_window_layers: None,
        sliding_layers: None,
        attention_bias: None,
        mlp_bias: false,
        tie_word_embeddings: false,
        activation: HiddenActivation::Silu,
        dtype: Some(DType::BF16),
    }
}

/// `config.json` of the same model.
pub(crate) fn tiny_json() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 32,
        "max_position_embeddings": 64, "torch_dtype": "bfloat16"
    })
}

/// A safetensors file of (name, type, shape, bytes).
pub(crate) fn safetensors_bytes(tensors: &[(&str, &str, &[usize], &[u8])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        header.insert((*name).into(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// Writes a file into the directory.
pub(crate) fn write(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(directory.join(name), bytes).unwrap();
}

/// A GGUF file being written.
#[derive(Default)]
pub(crate) struct GgufWriter {
    keys: u64,
    metadata: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
    data: Vec<u8>,
}

impl GgufWriter {
    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }

    /// Adds a key with raw value bytes of a type.
    pub(crate) fn raw(mut self, key: &str, ty: u32, value: &[u8]) -> Self {
        Self::string(&mut self.metadata, key);
        self.metadata.extend_from_slice(&ty.to_le_bytes());
        self.metadata.extend_from_slice(value);
        self.keys += 1;
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[value.into()])
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        let mut bytes = Vec::new();
        Self::string(&mut bytes, value);
        self.raw(key, 8, &bytes)
    }

    /// Adds an array: element type, count, and the elements' bytes.
    pub(crate) fn array(self, key: &str, of: u32, count: u64, elements: &[u8]) -> Self {
        let value = [&of.to_le_bytes()[..], &count.to_le_bytes(), elements].concat();
        self.raw(key, 9, &value)
    }

    pub(crate) fn texts(self, key: &str, values: &[&str]) -> Self {
        let mut bytes = Vec::new();
        values.iter().for_each(|v| Self::string(&mut bytes, v));
        self.array(key, 8, values.len() as u64, &bytes)
    }

    /// Adds a tensor: GGML's type, dims columns first, bytes.
    pub(crate) fn tensor(mut self, name: &str, ty: u32, dims: &[u64], bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        self.info(name, ty, dims, offset)
    }

    /// Adds a tensor's header alone, at an offset.
    pub(crate) fn info(mut self, name: &str, ty: u32, dims: &[u64], offset: u64) -> Self {
        Self::string(&mut self.infos, name);
        self.infos.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.infos.extend_from_slice(&d.to_le_bytes()));
        self.infos.extend_from_slice(&ty.to_le_bytes());
        self.infos.extend_from_slice(&offset.to_le_bytes());
        self.tensors += 1;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend_from_slice(&3u32.to_le_bytes());
        out.extend_from_slice(&self.tensors.to_le_bytes());
        out.extend_from_slice(&self.keys.to_le_bytes());
        out.extend_from_slice(&self.metadata);
        out.extend_from_slice(&self.infos);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend_from_slice(&self.data);
        out
    }
}

/// A llama of the tiny config's numbers, with a tokenizer of three tokens and two tensors.
pub(crate) fn tiny_gguf() -> GgufWriter {
    tiny_gguf_of("llama")
}

/// The same as another architecture's.
pub(crate) fn tiny_gguf_of(architecture: &str) -> GgufWriter {
    let key = |name: &str| format!("{architecture}.{name}");
    GgufWriter::default()
        .text("general.architecture", architecture)
        .u32(&key("embedding_length"), 32)
        .u32(&key("block_count"), 2)
        .u32(&key("feed_forward_length"), 16)
        .u32(&key("attention.head_count"), 8)
        .u32(&key("attention.head_count_kv"), 2)
        .u32(&key("context_length"), 64)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .f32(&key("rope.freq_base"), 100_000.0)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &["<|end|>", "a", "b"])
        .array("tokenizer.ggml.token_type", 5, 3, &[3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
        .texts("tokenizer.ggml.merges", &["a b"])
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 0)
        .bool("tokenizer.ggml.add_bos_token", false)
        .text("tokenizer.chat_template", "{{ messages }}")
        .tensor("token_embd.weight", 2, &[32, 3], &(0..54).collect::<Vec<u8>>())
        .tensor("output_norm.weight", 0, &[32], &[7; 128])
}
