//! What is kept by slot to sample: a sequence's parameters. All of it is a function of that sequence alone.
//!
//! Owns how a batch's wishes become sample rows and results. Does not choose tokens: the device does.
use std::sync::Arc;

use minisgl_kernels::{RowError, SampleRow, Sampling, TokenId, Want};

use crate::batch::{Batch, RowOutput};

/// Sampling parameters a slot.
#[derive(Debug)]
pub(super) struct Samplers {
    by_slot: Vec<Option<Arc<Sampling>>>,
}

impl Samplers {
    pub(super) fn new(slots: usize) -> Self {
        Self { by_slot: vec![None; slots] }
    }

    /// Takes a batch's first rows.
    pub(super) fn apply(&mut self, batch: &Batch) {
        for row in &batch.rows {
            if let Some(sampling) = &row.begin {
                self.by_slot[row.slot.0 as usize] = Some(Arc::clone(sampling));
            }
        }
    }

    /// The rows that want a token, in order.
    pub(super) fn rows(&self, batch: &Batch) -> Vec<SampleRow<'_>> {
        let wanting = batch.rows.iter().filter(|row| row.want != Want::Nothing);
        let sample_row = |row: &crate::batch::Row| {
            let sampling = self.by_slot[row.slot.0 as usize].as_deref().expect("a slot's first row begins it");
            SampleRow { slot: row.slot, sampling, position: row.start + row.tokens.len() }
        };
        wanting.map(sample_row).collect()
    }
}

/// Results of all rows from the tokens of those that wanted one; `scores` gives the logits of a row, by its place in the batch.
pub(super) fn outputs(
    batch: &Batch,
    tokens: Vec<Result<TokenId, RowError>>,
    scores: impl Fn(usize) -> Vec<f32>,
) -> Vec<RowOutput> {
    let mut tokens = tokens.into_iter();
    let mut output = |(i, row): (usize, &crate::batch::Row)| {
        if row.want == Want::Nothing {
            return RowOutput::Nothing;
        }
        match tokens.next().expect("the device samples every row that wants a token") {
            Err(error) => RowOutput::Failed(error),
            Ok(token) if row.want == Want::Scores => RowOutput::Scores { logits: scores(i), token },
            Ok(token) => RowOutput::Token(token),
        }
    };
    batch.rows.iter().enumerate().map(&mut output).collect()
}
