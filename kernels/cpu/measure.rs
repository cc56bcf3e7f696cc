//! What the machine can do at most, at the instruction set in use, and what `perf` must see of this device.
//!
//! Owns the loops that find the ceilings. Knows no operation: nothing here computes anything that a model wants.
use std::hint::black_box;
use std::time::Instant;

use super::simd::{Wide, WideKernel};
use super::{Cpu, CpuOptions, Keep, Tensor};
use crate::device::{DeviceError, KvFormat};
use crate::dtype::DType;
use crate::host::{Buffer, Shared};
use crate::perf::{Arithmetic, Ceilings, Visible};

/// f32 that bandwidth is measured over, 128 MiB: no cache holds it.
const STREAM: usize = 32 << 20;
/// f32 that a thread streams at a time.
const PIECE: usize = 64 << 10;
/// The fastest of so many is the ceiling: what the machine does when nobody else uses it.
const REPEATS: usize = 7;
/// Vectors that an arithmetic loop reads: 4 KiB, always in the first-level cache.
const VECTORS: usize = 64;
/// Sweeps over them that a task makes.
const SWEEPS: usize = 2000;
/// Tasks a thread, so that one that starts late does less.
const TASKS_A_THREAD: usize = 8;

impl Visible for Cpu {
    fn made(threads: usize, kv_format: KvFormat) -> Result<Self, DeviceError> {
        Self::new(CpuOptions { threads, keep: Keep::Stored, kv_format })
    }

    fn row(tensor: &Tensor, token: usize) -> &[f32] {
        tensor.row(token)
    }
}

impl Cpu {
    /// What the multiplications with a weight of this format are made of.
    pub(crate) fn arithmetic(&self, weight: DType) -> Arithmetic {
        match weight {
            DType::BF16 if self.workers.level.has_bf16() => Arithmetic::Bf16,
            DType::F32 | DType::F16 | DType::BF16 => Arithmetic::F32,
            _ => Arithmetic::Int8,
        }
    }

    /// Measures the ceilings. Takes about a second, and 256 MiB of memory meanwhile.
    pub(crate) fn ceilings(&mut self) -> Result<Ceilings, DeviceError> {
        let mut from = Buffer::<f32>::zeroed(STREAM, "measuring bandwidth")?;
        let mut to = Buffer::<f32>::zeroed(STREAM, "measuring bandwidth")?;
        from.fill(1.0); // untouched memory is one page of zeros, whatever its size
        to.fill(0.0);
        let level = self.workers.level;
        let bytes = (STREAM * size_of::<f32>()) as f64;
        let read_s = self.fastest(STREAM / PIECE, |task| {
            black_box(level.run(Read(&from[task * PIECE..][..PIECE])));
        });
        let out = Shared::new(&mut to);
        let copy_s = self.fastest(STREAM / PIECE, |task| {
            // SAFETY: each piece is one task's.
            unsafe { out.part(task * PIECE, PIECE) }.copy_from_slice(&from[task * PIECE..][..PIECE]);
        });
        let f32_gflop_s = self.peak(|| level.run(Peak(Arithmetic::F32)));
        let bf16_gflop_s = if level.has_bf16() { self.peak(|| level.run(Peak(Arithmetic::Bf16))) } else { f32_gflop_s };
        Ok(Ceilings {
            read_gb_s: bytes / read_s / 1e9,
            copy_gb_s: 2.0 * bytes / copy_s / 1e9,
            f32_gflop_s,
            bf16_gflop_s,
            int8_gop_s: self.peak(|| level.run(Peak(Arithmetic::Int8))),
            dispatch_s: self.dispatch_s(),
        })
    }

    /// Seconds of the fastest of several runs of all tasks.
    fn fastest(&mut self, tasks: usize, task: impl Fn(usize) + Sync) -> f64 {
        let times = (0..REPEATS).map(|_| {
            let started = Instant::now();
            self.workers.run(tasks, |_, i| task(i));
            started.elapsed().as_secs_f64()
        });
        times.fold(f64::INFINITY, f64::min)
    }

    /// Billions of operations a second of a loop that gives how many it made.
    fn peak(&mut self, run: impl Fn() -> usize + Sync) -> f64 {
        let tasks = TASKS_A_THREAD * self.workers.threads();
        let seconds = self.fastest(tasks, |_| {
            black_box(run());
        });
        (tasks * run()) as f64 / seconds / 1e9
    }

    /// Seconds that handing work to all threads and waiting for them takes: what each operation pays before it computes.
    fn dispatch_s(&mut self) -> f64 {
        const ROUNDS: usize = 200;
        let threads = self.workers.threads();
        let times = (0..REPEATS).map(|_| {
            let started = Instant::now();
            for _ in 0..ROUNDS {
                self.workers.run(threads, |_, i| {
                    black_box(i);
                });
            }
            started.elapsed().as_secs_f64() / ROUNDS as f64
        });
        times.fold(f64::INFINITY, f64::min)
    }
}

/// Reads everything once.
struct Read<'a>(&'a [f32]);

impl WideKernel for Read<'_> {
    type Out = [f32; 16];
    #[inline(always)]
    fn run<S: Wide>(self, isa: S) -> Self::Out {
        const TOGETHER: usize = 4;
        let mut sums = [isa.splat(0.0); TOGETHER];
        for chunk in self.0.chunks_exact(16 * TOGETHER) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the chunk has sixteen f32 for each sum.
                *sum = isa.add(*sum, unsafe { isa.load(chunk[16 * i..].as_ptr()) });
            }
        }
        let mut out = [0.0; 16];
        let sum = isa.add(isa.add(sums[0], sums[1]), isa.add(sums[2], sums[3]));
        // SAFETY: sixteen f32.
        unsafe { isa.store(sum, out.as_mut_ptr()) };
        out
    }
}

/// Multiplies and adds as fast as it can; gives how many operations (a multiplication and an addition are two) it made.
struct Peak(Arithmetic);

impl WideKernel for Peak {
    type Out = usize;
    #[inline(always)]
    fn run<S: Wide>(self, isa: S) -> usize {
        // Enough sums to hide an instruction's latency, few enough to stay in registers beside the factors.
        match (self.0, S::REGISTERS >= 16) {
            (Arithmetic::F32, true) => multiply::<S, 12>(isa),
            (Arithmetic::F32, false) => multiply::<S, 5>(isa),
            (Arithmetic::Bf16, _) => pairs::<S>(isa),
            (Arithmetic::Int8, true) => bytes::<S, 8>(isa),
            (Arithmetic::Int8, false) => bytes::<S, 2>(isa),
        }
    }
}

#[inline(always)]
fn multiply<S: Wide, const SUMS: usize>(isa: S) -> usize {
    let (a, b) = (isa.splat(black_box(0.999)), isa.splat(black_box(0.001)));
    let mut sums = [isa.splat(black_box(1.0)); SUMS];
    for _ in 0..SWEEPS * VECTORS {
        for sum in &mut sums {
            *sum = isa.fma(*sum, a, b);
        }
    }
    keep_floats(isa, sums);
    SWEEPS * VECTORS * SUMS * 16 * 2
}

#[inline(always)]
fn pairs<S: Wide>(isa: S) -> usize {
    const SUMS: usize = 8;
    let (data, factors) = black_box(([0x3c; 64 * VECTORS], [0x3c; 64 * SUMS]));
    // SAFETY: 64 bytes are readable from each start.
    let factors: [S::B; SUMS] = std::array::from_fn(|i| unsafe { isa.load_bytes(factors[64 * i..].as_ptr()) });
    let mut sums = [isa.splat(0.0); SUMS];
    for _ in 0..SWEEPS {
        for vector in data.chunks_exact(64) {
            // SAFETY: the chunk's 64 bytes.
            let x = unsafe { isa.load_bytes(vector.as_ptr()) };
            for (sum, factor) in sums.iter_mut().zip(factors) {
                *sum = isa.dot_bf16(*sum, factor, x);
            }
        }
    }
    keep_floats(isa, sums);
    SWEEPS * VECTORS * SUMS * 32 * 2
}

#[inline(always)]
fn bytes<S: Wide, const SUMS: usize>(isa: S) -> usize {
    let (data, factors) = black_box(([1u8; 64 * VECTORS], [3u8; 64 * 8]));
    // SAFETY: 64 bytes are readable from each start: there are eight.
    let factors: [S::B; SUMS] = std::array::from_fn(|i| unsafe { isa.load_bytes(factors[64 * i..].as_ptr()) });
    let mut sums = [[isa.splat_i(0); 2]; SUMS];
    for _ in 0..SWEEPS {
        for two in data.chunks_exact(128) {
            // SAFETY: the chunk's 128 bytes.
            let x = [0, 64].map(|at| unsafe { isa.load_bytes(two[at..].as_ptr()) });
            for (sums, factor) in sums.iter_mut().zip(factors) {
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = isa.dot_small(*sum, factor, x);
                }
            }
        }
    }
    for sums in sums {
        keep_floats(isa, sums.map(|sum| isa.to_f32(sum)));
    }
    SWEEPS * VECTORS * SUMS * 64 * 2
}

/// What nobody reads would not be computed.
#[inline(always)]
fn keep_floats<S: Wide, const N: usize>(isa: S, values: [S::F; N]) {
    let mut out = [0.0f32; 16];
    for value in values {
        // SAFETY: sixteen f32.
        unsafe { isa.store(value, out.as_mut_ptr()) };
        black_box(&mut out);
    }
}
