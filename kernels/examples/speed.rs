//! How fast the CPU device is: one quantised matrix at several batch sizes, then whole steps of SmolLM2-135M's shape.
//!
//! `cargo run -p minisgl-kernels --example speed [threads]`. Weights are random: only their shapes and formats matter.
use std::hint::black_box;
use std::time::{Duration, Instant};

use minisgl_kernels::cpu::{Cpu, CpuOptions, Keep, Tensor, Vector, Weight};
use minisgl_kernels::{
    Activation, Attend, DType, Device, KvFormat, KvShape, Limits, Norm, PageId, RopeLayout, RopeStore, Shard, Slot,
    Step, StepKey, StepRow, TensorView, TokenSource, Want,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const LIMITS: Limits = Limits { tokens: 512, slots: 64, context: 2048 };
const VOCABULARY: usize = 49152;
const LAYERS: usize = 30;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const DIM: usize = 64;
const WIDTH: usize = 576;
const INNER: usize = 1536;
const PAGE: usize = 16;

fn main() {
    let threads = std::env::args().nth(1).map_or(0, |arg| arg.parse().expect("threads: a number"));
    let mut cpu =
        Cpu::new(CpuOptions { threads, keep: Keep::Stored, kv_format: KvFormat::BF16 }).expect("a CPU device");
    println!("{}", cpu.name());
    cpu.reserve(LIMITS, VOCABULARY).expect("memory");
    let pages = LIMITS.slots * 1024 / PAGE;
    cpu.kv_cache(KvShape { layers: LAYERS, pages, page_size: PAGE, kv_heads: KV_HEADS, head_dim: DIM })
        .expect("memory");
    matrices(&mut cpu);
    let mut model = Model::random(&mut cpu);
    for (batch, context) in [(1, 16), (1, 512), (8, 128), (32, 128)] {
        let time = fastest(|| model.step(&mut cpu, batch, context, 1));
        println!("decode, batch {batch:2} at {context:4}: {:7.1} tok/s", batch as f64 / time.as_secs_f64());
    }
    for tokens in [64, 256, 512] {
        let time = fastest(|| model.step(&mut cpu, 1, 0, tokens));
        println!("prefill of {tokens:3}:           {:7.1} tok/s", tokens as f64 / time.as_secs_f64());
    }
}

/// GFLOP/s of `[M, 576] x [1536, 576]` transposed.
fn matrices(cpu: &mut Cpu) {
    let (x, mut out) = (cpu.tensor(WIDTH).expect("memory"), cpu.tensor(INNER).expect("memory"));
    for dtype in [DType::Q4_1, DType::Q8_0, DType::BF16] {
        let weight = random_weight(cpu, dtype, INNER, WIDTH);
        for m in [1, 8, 128] {
            begin(cpu, 1, 0, m);
            let time = fastest(|| cpu.matmul_reduce_add(black_box(&x), &weight, None, &mut out));
            let flops = 2.0 * (m * INNER * WIDTH) as f64;
            println!("{dtype} K={WIDTH} N={INNER} M={m:3}: {:6.1} GFLOP/s", flops / time.as_secs_f64() / 1e9);
        }
    }
}

/// The fastest of many: what the machine does when nobody else runs on it.
fn fastest(mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(1500) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best
}

fn random_weight(cpu: &mut Cpu, dtype: DType, rows: usize, columns: usize) -> Weight {
    let mut random = SmallRng::seed_from_u64(rows as u64);
    let bytes = rows * dtype.row_bytes(columns).expect("whole blocks");
    // Small bytes keep every half that starts a block finite and small.
    let data: Vec<u8> = (0..bytes).map(|_| random.random_range(0..24)).collect();
    let view = TensorView { name: "random", dtype, shape: &[rows, columns], data: &data };
    cpu.load(&[view], Shard::Whole).expect("a weight")
}

/// Stages `batch` rows of `len` tokens from position `start`, each on pages of its own.
fn begin(cpu: &mut Cpu, batch: usize, start: usize, len: usize) {
    let tokens = vec![7; len];
    let each = (start + len).div_ceil(PAGE);
    let pages: Vec<PageId> = (0..(batch * each) as u32).map(PageId).collect();
    let rows: Vec<StepRow<'_>> = (0..batch)
        .map(|i| StepRow {
            slot: Slot(i as u32),
            start,
            tokens: TokenSource::Tokens(&tokens),
            pages: &pages[i * each..][..each],
            want: Want::Sample,
        })
        .collect();
    cpu.begin(&Step { rows: &rows });
}

struct Model {
    table: Weight,
    layers: Vec<[Weight; 4]>,
    norm: Vector,
    inv_freq: Vector,
    x: Tensor,
    qkv: Tensor,
    heads: Tensor,
    gate_up: Tensor,
    inner: Tensor,
}

impl Model {
    fn random(cpu: &mut Cpu) -> Self {
        let qkv = (HEADS + 2 * KV_HEADS) * DIM;
        let layers = (0..LAYERS)
            .map(|_| {
                [(qkv, WIDTH), (WIDTH, HEADS * DIM), (2 * INNER, WIDTH), (WIDTH, INNER)]
                    .map(|(rows, columns)| random_weight(cpu, DType::Q4_1, rows, columns))
            })
            .collect();
        let [x, qkv, heads, gate_up, inner] =
            [WIDTH, qkv, HEADS * DIM, 2 * INNER, INNER].map(|width| cpu.tensor(width).expect("memory"));
        Self {
            table: random_weight(cpu, DType::Q8_0, VOCABULARY, WIDTH),
            layers,
            norm: cpu.vector(&[1.0; WIDTH]).expect("memory"),
            inv_freq: cpu.vector(&[0.1; DIM / 2]).expect("memory"),
            x,
            qkv,
            heads,
            gate_up,
            inner,
        }
    }

    fn step(&mut self, cpu: &mut Cpu, batch: usize, start: usize, len: usize) {
        begin(cpu, batch, start, len);
        let Self { table, layers, norm, inv_freq, x, qkv, heads, gate_up, inner } = self;
        cpu.step(StepKey { tokens: batch * len, rows: batch }, &mut |cpu| {
            let norm = Norm { weight: &*norm, eps: 1e-5 };
            cpu.embed(table, x);
            for (layer, [w_qkv, w_out, w_gate_up, w_down]) in layers.iter().enumerate() {
                cpu.norm_matmul(x, &norm, w_qkv, qkv);
                let rope = RopeStore {
                    layer,
                    heads: HEADS,
                    kv_heads: KV_HEADS,
                    head_dim: DIM,
                    bias: None,
                    q_norm: None,
                    k_norm: None,
                    layout: RopeLayout::Pairs,
                    inv_freq: &*inv_freq,
                    rope_scale: 1.0,
                };
                cpu.rope_store_kv(qkv, &rope);
                let attend =
                    Attend { layer, heads: HEADS, kv_heads: KV_HEADS, head_dim: DIM, scale: 0.125, window: None };
                cpu.attend(qkv, &attend, heads);
                cpu.matmul_reduce_add(heads, w_out, None, x);
                cpu.norm_matmul(x, &norm, w_gate_up, gate_up);
                cpu.gated(gate_up, None, Activation::Silu, inner);
                cpu.matmul_reduce_add(inner, w_down, None, x);
            }
            cpu.logits(x, &norm, table);
        });
    }
}
