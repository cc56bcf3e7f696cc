//! Each operation against the reference: random shapes with odd sizes and tails, all formats, pages and windows.
use super::*;

/// Both devices, told the same.
pub(super) struct Pair {
    pub(super) cpu: Cpu,
    pub(super) reference: Reference,
    pub(super) tokens: usize,
    pub(super) what: String,
}

impl Pair {
    pub(super) fn new(cpu: Cpu, limits: Limits, vocabulary: usize, shape: KvShape, what: String) -> Self {
        let mut pair = Self { reference: Reference::new(cpu.kv_format), cpu, tokens: 0, what };
        pair.cpu.reserve(limits, vocabulary).unwrap();
        pair.reference.reserve(limits, vocabulary).unwrap();
        pair.cpu.kv_cache(shape).unwrap();
        pair.reference.kv_cache(shape).unwrap();
        pair
    }

    pub(super) fn begin(&mut self, rows: &[Row]) {
        begin(&mut self.cpu, rows);
        begin(&mut self.reference, rows);
        self.tokens = rows.iter().map(|row| row.borrow().len()).sum();
    }

    pub(super) fn tensors(&mut self, width: usize) -> (Tensor, reference::Tensor) {
        (self.cpu.tensor(width).unwrap(), self.reference.tensor(width).unwrap())
    }

    pub(super) fn filled(&mut self, random: &mut SmallRng, width: usize) -> (Tensor, reference::Tensor) {
        let (mut a, mut b) = self.tensors(width);
        for t in 0..self.tokens {
            let values = floats(random, width);
            Cpu::set(&mut a, t, &values);
            Reference::set(&mut b, t, &values);
        }
        (a, b)
    }

    /// Blocks of eight bits are within 1/254 of their largest value: over some ten independent columns and up.
    fn tolerance(&self) -> f32 {
        match self.cpu.keep {
            Keep::Stored | Keep::Quantised(_) => 5e-2,
            Keep::Exact => tolerance(self.cpu.kv_format),
        }
    }

    pub(super) fn compare(&self, a: &Tensor, b: &reference::Tensor, op: &str) {
        for t in 0..self.tokens {
            let what = format!("{op} of {} at token {t}", self.what);
            assert_close(&Cpu::get(a, t), &Reference::get(b, t), self.tolerance(), &what);
        }
    }

    pub(super) fn weights(&mut self, stored: &[Stored]) -> (Weight, reference::Matrix) {
        let views: Vec<_> = stored.iter().map(Stored::view).collect();
        (self.cpu.load(&views, Shard::Whole).unwrap(), self.reference.load(&views, Shard::Whole).unwrap())
    }
}

/// One row a token, all of position 0.
pub(super) fn single_rows(random: &mut SmallRng, count: usize, vocabulary: usize) -> Vec<Row> {
    (0..count)
        .map(|i| Row {
            slot: i as u32,
            start: 0,
            tokens: Some(vec![random.random_range(0..vocabulary as u32)]),
            pages: vec![PageId(i as u32)],
            want: Want::Sample,
        })
        .collect()
}

pub(super) const FLAT: KvShape = KvShape { layers: 1, pages: 40, page_size: 1, kv_heads: 1, head_dim: 8 };

const KEEPS: [Keep; 2] = [Keep::Exact, Keep::Stored];

#[test]
fn matrices_of_every_format_and_shape() {
    for (case, level) in (0..4).flat_map(|case| levels().into_iter().map(move |level| (case, level))) {
        for (dtype, keep) in DType::ALL.into_iter().flat_map(|dtype| KEEPS.map(|keep| (dtype, keep))) {
            let random = &mut random(case);
            let columns = match dtype.block_len() {
                1 => [1, 7, 130, 65][case as usize],
                len => len * random.random_range(1..4usize),
            };
            let rows = [5, 24, 97, 251][case as usize];
            let tokens = [1, 3, 18, 39][case as usize];
            let threads = 1 + case as usize % 2;
            let exact = cpu(threads, DType::F32, level);
            let cpu = if keep == Keep::Stored { fast(threads, level) } else { exact };
            let limits = Limits { tokens, slots: tokens, context: 8 };
            let what = format!("{dtype} {rows}x{columns} by {tokens}, {keep:?}, {}", level.name());
            let mut pair = Pair::new(cpu, limits, rows, FLAT, what);
            pair.begin(&single_rows(random, tokens, rows));
            let weight = Stored::random(random, dtype, &[rows, columns]);
            // The second part has another format, as GGUF mixes them.
            let other = if columns % 32 == 0 { DType::Q8_0 } else { DType::F16 };
            let stacked = [weight, Stored::random(random, other, &[3, columns])];
            let (w, w_ref) = pair.weights(&stacked);
            let (bias, norm) = (floats(random, rows + 3), floats(random, columns));

            let (x, x_ref) = pair.filled(random, columns);
            let (mut y, mut y_ref) = pair.tensors(rows + 3);
            pair.cpu.norm_matmul(&x, &Norm { weight: &Vector(norm.clone().into()), eps: 1e-5 }, &w, &mut y);
            pair.reference.norm_matmul(&x_ref, &Norm { weight: &norm, eps: 1e-5 }, &w_ref, &mut y_ref);
            pair.compare(&y, &y_ref, "norm_matmul");

            let (mut y, mut y_ref) = pair.filled(random, rows + 3);
            pair.cpu.matmul_reduce_add(&x, &w, Some(&Vector(bias.clone().into())), &mut y);
            pair.reference.matmul_reduce_add(&x_ref, &w_ref, Some(&bias), &mut y_ref);
            pair.cpu.matmul_reduce_add(&x, &w, None, &mut y);
            pair.reference.matmul_reduce_add(&x_ref, &w_ref, None, &mut y_ref);
            pair.compare(&y, &y_ref, "matmul_reduce_add");

            let (table, table_ref) = pair.weights(&stacked[..1]);
            let (mut out, mut out_ref) = pair.tensors(columns);
            pair.cpu.embed(&table, &mut out);
            pair.reference.embed(&table_ref, &mut out_ref);
            pair.compare(&out, &out_ref, "embed");

            pair.cpu.logits(&x, &Norm { weight: &Vector(norm.clone().into()), eps: 1e-5 }, &table);
            pair.reference.logits(&x_ref, &Norm { weight: &norm, eps: 1e-5 }, &table_ref);
            for row in 0..tokens {
                let (got, expected) = (pair.cpu.scores(row), pair.reference.scores(row));
                assert_close(&got, &expected, pair.tolerance(), &format!("logits of {} at row {row}", pair.what));
            }
        }
    }
}

#[test]
fn gates_with_and_without_bias() {
    for (case, level) in (0..6).flat_map(|case| levels().into_iter().map(move |level| (case, level))) {
        for act in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let random = &mut random(case);
            let (tokens, width) = ([1, 2, 9, 30, 5, 4][case as usize], [1, 8, 13, 100, 64, 31][case as usize]);
            let cpu = cpu(2, [DType::F32, DType::BF16, DType::F16][case as usize % 3], level);
            let limits = Limits { tokens, slots: tokens, context: 8 };
            let mut pair = Pair::new(cpu, limits, 4, FLAT, format!("{act:?} of {tokens} by {width}"));
            pair.begin(&single_rows(random, tokens, 4));
            let (x, x_ref) = pair.filled(random, 2 * width);
            let bias = floats(random, 2 * width);
            let (mut y, mut y_ref) = pair.tensors(width);
            pair.cpu.gated(&x, None, act, &mut y);
            pair.reference.gated(&x_ref, None, act, &mut y_ref);
            pair.compare(&y, &y_ref, "gated");
            pair.cpu.gated(&x, Some(&Vector(bias.clone().into())), act, &mut y);
            pair.reference.gated(&x_ref, Some(&bias), act, &mut y_ref);
            pair.compare(&y, &y_ref, "gated with bias");
        }
    }
}

/// A way to turn and attend.
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rotary: usize,
    layout: RopeLayout,
    norms: bool,
    bias: bool,
    window: Option<usize>,
    page_size: usize,
    compute: DType,
}

fn heads(random: &mut SmallRng) -> Heads {
    let kv_heads = random.random_range(1..4);
    let head_dim = [8, 18, 64, 80, 128][random.random_range(0..5usize)];
    Heads {
        heads: kv_heads * random.random_range(1..4usize),
        kv_heads,
        head_dim,
        rotary: if random.random() { head_dim } else { head_dim / 2 },
        layout: if random.random() { RopeLayout::Halves } else { RopeLayout::Pairs },
        norms: random.random(),
        bias: random.random(),
        window: [None, None, Some(1), Some(17), Some(64), Some(100)][random.random_range(0..6usize)],
        page_size: [1, 3, 16, 64, 100][random.random_range(0..5usize)],
        compute: [DType::F32, DType::F32, DType::F16, DType::BF16][random.random_range(0..4usize)],
    }
}

#[test]
fn rotation_pages_and_attention() {
    for (case, level) in (0..24).flat_map(|case| levels().into_iter().map(move |level| (case, level))) {
        let random = &mut random(case);
        let h = heads(random);
        // Three sequences, grown over three steps: chunks long and short, and single tokens.
        let steps = [[70, 1, 5], [1, 90, 2], [33, 1, 70]];
        let lens: Vec<usize> = (0..3).map(|s| steps.iter().map(|step| step[s]).sum()).collect();
        let pages = 400;
        let shape = KvShape { layers: 2, pages, page_size: h.page_size, kv_heads: h.kv_heads, head_dim: h.head_dim };
        let tables = page_tables(random, &lens, h.page_size, pages);
        let limits = Limits { tokens: 128, slots: 3, context: 256 };
        let what = format!(
            "{}/{} heads of {}, pages of {}, window {:?}, {}",
            h.heads, h.kv_heads, h.head_dim, h.page_size, h.window, h.compute
        );
        let mut pair = Pair::new(cpu(2, h.compute, level), limits, 4, shape, what);
        let width = (h.heads + 2 * h.kv_heads) * h.head_dim;
        let inv_freq: Vec<f32> = (0..h.rotary / 2).map(|i| 1000f32.powf(-2.0 * i as f32 / h.rotary as f32)).collect();
        let (bias, q_norm, k_norm) = (floats(random, width), floats(random, h.head_dim), floats(random, h.head_dim));
        let mut start = [0; 3];
        for (turn, lens) in steps.iter().enumerate() {
            let mut rows: Vec<Row> = (0..3)
                .map(|s| Row {
                    slot: s as u32,
                    start: start[s],
                    tokens: Some(vec![0; lens[s]]),
                    pages: tables[s].clone(),
                    want: Want::Nothing,
                })
                .collect();
            rows.rotate_left(turn);
            (0..3).for_each(|s| start[s] += lens[s]);
            pair.begin(&rows);
            for layer in 0..2 {
                let (mut qkv, mut qkv_ref) = pair.filled(random, width);
                pair.cpu.rope_store_kv(
                    &mut qkv,
                    &rope_op(
                        &h,
                        layer,
                        &Vector(inv_freq.clone().into()),
                        &Vector(bias.clone().into()),
                        [&Vector(q_norm.clone().into()), &Vector(k_norm.clone().into())],
                    ),
                );
                pair.reference.rope_store_kv(&mut qkv_ref, &rope_op(&h, layer, &inv_freq, &bias, [&q_norm, &k_norm]));
                pair.compare(&qkv, &qkv_ref, "rope_store_kv");
                let op = Attend {
                    layer,
                    heads: h.heads,
                    kv_heads: h.kv_heads,
                    head_dim: h.head_dim,
                    scale: 0.3,
                    window: h.window,
                };
                let (mut out, mut out_ref) = pair.tensors(h.heads * h.head_dim);
                pair.cpu.attend(&qkv, &op, &mut out);
                pair.reference.attend(&qkv_ref, &op, &mut out_ref);
                pair.compare(&out, &out_ref, "attend");
            }
        }
    }
}

fn rope_op<'a, V>(h: &Heads, layer: usize, inv_freq: &'a V, bias: &'a V, norms: [&'a V; 2]) -> RopeStore<'a, V> {
    let norm = |weight| h.norms.then_some(Norm { weight, eps: 1e-6 });
    RopeStore {
        layer,
        heads: h.heads,
        kv_heads: h.kv_heads,
        head_dim: h.head_dim,
        bias: h.bias.then_some(bias),
        q_norm: norm(norms[0]),
        k_norm: norm(norms[1]),
        layout: h.layout,
        inv_freq,
        rope_scale: 1.1,
    }
}

#[test]
fn a_nan_fails_its_row_alone() {
    let random = &mut random(8);
    let limits = Limits { tokens: 4, slots: 4, context: 8 };
    let mut pair = Pair::new(cpu(2, DType::F32, Level::detect()), limits, 50, FLAT, "NaN".into());
    let mut rows = single_rows(random, 4, 50);
    rows[1].want = Want::Nothing;
    pair.begin(&rows);
    let (head, head_ref) = pair.weights(&[Stored::random(random, DType::Q4_1, &[50, 64])]);
    let (mut x, mut x_ref) = pair.filled(random, 64);
    Cpu::set(&mut x, 2, &[f32::NAN; 64]);
    Reference::set(&mut x_ref, 2, &[f32::NAN; 64]);
    let ones = vec![1.0; 64];
    pair.cpu.logits(&x, &Norm { weight: &Vector(ones.clone().into()), eps: 1e-5 }, &head);
    pair.reference.logits(&x_ref, &Norm { weight: &ones, eps: 1e-5 }, &head_ref);
    let sampling = sampling::Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
    let rows: Vec<SampleRow<'_>> =
        [0, 2, 3].map(|slot| SampleRow { slot: Slot(slot), sampling: &sampling, position: 1 }).into();
    let (got, expected) = (pair.cpu.sample(&rows), pair.reference.sample(&rows));
    assert_eq!(got, expected);
    assert_eq!(got[1], Err(RowError::NotANumber));
    assert!(got[0].is_ok() && got[2].is_ok());
}

#[test]
fn every_instruction_set_chooses_the_same_token() {
    let random = &mut random(31);
    for case in 0..60 {
        let len = random.random_range(1..3000);
        let logits: Vec<f32> = (0..len).map(|_| random.random_range(-9.0..9.0)).collect();
        let sampling = sampling::Sampling {
            temperature: [0.0, 0.3, 1.0, 2.5][case % 4],
            top_k: [0, 1, 7, 50, 4000][random.random_range(0..5usize)],
            top_p: [1.0, 0.95, 0.2][random.random_range(0..3usize)],
            min_p: [0.0, 0.01][random.random_range(0..2usize)],
            seed: 8,
        };
        for position in 0..20 {
            let row = SampleRow { slot: Slot(0), sampling: &sampling, position };
            let expected = sampling::sample(&logits, &sampling, position);
            for level in Level::all() {
                let token = level.run(Sample { logits: &logits, row: &row });
                assert_eq!(token, expected, "{} of {len}, {sampling:?}", level.name());
            }
        }
    }
}

#[test]
fn what_cannot_be_is_said() {
    let mut cpu = Cpu::new(CpuOptions { threads: 0, keep: Keep::Exact, kv_format: KvFormat::BF16 }).unwrap();
    assert!(cpu.name().starts_with("cpu (") && cpu.name().contains("thread"), "{}", cpu.name());
    let shape = KvShape { layers: 1 << 10, pages: 1 << 40, page_size: 16, kv_heads: 8, head_dim: 128 };
    assert!(matches!(cpu.kv_cache(shape), Err(DeviceError::Memory { .. })));
    let small = KvShape { layers: 3, pages: 5, page_size: 16, kv_heads: 2, head_dim: 8 };
    assert_eq!(cpu.page_bytes(small), 2 * 3 * 16 * 2 * 8 * 2);
    assert!(cpu.available_memory() > 0);
    cpu.reserve(Limits { tokens: usize::MAX, slots: 1, context: 1 }, 10).unwrap();
    assert!(matches!(cpu.tensor(1 << 40), Err(DeviceError::Memory { .. })));
}
