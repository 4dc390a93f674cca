//! Background tasks: each reads the whole state, acts, and can be run again at any time.
//!
//! A task takes no input. What fires it (its period, or a [`Nudge`] because something changed) says
//! only *when*, never *what*, so that "it changed" and "we restarted" are the same code path. The
//! last result of each is kept for `labctl task list`.

pub mod copy;
pub mod deny;
pub mod expiry;
pub mod lease;
pub mod renewal;
pub mod upkeep;

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use homelab_common::{chance::Chance, clock::Clock, error_chain::Chain, lifecycle::Tasks};
use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};
use tracing::{info, warn};

/// By how much of itself a period varies, so that tasks with equal periods drift apart.
const JITTER: f64 = 0.1;

/// What an activation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// There was nothing to do.
    Nothing,
    /// What was changed, for people.
    Changed(String),
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing to do"),
            Self::Changed(what) => f.write_str(what),
        }
    }
}

/// What an activation gives: an error is logged with its causes and shown until the next success.
pub type Outcome = Result<Done, Box<dyn Error + Send + Sync>>;

/// One task.
#[async_trait]
pub trait BackgroundTask: Send + Sync + 'static {
    /// Name for people, kebab-case: `push-deny-list`.
    fn name(&self) -> &'static str;

    /// What it is for, one sentence.
    fn description(&self) -> &'static str;

    /// How often it runs at least.
    fn period(&self) -> Duration;

    /// How long one activation may take before it is dropped and counted as failed.
    fn deadline(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Reads the whole state and brings it one step nearer to what is wanted. Idempotent.
    ///
    /// Cancel safety: it may be dropped at any await, when the controller stops or the deadline
    /// comes; the next activation carries on from what was stored.
    async fn activate(&self) -> Outcome;
}

/// One task as `labctl task list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// How often it runs at least.
    pub period: Duration,
    /// How often it has run since the start.
    pub runs: u64,
    /// Its last activation; `None` before the first has ended.
    pub last: Option<LastRun>,
}

/// The last activation of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
    /// What it did, or what went wrong with all causes.
    pub result: Result<Done, String>,
}

/// Runs background tasks and keeps their last results. Clones are the same driver.
#[derive(Clone, Debug)]
pub struct Driver {
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    known: Arc<Mutex<BTreeMap<&'static str, Known>>>,
}

#[derive(Clone, Debug)]
struct Known {
    status: TaskStatus,
    nudge: Nudge,
}

/// Fires a task soon. Nudging many times before it runs runs it once; nudging while it runs runs it
/// once more.
#[derive(Clone, Debug, Default)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// Fires the task.
    pub fn nudge(&self) {
        self.0.notify_one();
    }
}

impl Driver {
    /// A driver whose tasks live as long as `tasks`.
    #[must_use]
    pub fn new(tasks: Tasks, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Self {
        Self { tasks, clock, chance, known: Arc::default() }
    }

    /// Runs `task` now, then by its period and whenever it is nudged, until the controller stops.
    pub fn start(&self, task: Arc<dyn BackgroundTask>) -> Nudge {
        let nudge = Nudge::default();
        self.start_with(task, nudge.clone());
        nudge
    }

    /// [`Driver::start`] with a nudge that others have already.
    pub fn start_with(&self, task: Arc<dyn BackgroundTask>, nudge: Nudge) {
        let status = TaskStatus {
            name: task.name(),
            description: task.description(),
            period: task.period(),
            runs: 0,
            last: None,
        };
        self.known().insert(task.name(), Known { status, nudge: nudge.clone() });
        self.tasks.spawn(self.clone().drive(task, nudge));
    }

    /// All tasks by name.
    #[must_use]
    pub fn list(&self) -> Vec<TaskStatus> {
        self.known().values().map(|known| known.status.clone()).collect()
    }

    /// Fires a task by its name; does nothing when there is none.
    pub fn nudge(&self, name: &str) {
        if let Some(known) = self.known().get(name) {
            known.nudge.nudge();
        }
    }

    async fn drive(self, task: Arc<dyn BackgroundTask>, nudge: Nudge) {
        let stopping = self.tasks.stopping();
        loop {
            tokio::select! {
                () = self.run_once(task.as_ref()) => {}
                () = stopping.cancelled() => return,
            }
            let pause = self.chance.jittered(task.period(), JITTER);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = nudge.0.notified() => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn run_once(&self, task: &dyn BackgroundTask) {
        let started_at = self.clock.now();
        let began = Instant::now();
        let result = match tokio::time::timeout(task.deadline(), task.activate()).await {
            Ok(outcome) => outcome.map_err(|error| Chain(error.as_ref()).to_string()),
            Err(_) => Err(format!("not done after {} s", task.deadline().as_secs())),
        };
        let last = LastRun { started_at, elapsed: began.elapsed(), result };
        let mut known = self.known();
        let Some(known) = known.get_mut(task.name()) else { return };
        tell(&known.status, &last);
        known.status.runs += 1;
        known.status.last = Some(last);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<&'static str, Known>> {
        // Valid after each statement, so a panic elsewhere leaves nothing half-done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure is logged when it is new, and its end once.
fn tell(status: &TaskStatus, last: &LastRun) {
    let before = status.last.as_ref().map(|last| &last.result);
    match (&last.result, before) {
        (Err(error), before) if before != Some(&last.result) => {
            warn!(task = status.name, %error, "a background task failed; it will be tried again");
        }
        (Ok(_), Some(Err(_))) => info!(task = status.name, "a background task works again"),
        (Ok(Done::Changed(what)), _) => info!(task = status.name, what, "a background task acted"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use homelab_common::{chance::SeededChance, clock::SystemClock};

    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    struct Scripted {
        runs: AtomicU64,
    }

    #[async_trait]
    impl BackgroundTask for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        fn description(&self) -> &'static str {
            "Fails first, then succeeds, then hangs."
        }

        fn period(&self) -> Duration {
            Duration::from_secs(3600)
        }

        async fn activate(&self) -> Outcome {
            match self.runs.fetch_add(1, Ordering::Relaxed) {
                0 => Err("the disk is full".into()),
                1 => Ok(Done::Changed("made room".into())),
                _ => std::future::pending().await,
            }
        }
    }

    fn driver() -> (Tasks, Driver) {
        let tasks = Tasks::default();
        let driver =
            Driver::new(tasks.clone(), Arc::new(SystemClock), Arc::new(SeededChance::new(1)));
        (tasks, driver)
    }

    async fn until(driver: &Driver, runs: u64) -> TaskStatus {
        loop {
            let status = driver.list().remove(0);
            if status.runs >= runs {
                return status;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_runs_at_once_and_again_when_nudged_and_its_last_result_is_kept() {
        let (tasks, driver) = driver();
        let nudge = driver.start(Arc::new(Scripted { runs: AtomicU64::new(0) }));
        let result = |status: TaskStatus| status.last.expect("ran").result;
        assert_eq!(result(until(&driver, 1).await), Err("the disk is full".to_owned()));
        nudge.nudge();
        assert_eq!(result(until(&driver, 2).await), Ok(Done::Changed("made room".into())));
        assert!(tasks.shutdown(GRACE).await, "an idle task ends at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_hangs_is_dropped_at_its_deadline_and_counts_as_failed() {
        let (tasks, driver) = driver();
        driver.start(Arc::new(Scripted { runs: AtomicU64::new(2) }));
        let last = until(&driver, 1).await.last.expect("ran");
        assert_eq!(last.result, Err("not done after 60 s".to_owned()));
        assert!(tasks.shutdown(GRACE).await);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_nudge_the_period_fires_it() {
        let (tasks, driver) = driver();
        driver.start(Arc::new(Scripted { runs: AtomicU64::new(0) }));
        let began = Instant::now();
        until(&driver, 2).await;
        let waited = began.elapsed();
        assert!(waited > Duration::from_secs(3200) && waited < Duration::from_secs(4000));
        assert!(tasks.shutdown(GRACE).await);
    }
}
