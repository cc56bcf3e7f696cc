//! Several ranks against one: each operation that sums, gathers or broadcasts, on both devices; and one rank's failure.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::ops::FLAT;
use super::*;
use crate::collective::RankLost;

const WIDTH: usize = 64;
const INNER: usize = 96;
const EXPERTS: MoeShape = MoeShape { experts: 5, per_token: 2, width: WIDTH, inner: INNER };
/// A prime: shares differ.
const VOCABULARY: usize = 61;
const LIMITS: Limits = Limits { tokens: 40, slots: 4, context: 40 };
const SAMPLING: sampling::Sampling = sampling::Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 9 };

/// A model without attention, which has nothing between ranks.
struct Model {
    table: Stored,
    norm: Vec<f32>,
    up: Stored,
    down: Stored,
    bias: Stored,
    router: Stored,
    /// gate and up of each expert
    gate_up: Vec<[Stored; 2]>,
    expert_down: Vec<Stored>,
}

impl Model {
    /// In blocks of 32, which ranks cut between.
    fn random(seed: u64) -> Self {
        let random = &mut random(seed);
        let norm = floats(random, WIDTH);
        let mut stored = |dtype, shape: &[usize]| Stored::random(random, dtype, shape);
        Self {
            table: stored(DType::Q8_0, &[VOCABULARY, WIDTH]),
            norm,
            up: stored(DType::Q4_1, &[INNER, WIDTH]),
            down: stored(DType::Q4_1, &[WIDTH, INNER]),
            bias: stored(DType::F32, &[WIDTH]),
            router: stored(DType::F32, &[EXPERTS.experts, WIDTH]),
            gate_up: (0..EXPERTS.experts).map(|_| [0; 2].map(|_| stored(DType::Q5_0, &[INNER, WIDTH]))).collect(),
            expert_down: (0..EXPERTS.experts).map(|_| stored(DType::Q8_0, &[WIDTH, INNER])).collect(),
        }
    }
}

/// What a rank saw of one step.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Each token's residual, at the end.
    residual: Vec<Vec<f32>>,
    sampled: Vec<TokenId>,
    /// Rank 0 alone.
    scores: Vec<f32>,
}

/// Runs three steps of the model on a device, as one rank of several or alone.
fn steps<D: Probe>(mut device: D, ranks: Option<Collective>, model: &Model) -> Vec<Seen> {
    let (rank, of) = ranks.as_ref().map_or((0, 1), |ranks| (ranks.rank(), ranks.ranks()));
    if let Some(ranks) = ranks {
        device.join(ranks);
    }
    let (rows, columns) = (Shard::Rows { rank, of }, Shard::Columns { rank, of });
    let inner = INNER / of;
    let mut load = |stored: &Stored, shard| device.load(&[stored.view()], shard).unwrap();
    let (table, up, down) = (load(&model.table, rows), load(&model.up, rows), load(&model.down, columns));
    let router = load(&model.router, Shard::Whole);
    let gate_up: Vec<Vec<_>> = model.gate_up.iter().map(|two| two.iter().map(Stored::view).collect()).collect();
    let expert_down: Vec<Vec<_>> = model.expert_down.iter().map(|one| vec![one.view()]).collect();
    let (gate_up, expert_down) =
        (device.load_experts(&gate_up, rows).unwrap(), device.load_experts(&expert_down, columns).unwrap());
    let bias = device.load_vector(&[model.bias.view()], Shard::Whole).unwrap();
    let weight = device.vector(&model.norm).unwrap();
    device.reserve(LIMITS, VOCABULARY).unwrap();
    device.kv_cache(FLAT).unwrap();
    let (mut x, mut y) = (device.tensor(WIDTH).unwrap(), device.tensor(inner).unwrap());
    let mut scratch = device.moe_scratch(MoeShape { inner, ..EXPERTS }).unwrap();

    let page = |page: u32| vec![PageId(page)];
    let row = |slot, start, tokens, want| Row { slot, start, tokens, pages: page(slot), want };
    let long = Row { pages: (4..40).map(PageId).collect(), ..row(1, 0, Some((3..37).collect()), Want::Scores) };
    let batches = [
        vec![row(0, 0, Some(vec![60]), Want::Sample), long, row(2, 0, Some(vec![0]), Want::Sample)],
        // What ranks sampled is fed on each.
        vec![row(2, 0, None, Want::Sample), row(0, 0, None, Want::Sample)],
        vec![row(2, 0, None, Want::Nothing)],
    ];
    let mut seen = Vec::new();
    for rows in &batches {
        begin(&mut device, rows);
        let tokens = rows.iter().map(|row| row.borrow().len()).sum();
        device.step(StepKey { tokens, rows: rows.len() }, &mut |device| {
            let norm = || Norm { weight: &weight, eps: 1e-5 };
            device.embed(&table, &mut x);
            device.norm_matmul(&x, &norm(), &up, &mut y);
            device.matmul_reduce_add(&y, &down, Some(&bias), &mut x);
            let op = Moe {
                norm: norm(),
                router: &router,
                gate_up: &gate_up,
                down: &expert_down,
                per_token: EXPERTS.per_token,
                normalise: true,
                act: Activation::Silu,
            };
            device.moe(&op, &mut scratch, &mut x);
            device.logits(&x, &norm(), &table);
        });
        let wanting = rows.iter().filter(|row| row.want != Want::Nothing);
        let wanting: Vec<_> = wanting
            .map(|row| SampleRow { slot: Slot(row.slot), sampling: &SAMPLING, position: row.start + 1 })
            .collect();
        let sampled = device.sample(&wanting).into_iter().map(Result::unwrap).collect();
        let scored = rows.iter().position(|row| row.want == Want::Scores).filter(|_| rank == 0);
        let scores = scored.map_or(Vec::new(), |row| device.scores(row));
        seen.push(Seen { residual: (0..tokens).map(|t| D::get(&x, t)).collect(), sampled, scores });
    }
    seen
}

/// What each of so many ranks saw.
fn ranks<D: Probe>(of: usize, device: impl Fn() -> D + Sync, model: &Model) -> Vec<Vec<Seen>> {
    thread::scope(|scope| {
        let threads: Vec<_> = Collective::of(of)
            .into_iter()
            .map(|end| {
                let device = &device;
                scope.spawn(move || steps(device(), Some(end), model))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Of exact devices: sums have another order. Of others: int8 activations, whose rounding falls otherwise.
const EXACT: f32 = 2e-5;
const FAST: f32 = 5e-2;

fn check<D: Probe>(what: &str, of: usize, device: impl Fn() -> D + Sync, tolerance: f32) {
    let model = Model::random(of as u64);
    let alone = steps(Reference::new(KvFormat::F32), None, &model);
    let seen = ranks(of, &device, &model);
    for (step, alone) in alone.iter().enumerate() {
        let what = format!("{what}, {of} ranks, step {step}");
        for (t, expected) in alone.residual.iter().enumerate() {
            assert_close(&seen[0][step].residual[t], expected, tolerance, &format!("{what}, token {t}"));
        }
        assert_close(&seen[0][step].scores, &alone.scores, tolerance, &format!("{what}, scores"));
        if tolerance == EXACT {
            assert_eq!(seen[0][step].sampled, alone.sampled, "{what}");
        }
        for other in &seen[1..] {
            let bits = |seen: &Seen| seen.residual.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&other[step]) == bits(&seen[0][step]), "{what}: ranks differ");
            assert_eq!(other[step].sampled, seen[0][step].sampled, "{what}");
        }
    }
    assert!(ranks(of, &device, &model) == seen, "{what}, {of} ranks: another run gave other bits");
}

#[test]
fn ranks_compute_what_one_would() {
    for of in [1, 3] {
        check("reference", of, || Reference::new(KvFormat::F32), EXACT);
        for (level, threads) in levels().into_iter().flat_map(|level| [(level, 1), (level, 2)]) {
            let what = format!("cpu, {threads} threads, {}", level.name());
            check(&what, of, || cpu(threads, DType::F32, level), EXACT);
            check(&format!("fast {what}"), of, || fast(threads, level), FAST);
        }
    }
}

#[test]
fn a_cut_inside_a_block_names_the_tensor() {
    let model = Model::random(1);
    let mut device = cpu(1, DType::F32, Level::detect());
    let said = device.load(&[model.down.view()], Shard::Columns { rank: 1, of: 2 }).err().unwrap().to_string();
    assert!(said.contains("'test.weight'") && said.contains("48 columns a rank (of 2) cut inside a block"), "{said}");
}

#[test]
fn a_rank_that_panics_takes_the_others_with_it() {
    let model = Model::random(1);
    let ends: Vec<_> = Collective::of(3).into_iter().collect();
    thread::scope(|scope| {
        let threads: Vec<_> = ends
            .into_iter()
            .map(|end| {
                let model = &model;
                scope.spawn(move || {
                    let (rank, alarm) = (end.rank(), end.alarm());
                    let result = catch_unwind(AssertUnwindSafe(|| {
                        assert!(rank != 2, "rank 2 is broken");
                        steps(cpu(2, DType::F32, Level::detect()), Some(end), model)
                    }));
                    if rank == 2 {
                        alarm.ring("rank 2 is broken");
                    }
                    result.expect_err("nobody gets through").downcast::<RankLost>().ok().map(|lost| lost.0)
                })
            })
            .collect();
        let said: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let lost = Some("rank 2 is broken".to_owned());
        assert_eq!(said, [lost.clone(), lost, None]);
    });
}
