//! The figures that the server shows: one registry, passed in, no globals.
//!
//! Owns names, labels and buckets. Knows nothing of who observes what, or when.
use std::sync::Arc;
use std::time::Duration;

use minisgl_config::MetricsPrefix;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::batch::Capacity;

/// The scheduler's state after a commit, as gauges and running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Sequences with a slot.
    pub running: usize,
    /// Sequences that wait for one.
    pub waiting: usize,
    /// Pages in the pool.
    pub pages_free: usize,
    /// Pages that the prefix tree owns.
    pub pages_cached: usize,
    /// Pages that sequences own.
    pub pages_in_use: usize,
    /// `free + cached + in_use`
    pub pages_total: usize,
    /// Pages that a sequence could get now: the free ones, and the cached ones that nobody uses.
    pub pages_available: usize,
    /// Prompt tokens that were looked up in the prefix tree, in all.
    pub prefix_queries: u64,
    /// Prompt tokens that were found there, in all.
    pub prefix_hits: u64,
    /// Retractions, in all.
    pub preemptions: u64,
}

/// How a sequence ended, as `request_success_total{finished_reason}` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// Its output bound.
    Length,
    /// Its caller left.
    Abort,
    /// Its row, its batch or the engine failed.
    Error,
}

impl Ended {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// Why a request was not taken, as `admission_rejections_total{reason}` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// All permits are taken.
    QueueFull,
    /// The model is not loaded yet.
    Loading,
    /// The server is about to end.
    Draining,
    /// The engine is gone.
    Failed,
    /// The prompt leaves no room for output.
    PromptTooLong,
    /// The prompt cannot be encoded, is empty, or has ids beyond the vocabulary.
    BadPrompt,
}

impl Rejection {
    const ALL: [Self; 6] =
        [Self::QueueFull, Self::Loading, Self::Draining, Self::Failed, Self::PromptTooLong, Self::BadPrompt];

    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Loading => "loading",
            Self::Draining => "draining",
            Self::Failed => "engine_failed",
            Self::PromptTooLong => "prompt_too_long",
            Self::BadPrompt => "bad_prompt",
        }
    }
}

/// One sequence's times, as far as it came. All start at the request's head or at an event of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SequenceTimes {
    /// Request head to end.
    pub e2e: Duration,
    /// Queued to first row.
    pub queue: Option<Duration>,
    /// First row to first token.
    pub prefill: Option<Duration>,
    /// First token to last.
    pub decode: Option<Duration>,
    /// First row to last token.
    pub inference: Option<Duration>,
    /// Tokens of the prompt; 0 where it was never encoded, and its lengths then go unobserved.
    pub prompt_tokens: usize,
    /// Tokens that it produced.
    pub generation_tokens: usize,
}

/// Seconds.
const TTFT_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
/// Seconds. Those below 0.01 are ours: vLLM's begin there.
const TOKEN_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0, 20.0, 40.0, 80.0,
];
/// Seconds.
const REQUEST_BUCKETS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
/// Tokens, 1-2-5.
const LENGTH_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];
/// Tokens, powers of two.
const ITERATION_BUCKETS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// The registry and what is in it. Clones share it.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    running: IntGauge,
    waiting: IntGauge,
    kv_usage: Gauge,
    kv_pages: IntGaugeVec,
    cache_config: GaugeVec,
    simulated: GaugeVec,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    cached_tokens: IntCounter,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    preemptions: IntCounter,
    ended: IntCounterVec,
    rejections: IntCounterVec,
    ttft: Histogram,
    inter_token: Histogram,
    per_output_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
    iteration: Histogram,
}

/// Makes metrics of one prefix and one pair of labels and registers them. Names are ours and fixed, so a clash or a bad
/// name is a programmer's error.
struct Maker {
    registry: Registry,
    prefix: &'static str,
    model_name: String,
}

impl Maker {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}{name}", self.prefix), help)
            .const_label("model_name", &self.model_name)
            .const_label("engine", "0")
    }

    fn keep<M: prometheus::core::Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("a metric's name and labels are well-formed");
        self.registry.register(Box::new(metric.clone())).expect("a metric's name is unique");
        metric
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::with_opts(self.opts(name, help)))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::with_opts(self.opts(name, help)))
    }

    /// A counter with one more label, all of whose values are there from the start.
    fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let counters = self.keep(IntCounterVec::new(self.opts(name, help), &[label]));
        values.iter().for_each(|value| drop(counters.with_label_values(&[*value])));
        counters
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let common_opts = self.opts(name, help);
        self.keep(Histogram::with_opts(HistogramOpts { common_opts, buckets: buckets.to_vec() }))
    }
}

impl Metrics {
    /// Everything at 0. `model_name` is the served name.
    pub fn new(prefix: MetricsPrefix, model_name: &str) -> Self {
        let (prefix, iteration) = match prefix {
            MetricsPrefix::Minisgl => ("minisgl_", "iteration_tokens"),
            MetricsPrefix::Vllm => ("vllm:", "iteration_tokens_total"),
        };
        let m = Maker { registry: Registry::new(), prefix, model_name: model_name.to_owned() };
        let kv_pages =
            m.keep(IntGaugeVec::new(m.opts("kv_pages", "Pages of the K/V cache by who owns them."), &["state"]));
        ["free", "cached", "in_use", "total"].iter().for_each(|state| drop(kv_pages.with_label_values(&[*state])));
        Self(Arc::new(Inner {
            running: m.gauge("num_requests_running", "Sequences in the running batch."),
            waiting: m.gauge("num_requests_waiting", "Sequences that wait to run."),
            kv_usage: m.keep(Gauge::with_opts(m.opts(
                "kv_cache_usage_perc",
                "Share of K/V pages that sequences use, shared prefixes too; 1 is all of them.",
            ))),
            kv_pages,
            cache_config: m.keep(GaugeVec::new(
                m.opts("cache_config_info", "The K/V cache's shape: tokens a page and pages, as labels."),
                &["block_size", "num_gpu_blocks"],
            )),
            simulated: m.keep(GaugeVec::new(
                m.opts("simulated_info", "There where no device computes: the profile that says when answers come."),
                &["profile"],
            )),
            prompt_tokens: m.counter("prompt_tokens_total", "Prompt tokens of sequences that began to run."),
            generation_tokens: m.counter("generation_tokens_total", "Tokens generated."),
            cached_tokens: m.counter("prompt_tokens_cached_total", "Prompt tokens that the prefix cache held."),
            prefix_queries: m.counter("prefix_cache_queries_total", "Tokens looked up in the prefix cache."),
            prefix_hits: m.counter("prefix_cache_hits_total", "Tokens found in the prefix cache."),
            preemptions: m.counter("num_preemptions_total", "Sequences retracted because pages ran out."),
            ended: m.counters(
                "request_success_total",
                "Sequences that ended, by reason.",
                "finished_reason",
                &Ended::ALL.map(Ended::label),
            ),
            rejections: m.counters(
                "admission_rejections_total",
                "Requests that were not taken, by reason.",
                "reason",
                &Rejection::ALL.map(Rejection::label),
            ),
            ttft: m.histogram("time_to_first_token_seconds", "Request head to first token.", TTFT_BUCKETS),
            inter_token: m.histogram("inter_token_latency_seconds", "One token to the next.", TOKEN_BUCKETS),
            per_output_token: m.histogram(
                "request_time_per_output_token_seconds",
                "A sequence's mean time per output token after the first.",
                TOKEN_BUCKETS,
            ),
            e2e: m.histogram("e2e_request_latency_seconds", "Request head to the sequence's end.", REQUEST_BUCKETS),
            queue: m.histogram("request_queue_time_seconds", "Queued to first row.", REQUEST_BUCKETS),
            inference: m.histogram("request_inference_time_seconds", "First row to last token.", REQUEST_BUCKETS),
            prefill: m.histogram("request_prefill_time_seconds", "First row to first token.", REQUEST_BUCKETS),
            decode: m.histogram("request_decode_time_seconds", "First token to last token.", REQUEST_BUCKETS),
            request_prompt: m.histogram("request_prompt_tokens", "Prompt tokens of a sequence.", LENGTH_BUCKETS),
            request_generation: m.histogram(
                "request_generation_tokens",
                "Tokens that a sequence generated.",
                LENGTH_BUCKETS,
            ),
            iteration: m.histogram(iteration, "Input tokens of a batch.", ITERATION_BUCKETS),
            registry: m.registry,
        }))
    }

    /// The engine has loaded: its cache's shape is known.
    pub fn set_capacity(&self, capacity: &Capacity) {
        let labels = [capacity.page_size.to_string(), capacity.pages.to_string()];
        self.0.cache_config.with_label_values(&labels).set(1.0);
        self.0.kv_pages.with_label_values(&["free"]).set(capacity.pages as i64);
        self.0.kv_pages.with_label_values(&["total"]).set(capacity.pages as i64);
    }

    /// The engine is a simulation: every figure here is of that profile.
    pub fn set_simulated(&self, profile: &str) {
        self.0.simulated.with_label_values(&[profile]).set(1.0);
    }

    /// The scheduler's state after a commit. One scheduler reports here: its totals never go back.
    pub fn set_scheduler(&self, stats: &SchedulerStats) {
        let m = &self.0;
        m.running.set(stats.running as i64);
        m.waiting.set(stats.waiting as i64);
        let used = stats.pages_total - stats.pages_available;
        m.kv_usage.set(used as f64 / stats.pages_total.max(1) as f64);
        for (state, pages) in [
            ("free", stats.pages_free),
            ("cached", stats.pages_cached),
            ("in_use", stats.pages_in_use),
            ("total", stats.pages_total),
        ] {
            m.kv_pages.with_label_values(&[state]).set(pages as i64);
        }
        raise(&m.prefix_queries, stats.prefix_queries);
        raise(&m.prefix_hits, stats.prefix_hits);
        raise(&m.preemptions, stats.preemptions);
    }

    /// A batch with this many input tokens was run.
    pub fn observe_iteration(&self, tokens: usize) {
        self.0.iteration.observe(tokens as f64);
    }

    /// A sequence began to run.
    pub fn count_prompt(&self, prompt_tokens: usize, cached_tokens: usize) {
        self.0.prompt_tokens.inc_by(prompt_tokens as u64);
        self.0.cached_tokens.inc_by(cached_tokens as u64);
    }

    /// A sequence's first token, this long after its request's head.
    pub fn observe_first_token(&self, since_head: Duration) {
        self.0.generation_tokens.inc();
        self.0.ttft.observe(since_head.as_secs_f64());
    }

    /// A further token, this long after the one before.
    pub fn observe_next_token(&self, since_last: Duration) {
        self.0.generation_tokens.inc();
        self.0.inter_token.observe(since_last.as_secs_f64());
    }

    /// A sequence's end.
    pub fn observe_end(&self, ended: Ended, times: &SequenceTimes) {
        let m = &self.0;
        m.ended.with_label_values(&[ended.label()]).inc();
        m.e2e.observe(times.e2e.as_secs_f64());
        for (histogram, time) in [
            (&m.queue, times.queue),
            (&m.prefill, times.prefill),
            (&m.decode, times.decode),
            (&m.inference, times.inference),
        ] {
            if let Some(time) = time {
                histogram.observe(time.as_secs_f64());
            }
        }
        if let (Some(decode), 2..) = (times.decode, times.generation_tokens) {
            m.per_output_token.observe(decode.as_secs_f64() / (times.generation_tokens - 1) as f64);
        }
        if times.prompt_tokens > 0 {
            m.request_prompt.observe(times.prompt_tokens as f64);
            m.request_generation.observe(times.generation_tokens as f64);
        }
    }

    /// A request was not taken.
    pub fn count_rejection(&self, reason: Rejection) {
        self.0.rejections.with_label_values(&[reason.label()]).inc();
    }

    /// Prometheus' text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&self.0.registry.gather(), &mut text).expect("text is written to memory");
        text
    }
}

fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn used(prefix: MetricsPrefix) -> Metrics {
        let metrics = Metrics::new(prefix, "tiny");
        let capacity = Capacity { pages: 8, page_size: 16, slots: 4, context: 100, vocabulary: 300, batch_tokens: 64 };
        metrics.set_capacity(&capacity);
        metrics.set_scheduler(&SchedulerStats {
            running: 2,
            waiting: 1,
            pages_free: 5,
            pages_cached: 1,
            pages_in_use: 2,
            pages_total: 8,
            pages_available: 6,
            prefix_queries: 40,
            prefix_hits: 16,
            preemptions: 3,
        });
        metrics.observe_iteration(7);
        metrics
    }

    fn value(text: &str, series: &str) -> f64 {
        let line = text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("{series} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn every_series_is_there_from_the_start() {
        let text = Metrics::new(MetricsPrefix::Minisgl, "tiny").encode();
        for name in [
            "num_requests_running{",
            "num_requests_waiting{",
            "kv_cache_usage_perc{",
            "prompt_tokens_total{",
            "generation_tokens_total{",
            "prompt_tokens_cached_total{",
            "prefix_cache_queries_total{",
            "prefix_cache_hits_total{",
            "num_preemptions_total{",
            "time_to_first_token_seconds_count{",
            "inter_token_latency_seconds_count{",
            "request_time_per_output_token_seconds_count{",
            "e2e_request_latency_seconds_count{",
            "request_queue_time_seconds_count{",
            "request_inference_time_seconds_count{",
            "request_prefill_time_seconds_count{",
            "request_decode_time_seconds_count{",
            "request_prompt_tokens_count{",
            "request_generation_tokens_count{",
            "iteration_tokens_count{",
        ] {
            assert_eq!(value(&text, &format!("minisgl_{name}engine=\"0\",model_name=\"tiny\"}}")), 0.0);
        }
        for reason in Ended::ALL.map(Ended::label) {
            let series = format!("finished_reason=\"{reason}\",model_name=\"tiny\"}} 0");
            assert!(text.contains(&series), "{series}");
        }
        for reason in Rejection::ALL.map(Rejection::label) {
            let series = format!("model_name=\"tiny\",reason=\"{reason}\"}} 0");
            assert!(text.contains(&series), "{series}");
        }
        for state in ["free", "cached", "in_use", "total"] {
            assert!(text.contains(&format!("state=\"{state}\"}} 0")), "{state}");
        }
    }

    #[test]
    fn the_scheduler_sets_gauges_and_raises_counters() {
        let metrics = used(MetricsPrefix::Vllm);
        metrics.set_scheduler(&SchedulerStats { prefix_queries: 50, pages_total: 8, ..Default::default() });
        let text = metrics.encode();
        let labels = "{engine=\"0\",model_name=\"tiny\"}";
        assert_eq!(value(&text, &format!("vllm:num_requests_running{labels}")), 0.0);
        assert_eq!(value(&text, &format!("vllm:prefix_cache_queries_total{labels}")), 50.0);
        assert_eq!(value(&text, &format!("vllm:prefix_cache_hits_total{labels}")), 16.0);
        assert_eq!(value(&text, &format!("vllm:iteration_tokens_total_sum{labels}")), 7.0);
        let cache = "vllm:cache_config_info{block_size=\"16\",engine=\"0\",model_name=\"tiny\",num_gpu_blocks=\"8\"}";
        assert_eq!(value(&text, cache), 1.0);
    }

    #[test]
    fn an_ended_sequence_is_observed_as_far_as_it_came() {
        let metrics = Metrics::new(MetricsPrefix::Minisgl, "tiny");
        let labels = "{engine=\"0\",model_name=\"tiny\"}";
        metrics.observe_end(Ended::Abort, &SequenceTimes { e2e: Duration::from_secs(1), ..Default::default() });
        metrics.observe_end(
            Ended::Stop,
            &SequenceTimes {
                e2e: Duration::from_secs(9),
                queue: Some(Duration::from_secs(1)),
                prefill: Some(Duration::from_secs(2)),
                decode: Some(Duration::from_secs(4)),
                inference: Some(Duration::from_secs(6)),
                prompt_tokens: 11,
                generation_tokens: 5,
            },
        );
        let text = metrics.encode();
        for (name, sum, count) in [
            ("e2e_request_latency_seconds", 10.0, 2.0),
            ("request_queue_time_seconds", 1.0, 1.0),
            ("request_prefill_time_seconds", 2.0, 1.0),
            ("request_decode_time_seconds", 4.0, 1.0),
            ("request_inference_time_seconds", 6.0, 1.0),
            ("request_time_per_output_token_seconds", 1.0, 1.0),
            ("request_prompt_tokens", 11.0, 1.0),
            ("request_generation_tokens", 5.0, 1.0),
        ] {
            assert_eq!(value(&text, &format!("minisgl_{name}_sum{labels}")), sum, "{name}");
            assert_eq!(value(&text, &format!("minisgl_{name}_count{labels}")), count, "{name}");
        }
    }

    #[test]
    fn promtool_finds_nothing_to_say() {
        let found = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            eprintln!("not checked: promtool is not installed (Debian's package prometheus)");
            return;
        }
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = promtool.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, used(MetricsPrefix::Minisgl).encode().as_bytes()).unwrap();
        drop(stdin);
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
