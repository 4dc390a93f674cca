//! A test restore that proves something.
//!
//! A verified snapshot is restored into a place that is only there for that, looked at
//! with the tools of its kind, and compared with its manifest. What is wrong with the
//! *place* (no room, no connection, a program that is missing) leaves it open whether
//! the backup is good; only what is wrong with the backup fails the drill. Everything
//! that a drill makes is named after its run and marked, and only what carries both
//! is ever removed.

mod evidence;
pub mod folder;
pub mod postgres;
pub mod zfs;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use homelab_common::{clock::Clock, error_chain::Chain, exec::Killer};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    blocking,
    ids::{Name, RunId, SnapshotId},
    manifest::{FILE_NAME as MANIFEST, Manifest},
    progress::{Progress, Stage},
    repository::{Repository, RepositoryError, Snapshot, SourceKind},
    source::SourceError,
    stream::Sha256,
};
use folder::FolderTarget;
use postgres::PostgresTarget;
use zfs::ZfsTarget;

/// Findings that are given; more would not be read.
const FINDINGS_MAX: usize = 100;

/// Where to restore.
#[derive(Clone, Debug)]
pub enum Target {
    /// A PostgreSQL server, for databases.
    Postgres(PostgresTarget),
    /// A folder, for all that consists of files.
    Folder(FolderTarget),
    /// A dataset, for datasets.
    Zfs(ZfsTarget),
}

impl Target {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &Name {
        match self {
            Self::Postgres(target) => &target.name,
            Self::Folder(target) => &target.name,
            Self::Zfs(target) => &target.name,
        }
    }

    /// This host, as what it makes there says.
    #[must_use]
    pub fn owner(&self) -> &str {
        match self {
            Self::Postgres(target) => &target.owner,
            Self::Folder(target) => &target.owner,
            Self::Zfs(target) => &target.owner,
        }
    }

    /// What it is, as the configuration says it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Folder(_) => "folder",
            Self::Zfs(_) => "zfs",
        }
    }

    fn vaultwarden(&self) -> Option<&Path> {
        match self {
            Self::Folder(target) => target.vaultwarden.as_deref(),
            _ => None,
        }
    }

    fn inspect(&self, work: &Work<'_>, manifest: &Manifest) -> Result<String, DrillError> {
        match self {
            Self::Postgres(target) => target.inspect(work, manifest),
            Self::Folder(target) => target.inspect(work, manifest),
            Self::Zfs(target) => target.inspect(work, manifest),
        }
    }

    fn show(&self, work: &Work<'_>, manifest: &Manifest) -> Result<Shown, DrillError> {
        match self {
            Self::Postgres(target) => target.show(work, manifest),
            Self::Folder(target) => target.show(work, manifest),
            Self::Zfs(target) => target.show(work, manifest),
        }
    }
}

/// Removes what drills left on the target whose run `is_alive` denies. Blocks. Gives
/// what was removed.
///
/// # Errors
///
/// The target cannot be used.
pub fn sweep(
    target: &Target,
    sweeper: RunId,
    is_alive: impl Fn(RunId) -> bool,
) -> Result<Vec<String>, DrillError> {
    match target {
        Target::Postgres(target) => postgres::sweep(target, sweeper, is_alive)
            .map_err(|source| target_error(&target.name, source)),
        Target::Folder(target) => target.sweep(is_alive),
        Target::Zfs(target) => target.sweep(is_alive),
    }
}

/// What to drill.
#[derive(Clone, Debug)]
pub struct Drill {
    /// The run.
    pub run: RunId,
    /// What is restored.
    pub snapshot: Snapshot,
    /// Where it is stored.
    pub repository: Arc<dyn Repository>,
    /// Where it is restored.
    pub target: Target,
    /// Tells how old the snapshot is.
    pub clock: Arc<dyn Clock>,
}

/// What a drill showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything equals the manifest.
    Passed,
    /// The backup is not what it claims to be.
    Failed {
        /// A sentence each.
        differences: Vec<String>,
    },
    /// The target could not show it: neither passed nor failed.
    Unverified {
        /// A sentence each.
        because: Vec<String>,
    },
}

impl Verdict {
    /// Passed, unless something differs.
    #[must_use]
    pub fn of(differences: Vec<String>) -> Self {
        if differences.is_empty() { Self::Passed } else { Self::Failed { differences } }
    }

    fn shortened(mut self) -> Self {
        match &mut self {
            Self::Passed => {}
            Self::Failed { differences: texts } | Self::Unverified { because: texts } => {
                texts.truncate(FINDINGS_MAX);
            }
        }
        self
    }
}

/// How many of something were compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// What, in the plural: `rows`, `attachments`, `refs`.
    pub what: &'static str,
    /// How many.
    pub count: u64,
}

/// What a target showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What it showed.
    pub verdict: Verdict,
    /// The restore alone, until the thing could be used.
    pub restore_elapsed: Duration,
    /// What was compared; empty when nothing was.
    pub compared: Vec<Compared>,
}

impl Shown {
    fn unverified(because: Vec<String>) -> Self {
        let verdict = Verdict::Unverified { because };
        Self { verdict, restore_elapsed: Duration::ZERO, compared: Vec::new() }
    }
}

/// The evidence of a drill. It belongs to one snapshot and says how old that was:
/// "restorable" and "fresh" are two statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it showed.
    pub verdict: Verdict,
    /// The backup.
    pub backup: Name,
    /// The snapshot that was restored.
    pub snapshot: SnapshotId,
    /// How old its state was when the drill began.
    pub snapshot_age: Duration,
    /// Where it was restored.
    pub target: Name,
    /// The restore alone: the measured RTO.
    pub restore_elapsed: Duration,
    /// Everything.
    pub elapsed: Duration,
    /// When it ended.
    pub finished_at: Timestamp,
    /// What was compared.
    pub compared: Vec<Compared>,
    /// Where the snapshot was read from.
    pub repository: Name,
    /// The moment whose state the snapshot holds.
    pub taken_at: Timestamp,
    /// Host whose agent made the snapshot.
    pub source_host: String,
    /// Host that the drill ran on.
    pub host: String,
    /// Digest of everything above and of the manifest that was compared with: what a
    /// signature can be put under.
    pub evidence: Sha256,
}

impl Report {
    /// How many of this were compared.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        let fitting = self.compared.iter().filter(|compared| compared.what == what);
        fitting.map(|compared| compared.count).sum()
    }
}

/// Why a drill could not be done.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The target is the server that was backed up.
    #[error(
        "drill target `{target}` is the very server that `{backup}` was taken from (system \
         identifier {identifier}); name another server as target"
    )]
    TargetIsSource {
        /// The target.
        target: Name,
        /// The backup.
        backup: Name,
        /// Of both.
        identifier: String,
    },
    /// The snapshot could not be read.
    #[error("could not read snapshot `{snapshot}` for the drill")]
    Repository {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Why.
        #[source]
        source: RepositoryError,
    },
    /// The snapshot has no usable manifest.
    #[error(
        "the manifest of snapshot `{snapshot}` cannot be read; there is nothing to compare with"
    )]
    Manifest {
        /// The snapshot.
        snapshot: SnapshotId,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The target could not be used.
    #[error("could not use drill target `{target}`")]
    Target {
        /// The target.
        target: Name,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// The folder of the target could not be used.
    #[error("could not use `{}` of drill target `{target}`", path.display())]
    Folder {
        /// The target.
        target: Name,
        /// What was made, written or read.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The target is for other kinds of backups.
    #[error(
        "drill target `{target}` cannot show a backup of kind `{kind}`; name one of kind `{wanted}`"
    )]
    Unsuited {
        /// The target.
        target: Name,
        /// Of the backup.
        kind: SourceKind,
        /// Of a target that could.
        wanted: &'static str,
    },
    /// Somebody cancelled it.
    #[error("the drill was cancelled; what it had made was removed")]
    Cancelled,
}

impl DrillError {
    /// Whether it is the target's trouble, which says nothing about the backup.
    const fn is_of_target(&self) -> bool {
        matches!(self, Self::Target { .. } | Self::Folder { .. })
    }
}

fn target_error(target: &Name, source: impl Into<SourceError>) -> DrillError {
    DrillError::Target { target: target.clone(), source: source.into() }
}

impl Drill {
    /// Checks that source and target differ and that the target answers.
    ///
    /// # Errors
    ///
    /// Why a drill could not begin.
    pub async fn inspect(&self) -> Result<Vec<String>, DrillError> {
        let drill = self.clone();
        blocking::run(move || {
            let (progress, stop) = (Progress::unwatched(), Stop::default());
            let work = Work { drill: &drill, progress: &progress, stop: &stop };
            let manifest = work.manifest()?;
            let place = drill.target.inspect(&work, &manifest)?;
            Ok(vec![format!("snapshot {} would be restored into {place}", drill.snapshot.id)])
        })
        .await
    }

    /// Restores, compares and cleans up.
    ///
    /// Cancel safety: use `cancel`. Dropping the future lets the blocking part run to
    /// its end, cleaning included.
    ///
    /// # Errors
    ///
    /// Why nothing was shown.
    pub async fn run(
        &self,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Report, DrillError> {
        let stop = Arc::new(Stop { cancel: cancel.clone(), killers: Mutex::default() });
        let (drill, progress, stopped) = (self.clone(), progress.clone(), Arc::clone(&stop));
        let work = blocking::run(move || {
            drill.restore_and_compare(&Work { drill: &drill, progress: &progress, stop: &stopped })
        });
        tokio::pin!(work);
        let report = tokio::select! {
            report = &mut work => report,
            () = cancel.cancelled() => {
                stop.kill();
                work.await
            }
        };
        if cancel.is_cancelled() { Err(DrillError::Cancelled) } else { report }
    }

    fn restore_and_compare(&self, work: &Work<'_>) -> Result<Report, DrillError> {
        let (began, began_at) = (Instant::now(), self.clock.now());
        work.progress.enter(Stage::Preparing, None);
        let manifest = work.manifest()?;
        let shown = match self.target.show(work, &manifest) {
            Err(error) if error.is_of_target() => {
                Shown::unverified(vec![Chain(&error).to_string()])
            }
            shown => shown?,
        };
        let age = began_at.duration_since(self.snapshot.taken_at);
        let mut report = Report {
            verdict: shown.verdict.shortened(),
            backup: self.snapshot.backup.clone(),
            snapshot: self.snapshot.id.clone(),
            snapshot_age: Duration::try_from(age).unwrap_or_default(),
            target: self.target.name().clone(),
            restore_elapsed: shown.restore_elapsed,
            elapsed: began.elapsed(),
            finished_at: self.clock.now(),
            compared: shown.compared,
            repository: self.repository.name().clone(),
            taken_at: self.snapshot.taken_at,
            source_host: self.snapshot.host.clone(),
            host: self.target.owner().to_owned(),
            evidence: Sha256::of(&[]),
        };
        report.evidence = evidence::digest(&report, self.run, &manifest);
        Ok(report)
    }
}

/// A drill at work, for its target.
struct Work<'a> {
    drill: &'a Drill,
    progress: &'a Progress,
    stop: &'a Stop,
}

impl Work<'_> {
    fn manifest(&self) -> Result<Manifest, DrillError> {
        let Drill { snapshot, repository, .. } = self.drill;
        let mut bytes = Vec::new();
        repository
            .read(&snapshot.id, &snapshot.path_of(MANIFEST), &mut bytes, &self.stop.cancel)
            .map_err(|source| self.repository_error(source))?;
        Manifest::from_bytes(&bytes)
            .map_err(|source| DrillError::Manifest { snapshot: snapshot.id.clone(), source })
    }

    fn repository_error(&self, source: RepositoryError) -> DrillError {
        DrillError::Repository { snapshot: self.drill.snapshot.id.clone(), source }
    }

    fn unsuited(&self, manifest: &Manifest, wanted: &'static str) -> DrillError {
        let target = self.drill.target.name().clone();
        DrillError::Unsuited { target, kind: manifest.contents.kind(), wanted }
    }
}

/// Ends the programs of a drill that is cancelled while they work.
#[derive(Default)]
struct Stop {
    cancel: CancellationToken,
    killers: Mutex<Vec<Killer>>,
}

impl Stop {
    fn add(&self, killer: Killer) {
        let mut killers = self.killers.lock().unwrap_or_else(PoisonError::into_inner);
        // Cancelled before it was added: nobody else would end it.
        if self.cancel.is_cancelled() {
            killer.kill();
        }
        killers.push(killer);
    }

    fn kill(&self) {
        let killers = self.killers.lock().unwrap_or_else(PoisonError::into_inner);
        killers.iter().for_each(Killer::kill);
    }
}
