//! The simulated device: a [`ModelRunner`] without weights, which answers when GPUs would. All above it is real.
//!
//! Owns how long a batch takes (`sim/cost.rs`, or exact timings, `sim/held.rs`) and what is sampled: a printable word
//! drawn by (seed, position), never an end-of-sequence token. Knows no forward pass, no tokenizer and no K/V bytes:
//! pages are numbers, so millions of them cost nothing.
//!
//! Batches run one after another on the simulated device: one is over at `max(submitted, the one before) + its time`. So
//! with two out, what the host does meanwhile is hidden, as on a GPU.
mod clock;
pub mod cost;
mod held;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use minisgl_checkpoint::{ExpertsConfig, ModelConfig};
use minisgl_config::sim::{DEFAULT_PROFILE, SimExperts, SimModel, SimProfile};
use minisgl_config::{DTypeChoice, EngineSettings};
use minisgl_kernels::{RowError, Sampling, Slot, TokenId, Want};

use self::clock::wait_until;
use self::cost::{CostModel, RowCost};
use self::held::{HeldRows, Timings};
use super::capacity::readable;
use super::sampling::Samplers;
use super::{LoadError, Vocabulary};
use crate::batch::{Batch, BatchOutput, Capacity, EngineError, ModelRunner, Row, RowOutput};

/// Logits of one row have at most this many elements (256 MiB): they are made up, and nobody needs more of that.
const MOST_LOGITS: usize = 64 << 20;

/// What is simulated, decided: the profile with a model's shape, and what fits.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// What it is called wherever a figure of it appears: the profile, and exact timings where they replace it.
    pub label: String,
    /// How long batches take.
    pub cost: CostModel,
    /// What the simulated GPUs hold.
    pub capacity: Capacity,
    /// GPUs that share the model.
    pub ranks: usize,
    timings: Option<Timings>,
}

impl Simulation {
    /// What the settings ask for. `config` is `--model`'s own, for profiles without a model; `vocabulary` is how many ids
    /// its tokenizer has.
    ///
    /// # Errors
    /// Unknown profiles, ranks that do not divide the model, memory that does not hold it.
    pub fn new(settings: &EngineSettings, config: Option<&ModelConfig>, vocabulary: usize) -> Result<Self, LoadError> {
        let sim = &settings.sim;
        let setting = |flag: &'static str| move |why: String| LoadError::Setting { flag, why };
        let profile = SimProfile::find(sim.profile.as_deref().unwrap_or(DEFAULT_PROFILE))
            .map_err(|error| setting("sim-profile")(error.to_string()))?;
        if settings.dtype == DTypeChoice::Float32 {
            let why = "float32: a simulated GPU computes in 16 bits: use auto, or a profile of your own";
            return Err(setting("dtype")(why.to_owned()));
        }
        let model = match (profile.model, config) {
            (Some(model), _) => model,
            (None, Some(config)) => shape(config),
            (None, None) => {
                let why = format!("{} is hardware alone: it needs --model's shape", profile.name);
                return Err(setting("sim-profile")(why));
            }
        };
        let ranks = settings.tensor_parallel_size.unwrap_or(profile.gpus);
        let cost = CostModel::new(&profile, model, ranks).map_err(setting("tensor-parallel-size"))?;
        let capacity = capacity(settings, &profile, &cost, Sizes { ranks, vocabulary })?;
        let timings = (sim.ttft.is_some() || sim.itl.is_some())
            .then(|| Timings { ttft: sim.ttft.unwrap_or_default(), itl: sim.itl.unwrap_or_default() });
        Ok(Self { label: label(&profile, ranks, timings), cost, capacity, ranks, timings })
    }

    /// Rows answer at their own times, and no batch takes any.
    pub fn is_exact(&self) -> bool {
        self.timings.is_some()
    }

    /// How long a batch takes on the simulated GPUs.
    pub fn batch_time(&self, batch: &Batch) -> Duration {
        self.cost.batch_time(batch.rows.iter().map(row_cost))
    }
}

/// `4xh200-qwen3-32b`, and what differs from the profile.
fn label(profile: &SimProfile, ranks: usize, timings: Option<Timings>) -> String {
    let mut label = profile.name.clone();
    if ranks != profile.gpus {
        label += &format!(", tp {ranks}");
    }
    if let Some(Timings { ttft, itl }) = timings {
        label += &format!(", exactly ttft {ttft:?}, itl {itl:?}");
    }
    label
}

/// A checkpoint's shape, in 16 bits.
fn shape(config: &ModelConfig) -> SimModel {
    SimModel {
        layers: config.layers,
        hidden_size: config.hidden_size,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        intermediate_size: config.intermediate_size,
        experts: config.experts.as_ref().and_then(|experts| {
            let layers = experts.sparse_layers.iter().filter(|sparse| **sparse).count();
            let ExpertsConfig { count, per_token, intermediate_size, .. } = *experts;
            (layers > 0).then_some(SimExperts { layers, count, per_token, intermediate_size })
        }),
        vocab_size: config.vocab_size,
        context: config.context,
        tied: config.tie_word_embeddings,
        weight_bytes: 2.0,
        kv_bytes: 2.0,
    }
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    ranks: usize,
    /// Ids that the tokenizer has.
    vocabulary: usize,
}

/// As GPU servers do it: a share of all memory, less the weights, is pages.
fn capacity(
    settings: &EngineSettings,
    profile: &SimProfile,
    cost: &CostModel,
    sizes: Sizes,
) -> Result<Capacity, LoadError> {
    let (slots, page_size) = (settings.max_running_requests, settings.page_size());
    assert!(slots > 0 && page_size > 0, "settings are checked where they are read");
    let context = settings.max_seq_len_override.unwrap_or(cost.model().context);
    let memory = profile.gpu.memory_gb * 1e9 * sizes.ranks as f64;
    let left = memory * settings.memory_ratio - cost.weight_bytes();
    let page_bytes = cost.kv_token_bytes() * page_size as f64;
    let pages = match settings.num_pages {
        Some(pages) => pages,
        None => (left / page_bytes).clamp(0.0, f64::from(u32::MAX)) as usize,
    };
    if pages == 0 {
        return Err(LoadError::Memory(format!(
            "simulated {}: {} of memory, of which --memory-ratio {} may be used, do not hold {} of weights and a K/V page \
             of {}: use more GPUs (--tp) or a smaller model",
            profile.name,
            readable(memory as usize),
            settings.memory_ratio,
            readable(cost.weight_bytes() as usize),
            readable(page_bytes as usize),
        )));
    }
    let batch_tokens = settings.max_prefill_length.min(slots.saturating_mul(context)).max(slots);
    // Prompts may hold any id that the tokenizer gives.
    let vocabulary = cost.model().vocab_size.max(sizes.vocabulary);
    let capacity = Capacity { pages, page_size, slots, context, vocabulary, batch_tokens };
    let longest = capacity.longest_sequence();
    if longest < context {
        tracing::warn!("the simulated K/V cache holds sequences of at most {longest} tokens; the context is {context}");
    }
    Ok(capacity)
}

/// What a row costs.
fn row_cost(row: &Row) -> RowCost {
    let tokens = row.tokens.len();
    let logits = match row.want {
        Want::Nothing => 0,
        Want::Sample => 1,
        Want::Scores => tokens,
    };
    RowCost { tokens, start: row.start, logits }
}

/// A batch that is out.
#[derive(Debug)]
struct Out {
    over: Instant,
    output: BatchOutput,
}

/// Runs a [`Simulation`] in real time.
pub(super) struct SimRunner {
    simulation: Simulation,
    words: Vec<TokenId>,
    samplers: Samplers,
    held: Option<HeldRows>,
    /// Oldest first.
    out: VecDeque<Out>,
    /// When the device is free.
    free: Instant,
}

impl SimRunner {
    pub(super) fn new(simulation: Simulation, vocabulary: &Vocabulary) -> Result<Self, LoadError> {
        if vocabulary.words.is_empty() {
            let why = "its tokenizer has no printable token, and a simulated device says nothing else".to_owned();
            return Err(LoadError::Setting { flag: "model", why });
        }
        let slots = simulation.capacity.slots;
        Ok(Self {
            held: simulation.timings.map(|timings| HeldRows::new(timings, slots)),
            simulation,
            words: vocabulary.words.clone(),
            samplers: Samplers::new(slots),
            out: VecDeque::new(),
            free: Instant::now(),
        })
    }

    /// The same for the same sequence, however it was batched or retracted.
    fn token(&self, sampling: &Sampling, position: usize) -> TokenId {
        // Greedy sampling draws nothing.
        let seed = if sampling.temperature == 0.0 || sampling.top_k == 1 { 0 } else { sampling.seed };
        let drawn = mix(mix(seed) ^ position as u64);
        self.words[(drawn % self.words.len() as u64) as usize]
    }

    fn outputs(&self, batch: &Batch) -> Vec<RowOutput> {
        let mut sampled = self.samplers.rows(batch).into_iter();
        let mut output = |row: &Row| {
            if row.want == Want::Nothing {
                return RowOutput::Nothing;
            }
            let sample = sampled.next().expect("a row that wants a token is sampled");
            let token = self.token(sample.sampling, sample.position);
            match row.want {
                Want::Scores => self.scores(row, token),
                _ => RowOutput::Token(token),
            }
        };
        batch.rows.iter().map(&mut output).collect()
    }

    /// Logits that give the token which comes next half of the probability, and all others the rest alike.
    fn scores(&self, row: &Row, token: TokenId) -> RowOutput {
        let (tokens, vocabulary) = (row.tokens.len(), self.simulation.capacity.vocabulary);
        if tokens.saturating_mul(vocabulary) > MOST_LOGITS {
            return RowOutput::Failed(RowError::Unsupported("a simulated device makes up no scores of so many tokens"));
        }
        let mut logits = vec![0.0; tokens * vocabulary];
        let known = match &row.tokens {
            crate::batch::RowTokens::Chunk(tokens) => &tokens[1..],
            crate::batch::RowTokens::LastSampled => &[],
        };
        let half = (vocabulary as f32).ln();
        for (row, next) in logits.chunks_exact_mut(vocabulary).zip(known.iter().chain([&token])) {
            row[*next as usize] = half;
        }
        RowOutput::Scores { logits, token }
    }
}

/// SplitMix64's finaliser: neighbouring inputs give unrelated outputs.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl ModelRunner for SimRunner {
    fn capacity(&self) -> Capacity {
        self.simulation.capacity
    }

    fn device(&self) -> String {
        format!("SIMULATED {}", self.simulation.label)
    }

    fn simulated(&self) -> Option<String> {
        Some(self.simulation.label.clone())
    }

    fn submit(&mut self, batch: Batch) -> Result<(), EngineError> {
        let now = Instant::now();
        self.samplers.apply(&batch);
        let mut rows = self.outputs(&batch);
        let elapsed = match &mut self.held {
            None => self.simulation.batch_time(&batch),
            Some(held) => {
                for (row, output) in batch.rows.iter().zip(&mut rows) {
                    if row.begin.is_some() {
                        held.begin(row.slot, now);
                    }
                    if row.want != Want::Nothing {
                        *output = held.hold(row.slot, std::mem::replace(output, RowOutput::Nothing), now);
                    }
                }
                Duration::ZERO
            }
        };
        self.free = self.free.max(now) + elapsed;
        self.out.push_back(Out { over: self.free, output: BatchOutput { rows, elapsed } });
        Ok(())
    }

    fn collect(&mut self, timeout: Duration) -> Result<Option<BatchOutput>, EngineError> {
        let last = Instant::now() + timeout;
        let Some(oldest) = self.out.front() else { panic!("no batch is out") };
        wait_until(oldest.over.min(last));
        if oldest.over > last {
            return Ok(None);
        }
        Ok(self.out.pop_front().map(|out| out.output))
    }

    fn held_until(&self) -> Option<Instant> {
        self.held.as_ref().and_then(HeldRows::first)
    }

    fn take_due(&mut self) -> Vec<(Slot, RowOutput)> {
        self.held.as_mut().map(|held| held.take_due(Instant::now())).unwrap_or_default()
    }
}
