//! The loop that drives the scheduler, on its own thread: admissions in, batches out, events to clients, a heartbeat.
//!
//! Owns the clients' handles; a handle is dropped when its sequence has left, pages and all. Decides nothing itself.
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{NewSequence, Notice, Scheduler, What};
use crate::batch::{Batch, BatchOutput, EngineError, ModelRunner};
use crate::health::{Health, Phase};
use crate::metrics::{Metrics, SchedulerStats};
use crate::request::{Admission, Event, Failure, SeqId, SequenceHandle};

/// Every wait ends after this at most, for the heartbeat, and to see who has left and whether to stop.
const TICK: Duration = Duration::from_millis(200);

/// What the loop needs.
pub struct SchedulerLoop {
    /// Idle, made for the runner's capacity.
    pub scheduler: Scheduler,
    /// Computes the batches.
    pub runner: Box<dyn ModelRunner>,
    /// From intake. The loop ends when its senders are gone and every sequence has left.
    pub inbox: flume::Receiver<Admission>,
    /// Set when a drain takes too long: every sequence fails, those that still come too.
    pub cancel: Arc<AtomicBool>,
    /// Ticked here, and failed if the engine is gone.
    pub health: Health,
    /// Gauges, cache and preemption counters.
    pub metrics: Metrics,
}

/// Runs until the inbox is closed and nothing is left. An engine's error or a panic, its own or the scheduler's, fails
/// every sequence, and from then on those that come, until the senders are gone.
pub fn run(parts: SchedulerLoop) {
    let mut driver = Driver { parts, clients: HashMap::new(), events: Vec::new() };
    let failure = match catch_unwind(AssertUnwindSafe(|| driver.serve())) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => {
            let failure = Failure(error.to_string());
            driver.parts.scheduler.fail_all(&failure);
            driver.stamp_notices();
            driver.send_events();
            driver.show_stats();
            failure
        }
        // The state machine may be what broke: it is not asked any more.
        Err(panic) => {
            driver.send_events();
            driver.parts.metrics.set_scheduler(&SchedulerStats::default());
            Failure(format!("the engine stopped: a panic: {}", panic_text(&*panic)))
        }
    };
    driver.fail(failure);
}

/// A sequence's client.
struct Client {
    handle: SequenceHandle,
    /// It has had its terminal event.
    ended: bool,
    /// It has been aborted.
    aborted: bool,
}

struct Driver {
    parts: SchedulerLoop,
    clients: HashMap<SeqId, Client>,
    /// To be sent, with the instant of the commit or plan that they are from.
    events: Vec<(Instant, Notice)>,
}

impl Driver {
    fn serve(&mut self) -> Result<(), EngineError> {
        loop {
            self.parts.health.tick();
            if self.parts.scheduler.is_idle() && !self.wait_for_work() {
                return Ok(());
            }
            while let Ok(admission) = self.parts.inbox.try_recv() {
                self.admit(admission);
            }
            self.abort_leavers();
            while let Some(batch) = self.parts.scheduler.plan() {
                self.submit(batch)?;
            }
            self.stamp_notices();
            // The last commit's too: sending them costs more than planning does, so the engine has its next batch first.
            self.send_events();
            self.show_stats();
            if self.parts.scheduler.batches_out() == 0 {
                match self.parts.runner.held_until() {
                    Some(until) => self.wait_for_held(until),
                    None => assert!(self.parts.scheduler.is_idle(), "the scheduler has sequences but no batch for any"),
                }
            } else if let Some(output) = self.parts.runner.collect(TICK)? {
                self.commit(output);
            }
        }
    }

    /// Waits while there is nothing to do; false when nothing will come.
    fn wait_for_work(&mut self) -> bool {
        self.send_events();
        self.show_stats();
        let scheduler = &self.parts.scheduler;
        assert_eq!(scheduler.stats().pages_in_use, 0, "pages are in use, and no sequence is there");
        debug_assert_eq!(scheduler.check_integrity(), Ok(()));
        loop {
            match self.parts.inbox.recv_timeout(TICK) {
                Ok(admission) => {
                    self.admit(admission);
                    return true;
                }
                Err(flume::RecvTimeoutError::Timeout) => self.parts.health.tick(),
                Err(flume::RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Waits until held rows are due or someone comes, and takes what is due.
    fn wait_for_held(&mut self, until: Instant) {
        let until = until.min(Instant::now() + TICK);
        match self.parts.inbox.recv_deadline(until) {
            Ok(admission) => self.admit(admission),
            Err(flume::RecvTimeoutError::Timeout) => {}
            // Nobody comes any more; those who are there stay to their end.
            Err(flume::RecvTimeoutError::Disconnected) => {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
            }
        }
        let due = self.parts.runner.take_due();
        if !due.is_empty() {
            self.parts.scheduler.release(due);
            self.stamp_notices();
        }
    }

    fn admit(&mut self, admission: Admission) {
        let leader = admission.sequences.first().map(|first| first.id);
        for (choice, handle) in admission.sequences.into_iter().enumerate() {
            let mut sampling = admission.sampling.clone();
            sampling.seed = sampling.seed.wrapping_add(choice as u64);
            self.parts.scheduler.admit(NewSequence {
                id: handle.id,
                prompt: admission.prompt.clone(),
                max_tokens: admission.max_tokens,
                sampling: Arc::new(sampling),
                ignore_eos: admission.ignore_eos,
                leader: leader.filter(|_| choice > 0),
            });
            self.clients.insert(handle.id, Client { handle, ended: false, aborted: false });
        }
    }

    /// Aborts the sequences whose client has dropped its end, or all of them when told to stop.
    fn abort_leavers(&mut self) {
        let cancel = self.parts.cancel.load(Ordering::Acquire);
        if cancel {
            self.send_events(); // so that what has ended already does not fail
        }
        for (&id, client) in self.clients.iter_mut().filter(|(_, client)| !client.aborted) {
            if cancel && !client.ended {
                let failure = Failure("the server is shutting down".to_owned());
                client.tell(Event::Failed(failure));
            }
            if cancel || client.handle.events.is_disconnected() {
                client.aborted = true;
                self.parts.scheduler.abort(id);
            }
        }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), EngineError> {
        self.parts.metrics.observe_iteration(batch.tokens());
        self.parts.runner.submit(batch)?;
        if self.parts.scheduler.batches_out() == 1 {
            self.parts.health.batch_out(true);
        }
        Ok(())
    }

    fn commit(&mut self, output: BatchOutput) {
        self.parts.scheduler.commit(output);
        self.stamp_notices();
        self.parts.health.batch_out(self.parts.scheduler.batches_out() > 0);
    }

    fn stamp_notices(&mut self) {
        let at = Instant::now();
        self.events.extend(self.parts.scheduler.take_notices().into_iter().map(|notice| (at, notice)));
    }

    fn send_events(&mut self) {
        for (at, Notice { id, what }) in self.events.drain(..) {
            let client = self.clients.get_mut(&id).expect("a client until its sequence has left");
            match what {
                What::Started { cached_tokens } => client.tell(Event::Started { cached_tokens, at }),
                What::Token(id) => client.tell(Event::Token { id, at }),
                What::Finished(reason) => client.tell(Event::Finished { reason, at }),
                What::Failed(failure) => client.tell(Event::Failed(failure)),
                What::Left => drop(self.clients.remove(&id)),
            }
        }
    }

    fn show_stats(&self) {
        self.parts.metrics.set_scheduler(&self.parts.scheduler.stats());
    }

    /// The end: whoever is still there fails, and whoever still comes.
    fn fail(mut self, failure: Failure) {
        tracing::error!("{failure}; every sequence fails");
        self.parts.health.advance(Phase::Failed);
        for (_, mut client) in self.clients.drain().filter(|(_, client)| !client.ended) {
            client.tell(Event::Failed(failure.clone()));
        }
        for admission in self.parts.inbox.iter() {
            for handle in admission.sequences {
                Client { handle, ended: false, aborted: false }.tell(Event::Failed(failure.clone()));
            }
        }
    }
}

impl Client {
    /// Sends an event, the last of them at most once. The channel has room; a client that is gone is seen at the next tick.
    fn tell(&mut self, event: Event) {
        assert!(!self.ended, "{event:?} after the end");
        self.ended = matches!(event, Event::Finished { .. } | Event::Failed(_));
        let _ = self.handle.events.send(event);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a text",
    }
}
