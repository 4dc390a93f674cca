//! Which runs are going on, on disk, so that a restart knows what died.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use homelab_common::ledger::{Ledger, LedgerError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{Name, RunId, SnapshotId};

/// Form of the file.
const VERSION: u32 = 2;

/// The file, in the state folder.
const FILE_NAME: &str = "runs.json";

/// One run that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The run.
    pub run: RunId,
    /// When it began.
    pub started_at: Timestamp,
    /// What it does.
    pub work: Work,
}

/// What a run does, and so what it may leave behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Work {
    /// A backup: unverified snapshots.
    Backup {
        /// The backup.
        backup: Name,
        /// Where it stores.
        repository: Name,
    },
    /// A drill: a scratch database and roles.
    Drill {
        /// The backup.
        backup: Name,
        /// Where it is stored.
        repository: Name,
        /// What was asked for: a snapshot, or empty for the newest.
        snapshot: String,
        /// Where it restores.
        target: Name,
    },
    /// A restore: a folder with half a restore.
    Restore {
        /// Where the snapshot is.
        repository: Name,
        /// What is restored.
        snapshot: String,
        /// The folder that it becomes.
        target: PathBuf,
    },
    /// A copying: unverified snapshots in the repository that is copied to.
    Copy {
        /// Where the snapshot is.
        from: Name,
        /// Where it should be.
        to: Name,
        /// What is copied.
        snapshot: SnapshotId,
        /// The run that made it; the copy is of the same.
        of: RunId,
    },
    /// A prune: packs that are marked or copied, for the next one to go on with.
    Prune {
        /// What is pruned.
        repository: Name,
    },
    /// A push of Git mirrors to another server: what it has there until then.
    PushBack {
        /// The backup that has the mirrors.
        backup: Name,
        /// One of them, or empty for all.
        mirror: String,
        /// Where they go.
        target: String,
    },
    /// A verification: nothing.
    Verification {
        /// What is read.
        repository: Name,
        /// Whether all data is.
        read_data: bool,
    },
}

impl Work {
    /// Whether both cannot go on at the same time.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Backup { backup: a, .. }, Self::Backup { backup: b, .. }) => a == b,
            // Drills share the roles that they make on a target.
            (Self::Drill { target: a, .. }, Self::Drill { target: b, .. }) => a == b,
            (Self::Copy { to: a, of: x, .. }, Self::Copy { to: b, of: y, .. }) => a == b && x == y,
            (Self::PushBack { backup: a, .. }, Self::PushBack { backup: b, .. }) => a == b,
            (Self::Restore { target: a, .. }, Self::Restore { target: b, .. }) => a == b,
            (
                Self::Verification { repository: a, .. },
                Self::Verification { repository: b, .. },
            ) => a == b,
            _ => false,
        }
    }
}

/// The runs that go on. Calls block on the disk.
#[derive(Debug)]
pub struct Journal(Mutex<Ledger<Vec<Entry>>>);

impl Journal {
    /// Opens the journal in the state folder. What it lists now was cut off by the
    /// end of the process before.
    ///
    /// # Errors
    ///
    /// The file is damaged or cannot be read.
    pub fn open(state: &std::path::Path) -> Result<Self, LedgerError> {
        Ledger::load(state.join(FILE_NAME), VERSION).map(|ledger| Self(Mutex::new(ledger)))
    }

    /// All runs that have begun and not ended.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.get().cloned().unwrap_or_default()
    }

    /// A run begins.
    ///
    /// # Errors
    ///
    /// The disk refused; then the run must not begin.
    pub fn begin(&self, entry: Entry) -> Result<(), LedgerError> {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = ledger.get().cloned().unwrap_or_default();
        entries.push(entry);
        ledger.store(entries)
    }

    /// A run has ended and left nothing behind.
    ///
    /// # Errors
    ///
    /// The disk refused; the run is then taken for cut off at the next start, which
    /// only looks for leftovers in vain.
    pub fn end(&self, run: RunId) -> Result<(), LedgerError> {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = ledger.get().cloned().unwrap_or_default();
        entries.retain(|entry| entry.run != run);
        ledger.store(entries)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_run_that_never_ended_is_found_after_a_restart() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let entry = |number| Entry {
            run: RunId::from(Uuid::from_u128(number)),
            started_at: Timestamp::UNIX_EPOCH,
            work: Work::Verification {
                repository: "nas".parse().expect("a name"),
                read_data: true,
            },
        };
        let journal = Journal::open(dir.path()).expect("a journal");
        journal.begin(entry(1)).expect("written");
        journal.begin(entry(2)).expect("written");
        journal.end(entry(1).run).expect("written");
        drop(journal);
        assert_eq!(Journal::open(dir.path()).expect("a journal").entries(), [entry(2)]);
    }
}
