//! This device as one rank of several: its part of each operation that needs the others', and what all parts make.
//!
//! A part is computed straight into the collective's memory, and summed by the whole team: a token's row in one task, the
//! ranks in their order, so that all ranks hold the same bits.
use super::simd::{Wide, WideKernel};
use super::workers::Workers;
use super::{ROWS_A_TASK, Tensor};
use crate::collective::{Parts, owner, share};
use crate::host::{Buffer, Shared};

/// `residual[t] += sum of the ranks' parts[t] + bias`. Rows of parts are as far apart as the residual's.
pub(super) struct AddParts<'a> {
    /// What each rank computed.
    pub parts: Parts<'a>,
    /// Added once, after the sum.
    pub bias: Option<&'a [f32]>,
    /// Tokens.
    pub tokens: usize,
}

impl AddParts<'_> {
    /// Computes it.
    pub(super) fn run(self, residual: &mut Tensor, workers: &mut Workers) {
        let Self { parts, bias, tokens } = self;
        let (stride, width, level) = (residual.stride, residual.width, workers.level);
        let residual = Shared::new(&mut residual.values);
        workers.run(tokens.div_ceil(ROWS_A_TASK), |scratch, task| {
            let [sum] = scratch.slices([width]);
            for t in task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(tokens) {
                let sum = &mut sum[..width];
                sum.copy_from_slice(&parts.of(0)[t * stride..][..width]);
                let rest = (1..parts.ranks()).map(|rank| &parts.of(rank)[t * stride..][..width]);
                rest.chain(bias).for_each(|x| level.run(Add { x, sum: &mut *sum }));
                // SAFETY: each token is in one task.
                let residual = unsafe { residual.part(t * stride, width) };
                level.run(Add { x: sum, sum: &mut *residual });
            }
        });
    }
}

/// `sum += x`
struct Add<'a> {
    x: &'a [f32],
    sum: &'a mut [f32],
}

impl WideKernel for Add<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, _isa: S) {
        self.sum.iter_mut().zip(self.x).for_each(|(sum, x)| *sum += x);
    }
}

/// Each token's row from the rank that has it in its share of the vocabulary.
pub(super) fn pick_rows(
    parts: &Parts<'_>,
    vocabulary: usize,
    token: impl Fn(usize) -> usize + Sync,
    (out, tokens): (&mut Tensor, usize),
    workers: &mut Workers,
) {
    let (stride, width) = (out.stride, out.width);
    let out = Shared::new(&mut out.values);
    workers.run(tokens.div_ceil(ROWS_A_TASK), |_, task| {
        for t in task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(tokens) {
            let rank = owner(vocabulary, parts.ranks(), token(t));
            // SAFETY: each token is in one task.
            let out = unsafe { out.part(t * stride, width) };
            out.copy_from_slice(&parts.of(rank)[t * stride..][..width]);
        }
    });
}

/// Whole rows of logits from the ranks' shares of the vocabulary.
pub(super) fn join_logits(
    parts: &Parts<'_>,
    vocabulary: usize,
    rows: usize,
    logits: &mut Buffer<f32>,
    workers: &mut Workers,
) {
    let logits = Shared::new(logits);
    workers.run(rows, |_, row| {
        for rank in 0..parts.ranks() {
            let share = share(vocabulary, rank, parts.ranks());
            // SAFETY: each row is one task's, and shares do not overlap.
            let out = unsafe { logits.part(row * vocabulary + share.start, share.len()) };
            out.copy_from_slice(&parts.of(rank)[row * share.len()..][..share.len()]);
        }
    });
}
