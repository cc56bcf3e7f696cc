//! The inner loop: a few tokens times a few tiles, all sums in registers. Knows nothing of where blocks come from.
//!
//! Weights of a step are loaded once for all tokens, a token's activation once for all tiles. With 12 tokens and two tiles
//! that is 14 loads for 24 multiplications; the rest of AVX-512's 32 registers holds the operands.
use std::marker::PhantomData;

use crate::cpu::simd::{WIDE, Wide, WideKernel, unrolled};

/// Steps between two looks at what to ask memory for.
pub(super) const UNROLL: usize = 4;
/// Rows of activations that share a pointer: `p`, `p + stride` and `p + 2 stride` are all addresses that x86 forms itself.
const ROWS: usize = 3;
/// The most tiles of a block.
const TILES: usize = 4;

/// What a step through a tile multiplies.
pub(super) trait Step: Copy {
    /// Bytes of a tile.
    const WEIGHTS: usize;
    /// Bytes of a token.
    const INPUTS: usize;
    /// Multiplications, one after the other into the same sum.
    const PARTS: usize;
    /// The most tokens of a block where registers hold eight sums: one more and they spill.
    const OF_EIGHT: usize;
    /// Their operands.
    type Operand<S: Wide>: Copy;

    /// A part's weights, of the step at `at`.
    ///
    /// # Safety
    /// `WEIGHTS` bytes are readable, aligned to their elements.
    unsafe fn weights<S: Wide>(isa: S, at: *const u8, part: usize) -> Self::Operand<S>;
    /// A part's activation, in all lanes.
    ///
    /// # Safety
    /// `INPUTS` bytes are readable, aligned to their elements.
    unsafe fn input<S: Wide>(isa: S, at: *const u8, part: usize) -> Self::Operand<S>;
    /// `sum + w x`
    fn dot<S: Wide>(isa: S, sum: S::F, w: Self::Operand<S>, x: Self::Operand<S>) -> S::F;
}

/// Pairs of bf16 by pairs of bf16.
#[derive(Clone, Copy)]
pub(super) struct Pair;

impl Step for Pair {
    const WEIGHTS: usize = 4 * WIDE;
    const INPUTS: usize = 4;
    const PARTS: usize = 1;
    const OF_EIGHT: usize = 6;
    type Operand<S: Wide> = S::B;

    #[inline(always)]
    unsafe fn weights<S: Wide>(isa: S, at: *const u8, _: usize) -> S::B {
        // SAFETY: by contract.
        unsafe { isa.load_bytes(at) }
    }
    #[inline(always)]
    unsafe fn input<S: Wide>(isa: S, at: *const u8, _: usize) -> S::B {
        // SAFETY: by contract.
        unsafe { isa.splat_4(at) }
    }
    #[inline(always)]
    fn dot<S: Wide>(isa: S, sum: S::F, w: S::B, x: S::B) -> S::F {
        isa.dot_bf16(sum, w, x)
    }
}

/// Weights that are widened to f32 and multiplied with f32.
pub(super) trait Widened: Copy {
    /// Bytes of a tile.
    const WEIGHTS: usize;
    /// Columns of a step, a part each.
    const PARTS: usize;
    /// See [`Step::OF_EIGHT`].
    const OF_EIGHT: usize;

    /// A part's weights, of the step at `at`.
    ///
    /// # Safety
    /// `WEIGHTS` bytes are readable, aligned to their elements.
    unsafe fn widen<S: Wide>(isa: S, at: *const u8, part: usize) -> S::F;
}

impl<W: Widened> Step for W {
    const WEIGHTS: usize = <W as Widened>::WEIGHTS;
    const INPUTS: usize = 4 * <W as Widened>::PARTS;
    const PARTS: usize = <W as Widened>::PARTS;
    const OF_EIGHT: usize = <W as Widened>::OF_EIGHT;
    type Operand<S: Wide> = S::F;

    #[inline(always)]
    unsafe fn weights<S: Wide>(isa: S, at: *const u8, part: usize) -> S::F {
        // SAFETY: by contract.
        unsafe { W::widen(isa, at, part) }
    }
    #[inline(always)]
    unsafe fn input<S: Wide>(isa: S, at: *const u8, part: usize) -> S::F {
        // SAFETY: by contract.
        isa.splat(unsafe { *at.cast::<f32>().add(part) })
    }
    #[inline(always)]
    fn dot<S: Wide>(isa: S, sum: S::F, w: S::F, x: S::F) -> S::F {
        isa.fma(w, x, sum)
    }
}

/// Pairs of bf16, the first of a pair and then the second.
#[derive(Clone, Copy)]
pub(super) struct Pieces;

impl Widened for Pieces {
    const WEIGHTS: usize = 4 * WIDE;
    const PARTS: usize = 2;
    const OF_EIGHT: usize = 6;

    #[inline(always)]
    unsafe fn widen<S: Wide>(isa: S, at: *const u8, part: usize) -> S::F {
        // SAFETY: by contract.
        let pairs = unsafe { isa.load_bytes(at) };
        if part == 0 { isa.evens(pairs) } else { isa.odds(pairs) }
    }
}

/// Halves.
#[derive(Clone, Copy)]
pub(super) struct Half;

impl Widened for Half {
    const WEIGHTS: usize = 2 * WIDE;
    const PARTS: usize = 1;
    const OF_EIGHT: usize = 5;

    #[inline(always)]
    unsafe fn widen<S: Wide>(isa: S, at: *const u8, _: usize) -> S::F {
        // SAFETY: by contract.
        unsafe { isa.load_f16(at.cast()) }
    }
}

/// f32 as they are.
#[derive(Clone, Copy)]
pub(super) struct Single;

impl Widened for Single {
    const WEIGHTS: usize = 4 * WIDE;
    const PARTS: usize = 1;
    const OF_EIGHT: usize = 6;

    #[inline(always)]
    unsafe fn widen<S: Wide>(isa: S, at: *const u8, _: usize) -> S::F {
        // SAFETY: by contract.
        unsafe { isa.load(at.cast()) }
    }
}

/// What to ask memory for while a block is computed: each time `UNROLL` steps of the tiles, `chunks` such ahead; past the
/// tiles' end, of the next tiles.
pub(super) struct Ahead {
    /// How far ahead, at most the tile's own.
    pub chunks: usize,
    /// The first of the next tiles.
    pub next: *const u8,
    /// From one tile to the next.
    pub tile_bytes: usize,
    /// Only every so many times, …
    pub every: usize,
    /// … from this one on.
    pub turn: usize,
}

/// What a block computes on.
pub(super) struct Args<'a> {
    /// Its tiles; those past the block's number do not matter.
    pub tiles: [*const u8; TILES],
    /// Its first token.
    pub x: *const u8,
    /// Bytes from a token to the next.
    pub x_stride: usize,
    /// Steps through a tile.
    pub steps: usize,
    /// What to prefetch.
    pub ahead: Ahead,
    /// `[tokens][tiles]`
    pub out: &'a mut [[f32; WIDE]],
}

/// `M` tokens times `N` tiles.
pub(super) struct Block<'a, P, const M: usize, const N: usize> {
    args: Args<'a>,
    step: PhantomData<P>,
}

impl<'a, P: Step, const M: usize, const N: usize> Block<'a, P, M, N> {
    /// # Safety
    /// `steps` of each of `N` tiles, and of each of `M` tokens, are readable, aligned to their elements.
    #[inline(always)]
    pub(super) unsafe fn new(args: Args<'a>) -> Self {
        const { assert!(N <= TILES && M <= 4 * ROWS) };
        assert!(args.out.len() >= M * N);
        Self { args, step: PhantomData }
    }
}

impl<P: Step, const M: usize, const N: usize> WideKernel for Block<'_, P, M, N> {
    type Out = ();

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // what an iterator over an array of registers compiles to keeps them in memory
    fn run<S: Wide>(self, isa: S) {
        let Args { mut tiles, x, x_stride, steps, ahead, out } = self.args;
        let mut rows = [0, 1, 2, 3].map(|i| x.wrapping_add(i * ROWS * x_stride));
        let mut sums = [[isa.splat(0.0); N]; M];
        let chunks = steps / UNROLL;
        let mut turn = ahead.turn;
        for chunk in 0..chunks {
            if chunk == turn {
                turn += ahead.every;
                let at = (chunk + ahead.chunks) * UNROLL * P::WEIGHTS;
                let end = chunks * UNROLL * P::WEIGHTS;
                let from =
                    if at < end { self.args.tiles[0].wrapping_add(at) } else { ahead.next.wrapping_add(at - end) };
                for j in 0..N {
                    for line in 0..UNROLL * P::WEIGHTS / 64 {
                        let at = from.wrapping_add(j * ahead.tile_bytes + line * 64);
                        if ahead.every == 1 { isa.prefetch_near(at) } else { isa.prefetch(at) }
                    }
                }
            }
            for step in 0..UNROLL {
                // SAFETY: fewer than `steps` steps, each readable by the contract of `new`.
                unsafe { Self::step(isa, &tiles, &rows, x_stride, step, &mut sums) };
            }
            for tile in &mut tiles {
                *tile = tile.wrapping_add(UNROLL * P::WEIGHTS);
            }
            for row in &mut rows {
                *row = row.wrapping_add(UNROLL * P::INPUTS);
            }
        }
        for step in 0..steps % UNROLL {
            // SAFETY: likewise, the last of them.
            unsafe { Self::step(isa, &tiles, &rows, x_stride, step, &mut sums) };
        }
        for i in 0..M {
            for j in 0..N {
                // SAFETY: sixteen f32.
                unsafe { isa.store(sums[i][j], out[i * N + j].as_mut_ptr()) };
            }
        }
    }
}

impl<P: Step, const M: usize, const N: usize> Block<'_, P, M, N> {
    /// # Safety
    /// The step is readable in `N` tiles and `M` rows.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // as above
    unsafe fn step<S: Wide>(
        isa: S,
        tiles: &[*const u8; TILES],
        rows: &[*const u8; 4],
        stride: usize,
        step: usize,
        sums: &mut [[S::F; N]; M],
    ) {
        for part in 0..P::PARTS {
            // SAFETY: by contract.
            let mut w = [unsafe { P::weights(isa, tiles[0].add(step * P::WEIGHTS), part) }; N];
            // Loops: a closure is compiled without the set's instructions, and each of them is a call then.
            for j in 1..N {
                // SAFETY: by contract.
                w[j] = unsafe { P::weights(isa, tiles[j].add(step * P::WEIGHTS), part) };
            }
            unrolled!(i in 0..M {
                // SAFETY: by contract.
                let x = unsafe { P::input(isa, rows[i / ROWS].add(i % ROWS * stride + step * P::INPUTS), part) };
                for j in 0..N {
                    sums[i][j] = P::dot(isa, sums[i][j], w[j], x);
                }
                isa.settle(&mut sums[i]);
            });
        }
    }
}
