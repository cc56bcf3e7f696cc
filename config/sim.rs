//! Profiles of simulated GPUs (`--sim-profile`): hardware, efficiencies and, in some, a model's shape. Each number's
//! source stands beside it in `config/sim/*.toml`.
//!
//! Owns the files' form and what may stand in them. Does not know what is computed from it.
use std::path::Path;

use serde::Deserialize;

use crate::error::ConfigError;

/// The profiles that come with the program.
const NAMED: [(&str, &str); 5] = [
    ("h100", include_str!("sim/h100.toml")),
    ("h200", include_str!("sim/h200.toml")),
    ("1xh200-qwen3-0.6b", include_str!("sim/1xh200-qwen3-0.6b.toml")),
    ("1xh200-qwen3-14b", include_str!("sim/1xh200-qwen3-14b.toml")),
    ("4xh200-qwen3-32b", include_str!("sim/4xh200-qwen3-32b.toml")),
];
/// The profile where none is named.
pub const DEFAULT_PROFILE: &str = "h200";
/// A profile of one's own has at most this many bytes.
const MOST_BYTES: u64 = 1 << 16;
/// GPUs, and ranks, of one model at most.
pub const MOST_GPUS: usize = 1024;

/// Simulated GPUs, maybe with a model's shape.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimProfile {
    /// What it is called wherever a figure of it appears.
    pub name: String,
    /// GPUs that share the model, and so the degree of tensor parallelism.
    pub gpus: usize,
    /// One of them.
    pub gpu: SimGpu,
    /// What of the peaks is reached.
    pub efficiency: SimEfficiency,
    /// What is neither computation nor traffic.
    pub overhead: SimOverhead,
    /// The model; otherwise the shape of `--model`.
    pub model: Option<SimModel>,
}

/// A GPU's datasheet.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimGpu {
    /// Memory, 10^9 bytes.
    pub memory_gb: f64,
    /// Its rate, 10^9 bytes a second.
    pub memory_gb_s: f64,
    /// Dense 16-bit matrix arithmetic, 10^12 operations a second (a multiply-add is two).
    pub dense_tflop_s: f64,
    /// To the other GPUs, each way, 10^9 bytes a second.
    pub link_gb_s: f64,
}

/// Shares of the peaks that are reached, each above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the files say it
pub struct SimEfficiency {
    pub linear_compute: f64,
    pub linear_memory: f64,
    pub attention_compute: f64,
    pub attention_memory: f64,
    pub link: f64,
}

/// Times that neither arithmetic nor traffic explains.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimOverhead {
    /// Of a step, microseconds.
    pub step_us: f64,
    /// Of an all-reduce, microseconds.
    pub all_reduce_us: f64,
}

/// A decoder's shape: `config.json` as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimModel {
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// K/V heads.
    pub kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Width of the MLP; in a mixture of experts, of the layers that have one.
    pub intermediate_size: usize,
    /// The mixture of experts, where the model is one.
    pub experts: Option<SimExperts>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The longest sequence, in tokens.
    pub context: usize,
    /// The output matrix is the embedding's.
    pub tied: bool,
    /// Bytes of a weight: 2 in 16 bits, 1 in 8.
    pub weight_bytes: f64,
    /// Bytes of an element of K or V.
    pub kv_bytes: f64,
}

/// A mixture of experts' shape.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimExperts {
    /// Layers that have experts in place of an MLP.
    pub layers: usize,
    /// Experts of such a layer.
    pub count: usize,
    /// Experts that a token goes through.
    pub per_token: usize,
    /// Width of an expert's MLP.
    pub intermediate_size: usize,
}

/// The profiles that come with the program, by name.
pub fn profile_names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|(name, _)| *name)
}

/// Those of them that have a model's shape, and so need no `--model`.
pub fn model_profile_names() -> impl Iterator<Item = &'static str> {
    profile_names().filter(|name| SimProfile::find(name).is_ok_and(|profile| profile.model.is_some()))
}

/// Whether a profile's name, or a file's, could be meant.
pub(crate) fn check_name(text: &str) -> Result<(), String> {
    if is_file(text) || profile_names().any(|name| name == text) { Ok(()) } else { Err(expected()) }
}

/// What a profile may be.
pub(crate) fn expects() -> String {
    format!("{}, or a file of such a profile (….toml)", profile_names().collect::<Vec<_>>().join(", "))
}

fn expected() -> String {
    format!("expected {}", expects())
}

fn is_file(text: &str) -> bool {
    text.ends_with(".toml")
}

impl SimProfile {
    /// A profile by name, or from a file.
    ///
    /// # Errors
    /// Unknown names get the list of those there are; files, the line and what would be right.
    pub fn find(name: &str) -> Result<Self, ConfigError> {
        if let Some((_, text)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        if !is_file(name) {
            return Err(ConfigError::one(format!("{name}: no such profile: {}", expected())));
        }
        let cannot = |why: &dyn std::fmt::Display| ConfigError::one(format!("{name}: {why}"));
        let path = Path::new(name);
        let bytes = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
        if bytes > MOST_BYTES {
            return Err(cannot(&format!("{bytes} bytes, where a profile has at most {MOST_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
        Self::parse(name, &text)
    }

    /// Reads and checks a profile; `place` names it in errors.
    fn parse(place: &str, text: &str) -> Result<Self, ConfigError> {
        let profile: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            ConfigError::one(format!("{place}:{line}: {}", error.message().replace('\n', " ")))
        })?;
        profile.check().map_err(|why| ConfigError::one(format!("{place}: {why}")))?;
        Ok(profile)
    }

    /// Bounds that keep every product of the cost model finite and exact enough.
    fn check(&self) -> Result<(), String> {
        let SimProfile { gpu, efficiency, overhead, .. } = self;
        if self.name.trim().is_empty() || self.name.len() > 100 || self.name.contains(char::is_control) {
            return Err("name: expected 1 to 100 printable bytes".to_owned());
        }
        if !(1..=MOST_GPUS).contains(&self.gpus) {
            return Err(format!("gpus = {}: expected 1 to {MOST_GPUS}", self.gpus));
        }
        for (key, value, most) in [
            ("gpu.memory_gb", gpu.memory_gb, 1e6),
            ("gpu.memory_gb_s", gpu.memory_gb_s, 1e9),
            ("gpu.dense_tflop_s", gpu.dense_tflop_s, 1e9),
            ("gpu.link_gb_s", gpu.link_gb_s, 1e9),
            ("efficiency.linear_compute", efficiency.linear_compute, 1.0),
            ("efficiency.linear_memory", efficiency.linear_memory, 1.0),
            ("efficiency.attention_compute", efficiency.attention_compute, 1.0),
            ("efficiency.attention_memory", efficiency.attention_memory, 1.0),
            ("efficiency.link", efficiency.link, 1.0),
        ] {
            // The lower bound keeps a quotient from being no time at all to tell.
            if !(value >= 1e-6 && value <= most) {
                return Err(format!("{key} = {value}: expected a number above 0 and at most {most}"));
            }
        }
        for (key, value) in [("overhead.step_us", overhead.step_us), ("overhead.all_reduce_us", overhead.all_reduce_us)]
        {
            if !(0.0..=1e7).contains(&value) {
                return Err(format!("{key} = {value}: expected microseconds from 0 to 10000000"));
            }
        }
        self.model.map_or(Ok(()), |model| model.check())
    }
}

impl SimModel {
    fn check(&self) -> Result<(), String> {
        for (key, value, most) in [
            ("layers", self.layers, 1 << 10),
            ("hidden_size", self.hidden_size, 1 << 17),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("vocab_size", self.vocab_size, 1 << 22),
            ("context", self.context, 1 << 24),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("model.{key} = {value}: expected 1 to {most}"));
            }
        }
        if let Some(experts) = self.experts {
            for (key, value, most) in [
                ("layers", experts.layers, self.layers),
                ("count", experts.count, 1 << 10),
                ("per_token", experts.per_token, experts.count),
                ("intermediate_size", experts.intermediate_size, 1 << 20),
            ] {
                if !(1..=most).contains(&value) {
                    return Err(format!("model.experts.{key} = {value}: expected 1 to {most}"));
                }
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) || self.context < 2 {
            let why = "kv_heads must divide heads, and a sequence has 2 tokens or more (context)";
            return Err(format!("model: {why}"));
        }
        for (key, value) in [("weight_bytes", self.weight_bytes), ("kv_bytes", self.kv_bytes)] {
            if !(0.125..=8.0).contains(&value) {
                return Err(format!("model.{key} = {value}: expected bytes from 0.125 to 8"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_profile_is_right_and_called_what_its_file_is() {
        for name in profile_names() {
            let profile = SimProfile::find(name).unwrap();
            assert_eq!(profile.name, name);
            assert_eq!(profile.model.is_some(), name.contains('x'), "{name}");
        }
        let large = SimProfile::find("4xh200-qwen3-32b").unwrap();
        assert_eq!((large.gpus, large.model.unwrap().layers), (4, 64));
    }

    #[test]
    fn unknown_names_list_those_there_are() {
        for name in ["list", "4xh200", ""] {
            let said = SimProfile::find(name).unwrap_err().to_string();
            assert!(profile_names().all(|known| said.contains(known)), "{said}");
        }
    }

    #[test]
    fn files_of_ones_own_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let good = NAMED[1].1;
        let find = |text: &str| {
            std::fs::write(&path, text).unwrap();
            SimProfile::find(path.to_str().unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(find(good).unwrap().gpus, 1);
        for (from, to, message) in [
            ("gpus = 1", "gpus = 0", "gpus = 0: expected 1 to 1024"),
            ("gpus = 1", "gpus = 1\ncolour = 1", "unknown field `colour`"),
            ("link = 0.75", "link = 75", "efficiency.link = 75: expected a number above 0 and at most 1"),
            ("link = 0.75", "link = nan", "efficiency.link = NaN"),
            ("step_us = 300.0", "step_us = -1", "overhead.step_us = -1: expected microseconds"),
            ("step_us = 300.0", "", "missing field `step_us`"),
            ("memory_gb = 141.0", "memory_gb = inf", "gpu.memory_gb = inf"),
        ] {
            let said = find(&good.replace(from, to)).unwrap_err();
            assert!(said.contains("mine.toml") && said.contains(message), "{to}: {said}");
        }
        let model = NAMED[4].1.replace("kv_heads = 8 ", "kv_heads = 7 ");
        assert!(find(&model).unwrap_err().contains("kv_heads must divide heads"));
        let experts = "\n[model.experts]\nlayers = 64\ncount = 128\nper_token = 8\nintermediate_size = 768\n";
        let model = format!("{}{experts}", NAMED[4].1);
        assert_eq!(find(&model).unwrap().model.unwrap().experts.unwrap().per_token, 8);
        for (from, to, message) in [
            ("per_token = 8", "per_token = 129", "model.experts.per_token = 129: expected 1 to 128"),
            ("layers = 64\ncount", "layers = 65\ncount", "model.experts.layers = 65: expected 1 to 64"),
            ("count = 128", "", "missing field `count`"),
        ] {
            let said = find(&model.replace(from, to)).unwrap_err();
            assert!(said.contains(message), "{to}: {said}");
        }
        assert!(SimProfile::find("/nowhere/mine.toml").unwrap_err().to_string().contains("/nowhere/mine.toml: "));
        assert!(find(&"#".repeat(1 << 17)).unwrap_err().contains("at most 65536"));
    }
}
