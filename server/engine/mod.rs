//! The engine: a loaded model behind [`ModelRunner`].
//!
//! Owns devices, ranks and what is kept by slot. Knows nothing of requests, text or the scheduler.
//!
//! ```text
//!   capacity.rs  what fits: pages, slots, tokens a batch     device.rs   runs any Device, a rank a thread
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
use minisgl_kernels::cpu::{Cpu, CpuOptions, Integers, Keep};
use minisgl_kernels::reference::Reference;
use minisgl_kernels::{Alarm, Collective, Device, DeviceError, KvFormat, Limits, TokenId};

use self::capacity::Memory;
use self::device::{DeviceRunner, RankState};
use self::sim::{SimRunner, Simulation};
use crate::batch::ModelRunner;
use crate::models::{Activations, Decoder, DecoderSpec, ModelError, Rank};

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

/// Loads the model onto the device that the settings name, and starts its ranks.
pub fn load(options: EngineOptions<'_>) -> Result<Box<dyn ModelRunner>, LoadError> {
    let settings = options.settings;
    let keep = keep(settings)?;
    if settings.device == DeviceKind::Sim {
        let EngineOptions { checkpoint, vocabulary, .. } = options;
        let simulation = Simulation::new(settings, Some(checkpoint.config()), vocabulary.ids)?;
        return Ok(Box::new(SimRunner::new(simulation, &vocabulary)?));
    }
    let kv_format = kv_format(settings);
    match settings.device {
        DeviceKind::Cpu => {
            let threads = threads_a_rank(settings.threads, ranks(settings));
            start(|| Cpu::new(CpuOptions { threads, keep, kv_format }), options)
        }
        DeviceKind::Reference => start(|| Ok(Reference::new(kv_format)), options),
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
    let integers = match settings.quantize {
        Quantize::None => return Ok(if fast { Keep::Stored } else { Keep::Exact }),
        Quantize::Int8 => Integers::Int8,
        Quantize::Int4 => Integers::Int4,
    };
    match settings.device {
        DeviceKind::Cpu if fast => Ok(Keep::Quantised(integers)),
        DeviceKind::Cpu => {
            refused("goes with --dtype auto: the named types multiply weights exactly as they are stored")
        }
        DeviceKind::Reference | DeviceKind::Sim => refused("the cpu device alone quantises weights"),
    }
}

/// Ranks that share the model.
fn ranks(settings: &EngineSettings) -> usize {
    settings.tensor_parallel_size.unwrap_or(1)
}

/// Each rank's part of the threads asked for; 0 is the device's own choice, which for one of several ranks would be too many.
fn threads_a_rank(threads: usize, ranks: usize) -> usize {
    match (threads, ranks) {
        (threads, 1) => threads,
        (0, ranks) => (std::thread::available_parallelism().map_or(1, |n| n.get()) / ranks).max(1),
        (threads, ranks) => (threads / ranks).max(1),
    }
}

/// Loads and starts all ranks.
fn start<D: Device>(
    device: impl Fn() -> Result<D, DeviceError>,
    options: EngineOptions<'_>,
) -> Result<Box<dyn ModelRunner>, LoadError> {
    let (ranks, alarm) = load_engine(device, options)?;
    Ok(Box::new(DeviceRunner::start(ranks, alarm)))
}

/// Weights first, then what else fits beside them. The alarm is the ranks', where they are several.
fn load_engine<D: Device>(
    device: impl Fn() -> Result<D, DeviceError>,
    options: EngineOptions<'_>,
) -> Result<(Vec<RankState<D>>, Option<Alarm>), LoadError> {
    let of = ranks(options.settings);
    DecoderSpec::of(options.checkpoint)?.of_rank(Rank { rank: 0, of }).map_err(|error| match error {
        ModelError::Ranks { .. } => LoadError::Setting { flag: "tensor-parallel-size", why: error.to_string() },
        other => other.into(),
    })?;
    let (mut devices, mut alarm) = (Vec::with_capacity(of), None);
    for end in Collective::of(of) {
        let mut device = device()?;
        if of > 1 {
            alarm = Some(end.alarm());
            device.join(end);
        }
        devices.push(device);
    }
    check_weights(options.checkpoint, &devices[0])?;
    let loaded = load_ranks(devices, options.checkpoint, options.progress)?;

    let (device, decoder) = &loaded[0];
    let spec = decoder.spec();
    let page_bytes = of * device.page_bytes(spec.kv_shape(1, options.settings.page_size()));
    let memory = Memory { available: device.available_memory(), page_bytes, ranks: of };
    let capacity = capacity::plan(spec, options.settings, memory)?;
    let limits = Limits { tokens: capacity.batch_tokens, slots: capacity.slots, context: capacity.context };
    let state = |(mut device, decoder): (D, Decoder<D>)| {
        let spec = decoder.spec();
        device.reserve(limits, spec.vocab_size)?;
        device.kv_cache(spec.kv_shape(capacity.pages, capacity.page_size))?;
        let activations = Activations::new(&mut device, spec)?;
        Ok::<_, DeviceError>(RankState::new(device, decoder, activations, capacity))
    };
    let ranks = loaded.into_iter().map(state).collect::<Result<Vec<_>, _>>()?;
    Ok((ranks, alarm))
}

/// Whether the weights, of which each rank has its part, fit the memory that all ranks share.
fn check_weights<D: Device>(checkpoint: &Checkpoint, device: &D) -> Result<(), LoadError> {
    let weights = usize::try_from(checkpoint.weight_bytes()).unwrap_or(usize::MAX);
    let available = device.available_memory();
    if weights <= available {
        return Ok(());
    }
    let why = format!(
        "the weights take {}, and {} of memory are available",
        capacity::readable(weights),
        capacity::readable(available)
    );
    Err(LoadError::Memory(why))
}

/// All ranks' parts of the weights, each loaded by a thread of its own; the first rank's progress is told.
fn load_ranks<D: Device>(
    devices: Vec<D>,
    checkpoint: &Checkpoint,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<(D, Decoder<D>)>, ModelError> {
    let of = devices.len();
    let load = |rank: usize, mut device: D, progress: &mut dyn FnMut(usize, usize)| {
        let decoder = Decoder::load(&mut device, checkpoint, Rank { rank, of }, progress)?;
        Ok((device, decoder))
    };
    std::thread::scope(|scope| {
        let mut devices = devices.into_iter().enumerate();
        let (_, first) = devices.next().expect("one rank at least");
        let others: Vec<_> =
            devices.map(|(rank, device)| scope.spawn(move || load(rank, device, &mut |_, _| ()))).collect();
        let first = load(0, first, progress);
        let others =
            others.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(first).chain(others).collect()
    })
}

#[cfg(test)]
mod tests;
