//! Attention over pages: tiles of queries against blocks of keys, softmax online.
//!
//! A block is 64 keys from a multiple of 64 in absolute positions. A query's result is defined by its own position alone:
//! within each block it sees part of, scores, their maximum, the sum of exponentials and the weighted sum of values, in order
//! of key; then the blocks merged in order. Neither pages, nor chunks, nor the tile's other queries enter.
use super::simd::{Isa, Kernel, LANES, Panel, padded};
use super::tensor::{Tensor, round};
use super::workers::{Scratch, Workers};
use crate::device::{Attend, KvShape};
use crate::dtype::DType;
use crate::host::{KvCache, Place, Shared, Staged};
use crate::math::exp;

/// Keys a block.
const BLOCK: usize = 64;
/// Query vectors a tile (tokens times heads of a group): with their scores, a block of K and of V they stay in cache.
const QUERIES: usize = 32;

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
    /// What to round to.
    pub dtype: DType,
}

/// Some tokens of one row, and the query heads of one K/V head.
struct Tile {
    row: usize,
    first: usize,
    tokens: usize,
    kv_head: usize,
}

impl Attention<'_> {
    /// Computes it.
    pub(super) fn run(self, workers: &mut Workers) {
        let Self { op, staged, cache, qkv, out, dtype } = self;
        let tile_tokens = (QUERIES * op.kv_heads / op.heads).max(1);
        let mut tiles = Vec::new();
        for (row, staged) in staged.rows.iter().enumerate() {
            // The last tokens see the most keys: longest first, so that threads end together.
            for start in (0..staged.len).step_by(tile_tokens).rev() {
                let (first, tokens) = (staged.first + start, tile_tokens.min(staged.len - start));
                tiles.extend((0..op.kv_heads).map(|kv_head| Tile { row, first, tokens, kv_head }));
            }
        }
        let (level, stride) = (workers.level, out.stride);
        let out = Shared::new(&mut out.values);
        workers.run(tiles.len(), |scratch, i| {
            let tile = &tiles[i];
            let position = staged.tokens[tile.first].position;
            let source = Pages { cache, pages: staged.pages(tile.row), layer: op.layer, kv_head: tile.kv_head };
            level.run(TileTask { op, source, position, tile, qkv, out: &out, stride, dtype, scratch });
        });
    }
}

/// Where one row's keys and values of one layer and K/V head are.
struct Pages<'a> {
    cache: &'a KvCache,
    pages: &'a [u32],
    layer: usize,
    kv_head: usize,
}

struct TileTask<'a> {
    op: &'a Attend,
    source: Pages<'a>,
    /// Of the tile's first token.
    position: usize,
    tile: &'a Tile,
    qkv: &'a Tensor,
    out: &'a Shared<'a, f32>,
    /// Elements from a row of out to the next.
    stride: usize,
    dtype: DType,
    scratch: &'a mut Scratch,
}

/// What a query has gathered so far.
#[derive(Clone, Copy)]
struct Running {
    /// The largest score.
    max: f32,
    /// Sum of `e^(score - max)`.
    sum: f32,
}

impl Kernel for TileTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { op, tile, position, .. } = self;
        let (dim, stride) = (op.head_dim, padded(op.head_dim));
        let group = op.heads / op.kv_heads;
        let queries = tile.tokens * group;
        let [q, scores, keys, values, gathered, running] = self.scratch.slices([
            queries * stride,
            queries * BLOCK,
            BLOCK * stride,
            BLOCK * stride,
            queries * stride,
            2 * queries,
        ]);
        for (i, q) in q.chunks_exact_mut(stride).take(queries).enumerate() {
            let (token, head) = (tile.first + i / group, tile.kv_head * group + i % group);
            q[..dim].copy_from_slice(&self.qkv.row(token)[head * dim..][..dim]);
            q[dim..].fill(0.0);
        }
        gathered.fill(0.0);
        let running = running.as_chunks_mut::<2>().0;
        running.fill([f32::NEG_INFINITY, 0.0]);

        let first_seen = |position: usize| op.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let (from, to) = (first_seen(position), position + tile.tokens);
        for block in from / BLOCK..to.div_ceil(BLOCK) {
            let base = block * BLOCK;
            let end = (to - base).min(BLOCK);
            self.source.read(base.max(from)..base + end, keys, values);
            Panel { x: q, x_stride: stride, w: keys, k: stride, m: queries, n: end, out: scores, out_stride: BLOCK }
                .run(isa);
            for i in 0..queries {
                let position = position + i / group;
                let seen = first_seen(position).saturating_sub(base)..(position + 1).saturating_sub(base).min(BLOCK);
                if seen.is_empty() {
                    continue;
                }
                let scores = &mut scores.as_chunks_mut::<BLOCK>().0[i];
                let block = soften(scores, seen.clone(), op.scale);
                let before = Running { max: running[i][0], sum: running[i][1] };
                let max = before.max.max(block.max);
                let (old, new) = ((before.max - max).exp(), (block.max - max).exp());
                running[i] = [max, before.sum * old + block.sum * new];
                let gathered = &mut gathered[i * stride..][..stride];
                merge(isa, &scores[seen.clone()], &values[seen.start * stride..], gathered, (old, new));
            }
        }
        for (i, gathered) in gathered.chunks_exact(stride).take(queries).enumerate() {
            let (token, head) = (tile.first + i / group, tile.kv_head * group + i % group);
            // SAFETY: tiles have different tokens or different heads.
            let out = unsafe { self.out.part(token * self.stride + head * dim, dim) };
            let sum = running[i][1];
            out.iter_mut().zip(gathered).for_each(|(y, x)| *y = x / sum);
            round(self.dtype, out);
        }
    }
}

impl Pages<'_> {
    /// Reads the keys and values of some positions of one block into their places in it, rows `padded(head_dim)` apart.
    #[inline(always)]
    fn read(&self, positions: std::ops::Range<usize>, keys: &mut [f32], values: &mut [f32]) {
        let KvShape { page_size, head_dim, .. } = *self.cache.shape();
        let stride = padded(head_dim);
        let (mut page, mut offset) = (positions.start / page_size, positions.start % page_size);
        for position in positions {
            let place = Place { layer: self.layer, page: self.pages[page] as usize, offset };
            let at = position % BLOCK * stride;
            let (key, value) = (&mut keys[at..][..stride], &mut values[at..][..stride]);
            self.cache.key(place, self.kv_head, &mut key[..head_dim]);
            self.cache.value(place, self.kv_head, &mut value[..head_dim]);
            key[head_dim..].fill(0.0);
            value[head_dim..].fill(0.0);
            offset += 1;
            if offset == page_size {
                (page, offset) = (page + 1, 0);
            }
        }
    }
}

/// Scales the scores of a block and makes them exponentials, 0 where not seen.
#[inline(always)]
fn soften(scores: &mut [f32; BLOCK], seen: std::ops::Range<usize>, scale: f32) -> Running {
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in scores.as_chunks_mut::<LANES>().0 {
        for (max, score) in lanes.iter_mut().zip(chunk) {
            *score *= scale;
            *max = if *score > *max { *score } else { *max };
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let mut lanes = [0.0; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        lanes.iter_mut().zip(chunk).for_each(|(sum, p)| *sum += p);
    }
    Running { max, sum: lanes.iter().sum() }
}

/// `gathered = gathered * old + (sum of p[j] * values[j]) * new`
#[inline(always)]
fn merge<S: Isa>(isa: S, p: &[f32], values: &[f32], gathered: &mut [f32], rescale: (f32, f32)) {
    let stride = gathered.len();
    assert!(values.len() >= p.len() * stride);
    let mut at = 0;
    while at + 8 * LANES <= stride {
        merge_columns::<S, 8>(isa, p, &values[at..], (gathered, at), rescale);
        at += 8 * LANES;
    }
    while at < stride {
        merge_columns::<S, 2>(isa, p, &values[at..], (gathered, at), rescale);
        at += 2 * LANES;
    }
}

/// [`merge`] of `N` vectors of columns, `values` from the first of them on.
#[inline(always)]
fn merge_columns<S: Isa, const N: usize>(
    isa: S,
    p: &[f32],
    values: &[f32],
    (gathered, at): (&mut [f32], usize),
    (old, new): (f32, f32),
) {
    let stride = gathered.len();
    assert!(p.is_empty() || values.len() >= (p.len() - 1) * stride + N * LANES);
    let mut sums = [isa.splat(0.0); N];
    for (j, &p) in p.iter().enumerate() {
        let p = isa.splat(p);
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: within `values`: the last load of the last j ends where the assertion says.
            let v = unsafe { isa.load(values.as_ptr().add(j * stride + i * LANES)) };
            *sum = isa.fma(p, v, *sum);
        }
    }
    let mut fresh = [0.0; LANES];
    for (sum, gathered) in sums.into_iter().zip(gathered[at..].as_chunks_mut::<LANES>().0) {
        isa.store(sum, &mut fresh);
        gathered.iter_mut().zip(fresh).for_each(|(g, f)| *g = *g * old + f * new);
    }
}
