//! The same run in several repositories.
//!
//! A run is done when *one* repository holds it and has proved it: the primary one, or
//! the spool while the primary is away. Everything else follows by itself, a run of
//! its own for each copy: what waits in the spool goes to the primary repository and
//! then out of the spool, and what is in the primary goes to the further repositories.
//! No state decides what is to be done, only what the repositories hold, so that
//! nothing is lost or done twice when the process dies.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use homelab_common::error_chain::Chain;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Agent, AgentError, Declared, find};
use crate::{
    backup::{Backed, BackupError},
    blocking, failpoint,
    failure::Failure,
    ids::{Name, RunId, SnapshotId},
    journal::Work,
    progress::Progress,
    replicate::Replication,
    repository::{Repository, Snapshot},
    runs::{Copied, End, Ended, Watched},
};

/// Between two looks at what is still to be copied.
const REPLICATE_EVERY: Duration = Duration::from_secs(300);

/// Before the next look after one that left something, twice as long each time.
const RETRY_MIN: Duration = Duration::from_secs(10);

/// What a repository is to a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyRole {
    /// Runs go there.
    Primary,
    /// Runs are copied there.
    Copy,
    /// It takes runs while the primary is away.
    Spool,
}

/// Where the newest run of a backup is, in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// There.
    Stored,
    /// Not there yet.
    Waiting,
    /// Not there, because the last attempt failed.
    Failed(Failure),
    /// The repository cannot be asked.
    Unknown(Failure),
    /// It need not be there.
    Idle,
}

/// How one backup stands in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStanding {
    /// The backup.
    pub backup: Name,
    /// The repository.
    pub repository: Name,
    /// What the repository is to the backup.
    pub role: CopyRole,
    /// Where the newest run is.
    pub state: CopyState,
    /// The newest verified snapshot there.
    pub newest: Option<(SnapshotId, Timestamp)>,
    /// Verified snapshots of the backup there.
    pub snapshots: usize,
    /// Runs that are still to come there.
    pub waiting: usize,
}

/// What to copy, and where.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// Repository that holds it.
    pub from: String,
    /// At least eight digits of the snapshot.
    pub snapshot: String,
    /// Repository that should hold it, too.
    pub to: String,
}

/// What is known of the copying beside what the repositories hold. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    /// Why the last attempt failed, by backup and repository copied to.
    failures: Arc<Mutex<BTreeMap<(Name, Name), Failure>>>,
    wanted: Arc<Notify>,
}

impl Copies {
    /// There is something new to copy.
    pub fn wake(&self) {
        self.wanted.notify_one();
    }

    /// Keeps how an attempt ended, and says whether that is another end than before.
    fn note(&self, backup: &Name, to: &Name, failure: Option<Failure>) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (backup.clone(), to.clone());
        let reason = failure.as_ref().map(|failure| failure.reason);
        let before = match failure {
            Some(failure) => failures.insert(key, failure),
            None => failures.remove(&key),
        };
        before.map(|failure| failure.reason) != reason
    }

    fn failure(&self, backup: &Name, to: &Name) -> Option<Failure> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&(backup.clone(), to.clone())).cloned()
    }
}

impl Declared {
    /// Runs the backup, into the spool when that is the `first` choice or the primary
    /// repository goes away meanwhile.
    ///
    /// # Errors
    ///
    /// Why nothing was kept.
    pub(super) async fn run(
        &self,
        run: RunId,
        first: CopyRole,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Backed, BackupError> {
        let Some(spool) = &self.spool else { return self.backup.run(run, progress, cancel).await };
        let spooled = self.backup.elsewhere(spool);
        if first == CopyRole::Spool {
            return spooled.run(run, progress, cancel).await;
        }
        match self.backup.run(run, progress, cancel).await {
            Err(error) if Failure::from(&error).is_of_place() && !cancel.is_cancelled() => {
                warn!(
                    backup = %self.backup.name, %run, spool = %spool.name(), error = %Chain(&error),
                    "the repository went away: the run is made again, into the spool"
                );
                spooled.run(run, progress, cancel).await
            }
            done => done,
        }
    }

    /// All repositories, with what they are to the backup.
    fn places(&self) -> Vec<(CopyRole, &Arc<dyn Repository>)> {
        let mut places = vec![(CopyRole::Primary, &self.backup.repository)];
        places.extend(self.copies.iter().map(|copy| (CopyRole::Copy, copy)));
        places.extend(self.spool.iter().map(|spool| (CopyRole::Spool, spool)));
        places
    }
}

impl Agent {
    /// Copies what is to be copied, after each run, every few minutes, and sooner while
    /// something could not be, until `stopping`.
    pub async fn keep_copying(self: Arc<Self>, stopping: CancellationToken) {
        let mut failed = 0;
        loop {
            let mut is_settled = true;
            for declared in self.backups.values() {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    settled = self.replicate(declared) => is_settled &= settled,
                }
            }
            failed = if is_settled { 0 } else { failed + 1 };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause_after(failed)) => {}
                () = self.copies.wanted.notified() => failed = 0,
            }
        }
    }

    /// Copies what is to be copied now, once.
    pub async fn catch_up_all(&self) {
        for declared in self.backups.values() {
            self.replicate(declared).await;
        }
    }

    /// Says whether nothing is left to do.
    pub(super) async fn replicate(&self, declared: &Declared) -> bool {
        let name = &declared.backup.name;
        let primary = &declared.backup.repository;
        let mut is_settled = true;
        if let Some(spool) = &declared.spool {
            let drained = self.drain(name, spool, primary).await;
            let is_drained = drained.is_ok();
            is_settled &= self.noted(name, primary, drained);
            if is_drained {
                is_settled &= self.free_spool(spool).await;
            }
        }
        for copy in &declared.copies {
            let copied = self.catch_up(declared, copy).await;
            is_settled &= self.noted(name, copy, copied);
        }
        is_settled
    }

    fn noted(&self, backup: &Name, to: &Arc<dyn Repository>, done: Result<(), Failure>) -> bool {
        let (is_done, failure) = (done.is_ok(), done.err());
        // It is tried again and again; only what is new is worth a line.
        if self.copies.note(backup, to.name(), failure.clone())
            && let Some(failure) = failure
        {
            warn!(
                %backup, repository = %to.name(), reason = %failure.reason,
                error = failure.message, "not copied; it is tried again"
            );
        }
        is_done
    }

    /// Moves what waits in the spool to where it belongs.
    async fn drain(
        &self,
        backup: &Name,
        spool: &Arc<dyn Repository>,
        primary: &Arc<dyn Repository>,
    ) -> Result<(), Failure> {
        let mut waiting = self.of(spool, backup).await.map_err(|error| Failure::from(&error))?;
        waiting.reverse();
        for snapshot in waiting {
            self.copied(spool, primary, &snapshot).await?;
            failpoint::reach("copy.published");
            let (asked, id) = (Arc::clone(spool), snapshot.id.clone());
            let forget = move || Ok(asked.remove(&[id])?);
            let forgotten = self.door(spool).ask(spool, forget).await;
            forgotten.map_err(|error: AgentError| Failure::from(&error))?;
            failpoint::reach("copy.forgotten");
            info!(%backup, run = %snapshot.run, spool = %spool.name(), "the spool was drained");
        }
        Ok(())
    }

    /// Copies what the further repository lacks, from wherever it can be read.
    async fn catch_up(&self, declared: &Declared, to: &Arc<dyn Repository>) -> Result<(), Failure> {
        let backup = &declared.backup.name;
        let there = self.of(to, backup).await.map_err(|error| Failure::from(&error))?;
        for (from, snapshot) in missing(&self.held(declared).await, &there) {
            self.copied(&from, to, &snapshot).await?;
        }
        Ok(())
    }

    /// What the primary repository and the spool hold, as far as they can be read.
    async fn held(&self, declared: &Declared) -> Vec<(Arc<dyn Repository>, Snapshot)> {
        let mut held = Vec::new();
        for from in
            [Some(&declared.backup.repository), declared.spool.as_ref()].into_iter().flatten()
        {
            // Of a place that is away it is said where it is the place to copy to.
            let listed = self.of(from, &declared.backup.name).await.unwrap_or_default();
            held.extend(listed.into_iter().map(|snapshot| (Arc::clone(from), snapshot)));
        }
        held
    }

    async fn of(
        &self,
        repository: &Arc<dyn Repository>,
        backup: &Name,
    ) -> Result<Vec<Snapshot>, AgentError> {
        let mut listed = self.listed(repository).await?;
        listed.retain(|snapshot| snapshot.backup == *backup);
        Ok(listed)
    }

    /// Copies one snapshot and waits for it.
    async fn copied(
        &self,
        from: &Arc<dyn Repository>,
        to: &Arc<dyn Repository>,
        snapshot: &Snapshot,
    ) -> Result<(), Failure> {
        self.answering(to).await.map_err(|error| Failure::from(&error))?;
        let begun = self.begin_copy(self.new_run(), from, to, snapshot.clone()).await;
        let mut watched = begun.map_err(|error| Failure::from(&error))?;
        let ended = watched.end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        match ended.as_deref() {
            Some(Ended { end: End::Failed(failure), .. }) => Err(failure.clone()),
            // Without an end the daemon is stopping, and nobody will ask.
            _ => Ok(()),
        }
    }

    /// Checks that a snapshot could be copied.
    ///
    /// # Errors
    ///
    /// Why it could not.
    pub async fn inspect_copy(&self, request: &CopyRequest) -> Result<Snapshot, AgentError> {
        let (from, to) = (self.repository(&request.from)?.1, self.repository(&request.to)?);
        if from.repository.name() == to.0 {
            return Err(AgentError::SameRepository { repository: to.0.clone() });
        }
        self.answering(&to.1.repository).await?;
        self.snapshot(&from.repository, None, &request.snapshot).await
    }

    /// Begins to copy one snapshot, or joins the run of this identifier.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn copy(&self, run: RunId, request: &CopyRequest) -> Result<Watched, AgentError> {
        let snapshot = self.inspect_copy(request).await?;
        let from = &self.repository(&request.from)?.1.repository;
        let to = &self.repository(&request.to)?.1.repository;
        self.begin_copy(run, from, to, snapshot).await
    }

    async fn begin_copy(
        &self,
        run: RunId,
        from: &Arc<dyn Repository>,
        to: &Arc<dyn Repository>,
        snapshot: Snapshot,
    ) -> Result<Watched, AgentError> {
        let work = Work::Copy {
            from: from.name().clone(),
            to: to.name().clone(),
            snapshot: snapshot.id.clone(),
            of: snapshot.run,
        };
        if let Some(watched) = self.runs.find(run, &work)? {
            return Ok(watched);
        }
        let replication = Replication { snapshot, from: Arc::clone(from), to: Arc::clone(to) };
        let execute = move |progress, cancel| async move {
            let repository = replication.to.name().clone();
            match blocking::run(move || replication.run(&progress, &cancel)).await {
                Ok(snapshot) => End::Copy(Box::new(Copied { repository, snapshot })),
                Err(error) => End::Failed((&error).into()),
            }
        };
        Ok(self.runs.begin(run, work, execute).await?)
    }

    /// How the run that has just ended stands, without asking any repository again.
    #[must_use]
    pub fn placed(&self, backed: &Backed) -> Vec<CopyStanding> {
        let backup = &backed.snapshot.backup;
        let Some(declared) = self.backups.get(backup) else { return Vec::new() };
        let standing = |(role, repository): (CopyRole, &Arc<dyn Repository>)| {
            let is_there = *repository.name() == backed.repository;
            let state = match role {
                _ if is_there => CopyState::Stored,
                CopyRole::Spool => CopyState::Idle,
                _ => CopyState::Waiting,
            };
            let newest = is_there.then(|| (backed.snapshot.id.clone(), backed.snapshot.taken_at));
            CopyStanding {
                backup: backup.clone(),
                repository: repository.name().clone(),
                role,
                waiting: usize::from(state == CopyState::Waiting),
                snapshots: usize::from(is_there),
                state,
                newest,
            }
        };
        declared.places().into_iter().map(standing).collect()
    }

    /// How backups stand in their repositories; of all when none is named.
    ///
    /// # Errors
    ///
    /// There is no such backup.
    pub async fn standings(&self, backup: &str) -> Result<Vec<CopyStanding>, AgentError> {
        let declared: Vec<&Declared> = if backup.is_empty() {
            self.backups.values().collect()
        } else {
            vec![find(&self.backups, super::Noun::Backup, backup)?.1]
        };
        let mut standings = Vec::new();
        for declared in declared {
            standings.extend(self.standings_of(declared).await);
        }
        Ok(standings)
    }

    async fn standings_of(&self, declared: &Declared) -> Vec<CopyStanding> {
        let backup = &declared.backup.name;
        let mut seen = Vec::new();
        for (role, repository) in declared.places() {
            seen.push((role, repository, self.of(repository, backup).await));
        }
        let readable = seen.iter().filter(|(role, ..)| *role != CopyRole::Copy);
        let held: Vec<(Arc<dyn Repository>, Snapshot)> = readable
            .flat_map(|(_, from, listed)| {
                listed.iter().flatten().map(|snapshot| (Arc::clone(from), snapshot.clone()))
            })
            .collect();
        let standings = seen.iter().map(|(role, repository, listed)| {
            let failure = self.copies.failure(backup, repository.name());
            let (state, there) = match listed {
                Err(error) => (CopyState::Unknown(Failure::from(error)), &[][..]),
                Ok(there) => (state(*role, &held, there, failure), there.as_slice()),
            };
            CopyStanding {
                backup: backup.clone(),
                repository: repository.name().clone(),
                role: *role,
                waiting: match (role, &state) {
                    (CopyRole::Spool, _) | (_, CopyState::Unknown(_)) => 0,
                    (CopyRole::Primary, _) => absent(&held, there),
                    (CopyRole::Copy, _) => missing(&held, there).len(),
                },
                state,
                newest: there.first().map(|newest| (newest.id.clone(), newest.taken_at)),
                snapshots: there.len(),
            }
        });
        standings.collect()
    }
}

/// How long to wait after so many attempts in a row that left something.
fn pause_after(failed: u32) -> Duration {
    match failed.checked_sub(1) {
        None => REPLICATE_EVERY,
        Some(before) => RETRY_MIN.saturating_mul(2_u32.saturating_pow(before)).min(REPLICATE_EVERY),
    }
}

fn state(
    role: CopyRole,
    held: &[(Arc<dyn Repository>, Snapshot)],
    there: &[Snapshot],
    failure: Option<Failure>,
) -> CopyState {
    let newest = held.iter().map(|(_, snapshot)| snapshot).max_by_key(|one| order(one));
    let has_newest = newest.is_some_and(|newest| there.iter().any(|one| one.run == newest.run));
    match (role, failure) {
        _ if has_newest => CopyState::Stored,
        (CopyRole::Spool, _) => CopyState::Idle,
        _ if newest.is_none() => CopyState::Idle,
        (_, Some(failure)) => CopyState::Failed(failure),
        (_, None) => CopyState::Waiting,
    }
}

fn order(snapshot: &Snapshot) -> (Timestamp, RunId) {
    (snapshot.taken_at, snapshot.run)
}

/// Runs that are elsewhere and not `there`.
fn absent(held: &[(Arc<dyn Repository>, Snapshot)], there: &[Snapshot]) -> usize {
    let is_there = |run: RunId| there.iter().any(|one| one.run == run);
    held.iter().filter(|(_, snapshot)| !is_there(snapshot.run)).count()
}

/// What is held elsewhere and should come `there`, the oldest first: everything that is
/// newer than the newest there. Older ones may have been given up there on purpose, and
/// a new repository begins with the newest.
fn missing(
    held: &[(Arc<dyn Repository>, Snapshot)],
    there: &[Snapshot],
) -> Vec<(Arc<dyn Repository>, Snapshot)> {
    let mut by_order: BTreeMap<_, _> = BTreeMap::new();
    for (from, snapshot) in held {
        by_order.entry(order(snapshot)).or_insert((from, snapshot));
    }
    let newer: Vec<_> = match there.iter().map(order).max() {
        None => by_order.into_values().next_back().into_iter().collect(),
        Some(newest) => {
            by_order.into_iter().filter(|(at, _)| *at > newest).map(|it| it.1).collect()
        }
    };
    newer.into_iter().map(|(from, snapshot)| (Arc::clone(from), snapshot.clone())).collect()
}
