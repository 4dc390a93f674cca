//! The backup-agents, as the schedules need them: in our own words, so that everything above can be
//! tried out without a wire.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use homelab_domain::{
    ids::{BackupName, DrillTargetName, HostName, RepositoryName, RunId},
    reason::Failure,
    run::{Progress, Run, RunKind, RunOutcome, SnapshotFact},
    site::Site,
};
use jiff::Timestamp;

/// What an agent is told to do. Sent again with the same `run`, it joins the run or repeats its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The run; at the same time the id that makes the call idempotent.
    pub run: RunId,
    /// Host whose backup-agent is meant.
    pub host: HostName,
    /// Backup.
    pub backup: BackupName,
    /// What to do.
    pub kind: RunKind,
    /// Snapshot to drill; none takes the newest verified one.
    pub snapshot_id: Option<String>,
    /// Where to drill; none takes the backup's own target.
    pub target: Option<DrillTargetName>,
    /// Repository to drill from; none takes the backup's own, as the agent declares it.
    pub repository: Option<RepositoryName>,
}

impl Order {
    /// The order of a run, with what the site file says of its backup now.
    #[must_use]
    pub fn of(run: &Run, site: &Site) -> Self {
        let spec = &run.spec;
        let drill_target = || site.backup(&spec.backup)?.drill_target.clone();
        Self {
            run: spec.id,
            host: spec.host.clone(),
            backup: spec.backup.clone(),
            kind: spec.kind,
            snapshot_id: spec.snapshot_id.clone(),
            target: if spec.kind == RunKind::Drill { drill_target() } else { None },
            repository: spec.repository.clone(),
        }
    }
}

/// What an agent says of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It goes on.
    Progress(Progress),
    /// It has ended; the last that is said.
    Ended(RunOutcome),
}

/// A snapshot as an agent lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The run that made it, when it was one that we can know.
    pub run: Option<RunId>,
    /// What it is.
    pub snapshot: SnapshotFact,
    /// Rows, files or references of the source, where it has such.
    pub items: Option<u64>,
    /// Since when it is given up.
    pub quarantined_since: Option<Timestamp>,
    /// Runs whose snapshots it cannot be restored without.
    pub needs: Vec<RunId>,
}

impl Listed {
    /// A snapshot of which nothing else is known.
    #[must_use]
    pub const fn new(run: Option<RunId>, snapshot: SnapshotFact) -> Self {
        Self { run, snapshot, items: None, quarantined_since: None, needs: Vec::new() }
    }
}

/// How a repository stands, as an agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryFacts {
    /// Identity that was found in it.
    pub identity: String,
    /// Where it is on the agent's host.
    pub path: String,
    /// Whether it has room for another run; none when the agent cannot tell.
    pub has_room: Option<bool>,
    /// The agent can add and cannot delete.
    pub append_only: Option<bool>,
    /// When all of its data had been read and found whole.
    pub scrubbed_at: Option<Timestamp>,
    /// Snapshots in it that wait to be copied elsewhere.
    pub waiting: u32,
    /// The oldest of them.
    pub oldest_waiting_at: Option<Timestamp>,
}

/// A retention plan, as an agent carries it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionOrder {
    /// Digest of the plan, in hexadecimal digits.
    pub digest: String,
    /// Repository.
    pub repository: RepositoryName,
    /// Backup.
    pub backup: BackupName,
    /// Every verified snapshot that was planned on.
    pub expected: Vec<String>,
    /// What is put into quarantine.
    pub quarantine: Vec<String>,
    /// What is taken out of it.
    pub rescue: Vec<String>,
    /// What is deleted.
    pub delete: Vec<String>,
    /// How long a quarantine lasts at least.
    pub quarantine_min: Duration,
    /// Never fewer than this stay.
    pub floor: u32,
    /// Only checks.
    pub validate_only: bool,
}

/// A piece of work on a whole repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Reads one of so many parts of all data: that which was read longest ago.
    Scrub {
        /// Parts.
        parts: u32,
    },
    /// Frees the room of what was deleted.
    Prune,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The agent was not reached, and has not heard of the call.
    #[error("could not reach the backup-agent of `{host}`: {why}")]
    Unreachable {
        /// Host.
        host: HostName,
        /// What stood in the way, for people.
        why: String,
    },
    /// Contact was lost on the way. Whether the call was heard, and what became of it, is unknown.
    #[error("contact with the backup-agent of `{host}` was lost: {why}")]
    Lost {
        /// Host.
        host: HostName,
        /// What happened, for people.
        why: String,
    },
    /// The agent's own answer: no.
    #[error("the backup-agent of `{host}` refused: {}", failure.message)]
    Refused {
        /// Host.
        host: HostName,
        /// Why.
        failure: Failure,
    },
}

/// What an agent says of a run, until it has ended.
pub type Reports = BoxStream<'static, Result<Report, CallError>>;

/// All backup-agents of the site.
#[async_trait]
pub trait BackupAgents: fmt::Debug + Send + Sync {
    /// Whether the agent of a host answers now; otherwise why not, for people. From memory: nothing
    /// is dialled or woken.
    fn answers(&self, host: &HostName) -> Result<(), String>;

    /// How long the agent's process has been running: one that is younger than a run it was heard
    /// working on has lost it.
    ///
    /// # Errors
    ///
    /// There is no answer.
    async fn uptime(&self, host: &HostName) -> Result<Duration, CallError>;

    /// Starts a run or joins it.
    ///
    /// # Errors
    ///
    /// There is no answer, or it is no.
    async fn run(&self, order: &Order) -> Result<Reports, CallError>;

    /// Checks whether a run could start; what would be done, a sentence each.
    ///
    /// # Errors
    ///
    /// There is no answer, or it is no: [`CallError::Refused`] says what is in the way.
    async fn check(&self, order: &Order) -> Result<Vec<String>, CallError>;

    /// The newest verified snapshots of a backup, newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// There is no answer, or the repository cannot be used.
    async fn snapshots(
        &self,
        host: &HostName,
        repository: &RepositoryName,
        backup: &BackupName,
        limit: u16,
    ) -> Result<Vec<Listed>, CallError>;

    /// How a repository stands.
    ///
    /// # Errors
    ///
    /// There is no answer, or the repository cannot be used.
    async fn repository(
        &self,
        host: &HostName,
        repository: &RepositoryName,
    ) -> Result<RepositoryFacts, CallError>;

    /// Carries out a retention plan, to the letter or not at all.
    ///
    /// # Errors
    ///
    /// There is no answer, or it is no: what is there is not what was planned on.
    async fn retain(&self, host: &HostName, order: &RetentionOrder) -> Result<(), CallError>;

    /// Works on a whole repository, to the end; what was found wrong, for people.
    ///
    /// # Errors
    ///
    /// There is no answer, or it could not be done.
    async fn keep_up(
        &self,
        host: &HostName,
        repository: &RepositoryName,
        id: RunId,
        work: Upkeep,
    ) -> Result<Vec<String>, CallError>;
}
