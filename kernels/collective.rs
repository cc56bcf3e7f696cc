//! Ranks that compute one model together: how they see each other's results, wait for each other, and end together.
//!
//! Owns the meeting of rank threads in the host's memory. Knows nothing of what they compute: a device calls it inside the
//! operations that [`crate::Device::join`] names. All ranks do so in the same order; a rank that cannot go on says so by
//! its [`Alarm`], and whoever waits for it, then or later, unwinds in place of waiting for ever.
//!
//! ```text
//!   rank     begin ─ writes its part ─ publish ── reads all parts, in rank order ── drop ─ …
//!                                        ▲ until every rank has published
//!            ▲ until every rank has dropped what it read the last time
//! ```
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::device::TokenId;
use crate::host::Buffer;

/// How often a rank looks before it sleeps: some 30 µs, in which ranks on cores of their own meet.
const SPINS: usize = 1000;
/// The same, where there are more ranks than cores: the one waited for needs this core.
const CROWDED_SPINS: usize = 20;

/// What one rank has of `whole` things that are shared out in order: `rank * whole / of ..`. Counts differ by one at most.
pub fn share(whole: usize, rank: usize, of: usize) -> Range<usize> {
    assert!(rank < of, "rank {rank} of {of}");
    let at = |rank: usize| (rank as u128 * whole as u128 / of as u128) as usize;
    at(rank)..at(rank + 1)
}

/// Which of so many ranks has that one of `whole` things.
pub(crate) fn owner(whole: usize, of: usize, item: usize) -> usize {
    assert!(item < whole, "{item} of {whole}");
    // The last rank whose share starts at or before it: rank * whole < (item + 1) * of.
    (((item as u128 + 1) * of as u128 - 1) / whole as u128) as usize
}

/// A rank unwound because another had failed: what [`std::panic::catch_unwind`] then catches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankLost(pub String);

/// One rank's end. It moves to the rank's thread, and its device keeps it.
pub struct Collective {
    meeting: Arc<Meeting>,
    rank: usize,
    /// Exchanges that this rank has published.
    exchanges: u64,
}

/// Tells all ranks that one of them has failed. Whoever runs a rank's thread keeps one.
#[derive(Clone)]
pub struct Alarm(Arc<Meeting>);

impl Alarm {
    /// From here on no rank waits for another. The first words stand.
    pub fn ring(&self, why: &str) {
        let _ = self.0.failure.set(why.to_owned());
        self.0.wake();
    }
}

struct Meeting {
    seats: Vec<Seat>,
    spins: usize,
    failure: OnceLock<String>,
    /// What rank 0 broadcasts: written before it publishes, read after.
    tokens: RwLock<Vec<TokenId>>,
    /// Ranks that sleep or are about to. Raised under the lock, before the last look at what they wait for.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

/// What a rank shows the others, on cache lines of its own: a rank that spins on one must not slow another.
#[repr(align(128))]
struct Seat {
    /// The last exchange that this rank has published.
    published: AtomicU64,
    /// The last exchange that this rank has finished reading.
    left: AtomicU64,
    /// Elements of the part published last.
    len: AtomicUsize,
    /// Its owner writes between `begin` and `publish`, when nobody reads; all read between `publish` and their leaving.
    part: UnsafeCell<Buffer<f32>>,
}

// SAFETY: `part` is written by its rank alone (`Collective` is neither Clone nor made twice), only in `begin` and through
// the `Part` that it gives, after every rank's `left` has reached the last exchange; others read it through `Parts` alone,
// after `published` has reached this exchange and before they store `left`. All of these are SeqCst, so ordered.
unsafe impl Sync for Seat {}

impl Meeting {
    /// Looks a while, then sleeps, until `done`; unwinds where a rank has failed and so it may never be.
    fn wait(&self, done: impl Fn() -> bool) {
        for _ in 0..self.spins {
            if done() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = self.locked();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // What is done counts before what failed: a rank may end after its last part.
        let failure = loop {
            if done() {
                break None;
            }
            if let Some(why) = self.failure.get() {
                break Some(why);
            }
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        if let Some(why) = failure {
            // Not a panic of its own: the hook has printed the one that counts.
            std::panic::resume_unwind(Box::new(RankLost(why.clone())));
        }
    }

    /// After a store that somebody may wait for. Either this sees the sleeper, or the sleeper's last look sees the store.
    fn stored(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    fn wake(&self) {
        // Whoever has looked in vain is asleep once the lock can be had, and so hears this.
        drop(self.locked());
        self.changed.notify_all();
    }

    fn locked(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collective {
    /// The ends of so many ranks, in order.
    pub fn of(ranks: usize) -> Vec<Self> {
        assert!(ranks > 0, "a group of no ranks");
        let seat = || Seat {
            published: AtomicU64::new(0),
            left: AtomicU64::new(0),
            len: AtomicUsize::new(0),
            part: UnsafeCell::new(empty()),
        };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let meeting = Arc::new(Meeting {
            seats: (0..ranks).map(|_| seat()).collect(),
            spins: if ranks > cores { CROWDED_SPINS } else { SPINS },
            failure: OnceLock::new(),
            tokens: RwLock::default(),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::default(),
            changed: Condvar::new(),
        });
        (0..ranks).map(|rank| Self { meeting: Arc::clone(&meeting), rank, exchanges: 0 }).collect()
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn ranks(&self) -> usize {
        self.meeting.seats.len()
    }

    /// What this rank has of so many things; see [`share`].
    pub fn share(&self, whole: usize) -> Range<usize> {
        share(whole, self.rank, self.ranks())
    }

    /// To tell the others of a failure.
    pub fn alarm(&self) -> Alarm {
        Alarm(Arc::clone(&self.meeting))
    }

    /// This rank's part of the next exchange, to be written: its content is whatever was there.
    ///
    /// # Panics
    /// Unwinds with [`RankLost`] where another rank has failed; panics where memory for the part cannot be had.
    pub fn begin(&mut self, len: usize) -> Part<'_> {
        let Meeting { seats, .. } = &*self.meeting;
        self.meeting.wait(|| seats.iter().all(|seat| seat.left.load(Ordering::SeqCst) >= self.exchanges));
        // SAFETY: every rank has left the last exchange and none reads this part before the next is published, which
        // takes this end, borrowed for as long as the result lives.
        let part = unsafe { &mut *seats[self.rank].part.get() };
        if part.len() < len {
            // Steps grow from one token to the largest; doubling keeps copies of a part few.
            *part = Buffer::zeroed(len.next_power_of_two(), "ranks' partial results").unwrap_or_else(|e| panic!("{e}"));
        }
        Part { start: part.as_mut_ptr(), len, end: self }
    }

    /// Makes `values` their sums over the ranks, each in rank order: the same bits on all.
    pub fn all_reduce_sum(&mut self, values: &mut [f32]) {
        let mut part = self.begin(values.len());
        part.copy_from_slice(values);
        let parts = part.publish();
        values.copy_from_slice(parts.of(0));
        for rank in 1..parts.ranks() {
            for (sum, x) in values.iter_mut().zip(parts.of(rank)) {
                *sum += x;
            }
        }
    }

    /// Shows `mine` to all ranks, and theirs to this one.
    pub fn all_gather(&mut self, mine: &[f32]) -> Parts<'_> {
        let mut part = self.begin(mine.len());
        part.copy_from_slice(mine);
        part.publish()
    }

    /// Makes `tokens` rank 0's. All give as many.
    pub fn broadcast(&mut self, tokens: &mut [TokenId]) {
        let root = self.rank == 0;
        let part = self.begin(0);
        if root {
            let mut sent = part.end.meeting.tokens.write().unwrap_or_else(PoisonError::into_inner);
            sent.clear();
            sent.extend_from_slice(tokens);
        }
        let parts = part.publish();
        if !root {
            tokens.copy_from_slice(&parts.meeting.tokens.read().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

fn empty() -> Buffer<f32> {
    Buffer::zeroed(0, "nothing").expect("a cache line of memory")
}

/// A rank's part of an exchange while it is written.
pub struct Part<'a> {
    /// Not a reference: others read the part while `publish`, which was given it, still waits.
    start: *mut f32,
    len: usize,
    end: &'a mut Collective,
}

impl<'a> Part<'a> {
    /// Shows it to the others, and gives all parts once they are there.
    ///
    /// # Panics
    /// Unwinds with [`RankLost`] where another rank has failed.
    pub fn publish(self) -> Parts<'a> {
        let Self { len, end, .. } = self;
        end.exchanges += 1;
        let (meeting, rank, exchange) = (&*end.meeting, end.rank, end.exchanges);
        meeting.seats[rank].len.store(len, Ordering::SeqCst);
        meeting.seats[rank].published.store(exchange, Ordering::SeqCst);
        meeting.stored();
        let parts = Parts { meeting, rank, exchange };
        meeting.wait(|| meeting.seats.iter().all(|seat| seat.published.load(Ordering::SeqCst) >= exchange));
        parts
    }
}

impl Deref for Part<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `begin` found so many elements there, and they are this rank's alone until `publish` takes `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Part<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// All ranks' parts of an exchange, to be read by this rank, on as many threads as it likes. No rank's next exchange begins
/// before this is dropped.
pub struct Parts<'a> {
    meeting: &'a Meeting,
    rank: usize,
    exchange: u64,
}

impl Parts<'_> {
    /// How many there are.
    pub fn ranks(&self) -> usize {
        self.meeting.seats.len()
    }

    /// What that rank wrote.
    pub fn of(&self, rank: usize) -> &[f32] {
        let seat = &self.meeting.seats[rank];
        // SAFETY: that rank has published this exchange, or `publish` had not returned, and it writes again only after
        // this rank has left it, which dropping `self` does.
        let part = unsafe { &*seat.part.get() };
        &part[..seat.len.load(Ordering::SeqCst)]
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        self.meeting.seats[self.rank].left.store(self.exchange, Ordering::SeqCst);
        self.meeting.stored();
    }
}

#[cfg(test)]
#[path = "collective_tests.rs"]
mod tests;
