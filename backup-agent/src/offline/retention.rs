//! Giving up snapshots by hand, on a host that may: where agents can only add, this is
//! done beside the repository.

use std::time::Duration;

use homelab_common::clock::{Clock, SystemClock};

use super::{OfflineError, find};
use crate::{
    config::Config,
    ids::SnapshotId,
    progress::Progress,
    repository::{OrderMode, PrunePolicy, Repository, RetentionOrder, Snapshot},
};

/// What becomes of the named snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// They are hidden, and can be had back.
    Quarantine,
    /// They are deleted, if they have been hidden for so long.
    Delete {
        /// At least.
        after: Duration,
    },
}

/// Gives up snapshots of one backup; the newest always stays.
///
/// # Errors
///
/// Why nothing was given up.
pub fn forget(
    config: &Config,
    name: &str,
    ids: &[String],
    how: GiveUp,
) -> Result<String, OfflineError> {
    let repository = find(config, name)?;
    let hidden = repository.forgotten()?.into_iter().map(|it| it.snapshot);
    let all: Vec<Snapshot> = repository.snapshots()?.into_iter().chain(hidden).collect();
    let mut named: Vec<&Snapshot> = Vec::new();
    for id in ids {
        let mut fitting = all.iter().filter(|snapshot| snapshot.id.starts_with(id));
        match (fitting.next(), fitting.next()) {
            (Some(snapshot), None) => named.push(snapshot),
            _ => {
                let (name, repository) = (id.clone(), name.to_owned());
                return Err(OfflineError::NoSnapshot { name, repository });
            }
        }
    }
    let Some(first) = named.first() else { return Ok("nothing was named\n".to_owned()) };
    let backup = first.backup.clone();
    if let Some(other) = named.iter().find(|snapshot| snapshot.backup != backup) {
        let text = format!("`{backup}` and `{}` are two backups; name one at a time", other.backup);
        return Err(OfflineError::Unsound(text));
    }
    let expected = all.iter().filter(|snapshot| snapshot.backup == backup);
    let expected: Vec<SnapshotId> = expected.map(|snapshot| snapshot.id.clone()).collect();
    let named: Vec<SnapshotId> = named.iter().map(|snapshot| snapshot.id.clone()).collect();
    let (quarantine, delete, quarantine_min) = match how {
        GiveUp::Quarantine => (named, Vec::new(), Duration::ZERO),
        GiveUp::Delete { after } => (Vec::new(), named, after),
    };
    let order = RetentionOrder {
        backup,
        expected,
        quarantine,
        rescue: Vec::new(),
        delete,
        quarantine_min,
        floor: 1,
        mode: OrderMode::Apply,
    };
    let applied = repository.apply(&order, SystemClock.now())?;
    Ok(format!("{} hidden, {} deleted\n", applied.quarantined, applied.deleted))
}

/// Frees the room of what was deleted, in two steps.
///
/// # Errors
///
/// It could not be done, or something is wrong afterwards.
pub fn prune(config: &Config, name: &str) -> Result<String, OfflineError> {
    let repository = find(config, name)?;
    let policy = PrunePolicy::default();
    let pruned = repository.prune(&policy, SystemClock.now(), &Progress::unwatched())?;
    let text = format!(
        "{} bytes freed, {} bytes marked for the next time\n",
        pruned.freed_bytes, pruned.marked_bytes
    );
    if pruned.problems.is_empty() {
        return Ok(text);
    }
    Err(OfflineError::Unsound(format!("{text}{}", pruned.problems.join("\n"))))
}
