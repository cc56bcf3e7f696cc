//! Whether the server is alive and ready: a state and a heartbeat, shared by atomics.
//!
//! Does not know what ticks it or who asks.
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Listening, model not yet loaded.
    Loading = 0,
    /// Takes requests.
    Serving = 1,
    /// Ends what is in flight, takes no more.
    Draining = 2,
    /// The engine is gone.
    Failed = 3,
}

/// Shared by the scheduler's loop, which ticks, and `/ready`, which asks.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    birth: Instant,
    phase: AtomicU8,
    /// Milliseconds since birth of the last tick.
    tick_ms: AtomicU64,
    /// Milliseconds since birth at which the oldest batch went out, plus one; 0 when none is out.
    batch_out_ms: AtomicU64,
}

/// A heartbeat older than this is not fresh.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);
/// A batch out longer than this is stuck.
pub const BATCH_LIMIT: Duration = Duration::from_secs(120);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Inner {
            birth: Instant::now(),
            phase: AtomicU8::new(Phase::Loading as u8),
            tick_ms: AtomicU64::new(0),
            batch_out_ms: AtomicU64::new(0),
        }))
    }
}

impl Health {
    /// Where it is.
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Loading,
            1 => Phase::Serving,
            2 => Phase::Draining,
            _ => Phase::Failed,
        }
    }

    /// Moves on; a phase never goes back, so that a late `Serving` cannot hide a drain or a failure.
    pub fn advance(&self, phase: Phase) {
        self.0.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// The loop is alive.
    pub fn tick(&self) {
        self.0.tick_ms.store(self.now_ms(), Ordering::Release);
    }

    /// The oldest batch went out now, or none is out.
    pub fn batch_out(&self, out: bool) {
        self.0.batch_out_ms.store(if out { self.now_ms() + 1 } else { 0 }, Ordering::Release);
    }

    /// Why it cannot serve, or nothing.
    pub fn unready(&self) -> Option<&'static str> {
        match self.phase() {
            Phase::Loading => return Some("the model is loading"),
            Phase::Draining => return Some("the server is draining"),
            Phase::Failed => return Some("the engine has stopped"),
            Phase::Serving => {}
        }
        let now = self.now_ms();
        let batch_out = self.0.batch_out_ms.load(Ordering::Acquire);
        if batch_out > 0 && now.saturating_sub(batch_out) > BATCH_LIMIT.as_millis() as u64 {
            return Some("a batch has been out too long");
        }
        if now.saturating_sub(self.0.tick_ms.load(Ordering::Acquire)) > HEARTBEAT_LIMIT.as_millis() as u64 {
            return Some("the scheduler's heartbeat is stale");
        }
        None
    }

    fn now_ms(&self) -> u64 {
        self.0.birth.elapsed().as_millis() as u64
    }
}
