//! Attention over pages: tiles of queries against blocks of keys, softmax block by block.
//!
//! A block is 128 keys from a multiple of 128 in absolute positions. A query's result is defined by its own position alone:
//! of each block it sees part of, the scores, their maximum, the sum of exponentials and the weighted sum of values, in
//! order of key; then the blocks merged in order. Neither pages, nor chunks, nor a tile's other queries, nor which thread
//! gathers which block enters.
//!
//! ```text
//!   plan.rs      who computes what: tiles, and blocks of a long context shared among threads
//!   pack.rs      a block's keys and values, from the cache to the layout of the products
//!   product.rs   some queries times all keys, some weights times all values: packed ones, or where they lie
//!   tile.rs      a task: for each block pack, multiply, exponentials, multiply, merge
//!   element.rs   in f32, in pairs of bf16 where the machine multiplies those, or one by the other
//! ```
mod element;
mod pack;
mod plan;
mod product;
mod tile;

use std::sync::atomic::Ordering;

use element::{Element, Pairs, Single, Widened};
use plan::Plan;
use tile::{Around, Gather, Merge, Operands};

use super::simd::padded;
use super::tensor::Tensor;
use super::workers::Workers;
use crate::device::{Attend, KvFormat};
use crate::host::{Buffer, KvCache, Shared, Staged};

/// Keys a block: with the values, in bf16 and 64 columns a head, they fill a first-level cache.
const BLOCK: usize = 128;

/// The whole operation.
pub(super) struct Attention<'a> {
    /// What to compute.
    pub op: &'a Attend,
    /// The step.
    pub staged: &'a Staged,
    /// Keys and values, this step's among them.
    pub cache: &'a KvCache,
    /// `[q | k | v]` rows; q is read.
    pub qkv: &'a Tensor,
    /// `[heads * head_dim]` rows.
    pub out: &'a mut Tensor,
    /// Whether to multiply bf16 as bf16.
    pub in_bf16: bool,
    /// Memory for blocks gathered by several threads.
    pub shares: &'a mut Shares,
}

/// What threads have gathered of blocks that they share, kept from operation to operation.
pub(super) struct Shares(Buffer<f32>);

impl Shares {
    /// Empty: it grows to what the largest operation needs.
    pub(super) fn new() -> Self {
        Self(Buffer::zeroed(0, "attention").expect("nothing always fits"))
    }
}

impl Attention<'_> {
    /// Computes it.
    pub(super) fn run(self, workers: &mut Workers) {
        match self.cache.layout().format() {
            // Bytes are whole numbers, which bf16 holds exactly.
            KvFormat::BF16 | KvFormat::Int8 if self.in_bf16 => self.run_in::<Pairs>(workers),
            KvFormat::BF16 | KvFormat::Int8 => self.run_in::<Widened>(workers),
            // Halves would lose bits as bf16, f32 more.
            KvFormat::F16 | KvFormat::F32 => self.run_in::<Single>(workers),
        }
    }

    fn run_in<E: Element>(self, workers: &mut Workers) {
        let Self { op, staged, cache, qkv, out, shares, .. } = self;
        let plan = Plan::new(staged, op, padded(op.head_dim), workers.threads());
        if shares.0.len() < plan.floats {
            shares.0 = Buffer::zeroed(plan.floats, "attention").expect("memory for the blocks that threads share");
        }
        let (level, stride, threads) = (workers.level, out.stride, workers.threads());
        let (out, memory) = (Shared::new(&mut out.values), Shared::new(&mut shares.0));
        let operands = Operands { op, staged, cache, qkv, out: &out, stride, memory: &memory };
        workers.run(plan.tiles.len(), |scratch, i| {
            let tile = &plan.tiles[i];
            let share = tile.share.map(|share| &plan.shares[share]);
            // Most likely this thread's next, and if not, another's, with which it shares a cache.
            let around = Around { is_first: i < threads, next: plan.tiles.get(i + threads) };
            level.run(Gather::<E>::new(&operands, tile, share, around, scratch));
            // The last to end sees what all have written.
            if let Some(share) = share.filter(|share| share.left.fetch_sub(1, Ordering::AcqRel) == 1) {
                // SAFETY: so all have ended.
                level.run(unsafe { Merge::new(&operands, tile, share, scratch) });
            }
        });
    }
}
