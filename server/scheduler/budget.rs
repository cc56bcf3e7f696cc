//! Budget: how many of a batch's input tokens may be prefill, from measured speed.
//!
//! While sequences decode, every prefill token in their batch lengthens the gap between their tokens. One constant cannot
//! serve a GPU and two cores, so the bound is a time: a multiple of what the decode rows take alone, as measured. How many
//! tokens fit in it depends on where in their sequences they are, for a token attends to all before it: [`PrefillCost`].
//! Where more prompts wait than sequences decode, the bound is what it will be with as many rows as there will be, since
//! those gaps come anyway: one sequence would hold a burst of thirty prompts back otherwise. Pure arithmetic on durations
//! that are given as data; whether a result is right never depends on it. Knows no sequence, page or clock.
//!
//! Measured on two cores of Emerald Rapids (AVX-512): 28 streams of (64 in, 256 out) beside four of 2,000-token prompts, gaps of the
//! 28's tokens at the 99th percentile in times of their median. Where a prefill token was taken to cost the same everywhere, and one
//! step of decode rows alone in 64 to be what they take: 2.9 to 5.8. Since then 1.7 to 2.9, at 450 to 530 tok/s instead of 400
//! (84 requests). A multiple of 2.5 gave 1.8 to 3.0; counting prompts that will decode with fewer of them than of decode rows
//! too filled 32 streams no faster, and gave four streams gaps of 3.6.
use std::time::Duration;

/// Prefill tokens that a batch may always have, so that a prompt gets on however fast the decode rows are. On two cores, four
/// sequences decoding SmolLM2 while prompts of 2,000 come, 16 made the gaps' p99 46 to 56 ms and 8 make it 28, where decode alone
/// takes 10; the prompts wait 4 s for their first token either way.
const MIN_PREFILL_TOKENS: usize = 8;
/// Weight of the newest measurement, …
const NEWEST: f64 = 0.2;
/// … of one that says that decode rows are faster: whatever else a machine does lengthens a batch, nothing shortens one, …
const NEWEST_FASTER: f64 = 0.5;
/// … and of one after so many batches: its share of this number, if that is more. Sequences were longer or shorter then.
const BATCHES_TO_FORGET: f64 = 256.0;
/// When this many batches went by without one of about as many decode rows alone, the next is one, to know what they take.
const BATCHES_BETWEEN_PROBES: u64 = 32;
/// Numbers of decode rows that are told apart: [`size`].
const SIZES: usize = 16;
/// A measured time of prefill counts as at most this many times what was expected, or this part of it: one batch that had to
/// wait for its processor is no news.
const SURPRISE: f64 = 4.0;

/// What a batch was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) decode_rows: usize,
    pub(super) prefill: Prefill,
}

/// Prefill tokens of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prefill {
    pub(super) tokens: usize,
    /// Sum over them of the tokens before each in its sequence.
    attended: usize,
}

impl Prefill {
    /// One chunk's, whose first token is at `start`.
    pub(super) fn chunk(start: usize, tokens: usize) -> Self {
        Self { tokens, attended: tokens * start + tokens * tokens.saturating_sub(1) / 2 }
    }

    /// Adds another chunk.
    pub(super) fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.attended += other.attended;
    }
}

/// What a batch may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Decode rows.
    pub(super) decode_tokens: usize,
    prefill_tokens: usize,
    /// Of `prefill_tokens`, those that it may have however long they take.
    certain_tokens: usize,
    /// Seconds that its prefill may take, and what it takes; nothing for no bound.
    time: Option<(f64, PrefillCost)>,
}

impl Budget {
    /// How many of a sequence's next `tokens`, from `start` on, it may have.
    pub(super) fn prefill(&self, start: usize, tokens: usize) -> usize {
        let in_time = self.time.map_or(usize::MAX, |(left_s, cost)| cost.tokens_within(left_s, start));
        tokens.min(self.prefill_tokens).min(in_time.max(self.certain_tokens))
    }

    /// Gives it them.
    pub(super) fn take_prefill(&mut self, chunk: Prefill) {
        self.prefill_tokens -= chunk.tokens;
        self.certain_tokens = self.certain_tokens.saturating_sub(chunk.tokens);
        if let Some((left_s, cost)) = &mut self.time {
            *left_s -= cost.seconds(chunk);
        }
    }
}

/// What wants to be in the next batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// Sequences that could decode.
    pub(super) decode_rows: usize,
    /// One of them has, or can get, a place for its token, so a batch of decode rows alone would not be empty.
    pub(super) decode_certain: bool,
    /// Sequences whose prompts are not fed yet, of those that have or could have a slot.
    pub(super) prompts: usize,
}

/// How fast batches were, and so how many prompt tokens keep one with decode rows short enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// A batch with decode rows should take at most this many times what they take alone; 0 for no bound. For three times at
    /// the 99th percentile it must be less, since measurements lag behind.
    max_decode_gap: f64,
    /// Batches of decode rows alone, by [`size`].
    alone: [Option<Alone>; SIZES],
    /// Of batches with decode rows once there was one: thousands of tokens without would outweigh the next twenty with, which
    /// cost more each.
    prefill: Option<PrefillCost>,
    learnt_beside_decode: bool,
    /// Batches so far.
    batches: u64,
}

/// What is known of batches of some number of decode rows alone.
#[derive(Clone, Copy, Debug)]
struct Alone {
    /// Smoothed.
    step_s: f64,
    /// Which batch was the last.
    batch: u64,
}

/// What prefill takes: a time for each token, and one for each earlier token that it attends to. Where the one ends and the
/// other begins is learnt from chunks at different places: each measurement corrects each of the two by as much as the
/// expected time was due to it (normalised least mean squares, of factors). At token 2,000 of a SmolLM2 prompt the second is as
/// long as the first, or longer.
#[derive(Clone, Copy, Debug)]
struct PrefillCost {
    token_s: f64,
    attended_s: f64,
}

impl PrefillCost {
    /// Where attention is taken to cost as much as the rest of a token does, until it is known.
    const EVEN_AT: f64 = 2048.0;
    /// So that factors can correct it, whatever was measured.
    const LEAST_S: f64 = 1e-9;

    /// From one measurement.
    fn first(prefill: Prefill, elapsed_s: f64) -> Self {
        let tokens = prefill.tokens as f64 + prefill.attended as f64 / Self::EVEN_AT;
        let token_s = (elapsed_s / tokens).max(Self::LEAST_S);
        Self { token_s, attended_s: token_s / Self::EVEN_AT }
    }

    fn seconds(&self, prefill: Prefill) -> f64 {
        self.token_s * prefill.tokens as f64 + self.attended_s * prefill.attended as f64
    }

    /// Tokens from `start` on that take no longer than this: of `n`, `seconds` is quadratic.
    fn tokens_within(&self, seconds: f64, start: usize) -> usize {
        let first_s = self.token_s + self.attended_s * start as f64;
        let seconds = seconds.max(0.0);
        (2.0 * seconds / (first_s + (first_s * first_s + 2.0 * self.attended_s * seconds).sqrt())) as usize
    }

    /// Takes a measurement in, which was told apart from `beside_s` of decode rows: the less of the whole it is, the less it
    /// says.
    fn learn(&mut self, prefill: Prefill, elapsed_s: f64, beside_s: f64) {
        let expected_s = self.seconds(prefill);
        let surprise = (elapsed_s / expected_s).clamp(1.0 / SURPRISE, SURPRISE) - 1.0;
        let of_tokens = self.token_s * prefill.tokens as f64 / expected_s;
        let of_attended = 1.0 - of_tokens;
        let gain = NEWEST * expected_s / (expected_s + beside_s) / (of_tokens * of_tokens + of_attended * of_attended);
        self.token_s = (self.token_s * (1.0 + gain * of_tokens * surprise)).max(Self::LEAST_S);
        self.attended_s *= 1.0 + gain * of_attended * surprise;
    }
}

impl Pace {
    /// Nothing measured.
    pub(super) fn new(max_decode_gap: f64) -> Self {
        Self { max_decode_gap, alone: [None; SIZES], prefill: None, learnt_beside_decode: false, batches: 0 }
    }

    /// Learns from a batch.
    pub(super) fn observe(&mut self, load: Load, elapsed: Duration) {
        self.batches += 1;
        if load.prefill.tokens == 0 {
            self.observe_alone(load.decode_rows, elapsed.as_secs_f64());
        } else {
            self.observe_prefill(load, elapsed.as_secs_f64());
        }
    }

    fn observe_alone(&mut self, rows: usize, elapsed_s: f64) {
        let known = &mut self.alone[size(rows)];
        let step_s = known.map_or(elapsed_s, |known| {
            let newest = if elapsed_s < known.step_s { NEWEST_FASTER } else { NEWEST };
            let forgotten = (self.batches - known.batch) as f64 / BATCHES_TO_FORGET;
            known.step_s + newest.max(forgotten).min(1.0) * (elapsed_s - known.step_s)
        });
        *known = Some(Alone { step_s, batch: self.batches });
    }

    fn observe_prefill(&mut self, load: Load, elapsed_s: f64) {
        let decode_s = match (load.decode_rows, self.decode_step_s(load.decode_rows)) {
            (0, _) if self.learnt_beside_decode => return,
            (0, _) => 0.0,
            (_, Some(decode_step_s)) => decode_step_s,
            (_, None) => return, // not to be told apart
        };
        let prefill_s = (elapsed_s - decode_s).max(0.0);
        let is_first_beside = load.decode_rows > 0 && !self.learnt_beside_decode;
        match &mut self.prefill {
            Some(cost) if !is_first_beside => cost.learn(load.prefill, prefill_s, decode_s),
            cost if prefill_s > 0.0 => {
                *cost = Some(PrefillCost::first(load.prefill, prefill_s));
                self.learnt_beside_decode |= is_first_beside;
            }
            _ => {}
        }
    }

    /// Divides a batch of at most `batch_tokens`. Prefill that is wanted gets at least a floor, even where decode rows alone
    /// would fill the batch: the oldest sequence may be the one that prefills. Decode rows get at least one token, for
    /// prefill that is wanted may turn out impossible.
    pub(super) fn divide(&self, batch_tokens: usize, demand: Demand) -> Budget {
        let of = |prefill_tokens, certain_tokens, time| {
            let decode_tokens = batch_tokens - prefill_tokens;
            Budget { decode_tokens, prefill_tokens, certain_tokens, time }
        };
        if demand.decode_rows == 0 {
            return of(batch_tokens, 0, None);
        }
        let is_bounded = self.max_decode_gap > 0.0;
        if demand.prompts == 0 || (is_bounded && demand.decode_certain && self.wants_probe(demand.decode_rows)) {
            return of(0, 0, None);
        }
        let floor = MIN_PREFILL_TOKENS.min(batch_tokens / 2);
        let room = batch_tokens.saturating_sub(demand.decode_rows);
        of(room.max(floor), floor, if is_bounded { self.spare_time(demand) } else { None })
    }

    /// Whether what so many decode rows take alone is not known, or of a while ago.
    fn wants_probe(&self, rows: usize) -> bool {
        self.alone[size(rows)].is_none_or(|known| self.batches - known.batch >= BATCHES_BETWEEN_PROBES)
    }

    /// What so many decode rows take alone: measured with about as many, else with the next fewer, else with the next more.
    fn decode_step_s(&self, rows: usize) -> Option<f64> {
        let (fewer, more) = self.alone.split_at(size(rows) + 1);
        fewer.iter().rev().chain(more).find_map(|known| known.map(|known| known.step_s))
    }

    /// Seconds of prefill that keep a mixed batch within the multiple; no bound while something is not measured.
    fn spare_time(&self, demand: Demand) -> Option<(f64, PrefillCost)> {
        let Demand { decode_rows, prompts, .. } = demand;
        let (now_s, cost) = (self.decode_step_s(decode_rows)?, self.prefill?);
        let mut then_s = now_s;
        if prompts > decode_rows {
            let rows = decode_rows + prompts;
            then_s = match self.alone[size(rows)] {
                Some(known) => known.step_s,
                // Where so many were never measured, a row takes as long as a prefill token at least.
                None => now_s + prompts as f64 * cost.token_s,
            };
            // What was measured with more rows may be of longer sequences; more than in proportion it is not.
            then_s = then_s.min(now_s * rows as f64 / decode_rows as f64).max(now_s);
        }
        Some((self.max_decode_gap * then_s - now_s, cost))
    }
}

/// 0 for a row or none, 1 for two, 2 for up to four, 3 for up to eight, …
fn size(rows: usize) -> usize {
    (rows.max(1).next_power_of_two().ilog2() as usize).min(SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: usize = 8192;
    const GAP: f64 = 2.5;

    fn mixed(decode_rows: usize) -> Demand {
        Demand { decode_rows, decode_certain: true, prompts: 1 }
    }

    fn alone(decode_rows: usize) -> Load {
        Load { decode_rows, prefill: Prefill::default() }
    }

    fn beside(decode_rows: usize, start: usize, tokens: usize) -> Load {
        Load { decode_rows, prefill: Prefill::chunk(start, tokens) }
    }

    fn ms(ms: f64) -> Duration {
        Duration::from_secs_f64(ms / 1e3)
    }

    /// Prefill tokens of a batch, all of one sequence from `start` on.
    fn from(pace: &Pace, demand: Demand, start: usize) -> usize {
        pace.divide(BATCH, demand).prefill(start, usize::MAX)
    }

    /// … whose attention costs nothing yet, as it is at first.
    fn tokens(pace: &Pace, demand: Demand) -> usize {
        let mut pace = *pace;
        if let Some(cost) = &mut pace.prefill {
            cost.attended_s = 0.0;
        }
        from(&pace, demand, 0)
    }

    fn measured(decode_ms: f64, prefill_token_ms: f64) -> Pace {
        let mut pace = Pace::new(GAP);
        pace.observe(alone(4), ms(decode_ms));
        pace.observe(beside(0, 0, 1), ms(prefill_token_ms));
        pace
    }

    #[test]
    fn nothing_decodes_prefill_has_all() {
        let demand = Demand { decode_rows: 0, decode_certain: false, prompts: 1 };
        let budget = measured(1.0, 1.0).divide(BATCH, demand);
        assert_eq!((budget.decode_tokens, budget.prefill(0, BATCH)), (0, BATCH));
    }

    #[test]
    fn measured_speed_bounds_prefill_whatever_the_machine() {
        // Two cores: 50 ms a step, 2 ms a token: 1.5 * 50 / 2 tokens more.
        assert_eq!(tokens(&measured(50.0, 2.0), mixed(4)), 37);
        // A GPU: 8 ms a step, 10 us a token.
        assert_eq!(tokens(&measured(8.0, 0.01), mixed(4)), 1200);
        // Never below the floor, never beyond the batch.
        assert_eq!(tokens(&measured(1.0, 10.0), mixed(4)), MIN_PREFILL_TOKENS);
        assert_eq!(tokens(&measured(1e6, 0.01), mixed(4)), BATCH - 4);
    }

    #[test]
    fn without_a_bound_prompts_have_all_the_room_and_nothing_is_probed() {
        let mut pace = Pace::new(0.0);
        for _ in 0..=BATCHES_BETWEEN_PROBES {
            assert_eq!(tokens(&pace, mixed(4)), BATCH - 4);
            pace.observe(beside(4, 0, 100), Duration::from_secs(9));
        }
    }

    #[test]
    fn chunks_of_several_sequences_share_the_time_of_a_batch() {
        let mut budget = measured(50.0, 2.0).divide(BATCH, mixed(4)); // 75 ms
        let first = Prefill::chunk(0, 20);
        budget.take_prefill(first);
        assert_eq!(budget.prefill(0, BATCH), 17);
        assert_eq!(budget.prefill(0, 5), 5);
        // An earlier token costs a 2,048th of what a token does, as long as nothing else is known.
        assert_eq!(budget.prefill(2048, BATCH), 8);
        budget.take_prefill(Prefill::chunk(2048, 8));
        assert_eq!(budget.prefill(0, BATCH), 1);
        budget.take_prefill(Prefill::chunk(0, 1));
        assert_eq!(budget.prefill(0, BATCH), 0);
    }

    #[test]
    fn a_burst_of_prompts_is_bounded_by_the_gaps_to_come() {
        let mut pace = measured(10.0, 0.5);
        let burst = Demand { decode_rows: 4, decode_certain: true, prompts: 27 };
        // 31 rows were never seen; they take 10 + 27 * 0.5 at least: (2.5 * 23.5 - 10) / 0.5.
        assert_eq!(tokens(&pace, burst), 97);
        pace.observe(alone(32), ms(40.0));
        // (2.5 * 40 - 10) / 0.5, but few more prompts are as before.
        assert_eq!(tokens(&pace, burst), 180);
        assert_eq!(tokens(&pace, Demand { prompts: 4, ..burst }), 30);
        // Step times rise at most in proportion to rows: 3 rows and 4 to come take 70 / 3 ms at most.
        pace.observe(alone(8), ms(900.0));
        assert_eq!(tokens(&pace, Demand { decode_rows: 3, prompts: 3, ..burst }), 30);
        assert_eq!(tokens(&pace, Demand { decode_rows: 3, prompts: 4, ..burst }), 96);
    }

    #[test]
    fn a_number_of_rows_that_was_not_seen_lately_is_measured_anew() {
        let mut pace = measured(10.0, 0.5);
        let probe = |pace: &Pace, rows| tokens(pace, mixed(rows)) == 0;
        assert!(!probe(&pace, 3) && probe(&pace, 8) && probe(&pace, 2));
        pace.observe(alone(6), ms(900.0));
        assert!(!probe(&pace, 8));
        for _ in 0..256 {
            pace.observe(alone(4), ms(10.0));
        }
        assert!(!probe(&pace, 4) && probe(&pace, 8));
        // Of what was long ago nothing is left: 1.5 * 20 / 0.5.
        pace.observe(alone(8), ms(20.0));
        assert_eq!(tokens(&pace, mixed(7)), 60);
        // One that had to wait changes what was measured just before by a fifth, one that was faster by half.
        pace.observe(alone(8), ms(120.0));
        assert_eq!(tokens(&pace, mixed(7)), 120);
        pace.observe(alone(8), ms(20.0));
        assert_eq!(tokens(&pace, mixed(7)), 90);
    }

    /// Observes mixed batches as `batch_ms` has them, each of as many tokens as are allowed, until what is expected has settled.
    fn settle(pace: &mut Pace, starts: &[usize], batch_ms: impl Fn(Prefill) -> f64) {
        for _ in 0..200 {
            for &start in starts {
                let load = beside(4, start, from(pace, mixed(4), start));
                let elapsed_ms = if load.prefill.tokens == 0 { 20.0 } else { 20.0 + batch_ms(load.prefill) };
                pace.observe(load, ms(elapsed_ms));
            }
        }
    }

    #[test]
    fn what_attention_costs_is_learnt_from_chunks_at_different_places() {
        let mut pace = Pace::new(GAP);
        let batch_ms = |prefill: Prefill| prefill.tokens as f64 * 0.5 + prefill.attended as f64 * 0.0005;
        settle(&mut pace, &[0, 4000, 500, 2000], batch_ms);
        // 30 ms: at the beginning 0.5 ms a token and half a token's attention for each, at 4,000 five times as much.
        assert!((57..=59).contains(&from(&pace, mixed(4), 0)), "{pace:?}");
        assert!((11..=12).contains(&from(&pace, mixed(4), 4000)), "{pace:?}");
        // A machine that is slower from now on is as well told by chunks at one place.
        settle(&mut pace, &[2000], |prefill| 2.0 * batch_ms(prefill));
        assert!((9..=10).contains(&from(&pace, mixed(4), 2000)), "{pace:?}");
    }

    #[test]
    fn one_batch_that_had_to_wait_for_its_processor_is_no_news() {
        let mut pace = Pace::new(GAP);
        settle(&mut pace, &[0], |prefill| prefill.tokens as f64 * 0.5);
        let before = from(&pace, mixed(4), 0);
        pace.observe(beside(4, 0, before), Duration::from_secs(9));
        assert!(from(&pace, mixed(4), 0) > before / 2);
    }

    #[test]
    fn mixed_batches_teach_prefill_speed_apart_from_the_decode_rows() {
        let mut pace = Pace::new(GAP);
        pace.observe(alone(4), ms(50.0));
        pace.observe(beside(4, 0, 1), ms(52.0));
        assert_eq!(tokens(&pace, mixed(4)), 37);
        // Thousands of tokens at once, at a quarter of that each, teach nothing of the next mixed batch.
        pace.observe(beside(0, 0, 4000), ms(2000.0));
        assert_eq!(tokens(&pace, mixed(4)), 37);
    }

    #[test]
    fn unmeasured_decode_is_probed_once_and_then_now_and_again() {
        let mut pace = Pace::new(GAP);
        assert_eq!(tokens(&pace, mixed(4)), 0);
        // No probe where it could leave the batch empty.
        let uncertain = Demand { decode_certain: false, ..mixed(4) };
        assert_eq!(tokens(&pace, uncertain), BATCH - 4);
        pace.observe(alone(4), ms(50.0));
        for _ in 0..BATCHES_BETWEEN_PROBES {
            assert_ne!(tokens(&pace, mixed(4)), 0);
            pace.observe(beside(4, 0, 100), ms(100.0));
        }
        assert_eq!(tokens(&pace, mixed(4)), 0);
    }

    #[test]
    fn small_batches_are_shared() {
        let mut pace = measured(1.0, 1.0);
        for size in 0..=8 {
            pace.observe(alone(1 << size), ms(1.0));
        }
        for batch_tokens in 1..100 {
            for decode_rows in 1..200 {
                let budget = pace.divide(batch_tokens, mixed(decode_rows));
                let prefill = budget.prefill(0, usize::MAX);
                assert!(budget.decode_tokens > 0 && (prefill > 0 || batch_tokens == 1));
                assert!(prefill + budget.decode_tokens <= batch_tokens);
            }
        }
    }

    #[test]
    fn batches_that_took_no_time_are_no_division_by_zero() {
        let mut pace = Pace::new(GAP);
        pace.observe(alone(1), Duration::ZERO);
        for _ in 0..3 {
            pace.observe(beside(1, 0, 9), Duration::ZERO);
            assert_eq!(from(&pace, mixed(1), 0), BATCH - 1);
        }
    }
}
