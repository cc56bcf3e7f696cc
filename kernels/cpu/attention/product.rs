//! A few rows times a panel: the two products of attention, queries by keys and weights by values.
//!
//! Each element of the result is one sum over the words of its row, from first to last and from zero, in any shape of tile.
//! So a query's bits do not depend on which other queries are multiplied beside it.
use std::marker::PhantomData;

use super::BLOCK;
use super::element::{Element, Stored};
use super::pack::Rows;
use crate::cpu::simd::{WIDE, Wide, WideKernel};

/// Rows at once, where registers are many.
pub(super) const MOST_ROWS: usize = 6;

/// Rows at once: with their sums and one vector of the panel they fill the registers.
pub(super) const fn rows_at_once<S: Wide>() -> usize {
    if S::REGISTERS < 8 { 2 } else { MOST_ROWS }
}

/// The right side of a product: rows of vectors.
pub(super) trait Columns<E: Element> {
    /// Before row `k` of some vectors from `first` on: a chance to ask memory for what comes later.
    fn ask<S: Wide>(&mut self, isa: S, k: usize, first: usize, vectors: usize);
    /// A part of a row's sixteen words.
    ///
    /// # Safety
    /// The row and the vector are there.
    unsafe fn load<S: Wide>(&self, isa: S, k: usize, vector: usize, part: usize) -> E::Words<S>;
}

/// A panel, packed: each vector of columns from end to end.
pub(super) struct Panel {
    /// `[vectors][rows][16]`
    pub words: *const u32,
    /// Words from a vector to the next.
    pub stride: usize,
}

impl<E: Element> Columns<E> for Panel {
    #[inline(always)]
    fn ask<S: Wide>(&mut self, _: S, _: usize, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn load<S: Wide>(&self, isa: S, k: usize, vector: usize, part: usize) -> E::Words<S> {
        // SAFETY: by contract.
        unsafe { E::load(isa, self.words.add(vector * self.stride + k * WIDE), part) }
    }
}

/// Turned keys where they lie in the cache. For products that read them once.
pub(super) struct Turned<'a> {
    rows: &'a mut Rows,
    /// Each sixteen keys' words.
    groups: [*const u32; BLOCK / WIDE],
}

impl<'a> Turned<'a> {
    /// The block's rows, and how far into a group the head's keys are.
    pub(super) fn new(rows: &'a mut Rows, at: usize) -> Self {
        let groups = std::array::from_fn(|group| rows.starts[0][group * WIDE].wrapping_add(at).cast());
        Self { rows, groups }
    }
}

impl<E: Element> Columns<E> for Turned<'_> {
    #[inline(always)]
    fn ask<S: Wide>(&mut self, isa: S, k: usize, _: usize, vectors: usize) {
        // A step for every four vectors: with 32 words and 8 vectors that is half a block's, as `Asked` has it.
        if k.is_multiple_of((4 / vectors).max(1)) {
            self.rows.ask(isa);
        }
    }
    #[inline(always)]
    unsafe fn load<S: Wide>(&self, isa: S, k: usize, vector: usize, part: usize) -> E::Words<S> {
        // SAFETY: by contract.
        unsafe { E::load(isa, self.groups[vector].add(k * WIDE), part) }
    }
}

/// Values where they lie in the cache. For products that read them once.
pub(super) struct InCache<'a, R> {
    rows: &'a mut Rows,
    /// Bytes from a token's values to the head's.
    at: usize,
    stored: PhantomData<R>,
}

impl<'a, R: Stored> InCache<'a, R> {
    /// The block's rows, and how far from a token's values the head's is.
    pub(super) fn new(rows: &'a mut Rows, at: usize) -> Self {
        Self { rows, at, stored: PhantomData }
    }
}

impl<E: Element, R: Stored> Columns<E> for InCache<'_, R> {
    #[inline(always)]
    fn ask<S: Wide>(&mut self, isa: S, _: usize, first: usize, _: usize) {
        if first == 0 {
            self.rows.ask(isa);
        }
    }
    #[inline(always)]
    unsafe fn load<S: Wide>(&self, isa: S, k: usize, vector: usize, part: usize) -> E::Words<S> {
        let at = self.at + vector * WIDE * R::FORMAT.element_bytes();
        let rows = &self.rows.starts[1];
        let (first, last) = (rows[k * E::PER_WORD], rows[(k + 1) * E::PER_WORD - 1]);
        // SAFETY: by contract.
        unsafe { E::load_rows::<S, R>(isa, [first.add(at), last.add(at)], part) }
    }
}

/// `out[i][j] = sum over k of a[i][k] · b[k][j]`
pub(super) struct Product<E, B> {
    a: *const u32,
    a_stride: usize,
    b: B,
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

impl<E: Element, B: Columns<E>> Product<E, B> {
    /// Operands and result, the rows' with the words from one to the next.
    ///
    /// # Safety
    /// They hold as much as `size` says, and `out` overlaps neither of the others.
    #[inline(always)]
    pub(super) unsafe fn new(a: (*const u32, usize), b: B, out: (*mut f32, usize), size: Size) -> Self {
        let ((a, a_stride), (out, out_stride)) = (a, out);
        Self { a, a_stride, b, out, out_stride, size, element: PhantomData }
    }

    #[inline(always)]
    fn rows<S: Wide, const M: usize>(&mut self, isa: S) {
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
    fn tile<S: Wide, const M: usize, const N: usize>(&mut self, isa: S, vector: usize) {
        let mut sums = [[isa.splat(0.0); N]; M];
        for k in 0..self.size.words {
            self.b.ask(isa, k, vector, N);
            for part in 0..E::PARTS {
                // SAFETY: rows below `size.rows`, words below `size.words` and vectors below `size.vectors` are there, by the
                // contract of `new`.
                unsafe {
                    // Loops, not closures: those would be functions of their own, without the instruction set.
                    let mut columns = [self.b.load(isa, k, vector, part); N];
                    for (j, column) in columns.iter_mut().enumerate().skip(1) {
                        *column = self.b.load(isa, k, vector + j, part);
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
                // SAFETY: as above.
                unsafe { isa.store(sum, self.out.add(i * self.out_stride + (vector + j) * WIDE)) };
            }
        }
    }
}

impl<E: Element, B: Columns<E>> WideKernel for Product<E, B> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(mut self, isa: S) {
        match self.size.rows {
            6 if S::REGISTERS >= 8 => self.rows::<S, 6>(isa),
            5 if S::REGISTERS >= 8 => self.rows::<S, 5>(isa),
            4 if S::REGISTERS >= 8 => self.rows::<S, 4>(isa),
            3 if S::REGISTERS >= 8 => self.rows::<S, 3>(isa),
            2 => self.rows::<S, 2>(isa),
            1 => self.rows::<S, 1>(isa),
            rows => panic!("{rows} rows at once"),
        }
    }
}
