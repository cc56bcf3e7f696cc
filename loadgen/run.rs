//! One run: every request sent when it should be, every outcome written down.
//!
//! Owns the launcher: the open loop's schedule, the closed loop's places, and turns that wait for each other. Knows nothing
//! of traces, prompts or reports, nor how an answer is read.
//!
//! The calling thread launches: it sleeps to absolute times and connects and writes itself, so that neither a timer of
//! milliseconds nor a busy reader delays a request. Nothing is tokenised, formatted or printed while a run lasts; only a
//! turn that quotes an answer is put together then.
mod supply;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use minisgl_config::loadgen::settings::Endpoint;

use crate::client::{Clock, Ended, Ends, Exchange, Keep, Outgoing, Reactors, Target};
use crate::counters::Counters;
use crate::interrupt::Interrupt;
use crate::records::{End, Failure, Interrupted, Ledger, Reason, Record};
use crate::request::{Body, Job, Piece, Places, Start};
use crate::sampler::Sampler;
use crate::series::GapsOverTime;
use crate::statistics::Gaps;
pub(crate) use supply::More;
use supply::Supply;

/// Between the decision to start and the run's time 0, so that the first request is not late for having to be set up.
const LEAD: Duration = Duration::from_millis(20);

/// Bytes of answers that are kept to be counted; beyond it, later answers are counted by chunks. Those that a later turn
/// quotes are kept whatever their size.
const MOST_KEPT: usize = 64 << 20;

/// Between two requests of a closed loop, at least. Places that become free together would otherwise send as fast as a
/// thread can connect, some 60 µs apart, which is faster than a server on the next core accepts: the wait in front of its
/// door is then taken for its latency (512 at once: 2.7 ms in the mean, 12 ms in the p99, against a server of known timings).
/// A schedule's times are its own and are kept, however dense.
const BETWEEN: Duration = Duration::from_micros(150);

/// Turns of the launcher and of the readers. A thread that becomes ready while both cores are busy waits for a turn's end, the
/// system's are 1.4 ms on two cores, and a request sent or an answer stamped so late is the tail of every figure.
const TURN: Duration = Duration::from_micros(100);

/// How often an interruption is looked for while nothing else happens.
const WATCH: Duration = Duration::from_millis(50);

/// The same for requests that are being made, while a place has none.
const WATCH_SUPPLY: Duration = Duration::from_millis(1);

/// What a run is made of.
pub(crate) struct RunOptions<'a> {
    pub(crate) target: &'a Target,
    pub(crate) endpoint: Endpoint,
    /// By index; each body is freed when it is sent.
    pub(crate) jobs: Vec<Job>,
    /// Of a closed loop; none where every job says its own time.
    pub(crate) places: Option<Places>,
    /// No request begins after this.
    pub(crate) until: Option<Duration>,
    /// Makes further requests of a closed loop, as long as it lasts.
    pub(crate) more: Option<More<'a>>,
    pub(crate) timeout: Duration,
    /// Reading threads.
    pub(crate) threads: usize,
    /// Keep the time of every chunk.
    pub(crate) keep_tics: bool,
    pub(crate) counters: Arc<Counters>,
    /// Ends the run early.
    pub(crate) interrupt: &'a Interrupt,
}

/// Runs to the end of the last request.
///
/// # Errors
/// Where the system gives no threads or epoll.
pub(crate) fn execute(mut options: RunOptions<'_>) -> io::Result<Ledger> {
    std::thread::scope(|scope| {
        let supply = options.more.take().map(|more| Supply::start(scope, more));
        run(options, supply)
    })
}

fn run(options: RunOptions<'_>, supply: Option<Supply>) -> io::Result<Ledger> {
    // This thread and those that it starts; a system that cannot gives turns as ever.
    let _ = minisgl_kernels::thread::prefer_short_turns(TURN);
    let start = Instant::now() + LEAD;
    let clock = Clock::starting(start);
    let started_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (sender, ended) = mpsc::channel();
    let is_waited_for =
        options.places.is_some() || options.jobs.iter().any(|job| matches!(job.start, Start::After { .. }));
    let ends_are = if is_waited_for { Ends::AreWaitedFor } else { Ends::AreCounted };
    let reactors = Reactors::start(options.threads.max(1), clock, &options.counters, &sender, ends_are)?;
    drop(sender);
    let sampler = Sampler::start(clock, options.counters.clone());
    let counters = options.counters.clone();
    let launcher = Launcher { supply, ..Launcher::new(options, start, clock, reactors) };
    let mut done = launcher.run(&ended);
    let (samples, cost) = sampler.stop();
    let (mut gaps, mut gaps_over_time) = (Gaps::new(), GapsOverTime::new());
    for tally in done.reactors.finish() {
        gaps.merge(&tally.gaps);
        gaps_over_time.merge(tally.gaps_over_time);
    }
    done.records.sort_unstable_by_key(|record| record.index);
    Ok(Ledger {
        records: done.records,
        gaps,
        gaps_over_time,
        samples,
        max_in_flight: counters.max_in_flight(),
        max_queued: counters.max_queued(),
        connections: Some(counters.connections()),
        cost,
        started_unix_s,
        answers: done.answers,
        interrupted: done.interrupted,
    })
}

/// What the launcher leaves.
struct Done {
    records: Vec<Record>,
    answers: BTreeMap<usize, Vec<u8>>,
    reactors: Reactors,
    interrupted: Option<Interrupted>,
}

struct Launcher<'a> {
    options: RunOptions<'a>,
    supply: Option<Supply>,
    jobs: Vec<Option<Job>>,
    start: Instant,
    clock: Clock,
    reactors: Reactors,
    /// What is known to happen at a time, in nanoseconds after the start.
    due: BinaryHeap<Reverse<(u64, Due)>>,
    /// Requests that wait for a place: turns whose time has come, before those that never began.
    waiting: VecDeque<usize>,
    /// Places that are open and free.
    free: usize,
    /// When a place may send its next request, and whether that is among what is due.
    next_send: u64,
    fill_is_due: bool,
    /// Which turn of its chat each request is, from 1; 0 where none waits for another.
    turns: Vec<u32>,
    /// Who waits for whom.
    children: HashMap<usize, Vec<usize>>,
    /// Requests that ended when they were sent.
    at_once: Vec<Ended>,
    records: Vec<Record>,
    answers: BTreeMap<usize, Vec<u8>>,
    answer_bytes: usize,
    /// Requests that were not begun or have not ended.
    left: usize,
    /// Requests that were begun and have not ended.
    on_their_way: usize,
    interrupted: Option<Interrupted>,
}

/// What happens at a time. A request of the same time comes before a place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// It is sent, or takes the next place.
    Request(usize),
    /// It opens.
    Place,
    /// The next of a closed loop's requests may be sent.
    Fill,
}

impl<'a> Launcher<'a> {
    fn new(mut options: RunOptions<'a>, start: Instant, clock: Clock, reactors: Reactors) -> Self {
        let jobs = std::mem::take(&mut options.jobs);
        let mut launcher = Self {
            supply: None,
            start,
            clock,
            reactors,
            due: BinaryHeap::with_capacity(jobs.len()),
            waiting: VecDeque::new(),
            free: 0,
            next_send: 0,
            fill_is_due: false,
            turns: turns(&jobs),
            children: HashMap::new(),
            at_once: Vec::new(),
            records: Vec::with_capacity(jobs.len()),
            answers: BTreeMap::new(),
            answer_bytes: 0,
            left: jobs.len(),
            on_their_way: 0,
            interrupted: None,
            options,
            jobs: Vec::new(),
        };
        for (index, job) in jobs.iter().enumerate() {
            match job.start {
                Start::At(at) => launcher.due.push(Reverse((nanoseconds(at), Due::Request(index)))),
                Start::WhenFree => launcher.waiting.push_back(index),
                Start::After { parent, .. } => launcher.children.entry(parent).or_default().push(index),
            }
        }
        if let Some(places) = launcher.options.places {
            let opens = (0..places.count.min(jobs.len())).map(|place| nanoseconds(places.opens(place)));
            launcher.due.extend(opens.map(|at| Reverse((at, Due::Place))));
        }
        launcher.jobs = jobs.into_iter().map(Some).collect();
        launcher
    }

    fn run(mut self, ended: &Receiver<Ended>) -> Done {
        while self.left > 0 || self.expects_more() {
            if self.interrupted.is_none() && self.options.interrupt.asked() {
                self.leave();
                continue;
            }
            self.take_more();
            self.launch_due();
            if !self.at_once.is_empty() {
                std::mem::take(&mut self.at_once).into_iter().for_each(|over| self.on_ended(over));
                continue;
            }
            if self.left == 0 && !self.expects_more() {
                break;
            }
            let until_due = self.due.peek().map(|&Reverse((at, _))| {
                let target = self.start + Duration::from_nanos(at);
                target.saturating_duration_since(Instant::now())
            });
            let watch = if self.free > 0 && self.expects_more() { WATCH_SUPPLY } else { WATCH };
            match ended.recv_timeout(until_due.unwrap_or(watch).min(watch)) {
                Ok(over) => self.on_ended(over),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the reading threads are gone, and requests are not over")
                }
            }
        }
        let Self { records, answers, reactors, interrupted, .. } = self;
        Done { records, answers, reactors, interrupted }
    }

    /// Ends an interrupted run: nothing more is sent, and what is on its way is left.
    fn leave(&mut self) {
        self.due.clear();
        self.waiting.clear();
        self.children.clear();
        let unsent = self.left - self.on_their_way;
        self.interrupted = Some(Interrupted { left: self.on_their_way as u64, unsent: unsent as u64 });
        self.left = self.on_their_way;
        self.supply = None;
        self.reactors.leave();
    }

    /// Whether requests are being made that may still begin.
    fn expects_more(&self) -> bool {
        !self.is_over() && self.supply.as_ref().is_some_and(Supply::is_pending)
    }

    /// Puts what was made meanwhile behind what waits.
    fn take_more(&mut self) {
        let Some(supply) = &mut self.supply else { return };
        for job in supply.take() {
            self.waiting.push_back(self.jobs.len());
            self.jobs.push(Some(job));
            self.turns.push(0);
            self.left += 1;
        }
        let places = self.options.places.map_or(0, |places| places.count);
        if !self.is_over() {
            let waiting = self.waiting.len();
            self.supply.as_mut().expect("it is there").keep(waiting, places);
        }
        self.fill_places();
    }

    fn launch_due(&mut self) {
        while let Some(&Reverse((at, due))) = self.due.peek() {
            // Times before the start are 0 on the clock.
            if Instant::now() < self.start + Duration::from_nanos(at) {
                return;
            }
            self.due.pop();
            match due {
                Due::Request(index) if self.options.places.is_some() => {
                    self.waiting.push_front(index);
                    self.fill_places();
                }
                Due::Request(index) => self.launch(index, at),
                Due::Place => {
                    self.free += 1;
                    self.fill_places();
                }
                Due::Fill => {
                    self.fill_is_due = false;
                    self.fill_places();
                }
            }
        }
    }

    /// Sends what waits as far as there are places, one request every [`BETWEEN`].
    fn fill_places(&mut self) {
        while self.free > 0 && !self.waiting.is_empty() {
            let now = self.clock.now();
            if now < self.next_send {
                if !std::mem::replace(&mut self.fill_is_due, true) {
                    self.due.push(Reverse((self.next_send, Due::Fill)));
                }
                return;
            }
            self.next_send = now + nanoseconds(BETWEEN);
            self.free -= 1;
            let index = self.waiting.pop_front().expect("it is not empty");
            self.launch(index, now);
        }
    }

    /// Whether it is too late to begin anything.
    fn is_over(&self) -> bool {
        self.options.until.is_some_and(|until| self.clock.now() > nanoseconds(until))
    }

    /// Gives up a request that was not sent, and those that wait for it: they were prepared, and are not wanted any more.
    fn forget(&mut self, index: usize) {
        let mut gone = vec![index];
        while let Some(index) = gone.pop() {
            self.left -= 1;
            gone.extend(self.children.remove(&index).unwrap_or_default());
        }
    }

    fn launch(&mut self, index: usize, due: u64) {
        let closed = self.options.places.is_some();
        let job = self.jobs[index].take().expect("a request is sent once");
        if self.is_over() && (closed || matches!(job.start, Start::After { .. })) {
            self.free += usize::from(closed);
            return self.forget(index);
        }
        let record = Record {
            index,
            class: job.class,
            turn: self.turns[index],
            intended: (!closed).then_some(due),
            input_len: job.lengths.input,
            output_len: job.lengths.output,
            ..Record::default()
        };
        let keep = Keep {
            text: self.children.contains_key(&index) || (job.keep_answer && self.answer_bytes < MOST_KEPT),
            tics: self.options.keep_tics,
        };
        let outgoing = Outgoing {
            body: self.body(job.body),
            endpoint: self.options.endpoint,
            keep,
            record,
            timeout_ns: nanoseconds(self.options.timeout),
            cancel_ns: job.cancel_after.map(nanoseconds),
        };
        self.options.counters.on_sent();
        self.on_their_way += 1;
        let kept = self.reactors.kept(index, self.clock);
        if kept.is_none() {
            self.options.counters.on_connect();
        }
        let begun = Exchange::start(self.options.target, kept, outgoing, self.clock);
        let over = match begun.map(|exchange| self.reactors.add(exchange)) {
            Ok(Ok(())) => return,
            Ok(Err((exchange, error))) => {
                let failure = Failure::new(Reason::Connect(error.to_string()), "the client cannot watch the socket");
                exchange.over(End::Failed(failure), self.clock)
            }
            Err(over) => *over,
        };
        self.options.counters.on_done(&over.record);
        // Not ended here: where nothing connects, each end would begin the next within itself.
        self.at_once.push(over);
    }

    /// A body's pieces, with the answers that it quotes.
    fn body(&self, body: Body) -> Vec<Bytes> {
        match body {
            Body::Whole(bytes) => vec![bytes],
            Body::Quoting(pieces) => {
                let answer = |of: usize| self.answers.get(&of).map_or_else(Bytes::new, |text| text.clone().into());
                let piece = |piece| match piece {
                    Piece::Json(bytes) => bytes,
                    Piece::AnswerOf(of) => answer(of),
                };
                pieces.into_iter().map(piece).collect()
            }
        }
    }

    fn on_ended(&mut self, over: Ended) {
        self.left -= 1;
        self.on_their_way -= 1;
        let Ended { mut record, text, tics } = over;
        let (index, ended, failed) = (record.index, record.ended, record.failure().is_some());
        record.tics = tics;
        if let Some(text) = text {
            self.answer_bytes += text.len();
            self.answers.insert(index, text);
        }
        self.records.push(record);
        let children = self.children.remove(&index).unwrap_or_default();
        if failed {
            self.never_send(children);
            return self.free_place();
        }
        for child in children {
            let job = self.jobs[child].as_ref().expect("a turn is sent after the one before it");
            let Start::After { delay, not_before, .. } = job.start else { unreachable!("it waits for a turn") };
            let at = ended.saturating_add(nanoseconds(delay)).max(nanoseconds(not_before));
            self.due.push(Reverse((at, Due::Request(child))));
        }
        self.free_place();
    }

    /// Turns whose history lacks an answer, and those that wait for them: each is counted under its own reason. What a
    /// server would say to such a history is no figure of the workload that was asked for.
    fn never_send(&mut self, mut turns: Vec<usize>) {
        let now = self.clock.now();
        while let Some(index) = turns.pop() {
            turns.extend(self.children.remove(&index).unwrap_or_default());
            let job = self.jobs[index].take().expect("a turn is sent after the one before it");
            let failure = Failure::new(Reason::Parent, "the turn before it failed: it was not sent");
            self.left -= 1;
            self.options.counters.on_never_sent();
            self.records.push(Record {
                index,
                class: job.class,
                turn: self.turns[index],
                sent: now,
                ended: now,
                input_len: job.lengths.input,
                output_len: job.lengths.output,
                end: End::Failed(failure),
                ..Record::default()
            });
        }
    }

    /// A request's place is free again, in a closed loop.
    fn free_place(&mut self) {
        if self.options.places.is_some() {
            self.free += 1;
            // A turn that is due now goes before what never began.
            self.launch_due();
            self.fill_places();
        }
    }
}

/// Which turn each job is: one more than that which it waits for.
fn turns(jobs: &[Job]) -> Vec<u32> {
    let mut turns = vec![0; jobs.len()];
    for (index, job) in jobs.iter().enumerate() {
        if let Start::After { parent, .. } = job.start {
            turns[parent] = turns[parent].max(1);
            turns[index] = turns[parent] + 1;
        }
    }
    turns
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
