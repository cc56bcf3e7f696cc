//! A task of attention: a tile's queries against its blocks, and the merging of what several tasks have gathered.
//!
//! Blocks merge as `gathered * 2^(old - max) + fresh * 2^(new - max)`, always one block at a time and in order, whether the
//! next was just computed or lies in shared memory.
use std::f32::consts::LOG2_E;
use std::marker::PhantomData;
use std::ops::Range;

use super::BLOCK;
use super::element::{Element, Number, Stored, by_format};
use super::pack::{Asked, Pack, Panels, Rows, Starts};
use super::plan::{Share, Tile, block_floats, first_seen};
use super::product::{Columns, InCache, MOST_ROWS, Panel, Product, Size, Turned, rows_at_once};
use crate::cpu::simd::{WIDE, Wide, WideKernel, padded};
use crate::cpu::tensor::Tensor;
use crate::cpu::workers::Scratch;
use crate::device::Attend;
use crate::host::{KvCache, Place, Shared, Staged};

/// The score of a key that is not seen, and the largest score of no keys: finite, so that differences are numbers, and so
/// small that no exponential of a difference from a true score is more than 0.
const UNSEEN: f32 = -1e30;

/// What all tasks of an operation share.
pub(super) struct Operands<'a> {
    pub op: &'a Attend,
    pub staged: &'a Staged,
    pub cache: &'a KvCache,
    pub qkv: &'a Tensor,
    pub out: &'a Shared<'a, f32>,
    /// Elements from a row of out to the next.
    pub stride: usize,
    /// Blocks of all [`Share`]s.
    pub memory: &'a Shared<'a, f32>,
}

impl Operands<'_> {
    /// Elements a head, padded to vectors.
    #[inline(always)]
    fn columns(&self) -> usize {
        padded(self.op.head_dim)
    }

    /// Query heads a K/V head.
    #[inline(always)]
    fn group(&self) -> usize {
        self.op.heads / self.op.kv_heads
    }

    /// Token and head of a tile's query: queries are in order of K/V head, token, head.
    #[inline(always)]
    fn query(&self, tile: &Tile, query: usize) -> (usize, usize) {
        let (group, each) = (self.group(), tile.tokens * self.group());
        let (kv_head, token) = (tile.kv_heads.start + query / each, query % each / group);
        (token, kv_head * group + query % group)
    }

    fn queries(&self, tile: &Tile) -> usize {
        tile.kv_heads.len() * tile.tokens * self.group()
    }

    /// The keys of a block that the query of a tile's token sees: a start and an end within the block.
    #[inline(always)]
    fn seen(&self, tile: &Tile, token: usize, block: usize) -> (usize, usize) {
        let position = tile.position + token;
        let within = |position: usize| position.saturating_sub(block * BLOCK).min(BLOCK);
        (within(first_seen(self.op.window, position)), within(position + 1))
    }

    /// Writes `gathered / sum` of all queries of a tile.
    #[inline(always)]
    fn finish(&self, tile: &Tile, gathered: &[f32], sums: &[f32]) {
        let dim = self.op.head_dim;
        for (query, (gathered, sum)) in
            gathered.chunks_exact(self.columns()).zip(sums).take(self.queries(tile)).enumerate()
        {
            let (token, head) = self.query(tile, query);
            // SAFETY: no two tiles that finish have a token and a head in common.
            let out = unsafe { self.out.part((tile.first + token) * self.stride + head * dim, dim) };
            out.iter_mut().zip(gathered).for_each(|(y, x)| *y = x / sum);
        }
    }
}

/// What a tile's queries have gathered: of each the largest score, the sum of exponentials, the weighted sum of values.
struct Running<'a> {
    largest: &'a mut [f32],
    sums: &'a mut [f32],
    gathered: &'a mut [f32],
    columns: usize,
}

impl<'a> Running<'a> {
    fn start(largest: &'a mut [f32], sums: &'a mut [f32], gathered: &'a mut [f32], columns: usize) -> Self {
        largest.fill(UNSEEN);
        sums.fill(0.0);
        gathered.fill(0.0);
        Self { largest, sums, gathered, columns }
    }

    /// Merges a block's largest scores and sums into those of the sixteen queries from `first` on, and says what each must
    /// multiply what it has, and what is new.
    #[inline(always)]
    fn weigh<S: Wide>(&mut self, isa: S, first: usize, largest: &[f32; WIDE], sums: &[f32; WIDE]) -> [[f32; WIDE]; 2] {
        let [before, total] = [&mut *self.largest, &mut *self.sums]
            .map(|all| all[first..].first_chunk_mut::<WIDE>().expect("padded by a vector"));
        let mut weights = [[0.0; WIDE]; 2];
        // SAFETY: sixteen f32 each.
        unsafe {
            let (old, new) = (isa.load(before.as_ptr()), isa.load(largest.as_ptr()));
            let most = isa.max(old, new);
            let (old, new) = (isa.exp2::<5>(isa.sub(old, most)), isa.exp2::<5>(isa.sub(new, most)));
            isa.store(most, before.as_mut_ptr());
            let sum = isa.fma(isa.load(sums.as_ptr()), new, isa.mul(isa.load(total.as_ptr()), old));
            isa.store(sum, total.as_mut_ptr());
            isa.store(old, weights[0].as_mut_ptr());
            isa.store(new, weights[1].as_mut_ptr());
        }
        weights
    }

    /// Adds what one query has gathered of a block.
    #[inline(always)]
    fn add<S: Wide>(&mut self, isa: S, query: usize, fresh: &[f32], [old, new]: [f32; 2]) {
        let gathered = &mut self.gathered[query * self.columns..][..self.columns];
        let (old, new) = (isa.splat(old), isa.splat(new));
        for (gathered, fresh) in gathered.as_chunks_mut::<WIDE>().0.iter_mut().zip(fresh.as_chunks::<WIDE>().0) {
            // SAFETY: sixteen f32 each.
            unsafe {
                let sum = isa.fma(isa.load(fresh.as_ptr()), new, isa.mul(isa.load(gathered.as_ptr()), old));
                isa.store(sum, gathered.as_mut_ptr());
            }
        }
    }
}

/// One block of a share: as many queries as its tiles have.
struct Kept<'a> {
    largest: &'a mut [f32],
    sums: &'a mut [f32],
    gathered: &'a mut [f32],
}

impl<'a> Kept<'a> {
    /// # Safety
    /// Nobody else holds this block of this share meanwhile.
    unsafe fn of(operands: &'a Operands<'_>, share: &Share, block: usize, queries: usize) -> Self {
        let floats = block_floats(queries, operands.columns());
        // SAFETY: blocks of shares are disjoint, and this one is the caller's alone.
        let memory = unsafe { operands.memory.part(share.at + (block - share.blocks.start) * floats, floats) };
        let (largest, rest) = memory.split_at_mut(queries.next_multiple_of(WIDE));
        let (sums, gathered) = rest.split_at_mut(queries.next_multiple_of(WIDE));
        Self { largest, sums, gathered }
    }
}

/// Where a tile stands among a thread's: what to ask memory for.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// Nobody has asked for its first block.
    pub is_first: bool,
    /// The tile after it, whose first block is asked for meanwhile.
    pub next: Option<&'a Tile>,
}

/// Computes a tile's blocks.
pub(super) struct Gather<'a, E> {
    operands: &'a Operands<'a>,
    tile: &'a Tile,
    share: Option<&'a Share>,
    around: Around<'a>,
    scratch: &'a mut Scratch,
    element: PhantomData<E>,
}

impl<'a, E: Element> Gather<'a, E> {
    pub(super) fn new(
        operands: &'a Operands<'a>,
        tile: &'a Tile,
        share: Option<&'a Share>,
        around: Around<'a>,
        scratch: &'a mut Scratch,
    ) -> Self {
        Self { operands, tile, share, around, scratch, element: PhantomData }
    }
}

/// Some queries of a tile, of one K/V head, against a block.
struct Part {
    /// Counting all of the tile's.
    first: usize,
    count: usize,
    /// The keys that each sees: a start and an end within the block.
    seen: [(usize, usize); MOST_ROWS],
}

impl Part {
    #[inline(always)]
    fn new(operands: &Operands<'_>, tile: &Tile, block: usize, (first, count): (usize, usize)) -> Self {
        let group = operands.group();
        let within_head = first % (tile.tokens * group);
        let (mut token, mut head) = (within_head / group, within_head % group);
        let mut seen = [(0, 0); MOST_ROWS];
        for seen in &mut seen[..count] {
            *seen = operands.seen(tile, token, block);
            head += 1;
            if head == group {
                (token, head) = (token + 1, 0);
            }
        }
        Self { first, count, seen }
    }

    /// Those that see anything: the index among the few, and what.
    #[inline(always)]
    fn seeing(&self) -> impl Iterator<Item = (usize, (usize, usize))> {
        self.seen.into_iter().take(self.count).enumerate().filter(|(_, (start, end))| start < end)
    }
}

/// A block of one K/V head, as it is multiplied.
struct Block<'a, 'p> {
    panels: &'a Panels<'p>,
    rows: &'a mut Rows,
    kv_head: usize,
    /// Whether its keys, and its values, are in the panels; else they are read where they lie.
    is_packed: [bool; 2],
}

/// Memory for a few queries on their way through a block.
struct Few<'a> {
    q: &'a [u32],
    q_stride: usize,
    scores: &'a mut [f32],
    weights: &'a mut [u32],
    fresh: &'a mut [f32],
    largest: [f32; WIDE],
    sums: [f32; WIDE],
}

impl<E: Element> WideKernel for Gather<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        let Self { operands, tile, share, around, scratch, .. } = self;
        let (op, columns) = (operands.op, operands.columns());
        let q_stride = columns / E::ROW_PER_WORD;
        let (queries, each) = (operands.queries(tile), tile.tokens * operands.group());
        let [q, keys, values, scores, weights, fresh, gathered, largest, sums, key_scales, value_scales] = scratch
            .slices([
                queries * q_stride,
                padded(op.head_dim.div_ceil(E::PER_WORD)) * BLOCK,
                BLOCK / E::PER_WORD * columns,
                MOST_ROWS * BLOCK,
                MOST_ROWS * BLOCK / E::ROW_PER_WORD,
                MOST_ROWS * columns,
                queries * columns,
                queries + WIDE,
                queries + WIDE,
                BLOCK,
                BLOCK,
            ]);
        let [q, keys, values, weights] = [q, keys, values, weights].map(as_words);
        load_queries::<S, E>(isa, operands, tile, q);
        let mut running = Running::start(largest, sums, gathered, columns);
        let mut few = Few { q, q_stride, scores, weights, fresh, largest: [UNSEEN; WIDE], sums: [0.0; WIDE] };
        let mut panels = Panels { keys, values, key_scales, value_scales };
        let mut rows = Rows::start(isa, operands, tile, around.is_first);
        let (layout, whole) = (operands.cache.layout(), op.head_dim.is_multiple_of(WIDE));
        // What is multiplied once is read where it lies.
        let in_place = each <= rows_at_once::<S>() && whole && E::multiplies(layout.format());
        let what = [!in_place || !layout.is_turned(), !in_place];
        for block in tile.blocks.clone() {
            rows.turn_to(operands, tile, block, around.next);
            // SAFETY: a share's block is one task's alone until all have ended.
            let mut kept = share.map(|share| unsafe { Kept::of(operands, share, block, queries) });
            for (i, kv_head) in tile.kv_heads.clone().enumerate() {
                rows.ask_beyond(operands, (tile, around.next), block, kv_head);
                if what != [false; 2] || layout.format().is_scaled() {
                    isa.run(Pack::<E> {
                        rows: &mut rows,
                        kv_head,
                        layout,
                        dim: op.head_dim,
                        what,
                        to: &mut panels,
                        element: PhantomData,
                    });
                }
                for first in (0..each).step_by(rows_at_once::<S>()) {
                    let count = rows_at_once::<S>().min(each - first);
                    let part = Part::new(operands, tile, block, (i * each + first, count));
                    let block = Block { panels: &panels, rows: &mut rows, kv_head, is_packed: what };
                    few.gather::<S, E>(isa, operands, &part, block);
                    few.leave(isa, operands, &part, &mut running, kept.as_mut());
                }
            }
        }
        if share.is_none() {
            operands.finish(tile, running.gathered, running.sums);
        }
    }
}

/// Converts the tile's queries, multiplied by what makes a power of two of a score the exponential.
#[inline(always)]
fn load_queries<S: Wide, E: Element>(isa: S, operands: &Operands<'_>, tile: &Tile, q: &mut [u32]) {
    let (dim, stride) = (operands.op.head_dim, operands.columns() / E::ROW_PER_WORD);
    let scale = isa.splat(operands.op.scale * LOG2_E);
    for (query, q) in q.chunks_exact_mut(stride).take(operands.queries(tile)).enumerate() {
        let (token, head) = operands.query(tile, query);
        let from = &operands.qkv.row(tile.first + token)[head * dim..][..dim];
        for (from, q) in from.chunks(WIDE).zip(q.chunks_exact_mut(WIDE / E::ROW_PER_WORD)) {
            let mut whole = [0.0; WIDE];
            whole[..from.len()].copy_from_slice(from);
            // SAFETY: sixteen f32, and the words of sixteen elements.
            unsafe { E::Row::store(isa, isa.mul(isa.load(whole.as_ptr()), scale), q.as_mut_ptr()) };
        }
    }
}

impl Rows {
    /// Before the first block. What nobody has asked for is asked for at once: nothing else can be done yet.
    #[inline(always)]
    fn start<S: Wide>(isa: S, operands: &Operands<'_>, tile: &Tile, is_first: bool) -> Self {
        let mut next = [[std::ptr::null(); BLOCK]; 2];
        let next_count = find_rows(operands, tile, tile.blocks.start, &mut next);
        let mut rows = Self { starts: next, count: 0, next, next_count, asked: Asked::NOTHING };
        if is_first {
            rows.asked = asked(operands, tile, tile.kv_heads.start, next_count);
            rows.ask_all(isa);
        }
        rows
    }

    /// To the next block: `block`, which the last call or `start` has looked up. The one after it is looked up.
    fn turn_to(&mut self, operands: &Operands<'_>, tile: &Tile, block: usize, next_tile: Option<&Tile>) {
        (self.starts, self.count) = (self.next, self.next_count);
        self.next_count = if block + 1 < tile.blocks.end {
            find_rows(operands, tile, block + 1, &mut self.next)
        } else {
            next_tile.map_or(0, |next| find_rows(operands, next, next.blocks.start, &mut self.next))
        };
    }

    /// While this head meets the block: what is asked for.
    fn ask_beyond(&mut self, operands: &Operands<'_>, around: (&Tile, Option<&Tile>), block: usize, kv_head: usize) {
        let (tile, next_tile) = around;
        let is_turned = operands.cache.layout().is_turned();
        if is_turned && kv_head + 1 < tile.kv_heads.end {
            self.asked = asked(operands, tile, kv_head + 1, self.count);
        } else if is_turned || kv_head == tile.kv_heads.start {
            let next = if block + 1 < tile.blocks.end { Some(tile) } else { next_tile };
            self.asked = next.map_or(Asked::NOTHING, |next| Asked {
                of_next: true,
                at_once: self.next_count.div_ceil(self.count),
                ..asked(operands, next, next.kv_heads.start, self.next_count)
            });
        }
    }
}

/// A walk over so many tokens of a tile: of this head, or of all heads where they lie in rows.
fn asked(operands: &Operands<'_>, tile: &Tile, kv_head: usize, count: usize) -> Asked {
    let (layout, Range { start, end }) = (operands.cache.layout(), tile.kv_heads.clone());
    if layout.is_turned() {
        // Keys and values of a group in one go: hardware follows one run within 4 KiB.
        let bytes = 2 * layout.head_bytes();
        let count = count.next_multiple_of(WIDE);
        return Asked { lane: bytes, ..Asked::new(count, [(layout.head(kv_head), bytes), (0, 0)], 1) };
    }
    let (heads, bytes) = (end - start, (end - start) * layout.head_bytes());
    // Scales lie behind all heads' values.
    let scales = if heads == operands.op.kv_heads { layout.bytes() - 2 * bytes } else { 0 };
    Asked::new(count, [(layout.head(start), bytes), (layout.head(start), bytes + scales)], heads)
}

/// Where the tokens of a block start: those that the tile's last token sees, then the first of them again. How many it sees.
fn find_rows(operands: &Operands<'_>, tile: &Tile, block: usize, to: &mut Starts) -> usize {
    let [keys, values] = to;
    let (layer, pages) = (operands.op.layer, operands.staged.pages(tile.row));
    let (layout, page_size) = (operands.cache.layout(), operands.cache.shape().page_size);
    let (mut page, mut offset) = (block * BLOCK / page_size, block * BLOCK % page_size);
    let count = (tile.position + tile.tokens - block * BLOCK).min(BLOCK);
    let mut found = 0;
    while found < count {
        let run = layout.run(page_size, offset).min(count - found);
        let first = operands.cache.at(Place { layer, page: pages[page] as usize, offset });
        for ((all, first), stride) in [&mut *keys, &mut *values].into_iter().zip(first).zip(layout.strides()) {
            for (i, start) in all[found..][..run].iter_mut().enumerate() {
                *start = first.wrapping_add(i * stride);
            }
        }
        (found, offset) = (found + run, offset + run);
        if offset == page_size {
            (page, offset) = (page + 1, 0);
        }
    }
    for all in to {
        let first = all[0];
        all[count..].fill(first);
    }
    count
}

impl Few<'_> {
    /// Computes scores, exponentials and weighted values.
    #[inline(always)]
    fn gather<S: Wide, E: Element>(&mut self, isa: S, operands: &Operands<'_>, part: &Part, block: Block<'_, '_>) {
        let Block { panels, rows, kv_head, is_packed } = block;
        let (columns, layout) = (operands.columns(), operands.cache.layout());
        (self.largest, self.sums) = ([UNSEEN; WIDE], [0.0; WIDE]);
        let end = part.seen[part.count - 1].1;
        let vectors = end.div_ceil(WIDE);
        if vectors == 0 {
            return;
        }
        let size = Size { rows: part.count, words: operands.op.head_dim.div_ceil(E::PER_WORD), vectors };
        let q = &self.q[part.first * self.q_stride..];
        assert!(q.len() >= (part.count - 1) * self.q_stride + size.words * E::PARTS && part.count <= MOST_ROWS);
        let (q, scores) = ((q.as_ptr(), self.q_stride), (self.scores.as_mut_ptr(), BLOCK));
        // SAFETY: as many rows of q as just asserted; a panel of keys has BLOCK columns, and so has the block, whose groups are
        // all there; scores has MOST_ROWS rows of them.
        unsafe {
            if is_packed[0] {
                let keys = Panel { words: panels.keys.as_ptr(), stride: padded(size.words) * WIDE };
                isa.run(Product::<E, _>::new(q, keys, scores, size));
            } else {
                isa.run(Product::<E, _>::new(q, Turned::new(rows, layout.head(kv_head)), scores, size));
            }
        }
        let scaled = layout.format().is_scaled();
        for (i, (start, end)) in part.seeing() {
            let scores = &mut self.scores[i * BLOCK..][..vectors * WIDE];
            if scaled {
                scores.iter_mut().zip(&*panels.key_scales).for_each(|(score, scale)| *score *= scale);
            }
            scores[..start].fill(UNSEEN);
            scores[end..].fill(UNSEEN);
            self.largest[i] = largest(isa, scores);
        }
        for (i, _) in part.seeing() {
            let weights = &mut self.weights[i * BLOCK / E::ROW_PER_WORD..][..vectors * WIDE / E::ROW_PER_WORD];
            let scores = &self.scores[i * BLOCK..][..vectors * WIDE];
            let scales = scaled.then_some(&*panels.value_scales);
            self.sums[i] = exponentials::<S, E>(isa, scores, self.largest[i], scales, weights);
        }
        let size = Size { rows: part.count, words: end.div_ceil(E::PER_WORD), vectors: columns / WIDE };
        assert!(size.words * E::PER_WORD <= BLOCK);
        // SAFETY: the panel of values has a row for each word of weights, and so has the block, of rows that `Gather` has found
        // to be whole vectors of values, a row of the cache for each element of a word.
        unsafe {
            if is_packed[1] {
                let stride = BLOCK / E::PER_WORD * WIDE;
                self.gather_values::<S, E, _>(isa, Panel { words: panels.values.as_ptr(), stride }, size);
            } else {
                // Of formats that the element does not multiply nothing is compiled.
                by_format!(layout.format(), R => {
                    assert!(E::multiplies(R::FORMAT), "{:?} is not multiplied as it is", R::FORMAT);
                    self.gather_values::<S, E, _>(isa, InCache::<R>::new(rows, layout.head(kv_head)), size);
                });
            }
        }
    }

    /// Weighted values.
    ///
    /// # Safety
    /// They have the words and vectors of `size`, at most a block's and a head's.
    #[inline(always)]
    unsafe fn gather_values<S: Wide, E: Element, B: Columns<E>>(&mut self, isa: S, values: B, size: Size) {
        let weights = (self.weights.as_ptr(), BLOCK / E::ROW_PER_WORD);
        // SAFETY: weights and fresh have MOST_ROWS rows; values by contract.
        isa.run(unsafe { Product::<E, B>::new(weights, values, (self.fresh.as_mut_ptr(), size.vectors * WIDE), size) });
    }

    /// Merges what was gathered, or keeps it where the block's tile is shared.
    #[inline(always)]
    fn leave<S: Wide>(
        &self,
        isa: S,
        operands: &Operands<'_>,
        part: &Part,
        running: &mut Running<'_>,
        kept: Option<&mut Kept<'_>>,
    ) {
        let (first, count, columns) = (part.first, part.count, operands.columns());
        match kept {
            Some(kept) => {
                kept.largest[first..][..count].copy_from_slice(&self.largest[..count]);
                kept.sums[first..][..count].copy_from_slice(&self.sums[..count]);
                kept.gathered[first * columns..][..count * columns].copy_from_slice(&self.fresh[..count * columns]);
            }
            None => {
                let [old, new] = running.weigh(isa, first, &self.largest, &self.sums);
                for (i, _) in part.seeing() {
                    running.add(isa, first + i, &self.fresh[i * columns..][..columns], [old[i], new[i]]);
                }
            }
        }
    }
}

/// The largest of some vectors of scores.
#[inline(always)]
fn largest<S: Wide>(isa: S, scores: &[f32]) -> f32 {
    let mut most = isa.splat(f32::NEG_INFINITY);
    for scores in scores.as_chunks::<WIDE>().0 {
        // SAFETY: sixteen f32. NaN scores do not count: as exponentials they come back.
        most = isa.max(unsafe { isa.load(scores.as_ptr()) }, most);
    }
    isa.largest(most)
}

/// `2^(score - largest)` as elements, multiplied by the values' scales, and their sum (without scales).
#[inline(always)]
fn exponentials<S: Wide, E: Element>(
    isa: S,
    scores: &[f32],
    largest: f32,
    scales: Option<&[f32]>,
    weights: &mut [u32],
) -> f32 {
    let (largest, mut sum) = (isa.splat(largest), isa.splat(0.0));
    let vectors = scores.as_chunks::<WIDE>().0.iter().zip(weights.chunks_exact_mut(WIDE / E::ROW_PER_WORD));
    for (at, (scores, weights)) in vectors.enumerate() {
        // SAFETY: sixteen f32 of scores and of scales, which are as many; the words of sixteen elements.
        unsafe {
            let mut p = E::Row::exp2(isa, isa.sub(isa.load(scores.as_ptr()), largest));
            sum = isa.add(sum, p);
            if let Some(scales) = scales {
                p = isa.mul(p, isa.load(scales[at * WIDE..][..WIDE].as_ptr()));
            }
            E::Row::store(isa, p, weights.as_mut_ptr());
        }
    }
    isa.sum(sum)
}

/// Merges the blocks of a share and writes the result.
pub(super) struct Merge<'a> {
    operands: &'a Operands<'a>,
    tile: &'a Tile,
    share: &'a Share,
    scratch: &'a mut Scratch,
}

impl<'a> Merge<'a> {
    /// # Safety
    /// All tasks of the share have ended.
    pub(super) unsafe fn new(
        operands: &'a Operands<'a>,
        tile: &'a Tile,
        share: &'a Share,
        scratch: &'a mut Scratch,
    ) -> Self {
        Self { operands, tile, share, scratch }
    }
}

impl WideKernel for Merge<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        let Self { operands, tile, share, scratch } = self;
        let (columns, queries) = (operands.columns(), operands.queries(tile));
        let [gathered, largest, sums] = scratch.slices([queries * columns, queries + WIDE, queries + WIDE]);
        let mut running = Running::start(largest, sums, gathered, columns);
        for block in share.blocks.clone() {
            // SAFETY: the tasks that wrote it have ended, by the contract of `new`.
            let kept = unsafe { Kept::of(operands, share, block, queries) };
            for first in (0..queries).step_by(WIDE) {
                let [largest, sums] =
                    [&kept.largest, &kept.sums].map(|all| all[first..].first_chunk().expect("padded to vectors"));
                let [old, new] = running.weigh(isa, first, largest, sums);
                for query in first..queries.min(first + WIDE) {
                    let token = operands.query(tile, query).0;
                    let (start, end) = operands.seen(tile, token, block);
                    if start < end {
                        let (fresh, at) = (&kept.gathered[query * columns..][..columns], query - first);
                        running.add(isa, query, fresh, [old[at], new[at]]);
                    }
                }
            }
        }
        operands.finish(tile, running.gathered, running.sums);
    }
}

/// The same memory, for bit patterns.
fn as_words(slice: &mut [f32]) -> &mut [u32] {
    // SAFETY: both are four bytes, of the same alignment, and any bits are valid in both.
    unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr().cast(), slice.len()) }
}
