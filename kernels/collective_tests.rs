//! Ranks in threads: sums in one order, parts whole, nobody waiting for the dead.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Miri takes a thousand times as long for each step.
const ROUNDS: usize = if cfg!(miri) { 4 } else { 400 };

/// Runs `rank` on a thread for each of so many ranks; what each gives, in order.
fn ranks<T: Send>(of: usize, rank: impl Fn(Collective) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = Collective::of(of).into_iter().map(|end| scope.spawn(|| rank(end))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the rank ends well")).collect()
    })
}

#[test]
fn shares_are_in_order_whole_and_even() {
    for (whole, of) in [(0, 1), (7, 3), (12, 4), (151_936, 7), (3, 5), (usize::MAX, 3)] {
        let shares: Vec<_> = (0..of).map(|rank| share(whole, rank, of)).collect();
        assert_eq!((shares[0].start, shares[of - 1].end), (0, whole));
        assert!(shares.windows(2).all(|two| two[0].end == two[1].start));
        let (least, most) = (shares.iter().map(Range::len).min(), shares.iter().map(Range::len).max());
        assert!(most.unwrap() - least.unwrap() <= 1, "{shares:?}");
        for (rank, share) in shares.iter().enumerate().filter(|(_, share)| !share.is_empty()) {
            assert_eq!([share.start, share.end - 1].map(|item| owner(whole, of, item)), [rank; 2], "{shares:?}");
        }
    }
}

#[test]
fn sums_are_taken_in_rank_order_whoever_comes_first() {
    for of in [1, 2, 3, 4, 7] {
        let inputs: Vec<Vec<f32>> = (0..of)
            .map(|rank| {
                let mut random = SmallRng::seed_from_u64(rank as u64);
                // Magnitudes far apart, so that another order gives other bits.
                (0..33).map(|_| random.random_range(-1.0f32..1.0) * 10f32.powi(random.random_range(-6..7))).collect()
            })
            .collect();
        let mut expected = inputs[0].clone();
        for input in &inputs[1..] {
            expected.iter_mut().zip(input).for_each(|(sum, x)| *sum += x);
        }
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let results = ranks(of, |mut end| {
            let mut random = SmallRng::seed_from_u64(99 + end.rank() as u64);
            (0..ROUNDS).all(|_| {
                (0..random.random_range(0..50)).for_each(|_| std::hint::spin_loop());
                let mut values = inputs[end.rank()].clone();
                end.all_reduce_sum(&mut values);
                bits(&values) == bits(&expected)
            })
        });
        assert_eq!(results, vec![true; of], "{of} ranks");
    }
}

/// Exchanges of all kinds and sizes, at random but the same on every rank; each value names who wrote it, and when.
#[test]
fn exchanges_follow_each_other_and_never_mix() {
    for of in [2, 3, 5] {
        ranks(of, |mut end| {
            let rank = end.rank();
            assert_eq!((end.ranks(), end.share(10 * of)), (of, 10 * rank..10 * rank + 10));
            let mut same = SmallRng::seed_from_u64(of as u64);
            let mut own = SmallRng::seed_from_u64(rank as u64);
            for round in 0..ROUNDS {
                let len = same.random_range(0..if cfg!(miri) { 20 } else { 3000 });
                if own.random_bool(0.05) {
                    // The others run out of patience and sleep.
                    thread::sleep(Duration::from_micros(own.random_range(0..300)));
                }
                let value = |rank: usize, i: usize| (round * 7919 + rank * 31 + i) as f32;
                match same.random_range(0..3) {
                    0 => {
                        let mine: Vec<f32> = (0..len + rank).map(|i| value(rank, i)).collect();
                        let parts = end.all_gather(&mine);
                        for rank in 0..of {
                            let expected: Vec<f32> = (0..len + rank).map(|i| value(rank, i)).collect();
                            assert!(parts.of(rank) == expected, "round {round}, part {rank}");
                        }
                    }
                    1 => {
                        let mut tokens: Vec<TokenId> = (0..len).map(|i| (round + rank * 1000 + i) as TokenId).collect();
                        end.broadcast(&mut tokens);
                        assert!(tokens.iter().enumerate().all(|(i, token)| *token as usize == round + i));
                    }
                    _ => {
                        let mut part = end.begin(len);
                        part.iter_mut().enumerate().for_each(|(i, x)| *x = value(rank, i));
                        let parts = part.publish();
                        // Read on several threads, as a rank's team does.
                        thread::scope(|scope| {
                            for other in 0..of {
                                let parts = &parts;
                                scope.spawn(move || {
                                    assert!(parts.of(other).iter().enumerate().all(|(i, x)| *x == value(other, i)));
                                });
                            }
                        });
                    }
                }
            }
        });
    }
}

#[test]
fn a_part_that_was_begun_and_dropped_was_never_there() {
    ranks(2, |mut end| {
        for round in 0..20 {
            if end.rank() == 1 {
                end.begin(8).fill(f32::NAN);
            }
            let mut values = [round as f32; 8];
            end.all_reduce_sum(&mut values);
            assert_eq!(values, [2.0 * round as f32; 8]);
        }
    });
}

/// What a rank caught: the words of [`RankLost`].
fn lost(result: thread::Result<()>) -> String {
    let payload = result.expect_err("it cannot have gone on");
    payload.downcast_ref::<RankLost>().expect("not a panic of its own").0.clone()
}

#[test]
fn nobody_waits_for_the_dead() {
    for of in [2, 4] {
        for (dead, after) in [(0, 0), (of - 1, 0), (1, 5), (0, 30)] {
            let said = ranks(of, |mut end| {
                let alarm = end.alarm();
                let mut exchanges = 0;
                let result = catch_unwind(AssertUnwindSafe(|| {
                    loop {
                        if end.rank() == dead && exchanges == after {
                            if after == 5 {
                                // By now the others sleep.
                                thread::sleep(Duration::from_millis(5));
                            }
                            alarm.ring("out of luck");
                            alarm.ring("not the first words");
                            return;
                        }
                        end.all_reduce_sum(&mut [1.0; 40]);
                        exchanges += 1;
                    }
                }));
                if end.rank() == dead {
                    return String::new();
                }
                let words = lost(result);
                // It stays so.
                assert_eq!(lost(catch_unwind(AssertUnwindSafe(|| end.all_reduce_sum(&mut [1.0])))), words);
                words
            });
            for (rank, words) in said.iter().enumerate() {
                assert_eq!(words, if rank == dead { "" } else { "out of luck" }, "{dead} of {of}, after {after}");
            }
        }
    }
}

#[test]
fn a_rank_that_ends_after_its_last_part_is_not_missed() {
    for _ in 0..if cfg!(miri) { 1 } else { 200 } {
        ranks(3, |mut end| {
            let alarm = end.alarm();
            end.broadcast(&mut [0]);
            // The last exchange is published by all: who rings now must not take it from those who still read it.
            let mut values = [1.0];
            end.all_reduce_sum(&mut values);
            alarm.ring("the end");
            assert_eq!(values, [3.0]);
        });
    }
}
