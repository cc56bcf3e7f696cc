//! Work on all cores, a numbered piece at a time, results in order.
//!
//! Owns the threads. Knows nothing of the work.
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All cores.
pub(crate) fn all() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `work(0)` to `work(n - 1)`, in order; the error of any is the result, and no further piece is begun then.
pub(crate) fn in_order<T: Send, E: Send>(n: usize, work: impl Fn(usize) -> Result<T, E> + Sync) -> Result<Vec<T>, E> {
    in_order_on(all(), n, work)
}

/// The same, on so many threads.
pub(crate) fn in_order_on<T: Send, E: Send>(
    threads: usize,
    n: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(n)));
    let pieces = || -> Result<(), E> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= n {
                return Ok(());
            }
            match work(index) {
                Ok(piece) => done.lock().expect("no panic while it is held").push((index, piece)),
                Err(error) => {
                    next.store(n, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let threads = threads.clamp(1, n.max(1));
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(pieces)).collect();
        let mine = pieces();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(), E>>| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        others.into_iter().map(join).fold(mine, Result::and)
    })?;
    let mut done = done.into_inner().expect("no panic while it was held");
    done.sort_unstable_by_key(|&(index, _)| index);
    Ok(done.into_iter().map(|(_, piece)| piece).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_an_error_is_the_result() {
        assert_eq!(in_order(100, |index| Ok::<_, ()>(index * 2)).unwrap(), (0..200).step_by(2).collect::<Vec<_>>());
        assert_eq!(in_order(0, |_| Err::<(), _>(1)), Ok(vec![]));
        let failing = |index| if index == 7 { Err("no") } else { Ok(index) };
        assert_eq!(in_order(20, failing), Err("no"));
    }
}
