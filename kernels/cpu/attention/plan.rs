//! Who computes what: tiles of queries against runs of blocks, sized so that all threads are busy to the end.
//!
//! Decides nothing that a result could depend on: how a row is cut into tiles, and the blocks of a tile among threads, only
//! says who computes which blocks of which queries.
use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use super::BLOCK;
use crate::device::Attend;
use crate::host::Staged;

/// Query vectors a tile (tokens times heads of a group): enough that a block's keys are turned for many, few enough that all
/// stays in the second-level cache.
const QUERIES: usize = 96;
/// A row of at most so many query vectors a K/V head is one tile, whose blocks may be shared among threads.
const FEW_QUERIES: usize = 24;
/// Tasks a thread at least, where there is that much to do: a thread that is held up leaves the rest to the others.
const TASKS_A_THREAD: usize = 4;
/// What turning a block's keys and values costs, in queries against it.
const PACK_COST: usize = 3;
/// Less than this is done sooner by one thread than shared.
const LEAST_TO_SHARE: usize = 12;

/// Some tokens of one row and the query heads of some K/V heads, against some of the blocks that they see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Its row of the step.
    pub row: usize,
    /// Its first token, in the step.
    pub first: usize,
    /// That token's position.
    pub position: usize,
    /// How many tokens.
    pub tokens: usize,
    /// K/V heads.
    pub kv_heads: Range<usize>,
    /// Blocks.
    pub blocks: Range<usize>,
    /// Where it leaves what it has gathered of each block, when others do the other blocks.
    pub share: Option<usize>,
}

/// A tile whose blocks several tasks gather; the last of them to end merges all.
#[derive(Debug)]
pub(super) struct Share {
    /// All its blocks.
    pub blocks: Range<usize>,
    /// The start of its memory, in f32.
    pub at: usize,
    /// Tasks that have not ended.
    pub left: AtomicUsize,
}

/// All tasks of one operation, the longest first.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One a task.
    pub tiles: Vec<Tile>,
    /// What tiles share.
    pub shares: Vec<Share>,
    /// f32 that the shares take together.
    pub floats: usize,
}

/// The positions that a query sees: `first_seen(..) ..= position`.
pub(super) fn first_seen(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// f32 of one block of a share of so many queries: for each, the largest score, the sum and what is gathered.
pub(super) fn block_floats(queries: usize, columns: usize) -> usize {
    2 * queries.next_multiple_of(16) + queries * columns
}

impl Plan {
    /// For a step and an operation.
    pub(super) fn new(staged: &Staged, op: &Attend, columns: usize, threads: usize) -> Self {
        let wanted = threads * TASKS_A_THREAD;
        let mut tiles = Vec::new();
        for row in 0..staged.rows.len() {
            cut(staged, op, (row, wanted), &mut tiles);
        }
        let mut plan = Self::default();
        let total: usize = tiles.iter().map(|tile| cost(tile, op)).sum();
        let fair = if threads == 1 || total < LEAST_TO_SHARE { usize::MAX } else { total.div_ceil(wanted) };
        for tile in tiles {
            plan.share(tile, op, columns, fair);
        }
        plan.tiles.sort_by_cached_key(|tile| std::cmp::Reverse(cost(tile, op)));
        plan
    }

    /// Adds a tile, in as many tasks as make each at most fair, as far as its blocks and heads go.
    fn share(&mut self, tile: Tile, op: &Attend, columns: usize, fair: usize) {
        let group = op.heads / op.kv_heads;
        let pieces = cost(&tile, op).div_ceil(fair);
        if pieces == 1 || tile.tokens * group > FEW_QUERIES {
            self.tiles.push(tile);
            return;
        }
        // By blocks alone, a task reads one run of memory; by heads as well where blocks are too few.
        let (blocks, heads) = (tile.blocks.len(), tile.kv_heads.len());
        let heads_each = if blocks >= pieces { heads } else { 1 };
        let pieces = if blocks >= pieces { pieces } else { pieces.div_ceil(heads).min(blocks) };
        for kv_heads in tile.kv_heads.clone().step_by(heads_each) {
            let kv_heads = kv_heads..kv_heads + heads_each;
            let share = (pieces > 1).then_some(self.shares.len());
            if share.is_some() {
                let queries = tile.tokens * group * kv_heads.len();
                let left = AtomicUsize::new(pieces);
                self.shares.push(Share { blocks: tile.blocks.clone(), at: self.floats, left });
                self.floats += blocks * block_floats(queries, columns);
            }
            for piece in 0..pieces {
                let [start, end] = [piece, piece + 1].map(|n| tile.blocks.start + n * blocks / pieces);
                self.tiles.push(Tile { kv_heads: kv_heads.clone(), blocks: start..end, share, ..tile.clone() });
            }
        }
    }
}

/// A row's tiles.
fn cut(staged: &Staged, op: &Attend, (row, wanted): (usize, usize), tiles: &mut Vec<Tile>) {
    let (row_index, row) = (row, &staged.rows[row]);
    let group = op.heads / op.kv_heads;
    let few = row.len * group <= FEW_QUERIES;
    let mut tokens = (QUERIES / group).max(1);
    if few {
        tokens = row.len;
    } else if staged.rows.len() < wanted {
        // A short chunk, alone: smaller tiles keep more threads busy.
        let tiles = wanted.div_ceil(op.kv_heads * staged.rows.len());
        tokens = tokens.min(row.len.div_ceil(tiles)).max((FEW_QUERIES / group).max(1));
    }
    for start in (0..row.len).step_by(tokens) {
        let (first, tokens) = (row.first + start, tokens.min(row.len - start));
        let position = staged.tokens[first].position;
        let blocks = first_seen(op.window, position) / BLOCK..(position + tokens).div_ceil(BLOCK);
        let tile =
            |kv_heads| Tile { row: row_index, first, position, tokens, kv_heads, blocks: blocks.clone(), share: None };
        if few {
            tiles.push(tile(0..op.kv_heads));
        } else {
            tiles.extend((0..op.kv_heads).map(|kv_head| tile(kv_head..kv_head + 1)));
        }
    }
}

fn cost(tile: &Tile, op: &Attend) -> usize {
    let queries = tile.tokens * op.heads / op.kv_heads;
    tile.blocks.len() * tile.kv_heads.len() * (PACK_COST + queries)
}
