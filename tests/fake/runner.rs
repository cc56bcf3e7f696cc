//! The fake engine: keeps each token in its page, as a real one keeps K/V, and computes replies from the pages alone. So a
//! page that is lent twice, released early or filled out of order shows in the text.
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use minisgl::batch::{Batch, BatchOutput, Capacity, EngineError, ModelRunner, Row, RowOutput, RowTokens};
use minisgl_kernels::{PageId, Sampling, Slot, TokenId, Want};

use super::tokenizer::{EOS, REPLY, USER};

/// Lets batches through, or does not.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    /// How many more batches come back; all of them where it is `None`.
    left: Option<usize>,
    broken: bool,
}

impl Gate {
    /// No batch comes back from now on.
    pub fn shut(&self) {
        self.allow(0);
    }

    /// So many more come back.
    pub fn allow(&self, batches: usize) {
        self.0.0.lock().unwrap().left = Some(batches);
        self.0.1.notify_all();
    }

    /// Whether it is shut.
    pub fn is_shut(&self) -> bool {
        self.0.0.lock().unwrap().left == Some(0)
    }

    /// Batches come back again.
    pub fn open(&self) {
        self.0.0.lock().unwrap().left = None;
        self.0.1.notify_all();
    }

    /// The next batch is the engine's end.
    pub fn break_engine(&self) {
        self.0.0.lock().unwrap().broken = true;
        self.0.1.notify_all();
    }

    /// Waits until a batch may come back, at most so long.
    fn pass(&self, timeout: Duration) -> Result<bool, EngineError> {
        let state = self.0.0.lock().unwrap();
        let shut = |state: &mut GateState| state.left == Some(0) && !state.broken;
        let (mut state, waited) = self.0.1.wait_timeout_while(state, timeout, shut).unwrap();
        if state.broken {
            return Err(EngineError("the test broke it".into()));
        }
        if !waited.timed_out() {
            state.left = state.left.map(|left| left - 1);
        }
        Ok(!waited.timed_out())
    }
}

pub struct FakeRunner {
    capacity: Capacity,
    gate: Gate,
    memory: HashMap<(PageId, usize), TokenId>,
    slots: HashMap<Slot, SlotState>,
    out: VecDeque<BatchOutput>,
}

struct SlotState {
    pages: Vec<PageId>,
    sampling: Arc<Sampling>,
    last: Option<TokenId>,
}

impl FakeRunner {
    pub fn new(capacity: Capacity, gate: Gate) -> Self {
        Self { capacity, gate, memory: HashMap::new(), slots: HashMap::new(), out: VecDeque::new() }
    }

    fn run(&mut self, row: &Row) -> RowOutput {
        if let Some(sampling) = &row.begin {
            self.slots.insert(row.slot, SlotState { pages: Vec::new(), sampling: sampling.clone(), last: None });
        }
        let slot = self.slots.get_mut(&row.slot).expect("a slot's first row begins it");
        slot.pages.extend(&row.new_pages);
        let tokens = match &row.tokens {
            RowTokens::Chunk(tokens) => tokens.clone(),
            RowTokens::LastSampled => vec![slot.last.expect("the slot has sampled")],
        };
        let size = self.capacity.page_size;
        let place = |position: usize| (slot.pages[position / size], position % size);
        for (i, &token) in tokens.iter().enumerate() {
            self.memory.insert(place(row.start + i), token);
        }
        if row.want == Want::Nothing {
            return RowOutput::Nothing;
        }
        let end = row.start + tokens.len();
        let context: Vec<TokenId> = (0..end).map(|position| self.memory[&place(position)]).collect();
        let token = next(&context, &slot.sampling);
        slot.last = Some(token);
        RowOutput::Token(token)
    }
}

/// What stands before the last `<|reply|>` is said after it, then the end. An odd seed says it in capitals, unless greedy.
fn next(context: &[TokenId], sampling: &Sampling) -> TokenId {
    let Some(reply) = context.iter().rposition(|&token| token == REPLY) else {
        return u32::from(b'a') + (context.len() % 26) as TokenId;
    };
    let begin = context[..reply].iter().rposition(|&token| token == USER).map_or(0, |user| user + 1);
    let said = context.len() - reply - 1;
    let token = match context[begin..reply].get(said) {
        Some(&token) => token,
        None if said == reply - begin => EOS,
        None => u32::from(b'.'),
    };
    match u8::try_from(token) {
        Ok(byte) if sampling.temperature > 0.0 && sampling.seed % 2 == 1 => byte.to_ascii_uppercase().into(),
        _ => token,
    }
}

impl ModelRunner for FakeRunner {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn device(&self) -> String {
        "a parrot".into()
    }

    fn submit(&mut self, batch: Batch) -> Result<(), EngineError> {
        assert!(self.out.len() < 2, "at most two batches are out");
        assert!(batch.tokens() <= self.capacity.batch_tokens);
        let rows = batch.rows.iter().map(|row| self.run(row)).collect();
        self.out.push_back(BatchOutput { rows, elapsed: Duration::from_micros(10) });
        Ok(())
    }

    fn collect(&mut self, timeout: Duration) -> Result<Option<BatchOutput>, EngineError> {
        Ok(if !self.out.is_empty() && self.gate.pass(timeout)? { self.out.pop_front() } else { None })
    }
}
