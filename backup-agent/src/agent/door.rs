//! Asking a repository things that should be answered at once.
//!
//! A hung network mount answers never, and the thread that asked stays behind in the
//! kernel: there is no way to call it back. So at most one question of each kind is
//! outstanding for a repository; whoever comes meanwhile waits for it, and is told
//! after a while that the repository hangs, without a thread of its own.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

use super::AgentError;
use crate::{blocking, ids::Name, repository::Repository};

/// How long a repository may take to show that it is there.
pub(super) const GUARD_MAX: Duration = Duration::from_secs(15);

/// The way to ask one repository. Clones are the same.
#[derive(Clone, Debug)]
pub struct Door {
    guard: Arc<Semaphore>,
    facts: Arc<Semaphore>,
}

impl Default for Door {
    fn default() -> Self {
        Self { guard: Arc::new(Semaphore::new(1)), facts: Arc::new(Semaphore::new(1)) }
    }
}

impl Door {
    /// Checks that the repository is the right one and answers.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub async fn knock(&self, repository: &Arc<dyn Repository>) -> Result<(), AgentError> {
        let asked = Arc::clone(repository);
        let ask = move || asked.guard().map_err(AgentError::from);
        one_at_a_time(&self.guard, repository.name(), ask).await
    }

    /// Asks something after [`Door::knock`]; the mount may hang since.
    ///
    /// # Errors
    ///
    /// What the question says, or that there was no answer.
    pub async fn ask<T: Send + 'static>(
        &self,
        repository: &Arc<dyn Repository>,
        ask: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        one_at_a_time(&self.facts, repository.name(), ask).await
    }
}

/// The permit goes with the thread, so that it is free again when the thread is.
async fn one_at_a_time<T: Send + 'static>(
    lane: &Arc<Semaphore>,
    repository: &Name,
    ask: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    let hanging = || AgentError::Hanging { repository: repository.clone() };
    let asking = async {
        // The semaphore is never closed.
        let permit = Arc::clone(lane).acquire_owned().await.map_err(|_| hanging())?;
        blocking::run(move || {
            let _permit = permit;
            ask()
        })
        .await
    };
    timeout(GUARD_MAX, asking).await.unwrap_or_else(|_| Err(hanging()))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn pitfall_16_a_hung_mount_holds_one_thread_however_often_it_is_asked() {
        let nas: Name = "nas".parse().expect("a name");
        let (lane, asked) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
        let (answer, hung) = mpsc::sync_channel::<()>(0);
        let first = {
            let asked = Arc::clone(&asked);
            let ask = move || {
                asked.fetch_add(1, Ordering::Relaxed);
                // Until the mount comes back.
                let _gone = hung.recv();
                Ok(())
            };
            one_at_a_time(&lane, &nas, ask)
        };
        let ask = || {
            let asked = Arc::clone(&asked);
            one_at_a_time(&lane, &nas, move || {
                asked.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        };
        // Time passes at once where everybody only waits; a thread at work holds it up.
        tokio::time::pause();
        let waiting = async { tokio::join!(first, ask(), ask()) };
        let advance = async {
            while asked.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            tokio::time::advance(GUARD_MAX * 2).await;
        };
        let (all, ()) = tokio::join!(waiting, advance);
        for answer in [all.0, all.1, all.2] {
            assert!(matches!(answer, Err(AgentError::Hanging { .. })));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "a thread for each question");
        tokio::time::resume();
        drop(answer);
        ask().await.expect("the mount is back");
    }
}
