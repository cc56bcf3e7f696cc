//! Every setting, declared once: its flag, the flag's other spellings, its variable, its key, its bounds and its words.
//!
//! A setting `page-size` is the flag `--page-size`, the variable `MINISGL_PAGE_SIZE` and the TOML key `page_size`. Its
//! default stands in `settings.rs`, where the resolved type is.
use std::fmt;
use std::time::Duration;

use crate::field::{
    Absent, AttentionBackend, Choice, Field, Form, Integer, OptionalInteger, OptionalSpan, OptionalText, ProfileName,
    Real, Settings, Span, Switch, Text,
};
use crate::sim::MOST_GPUS;

/// Which part of the program a setting is of, and so which commands take its flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// What computes, and how.
    Engine,
    /// Where and how the server listens.
    Server,
    /// How the shell samples.
    Shell,
    /// What is logged.
    Log,
}

impl Group {
    /// The heading over its settings.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Engine => "Engine",
            Self::Server => "Server",
            Self::Shell => "Shell",
            Self::Log => "Log",
        }
    }
}

/// One setting.
pub(crate) struct Setting {
    /// The flag without its dashes.
    pub(crate) name: &'static str,
    /// Other spellings of the flag.
    pub(crate) aliases: &'static [&'static str],
    /// A variable that is read where `MINISGL_<NAME>` is not set.
    pub(crate) other_variable: Option<&'static str>,
    pub(crate) group: Group,
    pub(crate) help: &'static str,
    pub(crate) field: &'static dyn Field,
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Setting {
    const fn new(group: Group, name: &'static str, help: &'static str, field: &'static dyn Field) -> Self {
        Self { name, aliases: &[], other_variable: None, group, help, field }
    }

    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn or_variable(mut self, name: &'static str) -> Self {
        self.other_variable = Some(name);
        self
    }

    /// Its help, and what a value may be.
    pub(crate) fn words(&self) -> String {
        match self.field.detail() {
            Some(detail) => format!("{}. Takes {detail}", self.help),
            None => self.help.to_owned(),
        }
    }

    /// `MINISGL_PAGE_SIZE`
    pub(crate) fn variable(&self) -> String {
        format!("MINISGL_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// `page_size`
    pub(crate) fn key(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Its value in `settings`, as a flag or variable would spell it.
    pub(crate) fn value(&self, settings: &Settings) -> Option<String> {
        self.field.get(&mut settings.clone())
    }
}

/// Variables that are not settings and belong to other parts.
pub(crate) const OTHER_VARIABLES: [&str; 3] = ["MINISGL_CONFIG", "MINISGL_CACHE", "MINISGL_TEST_PEERS"];

/// Variables of parts that are not there yet, and what to do about them.
pub(crate) const ABSENT_VARIABLES: [(&str, &str); 2] = [
    ("MINISGL_PYNCCL_MAX_BUFFER_SIZE", "the CUDA device and its collectives are not there yet: unset it"),
    (
        "MINISGL_FLASHINFER_USE_TENSOR_CORES",
        "FlashInfer is other people's kernels, which are not used here: unset it (the CUDA device is not there yet)",
    ),
];

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

const fn engine(name: &'static str, help: &'static str, field: &'static dyn Field) -> Setting {
    Setting::new(Group::Engine, name, help, field)
}

const fn server(name: &'static str, help: &'static str, field: &'static dyn Field) -> Setting {
    Setting::new(Group::Server, name, help, field)
}

const fn shell(name: &'static str, help: &'static str, field: &'static dyn Field) -> Setting {
    Setting::new(Group::Shell, name, help, field)
}

const fn log(name: &'static str, help: &'static str, field: &'static dyn Field) -> Setting {
    Setting::new(Group::Log, name, help, field)
}

/// All settings, in the order that help, `config show` and the example file have.
pub(crate) static SETTINGS: &[Setting] = &[
    engine(
        "model",
        "An alias, a GGUF file, a directory in Hugging Face form, or a hub id",
        &Text { at: |s| &mut s.serve.engine.model, placeholder: "MODEL" },
    )
    .aliases(&["model-path"]),
    engine("model-source", "The hub that an id is of", &Choice { at: |s| &mut s.serve.engine.model_source }),
    engine(
        "dummy-weight",
        "Seeded random weights: needs and fetches no weight files",
        &Switch { at: |s| &mut s.serve.engine.dummy_weight, on: true },
    ),
    engine(
        "dtype",
        "What weights and K/V are kept as; auto: weights as stored, multiplied the fastest way; float32: exactly",
        &Choice { at: |s| &mut s.serve.engine.dtype },
    ),
    engine(
        "quantize",
        "What float matrices become at load, the embedding among them, by blocks of 32, or of 128 to int8 where rows are whole 256s; quantised ones stay as they are",
        &Choice { at: |s| &mut s.serve.engine.quantize },
    ),
    engine(
        "kv-cache-dtype",
        "What K and V are stored as; auto: what --dtype says, bfloat16 where that is auto",
        &Choice { at: |s| &mut s.serve.engine.kv_cache_dtype },
    ),
    engine(
        "generation-config",
        "Sampling defaults: the model's generation_config.json, or none of it",
        &Choice { at: |s| &mut s.serve.engine.generation_config },
    ),
    engine(
        "device",
        "What computes; reference is plain loops, slow, to compare with; sim computes nothing and answers when GPUs would",
        &Choice { at: |s| &mut s.serve.engine.device },
    ),
    engine(
        "threads",
        "CPU threads that compute; 0 is all cores",
        &Integer { at: |s| &mut s.serve.engine.threads, min: 0, max: 1024 },
    ),
    engine(
        "tensor-parallel-size",
        "Ranks that share the model's heads, MLP and vocabulary; on a CPU they divide the threads",
        &OptionalInteger {
            at: |s| &mut s.serve.engine.tensor_parallel_size,
            min: 1,
            max: MOST_GPUS,
            unset: "1, or the simulated profile's GPUs",
        },
    )
    .aliases(&["tp-size", "tp"]),
    engine(
        "max-running-requests",
        "Sequences in the batch at once",
        &Integer { at: |s| &mut s.serve.engine.max_running_requests, min: 1, max: 65_536 },
    ),
    engine(
        "max-queued-requests",
        "Accepted sequences that may wait beyond those; one more is answered 429",
        &Integer { at: |s| &mut s.serve.engine.max_queued_requests, min: 0, max: 1 << 20 },
    ),
    engine(
        "max-seq-len-override",
        "Replaces the model's own context length, in tokens",
        &OptionalInteger {
            at: |s| &mut s.serve.engine.max_seq_len_override,
            min: 2,
            max: 1 << 24,
            unset: "the model's own",
        },
    ),
    engine(
        "max-prefill-length",
        "Tokens a step, prefill chunks and decode rows together",
        &Integer { at: |s| &mut s.serve.engine.max_prefill_length, min: 1, max: 1 << 20 },
    )
    .aliases(&["max-extend-length"]),
    engine(
        "max-decode-gap",
        "Times what decode takes alone that a step with prompts in it may take; 0 is no bound: prompts are fed as fast as they go",
        &Real { at: |s| &mut s.serve.engine.max_decode_gap, min: 0.0, max: 1000.0, above_min: false },
    ),
    engine(
        "memory-ratio",
        "Share of the memory left after the weights that K/V may take (a CPU: 4 GiB at most; sim: share of all, weights included)",
        &Real { at: |s| &mut s.serve.engine.memory_ratio, min: 0.0, max: 1.0, above_min: true },
    ),
    engine(
        "num-pages",
        "K/V pages, instead of --memory-ratio",
        &OptionalInteger {
            at: |s| &mut s.serve.engine.num_pages,
            min: 1,
            max: u32::MAX as usize,
            unset: "from memory_ratio",
        },
    ),
    engine(
        "page-size",
        "Tokens a K/V page, and what a prefix that is shared is a multiple of",
        &OptionalInteger {
            at: |s| &mut s.serve.engine.page_size,
            min: 1,
            max: 1024,
            unset: "16 on a CPU, 1 elsewhere",
        },
    ),
    engine(
        "cache-type",
        "Prefix cache: a radix tree that shares prefixes, or nothing kept",
        &Choice { at: |s| &mut s.serve.engine.cache_type },
    )
    .aliases(&["cache"]),
    engine(
        "disable-overlap-scheduling",
        "Plan a batch only when the one before has ended (for ablation)",
        &Switch { at: |s| &mut s.serve.engine.overlap, on: false },
    ),
    engine(
        "num-tokenizer",
        "Tokenizer worker threads; 0 is automatic",
        &Integer { at: |s| &mut s.serve.engine.num_tokenizer, min: 0, max: 256 },
    )
    .aliases(&["tokenizer-count"]),
    engine("attention-backend", "Whose attention: auto is the device's own", &AttentionBackend).aliases(&["attn"]),
    engine(
        "moe-backend",
        "Who computes mixtures of experts (not there yet)",
        &Absent { form: Form::Text, only: "auto", why: "mixtures of experts are not there yet: use auto" },
    ),
    engine(
        "cuda-graph-max-bs",
        "Largest batch in a captured CUDA graph; 0 is off (CUDA is not there yet)",
        &Absent {
            form: Form::Integer,
            only: "0",
            why: "the CUDA device and its graphs are not there yet: use 0, or leave it out",
        },
    )
    .aliases(&["graph"]),
    engine(
        "disable-pynccl",
        "Collectives through NCCL's own calls (CUDA is not there yet)",
        &Absent {
            form: Form::Switch,
            only: "false",
            why: "the CUDA device and its collectives are not there yet: leave it out",
        },
    ),
    engine(
        "sim-profile",
        "GPUs that --device sim simulates; a name without a model takes the shape of --model",
        &ProfileName { at: |s| &mut s.serve.engine.sim.profile },
    ),
    engine(
        "sim-ttft",
        "Exact timing instead of the profile's: a sequence's first token comes so long after its first row was queued",
        &OptionalSpan { at: |s| &mut s.serve.engine.sim.ttft, max: HOUR, unset: "the profile's; 0s with --sim-itl" },
    ),
    engine(
        "sim-itl",
        "Exact timing instead of the profile's: a sequence's tokens come so far apart",
        &OptionalSpan { at: |s| &mut s.serve.engine.sim.itl, max: HOUR, unset: "the profile's; 0s with --sim-ttft" },
    ),
    server(
        "host",
        "Address to listen on; 0.0.0.0 is every one",
        &Text { at: |s| &mut s.serve.host, placeholder: "ADDRESS" },
    ),
    server(
        "port",
        "Port to listen on; 0 lets the system choose",
        &Integer { at: |s| &mut s.serve.port, min: 0, max: u16::MAX },
    ),
    server(
        "served-model-name",
        "The model's id in /v1/models and in requests",
        &OptionalText {
            at: |s| &mut s.serve.served_model_name,
            placeholder: "NAME",
            unset: "the alias, or the file's stem",
        },
    ),
    server(
        "metrics-prefix",
        "Names of /metrics: minisgl_…, or vLLM's own (vllm:…)",
        &Choice { at: |s| &mut s.serve.metrics_prefix },
    ),
    server(
        "drain-timeout",
        "How long SIGTERM waits for what is in flight",
        &Span { at: |s| &mut s.serve.drain_timeout, min: Duration::ZERO, max: DAY },
    ),
    server(
        "write-timeout",
        "How long a client may take no bytes before its connection is closed",
        &Span { at: |s| &mut s.serve.write_timeout, min: MILLISECOND, max: DAY },
    ),
    server(
        "shell-mode",
        "Run the shell (minisgl chat) instead of listening",
        &Switch { at: |s| &mut s.serve.shell, on: true },
    )
    .aliases(&["shell"]),
    shell(
        "shell-max-tokens",
        "Tokens of the shell's answers at most",
        &Integer { at: |s| &mut s.serve.shell_sampling.max_tokens, min: 1, max: 1 << 24 },
    ),
    shell(
        "shell-top-k",
        "The shell samples among so many likeliest tokens; -1 or 0 is off",
        &Integer { at: |s| &mut s.serve.shell_sampling.top_k, min: -1, max: 1 << 24 },
    ),
    shell(
        "shell-top-p",
        "The shell samples among the likeliest tokens of this much probability",
        &Real { at: |s| &mut s.serve.shell_sampling.top_p, min: 0.0, max: 1.0, above_min: true },
    ),
    shell(
        "shell-temperature",
        "The shell's temperature; 0 is greedy",
        &Real { at: |s| &mut s.serve.shell_sampling.temperature, min: 0.0, max: 2.0, above_min: false },
    ),
    log("log-level", "The least important messages that are shown", &Choice { at: |s| &mut s.log.level })
        .or_variable("LOG_LEVEL"),
    log("log-pid", "Name the process on each line", &Switch { at: |s| &mut s.log.pid, on: true })
        .or_variable("LOG_PID"),
];
