//! Accuracy: how far an engine's next-token distributions are from those of exact arithmetic on the same weights.
//!
//! Owns the comparison and its figures; `llama-perplexity --kl-divergence` counts the same positions. Knows neither which
//! kernels computed nor how a request is served: it feeds both engines by hand.
//!
//! ```text
//!   text   |── chunk: fed, not scored ──|── scored ──|── chunk: fed, not scored ──|── scored ──|    a chunk is a
//!          0                         context / 2     context                                        sequence of its own
//! ```
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minisgl_checkpoint::{Checkpoint, FindError, FindOptions, OpenOptions, find};
use minisgl_config::{DTypeChoice, DeviceKind, EngineSettings, KvCacheDType, Quantize};
use minisgl_kernels::{PageId, RowError, Sampling, Slot, TokenId, Want};
use minisgl_tokenizer::{AddSpecial, Tokenizer, TokenizerError};

use crate::batch::{Batch, Capacity, EngineError, ModelRunner, Row, RowOutput, RowTokens};
use crate::engine::{self, EngineOptions, Vocabulary};

mod figures;
pub use figures::Accuracy;
use figures::Figures;

/// The text that is scored where none is given: the first chapter of Lewis Carroll's "Alice's Adventures in Wonderland"
/// and most of the second (1865, in the public domain), typed without its illustrations' and poems' layout.
pub const TEXT: &str = include_str!("accuracy/alice.txt");

/// Positions whose logits are out at a time: a vocabulary of 152,000 makes 39 MB of them.
const SCORED_AT_ONCE: usize = 64;
const TICK: Duration = Duration::from_secs(1);
/// Nothing is sampled for its token.
const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

/// The comparison cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AccuracyError {
    /// The model's files cannot be had.
    #[error(transparent)]
    Find(#[from] FindError),
    /// They are bad.
    #[error(transparent)]
    Checkpoint(#[from] minisgl_checkpoint::CheckpointError),
    /// The tokenizer is bad.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// One of the engines cannot start.
    #[error(transparent)]
    Load(#[from] engine::LoadError),
    /// One of them stopped.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A row failed.
    #[error("chunk {chunk} of the text: {error}")]
    Row {
        /// Which, from 0.
        chunk: usize,
        /// What the device says.
        error: RowError,
    },
    /// The text or the settings do not allow it.
    #[error("{0}")]
    Cannot(String),
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// The engine that is measured.
    pub settings: &'a EngineSettings,
    /// What both read.
    pub text: &'a str,
    /// Tokens a chunk, at least 4.
    pub context: usize,
    /// Show downloads on stderr.
    pub show_downloads: bool,
}

/// The exact counterpart of an engine: the same device and the weights as the file has them, everything in float32.
pub fn exact(settings: &EngineSettings) -> EngineSettings {
    EngineSettings {
        dtype: DTypeChoice::Float32,
        quantize: Quantize::None,
        kv_cache_dtype: KvCacheDType::Auto,
        ..settings.clone()
    }
}

/// Loads both engines and runs the text through them. `progress` hears after each chunk how many are done, of how many.
pub fn compare(comparison: Comparison<'_>, progress: &mut dyn FnMut(usize, usize)) -> Result<Accuracy, AccuracyError> {
    let Comparison { settings, text, context, show_downloads } = comparison;
    if settings.device == DeviceKind::Sim {
        return Err(AccuracyError::Cannot("--device sim: a simulated device computes no distributions".to_owned()));
    }
    let weights = !settings.dummy_weight;
    let hub = settings.model_source;
    let found = find(&FindOptions { model: &settings.model, hub, weights, progress: show_downloads })?;
    let checkpoint = open(&found.path, settings)?;
    let tokenizer = Tokenizer::new(checkpoint.tokenizer()?)?;
    let chunks = chunks(&tokenizer, text, context)?;
    let mut fast = Scorer::load(&checkpoint, settings, context)?;
    let mut exact = Scorer::load(&checkpoint, &exact(settings), context)?;
    let mut figures = Figures::new(fast.capacity.vocabulary);
    for (done, chunk) in chunks.iter().enumerate() {
        progress(done, chunks.len());
        let at = |error| failed(error, done);
        fast.begin(&chunk[..context / 2]).map_err(at)?;
        exact.begin(&chunk[..context / 2]).map_err(at)?;
        // The last token's own distribution is not scored: what follows it is another chunk.
        let mut from = context / 2;
        while from < context - 1 {
            let to = (from + fast.most.min(exact.most)).min(context - 1);
            let (a, b) = (fast.scores(&chunk[from..to]), exact.scores(&chunk[from..to]));
            figures.add(&a.map_err(at)?, &b.map_err(at)?, &chunk[from + 1..=to]);
            from = to;
        }
    }
    progress(chunks.len(), chunks.len());
    Ok(figures.finish())
}

fn open(path: &Path, settings: &EngineSettings) -> Result<Checkpoint, AccuracyError> {
    Ok(Checkpoint::open(path, OpenOptions { dummy_weights: settings.dummy_weight, weights: true })?)
}

fn failed(error: Stopped, chunk: usize) -> AccuracyError {
    match error {
        Stopped::Engine(error) => error.into(),
        Stopped::Row(error) => AccuracyError::Row { chunk, error },
    }
}

/// The text in whole chunks; what is left over is not used. A model that wants a token before every text gets it in the
/// place of each chunk's first.
fn chunks(tokenizer: &Tokenizer, text: &str, context: usize) -> Result<Vec<Vec<TokenId>>, AccuracyError> {
    let bare = tokenizer.encode(text, AddSpecial::No)?;
    let dressed = tokenizer.encode(text, AddSpecial::Yes)?;
    let bos = dressed.first().copied().filter(|_| dressed[1..].starts_with(&bare));
    if bare.len() < context {
        let (has, bytes) = (bare.len(), text.len());
        let why = format!("the text has {has} tokens in {bytes} bytes, and one chunk takes {context} (--context)");
        return Err(AccuracyError::Cannot(why));
    }
    let mut chunks: Vec<Vec<TokenId>> = bare.chunks_exact(context).map(<[TokenId]>::to_vec).collect();
    if let Some(bos) = bos {
        chunks.iter_mut().for_each(|chunk| chunk[0] = bos);
    }
    Ok(chunks)
}

/// Why an engine gave no scores.
enum Stopped {
    Engine(EngineError),
    Row(RowError),
}

/// An engine that runs one sequence at a time, on the first slot and the first pages.
struct Scorer {
    runner: Box<dyn ModelRunner>,
    capacity: Capacity,
    /// Tokens a batch.
    most: usize,
    /// Tokens fed.
    fed: usize,
}

impl Scorer {
    fn load(checkpoint: &Checkpoint, settings: &EngineSettings, context: usize) -> Result<Self, AccuracyError> {
        let vocabulary = Vocabulary::default();
        let runner = engine::load(EngineOptions { checkpoint, settings, vocabulary, progress: &mut |_, _| () })?;
        let capacity = runner.capacity();
        let room = capacity.context.min(capacity.pages * capacity.page_size);
        if room < context {
            let why = format!("--context {context}: the model's context and the K/V cache hold {room} (--num-pages)");
            return Err(AccuracyError::Cannot(why));
        }
        Ok(Self { runner, capacity, most: SCORED_AT_ONCE.min(capacity.batch_tokens), fed: 0 })
    }

    /// A new sequence.
    fn begin(&mut self, tokens: &[TokenId]) -> Result<(), Stopped> {
        self.fed = 0;
        for chunk in tokens.chunks(self.capacity.batch_tokens) {
            self.feed(chunk, Want::Nothing)?;
        }
        Ok(())
    }

    /// The logits after each of some further tokens.
    fn scores(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, Stopped> {
        match self.feed(tokens, Want::Scores)? {
            RowOutput::Scores { logits, .. } => Ok(logits),
            RowOutput::Failed(error) => Err(Stopped::Row(error)),
            other => unreachable!("scores were wanted, not {other:?}"),
        }
    }

    fn feed(&mut self, tokens: &[TokenId], want: Want) -> Result<RowOutput, Stopped> {
        let (start, end) = (self.fed, self.fed + tokens.len());
        let page_size = self.capacity.page_size;
        let row = Row {
            slot: Slot(0),
            begin: (start == 0).then(|| Arc::new(GREEDY)),
            start,
            tokens: RowTokens::Chunk(tokens.to_vec()),
            new_pages: (start.div_ceil(page_size)..end.div_ceil(page_size)).map(|page| PageId(page as u32)).collect(),
            want,
        };
        self.fed = end;
        self.runner.submit(Batch { rows: vec![row] }).map_err(Stopped::Engine)?;
        loop {
            if let Some(mut output) = self.runner.collect(TICK).map_err(Stopped::Engine)? {
                return Ok(output.rows.pop().expect("a result for the row"));
            }
        }
    }
}
