//! How fast attention is at long context: SmolLM2-135M's shape, prefill and decode, each format of K and V.
//!
//! `cargo run -p minisgl-kernels --example attention [threads] [context]`. Pages of one token, in order and scattered.
use std::time::{Duration, Instant};

use minisgl_kernels::cpu::{Cpu, CpuOptions, Keep, Tensor, Vector};
use minisgl_kernels::{
    Attend, Device, KvFormat, KvShape, Limits, PageId, RopeLayout, RopeStore, Slot, Step, StepRow, TokenSource, Want,
};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

const LAYERS: usize = 30;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const DIM: usize = 64;
const WIDTH: usize = (HEADS + 2 * KV_HEADS) * DIM;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().expect("a number"));
    let (threads, context) = (args.next().unwrap_or(0), args.next().unwrap_or(4096));
    let mut random = SmallRng::seed_from_u64(1);
    for format in [KvFormat::BF16, KvFormat::Int8, KvFormat::F16, KvFormat::F32] {
        let options = CpuOptions { threads, keep: Keep::Exact, kv_format: format };
        let mut cpu = Cpu::new(options).expect("a CPU device");
        cpu.reserve(Limits { tokens: context, slots: 1, context }, 16).expect("memory");
        let shape = KvShape { layers: LAYERS, pages: context, page_size: 1, kv_heads: KV_HEADS, head_dim: DIM };
        cpu.kv_cache(shape).expect("memory");
        let mut pages: Vec<PageId> = (0..context as u32).map(PageId).collect();
        for order in ["in order", "scattered"] {
            let mut run = Run::new(&mut cpu, &pages, &mut random);
            let prefill = run.prefill(&mut cpu);
            let decode = run.decode(&mut cpu);
            let flops = 2.0 * (HEADS * DIM * context * context) as f64;
            let bytes = (cpu.page_bytes(shape) * context) as f64;
            println!(
                "{}, {format:?}, {context} pages {order}: prefill {:6.1} ms a layer, {:5.1} GFLOP/s; decode {:6.2} ms, {:5.1} GB/s; \
                 rope and store {:.3} ms",
                cpu.name(),
                prefill.as_secs_f64() * 1e3,
                flops / prefill.as_secs_f64() / 1e9,
                decode[1].as_secs_f64() * 1e3,
                bytes / decode[1].as_secs_f64() / 1e9,
                decode[0].as_secs_f64() * 1e3,
            );
            pages.shuffle(&mut random);
        }
    }
}

struct Run<'a> {
    pages: &'a [PageId],
    qkv: Tensor,
    out: Tensor,
    inv_freq: Vector,
}

impl<'a> Run<'a> {
    fn new(cpu: &mut Cpu, pages: &'a [PageId], random: &mut SmallRng) -> Self {
        let [qkv, out] = [WIDTH, HEADS * DIM].map(|width| cpu.tensor(width).expect("memory"));
        let frequencies: Vec<f32> = (0..DIM / 2).map(|_| random.random_range(0.0..1.0)).collect();
        Self { pages, qkv, out, inv_freq: cpu.vector(&frequencies).expect("memory") }
    }

    fn begin(&self, cpu: &mut Cpu, start: usize) {
        let tokens = vec![0; self.pages.len() - start];
        let tokens = TokenSource::Tokens(&tokens);
        let row = StepRow { slot: Slot(0), start, tokens, pages: self.pages, want: Want::Nothing };
        cpu.begin(&Step { rows: &[row] });
    }

    fn store(&mut self, cpu: &mut Cpu, layer: usize) {
        let op = RopeStore {
            layer,
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: DIM,
            bias: None,
            q_norm: None,
            k_norm: None,
            layout: RopeLayout::Pairs,
            inv_freq: &self.inv_freq,
            rope_scale: 1.0,
        };
        cpu.rope_store_kv(&mut self.qkv, &op);
    }

    fn attend(&mut self, cpu: &mut Cpu, layer: usize) {
        let op = Attend { layer, heads: HEADS, kv_heads: KV_HEADS, head_dim: DIM, scale: 0.125, window: None };
        cpu.attend(&self.qkv, &op, &mut self.out);
    }

    /// One layer, the fastest of three; all layers are written.
    fn prefill(&mut self, cpu: &mut Cpu) -> Duration {
        self.begin(cpu, 0);
        (0..LAYERS).for_each(|layer| self.store(cpu, layer));
        (0..3).map(|layer| timed(|| self.attend(cpu, layer))).min().expect("three")
    }

    /// All layers of one token: rotation and storing, then attention; the fastest of twenty each.
    fn decode(&mut self, cpu: &mut Cpu) -> [Duration; 2] {
        self.begin(cpu, self.pages.len() - 1);
        let mut best = [Duration::MAX; 2];
        for _ in 0..20 {
            let mut sum = [Duration::ZERO; 2];
            for layer in 0..LAYERS {
                sum[0] += timed(|| self.store(cpu, layer));
                sum[1] += timed(|| self.attend(cpu, layer));
            }
            best = std::array::from_fn(|i| best[i].min(sum[i]));
        }
        best
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}
