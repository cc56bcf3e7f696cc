//! Matrices of floats (F32, F16, BF16), packed for the vectors that multiply them; also what any quantised format is
//! dequantised to where results must be exact. Owns the packing, the activations that go with it, and the order in which
//! tiles meet tokens. Knows nothing of threads, nor of what becomes of a product.
//!
//! A matrix is tiles of 16 rows, the last filled up with zeros; an output tile is one vector, so no sum crosses lanes:
//!
//! ```text
//!   BF16       k = 0, 1: row 0, row 0, row 1, row 1, … row 15, row 15 | k = 2, 3: …      64 bytes a step of two k
//!   F16, F32   k = 0: row 0, row 1, … row 15 | k = 1: …                             32 or 64 bytes a step of one k
//! ```
//!
//! An output value is one sum over ascending k, however many tokens or tiles are multiplied together.
mod block;
#[cfg(test)]
mod tests;

use std::ops::Range;

use block::{Ahead, Args, Block, Half, Pair, Pieces, Single, Step, UNROLL};

use super::packed::{Sink, TILE};
use crate::cpu::simd::{WIDE, Wide, WideKernel};
use crate::dtype::{DType, dequantize_row};
use crate::narrow::{bf16_to_f32, f16_to_f32};

/// A cache line.
const LINE: usize = 64;
/// Prepared activations that go through all tiles before the next: what the second-level cache keeps beside the weights.
const TOKENS_BYTES: usize = 384 << 10;
/// Where each tile is used once, how far ahead of its use it is asked for: the memory's latency times a core's share of
/// its bandwidth is about 2 KiB, a few times that is in time.
const AHEAD_BYTES: usize = 16 << 10;
/// A block's products: the most tokens times the most tiles that any instruction set has registers for.
const BLOCK: usize = 24;

/// What tiles hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    /// Pairs of bf16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// f32.
    F32,
}

impl Elements {
    /// What keeps every value of `dtype`.
    pub(super) fn of(dtype: DType) -> Self {
        match dtype {
            DType::BF16 => Self::Bf16,
            DType::F16 => Self::F16,
            _ => Self::F32,
        }
    }

    /// Bytes of a tile of so many columns.
    pub(super) fn tile_bytes(self, columns: usize) -> usize {
        match self {
            Self::Bf16 => columns.div_ceil(2) * 4 * TILE,
            Self::F16 => columns * 2 * TILE,
            Self::F32 => columns * 4 * TILE,
        }
    }

    /// Packs up to 16 rows, as the checkpoint stores them, into a tile, which is zero.
    pub(super) fn pack(self, dtype: DType, rows: &[&[u8]], columns: usize, tile: &mut [u8]) {
        assert!(self == Self::of(dtype) && rows.len() <= TILE && tile.len() == self.tile_bytes(columns));
        let mut widened = vec![0.0; if self == Self::F32 { columns } else { 0 }];
        for (r, row) in rows.iter().enumerate() {
            assert_eq!(Some(row.len()), dtype.row_bytes(columns), "a row of {columns} columns of {dtype}");
            match self {
                Self::Bf16 => {
                    let (pairs, last) = row.as_chunks::<4>();
                    scatter(pairs, r, tile);
                    if !last.is_empty() {
                        tile[4 * (pairs.len() * TILE + r)..][..last.len()].copy_from_slice(last);
                    }
                }
                Self::F16 => scatter(row.as_chunks::<2>().0, r, tile),
                Self::F32 => {
                    dequantize_row(dtype, row, &mut widened);
                    let (values, steps) = (widened.iter(), tile.as_chunks_mut::<4>().0.chunks_exact_mut(TILE));
                    values.zip(steps).for_each(|(value, step)| step[r] = value.to_le_bytes());
                }
            }
        }
    }

    /// One row of a tile, widened.
    pub(super) fn read_row(self, tile: &[u8], row: usize, out: &mut [f32]) {
        assert!(row < TILE && tile.len() == self.tile_bytes(out.len()));
        match self {
            Self::Bf16 => {
                let pairs = tile.as_chunks::<4>().0.iter().skip(row).step_by(TILE);
                for (out, [a, b, c, d]) in out.chunks_mut(2).zip(pairs) {
                    out.iter_mut().zip([[*a, *b], [*c, *d]]).for_each(|(y, h)| *y = bf16_to_f32(u16::from_le_bytes(h)));
                }
            }
            Self::F16 => {
                let halves = tile.as_chunks::<2>().0.iter().skip(row).step_by(TILE);
                out.iter_mut().zip(halves).for_each(|(y, h)| *y = f16_to_f32(u16::from_le_bytes(*h)));
            }
            Self::F32 => {
                let values = tile.as_chunks::<4>().0.iter().skip(row).step_by(TILE);
                out.iter_mut().zip(values).for_each(|(y, x)| *y = f32::from_le_bytes(*x));
            }
        }
    }
}

/// A row's elements to their places, every sixteenth.
fn scatter<const N: usize>(row: &[[u8; N]], at: usize, tile: &mut [u8]) {
    let steps = tile.as_chunks_mut::<N>().0.chunks_exact_mut(TILE);
    row.iter().zip(steps).for_each(|(element, step)| step[at] = *element);
}

/// What a token's activations are prepared as, to meet a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    /// Rounded to bf16, for pairs of bf16 alone.
    Bf16,
    /// As they are.
    F32,
}

impl Inputs {
    /// The fastest that meets these elements; `exact`: unrounded.
    pub(super) fn of(elements: Elements, has_bf16: bool, exact: bool) -> Self {
        if elements == Elements::Bf16 && has_bf16 && !exact { Self::Bf16 } else { Self::F32 }
    }

    /// Bytes of one prepared token. Whole cache lines, and an odd number of them: tokens whose lines all fell into the
    /// same set of the first-level cache would drive each other out.
    pub(super) fn bytes(self, columns: usize) -> usize {
        let elements = columns.next_multiple_of(WIDE);
        let bytes = match self {
            Self::Bf16 => 2 * elements,
            Self::F32 => 4 * elements,
        };
        (bytes.div_ceil(LINE) | 1) * LINE
    }
}

/// Whether f32 may be read there. Where it may, halves may too.
fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().cast::<f32>().is_aligned()
}

/// Prepares one token's activations.
pub(super) struct Prepare<'a> {
    /// As what.
    pub inputs: Inputs,
    /// `[columns]`
    pub x: &'a [f32],
    /// [`Inputs::bytes`] of them.
    pub out: &'a mut [u8],
}

impl WideKernel for Prepare<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        assert!(self.out.len() == self.inputs.bytes(self.x.len()) && is_aligned(self.out));
        let (inputs, out) = (self.inputs, self.out.as_mut_ptr());
        let (wholes, rest) = self.x.as_chunks::<WIDE>();
        let mut last = [0.0; WIDE];
        last[..rest.len()].copy_from_slice(rest);
        let last = (!rest.is_empty()).then_some(&last);
        for (i, x) in wholes.iter().chain(last).enumerate() {
            // SAFETY: `Inputs::bytes` has room for whole vectors, of which this is the i-th; aligned, as asserted.
            unsafe {
                let v = isa.load(x.as_ptr());
                match inputs {
                    Inputs::Bf16 => isa.store_bf16(v, out.cast::<u16>().add(i * WIDE)),
                    Inputs::F32 => isa.store(v, out.cast::<f32>().add(i * WIDE)),
                }
            }
        }
    }
}

/// Some tiles of a matrix times some tokens.
pub(super) struct Multiply<'a, K> {
    /// What tiles hold.
    pub elements: Elements,
    /// What tokens were prepared as.
    pub inputs: Inputs,
    /// Columns of the matrix.
    pub columns: usize,
    /// The matrix: its tiles from the first.
    pub w: &'a [u8],
    /// Prepared tokens, from the first.
    pub x: &'a [u8],
    /// Bytes from a token to the next, see [`Inputs::bytes`].
    pub stride: usize,
    /// Which tiles.
    pub tiles: Range<usize>,
    /// Which tokens.
    pub tokens: Range<usize>,
    /// Takes the products.
    pub sink: &'a K,
}

impl<K: Sink> WideKernel for Multiply<'_, K> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        match (self.elements, self.inputs) {
            (Elements::Bf16, Inputs::Bf16) => self.through::<S, Pair>(isa),
            (Elements::Bf16, Inputs::F32) => self.through::<S, Pieces>(isa),
            (Elements::F16, Inputs::F32) => self.through::<S, Half>(isa),
            (Elements::F32, Inputs::F32) => self.through::<S, Single>(isa),
            (elements, inputs) => panic!("{elements:?} are not multiplied with {inputs:?}"),
        }
    }
}

impl<K: Sink> Multiply<'_, K> {
    /// Chunks of tokens, in each groups of tiles, in each blocks of tokens: a group's weights stay in the cache for all
    /// blocks of a chunk, the chunk's activations for all groups.
    #[inline(always)]
    fn through<S: Wide, P: Step>(&self, isa: S) {
        let most = Shape::most::<S, P>();
        let chunk = (TOKENS_BYTES / self.stride / most * most).max(most);
        for first in self.tokens.clone().step_by(chunk) {
            self.chunk::<S, P>(isa, first..(first + chunk).min(self.tokens.end));
        }
    }

    #[inline(always)]
    fn chunk<S: Wide, P: Step>(&self, isa: S, tokens: Range<usize>) {
        let (tile_bytes, x_stride) = (self.elements.tile_bytes(self.columns), self.stride);
        let x_bytes = self.inputs.bytes(self.columns);
        assert!(self.tiles.end <= self.w.len() / tile_bytes && x_stride >= x_bytes && x_stride.is_multiple_of(LINE));
        assert!(is_aligned(self.w) && is_aligned(self.x));
        assert!(tokens.is_empty() || (tokens.end - 1) * x_stride + x_bytes <= self.x.len());
        let steps = tile_bytes / P::WEIGHTS;
        // Blocks of even size: a last one of few tokens would wait for its own sums.
        let blocks = tokens.len().div_ceil(Shape::most::<S, P>());
        let width = Shape::tiles::<S>(tokens.len());
        let w = self.w.as_ptr();
        let mut products = [[0.0; WIDE]; BLOCK];
        for tile in self.tiles.clone().step_by(width) {
            let count = width.min(self.tiles.end - tile);
            let next = if tile + width < self.tiles.end { tile + width } else { tile };
            for b in 0..blocks {
                let [from, to] = [b, b + 1].map(|b| tokens.start + b * tokens.len() / blocks);
                // Used once: ask for what comes shortly. Used by several blocks: for the next group, each its share.
                let distance = if blocks == 1 { AHEAD_BYTES / width / (UNROLL * P::WEIGHTS) } else { steps / UNROLL };
                let ahead = Ahead {
                    chunks: distance.min(steps / UNROLL),
                    next: w.wrapping_add(next * tile_bytes),
                    tile_bytes,
                    every: blocks,
                    turn: b,
                };
                let args = Args {
                    tiles: std::array::from_fn(|j| w.wrapping_add((tile + j.min(count - 1)) * tile_bytes)),
                    x: self.x[from * x_stride..].as_ptr(),
                    x_stride,
                    steps,
                    ahead,
                    out: &mut products,
                };
                for j in 0..count {
                    self.sink.ask(isa, from..to, tile + j);
                }
                // SAFETY: the tiles and the tokens are within their slices, as asserted above, aligned, and as long as `steps`.
                unsafe { Shape { tokens: to - from, tiles: width }.run::<S, P>(isa, args) };
                for j in 0..count {
                    self.sink.put(isa, from..to, tile + j, &products[j..], width);
                }
            }
        }
    }
}

/// Of a block in registers: so many tokens times so many tiles.
struct Shape {
    tokens: usize,
    tiles: usize,
}

impl Shape {
    /// Most tokens of a block.
    #[inline(always)]
    fn most<S: Wide, P: Step>() -> usize {
        match S::REGISTERS {
            32.. => 12,
            8.. => P::OF_EIGHT,
            _ => 3,
        }
    }

    /// Tiles that go with so many tokens: enough sums that none waits for its last addition.
    #[inline(always)]
    fn tiles<S: Wide>(tokens: usize) -> usize {
        match (S::REGISTERS, tokens) {
            (32.., 1..=2) => 4,
            (32.., _) => 2,
            (8.., 1) => 3,
            (8.., 2) => 2,
            (..8, 1) => 2,
            _ => 1,
        }
    }

    /// # Safety
    /// See [`Block::new`].
    #[inline(always)]
    unsafe fn run<S: Wide, P: Step>(self, isa: S, args: Args<'_>) {
        macro_rules! shapes {
            ($($m:literal x $n:literal),*) => {
                match (self.tokens, self.tiles) {
                    // SAFETY: by this function's contract.
                    $(($m, $n) => isa.run(unsafe { Block::<P, $m, $n>::new(args) }),)*
                    (m, n) => unreachable!("{m} x {n} is no shape of {} registers", S::REGISTERS),
                }
            };
        }
        match S::REGISTERS {
            32.. => shapes!(1 x 4, 2 x 4, 3 x 2, 4 x 2, 5 x 2, 6 x 2, 7 x 2, 8 x 2, 9 x 2, 10 x 2, 11 x 2, 12 x 2),
            8.. => shapes!(1 x 3, 2 x 2, 3 x 1, 4 x 1, 5 x 1, 6 x 1),
            _ => shapes!(1 x 2, 2 x 1, 3 x 1),
        }
    }
}
