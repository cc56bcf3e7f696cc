//! What `minisgl loadgen` runs with, resolved: plain data that is consistent, whatever was typed.
//!
//! Owns the types and their defaults. Reads no trace and makes no connection: what a workload means is the load
//! generator's to know; how it is spelled, `args.rs`'s.
use std::path::PathBuf;
use std::time::Duration;

use super::{PublicTrace, ServerUrl};

/// Everything of one `minisgl loadgen` command.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Who is asked, and how.
    pub server: Server,
    /// What is asked.
    pub workload: Workload,
    /// When: a run for each point (`--sweep`, or several values of one flag); never empty.
    pub points: Vec<Load>,
    /// How the points are run.
    pub runs: Runs,
    /// Of prompts, lengths, arrivals and cancellations: the same command makes the same requests.
    pub seed: u64,
    /// What is printed and written.
    pub report: Report,
    /// The experiment that was asked for by name, if any.
    pub preset: Option<Preset>,
}

/// `--preset`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// mini-sglang's bench_qwen.py: the Qwen trace (or --trace), its first 1,000 requests, prompts that are prefixes of one
    /// text, at the time scales 0.4, 0.5, 0.6, 0.7, 0.8 and 1.6; meant for a server with `--cache naive`
    BenchQwen,
    /// mini-sglang's bench_simple.py: a connection test, then 64 requests at once with prompts of 1-8192 and outputs of
    /// 16-1024 tokens
    BenchSimple,
}

impl Preset {
    /// Its name, as `--preset` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BenchQwen => "bench-qwen",
            Self::BenchSimple => "bench-simple",
        }
    }

    /// The flag of `minisgl serve` that the experiment was meant for: without it, prompts that share their beginning are
    /// served from the prefix cache.
    pub fn server_flag(self) -> Option<&'static str> {
        match self {
            Self::BenchQwen => Some("--cache naive"),
            Self::BenchSimple => None,
        }
    }
}

/// The server and the requests' form.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where it is.
    pub url: ServerUrl,
    /// Which of its endpoints is measured.
    pub endpoint: Endpoint,
    /// The model to ask for; `None` is the first that the server lists.
    pub model: Option<String>,
    /// Alias, path or hub id of the tokenizer; `None` is the server's `root`, where it can be read.
    pub tokenizer: Option<String>,
    /// Sent as `Authorization: Bearer …`. Never printed or recorded.
    pub api_key: Option<String>,
    /// Further headers, checked: a name, and a value without line ends.
    pub headers: Vec<(String, String)>,
    /// PEM file of the authorities that are trusted over https; `None` are the public ones.
    pub ca_cert: Option<CaCert>,
    /// Members added to every body, replacing what would stand there.
    pub extra_body: serde_json::Map<String, serde_json::Value>,
    /// Leave out what OpenAI's own API refuses (`ignore_eos`).
    pub strict_openai: bool,
    /// Whether answers go on to the length asked for (`ignore_eos`).
    pub ignore_eos: bool,
    /// Sampling temperature.
    pub temperature: f64,
    /// When a request has failed.
    pub timeout: Duration,
    /// Whether a connection carries further requests when its answer is over.
    pub keep_alive: bool,
    /// Threads that read answers; 0 is automatic.
    pub threads: usize,
}

/// `--ca-cert FILE`, or the environment's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaCert {
    /// The file.
    pub path: PathBuf,
    /// What named it.
    pub named_by: &'static str,
}

/// `--endpoint`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    #[default]
    Chat,
    /// `/v1/completions`, with token ids where the prompts are tokens.
    Completions,
    /// mini-sglang's `/generate`.
    Generate,
}

impl Endpoint {
    /// Its path at a server.
    pub fn path(self, url: &ServerUrl) -> String {
        match self {
            Self::Chat => url.path("chat/completions"),
            Self::Completions => url.path("completions"),
            Self::Generate => format!("{}/generate", url.prefix),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Where requests come from.
    pub source: Source,
    /// No request begins later than this after the run's start. Always there where drawn requests have no number.
    pub duration: Option<Duration>,
    /// What becomes of their lengths.
    pub lengths: LengthRules,
    /// What prompts are made of; `None` is automatic: the trace's ids or text where it has any, else random.
    pub prompts: Option<PromptKind>,
    /// What becomes of conversations.
    pub turns: Turns,
    /// Clients that leave early.
    pub cancel: Option<Cancel>,
}

/// Where requests come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A trace, or its first `limit` requests.
    Trace {
        /// Where it is.
        file: TraceSource,
        /// First requests only.
        limit: Option<usize>,
    },
    /// Drawn requests.
    Drawn {
        /// Classes by weight (`--length-mix`); never empty.
        mix: Vec<LengthClass>,
        /// Prompts in groups that share a beginning.
        shared_prefix: Option<SharedPrefix>,
        /// How many, at most; `None`: as many as begin within the workload's duration.
        num_requests: Option<usize>,
    },
}

/// Where a trace is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceSource {
    /// A file of the user's.
    File(PathBuf),
    /// [`super::SHIPPED_TRACE`].
    Shipped,
    /// The public trace of [`PublicTrace::qwen`], downloaded once.
    Public(PublicTrace),
}

/// One class of drawn requests.
#[derive(Clone, Debug, PartialEq)]
pub struct LengthClass {
    /// As the report calls it; empty where there is one class.
    pub name: String,
    /// Its share, against the other classes'.
    pub weight: f64,
    /// Prompt tokens.
    pub input: LengthDistribution,
    /// Output tokens.
    pub output: LengthDistribution,
}

/// How lengths are drawn; every draw is rounded and kept within 1 and [`crate::LONGEST`].
#[derive(Clone, Debug, PartialEq)]
pub enum LengthDistribution {
    /// Uniform between both, included; one number is a range of one.
    Uniform(crate::LengthRange),
    /// Normal: mean and standard deviation in tokens.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        sd: f64,
    },
    /// Log-normal: median in tokens, and the standard deviation of the logarithm.
    LogNormal {
        /// Median.
        median: f64,
        /// Of the natural logarithm.
        sigma: f64,
    },
    /// Drawn from the lengths of a file: one number a line.
    File(PathBuf),
}

/// `--shared-prefix GROUPS:TOKENS`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPrefix {
    /// Groups; each request belongs to one.
    pub groups: usize,
    /// Tokens that the prompts of a group begin with, in front of their own.
    pub tokens: usize,
}

/// How a workload's lengths are changed: scaled, rounded half up, at least 1, then capped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthRules {
    /// Factor of prompt lengths.
    pub input_scale: f64,
    /// Factor of output lengths.
    pub output_scale: f64,
    /// Longest prompt.
    pub max_input: Option<usize>,
    /// Longest output.
    pub max_output: Option<usize>,
}

impl Default for LengthRules {
    fn default() -> Self {
        Self { input_scale: 1.0, output_scale: 1.0, max_input: None, max_output: None }
    }
}

/// `--prompts`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PromptKind {
    /// The trace's hash ids: an id is one fixed block of tokens
    Hash,
    /// Nothing shared
    Random,
    /// mini-sglang's dummy text, of which all prompts are prefixes
    Shared,
}

/// `--turns`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Turns {
    /// Every request at its own time, with the history that the trace recorded
    #[default]
    Open,
    /// A turn waits for the one before it, whose live answer stands in its history
    Causal,
}

/// `--cancel-rate P [--cancel-after D]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cancel {
    /// Share of requests whose client leaves, in (0, 1].
    pub rate: f64,
    /// How long after its request was sent it leaves.
    pub after: Duration,
}

/// When requests are sent: one point of a sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Open loop: at the trace's times, multiplied.
    TraceTimes {
        /// The factor; 0 sends everything at once.
        scale: f64,
    },
    /// Open loop: at random or even times.
    Rate {
        /// Requests a second.
        per_s: f64,
        /// How they are spread.
        arrival: Arrival,
        /// Over which the rate grows evenly from nothing.
        ramp: Duration,
    },
    /// Closed loop: so many in flight, the next when one ends.
    Closed {
        /// Requests in flight.
        concurrency: usize,
        /// Over which the first ones are spread; zero sends them in one burst.
        ramp: Duration,
    },
}

/// `--arrival`
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// Evenly.
    Constant,
    /// Gaps are exponential.
    Poisson,
    /// Gaps are gamma-distributed with this shape: below 1 burstier than Poisson, above 1 more even.
    Gamma {
        /// Shape, above 0; the coefficient of variation is 1 / √shape.
        burstiness: f64,
    },
}

/// How points become runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Runs {
    /// Runs a point, each with fresh prompts; confidence intervals need more than one.
    pub repeat: usize,
    /// Requests that come before all others and are in no figure.
    pub warmup: usize,
    /// One small request must succeed first (`--preset bench-simple`).
    pub connection_test: bool,
    /// In place of the points: the highest rate at which the SLOs hold, by bisection.
    pub find_max_rate: Option<FindMaxRate>,
}

/// `--find-max-rate`
#[derive(Clone, Debug, PartialEq)]
pub struct FindMaxRate {
    /// Share of requests that must meet all SLOs.
    pub share: f64,
    /// First rate that is tried, in requests a second; for a trace at its own times, times its own rate. See
    /// [`Settings::load_at`].
    pub start: f64,
    /// The bounds on the rate are this near each other at the end, relative to it.
    pub precision: f64,
    /// How the requests are spread; a trace keeps its own times, scaled.
    pub arrival: Arrival,
}

/// Bounds in which a request must be to be good: all of them. None given: none are good or bad.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slo {
    /// To the first token.
    pub ttft: Option<Duration>,
    /// Mean gap between tokens.
    pub tpot: Option<Duration>,
    /// To the last token.
    pub e2e: Option<Duration>,
}

impl Slo {
    /// Whether there is any bound.
    pub fn is_some(&self) -> bool {
        *self != Self::default()
    }
}

/// What is printed and written.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Where the JSON goes, besides the table.
    pub json: Option<JsonOutput>,
    /// Folder of `summary.json`, `records.jsonl`, `metrics.csv` and `report.html`.
    pub out: Option<PathBuf>,
    /// mini-sglang's raw form, as a file.
    pub raw: Option<PathBuf>,
    /// Print the run by others' definitions too.
    pub compat: Vec<Compat>,
    /// What is good.
    pub slo: Slo,
    /// Beginning that is in no steady figure; `None` is automatic (the ramp, and until the first request has ended).
    pub warmup_window: Option<Duration>,
    /// A run whose lag p99 is above this is invalid.
    pub max_lag: Duration,
    /// An invalid run is a failure.
    pub strict: bool,
    /// Port of the load generator's own `/metrics`; 0 lets the system choose.
    pub metrics_port: Option<u16>,
    /// Read the server's `/metrics` through the run.
    pub scrape: bool,
    /// The command as typed, secrets left out.
    pub command: String,
}

/// Where JSON goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonOutput {
    /// Alone on stdout.
    Stdout,
    /// A file, replaced.
    File(PathBuf),
}

impl JsonOutput {
    /// What `--json` names: `-` is stdout.
    pub fn of(text: &str) -> Self {
        match text {
            "-" => Self::Stdout,
            _ => Self::File(PathBuf::from(text)),
        }
    }
}

/// `--metrics-compat`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Compat {
    /// `vllm bench serve`.
    Vllm,
    /// `sglang.bench_serving`.
    Sglang,
    /// AIPerf.
    Aiperf,
    /// mini-sglang's `benchmark/client.py`.
    MiniSglang,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            url: ServerUrl::default(),
            endpoint: Endpoint::Chat,
            model: None,
            tokenizer: None,
            api_key: None,
            headers: Vec::new(),
            ca_cert: None,
            extra_body: serde_json::Map::new(),
            strict_openai: false,
            ignore_eos: true,
            temperature: 0.0,
            timeout: Duration::from_secs(600),
            keep_alive: true,
            threads: 0,
        }
    }
}

impl Default for Runs {
    fn default() -> Self {
        Self { repeat: 1, warmup: 0, connection_test: false, find_max_rate: None }
    }
}

impl Default for Report {
    fn default() -> Self {
        Self {
            json: None,
            out: None,
            raw: None,
            compat: Vec::new(),
            slo: Slo::default(),
            warmup_window: None,
            max_lag: Duration::from_millis(10),
            strict: false,
            metrics_port: None,
            scrape: true,
            command: String::new(),
        }
    }
}

impl Settings {
    /// The shipped trace as it is, against `url`: what `minisgl demo` runs.
    pub fn shipped(url: ServerUrl) -> Self {
        Self {
            server: Server { url, ..Server::default() },
            workload: Workload {
                source: Source::Trace { file: TraceSource::Shipped, limit: None },
                lengths: LengthRules::default(),
                prompts: None,
                turns: Turns::Open,
                duration: None,
                cancel: None,
            },
            points: vec![Load::TraceTimes { scale: 1.0 }],
            runs: Runs::default(),
            seed: 0,
            report: Report::default(),
            preset: None,
        }
    }

    /// What asks for `rate` while a highest rate is sought: requests a second, or times the trace's own rate.
    pub fn load_at(&self, rate: f64) -> Load {
        let arrival = self.runs.find_max_rate.as_ref().map_or(Arrival::Poisson, |find| find.arrival);
        match (&self.workload.source, self.points.first()) {
            (Source::Trace { .. }, Some(Load::TraceTimes { .. })) => Load::TraceTimes { scale: 1.0 / rate },
            _ => Load::Rate { per_s: rate, arrival, ramp: Duration::ZERO },
        }
    }
}
