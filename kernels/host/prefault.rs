//! Pre-faulting: which memory of the K/V cache the system is to find before a step writes there.
//!
//! The first write to memory is a page fault, in which the system clears a large page while the other threads of a step wait:
//! 0.2 ms where memory is at hand, 7 ms in a virtual machine whose host had to find it first. So a step asks for what it will
//! write, and a little ahead, by all threads at once; while nothing is to be done it is asked for further ahead, but not for all:
//! a cache may be gigabytes that nobody ever needs. Changes no contents, and where the system cannot do it nothing but its gain
//! is missing. Knows pages and layers, no sequences; the threads are the caller's.
use std::ops::Range;

use super::buffer::{HUGE, Memory};

/// How far ahead of the pages in use, where there is nothing else to do.
const LEAD_BYTES: usize = 512 << 20;

/// Where pages lie: `[layers][pages]`, each of `bytes`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) layers: usize,
    pub(super) pages: usize,
    pub(super) bytes: usize,
}

impl Grid {
    /// Pages of a part: about a large page of one layer.
    fn stride(&self) -> usize {
        (HUGE / self.bytes).max(1)
    }

    /// How many parts the first `pages` are in. Parts are numbered layer by layer of some pages, then of the next pages.
    fn parts(&self, pages: usize) -> usize {
        pages.min(self.pages).div_ceil(self.stride()) * self.layers
    }

    /// The bytes of a part.
    fn bytes_of(&self, part: usize) -> Range<usize> {
        let (first, layer) = (part / self.layers * self.stride(), part % self.layers * self.pages);
        let end = (first + self.stride()).min(self.pages);
        (layer + first) * self.bytes..(layer + end) * self.bytes
    }
}

/// How far it has come.
pub(crate) struct Prefault {
    memory: Memory,
    grid: Grid,
    /// Parts before this one were given out.
    next: usize,
}

impl Prefault {
    pub(super) fn new(memory: Memory, grid: Grid) -> Self {
        Self { memory, grid, next: 0 }
    }

    /// Parts that are to be had before a step that writes so many `bytes`: those with pages before `used`, and of the next ones to
    /// come as much as it writes and one more, so that it gains on the steps; as many as there are threads, which take as long
    /// as one. Pages in use are taken to be the first ones; others cost a fault when they are written.
    pub(crate) fn before_step(&mut self, used: usize, bytes: usize, threads: usize) -> Range<usize> {
        let more = (bytes / HUGE + 1).next_multiple_of(threads);
        let needed = self.grid.parts(used);
        let soon = self.grid.parts(used.saturating_add(self.grid.stride()));
        self.take((self.next + more).min(soon).max(needed))
    }

    /// Up to `most` parts for later, while there is nothing else to do; none where enough are there.
    pub(crate) fn while_idle(&mut self, used: usize, most: usize) -> Range<usize> {
        let lead = LEAD_BYTES / (self.grid.layers * self.grid.bytes);
        self.take((self.next + most).min(self.grid.parts(used.saturating_add(lead))))
    }

    fn take(&mut self, end: usize) -> Range<usize> {
        let start = self.next;
        self.next = end.max(start);
        start..self.next
    }

    /// Has the system find a part's memory. False where it cannot.
    pub(crate) fn populate(&self, part: usize) -> bool {
        self.memory.populate(self.grid.bytes_of(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Buffer;

    /// Pages of a quarter of a large page: four a part, three parts a layer, the last of two pages.
    const GRID: Grid = Grid { layers: 3, pages: 10, bytes: HUGE / 4 };

    fn prefault(grid: Grid) -> Prefault {
        let buffer = Buffer::<u8>::zeroed(grid.layers * grid.pages * grid.bytes, "a test").unwrap();
        Prefault::new(buffer.memory().expect("large pages"), grid)
    }

    #[test]
    fn parts_are_all_pages_once() {
        for grid in
            [GRID, Grid { bytes: 3 * HUGE, ..GRID }, Grid { bytes: HUGE - 5, ..GRID }, Grid { bytes: 9, ..GRID }]
        {
            let mut parts: Vec<_> = (0..grid.parts(grid.pages)).map(|part| grid.bytes_of(part)).collect();
            parts.sort_by_key(|part| part.start);
            assert_eq!(parts.first().unwrap().start, 0);
            assert_eq!(parts.last().unwrap().end, grid.layers * grid.pages * grid.bytes);
            assert!(parts.windows(2).all(|two| two[0].end == two[1].start), "{grid:?}: {parts:?}");
        }
    }

    #[test]
    fn a_step_has_what_it_needs_and_a_little_of_what_comes_next() {
        let mut prefault = prefault(GRID);
        assert_eq!(prefault.before_step(1, 5, 1), 0..3);
        assert_eq!(prefault.before_step(1, 5, 2), 3..5);
        assert_eq!(prefault.before_step(2, HUGE, 2), 5..6);
        assert_eq!(prefault.before_step(4, HUGE, 2), 6..6);
        assert_eq!(prefault.before_step(9, 5, 2), 6..9);
        assert_eq!(prefault.before_step(10, 99 * HUGE, 1), 9..9);
        assert_eq!(prefault.while_idle(10, 99), 9..9);
    }

    #[test]
    fn idle_time_goes_to_a_bounded_lead() {
        let pages = 4 * LEAD_BYTES / HUGE;
        let mut prefault = prefault(Grid { layers: 2, pages, ..GRID });
        let mut taken = 0;
        while let parts = prefault.while_idle(0, 7)
            && !parts.is_empty()
        {
            assert_eq!(parts.start, taken);
            taken = parts.end;
        }
        assert_eq!(taken * HUGE, LEAD_BYTES);
        assert_eq!(prefault.while_idle(5, 7), taken..taken + 4);
        assert!(prefault.before_step(100, 9, 2).is_empty());
    }
}
