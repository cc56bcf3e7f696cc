//! Cases over the K/V cache: rotation and storing, and attention of decode rows and prefill chunks, by K/V format.
use crate::cpu::Cpu;
use crate::device::{Attend, Device, DeviceError, KvFormat, KvShape, Limits, RopeLayout, RopeStore, Want};
use crate::dtype::DType;
use crate::reference::Reference;

use super::bench::{Bench, Case, Work, error, timed};
use super::inputs::{Rows, Stored};
use super::{Arithmetic, Visible};

const PAGE: usize = 16;
/// Places of a sequence: the longest context, and a page for what comes after.
const PLACES: usize = 4096 + PAGE;
const LIMITS: Limits = Limits { tokens: 256, slots: 32, context: PLACES };
const F32_BYTES: usize = size_of::<f32>();

/// A model's heads.
#[derive(Clone, Copy)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// SmolLM2-135M's and Qwen3-0.6B's.
const MODELS: [Heads; 2] =
    [Heads { heads: 9, kv_heads: 3, head_dim: 64 }, Heads { heads: 16, kv_heads: 8, head_dim: 128 }];

impl Heads {
    fn words(self, kv: KvFormat) -> String {
        let Self { heads, kv_heads, head_dim } = self;
        format!("{heads}/{kv_heads} heads of {head_dim}, K/V {kv:?}")
    }

    fn qkv_width(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// K and V of one token.
    fn kv_bytes(self, kv: KvFormat) -> usize {
        let scale = if kv.is_scaled() { F32_BYTES } else { 0 };
        2 * self.kv_heads * (self.head_dim * kv.element_bytes() + scale)
    }

    fn attend(self) -> Attend {
        let Self { heads, kv_heads, head_dim } = self;
        Attend { layer: 0, heads, kv_heads, head_dim, scale: (head_dim as f32).powf(-0.5), window: None }
    }

    fn rope<V>(self, inv_freq: &V) -> RopeStore<'_, V> {
        let Self { heads, kv_heads, head_dim } = self;
        let (bias, q_norm, k_norm, layout, rope_scale) = (None, None, None, RopeLayout::Halves, 1.0);
        RopeStore { layer: 0, heads, kv_heads, head_dim, bias, q_norm, k_norm, layout, inv_freq, rope_scale }
    }
}

/// What a step attends: rows, their new tokens, and the position of the first.
const STEPS: [(&str, usize, usize, usize); 7] = [
    ("decode", 1, 1, 127),
    ("decode", 1, 1, 4095),
    ("decode", 8, 1, 4095),
    ("decode", 32, 1, 127),
    ("prefill", 1, 128, 0),
    ("prefill", 1, 128, 4096 - 128),
    ("prefill", 1, 256, 4096 - 256),
];

pub(super) fn run(bench: &mut Bench<'_>) -> Result<(), DeviceError> {
    for heads in MODELS {
        for kv in [KvFormat::BF16, KvFormat::Int8, KvFormat::F16, KvFormat::F32] {
            rope_store(bench, heads, kv)?;
            attend(bench, heads, kv)?;
        }
    }
    Ok(())
}

/// A device with a cache, and what is needed to fill it.
struct Loaded<D: Device> {
    device: D,
    table: D::Weight,
    inv_freq: D::Vector,
    qkv: D::Tensor,
}

impl<D: Visible> Loaded<D> {
    fn new(threads: usize, heads: Heads, kv: KvFormat, sequences: usize) -> Result<Self, DeviceError> {
        let mut device = D::made(threads, kv)?;
        let pages = sequences * PLACES.div_ceil(PAGE);
        device.reserve(LIMITS, LIMITS.tokens)?;
        let Heads { kv_heads, head_dim, .. } = heads;
        device.kv_cache(KvShape { layers: 1, pages, page_size: PAGE, kv_heads, head_dim })?;
        let table = Stored::random(DType::BF16, LIMITS.tokens, heads.qkv_width()).load(&mut device)?;
        let frequencies: Vec<f32> = (0..head_dim / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
        let inv_freq = device.vector(&frequencies)?;
        let qkv = device.tensor(heads.qkv_width())?;
        Ok(Self { device, table, inv_freq, qkv })
    }

    /// Begins a step whose q, k and v are random.
    fn begin(&mut self, rows: &Rows) {
        rows.begin(&mut self.device);
        self.device.embed(&self.table, &mut self.qkv);
    }

    /// Writes K and V of every place of the first so many sequences.
    fn fill(&mut self, heads: Heads, sequences: usize) {
        for sequence in 0..sequences {
            let mut start = 0;
            while start < PLACES {
                let len = LIMITS.tokens.min(PLACES - start);
                let first_page = sequence * (PLACES / PAGE);
                self.begin(&Rows { count: 1, len, start, page_size: PAGE, first_page, want: Want::Nothing });
                self.device.rope_store_kv(&mut self.qkv, &heads.rope(&self.inv_freq));
                start += len;
            }
        }
    }
}

/// The reference attends single tokens, each in a step of its own, with the query that the chunk's token has.
fn expected(
    reference: &mut Loaded<Reference>,
    heads: Heads,
    start: usize,
    token: usize,
) -> Result<Vec<f32>, DeviceError> {
    let rows = Rows { count: 1, len: token + 1, start, page_size: PAGE, first_page: 0, want: Want::Nothing };
    reference.begin(&rows);
    let query = Reference::row(&reference.qkv, token).to_vec();
    let rows = Rows { len: 1, start: start + token, ..rows };
    reference.begin(&rows);
    reference.qkv.row_mut(0).copy_from_slice(&query);
    let mut out = reference.device.tensor(heads.heads * heads.head_dim)?;
    reference.device.attend(&reference.qkv, &heads.attend(), &mut out);
    Ok(Reference::row(&out, 0).to_vec())
}

fn attend(bench: &mut Bench<'_>, heads: Heads, kv: KvFormat) -> Result<(), DeviceError> {
    let shape = |(kind, count, len, start): (&str, usize, usize, usize)| {
        format!("{kind} {count} x {len} at {}, {}", start + len, heads.words(kv))
    };
    let steps: Vec<_> = STEPS.into_iter().filter(|&step| bench.wants("attend", &shape(step))).collect();
    if steps.is_empty() {
        return Ok(());
    }
    // As many sequences as no cache holds: a step reads other pages than the one before.
    let sequences = ((64 << 20) / (PLACES * heads.kv_bytes(kv))).clamp(8, 16);
    let mut cpu = Loaded::<Cpu>::new(bench.options.threads, heads, kv, sequences)?;
    let mut reference = Loaded::<Reference>::new(1, heads, kv, 1)?;
    cpu.fill(heads, sequences);
    reference.fill(heads, 1);
    for step in steps {
        let (_, count, len, start) = step;
        let rows = Rows { count, len, start, page_size: PAGE, first_page: 0, want: Want::Nothing };
        let mut out = cpu.device.tensor(heads.heads * heads.head_dim)?;
        cpu.begin(&rows);
        cpu.device.attend(&cpu.qkv, &heads.attend(), &mut out);
        let mut picked = vec![0, len / 2, len - 1];
        picked.dedup();
        let mut wanted = Vec::new();
        for &token in &picked {
            wanted.push(expected(&mut reference, heads, start, token)?);
        }
        let max_error = Some(error(picked.iter().zip(&wanted).map(|(&token, row)| (Cpu::row(&out, token), &row[..]))));
        let places = sequences * (PLACES / PAGE) / rows.pages();
        let once = &mut |i: usize| {
            let rows = Rows { first_page: i % places.max(1) * rows.pages(), ..rows };
            rows.begin(&mut cpu.device);
            timed(|| cpu.device.attend(&cpu.qkv, &heads.attend(), &mut out))
        };
        bench.measure(Case { name: "attend", shape: shape(step), work: attending(heads, kv, &rows), max_error, once });
    }
    Ok(())
}

/// Each row reads its keys and values once; each query multiplies with all that it sees, twice.
fn attending(heads: Heads, kv: KvFormat, rows: &Rows) -> Work {
    let Rows { count, len, start, .. } = *rows;
    let seen: usize = (0..len).map(|i| start + i + 1).sum();
    let width = heads.heads * heads.head_dim;
    Work {
        bytes: (count * ((start + len) * heads.kv_bytes(kv) + 2 * len * width * F32_BYTES)) as f64,
        operations: (count * seen * width * 4) as f64,
        arithmetic: Arithmetic::F32,
    }
}

fn rope_store(bench: &mut Bench<'_>, heads: Heads, kv: KvFormat) -> Result<(), DeviceError> {
    for (count, len) in [(1, 1), (32, 1), (1, 128)] {
        let shape = format!("{count} x {len}, {}", heads.words(kv));
        if !bench.wants("rope_store_kv", &shape) {
            continue;
        }
        let mut cpu = Loaded::<Cpu>::new(bench.options.threads, heads, kv, 1)?;
        let mut reference = Loaded::<Reference>::new(1, heads, kv, 1)?;
        let rows = Rows { count, len, start: 0, page_size: PAGE, first_page: 0, want: Want::Nothing };
        cpu.begin(&rows);
        reference.begin(&rows);
        cpu.device.rope_store_kv(&mut cpu.qkv, &heads.rope(&cpu.inv_freq));
        reference.device.rope_store_kv(&mut reference.qkv, &heads.rope(&reference.inv_freq));
        let tokens = count * len;
        let max_error = Some(error((0..tokens).map(|t| (Cpu::row(&cpu.qkv, t), Reference::row(&reference.qkv, t)))));
        let bytes = tokens * (2 * heads.qkv_width() * F32_BYTES + heads.kv_bytes(kv));
        let work = Work { bytes: bytes as f64, operations: 0.0, arithmetic: Arithmetic::F32 };
        let once = &mut |_| timed(|| cpu.device.rope_store_kv(&mut cpu.qkv, &heads.rope(&cpu.inv_freq)));
        bench.measure(Case { name: "rope_store_kv", shape, work, max_error, once });
    }
    Ok(())
}
