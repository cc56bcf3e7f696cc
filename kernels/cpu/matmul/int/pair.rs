//! Tiles of signed bytes, two at a time, by several tokens: where registers are many. Bytes need no unpacking, so that a pair of
//! tiles for half as many tokens costs no more than one for all, and loads activations half as often.
//!
//! A value's sum is what it is for a tile alone, see [`super::totals`].
use std::marker::PhantomData;
use std::ops::Range;

use super::layout::Layout;
use super::prepare::{BYTE_SUM, RECORD, SCALE};
use super::{BLOCK, Int, Operands, ask};
use crate::cpu::matmul::packed::{Prepared, Sink, TILE};
use crate::cpu::simd::{Wide, WideKernel, unrolled};

/// The most tokens of a pair of tiles: two sums each, and two totals.
const MOST: usize = 6;

/// Some tiles of a matrix times some tokens, more than [`super::ALONE`].
pub(super) struct Pairs<'a, L, K> {
    /// The matrix.
    pub w: &'a Int,
    /// From the first of the tokens on; `blocks` records each are there, as who makes this has asserted.
    pub x: Prepared<'a>,
    /// Which tiles; they are there.
    pub tiles: Range<usize>,
    /// Which tokens.
    pub tokens: Range<usize>,
    /// Takes the products.
    pub sink: &'a K,
    /// Of signed bytes.
    pub layout: PhantomData<L>,
}

impl<L: Layout, K: Sink> Pairs<'_, L, K> {
    /// Multiplies them.
    #[inline(always)]
    pub(super) fn multiply<S: Wide>(self, isa: S) {
        let Self { w, x, tiles, tokens, sink, .. } = self;
        let blocks = w.columns / BLOCK;
        let tile_bytes = w.tile_bytes();
        // Parts of even size, of four tokens at least: each asks for its share of the next pair.
        let parts = tokens.len().div_ceil(MOST);
        for tile in tiles.clone().step_by(2) {
            let count = 2.min(tiles.end - tile);
            for part in 0..parts {
                let [from, to] = [part, part + 1].map(|part| part * tokens.len() / parts);
                let first = w.data[tile * tile_bytes..].as_ptr();
                let at = Operands {
                    w: first,
                    x: x.bytes[from * x.stride..].as_ptr(),
                    stride: x.stride,
                    blocks,
                    ahead: 2 * tile_bytes,
                    every: parts,
                    turn: part,
                };
                // An odd last tile is both of its pair.
                let second = first.wrapping_add((count - 1) * tile_bytes);
                let tokens = tokens.start + from..tokens.start + to;
                for j in 0..count {
                    sink.ask(isa, tokens.clone(), tile + j);
                }
                let ints = isa.integers();
                let sums = match to - from {
                    4 => ints.run(Pair::<L, 4> { at, second, layout: PhantomData }),
                    5 => ints.run(Pair::<L, 5> { at, second, layout: PhantomData }),
                    6 => ints.run(Pair::<L, MOST> { at, second, layout: PhantomData }),
                    tokens => unreachable!("parts of more than {MOST} tokens have 4 at least, not {tokens}"),
                };
                for j in 0..count {
                    sink.put(isa, tokens.clone(), tile + j, &sums[j..], 2);
                }
            }
        }
    }
}

/// Two tiles times `M` tokens.
struct Pair<L, const M: usize> {
    at: Operands,
    /// The second tile.
    second: *const u8,
    layout: PhantomData<L>,
}

impl<L: Layout, const M: usize> WideKernel for Pair<L, M> {
    /// `[token][tile]`
    type Out = [[f32; TILE]; 2 * MOST];

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // what an iterator over an array of registers compiles to keeps them in memory
    fn run<S: Wide>(self, isa: S) -> Self::Out {
        let Self { at, second, .. } = self;
        let mut totals = [[isa.splat(0.0); 2]; M];
        let mut turn = at.turn;
        for first in (0..at.blocks).step_by(L::UNIT) {
            // SAFETY: who made the operands saw that both tiles and the tokens' records are there; offsets are within them by
            // their layouts.
            unsafe {
                let units = [at.w, second].map(|w| w.add(first / L::UNIT * L::UNIT_BYTES));
                for span in 0..L::UNIT / L::SPAN {
                    let mut parts = [[isa.splat(0.0); 2]; M];
                    for block in span * L::SPAN..(span + 1) * L::SPAN {
                        let w = [units[0].add(block * L::INTEGERS), units[1].add(block * L::INTEGERS)];
                        let x = at.x.add((first + block) * RECORD);
                        if first + block == turn {
                            turn += at.every;
                            ask::<L, S>(isa, w[0].wrapping_add(at.ahead), block, false);
                            ask::<L, S>(isa, w[1].wrapping_add(at.ahead), block, false);
                        }
                        let mut sums = [[isa.splat_i(0); 2]; M];
                        for t in 0..M {
                            sums[t] = [isa.splat_i(x.add(t * at.stride + BYTE_SUM).cast::<i32>().read_unaligned()); 2];
                        }
                        let groups = BLOCK / 4;
                        unrolled!(group in 0..groups {
                            let pair = [isa.load_bytes(w[0].add(64 * group)), isa.load_bytes(w[1].add(64 * group))];
                            for t in 0..M {
                                let x = isa.splat_4(x.add(t * at.stride + 4 * group));
                                sums[t] = [isa.dot_bytes(sums[t][0], pair[0], x), isa.dot_bytes(sums[t][1], pair[1], x)];
                                isa.settle_integers(&mut sums[t]);
                            }
                        });
                        let scale = |t: usize| x.add(t * at.stride + SCALE).cast::<f32>().read_unaligned();
                        if L::SPAN > 1 {
                            for t in 0..M {
                                let scale = isa.splat(scale(t));
                                for n in 0..2 {
                                    parts[t][n] = isa.fma(isa.to_f32(sums[t][n]), scale, parts[t][n]);
                                }
                            }
                            continue;
                        }
                        let d = [L::numbers(isa, units[0], 0), L::numbers(isa, units[1], 0)];
                        for t in 0..M {
                            let scale = isa.splat(scale(t));
                            for n in 0..2 {
                                totals[t][n] = isa.fma(isa.to_f32(sums[t][n]), isa.mul(d[n], scale), totals[t][n]);
                            }
                        }
                    }
                    if L::SPAN > 1 {
                        let d = [L::numbers(isa, units[0], span), L::numbers(isa, units[1], span)];
                        for t in 0..M {
                            for n in 0..2 {
                                totals[t][n] = isa.fma(parts[t][n], d[n], totals[t][n]);
                            }
                        }
                    }
                }
            }
        }
        let mut out = [[0.0; TILE]; 2 * MOST];
        for t in 0..M {
            for n in 0..2 {
                // SAFETY: sixteen f32.
                unsafe { isa.store(totals[t][n], out[2 * t + n].as_mut_ptr()) };
            }
        }
        out
    }
}
