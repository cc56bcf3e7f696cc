//! A few rows times a panel: the two products of attention, queries by keys and weights by values.
//!
//! Each element of the result is one sum over the words of its row, from first to last and from zero, in any shape of tile.
//! So a query's bits do not depend on which other queries are multiplied beside it.
use std::marker::PhantomData;

use super::element::Element;
use crate::cpu::simd::{WIDE, Wide, WideKernel};

/// Rows at once, where registers are many.
pub(super) const MOST_ROWS: usize = 6;

/// Rows at once: with their sums and one vector of the panel they fill the registers.
pub(super) const fn rows_at_once<S: Wide>() -> usize {
    if S::REGISTERS < 8 { 2 } else { MOST_ROWS }
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
        if S::REGISTERS >= 8 {
            match self.size.rows {
                6 => return self.rows::<S, 6>(isa),
                5 => return self.rows::<S, 5>(isa),
                4 => return self.rows::<S, 4>(isa),
                3 => return self.rows::<S, 3>(isa),
                _ => {}
            }
        }
        match self.size.rows {
            2 => self.rows::<S, 2>(isa),
            1 => self.rows::<S, 1>(isa),
            rows => panic!("{rows} rows at once"),
        }
    }
}
