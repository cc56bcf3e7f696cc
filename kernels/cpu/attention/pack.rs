//! A block's keys and values out of the cache's rows, as the products want them.
//!
//! ```text
//!   keys    [BLOCK / 16][words of a head][16]           word w of sixteen keys: their scores are a vector
//!   values  [columns / 16][BLOCK / PER_WORD][16]        keys 2 k and 2 k + 1 (or k) of sixteen columns
//! ```
//!
//! A product reads one [..][16] from end to end: where rows of all keys lay side by side, every row's vector would be in the
//! same few sets of the first-level cache.
use std::marker::PhantomData;

use super::BLOCK;
use super::element::{Element, Number, Stored, by_format, load_some};
use crate::cpu::simd::{WIDE, Wide, WideKernel, padded};
use crate::device::KvFormat;

/// Rows of a block, and of the block after it.
pub(super) struct Rows {
    /// Where each row starts; from `count` to a multiple of sixteen, any row.
    pub rows: [*const u8; BLOCK],
    /// Keys of this block.
    pub count: usize,
    /// What will be wanted next, and is asked for meanwhile.
    pub next: [*const u8; BLOCK],
    /// Where the asking for it has come to.
    pub asked: Asked,
}

/// A walk over the next block, in the order of memory: a step a key of each head, half of them among the keys and half among
/// the values, since many lines at once would hold up the loads that come after, and hardware does best with neighbours.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// Of a row's runs, the heads' keys and their values, the first byte and the cache lines a step. A tile that has all
    /// heads has one run.
    pub runs: [(usize, usize); 2],
    /// Steps a row.
    pub steps: usize,
    /// Steps at once: a short block's keys ask for all of a long one.
    pub at_once: usize,
    row: usize,
    step: usize,
}

impl Asked {
    /// For runs of so many bytes, by so many heads.
    pub(super) fn new(parts: [(usize, usize); 2], heads: usize) -> Self {
        let runs = parts.map(|(start, end)| (start, (end - start).div_ceil(64).div_ceil(heads)));
        Self { runs, steps: heads, at_once: 1, row: 0, step: 0 }
    }

    /// From the first row again.
    pub(super) fn restart(&mut self) {
        (self.row, self.step) = (0, 0);
    }
}

impl Rows {
    /// All that is left.
    #[inline(always)]
    pub(super) fn ask_all<S: Wide>(&mut self, isa: S) {
        while self.asked.row < self.next.len() {
            self.ask(isa);
        }
    }

    /// A step, or some.
    #[inline(always)]
    pub(super) fn ask<S: Wide>(&mut self, isa: S) {
        let Asked { runs, steps, at_once, row, step } = &mut self.asked;
        for _ in 0..*at_once {
            let Some(next) = self.next.get(*row) else { return };
            for (start, lines) in *runs {
                let from = next.wrapping_add(start + 64 * *step * lines);
                for line in 0..lines {
                    isa.prefetch(from.wrapping_add(64 * line));
                }
            }
            *step += 1;
            if *step == *steps {
                (*row, *step) = (*row + 1, 0);
            }
        }
    }
}

/// What to pack.
pub(super) struct Pack<'a, 'p, E> {
    /// From where.
    pub rows: &'a mut Rows,
    /// Bytes from a row's start to the head's key, and to its value.
    pub at: (usize, usize),
    /// And to their scales, where there are any.
    pub scales_at: (usize, usize),
    /// How rows are stored.
    pub format: KvFormat,
    /// Elements a head.
    pub dim: usize,
    /// Values too, not keys alone.
    pub values: bool,
    /// To where.
    pub to: &'a mut Panels<'p>,
    /// As what.
    pub element: PhantomData<E>,
}

/// A block of one K/V head.
pub(super) struct Panels<'a> {
    /// `[BLOCK / 16][padded(words of a head)][16]`
    pub keys: &'a mut [u32],
    /// `[columns / 16][BLOCK / PER_WORD][16]`
    pub values: &'a mut [u32],
    /// A key's, 0 beyond the last.
    pub key_scales: &'a mut [f32],
    /// A value's, 0 beyond the last.
    pub value_scales: &'a mut [f32],
}

impl<E: Element> WideKernel for Pack<'_, '_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(mut self, isa: S) {
        let words = self.dim.div_ceil(E::PER_WORD);
        assert!(self.rows.count > 0 && self.rows.count <= BLOCK);
        assert!(self.to.keys.len() >= padded(words) * BLOCK);
        assert!(self.to.values.len() >= BLOCK / E::PER_WORD * padded(self.dim));
        if self.format.is_scaled() {
            self.scales();
        }
        by_format!(self.format, R => self.pack::<S, R>(isa));
    }
}

impl<E: Element> Pack<'_, '_, E> {
    fn scales(&mut self) {
        let scale = |row: *const u8, at: usize| {
            // SAFETY: a row holds its scales.
            unsafe { row.add(at).cast::<f32>().read_unaligned() }
        };
        let scales = self.to.key_scales.iter_mut().zip(&mut *self.to.value_scales).zip(self.rows.rows).enumerate();
        for (i, ((key, value), row)) in scales {
            let is_there = i < self.rows.count;
            *key = if is_there { scale(row, self.scales_at.0) } else { 0.0 };
            *value = if is_there { scale(row, self.scales_at.1) } else { 0.0 };
        }
    }

    #[inline(always)]
    fn pack<S: Wide, R: Stored>(&mut self, isa: S) {
        for group in 0..self.rows.count.div_ceil(WIDE) {
            self.keys::<S, R>(isa, group * WIDE);
        }
        if !self.values {
            return;
        }
        for first in (0..self.rows.count).step_by(E::PER_WORD) {
            self.values::<S, R>(isa, first);
            self.rows.ask(isa);
        }
    }

    /// Sixteen keys from `first` on: a corner of sixteen words at a time, turned.
    #[inline(always)]
    fn keys<S: Wide, R: Stored>(&mut self, isa: S, first: usize) {
        let (words, bytes) = (self.dim.div_ceil(E::PER_WORD), R::FORMAT.element_bytes());
        let rows: [_; WIDE] = *self.rows.rows[first..].first_chunk().expect("a block is groups of sixteen");
        for word in (0..words).step_by(WIDE) {
            for _ in 0..WIDE * WIDE / words.next_multiple_of(WIDE) / 2 {
                self.rows.ask(isa);
            }
            let left = self.dim - word * E::PER_WORD;
            let at = self.at.0 + word * E::PER_WORD * bytes;
            // SAFETY: `run` has checked that the panel has the words, padded.
            let to = unsafe { self.to.keys.as_mut_ptr().add(first * padded(words) + word * WIDE) };
            if R::FORMAT == E::Panel::STORED && left >= WIDE * E::PER_WORD {
                // SAFETY: rows hold sixteen more words; so does the panel.
                unsafe { isa.transpose(&rows, at, to, WIDE) };
                continue;
            }
            let mut corner = [[0u32; WIDE]; WIDE];
            for (i, corner) in corner.iter_mut().enumerate() {
                for part in 0..E::PER_WORD.min(left.div_ceil(WIDE)) {
                    // SAFETY: a row holds `left` elements from here on, and a part is sixteen of them, or the last few.
                    unsafe {
                        let v = load_some::<S, R>(isa, rows[i].add(at + part * WIDE * bytes), left - part * WIDE);
                        E::Panel::store(isa, v, corner.as_mut_ptr().add(part * WIDE / E::PER_WORD));
                    }
                }
            }
            // SAFETY: sixteen rows of sixteen words; the panel as above.
            unsafe { isa.transpose(&corner.each_ref().map(|row| row.as_ptr().cast()), 0, to, WIDE) };
        }
    }

    /// The values of the keys that share a word.
    #[inline(always)]
    fn values<S: Wide, R: Stored>(&mut self, isa: S, first: usize) {
        let bytes = R::FORMAT.element_bytes();
        let is_there = |i: usize| first + i < self.rows.count;
        let rows = [first, first + E::PER_WORD - 1].map(|i| self.rows.rows[i].wrapping_add(self.at.1));
        // SAFETY: `run` has checked that the panel has this row, and below each of its columns.
        let to = unsafe { self.to.values.as_mut_ptr().add(first * WIDE / E::PER_WORD) };
        let whole = if R::FORMAT == E::Panel::STORED && is_there(E::PER_WORD - 1) { self.dim / WIDE } else { 0 };
        for vector in 0..whole {
            // SAFETY: rows hold sixteen more elements.
            unsafe {
                let rows = [rows[0].add(vector * WIDE * bytes).cast(), rows[1].add(vector * WIDE * bytes).cast()];
                E::Panel::zip(isa, rows, to.add(vector * WIDE * BLOCK / E::PER_WORD));
            }
        }
        for vector in whole..padded(self.dim) / WIDE {
            let left = self.dim - vector * WIDE;
            let mut copies = [[0u32; WIDE]; 2];
            for (i, copy) in copies.iter_mut().enumerate().take(E::PER_WORD).filter(|(i, _)| is_there(*i)) {
                // SAFETY: a row holds `left` elements from here on; a copy holds sixteen elements.
                unsafe {
                    let v = load_some::<S, R>(isa, rows[i].add(vector * WIDE * bytes), left);
                    E::Panel::store(isa, v, copy.as_mut_ptr());
                }
            }
            // SAFETY: sixteen elements of each.
            unsafe {
                let to = to.add(vector * WIDE * BLOCK / E::PER_WORD);
                E::Panel::zip(isa, copies.each_ref().map(|row| row.as_ptr()), to);
            }
        }
    }
}
