//! From settings to the requests of each run: which, how long, when.
//!
//! Owns what a workload means, in two steps. [`plan`] reads traces and files and makes no connection; [`Planned::settle`]
//! counts what only a tokenizer can and fits everything to the model that is served. A run is then a function of the
//! settings, its load and its repeat: the same command makes the same requests. How a prompt is made is not known here.
//!
//! ```text
//!   settings ─ plan ─▶ Planned ─ settle (tokenizer, context length) ─▶ Settled ── run(load, repeat) ─▶ RunPlan
//!                traced.rs, drawn.rs                                        schedule.rs
//! ```
mod digest;
mod drawn;
mod schedule;
mod traced;

use std::time::Duration;

use minisgl_config::loadgen::LoadgenSettings;
use minisgl_config::loadgen::settings::{Arrival, Cancel, Endpoint, LengthRules, Load, Source};

pub(crate) use digest::digest;

use crate::ConsoleOptions;
use crate::draw;
use crate::error::LoadgenError;
use crate::lengths::{Clamped, LEAST_MODEL_LEN, Lengths};
use crate::prompts::Prompts;
use crate::request::{Places, Prompt, Request, RunPlan, Start};
use crate::rng::SplitMix;

/// Most requests of one run.
pub(crate) const MOST_REQUESTS: usize = 10_000_000;

/// Marks the draws of cancellations apart from all others.
const CANCELLATIONS: u64 = u64::MAX - 2;

/// What the report says of a workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AboutWorkload {
    /// In a few words.
    pub(crate) name: String,
    /// What prompts are made of, and what is fresh in each run.
    pub(crate) prompts: String,
    /// Names of the length classes, by [`Request::class`]; empty where there is one.
    pub(crate) classes: Vec<String>,
    /// Of a trace.
    pub(crate) trace: Option<AboutTrace>,
}

/// What the report says of a trace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AboutTrace {
    /// Its form, as its content showed.
    pub(crate) format: String,
    /// Of the file, in hexadecimal.
    pub(crate) sha256: String,
    /// Requests that are replayed.
    pub(crate) requests: usize,
    /// Requests that the trace records as failed: not replayed.
    pub(crate) failed: usize,
    /// Share of prompt tokens that a cache without bounds would have had, one request after another; None where prompts do
    /// not follow the trace's ids.
    pub(crate) ideal_hit_rate: Option<f64>,
    /// The same in whole pages of 16 tokens.
    pub(crate) ideal_hit_rate_page_16: Option<f64>,
}

/// A workload that was read, whose texts are not counted yet.
pub(crate) struct Planned {
    about: AboutWorkload,
    common: Common,
    source: Planning,
}

enum Planning {
    Traced(traced::Reading),
    Drawn(drawn::Drawn),
}

/// What holds for any source.
#[derive(Clone, Debug)]
struct Common {
    seed: u64,
    endpoint: Endpoint,
    rules: LengthRules,
    until: Option<Duration>,
    cancel: Option<Cancel>,
    max_model_len: Option<usize>,
}

/// A workload of which every run can be made.
pub(crate) struct Settled {
    /// For the report.
    pub(crate) about: AboutWorkload,
    common: Common,
    source: SettledSource,
}

enum SettledSource {
    Traced(traced::Traced),
    Drawn(drawn::Drawn),
}

/// Reads what `settings` ask for; every fault of a file is found here, before a connection is made.
pub(crate) fn plan(settings: &LoadgenSettings, console: ConsoleOptions) -> Result<Planned, LoadgenError> {
    let workload = &settings.workload;
    let common = Common {
        seed: settings.seed,
        endpoint: settings.server.endpoint,
        rules: workload.lengths,
        until: workload.duration,
        cancel: workload.cancel,
        max_model_len: None,
    };
    let (about, source) = match &workload.source {
        Source::Trace { .. } => {
            let (about, reading) = traced::read(settings, console)?;
            (about, Planning::Traced(reading))
        }
        Source::Drawn { mix, shared_prefix, num_requests } => {
            let drawn = drawn::Drawn::open(mix, *shared_prefix, *num_requests, workload.prompts)
                .map_err(LoadgenError::Workload)?;
            (drawn.about(&common.rules), Planning::Drawn(drawn))
        }
    };
    if let Some((preset, flag)) = settings.preset.and_then(|preset| Some((preset, preset.server_flag()?))) {
        console.note(&format!("--preset {} is meant for a server with {flag}", preset.name()));
    }
    Ok(Planned { about, common, source })
}

impl Planned {
    /// Whether prompts cannot be had without a tokenizer: texts that are sent as they are need none.
    pub(crate) fn needs_tokenizer(&self) -> bool {
        match &self.source {
            Planning::Traced(reading) => reading.needs_tokenizer(),
            Planning::Drawn(_) => true,
        }
    }

    /// Counts texts by the tokenizer and fits every request into a model that holds `max_model_len` tokens.
    pub(crate) fn settle(
        mut self,
        prompts: &Prompts,
        max_model_len: Option<usize>,
        console: ConsoleOptions,
    ) -> Result<Settled, LoadgenError> {
        if let Some(max_model_len) = max_model_len.filter(|&n| n < LEAST_MODEL_LEN) {
            return Err(LoadgenError::TooSmall { max_model_len, least: LEAST_MODEL_LEN });
        }
        self.common.max_model_len = max_model_len;
        let source = match self.source {
            Planning::Traced(reading) => {
                SettledSource::Traced(reading.settle(&self.common, prompts, &mut self.about, console)?)
            }
            Planning::Drawn(drawn) => SettledSource::Drawn(drawn),
        };
        Ok(Settled { about: self.about, common: self.common, source })
    }
}

impl Settled {
    /// The requests of one run under `load`. Repeats differ by their arrivals and cancellations, points by their load only;
    /// what tokens the prompts are of, the run's number says (see `bodies.rs`).
    pub(crate) fn run(&self, load: &Load, repeat: u64) -> Result<RunPlan, LoadgenError> {
        let common = &self.common;
        let mut plan = match &self.source {
            SettledSource::Traced(traced) => schedule::traced(traced, common, load, repeat),
            SettledSource::Drawn(drawn) => schedule::drawn(drawn, common, load, repeat)?,
        };
        self.cancel(&mut plan.requests, 0, repeat);
        Ok(plan)
    }

    /// `n` requests more of a plan that is [`RunPlan::endless`], from the place `first` on; none of any other.
    pub(crate) fn further(&self, first: usize, n: usize, repeat: u64) -> Vec<Request> {
        let SettledSource::Drawn(drawn) = &self.source else { return Vec::new() };
        let mut requests: Vec<Request> = (first..first + n).map(|index| drawn.request(&self.common, index)).collect();
        self.common.fit(&mut requests);
        self.cancel(&mut requests, first, repeat);
        requests
    }

    /// Draws which clients leave early.
    fn cancel(&self, requests: &mut [Request], first: usize, repeat: u64) {
        let Some(cancel) = self.common.cancel else { return };
        for (index, request) in requests.iter_mut().enumerate() {
            let mut rng = SplitMix::of(self.common.seed, &[CANCELLATIONS, repeat, (first + index) as u64]);
            request.cancel_after = (draw::uniform(&mut rng) < cancel.rate).then_some(cancel.after);
        }
    }

    /// `n` requests before all others, of the lengths of the workload's first and of prompts that nothing shares.
    pub(crate) fn warm_up(&self, n: usize) -> RunPlan {
        /// In flight while warming up: more would be a load of its own.
        const AT_ONCE: usize = 8;
        let lengths = |index| match &self.source {
            SettledSource::Traced(traced) => traced.lengths(index),
            SettledSource::Drawn(drawn) => drawn.request(&self.common, index).lengths,
        };
        let known = |lengths: Lengths| Lengths { input: lengths.input.max(1), output: lengths.output.max(1) };
        self.apart((0..n).map(|index| known(lengths(index))).collect(), n.min(AT_ONCE))
    }

    /// One small request that must succeed before many are sent.
    pub(crate) fn connection_test(&self) -> RunPlan {
        self.apart(vec![Lengths { input: 100, output: 2 }], 1)
    }

    /// Requests beside the workload's own.
    fn apart(&self, lengths: Vec<Lengths>, places: usize) -> RunPlan {
        let mut requests: Vec<Request> = lengths.into_iter().map(|lengths| request(lengths, Prompt::Random)).collect();
        let clamped = self.common.fit(&mut requests);
        let places = Some(Places { count: places.max(1), ramp: Duration::ZERO });
        RunPlan { requests, places, until: None, clamped, endless: false }
    }
}

impl Common {
    fn fit(&self, requests: &mut [Request]) -> Clamped {
        self.max_model_len.map_or(Clamped::default(), |most| crate::lengths::fit(requests, most))
    }
}

/// A request of its own, to be sent when a place is free.
fn request(lengths: Lengths, prompt: Prompt) -> Request {
    Request { start: Start::WhenFree, lengths, ends_itself: false, prompt, parent: None, cancel_after: None, class: 0 }
}

/// A load in a few words, for the report.
pub(crate) fn described(load: &Load) -> String {
    let ramped = |ramp: Duration| match ramp.is_zero() {
        true => String::new(),
        false => format!(", ramp of {} s", ramp.as_secs_f64()),
    };
    match *load {
        Load::TraceTimes { scale } => format!("trace times x {scale}"),
        Load::Closed { concurrency, ramp } => format!("closed loop of {concurrency}{}", ramped(ramp)),
        Load::Rate { per_s, arrival, ramp } => {
            let arrival = match arrival {
                Arrival::Constant => "constant".to_owned(),
                Arrival::Poisson => "poisson".to_owned(),
                Arrival::Gamma { burstiness } => format!("gamma, burstiness {burstiness}"),
            };
            format!("{per_s} requests/s, {arrival}{}", ramped(ramp))
        }
    }
}

/// What `rules` change, in a few words; nothing where they change nothing.
fn changed(rules: &LengthRules) -> String {
    let one = |what, scale: f64, max: Option<usize>| {
        let scaled = if scale == 1.0 { String::new() } else { format!(" x {scale}") };
        let capped = max.map_or(String::new(), |max| format!(" at most {max}"));
        if scaled.is_empty() && capped.is_empty() { String::new() } else { format!(", {what}{scaled}{capped}") }
    };
    one("inputs", rules.input_scale, rules.max_input) + &one("outputs", rules.output_scale, rules.max_output)
}

#[cfg(test)]
mod tests;
