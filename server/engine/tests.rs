//! The engine end to end on a tiny model: order, failure, sampling, what it refuses.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use minisgl_checkpoint::OpenOptions;
use minisgl_kernels::{PageId, RowError, Sampling, Slot, Want};

use super::*;
use crate::batch::{Batch, BatchOutput, Row, RowOutput, RowTokens};

fn llama() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama")
}

fn settings() -> EngineSettings {
    EngineSettings {
        threads: 1,
        max_running_requests: 4,
        max_prefill_length: 64,
        page_size: Some(16),
        num_pages: Some(8),
        ..Default::default()
    }
}

fn try_load(model: &Path, settings: &EngineSettings) -> Result<Box<dyn ModelRunner>, LoadError> {
    let options = OpenOptions { dummy_weights: settings.dummy_weight, weights: true };
    let checkpoint = Checkpoint::open(model, options).unwrap();
    let mut heard = Vec::new();
    let progress = &mut |done, of| heard.push((done, of));
    let runner =
        load(EngineOptions { checkpoint: &checkpoint, settings, vocabulary: Vocabulary::default(), progress })?;
    assert_eq!(heard, [(1, 2), (2, 2)]);
    Ok(runner)
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
}

/// A slot's first row; its pages are two of its own.
fn first(slot: u32, tokens: &[u32], sampling: Sampling, want: Want) -> Row {
    Row {
        slot: Slot(slot),
        begin: Some(Arc::new(sampling)),
        start: 0,
        tokens: RowTokens::Chunk(tokens.to_vec()),
        new_pages: vec![PageId(2 * slot), PageId(2 * slot + 1)],
        want,
    }
}

fn decode(slot: u32, start: usize) -> Row {
    let tokens = RowTokens::LastSampled;
    Row { slot: Slot(slot), begin: None, start, tokens, new_pages: Vec::new(), want: Want::Sample }
}

fn collect(runner: &mut dyn ModelRunner) -> Result<BatchOutput, crate::batch::EngineError> {
    loop {
        if let Some(output) = runner.collect(Duration::from_secs(1))? {
            return Ok(output);
        }
    }
}

fn run(runner: &mut dyn ModelRunner, rows: Vec<Row>) -> Vec<RowOutput> {
    runner.submit(Batch { rows }).unwrap();
    collect(runner).unwrap().rows
}

#[test]
fn a_second_batch_may_feed_what_the_first_will_sample() {
    let mut runner = try_load(&llama(), &settings()).unwrap();
    assert!(runner.device().contains("cpu"), "{}", runner.device());
    assert!(runner.collect(Duration::ZERO).unwrap().is_none(), "nothing is out");
    runner.submit(Batch { rows: vec![first(0, &[5, 6, 7], greedy(), Want::Sample)] }).unwrap();
    runner.submit(Batch { rows: vec![decode(0, 3)] }).unwrap();
    let outputs = [collect(&mut *runner).unwrap(), collect(&mut *runner).unwrap()];
    let [RowOutput::Token(a), RowOutput::Token(b)] = [&outputs[0].rows[0], &outputs[1].rows[0]] else {
        panic!("{outputs:?}");
    };

    // The same with tokens that the host knows, in another slot, its prompt in two rows.
    let first_half = first(1, &[5, 6], greedy(), Want::Nothing);
    assert_eq!(run(&mut *runner, vec![first_half]), [RowOutput::Nothing]);
    let rest = RowTokens::Chunk(vec![7, *a]);
    let rest = Row { slot: Slot(1), begin: None, start: 2, tokens: rest, new_pages: Vec::new(), want: Want::Scores };
    let outputs = run(&mut *runner, vec![rest]);
    let [RowOutput::Scores { logits, token }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((token, logits.len()), (b, 2 * 256));
}

#[test]
fn what_is_sampled_depends_on_seed_and_position_alone() {
    let mut runner = try_load(&llama(), &settings()).unwrap();
    let warm = |seed| Sampling { temperature: 1.0, seed, ..greedy() };
    let row = |slot, seed| first(slot, &[9, 8, 7, 6], warm(seed), Want::Sample);
    let alone = run(&mut *runner, vec![row(0, 11)]);
    let beside = run(&mut *runner, vec![row(3, 12), row(1, 11), first(2, &[1, 2], greedy(), Want::Nothing)]);
    assert_eq!(alone[0], beside[1]);
    assert_eq!(beside[2], RowOutput::Nothing);
    let seeds = (20..40).map(|seed| run(&mut *runner, vec![row(0, seed)]).remove(0)).filter(|t| *t != alone[0]);
    assert!(seeds.count() > 0, "other seeds give other tokens");
}

#[test]
fn a_slot_begins_anew() {
    let mut runner = try_load(&llama(), &settings()).unwrap();
    let before = run(&mut *runner, vec![first(0, &[5, 6, 7], greedy(), Want::Scores)]);
    run(&mut *runner, vec![first(0, &[200, 100, 50, 25], greedy(), Want::Sample)]);
    assert_eq!(run(&mut *runner, vec![first(0, &[5, 6, 7], greedy(), Want::Scores)]), before);
}

#[test]
fn a_panic_ends_the_engine_with_an_error() {
    for bad in [
        Row { start: 30, ..first(0, &[1, 2, 3], greedy(), Want::Sample) },
        first(0, &[256], greedy(), Want::Sample),
        first(0, &[1; 65], greedy(), Want::Nothing),
        first(4, &[1], greedy(), Want::Sample),
    ] {
        let mut runner = try_load(&llama(), &settings()).unwrap();
        run(&mut *runner, vec![first(1, &[1], greedy(), Want::Sample)]);
        runner.submit(Batch { rows: vec![bad] }).unwrap();
        let said = collect(&mut *runner).unwrap_err().to_string();
        assert!(said.contains("its rank panicked"), "{said}");
        assert!(runner.submit(Batch { rows: vec![decode(1, 1)] }).is_err());
        assert!(runner.collect(Duration::ZERO).is_err());
    }
}

fn on_ranks(ranks: usize) -> EngineSettings {
    EngineSettings { tensor_parallel_size: Some(ranks), ..settings() }
}

#[test]
fn ranks_feed_what_the_first_sampled() {
    let warm = || Sampling { temperature: 1.0, seed: 5, ..greedy() };
    let tokens = |settings: &EngineSettings| -> Vec<RowOutput> {
        let mut runner = try_load(&llama(), settings).unwrap();
        // Two batches are out at a time, as a scheduler has them.
        runner.submit(Batch { rows: vec![first(0, &[5, 6, 7], warm(), Want::Sample)] }).unwrap();
        let mut outputs = Vec::new();
        for start in 3..23 {
            runner.submit(Batch { rows: vec![decode(0, start)] }).unwrap();
            outputs.extend(collect(&mut *runner).unwrap().rows);
        }
        outputs
    };
    // Exact: what ranks add in another order then leaves each token where it was, and both devices agree.
    let exact = |settings: EngineSettings| EngineSettings { dtype: DTypeChoice::Float32, ..settings };
    let alone = tokens(&exact(settings()));
    for ranks in [2, 4] {
        assert_eq!(tokens(&exact(on_ranks(ranks))), alone, "{ranks} ranks");
        let reference = EngineSettings { device: DeviceKind::Reference, ..exact(on_ranks(ranks)) };
        assert_eq!(tokens(&reference), alone, "{ranks} ranks of reference");
    }
}

#[test]
fn ranks_divide_the_threads() {
    for (threads, ranks, each) in [(1, 1, 1), (0, 1, 0), (8, 2, 4), (7, 4, 1), (2, 4, 1)] {
        assert_eq!(threads_a_rank(threads, ranks), each);
    }
    assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&threads_a_rank(0, 2)));
    let runner = try_load(&llama(), &EngineSettings { threads: 5, ..on_ranks(2) }).unwrap();
    let device = runner.device();
    assert!(device.starts_with("2 ranks of cpu (") && device.ends_with("2 threads)"), "{device}");
}

#[test]
fn one_ranks_panic_is_the_engines_end_and_nobody_hangs() {
    for broken in [0, 1, 3] {
        let settings = on_ranks(4);
        let checkpoint = Checkpoint::open(&llama(), OpenOptions { dummy_weights: false, weights: true }).unwrap();
        let (vocabulary, progress) = (Vocabulary::default(), &mut |_, _| ());
        let options = EngineOptions { checkpoint: &checkpoint, settings: &settings, vocabulary, progress };
        let device = || Cpu::new(CpuOptions { threads: 1, keep: Keep::Exact, kv_format: KvFormat::F32 });
        let (mut ranks, alarm) = load_engine(device, options).unwrap();
        ranks[broken].break_beyond(2);
        let mut runner = DeviceRunner::start(ranks, alarm);
        run(&mut runner, vec![first(1, &[1, 2], greedy(), Want::Sample)]);
        // The second is out when the first fails.
        runner.submit(Batch { rows: vec![first(0, &[1, 2, 3], greedy(), Want::Sample)] }).unwrap();
        let _ = runner.submit(Batch { rows: vec![decode(1, 2)] });
        let said = collect(&mut runner).unwrap_err().to_string();
        assert!(said.contains(&format!("rank {broken} of 4 panicked: a batch of 3 tokens, where 1 to 2")), "{said}");
        assert!(runner.submit(Batch { rows: vec![decode(1, 3)] }).is_err());
    }
}

#[test]
fn a_row_without_numbers_fails_alone() {
    // The embedding of token 3 becomes NaN: 64 bf16 elements a row.
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(llama().join("config.json"), folder.path().join("config.json")).unwrap();
    let mut file = std::fs::read(llama().join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&file[8..8 + header]).unwrap();
    let start = json["model.embed_tokens.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let row = 8 + header + start + 3 * 64 * 2;
    file[row..row + 128].copy_from_slice(&[0xff; 128]);
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();

    let mut runner = try_load(folder.path(), &settings()).unwrap();
    let good = || first(1, &[5, 6, 7], greedy(), Want::Sample);
    let alone = run(&mut *runner, vec![good()]);
    let outputs = run(&mut *runner, vec![first(0, &[1, 3], greedy(), Want::Sample), good()]);
    assert_eq!(outputs[0], RowOutput::Failed(RowError::NotANumber));
    assert_eq!(outputs[1], alone[0]);
}

#[test]
fn made_up_weights_run() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(llama().join("config.json"), folder.path().join("config.json")).unwrap();
    let mut runner = try_load(folder.path(), &EngineSettings { dummy_weight: true, ..settings() }).unwrap();
    let outputs = run(&mut *runner, vec![first(0, &[5, 6, 7], greedy(), Want::Scores)]);
    let [RowOutput::Scores { logits, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(logits.iter().all(|l| l.is_finite()));
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let said = |settings: EngineSettings| try_load(&llama(), &settings).err().expect("refused").to_string();
    let ranks = said(EngineSettings { tensor_parallel_size: Some(3), ..settings() });
    let right = "--tensor-parallel-size: 3 ranks cannot share 4 query heads and 96 MLP columns: 1, 2 or 4 can";
    assert_eq!(ranks, right);
    let pages = said(EngineSettings { num_pages: Some(usize::MAX), ..settings() });
    assert!(pages.contains("--num-pages"), "{pages}");
}
