//! Budget: how many of a batch's input tokens may be prefill, from measured speed.
//!
//! While sequences decode, every prefill token in their batch lengthens the gap between their tokens. One constant cannot
//! serve a GPU and two cores, so the bound follows what batches took. Where more prompts wait than sequences decode, it is
//! what batches took with as many rows as there will be, since those gaps come anyway: one sequence would hold a burst of
//! thirty prompts back otherwise. Pure arithmetic on durations that are given as data; whether a result is right never
//! depends on it. Knows no sequence, page or clock.
use std::time::Duration;

/// Prefill tokens that a batch may always have, so that a prompt gets on however fast the decode rows are. On two cores, four
/// sequences decoding SmolLM2 while prompts of 2,000 come, 16 made the gaps' p99 46 to 56 ms and 8 make it 28, where decode alone
/// takes 10; the prompts wait 4 s for their first token either way.
const MIN_PREFILL_TOKENS: usize = 8;
/// Weight of the newest measurement, …
const NEWEST: f64 = 0.2;
/// … and of one that says that decode rows are faster: whatever else a machine does lengthens a batch, nothing shortens one.
const NEWEST_FASTER: f64 = 0.5;
/// When this many batches went by without one of about as many decode rows alone, the next is one, to know what they take.
const BATCHES_BETWEEN_PROBES: u64 = 64;
/// Numbers of decode rows that are told apart: [`size`].
const SIZES: usize = 16;

/// What a batch was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) decode_rows: usize,
    pub(super) prefill_tokens: usize,
}

/// Input tokens that a batch may have, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) decode_tokens: usize,
    pub(super) prefill_tokens: usize,
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
    /// Smoothed sums whose quotient is seconds a prefill token; summing weighs a batch by its tokens. They are of batches with
    /// decode rows once there was one: thousands of tokens without would outweigh the next twenty with, which cost more each.
    prefill_s: f64,
    prefill_tokens: f64,
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

impl Pace {
    /// Nothing measured.
    pub(super) fn new(max_decode_gap: f64) -> Self {
        Self {
            max_decode_gap,
            alone: [None; SIZES],
            prefill_s: 0.0,
            prefill_tokens: 0.0,
            learnt_beside_decode: false,
            batches: 0,
        }
    }

    /// Learns from a batch.
    pub(super) fn observe(&mut self, load: Load, elapsed: Duration) {
        let elapsed_s = elapsed.as_secs_f64();
        self.batches += 1;
        if load.prefill_tokens == 0 {
            let known = if self.wants_probe(load.decode_rows) { None } else { self.alone[size(load.decode_rows)] };
            let step_s = known.map_or(elapsed_s, |known| {
                let newest = if elapsed_s < known.step_s { NEWEST_FASTER } else { NEWEST };
                known.step_s + newest * (elapsed_s - known.step_s)
            });
            self.alone[size(load.decode_rows)] = Some(Alone { step_s, batch: self.batches });
            return;
        }
        let decode_s = match (load.decode_rows, self.decode_step_s(load.decode_rows)) {
            (0, _) if self.learnt_beside_decode => return,
            (0, _) => 0.0,
            (_, Some(decode_step_s)) => decode_step_s,
            (_, None) => return, // not to be told apart
        };
        if load.decode_rows > 0 && !self.learnt_beside_decode {
            (self.learnt_beside_decode, self.prefill_s, self.prefill_tokens) = (true, 0.0, 0.0);
        }
        self.prefill_s = self.prefill_s * (1.0 - NEWEST) + (elapsed_s - decode_s).max(0.0);
        self.prefill_tokens = self.prefill_tokens * (1.0 - NEWEST) + load.prefill_tokens as f64;
    }

    /// Divides a batch of at most `batch_tokens`. Prefill that is wanted gets at least a floor, even where decode rows alone
    /// would fill the batch: the oldest sequence may be the one that prefills. Decode rows get at least one token, for
    /// prefill that is wanted may turn out impossible.
    pub(super) fn divide(&self, batch_tokens: usize, demand: Demand) -> Budget {
        if demand.decode_rows == 0 {
            return Budget { decode_tokens: 0, prefill_tokens: batch_tokens };
        }
        let is_bounded = self.max_decode_gap > 0.0;
        if demand.prompts == 0 || (is_bounded && demand.decode_certain && self.wants_probe(demand.decode_rows)) {
            return Budget { decode_tokens: batch_tokens, prefill_tokens: 0 };
        }
        let floor = MIN_PREFILL_TOKENS.min(batch_tokens / 2);
        let room = batch_tokens.saturating_sub(demand.decode_rows);
        let bound = if is_bounded { self.gap_bound(demand) } else { usize::MAX };
        let prefill_tokens = bound.min(room).max(floor);
        Budget { decode_tokens: batch_tokens - prefill_tokens, prefill_tokens }
    }

    /// Whether what so many decode rows take alone is not known, or of long ago, when sequences were shorter or longer.
    fn wants_probe(&self, rows: usize) -> bool {
        self.alone[size(rows)].is_none_or(|known| self.batches - known.batch >= BATCHES_BETWEEN_PROBES)
    }

    /// What so many decode rows take alone: measured with about as many, else with the next fewer, else with the next more.
    fn decode_step_s(&self, rows: usize) -> Option<f64> {
        let (fewer, more) = self.alone.split_at(size(rows) + 1);
        fewer.iter().rev().chain(more).find_map(|known| known.map(|known| known.step_s))
    }

    /// Prefill tokens that keep a mixed batch within the multiple; no bound while something is not measured.
    fn gap_bound(&self, demand: Demand) -> usize {
        let Demand { decode_rows, prompts, .. } = demand;
        let Some(now_s) = self.decode_step_s(decode_rows).filter(|_| self.prefill_s > 0.0) else { return usize::MAX };
        let mut then_s = now_s;
        if prompts > decode_rows {
            // What was measured with more rows may be of longer sequences; more than in proportion it is not.
            let rows = decode_rows + prompts;
            let known = self.decode_step_s(rows).unwrap_or(now_s);
            then_s = known.min(now_s * rows as f64 / decode_rows as f64).max(now_s);
        }
        let spare_s = (self.max_decode_gap * then_s - now_s).max(0.0);
        (spare_s * self.prefill_tokens / self.prefill_s) as usize
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

    fn measured(decode_ms: f64, prefill_token_ms: f64) -> Pace {
        let mut pace = Pace::new(GAP);
        pace.observe(Load { decode_rows: 4, prefill_tokens: 0 }, Duration::from_secs_f64(decode_ms / 1e3));
        let load = Load { decode_rows: 0, prefill_tokens: 1000 };
        pace.observe(load, Duration::from_secs_f64(prefill_token_ms));
        pace
    }

    #[test]
    fn nothing_decodes_prefill_has_all() {
        let demand = Demand { decode_rows: 0, decode_certain: false, prompts: 1 };
        let budget = measured(1.0, 1.0).divide(BATCH, demand);
        assert_eq!(budget, Budget { decode_tokens: 0, prefill_tokens: BATCH });
    }

    #[test]
    fn measured_speed_bounds_prefill_whatever_the_machine() {
        // Two cores: 50 ms a step, 2 ms a token: 1.5 * 50 / 2 tokens more.
        assert_eq!(measured(50.0, 2.0).divide(BATCH, mixed(4)).prefill_tokens, 37);
        // A GPU: 8 ms a step, 10 us a token.
        assert_eq!(measured(8.0, 0.01).divide(BATCH, mixed(4)).prefill_tokens, 1200);
        // Never below the floor, never beyond the batch.
        assert_eq!(measured(1.0, 10.0).divide(BATCH, mixed(4)).prefill_tokens, MIN_PREFILL_TOKENS);
        assert_eq!(measured(1e6, 0.01).divide(BATCH, mixed(4)).prefill_tokens, BATCH - 4);
    }

    #[test]
    fn without_a_bound_prompts_have_all_the_room_and_nothing_is_probed() {
        let mut pace = Pace::new(0.0);
        for _ in 0..=BATCHES_BETWEEN_PROBES {
            assert_eq!(pace.divide(BATCH, mixed(4)).prefill_tokens, BATCH - 4);
            pace.observe(Load { decode_rows: 4, prefill_tokens: 100 }, Duration::from_secs(9));
        }
    }

    #[test]
    fn a_burst_of_prompts_is_bounded_by_the_gaps_to_come() {
        let mut pace = measured(10.0, 0.5);
        let burst = Demand { decode_rows: 4, decode_certain: true, prompts: 28 };
        // 32 rows were never seen: 1.5 * 10 / 0.5.
        assert_eq!(pace.divide(BATCH, burst).prefill_tokens, 30);
        pace.observe(Load { decode_rows: 32, prefill_tokens: 0 }, Duration::from_millis(40));
        // (2.5 * 40 - 10) / 0.5, but few more prompts are as before.
        assert_eq!(pace.divide(BATCH, burst).prefill_tokens, 180);
        assert_eq!(pace.divide(BATCH, Demand { prompts: 4, ..burst }).prefill_tokens, 30);
        // Step times rise at most in proportion to rows: 3 rows and 4 to come take 70 / 3 ms at most.
        pace.observe(Load { decode_rows: 8, prefill_tokens: 0 }, Duration::from_millis(900));
        assert_eq!(pace.divide(BATCH, Demand { decode_rows: 3, prompts: 3, ..burst }).prefill_tokens, 30);
        assert_eq!(pace.divide(BATCH, Demand { decode_rows: 3, prompts: 4, ..burst }).prefill_tokens, 96);
    }

    #[test]
    fn a_number_of_rows_that_was_not_seen_lately_is_measured_anew() {
        let mut pace = measured(10.0, 0.5);
        let probe = |pace: &Pace, rows| pace.divide(BATCH, mixed(rows)).prefill_tokens == 0;
        assert!(!probe(&pace, 3) && probe(&pace, 8) && probe(&pace, 2));
        pace.observe(Load { decode_rows: 6, prefill_tokens: 0 }, Duration::from_millis(900));
        assert!(!probe(&pace, 8));
        for _ in 0..BATCHES_BETWEEN_PROBES {
            pace.observe(Load { decode_rows: 4, prefill_tokens: 0 }, Duration::from_millis(10));
        }
        assert!(!probe(&pace, 4) && probe(&pace, 8));
        // Of what was long ago nothing is left: 1.5 * 20 / 0.5.
        pace.observe(Load { decode_rows: 8, prefill_tokens: 0 }, Duration::from_millis(20));
        assert_eq!(pace.divide(BATCH, mixed(7)).prefill_tokens, 60);
    }

    #[test]
    fn mixed_batches_teach_prefill_speed_apart_from_the_decode_rows() {
        let mut pace = Pace::new(GAP);
        pace.observe(Load { decode_rows: 4, prefill_tokens: 0 }, Duration::from_millis(50));
        pace.observe(Load { decode_rows: 4, prefill_tokens: 100 }, Duration::from_millis(250));
        assert_eq!(pace.divide(BATCH, mixed(4)).prefill_tokens, 37);
        // Thousands of tokens at once, at a quarter of that each, teach nothing of the next mixed batch.
        pace.observe(Load { decode_rows: 0, prefill_tokens: 4000 }, Duration::from_millis(2000));
        assert_eq!(pace.divide(BATCH, mixed(4)).prefill_tokens, 37);
    }

    #[test]
    fn unmeasured_decode_is_probed_once_and_then_now_and_again() {
        let mut pace = Pace::new(GAP);
        let alone = Budget { decode_tokens: BATCH, prefill_tokens: 0 };
        assert_eq!(pace.divide(BATCH, mixed(4)), alone);
        // No probe where it could leave the batch empty.
        let uncertain = Demand { decode_certain: false, ..mixed(4) };
        assert_eq!(pace.divide(BATCH, uncertain).prefill_tokens, BATCH - 4);
        pace.observe(Load { decode_rows: 4, prefill_tokens: 0 }, Duration::from_millis(50));
        for _ in 0..BATCHES_BETWEEN_PROBES {
            assert_ne!(pace.divide(BATCH, mixed(4)), alone);
            pace.observe(Load { decode_rows: 4, prefill_tokens: 100 }, Duration::from_millis(100));
        }
        assert_eq!(pace.divide(BATCH, mixed(4)), alone);
    }

    #[test]
    fn small_batches_are_shared() {
        let mut pace = measured(1.0, 1.0);
        for size in 0..=8 {
            pace.observe(Load { decode_rows: 1 << size, prefill_tokens: 0 }, Duration::from_millis(1));
        }
        for batch_tokens in 1..100 {
            for decode_rows in 1..200 {
                let budget = pace.divide(batch_tokens, mixed(decode_rows));
                assert!(budget.decode_tokens > 0 && (budget.prefill_tokens > 0 || batch_tokens == 1));
                assert_eq!(budget.prefill_tokens + budget.decode_tokens, batch_tokens);
            }
        }
    }

    #[test]
    fn batches_that_took_no_time_are_no_division_by_zero() {
        let mut pace = Pace::new(GAP);
        pace.observe(Load { decode_rows: 1, prefill_tokens: 0 }, Duration::ZERO);
        pace.observe(Load { decode_rows: 1, prefill_tokens: 9 }, Duration::ZERO);
        assert_eq!(pace.divide(BATCH, mixed(1)).prefill_tokens, BATCH - 1);
    }
}
