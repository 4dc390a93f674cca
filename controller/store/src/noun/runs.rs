//! Runs of backups and drills.

use async_trait::async_trait;
use homelab_domain::{
    ids::{BackupName, RunId},
    run::{DrillFact, Progress, Run, RunKind, RunOutcome, RunSpec, SnapshotFact},
    upkeep::Cutoff,
};
use jiff::Timestamp;

use crate::{
    error::{RunError, StoreError},
    page::{Page, PageRequest},
};

/// Which runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only of this backup.
    pub backup: Option<BackupName>,
    /// Only of this kind.
    pub kind: Option<RunKind>,
}

/// What became of the wish to start a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// It is new, and the caller has to tell the agent.
    New(Run),
    /// The same call came before; here is its run.
    Existing(Run),
    /// Another run of the same backup and kind goes on.
    InProgress(Run),
}

/// Runs.
#[async_trait]
pub trait Runs: Send {
    /// Starts a run, unless the same call came before or another run of the same
    /// backup and kind goes on (or is unknown).
    async fn start(&mut self, spec: &RunSpec) -> Result<Started, StoreError>;

    /// One run.
    async fn get(&mut self, id: RunId) -> Result<Option<Run>, StoreError>;

    /// The agent was heard of. See [`Run::progressed`].
    async fn progressed(&mut self, id: RunId, progress: Progress) -> Result<Run, RunError>;

    /// Contact was lost. See [`Run::lost`].
    async fn lost(&mut self, id: RunId, why: &str, now: Timestamp) -> Result<Run, RunError>;

    /// It has ended. See [`Run::end`]: the same end twice is taken once.
    async fn end(
        &mut self,
        id: RunId,
        outcome: RunOutcome,
        now: Timestamp,
    ) -> Result<Run, RunError>;

    /// Runs, newest first.
    async fn list(
        &mut self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<Run>, StoreError>;

    /// Runs that have not ended: what a controller that has just started asks the
    /// agents about. Oldest first.
    async fn open(&mut self) -> Result<Vec<Run>, StoreError>;

    /// The newest run of each backup and kind.
    async fn newest(&mut self) -> Result<Vec<Run>, StoreError>;

    /// The snapshot with the newest moment of each backup, verified ones only.
    async fn newest_verified(&mut self) -> Result<Vec<(BackupName, SnapshotFact)>, StoreError>;

    /// The newest `limit` drills of a backup that came to a verdict, newest first,
    /// with the moment when each ended.
    async fn drills(
        &mut self,
        backup: &BackupName,
        limit: u32,
    ) -> Result<Vec<(Timestamp, DrillFact)>, StoreError>;

    /// Drops runs that have ended, oldest first, at most `limit`; how many. Never the newest of a
    /// backup, kind, outcome and verdict, nor the run of its newest snapshot.
    async fn prune(&mut self, cut: Cutoff, limit: u32) -> Result<u64, StoreError>;
}
