use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use wbuild_remote::{Retry, Watch};

/// Transfers that run at the same time.
const AT_ONCE: usize = 4;

/// Calls `work` for every item, some at a time, in threads. What is retried is told to `watch` in the calling thread.
///
/// # Errors
/// The first one; nothing more is begun then.
pub fn at_once<T: Sync, R: Send, E: Send>(
    items: &[T],
    watch: &Watch<'_>,
    work: impl Fn(&T, &Watch<'_>) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results = Mutex::new((Vec::new(), None));
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
            let sender = sender.clone();
            let (next, failed, results, work, stop) = (&next, &failed, &results, &work, watch.stop);
            scope.spawn(move || {
                // Nobody listens any more when everything is over.
                let retrying = |retry: &Retry| drop(sender.send(retry.clone()));
                let watch = Watch { stop, retrying: &retrying };
                while !failed.load(Ordering::Relaxed) {
                    let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    let result = work(item, &watch);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(done) => results.0.push(done),
                        Err(error) => {
                            failed.store(true, Ordering::Relaxed);
                            results.1.get_or_insert(error);
                        }
                    }
                }
            });
        }
        drop(sender);
        // Ends when the last of them has.
        for retry in receiver {
            (watch.retrying)(&retry);
        }
    });
    let (done, error) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(done), Err)
}
