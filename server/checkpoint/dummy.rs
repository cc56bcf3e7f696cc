//! Made-up tensors for `--dummy-weight`: which there are and what they hold, from the config alone.
//!
//! A value depends on the tensor's name and its place in it alone, so that every rank and every run sees the same model.
use std::borrow::Cow;

use half::{bf16, f16};
use minisgl_kernels::DType;

use crate::config::ModelConfig;
use crate::tensor::{Tensor, byte_len};

/// `initializer_range` of the families that are served.
const STANDARD_DEVIATION: f32 = 0.02;

/// The type of made-up tensors: the config's, where it is one that values can be written in.
fn dtype(config: &ModelConfig) -> DType {
    match config.dtype {
        Some(dtype @ (DType::F32 | DType::F16 | DType::BF16)) => dtype,
        _ => DType::BF16,
    }
}

/// Whether a Hugging Face model of this config has the tensor.
pub(crate) fn has(config: &ModelConfig, name: &str) -> bool {
    let Some(name) = name.strip_prefix(config.tensor_prefix.as_str()) else { return false };
    if let Some(rest) = name.strip_prefix("model.layers.") {
        let Some((layer, part)) = rest.split_once('.') else { return false };
        return layer.parse().is_ok_and(|layer| layer < config.layers && layer_has(config, layer, part));
    }
    match name {
        "model.embed_tokens.weight" | "model.norm.weight" => true,
        "lm_head.weight" => !config.tie_word_embeddings,
        _ => false,
    }
}

fn layer_has(config: &ModelConfig, layer: usize, part: &str) -> bool {
    if let Some(experts) = config.experts.as_ref().filter(|experts| experts.sparse_layers[layer])
        && let Some(part) = part.strip_prefix("mlp.")
    {
        return mixture_has(experts.count, part);
    }
    match part {
        "input_layernorm.weight" | "post_attention_layernorm.weight" => true,
        "self_attn.q_norm.weight" | "self_attn.k_norm.weight" => config.architecture.starts_with("Qwen3"),
        "self_attn.q_proj.bias" | "self_attn.k_proj.bias" | "self_attn.v_proj.bias" => {
            config.attention_bias.unwrap_or(config.architecture.starts_with("Qwen2"))
        }
        "self_attn.o_proj.bias" => config.attention_bias.unwrap_or(false),
        "mlp.gate_proj.bias" | "mlp.up_proj.bias" | "mlp.down_proj.bias" => config.mlp_bias,
        _ => matches!(
            part,
            "self_attn.q_proj.weight"
                | "self_attn.k_proj.weight"
                | "self_attn.v_proj.weight"
                | "self_attn.o_proj.weight"
                | "mlp.gate_proj.weight"
                | "mlp.up_proj.weight"
                | "mlp.down_proj.weight"
        ),
    }
}

/// The router, and each expert's matrices: the form that files have, not transformers 5's stacked one.
fn mixture_has(count: usize, part: &str) -> bool {
    let Some((expert, matrix)) = part.strip_prefix("experts.").and_then(|rest| rest.split_once('.')) else {
        return part == "gate.weight";
    };
    expert.parse::<usize>().is_ok_and(|expert| expert < count)
        && matches!(matrix, "gate_proj.weight" | "up_proj.weight" | "down_proj.weight")
}

/// Bytes of all matrices; vectors are not worth counting.
pub(crate) fn bytes(config: &ModelConfig) -> u64 {
    let ModelConfig { hidden_size, heads, kv_heads, head_dim, intermediate_size, vocab_size, .. } = *config;
    let attention = 2 * (heads + kv_heads) * head_dim * hidden_size;
    let (sparse, mixture) = match &config.experts {
        Some(experts) => {
            let sparse = experts.sparse_layers.iter().filter(|sparse| **sparse).count();
            (sparse, experts.count * (1 + 3 * experts.intermediate_size) * hidden_size)
        }
        None => (0, 0),
    };
    let mlps = (config.layers - sparse) * 3 * intermediate_size * hidden_size + sparse * mixture;
    let tables = if config.tie_word_embeddings { 1 } else { 2 };
    let elements = config.layers * attention + mlps + tables * vocab_size * hidden_size; // bounded: see limits.rs
    (elements * dtype(config).block_bytes()) as u64
}

/// Values that all made-up tensors of a model are cut from.
///
/// Made once: a model has up to thousands of millions of weights, and copying is some fifty times faster than making.
pub(crate) struct Made {
    dtype: DType,
    /// [`VALUES`] elements of `dtype`.
    table: Vec<u8>,
}

/// A prime: rows start at different places of the table, and none of a vocabulary equals another.
const VALUES: usize = 1_048_573;

impl Made {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let dtype = dtype(config);
        let mut table = Vec::with_capacity(VALUES * dtype.block_bytes());
        for i in 0..VALUES {
            push(&mut table, dtype, value(i as u64));
        }
        Self { dtype, table }
    }

    /// A tensor of this name and shape; an error where memory cannot hold it.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'static>, String> {
        let bytes = byte_len(self.dtype, shape)?;
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).map_err(|_| format!("no memory for {bytes} bytes of made-up values"))?;
        if name.ends_with("norm.weight") || name == "rope_freqs.weight" {
            let mut one = Vec::new();
            push(&mut one, self.dtype, 1.0);
            data.extend(one.iter().cycle().take(bytes));
        } else {
            let start = (seed(name) % VALUES as u64) as usize * self.dtype.block_bytes();
            let mut from = &self.table[start..];
            while data.len() < bytes {
                data.extend_from_slice(&from[..from.len().min(bytes - data.len())]);
                from = &self.table;
            }
        }
        Ok(Tensor { name: name.into(), dtype: self.dtype, shape: shape.into(), data: Cow::Owned(data) })
    }
}

fn push(out: &mut Vec<u8>, dtype: DType, value: f32) {
    match dtype {
        DType::F32 => out.extend_from_slice(&value.to_le_bytes()),
        DType::F16 => out.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
        _ => out.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
    }
}

fn value(i: u64) -> f32 {
    let bits = mix(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // The sum of four uniform numbers is near enough to normal; its variance is 4/12.
    let sum: u32 = (0..4).map(|part| (bits >> (16 * part)) as u32 & 0xffff).sum();
    let normal = (sum as f32 / 65_536.0 - 2.0) * 3.0f32.sqrt();
    normal * STANDARD_DEVIATION
}

/// FNV-1a.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// SplitMix64's finaliser.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ExpertsConfig;
    use crate::testing::tiny_config;

    #[test]
    fn values_are_normal_enough_repeatable_and_differ_by_name() {
        let config = ModelConfig { dtype: Some(DType::F32), ..tiny_config() };
        let made = Made::new(&config);
        let floats = |name: &str| -> Vec<f32> {
            let tensor = made.tensor(name, &[100, 200]).unwrap();
            assert_eq!((tensor.dtype, tensor.data.len()), (DType::F32, 80_000));
            tensor.data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let a = floats("model.layers.0.mlp.up_proj.weight");
        assert_eq!(a, floats("model.layers.0.mlp.up_proj.weight"));
        assert_ne!(a, floats("model.layers.1.mlp.up_proj.weight"));
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        let deviation = (a.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / a.len() as f32).sqrt();
        assert!(mean.abs() < 1e-3 && (deviation - 0.02).abs() < 1e-3, "{mean} {deviation}");
        assert!(floats("model.norm.weight").iter().all(|x| *x == 1.0));
    }

    #[test]
    fn a_tensor_longer_than_the_table_goes_around_it() {
        let made = Made::new(&tiny_config());
        let long = made.tensor("model.embed_tokens.weight", &[3, VALUES]).unwrap();
        let (first, rest) = long.data.split_at(2 * VALUES);
        assert!(first == &rest[..2 * VALUES] && first == &rest[2 * VALUES..]);
        let mut sorted = first.to_vec();
        let mut table = made.table.clone();
        sorted.sort_unstable();
        table.sort_unstable();
        assert!(sorted == table, "every value once");
    }

    #[test]
    fn halves_are_written_in_the_config_s_type() {
        for (stated, made) in [(Some(DType::F16), DType::F16), (Some(DType::Q4_1), DType::BF16), (None, DType::BF16)] {
            let config = ModelConfig { dtype: stated, ..tiny_config() };
            let tensor = Made::new(&config).tensor("model.norm.weight", &[3]).unwrap();
            assert_eq!(tensor.dtype, made);
            let one = if made == DType::F16 { f16::ONE.to_le_bytes() } else { bf16::ONE.to_le_bytes() };
            assert_eq!(tensor.data.as_ref(), one.repeat(3));
        }
    }

    #[test]
    fn which_tensors_there_are_follows_the_config() {
        let config = tiny_config();
        for name in ["model.embed_tokens.weight", "lm_head.weight", "model.layers.1.self_attn.o_proj.weight"] {
            assert!(has(&config, name), "{name}");
        }
        for name in [
            "model.layers.2.mlp.up_proj.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "rope_freqs.weight",
            "model.layers.0",
            "x",
        ] {
            assert!(!has(&config, name), "{name}");
        }
        let qwen2 = ModelConfig { architecture: "Qwen2ForCausalLM".into(), tie_word_embeddings: true, ..tiny_config() };
        assert!(has(&qwen2, "model.layers.0.self_attn.q_proj.bias"));
        assert!(!has(&qwen2, "model.layers.0.self_attn.o_proj.bias"));
        assert!(!has(&qwen2, "lm_head.weight"));
        let nested = ModelConfig { tensor_prefix: "language_model.".into(), mlp_bias: true, ..tiny_config() };
        assert!(has(&nested, "language_model.model.layers.0.mlp.up_proj.bias"));
        assert!(!has(&nested, "model.norm.weight"));
    }

    #[test]
    fn a_mixture_has_its_experts_where_layers_are_sparse() {
        let sparse_layers = vec![false, true];
        let experts = ExpertsConfig { count: 3, per_token: 2, intermediate_size: 7, normalise: true, sparse_layers };
        let config = ModelConfig { experts: Some(experts), ..tiny_config() };
        for name in ["0.mlp.up_proj.weight", "1.mlp.gate.weight", "1.mlp.experts.2.down_proj.weight"] {
            assert!(has(&config, &format!("model.layers.{name}")), "{name}");
        }
        for name in [
            "0.mlp.gate.weight",
            "0.mlp.experts.0.up_proj.weight",
            "1.mlp.up_proj.weight",
            "1.mlp.experts.3.up_proj.weight",
            "1.mlp.experts.0.gate.weight",
            "1.mlp.experts.gate_up_proj",
        ] {
            assert!(!has(&config, &format!("model.layers.{name}")), "{name}");
        }
        // One layer's MLP of 16 became a router and three experts of 7: rows of 8 elements in two bytes.
        let (mlp, mixture) = (3 * 16, 3 * (1 + 3 * 7));
        assert_eq!(bytes(&config), bytes(&tiny_config()) + 2 * 8 * (mixture - mlp));
    }

    #[test]
    fn what_memory_cannot_hold_is_an_error() {
        let made = Made::new(&tiny_config());
        let error = made.tensor("model.norm.weight", &[1 << 40, 1 << 20]).unwrap_err();
        assert!(error.contains("no memory"), "{error}");
        let error = made.tensor("model.norm.weight", &[1 << 40, 1 << 40]).unwrap_err();
        assert!(error.contains("overflows"), "{error}");
    }
}
