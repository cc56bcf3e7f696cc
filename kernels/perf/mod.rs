//! Perf: how fast each operation of the cpu device is, beside the machine's ceilings and a copy, and how far from `reference`.
//!
//! Owns the cases, their clocks and their figures; runs operations through [`Device`] alone, so that it outlives any rewrite
//! of them. Prints nothing and knows no model: shapes are SmolLM2-135M's and Qwen3-0.6B's, weights are random.
//!
//! ```text
//!   inputs.rs   random weights, steps and page tables      matrices.rs    weights × activations, gate, sampling
//!   bench.rs    the clock, the figures of a case           attention.rs   rotation, K/V, attention
//! ```
mod attention;
mod bench;
mod inputs;
mod matrices;
#[cfg(test)]
mod tests;

use crate::cpu::Cpu;
use crate::device::{Device, DeviceError, KvFormat};
use crate::reference::Reference;

use bench::Bench;

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that compute; 0 is all cores.
    pub threads: usize,
    /// Cases whose name and shape, a space between, contain this; all where it is empty.
    pub only: String,
    /// Seconds of repetitions a case, its warm-up apart.
    pub seconds: f64,
}

/// What an operation's multiplications are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 multiply-adds.
    F32,
    /// Dot products of bf16 pairs.
    Bf16,
    /// Dot products of bytes.
    Int8,
}

/// What the machine does at most, with all of the threads: measured, not looked up.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Reading memory that no cache holds.
    pub read_gb_s: f64,
    /// Copying it, bytes read and bytes written.
    pub copy_gb_s: f64,
    /// Multiply-adds of f32 in registers, two operations each.
    pub f32_gflop_s: f64,
    /// Dot products of bf16; f32's where no instruction makes them.
    pub bf16_gflop_s: f64,
    /// Dot products of bytes.
    pub int8_gop_s: f64,
    /// Seconds to hand work to all threads and wait for them.
    pub dispatch_s: f64,
}

impl Ceilings {
    /// Billions of operations a second.
    pub fn peak(&self, arithmetic: Arithmetic) -> f64 {
        match arithmetic {
            Arithmetic::F32 => self.f32_gflop_s,
            Arithmetic::Bf16 => self.bf16_gflop_s,
            Arithmetic::Int8 => self.int8_gop_s,
        }
    }
}

/// Which ceiling is the nearer for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Bytes it must move.
    Memory,
    /// Operations it must make.
    Arithmetic(Arithmetic),
}

impl Bound {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Arithmetic(Arithmetic::F32) => "f32",
            Self::Arithmetic(Arithmetic::Bf16) => "bf16",
            Self::Arithmetic(Arithmetic::Int8) => "int8",
        }
    }
}

/// One case's figures.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The operation, as [`Device`] names it.
    pub name: &'static str,
    /// Format and sizes.
    pub shape: String,
    /// Median time, in milliseconds.
    pub ms: f64,
    /// Bytes that it must move, each once, by that time.
    pub gb_s: f64,
    /// Operations that it must make by that time; 0 where there are none worth counting.
    pub gflop_s: f64,
    /// Time that the ceilings allow, over the time it took. Above 100 where caches hold what it moves.
    pub percent_of_ceiling: f64,
    /// Which ceiling that is.
    pub bound: Bound,
    /// Milliseconds that copying as many bytes takes.
    pub copy_ms: f64,
    /// Largest difference from the reference's result, over the reference's largest value. `None` where results are not
    /// numbers to compare.
    pub max_error: Option<f64>,
}

/// A device whose results can be looked at.
pub(crate) trait Visible: Device + Sized {
    /// A device that keeps K and V in this format.
    fn made(threads: usize, kv_format: KvFormat) -> Result<Self, DeviceError>;
    /// A token's activations.
    fn row(tensor: &Self::Tensor, token: usize) -> &[f32];
}

impl Visible for Reference {
    fn made(_: usize, kv_format: KvFormat) -> Result<Self, DeviceError> {
        Ok(Self::new(kv_format))
    }

    fn row(tensor: &Self::Tensor, token: usize) -> &[f32] {
        tensor.row(token)
    }
}

/// What [`run`] says before the first case.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The device in words: instruction set and threads.
    pub device: String,
    /// What it does at most.
    pub ceilings: Ceilings,
}

/// Measures the ceilings, then each case; `report` hears of each as it is done.
///
/// # Errors
/// Threads or memory that cannot be had.
pub fn run(
    options: &Options,
    started: impl FnOnce(&Machine),
    report: &mut dyn FnMut(Measurement),
) -> Result<(), DeviceError> {
    let mut cpu = Cpu::made(options.threads, KvFormat::F32)?;
    let machine = Machine { device: cpu.name(), ceilings: cpu.ceilings()? };
    drop(cpu);
    started(&machine);
    cases(options, machine.ceilings, report)
}

/// Each case, beside ceilings that are known.
fn cases(options: &Options, ceilings: Ceilings, report: &mut dyn FnMut(Measurement)) -> Result<(), DeviceError> {
    let mut bench = Bench { options, ceilings, report };
    matrices::run(&mut bench)?;
    attention::run(&mut bench)
}
