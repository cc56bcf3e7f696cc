//! Sizing without hardware: what latency a load would see on simulated GPUs, and the highest rate that meets a bound on it.
//!
//! Owns virtual time: the scheduler, prefix cache and page accounting are the server's own, and an hour of load takes seconds,
//! because nobody waits. Knows no trace, no HTTP and no tokenizer: HTTP, tokenisation and the scheduler's own time are not
//! in its figures, which are simulated all of them.
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use minisgl_config::EngineSettings;
use minisgl_kernels::{Sampling, TokenId, Want};

use crate::batch::{Batch, BatchOutput, RowOutput};
use crate::engine::sim::Simulation;
use crate::request::SeqId;
use crate::scheduler::{NewSequence, Scheduler, SchedulerConfig, What};

mod search;
pub use search::{Point, Search, Sizing, find_rate};

/// One request of a load.
#[derive(Clone, Debug)]
pub struct Load {
    /// When it arrives, in seconds of the load's own clock. A load is in this order.
    pub at_s: f64,
    /// Its prompt, at least one token; equal beginnings hit the prefix cache. Ids are below 2^31.
    pub prompt: Arc<[TokenId]>,
    /// Tokens that it generates, at least 1.
    pub output_tokens: usize,
}

/// What a request would have seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Arrival to first token, seconds.
    pub ttft_s: f64,
    /// Mean time of a token after the first, seconds; `None` for one token.
    pub tpot_s: Option<f64>,
    /// Arrival to last token, seconds.
    pub e2e_s: f64,
    /// Prompt tokens that the prefix cache held.
    pub cached_tokens: usize,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// It ended well.
    Served(Seen),
    /// More tokens than context or cache hold: a 400.
    TooLong,
    /// No place in the queue: a 429.
    QueueFull,
}

/// Where the server stood at an instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Seconds of virtual time.
    pub at_s: f64,
    /// Sequences that ran.
    pub running: usize,
    /// Sequences that waited.
    pub waiting: usize,
    /// Share of the pages that sequences used.
    pub pages_used: f64,
}

/// A load's whole course.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// A request each, in the load's order.
    pub fates: Vec<Fate>,
    /// At most [`MOST_SAMPLES`], evenly over the batches.
    pub samples: Vec<Sample>,
    /// When the last batch was over, seconds.
    pub end_s: f64,
    /// Batches that ran.
    pub batches: usize,
    /// Sequences retracted because pages ran out.
    pub preemptions: u64,
}

/// Samples that a [`Course`] keeps at most.
pub const MOST_SAMPLES: usize = 2048;

/// Generated ids have this bit, so that no prompt happens to go on as an answer did.
const GENERATED: TokenId = 1 << 31;

impl Course {
    /// Those that were served.
    pub fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.fates.iter().filter_map(|fate| if let Fate::Served(seen) = fate { Some(seen) } else { None })
    }
}

/// Runs a load in virtual time on one replica. `rate_multiple` divides its times.
///
/// # Panics
/// If the load is not in order of time, or a request is not what [`Load`] says.
pub fn simulate(simulation: &Simulation, settings: &EngineSettings, load: &[Load], rate_multiple: f64) -> Course {
    let mut run = Run::new(simulation, settings, load.len());
    let mut coming = load.iter().enumerate().map(|(id, load)| (id, load.at_s / rate_multiple, load)).peekable();
    loop {
        while let Some((id, at_s, load)) = coming.next_if(|(_, at_s, _)| *at_s <= run.now_s) {
            run.admit(id, at_s, load);
        }
        run.plan();
        match (run.commit(), coming.peek()) {
            (true, _) => {}
            (false, Some(&(_, at_s, _))) => run.now_s = at_s.max(run.now_s),
            (false, None) => break,
        }
    }
    assert!(run.scheduler.is_idle(), "nothing comes any more, and something waits");
    let preemptions = run.scheduler.stats().preemptions;
    let Run { fates, samples, now_s, batches, .. } = run;
    let fates = fates.into_iter().map(|fate| fate.expect("each request has come to its end")).collect();
    Course { fates, samples, end_s: now_s, batches, preemptions }
}

/// A sequence on its way.
struct Open {
    at_s: f64,
    first_s: Option<f64>,
    tokens: usize,
    cached_tokens: usize,
}

struct Run<'a> {
    simulation: &'a Simulation,
    scheduler: Scheduler,
    /// Sequences that may be there at once.
    places: usize,
    sampling: Sampling,
    /// By slot: whose rows these are.
    seeds: Vec<u64>,
    /// When each is over, seconds; oldest first.
    out: VecDeque<(f64, BatchOutput)>,
    now_s: f64,
    open: HashMap<usize, Open>,
    fates: Vec<Option<Fate>>,
    batches: usize,
    samples: Vec<Sample>,
    /// Every so many batches one is kept.
    stride: usize,
}

impl<'a> Run<'a> {
    fn new(simulation: &'a Simulation, settings: &EngineSettings, requests: usize) -> Self {
        let capacity = simulation.capacity;
        let batches_out = if settings.overlap { 2 } else { 1 };
        let config = SchedulerConfig {
            capacity,
            eos: Vec::new(),
            cache: settings.cache_type,
            batches_out,
            max_decode_gap: settings.max_decode_gap,
        };
        Self {
            simulation,
            scheduler: Scheduler::new(config),
            places: capacity.slots + settings.max_queued_requests,
            sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 },
            seeds: vec![0; capacity.slots],
            out: VecDeque::new(),
            now_s: 0.0,
            open: HashMap::new(),
            fates: vec![None; requests],
            batches: 0,
            samples: Vec::new(),
            stride: 1,
        }
    }

    fn admit(&mut self, id: usize, at_s: f64, load: &Load) {
        let (prompt, output) = (load.prompt.len(), load.output_tokens);
        assert!(prompt > 0 && output > 0, "request {id} has {prompt} tokens of prompt, {output} of output");
        if prompt.saturating_add(output) > self.simulation.capacity.longest_sequence() {
            self.fates[id] = Some(Fate::TooLong);
            return;
        }
        if self.open.len() >= self.places {
            self.fates[id] = Some(Fate::QueueFull);
            return;
        }
        self.open.insert(id, Open { at_s, first_s: None, tokens: 0, cached_tokens: 0 });
        self.scheduler.admit(NewSequence {
            id: SeqId(id as u64),
            prompt: load.prompt.clone(),
            max_tokens: output,
            sampling: Arc::new(Sampling { seed: id as u64, ..self.sampling.clone() }),
            ignore_eos: true,
            leader: None,
        });
    }

    fn plan(&mut self) {
        while let Some(batch) = self.scheduler.plan() {
            let elapsed = self.simulation.batch_time(&batch);
            let free_s = self.out.back().map_or(self.now_s, |(over_s, _)| over_s.max(self.now_s));
            let rows = self.outputs(&batch);
            self.out.push_back((free_s + elapsed.as_secs_f64(), BatchOutput { rows, elapsed }));
        }
        self.hear();
    }

    fn outputs(&mut self, batch: &Batch) -> Vec<RowOutput> {
        let output = |row: &crate::batch::Row| {
            let seed = &mut self.seeds[row.slot.0 as usize];
            if let Some(sampling) = &row.begin {
                *seed = sampling.seed;
            }
            match row.want {
                Want::Nothing => RowOutput::Nothing,
                // Whose and where: a prime apart, so that sequences differ at once.
                _ => {
                    let id = seed.wrapping_mul(1_000_003).wrapping_add((row.start + row.tokens.len()) as u64);
                    RowOutput::Token(id as TokenId | GENERATED)
                }
            }
        };
        batch.rows.iter().map(output).collect()
    }

    /// Takes the oldest batch that is out; false where none is.
    fn commit(&mut self) -> bool {
        let Some((over_s, output)) = self.out.pop_front() else { return false };
        self.now_s = over_s.max(self.now_s);
        self.scheduler.commit(output);
        self.hear();
        self.batches += 1;
        self.sample();
        true
    }

    fn sample(&mut self) {
        if !self.batches.is_multiple_of(self.stride) {
            return;
        }
        let stats = self.scheduler.stats();
        let used = (stats.pages_total - stats.pages_available) as f64 / stats.pages_total.max(1) as f64;
        let (running, waiting) = (stats.running, stats.waiting);
        self.samples.push(Sample { at_s: self.now_s, running, waiting, pages_used: used });
        if self.samples.len() == MOST_SAMPLES {
            // The later of each two.
            let mut later = true;
            self.samples.retain(|_| {
                later = !later;
                later
            });
            self.stride *= 2;
        }
    }

    fn hear(&mut self) {
        for notice in self.scheduler.take_notices() {
            let id = notice.id.0 as usize;
            let open = self.open.get_mut(&id);
            match notice.what {
                What::Started { cached_tokens } => open.expect("it was admitted").cached_tokens = cached_tokens,
                What::Token(_) => {
                    let open = open.expect("it was admitted");
                    open.first_s.get_or_insert(self.now_s);
                    open.tokens += 1;
                }
                What::Finished(_) => {
                    let open = open.expect("it was admitted");
                    let first_s = open.first_s.expect("it has a token");
                    let tpot_s = (open.tokens > 1).then(|| (self.now_s - first_s) / (open.tokens - 1) as f64);
                    let (ttft_s, e2e_s) = (first_s - open.at_s, self.now_s - open.at_s);
                    let seen = Seen { ttft_s, tpot_s, e2e_s, cached_tokens: open.cached_tokens };
                    self.fates[id] = Some(Fate::Served(seen));
                }
                What::Failed(failure) => panic!("a simulated row fails: {failure:?}"),
                What::Left => drop(self.open.remove(&id)),
            }
        }
    }
}

/// Bounds on what a request sees; what is not set is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slo {
    /// Arrival to first token.
    pub ttft: Option<Duration>,
    /// Mean time of a token after the first.
    pub tpot: Option<Duration>,
    /// Arrival to last token.
    pub e2e: Option<Duration>,
}

impl Slo {
    /// Whether a request kept within all of them. One that was refused did not.
    pub fn is_met(&self, fate: &Fate) -> bool {
        let Fate::Served(seen) = fate else { return false };
        let within = |bound: Option<Duration>, seen_s: f64| bound.is_none_or(|bound| seen_s <= bound.as_secs_f64());
        within(self.ttft, seen.ttft_s)
            && seen.tpot_s.is_none_or(|tpot_s| within(self.tpot, tpot_s))
            && within(self.e2e, seen.e2e_s)
    }

    /// The share of requests that kept within all of them.
    pub fn share_met(&self, course: &Course) -> f64 {
        let met = course.fates.iter().filter(|fate| self.is_met(fate)).count();
        met as f64 / course.fates.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests;
