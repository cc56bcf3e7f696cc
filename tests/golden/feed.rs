//! Feeds an engine by hand, as a scheduler would: slots, pages and rows. Pages are given out scattered.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minisgl::batch::{Batch, ModelRunner, Row, RowOutput, RowTokens};
use minisgl::engine::{EngineOptions, LoadError, load};
use minisgl_checkpoint::{Checkpoint, OpenOptions};
use minisgl_config::EngineSettings;
use minisgl_kernels::{PageId, Sampling, Slot, TokenId, Want};

/// An engine and its free pages.
pub(super) struct Feeder {
    runner: Box<dyn ModelRunner>,
    free: Vec<PageId>,
    page_size: usize,
}

/// A sequence that the engine runs.
pub(super) struct Sequence {
    slot: Slot,
    pages: Vec<PageId>,
    /// The first so many are another sequence's.
    shared: usize,
    /// Pages that the engine has heard of.
    told: usize,
    tokens: usize,
    begun: bool,
}

/// Always the best token.
pub(super) const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

impl Feeder {
    /// Loads a model.
    pub(super) fn load(model: &Path, settings: &EngineSettings) -> Self {
        Self::try_load(model, settings).unwrap_or_else(|e| panic!("{}: {e}", model.display()))
    }

    /// Loads a model that may be refused.
    pub(super) fn try_load(model: &Path, settings: &EngineSettings) -> Result<Self, LoadError> {
        let options = OpenOptions { dummy_weights: settings.dummy_weight, weights: true };
        let checkpoint = Checkpoint::open(model, options).unwrap_or_else(|e| panic!("{e}"));
        let vocabulary = Default::default();
        let engine = EngineOptions { checkpoint: &checkpoint, settings, vocabulary, progress: &mut |_, _| {} };
        let runner = load(engine)?;
        let pages = runner.capacity().pages;
        // 7919 is prime and more than any test's pages: a permutation.
        let free = (0..pages).map(|i| PageId((i * 7919 % pages) as u32)).collect();
        Ok(Self { page_size: runner.capacity().page_size, runner, free })
    }

    /// Tokens a page.
    pub(super) fn page_size(&self) -> usize {
        self.page_size
    }

    /// A new sequence in that slot.
    pub(super) fn begin(&mut self, slot: u32) -> Sequence {
        Sequence { slot: Slot(slot), pages: Vec::new(), shared: 0, told: 0, tokens: 0, begun: false }
    }

    /// A new sequence in that slot whose first tokens are another's: as many as fill whole pages, up to `tokens`.
    pub(super) fn begin_after(&mut self, slot: u32, other: &Sequence, tokens: usize) -> Sequence {
        let pages = tokens / self.page_size;
        let shared = other.pages[..pages].to_vec();
        Sequence { pages: shared, shared: pages, tokens: pages * self.page_size, ..self.begin(slot) }
    }

    /// Ends a sequence: its own pages are the next to be given out, full of what it left there.
    pub(super) fn release(&mut self, sequence: Sequence) {
        self.free.extend_from_slice(&sequence.pages[sequence.shared..]);
    }

    /// Its next row.
    pub(super) fn row(&mut self, sequence: &mut Sequence, tokens: RowTokens, want: Want) -> Row {
        let start = sequence.tokens;
        sequence.tokens += tokens.len();
        while sequence.pages.len() * self.page_size < sequence.tokens {
            sequence.pages.push(self.free.pop().expect("the test's cache is large enough"));
        }
        let new_pages = sequence.pages[sequence.told..].to_vec();
        sequence.told = sequence.pages.len();
        let begin = (!sequence.begun).then(|| Arc::new(GREEDY));
        sequence.begun = true;
        Row { slot: sequence.slot, begin, start, tokens, new_pages, want }
    }

    /// A row of known tokens.
    pub(super) fn chunk(&mut self, sequence: &mut Sequence, tokens: &[TokenId], want: Want) -> Row {
        self.row(sequence, RowTokens::Chunk(tokens.to_vec()), want)
    }

    /// Runs rows in one batch.
    pub(super) fn run(&mut self, rows: Vec<Row>) -> Vec<RowOutput> {
        self.runner.submit(Batch { rows }).unwrap_or_else(|e| panic!("{e}"));
        loop {
            if let Some(output) = self.runner.collect(Duration::from_secs(1)).unwrap_or_else(|e| panic!("{e}")) {
                return output.rows;
            }
        }
    }

    /// Runs tokens alone and returns their logits, `[tokens, vocabulary]`, and the token after them.
    pub(super) fn scores(&mut self, sequence: &mut Sequence, tokens: &[TokenId]) -> (Vec<f32>, TokenId) {
        let row = self.chunk(sequence, tokens, Want::Scores);
        scores_of(self.run(vec![row]).remove(0))
    }

    /// Runs the token that was sampled last, and returns the next.
    pub(super) fn decode(&mut self, sequence: &mut Sequence) -> TokenId {
        let row = self.row(sequence, RowTokens::LastSampled, Want::Sample);
        token_of(&self.run(vec![row])[0])
    }
}

/// A `Want::Scores` row's output.
pub(super) fn scores_of(output: RowOutput) -> (Vec<f32>, TokenId) {
    match output {
        RowOutput::Scores { logits, token } => (logits, token),
        other => panic!("scores were wanted, not {other:?}"),
    }
}

/// A `Want::Sample` row's output.
pub(super) fn token_of(output: &RowOutput) -> TokenId {
    match output {
        RowOutput::Token(token) => *token,
        other => panic!("a token was wanted, not {other:?}"),
    }
}
