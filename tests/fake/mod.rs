//! A model that a test can foresee: it repeats what it was told, a byte a token, when the test's gate lets it.
mod runner;
mod tokenizer;

use minisgl::batch::Capacity;
use minisgl::health::Health;
use minisgl::llm::{Llm, LlmOptions, LlmParts, ModelInfo, SamplingParams};
use minisgl::metrics::Metrics;
use minisgl_config::{CacheType, MetricsPrefix};

pub use runner::{FakeRunner, Gate};
pub use tokenizer::{EOS, tokenizer};

/// The model's name.
pub const MODEL: &str = "parrot";

/// What a test may want otherwise.
pub struct FakeModel {
    pub capacity: Capacity,
    pub max_queued: usize,
    pub defaults: SamplingParams,
    pub gate: Gate,
    pub health: Health,
    pub metrics: Metrics,
}

impl Default for FakeModel {
    fn default() -> Self {
        Self {
            capacity: Capacity {
                pages: 256,
                page_size: 4,
                slots: 8,
                context: 512,
                vocabulary: tokenizer::VOCABULARY,
                batch_tokens: 64,
            },
            max_queued: 8,
            // Greedy, so that a request that says nothing has one answer.
            defaults: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            gate: Gate::default(),
            health: Health::default(),
            metrics: Metrics::new(MetricsPrefix::Minisgl, MODEL),
        }
    }
}

impl FakeModel {
    /// A model whose gate is shut.
    pub fn held() -> Self {
        let model = Self::default();
        model.gate.shut();
        model
    }

    /// Starts it.
    pub fn start(self) -> Llm {
        Llm::start(LlmParts {
            runner: Box::new(FakeRunner::new(self.capacity, self.gate)),
            tokenizer: tokenizer(),
            eos: vec![EOS],
            defaults: self.defaults,
            model: ModelInfo { id: MODEL.into(), root: "/models/parrot".into(), created: 1_700_000_000 },
            options: LlmOptions {
                max_queued: self.max_queued,
                cache: CacheType::Radix,
                overlap: true,
                max_decode_gap: 2.2,
                tokenizers: 0,
            },
            health: self.health,
            metrics: self.metrics,
        })
    }
}

/// A series' value in Prometheus' text.
pub fn value(metrics: &Metrics, name: &str, labels: &[&str]) -> f64 {
    let text = metrics.encode();
    let found = text.lines().find(|line| {
        line.strip_prefix("minisgl_").is_some_and(|line| line.split('{').next() == Some(name))
            && labels.iter().all(|label| line.contains(label))
    });
    let line = found.unwrap_or_else(|| panic!("no {name} {labels:?} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// After the threads have ended: every page is back, none with a sequence.
pub fn assert_no_page_lost(metrics: &Metrics) {
    let pages = |state: &str| value(metrics, "kv_pages", &[&format!("state=\"{state}\"")]);
    assert_eq!(pages("in_use"), 0.0, "pages are still in use");
    assert_eq!(pages("free") + pages("cached"), pages("total"), "pages were lost");
}
