//! The runs of this process: begun once, watched by many, cancelled by anybody.
//!
//! A run belongs to the agent and not to the call that began it: the caller may
//! leave and come back with the same request id. Its end is remembered for a while,
//! so that a repeated request gets the same answer instead of a second run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use homelab_common::{clock::Clock, error_chain::Chain, ledger::LedgerError, lifecycle::Tasks};
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    backup::Backed,
    blocking, drill,
    failure::Failure,
    ids::{Name, RunId},
    journal::{Entry, Journal, Work},
    progress::{Progress, Step},
    repository::{Pruned, Snapshot},
    restore::Restored,
    source::git::PushedBack,
    verify::Verification,
};

/// Runs that go on at the same time; each takes a disk and a network for itself.
const GOING_MAX: usize = 8;

/// Ended runs that are remembered: more than a day of hourly runs.
const ENDED_MAX: usize = 64;

/// What a run came to.
#[derive(Clone, Debug)]
pub enum End {
    /// A backup.
    Backup(Box<Backed>),
    /// A verification.
    Verification(Verification),
    /// A prune.
    Prune(Pruned),
    /// A restore.
    Restore(Restored),
    /// A drill.
    Drill(drill::Report),
    /// A copying.
    Copy(Box<Copied>),
    /// A push of Git mirrors, and how long it took.
    PushBack(Vec<PushedBack>, Duration),
    /// Any of them that failed.
    Failed(Failure),
}

/// A snapshot that was copied.
#[derive(Clone, Debug)]
pub struct Copied {
    /// Where it is now, too.
    pub repository: Name,
    /// The copy.
    pub snapshot: Snapshot,
}

/// The end of a run, and when.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it came to.
    pub end: End,
    /// When.
    pub at: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
}

/// A run, seen from outside.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its identifier.
    pub id: RunId,
    /// How far it has come.
    pub progress: watch::Receiver<Step>,
    /// Its end, once it has ended.
    pub end: watch::Receiver<Option<Arc<Ended>>>,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The same thing is being done.
    #[error("run {by} of the same kind goes on; wait for it, or cancel it")]
    InProgress {
        /// The run that goes on.
        by: RunId,
    },
    /// The identifier stands for something else.
    #[error("request id {id} was used for another request; choose a new one")]
    OtherRequest {
        /// The identifier.
        id: RunId,
    },
    /// There are too many.
    #[error("{GOING_MAX} runs go on already; try again when one has ended")]
    TooMany,
    /// The daemon is stopping.
    #[error("this daemon is stopping; try again when it is back")]
    Stopping,
    /// The journal could not be written, so that a crash would leave the run unknown.
    #[error("could not note the run down")]
    Journal(#[from] LedgerError),
}

#[derive(Debug)]
struct Run {
    work: Work,
    cancel: CancellationToken,
    watched: Watched,
}

impl Run {
    fn has_ended(&self) -> bool {
        self.watched.end.borrow().is_some()
    }
}

/// All runs. Clones are the same.
#[derive(Clone, Debug)]
pub struct Runs {
    all: Arc<Mutex<BTreeMap<RunId, Run>>>,
    journal: Arc<Journal>,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
}

impl Runs {
    /// None yet.
    #[must_use]
    pub fn new(journal: Arc<Journal>, tasks: Tasks, clock: Arc<dyn Clock>) -> Self {
        Self { all: Arc::default(), journal, tasks, clock }
    }

    /// The run of this identifier, if it does the same work.
    ///
    /// # Errors
    ///
    /// The identifier stands for other work.
    pub fn find(&self, id: RunId, work: &Work) -> Result<Option<Watched>, Refused> {
        match self.lock().get(&id) {
            Some(run) if run.work == *work => Ok(Some(run.watched.clone())),
            Some(_) => Err(Refused::OtherRequest { id }),
            None => Ok(None),
        }
    }

    /// Begins a run, or joins the one that has this identifier already.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn begin<F>(
        &self,
        id: RunId,
        work: Work,
        execute: impl FnOnce(Progress, CancellationToken) -> F,
    ) -> Result<Watched, Refused>
    where
        F: Future<Output = End> + Send + 'static,
    {
        if self.tasks.stopping().is_cancelled() {
            return Err(Refused::Stopping);
        }
        let (progress, steps) = Progress::new();
        let (ending, end) = watch::channel(None);
        let cancel = self.tasks.stopping().child_token();
        let watched = Watched { id, progress: steps, end };
        {
            let mut all = self.lock();
            match all.get(&id) {
                Some(run) if run.work == work => return Ok(run.watched.clone()),
                Some(_) => return Err(Refused::OtherRequest { id }),
                None => {}
            }
            let going = all.values().filter(|run| !run.has_ended());
            if let Some(other) = going.clone().find(|run| run.work.excludes(&work)) {
                return Err(Refused::InProgress { by: other.watched.id });
            }
            if going.count() >= GOING_MAX {
                return Err(Refused::TooMany);
            }
            forget_oldest(&mut all);
            let run = Run { work: work.clone(), cancel: cancel.clone(), watched: watched.clone() };
            all.insert(id, run);
        }
        let entry = Entry { run: id, started_at: self.clock.now(), work };
        let (ready, begun) = oneshot::channel();
        let (runs, future) = (self.clone(), execute(progress, cancel));
        // Nothing is awaited before this: a caller that goes away must not leave a run behind that nobody
        // executes and that keeps every other from beginning.
        self.tasks.spawn(async move { runs.execute(entry, future, ready, ending).await });
        match begun.await {
            Ok(Err(error)) => Err(error.into()),
            // The task was dropped by a hard stop, and the process goes with it.
            Ok(Ok(())) | Err(_) => Ok(watched),
        }
    }

    async fn execute(
        self,
        entry: Entry,
        work: impl Future<Output = End>,
        ready: oneshot::Sender<Result<(), LedgerError>>,
        ending: watch::Sender<Option<Arc<Ended>>>,
    ) {
        let id = entry.run;
        let journal = Arc::clone(&self.journal);
        let noted = blocking::run(move || journal.begin(entry)).await;
        let is_noted = noted.is_ok();
        if !is_noted {
            self.lock().remove(&id);
        }
        // Whoever asked may be gone.
        let _gone = ready.send(noted);
        if !is_noted {
            return;
        }
        let began = Instant::now();
        let end = work.await;
        log(id, &end);
        let journal = Arc::clone(&self.journal);
        if let Err(error) = blocking::run(move || journal.end(id)).await {
            warn!(run = %id, error = %Chain(&error), "could not note the end of a run");
        }
        let ended = Ended { end, at: self.clock.now(), elapsed: began.elapsed() };
        ending.send_replace(Some(Arc::new(ended)));
    }

    /// Cancels a run. `None` when there is none of this identifier, else whether it
    /// still went on.
    #[must_use]
    pub fn cancel(&self, id: RunId) -> Option<bool> {
        let all = self.lock();
        let run = all.get(&id)?;
        let was_running = !run.has_ended();
        run.cancel.cancel();
        Some(was_running)
    }

    /// Whether this process executes the run now.
    #[must_use]
    pub fn is_alive(&self, id: RunId) -> bool {
        self.lock().get(&id).is_some_and(|run| !run.has_ended())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Run>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Identifiers that we make sort by time; callers' own may sort anywhere, which
/// costs only the memory of an end.
fn forget_oldest(all: &mut BTreeMap<RunId, Run>) {
    let ended: Vec<RunId> =
        all.iter().filter(|(_, run)| run.has_ended()).map(|(id, _)| *id).collect();
    for id in ended.iter().take((ended.len() + 1).saturating_sub(ENDED_MAX)) {
        all.remove(id);
    }
}

fn log(run: RunId, end: &End) {
    match end {
        End::Backup(backed) => info!(
            %run, backup = %backed.snapshot.backup, snapshot = %backed.snapshot.id,
            bytes = backed.snapshot.source_bytes(), "a backup is stored and proved"
        ),
        End::Verification(found) => {
            info!(%run, problems = found.problems.len(), "a repository was verified");
        }
        End::Prune(pruned) => info!(
            %run, freed_bytes = pruned.freed_bytes, marked_bytes = pruned.marked_bytes,
            "a repository was pruned"
        ),
        End::Restore(restored) => info!(%run, target = %restored.target.display(), "restored"),
        End::Copy(copied) => info!(
            %run, repository = %copied.repository, snapshot = %copied.snapshot.id,
            backup = %copied.snapshot.backup, "a snapshot was copied and proved"
        ),
        End::PushBack(pushed, _) => info!(%run, mirrors = pushed.len(), "mirrors were pushed"),
        End::Drill(report) => info!(
            %run, backup = %report.backup, snapshot = %report.snapshot,
            verdict = ?report.verdict, "a drill has ended"
        ),
        End::Failed(failure) => {
            warn!(%run, reason = %failure.reason, error = failure.message, "a run failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use homelab_common::clock::SystemClock;
    use uuid::Uuid;

    use super::*;

    fn runs() -> (tempfile::TempDir, Runs) {
        let state = tempfile::tempdir().expect("a scratch directory");
        let journal = Arc::new(Journal::open(state.path()).expect("a journal"));
        (state, Runs::new(journal, Tasks::default(), Arc::new(SystemClock)))
    }

    fn id(number: u128) -> RunId {
        RunId::from(Uuid::from_u128(number))
    }

    fn verification(repository: &str) -> Work {
        Work::Verification { repository: repository.parse().expect("a name"), read_data: true }
    }

    fn done() -> End {
        End::Verification(Verification::default())
    }

    #[tokio::test]
    async fn the_same_request_joins_its_run_and_later_gets_its_end() {
        let (_state, runs) = runs();
        let begin = |runs: Runs| async move {
            runs.begin(id(1), verification("nas"), |_, _| async { done() }).await
        };
        let mut first = begin(runs.clone()).await.expect("begun");
        first.end.wait_for(Option::is_some).await.expect("an end");
        let never = |_, _| async { unreachable!("a second run of the same request") };
        let again = runs.begin(id(1), verification("nas"), never).await.expect("joined");
        assert!(again.end.borrow().is_some());
        let other = runs.begin(id(1), verification("usb"), never).await;
        assert!(matches!(other, Err(Refused::OtherRequest { .. })));
    }

    #[tokio::test]
    async fn one_thing_is_done_by_one_run_at_a_time() {
        let (_state, runs) = runs();
        let hang = |_, _| pending::<End>();
        runs.begin(id(1), verification("nas"), hang).await.expect("begun");
        let second = runs.begin(id(2), verification("nas"), hang).await;
        assert!(matches!(second, Err(Refused::InProgress { by }) if by == id(1)));
        runs.begin(id(3), verification("usb"), hang).await.expect("another thing");
    }

    #[tokio::test]
    async fn a_cancelled_run_ends_and_leaves_the_journal() {
        let (_state, runs) = runs();
        let execute = |_, cancel: CancellationToken| async move {
            cancel.cancelled().await;
            done()
        };
        let mut run = runs.begin(id(1), verification("nas"), execute).await.expect("begun");
        assert_eq!(runs.journal.entries().len(), 1);
        assert_eq!(runs.cancel(id(1)), Some(true));
        run.end.wait_for(Option::is_some).await.expect("an end");
        assert_eq!(runs.cancel(id(1)), Some(false));
        assert_eq!(runs.cancel(id(2)), None);
        assert!(runs.journal.entries().is_empty() && !runs.is_alive(id(1)));
    }
}
