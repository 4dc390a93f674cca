//! Every background task of a daemon.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, Location, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

use crate::lock;

/// How many pieces of blocking work run at once; more wait.
const BLOCKING_MAX: usize = 64;

/// How long dropped tasks get to release what they hold after the hard stop.
const HARD_WAIT: Duration = Duration::from_secs(5);

/// How long what outlives the others gets to finish.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// Handle to all background work of a daemon. Clones are the same handle.
#[derive(Clone)]
pub struct Tasks {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    last: Last,
    blocking: Arc<Semaphore>,
    failure: Arc<Mutex<Option<String>>>,
}

/// What ends after everything else.
#[derive(Clone, Default)]
struct Last {
    alone: CancellationToken,
    dropped: CancellationToken,
    tracker: TaskTracker,
}

/// Blocking work did not give its result: the daemon stops, or it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was abandoned because the daemon stops")]
pub struct Abandoned;

impl Default for Tasks {
    fn default() -> Self {
        let hard = CancellationToken::new();
        Self {
            soft: hard.child_token(),
            hard,
            tracker: TaskTracker::new(),
            last: Last::default(),
            blocking: Arc::new(Semaphore::new(BLOCKING_MAX)),
            failure: Arc::default(),
        }
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &self.tracker.len())
            .field("stopping", &self.soft.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Tasks {
    /// Fires when tasks should finish what they are doing.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Fires when tasks are dropped; for threads, which cannot be.
    #[must_use]
    pub fn stopped(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// Asks all tasks to finish. [`run`](super::run) then ends the daemon.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Runs `future` until it ends, or until the hard stop drops it. A panic in
    /// it is a bug that nothing here can repair: the daemon stops and fails.
    #[track_caller]
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until(Location::caller(), &self.tracker, self.hard.clone(), future);
    }

    /// The same for what the other tasks need to the very end, such as a writer of their records:
    /// it should finish when [`Tasks::alone`] fires, and gets three seconds for it.
    #[track_caller]
    pub fn spawn_last(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until(Location::caller(), &self.last.tracker, self.last.dropped.clone(), future);
    }

    /// Fires when all tasks but those of [`Tasks::spawn_last`] have ended or were dropped.
    #[must_use]
    pub fn alone(&self) -> CancellationToken {
        self.last.alone.clone()
    }

    fn spawn_until(
        &self,
        started_at: &'static Location<'static>,
        tracker: &TaskTracker,
        dropped: CancellationToken,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let tasks = self.clone();
        let guarded = async move {
            tokio::select! {
                ended = caught(future) => if let Err(panic) = ended {
                    tasks.fail(started_at, panic.as_ref());
                },
                () = dropped.cancelled() => {}
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        let _detached = tokio::spawn(tracker.track_future(guarded));
    }

    /// Runs blocking `work` on a thread of its own and gives its result. At most
    /// 64 run at once. Work cannot be dropped half-way: whatever may last long
    /// must watch [`Tasks::stopped`].
    ///
    /// Cancel safety: dropping the future loses the result, not the work.
    ///
    /// # Errors
    ///
    /// [`Abandoned`] when the hard stop came first or the work panicked, which
    /// also stops the daemon.
    #[track_caller]
    pub fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Abandoned>> + Send + 'static {
        let started_at = Location::caller();
        let tasks = self.clone();
        async move {
            let permit = tokio::select! {
                permit = Arc::clone(&tasks.blocking).acquire_owned() => permit.map_err(|_| Abandoned)?,
                () = tasks.hard.cancelled() => return Err(Abandoned),
            };
            let handle = tasks.tracker.spawn_blocking(move || {
                let result = catch_unwind(AssertUnwindSafe(work));
                drop(permit);
                result
            });
            let ended = tokio::select! {
                biased;
                () = tasks.hard.cancelled() => return Err(Abandoned),
                ended = handle => ended,
            };
            match ended {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(panic)) => {
                    tasks.fail(started_at, panic.as_ref());
                    Err(Abandoned)
                }
                Err(_) => Err(Abandoned),
            }
        }
    }

    /// Stops softly, waits up to `grace`, then stops hard and waits a little for
    /// what was dropped. True when everything ended by itself in time.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.soft.cancel();
        self.tracker.close();
        let ended = tokio::select! {
            () = self.tracker.wait() => true,
            () = tokio::time::sleep(grace) => false,
            () = self.hard.cancelled() => false,
        };
        // A hard stop ends everything too, but not by itself.
        let graceful = ended && !self.hard.is_cancelled();
        self.hard.cancel();
        if tokio::time::timeout(HARD_WAIT, self.tracker.wait()).await.is_err() {
            error!(running = self.tracker.len(), "tasks did not end even after they were dropped");
        }
        self.end_last().await && graceful
    }

    /// Nobody is left but those who outlive the others. True when they ended by themselves.
    async fn end_last(&self) -> bool {
        self.last.tracker.close();
        self.last.alone.cancel();
        let ended = tokio::time::timeout(LAST_WAIT, self.last.tracker.wait()).await.is_ok();
        self.last.dropped.cancel();
        if !ended {
            error!(running = self.last.tracker.len(), "the last tasks did not end in time");
            self.last.tracker.wait().await;
        }
        ended
    }

    /// Cuts a shutdown short: drops what still runs.
    pub fn stop_hard(&self) {
        self.hard.cancel();
    }

    /// What panicked first, where it was started and with which message.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    fn fail(&self, started_at: &Location<'_>, panic: &(dyn Any + Send)) {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        error!(task = %started_at, panic = message, "a task panicked; the daemon stops");
        lock(&self.failure)
            .get_or_insert_with(|| format!("the task started at {started_at} panicked: {message}"));
        self.soft.cancel();
    }
}

/// Runs `future`, and turns a panic into a value.
async fn caught(future: impl Future<Output = ()>) -> Result<(), Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::Instant;

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_task_that_listens_ends_gracefully() {
        let tasks = Tasks::default();
        let stop = tasks.stopping();
        tasks.spawn(async move { stop.cancelled().await });
        assert!(tasks.shutdown(GRACE).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_task_is_dropped_at_the_deadline() {
        let tasks = Tasks::default();
        tasks.spawn(std::future::pending());
        let began = Instant::now();
        assert!(!tasks.shutdown(GRACE).await);
        assert_eq!(began.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hard_stop_cuts_the_grace_short() {
        let tasks = Tasks::default();
        tasks.spawn(std::future::pending());
        let began = Instant::now();
        let (graceful, ()) = tokio::join!(tasks.shutdown(GRACE), async { tasks.stop_hard() });
        assert!(!graceful);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_task_hears_of_those_that_are_dropped() {
        struct Tells(mpsc::Sender<&'static str>);
        impl Drop for Tells {
            fn drop(&mut self) {
                self.0.send("dropped").expect("somebody listens");
            }
        }
        let tasks = Tasks::default();
        let (tell, told) = mpsc::channel();
        let deaf = Tells(tell.clone());
        tasks.spawn(async move {
            let _deaf = deaf;
            std::future::pending::<()>().await;
        });
        let alone = tasks.alone();
        tasks.spawn_last(async move {
            alone.cancelled().await;
            tell.send("alone").expect("somebody listens");
        });
        assert!(!tasks.shutdown(GRACE).await, "the deaf task was dropped");
        assert_eq!(told.into_iter().collect::<Vec<_>>(), ["dropped", "alone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_last_task_that_hangs_is_dropped_too() {
        let tasks = Tasks::default();
        tasks.spawn_last(std::future::pending());
        let began = Instant::now();
        assert!(!tasks.shutdown(GRACE).await);
        assert_eq!(began.elapsed(), LAST_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_the_others_and_is_remembered() {
        let tasks = Tasks::default();
        let stop = tasks.stopping();
        tasks.spawn(async { panic!("the bucket has {} holes", 2) });
        stop.cancelled().await;
        let failure = tasks.failure().expect("a failure");
        assert!(failure.contains("lifecycle/tasks.rs"), "{failure}");
        assert!(failure.ends_with("the bucket has 2 holes"), "{failure}");
    }

    #[tokio::test]
    async fn blocking_work_gives_its_result() {
        assert_eq!(Tasks::default().blocking(|| 6 * 7).await, Ok(42));
    }

    #[tokio::test]
    async fn a_panic_in_blocking_work_stops_the_daemon_too() {
        let tasks = Tasks::default();
        assert_eq!(tasks.blocking(|| panic!("no")).await, Err::<(), _>(Abandoned));
        assert!(tasks.stopping().is_cancelled());
        assert!(tasks.failure().is_some());
    }

    /// In real time: the paused clock stands still while blocking work runs.
    #[tokio::test]
    async fn stuck_blocking_work_does_not_hold_up_the_end() {
        let tasks = Tasks::default();
        let (release, stuck) = mpsc::channel::<()>();
        let work = tasks.blocking(move || stuck.recv().is_ok());
        let hard = tasks.stopped();
        let (result, graceful, ()) =
            tokio::join!(work, tasks.shutdown(Duration::from_millis(20)), async move {
                hard.cancelled().await;
                drop(release);
            });
        assert_eq!((result, graceful), (Err(Abandoned), false));
    }

    #[tokio::test]
    async fn a_dropped_future_releases_what_it_holds() {
        let tasks = Tasks::default();
        let held = Arc::new(());
        let in_task = Arc::clone(&held);
        tasks.spawn(async move {
            let _held = in_task;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        tasks.shutdown(Duration::ZERO).await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
