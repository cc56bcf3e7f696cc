//! Batch invariance, at the engine: whatever else is in the batch, however a prompt is cut, whatever the page size, after
//! prefix hits and retractions, a sequence's logits are the same bits and its tokens the same.
//!
//! The scenarios are random (proptest); each runs on the default path and on others, over quantised and bf16 weights.
use std::path::PathBuf;

use minisgl::batch::{Row, RowOutput, RowTokens};
use minisgl_config::{DTypeChoice, EngineSettings};
use minisgl_kernels::{TokenId, Want};
use proptest::prelude::*;

use super::feed::{Feeder, Sequence, scores_of, token_of};
use crate::support::root;

const CONTEXT: usize = 96;
const SLOTS: u32 = 4;

/// What happens to the sequence that is watched, a step at a time.
#[derive(Clone, Debug)]
enum Act {
    /// So many of its tokens are fed, in one row.
    Feed(usize),
    /// It is retracted: its pages are given up, and all that it knew is fed again in chunks of this size.
    Retract(usize),
    /// As above, but its first half is found in pages of another sequence that had the same beginning.
    RetractOntoHit(usize),
    /// It sits this batch out.
    Wait,
}

#[derive(Clone, Debug)]
struct Scenario {
    page_size: usize,
    threads: usize,
    /// The watched sequence's tokens.
    tokens: Vec<TokenId>,
    /// A step each: what happens to it, and the length of each other sequence's row (0: none; 1: a decode row).
    steps: Vec<(Act, [usize; 2])>,
    /// Where its row stands in the batch.
    place: usize,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1usize..30).prop_map(Act::Feed),
        2 => Just(Act::Feed(1)),
        1 => (1usize..20).prop_map(Act::Retract),
        1 => (1usize..20).prop_map(Act::RetractOntoHit),
        1 => Just(Act::Wait),
    ]
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let others = prop_oneof![Just([0, 0]), [0usize..3, 0usize..20]];
    (
        prop_oneof![Just(1), Just(5), Just(16), Just(64)],
        1usize..4,
        prop::collection::vec(0u32..64, 20..70),
        prop::collection::vec((act(), others), 3..12),
        0usize..3,
    )
        .prop_map(|(page_size, threads, tokens, steps, place)| Scenario {
            page_size,
            threads,
            tokens,
            steps,
            place,
        })
}

/// A model, and how it is computed.
#[derive(Clone, Copy, Debug)]
struct Path {
    model: &'static str,
    dtype: DTypeChoice,
}

const PATHS: [Path; 4] = [
    Path { model: "gguf-llama/model.gguf", dtype: DTypeChoice::Auto },
    Path { model: "qwen3", dtype: DTypeChoice::Auto },
    Path { model: "gguf-llama/model.gguf", dtype: DTypeChoice::Float32 },
    Path { model: "qwen3", dtype: DTypeChoice::BFloat16 },
];

fn load(path: Path, page_size: usize, threads: usize) -> Feeder {
    let model: PathBuf = root().join("tests/fixtures/models").join(path.model);
    let settings = EngineSettings {
        dtype: path.dtype,
        page_size: Some(page_size),
        threads,
        max_running_requests: SLOTS as usize,
        max_prefill_length: 256,
        max_seq_len_override: Some(CONTEXT),
        // Room for the watched one twice, for the one that it hits, and for the others, each at its longest.
        num_pages: Some(5 * CONTEXT.div_ceil(page_size)),
        ..Default::default()
    };
    Feeder::load(&model, &settings)
}

/// What is known of the watched sequence's positions: logits, and the greedy token after each row's last.
struct Seen {
    logits: Vec<Option<Vec<u32>>>,
    vocabulary: usize,
}

impl Seen {
    /// Takes the scores of positions from `start` on; a position that was seen before must give the same bits.
    fn take(&mut self, start: usize, logits: &[f32]) -> Result<(), TestCaseError> {
        for (i, row) in logits.chunks(self.vocabulary).enumerate() {
            let bits: Vec<u32> = row.iter().map(|x| x.to_bits()).collect();
            let known = self.logits[start + i].get_or_insert_with(|| bits.clone());
            prop_assert!(*known == bits, "position {} differs from what it was", start + i);
        }
        Ok(())
    }
}

/// Runs the watched sequence alone, in one row: the truth.
fn alone(path: Path, tokens: &[TokenId]) -> (Seen, TokenId) {
    let mut feeder = load(path, 16, 1);
    let mut sequence = feeder.begin(0);
    let (logits, token) = feeder.scores(&mut sequence, tokens);
    let vocabulary = logits.len() / tokens.len();
    let mut seen = Seen { logits: vec![None; tokens.len()], vocabulary };
    seen.take(0, &logits).expect("nothing to differ from");
    (seen, token)
}

/// The other sequences of the batches, and the feeder.
struct Stage {
    feeder: Feeder,
    others: [Option<Sequence>; 2],
    /// Tokens that each of them has.
    lens: [usize; 2],
    /// Makes the others' tokens.
    counter: u32,
}

impl Stage {
    /// Rows of the others, of these lengths. One that has reached its room starts anew.
    fn other_rows(&mut self, lens: [usize; 2]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (i, &len) in lens.iter().enumerate().filter(|(_, len)| **len > 0) {
            if self.lens[i] + len > CONTEXT - 1
                && let Some(full) = self.others[i].take()
            {
                self.feeder.release(full);
                self.lens[i] = 0;
            }
            let fresh = self.others[i].is_none();
            let mut it = self.others[i].take().unwrap_or_else(|| self.feeder.begin(2 + i as u32));
            self.counter += 1;
            let row = if len == 1 && !fresh {
                self.feeder.row(&mut it, RowTokens::LastSampled, Want::Sample)
            } else {
                let tokens: Vec<TokenId> = (0..len as u32).map(|t| (self.counter * 31 + t * 7) % 64).collect();
                self.feeder.chunk(&mut it, &tokens, Want::Sample)
            };
            self.lens[i] += len;
            self.others[i] = Some(it);
            rows.push(row);
        }
        rows
    }

    /// Runs the watched sequence's row among the others'.
    fn run_among(&mut self, row: Row, lens: [usize; 2], place: usize) -> RowOutput {
        let mut rows = self.other_rows(lens);
        let at = place.min(rows.len());
        rows.insert(at, row);
        self.feeder.run(rows).remove(at)
    }
}

fn check(path: Path, scenario: &Scenario) -> Result<(), TestCaseError> {
    let Scenario { page_size, threads, tokens, steps, place } = scenario;
    let (mut truth, last) = alone(path, tokens);
    let mut stage = Stage { feeder: load(path, *page_size, *threads), others: [None, None], lens: [0, 0], counter: 0 };
    // Someone with the same beginning, whose pages can be hit.
    let mut twin = stage.feeder.begin(1);
    let half = tokens.len() / 2;
    truth.take(0, &stage.feeder.scores(&mut twin, &tokens[..half]).0)?;
    let mut watched = stage.feeder.begin(0);
    let mut fed = 0;
    let feed = |stage: &mut Stage, watched: &mut Sequence, from: usize, len: usize, others, truth: &mut Seen| {
        let row = stage.feeder.chunk(watched, &tokens[from..from + len], Want::Scores);
        let (logits, token) = scores_of(stage.run_among(row, others, *place));
        truth.take(from, &logits).map(|()| token)
    };
    let end = (Act::Feed(tokens.len()), [1, 3]);
    for (act, others) in steps.iter().chain([&end]) {
        match *act {
            Act::Feed(len) => {
                let len = len.min(tokens.len() - fed);
                if len > 0 {
                    let token = feed(&mut stage, &mut watched, fed, len, *others, &mut truth)?;
                    fed += len;
                    prop_assert!(fed < tokens.len() || token == last, "the token after all");
                }
            }
            Act::Wait => {
                let rows = stage.other_rows(*others);
                if !rows.is_empty() {
                    for output in &stage.feeder.run(rows) {
                        token_of(output); // each gives one
                    }
                }
            }
            Act::Retract(chunk) | Act::RetractOntoHit(chunk) => {
                let hit = matches!(act, Act::RetractOntoHit(_)) && fed > half;
                let next = if hit { stage.feeder.begin_after(0, &twin, half) } else { stage.feeder.begin(0) };
                stage.feeder.release(std::mem::replace(&mut watched, next));
                let known = std::mem::replace(&mut fed, if hit { half / page_size * page_size } else { 0 });
                while fed < known {
                    let len = chunk.min(known - fed);
                    feed(&mut stage, &mut watched, fed, len, *others, &mut truth)?;
                    fed += len;
                }
            }
        }
    }
    Ok(())
}

/// Every path sees every scenario.
fn check_all(paths: &[Path], scenario: &Scenario) -> Result<(), TestCaseError> {
    paths
        .iter()
        .try_for_each(|&path| check(path, scenario).map_err(|error| TestCaseError::fail(format!("{path:?}: {error}"))))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_the_default_path(scenario in scenario()) {
        check_all(&PATHS[..2], &scenario)?;
    }

    #[test]
    fn of_the_other_paths(scenario in scenario()) {
        check_all(&PATHS[2..], &scenario)?;
    }
}
