//! The CPU device: the operations of [`crate::Device`], threaded and vectorised.
//!
//! Weights stay in the checkpoint's format; activations are f32, rounded between operations to the format of computation;
//! sums are f32. A value never depends on the rest of the batch, on chunks, pages or threads: each sum has one order.
//!
//! ```text
//!   team.rs workers.rs   threads that wait for each other; scratch for each
//!   simd/                eight lanes, as the machine has them; the dot products
//!   tensor.rs            activations, rounding
//!   matmul.rs            a weight times all tokens
//!   rows.rs              norm, gate: a token's row alone
//!   rope.rs              biases, QK-norm, rotation, and K and V into their pages
//!   attention/           queries against pages
//!   measure.rs           what the machine does at most
//!   moe.rs               mixtures of experts: which tokens each multiplies
//!   ranks.rs             parts of an operation that other ranks compute
//! ```
mod attention;
mod matmul;
mod measure;
mod moe;
mod ranks;
mod rope;
mod rows;
mod simd;
mod team;
mod tensor;
#[cfg(test)]
mod tests;
mod workers;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use attention::{Attention, Shares};
use matmul::{Arena, Finish, Input, Packing, Rows, Target};
pub use matmul::{Integers, Keep, Weight};
pub use moe::{Experts, MoeScratch};
use ranks::AddParts;
use rope::Angles;
use rows::{Gated, Sample};
use simd::Level;
pub use tensor::Tensor;
use workers::Workers;

use crate::collective::Collective;
use crate::device::{
    Activation, Attend, Device, DeviceError, KvFormat, KvShape, Limits, Moe, MoeShape, Norm, RopeStore, RowError,
    SampleRow, Shard, Step, StepKey, TensorView, TokenId,
};
use crate::host::{self, Buffer, KvCache, Pool, Prefault, Shared, Source, Staged};

/// How to compute.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads, the caller's own among them. 0: one for each core that this process may use.
    pub threads: usize,
    /// What weights are kept as, and so how they are multiplied.
    pub keep: Keep,
    /// What K and V are stored as.
    pub kv_format: KvFormat,
}

/// The device.
pub struct Cpu {
    keep: Keep,
    kv_format: KvFormat,
    /// Attention multiplies bf16 as bf16: where that is an instruction, and results need not be exact.
    attend_in_bf16: bool,
    workers: Workers,
    /// Where weights lie.
    weights: Pool,
    limits: Option<Limits>,
    vocabulary: usize,
    cache: Option<KvCache>,
    /// Where the system can find memory for it ahead of writes.
    prefault: Option<Prefault>,
    staged: Staged,
    /// The token that each slot sampled last.
    last: Vec<TokenId>,
    angles: Angles,
    /// Blocks of keys that several threads attend to.
    shares: Shares,
    arena: Arena,
    /// `[wanted, vocabulary]`
    logits: Buffer<f32>,
    /// Set where this is one rank of several.
    ranks: Option<Collective>,
}

impl Cpu {
    /// A device; an error where the format is none of computation or the threads cannot be had.
    pub fn new(options: CpuOptions) -> Result<Self, DeviceError> {
        Self::with_level(options, Level::detect())
    }

    fn with_level(options: CpuOptions, level: Level) -> Result<Self, DeviceError> {
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            threads => threads,
        };
        let workers = Workers::new(threads, level)
            .map_err(|error| DeviceError::Other(format!("cannot start {threads} threads: {error}")))?;
        Ok(Self {
            keep: options.keep,
            kv_format: options.kv_format,
            attend_in_bf16: options.keep != Keep::Exact && level.has_bf16(),
            workers,
            weights: Pool::default(),
            limits: None,
            vocabulary: 0,
            cache: None,
            prefault: None,
            staged: Staged::default(),
            last: Vec::new(),
            angles: Angles::default(),
            shares: Shares::new(),
            arena: Arena::new()?,
            logits: Buffer::zeroed(0, "logits")?,
            ranks: None,
        })
    }

    /// Has all threads ask for memory of the K/V cache at once, and never again where the system cannot.
    fn populate(&mut self, parts: Range<usize>) {
        let Some(prefault) = &self.prefault else { return };
        let can = AtomicBool::new(true);
        self.workers.run(parts.len(), |_, i| {
            if !prefault.populate(parts.start + i) {
                can.store(false, Ordering::Relaxed);
            }
        });
        if !can.into_inner() {
            self.prefault = None;
        }
    }

    fn limits(&self) -> Limits {
        self.limits.expect("reserve comes before tensors and steps")
    }

    fn packing(&mut self) -> Packing<'_> {
        Packing { keep: self.keep, pool: &mut self.weights, workers: &mut self.workers }
    }

    /// The rows of the vocabulary that this rank has.
    fn own_vocabulary(&self) -> Range<usize> {
        self.ranks.as_ref().map_or(0..self.vocabulary, |ranks| ranks.share(self.vocabulary))
    }

    /// Whether whole rows of logits come together here.
    fn has_logits(&self) -> bool {
        self.ranks.as_ref().is_none_or(|ranks| ranks.rank() == 0)
    }
}

/// Tokens a task of the operations that are too short for one each.
const ROWS_A_TASK: usize = 4;

/// f32 values, shared by the operations that use them.
#[derive(Clone, Debug)]
pub struct Vector(Arc<[f32]>);

impl Device for Cpu {
    type Weight = Weight;
    type Vector = Vector;
    type Tensor = Tensor;
    type Experts = Experts;
    type MoeScratch = MoeScratch;

    fn name(&self) -> String {
        let threads = self.workers.threads();
        format!("cpu ({}, {threads} thread{})", self.workers.level.name(), if threads == 1 { "" } else { "s" })
    }

    fn join(&mut self, ranks: Collective) {
        self.ranks = Some(ranks);
    }

    fn load(&mut self, parts: &[TensorView<'_>], shard: Shard) -> Result<Weight, DeviceError> {
        Weight::load(parts, shard, &mut self.packing())
    }

    fn load_experts(&mut self, experts: &[Vec<TensorView<'_>>], shard: Shard) -> Result<Experts, DeviceError> {
        Experts::load(experts, shard, &mut self.packing())
    }

    fn load_vector(&mut self, parts: &[TensorView<'_>], shard: Shard) -> Result<Vector, DeviceError> {
        Ok(Vector(host::stack_vectors(parts, shard)?.into()))
    }

    fn vector(&mut self, values: &[f32]) -> Result<Vector, DeviceError> {
        Ok(Vector(values.into()))
    }

    fn reserve(&mut self, limits: Limits, vocabulary: usize) -> Result<(), DeviceError> {
        const WHAT: &str = "logits";
        let rows = if self.has_logits() { limits.slots } else { 0 };
        let len = rows.checked_mul(vocabulary);
        self.logits = Buffer::zeroed(len.ok_or(DeviceError::Memory { what: WHAT, bytes: usize::MAX })?, WHAT)?;
        self.last = vec![0; limits.slots];
        self.limits = Some(limits);
        self.vocabulary = vocabulary;
        Ok(())
    }

    fn tensor(&mut self, width: usize) -> Result<Tensor, DeviceError> {
        Tensor::zeroed(self.limits().tokens, width)
    }

    fn moe_scratch(&mut self, shape: MoeShape) -> Result<MoeScratch, DeviceError> {
        MoeScratch::new(shape, self.limits().tokens)
    }

    fn kv_cache(&mut self, shape: KvShape) -> Result<(), DeviceError> {
        let cache = KvCache::new(shape, self.kv_format)?;
        self.prefault = cache.prefault();
        self.cache = Some(cache);
        Ok(())
    }

    fn page_bytes(&self, shape: KvShape) -> usize {
        host::page_bytes(&shape, self.kv_format)
    }

    fn available_memory(&self) -> usize {
        crate::memory::available()
    }

    fn begin(&mut self, step: &Step<'_>) {
        let limits = self.limits();
        let cache = self.cache.as_ref().expect("kv_cache comes before steps");
        self.staged.stage(step, &limits, cache.shape());
        if let Some(prefault) = &mut self.prefault {
            let bytes = self.staged.tokens.len() * cache.token_bytes();
            let parts = prefault.before_step(self.staged.pages_used(), bytes, self.workers.threads());
            self.populate(parts);
        }
        let needed = self.staged.wanted.len() * self.vocabulary;
        if self.has_logits() && self.logits.len() < needed {
            // Rows that want the scores of every position: rare, and not known when `reserve` sized the rest.
            self.logits = Buffer::zeroed(needed, "logits").expect("memory for the scores of a step");
        }
    }

    fn idle(&mut self) -> bool {
        let Some(prefault) = &mut self.prefault else { return false };
        let parts = prefault.while_idle(self.staged.pages_used(), self.workers.threads());
        let is_more = !parts.is_empty();
        self.populate(parts);
        is_more
    }

    fn step(&mut self, _key: StepKey, forward: &mut dyn FnMut(&mut Self)) {
        forward(self);
    }

    fn embed(&mut self, table: &Weight, out: &mut Tensor) {
        assert_eq!(table.columns, out.width, "an embedding's width");
        let (own, vocabulary) = match &self.ranks {
            None => (0..table.rows, table.rows),
            Some(_) => (self.own_vocabulary(), self.vocabulary),
        };
        assert_eq!(table.rows, own.len(), "a rank's part of the embedding");
        let (stride, columns) = (out.stride, table.columns);
        let (staged, last) = (&self.staged, &self.last);
        let token = |t: usize| {
            let token = match staged.tokens[t].source {
                Source::Token(token) => token,
                Source::Last(slot) => last[slot],
            } as usize;
            assert!(token < vocabulary, "token {token} of a vocabulary of {vocabulary}");
            token
        };
        let (tokens, workers) = (staged.tokens.len(), &mut self.workers);
        let mut read_own = |out: &mut [f32]| {
            let out = Shared::new(out);
            workers.run(tokens, |_, t| {
                let token = token(t);
                if own.contains(&token) {
                    // SAFETY: a token's row is its task's alone.
                    let out = unsafe { out.part(t * stride, columns) };
                    table.read_row(token - own.start, out);
                }
            });
        };
        let Some(ranks) = &mut self.ranks else { return read_own(&mut out.values) };
        let mut part = ranks.begin(tokens * stride);
        read_own(&mut part);
        ranks::pick_rows(&part.publish(), vocabulary, token, (out, tokens), workers);
    }

    fn norm_matmul(&mut self, x: &Tensor, norm: &Norm<'_, Vector>, w: &Weight, out: &mut Tensor) {
        assert_eq!((w.columns, w.rows), (x.width, out.width), "a weight between these widths");
        let rows = Rows::First(self.staged.tokens.len());
        let x = Input { x: &x.values, stride: x.stride, rows, norm: Some((&norm.weight.0, norm.eps)) };
        let to = Target { out: &mut out.values, stride: out.stride, rows, finish: Finish::Store };
        matmul::multiply(&mut self.workers, &mut self.arena, w, x, to);
    }

    fn rope_store_kv(&mut self, qkv: &mut Tensor, op: &RopeStore<'_, Vector>) {
        self.rotate_and_store(qkv, op);
    }

    fn attend(&mut self, qkv: &Tensor, op: &Attend, out: &mut Tensor) {
        let cache = self.cache.as_ref().expect("kv_cache comes before steps");
        let shape = cache.shape();
        assert_eq!((shape.kv_heads, shape.head_dim), (op.kv_heads, op.head_dim), "the cache's heads");
        assert!(op.layer < shape.layers, "layer {} of {}", op.layer, shape.layers);
        assert!(op.heads.is_multiple_of(op.kv_heads), "{} heads over {} K/V heads", op.heads, op.kv_heads);
        assert_eq!(out.width, op.heads * op.head_dim, "a row of heads");
        assert_ne!(op.window, Some(0), "a window sees the query's own position at least");
        let (staged, in_bf16, shares) = (&self.staged, self.attend_in_bf16, &mut self.shares);
        Attention { op, staged, cache, qkv, out, in_bf16, shares }.run(&mut self.workers);
    }

    fn gated(&mut self, gate_up: &Tensor, bias: Option<&Vector>, act: Activation, out: &mut Tensor) {
        assert_eq!(gate_up.width, 2 * out.width, "a row of gate and up");
        let (stride, width) = (out.stride, out.width);
        let out = Shared::new(&mut out.values);
        let (level, count) = (self.workers.level, self.staged.tokens.len());
        let bias = bias.map(|bias| &bias.0[..]);
        self.workers.run(count.div_ceil(ROWS_A_TASK), |_, task| {
            for t in task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(count) {
                // SAFETY: each token is in one task.
                let out = unsafe { out.part(t * stride, width) };
                level.run(Gated { gate_up: gate_up.row(t), bias, act, out });
            }
        });
    }

    fn matmul_reduce_add(&mut self, x: &Tensor, w: &Weight, bias: Option<&Vector>, residual: &mut Tensor) {
        assert_eq!((w.columns, w.rows), (x.width, residual.width), "a weight between these widths");
        let (m, bias, workers, arena) =
            (self.staged.tokens.len(), bias.map(|bias| &bias.0[..]), &mut self.workers, &mut self.arena);
        let (rows, stride) = (Rows::First(m), residual.stride);
        let x = Input { x: &x.values, stride: x.stride, rows, norm: None };
        let Some(ranks) = &mut self.ranks else {
            let to = Target { out: &mut residual.values, stride, rows, finish: Finish::Add(bias) };
            return matmul::multiply(workers, arena, w, x, to);
        };
        let mut part = ranks.begin(m * stride);
        matmul::multiply(workers, arena, w, x, Target { out: &mut part, stride, rows, finish: Finish::Store });
        AddParts { parts: part.publish(), bias, tokens: m }.run(residual, workers);
    }

    fn moe(&mut self, op: &Moe<'_, Self>, scratch: &mut MoeScratch, residual: &mut Tensor) {
        self.mix(op, scratch, residual);
    }

    fn logits(&mut self, x: &Tensor, norm: &Norm<'_, Vector>, head: &Weight) {
        let (own, leads) = (self.own_vocabulary().len(), self.has_logits());
        assert_eq!((head.columns, head.rows), (x.width, own), "a head between these widths");
        let (wanted, workers, arena) = (&self.staged.wanted, &mut self.workers, &mut self.arena);
        let norm = Some((&norm.weight.0[..], norm.eps));
        let x = Input { x: &x.values, stride: x.stride, rows: Rows::These(wanted), norm };
        let (m, rows, finish) = (wanted.len(), Rows::First(wanted.len()), Finish::Store);
        let Some(ranks) = &mut self.ranks else {
            let to = Target { out: &mut self.logits, stride: own, rows, finish };
            return matmul::multiply(workers, arena, head, x, to);
        };
        let mut part = ranks.begin(m * own);
        matmul::multiply(workers, arena, head, x, Target { out: &mut part, stride: own, rows, finish });
        let parts = part.publish();
        if leads {
            ranks::join_logits(&parts, self.vocabulary, m, &mut self.logits, workers);
        }
    }

    fn sample(&mut self, rows: &[SampleRow<'_>]) -> Vec<Result<TokenId, RowError>> {
        if let Some(ranks) = self.ranks.as_mut().filter(|ranks| ranks.rank() > 0) {
            return host::follow(ranks, rows, &mut self.last);
        }
        let at: Vec<usize> = self.staged.sampled().collect();
        assert_eq!(at.len(), rows.len(), "one sampling row for each row that wants any");
        let mut sampled = vec![Ok(0); rows.len()];
        let out = Shared::new(&mut sampled);
        let (logits, vocabulary, level) = (&self.logits, self.vocabulary, self.workers.level);
        self.workers.run(rows.len(), |_, i| {
            let logits = &logits[at[i] * vocabulary..][..vocabulary];
            // SAFETY: each result is its task's alone.
            let out = unsafe { out.part(i, 1) };
            out[0] = level.run(Sample { logits, row: &rows[i] });
        });
        for (row, token) in rows.iter().zip(&sampled) {
            self.last[row.slot.0 as usize] = *token.as_ref().unwrap_or(&0);
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
