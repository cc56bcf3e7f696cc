//! What each operation of [`crate::Device`] means: plain loops, f32 values, sums in f64. For tests and for reading, not for speed.
//!
//! Every other device is tested against this one. It widens weights to f32 when they are loaded.
mod moe;
#[cfg(test)]
mod tests;

use crate::collective::{Collective, share};
use crate::device::{
    Activation, Attend, Device, DeviceError, KvFormat, KvShape, Limits, Moe, MoeShape, Norm, RopeLayout, RopeStore,
    RowError, SampleRow, Shard, Step, StepKey, TensorView, TokenId,
};
use crate::dtype::dequantize_row;
use crate::host::{self, KvCache, Place, Source, Staged};
use crate::sampling;

/// A matrix, `[rows, columns]`.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

/// Activations, `[tokens, width]`.
#[derive(Clone, Debug)]
pub struct Tensor {
    width: usize,
    values: Vec<f32>,
}

impl Tensor {
    pub(crate) fn row(&self, token: usize) -> &[f32] {
        &self.values[token * self.width..][..self.width]
    }

    pub(crate) fn row_mut(&mut self, token: usize) -> &mut [f32] {
        &mut self.values[token * self.width..][..self.width]
    }
}

/// The device. K and V are kept in one format, all else in f32.
pub struct Reference {
    kv_format: KvFormat,
    limits: Option<Limits>,
    cache: Option<KvCache>,
    staged: Staged,
    last: Vec<TokenId>,
    vocabulary: usize,
    /// `[wanted, vocabulary]`
    logits: Vec<f32>,
    /// Set where this is one rank of several.
    ranks: Option<Collective>,
}

impl Reference {
    /// A device whose K and V are kept in this format.
    pub fn new(kv_format: KvFormat) -> Self {
        Self {
            kv_format,
            limits: None,
            cache: None,
            staged: Staged::default(),
            last: Vec::new(),
            vocabulary: 0,
            logits: Vec::new(),
            ranks: None,
        }
    }

    fn cache(&self) -> &KvCache {
        self.cache.as_ref().expect("kv_cache comes before steps")
    }

    /// The rows of the vocabulary that this rank has.
    fn own_vocabulary(&self) -> std::ops::Range<usize> {
        self.ranks.as_ref().map_or(0..self.vocabulary, |ranks| ranks.share(self.vocabulary))
    }

    fn place(&self, layer: usize, row: usize, position: usize) -> Place {
        let page_size = self.cache().shape().page_size;
        let page = self.staged.pages(row)[position / page_size] as usize;
        Place { layer, page, offset: position % page_size }
    }
}

/// `x / sqrt(mean(x²) + eps) * weight`
fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| (f64::from(x) * scale) as f32 * w).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
}

/// `w · x`
fn multiply(w: &Matrix, x: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), w.columns);
    w.values.chunks_exact(w.columns).map(|row| dot(row, x)).collect()
}

/// Rotates one head in place. `angle = position * inv_freq[i]` in f32.
fn rotate(head: &mut [f32], position: usize, inv_freq: &[f32], layout: RopeLayout, scale: f32) {
    let half = inv_freq.len();
    for (i, freq) in inv_freq.iter().enumerate() {
        let (sin, cos) = (position as f32 * freq).sin_cos();
        let (sin, cos) = (sin * scale, cos * scale);
        let (a, b) = match layout {
            RopeLayout::Halves => (i, i + half),
            RopeLayout::Pairs => (2 * i, 2 * i + 1),
        };
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
    }
}

/// The error function, in f64: `2 / sqrt(pi) * e^(-x²) * sum of 2^n x^(2n+1) / (2n+1)!!`, whose terms do not cancel.
fn erf(x: f64) -> f64 {
    let (mut sum, mut term) = (0.0, x);
    for n in 0..300 {
        sum += term;
        term *= 2.0 * x * x / (2 * n + 3) as f64;
    }
    if x.abs() > 6.0 { x.signum() } else { sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt() }
}

/// See [`Activation`].
fn activate(act: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let y = match act {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    };
    y as f32
}

impl Device for Reference {
    type Weight = Matrix;
    type Vector = Vec<f32>;
    type Tensor = Tensor;
    type Experts = Vec<Matrix>;
    type MoeScratch = ();

    fn name(&self) -> String {
        "reference (plain loops)".into()
    }

    fn join(&mut self, ranks: Collective) {
        self.ranks = Some(ranks);
    }

    fn load(&mut self, parts: &[TensorView<'_>], shard: Shard) -> Result<Matrix, DeviceError> {
        let parts = host::stack(parts, shard)?;
        let columns = parts[0].columns;
        let rows = parts.iter().map(|part| part.rows).sum();
        let mut values = vec![0.0; rows * columns];
        let stored = parts.iter().flat_map(|part| (0..part.rows).map(move |row| (part.dtype, part.row(row))));
        for (out, (dtype, bytes)) in values.chunks_exact_mut(columns).zip(stored) {
            dequantize_row(dtype, bytes, out);
        }
        Ok(Matrix { rows, columns, values })
    }

    fn load_experts(&mut self, experts: &[Vec<TensorView<'_>>], shard: Shard) -> Result<Vec<Matrix>, DeviceError> {
        experts.iter().map(|parts| self.load(parts, shard)).collect()
    }

    fn load_vector(&mut self, parts: &[TensorView<'_>], shard: Shard) -> Result<Vec<f32>, DeviceError> {
        host::stack_vectors(parts, shard)
    }

    fn vector(&mut self, values: &[f32]) -> Result<Vec<f32>, DeviceError> {
        Ok(values.to_vec())
    }

    fn reserve(&mut self, limits: Limits, vocabulary: usize) -> Result<(), DeviceError> {
        self.limits = Some(limits);
        self.vocabulary = vocabulary;
        self.last = vec![0; limits.slots];
        Ok(())
    }

    fn tensor(&mut self, width: usize) -> Result<Tensor, DeviceError> {
        let limits = self.limits.expect("reserve comes before tensors");
        Ok(Tensor { width, values: vec![0.0; limits.tokens * width] })
    }

    fn moe_scratch(&mut self, _: MoeShape) -> Result<(), DeviceError> {
        Ok(())
    }

    fn kv_cache(&mut self, shape: KvShape) -> Result<(), DeviceError> {
        self.cache = Some(KvCache::new(shape, self.kv_format)?);
        Ok(())
    }

    fn page_bytes(&self, shape: KvShape) -> usize {
        host::page_bytes(&shape, self.kv_format)
    }

    fn available_memory(&self) -> usize {
        crate::memory::available()
    }

    fn begin(&mut self, step: &Step<'_>) {
        let limits = self.limits.expect("reserve comes before steps");
        let shape = self.cache.as_ref().expect("kv_cache comes before steps").shape();
        self.staged.stage(step, &limits, shape);
    }

    fn step(&mut self, _key: StepKey, forward: &mut dyn FnMut(&mut Self)) {
        forward(self);
    }

    fn embed(&mut self, table: &Matrix, out: &mut Tensor) {
        assert_eq!(table.columns, out.width);
        let own = self.own_vocabulary();
        for (t, token) in self.staged.tokens.iter().enumerate() {
            let token = match token.source {
                Source::Token(token) => token,
                Source::Last(slot) => self.last[slot],
            } as usize;
            assert!(token < self.vocabulary, "token {token} of a vocabulary of {}", self.vocabulary);
            // What another rank has is a zero here: the sum is exact.
            out.row_mut(t).fill(0.0);
            if own.contains(&token) {
                let row = &table.values[(token - own.start) * table.columns..][..table.columns];
                out.row_mut(t).copy_from_slice(row);
            }
        }
        if let Some(ranks) = &mut self.ranks {
            ranks.all_reduce_sum(&mut out.values[..self.staged.tokens.len() * out.width]);
        }
    }

    fn norm_matmul(&mut self, x: &Tensor, norm: &Norm<'_, Vec<f32>>, w: &Matrix, out: &mut Tensor) {
        for t in 0..self.staged.tokens.len() {
            out.row_mut(t).copy_from_slice(&multiply(w, &rms_norm(x.row(t), norm.weight, norm.eps)));
        }
    }

    fn rope_store_kv(&mut self, qkv: &mut Tensor, op: &RopeStore<'_, Vec<f32>>) {
        let keys = op.heads * op.head_dim..(op.heads + op.kv_heads) * op.head_dim;
        for t in 0..self.staged.tokens.len() {
            let token = self.staged.tokens[t];
            let row = qkv.row_mut(t);
            for (x, bias) in row.iter_mut().zip(op.bias.into_iter().flatten()) {
                *x += bias;
            }
            for (h, head) in row[..keys.end].chunks_exact_mut(op.head_dim).enumerate() {
                if let Some(norm) = if h < op.heads { &op.q_norm } else { &op.k_norm } {
                    head.copy_from_slice(&rms_norm(head, norm.weight, norm.eps));
                }
                rotate(head, token.position, op.inv_freq, op.layout, op.rope_scale);
            }
            let place = self.place(op.layer, token.row, token.position);
            let cache = self.cache.as_mut().expect("kv_cache comes before steps");
            // SAFETY: the cache is borrowed exclusively and this is the only thread.
            unsafe { cache.writer().store(place, &row[keys.clone()], &row[keys.end..]) };
        }
    }

    fn attend(&mut self, qkv: &Tensor, op: &Attend, out: &mut Tensor) {
        let dim = op.head_dim;
        for (t, token) in self.staged.tokens.iter().enumerate() {
            let first = op.window.map_or(0, |window| (token.position + 1).saturating_sub(window));
            for h in 0..op.heads {
                let kv_head = h * op.kv_heads / op.heads;
                let q = &qkv.row(t)[h * dim..][..dim];
                let mut read = vec![0.0; dim];
                let mut scores = Vec::new();
                for position in first..=token.position {
                    self.cache().key(self.place(op.layer, token.row, position), kv_head, &mut read);
                    scores.push(f64::from(dot(q, &read) * op.scale));
                }
                let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - best).exp()).sum();
                let mut sum = vec![0.0f64; dim];
                for (position, score) in (first..).zip(&scores) {
                    self.cache().value(self.place(op.layer, token.row, position), kv_head, &mut read);
                    for (sum, &v) in sum.iter_mut().zip(&read) {
                        *sum += (score - best).exp() / total * f64::from(v);
                    }
                }
                for (out, sum) in out.row_mut(t)[h * dim..][..dim].iter_mut().zip(sum) {
                    *out = sum as f32;
                }
            }
        }
    }

    fn gated(&mut self, gate_up: &Tensor, bias: Option<&Vec<f32>>, act: Activation, out: &mut Tensor) {
        let width = out.width;
        for t in 0..self.staged.tokens.len() {
            let biased = |i: usize| gate_up.row(t)[i] + bias.map_or(0.0, |bias| bias[i]);
            for i in 0..width {
                out.row_mut(t)[i] = activate(act, biased(i)) * biased(width + i);
            }
        }
    }

    fn matmul_reduce_add(&mut self, x: &Tensor, w: &Matrix, bias: Option<&Vec<f32>>, residual: &mut Tensor) {
        for t in 0..self.staged.tokens.len() {
            let mut product = multiply(w, x.row(t));
            if let Some(ranks) = &mut self.ranks {
                ranks.all_reduce_sum(&mut product);
            }
            for (i, (r, y)) in residual.row_mut(t).iter_mut().zip(product).enumerate() {
                *r += y + bias.map_or(0.0, |bias| bias[i]);
            }
        }
    }

    fn moe(&mut self, op: &Moe<'_, Self>, _: &mut (), residual: &mut Tensor) {
        for t in 0..self.staged.tokens.len() {
            let mut sum = moe::mix(op, residual.row(t));
            if let Some(ranks) = &mut self.ranks {
                ranks.all_reduce_sum(&mut sum);
            }
            residual.row_mut(t).iter_mut().zip(sum).for_each(|(r, sum)| *r += sum);
        }
    }

    fn logits(&mut self, x: &Tensor, norm: &Norm<'_, Vec<f32>>, head: &Matrix) {
        assert_eq!(head.rows, self.own_vocabulary().len());
        let wanted = self.staged.wanted.iter();
        self.logits = wanted.flat_map(|&t| multiply(head, &rms_norm(x.row(t), norm.weight, norm.eps))).collect();
        if let Some(ranks) = &mut self.ranks {
            let parts = ranks.all_gather(&self.logits);
            let row = |i: usize, rank: usize| {
                let len = share(self.vocabulary, rank, parts.ranks()).len();
                &parts.of(rank)[i * len..][..len]
            };
            let rows =
                (0..self.staged.wanted.len()).flat_map(|i| (0..parts.ranks()).flat_map(move |rank| row(i, rank)));
            self.logits = rows.copied().collect();
        }
    }

    fn sample(&mut self, rows: &[SampleRow<'_>]) -> Vec<Result<TokenId, RowError>> {
        let at: Vec<usize> = self.staged.sampled().collect();
        assert_eq!(at.len(), rows.len(), "one sampling row for each row that wants any");
        if let Some(ranks) = self.ranks.as_mut().filter(|ranks| ranks.rank() > 0) {
            return host::follow(ranks, rows, &mut self.last);
        }
        let mut sampled = Vec::with_capacity(rows.len());
        for (row, at) in rows.iter().zip(at) {
            let logits = &self.logits[at * self.vocabulary..][..self.vocabulary];
            let token = sampling::sample(logits, row.sampling, row.position);
            self.last[row.slot.0 as usize] = *token.as_ref().unwrap_or(&0);
            sampled.push(token);
        }
        if let Some(ranks) = &mut self.ranks {
            host::lead(ranks, rows, &self.last);
        }
        sampled
    }

    fn scores(&self, row: usize) -> Vec<f32> {
        let range = &self.staged.rows[row].logits;
        self.logits[range.start * self.vocabulary..range.end * self.vocabulary].to_vec()
    }
}
