//! Sampling: its distribution, its filters against a plain sort, its determinism.
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

fn plain() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 11 }
}

fn random_logits(len: usize, seed: u64) -> Vec<f32> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..len).map(|_| random.random_range(-6.0f32..6.0)).collect()
}

/// The filters by their definition: sort everything, cut three times.
fn kept_by_sorting(logits: &[f32], sampling: &Sampling) -> Vec<(usize, f64)> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut all: Vec<(usize, f64)> = logits
        .iter()
        .enumerate()
        .map(|(i, &l)| (i, (f64::from(l - best) / f64::from(sampling.temperature)).exp()))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampling.top_k > 0 {
        all.truncate(sampling.top_k as usize);
    }
    let total: f64 = all.iter().map(|t| t.1).sum();
    let mut sum = 0.0;
    let mut keep = 0;
    for (_, w) in &all {
        keep += 1;
        sum += w;
        if sum >= f64::from(sampling.top_p) * total {
            break;
        }
    }
    if sampling.top_p < 1.0 {
        all.truncate(keep);
    }
    let best = all[0].1;
    all.retain(|t| t.1 >= f64::from(sampling.min_p) * best);
    all
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let greedy = Sampling { temperature: 0.0, ..plain() };
    assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], &greedy, 0), Ok(1));
    assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], &Sampling { top_k: 1, ..plain() }, 0), Ok(1));
    let mut long = vec![0.0; 1003];
    long[1001] = 1.0;
    assert_eq!(sample(&long, &greedy, 0), Ok(1001));
    assert_eq!(sample(&[-0.0, 0.0], &greedy, 0), Ok(0));
}

#[test]
fn not_numbers_are_an_error_wherever_they_are() {
    for at in [0, 15, 16, 127, 128, 160] {
        let mut logits = vec![0.5; 161];
        logits[at] = f32::NAN;
        assert_eq!(sample(&logits, &plain(), 0), Err(RowError::NotANumber));
        assert_eq!(sample(&logits, &Sampling { temperature: 0.0, ..plain() }, 0), Err(RowError::NotANumber));
    }
}

#[test]
fn infinities_are_values() {
    let inf = f32::INFINITY;
    for position in 0..50 {
        let token = sample(&[1.0, inf, -inf, inf], &plain(), position).unwrap();
        assert!(token == 1 || token == 3);
        assert_ne!(sample(&[1.0, -inf, 1.0], &plain(), position), Ok(1));
        assert_ne!(sample(&[1.0, -inf, 1.0], &Sampling { top_k: 2, top_p: 0.99, ..plain() }, position), Ok(1));
    }
    let seen: std::collections::HashSet<_> =
        (0..50).map(|position| sample(&[-inf; 3], &plain(), position).unwrap()).collect();
    assert_eq!(seen.len(), 3);
    assert_eq!(sample(&[-inf; 3], &Sampling { temperature: 0.0, ..plain() }, 0), Ok(0));
}

#[test]
fn tokens_come_as_often_as_their_probability() {
    // Twelve that may be drawn, in two blocks.
    let mut logits = random_logits(140, 3);
    logits[6..134].fill(f32::NEG_INFINITY);
    let settings = [
        plain(),
        Sampling { temperature: 0.6, ..plain() },
        Sampling { temperature: 1.7, top_k: 5, ..plain() },
        Sampling { temperature: 1.5, top_p: 0.8, ..plain() },
        Sampling { temperature: 2.0, min_p: 0.1, ..plain() },
        Sampling { temperature: 1.9, top_k: 9, top_p: 0.95, min_p: 0.02, ..plain() },
    ];
    for sampling in settings {
        let kept = kept_by_sorting(&logits, &sampling);
        let total: f64 = kept.iter().map(|t| t.1).sum();
        let draws = 40_000;
        let mut seen = vec![0usize; logits.len()];
        for position in 0..draws {
            seen[sample(&logits, &sampling, position).unwrap() as usize] += 1;
        }
        let mut chi2 = 0.0;
        for (token, &count) in seen.iter().enumerate() {
            match kept.iter().find(|t| t.0 == token && t.1 > 0.0) {
                Some((_, w)) => {
                    let expected = w / total * draws as f64;
                    chi2 += (count as f64 - expected).powi(2) / expected;
                }
                None => assert_eq!(count, 0, "token {token} was filtered out by {sampling:?}"),
            }
        }
        // Eleven degrees of freedom at most: p = 0.001.
        assert!(chi2 < 31.3, "chi-square {chi2} of {sampling:?}");
    }
}

#[test]
fn filters_keep_what_sorting_keeps() {
    let mut random = SmallRng::seed_from_u64(5);
    for case in 0..300 {
        let len = random.random_range(1..if case % 4 == 0 { 5000 } else { 400 });
        let mut logits = random_logits(len, case);
        if case % 8 == 0 {
            // Some far above the others.
            logits.iter_mut().step_by(97).for_each(|l| *l += 12.0);
        }
        if case % 3 == 0 {
            // Ties: a coarse grid.
            logits.iter_mut().for_each(|l| *l = l.round());
        }
        let sampling = Sampling {
            temperature: random.random_range(0.2..2.0),
            top_k: if case % 2 == 0 { random.random_range(0..len as u32 + 3) } else { 0 },
            top_p: if case % 5 < 3 { random.random_range(0.05..1.0) } else { 1.0 },
            min_p: if case % 7 < 2 { random.random_range(0.0..0.5) } else { 0.0 },
            seed: case,
        };
        if sampling.top_k == 1 {
            continue;
        }
        let row = Row::new(&logits, maxima(&logits).unwrap(), sampling.temperature);
        let filtered = row.filtered(&sampling);
        let kept = |c: &Candidate| match &filtered {
            Kept::These(kept) => kept.contains(c),
            Kept::UpTo(last) => by_rank(c, last).is_le(),
        };
        let kept: Vec<usize> = (0..len)
            .filter(|&i| kept(&Candidate { logit: logits[i], token: i as TokenId }))
            .filter(|&i| row.weight(logits[i]) >= sampling.min_p)
            .collect();
        let mut expected: Vec<usize> = kept_by_sorting(&logits, &sampling).into_iter().map(|t| t.0).collect();
        expected.sort_unstable();
        assert_eq!(kept, expected, "{sampling:?} of {len} logits");
    }
}

#[test]
fn a_token_depends_on_seed_and_position_alone() {
    let logits = random_logits(500, 9);
    let run = |seed| -> Vec<_> {
        (0..64).map(|position| sample(&logits, &Sampling { seed, ..plain() }, position).unwrap()).collect()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let first = run(1)[17];
    assert_eq!(sample(&logits, &Sampling { seed: 1, ..plain() }, 17), Ok(first));
}

#[test]
fn a_tiny_temperature_is_greedy() {
    let logits = random_logits(100, 4);
    let greedy = sample(&logits, &Sampling { temperature: 0.0, ..plain() }, 0);
    for position in 0..20 {
        assert_eq!(sample(&logits, &Sampling { temperature: f32::MIN_POSITIVE, ..plain() }, position), greedy);
    }
}
