//! Work that blocks, off the threads that must not.

use std::panic::resume_unwind;

/// Runs `work` on a thread for blocking work and waits for it.
///
/// Cancel safety: dropping the future leaves the work running to its end; whatever
/// may have to end earlier needs its own way to be stopped.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is going away and drops this task next.
            Err(_) => std::future::pending().await,
        },
    }
}
