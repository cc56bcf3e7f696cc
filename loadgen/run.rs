//! One run: every request sent when it should be, every answer measured, every outcome written down.
//!
//! Owns the open and the closed loop. Knows nothing of traces, prompts or reports.
//!
//! The calling thread paces; requests run on the runtime. A request takes two locks, both at its end. Nothing is tokenised,
//! formatted or printed while a run lasts.
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::ConsoleOptions;
use crate::arrivals::{self, Arrivals};
use crate::client::{Ask, Clock, Outcome, Target, stream_chat};
use crate::counters::Counters;
use crate::lengths::Lengths;
use crate::progress::RunDisplay;
use crate::records::Record;
use crate::statistics::Gaps;

/// Between the decision to start and the run's time 0, so that the first request is not late for having to be set up.
const LEAD: Duration = Duration::from_millis(20);

/// What a run is made of.
pub(crate) struct Job<'a> {
    pub(crate) target: &'a Target,
    pub(crate) arrivals: &'a Arrivals,
    pub(crate) lengths: &'a [Lengths],
    /// One for each of `lengths`; each is freed when its request ends.
    pub(crate) bodies: Vec<Bytes>,
    pub(crate) timeout: Duration,
}

/// What a run leaves.
pub(crate) struct Ledger {
    /// One of each request, in the order of their ends.
    pub(crate) records: Vec<Record>,
    /// Gaps between the content chunks of completed requests.
    pub(crate) gaps: Gaps,
    pub(crate) max_in_flight: u64,
    pub(crate) max_queued: u64,
}

/// What a run's requests share.
struct Shared {
    target: Target,
    clock: Clock,
    timeout: Duration,
    counters: Arc<Counters>,
    books: Mutex<(Vec<Record>, Gaps)>,
}

/// One request, ready to be sent.
struct Item {
    body: Bytes,
    lengths: Lengths,
    intended: Option<u64>,
}

/// Runs `job` to the end of its last request.
pub(crate) fn execute(runtime: &Runtime, job: Job<'_>, console: ConsoleOptions) -> Ledger {
    let total = job.lengths.len();
    assert_eq!(job.bodies.len(), total, "a body for each request");
    let start = match job.arrivals {
        Arrivals::Schedule(_) => Instant::now() + LEAD,
        Arrivals::Closed(_) => Instant::now(),
    };
    let shared = Arc::new(Shared {
        target: job.target.clone(),
        clock: Clock::starting(start),
        timeout: job.timeout,
        counters: Arc::new(Counters::default()),
        books: Mutex::new((Vec::with_capacity(total), Gaps::new())),
    });
    let tokens: u64 = job.lengths.iter().map(|lengths| lengths.output as u64).sum();
    let totals = [total as u64, total as u64, total as u64, tokens - total as u64];
    let display = RunDisplay::start(console, shared.counters.clone(), totals);
    let items = job.bodies.into_iter().zip(job.lengths.iter().copied());
    // Every task holds a sender; when none is left, all have ended.
    let (alive, mut all_ended) = mpsc::channel::<()>(1);
    match job.arrivals {
        Arrivals::Schedule(schedule) => {
            let mut items = items;
            arrivals::pace(start, schedule, |index| {
                let (body, lengths) = items.next().expect("an arrival for each request");
                let item = Item { body, lengths, intended: Some(schedule[index].as_nanos() as u64) };
                let (shared, alive) = (shared.clone(), alive.clone());
                runtime.spawn(async move {
                    shared.one(item).await;
                    drop(alive);
                });
            });
        }
        Arrivals::Closed(concurrency) => {
            let items = items.map(|(body, lengths)| Item { body, lengths, intended: None });
            let queue = Arc::new(Mutex::new(items.collect::<Vec<_>>().into_iter()));
            for _ in 0..*concurrency {
                let (shared, alive, queue) = (shared.clone(), alive.clone(), queue.clone());
                runtime.spawn(async move {
                    let next = || queue.lock().expect("no panic while it is held").next();
                    while let Some(item) = next() {
                        shared.one(item).await;
                    }
                    drop(alive);
                });
            }
        }
    }
    drop(alive);
    runtime.block_on(async { while all_ended.recv().await.is_some() {} });
    drop(display);
    let mut books = shared.books.lock().expect("no panic while it is held");
    let (records, gaps) = std::mem::replace(&mut *books, (Vec::new(), Gaps::new()));
    assert_eq!(records.len(), total, "every request ends in one record");
    let counters = &shared.counters;
    Ledger { records, gaps, max_in_flight: counters.max_in_flight(), max_queued: counters.max_queued() }
}

impl Shared {
    /// Sends one request, reads its answer to the end and writes its record.
    async fn one(&self, item: Item) {
        let sent = self.clock.now();
        self.counters.on_sent();
        let Lengths { input, output } = item.lengths;
        let ask = Ask { body: item.body, output_len: output, timeout: self.timeout };
        let Outcome { measured, failure } = stream_chat(&self.target, ask, self.clock, &self.counters).await;
        let now = self.clock.now();
        self.counters.on_done(measured.first_token.is_some());
        let record = Record {
            intended: item.intended,
            sent,
            first_token: measured.first_token,
            last_token: measured.last_token,
            // What follows the last token (usage, the end of the body) is no part of an answer.
            ended: if failure.is_none() { measured.last_token.unwrap_or(now) } else { now },
            chunks: measured.chunks,
            usage: measured.usage,
            input_len: input,
            output_len: output,
            failure,
        };
        let (records, gaps) = &mut *self.books.lock().expect("no panic while it is held");
        if record.failure.is_none() {
            measured.gaps_us.iter().for_each(|&us| gaps.add(u64::from(us)));
        }
        records.push(record);
    }
}
