//! From a model's name to a running [`Llm`]: find, open, tokenizer, engine, threads.
//!
//! Owns the order and the one error that names the step. Does not know flags or how progress is shown.
use minisgl_checkpoint::{Checkpoint, CheckpointError, FindError, FindOptions, GenerationConfig, OpenOptions, find};
use minisgl_config::{DeviceKind, EngineSettings, GenerationDefaults, MetricsPrefix};
use minisgl_kernels::TokenId;
use minisgl_tokenizer::{Tokenizer, TokenizerError};

use super::{Llm, LlmOptions, LlmParts, ModelInfo, SamplingParams};
use crate::engine::{self, EngineOptions, Vocabulary};
use crate::health::Health;
use crate::metrics::Metrics;

/// What loading needs besides the settings. The default is a library user's: no bars, metrics of its own.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// The name that requests use; the model's own where absent.
    pub model_id: Option<String>,
    /// Shared with whoever asks whether it is ready.
    pub health: Health,
    /// Shared with whoever shows them.
    pub metrics: Option<Metrics>,
    /// Show downloads on stderr.
    pub show_downloads: bool,
    /// Hears after each layer how many are loaded, of how many.
    pub progress: Option<&'a mut dyn FnMut(usize, usize)>,
}

/// The model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files cannot be had.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Its files are bad.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its tokenizer is bad, or of a kind that is not read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The engine cannot start with it.
    #[error(transparent)]
    Engine(#[from] engine::LoadError),
}

impl Llm {
    /// Finds the model, fetching what is not here yet, loads it and starts it.
    pub fn load(settings: &EngineSettings, options: LoadOptions<'_>) -> Result<Self, LoadError> {
        let LoadOptions { model_id, health, metrics, show_downloads, progress } = options;
        let weights = settings.device != DeviceKind::Sim;
        let found = find(&FindOptions {
            model: &settings.model,
            hub: settings.model_source,
            weights: weights && !settings.dummy_weight,
            progress: show_downloads,
        })?;
        let checkpoint = Checkpoint::open(&found.path, OpenOptions { dummy_weights: settings.dummy_weight, weights })?;
        let tokenizer = Tokenizer::new(checkpoint.tokenizer()?)?;
        let generation = checkpoint.generation();
        let mut eos = generation.eos_token_ids.clone();
        if eos.is_empty() {
            eos.extend(tokenizer.eos_token_id());
        }
        let defaults = match settings.generation_config {
            GenerationDefaults::Auto => defaults(generation),
            GenerationDefaults::None => SamplingParams::default(),
        };
        let mut unheard = |_, _| ();
        let progress = progress.unwrap_or(&mut unheard);
        let vocabulary = match settings.device {
            DeviceKind::Sim => vocabulary(&tokenizer, &eos),
            DeviceKind::Cpu | DeviceKind::Reference => Vocabulary::default(),
        };
        let runner = engine::load(EngineOptions { checkpoint: &checkpoint, settings, vocabulary, progress })?;
        // A device that keeps each sequence to exact times has nothing to overlap with.
        let exact = settings.sim.ttft.is_some() || settings.sim.itl.is_some();
        let id = model_id.unwrap_or(found.name);
        let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let created = created.map_or(0, |since| since.as_secs());
        Ok(Self::start(LlmParts {
            runner,
            tokenizer,
            eos,
            defaults,
            metrics: metrics.unwrap_or_else(|| Metrics::new(MetricsPrefix::Minisgl, &id)),
            model: ModelInfo { id, root: found.root, created },
            options: LlmOptions {
                max_queued: settings.max_queued_requests,
                cache: settings.cache_type,
                overlap: settings.overlap && !exact,
                max_decode_gap: settings.max_decode_gap,
                tokenizers: settings.num_tokenizer,
            },
            health,
        }))
    }
}

/// What a device without a model says.
fn vocabulary(tokenizer: &Tokenizer, eos: &[TokenId]) -> Vocabulary {
    let words = tokenizer.words().iter().copied().filter(|id| !eos.contains(id)).collect();
    Vocabulary { ids: tokenizer.vocab_size(), words }
}

/// The model's own values where it states them.
fn defaults(generation: &GenerationConfig) -> SamplingParams {
    let server = SamplingParams::default();
    SamplingParams {
        temperature: generation.temperature.unwrap_or(server.temperature),
        top_k: generation.top_k.map_or(server.top_k, i64::from),
        top_p: generation.top_p.unwrap_or(server.top_p),
        min_p: generation.min_p.unwrap_or(server.min_p),
        ..server
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_model_does_not_state_is_the_servers() {
        let stated = GenerationConfig { temperature: Some(0.6), top_k: Some(20), ..GenerationConfig::default() };
        let defaults = defaults(&stated);
        assert_eq!((defaults.temperature, defaults.top_k, defaults.top_p, defaults.min_p), (0.6, 20, 1.0, 0.0));
        assert_eq!(super::defaults(&GenerationConfig::default()), SamplingParams::default());
    }
}
