//! Resolved settings: what the program runs with, and the default of each. Plain data; names and bounds are `table.rs`'s.
use std::path::PathBuf;
use std::time::Duration;

use crate::length::LengthRange;

/// What every command that runs an engine needs (`serve`, `demo`, `bench`, `chat`).
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// An alias, a GGUF file, a directory, or a hub id.
    pub model: String,
    /// Which hub an id is of.
    pub model_source: HubSource,
    /// Run without weights: seeded random ones.
    pub dummy_weight: bool,
    /// What weights are kept as, and K/V.
    pub dtype: DTypeChoice,
    /// What float matrices become at load.
    pub quantize: Quantize,
    /// What K and V are stored as.
    pub kv_cache_dtype: KvCacheDType,
    /// Which device computes.
    pub device: DeviceKind,
    /// CPU threads that compute; 0 is all cores.
    pub threads: usize,
    /// Ranks, where set; otherwise one, or the simulated profile's.
    pub tensor_parallel_size: Option<usize>,
    /// Sequences in the batch at once.
    pub max_running_requests: usize,
    /// Accepted sequences that may wait beyond the running ones; more is a 429.
    pub max_queued_requests: usize,
    /// Replaces the model's own context length.
    pub max_seq_len_override: Option<usize>,
    /// Tokens a step: prefill chunks and decode rows together.
    pub max_prefill_length: usize,
    /// What a step with prompts in it may take, in times what its decode rows take alone; 0 for no bound.
    pub max_decode_gap: f64,
    /// Share of the memory available after the weights that K/V may take.
    pub memory_ratio: f64,
    /// K/V pages, where set; otherwise from `memory_ratio`, on a CPU at most 4 GiB.
    pub num_pages: Option<usize>,
    /// Tokens a page, where set; see [`Self::page_size`].
    pub page_size: Option<usize>,
    /// Prefix cache.
    pub cache_type: CacheType,
    /// Plan the next batch while one runs.
    pub overlap: bool,
    /// Tokenizer worker threads; 0 is automatic.
    pub num_tokenizer: usize,
    /// Whose sampling defaults hold.
    pub generation_config: GenerationDefaults,
    /// What a simulated device is like; all unset for other devices.
    pub sim: SimSettings,
}

/// `--device sim`: which GPUs answer, or when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimSettings {
    /// A named profile or a file of one, where set; otherwise [`DEFAULT_PROFILE`](crate::sim::DEFAULT_PROFILE).
    pub profile: Option<String>,
    /// From a sequence's first row to its first token, whatever the profile says.
    pub ttft: Option<Duration>,
    /// From one token of a sequence to its next, whatever the profile says.
    pub itl: Option<Duration>,
}

/// Tokens a page of a CPU's K/V: keys lie in sixteens, as they are multiplied, where pages are whole sixteens.
const CPU_PAGE_SIZE: usize = 16;

impl EngineSettings {
    /// Tokens a K/V page: what was set, or what suits the device.
    pub fn page_size(&self) -> usize {
        self.page_size.unwrap_or(if self.device == DeviceKind::Cpu { CPU_PAGE_SIZE } else { 1 })
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            model: "smollm2-135m".to_owned(),
            model_source: HubSource::HuggingFace,
            dummy_weight: false,
            dtype: DTypeChoice::Auto,
            quantize: Quantize::None,
            kv_cache_dtype: KvCacheDType::Auto,
            device: DeviceKind::Cpu,
            threads: 0,
            tensor_parallel_size: None,
            max_running_requests: 256,
            max_queued_requests: 2048,
            max_seq_len_override: None,
            max_prefill_length: 8192,
            max_decode_gap: 2.2,
            memory_ratio: 0.9,
            num_pages: None,
            page_size: None,
            cache_type: CacheType::Radix,
            overlap: true,
            num_tokenizer: 0,
            generation_config: GenerationDefaults::Auto,
            sim: SimSettings::default(),
        }
    }
}

/// `minisgl serve`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeSettings {
    /// The engine behind it.
    pub engine: EngineSettings,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// `id` of `/v1/models`; otherwise the alias or the file's stem.
    pub served_model_name: Option<String>,
    /// Prefix of the metrics' names.
    pub metrics_prefix: MetricsPrefix,
    /// How long a drain waits for what is in flight.
    pub drain_timeout: Duration,
    /// How long a socket may take no bytes before it is closed.
    pub write_timeout: Duration,
    /// Run the shell instead of listening.
    pub shell: bool,
    /// How the shell samples, where it runs.
    pub shell_sampling: ShellSettings,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            engine: EngineSettings::default(),
            host: "127.0.0.1".to_owned(),
            port: 1919,
            served_model_name: None,
            metrics_prefix: MetricsPrefix::Minisgl,
            drain_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            shell: false,
            shell_sampling: ShellSettings::default(),
        }
    }
}

/// How the shell (`minisgl chat`, `serve --shell-mode`) samples.
#[derive(Clone, Debug, PartialEq)]
pub struct ShellSettings {
    /// Tokens of an answer at most, at least 1.
    pub max_tokens: usize,
    /// -1 or 0 is off.
    pub top_k: i64,
    /// In (0, 1].
    pub top_p: f64,
    /// 0 (greedy) to 2.
    pub temperature: f64,
}

impl Default for ShellSettings {
    fn default() -> Self {
        Self { max_tokens: 2048, top_k: -1, top_p: 1.0, temperature: 0.6 }
    }
}

/// What is logged to stderr, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least important level that is shown.
    pub level: LogLevel,
    /// Each line names the process.
    pub pid: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: LogLevel::Info, pid: false }
    }
}

/// `minisgl chat`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatSettings {
    /// The engine behind it: one running request.
    pub engine: EngineSettings,
    /// How it samples.
    pub shell: ShellSettings,
}

/// Recorded questions for `minisgl bench offline`.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchDataset {
    /// A file, or `wildchat`.
    pub source: String,
    /// Most output tokens of an answer, at least 1.
    pub max_output_len: usize,
}

/// `minisgl bench offline`: random prompts of drawn lengths, or recorded questions, all at once.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchOfflineSettings {
    /// The engine that is measured.
    pub engine: EngineSettings,
    /// Sequences, at least 1.
    pub num_seqs: usize,
    /// Prompt tokens, drawn uniformly for each sequence.
    pub input_len: LengthRange,
    /// Output tokens, drawn uniformly for each sequence.
    pub output_len: LengthRange,
    /// Questions instead of random prompts; answers then end by themselves.
    pub dataset: Option<BenchDataset>,
    /// Of lengths, prompts and sampling.
    pub seed: u64,
    /// 0 (greedy) to 2.
    pub temperature: f64,
    /// One JSON object a line on stdout, all else on stderr.
    pub json: bool,
}

/// `minisgl bench batched`: equal prompts in length, greedy, a line a batch size.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchBatchedSettings {
    /// The engine that is measured; it can run the largest batch at once.
    pub engine: EngineSettings,
    /// Prompt tokens of each sequence, at least 1.
    pub prompt_len: usize,
    /// Output tokens of each sequence, at least 2: the first is prefill's, the rest are decode's.
    pub output_len: usize,
    /// Batch sizes in the order they are run, each at least 1; never empty.
    pub batch: Vec<usize>,
    /// One JSON object a line on stdout, all else on stderr.
    pub json: bool,
}

/// `minisgl bench accuracy`: next-token distributions against those of float32.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchAccuracySettings {
    /// The engine that is measured.
    pub engine: EngineSettings,
    /// What it reads, where set; otherwise a text that the program carries.
    pub text: Option<PathBuf>,
    /// Tokens a chunk, at least 4; the second half is scored.
    pub context: usize,
    /// One JSON object on stdout, all else on stderr.
    pub json: bool,
}

/// `--model-source`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HubSource {
    HuggingFace,
    ModelScope,
}

/// `--dtype`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DTypeChoice {
    /// The device's choice: the fastest. On a CPU weights as they are stored, quantised ones multiplied with activations
    /// of eight bits, and K/V in bfloat16.
    Auto,
    /// IEEE half.
    Float16,
    /// bfloat16.
    BFloat16,
    /// IEEE single.
    Float32,
}

/// `--quantize`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    /// They stay floats.
    None,
    /// Eight bits a weight, a scale for each 32 of a row.
    Int8,
    /// Four bits a weight, a scale for each 32 of a row.
    Int4,
}

/// `--kv-cache-dtype`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheDType {
    /// What `--dtype` says; bfloat16 where it says auto.
    Auto,
    /// IEEE half.
    Float16,
    /// bfloat16.
    BFloat16,
    /// IEEE single.
    Float32,
    /// Eight bits, a scale for each token and head.
    Int8,
}

/// `--device`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The vectorised, threaded CPU device.
    Cpu,
    /// Plain loops: what each operation means. Slow.
    Reference,
    /// No device: answers when named GPUs would. Needs no weights.
    Sim,
}

/// `--cache-type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// Prefixes are kept in a radix tree and shared.
    Radix,
    /// Nothing is kept.
    Naive,
}

/// `--generation-config`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationDefaults {
    /// The model's `generation_config.json`.
    Auto,
    /// The server's own: temperature 1, no filters.
    None,
}

/// `--metrics-prefix`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsPrefix {
    /// `minisgl_…`, clean under promtool's lint.
    Minisgl,
    /// `vllm:…`, vLLM's exact names.
    Vllm,
}

/// `--log-level`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What a person should look at.
    Warn,
    /// What happens, in a few lines.
    Info,
    /// What each request does.
    Debug,
    /// What each step does.
    Trace,
}

impl LogLevel {
    /// As `tracing` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
