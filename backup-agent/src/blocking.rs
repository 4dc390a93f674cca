//! Work that blocks, off the threads that must not.

use std::panic::resume_unwind;

use tokio::sync::Semaphore;

/// Threads for blocking work at most. Runs, of which there are few at a time, take
/// two or three each; the rest is left for questions, which all come back in time
/// (see [`crate::repository::storage::deadline`]).
const THREADS_MAX: usize = 64;

static THREADS: Semaphore = Semaphore::const_new(THREADS_MAX);

/// Runs `work` on a thread for blocking work and waits for it; with too many of them
/// at once, waits for a thread first.
///
/// Cancel safety: dropping the future leaves the work running to its end; whatever
/// may have to end earlier needs its own way to be stopped.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // Never closed, so that there is always a permit in the end.
    let permit = THREADS.acquire().await.ok();
    let done = tokio::task::spawn_blocking(move || {
        // Goes with the thread: a future that was dropped gives nothing back.
        let _permit = permit;
        work()
    });
    match done.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is going away and drops this task next.
            Err(_) => std::future::pending().await,
        },
    }
}
