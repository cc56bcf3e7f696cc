//! `minisgl loadgen`'s settings, as typed ([`LoadgenArgs`]) and as resolved ([`LoadgenSettings`]), and the traces that ship.
//!
//! Owns the flags, their bounds, which of them exclude each other, and the public trace's address. Reads no trace and
//! makes no connection: what a workload means is the load generator's to know.
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::LengthRange;

/// The trace that ships: 32 requests over 20 s in the Qwen-Bailian format, made by `config/traces/make_demo.py`.
pub const SHIPPED_TRACE: &str = include_str!("traces/demo.jsonl");

/// The shipped trace's name in messages.
pub const SHIPPED_TRACE_NAME: &str = "config/traces/demo.jsonl";

/// Requests of `--simple`, its longest prompt and its outputs: mini-sglang's `bench_simple.py`.
const SIMPLE: (usize, usize, (usize, usize)) = (64, 8192, (16, 1024));

/// Most requests of one run: a record of each is kept.
const MOST_REQUESTS: u64 = 10_000_000;

/// Most requests of a closed loop in flight: beyond it, the system's ports end before the server does.
const MOST_CONCURRENT: u64 = 60_000;

/// Largest scale of times or lengths, and longest timeout in seconds.
const LARGEST_SCALE: f64 = 1e6;

/// Replay a workload against any OpenAI-compatible server and report what was measured
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LoadgenArgs {
    /// Replay a trace: a Qwen-Bailian or Mooncake JSONL file (told apart by content), `shipped` for the small one inside
    /// this program, or `qwen` for the public one (downloaded once)
    #[arg(long, value_name = "FILE|shipped|qwen", help_heading = "Workload")]
    pub trace: Option<String>,

    /// Closed loop: keep this many requests in flight (with --num-requests, --input-len, --output-len)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_CONCURRENT), help_heading = "Workload")]
    pub concurrency: Option<u64>,

    /// A connection test, then 64 requests at once with prompts of 1-8192 and outputs of 16-1024 tokens
    #[arg(long, help_heading = "Workload")]
    pub simple: bool,

    /// How many requests: of the closed loop, or of --simple instead of 64
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=MOST_REQUESTS), help_heading = "Workload")]
    pub num_requests: Option<u64>,

    /// Prompt tokens of the closed loop: a number, or A-B for uniform draws
    #[arg(long, value_name = "A[-B]", help_heading = "Workload")]
    pub input_len: Option<LengthRange>,

    /// Output tokens of the closed loop: a number, or A-B for uniform draws
    #[arg(long, value_name = "A[-B]", help_heading = "Workload")]
    pub output_len: Option<LengthRange>,

    /// Multiply the trace's arrival times; several values are several runs [default: 1]
    #[arg(long, value_name = "F,…", value_delimiter = ',', value_parser = time_scale, help_heading = "Trace")]
    pub time_scale: Vec<f64>,

    /// Replay the first N requests only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_REQUESTS), help_heading = "Trace")]
    pub limit: Option<u64>,

    /// Multiply prompt lengths (rounded half up, at least 1)
    #[arg(long, value_name = "F", value_parser = length_scale, help_heading = "Trace")]
    pub input_len_scale: Option<f64>,

    /// Multiply output lengths (rounded half up, at least 1)
    #[arg(long, value_name = "F", value_parser = length_scale, help_heading = "Trace")]
    pub output_len_scale: Option<f64>,

    /// No prompt longer than this, after scaling
    #[arg(long, value_name = "N", value_parser = longest, help_heading = "Trace")]
    pub max_input_len: Option<usize>,

    /// No output longer than this, after scaling
    #[arg(long, value_name = "N", value_parser = longest, help_heading = "Trace")]
    pub max_output_len: Option<usize>,

    /// Server, with or without /v1
    #[arg(long, default_value = ServerUrl::DEFAULT, help_heading = "Server")]
    pub url: ServerUrl,

    /// Model to ask for [default: the first of /v1/models]
    #[arg(long, help_heading = "Server")]
    pub model: Option<String>,

    /// Tokenizer that makes the prompts: alias, directory, GGUF file or hub id [default: what /v1/models calls `root`, where
    /// it can be read]
    #[arg(long, value_name = "T", help_heading = "Server")]
    pub tokenizer: Option<String>,

    /// Seconds after which a request has failed [default: 600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Server")]
    pub timeout: Option<Duration>,

    /// Seed of prompts and of drawn lengths: the same command sends the same requests
    #[arg(long, default_value_t = 0, help_heading = "Workload")]
    pub seed: u64,

    /// Write the report as JSON: one object, or an array of several runs'; `-` is stdout (the table then goes to stderr)
    #[arg(long, value_name = "FILE|-", help_heading = "Report")]
    pub json: Option<String>,
}

/// What `minisgl loadgen` runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadgenSettings {
    /// The server.
    pub url: ServerUrl,
    /// The model to ask for; `None` is the first that the server lists.
    pub model: Option<String>,
    /// Alias, path or hub id of the tokenizer; `None` is the server's `root`, where it can be read.
    pub tokenizer: Option<String>,
    /// What is sent, and when.
    pub workload: Workload,
    /// Seed of prompts and drawn lengths.
    pub seed: u64,
    /// When a request has failed.
    pub timeout: Duration,
    /// Where the JSON goes, besides the table.
    pub json: Option<JsonOutput>,
}

impl LoadgenSettings {
    /// The shipped trace as it is, against `url`: what `minisgl demo` runs.
    pub fn shipped(url: ServerUrl) -> Self {
        Self {
            url,
            model: None,
            tokenizer: None,
            workload: Workload::Trace {
                source: TraceSource::Shipped,
                time_scales: vec![1.0],
                limit: None,
                lengths: LengthRules::default(),
            },
            seed: 0,
            timeout: DEFAULT_TIMEOUT,
            json: None,
        }
    }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// What is sent, and when.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// Open loop: a trace's arrivals, whatever the server does.
    Trace {
        /// Where the trace is.
        source: TraceSource,
        /// A run for each; arrival times are multiplied by it.
        time_scales: Vec<f64>,
        /// First requests only.
        limit: Option<usize>,
        /// What becomes of the trace's lengths.
        lengths: LengthRules,
    },
    /// Closed loop: the next request when one ends.
    Closed {
        /// Requests in flight.
        concurrency: usize,
        /// Requests in all.
        num_requests: usize,
        /// Prompt tokens, drawn uniformly.
        input_len: LengthRange,
        /// Output tokens, drawn uniformly.
        output_len: LengthRange,
    },
    /// A connection test, then all requests at once.
    Simple {
        /// Requests in the batch.
        num_requests: usize,
        /// Prompt tokens, drawn uniformly.
        input_len: LengthRange,
        /// Output tokens, drawn uniformly.
        output_len: LengthRange,
        /// Caps on what is drawn; its scales are 1.
        lengths: LengthRules,
    },
}

/// Where a trace is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceSource {
    /// A file of the user's.
    File(PathBuf),
    /// [`SHIPPED_TRACE`].
    Shipped,
    /// The public trace of [`PublicTrace::qwen`], downloaded once.
    Qwen,
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

/// Where JSON goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonOutput {
    /// Alone on stdout.
    Stdout,
    /// A file, replaced.
    File(PathBuf),
}

/// Flags that do not go together, or that lack one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadgenArgsError(String);

impl LoadgenArgs {
    /// Checks the flags against each other; everything else clap has checked.
    pub fn resolve(self) -> Result<LoadgenSettings, LoadgenArgsError> {
        let workload = self.workload()?;
        let json = self.json.map(|json| match json.as_str() {
            "-" => JsonOutput::Stdout,
            _ => JsonOutput::File(PathBuf::from(json)),
        });
        let named = |flag: &str, value: &Option<String>| match value {
            Some(value) if value.trim().is_empty() => Err(LoadgenArgsError(format!("{flag} is empty"))),
            _ => Ok(()),
        };
        named("--model", &self.model)?;
        named("--tokenizer", &self.tokenizer)?;
        Ok(LoadgenSettings {
            url: self.url,
            model: self.model,
            tokenizer: self.tokenizer,
            workload,
            seed: self.seed,
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            json,
        })
    }

    fn workload(&self) -> Result<Workload, LoadgenArgsError> {
        match (&self.trace, self.concurrency, self.simple) {
            (Some(trace), None, false) => self.trace_workload(trace),
            (None, Some(concurrency), false) => self.closed_workload(concurrency as usize),
            (None, None, true) => self.simple_workload(),
            (None, None, false) => Err(LoadgenArgsError(
                "nothing to send: give --trace FILE (or `--trace shipped`, the small trace inside this program), \
                 --concurrency N --num-requests M --input-len A-B --output-len A-B, or --simple"
                    .to_owned(),
            )),
            _ => Err(LoadgenArgsError("--trace, --concurrency and --simple exclude each other: give one".to_owned())),
        }
    }

    fn trace_workload(&self, trace: &str) -> Result<Workload, LoadgenArgsError> {
        self.refuse("--trace", &["--num-requests", "--input-len", "--output-len"])?;
        Ok(Workload::Trace {
            source: match trace {
                "" => return Err(LoadgenArgsError("--trace is empty: give a file, `shipped` or `qwen`".to_owned())),
                "shipped" => TraceSource::Shipped,
                "qwen" => TraceSource::Qwen,
                file => TraceSource::File(PathBuf::from(file)),
            },
            time_scales: if self.time_scale.is_empty() { vec![1.0] } else { self.time_scale.clone() },
            limit: self.limit.map(|limit| limit as usize),
            lengths: self.length_rules(),
        })
    }

    fn closed_workload(&self, concurrency: usize) -> Result<Workload, LoadgenArgsError> {
        self.refuse("--concurrency", &TRACE_FLAGS)?;
        self.refuse("--concurrency", &["--max-input-len", "--max-output-len"])?;
        let lacks = |flag: &str| LoadgenArgsError(format!("--concurrency needs {flag} beside it"));
        let num_requests = self.num_requests.ok_or_else(|| lacks("--num-requests"))? as usize;
        if num_requests < concurrency {
            return Err(LoadgenArgsError(format!(
                "--num-requests {num_requests} cannot keep --concurrency {concurrency} in flight: give at least as many"
            )));
        }
        Ok(Workload::Closed {
            concurrency,
            num_requests,
            input_len: self.input_len.ok_or_else(|| lacks("--input-len"))?,
            output_len: self.output_len.ok_or_else(|| lacks("--output-len"))?,
        })
    }

    fn simple_workload(&self) -> Result<Workload, LoadgenArgsError> {
        self.refuse("--simple", &TRACE_FLAGS)?;
        self.refuse("--simple", &["--input-len", "--output-len"])?;
        let (requests, longest_input, (shortest_output, longest_output)) = SIMPLE;
        let range = |min, max| LengthRange::new(min, max).expect("constants in bounds");
        Ok(Workload::Simple {
            num_requests: self.num_requests.map_or(requests, |n| n as usize),
            input_len: range(1, longest_input),
            output_len: range(shortest_output, longest_output),
            lengths: self.length_rules(),
        })
    }

    fn length_rules(&self) -> LengthRules {
        LengthRules {
            input_scale: self.input_len_scale.unwrap_or(1.0),
            output_scale: self.output_len_scale.unwrap_or(1.0),
            max_input: self.max_input_len,
            max_output: self.max_output_len,
        }
    }

    /// An error if any of `flags` was given, since `mode` has no meaning for it.
    fn refuse(&self, mode: &str, flags: &[&str]) -> Result<(), LoadgenArgsError> {
        let given = |flag: &str| match flag {
            "--num-requests" => self.num_requests.is_some(),
            "--input-len" => self.input_len.is_some(),
            "--output-len" => self.output_len.is_some(),
            "--time-scale" => !self.time_scale.is_empty(),
            "--limit" => self.limit.is_some(),
            "--input-len-scale" => self.input_len_scale.is_some(),
            "--output-len-scale" => self.output_len_scale.is_some(),
            "--max-input-len" => self.max_input_len.is_some(),
            "--max-output-len" => self.max_output_len.is_some(),
            _ => unreachable!("a flag of this command"),
        };
        match flags.iter().find(|flag| given(flag)) {
            None => Ok(()),
            Some(flag) => {
                let instead = match (mode, *flag) {
                    ("--trace", "--num-requests") => ": --limit N takes a trace's first N requests",
                    ("--trace", _) => {
                        ": a trace has its own lengths; see --input-len-scale, --max-input-len and theirs for outputs"
                    }
                    ("--simple", "--input-len" | "--output-len") => {
                        ": its lengths are fixed; --max-input-len and --max-output-len cap them"
                    }
                    ("--concurrency", "--max-input-len" | "--max-output-len") => {
                        ": give --input-len and --output-len as ranges"
                    }
                    _ => ": it is for --trace",
                };
                Err(LoadgenArgsError(format!("{flag} does not go with {mode}{instead}")))
            }
        }
    }
}

/// Flags that only a trace gives a meaning.
const TRACE_FLAGS: [&str; 4] = ["--time-scale", "--limit", "--input-len-scale", "--output-len-scale"];

fn bounded(text: &str, smallest: f64, what: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value >= smallest && value <= LARGEST_SCALE => Ok(value),
        _ => Err(format!("must be {what}, at most {LARGEST_SCALE}")),
    }
}

fn time_scale(text: &str) -> Result<f64, String> {
    bounded(text, 0.0, "a number of at least 0 (0 sends everything at once)")
}

fn length_scale(text: &str) -> Result<f64, String> {
    bounded(text, f64::MIN_POSITIVE, "a number above 0")
}

fn seconds(text: &str) -> Result<Duration, String> {
    bounded(text.strip_suffix('s').unwrap_or(text), 0.001, "seconds, at least 0.001").map(Duration::from_secs_f64)
}

fn longest(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=crate::LONGEST).contains(&n) => Ok(n),
        _ => Err(format!("must be a number of tokens from 1 to {}", crate::LONGEST)),
    }
}

/// A server's address: scheme, host, port, and what stands before `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// Whether TLS is spoken.
    pub https: bool,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What stands before `/v1/…`: empty, or a path with a leading and without a trailing slash.
    pub prefix: String,
}

impl ServerUrl {
    /// Where `minisgl serve` listens by default.
    pub const DEFAULT: &str = "http://127.0.0.1:1919";

    /// Host and port as the `Host` header and TCP want them; IPv6 in brackets.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The path of an endpoint, e.g. `/v1/models` of `models`.
    pub fn path(&self, endpoint: &str) -> String {
        format!("{}/v1/{endpoint}", self.prefix)
    }
}

impl Default for ServerUrl {
    fn default() -> Self {
        Self::DEFAULT.parse().expect("a URL")
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.prefix)
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (https, rest) = if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else {
            return Err("must begin with http:// or https://, e.g. http://127.0.0.1:1919".to_owned());
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = host_and_port(authority)?;
        let port = match port {
            None => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some(port) => match port.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => return Err(format!("has the port `{port}`: it must be 1 to 65535")),
            },
        };
        if let Some(odd) = path.chars().find(|c| !c.is_ascii_graphic() || "?#\"<>\\^`{|}".contains(*c)) {
            return Err(format!("has {odd:?} in its path: give scheme, host, port and path only"));
        }
        let path = path.trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/');
        Ok(Self { https, host, port, prefix: prefix.to_owned() })
    }
}

/// The host without brackets, and the port's text.
fn host_and_port(authority: &str) -> Result<(String, Option<&str>), String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has `[` without `]`")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("has `[{host}]`, which is no IPv6 address"));
        }
        return match (after.is_empty(), after.strip_prefix(':')) {
            (true, _) => Ok((host.to_owned(), None)),
            (false, Some(port)) => Ok((host.to_owned(), Some(port))),
            (false, None) => Err(format!("has `{after}` after its host")),
        };
    }
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(format!(
            "has the host `{host}`: letters, digits, `-`, `.` and `_` only (no user name or password)"
        ));
    }
    Ok((host.to_owned(), port))
}

/// A trace that is published, too large to ship.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicTrace {
    /// Where it is.
    pub url: String,
    /// Its file name in the cache.
    pub file: String,
}

impl PublicTrace {
    /// The trace that mini-sglang's `bench_qwen.py` replays: `config/traces/qwen.toml`.
    pub fn qwen() -> Self {
        toml::from_str(include_str!("traces/qwen.toml")).expect("config/traces/qwen.toml is part of this program")
    }
}

#[cfg(test)]
mod tests;
