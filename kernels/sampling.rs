//! Sampling: logits and parameters to a token. A pure function, so that a token depends on (logits, seed, position) alone.
//!
//! Does not know batches, slots or who asked. The vocabulary is never sorted: what a filter keeps is found as its last
//! token in the order "larger logit first, then lower index", by selection, in time linear in the vocabulary.
mod philox;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use crate::device::{RowError, TokenId};
use crate::math::exp;

/// How a token is chosen. Values are checked by whoever builds it; here they are trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the best k; 0 keeps all. 1 is greedy.
    pub top_k: u32,
    /// Keep the smallest set of best tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than this times the best; 0 keeps all.
    pub min_p: f32,
    /// With the position it keys the random number.
    pub seed: u64,
}

/// Chooses the token at `position` from its logits.
///
/// Greedy takes the largest logit, the lowest index among equals. Otherwise the logits are divided by the temperature,
/// then filtered: the best `top_k`; of what those leave (renormalised) the best that reach `top_p`; of those, what has
/// at least `min_p` of the best one's probability. Among equals the lower index is the better. A number in [0, 1)
/// keyed by `(seed, position)` then picks by probability, in order of index.
///
/// Infinities are values: with any at `+inf` only those are candidates, equally likely; if all are `-inf` all are equal.
///
/// # Errors
/// [`RowError::NotANumber`] where a logit is NaN.
pub fn sample(logits: &[f32], sampling: &Sampling, position: usize) -> Result<TokenId, RowError> {
    assert!(!logits.is_empty() && logits.len() <= u32::MAX as usize, "{} logits", logits.len());
    let best = largest(logits).ok_or(RowError::NotANumber)?;
    if sampling.temperature == 0.0 || sampling.top_k == 1 {
        let token = logits.iter().position(|&l| l == best).expect("the largest is one of them");
        return Ok(token as TokenId);
    }
    let weights = weights(logits, best, sampling.temperature);
    let last = last_kept(&weights, sampling);
    Ok(draw(&weights, last, philox::uniform(sampling.seed, position as u64)))
}

/// The largest; `None` where one is NaN.
fn largest(logits: &[f32]) -> Option<f32> {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut nan = [false; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (i, &l) in chunk.iter().enumerate() {
            lanes[i] = if l > lanes[i] { l } else { lanes[i] };
            nan[i] |= l.is_nan();
        }
    }
    let any_nan = nan.contains(&true) || rest.iter().any(|l| l.is_nan());
    (!any_nan).then(|| lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max))
}

/// `e^((l - best) / temperature)`: probabilities relative to the best one's.
fn weights(logits: &[f32], best: f32, temperature: f32) -> Vec<f32> {
    let weight = |l: f32| {
        let x = (l - best) / temperature;
        // `exp` ends above 0. Equal infinities differ by NaN, and are as likely as each other.
        let w = if x < -87.0 { 0.0 } else { exp(x) };
        if l == best { 1.0 } else { w }
    };
    logits.iter().map(|&l| weight(l)).collect()
}

/// A token and its weight; the greater is the better.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    weight: f32,
    token: u32,
}

/// Better first.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// The worst token that all filters keep; `None` where no filter is on.
fn last_kept(weights: &[f32], sampling: &Sampling) -> Option<Candidate> {
    let top_k = (sampling.top_k > 0 && (sampling.top_k as usize) < weights.len()).then_some(sampling.top_k as usize);
    let top_p = (sampling.top_p < 1.0).then_some(f64::from(sampling.top_p));
    if top_k.is_none() && top_p.is_none() {
        // The best one's weight is 1, so that `min_p` is a threshold of weights.
        return (sampling.min_p > 0.0).then_some(Candidate { weight: sampling.min_p, token: u32::MAX });
    }
    let mut candidates: Vec<Candidate> =
        weights.iter().enumerate().map(|(token, &weight)| Candidate { weight, token: token as u32 }).collect();
    let mut kept = &mut candidates[..];
    if let Some(k) = top_k {
        kept.select_nth_unstable_by(k - 1, by_rank);
        kept = &mut kept[..k];
    }
    let mut last = match top_p {
        Some(p) => {
            let total: f64 = kept.iter().map(|c| f64::from(c.weight)).sum();
            reaches(kept, p * total)
        }
        None => *kept.iter().max_by(|a, b| by_rank(a, b)).expect("k is at least 1"),
    };
    let threshold = Candidate { weight: sampling.min_p, token: u32::MAX };
    if by_rank(&threshold, &last).is_lt() {
        last = threshold;
    }
    Some(last)
}

/// The token at which the running sum of weights, best first, reaches `mass`: quickselect by weight.
fn reaches(candidates: &mut [Candidate], mass: f64) -> Candidate {
    let mut rest = candidates;
    let mut above = 0.0;
    while rest.len() > 32 {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, by_rank);
        let upper: f64 = rest[..middle].iter().map(|c| f64::from(c.weight)).sum();
        if above + upper >= mass {
            rest = &mut rest[..middle];
        } else {
            above += upper;
            rest = &mut rest[middle..];
        }
    }
    rest.sort_unstable_by(by_rank);
    for candidate in rest.iter() {
        above += f64::from(candidate.weight);
        if above >= mass {
            return *candidate;
        }
    }
    // Rounding: the sum of all fell short of `mass` by an ulp.
    *rest.last().expect("at least one candidate")
}

/// Picks by weight, in order of index, among the tokens no worse than `last`.
fn draw(weights: &[f32], last: Option<Candidate>, uniform: f64) -> TokenId {
    let kept = |&(token, &weight): &(usize, &f32)| match last {
        Some(last) => by_rank(&Candidate { weight, token: token as u32 }, &last).is_le(),
        None => true,
    };
    let kept = || weights.iter().enumerate().filter(kept).filter(|(_, w)| **w > 0.0);
    let total: f64 = kept().map(|(_, &w)| f64::from(w)).sum();
    let mut left = uniform * total;
    let mut chosen = 0;
    for (token, &weight) in kept() {
        chosen = token;
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    chosen as TokenId
}
