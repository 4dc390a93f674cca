//! What a person can do on the host when neither daemon nor controller answers.
//!
//! These read the same configuration and touch the repository alone: no identity, no
//! journal, no socket.

use std::{path::Path, sync::Arc};

use homelab_common::{
    chance::SystemChance,
    clock::{Clock, SystemClock},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{self, StartError},
    config::Config,
    ids::RunId,
    progress::Progress,
    repository::{Repository, RepositoryError, Snapshot, restic::ResticRepository},
    restore::{self, RestoreError},
};

/// Asks for the newest snapshot of a backup.
const LATEST: &str = "latest:";

/// Why a command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is no such repository.
    #[error("there is no repository `{name}` in the configuration; there is: {known}")]
    NoRepository {
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
    let mut text = String::from("SNAPSHOT  TAKEN                        BYTES  BACKUP\n");
    for snapshot in &snapshots {
        let short = snapshot.id.as_str().get(..8).unwrap_or_default();
        let (taken_at, bytes) = (snapshot.taken_at, snapshot.source_bytes());
        text.push_str(&format!("{short}  {taken_at:.0}  {bytes:>12}  {}\n", snapshot.backup));
    }
    Ok(text)
}

/// Restores a snapshot into a new folder.
///
/// # Errors
///
/// Why nothing was restored.
pub fn restore(
    config: &Config,
    name: &str,
    snapshot: &str,
    target: &Path,
) -> Result<String, OfflineError> {
    let repository = find(config, name)?;
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
    let run = RunId::generate(&SystemClock, &SystemChance);
    let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
    let place = restore::Place::new(target);
    let restored = restore::restore(&repository, &found, &place, run, &progress, &cancel)?;
    let mut text = format!("restored snapshot {} to {}\n", found.id, restored.target.display());
    for step in &restored.next_steps {
        text.push_str(step);
        text.push('\n');
    }
    Ok(text)
}

fn find(config: &Config, name: &str) -> Result<ResticRepository, OfflineError> {
    let Some(entry) = config.repositories.iter().find(|entry| entry.name.as_str() == name) else {
        let known: Vec<&str> =
            config.repositories.iter().map(|entry| entry.name.as_str()).collect();
        return Err(OfflineError::NoRepository { name: name.to_owned(), known: known.join(", ") });
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(app::repository(entry, &config.host, &clock)?)
}
