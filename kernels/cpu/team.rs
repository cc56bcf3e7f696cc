//! A team of threads that share one piece of work at a time and wait for each other, a few hundred times a step.
//!
//! Work is numbered tasks that threads take from a counter: a core that somebody else uses for a moment takes fewer.
//! Which thread ran a task changes no result; that is for the tasks to hold. Knows nothing of what they compute.
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};

/// How long a thread spins for the next piece before it sleeps: about 30 µs, more than the gap between two operations
/// of a step and less than what a scheduler would notice.
const SPINS: u32 = 1000;

/// What a member does with a piece of work: takes tasks until there are none. Gets its number, for scratch memory.
type Part = dyn Fn(usize, &Tasks) + Sync;

/// The numbers of tasks, each given out once.
pub(super) struct Tasks {
    next: AtomicUsize,
    count: usize,
}

impl Tasks {
    fn new(count: usize) -> Self {
        Self { next: AtomicUsize::new(0), count }
    }

    /// The next that nobody has taken.
    pub(super) fn next(&self) -> Option<usize> {
        let task = self.next.fetch_add(1, Ordering::Relaxed);
        (task < self.count).then_some(task)
    }
}

/// One piece of work, alive on the caller's stack until every member has left it.
struct Job {
    run: *const Part,
    tasks: Tasks,
    /// Members still inside, the caller apart.
    inside: AtomicUsize,
    panic: std::sync::Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
}

struct Shared {
    /// Counts pieces of work; a member that sees it change reads `job`.
    round: AtomicU32,
    job: UnsafeCell<*const Job>,
    stop: AtomicBool,
}

// SAFETY: `job` is written by the team's owner alone, while no member is inside a job, before a Release store to `round`;
// members read it after an Acquire load that sees that store.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in it is used within a round only.
unsafe impl Send for Shared {}

/// The threads: the caller's own and `threads - 1` more.
pub(super) struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `threads`, at least one: the caller of `run` is one of them.
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            round: AtomicU32::new(0),
            job: UnsafeCell::new(std::ptr::null()),
            stop: AtomicBool::new(false),
        });
        let mut team = Self { shared, members: Vec::new() };
        for worker in 1..threads {
            let shared = Arc::clone(&team.shared);
            let member = thread::Builder::new().name(format!("cpu-{worker}")).spawn(move || member(&shared, worker))?;
            team.members.push(member);
        }
        Ok(team)
    }

    /// How many threads run tasks.
    pub(super) fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Runs `part` on every thread, and returns when all are done. It takes its tasks itself; a panic is the caller's.
    pub(super) fn each(&mut self, tasks: usize, part: &(dyn Fn(usize, &Tasks) + Sync)) {
        if self.members.is_empty() || tasks <= 1 {
            return part(0, &Tasks::new(tasks));
        }
        // SAFETY: only the lifetime changes. `job` is gone before `part`'s borrow ends: this function returns or unwinds
        // after `wait`, and no member touches the job once it has left it.
        let run = unsafe { std::mem::transmute::<*const (dyn Fn(usize, &Tasks) + Sync + '_), *const Part>(part) };
        let job = Job {
            run,
            tasks: Tasks::new(tasks),
            inside: AtomicUsize::new(self.members.len()),
            panic: std::sync::Mutex::new(None),
            caller: thread::current(),
        };
        // SAFETY: no member is inside a job (the last `run` waited for all), and `&mut self` keeps other callers out.
        unsafe { *self.shared.job.get() = &job };
        self.shared.round.fetch_add(1, Ordering::Release);
        self.members.iter().for_each(|member| member.thread().unpark());
        work(&job, 0);
        wait(|| job.inside.load(Ordering::Acquire) == 0);
        if let Some(panic) = job.panic.into_inner().expect("no panic while it is locked") {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for member in self.members.drain(..) {
            member.thread().unpark();
            // Members catch their tasks' panics, so that there is none to pass on.
            let _ = member.join();
        }
    }
}

/// Spins a while, then sleeps until unparked, until `done`.
fn wait(done: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
    while !done() {
        thread::park();
    }
}

/// A member's life.
fn member(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        wait(|| shared.round.load(Ordering::Acquire) != seen || shared.stop.load(Ordering::Acquire));
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        seen = seen.wrapping_add(1);
        // SAFETY: the round was announced after `job` was written, and the job lives until `inside` falls to zero, to
        // which this member still adds one.
        let job = unsafe { &**shared.job.get() };
        work(job, worker);
        // After the decrement the job may be gone: what is needed of it is copied first.
        let caller = job.caller.clone();
        if job.inside.fetch_sub(1, Ordering::Release) == 1 {
            caller.unpark();
        }
    }
}

/// Does a part; where that panics, nobody takes further tasks.
fn work(job: &Job, worker: usize) {
    // SAFETY: `run` outlives the job, see `Team::each`.
    let run = unsafe { &*job.run };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(worker, &job.tasks))) {
        job.tasks.next.store(job.tasks.count, Ordering::Relaxed);
        *job.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(team: &mut Team, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        team.each(tasks, &|worker, tasks| {
            while let Some(i) = tasks.next() {
                task(worker, i);
            }
        });
    }

    #[test]
    fn each_task_runs_once_round_after_round() {
        for threads in [1, 2, 5] {
            let mut team = Team::new(threads).unwrap();
            assert_eq!(team.threads(), threads);
            for tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    run(&mut team, tasks, &|worker, task| {
                        assert!(worker < threads);
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let mut team = Team::new(3).unwrap();
        for bad in [0, 5, 19] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                run(&mut team, 20, &|_, task| assert!(task != bad, "task {task}"));
            }));
            let panic = caught.expect_err("a task panicked");
            assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("task {bad}"));
        }
        let sum = AtomicUsize::new(0);
        run(&mut team, 10, &|_, task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn members_that_slept_wake_up() {
        let mut team = Team::new(2).unwrap();
        // Both tasks wait for each other: one thread alone could not do them.
        for _ in 0..200 {
            let barrier = std::sync::Barrier::new(2);
            run(&mut team, 2, &|_, _| {
                barrier.wait();
            });
            (0..20).for_each(|_| thread::yield_now());
        }
    }

    #[test]
    fn a_team_moves_between_threads() {
        let mut team = Team::new(2).unwrap();
        for _ in 0..20 {
            team = thread::spawn(move || {
                run(&mut team, 4, &|_, _| {});
                team
            })
            .join()
            .unwrap();
        }
    }
}
