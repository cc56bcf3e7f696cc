//! Quantised matrices: products of small integers, in blocks of 32 columns, with activations of eight bits.
//!
//! A weight is `d · (q - zero) + m` with `d` (and `m`) for each row and 32 columns (16 in Q6_K); an activation `s · x`
//! with `s` for each token and 32 columns. A block's sum of `q · x` is exact, in i32; sums of blocks are f32, in order
//! of columns:
//!
//! ```text
//!   total = fma(Σ(q - zero)·x, d·s, total)      total = fma(m, s·Σx, total)
//!
//!   a tile's unit       16 rows × 32 columns, or 8 × 32 of them, one after the other along the columns
//!     nibbles: 256      line j: of each row four bytes; low nibbles columns 4j.., high ones columns 16 + 4j..
//!     or bytes: 512     line j: of each row columns 4j..
//!     scales, minima    sixteen of each, f16 as in the file; K formats': f32, their products
//!
//!   where four blocks share a scale:      part = fma(Σq·x, s, part) over the four      total = fma(part, d, total)
//!
//!   a token's block     [x: i8 * 32][s: f32][s·Σx: f32][-8, -128·Σx: i32][-32·Σ(first 16 x): i32]
//! ```
use std::marker::PhantomData;
use std::ops::Range;

use super::packed::{Prepared, Sink, TILE};
use crate::cpu::simd::{Wide, WideKernel, unrolled};
use crate::cpu::workers::Workers;
use crate::device::DeviceError;
use crate::dtype::{Block, DType, dequantize_row, quantize_row, to_int8};
use crate::host::{Buffer, PartView, Pool, Shared};
use crate::narrow::f16_to_f32;

mod layout;
mod pair;
mod prepare;

pub(super) use layout::Format;
use layout::{Int8, Layout, by_layout};
use prepare::{BYTE_SUM, RECORD, SCALE, SCALED_SUM, ZERO_SUM, ZERO_SUM_FIRST};

/// Columns of a block.
const BLOCK: usize = 32;
/// Tiles that all tokens meet before the next: what the first-level cache keeps beside a few tokens.
const TILES_BYTES: usize = 12 << 10;
/// Up to so many tokens meet one tile at a time, which is read once.
const ALONE: usize = 8;
/// Where each tile is used once, how far ahead of its use it is asked for: see `floats.rs`.
const AHEAD_BYTES: usize = 8 << 10;

/// A quantised matrix, packed.
pub(super) struct Int {
    format: Format,
    rows: usize,
    columns: usize,
    /// What the set that it was packed for adds to signed bytes.
    byte_offset: i32,
    /// `[tiles][columns / 32 / UNIT]` units
    data: Buffer<u8>,
}

impl Int {
    /// Packs what is stored in the format, or quantises floats to it.
    pub(super) fn pack(
        part: &PartView<'_>,
        format: Format,
        pool: &mut Pool,
        workers: &mut Workers,
    ) -> Result<Self, DeviceError> {
        let (rows, columns) = (part.rows, part.columns);
        let tile_bytes = by_layout!(format, L => {
            assert!(columns.is_multiple_of(L::UNIT * BLOCK), "{columns} columns of {format:?}");
            columns / BLOCK / L::UNIT * L::UNIT_BYTES
        });
        let bytes = rows.div_ceil(TILE).saturating_mul(tile_bytes);
        let mut data = pool.zeroed(bytes, "weights")?;
        let tiles = Shared::new(&mut data);
        let level = workers.level;
        let byte_offset = level.run(ByteOffset);
        workers.run(rows.div_ceil(TILE), |_, tile| {
            // SAFETY: each tile is one task's.
            let out = unsafe { tiles.part(tile * tile_bytes, tile_bytes) };
            match format {
                Format::Stored(dtype) => {
                    by_layout!(format, L => pack_tile::<L>(part, dtype, tile, byte_offset, out));
                }
                Format::Int8 => pack_int8(part, tile, byte_offset, out),
            }
        });
        Ok(Self { format, rows, columns, byte_offset, data })
    }

    /// Bytes a tile.
    pub(super) fn tile_bytes(&self) -> usize {
        by_layout!(self.format, L => self.columns / BLOCK / L::UNIT * L::UNIT_BYTES)
    }

    /// Bytes of one token's activations.
    pub(super) fn prepared_bytes(columns: usize) -> usize {
        (columns / BLOCK * RECORD).next_multiple_of(64)
    }

    /// One token's activations, quantised.
    #[inline(always)]
    pub(super) fn prepare<S: Wide>(isa: S, x: &[f32], out: &mut [u8]) {
        prepare::quantise(isa, x, out);
    }

    /// One row's values; of what a file stores, to the bits of [`crate::dtype::dequantize_row`].
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns, "row {row} of {}", self.rows);
        let tile = &self.data[row / TILE * self.tile_bytes()..][..self.tile_bytes()];
        by_layout!(self.format, L => row_of::<L>(tile, row % TILE, self.byte_offset, out));
    }

    /// See [`super::packed::Multiply`].
    #[inline(always)]
    pub(super) fn multiply<S: Wide, K: Sink>(
        &self,
        isa: S,
        x: Prepared<'_>,
        tiles: Range<usize>,
        tokens: Range<usize>,
        sink: &K,
    ) {
        by_layout!(self.format, L => self.multiply_by::<L, S, K>(isa, x, tiles, tokens, sink));
    }

    #[inline(always)]
    fn multiply_by<L: Layout, S: Wide, K: Sink>(
        &self,
        isa: S,
        x: Prepared<'_>,
        tiles: Range<usize>,
        tokens: Range<usize>,
        sink: &K,
    ) {
        let blocks = self.columns / BLOCK;
        let tile_bytes = self.tile_bytes();
        assert!(tiles.end * tile_bytes <= self.data.len() && S::BYTE_OFFSET == self.byte_offset);
        let start = x.start(&tokens, blocks * RECORD);
        if L::STEPS == 0 && S::REGISTERS >= 32 && tokens.len() > ALONE {
            let x = Prepared { bytes: &x.bytes[tokens.start * x.stride..], ..x };
            return pair::Pairs::<L, K> { w: self, x, tiles, tokens, sink, layout: PhantomData }.multiply(isa);
        }
        // As many tokens at a time as their sums fit the registers, a narrow one and a total each.
        let most = if S::REGISTERS >= 32 { 12 } else { 4 };
        let width = (TILES_BYTES / tile_bytes).max(1);
        // Used once: ask for what comes shortly. Used by several tokens after the others: for the next group, each its share.
        let chunks = tokens.len().div_ceil(most);
        let ahead = if chunks == 1 { AHEAD_BYTES } else { width * tile_bytes };
        for first in tiles.clone().step_by(width) {
            let group = first..tiles.end.min(first + width);
            let mut token = tokens.start;
            while token < tokens.end {
                let (count, again) = next_chunk(tokens.end - token, token - tokens.start, most);
                for tile in group.clone() {
                    // SAFETY: the tile is within `data` and the tokens' records within `x`, as asserted.
                    let at = unsafe {
                        Operands {
                            w: self.data.as_ptr().add(tile * tile_bytes),
                            x: start.add((token - again - tokens.start) * x.stride),
                            stride: x.stride,
                            blocks,
                            ahead,
                            every: chunks,
                            turn: (token - tokens.start) / most,
                        }
                    };
                    match count {
                        12 if S::REGISTERS >= 32 && L::STEPS > 0 => {
                            put::<L, S, K, 12>(isa, at, (token, again), tile, sink)
                        }
                        8 if S::REGISTERS >= 32 => put::<L, S, K, 8>(isa, at, (token, again), tile, sink),
                        4 => put::<L, S, K, 4>(isa, at, (token, again), tile, sink),
                        2 => put::<L, S, K, 2>(isa, at, (token, again), tile, sink),
                        _ => put::<L, S, K, 1>(isa, at, (token, again), tile, sink),
                    }
                }
                token += count - again;
            }
        }
    }
}

/// How many of the `left` tokens to take at a time, and how many of the `done` ones before them once more: where one is
/// missing to the next size, that size costs less than the smaller ones that make up what is left.
fn next_chunk(left: usize, done: usize, most: usize) -> (usize, usize) {
    const SIZES: [usize; 5] = [12, 8, 4, 2, 1];
    let fits = |size| size <= left || (size == left + 1 && done > 0 && !SIZES.contains(&left));
    let size = SIZES.into_iter().find(|&size| size <= most && fits(size)).expect("at least one is left");
    (size, size.saturating_sub(left))
}

/// What the running set adds to signed bytes.
struct ByteOffset;

impl WideKernel for ByteOffset {
    type Out = i32;
    #[inline(always)]
    fn run<S: Wide>(self, _isa: S) -> i32 {
        S::BYTE_OFFSET
    }
}

/// A tile and the tokens to multiply it with.
#[derive(Clone, Copy)]
struct Operands {
    w: *const u8,
    x: *const u8,
    /// Bytes from a token to the next.
    stride: usize,
    blocks: usize,
    /// Bytes from a block to what to ask memory for meanwhile, …
    ahead: usize,
    /// … every so many blocks, …
    every: usize,
    /// … from this one on.
    turn: usize,
}

#[inline(always)]
fn put<L: Layout, S: Wide, K: Sink, const M: usize>(
    isa: S,
    at: Operands,
    (token, again): (usize, usize),
    tile: usize,
    sink: &K,
) {
    let tokens = token..token + M - again;
    sink.ask(isa, tokens.clone(), tile);
    let sums = isa.integers().run(Totals::<L, M>(at, PhantomData));
    sink.put(isa, tokens, tile, &sums[again..], 1);
}

/// One tile times `M` tokens: a function of its own, so that one set's many are not one huge one.
struct Totals<L, const M: usize>(Operands, PhantomData<L>);

impl<L: Layout, const M: usize> WideKernel for Totals<L, M> {
    type Out = [[f32; TILE]; M];

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) -> Self::Out {
        let mut out = [[0.0; TILE]; M];
        // SAFETY: who made the operands saw that they are there.
        let totals = unsafe { totals::<L, S, M>(isa, self.0) };
        for t in 0..M {
            // SAFETY: sixteen f32.
            unsafe { isa.store(totals[t], out[t].as_mut_ptr()) };
        }
        out
    }
}

/// Asks memory for what is used shortly and `once`, or will be several times: where block `block` of a unit would be at `at`. Blocks
/// of bytes, of eight lines and more, gained nothing by being near (kernels/README.md).
#[inline(always)]
fn ask<L: Layout, S: Wide>(isa: S, at: *const u8, block: usize, once: bool) {
    let bytes = if block + 1 < L::UNIT { L::INTEGERS } else { L::UNIT_BYTES - (L::UNIT - 1) * L::INTEGERS };
    for line in 0..bytes.div_ceil(64) {
        let at = at.wrapping_add(64 * line);
        if once && L::STEPS > 0 { isa.prefetch_near(at) } else { isa.prefetch(at) }
    }
}

/// One tile times `M` tokens.
///
/// # Safety
/// `w` has `blocks` blocks of the layout; each of `M` tokens as many records.
// Loops over indices: what an iterator over an array of registers compiles to keeps them in memory.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn totals<L: Layout, S: Wide, const M: usize>(isa: S, at: Operands) -> [S::F; M] {
    let mut totals = [isa.splat(0.0); M];
    let mut turn = at.turn;
    for first in (0..at.blocks).step_by(L::UNIT) {
        // SAFETY: within the tile and the tokens' records, by contract; so are the offsets below, by their layouts.
        unsafe {
            let unit = at.w.add(first / L::UNIT * L::UNIT_BYTES);
            for span in 0..L::UNIT / L::SPAN {
                let mut parts = [isa.splat(0.0); M];
                for block in span * L::SPAN..(span + 1) * L::SPAN {
                    let (w, x) = (unit.add(block * L::INTEGERS), at.x.add((first + block) * RECORD));
                    if first + block == turn {
                        turn += at.every;
                        ask::<L, S>(isa, w.wrapping_add(at.ahead), block, at.every == 1);
                    }
                    let scalar = |t: usize, field: usize| x.add(t * at.stride + field).cast::<f32>().read_unaligned();
                    for share in 0..BLOCK / L::SHARE {
                        let sums = sums::<L, S, M>(isa, w, x, at.stride, share);
                        if L::SPAN > 1 {
                            for t in 0..M {
                                parts[t] = isa.fma(isa.to_f32(sums[t]), isa.splat(scalar(t, SCALE)), parts[t]);
                            }
                            continue;
                        }
                        let d = L::numbers(isa, unit, share);
                        for t in 0..M {
                            let scale = isa.mul(d, isa.splat(scalar(t, SCALE)));
                            totals[t] = isa.fma(isa.to_f32(sums[t]), scale, totals[t]);
                        }
                    }
                    if L::MIN {
                        let m = L::numbers(isa, unit, 1);
                        for t in 0..M {
                            totals[t] = isa.fma(m, isa.splat(scalar(t, SCALED_SUM)), totals[t]);
                        }
                    }
                }
                if L::SPAN > 1 {
                    let d = L::numbers(isa, unit, span);
                    for t in 0..M {
                        totals[t] = isa.fma(parts[t], d, totals[t]);
                    }
                }
            }
        }
    }
    totals
}

/// `Σ(q - zero)·x` of one share of a block.
///
/// # Safety
/// As [`totals`].
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn sums<L: Layout, S: Wide, const M: usize>(
    isa: S,
    w: *const u8,
    x: *const u8,
    stride: usize,
    share: usize,
) -> [S::I; M] {
    // SAFETY: by contract.
    unsafe {
        let mut sums = [isa.splat_i(0); M];
        let zero = if L::STEPS == 0 { S::BYTE_OFFSET } else { L::ZERO };
        if zero != 0 {
            for t in 0..M {
                let field = |at: usize| x.add(t * stride + at).cast::<i32>().read_unaligned();
                sums[t] = isa.splat_i(match (L::SHARE, share, zero) {
                    (16, 0, _) => field(ZERO_SUM_FIRST) * (zero / 32),
                    (16, ..) => (4 * field(ZERO_SUM) - field(ZERO_SUM_FIRST)) * (zero / 32),
                    (_, _, 128) => field(BYTE_SUM),
                    _ => field(ZERO_SUM) * (zero / 8),
                });
            }
        }
        let four = |t: usize, group: usize| isa.splat_4(x.add(t * stride + 4 * group));
        if L::NIBBLES {
            let mut narrow = [isa.start_narrow(sums[0]); M];
            for t in 0..M {
                narrow[t] = isa.start_narrow(sums[t]);
            }
            for j in 0..4 {
                let both = isa.load_bytes(w.add(64 * j));
                let low = isa.low_nibbles(both);
                for t in 0..M {
                    narrow[t] = isa.dot_narrow(narrow[t], low, four(t, j));
                }
                let high = isa.high_nibbles(both);
                for t in 0..M {
                    narrow[t] = isa.dot_narrow(narrow[t], high, four(t, 4 + j));
                }
            }
            for t in 0..M {
                sums[t] = isa.end_narrow(sums[t], narrow[t]);
            }
            return sums;
        }
        let groups = L::SHARE / 4;
        let first = share * groups;
        if L::STEPS == 0 {
            unrolled!(step in 0..groups {
                let w = isa.load_bytes(w.add(64 * (first + step)));
                for t in 0..M {
                    sums[t] = isa.dot_bytes(sums[t], w, four(t, first + step));
                }
                isa.settle_integers(&mut sums);
            });
            return sums;
        }
        for start in 0..groups / L::STEPS {
            let start = first + start * L::STEPS;
            let mut narrow = [isa.start_narrow(sums[0]); M];
            for t in 0..M {
                narrow[t] = isa.start_narrow(sums[t]);
            }
            let steps = L::STEPS;
            unrolled!(step in 0..steps {
                let w = isa.load_bytes(w.add(64 * (start + step)));
                for t in 0..M {
                    narrow[t] = isa.dot_narrow(narrow[t], w, four(t, start + step));
                }
                isa.settle_narrow(&mut narrow);
            });
            for t in 0..M {
                sums[t] = isa.end_narrow(sums[t], narrow[t]);
            }
        }
        sums
    }
}

/// Packs up to sixteen rows of `part`.
fn pack_tile<L: Layout>(part: &PartView<'_>, dtype: DType, tile: usize, byte_offset: i32, out: &mut [u8]) {
    let (len, size) = (dtype.block_len(), dtype.block_bytes());
    let (mut floats, mut quantised) = (Vec::new(), Vec::new());
    let mut block = Block { q: [0; 256], scales: [(0.0, 0.0); 16] };
    let zero = if L::STEPS == 0 { byte_offset } else { L::ZERO };
    let shares = BLOCK / L::SHARE;
    assert_eq!(L::UNIT, 1, "files have their numbers block by block");
    for row in 0..TILE.min(part.rows - tile * TILE) {
        let mut blocks = out.chunks_exact_mut(L::UNIT_BYTES);
        let mut stored = part.row(tile * TILE + row);
        if part.dtype != dtype {
            floats.resize(part.columns, 0.0);
            dequantize_row(part.dtype, stored, &mut floats);
            quantize_row(dtype, &floats, &mut quantised);
            stored = &quantised;
        }
        for stored in stored.chunks_exact(size) {
            block.unpack(dtype, stored);
            for (i, q) in block.q[..len].as_chunks::<BLOCK>().0.iter().enumerate() {
                let out = blocks.next().expect("as many blocks as the row has");
                let q = q.map(|q| (i32::from(q) + zero) as u8);
                put_integers::<L>(&q, row, out);
                for share in 0..shares {
                    let (d, m) = block.scales[i * shares + share];
                    L::put_number(out, share, row, d);
                    if L::MIN {
                        L::put_number(out, 1, row, m);
                    }
                }
            }
        }
    }
}

/// Quantises up to sixteen rows of `part`.
fn pack_int8(part: &PartView<'_>, tile: usize, byte_offset: i32, out: &mut [u8]) {
    const COLUMNS: usize = Int8::SPAN * BLOCK;
    let mut floats = vec![0.0; part.columns];
    for row in 0..TILE.min(part.rows - tile * TILE) {
        dequantize_row(part.dtype, part.row(tile * TILE + row), &mut floats);
        let spans = floats.as_chunks::<COLUMNS>().0;
        for (i, x) in spans.iter().enumerate() {
            let (unit, span) = (i * Int8::SPAN / Int8::UNIT, i % (Int8::UNIT / Int8::SPAN));
            let unit = &mut out[unit * Int8::UNIT_BYTES..][..Int8::UNIT_BYTES];
            let (half, q) = to_int8(x);
            for (j, q) in q.as_chunks::<BLOCK>().0.iter().enumerate() {
                let block = &mut unit[(span * Int8::SPAN + j) * Int8::INTEGERS..][..Int8::INTEGERS];
                put_integers::<Int8>(&q.map(|q| (i32::from(q) + byte_offset) as u8), row, block);
            }
            Int8::put_number(unit, span, row, f16_to_f32(half));
        }
    }
}

/// A row's 32 integers into a tile's block.
#[inline(always)]
fn put_integers<L: Layout>(q: &[u8; BLOCK], row: usize, out: &mut [u8]) {
    let fours = q.as_chunks::<4>().0;
    if L::NIBBLES {
        for j in 0..4 {
            let four: [u8; 4] = std::array::from_fn(|i| fours[j][i] | fours[4 + j][i] << 4);
            out[64 * j + 4 * row..][..4].copy_from_slice(&four);
        }
    } else {
        for (j, four) in fours.iter().enumerate() {
            out[64 * j + 4 * row..][..4].copy_from_slice(four);
        }
    }
}

/// One row of a tile, as values.
fn row_of<L: Layout>(tile: &[u8], row: usize, byte_offset: i32, out: &mut [f32]) {
    let zero = if L::STEPS == 0 { byte_offset } else { L::ZERO };
    for (i, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let unit = &tile[i / L::UNIT * L::UNIT_BYTES..][..L::UNIT_BYTES];
        let block = &unit[i % L::UNIT * L::INTEGERS..];
        for (share, out) in out.chunks_exact_mut(L::SHARE).enumerate() {
            let d = L::number(unit, i % L::UNIT / L::SPAN + share, row);
            for (i, y) in out.iter_mut().enumerate() {
                let column = share * L::SHARE + i;
                let byte = |line: usize| block[64 * line + 4 * row + column % 4];
                let stored = match (L::NIBBLES, column < 16) {
                    (true, true) => byte(column / 4) & 15,
                    (true, false) => byte(column / 4 - 4) >> 4,
                    _ => byte(column / 4),
                };
                let q = match L::STEPS {
                    0 => (i32::from(stored) - zero) as i8 as i32,
                    _ => i32::from(stored) - zero,
                };
                *y = q as f32 * d;
                if L::MIN {
                    *y += L::number(unit, 1, row);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
