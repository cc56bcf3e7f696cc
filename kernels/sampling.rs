//! Sampling: logits and parameters to a token. A pure function, so that a token depends on (logits, seed, position) alone.
//!
//! Does not know batches, slots or who asked. The vocabulary is never sorted. `top_k`'s tokens are those above a bound that the
//! largest of each block of logits give; `top_p`'s last token is looked for in the one bin of a histogram where the best ones'
//! weights reach it. What passes over all of the vocabulary are plain loops of sixteen lanes without branches, which compilers
//! vectorise for whatever set of instructions [`sample`] is inlined into, with the same bits on all.
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

/// Logits whose largest is known before single ones are looked at.
const BLOCK: usize = 128;
/// Sums and maxima are of so many lanes.
const LANES: usize = 16;
/// Of a histogram by distance from the best.
const BINS: usize = 256;
/// The bin of all that is further than the others are for.
const LAST: u32 = BINS as u32 - 1;
/// Bins for a distance of one temperature, the first that is tried and the second: most distributions' mass is near the top.
const BINS_A_TEMPERATURE: [f32; 2] = [32.0, 8.0];

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
#[inline(always)]
pub fn sample(logits: &[f32], sampling: &Sampling, position: usize) -> Result<TokenId, RowError> {
    assert!(!logits.is_empty() && logits.len() <= u32::MAX as usize, "{} logits", logits.len());
    let maxima = maxima(logits).ok_or(RowError::NotANumber)?;
    let row = Row::new(logits, maxima, sampling.temperature);
    if sampling.temperature == 0.0 || sampling.top_k == 1 {
        return Ok(row.first_best());
    }
    let uniform = philox::uniform(sampling.seed, position as u64);
    Ok(match row.filtered(sampling) {
        Kept::These(mut kept) => {
            // The best one weighs 1, and stays.
            kept.retain(|c| row.weight(c.logit) >= sampling.min_p);
            kept.sort_unstable_by_key(|c| c.token);
            row.pick(&kept, uniform * row.sum(&kept))
        }
        Kept::UpTo(last) => row.draw(last, sampling.min_p, uniform),
    })
}

/// What `top_k` and `top_p` keep.
enum Kept {
    These(Vec<Candidate>),
    /// This one and all that are better.
    UpTo(Candidate),
}

/// A token that may be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    logit: f32,
    token: TokenId,
}

/// Worse than all.
const WORST: Candidate = Candidate { logit: f32::NEG_INFINITY, token: TokenId::MAX };

/// Better first.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).expect("no logit is NaN").then(a.token.cmp(&b.token))
}

/// Each block's largest; `None` where a logit is NaN.
#[inline(always)]
fn maxima(logits: &[f32]) -> Option<Vec<f32>> {
    let mut maxima = Vec::with_capacity(logits.len().div_ceil(BLOCK));
    let mut nan = [false; LANES];
    let (blocks, rest) = logits.as_chunks::<BLOCK>();
    for block in blocks {
        maxima.push(largest(block, &mut nan));
    }
    if !rest.is_empty() {
        maxima.push(largest(rest, &mut nan));
    }
    (!nan.contains(&true)).then_some(maxima)
}

/// The largest that is a number; marks lanes of NaN.
#[inline(always)]
fn largest(block: &[f32], nan: &mut [bool; LANES]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            nan[i] |= chunk[i].is_nan();
        }
    }
    for (i, &l) in rest.iter().enumerate() {
        lanes[i] = if l > lanes[i] { l } else { lanes[i] };
        nan[i] |= l.is_nan();
    }
    let mut largest = f32::NEG_INFINITY;
    for lane in lanes {
        largest = if lane > largest { lane } else { largest };
    }
    largest
}

/// A vocabulary's logits, none of them NaN.
struct Row<'a> {
    logits: &'a [f32],
    /// Each block's largest.
    maxima: Vec<f32>,
    /// The largest of all.
    best: f32,
    /// One over the temperature.
    scale: f32,
}

impl<'a> Row<'a> {
    fn new(logits: &'a [f32], maxima: Vec<f32>, temperature: f32) -> Self {
        let best = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self { logits, maxima, best, scale: 1.0 / temperature }
    }

    /// Blocks with the index of their first token and their largest.
    fn blocks(&self) -> impl Iterator<Item = (usize, &[f32], f32)> {
        self.logits.chunks(BLOCK).zip(&self.maxima).enumerate().map(|(i, (block, &max))| (i * BLOCK, block, max))
    }

    /// `e^((l - best) / temperature)`: a probability relative to the best one's. 0 below 1e-38.
    #[inline(always)]
    fn weight(&self, l: f32) -> f32 {
        let x = (l - self.best) * self.scale;
        // `exp` ends above 0. Equal infinities differ by NaN, and are as likely as each other.
        let w = if x < -87.0 { 0.0 } else { exp(x) };
        if l == self.best { 1.0 } else { w }
    }

    /// The largest logit's lowest index.
    fn first_best(&self) -> TokenId {
        let block = self.maxima.iter().position(|&m| m == self.best).expect("the largest is in a block");
        let start = block * BLOCK;
        let within = self.logits[start..].iter().position(|&l| l == self.best).expect("the largest is one of them");
        (start + within) as TokenId
    }

    #[inline(always)]
    fn filtered(&self, sampling: &Sampling) -> Kept {
        let (k, p) = (sampling.top_k as usize, f64::from(sampling.top_p));
        match ((1..self.logits.len()).contains(&k), sampling.top_p < 1.0) {
            (false, false) => Kept::UpTo(WORST),
            (false, true) => Kept::UpTo(self.last_reaching(p)),
            (true, false) => Kept::These(self.best(k)),
            (true, true) => {
                let mut kept = self.best(k);
                let mass = p * self.sum(&kept);
                self.cut(&mut kept, mass);
                Kept::These(kept)
            }
        }
    }

    /// All whose logit is `bound` or more, in order of index.
    fn at_least(&self, bound: f32) -> Vec<Candidate> {
        let mut found = Vec::new();
        for (start, block, _) in self.blocks().filter(|&(_, _, max)| max >= bound) {
            for (token, &logit) in (start as TokenId..).zip(block) {
                if logit >= bound {
                    found.push(Candidate { logit, token });
                }
            }
        }
        found
    }

    /// The best `k`. As many blocks hold one each that is the `k`-th largest of the maxima or more, so none of them is less.
    fn best(&self, k: usize) -> Vec<Candidate> {
        let bound = if k <= self.maxima.len() {
            *self.maxima.clone().select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        } else {
            f32::NEG_INFINITY
        };
        let mut found = self.at_least(bound);
        if found.len() > k {
            found.select_nth_unstable_by(k - 1, by_rank);
            found.truncate(k);
        }
        found
    }

    /// The last of the best whose weights together reach `p` of all weights.
    #[inline(always)]
    fn last_reaching(&self, p: f64) -> Candidate {
        let [near, far] = BINS_A_TEMPERATURE.map(|bins| Bins { row: self, scale: bins * self.scale });
        let mut bins = near;
        let (mut bin, mut missing) = bins.reaching(p);
        if bin == LAST {
            bins = far;
            (bin, missing) = bins.reaching(p);
        }
        let mut within = bins.members(bin);
        self.cut(&mut within, missing);
        within.into_iter().max_by(by_rank).unwrap_or(WORST)
    }

    /// Leaves the best whose weights together reach `mass`: quickselect by weight.
    fn cut(&self, candidates: &mut Vec<Candidate>, mass: f64) {
        let mut above = 0.0;
        // The last one to be kept is in here; those before are better, and weigh `above`.
        let mut within = 0..candidates.len();
        while within.len() > 32 {
            let half = within.len() / 2;
            let part = &mut candidates[within.clone()];
            part.select_nth_unstable_by(half, by_rank);
            let upper = self.sum(&part[..half]);
            if above + upper >= mass {
                within.end = within.start + half;
            } else {
                above += upper;
                within.start += half;
            }
        }
        candidates[within.clone()].sort_unstable_by(by_rank);
        let reaches = candidates[within.clone()].iter().position(|c| {
            above += f64::from(self.weight(c.logit));
            above >= mass
        });
        // All of these where they fall short of `mass` by an ulp.
        let kept = reaches.map_or(within.end, |i| within.start + i + 1);
        candidates.truncate(kept);
    }

    /// Their weights together.
    fn sum(&self, candidates: &[Candidate]) -> f64 {
        candidates.iter().map(|c| f64::from(self.weight(c.logit))).sum()
    }

    /// Picks by weight, in order of index, among those no worse than `last` of at least weight `floor`.
    #[inline(always)]
    fn draw(&self, last: Candidate, floor: f32, uniform: f64) -> TokenId {
        let mut masses = Vec::with_capacity(self.maxima.len());
        for (start, block, max) in self.blocks() {
            masses.push(if max < last.logit { 0.0 } else { self.mass(start as TokenId, block, last, floor) });
        }
        let mut left = uniform * masses.iter().copied().map(f64::from).sum::<f64>();
        let mut chosen = 0;
        for (block, &mass) in masses.iter().enumerate().filter(|(_, mass)| **mass > 0.0) {
            chosen = block;
            if left < f64::from(mass) {
                break;
            }
            left -= f64::from(mass);
        }
        let start = chosen * BLOCK;
        let block = self.logits[start..].iter().take(BLOCK).zip(start as TokenId..);
        let mut block: Vec<Candidate> = block.map(|(&logit, token)| Candidate { logit, token }).collect();
        block.retain(|c| by_rank(c, &last).is_le() && self.weight(c.logit) >= floor);
        self.pick(&block, left)
    }

    /// A block's sum of what [`Row::draw`] picks among.
    #[inline(always)]
    fn mass(&self, start: TokenId, block: &[f32], last: Candidate, floor: f32) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        // The number of tokens from here that are kept where their logit equals the last one's.
        let mut ties = last.token.saturating_sub(start).saturating_add(1);
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += self.kept_weight(chunk[i], (i as u32) < ties, last.logit, floor);
            }
            ties = ties.saturating_sub(LANES as u32);
        }
        for (i, &l) in rest.iter().enumerate() {
            lanes[i] += self.kept_weight(l, (i as u32) < ties, last.logit, floor);
        }
        lanes.iter().sum()
    }

    /// The weight, or 0 where it is less than `floor` or the logit worse than `last`, which is kept where `tie_kept`.
    #[inline(always)]
    fn kept_weight(&self, l: f32, tie_kept: bool, last: f32, floor: f32) -> f32 {
        let w = self.weight(l);
        let kept = ((l > last) | ((l == last) & tie_kept)) & (w >= floor);
        if kept { w } else { 0.0 }
    }

    /// The first at which the running sum of weights exceeds `left`, or, where rounding leaves none, the last that has weight.
    fn pick(&self, candidates: &[Candidate], mut left: f64) -> TokenId {
        let mut chosen = 0;
        for candidate in candidates {
            let weight = self.weight(candidate.logit);
            if weight > 0.0 {
                chosen = candidate.token;
                left -= f64::from(weight);
            }
            if left < 0.0 {
                break;
            }
        }
        chosen
    }
}

/// A histogram of a row's weights by how far a logit is from the best.
struct Bins<'a> {
    row: &'a Row<'a>,
    /// Bins for a distance of 1.
    scale: f32,
}

impl Bins<'_> {
    /// Which bin a logit is in. A worse one's is never a smaller number.
    #[inline(always)]
    fn of(&self, l: f32) -> u32 {
        const FURTHEST: f32 = LAST as f32;
        const ROUND: f32 = 8_388_608.0; // 2^23: adding it rounds to an integer, left in the low bits
        let distance = (self.row.best - l) * self.scale;
        // Infinities' differences may be NaN: last, all of them.
        let bin = if distance < FURTHEST { distance } else { FURTHEST };
        (bin + ROUND).to_bits() & 0xffff
    }

    /// The first bin that with all nearer ones has `p` of all weights, and how much of it is needed.
    #[inline(always)]
    fn reaching(&self, p: f64) -> (u32, f64) {
        let sums = self.sums();
        let mut missing = p * sums.iter().sum::<f64>();
        for (bin, sum) in (0..LAST).zip(sums) {
            if sum >= missing {
                return (bin, missing);
            }
            missing -= sum;
        }
        (LAST, missing)
    }

    /// Each bin's sum of weights.
    #[inline(always)]
    fn sums(&self) -> [f64; BINS] {
        // One after the other into the same bin would wait for each other.
        let mut parts = [[0.0f64; BINS]; 4];
        let (mut weights, mut bins) = ([0.0f32; BLOCK], [0u32; BLOCK]);
        for (start, block, max) in self.row.blocks() {
            if self.of(max) == LAST {
                parts[0][LAST as usize] += f64::from(self.row.mass(start as TokenId, block, WORST, 0.0));
                continue;
            }
            for ((weight, bin), &l) in weights.iter_mut().zip(&mut bins).zip(block) {
                (*weight, *bin) = (self.row.weight(l), self.of(l));
            }
            for (i, (weight, bin)) in weights.iter().zip(bins).take(block.len()).enumerate() {
                parts[i % 4][bin as usize % BINS] += f64::from(*weight);
            }
        }
        std::array::from_fn(|bin| parts.iter().map(|part| part[bin]).sum())
    }

    /// The tokens of a bin.
    fn members(&self, bin: u32) -> Vec<Candidate> {
        let mut members = Vec::new();
        for (start, block, _) in self.row.blocks().filter(|&(_, _, max)| self.of(max) <= bin) {
            for (token, &logit) in (start as TokenId..).zip(block) {
                if self.of(logit) == bin {
                    members.push(Candidate { logit, token });
                }
            }
        }
        members
    }
}
