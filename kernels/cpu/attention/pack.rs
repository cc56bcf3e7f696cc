//! A block's keys and values out of the cache, as the products want them: from rows, or from keys that are turned already.
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
use crate::host::{GROUP, KvLayout};

const _: () = assert!(GROUP == WIDE, "sixteen turned keys are a vector");

/// Where each token of a block has its keys (turned, its group's) and its values; from the block's count on, any token's.
pub(super) type Starts = [[*const u8; BLOCK]; 2];

/// Tokens of a block, and of the block after it.
pub(super) struct Rows {
    /// Where each has its keys and its values.
    pub starts: Starts,
    /// Keys of this block.
    pub count: usize,
    /// The same of the block after it, this tile's or the next one's.
    pub next: Starts,
    /// Keys of that one.
    pub next_count: usize,
    /// What is asked for meanwhile.
    pub asked: Asked,
}

/// A walk over what will be wanted next, in the order of memory, by small steps among the products: many lines at once would hold
/// up the loads that come after, and hardware does best with neighbours. Of rows that is the whole next block, which takes as
/// many steps a token as there are heads. Of turned keys and their values it is the next head alone.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// It is in the next block.
    pub of_next: bool,
    /// Of the keys and of the values, a token's first byte and the cache lines a step.
    pub runs: [(usize, usize); 2],
    /// Bytes from a token's share of its group's keys and values to the next one's, where keys are turned; else 0.
    pub lane: usize,
    /// Steps a token.
    pub steps: usize,
    /// Steps at once: a short block's keys ask for all of a long one.
    pub at_once: usize,
    /// Tokens.
    pub count: usize,
    /// The token that is asked for, …
    pub row: usize,
    /// … and which part of it.
    pub step: usize,
}

impl Asked {
    /// Nothing.
    pub(super) const NOTHING: Self =
        Self { of_next: false, runs: [(0, 0); 2], lane: 0, steps: 1, at_once: 1, count: 0, row: 0, step: 0 };

    /// Of so many tokens, what starts here in their keys and their values, and of how many bytes.
    pub(super) fn new(count: usize, [keys, values]: [(usize, usize); 2], steps: usize) -> Self {
        let runs = [keys, values].map(|(start, bytes)| (start, bytes.div_ceil(64).div_ceil(steps)));
        Self { runs, steps, count, ..Self::NOTHING }
    }
}

impl Rows {
    /// All that is left.
    #[inline(always)]
    pub(super) fn ask_all<S: Wide>(&mut self, isa: S) {
        while self.asked.row < self.asked.count {
            self.ask(isa);
        }
    }

    /// A step, or some.
    #[inline(always)]
    pub(super) fn ask<S: Wide>(&mut self, isa: S) {
        let Asked { of_next, runs, lane, steps, at_once, count, row, step } = &mut self.asked;
        let [keys, values] = if *of_next { &self.next } else { &self.starts };
        for _ in 0..*at_once {
            if *row >= *count {
                return;
            }
            // Turned keys have their group's start, which its first token knows.
            let first = if *lane > 0 { *row / WIDE * WIDE } else { *row };
            let (Some(keys), Some(values)) = (keys.get(first), values.get(first)) else { return };
            let from = [keys.wrapping_add(*row % WIDE * *lane), *values];
            for (from, (start, lines)) in from.into_iter().zip(*runs) {
                let from = from.wrapping_add(start + 64 * *step * lines);
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
    /// Which K/V head.
    pub kv_head: usize,
    /// How they are stored.
    pub layout: &'a KvLayout,
    /// Elements a head.
    pub dim: usize,
    /// Keys, and values.
    pub what: [bool; 2],
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
        if self.layout.format().is_scaled() {
            self.scales();
        }
        by_format!(self.layout.format(), R => self.pack::<S, R>(isa));
    }
}

impl<E: Element> Pack<'_, '_, E> {
    fn scales(&mut self) {
        let scale = |row: *const u8, at: usize| {
            // SAFETY: a row holds its scales.
            unsafe { row.add(at).cast::<f32>().read_unaligned() }
        };
        let at = (self.layout.key_scale(self.kv_head), self.layout.value_scale(self.kv_head));
        let scales = self.to.key_scales.iter_mut().zip(&mut *self.to.value_scales).zip(self.rows.starts[0]).enumerate();
        for (i, ((key, value), row)) in scales {
            let is_there = i < self.rows.count;
            *key = if is_there { scale(row, at.0) } else { 0.0 };
            *value = if is_there { scale(row, at.1) } else { 0.0 };
        }
    }

    #[inline(always)]
    fn pack<S: Wide, R: Stored>(&mut self, isa: S) {
        let [keys, values] = self.what;
        for first in (0..self.rows.count).step_by(WIDE).filter(|_| keys) {
            match self.layout.is_turned() {
                true => self.turned::<S, R>(isa, first),
                false => self.keys::<S, R>(isa, first),
            }
        }
        if !values {
            return;
        }
        for first in (0..self.rows.count).step_by(E::PER_WORD) {
            self.values::<S, R>(isa, first);
            self.rows.ask(isa);
        }
    }

    /// Sixteen keys from `first` on, which lie as they are wanted.
    #[inline(always)]
    fn turned<S: Wide, R: Stored>(&mut self, isa: S, first: usize) {
        assert!(R::FORMAT == E::Panel::STORED, "turned keys are multiplied as they are stored");
        let words = self.dim / E::PER_WORD;
        for _ in 0..BLOCK / 2 / (BLOCK / WIDE) {
            self.rows.ask(isa);
        }
        // SAFETY: a group holds the words of sixteen keys of each head, and so, padded, does the panel, as `run` has checked.
        unsafe {
            let from = self.rows.starts[0][first].add(self.layout.head(self.kv_head));
            let to = self.to.keys.as_mut_ptr().add(first * padded(words));
            std::ptr::copy_nonoverlapping(from, to.cast(), words * WIDE * size_of::<u32>());
        }
    }

    /// Sixteen keys from `first` on: a corner of sixteen words at a time, turned.
    #[inline(always)]
    fn keys<S: Wide, R: Stored>(&mut self, isa: S, first: usize) {
        let (words, bytes) = (self.dim.div_ceil(E::PER_WORD), R::FORMAT.element_bytes());
        let rows: [_; WIDE] = *self.rows.starts[0][first..].first_chunk().expect("a block is groups of sixteen");
        for word in (0..words).step_by(WIDE) {
            for _ in 0..WIDE * WIDE / words.next_multiple_of(WIDE) / 2 {
                self.rows.ask(isa);
            }
            let left = self.dim - word * E::PER_WORD;
            let at = self.layout.head(self.kv_head) + word * E::PER_WORD * bytes;
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
        let at = self.layout.head(self.kv_head);
        let rows = [first, first + E::PER_WORD - 1].map(|i| self.rows.starts[1][i].wrapping_add(at));
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
