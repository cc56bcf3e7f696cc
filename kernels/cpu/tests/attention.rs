//! Attention at lengths of several blocks: every format of K and V, every set of instructions, in f32 and in pairs of bf16,
//! against the reference; and that a query has one set of bits.
use super::*;

const FORMATS: [KvFormat; 4] = [KvFormat::F32, KvFormat::F16, KvFormat::BF16, KvFormat::Int8];

/// A way to attend, and a device's options.
#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    format: KvFormat,
    page_size: usize,
    threads: usize,
    in_bf16: bool,
}

impl Case {
    fn random(random: &mut SmallRng) -> Self {
        let kv_heads = random.random_range(1..4);
        Self {
            heads: kv_heads * random.random_range(1..9usize),
            kv_heads,
            head_dim: [8, 18, 24, 40, 64, 72, 80, 104, 128, 256][random.random_range(0..10usize)],
            window: [None, None, Some(1), Some(77), Some(128), Some(300)][random.random_range(0..6usize)],
            format: FORMATS[random.random_range(0..4usize)],
            page_size: [1, 3, 16, 100, 256, 1024][random.random_range(0..6usize)],
            threads: random.random_range(1..4),
            in_bf16: false,
        }
    }

    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Rows of q, k and v of a sequence.
    fn sequence(&self, random: &mut SmallRng, len: usize) -> Vec<Vec<f32>> {
        (0..len).map(|_| floats(random, self.width())).collect()
    }

    fn cpu(&self, level: Level) -> Cpu {
        let options = CpuOptions { threads: self.threads, keep: Keep::Exact, kv_format: self.format };
        let mut cpu = Cpu::with_level(options, level).unwrap();
        cpu.attend_in_bf16 = self.in_bf16;
        cpu
    }
}

/// Sequences through a device, some tokens of some of them a step: what each token's queries gather.
fn attend<D: Probe>(
    mut device: D,
    case: &Case,
    sequences: &[Vec<Vec<f32>>],
    steps: &[Vec<(usize, usize)>],
) -> Vec<Vec<Vec<f32>>> {
    let lens: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let pages = lens.iter().map(|len| len.div_ceil(case.page_size)).sum::<usize>() + 3;
    let tables = page_tables(&mut random(lens[0] as u64), &lens, case.page_size, pages);
    let tokens = steps.iter().map(|step| step.iter().map(|(_, len)| len).sum()).max().unwrap();
    device.reserve(Limits { tokens, slots: sequences.len(), context: 2048 }, 4).unwrap();
    let Case { heads, kv_heads, head_dim, window, page_size, .. } = *case;
    device.kv_cache(KvShape { layers: 2, pages, page_size, kv_heads, head_dim }).unwrap();
    let (mut qkv, mut out) = (device.tensor(case.width()).unwrap(), device.tensor(heads * head_dim).unwrap());
    let inv_freq = device.vector(&[]).unwrap();
    let mut outputs = vec![Vec::new(); sequences.len()];
    for step in steps {
        let row = |&(s, len): &(usize, usize)| Row {
            slot: s as u32,
            start: outputs[s].len(),
            tokens: Some(vec![0; len]),
            pages: tables[s].clone(),
            want: Want::Nothing,
        };
        let rows: Vec<Row> = step.iter().map(row).collect();
        begin(&mut device, &rows);
        let places = || rows.iter().flat_map(|row| (0..row.borrow().len()).map(|i| (row.slot as usize, row.start + i)));
        for (t, (s, position)) in places().enumerate() {
            D::set(&mut qkv, t, &sequences[s][position]);
        }
        let layout = RopeLayout::Halves;
        let (bias, q_norm, k_norm, inv_freq, rope_scale) = (None, None, None, &inv_freq, 1.0);
        let rope =
            RopeStore { layer: 1, heads, kv_heads, head_dim, bias, q_norm, k_norm, layout, inv_freq, rope_scale };
        device.rope_store_kv(&mut qkv, &rope);
        device.attend(&qkv, &Attend { layer: 1, heads, kv_heads, head_dim, scale: 0.4, window }, &mut out);
        for (t, (s, _)) in places().enumerate() {
            outputs[s].push(D::get(&out, t));
        }
        // What a device does between steps comes to an end, and shows in no output.
        assert!((0..100).any(|_| !device.idle()), "{case:?} has always more to do");
    }
    outputs
}

#[test]
fn long_contexts_are_the_references() {
    for case in 0..16 {
        let random = &mut random(900 + case);
        let case = Case::random(random);
        let sequences = [case.sequence(random, 301), case.sequence(random, 162)];
        let steps = [vec![(0, 1), (1, 140)], vec![(0, 259), (1, 1)], vec![(1, 21), (0, 40)], vec![(0, 1)]];
        let expected = attend(Reference::new(case.format), &case, &sequences, &steps);
        for level in levels() {
            for in_bf16 in [false, true] {
                let case = Case { in_bf16, ..case };
                let got = attend(case.cpu(level), &case, &sequences, &steps);
                // Stored bytes are the same: only the order of sums differs, and in pairs the rounding of q and weights.
                let in_pairs = in_bf16 && matches!(case.format, KvFormat::BF16 | KvFormat::Int8);
                let tolerance = if in_pairs { 2e-2 } else { 2e-5 };
                for (s, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    for (position, (got, expected)) in got.iter().zip(expected).enumerate() {
                        let what = format!("{case:?} by {}, position {position} of {s}", level.name());
                        assert_close(got, expected, tolerance, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn a_query_has_one_set_of_bits() {
    const LEN: usize = 400;
    let bits = |outputs: &[Vec<f32>]| -> Vec<u32> { outputs.iter().flatten().map(|x| x.to_bits()).collect() };
    // The sequence in chunks, and beside it another that grows by so many tokens a step.
    let plans: [(&[usize], usize); 4] = [(&[400], 0), (&[127, 2, 128, 143], 5), (&[1, 300, 99], 40), (&[370], 1)];
    // Heads that are whole vectors, and others: what is multiplied where it lies, and what is packed.
    let heads = [(6, 2, 40), (3, 1, 64), (4, 4, 18), (16, 2, 24), (6, 2, 32), (4, 2, 48)];
    let formats = FORMATS.into_iter().chain([KvFormat::BF16, KvFormat::F32]);
    for (i, (format, (heads, kv_heads, head_dim))) in formats.zip(heads).enumerate() {
        for (level, in_bf16) in levels().into_iter().flat_map(|level| [(level, false), (level, true)]) {
            let random = &mut random(40 + i as u64);
            let window = [None, Some(200)][i % 2];
            let case = Case { heads, kv_heads, head_dim, window, format, page_size: 1, threads: 1, in_bf16 };
            let sequences = [case.sequence(random, LEN), case.sequence(random, 200)];
            let whole = attend(case.cpu(level), &case, &sequences, &[vec![(0, LEN)]]);
            for (plan, (chunks, other)) in plans.iter().enumerate() {
                let mut steps: Vec<Vec<(usize, usize)>> = chunks.iter().map(|len| vec![(0, *len)]).collect();
                // The rest one by one: decode.
                let rest = LEN - chunks.iter().sum::<usize>();
                steps.extend((0..rest).map(|_| vec![(0, 1)]));
                if *other > 0 {
                    steps.iter_mut().for_each(|step| step.insert(0, (1, *other)));
                }
                let case = Case { page_size: [16, 1, 5, 256][plan], threads: [2, 3, 1, 2][plan], ..case };
                let got = attend(case.cpu(level), &case, &sequences, &steps);
                let same = bits(&got[0]).iter().zip(bits(&whole[0])).position(|(a, b)| *a != b);
                let position = same.map(|at| at / (heads * head_dim));
                assert_eq!(position, None, "{case:?} by {}, {chunks:?} beside {other}", level.name());
            }
        }
    }
}

#[test]
fn bytes_lose_little() {
    let random = &mut random(6);
    let case = Case {
        heads: 6,
        kv_heads: 2,
        head_dim: 64,
        window: None,
        format: KvFormat::Int8,
        page_size: 16,
        threads: 2,
        in_bf16: false,
    };
    let sequences = [case.sequence(random, 300)];
    let steps = [vec![(0, 300)]];
    let exact = attend(Reference::new(KvFormat::F32), &case, &sequences, &steps);
    for (level, in_bf16) in levels().into_iter().flat_map(|level| [(level, false), (level, true)]) {
        let case = Case { in_bf16, ..case };
        let got = attend(case.cpu(level), &case, &sequences, &steps);
        for (position, (got, exact)) in got[0].iter().zip(&exact[0]).enumerate() {
            // Values are within one: a step is 1/127 of the largest, and half of it is lost; scores lose as much again.
            let error = got.iter().zip(exact).fold(0.0f32, |error, (a, b)| error.max((a - b).abs()));
            assert!(error < 0.015, "position {position} by {}, bf16 {in_bf16}: {error}", level.name());
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_sequence() {
    let cases = FORMATS.into_iter().flat_map(|format| [(format, 4, false), (format, 4, true), (format, 16, true)]);
    for (format, page_size, in_bf16) in cases {
        let random = &mut random(2);
        let (heads, kv_heads, head_dim) = (2, 1, 16);
        let case = Case { heads, kv_heads, head_dim, window: None, format, page_size, threads: 2, in_bf16 };
        let mut sequences = [case.sequence(random, 200), case.sequence(random, 150)];
        let steps = [vec![(0, 150), (1, 100)], vec![(1, 50), (0, 50)]];
        for level in levels() {
            let clean = attend(case.cpu(level), &case, &sequences, &steps);
            // A key of the first sequence: all queries from there on see it.
            let whole = std::mem::replace(&mut sequences[0][160][40], f32::NAN);
            let got = attend(case.cpu(level), &case, &sequences, &steps);
            sequences[0][160][40] = whole;
            assert_eq!(got[1], clean[1], "{case:?} by {}", level.name());
            assert_eq!(got[0][..150], clean[0][..150], "{case:?} by {}", level.name());
            let numbers = got[0][160..].iter().flatten().filter(|x| !x.is_nan()).count();
            assert_eq!(numbers, 0, "{case:?} by {}", level.name());
        }
    }
}
