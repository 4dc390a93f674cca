//! Which verified snapshots were ever seen, what people have let go, and what was read through.

use async_trait::async_trait;
use homelab_domain::{
    ids::{BackupName, RepositoryName, RunId},
    retention::BrakeKind,
};
use jiff::Timestamp;

use crate::error::StoreError;

homelab_domain::words! {
    /// What became of a snapshot that was seen.
    SeenState {
        /// It was there when somebody last looked.
        Present = "present",
        /// It was deleted, as its plan said.
        Deleted = "deleted",
        /// It is gone, and nobody gave it up.
        Vanished = "vanished",
    }
}

/// One snapshot that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSnapshot {
    /// Backup.
    pub backup: BackupName,
    /// Repository.
    pub repository: RepositoryName,
    /// Identifier.
    pub id: String,
    /// Its place in the order of being seen first, whatever clocks said.
    pub sequence: u64,
    /// The run that made it, when it was one that we can know.
    pub run: Option<RunId>,
    /// The moment whose state it holds.
    pub taken_at: Timestamp,
    /// When it was proved complete.
    pub verified_at: Timestamp,
    /// Bytes of the source.
    pub source_bytes: u64,
    /// Rows, files or references of the source, where it has such.
    pub items: Option<u64>,
    /// What became of it.
    pub state: SeenState,
    /// Since when.
    pub state_since: Timestamp,
}

/// A brake that a person has let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Backup.
    pub backup: BackupName,
    /// Which.
    pub brake: BrakeKind,
    /// What showed it.
    pub subject: String,
    /// Who.
    pub by: String,
    /// Why, for people.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// The last time that data of a repository was read through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// Repository.
    pub repository: RepositoryName,
    /// When.
    pub at: Timestamp,
    /// What was found wrong, for people; empty when nothing was.
    pub problems: Vec<String>,
}

/// Snapshots that were seen.
#[async_trait]
pub trait Snapshots: Send {
    /// Keeps one that is new. False when it is known already; nothing is changed then.
    async fn add(&mut self, snapshot: &SeenSnapshot) -> Result<bool, StoreError>;

    /// All of a backup, those that are gone included, in the order of being seen.
    async fn of(&mut self, backup: &BackupName) -> Result<Vec<SeenSnapshot>, StoreError>;

    /// What became of one. A place where nothing has changed stays as it is.
    async fn mark(
        &mut self,
        backup: &BackupName,
        repository: &RepositoryName,
        id: &str,
        state: SeenState,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Keeps that a person has let a brake go. The first who did stands.
    async fn acknowledge(&mut self, one: &Acknowledged) -> Result<(), StoreError>;

    /// What was let go of a backup.
    async fn acknowledged(&mut self, backup: &BackupName) -> Result<Vec<Acknowledged>, StoreError>;

    /// Keeps that data of a repository was read through.
    async fn scrubbed(&mut self, scrub: &Scrub) -> Result<(), StoreError>;

    /// The last time of every repository that was ever read through.
    async fn scrubs(&mut self) -> Result<Vec<Scrub>, StoreError>;
}
