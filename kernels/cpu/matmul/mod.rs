//! Matrix products: weights packed at load, activations prepared at each product, tiles shared out among threads.
//!
//! ```text
//!   mod.rs     a weight of stacked matrices; who prepares and multiplies what; where sums go
//!   packed.rs  what a packed matrix offers
//!   int.rs     quantised ones, activations of eight bits    float.rs floats.rs  floats
//! ```
mod float;
mod floats;
mod int;
mod packed;

use std::ops::Range;

pub(super) use packed::Packing;
use packed::{Form, Multiply, Packed, Prepared, Sink, TILE};
pub use packed::{Integers, Keep};

use super::rows::RmsNorm;
use super::simd::{Wide, WideKernel};
use super::workers::{Workers, piece_of};
use crate::device::{DeviceError, Shard, TensorView};
use crate::host::{self, Buffer, Shared};

/// One matrix of a weight.
struct Segment {
    packed: Packed,
    /// Its first row in the weight.
    row: usize,
    rows: usize,
    /// Its first tile, of all segments' tiles one after the other.
    tile: usize,
    /// Where its form starts in a token's prepared activations.
    prepared: usize,
}

/// A matrix, packed, possibly of several stacked along the rows, each in its own format.
pub struct Weight {
    segments: Vec<Segment>,
    /// The segments' forms, and where each starts in a token's prepared activations.
    forms: Vec<(Form, usize)>,
    /// Bytes of a token's prepared activations in all forms.
    prepared_bytes: usize,
    tiles: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Weight {
    /// See [`crate::Device::load`].
    pub(super) fn load(parts: &[TensorView<'_>], shard: Shard, packing: &mut Packing<'_>) -> Result<Self, DeviceError> {
        let parts = host::views(parts, shard)?;
        let columns = parts[0].columns;
        let mut weight =
            Self { segments: Vec::new(), forms: Vec::new(), prepared_bytes: 0, tiles: 0, rows: 0, columns };
        for part in parts {
            let packed = Packed::new(&part, packing)?;
            let form = packed.form();
            let prepared = match weight.forms.iter().find(|(known, _)| *known == form) {
                Some((_, at)) => *at,
                None => {
                    let at = weight.prepared_bytes;
                    weight.forms.push((form, at));
                    weight.prepared_bytes += form.bytes(columns);
                    at
                }
            };
            weight.segments.push(Segment { packed, row: weight.rows, rows: part.rows, tile: weight.tiles, prepared });
            weight.rows += part.rows;
            weight.tiles += part.rows.div_ceil(TILE);
        }
        // An odd number of cache lines, see `Inputs::bytes`, also where forms follow each other.
        weight.prepared_bytes = (weight.prepared_bytes.div_ceil(64) | 1) * 64;
        Ok(weight)
    }

    /// One row, as values.
    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) {
        let segment = self.segments.iter().rfind(|segment| segment.row <= row).expect("the first starts at 0");
        segment.packed.row(row - segment.row, out);
    }

    /// One token's activations in every form that a segment wants.
    #[inline(always)]
    fn prepare<S: Wide>(&self, isa: S, x: &[f32], out: &mut [u8]) {
        for (form, at) in &self.forms {
            form.prepare(isa, x, &mut out[*at..][..form.bytes(self.columns)]);
        }
    }
}

/// Which rows of a tensor a product's tokens are.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    /// The first so many.
    First(usize),
    /// These, in this order.
    These(&'a [usize]),
}

impl Rows<'_> {
    fn len(self) -> usize {
        match self {
            Self::First(count) => count,
            Self::These(rows) => rows.len(),
        }
    }

    #[inline(always)]
    fn at(self, i: usize) -> usize {
        match self {
            Self::First(_) => i,
            Self::These(rows) => rows[i],
        }
    }
}

/// What becomes of a product.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    /// `out = product`
    Store,
    /// `out += product + bias`
    Add(Option<&'a [f32]>),
}

/// Activations to multiply.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// `[.., columns]`, rows `stride` apart.
    pub x: &'a [f32],
    /// Elements from a row of x to the next.
    pub stride: usize,
    /// Which rows of it.
    pub rows: Rows<'a>,
    /// Weight and epsilon of an RMS norm that comes first.
    pub norm: Option<(&'a [f32], f32)>,
}

impl Input<'_> {
    /// One token, normalised and in the forms that `w` wants.
    #[inline(always)]
    fn prepare<S: Wide>(&self, isa: S, token: usize, w: &Weight, scratch: &mut [f32], out: &mut [u8]) {
        let x = &self.x[self.rows.at(token) * self.stride..][..w.columns];
        match self.norm {
            None => w.prepare(isa, x, out),
            Some((weight, eps)) => {
                let normed = &mut scratch[..x.len()];
                RmsNorm { x, weight, eps, out: normed }.compute();
                w.prepare(isa, normed, out);
            }
        }
    }
}

/// Where a product goes.
pub(super) struct Target<'a> {
    /// `[.., rows]`, rows `stride` apart.
    pub out: &'a mut [f32],
    /// Elements from a row of out to the next.
    pub stride: usize,
    /// Which rows of it.
    pub rows: Rows<'a>,
    /// How.
    pub finish: Finish<'a>,
}

/// Prepared activations that all threads read, grown to the largest product seen.
pub(super) struct Arena(Buffer<u8>);

impl Arena {
    pub(super) fn new() -> Result<Self, DeviceError> {
        Ok(Self(Buffer::zeroed(0, "activations")?))
    }

    fn of(&mut self, bytes: usize) -> &mut [u8] {
        if self.0.len() < bytes {
            self.0 = Buffer::zeroed(bytes, "activations").expect("memory for prepared activations");
        }
        &mut self.0[..bytes]
    }
}

/// Up to so many activations every thread prepares all for itself: sooner done than waited for.
const ALONE: usize = 4096;
/// Prepared activations that stay in the second-level cache beside tiles of weights.
const CACHED: usize = 288 << 10;
/// Weights of a task at most.
const TASK_BYTES: usize = 512 << 10;

/// `out = w · x`, or whatever [`Finish`] says.
pub(super) fn multiply(workers: &mut Workers, arena: &mut Arena, w: &Weight, x: Input<'_>, to: Target<'_>) {
    let tokens = x.rows.len();
    assert_eq!(tokens, to.rows.len(), "as many tokens out as in");
    assert!(w.columns <= x.stride && w.rows <= to.stride, "a weight between these widths");
    if tokens == 0 {
        return;
    }
    let level = workers.level;
    let out = Shared::new(to.out);
    let product = Product { w, out: &out, stride: to.stride, rows: to.rows, finish: to.finish };
    let stride = w.prepared_bytes;
    let plan = Plan::new(w, tokens, workers.threads());
    if workers.threads() == 1 || tokens * w.columns <= ALONE {
        workers.each(plan.tasks(), |scratch, tasks| {
            let Some(mut task) = tasks.next() else { return };
            let [bytes, normed] = scratch.slices([tokens * stride / 4, w.columns]);
            let bytes = as_bytes(bytes);
            level.run(Prepare { x: &x, w, tokens: 0..tokens, scratch: normed, out: bytes });
            loop {
                level.run(Task { product: &product, x: bytes, plan: plan.task(task) });
                match tasks.next() {
                    Some(next) => task = next,
                    None => return,
                }
            }
        });
        return;
    }
    let bytes = arena.of(tokens * stride);
    let shared = Shared::new(bytes);
    let each = tokens.div_ceil(workers.threads() * 4).min(64);
    workers.run(tokens.div_ceil(each), |scratch, task| {
        let tokens = task * each..((task + 1) * each).min(tokens);
        let [normed] = scratch.slices([w.columns]);
        // SAFETY: each token is in one task.
        let out = unsafe { shared.part(tokens.start * stride, tokens.len() * stride) };
        level.run(Prepare { x: &x, w, tokens, scratch: normed, out });
    });
    let bytes = &*bytes;
    workers.run(plan.tasks(), |_, task| level.run(Task { product: &product, x: bytes, plan: plan.task(task) }));
}

/// f32 memory as bytes.
fn as_bytes(x: &mut [f32]) -> &mut [u8] {
    // SAFETY: the same memory; bytes need no alignment and have no invalid values, nor has f32.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), size_of_val(x)) }
}

/// How a product is cut into tasks: tokens that stay in the cache, then tiles.
struct Plan {
    tiles: usize,
    tokens: usize,
    task_tiles: usize,
    task_tokens: usize,
    threads: usize,
}

/// Some tiles (of all segments') times some tokens.
struct Part {
    tiles: Range<usize>,
    tokens: Range<usize>,
}

impl Plan {
    fn new(w: &Weight, tokens: usize, threads: usize) -> Self {
        // Whole chunks of the kernels' tokens.
        let cached = (CACHED / w.prepared_bytes / 8 * 8).max(8);
        let task_tokens = tokens.div_ceil(tokens.div_ceil(cached)).next_multiple_of(8);
        let largest = w.segments.iter().map(|segment| segment.packed.tile_bytes()).max().unwrap_or(1);
        // Several tasks a thread, so that none waits long for another. Kernels take tiles in pairs where tokens are many.
        let even = w.tiles.div_ceil(threads * 8);
        let most = (even.min(TASK_BYTES / largest) / 2 * 2).max(2);
        // As many for each thread, where somewhat smaller ones make it so.
        let is_fair = |task_tiles: &usize| w.tiles.div_ceil(*task_tiles).is_multiple_of(threads);
        let task_tiles = (most / 2..=most).rev().filter(|n| n.is_multiple_of(2)).find(is_fair).unwrap_or(most);
        Self { tiles: w.tiles, tokens, task_tiles, task_tokens, threads }
    }

    fn across(&self) -> usize {
        self.tiles.div_ceil(self.task_tiles)
    }

    fn tasks(&self) -> usize {
        self.across() * self.tokens.div_ceil(self.task_tokens)
    }

    /// A thread's tiles follow each other, so that what a kernel asks memory for beyond its last tile is what its thread wants
    /// next.
    fn task(&self, i: usize) -> Part {
        let across = self.across();
        let tile = piece_of(i % across, across, self.threads) * self.task_tiles;
        let token = i / across * self.task_tokens;
        Part {
            tiles: tile..(tile + self.task_tiles).min(self.tiles),
            tokens: token..(token + self.task_tokens).min(self.tokens),
        }
    }
}

/// Some tokens' activations into memory.
struct Prepare<'a> {
    x: &'a Input<'a>,
    w: &'a Weight,
    tokens: Range<usize>,
    /// As many as the weight has columns.
    scratch: &'a mut [f32],
    out: &'a mut [u8],
}

impl WideKernel for Prepare<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        let Self { x, w, tokens, scratch, out } = self;
        for (token, out) in tokens.zip(out.chunks_exact_mut(w.prepared_bytes)) {
            x.prepare(isa, token, w, scratch, out);
        }
    }
}

/// A product's ends.
struct Product<'a> {
    w: &'a Weight,
    out: &'a Shared<'a, f32>,
    stride: usize,
    rows: Rows<'a>,
    finish: Finish<'a>,
}

/// One task of a product.
struct Task<'a> {
    product: &'a Product<'a>,
    /// All tokens', prepared.
    x: &'a [u8],
    plan: Part,
}

impl WideKernel for Task<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        let Self { product, x, plan } = self;
        for segment in &product.w.segments {
            let end = segment.tile + segment.rows.div_ceil(TILE);
            let tiles = plan.tiles.start.max(segment.tile)..plan.tiles.end.min(end);
            if tiles.is_empty() {
                continue;
            }
            let tiles = tiles.start - segment.tile..tiles.end - segment.tile;
            let x = Prepared { bytes: &x[segment.prepared..], stride: product.w.prepared_bytes };
            let sink = Output { product, row: segment.row, rows: segment.rows };
            Multiply { w: &segment.packed, x, tiles, tokens: plan.tokens.clone(), sink: &sink }.run(isa);
        }
    }
}

/// A segment's columns of the output.
struct Output<'a> {
    product: &'a Product<'a>,
    row: usize,
    rows: usize,
}

impl Output<'_> {
    /// The columns of a tile that the matrix has: the first in a row of out, and how many.
    #[inline(always)]
    fn columns(&self, tile: usize) -> (usize, usize) {
        (self.row + tile * TILE, TILE.min(self.rows - tile * TILE))
    }
}

impl Sink for Output<'_> {
    #[inline(always)]
    fn ask<S: Wide>(&self, isa: S, tokens: Range<usize>, tile: usize) {
        let Product { out, stride, rows, .. } = self.product;
        let row = self.columns(tile).0;
        for token in tokens {
            isa.prefetch(out.address(rows.at(token) * stride + row).cast());
        }
    }

    #[inline(always)]
    fn put<S: Wide>(&self, isa: S, tokens: Range<usize>, tile: usize, sums: &[[f32; TILE]], step: usize) {
        let Product { out, stride, rows, finish, .. } = self.product;
        let (row, len) = self.columns(tile);
        for (token, sums) in tokens.zip(sums.iter().step_by(step)) {
            // SAFETY: a task has its tokens and tiles alone, so that nobody else has these columns of this row.
            let out = unsafe { out.part(rows.at(token) * stride + row, len) };
            if len < TILE {
                put_tail(sums, out, row, *finish);
                continue;
            }
            // SAFETY: sixteen f32 each, as `len` and the bias's slice say.
            unsafe {
                let v = isa.load(sums.as_ptr());
                let v = match finish {
                    Finish::Store => v,
                    Finish::Add(None) => isa.add(isa.load(out.as_ptr()), v),
                    Finish::Add(Some(bias)) => {
                        let bias = isa.load(bias[row..][..TILE].as_ptr());
                        isa.add(isa.load(out.as_ptr()), isa.add(v, bias))
                    }
                };
                isa.store(v, out.as_mut_ptr());
            }
        }
    }
}

/// The last tile of a matrix whose rows are not whole tiles.
#[inline(never)]
fn put_tail(sums: &[f32; TILE], out: &mut [f32], row: usize, finish: Finish<'_>) {
    match finish {
        Finish::Store => out.copy_from_slice(&sums[..out.len()]),
        Finish::Add(None) => out.iter_mut().zip(sums).for_each(|(y, p)| *y += p),
        Finish::Add(Some(bias)) => {
            out.iter_mut().zip(sums).zip(&bias[row..]).for_each(|((y, p), b)| *y += p + b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tile_meets_each_token_in_one_task() {
        for (tiles, tokens, task_tiles, task_tokens, threads) in
            [(1, 1, 2, 8, 3), (37, 5, 2, 8, 1), (37, 20, 2, 8, 2), (64, 9, 6, 8, 5), (7, 1, 2, 8, 16)]
        {
            let plan = Plan { tiles, tokens, task_tiles, task_tokens, threads };
            let mut met = vec![0; tiles * tokens];
            for part in (0..plan.tasks()).map(|task| plan.task(task)) {
                part.tiles.for_each(|tile| part.tokens.clone().for_each(|token| met[tile * tokens + token] += 1));
            }
            assert!(met.iter().all(|times| *times == 1), "{tiles} x {tokens} on {threads}");
        }
    }
}
