//! How a repository stands.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Agent, AgentError, Declared, Kept};
use crate::{
    ids::Name,
    repository::{Probed, Snapshot},
};

/// What a repository looks like from outside.
#[derive(Debug)]
pub struct Standing {
    /// Whether it is the right one, where it should be.
    pub guard: Result<(), AgentError>,
    /// Room left.
    pub available_bytes: Option<u64>,
    /// Bytes of the last run of the largest backup, half as much again.
    pub wanted_bytes: u64,
    /// Verified snapshots, newest first.
    pub snapshots: Option<Vec<Snapshot>>,
    /// Bytes that it takes.
    pub stored_bytes: Option<u64>,
    /// Backups that use it as a spool.
    pub spool_of: Vec<Name>,
    /// Whether the file system takes writes.
    pub writable: Option<bool>,
    /// What its place is worth, when it was used.
    pub place: Option<Probed>,
    /// Since when all of its data was read at least once.
    pub scrubbed_at: Option<Timestamp>,
}

impl Agent {
    fn spooled_in(&self, kept: &Kept) -> Vec<Name> {
        let name = kept.repository.name();
        let uses = |declared: &&Declared| {
            declared.spool.as_ref().is_some_and(|spool| spool.name() == name)
        };
        self.backups.values().filter(uses).map(|it| it.backup.name.clone()).collect()
    }

    /// How a repository stands. What cannot be found out is absent.
    pub async fn standing(&self, kept: &Kept) -> Standing {
        let guard = self.answering(&kept.repository).await;
        let mut standing = Standing {
            guard,
            available_bytes: None,
            wanted_bytes: 0,
            snapshots: None,
            stored_bytes: None,
            spool_of: self.spooled_in(kept),
            writable: None,
            place: kept.repository.probed(),
            scrubbed_at: None,
        };
        if standing.guard.is_err() {
            return standing;
        }
        let repository = Arc::clone(&kept.repository);
        let facts = move || {
            let facts = (
                repository.available_bytes().ok(),
                repository.snapshots().ok(),
                repository.stored_bytes().ok(),
                repository.is_writable().ok(),
                repository.scrubbed_at().ok().flatten(),
            );
            Ok(facts)
        };
        if let Ok((available, snapshots, stored, writable, scrubbed_at)) =
            kept.door.ask(&kept.repository, facts).await
        {
            let newest = snapshots.iter().flatten().map(Snapshot::source_bytes).max();
            standing.wanted_bytes = newest.unwrap_or(0).saturating_mul(3) / 2;
            standing.available_bytes = available;
            standing.snapshots = snapshots;
            standing.stored_bytes = stored;
            standing.writable = writable;
            standing.scrubbed_at = scrubbed_at;
        }
        standing
    }
}
