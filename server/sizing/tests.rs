//! Virtual time against what is known without it: the cost model alone, and what load does to latency.
use minisgl_config::{CacheType, SimSettings};

use super::*;
use crate::engine::sim::cost::RowCost;

fn settings() -> EngineSettings {
    EngineSettings {
        page_size: Some(16),
        sim: SimSettings { profile: Some("1xh200-qwen3-14b".to_owned()), ..Default::default() },
        ..Default::default()
    }
}

fn simulation(settings: &EngineSettings) -> Simulation {
    Simulation::new(settings, None, 0).unwrap()
}

/// Prompts that share their first `shared` tokens.
fn load(requests: usize, gap_s: f64, shared: usize) -> Vec<Load> {
    let prompt = |i: usize| (0..2000).map(|at| if at < shared { at as u32 } else { (i * 2000 + at) as u32 }).collect();
    (0..requests).map(|i| Load { at_s: i as f64 * gap_s, prompt: prompt(i), output_tokens: 50 }).collect()
}

fn served(course: &Course) -> Vec<Seen> {
    let seen: Vec<Seen> = course.seen().copied().collect();
    assert_eq!(seen.len(), course.fates.len(), "all were served");
    seen
}

#[test]
fn a_request_alone_takes_what_its_batches_take() {
    let settings = settings();
    let simulation = simulation(&settings);
    let seen = served(&simulate(&simulation, &settings, &load(1, 0.0, 0), 1.0))[0];
    let prefill = simulation.cost.batch_time([RowCost { tokens: 2000, start: 0, logits: 1 }]).as_secs_f64();
    let decode = |start| simulation.cost.batch_time([RowCost { tokens: 1, start, logits: 1 }]).as_secs_f64();
    let rest: f64 = (2000..2049).map(decode).sum();
    assert!((seen.ttft_s - prefill).abs() < 1e-9, "{seen:?}, prefill {prefill}");
    assert!((seen.e2e_s - prefill - rest).abs() < 1e-9, "{seen:?}, all {}", prefill + rest);
    assert!((seen.tpot_s.unwrap() - rest / 49.0).abs() < 1e-9, "{seen:?}");
}

#[test]
fn far_apart_all_see_the_same_and_together_they_wait() {
    let settings = settings();
    let simulation = simulation(&settings);
    let apart = served(&simulate(&simulation, &settings, &load(20, 10.0, 0), 1.0));
    assert!(apart.iter().all(|seen| (seen.ttft_s - apart[0].ttft_s).abs() < 1e-9));
    let together = served(&simulate(&simulation, &settings, &load(20, 10.0, 0), 1e6));
    let mean = |seen: &[Seen]| seen.iter().map(|seen| seen.ttft_s).sum::<f64>() / seen.len() as f64;
    assert!(mean(&together) > 3.0 * mean(&apart), "{} and {}", mean(&together), mean(&apart));
}

#[test]
fn shared_prefixes_hit_and_help() {
    let settings = settings();
    let simulation = simulation(&settings);
    let seen = served(&simulate(&simulation, &settings, &load(5, 10.0, 1600), 1.0));
    assert_eq!(seen.iter().map(|seen| seen.cached_tokens).collect::<Vec<_>>(), [0, 1600, 1600, 1600, 1600]);
    assert!(seen[1].ttft_s < seen[0].ttft_s / 2.0);
    let naive = EngineSettings { cache_type: CacheType::Naive, ..settings };
    assert!(served(&simulate(&simulation, &naive, &load(5, 10.0, 1600), 1.0)).iter().all(|s| s.cached_tokens == 0));
}

#[test]
fn what_does_not_fit_is_refused_and_counts_as_missed() {
    let settings = EngineSettings { max_running_requests: 2, max_queued_requests: 1, ..settings() };
    let simulation = simulation(&settings);
    let mut load = load(5, 0.0, 0);
    load[0].output_tokens = 1 << 20;
    let course = simulate(&simulation, &settings, &load, 1.0);
    assert_eq!((course.fates[0], course.fates[4]), (Fate::TooLong, Fate::QueueFull));
    assert_eq!(course.seen().count(), 3);
    assert_eq!(Slo::default().share_met(&course), 0.6);
    let slo = Slo { ttft: Some(Duration::ZERO), ..Slo::default() };
    assert_eq!(slo.share_met(&course), 0.0);
}

#[test]
fn the_rate_found_meets_the_bound_and_a_higher_one_does_not() {
    let settings = settings();
    let simulation = simulation(&settings);
    let load = load(100, 1.0, 0);
    let slo = Slo { ttft: Some(Duration::from_millis(200)), tpot: Some(Duration::from_millis(30)), e2e: None };
    let search = Search { slo, share: 0.95, rate: 1.0 };
    let sizing = find_rate(&simulation, &settings, &load, &search);
    let (best, course) = sizing.best.expect("some rate is slow enough");
    assert!(best.share >= 0.95 && slo.share_met(&course) == best.share);
    let next = sizing.points.iter().find(|point| point.rate > best.rate).expect("a higher one was tried");
    assert!(next.share < 0.95 && next.rate / best.rate < 1.03, "{best:?} {next:?}");
    assert!(sizing.limited);
    // All of a load at once within its bounds: there is no limit to find.
    let easy = Slo { ttft: Some(Duration::from_secs(60)), ..Slo::default() };
    let endless = find_rate(&simulation, &settings, &load[..3], &Search { slo: easy, ..search });
    assert!(!endless.limited && endless.best.is_some());
    // A bound that one request alone misses is met at no rate.
    let slo = Slo { ttft: Some(Duration::from_millis(1)), ..slo };
    assert!(find_rate(&simulation, &settings, &load[..3], &Search { slo, ..search }).best.is_none());
}

#[test]
fn long_runs_keep_few_samples() {
    let settings = settings();
    let course = simulate(&simulation(&settings), &settings, &load(120, 2.0, 0), 1.0);
    assert!(course.batches > 2 * MOST_SAMPLES, "{} batches", course.batches);
    assert!((MOST_SAMPLES / 2 - 1..MOST_SAMPLES).contains(&course.samples.len()), "{}", course.samples.len());
    assert!(course.samples.windows(2).all(|two| two[0].at_s <= two[1].at_s));
}
