//! Mixtures of experts: a router's choice for each token, then each expert's MLP over the tokens that chose it.
//!
//! Rows of the experts' buffers are (token, expert) pairs sorted by expert, so that an expert's tokens lie together and
//! each of its matrices is read once a step. A pair's values are its own, and a token's experts are added up in the order
//! of their indices: so a token has the same bits in any batch.
//!
//! ```text
//!   pairs of expert        0 0 0 | 2 | 3 3 | …         nobody chose expert 1
//!   token of each pair     0 4 7 | 4 | 0 9 | …         `token_of`; the other way, `row_of[token][j]`
//! ```
use super::matmul::{Finish, Input, Packing, Rows, Target, Weight, multiply};
use super::ranks::AddParts;
use super::rows::Gated;
use super::simd::{Wide, WideKernel, padded};
use super::{Cpu, ROWS_A_TASK, Tensor};
use crate::device::{DeviceError, Moe, MoeShape, Shard, TensorView};
use crate::host::{Buffer, Shared};
use crate::math::exp;

/// One matrix of each expert, all of one shape.
pub struct Experts(Vec<Weight>);

impl Experts {
    /// See [`crate::Device::load_experts`].
    pub(super) fn load(
        experts: &[Vec<TensorView<'_>>],
        shard: Shard,
        packing: &mut Packing<'_>,
    ) -> Result<Self, DeviceError> {
        let load = |parts: &Vec<TensorView<'_>>| Weight::load(parts, shard, packing);
        let weights = experts.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let shape = |w: &Weight| (w.rows, w.columns);
        assert!(weights.iter().all(|w| shape(w) == shape(&weights[0])), "experts are of one shape");
        Ok(Self(weights))
    }

    fn assert_shape(&self, experts: usize, rows: usize, columns: usize) {
        let first = self.0.first().map(|w| (w.rows, w.columns));
        assert_eq!((self.0.len(), first), (experts, Some((rows, columns))), "experts of the scratch's shape");
    }
}

/// What one mixture after the other computes in. Its content means nothing between two.
pub struct MoeScratch {
    shape: MoeShape,
    /// `[tokens, padded(experts)]`: logits, then probabilities
    router: Buffer<f32>,
    /// `[tokens, per_token]`: the chosen, in ascending order
    chosen: Buffer<u32>,
    /// `[tokens, per_token]`: their weights
    weights: Buffer<f32>,
    /// `[tokens, per_token]`: the pair's row in the buffers below
    row_of: Buffer<u32>,
    /// `[pairs]`
    token_of: Buffer<usize>,
    /// `[experts + 1]`: expert `e` has the rows `starts[e] .. starts[e + 1]`
    starts: Vec<usize>,
    /// `[pairs, padded(width)]`: the experts' outputs
    wide: Buffer<f32>,
    /// `[pairs, padded(2 * inner)]`
    gate_up: Buffer<f32>,
    /// `[pairs, padded(inner)]`
    inner: Buffer<f32>,
}

impl MoeScratch {
    /// For so many tokens a step.
    pub(super) fn new(shape: MoeShape, tokens: usize) -> Result<Self, DeviceError> {
        const WHAT: &str = "the experts' activations";
        let MoeShape { experts, per_token, width, inner } = shape;
        assert!((1..=experts).contains(&per_token), "{per_token} of {experts} experts");
        let times = |a: usize, b: usize| a.checked_mul(b).ok_or(DeviceError::Memory { what: WHAT, bytes: usize::MAX });
        let pairs = times(tokens, per_token)?;
        let floats = |rows, width| Buffer::zeroed(times(rows, padded(width))?, WHAT);
        let indices = || Buffer::zeroed(pairs, WHAT);
        Ok(Self {
            shape,
            router: floats(tokens, experts)?,
            chosen: indices()?,
            weights: Buffer::zeroed(pairs, WHAT)?,
            row_of: indices()?,
            token_of: Buffer::zeroed(pairs, WHAT)?,
            starts: vec![0; experts + 1],
            wide: floats(pairs, width)?,
            gate_up: floats(pairs, 2 * inner)?,
            inner: floats(pairs, inner)?,
        })
    }

    /// Sorts the pairs of `tokens` tokens by expert: fills `starts`, `row_of` and `token_of`.
    fn sort(&mut self, tokens: usize) {
        let MoeShape { experts, per_token, .. } = self.shape;
        let chosen = &self.chosen[..tokens * per_token];
        self.starts.fill(0);
        chosen.iter().for_each(|&expert| self.starts[expert as usize + 1] += 1);
        for expert in 0..experts {
            self.starts[expert + 1] += self.starts[expert];
        }
        // `starts[e]` walks through e's rows to where e + 1 starts: afterwards all are one expert ahead.
        for (pair, &expert) in chosen.iter().enumerate() {
            let row = &mut self.starts[expert as usize];
            self.row_of[pair] = *row as u32;
            self.token_of[*row] = pair / per_token;
            *row += 1;
        }
        self.starts.copy_within(..experts, 1);
        self.starts[0] = 0;
    }
}

impl Cpu {
    /// See [`crate::Device::moe`].
    pub(super) fn mix(&mut self, op: &Moe<'_, Self>, s: &mut MoeScratch, residual: &mut Tensor) {
        let MoeShape { experts, per_token, width, inner } = s.shape;
        assert_eq!((residual.width, op.per_token), (width, per_token), "the scratch's shape");
        assert_eq!((op.router.rows, op.router.columns), (experts, width), "a router of the scratch's shape");
        op.gate_up.assert_shape(experts, 2 * inner, width);
        op.down.assert_shape(experts, width, inner);
        let tokens = self.staged.tokens.len();
        let pairs = tokens * per_token;
        self.route(op, s, residual, tokens);
        s.sort(tokens);
        let [wide, twice, once] = [width, 2 * inner, inner].map(padded);
        for (w, pairs) in op.gate_up.0.iter().zip(s.starts.windows(2)) {
            let rows = Rows::These(&s.token_of[pairs[0]..pairs[1]]);
            let norm = Some((&op.norm.weight.0[..], op.norm.eps));
            let x = Input { x: &residual.values, stride: residual.stride, rows, norm };
            let (out, rows) = (&mut s.gate_up[pairs[0] * twice..], Rows::First(pairs[1] - pairs[0]));
            let to = Target { out, stride: twice, rows, finish: Finish::Store };
            multiply(&mut self.workers, &mut self.arena, w, x, to);
        }
        let (level, act) = (self.workers.level, op.act);
        let (gate_up, out) = (&s.gate_up, Shared::new(&mut s.inner));
        self.workers.run(pairs.div_ceil(ROWS_A_TASK), |_, task| {
            for row in task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(pairs) {
                let gate_up = &gate_up[row * twice..][..2 * inner];
                // SAFETY: each row is in one task.
                let out = unsafe { out.part(row * once, inner) };
                level.run(Gated { gate_up, bias: None, act, out });
            }
        });
        for (w, pairs) in op.down.0.iter().zip(s.starts.windows(2)) {
            let rows = Rows::First(pairs[1] - pairs[0]);
            let x = Input { x: &s.inner[pairs[0] * once..], stride: once, rows, norm: None };
            let to = Target { out: &mut s.wide[pairs[0] * wide..], stride: wide, rows, finish: Finish::Store };
            multiply(&mut self.workers, &mut self.arena, w, x, to);
        }
        self.combine(s, residual);
    }

    /// The router's logits, and from them each token's experts.
    fn route(&mut self, op: &Moe<'_, Self>, s: &mut MoeScratch, x: &Tensor, tokens: usize) {
        let MoeShape { experts, per_token, .. } = s.shape;
        let stride = padded(experts);
        let rows = Rows::First(tokens);
        let norm = Some((&op.norm.weight.0[..], op.norm.eps));
        let input = Input { x: &x.values, stride: x.stride, rows, norm };
        let to = Target { out: &mut s.router, stride, rows, finish: Finish::Store };
        multiply(&mut self.workers, &mut self.arena, op.router, input, to);
        let (level, normalise) = (self.workers.level, op.normalise);
        let (router, chosen) = (Shared::new(&mut s.router), Shared::new(&mut s.chosen));
        let weights = Shared::new(&mut s.weights);
        self.workers.run(tokens.div_ceil(ROWS_A_TASK), |_, task| {
            for t in task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(tokens) {
                // SAFETY: each token is in one task.
                let logits = unsafe { router.part(t * stride, experts) };
                // SAFETY: likewise.
                let chosen = unsafe { chosen.part(t * per_token, per_token) };
                // SAFETY: likewise.
                let weights = unsafe { weights.part(t * per_token, per_token) };
                level.run(Choose { logits, normalise, chosen, weights });
            }
        });
    }

    /// Adds each token's experts, weighted, in the order of their indices, to the residual.
    fn combine(&mut self, s: &MoeScratch, residual: &mut Tensor) {
        let MoeShape { per_token, width, .. } = s.shape;
        let stride = residual.stride;
        let (tokens, workers) = (self.staged.tokens.len(), &mut self.workers);
        let level = workers.level;
        let sum_of = |t: usize, sum: &mut [f32]| {
            let pairs = t * per_token..(t + 1) * per_token;
            let (rows, weights) = (&s.row_of[pairs.clone()], &s.weights[pairs]);
            level.run(Combine { values: &s.wide, stride: padded(width), rows, weights, sum });
        };
        let Some(ranks) = &mut self.ranks else {
            let residual = Shared::new(&mut residual.values);
            return workers.run(tokens.div_ceil(ROWS_A_TASK), |scratch, task| {
                let [sum] = scratch.slices([width]);
                for t in task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(tokens) {
                    sum_of(t, &mut sum[..width]);
                    // SAFETY: each token is in one task.
                    let residual = unsafe { residual.part(t * stride, width) };
                    residual.iter_mut().zip(&*sum).for_each(|(r, sum)| *r += sum);
                }
            });
        };
        // Each rank has some columns of every expert: what it adds up is a part of the sum.
        let mut part = ranks.begin(tokens * stride);
        let sums = Shared::new(&mut part);
        workers.run(tokens.div_ceil(ROWS_A_TASK), |_, task| {
            for t in task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(tokens) {
                // SAFETY: each token is in one task.
                sum_of(t, unsafe { sums.part(t * stride, width) });
            }
        });
        AddParts { parts: part.publish(), bias: None, tokens }.run(residual, workers);
    }
}

/// A token's experts, in ascending order, and their weights.
pub(super) struct Choose<'a> {
    /// `[experts]`; overwritten
    pub(super) logits: &'a mut [f32],
    pub(super) normalise: bool,
    /// `[per_token]`
    pub(super) chosen: &'a mut [u32],
    /// `[per_token]`
    pub(super) weights: &'a mut [f32],
}

impl WideKernel for Choose<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, _isa: S) {
        /// Below every probability.
        const TAKEN: f32 = -1.0;
        let Self { logits: p, normalise, chosen, weights } = self;
        let best = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        p.iter_mut().for_each(|x| *x = exp(*x - best));
        let total: f32 = p.iter().sum();
        if total.is_nan() {
            // No choice means anything; the row's logits will say that they are not numbers.
            chosen.iter_mut().zip(0..).for_each(|(chosen, expert)| *chosen = expert);
            weights.fill(f32::NAN);
            return;
        }
        p.iter_mut().for_each(|x| *x /= total);
        for (chosen, weight) in chosen.iter_mut().zip(&mut *weights) {
            let (mut at, mut most) = (0, TAKEN);
            for (expert, &p) in p.iter().enumerate() {
                // Not >=: of equals the lower index stays.
                if p > most {
                    (at, most) = (expert, p);
                }
            }
            (*chosen, *weight) = (at as u32, most);
            p[at] = TAKEN;
        }
        if normalise {
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        sort_pairs(chosen, weights);
    }
}

/// Sorts by the first, moving the second along: a handful, by insertion.
#[inline(always)]
fn sort_pairs(keys: &mut [u32], values: &mut [f32]) {
    for end in 1..keys.len() {
        let mut at = end;
        while at > 0 && keys[at - 1] > keys[at] {
            keys.swap(at - 1, at);
            values.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// `sum = sum of weights[j] * values[rows[j]]`, in the order of j.
struct Combine<'a> {
    values: &'a [f32],
    /// Elements from a row of values to the next.
    stride: usize,
    rows: &'a [u32],
    weights: &'a [f32],
    sum: &'a mut [f32],
}

impl WideKernel for Combine<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, _isa: S) {
        self.sum.fill(0.0);
        for (&row, &weight) in self.rows.iter().zip(self.weights) {
            let values = &self.values[row as usize * self.stride..][..self.sum.len()];
            self.sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += weight * x);
        }
    }
}
