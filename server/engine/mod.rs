//! The engine: a loaded model behind [`ModelRunner`].
//!
//! Owns devices, ranks and what is kept by slot. Knows nothing of requests, text or the scheduler.
//!
//! ```text
//!   capacity.rs  what fits: pages, slots, tokens a batch     device.rs   runs any Device in a thread of its own
//!   slots.rs     page tables, mirrored by slot                sampling.rs what is kept to sample, by slot
//!   sim.rs       no device: answers when GPUs would
//! ```
mod capacity;
mod device;
mod sampling;
pub mod sim;
mod slots;

use minisgl_checkpoint::Checkpoint;
use minisgl_config::{DTypeChoice, DeviceKind, EngineSettings, KvCacheDType, Quantize};
use minisgl_kernels::cpu::{Cpu, CpuOptions, Keep};
use minisgl_kernels::reference::Reference;
use minisgl_kernels::{DType, Device, DeviceError, KvFormat, Limits, TokenId};

use self::capacity::Memory;
use self::device::{DeviceRunner, RankState};
use self::sim::{SimRunner, Simulation};
use crate::batch::ModelRunner;
use crate::models::{Activations, Decoder, ModelError, Rank};

/// What an engine is made from.
pub struct EngineOptions<'a> {
    /// The model.
    pub checkpoint: &'a Checkpoint,
    /// Device, number types and sizes.
    pub settings: &'a EngineSettings,
    /// What the tokenizer has, for a device that makes up its words.
    pub vocabulary: Vocabulary,
    /// Hears after each layer how many are loaded, of how many.
    pub progress: &'a mut dyn FnMut(usize, usize),
}

/// A tokenizer's ids, as far as an engine without a model needs them.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// The highest id, plus one.
    pub ids: usize,
    /// Ids of printable words, none of which ends a sequence.
    pub words: Vec<TokenId>,
}

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model is not one that can run, or its files are bad.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device refuses.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A setting does not go with the model or the device.
    #[error("--{flag}: {why}")]
    Setting {
        /// The flag's name.
        flag: &'static str,
        /// What is wrong and what would be right.
        why: String,
    },
    /// Too little memory.
    #[error("{0}")]
    Memory(String),
}

/// Loads the model onto the device that the settings name, and starts its rank.
pub fn load(options: EngineOptions<'_>) -> Result<Box<dyn ModelRunner>, LoadError> {
    let settings = options.settings;
    let keep = keep(settings)?;
    if settings.device == DeviceKind::Sim {
        let EngineOptions { checkpoint, vocabulary, .. } = options;
        let simulation = Simulation::new(settings, Some(checkpoint.config()), vocabulary.ids)?;
        return Ok(Box::new(SimRunner::new(simulation, &vocabulary)?));
    }
    if let Some(ranks) = settings.tensor_parallel_size.filter(|ranks| *ranks != 1) {
        let why = format!("{ranks} ranks: a CPU runs one");
        return Err(LoadError::Setting { flag: "tensor-parallel-size", why });
    }
    let kv_format = kv_format(settings);
    match settings.device {
        DeviceKind::Cpu => start(Cpu::new(CpuOptions { threads: settings.threads, keep, kv_format })?, options),
        DeviceKind::Reference => start(Reference::new(kv_format), options),
        DeviceKind::Sim => unreachable!("it has left above"),
    }
}

/// What K and V are stored as.
fn kv_format(settings: &EngineSettings) -> KvFormat {
    match (settings.kv_cache_dtype, settings.dtype) {
        (KvCacheDType::Int8, _) => KvFormat::Int8,
        (KvCacheDType::BFloat16, _) | (KvCacheDType::Auto, DTypeChoice::BFloat16) => KvFormat::BF16,
        (KvCacheDType::Float16, _) | (KvCacheDType::Auto, DTypeChoice::Float16) => KvFormat::F16,
        (KvCacheDType::Float32, _) | (KvCacheDType::Auto, DTypeChoice::Float32) => KvFormat::F32,
        (KvCacheDType::Auto, DTypeChoice::Auto) if settings.device == DeviceKind::Cpu => KvFormat::BF16,
        (KvCacheDType::Auto, DTypeChoice::Auto) => KvFormat::F32,
    }
}

/// How weights are kept. A type that is named is exact: weights are multiplied with f32.
fn keep(settings: &EngineSettings) -> Result<Keep, LoadError> {
    let refused = |why: &str| Err(LoadError::Setting { flag: "quantize", why: why.to_owned() });
    let fast = settings.dtype == DTypeChoice::Auto;
    let dtype = match settings.quantize {
        Quantize::None => return Ok(if fast { Keep::Stored } else { Keep::Exact }),
        Quantize::Int8 => DType::Q8_0,
        Quantize::Int4 => DType::Q4_0,
    };
    match settings.device {
        DeviceKind::Cpu if fast => Ok(Keep::Quantised(dtype)),
        DeviceKind::Cpu => {
            refused("goes with --dtype auto: the named types multiply weights exactly as they are stored")
        }
        DeviceKind::Reference | DeviceKind::Sim => refused("the cpu device alone quantises weights"),
    }
}

/// Weights first, then what else fits beside them.
fn start<D: Device>(mut device: D, options: EngineOptions<'_>) -> Result<Box<dyn ModelRunner>, LoadError> {
    let (weights, available) = (options.checkpoint.weight_bytes(), device.available_memory());
    let weights = usize::try_from(weights).unwrap_or(usize::MAX);
    if weights > available {
        let why = format!(
            "the weights take {}, and {} of memory are available",
            capacity::readable(weights),
            capacity::readable(available)
        );
        return Err(LoadError::Memory(why));
    }
    let decoder = Decoder::load(&mut device, options.checkpoint, Rank::SOLE, options.progress)?;
    let spec = decoder.spec();
    let page_bytes = device.page_bytes(spec.kv_shape(1, options.settings.page_size));
    let memory = Memory { available: device.available_memory(), page_bytes };
    let capacity = capacity::plan(spec, options.settings, memory)?;
    let limits = Limits { tokens: capacity.batch_tokens, slots: capacity.slots, context: capacity.context };
    device.reserve(limits, spec.vocab_size)?;
    device.kv_cache(spec.kv_shape(capacity.pages, capacity.page_size))?;
    let activations = Activations::new(&mut device, spec)?;
    let rank = RankState::new(device, decoder, activations, capacity);
    Ok(Box::new(DeviceRunner::start(rank)))
}

#[cfg(test)]
mod tests;
