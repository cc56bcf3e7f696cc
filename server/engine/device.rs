//! Runs any device: the ranks' threads, each of which owns a device and its part of the model, and the [`ModelRunner`] that
//! feeds them.
//!
//! Every rank runs every batch; what passes between them is the devices' business. Rank 0 has the batches from outside, hands
//! them on, and answers for all. Knows nothing of who made a batch. A panic in any of the threads ends the engine with that
//! panic's words; nobody waits for the dead.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use minisgl_kernels::{Alarm, Device, RankLost, RowError, Step, StepKey, StepRow, TokenId, TokenSource};

use super::sampling::{Samplers, outputs};
use super::slots::Slots;
use crate::batch::{Batch, BatchOutput, Capacity, EngineError, ModelRunner, Row, RowTokens};
use crate::models::{Activations, Decoder};

/// Batches that may be out: one runs, one waits beside it.
const BATCHES_OUT: usize = 2;

/// A rank that has had no batch for so long does what its device has to do for later: far longer than between two steps.
const IDLE_AFTER: Duration = Duration::from_millis(5);

/// What a rank's thread owns.
pub(super) struct RankState<D: Device> {
    device: D,
    decoder: Decoder<D>,
    activations: Activations<D>,
    capacity: Capacity,
    slots: Slots,
    samplers: Samplers,
}

impl<D: Device> RankState<D> {
    pub(super) fn new(device: D, decoder: Decoder<D>, activations: Activations<D>, capacity: Capacity) -> Self {
        let (slots, samplers) = (Slots::new(capacity), Samplers::new(capacity.slots));
        Self { device, decoder, activations, capacity, slots, samplers }
    }

    /// Makes this rank alone refuse larger batches.
    #[cfg(test)]
    pub(super) fn break_beyond(&mut self, tokens: usize) {
        self.capacity.batch_tokens = tokens;
    }

    /// Computes a batch and reads its results, as rank 0 alone can.
    fn run(&mut self, batch: &Batch) -> BatchOutput {
        let started = Instant::now();
        let tokens = self.compute(batch);
        let rows = outputs(batch, tokens, |row| self.device.scores(row));
        BatchOutput { rows, elapsed: started.elapsed() }
    }

    /// Computes a batch to the tokens sampled, an entry for each row that wants one. Panics on one that breaks its promises.
    fn compute(&mut self, batch: &Batch) -> Vec<Result<TokenId, RowError>> {
        self.check(batch);
        self.slots.apply(batch);
        self.samplers.apply(batch);

        let rows: Vec<StepRow<'_>> = batch.rows.iter().map(|row| step_row(row, &self.slots)).collect();
        self.device.begin(&Step { rows: &rows });
        let key = StepKey { tokens: batch.tokens(), rows: rows.len() };
        let (decoder, activations) = (&self.decoder, &mut self.activations);
        self.device.step(key, &mut |device| decoder.forward(device, activations));
        self.device.sample(&self.samplers.rows(batch))
    }

    fn check(&self, batch: &Batch) {
        let (tokens, limit) = (batch.tokens(), self.capacity.batch_tokens);
        assert!((1..=limit).contains(&tokens), "a batch of {tokens} tokens, where 1 to {limit} can run");
        let mut slots: Vec<u32> = batch.rows.iter().map(|row| row.slot.0).collect();
        slots.sort_unstable();
        assert!(slots.windows(2).all(|two| two[0] != two[1]), "two rows of one slot in a batch");
        for row in &batch.rows {
            if let RowTokens::Chunk(tokens) = &row.tokens {
                let vocabulary = self.capacity.vocabulary;
                assert!(
                    tokens.iter().all(|id| (*id as usize) < vocabulary),
                    "a token beyond the {vocabulary} of the vocabulary"
                );
            }
        }
    }
}

fn step_row<'a>(row: &'a Row, slots: &'a Slots) -> StepRow<'a> {
    let tokens = match &row.tokens {
        RowTokens::Chunk(tokens) => TokenSource::Tokens(tokens),
        RowTokens::LastSampled => TokenSource::LastSampled,
    };
    StepRow { slot: row.slot, start: row.start, tokens, pages: slots.pages(row.slot), want: row.want }
}

/// The ranks, seen from outside.
pub(super) struct DeviceRunner {
    capacity: Capacity,
    device: String,
    /// `None` once it is being dropped, which ends the threads.
    batches: Option<Sender<Batch>>,
    outputs: Receiver<BatchOutput>,
    /// Set before a thread drops its ends.
    failure: Arc<OnceLock<EngineError>>,
    threads: Vec<JoinHandle<()>>,
}

/// Makes one rank's panic the engine's end.
struct Guard {
    rank: usize,
    of: usize,
    failure: Arc<OnceLock<EngineError>>,
    /// Where there are other ranks, which would wait.
    alarm: Option<Alarm>,
}

impl Guard {
    /// What `run` gives, or `None` where this rank has ended: by a panic, or because another had.
    fn run<T>(&self, run: impl FnOnce() -> T) -> Option<T> {
        let panic = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(output) => return Some(output),
            Err(panic) => panic,
        };
        if !panic.is::<RankLost>() {
            let words = words(panic.as_ref());
            let why = match self.of {
                1 => format!("its rank panicked: {words}"),
                of => format!("rank {} of {of} panicked: {words}", self.rank),
            };
            // In this order: whoever the alarm ends finds the words.
            let _ = self.failure.set(EngineError(why.clone()));
            self.alarm.iter().for_each(|alarm| alarm.ring(&why));
        }
        None
    }
}

impl DeviceRunner {
    /// Starts the threads of all ranks, in order; `alarm` is that of their collective, where they are several.
    pub(super) fn start<D: Device>(ranks: Vec<RankState<D>>, alarm: Option<Alarm>) -> Self {
        let (capacity, of, mut device) = (ranks[0].capacity, ranks.len(), ranks[0].device.name());
        if of > 1 {
            device = format!("{of} ranks of {device}");
        }
        let (to_first, batches) = flume::bounded::<Batch>(BATCHES_OUT);
        let (to_caller, outputs) = flume::bounded(BATCHES_OUT);
        let failure = Arc::new(OnceLock::new());
        let guard = |rank| Guard { rank, of, failure: Arc::clone(&failure), alarm: alarm.clone() };

        let mut ranks = ranks.into_iter();
        let mut first = ranks.next().expect("one rank at least");
        let (mut followers, mut threads) = (Vec::new(), Vec::new());
        for (mut state, rank) in ranks.zip(1..) {
            let (to_rank, batches) = flume::bounded::<Arc<Batch>>(BATCHES_OUT);
            let guard = guard(rank);
            followers.push(to_rank);
            threads.push(spawn(rank, move || {
                while let Some(batch) = guard.run(|| next(&batches, &mut state.device)).flatten() {
                    if guard.run(|| state.compute(&batch)).is_none() {
                        return;
                    }
                }
            }));
        }
        let guard = guard(0);
        threads.push(spawn(0, move || {
            while let Some(batch) = guard.run(|| next(&batches, &mut first.device)).flatten() {
                let batch = Arc::new(batch);
                // One that is gone has rung the alarm, which the first exchange hears.
                followers.iter().for_each(|rank| drop(rank.send(Arc::clone(&batch))));
                let Some(output) = guard.run(|| first.run(&batch)) else { return };
                if to_caller.send(output).is_err() {
                    return; // nobody collects any more
                }
            }
        }));
        Self { capacity, device, batches: Some(to_first), outputs, failure, threads }
    }

    fn failure(&self) -> EngineError {
        self.failure.get().cloned().unwrap_or_else(|| EngineError("its rank is gone".to_owned()))
    }
}

/// The next batch, or `None` once there are no more. The device has the time between.
fn next<B, D: Device>(batches: &Receiver<B>, device: &mut D) -> Option<B> {
    let mut wait = IDLE_AFTER;
    loop {
        match batches.recv_timeout(wait) {
            Ok(batch) => return Some(batch),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if device.idle() => wait = Duration::ZERO,
            Err(RecvTimeoutError::Timeout) => return batches.recv().ok(),
        }
    }
}

fn spawn(rank: usize, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(format!("engine-rank-{rank}")).spawn(run).expect("a thread starts")
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

impl ModelRunner for DeviceRunner {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn device(&self) -> String {
        self.device.clone()
    }

    fn submit(&mut self, batch: Batch) -> Result<(), EngineError> {
        let batches = self.batches.as_ref().expect("only drop takes it");
        batches.try_send(batch).map_err(|error| match error {
            flume::TrySendError::Full(_) => panic!("more than {BATCHES_OUT} batches are out"),
            flume::TrySendError::Disconnected(_) => self.failure(),
        })
    }

    fn collect(&mut self, timeout: Duration) -> Result<Option<BatchOutput>, EngineError> {
        match self.outputs.recv_timeout(timeout) {
            Ok(output) => Ok(Some(output)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.failure()),
        }
    }
}

impl Drop for DeviceRunner {
    fn drop(&mut self) {
        // A thread ends when its queue does; an output that nobody takes must not hold it up.
        self.batches = None;
        while self.outputs.recv().is_ok() {}
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
