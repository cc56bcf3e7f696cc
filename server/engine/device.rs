//! Runs any device: a rank's thread, which owns device and model, and the [`ModelRunner`] that feeds it.
//!
//! Knows nothing of who made a batch. A panic in the thread ends the engine with an error; nobody waits for the dead.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use minisgl_kernels::{Device, Step, StepKey, StepRow, TokenSource};

use super::sampling::{Samplers, outputs};
use super::slots::Slots;
use crate::batch::{Batch, BatchOutput, Capacity, EngineError, ModelRunner, Row, RowTokens};
use crate::models::{Activations, Decoder};

/// Batches that may be out: one runs, one waits beside it.
const BATCHES_OUT: usize = 2;

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

    /// Computes a batch. Panics on one that breaks its promises.
    fn run(&mut self, batch: &Batch) -> BatchOutput {
        let started = Instant::now();
        self.check(batch);
        self.slots.apply(batch);
        self.samplers.apply(batch);

        let rows: Vec<StepRow<'_>> = batch.rows.iter().map(|row| step_row(row, &self.slots)).collect();
        self.device.begin(&Step { rows: &rows });
        let key = StepKey { tokens: batch.tokens(), rows: rows.len() };
        let (decoder, activations) = (&self.decoder, &mut self.activations);
        self.device.step(key, &mut |device| decoder.forward(device, activations));
        let tokens = self.device.sample(&self.samplers.rows(batch));
        let rows = outputs(batch, tokens, |row| self.device.scores(row));
        BatchOutput { rows, elapsed: started.elapsed() }
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

/// A rank's thread, seen from outside.
pub(super) struct DeviceRunner {
    capacity: Capacity,
    device: String,
    /// `None` once it is being dropped, which ends the thread.
    batches: Option<Sender<Batch>>,
    outputs: Receiver<BatchOutput>,
    /// Set before the thread drops its ends.
    failure: Arc<OnceLock<EngineError>>,
    thread: Option<JoinHandle<()>>,
}

impl DeviceRunner {
    /// Starts the rank's thread.
    pub(super) fn start<D: Device>(mut rank: RankState<D>) -> Self {
        let (capacity, device) = (rank.capacity, rank.device.name());
        let (to_rank, batches) = flume::bounded::<Batch>(BATCHES_OUT);
        let (to_caller, outputs) = flume::bounded(BATCHES_OUT);
        let failure = Arc::new(OnceLock::new());
        let failed = Arc::clone(&failure);
        let run = move || {
            for batch in &batches {
                match catch_unwind(AssertUnwindSafe(|| rank.run(&batch))) {
                    Ok(output) => {
                        if to_caller.send(output).is_err() {
                            return; // nobody collects any more
                        }
                    }
                    Err(panic) => {
                        let _ = failed.set(EngineError(format!("its rank panicked: {}", words(panic.as_ref()))));
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("engine-rank-0".to_owned()).spawn(run).expect("a thread starts");
        Self { capacity, device, batches: Some(to_rank), outputs, failure, thread: Some(thread) }
    }

    fn failure(&self) -> EngineError {
        self.failure.get().cloned().unwrap_or_else(|| EngineError("its rank is gone".to_owned()))
    }
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
        // The thread ends when its queue does; an output that nobody takes must not hold it up.
        self.batches = None;
        while self.outputs.recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
