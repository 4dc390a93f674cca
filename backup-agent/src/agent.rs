//! What this agent can be asked to do, in its own terms.

mod error;
mod standing;
mod sweep;

use std::{cmp::Reverse, collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use homelab_common::{chance::Chance, clock::Clock};
use uuid::Uuid;

pub use error::{AgentError, Noun};
pub use standing::Standing;

use crate::{
    backup::Backup,
    blocking,
    drill::{Drill, Target},
    ids::{Name, RunId},
    journal::Work,
    repository::{Depth, Repository, Snapshot},
    restore,
    runs::{End, Runs, Watched},
    verify,
};

/// How long a repository may take to show that it is there. A hung network mount
/// answers never.
const GUARD_MAX: Duration = Duration::from_secs(15);

/// A backup with where it is drilled.
#[derive(Clone, Debug)]
pub struct Declared {
    /// The backup.
    pub backup: Backup,
    /// The drill target, unless a drill names another one.
    pub drill_target: Option<Name>,
}

/// A repository with its folder.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The repository.
    pub repository: Arc<dyn Repository>,
    /// Its folder on this host.
    pub path: PathBuf,
    /// Its identity.
    pub id: Uuid,
}

/// Everything that is declared, and the runs.
#[derive(Debug)]
pub struct Agent {
    /// By name.
    pub backups: BTreeMap<Name, Declared>,
    /// By name.
    pub repositories: BTreeMap<Name, Kept>,
    /// By name.
    pub targets: BTreeMap<Name, Target>,
    /// The runs.
    pub runs: Runs,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
}

impl Agent {
    /// An identifier for a run that nobody named.
    #[must_use]
    pub fn new_run(&self) -> RunId {
        RunId::generate(self.clock.as_ref(), self.chance.as_ref())
    }

    /// Says what a run of this backup would do.
    ///
    /// # Errors
    ///
    /// Why it could not begin.
    pub async fn inspect_backup(&self, name: &str) -> Result<Vec<String>, AgentError> {
        let declared = find(&self.backups, Noun::Backup, name)?.1;
        self.answering(&declared.backup.repository).await?;
        Ok(declared.backup.inspect(self.new_run()).await?)
    }

    /// Begins a backup, or joins the run of this identifier.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn run_backup(&self, run: RunId, name: &str) -> Result<Watched, AgentError> {
        let (name, declared) = find(&self.backups, Noun::Backup, name)?;
        let backup = declared.backup.clone();
        let repository = backup.repository.name().clone();
        let work = Work::Backup { backup: name.clone(), repository };
        if let Some(watched) = self.runs.find(run, &work)? {
            return Ok(watched);
        }
        self.answering(&backup.repository).await?;
        let execute = move |progress, cancel| async move {
            match backup.run(run, &progress, &cancel).await {
                Ok(backed) => End::Backup(Box::new(backed)),
                Err(error) => End::Failed((&error).into()),
            }
        };
        Ok(self.runs.begin(run, work, execute).await?)
    }

    /// Begins a verification, or joins the run of this identifier.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn verify(
        &self,
        run: RunId,
        name: &str,
        depth: Depth,
    ) -> Result<Watched, AgentError> {
        let (name, kept) = self.repository(name)?;
        let read_data = depth == Depth::Data;
        let work = Work::Verification { repository: name.clone(), read_data };
        if let Some(watched) = self.runs.find(run, &work)? {
            return Ok(watched);
        }
        self.answering(&kept.repository).await?;
        let repository = Arc::clone(&kept.repository);
        let execute = move |progress, cancel| async move {
            let read = move || verify::verify(repository.as_ref(), depth, &progress, &cancel);
            match blocking::run(read).await {
                Ok(found) => End::Verification(found),
                Err(error) => End::Failed((&error).into()),
            }
        };
        Ok(self.runs.begin(run, work, execute).await?)
    }

    /// Checks that a restore could begin.
    ///
    /// # Errors
    ///
    /// Why it could not.
    pub async fn inspect_restore(&self, restore: &RestoreRequest) -> Result<Snapshot, AgentError> {
        let kept = self.repository(&restore.repository)?.1;
        let target = restore.target.clone();
        blocking::run(move || restore::check_target(&target)).await?;
        self.snapshot(&kept.repository, None, &restore.snapshot).await
    }

    /// Begins a restore, or joins the run of this identifier.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn restore(
        &self,
        run: RunId,
        request: RestoreRequest,
    ) -> Result<Watched, AgentError> {
        let (name, kept) = self.repository(&request.repository)?;
        let work = Work::Restore {
            repository: name.clone(),
            snapshot: request.snapshot.clone(),
            target: request.target.clone(),
        };
        if let Some(watched) = self.runs.find(run, &work)? {
            return Ok(watched);
        }
        let snapshot = self.inspect_restore(&request).await?;
        let (repository, target) = (Arc::clone(&kept.repository), request.target);
        let execute = move |progress, cancel| async move {
            let write = move || {
                let repository = repository.as_ref();
                restore::restore(repository, &snapshot, &target, run, &progress, &cancel)
            };
            match blocking::run(write).await {
                Ok(restored) => End::Restore(restored),
                Err(error) => End::Failed((&error).into()),
            }
        };
        Ok(self.runs.begin(run, work, execute).await?)
    }

    /// Says what a drill would do.
    ///
    /// # Errors
    ///
    /// Why it could not begin.
    pub async fn inspect_drill(&self, request: &DrillRequest) -> Result<Vec<String>, AgentError> {
        let planned = self.plan_drill(request)?;
        Ok(self.drill_of(self.new_run(), &planned, request).await?.inspect().await?)
    }

    /// Begins a drill, or joins the run of this identifier.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn drill(&self, run: RunId, request: DrillRequest) -> Result<Watched, AgentError> {
        let planned = self.plan_drill(&request)?;
        let work = Work::Drill {
            backup: planned.backup.name.clone(),
            snapshot: request.snapshot.clone(),
            target: planned.target.name().clone(),
        };
        if let Some(watched) = self.runs.find(run, &work)? {
            return Ok(watched);
        }
        let drill = self.drill_of(run, &planned, &request).await?;
        // Refused at once, as a refusal, and not as the end of a run that began.
        drill.inspect().await?;
        let execute = move |progress, cancel| async move {
            match drill.run(&progress, &cancel).await {
                Ok(report) => End::Drill(report),
                Err(error) => End::Failed((&error).into()),
            }
        };
        Ok(self.runs.begin(run, work, execute).await?)
    }

    /// Cancels a run; says whether it still went on.
    ///
    /// # Errors
    ///
    /// There is no such run.
    pub fn cancel(&self, run: RunId) -> Result<bool, AgentError> {
        self.runs.cancel(run).ok_or(AgentError::NoRun { id: run })
    }

    /// Verified snapshots, newest first, of all repositories or of one, of all
    /// backups or of one.
    ///
    /// # Errors
    ///
    /// A repository could not be read.
    pub async fn snapshots(
        &self,
        repository: &str,
        backup: &str,
    ) -> Result<Vec<(Name, Snapshot)>, AgentError> {
        let kept: Vec<&Kept> = if repository.is_empty() {
            self.repositories.values().collect()
        } else {
            vec![self.repository(repository)?.1]
        };
        let mut found = Vec::new();
        for kept in kept {
            let name = kept.repository.name().clone();
            let listed = self.listed(&kept.repository).await?;
            let wanted =
                |snapshot: &Snapshot| backup.is_empty() || snapshot.backup.as_str() == backup;
            found
                .extend(listed.into_iter().filter(wanted).map(|snapshot| (name.clone(), snapshot)));
        }
        found.sort_by_key(|(_, snapshot)| Reverse((snapshot.taken_at, snapshot.run)));
        Ok(found)
    }

    /// A repository by name; the only one, when no name is given.
    ///
    /// # Errors
    ///
    /// There is no such repository.
    pub fn repository(&self, name: &str) -> Result<(&Name, &Kept), AgentError> {
        if !name.is_empty() {
            return find(&self.repositories, Noun::Repository, name);
        }
        let mut all = self.repositories.iter();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(AgentError::Unnamed {
                noun: Noun::Repository,
                known: listed(self.repositories.keys()),
            }),
        }
    }

    /// Checks that a repository is the right one and answers.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub async fn answering(&self, repository: &Arc<dyn Repository>) -> Result<(), AgentError> {
        let asked = Arc::clone(repository);
        within_reason(repository, move || asked.guard().map_err(AgentError::from)).await
    }

    async fn listed(&self, repository: &Arc<dyn Repository>) -> Result<Vec<Snapshot>, AgentError> {
        self.answering(repository).await?;
        let asked = Arc::clone(repository);
        Ok(blocking::run(move || asked.snapshots()).await?)
    }

    /// One snapshot, by at least eight digits; the newest when none are given.
    async fn snapshot(
        &self,
        repository: &Arc<dyn Repository>,
        backup: Option<&Name>,
        id: &str,
    ) -> Result<Snapshot, AgentError> {
        let mut listed = self.listed(repository).await?;
        listed.retain(|snapshot| backup.is_none_or(|backup| snapshot.backup == *backup));
        let of = backup.map(|backup| format!(" of backup `{backup}`")).unwrap_or_default();
        let none = || AgentError::NoSnapshot { id: id.to_owned(), of };
        if id.is_empty() {
            return listed.into_iter().next().ok_or_else(none);
        }
        listed.retain(|snapshot| snapshot.id.starts_with(id));
        let mut fitting = listed.into_iter();
        match (fitting.next(), fitting.next()) {
            (Some(snapshot), None) => Ok(snapshot),
            (Some(_), Some(_)) => Err(AgentError::Ambiguous { id: id.to_owned() }),
            (None, _) => Err(none()),
        }
    }

    fn plan_drill(&self, request: &DrillRequest) -> Result<PlannedDrill, AgentError> {
        let declared = find(&self.backups, Noun::Backup, &request.backup)?.1;
        let own = declared.drill_target.as_ref().map(Name::as_str).unwrap_or_default();
        let name = if request.target.is_empty() { own } else { &request.target };
        if name.is_empty() {
            let known = listed(self.targets.keys());
            return Err(AgentError::Unnamed { noun: Noun::Target, known });
        }
        let target = find(&self.targets, Noun::Target, name)?.1.clone();
        Ok(PlannedDrill { backup: declared.backup.clone(), target })
    }

    async fn drill_of(
        &self,
        run: RunId,
        planned: &PlannedDrill,
        request: &DrillRequest,
    ) -> Result<Drill, AgentError> {
        let PlannedDrill { backup, target } = planned;
        let snapshot =
            self.snapshot(&backup.repository, Some(&backup.name), &request.snapshot).await?;
        let repository = Arc::clone(&backup.repository);
        let clock = Arc::clone(&self.clock);
        Ok(Drill { run, snapshot, repository, target: target.clone(), clock })
    }
}

struct PlannedDrill {
    backup: Backup,
    target: Target,
}

/// What to restore, and where.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// Repository; empty when there is only one.
    pub repository: String,
    /// At least eight digits of the snapshot.
    pub snapshot: String,
    /// The folder that it becomes.
    pub target: PathBuf,
}

/// What to drill, and where.
#[derive(Clone, Debug)]
pub struct DrillRequest {
    /// The backup.
    pub backup: String,
    /// At least eight digits of the snapshot; empty takes the newest.
    pub snapshot: String,
    /// The target; empty takes the backup's own.
    pub target: String,
}

/// Asks a repository something that is answered at once, unless its mount hangs. The
/// thread then stays behind, in the kernel: there is no way to call it back.
pub(crate) async fn within_reason<T: Send + 'static>(
    repository: &Arc<dyn Repository>,
    ask: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    let asking = tokio::time::timeout(GUARD_MAX, blocking::run(ask));
    asking
        .await
        .unwrap_or_else(|_| Err(AgentError::Hanging { repository: repository.name().clone() }))
}

fn find<'a, T>(
    all: &'a BTreeMap<Name, T>,
    noun: Noun,
    name: &str,
) -> Result<(&'a Name, &'a T), AgentError> {
    let unknown = || AgentError::Unknown { noun, name: name.to_owned(), known: listed(all.keys()) };
    let key: Name = name.parse().map_err(|_| unknown())?;
    all.get_key_value(&key).ok_or_else(unknown)
}

fn listed<'n>(names: impl Iterator<Item = &'n Name>) -> String {
    let names: Vec<&str> = names.map(Name::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
