//! What this agent can be asked to do, in its own terms.

mod copies;
mod door;
mod error;
mod push_back;
mod retention;
mod spool;
mod standing;
mod sweep;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::BTreeMap, path::PathBuf, sync::Arc};

use homelab_common::{chance::Chance, clock::Clock, error_chain::Chain};
use jiff::Timestamp;
use tracing::warn;
use uuid::Uuid;

pub use copies::{Copies, CopyRequest, CopyRole, CopyStanding, CopyState};
pub use door::Door;
pub use error::{AgentError, Noun};
pub use push_back::PushBackRequest;
pub use standing::Standing;

use crate::{
    backup::Backup,
    blocking,
    drill::{Drill, Target},
    ids::{Name, RunId},
    journal::Work,
    repository::{Depth, Repository, Snapshot},
    restore::{self, OnDamage, Place as RestorePlace},
    runs::{End, Runs, Watched},
    source::rights::Explained,
    verify,
};

/// A backup with everything that belongs to it.
#[derive(Clone, Debug)]
pub struct Declared {
    /// The backup, with its primary repository.
    pub backup: Backup,
    /// Further repositories, which each run is copied to.
    pub copies: Vec<Arc<dyn Repository>>,
    /// Takes a run while the primary repository is away.
    pub spool: Option<Arc<dyn Repository>>,
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
    /// Where it stands.
    pub whereabouts: Whereabouts,
    /// The way to ask it.
    pub door: Door,
}

/// Where a repository stands, as declared: what is lost together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// What it lies on.
    pub medium: String,
    /// Where that stands.
    pub place: String,
    /// At another place than the sources.
    pub off_site: bool,
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
    /// What is known of the copying.
    pub copies: Copies,
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
        match (self.answering(&declared.backup.repository).await, &declared.spool) {
            (Ok(()), _) => Ok(declared.backup.inspect(self.new_run()).await?),
            (Err(away), None) => Err(away),
            (Err(away), Some(spool)) => {
                self.answering(spool).await?;
                let backup = declared.backup.elsewhere(spool);
                let mut findings = backup.inspect(self.new_run()).await?;
                findings.push(format!(
                    "it would wait there, because repository `{}` is away: {}",
                    declared.backup.repository.name(),
                    Chain(&away)
                ));
                Ok(findings)
            }
        }
    }

    /// Begins a backup, or joins the run of this identifier.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn run_backup(&self, run: RunId, name: &str) -> Result<Watched, AgentError> {
        let (name, declared) = find(&self.backups, Noun::Backup, name)?;
        let repository = declared.backup.repository.name().clone();
        let work = Work::Backup { backup: name.clone(), repository };
        if let Some(watched) = self.runs.find(run, &work)? {
            return Ok(watched);
        }
        let first = self.first_choice(declared).await?;
        let (declared, copies) = (declared.clone(), self.copies.clone());
        let execute = move |progress, cancel| async move {
            let placed = declared.run(run, first, &progress, &cancel).await;
            copies.wake();
            match placed {
                Ok(backed) => End::Backup(Box::new(backed)),
                Err(error) => End::Failed((&error).into()),
            }
        };
        Ok(self.runs.begin(run, work, execute).await?)
    }

    /// The spool, when the primary repository is away and the spool is not.
    async fn first_choice(&self, declared: &Declared) -> Result<CopyRole, AgentError> {
        let Err(away) = self.answering(&declared.backup.repository).await else {
            return Ok(CopyRole::Primary);
        };
        let Some(spool) = &declared.spool else { return Err(away) };
        if self.answering(spool).await.is_err() {
            return Err(away);
        }
        warn!(
            backup = %declared.backup.name, spool = %spool.name(), error = %Chain(&away),
            "the repository is away: a run goes to the spool"
        );
        Ok(CopyRole::Spool)
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
        let snapshot = self.snapshot(&kept.repository, None, &restore.snapshot).await?;
        let repositories: Vec<PathBuf> =
            self.repositories.values().map(|kept| kept.path.clone()).collect();
        let (place, backup) = (restore.place(), snapshot.backup.clone());
        blocking::run(move || place.check(&backup, &repositories)).await?;
        Ok(snapshot)
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
        let (repository, place) = (Arc::clone(&kept.repository), request.place());
        let execute = move |progress, cancel| async move {
            let write = move || {
                let repository = repository.as_ref();
                restore::restore(repository, &snapshot, &place, run, &progress, &cancel)
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
            backup: planned.backup.clone(),
            repository: planned.repository.name().clone(),
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

    /// Says which rights a backup needs at its source, and which it has.
    ///
    /// # Errors
    ///
    /// There is no such backup, or it could not be tried.
    pub async fn explain(&self, backup: &str) -> Result<Explained, AgentError> {
        let source = Arc::clone(&find(&self.backups, Noun::Backup, backup)?.1.backup.source);
        Ok(source.explain(self.new_run()).await?)
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
    /// backups or of one; those in quarantine too.
    ///
    /// # Errors
    ///
    /// A repository could not be read.
    pub async fn snapshots(
        &self,
        repository: &str,
        backup: &str,
    ) -> Result<Vec<Listed>, AgentError> {
        let kept: Vec<&Kept> = if repository.is_empty() {
            self.repositories.values().collect()
        } else {
            vec![self.repository(repository)?.1]
        };
        let mut found = Vec::new();
        let is_only = kept.len() == 1;
        for kept in kept {
            let name = kept.repository.name().clone();
            let listed = match self.listed_with_forgotten(&kept.repository).await {
                // One that is away must not hide the others.
                Err(error) if !is_only => {
                    warn!(repository = %name, error = %Chain(&error), "not listed");
                    continue;
                }
                listed => listed?,
            };
            let wanted = |one: &Listed| backup.is_empty() || one.snapshot.backup.as_str() == backup;
            found.extend(listed.into_iter().filter(wanted));
        }
        found.sort_by_key(|one| Reverse((one.snapshot.taken_at, one.snapshot.run)));
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
        self.door(repository).knock(repository).await
    }

    /// The way to ask a repository; all who ask must take the same.
    fn door(&self, repository: &Arc<dyn Repository>) -> Door {
        let kept = self.repositories.get(repository.name());
        kept.map(|kept| kept.door.clone()).unwrap_or_default()
    }

    async fn listed(&self, repository: &Arc<dyn Repository>) -> Result<Vec<Snapshot>, AgentError> {
        self.answering(repository).await?;
        let asked = Arc::clone(repository);
        Ok(blocking::run(move || asked.snapshots()).await?)
    }

    async fn listed_with_forgotten(
        &self,
        repository: &Arc<dyn Repository>,
    ) -> Result<Vec<Listed>, AgentError> {
        self.answering(repository).await?;
        let asked = Arc::clone(repository);
        let look = move || {
            let name = asked.name().clone();
            let of = |(snapshot, quarantined_at)| Listed {
                repository: name.clone(),
                snapshot,
                quarantined_at,
            };
            let visible = asked.snapshots()?.into_iter().map(|snapshot| (snapshot, None));
            let hidden = asked.forgotten()?.into_iter();
            let hidden = hidden.map(|it| (it.snapshot, Some(it.forgotten_at)));
            Ok::<_, AgentError>(visible.chain(hidden).map(of).collect())
        };
        blocking::run(look).await
    }

    /// One snapshot, by at least eight digits, which may be in quarantine; the newest
    /// that is not, when none are given.
    async fn snapshot(
        &self,
        repository: &Arc<dyn Repository>,
        backup: Option<&Name>,
        id: &str,
    ) -> Result<Snapshot, AgentError> {
        let mut listed = self.listed_with_forgotten(repository).await?;
        listed.retain(|one| backup.is_none_or(|backup| one.snapshot.backup == *backup));
        let of = backup.map(|backup| format!(" of backup `{backup}`")).unwrap_or_default();
        let none = || AgentError::NoSnapshot { id: id.to_owned(), of };
        if id.is_empty() {
            let mut visible = listed.into_iter().filter(|one| one.quarantined_at.is_none());
            return visible.next().map(|one| one.snapshot).ok_or_else(none);
        }
        listed.retain(|one| one.snapshot.id.starts_with(id));
        let mut fitting = listed.into_iter().map(|one| one.snapshot);
        match (fitting.next(), fitting.next()) {
            (Some(snapshot), None) => Ok(snapshot),
            (Some(_), Some(_)) => Err(AgentError::Ambiguous { id: id.to_owned() }),
            (None, _) => Err(none()),
        }
    }

    fn plan_drill(&self, request: &DrillRequest) -> Result<PlannedDrill, AgentError> {
        let declared = find(&self.backups, Noun::Backup, &request.backup);
        let (backup, repository, own) = match declared {
            Ok((name, declared)) => {
                let repository = if request.repository.is_empty() {
                    Arc::clone(&declared.backup.repository)
                } else {
                    Arc::clone(&self.repository(&request.repository)?.1.repository)
                };
                (name.clone(), repository, declared.drill_target.clone())
            }
            // Of another host, by its repository.
            Err(unknown) => {
                let Ok(name) = request.backup.parse::<Name>() else { return Err(unknown) };
                if request.repository.is_empty() {
                    return Err(unknown);
                }
                let kept = self.repository(&request.repository)?.1;
                (name, Arc::clone(&kept.repository), None)
            }
        };
        let own = own.as_ref().map(Name::as_str).unwrap_or_default();
        let name = if request.target.is_empty() { own } else { &request.target };
        if name.is_empty() {
            let known = listed(self.targets.keys());
            return Err(AgentError::Unnamed { noun: Noun::Target, known });
        }
        let target = find(&self.targets, Noun::Target, name)?.1.clone();
        Ok(PlannedDrill { backup, repository, target })
    }

    async fn drill_of(
        &self,
        run: RunId,
        planned: &PlannedDrill,
        request: &DrillRequest,
    ) -> Result<Drill, AgentError> {
        let PlannedDrill { backup, repository, target } = planned;
        let snapshot = self.snapshot(repository, Some(backup), &request.snapshot).await?;
        let repository = Arc::clone(repository);
        let clock = Arc::clone(&self.clock);
        Ok(Drill { run, snapshot, repository, target: target.clone(), clock })
    }
}

struct PlannedDrill {
    backup: Name,
    repository: Arc<dyn Repository>,
    target: Target,
}

/// A verified snapshot, where it is, and how it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where.
    pub repository: Name,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Since when it is given up; absent when it is not.
    pub quarantined_at: Option<Timestamp>,
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
    /// The backup's name, to replace a folder that exists; empty replaces nothing.
    pub replace: String,
    /// What a damaged file does.
    pub damage: OnDamage,
}

impl RestoreRequest {
    fn place(&self) -> RestorePlace {
        let replace = (!self.replace.is_empty()).then(|| self.replace.clone());
        RestorePlace { target: self.target.clone(), replace, damage: self.damage }
    }
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
    /// The repository to restore from; empty takes the backup's primary one.
    pub repository: String,
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
