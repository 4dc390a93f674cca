//! Calls that may never return, kept from taking the agent with them.
//!
//! `statvfs` on a mount whose server is gone waits for ever, and so may a sensor behind a dead
//! bus. Each such call runs on a thread of its own and is known by a key. When it does not answer
//! in time it is left alone: its key stays shut until the call comes back, so that a hung mount
//! costs one thread and not one more each time. The number of threads is bounded as well.
//!
//! These threads are on purpose not among the daemon's tasks: stopping must not wait for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::reading::{Missing, Reading};

/// Runs blocking calls with a bound on time and number.
#[derive(Debug)]
pub(crate) struct Probes {
    patience: Duration,
    threads_max: usize,
    threads: Arc<Semaphore>,
    hung: Mutex<HashMap<String, JoinHandle<()>>>,
}

impl Probes {
    /// Waits `patience` for each call and lets `threads_max` of them hang at once.
    pub(crate) fn new(patience: Duration, threads_max: usize) -> Self {
        let threads = Arc::new(Semaphore::new(threads_max));
        Self { patience, threads_max, threads, hung: Mutex::default() }
    }

    /// The result of `call`, or [`Missing::Hung`] when it takes too long or an earlier call of
    /// the same `key` has not come back.
    ///
    /// Cancel safety: dropping the future loses the result; the thread ends when the call does.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        key: &str,
        call: impl FnOnce() -> Reading<T> + Send + 'static,
    ) -> Reading<T> {
        self.admit(key)?;
        let exhausted = Missing::ProbesExhausted(self.threads_max);
        let thread = Arc::clone(&self.threads).acquire_owned();
        let Ok(Ok(thread)) = tokio::time::timeout(self.patience, thread).await else {
            return Err(exhausted);
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let handle = tokio::task::spawn_blocking(move || {
            let result = call();
            drop(thread);
            // Nobody waits any more when the call was too slow.
            let _late = sender.send(result);
        });
        match tokio::time::timeout(self.patience, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_panicked)) => Err(Missing::Malformed("the probe's answer")),
            Err(_elapsed) => {
                self.hung().insert(key.to_owned(), handle);
                Err(Missing::Hung { after: self.patience })
            }
        }
    }

    fn admit(&self, key: &str) -> Reading<()> {
        let mut hung = self.hung();
        hung.retain(|_, call| !call.is_finished());
        if hung.contains_key(key) {
            return Err(Missing::Hung { after: self.patience });
        }
        // Without this, each of a thousand mounts would wait for a thread that is not coming.
        if hung.len() >= self.threads_max {
            return Err(Missing::ProbesExhausted(self.threads_max));
        }
        Ok(())
    }

    fn hung(&self) -> std::sync::MutexGuard<'_, HashMap<String, JoinHandle<()>>> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn probes(threads_max: usize) -> Probes {
        Probes::new(Duration::from_millis(20), threads_max)
    }

    /// A call that hangs until the returned sender is dropped.
    fn hanging() -> (mpsc::Sender<()>, impl FnOnce() -> Reading<()> + Send + 'static) {
        let (release, blocked) = mpsc::channel::<()>();
        (release, move || {
            let _released = blocked.recv();
            Ok(())
        })
    }

    #[tokio::test]
    async fn a_call_that_answers_gives_its_answer() {
        assert_eq!(probes(1).run("/", || Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn a_hung_call_is_not_started_again_until_it_came_back() {
        let probes = probes(2);
        let (release, call) = hanging();
        assert!(matches!(probes.run("/mnt/nas", call).await, Err(Missing::Hung { .. })));
        let again = probes.run("/mnt/nas", || -> Reading<()> { unreachable!() }).await;
        assert!(matches!(again, Err(Missing::Hung { .. })));

        drop(release);
        let healed = async {
            while probes.run("/mnt/nas", || Ok(1)).await != Ok(1) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), healed).await.expect("the key opens again");
    }

    #[tokio::test]
    async fn a_hung_call_does_not_block_the_others() {
        let probes = probes(2);
        let (_release, call) = hanging();
        assert!(probes.run("/mnt/nas", call).await.is_err());
        assert_eq!(probes.run("/", || Ok(1)).await, Ok(1));
    }

    #[tokio::test]
    async fn no_more_threads_hang_than_allowed() {
        let probes = probes(1);
        let (_release, call) = hanging();
        assert!(probes.run("/mnt/a", call).await.is_err());
        assert_eq!(probes.run("/mnt/b", || Ok(1)).await, Err(Missing::ProbesExhausted(1)));
    }
}
