//! A model whose next token is a hash of seed and prefix, run as an engine would: page tables by slot, contents by place.
//!
//! Each place holds the hash of the whole prefix that it stands for, as real K/V depends on all tokens before it. So a page
//! in the wrong table, written twice, shared too early or found by a wrong prefix shows at the next row that reads it.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use minisgl_kernels::{PageId, RowError, Sampling, TokenId, Want};

use crate::batch::{Batch, BatchOutput, Capacity, Row, RowOutput, RowTokens};
use crate::request::FinishReason;

pub(super) const VOCABULARY: u32 = 60;
/// One token in thirty ends a sequence.
pub(super) const EOS: [TokenId; 2] = [0, 1];

/// Greedy, told apart by the seed.
pub(super) fn sampling(seed: u64) -> Arc<Sampling> {
    Arc::new(Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed })
}

fn mix(a: u64, b: u64) -> u64 {
    let x = (a ^ b.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (x >> 31)
}

fn sample(prefix: u64, seed: u64) -> TokenId {
    (mix(prefix, seed) % u64::from(VOCABULARY)) as TokenId
}

/// What a sequence must do: computed alone, token by token.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    /// The prompt, and as much output as max_tokens allows, whatever ends it before.
    tokens: Vec<TokenId>,
    /// By position: the hash of all tokens up to it.
    prefixes: Vec<u64>,
    /// What its client must hear.
    pub(super) output: Vec<TokenId>,
    pub(super) reason: FinishReason,
}

impl Truth {
    pub(super) fn new(prompt: &[TokenId], max_tokens: usize, seed: u64, ignore_eos: bool) -> Self {
        let mut tokens = prompt.to_vec();
        let mut prefixes: Vec<u64> = Vec::new();
        for position in 0..prompt.len() + max_tokens {
            prefixes.push(mix(prefixes.last().copied().unwrap_or(0), u64::from(tokens[position])));
            if position + 1 >= prompt.len() {
                tokens.push(sample(prefixes[position], seed));
            }
        }
        let all = &tokens[prompt.len()..prompt.len() + max_tokens];
        let end = all.iter().position(|token| !ignore_eos && EOS.contains(token));
        let (output, reason) = match end {
            Some(end) => (all[..=end].to_vec(), FinishReason::Stop),
            None => (all.to_vec(), FinishReason::Length),
        };
        Self { tokens, prefixes, output, reason }
    }
}

#[derive(Debug)]
struct SlotState {
    seed: u64,
    table: Vec<PageId>,
    fed: usize,
    last: Option<TokenId>,
    broken: bool,
}

/// The engine's side. Sequences are known by their seed.
#[derive(Debug)]
pub(super) struct Model {
    capacity: Capacity,
    /// `[pages * page_size]`
    places: Vec<Option<u64>>,
    slots: HashMap<u32, SlotState>,
    pub(super) truths: HashMap<u64, Truth>,
}

impl Model {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            places: vec![None; capacity.pages * capacity.page_size],
            slots: HashMap::new(),
            truths: HashMap::new(),
        }
    }

    /// Runs a batch; row `fails` of it, if there is one, fails and leaves garbage. Returns also the failed row's seed.
    pub(super) fn run(&mut self, batch: &Batch, fails: Option<usize>, elapsed: Duration) -> (BatchOutput, Vec<u64>) {
        assert!(!batch.rows.is_empty() && batch.tokens() <= self.capacity.batch_tokens, "{} tokens", batch.tokens());
        let mut slots: Vec<_> = batch.rows.iter().map(|row| row.slot).collect();
        slots.sort();
        slots.dedup();
        assert_eq!(slots.len(), batch.rows.len(), "two rows of one slot");
        assert!(slots.iter().all(|slot| (slot.0 as usize) < self.capacity.slots), "{slots:?}");
        let mut failed = Vec::new();
        let mut rows = Vec::new();
        for (index, row) in batch.rows.iter().enumerate() {
            let output = self.run_row(row, fails == Some(index));
            if matches!(output, RowOutput::Failed(_)) {
                failed.push(self.slots[&row.slot.0].seed);
            }
            rows.push(output);
        }
        (BatchOutput { rows, elapsed }, failed)
    }

    fn run_row(&mut self, row: &Row, fails: bool) -> RowOutput {
        if let Some(begin) = &row.begin {
            let state = SlotState { seed: begin.seed, table: Vec::new(), fed: row.start, last: None, broken: false };
            self.slots.insert(row.slot.0, state);
        }
        let page_size = self.capacity.page_size;
        let state = self.slots.get_mut(&row.slot.0).expect("a slot begins with its sampling parameters");
        let (start, end) = (row.start, row.start + row.tokens.len());
        assert_eq!(start, state.fed, "a row goes on where the last one ended");
        state.table.extend(&row.new_pages);
        assert_eq!(state.table.len(), end.div_ceil(page_size), "as many pages as the row needs: {row:?}");
        let place = |position: usize| state.table[position / page_size].0 as usize * page_size + position % page_size;
        let truth = &self.truths[&state.seed];
        if !state.broken {
            for position in 0..start {
                let (there, due) = (self.places[place(position)], truth.prefixes[position]);
                assert_eq!(there, Some(due), "seed {}: position {position} is not what was fed there", state.seed);
            }
        }
        let due = &truth.tokens[start..end];
        match &row.tokens {
            RowTokens::Chunk(tokens) => assert_eq!(tokens, due, "the sequence's own tokens"),
            RowTokens::LastSampled if !state.broken => assert_eq!(state.last, Some(due[0]), "the slot's last token"),
            RowTokens::LastSampled => {}
        }
        state.fed = end;
        state.broken |= fails;
        for position in start..end {
            self.places[place(position)] = Some(truth.prefixes[position]).filter(|_| !state.broken);
        }
        let token = sample(truth.prefixes[end - 1], state.seed);
        match row.want {
            _ if state.broken => RowOutput::Failed(RowError::NotANumber),
            Want::Nothing => RowOutput::Nothing,
            Want::Sample | Want::Scores => {
                state.last = Some(token);
                RowOutput::Token(token)
            }
        }
    }
}
