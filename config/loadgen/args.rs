//! `minisgl loadgen`'s flags, as typed.
//!
//! Owns their names, help and which values each takes. Which of them go together is `resolve.rs`'s.
use std::path::PathBuf;
use std::time::Duration;

use super::ServerUrl;
use super::settings::{
    Compat, Endpoint, LengthClass, LengthDistribution, Preset, PromptKind, SharedPrefix, Slo, Turns,
};
use super::values::{self, MOST_CONCURRENT, MOST_REQUESTS, Object, Sweep};

/// Replay a workload against any OpenAI-compatible server and report what was measured
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LoadgenArgs {
    /// Replay a trace: a file (its format is told by its content), `shipped` for the small one inside this program, or
    /// `qwen` for the public one (downloaded once)
    #[arg(long, value_name = "FILE|shipped|qwen", help_heading = "Workload")]
    pub trace: Option<String>,

    /// Closed loop: keep this many requests in flight, of a trace or drawn; 1 is one at a time; several values are several
    /// runs
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=MOST_CONCURRENT),
          help_heading = "Workload")]
    pub concurrency: Vec<u64>,

    /// Open loop: send this many requests a second, of a trace or drawn; several values are several runs
    #[arg(long, value_name = "R,…", value_delimiter = ',', value_parser = values::rate, help_heading = "Workload")]
    pub rate: Vec<f64>,

    /// A whole experiment by name; the flags given beside it win
    #[arg(long, value_name = "NAME", value_enum, help_heading = "Workload")]
    pub preset: Option<Preset>,

    /// The same as --preset bench-simple
    #[arg(long, help_heading = "Workload")]
    pub simple: bool,

    /// How many drawn requests; with --duration, the most of them
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=MOST_REQUESTS), help_heading = "Workload")]
    pub num_requests: Option<u64>,

    /// Begin no request later than this after a run's start: 500ms, 30s, 5m, or seconds
    #[arg(long, value_name = "D", value_parser = values::some_time, help_heading = "Workload")]
    pub duration: Option<Duration>,

    /// Prompt tokens of drawn requests: N, A-B (uniform), normal:MEAN,SD, lognormal:MEDIAN,SIGMA, or file:PATH (a length a
    /// line, drawn from at random)
    #[arg(long, value_name = "LENGTHS", help_heading = "Workload")]
    pub input_len: Option<LengthDistribution>,

    /// Output tokens of drawn requests, spelled as --input-len
    #[arg(long, value_name = "LENGTHS", help_heading = "Workload")]
    pub output_len: Option<LengthDistribution>,

    /// Several classes of drawn requests by weight, instead of --input-len and --output-len: "NAME=WEIGHT:INPUT:OUTPUT;…",
    /// e.g. "chat=3:lognormal:300,0.8:50-400;code=1:4000:100"
    #[arg(long, value_name = "CLASSES", value_parser = values::mix, help_heading = "Workload")]
    pub length_mix: Option<Mix>,

    /// Drawn prompts in so many groups; those of a group begin with the same TOKENS tokens, in front of their own
    #[arg(long, value_name = "GROUPS:TOKENS", value_parser = values::shared_prefix, help_heading = "Workload")]
    pub shared_prefix: Option<SharedPrefix>,

    /// What prompts are made of [default: the trace's own ids or text, else random]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Workload")]
    pub prompts: Option<PromptKind>,

    /// Share of requests whose client leaves before the end, from 0 to 1 (with --cancel-after)
    #[arg(long, value_name = "P", value_parser = values::share, help_heading = "Workload")]
    pub cancel_rate: Option<f64>,

    /// How long after sending those clients leave
    #[arg(long, value_name = "D", value_parser = values::time, help_heading = "Workload")]
    pub cancel_after: Option<Duration>,

    /// Seed of prompts, lengths, arrivals and cancellations: the same command sends the same requests
    #[arg(long, default_value_t = 0, help_heading = "Workload")]
    pub seed: u64,

    /// Multiply the trace's arrival times; several values are several runs [default: 1]
    #[arg(long, value_name = "F,…", value_delimiter = ',', value_parser = values::time_scale, help_heading = "Trace")]
    pub time_scale: Vec<f64>,

    /// Replay the first N requests only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_REQUESTS), help_heading = "Trace")]
    pub limit: Option<u64>,

    /// What becomes of conversations [default: open]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Trace")]
    pub turns: Option<Turns>,

    /// Multiply prompt lengths (rounded half up, at least 1)
    #[arg(long, value_name = "F", value_parser = values::length_scale, help_heading = "Trace")]
    pub input_len_scale: Option<f64>,

    /// Multiply output lengths (rounded half up, at least 1)
    #[arg(long, value_name = "F", value_parser = values::length_scale, help_heading = "Trace")]
    pub output_len_scale: Option<f64>,

    /// No prompt longer than this, after scaling
    #[arg(long, value_name = "N", value_parser = values::longest, help_heading = "Trace")]
    pub max_input_len: Option<usize>,

    /// No output longer than this, after scaling
    #[arg(long, value_name = "N", value_parser = values::longest, help_heading = "Trace")]
    pub max_output_len: Option<usize>,

    /// How a --rate's requests are spread [default: poisson]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Arrivals")]
    pub arrival: Option<ArrivalKind>,

    /// Shape of gamma arrivals: below 1 burstier than Poisson, above 1 more even
    #[arg(long, value_name = "SHAPE", value_parser = values::burstiness, help_heading = "Arrivals")]
    pub burstiness: Option<f64>,

    /// Time over which a closed loop's places open one after another, or a --rate grows from nothing; 0s for none
    /// [default: 10 ms a place, at most 10s, of a closed loop; none of a rate]
    #[arg(long, value_name = "D", value_parser = values::time, help_heading = "Arrivals")]
    pub ramp: Option<Duration>,

    /// A run for each value: rate=1,2,4, scale=0.5,1 or concurrency=1,8,64
    #[arg(long, value_name = "WHAT=V,…", value_parser = values::sweep, help_heading = "Runs")]
    pub sweep: Option<Sweep>,

    /// Runs for each point, each with fresh prompts: confidence intervals need several
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=1000), help_heading = "Runs")]
    pub repeat: Option<u64>,

    /// Send so many requests first that are in no figure [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=100_000), help_heading = "Runs")]
    pub warmup: Option<u64>,

    /// Find the highest rate at which the --slo holds, by bisection from --rate (of a trace: times its own rate)
    #[arg(long, help_heading = "Runs")]
    pub find_max_rate: bool,

    /// Bounds that a good request keeps, all of them: ttft, tpot and e2e, e.g. ttft=500ms,tpot=50ms
    #[arg(long, value_name = "BOUNDS", value_parser = values::slo, help_heading = "Runs")]
    pub slo: Option<Slo>,

    /// Share of requests that must be good for a rate to hold [default: 0.99]
    #[arg(long, value_name = "P", value_parser = values::share, help_heading = "Runs")]
    pub slo_share: Option<f64>,

    /// How near the search's bounds are to each other at its end, relative to the rate [default: 0.05]
    #[arg(long, value_name = "P", value_parser = values::precision, help_heading = "Runs")]
    pub precision: Option<f64>,

    /// Server, with or without /v1
    #[arg(long, default_value = ServerUrl::DEFAULT, help_heading = "Server")]
    pub url: ServerUrl,

    /// Which of its endpoints is measured
    #[arg(long, value_enum, value_name = "NAME", default_value = "chat", help_heading = "Server")]
    pub endpoint: Endpoint,

    /// Model to ask for [default: the first of /v1/models]
    #[arg(long, help_heading = "Server")]
    pub model: Option<String>,

    /// Tokenizer that makes the prompts: alias, directory, GGUF file or hub id [default: what /v1/models calls `root`, where
    /// it can be read]
    #[arg(long, value_name = "T", help_heading = "Server")]
    pub tokenizer: Option<String>,

    /// Sent as `Authorization: Bearer KEY` [default: $MINISGL_API_KEY, or $OPENAI_API_KEY where the URL is https or this
    /// machine's]
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub api_key: Option<String>,

    /// Another header of every request; can be given several times
    #[arg(long, value_name = "K: V", value_parser = values::header, help_heading = "Server")]
    pub header: Vec<(String, String)>,

    /// Trust the certificates of this PEM file, in place of the public authorities', for https [default: $SSL_CERT_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub ca_cert: Option<PathBuf>,

    /// Fields added to every body, replacing what would stand there; null leaves a field out
    #[arg(long, value_name = "JSON", value_parser = values::extra_body, help_heading = "Server")]
    pub extra_body: Option<Object>,

    /// Leave out what OpenAI's own API refuses (ignore_eos)
    #[arg(long, help_heading = "Server")]
    pub strict_openai: bool,

    /// Let answers end by themselves: no ignore_eos
    #[arg(long, help_heading = "Server")]
    pub no_ignore_eos: bool,

    /// Sampling temperature [default: 0]
    #[arg(long, value_name = "T", value_parser = values::temperature, help_heading = "Server")]
    pub temperature: Option<f64>,

    /// Time after which a request has failed [default: 600s]
    #[arg(long, value_name = "D", value_parser = values::timeout, help_heading = "Server")]
    pub timeout: Option<Duration>,

    /// Open a connection for every request, instead of sending it on one that an earlier request is done with
    #[arg(long, help_heading = "Server")]
    pub disable_keepalive: bool,

    /// Threads that read answers; 0 is automatic [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=256), help_heading = "Server")]
    pub threads: Option<u64>,

    /// Do not read the server's /metrics through the run
    #[arg(long, help_heading = "Server")]
    pub no_scrape: bool,

    /// Write the report as JSON: one object, or an array of several runs'; `-` is stdout (the table then goes to stderr)
    #[arg(long, value_name = "FILE|-", help_heading = "Report")]
    pub json: Option<String>,

    /// Write summary.json, records.jsonl, metrics.csv and report.html into this folder
    #[arg(long, value_name = "DIR", help_heading = "Report")]
    pub out: Option<PathBuf>,

    /// Write mini-sglang's raw form, which `loadgen report` reads back
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub raw: Option<PathBuf>,

    /// Print the run by others' definitions too
    #[arg(long, value_enum, value_name = "NAME,…", value_delimiter = ',', help_heading = "Report")]
    pub metrics_compat: Vec<Compat>,

    /// Beginning of a run that is in no steady figure [default: the ramp, and until the first request has ended]
    #[arg(long, value_name = "D", value_parser = values::time, help_heading = "Report")]
    pub warmup_window: Option<Duration>,

    /// Lag p99 above which a run is marked INVALID [default: 10ms]
    #[arg(long, value_name = "D", value_parser = values::some_time, help_heading = "Report")]
    pub max_lag: Option<Duration>,

    /// Exit with a failure where a run is INVALID
    #[arg(long, help_heading = "Report")]
    pub strict: bool,

    /// Serve the load generator's own /metrics on this port while it runs; 0 lets the system choose
    #[arg(long, value_name = "P", help_heading = "Report")]
    pub metrics_port: Option<u16>,
}

/// The classes of `--length-mix`; never empty. A name of its own, for clap takes a `Vec` for a flag given several times.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix(pub Vec<LengthClass>);

/// `--arrival`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ArrivalKind {
    /// Evenly
    Constant,
    /// Exponential gaps: as many users who know nothing of each other
    Poisson,
    /// Gamma-distributed gaps (--burstiness)
    Gamma,
}
