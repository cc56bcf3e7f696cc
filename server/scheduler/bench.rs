//! How long the scheduler takes beside the engine: a step of 256 running rows, a match in a large prefix tree.
//!
//! `cargo bench --bench scheduler`. The engine is not there: what it would answer is made before the clock starts.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use minisgl::batch::{Batch, BatchOutput, Capacity, RowOutput};
use minisgl::request::SeqId;
use minisgl::scheduler::{NewSequence, Scheduler, SchedulerConfig};
use minisgl_config::CacheType;
use minisgl_kernels::{Sampling, TokenId, Want};

fn main() {
    divan::main();
}

const ROWS: usize = 256;
const PROMPT: usize = 128;
const OUTPUT: usize = 2000;

fn scheduler(capacity: Capacity, batches_out: usize) -> Scheduler {
    Scheduler::new(SchedulerConfig {
        capacity,
        eos: vec![2],
        cache: CacheType::Radix,
        batches_out,
        max_decode_gap: 2.2,
    })
}

fn admit(scheduler: &mut Scheduler, id: u64, prompt: &[TokenId], max_tokens: usize) {
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: id };
    scheduler.admit(NewSequence {
        id: SeqId(id),
        prompt: prompt.into(),
        max_tokens,
        sampling: Arc::new(sampling),
        ignore_eos: true,
        leader: None,
    });
}

/// What an engine says of a batch.
fn answer(batch: &Batch) -> BatchOutput {
    let row = |want| if want == Want::Nothing { RowOutput::Nothing } else { RowOutput::Token(7) };
    let rows = batch.rows.iter().map(|batch_row| row(batch_row.want)).collect();
    BatchOutput { rows, elapsed: Duration::from_millis(10) }
}

/// A scheduler with the batches that are out.
struct Running {
    scheduler: Scheduler,
    out: VecDeque<BatchOutput>,
}

impl Running {
    /// All rows decode, and all are planned ahead.
    fn new(page_size: usize) -> Self {
        let places = ROWS * (PROMPT + OUTPUT);
        let capacity = Capacity {
            pages: places.div_ceil(page_size) + ROWS,
            page_size,
            slots: ROWS,
            context: PROMPT + OUTPUT,
            vocabulary: 50_000,
            batch_tokens: 8192,
        };
        let mut it = Self { scheduler: scheduler(capacity, 2), out: VecDeque::new() };
        for id in 0..ROWS as u32 {
            let prompt: Vec<TokenId> = (0..PROMPT as u32).map(|token| token + 128 * id).collect();
            admit(&mut it.scheduler, id.into(), &prompt, OUTPUT);
        }
        for _ in 0..50 {
            it.plan();
            let output = it.out.pop_front().expect("a batch is out");
            let planned = it.step(output);
            it.out.extend(planned.iter().map(answer));
        }
        assert_eq!(it.scheduler.stats().running, ROWS);
        it
    }

    fn plan(&mut self) {
        while let Some(batch) = self.scheduler.plan() {
            self.out.push_back(answer(&batch));
        }
    }

    /// What the loop does between two batches, its channels apart.
    fn step(&mut self, output: BatchOutput) -> Option<Batch> {
        self.scheduler.commit(output);
        drop(self.scheduler.take_notices());
        self.scheduler.plan()
    }
}

/// Commit of a batch of 256 decode rows, and the plan of the next.
#[divan::bench(args = [1, 16], sample_size = 1, sample_count = 1000)]
fn step_of_256_rows(bencher: Bencher<'_, '_>, page_size: usize) {
    let running = RefCell::new(Running::new(page_size));
    let planned = RefCell::new(None::<Batch>);
    bencher
        .with_inputs(|| {
            let mut running = running.borrow_mut();
            if let Some(batch) = planned.take() {
                assert_eq!(batch.rows.len(), ROWS);
                running.out.push_back(answer(&batch));
            }
            running.plan();
            running.out.pop_front().expect("a batch is out")
        })
        .bench_local_values(|output| {
            let batch = running.borrow_mut().step(output);
            *planned.borrow_mut() = batch;
        });
}

/// Tokens of a prompt that is matched.
const MATCHED: usize = 8192;
const PAGES: usize = 100_000;

/// A prefix tree of 100,000 pages: prompts that leave one of 8,192 tokens again and again, every `branch` tokens, so that
/// its match goes through as many nodes as there are branches.
fn tree(page_size: usize, branch: usize) -> (Scheduler, Vec<TokenId>) {
    let capacity = Capacity {
        pages: PAGES + MATCHED,
        page_size,
        slots: 4,
        context: 1 << 20,
        vocabulary: 1 << 30,
        batch_tokens: 1 << 20,
    };
    let mut scheduler = scheduler(capacity, 1);
    let matched: Vec<TokenId> = (0..MATCHED as u32).collect();
    let branches = MATCHED / branch - 1;
    let tail = (PAGES - MATCHED / page_size) / branches;
    for id in 0..=branches {
        let mut prompt = matched[..if id == 0 { MATCHED } else { id * branch }].to_vec();
        if id > 0 {
            prompt.extend((0..(tail * page_size) as u32).map(|token| (1 << 20) + id as u32 * 97 + token));
        }
        prompt.push(5); // the last token is never matched
        admit(&mut scheduler, id as u64, &prompt, 1);
        while let Some(batch) = scheduler.plan() {
            scheduler.commit(answer(&batch));
        }
        scheduler.take_notices();
    }
    let cached = scheduler.stats().pages_cached;
    // Where a page is a token, the one behind each prompt is kept as well.
    assert!((PAGES * 95 / 100..=PAGES + branches + 1).contains(&cached), "{cached} pages are cached");
    (scheduler, matched)
}

/// `(page size, tokens from a branch to the next)`
#[divan::bench(args = [(1, 512), (1, 64), (1, 16), (16, 512), (16, 16)])]
fn match_of_8192_tokens_in_100000_pages(bencher: Bencher<'_, '_>, (page_size, branch): (usize, usize)) {
    let (scheduler, prompt) = tree(page_size, branch);
    assert_eq!(scheduler.cached_tokens(&prompt), MATCHED - page_size);
    bencher.bench_local(|| scheduler.cached_tokens(divan::black_box(&prompt)));
}
