//! Matrix times activations: a weight's rows are widened a panel at a time, each once a step, and multiplied with all
//! tokens while the panel is in the cache. The weight itself stays as the checkpoint stored it.
#[allow(dead_code)] // until the driver calls it
mod floats;

use super::simd::{Isa, Kernel, Panel, padded};
use super::tensor::round;
use super::workers::{Scratch, Workers};
use crate::device::{DeviceError, Shard, TensorView};
use crate::dtype::{DType, Widen, dequantize_row_by};
use crate::host::{self, Part, Shared};

/// Rows of a panel come in multiples of this, which every tile's width divides.
const ROWS: usize = 24;
/// A panel stays in the second-level cache: 192 KiB of f32, with room for activations beside it.
const PANEL: usize = 48 << 10;
/// Tokens whose products are finished (bias, residual, rounding) together.
const TOKENS: usize = 16;

/// A matrix in its stored format, possibly of several parts stacked along the rows.
pub struct Weight {
    parts: Vec<Part>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Weight {
    /// See [`crate::Device::load`].
    pub(super) fn load(parts: &[TensorView<'_>], shard: Shard) -> Result<Self, DeviceError> {
        let parts = host::stack(parts, shard)?;
        let (rows, columns) = (parts.iter().map(|part| part.rows).sum(), parts[0].columns);
        Ok(Self { parts, rows, columns })
    }

    /// One row, widened.
    #[inline(always)]
    pub(super) fn read_row(&self, widen: impl Widen, mut row: usize, out: &mut [f32]) {
        for part in &self.parts {
            if row < part.rows {
                return dequantize_row_by(widen, part.dtype, part.row(row), out);
            }
            row -= part.rows;
        }
        panic!("no row {row} past the last");
    }
}

/// What becomes of a product.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    /// `out = product`, as it is.
    Store,
    /// `out = product`, rounded.
    Round(DType),
    /// `out += product + bias`, rounded.
    Add(DType, Option<&'a [f32]>),
}

/// `out[m] (+)= w · x[m]`
pub(super) struct Matmul<'a> {
    /// `[m, columns]`, rows `padded(columns)` apart, zeros between.
    pub x: &'a [f32],
    /// Tokens.
    pub m: usize,
    /// The matrix.
    pub w: &'a Weight,
    /// `[m, rows]`, rows `out_stride` apart.
    pub out: &'a mut [f32],
    /// Elements from a row of out to the next.
    pub out_stride: usize,
    /// What becomes of the product.
    pub finish: Finish<'a>,
}

impl Matmul<'_> {
    /// Computes it.
    pub(super) fn run(self, workers: &mut Workers) {
        assert!(self.w.rows <= self.out_stride);
        if self.m == 0 {
            return; // a step of chunks alone wants no logits: then the head is not widened for nothing
        }
        let k = padded(self.w.columns);
        // A few tasks a thread, so that none waits long for another; panels no larger than the cache has room for.
        let even = self.w.rows.div_ceil(workers.threads() * 4).next_multiple_of(ROWS);
        let task_rows = even.min((PANEL / k / ROWS * ROWS).max(ROWS));
        // With few tokens a panel is used once: then it should not leave the first-level cache.
        let panel_rows = if self.m < 4 { 8 } else { task_rows };
        let level = workers.level;
        let out = Shared::new(self.out);
        let (x, m, w, out_stride, finish) = (self.x, self.m, self.w, self.out_stride, self.finish);
        workers.run(w.rows.div_ceil(task_rows), |scratch, task| {
            let end = ((task + 1) * task_rows).min(w.rows);
            for row in (task * task_rows..end).step_by(panel_rows) {
                let n = panel_rows.min(end - row);
                level.run(PanelTask { x, m, w, row, n, scratch, out: &out, out_stride, finish });
            }
        });
    }
}

/// All tokens times the weight's rows `row .. row + n`.
struct PanelTask<'a> {
    x: &'a [f32],
    m: usize,
    w: &'a Weight,
    row: usize,
    n: usize,
    scratch: &'a mut Scratch,
    out: &'a Shared<'a, f32>,
    out_stride: usize,
    finish: Finish<'a>,
}

impl Kernel for PanelTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { x, m, w, row, n, .. } = self;
        let (columns, k) = (w.columns, padded(w.columns));
        let [panel, products] = self.scratch.slices([n * k, TOKENS * n]);
        for (i, panel) in panel.chunks_exact_mut(k).take(n).enumerate() {
            w.read_row(isa, row + i, &mut panel[..columns]);
            panel[columns..].fill(0.0);
        }
        for first in (0..m).step_by(TOKENS) {
            let tokens = TOKENS.min(m - first);
            let x = &x[first * k..];
            Panel { x, x_stride: k, w: panel, k, m: tokens, n, out: products, out_stride: n }.run(isa);
            for (t, product) in products.chunks_exact(n).take(tokens).enumerate() {
                // SAFETY: tasks have different rows of the weight, so different columns of the output.
                let out = unsafe { self.out.part((first + t) * self.out_stride + row, n) };
                match self.finish {
                    Finish::Store => out.copy_from_slice(product),
                    Finish::Round(dtype) => {
                        out.copy_from_slice(product);
                        round(dtype, out);
                    }
                    Finish::Add(dtype, None) => {
                        out.iter_mut().zip(product).for_each(|(y, p)| *y += p);
                        round(dtype, out);
                    }
                    Finish::Add(dtype, Some(bias)) => {
                        let biased = product.iter().zip(&bias[row..][..n]).map(|(p, b)| p + b);
                        out.iter_mut().zip(biased).for_each(|(y, p)| *y += p);
                        round(dtype, out);
                    }
                }
            }
        }
    }
}
