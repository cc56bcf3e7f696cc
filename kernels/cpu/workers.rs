//! The team with what each of its threads needs: the instruction set and scratch memory.
use std::sync::Mutex;

use super::simd::{LINE, Level};
use super::team::{Tasks, Team};
use crate::host::Buffer;

/// Threads, their instruction set, their scratch.
pub(super) struct Workers {
    /// What kernels are compiled for.
    pub level: Level,
    team: Team,
    scratch: Vec<Mutex<Scratch>>,
}

impl Workers {
    /// `threads` of them, the caller of `run` among them.
    pub(super) fn new(threads: usize, level: Level) -> std::io::Result<Self> {
        let scratch = (0..threads).map(|_| Mutex::default()).collect();
        Ok(Self { level, team: Team::new(threads)?, scratch })
    }

    /// How many threads.
    pub(super) fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Runs tasks `0 .. tasks` and returns when all are done.
    pub(super) fn run(&mut self, tasks: usize, task: impl Fn(&mut Scratch, usize) + Sync) {
        self.each(tasks, |scratch, tasks| {
            while let Some(i) = tasks.next() {
                task(scratch, i);
            }
        });
    }

    /// Runs pieces `0 .. pieces` as [`Workers::run`] does, but each thread gets pieces that follow each other.
    pub(super) fn run_in_runs(&mut self, pieces: usize, task: impl Fn(&mut Scratch, usize) + Sync) {
        let threads = self.threads();
        self.run(pieces, |scratch, i| task(scratch, piece_of(i, pieces, threads)));
    }

    /// Runs `part` on every thread, and returns when all are done: it takes tasks `0 .. tasks` itself.
    pub(super) fn each(&mut self, tasks: usize, part: impl Fn(&mut Scratch, &Tasks) + Sync) {
        let scratch = &self.scratch;
        self.team.each(tasks, &|worker, tasks| {
            // Never contended: a worker is one thread. A panic in a task leaves scratch, whose content means nothing.
            let mut scratch = scratch[worker].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            part(&mut scratch, tasks);
        });
    }
}

/// The piece that the `i`th task is, so that pieces that follow each other are one thread's: of `n` threads each takes every
/// `n`th task (`team.rs`).
pub(super) fn piece_of(i: usize, pieces: usize, threads: usize) -> usize {
    let (lane, turn) = (i % threads, i / threads);
    lane * (pieces / threads) + lane.min(pieces % threads) + turn
}

/// A thread's own memory, grown to the largest task it has seen. Its content is whatever the last task left.
#[derive(Default)]
pub(super) struct Scratch(Option<Buffer<f32>>);

impl Scratch {
    /// Slices of at least these lengths, each on its own cache lines.
    pub(super) fn slices<const N: usize>(&mut self, lens: [usize; N]) -> [&mut [f32]; N] {
        let total: usize = lens.iter().map(|len| len.next_multiple_of(LINE)).sum();
        if self.0.as_ref().is_none_or(|buffer| buffer.len() < total) {
            // A few hundred KiB: where that fails nothing else will work either.
            self.0 = Some(Buffer::zeroed(total, "a thread's scratch").expect("scratch memory"));
        }
        let mut rest = &mut self.0.as_mut().expect("just made")[..];
        lens.map(|len| {
            let (slice, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(LINE));
            rest = after;
            slice
        })
    }
}
