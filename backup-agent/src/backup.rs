//! One run of a backup, from source to verified snapshot.
//!
//! Nothing becomes visible before all of this is shown: the programs ended well,
//! each stream carries its format's own end, the manifest is complete and fits the
//! size of the dump, the repository is still the right one, and what was stored
//! reads back byte for byte. On every other path the run leaves nothing behind but
//! unreferenced chunks.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    blocking, failpoint,
    ids::{Name, RunId},
    manifest::Manifest,
    progress::{Progress, Stage},
    repository::{
        Intent, Repository, RepositoryError, Snapshot, Stored, Summary, identity::GuardError,
    },
    restore,
    source::{Before, Capture, Context, Source, SourceError},
    stream::Gauge,
};

/// How often the bytes of a running dump are reported.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// A declared thing to back up.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its name.
    pub name: Name,
    /// What to read.
    pub source: Arc<dyn Source>,
    /// Where to store it.
    pub repository: Arc<dyn Repository>,
}

/// A run that succeeded.
#[derive(Clone, Debug)]
pub struct Backed {
    /// What was stored.
    pub snapshot: Snapshot,
    /// What it holds.
    pub manifest: Manifest,
    /// Where it is stored.
    pub repository: Name,
}

/// Why a run left nothing behind.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The repository is not usable.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The source could not be read completely.
    #[error("backup `{backup}` failed; nothing of it was kept")]
    Source {
        /// The backup.
        backup: Name,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// The repository failed.
    #[error("backup `{backup}` failed; nothing of it was kept")]
    Repository {
        /// The backup.
        backup: Name,
        /// Why.
        #[source]
        source: RepositoryError,
    },
    /// What was stored does not fit what was counted.
    #[error("what was stored of `{backup}` cannot be all of it: {why}; nothing of it was kept")]
    Implausible {
        /// The backup.
        backup: Name,
        /// What does not fit, and what to look at.
        why: String,
    },
    /// Somebody cancelled it.
    #[error("backup `{backup}` was cancelled; nothing of it was kept")]
    Cancelled {
        /// The backup.
        backup: Name,
    },
}

/// What is known before a run.
struct Preflight {
    /// Bytes that are left.
    room: u64,
    /// Verified snapshots of this backup, newest first.
    earlier: Vec<Snapshot>,
    /// What this very run stored before a restart.
    same_run: Option<Snapshot>,
}

impl Backup {
    /// The same backup, stored in another repository.
    #[must_use]
    pub fn elsewhere(&self, repository: &Arc<dyn Repository>) -> Self {
        Self { repository: Arc::clone(repository), ..self.clone() }
    }

    /// Checks everything that a run needs and changes nothing; says what a run
    /// would do, a sentence each.
    ///
    /// # Errors
    ///
    /// Why a run could not begin.
    pub async fn inspect(&self, run: RunId) -> Result<Vec<String>, BackupError> {
        let Preflight { room, .. } = self.preflight(run).await?;
        let mut findings = self.source.inspect(run).await.map_err(|source| self.source(source))?;
        findings.push(format!(
            "repository `{}` is the right one and has {room} bytes left",
            self.repository.name()
        ));
        Ok(findings)
    }

    /// Runs it. Cancel safety: use `cancel`; a dropped future ends the programs, and
    /// what was stored until then stays invisible until the sweeper removes it.
    ///
    /// # Errors
    ///
    /// Why nothing was kept.
    pub async fn run(
        &self,
        run: RunId,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Backed, BackupError> {
        progress.enter(Stage::Preparing, None);
        let Preflight { earlier, same_run, .. } = self.preflight(run).await?;
        if let Some(snapshot) = same_run {
            return self.stored_before(snapshot).await;
        }
        let context = Context {
            run,
            backup: self.name.clone(),
            key: self.repository.derived_key(&format!("restrict {}", self.name)),
            last_items: earlier.first().and_then(|last| last.summary.items),
            cancel: cancel.clone(),
            before: Before::new(Arc::clone(&self.repository), earlier),
        };
        failpoint::reach("backup.begun");
        let capture = self.source.begin(context).await.map_err(|source| self.source(source))?;
        failpoint::reach("backup.source-open");
        progress.enter(Stage::Dumping, None);
        let (stored, manifest) = self.store(run, capture, progress, cancel).await?;
        failpoint::reach("backup.stored");
        match self.publish(&stored, &manifest, progress, cancel).await {
            Ok(snapshot) => {
                failpoint::reach("backup.published");
                let repository = self.repository.name().clone();
                Ok(Backed { snapshot, manifest, repository })
            }
            Err(error) => {
                self.discard(run).await;
                Err(error)
            }
        }
    }

    /// The repository is right, and has room for half as much again as last time.
    async fn preflight(&self, run: RunId) -> Result<Preflight, BackupError> {
        let (repository, name) = (Arc::clone(&self.repository), self.name.clone());
        blocking::run(move || {
            repository.guard()?;
            let snapshots = repository
                .snapshots()
                .map_err(|source| BackupError::Repository { backup: name.clone(), source })?;
            let is_of = |snapshot: &Snapshot| snapshot.backup == name;
            let earlier: Vec<Snapshot> = snapshots.into_iter().filter(is_of).collect();
            let wanted =
                earlier.first().map_or(0, |last| last.source_bytes().saturating_mul(3) / 2);
            let room = repository.available_bytes()?;
            if room < wanted {
                let path = repository.name().as_str().into();
                return Err(GuardError::TooLittleRoom { path, available: room, wanted }.into());
            }
            let same_run = earlier.iter().find(|snapshot| snapshot.run == run).cloned();
            Ok(Preflight { room, earlier, same_run })
        })
        .await
    }

    /// The same request came again after the daemon had been restarted.
    async fn stored_before(&self, snapshot: Snapshot) -> Result<Backed, BackupError> {
        let repository = Arc::clone(&self.repository);
        let read = move || {
            let manifest =
                restore::manifest(repository.as_ref(), &snapshot, &CancellationToken::new())?;
            Ok(Backed { snapshot, manifest, repository: repository.name().clone() })
        };
        blocking::run(read).await.map_err(|source| self.repository(source))
    }

    /// Streams into the repository and waits for the source's own verdict at once.
    async fn store(
        &self,
        run: RunId,
        capture: Capture,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<(Stored, Manifest), BackupError> {
        let Capture { taken_at, files, completion } = capture;
        let gauges: Vec<Gauge> = files.iter().map(|file| file.gauge.clone()).collect();
        let intent = Intent { run, backup: self.name.clone(), kind: self.source.kind(), taken_at };
        let storing = {
            let repository = Arc::clone(&self.repository);
            blocking::run(move || repository.store(&intent, files))
        };
        let both = async { tokio::join!(storing, completion) };
        let (stored, completed) = tokio::select! {
            both = both => both,
            never = report(&gauges, progress) => match never {},
        };
        match (stored, completed) {
            (Ok(mut stored), Ok(manifest)) => {
                stored.summary = Summary {
                    items: manifest.contents.items(),
                    warnings: manifest.warnings.clone(),
                    needs: manifest.contents.needs(),
                };
                Ok((stored, manifest))
            }
            (stored, _) if cancel.is_cancelled() => {
                if stored.is_ok() {
                    self.discard(run).await;
                }
                Err(self.cancelled())
            }
            (Ok(_), Err(source)) => {
                self.discard(run).await;
                Err(self.source(source))
            }
            // A repository that stopped reading makes the source fail, and the other way round.
            (Err(source), Err(echo)) if echo.is_echo() => Err(self.repository(source)),
            (Err(_), Err(source)) => Err(self.source(source)),
            (Err(source), Ok(_)) => Err(self.repository(source)),
        }
    }

    async fn publish(
        &self,
        stored: &Stored,
        manifest: &Manifest,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Snapshot, BackupError> {
        if let Some(why) = manifest.contents.implausible(&stored.files) {
            return Err(BackupError::Implausible { backup: self.name.clone(), why });
        }
        let repository = Arc::clone(&self.repository);
        let (stored, progress, token) = (stored.clone(), progress.clone(), cancel.clone());
        let published = blocking::run(move || repository.publish(&stored, &progress, &token)).await;
        published.map_err(|source| {
            if cancel.is_cancelled() { self.cancelled() } else { self.repository(source) }
        })
    }

    /// Removes what this run stored. What cannot be removed stays invisible.
    async fn discard(&self, run: RunId) {
        let repository = Arc::clone(&self.repository);
        if let Err(error) = blocking::run(move || repository.discard(run)).await {
            tracing::warn!(
                backup = %self.name, %run, error = %homelab_common::error_chain::Chain(&error),
                "could not remove what a failed run stored; the sweeper will"
            );
        }
    }

    fn source(&self, source: SourceError) -> BackupError {
        BackupError::Source { backup: self.name.clone(), source }
    }

    fn repository(&self, source: RepositoryError) -> BackupError {
        BackupError::Repository { backup: self.name.clone(), source }
    }

    fn cancelled(&self) -> BackupError {
        BackupError::Cancelled { backup: self.name.clone() }
    }
}

async fn report(gauges: &[Gauge], progress: &Progress) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    loop {
        ticks.tick().await;
        progress.done(gauges.iter().map(Gauge::bytes).sum());
    }
}
