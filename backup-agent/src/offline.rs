//! What a person can do on the host when neither daemon nor controller answers.
//!
//! These read the same configuration and touch repositories and targets alone: no
//! identity, no socket, and nothing of the daemon's state. What a command does not
//! need of the configuration is not loaded, so that a host with one repository's
//! password can restore from it.

mod private;
mod retention;
mod work;

use std::sync::Arc;

use homelab_common::{
    chance::SystemChance,
    clock::{Clock, SystemClock},
};
use tokio_util::sync::CancellationToken;

pub use retention::{GiveUp, forget, prune};
pub use work::{back_up, copy, drill};

use crate::{
    agent::AgentError,
    app::{self, StartError},
    config::Config,
    failure::Failure,
    ids::RunId,
    progress::Progress,
    repository::{Depth, Repository, RepositoryError, Snapshot, restic::ResticRepository},
    restore::{self, Place, RestoreError},
    verify::{self, VerifyError},
};

/// Asks for the newest snapshot of a backup.
const LATEST: &str = "latest:";

/// Why a command did nothing, or what it found wrong.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is no such repository.
    #[error("there is no {noun} `{name}` in the configuration; there is: {known}")]
    Unknown {
        /// What kind of thing.
        noun: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The repository could not be put together.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The restore failed.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The verification failed.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// What was asked for was refused.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The run failed.
    #[error("{}", failure.message)]
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The private folder for the run could not be had.
    #[error("could not make a private folder in `{}`", folder.display())]
    Scratch {
        /// Where.
        folder: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Something is wrong with a repository or a backup: the text says what.
    #[error("{0}")]
    Unsound(String),
    /// There is no such snapshot.
    #[error(
        "there is no single verified snapshot `{name}`; see: homelab-backup-agent snapshots {repository}"
    )]
    NoSnapshot {
        /// What was asked for.
        name: String,
        /// Where.
        repository: String,
    },
}

/// Makes a repository.
///
/// # Errors
///
/// Why it was not made.
pub fn init(config: &Config, name: &str) -> Result<String, OfflineError> {
    find(config, name)?.init()?;
    Ok(format!(
        "repository `{name}` is made; keep its password in a second place, away from this house: \
         without it every backup in it is lost\n"
    ))
}

/// Lists verified snapshots.
///
/// # Errors
///
/// Why they cannot be listed.
pub fn list(config: &Config, name: &str) -> Result<String, OfflineError> {
    let snapshots = find(config, name)?.snapshots()?;
    let mut text =
        String::from("SNAPSHOT  TAKEN                        BYTES  KIND         BACKUP\n");
    for snapshot in &snapshots {
        let short = snapshot.id.as_str().get(..8).unwrap_or_default();
        let (taken_at, bytes, kind) = (snapshot.taken_at, snapshot.source_bytes(), snapshot.kind);
        let (kind, backup) = (kind.word(), &snapshot.backup);
        text.push_str(&format!("{short}  {taken_at:.0}  {bytes:>12}  {kind:<11}  {backup}\n"));
        for warning in &snapshot.summary.warnings {
            text.push_str(&format!("          ! {warning}\n"));
        }
    }
    Ok(text)
}

/// Restores a snapshot of any kind.
///
/// # Errors
///
/// Why nothing was restored.
pub fn restore(
    config: &Config,
    name: &str,
    snapshot: &str,
    place: &Place,
) -> Result<String, OfflineError> {
    let repository = find(config, name)?;
    let found = find_snapshot(&repository, name, snapshot)?;
    let paths: Vec<_> = config.repositories.iter().map(|entry| entry.path.clone()).collect();
    place.check(&found.backup, &paths)?;
    let run = RunId::generate(&SystemClock, &SystemChance);
    let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
    let restored = restore::restore(&repository, &found, place, run, &progress, &cancel)?;
    let mut text = format!("restored snapshot {} to {}\n", found.id, restored.target.display());
    if let Some(kept) = &restored.kept_aside {
        text.push_str(&format!("what was there before is now {}\n", kept.display()));
    }
    for damaged in &restored.damaged {
        text.push_str(&format!("damaged and left out: {damaged}\n"));
    }
    for step in &restored.next_steps {
        text.push_str(step);
        text.push('\n');
    }
    Ok(text)
}

/// Checks a repository, with [`Depth::Data`] every byte of it.
///
/// # Errors
///
/// It could not be checked, or something is wrong with it.
pub fn verify(config: &Config, name: &str, depth: Depth) -> Result<String, OfflineError> {
    let repository = find(config, name)?;
    let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
    let found = verify::verify(&repository, depth, &progress, &cancel)?;
    let what = format!("repository `{name}`, {} snapshots", found.snapshots);
    if found.problems.is_empty() {
        return Ok(format!("{what}: sound\n"));
    }
    Err(OfflineError::Unsound(format!("{what}: not sound\n{}", found.problems.join("\n"))))
}

fn find_snapshot(
    repository: &dyn Repository,
    name: &str,
    snapshot: &str,
) -> Result<Snapshot, OfflineError> {
    let wanted = |found: &Snapshot| match snapshot.strip_prefix(LATEST) {
        Some(backup) => found.backup.as_str() == backup,
        None => found.id.starts_with(snapshot),
    };
    let mut fitting = repository.snapshots()?.into_iter().filter(wanted);
    let none =
        || OfflineError::NoSnapshot { name: snapshot.to_owned(), repository: name.to_owned() };
    let found = fitting.next().ok_or_else(none)?;
    if fitting.next().is_some() && !snapshot.starts_with(LATEST) {
        return Err(none());
    }
    Ok(found)
}

fn find(config: &Config, name: &str) -> Result<ResticRepository, OfflineError> {
    let Some(entry) = config.repositories.iter().find(|entry| entry.name.as_str() == name) else {
        let known = config.repositories.iter().map(|entry| entry.name.as_str());
        return Err(unknown("repository", name, known));
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(app::repository(entry, &config.host, &clock)?)
}

fn unknown<'n>(
    noun: &'static str,
    name: &str,
    known: impl Iterator<Item = &'n str>,
) -> OfflineError {
    let known: Vec<&str> = known.collect();
    OfflineError::Unknown { noun, name: name.to_owned(), known: known.join(", ") }
}
