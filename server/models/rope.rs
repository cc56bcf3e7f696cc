//! Rotary frequencies: default, linear, llama3 and YaRN, as transformers computes them.
//!
//! Values are rounded to f32 where transformers rounds them, so that angles at far positions agree. The formulas: linear,
//! "Extending context window via positional interpolation" (arXiv 2306.15595); YaRN, arXiv 2309.00071; llama3, Meta's
//! Llama 3.1 reference code.
use std::f64::consts::PI;

use minisgl_checkpoint::{Checkpoint, RopeConfig, RopeScaling};
use minisgl_kernels::{DType, RopeLayout};

use super::names::GGUF_ROPE_FACTORS;
use super::spec::ModelError;

/// What rotates q and k.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `[rotary_dim / 2]`: `angle = position * inv_freq[i]`.
    pub inv_freq: Vec<f32>,
    /// Multiplies cosines and sines (YaRN's attention factor; otherwise 1).
    pub scale: f32,
    /// How pairs lie in a head.
    pub layout: RopeLayout,
}

/// llama3's parameters.
struct Llama3 {
    factor: f32,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original: f64,
}

/// YaRN's parameters.
struct Yarn {
    theta: f64,
    factor: f64,
    original: f64,
    beta_fast: f64,
    beta_slow: f64,
    truncate: bool,
}

impl Rope {
    /// By the config; pairs lie in halves.
    pub fn new(config: &RopeConfig) -> Self {
        let frequencies = |i| 1.0 / wavelength(config, i);
        let mut inv_freq: Vec<f32> = (0..config.dim / 2).map(frequencies).collect();
        let mut scale = 1.0;
        match config.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => inv_freq.iter_mut().for_each(|f| *f /= factor as f32),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f64;
                let llama3 = Llama3 { factor: factor as f32, low_freq_factor, high_freq_factor, original };
                inv_freq.iter_mut().for_each(|f| *f = llama3.frequency(*f));
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                attention_factor,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
                truncate,
            } => {
                let original = original_max_position_embeddings as f64;
                let yarn = Yarn { theta: config.theta, factor, original, beta_fast, beta_slow, truncate };
                inv_freq = yarn.frequencies(config);
                scale =
                    attention_factor.unwrap_or_else(|| yarn_attention_factor(factor, mscale, mscale_all_dim)) as f32;
            }
        }
        Self { inv_freq, scale, layout: RopeLayout::Halves }
    }

    /// Divides each frequency by its factor.
    pub fn divide(&mut self, factors: &[f32]) {
        assert_eq!(factors.len(), self.inv_freq.len(), "a factor a frequency");
        for (frequency, factor) in self.inv_freq.iter_mut().zip(factors) {
            *frequency /= factor;
        }
    }
}

/// `theta^(2i / dim)` in f32.
fn wavelength(config: &RopeConfig, i: usize) -> f32 {
    let exponent = (2 * i) as f32 / config.dim as f32;
    f64::from(config.theta as f32).powf(f64::from(exponent)) as f32
}

impl Llama3 {
    /// Long waves are stretched by the factor, short ones kept, those between interpolated.
    fn frequency(&self, frequency: f32) -> f32 {
        let wavelength = 2.0 * PI as f32 / frequency;
        if f64::from(wavelength) < self.original / self.high_freq_factor {
            return frequency;
        }
        if f64::from(wavelength) > self.original / self.low_freq_factor {
            return frequency / self.factor;
        }
        let span = (self.high_freq_factor - self.low_freq_factor) as f32;
        let smooth = (self.original as f32 / wavelength - self.low_freq_factor as f32) / span;
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

impl Yarn {
    /// The dimension (fractional) that turns `rotations` times over the original context.
    fn correction_dim(&self, dim: usize, rotations: f64) -> f64 {
        dim as f64 * (self.original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
    }

    /// Fast dimensions are kept, slow ones divided by the factor, a ramp between them.
    fn frequencies(&self, config: &RopeConfig) -> Vec<f32> {
        let (mut low, mut high) =
            (self.correction_dim(config.dim, self.beta_fast), self.correction_dim(config.dim, self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let low = low.max(0.0);
        let mut high = high.min(config.dim as f64 - 1.0);
        if low == high {
            high += 0.001; // no division by zero; transformers' value
        }
        (0..config.dim / 2)
            .map(|i| {
                let wavelength = wavelength(config, i);
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let keep = 1.0 - ramp;
                1.0 / (self.factor as f32 * wavelength) * (1.0 - keep) + 1.0 / wavelength * keep
            })
            .collect()
    }
}

/// The paper's `0.1 ln(factor) + 1`, or the ratio of two such where both scales are given.
fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scaled = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    match (mscale.filter(|m| *m != 0.0), mscale_all_dim.filter(|m| *m != 0.0)) {
        (Some(mscale), Some(all_dim)) => scaled(mscale) / scaled(all_dim),
        _ => scaled(1.0),
    }
}

/// The factors a GGUF file states as a tensor, `[rotary_dim / 2]`, where it has one.
pub(super) fn rope_factors(checkpoint: &Checkpoint, dim: usize) -> Result<Option<Vec<f32>>, ModelError> {
    if !checkpoint.has(GGUF_ROPE_FACTORS) {
        return Ok(None);
    }
    let tensor = checkpoint.tensor(GGUF_ROPE_FACTORS, &[dim / 2])?;
    let view = tensor.view();
    if view.dtype != DType::F32 {
        return Err(ModelError::Config(format!("tensor '{GGUF_ROPE_FACTORS}' is {:?}: it must be F32", view.dtype)));
    }
    let (values, _) = view.data.as_chunks::<4>();
    let factors: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if let Some(bad) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
        return Err(ModelError::Config(format!("tensor '{GGUF_ROPE_FACTORS}' holds {bad}: factors are above 0")));
    }
    Ok(Some(factors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn scaling(rope: &Value) -> RopeScaling {
        let number = |key: &str| rope[key].as_f64();
        let need = |key: &str| number(key).unwrap_or_else(|| panic!("{key}"));
        let original = || rope["original_max_position_embeddings"].as_u64().unwrap() as usize;
        match rope["rope_type"].as_str().unwrap() {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: need("factor") },
            "llama3" => RopeScaling::Llama3 {
                factor: need("factor"),
                low_freq_factor: need("low_freq_factor"),
                high_freq_factor: need("high_freq_factor"),
                original_max_position_embeddings: original(),
            },
            "yarn" => RopeScaling::Yarn {
                factor: need("factor"),
                original_max_position_embeddings: original(),
                attention_factor: number("attention_factor"),
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                mscale: number("mscale"),
                mscale_all_dim: number("mscale_all_dim"),
                truncate: rope["truncate"].as_bool().unwrap_or(true),
            },
            other => panic!("{other}"),
        }
    }

    /// The file is transformers' own output: tests/fixtures/models/rope.py.
    #[test]
    fn frequencies_are_transformers() {
        let cases: Value = serde_json::from_str(include_str!("../../tests/fixtures/models/rope.json")).unwrap();
        let cases = cases.as_array().unwrap();
        assert!(cases.len() >= 9);
        for case in cases {
            let name = case["name"].as_str().unwrap();
            let rope = &case["rope"];
            let dim = case["dim"].as_u64().unwrap() as usize;
            let theta = rope["rope_theta"].as_f64().unwrap();
            let ours = Rope::new(&RopeConfig { theta, dim, scaling: scaling(rope) });
            let theirs: Vec<f64> = case["inv_freq"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            assert_eq!(ours.inv_freq.len(), theirs.len(), "{name}");
            for (i, (ours, theirs)) in ours.inv_freq.iter().zip(&theirs).enumerate() {
                let error = (f64::from(*ours) - theirs).abs() / theirs;
                assert!(error < 1e-6, "{name}[{i}]: {ours} and {theirs}");
            }
            let scale = case["scale"].as_f64().unwrap();
            assert!((f64::from(ours.scale) - scale).abs() < 1e-6, "{name}: {} and {scale}", ours.scale);
        }
    }
}
