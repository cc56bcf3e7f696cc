//! Requests that are made while a run lasts: a closed loop that ends by time does not know how many it will send.
//!
//! Owns the thread that makes them and how many at a time. Makes none before it is asked: a run whose prepared requests
//! last has the machine for itself.
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::Scope;

use crate::request::Job;

/// Makes so many requests more; none where there are no more.
pub(crate) type More<'a> = Box<dyn FnMut(usize) -> Vec<Job> + Send + 'a>;

/// The launcher's end.
pub(super) struct Supply {
    ask: Sender<usize>,
    made: Receiver<Vec<Job>>,
    /// An answer is on its way.
    pending: bool,
    /// The last answer was that there are no more.
    over: bool,
}

/// A batch's least and most requests.
const LEAST: usize = 64;
const MOST: usize = 1024;

impl Supply {
    /// Its thread ends when this is dropped.
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>, mut more: More<'scope>) -> Self {
        let (ask, asked) = mpsc::channel();
        let (give, made) = mpsc::channel();
        scope.spawn(move || {
            for n in asked {
                if give.send(more(n)).is_err() {
                    return;
                }
            }
        });
        Self { ask, made, pending: false, over: false }
    }

    /// Asks for more where so few are left for so many places.
    pub(super) fn keep(&mut self, left: usize, places: usize) {
        let batch = (places * 4).clamp(LEAST, MOST);
        if left < batch && !self.pending && !self.over {
            self.pending = self.ask.send(batch).is_ok();
        }
    }

    /// What was made since the last time.
    pub(super) fn take(&mut self) -> Vec<Job> {
        if !self.pending {
            return Vec::new();
        }
        match self.made.try_recv() {
            Ok(jobs) => {
                (self.pending, self.over) = (false, jobs.is_empty());
                jobs
            }
            Err(TryRecvError::Empty) => Vec::new(),
            Err(TryRecvError::Disconnected) => {
                (self.pending, self.over) = (false, true);
                Vec::new()
            }
        }
    }

    /// Whether more is on its way.
    pub(super) fn is_pending(&self) -> bool {
        self.pending
    }
}
