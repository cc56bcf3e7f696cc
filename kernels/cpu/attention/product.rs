//! A few rows times a panel: the two products of attention, queries by keys and weights by values.
//!
//! Each element of the result is one sum over the words of its row, from first to last and from zero, in any shape of tile.
//! So a query's bits do not depend on which other queries are multiplied beside it.
use std::marker::PhantomData;

use super::BLOCK;
use super::element::{Element, Stored, StoredBF16, StoredF16, StoredF32, StoredInt8};
use super::pack::Rows;
use crate::cpu::simd::{WIDE, Wide, WideKernel};
use crate::device::KvFormat;

/// Rows at once, where registers are many.
pub(super) const MOST_ROWS: usize = 6;

/// Rows at once: with their sums and one vector of the panel they fill the registers.
pub(super) const fn rows_at_once<S: Wide>() -> usize {
    if S::REGISTERS < 8 { 2 } else { MOST_ROWS }
}

/// An expression for the number of rows, of those that a set has registers for.
macro_rules! by_rows {
    ($S:ident, $rows:expr, $M:ident => $body:expr) => {{
        macro_rules! of {
            ($m:literal) => {{
                const $M: usize = $m;
                $body
            }};
        }
        match $rows {
            6 if $S::REGISTERS >= 8 => of!(6),
            5 if $S::REGISTERS >= 8 => of!(5),
            4 if $S::REGISTERS >= 8 => of!(4),
            3 if $S::REGISTERS >= 8 => of!(3),
            2 => of!(2),
            1 => of!(1),
            rows => panic!("{rows} rows at once"),
        }
    }};
}

/// `out[i][j] = sum over k of a[i][k] · b[k][j]`
pub(super) struct Product<E> {
    a: *const u32,
    a_stride: usize,
    b: *const u32,
    /// Words from a vector of columns to the next: each is a panel of its own, one row of sixteen after the other.
    b_stride: usize,
    out: *mut f32,
    out_stride: usize,
    size: Size,
    element: PhantomData<E>,
}

/// How much of it.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Rows of a: at most [`rows_at_once`].
    pub rows: usize,
    /// Rows of b; of a row of a, words by [`Element::PARTS`].
    pub words: usize,
    /// Vectors of sixteen columns.
    pub vectors: usize,
}

impl<E: Element> Product<E> {
    /// Operands and result, each with its words from a row to the next; of b, from a vector of columns to the next.
    ///
    /// # Safety
    /// They hold as much as `size` says, and `out` overlaps neither of the others.
    #[inline(always)]
    pub(super) unsafe fn new(
        a: (*const u32, usize),
        b: (*const u32, usize),
        out: (*mut f32, usize),
        size: Size,
    ) -> Self {
        let ((a, a_stride), (b, b_stride), (out, out_stride)) = (a, b, out);
        Self { a, a_stride, b, b_stride, out, out_stride, size, element: PhantomData }
    }

    #[inline(always)]
    fn rows<S: Wide, const M: usize>(&self, isa: S) {
        let mut at = 0;
        // As many columns as registers allow, so that enough sums are under way at once.
        if S::REGISTERS >= 32 {
            while at + 4 <= self.size.vectors {
                self.tile::<S, M, 4>(isa, at);
                at += 4;
            }
        } else if S::REGISTERS >= 8 && M <= 2 {
            while at + 2 <= self.size.vectors {
                self.tile::<S, M, 2>(isa, at);
                at += 2;
            }
        }
        while at < self.size.vectors {
            self.tile::<S, M, 1>(isa, at);
            at += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Wide, const M: usize, const N: usize>(&self, isa: S, vector: usize) {
        let mut sums = [[isa.splat(0.0); N]; M];
        // SAFETY: rows below `size.rows`, words below `size.words` and vectors below `size.vectors` are there, by the
        // contract of `new`.
        unsafe {
            let b = self.b.add(vector * self.b_stride);
            for k in 0..self.size.words {
                // Loops, not closures: those would be functions of their own, without the instruction set.
                let b = b.add(k * WIDE);
                for part in 0..E::PARTS {
                    let mut columns = [E::load(isa, b, part); N];
                    for (j, column) in columns.iter_mut().enumerate().skip(1) {
                        *column = E::load(isa, b.add(j * self.b_stride), part);
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let a = E::splat(isa, self.a.add(i * self.a_stride + k * E::PARTS + part));
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = E::dot(isa, *sum, column, a);
                        }
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    isa.store(sum, self.out.add(i * self.out_stride + (vector + j) * WIDE));
                }
            }
        }
    }
}

impl<E: Element> WideKernel for Product<E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        by_rows!(S, self.size.rows, M => self.rows::<S, M>(isa));
    }
}

/// `out[i][j] = sum over k of a[i][k] · row k[j]`: as [`Product`], of values where they lie in the cache. For rows of weights
/// that are [`rows_at_once`] at most: each value is read, and widened, once.
pub(super) struct ByRows<'a, E> {
    /// Of the cache.
    rows: &'a mut Rows,
    /// Bytes from a row's start to the values.
    at: usize,
    format: KvFormat,
    a: *const u32,
    a_stride: usize,
    out: *mut f32,
    out_stride: usize,
    size: Size,
    element: PhantomData<E>,
}

impl<'a, E: Element> ByRows<'a, E> {
    /// Values, how they are stored, weights and result, each with its words from a row to the next.
    ///
    /// # Safety
    /// They hold as much as `size` says, whose words are those of a block at most; `E` multiplies the format.
    #[inline(always)]
    pub(super) unsafe fn new(
        (rows, at, format): (&'a mut Rows, usize, KvFormat),
        (a, a_stride): (*const u32, usize),
        (out, out_stride): (*mut f32, usize),
        size: Size,
    ) -> Self {
        assert!(E::multiplies(format) && size.words * E::PER_WORD <= BLOCK);
        Self { rows, at, format, a, a_stride, out, out_stride, size, element: PhantomData }
    }

    #[inline(always)]
    fn by_format<S: Wide, const M: usize>(&mut self, isa: S) {
        // Formats that the element does not multiply compile to nothing.
        match self.format {
            KvFormat::F32 if E::multiplies(KvFormat::F32) => self.product::<S, StoredF32, M>(isa),
            KvFormat::F16 if E::multiplies(KvFormat::F16) => self.product::<S, StoredF16, M>(isa),
            KvFormat::BF16 if E::multiplies(KvFormat::BF16) => self.product::<S, StoredBF16, M>(isa),
            KvFormat::Int8 if E::multiplies(KvFormat::Int8) => self.product::<S, StoredInt8, M>(isa),
            format => panic!("{format:?} rows are not multiplied as they are"),
        }
    }

    #[inline(always)]
    fn product<S: Wide, R: Stored, const M: usize>(&mut self, isa: S) {
        let mut at = 0;
        if S::REGISTERS >= 32 {
            while at + 4 <= self.size.vectors {
                self.tile::<S, R, M, 4>(isa, at);
                at += 4;
            }
        } else if S::REGISTERS >= 8 && M <= 2 {
            while at + 2 <= self.size.vectors {
                self.tile::<S, R, M, 2>(isa, at);
                at += 2;
            }
        }
        while at < self.size.vectors {
            self.tile::<S, R, M, 1>(isa, at);
            at += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Wide, R: Stored, const M: usize, const N: usize>(&mut self, isa: S, vector: usize) {
        let mut sums = [[isa.splat(0.0); N]; M];
        let from = self.at + vector * WIDE * R::FORMAT.element_bytes();
        for k in 0..self.size.words {
            if vector == 0 {
                self.rows.ask(isa);
            }
            let rows = [self.rows.rows[k * E::PER_WORD], self.rows.rows[(k + 1) * E::PER_WORD - 1]];
            for part in 0..E::PARTS {
                // SAFETY: rows hold `size.vectors` vectors of values, and a what `size` says, by the contract of `new`.
                unsafe {
                    // Loops, not closures: those would be functions of their own, without the instruction set.
                    let rows = [rows[0].add(from), rows[1].add(from)];
                    let mut columns = [E::load_rows::<S, R>(isa, rows, part); N];
                    for (j, column) in columns.iter_mut().enumerate().skip(1) {
                        let step = j * WIDE * R::FORMAT.element_bytes();
                        *column = E::load_rows::<S, R>(isa, [rows[0].add(step), rows[1].add(step)], part);
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let a = E::splat(isa, self.a.add(i * self.a_stride + k * E::PARTS + part));
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = E::dot(isa, *sum, column, a);
                        }
                    }
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                // SAFETY: the result has as many rows and vectors, by the contract of `new`.
                unsafe { isa.store(sum, self.out.add(i * self.out_stride + (vector + j) * WIDE)) };
            }
        }
    }
}

impl<E: Element> WideKernel for ByRows<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(mut self, isa: S) {
        by_rows!(S, self.size.rows, M => self.by_format::<S, M>(isa));
    }
}
