//! Single rules, one at a time: what a batch holds, who waits for whom, what an end leaves behind.
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use minisgl_config::CacheType;
use minisgl_kernels::{Slot, TokenId, Want};

use super::model::{EOS, Model, Truth, sampling};
use crate::batch::{Batch, BatchOutput, Capacity, RowOutput, RowTokens};
use crate::request::{Failure, FinishReason, SeqId};
use crate::scheduler::{NewSequence, Notice, Scheduler, SchedulerConfig, What};

const CAPACITY: Capacity =
    Capacity { pages: 64, page_size: 4, slots: 8, context: 1000, vocabulary: 60, batch_tokens: 32 };

struct Bench {
    scheduler: Scheduler,
    model: Model,
    results: VecDeque<BatchOutput>,
}

impl Bench {
    fn new(capacity: Capacity, batches_out: usize) -> Self {
        let config =
            SchedulerConfig { capacity, eos: EOS.to_vec(), cache: CacheType::Radix, batches_out, max_decode_gap: 2.5 };
        Self { scheduler: Scheduler::new(config), model: Model::new(capacity), results: VecDeque::new() }
    }

    fn admit(&mut self, id: u64, prompt: &[TokenId], max_tokens: usize) {
        self.admit_choice(id, prompt, max_tokens, None);
    }

    /// It ignores ends, so that lengths are known.
    fn admit_choice(&mut self, id: u64, prompt: &[TokenId], max_tokens: usize, leader: Option<u64>) {
        self.model.truths.insert(id, Truth::new(prompt, max_tokens, id, true));
        self.scheduler.admit(NewSequence {
            id: SeqId(id),
            prompt: prompt.into(),
            max_tokens,
            sampling: sampling(id),
            ignore_eos: true,
            leader: leader.map(SeqId),
        });
    }

    fn plan(&mut self) -> Batch {
        self.try_plan().expect("a batch")
    }

    fn try_plan(&mut self) -> Option<Batch> {
        let batch = self.scheduler.plan()?;
        let (result, _) = self.model.run(&batch, None, Duration::ZERO);
        self.results.push_back(result);
        Some(batch)
    }

    fn commit(&mut self) -> Vec<Notice> {
        self.scheduler.commit(self.results.pop_front().expect("a batch is out"));
        assert_eq!(self.scheduler.check_integrity(), Ok(()));
        self.scheduler.take_notices()
    }

    /// Plans as many as may be out, commits one, until nothing is left.
    fn finish(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        while !self.scheduler.is_idle() {
            while self.try_plan().is_some() {}
            notices.extend(self.commit());
        }
        notices
    }

    fn pages(&self) -> (usize, usize, usize) {
        let stats = self.scheduler.stats();
        (stats.pages_free, stats.pages_cached, stats.pages_in_use)
    }
}

fn prompt(length: usize, from: u32) -> Vec<TokenId> {
    (0..length as u32).map(|i| 2 + (from + i) % 50).collect()
}

fn tokens_of(notices: &[Notice], id: u64) -> Vec<TokenId> {
    let tokens = notices.iter().filter(|notice| notice.id == SeqId(id));
    tokens.filter_map(|notice| if let What::Token(token) = notice.what { Some(token) } else { None }).collect()
}

fn cached_of(notices: &[Notice], id: u64) -> Option<usize> {
    notices.iter().find_map(|notice| match notice.what {
        What::Started { cached_tokens } if notice.id == SeqId(id) => Some(cached_tokens),
        _ => None,
    })
}

fn notice(id: u64, what: What) -> Notice {
    Notice { id: SeqId(id), what }
}

#[test]
fn a_prompt_goes_in_chunks_two_of_them_in_flight_and_decode_follows_unseen() {
    let mut bench = Bench::new(CAPACITY, 2);
    bench.admit(7, &prompt(40, 0), 3);
    let first = bench.plan();
    assert_eq!(first.rows.len(), 1);
    let row = &first.rows[0];
    assert_eq!((row.slot, row.start, row.want, row.new_pages.len()), (Slot(0), 0, Want::Nothing, 8));
    assert_eq!(row.begin.as_ref().map(|sampling| sampling.seed), Some(7));
    assert_eq!(row.tokens, RowTokens::Chunk(prompt(32, 0)));
    let second = bench.plan();
    let row = &second.rows[0];
    assert_eq!((row.start, row.want, row.new_pages.len(), row.begin.is_none()), (32, Want::Sample, 2, true));
    assert!(bench.try_plan().is_none(), "two are out");
    assert_eq!(bench.commit(), [notice(7, What::Started { cached_tokens: 0 })]);
    let third = bench.plan();
    let row = &third.rows[0];
    assert_eq!((row.start, row.want, row.new_pages.len()), (40, Want::Sample, 1));
    assert_eq!(row.tokens, RowTokens::LastSampled);
    assert_eq!(bench.commit().len(), 1);
    let fourth = bench.plan();
    assert_eq!((fourth.rows[0].start, fourth.rows[0].new_pages.len()), (41, 0));
    assert!(bench.try_plan().is_none(), "three tokens need no fifth row");
    bench.commit();
    let last = bench.commit();
    let output = bench.model.truths[&7].output.clone();
    let end = [What::Token(output[2]), What::Finished(FinishReason::Length), What::Left].map(|what| notice(7, what));
    assert_eq!(last, end);
    assert_eq!(bench.pages(), (54, 10, 0));
}

#[test]
fn decode_rows_and_chunks_share_a_batch() {
    let mut bench = Bench::new(CAPACITY, 1);
    bench.admit(1, &prompt(8, 0), 20);
    bench.plan();
    bench.commit();
    bench.admit(2, &prompt(40, 20), 20);
    // Unmeasured, the decode step is taken alone once.
    assert_eq!(bench.plan().rows.len(), 1);
    bench.commit();
    let batch = bench.plan();
    let lengths: Vec<usize> = batch.rows.iter().map(|row| row.tokens.len()).collect();
    assert_eq!(lengths, [1, 31]);
    bench.commit();
    bench.finish();
}

#[test]
fn measured_speed_bounds_the_chunks_beside_decode_rows() {
    let capacity = Capacity { batch_tokens: 512, pages: 512, ..CAPACITY };
    let mut bench = Bench::new(capacity, 1);
    bench.admit(1, &prompt(100, 0), 200);
    let took = |bench: &mut Bench, millis: u64| {
        bench.results.back_mut().expect("a result").elapsed = Duration::from_millis(millis);
        bench.commit();
    };
    bench.plan();
    took(&mut bench, 100); // 1 ms a prefill token
    bench.plan();
    took(&mut bench, 20); // 20 ms a decode step
    bench.admit(2, &prompt(400, 20), 20);
    assert_eq!(bench.plan().rows[1].tokens.len(), 30); // two and a half steps
    took(&mut bench, 50);
    bench.finish();
}

#[test]
fn after_an_end_of_sequence_one_surplus_row_runs_and_its_token_is_dropped() {
    let ends = |seed: &u64| Truth::new(&prompt(6, 0), 20, *seed, false).output.len() == 3;
    let seed = (0..).find(ends).expect("some sequence ends with its third token");
    let mut bench = Bench::new(CAPACITY, 2);
    let truth = Truth::new(&prompt(6, 0), 20, seed, false);
    bench.model.truths.insert(seed, truth.clone());
    bench.scheduler.admit(NewSequence {
        id: SeqId(seed),
        prompt: prompt(6, 0).into(),
        max_tokens: 20,
        sampling: sampling(seed),
        ignore_eos: false,
        leader: None,
    });
    bench.plan();
    bench.plan();
    bench.commit();
    bench.plan(); // samples the end
    bench.commit();
    bench.plan(); // the surplus row
    let end = [What::Token(truth.output[2]), What::Finished(FinishReason::Stop)].map(|what| notice(seed, what));
    assert_eq!(bench.commit(), end);
    assert!(bench.try_plan().is_none(), "it is leaving");
    assert!(bench.pages().2 > 0, "its pages are not released under a row in flight");
    assert_eq!(bench.commit(), [notice(seed, What::Left)]);
    // Fed: six of the prompt and three of output, the end-of-sequence token among them. Two whole pages.
    assert_eq!(bench.pages(), (62, 2, 0));
}

#[test]
fn siblings_wait_for_the_prompt_and_hit_it() {
    let mut bench = Bench::new(CAPACITY, 2);
    for id in 0..3 {
        bench.admit_choice(id, &prompt(41, 0), 4, (id > 0).then_some(0));
    }
    bench.admit(9, &prompt(5, 30), 4);
    assert_eq!(bench.plan().rows.len(), 1);
    let second = bench.plan();
    assert_eq!(second.rows.len(), 2, "the rest of the leader's prompt, and one that waits for nobody");
    bench.commit();
    let notices = bench.finish();
    assert_eq!((cached_of(&notices, 1), cached_of(&notices, 2)), (Some(40), Some(40)));
    for id in [0, 1, 2, 9] {
        assert_eq!(tokens_of(&notices, id), bench.model.truths[&id].output[..], "{id}");
    }
    let stats = bench.scheduler.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (3 * 41 + 5, 80));
}

#[test]
fn the_next_sibling_leads_when_the_leader_leaves() {
    let mut bench = Bench::new(CAPACITY, 1);
    for id in 0..3 {
        bench.admit_choice(id, &prompt(40, 0), 4, (id > 0).then_some(0));
    }
    bench.scheduler.abort(SeqId(0));
    assert_eq!(bench.plan().rows.len(), 1);
    let mut notices = bench.commit();
    assert_eq!(notices[0], notice(0, What::Left));
    notices.extend(bench.finish());
    assert_eq!((cached_of(&notices, 1), cached_of(&notices, 2)), (Some(0), Some(36)));
}

#[test]
fn others_hit_a_prompt_whose_chunks_are_committed() {
    let mut bench = Bench::new(CAPACITY, 1);
    bench.admit(1, &prompt(48, 0), 4);
    bench.plan();
    bench.commit();
    bench.admit(2, &prompt(48, 0), 4);
    let batch = bench.plan();
    assert_eq!((batch.rows[1].start, batch.rows[1].tokens.len()), (32, 16));
    bench.commit();
    bench.finish();
}

#[test]
fn what_waits_leaves_at_once_and_what_is_in_flight_with_its_last_row() {
    let mut bench = Bench::new(Capacity { slots: 1, ..CAPACITY }, 2);
    bench.admit(1, &prompt(8, 0), 9);
    bench.admit(2, &prompt(8, 20), 9);
    bench.plan();
    bench.plan();
    bench.scheduler.take_notices();
    bench.scheduler.abort(SeqId(2));
    assert_eq!(bench.scheduler.take_notices(), [notice(2, What::Left)]);
    bench.scheduler.abort(SeqId(1));
    bench.scheduler.abort(SeqId(1));
    assert_eq!(bench.commit(), []);
    assert_eq!(bench.commit(), [notice(1, What::Left)]);
    assert!(bench.scheduler.is_idle());
    bench.scheduler.abort(SeqId(1));
    assert_eq!(bench.pages(), (62, 2, 0));
}

#[test]
fn the_newest_is_retracted_and_its_client_sees_nothing() {
    for batches_out in [1, 2] {
        // Outputs shorter than the headroom: the second waits for the first, though half of the pages are free.
        let mut bench = Bench::new(Capacity { pages: 16, page_size: 1, ..CAPACITY }, batches_out);
        bench.admit(1, &prompt(2, 0), 14);
        bench.admit(2, &prompt(2, 20), 14);
        assert_eq!(bench.plan().rows.len(), 1);
        bench.finish();
        assert_eq!(bench.scheduler.stats().preemptions, 0);
        // Longer ones: both start, and one has to go.
        let mut bench = Bench::new(Capacity { pages: 100, page_size: 1, ..CAPACITY }, batches_out);
        bench.admit(1, &prompt(2, 0), 90);
        bench.admit(2, &prompt(2, 20), 90);
        let notices = bench.finish();
        assert!(bench.scheduler.stats().preemptions > 0);
        for id in [1, 2] {
            assert_eq!(tokens_of(&notices, id), bench.model.truths[&id].output[..], "{id}");
        }
        let ends: Vec<u64> =
            notices.iter().filter(|notice| notice.what == What::Left).map(|notice| notice.id.0).collect();
        assert_eq!(ends, [1, 2], "the oldest was served first");
        let started = notices.iter().filter(|notice| matches!(notice.what, What::Started { .. })).count();
        assert_eq!(started, 2);
    }
}

#[test]
fn a_retracted_sequence_keeps_the_token_that_is_in_flight() {
    let mut bench = Bench::new(Capacity { pages: 100, page_size: 1, ..CAPACITY }, 2);
    bench.admit(1, &prompt(2, 0), 90);
    bench.admit(2, &prompt(2, 20), 90);
    while bench.scheduler.stats().preemptions == 0 {
        while bench.try_plan().is_some() {}
        bench.commit();
    }
    assert_eq!(bench.scheduler.stats().running, 2, "its last row is in flight");
    while bench.try_plan().is_some() {}
    assert_eq!(tokens_of(&bench.commit(), 2).len(), 1);
    assert_eq!(bench.scheduler.stats().waiting, 1);
    bench.finish();
}

#[test]
fn the_longest_sequence_fits_alone_even_beside_a_twin() {
    let capacity = Capacity { pages: 12, page_size: 4, ..CAPACITY };
    let mut bench = Bench::new(capacity, 2);
    let longest = capacity.longest_sequence();
    assert_eq!(longest, 49);
    // Both compute the same prompt; the first caches it while the second holds pages like it.
    bench.admit(1, &prompt(9, 0), 2);
    bench.admit(2, &prompt(9, 0), longest - 9);
    let notices = bench.finish();
    assert_eq!(tokens_of(&notices, 2).len(), 40);
    bench.admit(3, &prompt(longest - 1, 11), 1);
    assert_eq!(tokens_of(&bench.finish(), 3).len(), 1);
}

#[test]
fn a_failed_row_fails_its_sequence_alone_and_nothing_of_it_stays_cached() {
    let mut bench = Bench::new(CAPACITY, 1);
    bench.admit(1, &prompt(8, 0), 9);
    bench.admit(2, &prompt(8, 20), 9);
    bench.plan();
    bench.commit();
    let batch = bench.scheduler.plan().expect("a batch");
    let (result, failed) = bench.model.run(&batch, Some(0), Duration::ZERO);
    assert_eq!(failed, [1]);
    assert!(matches!(result.rows[0], RowOutput::Failed(_)));
    bench.results.push_back(result);
    let notices = bench.commit();
    let why = Failure("the model's logits are not numbers (NaN)".to_owned());
    assert!(notices.contains(&notice(1, What::Failed(why))), "{notices:?}");
    assert!(notices.contains(&notice(1, What::Left)), "{notices:?}");
    assert_eq!(tokens_of(&bench.finish(), 2).len(), 7);
    bench.admit(1, &prompt(8, 0), 2);
    assert_eq!(cached_of(&bench.finish(), 1), Some(0));
}

#[test]
fn the_engines_end_fails_everyone_and_leaves_nothing() {
    let mut bench = Bench::new(Capacity { slots: 1, ..CAPACITY }, 2);
    bench.admit(1, &prompt(8, 0), 9);
    bench.admit(2, &prompt(8, 20), 9);
    bench.admit(3, &prompt(8, 20), 9);
    bench.plan();
    bench.plan();
    bench.scheduler.abort(SeqId(1));
    bench.scheduler.take_notices();
    let failure = Failure("gone".to_owned());
    bench.scheduler.fail_all(&failure);
    let failed = |id| [notice(id, What::Failed(failure.clone())), notice(id, What::Left)];
    let mut notices = bench.scheduler.take_notices();
    notices.sort_by_key(|notice| notice.id);
    assert_eq!(notices, [vec![notice(1, What::Left)], failed(2).to_vec(), failed(3).to_vec()].concat());
    assert!(bench.scheduler.is_idle());
    assert_eq!(bench.scheduler.check_integrity(), Ok(()));
    assert_eq!(bench.pages(), (64, 0, 0));
}

#[test]
#[should_panic(expected = "tokens of at most")]
fn what_cannot_fit_should_have_been_refused() {
    let mut bench = Bench::new(Capacity { pages: 2, ..CAPACITY }, 1);
    bench.admit(1, &prompt(8, 0), 2);
}

#[test]
fn prompts_of_choices_are_shared_until_they_run() {
    let mut bench = Bench::new(Capacity { slots: 1, ..CAPACITY }, 1);
    let shared: Arc<[TokenId]> = prompt(8, 0).into();
    for id in 0..3 {
        bench.model.truths.insert(id, Truth::new(&shared, 2, id, true));
        bench.scheduler.admit(NewSequence {
            id: SeqId(id),
            prompt: shared.clone(),
            max_tokens: 2,
            sampling: sampling(id),
            ignore_eos: true,
            leader: (id > 0).then_some(SeqId(0)),
        });
    }
    assert_eq!(Arc::strong_count(&shared), 4);
    bench.finish();
    assert_eq!(Arc::strong_count(&shared), 1);
}

/// An engine that answers some rows later: their sequences stand still, the others go on.
#[test]
fn held_rows_keep_their_sequence_and_nobody_else() {
    let mut bench = Bench::new(CAPACITY, 1);
    bench.admit(1, &prompt(8, 0), 4);
    bench.admit(2, &prompt(8, 20), 4);
    assert_eq!(bench.plan().rows.len(), 2);
    let mut later = Vec::new();
    let mut hold = |bench: &mut Bench, row: usize, slot: Slot| {
        let rows = &mut bench.results.back_mut().expect("a batch is out").rows;
        later.push((slot, std::mem::replace(&mut rows[row], RowOutput::Held)));
        bench.commit()
    };
    let notices = hold(&mut bench, 0, Slot(0));
    assert_eq!((tokens_of(&notices, 1).len(), tokens_of(&notices, 2).len()), (0, 1));
    let alone = bench.plan();
    assert_eq!(alone.rows.iter().map(|row| row.slot).collect::<Vec<_>>(), [Slot(1)], "the other decodes");
    hold(&mut bench, 0, Slot(1));
    assert!(bench.try_plan().is_none(), "both are held");
    assert!(!bench.scheduler.is_idle());

    // One is aborted while its row is held: it keeps what the row may use until the row comes.
    bench.scheduler.abort(SeqId(2));
    assert_eq!(bench.scheduler.check_integrity(), Ok(()));
    assert!(bench.try_plan().is_none());
    bench.scheduler.release(later);
    assert_eq!(bench.scheduler.check_integrity(), Ok(()));
    let notices = bench.scheduler.take_notices();
    assert_eq!((tokens_of(&notices, 1).len(), tokens_of(&notices, 2).len()), (1, 0));
    assert_eq!(notices.iter().filter(|notice| notice.what == What::Left).count(), 1);
    assert_eq!(tokens_of(&bench.finish(), 1).len(), 3);
    assert_eq!(bench.pages().2, 0, "no page is lost");
}
