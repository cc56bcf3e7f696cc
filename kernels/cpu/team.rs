//! A team of threads that share one piece of work at a time and wait for each other, a few hundred times a step.
//!
//! Work is numbered tasks. Of `n` threads, thread `i` takes tasks `i`, `i + n`, … first, then what the others have left: a core
//! that somebody else uses for a moment does fewer. So whoever numbers tasks can give a thread what lies together in memory.
//! Which thread ran a task changes no result; that is for the tasks to hold. Knows nothing of what they compute.
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};

/// How often a thread looks for the next piece, or for the others' end, before it lets others run: some 30 to 50 µs, more than
/// the gap between two operations of a step and less than what a scheduler would notice.
const SPINS: u32 = 1000;
/// How often it lets others run before it sleeps: half a millisecond and more where nobody wants to. A core that sleeps is late by
/// as long again, in a virtual machine above all, and whoever waits is not (kernels/README.md).
const YIELDS: u32 = 1000;

/// What a member does with a piece of work: takes tasks until there are none. Gets its number, for scratch memory.
type Part = dyn Fn(usize, &Tasks) + Sync;

/// How many of a thread's own tasks were taken. On cache lines of its own: its thread counts in peace.
#[derive(Default)]
#[repr(align(128))]
struct Lane(AtomicUsize);

/// The numbers of tasks, each given out once: what one thread of the team sees of them.
pub(super) struct Tasks<'a> {
    lanes: &'a [Lane],
    count: usize,
    worker: usize,
}

impl Tasks<'_> {
    /// The next that nobody has taken: its own, else another's.
    pub(super) fn next(&self) -> Option<usize> {
        let threads = self.lanes.len();
        (self.worker..self.worker + threads).find_map(|lane| {
            let lane = lane % threads;
            let turn = self.lanes[lane].0.fetch_add(1, Ordering::Relaxed);
            Some(lane + turn * threads).filter(|&task| task < self.count)
        })
    }
}

/// One piece of work, alive on the caller's stack until every member has left it.
struct Job {
    run: *const Part,
    /// How many tasks; the team's lanes say which were taken.
    tasks: usize,
    /// Members still inside, the caller apart.
    inside: AtomicUsize,
    panic: std::sync::Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
}

struct Shared {
    /// Counts pieces of work; a member that sees it change reads `job`.
    round: AtomicU32,
    job: UnsafeCell<*const Job>,
    /// One a thread, counting in the job.
    lanes: Box<[Lane]>,
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
            lanes: (0..threads.max(1)).map(|_| Lane::default()).collect(),
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
        // No member is inside a job (the last one waited for all), and the next round's announcement shows them this.
        self.shared.lanes.iter().for_each(|lane| lane.0.store(0, Ordering::Relaxed));
        if self.members.is_empty() || tasks <= 1 {
            return part(0, &Tasks { lanes: &self.shared.lanes, count: tasks, worker: 0 });
        }
        // SAFETY: only the lifetime changes. `job` is gone before `part`'s borrow ends: this function returns or unwinds
        // after `wait`, and no member touches the job once it has left it.
        let run = unsafe { std::mem::transmute::<*const (dyn Fn(usize, &Tasks) + Sync + '_), *const Part>(part) };
        let job = Job {
            run,
            tasks,
            inside: AtomicUsize::new(self.members.len()),
            panic: std::sync::Mutex::new(None),
            caller: thread::current(),
        };
        // SAFETY: no member is inside a job (the last `run` waited for all), and `&mut self` keeps other callers out.
        unsafe { *self.shared.job.get() = &job };
        self.shared.round.fetch_add(1, Ordering::Release);
        self.members.iter().for_each(|member| member.thread().unpark());
        work(&job, &self.shared.lanes, 0);
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

/// Spins a while, then lets others run a while, then sleeps until unparked, until `done`.
fn wait(done: impl Fn() -> bool) {
    for turn in 0..SPINS + YIELDS {
        if done() {
            return;
        }
        if turn < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
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
        work(job, &shared.lanes, worker);
        // After the decrement the job may be gone: what is needed of it is copied first.
        let caller = job.caller.clone();
        if job.inside.fetch_sub(1, Ordering::Release) == 1 {
            caller.unpark();
        }
    }
}

/// Does a part; where that panics, nobody takes further tasks.
fn work(job: &Job, lanes: &[Lane], worker: usize) {
    // SAFETY: `run` outlives the job, see `Team::each`.
    let run = unsafe { &*job.run };
    let tasks = Tasks { lanes, count: job.tasks, worker };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(worker, &tasks))) {
        lanes.iter().for_each(|lane| lane.0.store(job.tasks, Ordering::Relaxed));
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
