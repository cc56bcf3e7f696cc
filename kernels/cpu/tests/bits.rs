//! The rule that binds all devices: a row's values are the same bits alone or in a batch, however chunked, paged or threaded.
use super::*;

const VOCABULARY: usize = 61;
const LAYERS: usize = 2;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const DIM: usize = 16;
const WIDTH: usize = 64;
const INNER: usize = 96;
/// Of the mixture after the layers' MLPs; more experts than some steps have tokens.
const MOE: MoeShape = MoeShape { experts: 7, per_token: 3, width: WIDTH, inner: 32 };

/// A tiny decoder's weights, as a checkpoint has them.
struct Model {
    window: Option<usize>,
    table: Stored,
    layers: Vec<[Vec<Stored>; 4]>,
    router: Stored,
    gate_up: Vec<Vec<Stored>>,
    down: Vec<Vec<Stored>>,
    norm: Vec<f32>,
}

impl Model {
    fn random(seed: u64, window: Option<usize>) -> Self {
        let random = &mut random(seed);
        let mut stored = |dtype, rows, columns| Stored::random(random, dtype, &[rows, columns]);
        let layers = (0..LAYERS)
            .map(|_| {
                [
                    vec![
                        stored(DType::Q4_1, HEADS * DIM, WIDTH),
                        stored(DType::Q8_0, KV_HEADS * DIM, WIDTH),
                        stored(DType::F16, KV_HEADS * DIM, WIDTH),
                    ],
                    vec![stored(DType::Q5_1, WIDTH, HEADS * DIM)],
                    vec![stored(DType::Q4_0, INNER, WIDTH), stored(DType::BF16, INNER, WIDTH)],
                    vec![stored(DType::F32, WIDTH, INNER)],
                ]
            })
            .collect();
        let table = stored(DType::Q8_0, VOCABULARY, WIDTH);
        let router = stored(DType::F32, MOE.experts, WIDTH);
        let gate_up = (0..MOE.experts)
            .map(|_| vec![stored(DType::Q4_0, MOE.inner, WIDTH), stored(DType::Q8_0, MOE.inner, WIDTH)])
            .collect();
        let down = (0..MOE.experts).map(|_| vec![stored(DType::Q8_0, WIDTH, MOE.inner)]).collect();
        Self { window, table, layers, router, gate_up, down, norm: floats(random, WIDTH) }
    }
}

/// The model on a device.
struct Loaded<D: Device> {
    device: D,
    window: Option<usize>,
    table: D::Weight,
    layers: Vec<[D::Weight; 4]>,
    router: D::Weight,
    experts: [D::Experts; 2],
    mixing: D::MoeScratch,
    norm: D::Vector,
    inv_freq: D::Vector,
    x: D::Tensor,
    qkv: D::Tensor,
    heads: D::Tensor,
    gate_up: D::Tensor,
    inner: D::Tensor,
}

const LIMITS: Limits = Limits { tokens: 400, slots: 5, context: 512 };

impl<D: Device> Loaded<D> {
    fn new(mut device: D, model: &Model, page_size: usize) -> Self {
        let mut load = |stored: &[Stored]| {
            let views: Vec<_> = stored.iter().map(Stored::view).collect();
            device.load(&views, Shard::Whole).unwrap()
        };
        let table = load(std::slice::from_ref(&model.table));
        let layers = model.layers.iter().map(|layer| layer.each_ref().map(|stored| load(stored))).collect();
        let router = load(std::slice::from_ref(&model.router));
        let experts = [&model.gate_up, &model.down].map(|experts| {
            let views: Vec<Vec<_>> = experts.iter().map(|e| e.iter().map(Stored::view).collect()).collect();
            device.load_experts(&views, Shard::Whole).unwrap()
        });
        let norm = device.vector(&model.norm).unwrap();
        let frequencies: Vec<f32> = (0..DIM / 2).map(|i| 1000f32.powf(-(i as f32) / (DIM / 2) as f32)).collect();
        let inv_freq = device.vector(&frequencies).unwrap();
        device.reserve(LIMITS, VOCABULARY).unwrap();
        let pages = 1200 / page_size + 5;
        device.kv_cache(KvShape { layers: LAYERS, pages, page_size, kv_heads: KV_HEADS, head_dim: DIM }).unwrap();
        let [x, qkv, heads, gate_up, inner] =
            [WIDTH, (HEADS + 2 * KV_HEADS) * DIM, HEADS * DIM, 2 * INNER, INNER].map(|w| device.tensor(w).unwrap());
        let window = model.window;
        let mixing = device.moe_scratch(MOE).unwrap();
        Self { device, window, table, layers, router, experts, mixing, norm, inv_freq, x, qkv, heads, gate_up, inner }
    }

    fn forward(&mut self, rows: &[Row]) {
        begin(&mut self.device, rows);
        let key = StepKey { tokens: rows.iter().map(|row| row.borrow().len()).sum(), rows: rows.len() };
        let Self { device, window, table, layers, norm, inv_freq, x, qkv, heads, gate_up, inner, .. } = self;
        device.step(key, &mut |device| {
            let norm = Norm { weight: &*norm, eps: 1e-5 };
            device.embed(table, x);
            for (layer, [w_qkv, w_out, w_gate_up, w_down]) in layers.iter().enumerate() {
                device.norm_matmul(x, &norm, w_qkv, qkv);
                let rope = RopeStore {
                    layer,
                    heads: HEADS,
                    kv_heads: KV_HEADS,
                    head_dim: DIM,
                    bias: None,
                    q_norm: None,
                    k_norm: None,
                    layout: RopeLayout::Halves,
                    inv_freq: &*inv_freq,
                    rope_scale: 1.0,
                };
                device.rope_store_kv(qkv, &rope);
                let attend =
                    Attend { layer, heads: HEADS, kv_heads: KV_HEADS, head_dim: DIM, scale: 0.5, window: *window };
                device.attend(qkv, &attend, heads);
                device.matmul_reduce_add(heads, w_out, None, x);
                device.norm_matmul(x, &norm, w_gate_up, gate_up);
                device.gated(gate_up, None, Activation::Silu, inner);
                device.matmul_reduce_add(inner, w_down, None, x);
                let [gate_up, down] = &self.experts;
                let (router, norm) = (&self.router, Norm { weight: norm.weight, eps: norm.eps });
                let (per_token, act) = (MOE.per_token, Activation::Silu);
                let op = Moe { norm, router, gate_up, down, per_token, normalise: layer == 0, act };
                device.moe(&op, &mut self.mixing, x);
            }
            device.logits(x, &norm, table);
        });
    }
}

/// How a sequence is brought through a device.
#[derive(Clone, Debug)]
struct Plan {
    threads: usize,
    page_size: usize,
    /// Lengths of the sequence's chunks, one a step.
    chunks: Vec<usize>,
    /// Other sequences in each step: one grows by these many tokens a step.
    others: Vec<usize>,
}

/// All logits of the sequence `tokens` under a plan, as bits.
fn logits(model: &Model, level: Level, keep: Keep, tokens: &[TokenId], plan: &Plan) -> Vec<u32> {
    let cpu = if keep == Keep::Stored { fast(plan.threads, level) } else { cpu(plan.threads, DType::F32, level) };
    let mut loaded = Loaded::new(cpu, model, plan.page_size);
    let random = &mut random(plan.page_size as u64 + 31 * plan.others.len() as u64);
    let steps = plan.chunks.len();
    let mut lens = vec![tokens.len()];
    lens.extend(plan.others.iter().map(|n| n * steps));
    let tables = page_tables(random, &lens, plan.page_size, 1200 / plan.page_size + 5);
    let mut bits = Vec::new();
    let mut start = 0;
    for (step, &len) in plan.chunks.iter().enumerate() {
        let mut rows = vec![Row {
            slot: 3,
            start,
            tokens: Some(tokens[start..start + len].to_vec()),
            pages: tables[0].clone(),
            want: Want::Scores,
        }];
        for (i, &n) in plan.others.iter().enumerate() {
            let tokens = (0..n).map(|_| random.random_range(0..VOCABULARY as u32)).collect();
            let (slot, pages) = (i as u32 % 3, tables[i + 1].clone());
            rows.push(Row { slot, start: step * n, tokens: Some(tokens), pages, want: Want::Sample });
        }
        let at = step % rows.len();
        rows.rotate_left(at);
        loaded.forward(&rows);
        let row = rows.iter().position(|row| row.slot == 3).unwrap();
        bits.extend(loaded.device.scores(row).iter().map(|x| x.to_bits()));
        start += len;
    }
    assert_eq!(bits.len(), tokens.len() * VOCABULARY);
    bits
}

#[test]
fn alone_or_in_a_batch_chunked_paged_and_threaded() {
    let random = &mut random(77);
    let tokens: Vec<TokenId> = (0..150).map(|_| random.random_range(0..VOCABULARY as u32)).collect();
    let plan = |threads, page_size, chunks: &[usize], others: &[usize]| Plan {
        threads,
        page_size,
        chunks: chunks.to_vec(),
        others: others.to_vec(),
    };
    let ones = [&[100][..], &[1; 50]].concat();
    let plans = [
        plan(2, 1, &[150], &[]),
        plan(3, 16, &[64, 64, 22], &[]),
        plan(1, 64, &[1, 2, 3, 50, 94], &[1, 7]),
        plan(2, 5, &[63, 2, 85], &[20, 1, 1]),
        plan(2, 16, &ones, &[2, 1]),
    ];
    for window in [None, Some(70)] {
        let model = Model::random(5, window);
        let keeps = [Keep::Exact, Keep::Stored];
        for (level, keep) in Level::all().into_iter().flat_map(|level| keeps.map(|keep| (level, keep))) {
            let alone = logits(&model, level, keep, &tokens, &plan(1, 16, &[150], &[]));
            assert!(alone.iter().all(|&bits| f32::from_bits(bits).is_finite()));
            for plan in &plans {
                let got = logits(&model, level, keep, &tokens, plan);
                if let Some(at) = got.iter().zip(&alone).position(|(a, b)| a != b) {
                    panic!("{plan:?}, window {window:?}, {keep:?}, {level:?}: differs at position {}", at / VOCABULARY);
                }
            }
        }
    }
}

#[test]
fn the_whole_model_is_the_references() {
    let random = &mut random(3);
    for window in [None, Some(40)] {
        let model = Model::random(9, window);
        for dtype in [DType::F32, DType::BF16] {
            let tokens: Vec<TokenId> = (0..90).map(|_| random.random_range(0..VOCABULARY as u32)).collect();
            let row = |start: usize, end: usize| Row {
                slot: 0,
                start,
                tokens: Some(tokens[start..end].to_vec()),
                pages: (0..12).map(PageId).collect(),
                want: Want::Scores,
            };
            let mut reference = Loaded::new(Reference::new(kv_format(dtype)), &model, 8);
            let mut cpu = Loaded::new(cpu(2, dtype, Level::detect()), &model, 8);
            for (start, end) in [(0, 50), (50, 90)] {
                reference.forward(&[row(start, end)]);
                cpu.forward(&[row(start, end)]);
                let (got, expected) = (cpu.device.scores(0), reference.device.scores(0));
                assert_close(
                    &got,
                    &expected,
                    2.0 * tolerance(kv_format(dtype)),
                    &format!("logits from {start} in {dtype}"),
                );
            }
        }
    }
}

#[test]
fn the_last_sampled_token_needs_no_host() {
    let model = Model::random(21, None);
    let sampling = sampling::Sampling { temperature: 0.9, top_k: 20, top_p: 0.9, min_p: 0.0, seed: 4 };
    let pages: Vec<PageId> = (0..4).map(PageId).collect();
    let generate = |from_host: bool| {
        let mut loaded = Loaded::new(cpu(2, DType::F32, Level::detect()), &model, 16);
        let mut row = Row { slot: 2, start: 0, tokens: Some(vec![5, 9, 30]), pages: pages.clone(), want: Want::Sample };
        let mut tokens = Vec::new();
        for _ in 0..30 {
            loaded.forward(std::slice::from_ref(&row));
            let position = row.start + row.borrow().len();
            let sampled = loaded.device.sample(&[SampleRow { slot: Slot(2), sampling: &sampling, position }]);
            let token = *sampled[0].as_ref().unwrap();
            tokens.push(token);
            row.start = position;
            row.tokens = from_host.then(|| vec![token]);
        }
        tokens
    };
    let tokens = generate(false);
    assert_eq!(tokens, generate(true));
    assert!(tokens.iter().any(|&token| token != tokens[0]), "a constant would prove little: {tokens:?}");
}
