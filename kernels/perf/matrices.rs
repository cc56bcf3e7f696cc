//! Cases of weights times activations, and of what stands between them: norm, gate, embedding, logits, sampling, experts.
use crate::cpu::Cpu;
use crate::device::{
    Activation, Device, DeviceError, KvFormat, KvShape, Limits, Moe, MoeShape, Norm, PageId, SampleRow, Shard, Slot,
    Step, StepRow, TokenId, TokenSource, Want,
};
use crate::dtype::DType;
use crate::reference::Reference;
use crate::sampling::Sampling;

use super::bench::{Bench, Case, Work, error, timed};
use super::inputs::{Rows, Stored};
use super::{Arithmetic, Visible};

const LIMITS: Limits = Limits { tokens: 128, slots: 128, context: 128 };
/// SmolLM2's.
const VOCABULARY: usize = 49_152;
/// Tokens of a step, from a decode step's to a prefill's.
const TOKENS: [usize; 4] = [1, 8, 32, 128];
const F32_BYTES: usize = size_of::<f32>();
const EPS: f32 = 1e-5;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<(), DeviceError> {
    let mut pair = Pair::new(bench.options.threads)?;
    for dtype in DType::ALL {
        pair.product(bench, Product::Norm, dtype, [3072, 1024])?;
        pair.product(bench, Product::ReduceAdd, dtype, [1024, 3072])?;
    }
    // SmolLM2's own shapes in its own format.
    pair.product(bench, Product::Norm, DType::Q4_1, [3072, 576])?;
    pair.product(bench, Product::ReduceAdd, DType::Q4_1, [576, 1536])?;
    pair.norm(bench)?;
    pair.gated(bench)?;
    pair.embed(bench)?;
    pair.logits_and_sampling(bench)?;
    for dtype in [DType::Q4_1, DType::BF16] {
        pair.moe(bench, dtype)?;
    }
    Ok(())
}

/// An operation that is a product above all.
#[derive(Clone, Copy)]
enum Product {
    Norm,
    ReduceAdd,
}

impl Product {
    fn name(self) -> &'static str {
        match self {
            Self::Norm => "norm_matmul",
            Self::ReduceAdd => "matmul_reduce_add",
        }
    }

    fn run<D: Device>(self, device: &mut D, x: &D::Tensor, norm: &D::Vector, w: &D::Weight, y: &mut D::Tensor) {
        match self {
            Self::Norm => device.norm_matmul(x, &Norm { weight: norm, eps: EPS }, w, y),
            Self::ReduceAdd => device.matmul_reduce_add(x, w, None, y),
        }
    }
}

/// Both devices, told the same. The reference computes three of a step's tokens: a row depends on its own sequence alone.
struct Pair {
    cpu: Cpu,
    reference: Reference,
}

/// Activations of a step's tokens on the one, of those picked on the other.
struct Input {
    x: <Cpu as Device>::Tensor,
    expected: <Reference as Device>::Tensor,
    picked: Vec<usize>,
}

impl Input {
    fn error(&self) -> f64 {
        let row = |(i, &token): (usize, &usize)| (Cpu::row(&self.x, token), Reference::row(&self.expected, i));
        error(self.picked.iter().enumerate().map(row))
    }
}

impl Pair {
    fn new(threads: usize) -> Result<Self, DeviceError> {
        let mut pair = Self { cpu: Cpu::made(threads, KvFormat::F32)?, reference: Reference::made(1, KvFormat::F32)? };
        prepare(&mut pair.cpu)?;
        prepare(&mut pair.reference)?;
        Ok(pair)
    }

    /// Begins a step of so many tokens, each of which may want its logits.
    fn begin(&mut self, tokens: usize) -> Vec<usize> {
        let rows = Rows { count: tokens, len: 1, start: 0, page_size: 1, first_page: 0, want: Want::Sample };
        rows.begin(&mut self.cpu);
        let mut picked = vec![0, tokens / 2, tokens - 1];
        picked.dedup();
        let ids: Vec<[TokenId; 1]> = picked.iter().map(|&token| [token as TokenId]).collect();
        let pages: Vec<[PageId; 1]> = (0..picked.len()).map(|i| [PageId(i as u32)]).collect();
        let row = |i: usize| StepRow {
            slot: Slot(i as u32),
            start: 0,
            tokens: TokenSource::Tokens(&ids[i]),
            pages: &pages[i],
            want: Want::Sample,
        };
        self.reference.begin(&Step { rows: &(0..picked.len()).map(row).collect::<Vec<_>>() });
        picked
    }

    /// Begins a step of tokens whose activations are random, of this width.
    fn input(&mut self, tokens: usize, width: usize) -> Result<Input, DeviceError> {
        let picked = self.begin(tokens);
        // BF16 is a value of every format that activations may have.
        let table = Stored::random(DType::BF16, LIMITS.tokens, width);
        let mut input = self.zeros(picked, width)?;
        let loaded = table.load(&mut self.cpu)?;
        self.cpu.embed(&loaded, &mut input.x);
        let loaded = table.load(&mut self.reference)?;
        self.reference.embed(&loaded, &mut input.expected);
        Ok(input)
    }

    fn zeros(&mut self, picked: Vec<usize>, width: usize) -> Result<Input, DeviceError> {
        Ok(Input { x: self.cpu.tensor(width)?, expected: self.reference.tensor(width)?, picked })
    }

    /// A product of a weight in this format, `[n, k]`, at each number of tokens.
    fn product(
        &mut self,
        bench: &mut Bench<'_>,
        op: Product,
        dtype: DType,
        [n, k]: [usize; 2],
    ) -> Result<(), DeviceError> {
        let cases = wanted(bench, op.name(), dtype, n, k);
        if cases.is_empty() {
            return Ok(());
        }
        let stored = Stored::random(dtype, n, k);
        let weights = stored.load_many(&mut self.cpu)?;
        let expected = stored.load(&mut self.reference)?;
        let (ours, theirs) = (self.cpu.vector(&vec![1.0; k])?, self.reference.vector(&vec![1.0; k])?);
        for (m, shape) in cases {
            let x = self.input(m, k)?;
            let mut y = self.zeros(x.picked.clone(), n)?;
            op.run(&mut self.reference, &x.expected, &theirs, &expected, &mut y.expected);
            op.run(&mut self.cpu, &x.x, &ours, &weights[0], &mut y.x);
            let max_error = Some(y.error());
            let work = product(&self.cpu, dtype, stored.bytes(), [m, n, k]);
            let once = &mut |i: usize| {
                let w = &weights[i % weights.len()];
                timed(|| op.run(&mut self.cpu, &x.x, &ours, w, &mut y.x))
            };
            bench.measure(Case { name: op.name(), shape, work, max_error, once });
        }
        Ok(())
    }

    /// The norm is part of the products that follow it: here with a product so small that the norm is most of it.
    fn norm(&mut self, bench: &mut Bench<'_>) -> Result<(), DeviceError> {
        const WIDTH: usize = 1024;
        for m in [1, 128] {
            let shape = format!("{m} x {WIDTH}");
            if !bench.wants("norm", &shape) {
                continue;
            }
            let x = self.input(m, WIDTH)?;
            let mut y = self.zeros(x.picked.clone(), 16)?;
            let stored = Stored::random(DType::F32, 16, WIDTH);
            let (w, expected) = (stored.load(&mut self.cpu)?, stored.load(&mut self.reference)?);
            let (ours, theirs) = (self.cpu.vector(&[1.0; WIDTH])?, self.reference.vector(&vec![1.0; WIDTH])?);
            let norm = Norm { weight: &ours, eps: EPS };
            self.reference.norm_matmul(&x.expected, &Norm { weight: &theirs, eps: EPS }, &expected, &mut y.expected);
            self.cpu.norm_matmul(&x.x, &norm, &w, &mut y.x);
            let max_error = Some(y.error());
            let work = moves(2 * m * WIDTH * F32_BYTES + stored.bytes());
            let once = &mut |_| timed(|| self.cpu.norm_matmul(&x.x, &norm, &w, &mut y.x));
            bench.measure(Case { name: "norm", shape, work, max_error, once });
        }
        Ok(())
    }

    fn gated(&mut self, bench: &mut Bench<'_>) -> Result<(), DeviceError> {
        const INNER: usize = 3072;
        for (act, m) in [(Activation::Silu, 1), (Activation::Silu, 128), (Activation::GeluTanh, 128)] {
            let shape = format!("{act:?} {m} x {INNER}");
            if !bench.wants("gated", &shape) {
                continue;
            }
            let x = self.input(m, 2 * INNER)?;
            let mut y = self.zeros(x.picked.clone(), INNER)?;
            self.reference.gated(&x.expected, None, act, &mut y.expected);
            self.cpu.gated(&x.x, None, act, &mut y.x);
            let max_error = Some(y.error());
            let once = &mut |_| timed(|| self.cpu.gated(&x.x, None, act, &mut y.x));
            bench.measure(Case { name: "gated", shape, work: moves(3 * m * INNER * F32_BYTES), max_error, once });
        }
        Ok(())
    }

    fn embed(&mut self, bench: &mut Bench<'_>) -> Result<(), DeviceError> {
        const WIDTH: usize = 1024;
        for (dtype, m) in [(DType::Q8_0, 1), (DType::Q8_0, 128), (DType::BF16, 128)] {
            let shape = format!("{dtype} {m} x {WIDTH}");
            if !bench.wants("embed", &shape) {
                continue;
            }
            let picked = self.begin(m);
            let mut y = self.zeros(picked, WIDTH)?;
            let stored = Stored::random(dtype, LIMITS.tokens, WIDTH);
            let (table, expected) = (stored.load(&mut self.cpu)?, stored.load(&mut self.reference)?);
            self.reference.embed(&expected, &mut y.expected);
            self.cpu.embed(&table, &mut y.x);
            let max_error = Some(y.error());
            let work = moves(m * (stored.bytes() / LIMITS.tokens + WIDTH * F32_BYTES));
            let once = &mut |_| timed(|| self.cpu.embed(&table, &mut y.x));
            bench.measure(Case { name: "embed", shape, work, max_error, once });
        }
        Ok(())
    }

    fn logits_and_sampling(&mut self, bench: &mut Bench<'_>) -> Result<(), DeviceError> {
        const WIDTH: usize = 576;
        const HEAD: DType = DType::Q8_0;
        let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
        let samplings = [
            ("greedy", greedy.clone()),
            ("temperature", Sampling { temperature: 0.8, ..greedy.clone() }),
            ("top-p", Sampling { temperature: 0.8, top_p: 0.9, ..greedy.clone() }),
            ("top-k", Sampling { temperature: 0.8, top_k: 20, ..greedy }),
        ];
        let sampled = |how: &str, m: usize| format!("{how} {m} x {VOCABULARY}");
        let shape = |m: usize| format!("{HEAD} {m} x {WIDTH} -> {VOCABULARY}");
        let wants = |bench: &Bench<'_>, m: usize| {
            bench.wants("logits", &shape(m)) || samplings.iter().any(|(how, _)| bench.wants("sample", &sampled(how, m)))
        };
        let counts: Vec<usize> = [1, 8, 32].into_iter().filter(|&m| wants(bench, m)).collect();
        if counts.is_empty() {
            return Ok(());
        }
        let stored = Stored::random(HEAD, VOCABULARY, WIDTH);
        let heads = [stored.load(&mut self.cpu)?, stored.load(&mut self.cpu)?];
        let expected = stored.load(&mut self.reference)?;
        let (ours, theirs) = (self.cpu.vector(&[1.0; WIDTH])?, self.reference.vector(&vec![1.0; WIDTH])?);
        let norm = Norm { weight: &ours, eps: EPS };
        for m in counts {
            let x = self.input(m, WIDTH)?;
            self.reference.logits(&x.expected, &Norm { weight: &theirs, eps: EPS }, &expected);
            self.cpu.logits(&x.x, &norm, &heads[0]);
            let scores: Vec<_> = x.picked.iter().map(|&row| self.cpu.scores(row)).collect();
            let wanted: Vec<_> = (0..x.picked.len()).map(|row| self.reference.scores(row)).collect();
            let max_error = Some(error(scores.iter().zip(&wanted).map(|(a, b)| (&a[..], &b[..]))));
            if bench.wants("logits", &shape(m)) {
                let work = product(&self.cpu, HEAD, stored.bytes(), [m, VOCABULARY, WIDTH]);
                let once = &mut |i: usize| timed(|| self.cpu.logits(&x.x, &norm, &heads[i % 2]));
                bench.measure(Case { name: "logits", shape: shape(m), work, max_error, once });
            }
            for (how, sampling) in &samplings {
                if !bench.wants("sample", &sampled(how, m)) {
                    continue;
                }
                let rows: Vec<SampleRow<'_>> =
                    (0..m).map(|i| SampleRow { slot: Slot(i as u32), sampling, position: i }).collect();
                let once = &mut |_| timed(|| drop(self.cpu.sample(&rows)));
                let (shape, work) = (sampled(how, m), moves(m * VOCABULARY * F32_BYTES));
                bench.measure(Case { name: "sample", shape, work, max_error: None, once });
            }
        }
        Ok(())
    }

    fn moe(&mut self, bench: &mut Bench<'_>, dtype: DType) -> Result<(), DeviceError> {
        const SHAPE: MoeShape = MoeShape { experts: 32, per_token: 8, width: 1024, inner: 384 };
        let MoeShape { experts, per_token, width, inner } = SHAPE;
        let shape = |m: usize| format!("{dtype} {m} x {width}, {per_token} of {experts} experts of {inner}");
        let counts: Vec<usize> = TOKENS.into_iter().filter(|&m| bench.wants("moe", &shape(m))).collect();
        if counts.is_empty() {
            return Ok(());
        }
        let router = Stored::random(DType::F32, experts, width);
        // Each expert's rows are a part of one matrix, so that no two are alike.
        let gate_up = Stored::random(dtype, experts * 2 * inner, width);
        let down = Stored::random(dtype, experts * width, inner);
        let mut ours = Mixture::load(&mut self.cpu, SHAPE, &router, [&gate_up, &down])?;
        let mut theirs = Mixture::load(&mut self.reference, SHAPE, &router, [&gate_up, &down])?;
        for m in counts {
            let mut x = self.input(m, width)?;
            theirs.apply(&mut self.reference, &mut x.expected);
            ours.apply(&mut self.cpu, &mut x.x);
            let max_error = Some(x.error());
            // As many experts' weights as so many tokens touch on average.
            let missed = (1.0 - per_token as f64 / experts as f64).powi(m as i32);
            let weights = (gate_up.bytes() + down.bytes()) as f64 * (1.0 - missed);
            let operations = (2 * m * per_token * 3 * inner * width) as f64;
            let bytes = weights + (2 * m * width * F32_BYTES) as f64;
            let work = Work { bytes, operations, arithmetic: self.cpu.arithmetic(dtype) };
            let once = &mut |_| timed(|| ours.apply(&mut self.cpu, &mut x.x));
            bench.measure(Case { name: "moe", shape: shape(m), work, max_error, once });
        }
        Ok(())
    }
}

/// A mixture's weights on a device.
struct Mixture<D: Device> {
    norm: D::Vector,
    router: D::Weight,
    gate_up: D::Experts,
    down: D::Experts,
    scratch: D::MoeScratch,
    per_token: usize,
}

impl<D: Device> Mixture<D> {
    fn load(
        device: &mut D,
        shape: MoeShape,
        router: &Stored,
        [gate_up, down]: [&Stored; 2],
    ) -> Result<Self, DeviceError> {
        let shapes = [[2 * shape.inner, shape.width], [shape.width, shape.inner]];
        let gate_up = device.load_experts(&gate_up.parts(&shapes[0]), Shard::Whole)?;
        let down = device.load_experts(&down.parts(&shapes[1]), Shard::Whole)?;
        let norm = device.vector(&vec![1.0; shape.width])?;
        let router = router.load(device)?;
        let scratch = device.moe_scratch(shape)?;
        Ok(Self { norm, router, gate_up, down, scratch, per_token: shape.per_token })
    }

    fn apply(&mut self, device: &mut D, residual: &mut D::Tensor) {
        let op = Moe {
            norm: Norm { weight: &self.norm, eps: EPS },
            router: &self.router,
            gate_up: &self.gate_up,
            down: &self.down,
            per_token: self.per_token,
            normalise: true,
            act: Activation::Silu,
        };
        device.moe(&op, &mut self.scratch, residual);
    }
}

fn prepare<D: Device>(device: &mut D) -> Result<(), DeviceError> {
    device.reserve(LIMITS, VOCABULARY)?;
    device.kv_cache(KvShape { layers: 1, pages: LIMITS.slots, page_size: 1, kv_heads: 1, head_dim: 8 })
}

/// Which of a matrix's cases are asked for: tokens and the words for it.
fn wanted(bench: &Bench<'_>, name: &str, dtype: DType, n: usize, k: usize) -> Vec<(usize, String)> {
    let cases = TOKENS.into_iter().map(|m| (m, format!("{dtype} {m} x {k} -> {n}")));
    cases.filter(|(_, shape)| bench.wants(name, shape)).collect()
}

/// `[m, k]` by `[n, k]`
fn product(cpu: &Cpu, dtype: DType, weight_bytes: usize, [m, n, k]: [usize; 3]) -> Work {
    Work {
        bytes: (weight_bytes + m * (n + k) * F32_BYTES) as f64,
        operations: 2.0 * (m * n * k) as f64,
        arithmetic: cpu.arithmetic(dtype),
    }
}

/// Something whose arithmetic is not worth counting.
fn moves(bytes: usize) -> Work {
    Work { bytes: bytes as f64, operations: 0.0, arithmetic: Arithmetic::F32 }
}
