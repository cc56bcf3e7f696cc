//! Resolved settings: what the program runs with. Plain data.
use std::time::Duration;

/// What every command that runs an engine needs (`serve`, `demo`, `bench`, `chat`).
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// An alias, a GGUF file, a directory, or a hub id.
    pub model: String,
    /// Which hub an id is of.
    pub model_source: HubSource,
    /// Run without weights: seeded random ones.
    pub dummy_weight: bool,
    /// Type of computation and K/V.
    pub dtype: DTypeChoice,
    /// Which device computes.
    pub device: DeviceKind,
    /// CPU threads that compute; 0 is all cores.
    pub threads: usize,
    /// Ranks.
    pub tensor_parallel_size: usize,
    /// Sequences in the batch at once.
    pub max_running_requests: usize,
    /// Accepted sequences that may wait beyond the running ones; more is a 429.
    pub max_queued_requests: usize,
    /// Replaces the model's own context length.
    pub max_seq_len_override: Option<usize>,
    /// Tokens a step: prefill chunks and decode rows together.
    pub max_prefill_length: usize,
    /// Share of the memory available after the weights that K/V may take.
    pub memory_ratio: f64,
    /// K/V pages, where set; otherwise from `memory_ratio`, on a CPU at most 4 GiB.
    pub num_pages: Option<usize>,
    /// Tokens a page.
    pub page_size: usize,
    /// Prefix cache.
    pub cache_type: CacheType,
    /// Plan the next batch while one runs.
    pub overlap: bool,
    /// Tokenizer worker threads; 0 is automatic.
    pub num_tokenizer: usize,
    /// Whose sampling defaults hold.
    pub generation_config: GenerationDefaults,
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
    /// The device's choice: float32 on a CPU.
    Auto,
    /// IEEE half.
    Float16,
    /// bfloat16.
    BFloat16,
    /// IEEE single.
    Float32,
}

/// `--device`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The vectorised, threaded CPU device.
    Cpu,
    /// Plain loops: what each operation means. Slow.
    Reference,
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
