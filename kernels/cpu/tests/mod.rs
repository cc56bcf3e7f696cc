//! The device against `reference`, operation by operation and as a whole; and that a value has one set of bits.
mod attention;
mod bits;
mod moe;
mod ops;
mod ranks;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::device::{PageId, RopeLayout, Slot, StepRow, TokenSource, Want};
use crate::dtype::DType;
use crate::narrow::f32_to_f16;
use crate::reference::{self, Reference};
use crate::sampling;

/// A device whose activations a test can see and set.
trait Probe: Device {
    fn get(tensor: &Self::Tensor, token: usize) -> Vec<f32>;
    fn set(tensor: &mut Self::Tensor, token: usize, values: &[f32]);
}

impl Probe for Cpu {
    fn get(tensor: &Tensor, token: usize) -> Vec<f32> {
        tensor.row(token).to_vec()
    }
    fn set(tensor: &mut Tensor, token: usize, values: &[f32]) {
        let (width, stride) = (tensor.width, tensor.stride);
        tensor.values[token * stride..][..width].copy_from_slice(values);
    }
}

impl Probe for Reference {
    fn get(tensor: &reference::Tensor, token: usize) -> Vec<f32> {
        tensor.row(token).to_vec()
    }
    fn set(tensor: &mut reference::Tensor, token: usize, values: &[f32]) {
        tensor.row_mut(token).copy_from_slice(values);
    }
}

/// Weights widened to f32: what the reference computes, up to the order of sums. `kv` is for keys and values.
fn cpu(threads: usize, kv: DType, level: Level) -> Cpu {
    Cpu::with_level(CpuOptions { threads, keep: Keep::Exact, kv_format: kv_format(kv) }, level).unwrap()
}

/// Weights as stored, activations as their kernels want them.
fn fast(threads: usize, level: Level) -> Cpu {
    Cpu::with_level(CpuOptions { threads, keep: Keep::Stored, kv_format: KvFormat::BF16 }, level).unwrap()
}

fn kv_format(dtype: DType) -> KvFormat {
    match dtype {
        DType::F16 => KvFormat::F16,
        DType::BF16 => KvFormat::BF16,
        _ => KvFormat::F32,
    }
}

fn levels() -> Vec<Level> {
    Level::all()
}

fn random(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

fn floats(random: &mut SmallRng, len: usize) -> Vec<f32> {
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// A matrix as a checkpoint has it, elements within about one.
pub(super) struct Stored {
    dtype: DType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Stored {
    pub(super) fn random(random: &mut SmallRng, dtype: DType, shape: &[usize]) -> Self {
        let elements: usize = shape.iter().product();
        let scale = 1.0 / (*shape.last().unwrap() as f32).sqrt();
        let data = match dtype {
            DType::F32 => floats(random, elements).iter().flat_map(|x| (x * scale).to_le_bytes()).collect(),
            DType::F16 => floats(random, elements).iter().flat_map(|x| f32_to_f16(x * scale).to_le_bytes()).collect(),
            DType::BF16 => floats(random, elements)
                .iter()
                .flat_map(|x| crate::narrow::f32_to_bf16(x * scale).to_le_bytes())
                .collect(),
            _ => blocks(random, dtype, elements / dtype.block_len(), scale),
        };
        Self { dtype, shape: shape.to_vec(), data }
    }

    pub(super) fn view(&self) -> TensorView<'_> {
        TensorView { name: "test.weight", dtype: self.dtype, shape: &self.shape, data: &self.data }
    }
}

/// Random blocks whose scales keep elements within about `size`.
fn blocks(random: &mut SmallRng, dtype: DType, count: usize, size: f32) -> Vec<u8> {
    let mut data: Vec<u8> = (0..count * dtype.block_bytes()).map(|_| random.random()).collect();
    let (at, largest): (&[usize], f32) = match dtype {
        DType::Q4_0 => (&[0], 8.0),
        DType::Q5_0 => (&[0], 16.0),
        DType::Q8_0 => (&[0], 128.0),
        DType::Q4_1 => (&[0, 2], 15.0),
        DType::Q5_1 => (&[0, 2], 31.0),
        DType::Q4_K | DType::Q5_K => (&[0, 2], 63.0 * 31.0),
        DType::Q6_K => (&[208], 32.0 * 128.0),
        other => panic!("{other} has no blocks"),
    };
    for block in data.chunks_exact_mut(dtype.block_bytes()) {
        for (i, &at) in at.iter().enumerate() {
            // The second of two is a minimum, added (Q4_1, Q5_1) or scaled by 6 bits and subtracted.
            let largest = if i == 0 || dtype.block_len() == 256 { largest } else { 2.0 };
            let scale = f32_to_f16(random.random_range(-size..size) / largest);
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    data
}

/// A row of a step, owned.
#[derive(Clone, Debug)]
struct Row {
    slot: u32,
    start: usize,
    /// None: what the slot sampled last.
    tokens: Option<Vec<TokenId>>,
    pages: Vec<PageId>,
    want: Want,
}

impl Row {
    fn borrow(&self) -> StepRow<'_> {
        let tokens = self.tokens.as_deref().map_or(TokenSource::LastSampled, TokenSource::Tokens);
        StepRow { slot: Slot(self.slot), start: self.start, tokens, pages: &self.pages, want: self.want }
    }
}

fn begin<D: Device>(device: &mut D, rows: &[Row]) {
    let rows: Vec<StepRow<'_>> = rows.iter().map(Row::borrow).collect();
    device.begin(&Step { rows: &rows });
}

/// Page tables of random, different pages.
fn page_tables(random: &mut SmallRng, lens: &[usize], page_size: usize, pages: usize) -> Vec<Vec<PageId>> {
    let mut free: Vec<u32> = (0..pages as u32).collect();
    lens.iter()
        .map(|len| {
            let taken = (0..len.div_ceil(page_size)).map(|_| free.swap_remove(random.random_range(0..free.len())));
            taken.map(PageId).collect()
        })
        .collect()
}

fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0f32, |size, x| size.max(x.abs())).max(1e-3);
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance * size, "{what}[{i}]: {got}, not {expected} (of {size})");
    }
}

/// How far rounding to this format, a few times, may lead.
fn tolerance(format: KvFormat) -> f32 {
    match format {
        KvFormat::F16 => 4e-3,
        KvFormat::BF16 | KvFormat::Int8 => 3e-2,
        _ => 2e-5,
    }
}
