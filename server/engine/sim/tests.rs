//! The simulated runner: what it says, in which order, what it holds. No test reads how long anything took.
use std::sync::Arc;

use minisgl_config::SimSettings;
use minisgl_config::sim::profile_names;
use minisgl_kernels::PageId;

use super::*;
use crate::batch::RowTokens;

const WORDS: [TokenId; 5] = [3, 1, 4, 15, 9];
/// A step of this device outlasts any test.
const FOREVER: Duration = Duration::from_secs(3600);

fn settings(profile: &str) -> EngineSettings {
    EngineSettings {
        max_running_requests: 4,
        page_size: Some(16),
        sim: SimSettings { profile: Some(profile.to_owned()), ..Default::default() },
        ..Default::default()
    }
}

fn exact(ttft: Duration, itl: Duration) -> EngineSettings {
    let mut settings = settings("4xh200-qwen3-32b");
    (settings.sim.ttft, settings.sim.itl) = (Some(ttft), Some(itl));
    settings
}

fn simulation(settings: &EngineSettings) -> Result<Simulation, String> {
    Simulation::new(settings, None, 16).map_err(|error| error.to_string())
}

fn runner(settings: &EngineSettings) -> SimRunner {
    let vocabulary = Vocabulary { ids: 16, words: WORDS.to_vec() };
    SimRunner::new(simulation(settings).unwrap(), &vocabulary).unwrap()
}

fn first(slot: u32, tokens: &[TokenId], seed: u64, want: Want) -> Row {
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed };
    Row {
        slot: Slot(slot),
        begin: Some(Arc::new(sampling)),
        start: 0,
        tokens: RowTokens::Chunk(tokens.to_vec()),
        new_pages: vec![PageId(slot)],
        want,
    }
}

fn decode(slot: u32, start: usize) -> Row {
    let tokens = RowTokens::LastSampled;
    Row { slot: Slot(slot), begin: None, start, tokens, new_pages: Vec::new(), want: Want::Sample }
}

fn run(runner: &mut SimRunner, rows: Vec<Row>) -> Vec<RowOutput> {
    runner.submit(Batch { rows }).unwrap();
    runner.collect(FOREVER).unwrap().expect("the batch is over before that").rows
}

#[test]
fn words_follow_from_seed_and_position_however_rows_are_batched() {
    let mut a = runner(&exact(Duration::ZERO, Duration::ZERO));
    let mut b = runner(&exact(Duration::ZERO, Duration::ZERO));
    let mut said = [Vec::new(), Vec::new()];
    said[0].extend(run(&mut a, vec![first(0, &[1, 2, 3], 7, Want::Sample)]));
    said[0].extend(run(&mut a, vec![decode(0, 3)]));
    // Elsewhere, in chunks, beside another, and begun again with its own output as prompt.
    run(&mut b, vec![first(2, &[1, 2], 7, Want::Nothing), first(1, &[5], 8, Want::Sample)]);
    let mut rest = decode(2, 2);
    rest.tokens = RowTokens::Chunk(vec![3]);
    said[1].extend(run(&mut b, vec![rest]));
    let RowOutput::Token(token) = said[1][0] else { panic!("{said:?}") };
    said[1].extend(run(&mut b, vec![first(3, &[1, 2, 3, token], 7, Want::Sample)]));
    assert_eq!(said[0], said[1]);

    let of = |seed| (1..200).map(|position| a.token(&Sampling { seed, ..first_sampling() }, position)).collect();
    let (some, others): (Vec<TokenId>, Vec<TokenId>) = (of(1), of(2));
    assert_ne!(some, others);
    for word in WORDS {
        assert!(some.contains(&word), "{word} never comes");
    }
    assert!(some.iter().all(|token| WORDS.contains(token)));
}

fn first_sampling() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
}

#[test]
fn batches_come_in_order_and_say_what_the_model_takes() {
    let mut runner = runner(&settings("1xh200-qwen3-0.6b"));
    let one = Batch { rows: vec![first(0, &[1; 4000], 1, Want::Sample)] };
    let two = Batch { rows: vec![decode(0, 4000)] };
    let due = [&one, &two].map(|batch| runner.simulation.batch_time(batch));
    assert!(due[0] > due[1], "thousands of tokens take longer than one");
    runner.submit(one).unwrap();
    runner.submit(two).unwrap();
    let over: Vec<Instant> = runner.out.iter().map(|out| out.over).collect();
    assert!(over[1] >= over[0] + due[1], "the second starts when the first is over");
    for due in due {
        assert_eq!(runner.collect(FOREVER).unwrap().unwrap().elapsed, due);
    }
    assert_eq!((runner.held_until(), runner.take_due()), (None, Vec::new()));
}

#[test]
fn a_batch_that_is_not_over_is_not_given() {
    let mut runner = runner(&settings("1xh200-qwen3-0.6b"));
    runner.free += FOREVER;
    runner.submit(Batch { rows: vec![first(0, &[1], 1, Want::Sample)] }).unwrap();
    assert!(runner.collect(Duration::ZERO).unwrap().is_none());
}

#[test]
fn exact_timings_hold_rows_beyond_their_batch() {
    let mut runner = runner(&exact(FOREVER, FOREVER));
    let rows = run(&mut runner, vec![first(0, &[1], 1, Want::Sample), first(1, &[1], 1, Want::Nothing)]);
    assert_eq!(rows, [RowOutput::Held, RowOutput::Nothing]);
    assert!(runner.held_until().unwrap() > Instant::now());
    assert_eq!(runner.take_due(), []);
    // No time at all: nothing is held.
    let mut at_once = self::runner(&exact(Duration::ZERO, FOREVER));
    assert!(matches!(run(&mut at_once, vec![first(0, &[1], 1, Want::Sample)])[0], RowOutput::Token(_)));
    assert_eq!(run(&mut at_once, vec![decode(0, 1)]), [RowOutput::Held]);
}

#[test]
fn scores_are_finite_and_likeliest_where_the_next_token_is() {
    let mut runner = runner(&exact(Duration::ZERO, Duration::ZERO));
    let vocabulary = runner.capacity().vocabulary;
    let outputs = run(&mut runner, vec![first(0, &[5, 6, 7], 1, Want::Scores)]);
    let [RowOutput::Scores { logits, token }] = &outputs[..] else { panic!("{} outputs", outputs.len()) };
    assert_eq!(logits.len(), 3 * vocabulary);
    assert!(logits.iter().all(|logit| logit.is_finite()));
    for (row, next) in logits.chunks(vocabulary).zip([6, 7, *token]) {
        assert!(row.iter().enumerate().all(|(id, logit)| id == next as usize || *logit < row[next as usize]));
    }
    let many = run(&mut runner, vec![first(0, &[1; 1000], 1, Want::Scores)]);
    assert!(matches!(&many[..], [RowOutput::Failed(RowError::Unsupported(_))]), "gigabytes of made-up logits");
}

#[test]
fn pages_are_the_memorys_share_less_the_weights() {
    let held = simulation(&settings("4xh200-qwen3-32b")).unwrap();
    // 4 * 141e9 * 0.9 - 65.5e9 bytes of weights, at 262,144 bytes a token and 16 a page.
    let expected = (4.0 * 141e9 * 0.9 - held.cost.weight_bytes()) / (16.0 * 262_144.0);
    assert_eq!((held.capacity.pages, held.ranks), (expected as usize, 4));
    assert_eq!((held.capacity.context, held.capacity.vocabulary), (40_960, 151_936));
    let chosen = EngineSettings { num_pages: Some(9), max_seq_len_override: Some(1 << 20), ..settings("h200") };
    let said = simulation(&chosen).unwrap_err();
    assert!(said.contains("--sim-profile: h200 is hardware alone"), "{said}");
    let chosen = EngineSettings { sim: settings("1xh200-qwen3-14b").sim, ..chosen };
    let capacity = simulation(&chosen).unwrap().capacity;
    assert_eq!((capacity.pages, capacity.context, capacity.longest_sequence()), (9, 1 << 20, 145));
}

#[test]
fn what_does_not_go_together_names_its_flag() {
    let said = simulation(&settings("list")).unwrap_err();
    assert!(said.starts_with("--sim-profile: ") && profile_names().all(|name| said.contains(name)), "{said}");
    let ranks = EngineSettings { tensor_parallel_size: Some(3), ..settings("4xh200-qwen3-32b") };
    assert!(simulation(&ranks).unwrap_err().contains("--tensor-parallel-size: 3 ranks cannot share 64"));
    let little = EngineSettings { memory_ratio: 0.01, ..settings("4xh200-qwen3-32b") };
    assert!(simulation(&little).unwrap_err().contains("--memory-ratio 0.01"));
    let wide = EngineSettings { dtype: DTypeChoice::Float32, ..settings("4xh200-qwen3-32b") };
    assert!(simulation(&wide).unwrap_err().starts_with("--dtype: float32"));
}

#[test]
fn figures_are_labelled_with_what_was_simulated() {
    assert_eq!(simulation(&settings("4xh200-qwen3-32b")).unwrap().label, "4xh200-qwen3-32b");
    let two = EngineSettings { tensor_parallel_size: Some(2), ..settings("4xh200-qwen3-32b") };
    assert_eq!(simulation(&two).unwrap().label, "4xh200-qwen3-32b, tp 2");
    let runner = runner(&exact(Duration::from_millis(50), Duration::from_millis(20)));
    assert_eq!(runner.simulated().unwrap(), "4xh200-qwen3-32b, exactly ttft 50ms, itl 20ms");
    assert!(runner.device().starts_with("SIMULATED "));
}
