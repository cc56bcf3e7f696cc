//! The loop with a runner that computes truths: what clients hear, and that every end of the engine reaches all of them.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use minisgl_config::{CacheType, MetricsPrefix};
use minisgl_kernels::TokenId;

use super::model::{EOS, Model, Truth, sampling};
use crate::batch::{Batch, BatchOutput, Capacity, EngineError, ModelRunner};
use crate::health::{Health, Phase};
use crate::metrics::Metrics;
use crate::request::{Admission, Event, Failure, FinishReason, Permits, SeqId, SequenceHandle};
use crate::scheduler::run::{SchedulerLoop, run};
use crate::scheduler::{Scheduler, SchedulerConfig};

const CAPACITY: Capacity =
    Capacity { pages: 100, page_size: 4, slots: 4, context: 300, vocabulary: 60, batch_tokens: 32 };

/// What happens to a batch, asked at each `submit` with its number.
type Fate = Box<dyn FnMut(usize) -> Result<(), EngineError> + Send>;

struct Runner {
    model: Arc<Mutex<Model>>,
    fate: Fate,
    /// Batches are computed as this lets them; its closing lets all.
    gate: flume::Receiver<()>,
    submitted: usize,
    out: VecDeque<BatchOutput>,
    most_out: Arc<AtomicUsize>,
}

impl ModelRunner for Runner {
    fn capacity(&self) -> Capacity {
        CAPACITY
    }

    fn device(&self) -> String {
        "a test".to_owned()
    }

    fn submit(&mut self, batch: Batch) -> Result<(), EngineError> {
        (self.fate)(self.submitted)?;
        self.submitted += 1;
        self.out.push_back(self.model.lock().unwrap().run(&batch, None, Duration::ZERO).0);
        self.most_out.fetch_max(self.out.len(), Ordering::Relaxed);
        Ok(())
    }

    fn collect(&mut self, timeout: Duration) -> Result<Option<BatchOutput>, EngineError> {
        match self.gate.recv_timeout(timeout) {
            Err(flume::RecvTimeoutError::Timeout) => Ok(None),
            _ => Ok(self.out.pop_front()),
        }
    }
}

struct Served {
    inbox: flume::Sender<Admission>,
    gate: Option<flume::Sender<()>>,
    cancel: Arc<AtomicBool>,
    health: Health,
    metrics: Metrics,
    model: Arc<Mutex<Model>>,
    permits: Permits,
    most_out: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Served {
    fn start(batches_out: usize, fate: Fate) -> Self {
        let config = SchedulerConfig {
            capacity: CAPACITY,
            eos: EOS.to_vec(),
            cache: CacheType::Radix,
            batches_out,
            max_decode_gap: 2.5,
        };
        let (inbox, admissions) = flume::unbounded();
        let (gate, gated) = flume::unbounded();
        let model = Arc::new(Mutex::new(Model::new(CAPACITY)));
        let most_out = Arc::new(AtomicUsize::new(0));
        let (health, metrics) = (Health::default(), Metrics::new(MetricsPrefix::Minisgl, "test"));
        let cancel = Arc::new(AtomicBool::new(false));
        let runner = Runner {
            model: model.clone(),
            fate,
            gate: gated,
            submitted: 0,
            out: VecDeque::new(),
            most_out: most_out.clone(),
        };
        let parts = SchedulerLoop {
            scheduler: Scheduler::new(config),
            runner: Box::new(runner),
            inbox: admissions,
            cancel: cancel.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
        };
        health.advance(Phase::Serving);
        Self {
            inbox,
            gate: Some(gate),
            cancel,
            health,
            metrics,
            model,
            permits: Permits::new(64),
            most_out,
            thread: std::thread::spawn(move || run(parts)),
        }
    }

    /// All batches may be computed.
    fn open(mut self) -> Self {
        self.gate = None;
        self
    }

    /// Sends a request whose choices are `ids`, which are their seeds too.
    fn ask(&self, ids: std::ops::Range<u64>, prompt: &[TokenId], max_tokens: usize) -> Vec<flume::Receiver<Event>> {
        let first = ids.start;
        let permits = self.permits.acquire(ids.clone().count());
        let (mut sequences, mut receivers) = (Vec::new(), Vec::new());
        for (id, permit) in ids.zip(permits) {
            self.model.lock().unwrap().truths.insert(id, Truth::new(prompt, max_tokens, id, false));
            let (events, receiver) = flume::unbounded();
            sequences.push(SequenceHandle { id: SeqId(id), events, permit });
            receivers.push(receiver);
        }
        let sampling = (*sampling(first)).clone();
        let admission = Admission { prompt: prompt.into(), max_tokens, sampling, ignore_eos: false, sequences };
        self.inbox.send(admission).expect("the loop is there");
        receivers
    }

    /// Waits until every sequence has left.
    fn wait_all_left(&self) {
        drop(self.permits.acquire(self.permits.total()));
    }

    /// Closes the inbox; the loop ends.
    fn stop(self) -> (Health, Metrics) {
        drop(self.inbox);
        self.thread.join().expect("the loop never panics");
        assert_eq!(self.permits.taken(), 0);
        (self.health, self.metrics)
    }
}

fn prompt(length: usize, from: u32) -> Vec<TokenId> {
    (0..length as u32).map(|i| 2 + (from + i) % 50).collect()
}

/// All events until the channel closes, in short; the order is checked.
fn listen(events: &flume::Receiver<Event>) -> (Vec<TokenId>, Result<FinishReason, Failure>) {
    let (mut tokens, mut started, mut end) = (Vec::new(), false, None);
    for event in events.iter() {
        assert!(end.is_none(), "{event:?} after the end");
        match event {
            Event::Started { .. } if !started => started = true,
            Event::Token { id, .. } if started => tokens.push(id),
            Event::Finished { reason, .. } if started => end = Some(Ok(reason)),
            Event::Failed(failure) => end = Some(Err(failure)),
            other => panic!("{other:?} out of order"),
        }
    }
    (tokens, end.expect("one terminal event"))
}

fn value(metrics: &Metrics, name: &str) -> f64 {
    let text = metrics.encode();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn fine() -> Fate {
    Box::new(|_| Ok(()))
}

#[test]
fn everyone_hears_what_it_would_hear_alone() {
    for batches_out in [1, 2] {
        let served = Served::start(batches_out, fine()).open();
        let mut asked = Vec::new();
        for request in 0..12u64 {
            let ids = request * 10..request * 10 + 1 + request % 3;
            let prompt = prompt(20 + request as usize, request as u32 % 2);
            asked.extend(ids.clone().zip(served.ask(ids, &prompt, 30)));
        }
        for (id, events) in asked {
            let (tokens, end) = listen(&events);
            let truth = served.model.lock().unwrap().truths[&id].clone();
            assert_eq!((tokens, end), (truth.output, Ok(truth.reason)), "{id}");
        }
        assert_eq!(served.most_out.load(Ordering::Relaxed), batches_out);
        served.wait_all_left();
        let (health, metrics) = served.stop();
        assert_eq!(health.phase(), Phase::Serving);
        assert_eq!(value(&metrics, "minisgl_kv_pages{engine=\"0\",model_name=\"test\",state=\"in_use\"}"), 0.0);
        assert!(value(&metrics, "minisgl_prefix_cache_hits_total") > 0.0);
        assert!(value(&metrics, "minisgl_iteration_tokens_count") > 0.0);
    }
}

#[test]
fn a_client_that_leaves_is_aborted_wherever_its_sequence_is() {
    let served = Served::start(2, fine());
    // Four run, two of them to the end, and two wait.
    let mut runs: Vec<_> = (0..4).map(|id| served.ask(id..id + 1, &prompt(8, id as u32), 200).remove(0)).collect();
    let waits: Vec<_> = (4..6).map(|id| served.ask(id..id + 1, &prompt(8, id as u32), 200).remove(0)).collect();
    while runs[0].is_empty() {
        std::thread::yield_now(); // until it has started
    }
    let stays = runs.drain(..2).collect::<Vec<_>>();
    drop((runs, waits));
    // The waiting two leave though no batch is computed: five permits of 64 are theirs and the others'.
    drop(served.permits.acquire(64 - 4));
    let served = served.open();
    for (id, events) in stays.iter().enumerate() {
        let truth = served.model.lock().unwrap().truths[&(id as u64)].clone();
        assert_eq!(listen(events), (truth.output, Ok(truth.reason)), "{id}");
    }
    served.wait_all_left();
    served.stop();
}

/// The engine ends at its third batch in the given way.
fn everyone_fails(fate: Fate, why: &str) {
    let served = Served::start(2, fate).open();
    // The last of them has to wait: there are four slots.
    let asked: Vec<_> = (0..5).flat_map(|id| served.ask(id..id + 1, &prompt(30, id as u32), 100)).collect();
    for events in &asked {
        let (_, end) = listen(events);
        assert!(end.as_ref().is_err_and(|failure| failure.0.contains(why)), "{end:?}");
    }
    // Those that come later too, and health tells why.
    let (_, end) = listen(&served.ask(9..10, &prompt(3, 0), 5)[0]);
    assert!(end.is_err_and(|failure| failure.0.contains(why)));
    served.wait_all_left();
    let (health, metrics) = served.stop();
    assert_eq!(health.unready(), Some("the engine has stopped"));
    assert_eq!(value(&metrics, "minisgl_num_requests_running"), 0.0);
    assert_eq!(value(&metrics, "minisgl_num_requests_waiting"), 0.0);
}

#[test]
fn an_engines_error_fails_everyone() {
    let fate = |batch| if batch == 2 { Err(EngineError("rank 1 is lost".to_owned())) } else { Ok(()) };
    everyone_fails(Box::new(fate), "rank 1 is lost");
}

#[test]
fn a_panic_fails_everyone() {
    everyone_fails(Box::new(|batch| if batch == 2 { panic!("index out of bounds") } else { Ok(()) }), "index out of");
}

#[test]
fn a_cancelled_drain_fails_those_that_are_left() {
    let served = Served::start(2, fine());
    let asked: Vec<_> = (0..6).flat_map(|id| served.ask(id..id + 1, &prompt(8, id as u32), 250)).collect();
    assert!(matches!(asked[0].recv(), Ok(Event::Started { .. })));
    served.cancel.store(true, Ordering::Release);
    // Told at once, though the batches that are out never come back; the channels close when they do.
    for events in &asked {
        let end = events.iter().find(|event| matches!(event, Event::Failed(_) | Event::Finished { .. }));
        assert!(matches!(&end, Some(Event::Failed(failure)) if failure.0.contains("shutting down")), "{end:?}");
    }
    let served = served.open();
    served.wait_all_left();
    let late = served.ask(9..10, &prompt(3, 0), 5);
    assert!(listen(&late[0]).1.is_err());
    let (health, _) = served.stop();
    assert_eq!(health.phase(), Phase::Serving);
}

#[test]
fn the_heart_beats_while_a_batch_is_out_and_while_nothing_is() {
    let served = Served::start(1, fine());
    let events = served.ask(0..1, &prompt(8, 0), 2).remove(0);
    assert!(matches!(events.recv(), Ok(Event::Started { .. })));
    assert_eq!(served.health.unready(), None);
    let served = served.open();
    served.wait_all_left();
    assert_eq!(served.health.unready(), None);
    // A closed inbox ends the loop only when what is in it has been served.
    let last = served.ask(1..2, &prompt(8, 0), 2).remove(0);
    served.stop();
    assert!(matches!(last.iter().last(), Some(Event::Finished { .. })));
}
