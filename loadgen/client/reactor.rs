//! The threads that read answers: each waits on its own epoll and gives every ready request its turn.
//!
//! Owns the sockets of requests on their way, their deadlines, and the hand-over between threads; those between two
//! requests are `idle.rs`'s. Knows nothing of what a request is or when the next is due.
//!
//! A chunk's cost here is one `read`, its share of an `epoll_wait`, and the clock: sockets are registered once a request, for edges,
//! and a short read counts as the last. Ends go to the launcher by a channel, once a request.
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Events, Interest, Poll, Registry, Token, Waker};
use rustc_hash::FxHashMap;

use super::Clock;
use super::exchange::{Exchange, Over};
use super::idle::{Idle, Leftover};
use super::scan::Form;
use super::socket::Socket;
use super::stamps::Stamps;
use crate::counters::Counters;
use crate::records::{End, Failure, Reason};
use crate::series::GapsOverTime;
use crate::statistics::Gaps;

/// Ready sockets that one wait hands over, at most. The kernel lets no socket be registered meanwhile, so that a request would
/// be late for a long list; and what is touched of each is to be near still when it is read.
const EVENTS: usize = 128;

/// Bytes that one read takes: more than any chunk, and many at once where the reader is behind.
const BUFFER: usize = 64 << 10;

/// The waker's token; a request's is its place in the run.
const WAKE: Token = Token(usize::MAX);

/// A request that is over.
pub(crate) type Ended = Over;

/// What a thread counts.
pub(crate) struct Tally {
    /// Between content chunks.
    pub(crate) gaps: Gaps,
    /// The same, over time.
    pub(crate) gaps_over_time: GapsOverTime,
    counters: Arc<Counters>,
}

impl Tally {
    fn new(counters: Arc<Counters>) -> Self {
        Self { gaps: Gaps::new(), gaps_over_time: GapsOverTime::new(), counters }
    }

    /// For tests: counts that nobody shows.
    #[cfg(test)]
    pub(crate) fn unseen() -> Self {
        let counters = Counters::default();
        counters.on_sent();
        Self::new(Arc::new(counters))
    }

    pub(crate) fn on_first_token(&mut self, ttft_ns: u64) {
        self.counters.on_first_token(ttft_ns);
    }

    /// A chunk without any before it that counts.
    pub(crate) fn on_empty_chunk(&mut self) {
        self.counters.on_chunk(None);
    }

    pub(crate) fn on_gap(&mut self, at_ns: u64, gap_ns: u64) {
        let us = (gap_ns + 500) / 1000;
        self.gaps.add(us);
        self.gaps_over_time.add(at_ns, us);
        self.counters.on_chunk(Some(us));
    }
}

/// What a thread reads with.
pub(crate) struct Tools {
    /// Where the bytes of a read go.
    pub(crate) buffer: Vec<u8>,
    pub(crate) stamps: Stamps,
    /// Of the events that were read.
    pub(crate) form: Form,
}

/// The reading threads of one run.
pub(crate) struct Reactors {
    threads: Vec<Reading>,
}

/// One of them, seen from the launcher.
struct Reading {
    shared: Arc<Shared>,
    registry: Registry,
    thread: JoinHandle<Tally>,
}

struct Shared {
    /// Requests that were registered and that the thread has not met yet. Held while one is registered, so that a thread
    /// that sees an event of an unknown request finds it here.
    #[allow(clippy::vec_box)] // they come boxed, and are moved to a map
    arrivals: Mutex<Vec<Box<Exchange>>>,
    /// Connections that may carry the next requests.
    idle: Idle,
    /// No more will come: end when none is left.
    closed: AtomicBool,
    /// Every request on its way is to be left.
    leaving: AtomicBool,
    waker: Waker,
}

impl Reactors {
    /// Starts so many threads, which send every end to `ended`.
    pub(crate) fn start(
        threads: usize,
        clock: Clock,
        counters: &Arc<Counters>,
        ended: &Sender<Ended>,
        ends_are: Ends,
    ) -> io::Result<Self> {
        let start = |_| {
            let poll = Poll::new()?;
            let registry = poll.registry().try_clone()?;
            let shared = Arc::new(Shared {
                arrivals: Mutex::new(Vec::new()),
                idle: Idle::default(),
                closed: AtomicBool::new(false),
                leaving: AtomicBool::new(false),
                waker: Waker::new(&registry, WAKE)?,
            });
            let reactor = Reactor {
                poll,
                shared: shared.clone(),
                tools: Tools { buffer: vec![0; BUFFER], stamps: Stamps::new(clock), form: Form::default() },
                tally: Tally::new(counters.clone()),
                ended: ended.clone(),
                over: Vec::new(),
                exchanges: FxHashMap::default(),
                due: BTreeSet::new(),
                reads: 0,
                ends: 0,
                ends_are,
                pace: Pace::Calm,
                next_tick: 0,
                lingering: FxHashMap::default(),
            };
            let thread = std::thread::Builder::new().name("loadgen-read".to_owned()).spawn(|| reactor.run())?;
            Ok(Reading { shared, registry, thread })
        };
        Ok(Self { threads: (0..threads).map(start).collect::<io::Result<_>>()? })
    }

    /// A connection that has carried a request and may carry this one, of the thread that will read the answer.
    pub(crate) fn kept(&self, index: usize, clock: Clock) -> Option<Socket> {
        self.threads[index % self.threads.len()].shared.idle.take(clock.now())
    }

    /// Hands a request over to the thread that will read its answer. A request that cannot be watched is given back.
    pub(crate) fn add(&self, mut exchange: Box<Exchange>) -> Result<(), (Box<Exchange>, io::Error)> {
        let index = exchange.index();
        let Reading { shared, registry, .. } = &self.threads[index % self.threads.len()];
        let mut arrivals = shared.arrivals.lock().expect("no panic while it is held");
        let interest = match exchange.awaits_room() {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let (is_reused, tcp) = (exchange.is_reused(), exchange.socket().tcp());
        let watched = match is_reused {
            // What is ready by now is told anew.
            true => registry.reregister(tcp, Token(index), interest),
            false => registry.register(tcp, Token(index), interest),
        };
        match watched {
            Ok(()) => {
                arrivals.push(exchange);
                Ok(())
            }
            Err(error) => Err((exchange, error)),
        }
    }

    /// Leaves every request that is on its way: each ends as cancelled. None may be added any more.
    pub(crate) fn leave(&self) {
        for Reading { shared, .. } in &self.threads {
            shared.leaving.store(true, Ordering::Release);
            // Its thread would see it at its next wait anyhow.
            let _ = shared.waker.wake();
        }
    }

    /// Waits until every request has ended, and returns what the threads counted.
    pub(crate) fn finish(self) -> Vec<Tally> {
        for Reading { shared, .. } in &self.threads {
            shared.closed.store(true, Ordering::Release);
            // Its thread would see it at its next wait anyhow.
            let _ = shared.waker.wake();
        }
        self.threads
            .into_iter()
            .map(|reading| reading.thread.join().expect("a reading thread does not panic"))
            .collect()
    }
}

struct Reactor {
    poll: Poll,
    shared: Arc<Shared>,
    tools: Tools,
    tally: Tally,
    ended: Sender<Ended>,
    /// What it was not told of yet.
    over: Vec<Ended>,
    exchanges: FxHashMap<usize, Box<Exchange>>,
    /// Their deadlines and cancellations, by time.
    due: BTreeSet<(u64, usize)>,
    /// Reads and ends since the last tick, and what those of the tick before it made of it.
    reads: u32,
    ends: u32,
    ends_are: Ends,
    pace: Pace,
    /// When deadlines and lingering sockets are looked at next.
    next_tick: u64,
    /// Connections of whole answers whose end by HTTP, or by the server's closing, is to come.
    lingering: FxHashMap<usize, Leftover>,
}

/// Longest wait: how late a deadline may be seen.
const TICK: Duration = Duration::from_millis(20);

/// How much a thread has to read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    Calm,
    /// [`BUSY`]: it reads sparingly.
    Busy,
    /// It also lets events gather: see [`Ends::nap`].
    Gathering,
}

/// Reads a tick (15,000 a second) from which a thread reads sparingly (`socket.rs`). Below it there is time to spare, and a server
/// that does not set TCP_NODELAY, whose every small packet waits for the one before to be acknowledged, is met as other
/// clients meet it.
const BUSY: u32 = 300;

/// Whether something waits for an answer's end: the next request of a closed loop, the next turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    AreWaitedFor,
    AreCounted,
}

impl Ends {
    /// How long a busy thread sleeps between two waits: a wake-up for one or two chunks costs as much as reading them. Only
    /// where arrivals are noted, so that no stamp is late for it. Ends are, by up to this.
    fn nap(self) -> Duration {
        Duration::from_millis(match self {
            Self::AreWaitedFor => 1,
            Self::AreCounted => 2,
        })
    }

    /// Whether there are so few ends among the reads that what waits for them may wait for a nap as well.
    fn are_rare(self, ends: u32, reads: u32) -> bool {
        self == Self::AreCounted || reads / 16 >= ends
    }
}

impl Reactor {
    fn run(mut self) -> Tally {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    self.fail_all(&error);
                    return self.tally;
                }
                _ => {}
            }
            self.tools.stamps.check();
            let ready = events.iter().filter_map(|event| self.exchanges.get(&event.token().0));
            std::hint::black_box(ready.fold(0, |all, exchange| exchange.touch() ^ all));
            for event in &events {
                if event.token() != WAKE {
                    let closed = event.is_read_closed() || event.is_error();
                    self.on_ready(event.token().0, closed);
                }
            }
            self.on_tick();
            if self.shared.leaving.load(Ordering::Acquire) {
                self.end_all(|| End::Cancelled);
            }
            self.tell();
            if self.pace == Pace::Gathering && events.iter().count() < EVENTS {
                std::thread::sleep(self.ends_are.nap());
            }
            if self.shared.closed.load(Ordering::Acquire) && self.exchanges.is_empty() {
                self.meet_arrivals();
                if self.exchanges.is_empty() {
                    return self.tally;
                }
            }
        }
    }

    /// Takes over what the launcher has registered; whether there was anything.
    fn meet_arrivals(&mut self) -> bool {
        let mut arrivals = self.shared.arrivals.lock().expect("no panic while it is held");
        let any = !arrivals.is_empty();
        for exchange in arrivals.drain(..) {
            self.due.insert((exchange.due(), exchange.index()));
            self.exchanges.insert(exchange.index(), exchange);
        }
        any
    }

    fn on_ready(&mut self, index: usize, closed: bool) {
        let Some(exchange) = self.exchanges.get_mut(&index) else {
            if let Some(mut leftover) = self.lingering.remove(&index) {
                if leftover.read(closed, &mut self.tools) {
                    self.rest(index, leftover);
                }
            } else if self.meet_arrivals() {
                self.on_ready(index, closed);
            } else {
                // The server has closed it, or says what nobody asked for; or it ended at a deadline in this round.
                self.shared.idle.remove(index);
            }
            return;
        };
        self.reads += 1;
        if self.pace >= Pace::Busy {
            exchange.socket().save_acknowledgements();
        }
        if let Some(end) = exchange.on_ready(closed, &mut self.tools, &mut self.tally) {
            self.end(index, end, closed);
        }
    }

    fn end(&mut self, index: usize, end: End, closed: bool) {
        self.ends += 1;
        let mut exchange = self.exchanges.remove(&index).expect("an exchange that ends is here");
        self.due.remove(&(exchange.due(), index));
        let is_whole = end == End::Completed && !closed;
        let leftover = is_whole.then(|| exchange.take_leftover(self.tools.stamps.clock())).flatten();
        let over = exchange.over(end, self.tools.stamps.clock());
        self.tally.counters.on_done(&over.record);
        // Before the launcher hears of the end: what it sends then finds the connection.
        if let Some(leftover) = leftover {
            self.rest(index, leftover);
        }
        self.over.push(over);
        if self.ends_are == Ends::AreWaitedFor {
            self.tell();
        }
    }

    /// Tells the launcher of the ends so far. A wake-up of its thread costs as much as two chunks: where nothing waits for
    /// them, those of a round go together.
    fn tell(&mut self) {
        for over in self.over.drain(..) {
            // The launcher waits for every end; where it is gone, the process is ending.
            let _ = self.ended.send(over);
        }
    }

    /// Puts a connection where it waits: for the next request, or for its end.
    fn rest(&mut self, index: usize, leftover: Leftover) {
        match leftover.is_free() {
            true => self.shared.idle.put(
                leftover.into_free(self.pace >= Pace::Busy),
                index,
                self.tools.stamps.clock().now(),
            ),
            false => drop(self.lingering.insert(index, leftover)),
        }
    }

    fn on_tick(&mut self) {
        let now = self.tools.stamps.clock().now();
        if now < self.next_tick {
            return;
        }
        // A tick that was waited for longer than it should is no measure of it, but then there is nothing to save.
        let may_gather = self.tools.stamps.are_noted() && self.ends_are.are_rare(self.ends, self.reads);
        self.pace = match self.reads {
            BUSY.. if may_gather => Pace::Gathering,
            BUSY.. => Pace::Busy,
            _ => Pace::Calm,
        };
        (self.reads, self.ends) = (0, 0);
        self.next_tick = now + TICK.as_nanos() as u64;
        self.meet_if_any();
        while let Some(&(at, index)) = self.due.first() {
            if at > now {
                break;
            }
            self.due.pop_first();
            if let Some(end) = self.exchanges.get(&index).and_then(|exchange| exchange.on_time(now)) {
                self.end(index, end, true);
            }
        }
        // Its length is bounded by what ends within a second.
        self.lingering.retain(|_, leftover| leftover.lingers_at(now));
        self.shared.idle.expire(now);
    }

    /// Requests whose first event has not come yet have deadlines too.
    fn meet_if_any(&mut self) {
        if self.shared.arrivals.try_lock().is_ok_and(|arrivals| !arrivals.is_empty()) {
            self.meet_arrivals();
        }
    }

    fn fail_all(&mut self, error: &io::Error) {
        let problem = format!("the client cannot wait for its sockets: {error}");
        self.end_all(|| End::Failed(Failure::new(Reason::Reset, &problem)));
    }

    fn end_all(&mut self, how: impl Fn() -> End) {
        self.meet_arrivals();
        for index in self.exchanges.keys().copied().collect::<Vec<_>>() {
            self.end(index, how(), true);
        }
        self.tell();
    }
}
