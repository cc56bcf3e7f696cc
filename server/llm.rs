//! [`Llm`], the one way in: submit a request, get a [`Generation`] for each of its choices.
//!
//! Owns the permits, the tokenizer workers and the scheduler's thread. http, chat, bench and your code stand on it alike.
//!
//! ```text
//!   generation.rs stop.rs timeline.rs   the caller's end: text, stop strings, times
//!   params.rs generate.rs               sampling parameters; many prompts without an async runtime
//!   load.rs                             from a model's name to a running Llm
//! ```
//! Does not know HTTP, nor what the scheduler decides.
mod generate;
mod generation;
mod load;
mod params;
mod stop;
mod timeline;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use minisgl_config::CacheType;
use minisgl_kernels::TokenId;
use minisgl_tokenizer::{DetokenizerOptions, Tokenizer};

use crate::batch::{Capacity, ModelRunner};
use crate::health::{Health, Phase};
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::request::{Permit, Permits, Prompt, Request, SeqId, SequenceHandle, Submission};
use crate::scheduler::run::SchedulerLoop;
use crate::scheduler::{self, Scheduler, SchedulerConfig};

pub use generate::{Completion, GenerateError, GenerateStream, Params, Prompts};
pub use generation::{Accepted, Generation, NotAccepted, TextEvent, Usage};
pub use load::{LoadError, LoadOptions};
pub use params::{BadParam, MAX_STOP_BYTES, MAX_STOPS, SamplingParams};

use generation::GenerationParts;
use timeline::Timeline;

/// A model that generates. Dropping it waits for what runs, as [`shutdown`](Self::shutdown) does.
#[derive(Debug)]
pub struct Llm {
    /// The front of the pipeline. Dropping it closes the rest, front to back.
    submissions: Option<flume::Sender<Submission>>,
    /// In the order of the pipeline.
    threads: Vec<JoinHandle<()>>,
    cancel: Arc<AtomicBool>,
    next_id: AtomicU64,
    permits: Permits,
    tokenizer: Tokenizer,
    capacity: Capacity,
    device: String,
    simulated: Option<String>,
    model: ModelInfo,
    defaults: SamplingParams,
    health: Health,
    metrics: Metrics,
}

/// Which model it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name that requests use.
    pub id: String,
    /// Where its files are: a path, or a hub id.
    pub root: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

/// What an [`Llm`] is made of.
pub struct LlmParts {
    /// Computes.
    pub runner: Box<dyn ModelRunner>,
    /// The model's own.
    pub tokenizer: Tokenizer,
    /// Tokens that end a sequence.
    pub eos: Vec<TokenId>,
    /// What a request that says nothing gets.
    pub defaults: SamplingParams,
    /// Which model it is.
    pub model: ModelInfo,
    /// Queues, cache and threads.
    pub options: LlmOptions,
    /// Becomes `Serving` when all threads run.
    pub health: Health,
    /// Told what happens.
    pub metrics: Metrics,
}

/// Queues, cache and threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlmOptions {
    /// Accepted sequences that may wait beyond the engine's slots.
    pub max_queued: usize,
    /// Whether prefixes are kept.
    pub cache: CacheType,
    /// Plan the next batch while one runs.
    pub overlap: bool,
    /// See [`SchedulerConfig::max_decode_gap`].
    pub max_decode_gap: f64,
    /// Tokenizer workers; 0 is automatic.
    pub tokenizers: usize,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// All permits are taken.
    #[error("the queue is full: try again when a sequence has ended")]
    QueueFull,
    /// More sequences at once than there are permits.
    #[error("{asked} sequences at once are more than this server takes, which is {most}")]
    TooMany {
        /// How many sequences the request has: choices, times prompts.
        asked: usize,
        /// How many permits there are.
        most: usize,
    },
    /// It is about to end.
    #[error("the server is draining")]
    Draining,
    /// The engine is gone.
    #[error("the engine has stopped")]
    Failed,
}

impl Llm {
    /// Starts the threads. The engine has its own already.
    pub fn start(parts: LlmParts) -> Self {
        let LlmParts { runner, tokenizer, eos, defaults, model, options, health, metrics } = parts;
        let (capacity, device, simulated) = (runner.capacity(), runner.device(), runner.simulated());
        metrics.set_capacity(&capacity);
        if let Some(profile) = &simulated {
            metrics.set_simulated(profile);
        }
        let cancel = Arc::new(AtomicBool::new(false));
        // Both queues hold at most what has a permit, so neither needs a bound of its own.
        let (submissions, submitted) = flume::unbounded();
        let (admissions, inbox) = flume::unbounded();
        let intake = Intake { tokenizer: tokenizer.clone(), capacity, admissions };
        let mut threads = Vec::new();
        for worker in 0..workers(options.tokenizers) {
            let (intake, submitted) = (intake.clone(), submitted.clone());
            threads.push(spawn(format!("tokenizer-{worker}"), move || intake.run(&submitted)));
        }
        drop(intake);
        let LlmOptions { cache, max_decode_gap, .. } = options;
        let batches_out = if options.overlap { 2 } else { 1 };
        let config = SchedulerConfig { capacity, eos, cache, batches_out, max_decode_gap };
        let parts = SchedulerLoop {
            scheduler: Scheduler::new(config),
            runner,
            inbox,
            cancel: cancel.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
        };
        health.tick();
        threads.push(spawn("scheduler".into(), move || scheduler::run::run(parts)));
        health.advance(Phase::Serving);
        Self {
            submissions: Some(submissions),
            threads,
            cancel,
            next_id: AtomicU64::new(0),
            permits: Permits::new(capacity.slots + options.max_queued),
            tokenizer,
            capacity,
            device,
            simulated,
            model,
            defaults,
            health,
            metrics,
        }
    }

    /// A generation for each choice, or why not: never waits.
    pub fn submit(&self, request: Request) -> Result<Vec<Generation>, SubmitError> {
        let mut generations = self.submit_all(vec![request], Instant::now())?;
        Ok(generations.pop().expect("one request was submitted"))
    }

    /// Several requests, all or none: never waits. `head` is when they were asked for, the start of their times.
    pub fn submit_all(&self, requests: Vec<Request>, head: Instant) -> Result<Vec<Vec<Generation>>, SubmitError> {
        let asked = requests.iter().fold(0usize, |sum, request| sum.saturating_add(request.n));
        self.check_fits(asked)?;
        let mut permits = self.permits.try_acquire(asked).ok_or(SubmitError::QueueFull)?;
        requests
            .into_iter()
            .map(|request| {
                let own = permits.split_off(permits.len() - request.n);
                self.submit_with(request, own, head)
            })
            .collect()
    }

    /// As [`submit`](Self::submit), but waits for permits: for offline use, on a thread that may block.
    pub fn submit_waiting(&self, request: Request) -> Result<Vec<Generation>, SubmitError> {
        let head = Instant::now();
        self.check_fits(request.n)?;
        let permits = self.permits.acquire(request.n);
        self.submit_with(request, permits, head)
    }

    fn check_fits(&self, asked: usize) -> Result<(), SubmitError> {
        let most = self.permits.total();
        if asked > most { Err(SubmitError::TooMany { asked, most }) } else { Ok(()) }
    }

    /// `permits` has one for each choice.
    fn submit_with(
        &self,
        request: Request,
        permits: Vec<Permit>,
        head: Instant,
    ) -> Result<Vec<Generation>, SubmitError> {
        assert!(request.n > 0 && permits.len() == request.n, "a permit for each choice, and at least one");
        match self.health.phase() {
            Phase::Loading | Phase::Serving => {}
            Phase::Draining => return Err(SubmitError::Draining),
            Phase::Failed => return Err(SubmitError::Failed),
        }
        let (sequences, generations) = permits
            .into_iter()
            .map(|permit| {
                let (events, received) = flume::unbounded();
                let id = SeqId(self.next_id.fetch_add(1, Ordering::Relaxed));
                let parts = GenerationParts {
                    detokenizer: self.tokenizer.detokenizer(DetokenizerOptions { skip_special: true }),
                    continues_prompt: !matches!(request.prompt, Prompt::Chat(_)),
                    stop: &request.stop,
                    timeline: Timeline::new(self.metrics.clone(), head),
                };
                (SequenceHandle { id, events, permit }, Generation::new(received, parts))
            })
            .unzip();
        let submissions = self.submissions.as_ref().expect("open until shutdown");
        // Fails only where every worker is gone: dropping the handles then says so to the generations.
        let _ = submissions.send(Submission { request, sequences });
        Ok(generations)
    }

    /// Closes the pipeline front to back and joins its threads. What was accepted ends first: a sequence whose
    /// [`Generation`] is dropped at once, the others by themselves.
    pub fn shutdown(self) {
        drop(self);
    }

    /// As [`shutdown`](Self::shutdown), but what runs fails at once.
    pub fn cancel(self) {
        self.cancel.store(true, Ordering::Release);
        drop(self);
    }

    /// What the engine holds.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// The device in words.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The profile, where no device computes and figures are a simulation's.
    pub fn simulated(&self) -> Option<&str> {
        self.simulated.as_deref()
    }

    /// Which model it is.
    pub fn model(&self) -> &ModelInfo {
        &self.model
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What a request that says nothing gets: the model's own values, or the server's.
    pub fn defaults(&self) -> &SamplingParams {
        &self.defaults
    }

    /// The sequences that may be there at once.
    pub fn permits(&self) -> &Permits {
        &self.permits
    }

    /// Whether it is ready.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// How it is doing.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Llm {
    fn drop(&mut self) {
        self.submissions = None;
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!("thread {name} panicked");
            }
        }
    }
}

/// Two by default, so that one long prompt does not hold up the short ones behind it.
fn workers(asked: usize) -> usize {
    match asked {
        0 => (std::thread::available_parallelism().map_or(1, usize::from) / 4).clamp(2, 8),
        asked => asked,
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name).spawn(work).expect("a thread can be started")
}
