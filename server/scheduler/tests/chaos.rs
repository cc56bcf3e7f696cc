//! Seeded chaos: arrivals, aborts, ends, failures, evictions and retractions in random order, each configuration; after every
//! commit the invariants hold, and in the end each sequence has said what it would have said alone.
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use minisgl_config::CacheType;
use minisgl_kernels::TokenId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::model::{EOS, Model, Truth, VOCABULARY, sampling};
use crate::batch::{BatchOutput, Capacity};
use crate::request::SeqId;
use crate::scheduler::{Leaving, NewSequence, Notice, Running, Scheduler, SchedulerConfig, What};

/// Arrivals, aborts, ends, failures and retractions that each of the two tests goes through; evictions come on top.
const EVENTS: usize = 100_000;
const PAGE_SIZES: [usize; 3] = [1, 3, 16];
/// K/V places: about one to two of the longest sequences.
const PLACES: std::ops::Range<usize> = 256..512;
const LONGEST_PROMPT: usize = 40;
const LONGEST_OUTPUT: usize = 200;
/// Commits that the oldest sequence may see beyond its own tokens: those that run when it gets the slot that it waited for.
const PATIENCE: usize = 8 * LONGEST_OUTPUT;

#[derive(Default, Debug)]
struct Counts {
    arrivals: usize,
    aborts: usize,
    ends: usize,
    failures: usize,
    retractions: usize,
    evictions: usize,
    hits: usize,
    commits: usize,
    /// Why it was leaving already and how many rows it had in flight, or nothing of what waits.
    aborted_in: HashSet<Option<(Option<Leaving>, usize)>>,
}

impl Counts {
    fn events(&self) -> usize {
        self.arrivals + self.aborts + self.ends + self.failures + self.retractions
    }
}

struct Client {
    heard: Vec<TokenId>,
    started: bool,
    ended: bool,
    aborted: bool,
    /// Commits that it saw as the oldest.
    as_oldest: usize,
    tokens: usize,
}

struct Chaos {
    rng: SmallRng,
    config: SchedulerConfig,
    scheduler: Scheduler,
    model: Model,
    results: VecDeque<BatchOutput>,
    /// By arrival.
    clients: BTreeMap<SeqId, Client>,
    /// Those that some row failed.
    broken: Vec<SeqId>,
    prefixes: Vec<Vec<TokenId>>,
    next_id: u64,
    counts: Counts,
}

impl Chaos {
    fn new(seed: u64, config: SchedulerConfig) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let prefix = |rng: &mut SmallRng| (0..LONGEST_PROMPT).map(|_| rng.random_range(0..VOCABULARY)).collect();
        Self {
            prefixes: (0..4).map(|_| prefix(&mut rng)).collect(),
            rng,
            scheduler: Scheduler::new(config.clone()),
            model: Model::new(config.capacity),
            config,
            results: VecDeque::new(),
            clients: BTreeMap::new(),
            broken: Vec::new(),
            next_id: 0,
            counts: Counts::default(),
        }
    }

    /// A request of one to four choices, whose prompt begins as some others do.
    fn arrive(&mut self) {
        let length = self.rng.random_range(1..=LONGEST_PROMPT);
        let common = self.rng.random_range(0..=length);
        let family = self.rng.random_range(0..self.prefixes.len());
        let mut prompt = self.prefixes[family][..common].to_vec();
        prompt.extend((common..length).map(|_| self.rng.random_range(0..VOCABULARY)));
        let prompt: Arc<[TokenId]> = prompt.into();
        let max_tokens = self.rng.random_range(1..=LONGEST_OUTPUT);
        let ignore_eos = self.rng.random_bool(0.5);
        let choices = if self.rng.random_bool(0.2) { self.rng.random_range(2..=4) } else { 1 };
        let leader = SeqId(self.next_id);
        for _ in 0..choices {
            let id = SeqId(self.next_id);
            self.next_id += 1;
            self.scheduler.admit(NewSequence {
                id,
                prompt: prompt.clone(),
                max_tokens,
                sampling: sampling(id.0),
                ignore_eos,
                leader: Some(leader).filter(|&leader| leader != id),
            });
            self.model.truths.insert(id.0, Truth::new(&prompt, max_tokens, id.0, ignore_eos));
            let tokens = prompt.len() + max_tokens;
            let client =
                Client { heard: Vec::new(), started: false, ended: false, aborted: false, as_oldest: 0, tokens };
            self.clients.insert(id, client);
            self.counts.arrivals += 1;
        }
    }

    fn abort(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        // Those about to wait again are rare, so they are looked for.
        let retracted = |running: &&Running| running.leaving == Some(Leaving::Retracted);
        let retracted = self.scheduler.running.values().find(retracted).map(|running| running.sequence.id);
        let any = self.clients.keys().nth(self.rng.random_range(0..self.clients.len()));
        let id = retracted.filter(|_| self.rng.random_bool(0.5)).or(any.copied()).expect("someone");
        self.clients.get_mut(&id).expect("its client").aborted = true;
        let state = self.scheduler.ages.get(&id).and_then(|age| self.scheduler.running.get(age));
        self.counts.aborted_in.insert(state.map(|running| (running.leaving, running.rows_out)));
        self.scheduler.abort(id);
        self.counts.aborts += 1;
        self.hear();
    }

    fn plan(&mut self) {
        let cached = self.scheduler.stats().pages_cached;
        let Some(batch) = self.scheduler.plan() else {
            let stuck = self.scheduler.batches_out() == 0 && !self.scheduler.is_idle();
            assert!(!stuck, "no batch is out and none can be planned: {:#?}", self.scheduler);
            return;
        };
        self.counts.evictions += cached - self.scheduler.stats().pages_cached;
        let fails = self.rng.random_bool(0.002).then(|| self.rng.random_range(0..batch.rows.len()));
        let elapsed = Duration::from_micros(self.rng.random_range(0..1000));
        let (result, failed) = self.model.run(&batch, fails, elapsed);
        self.broken.extend(failed.into_iter().map(SeqId));
        self.results.push_back(result);
        self.hear();
    }

    fn commit(&mut self) {
        let Some(result) = self.results.pop_front() else { return };
        let retractions = self.scheduler.stats().preemptions;
        let oldest = self.scheduler.running.keys().next().copied();
        self.scheduler.commit(result);
        if let Some(oldest) = oldest {
            let leaving = self.scheduler.running.get(&oldest).and_then(|running| running.leaving);
            let retracted = leaving == Some(Leaving::Retracted) || self.scheduler.waiting.contains_key(&oldest);
            assert!(!retracted, "the oldest was retracted: {:#?}", self.scheduler);
        }
        self.counts.retractions += (self.scheduler.stats().preemptions - retractions) as usize;
        self.counts.commits += 1;
        self.hear();
        self.check();
        if let Some((id, oldest)) = self.clients.iter_mut().find(|(_, client)| !client.ended && !client.aborted) {
            oldest.as_oldest += 1;
            let bound = 2 * oldest.tokens + PATIENCE;
            assert!(oldest.as_oldest <= bound, "{id:?} starves: {:#?}", self.scheduler);
        }
    }

    fn check(&self) {
        assert_eq!(self.scheduler.check_integrity(), Ok(()));
        let stats = self.scheduler.stats();
        assert_eq!(stats.pages_free + stats.pages_cached + stats.pages_in_use, stats.pages_total);
        assert_eq!(stats.running + stats.waiting, self.clients.len());
    }

    /// What clients are told must be what they would be told alone, each end once.
    fn hear(&mut self) {
        for Notice { id, what } in self.scheduler.take_notices() {
            let client = self.clients.get_mut(&id).expect("nothing after Left");
            let truth = &self.model.truths[&id.0];
            let ended = std::mem::replace(&mut client.ended, matches!(what, What::Finished(_) | What::Failed(_)));
            if what == What::Left {
                assert!(ended || client.aborted, "{id:?} left without an end");
                self.clients.remove(&id);
                self.model.truths.remove(&id.0);
                continue;
            }
            assert!(!ended && !client.aborted, "{id:?}: {what:?} after its end");
            match what {
                What::Started { cached_tokens } => {
                    assert!(!client.started && client.heard.is_empty());
                    client.started = true;
                    self.counts.hits += cached_tokens;
                }
                What::Token(token) => {
                    assert!(client.started);
                    client.heard.push(token);
                    assert_eq!(client.heard, truth.output[..client.heard.len()], "{id:?}");
                }
                What::Finished(reason) => {
                    assert_eq!((&client.heard, reason), (&truth.output, truth.reason), "{id:?}");
                    self.counts.ends += 1;
                }
                What::Failed(_) => {
                    assert!(self.broken.contains(&id), "{id:?} failed though no row of it did");
                    self.counts.failures += 1;
                }
                What::Left => unreachable!(),
            }
        }
    }

    /// One random thing.
    fn step(&mut self, crowd: usize) {
        match self.rng.random_range(0..100) {
            0..21 if self.clients.len() < crowd => self.arrive(),
            21 => self.abort(),
            22..61 => self.plan(),
            _ => self.commit(),
        }
    }

    /// No more arrivals: everything ends.
    fn drain(&mut self) {
        let mut steps = 0;
        while !self.scheduler.is_idle() {
            self.plan();
            if self.rng.random_bool(0.5) || self.results.len() == self.config.batches_out {
                self.commit();
            }
            steps += 1;
            assert!(steps < 100_000, "it does not end: {:#?}", self.scheduler);
        }
        assert!(self.clients.is_empty() && self.results.is_empty());
        self.check();
        assert_eq!(self.scheduler.stats().pages_in_use, 0);
    }
}

/// Rounds of chaos until there were enough events, all page sizes and caches alike, shapes at random.
fn chaos(batches_out: usize) {
    let configurations: Vec<_> =
        PAGE_SIZES.iter().flat_map(|&size| [(size, CacheType::Radix), (size, CacheType::Naive)]).collect();
    let mut aborted_in = HashSet::new();
    for &(page_size, cache) in &configurations {
        let mut total = Counts::default();
        let mut seed = page_size as u64 * 1000 + batches_out as u64 * 100;
        while total.events() < EVENTS / configurations.len() {
            seed += 1;
            let mut shape = SmallRng::seed_from_u64(seed);
            let capacity = Capacity {
                pages: shape.random_range(PLACES) / page_size,
                page_size,
                slots: shape.random_range(1..=8),
                context: LONGEST_PROMPT + LONGEST_OUTPUT,
                vocabulary: VOCABULARY as usize,
                batch_tokens: if shape.random_bool(0.1) { 1 } else { shape.random_range(2..=64) },
            };
            let crowd = shape.random_range(1..=40);
            let config = SchedulerConfig { capacity, eos: EOS.to_vec(), cache, batches_out, max_decode_gap: 2.5 };
            let mut chaos = Chaos::new(seed, config);
            while chaos.counts.events() < 500 {
                chaos.step(crowd);
            }
            chaos.drain();
            let counts = chaos.counts;
            total.arrivals += counts.arrivals;
            total.aborts += counts.aborts;
            total.ends += counts.ends;
            total.failures += counts.failures;
            total.retractions += counts.retractions;
            total.evictions += counts.evictions;
            total.hits += counts.hits;
            total.commits += counts.commits;
            aborted_in.extend(counts.aborted_in);
        }
        println!("{batches_out} out, page size {page_size}, {cache:?}: {total:?}");
        let happened = [total.aborts, total.ends, total.failures, total.retractions];
        assert!(happened.iter().all(|&count| count > 0), "something never happened: {total:?}");
        let kept = cache == CacheType::Radix;
        assert_eq!((total.evictions > 0, total.hits > 0), (kept, kept), "{total:?}");
    }
    let mut states: Vec<_> = (0..=batches_out).map(|rows| Some((None, rows))).collect();
    states.extend((1..=batches_out).map(|rows| Some((Some(Leaving::Gone), rows))));
    states.extend((2..=batches_out).map(|_| Some((Some(Leaving::Retracted), 1))));
    states.push(None);
    let missing: Vec<_> = states.iter().filter(|state| !aborted_in.contains(*state)).collect();
    assert!(missing.is_empty(), "never aborted in {missing:?}");
}

#[test]
fn chaos_with_one_batch_out() {
    chaos(1);
}

#[test]
fn chaos_with_two_batches_out() {
    chaos(2);
}
