//! One execution of a backup or drill, as the controller knows it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    drill::DrillAge,
    ids::{BackupName, HostName, RepositoryName, RunId},
    reason::Failure,
};

crate::words! {
    /// What a run does.
    RunKind {
        /// A backup.
        Backup = "backup",
        /// A drill.
        Drill = "drill",
    }
}

crate::words! {
    /// Why a run was started.
    RunTrigger {
        /// Its schedule.
        Schedule = "schedule",
        /// One run for all that were missed.
        CatchUp = "catch_up",
        /// A person.
        Manual = "manual",
    }
}

crate::words! {
    /// The name of a run's state.
    RunStateKind {
        /// Goes on.
        Running = "running",
        /// Contact was lost; asked for again until known.
        Unknown = "unknown",
        /// Stored and proved; or drilled and equal.
        Succeeded = "succeeded",
        /// Failed.
        Failed = "failed",
        /// Cancelled.
        Cancelled = "cancelled",
        /// A drill whose target could not show it.
        Unverified = "unverified",
    }
}

crate::words! {
    /// What a drill showed.
    DrillVerdict {
        /// Everything equals the manifest.
        Passed = "passed",
        /// Something differs or did not restore.
        Failed = "failed",
        /// The target could not show it. Neither passed nor failed.
        Unverified = "unverified",
    }
}

impl RunStateKind {
    /// It has ended, and its state does not change any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Running | Self::Unknown)
    }
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done now, for people.
    pub step: String,
    /// Bytes done so far.
    pub done_bytes: Option<u64>,
    /// Bytes in all, when known beforehand.
    pub total_bytes: Option<u64>,
    /// Items (tables, files) done so far.
    pub done_items: Option<u64>,
    /// Items in all, when known beforehand.
    pub total_items: Option<u64>,
}

/// A verified snapshot, by the facts that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFact {
    /// Identifier in the repository.
    pub id: String,
    /// The moment whose state it holds.
    pub taken_at: Timestamp,
    /// When it was proved complete.
    pub verified_at: Timestamp,
    /// Bytes of the source.
    pub source_bytes: u64,
    /// Bytes that the repository grew by.
    pub stored_bytes: Option<u64>,
    /// How long the run took.
    pub elapsed: Duration,
    /// The agent's whole message, to be shown as it is.
    pub payload: Value,
}

/// A drill, by the facts that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillFact {
    /// What it showed.
    pub verdict: DrillVerdict,
    /// Snapshot that was restored.
    pub snapshot_id: String,
    /// The moment whose state that snapshot holds: what the evidence is bound to.
    pub snapshot_taken_at: Timestamp,
    /// How long the restore alone took: the measured RTO.
    pub restore_elapsed: Duration,
    /// How long everything took.
    pub elapsed: Duration,
    /// The agent's whole message, to be shown as it is.
    pub payload: Value,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// A backup was stored and proved.
    Stored(SnapshotFact),
    /// A drill came to a verdict.
    Drilled(DrillFact),
    /// It failed.
    Failed(Failure),
    /// It was cancelled.
    Cancelled,
}

/// Where a run stands, with what belongs to that state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Goes on.
    Running {
        /// How far it has come.
        progress: Progress,
    },
    /// Contact was lost; neither failed nor succeeded until the agent has been asked.
    Unknown {
        /// How far it had come.
        progress: Progress,
        /// Since when.
        since: Timestamp,
        /// Why, for people.
        why: String,
    },
    /// It has ended.
    Ended {
        /// When.
        at: Timestamp,
        /// How.
        outcome: RunOutcome,
    },
}

impl RunState {
    /// The name of the state.
    #[must_use]
    pub const fn kind(&self) -> RunStateKind {
        match self {
            Self::Running { .. } => RunStateKind::Running,
            Self::Unknown { .. } => RunStateKind::Unknown,
            Self::Ended { outcome, .. } => match outcome {
                RunOutcome::Stored(_) => RunStateKind::Succeeded,
                RunOutcome::Drilled(drill) => match drill.verdict {
                    DrillVerdict::Passed => RunStateKind::Succeeded,
                    DrillVerdict::Failed => RunStateKind::Failed,
                    DrillVerdict::Unverified => RunStateKind::Unverified,
                },
                RunOutcome::Failed(_) => RunStateKind::Failed,
                RunOutcome::Cancelled => RunStateKind::Cancelled,
            },
        }
    }
}

/// What is known of a run from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSpec {
    /// Identifier: the request id of the call that started it. Agents know it by
    /// the same.
    pub id: RunId,
    /// Backup.
    pub backup: BackupName,
    /// Host whose backup-agent runs it.
    pub host: HostName,
    /// What it does.
    pub kind: RunKind,
    /// Why it was started.
    pub trigger: RunTrigger,
    /// Who started it: a SPIFFE id, or `schedule`.
    pub started_by: String,
    /// When.
    pub started_at: Timestamp,
    /// The time of the schedule that it stands for; none when a person started it.
    pub scheduled_for: Option<Timestamp>,
    /// Snapshot that a drill was asked to restore; none takes the newest verified one.
    pub snapshot_id: Option<String>,
    /// Repository that a drill restores from; none takes the backup's own.
    pub repository: Option<RepositoryName>,
    /// The age that a drill's snapshot was picked for; none when a person named it.
    pub drill_age: Option<DrillAge>,
    /// What a reader must know of how it came about, for people.
    pub notes: Vec<String>,
}

/// One execution of a backup or drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What is known from the start.
    pub spec: RunSpec,
    /// Where it stands.
    pub state: RunState,
}

/// A run has ended, and nothing can happen to it any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run {run} of `{backup}` has {state} and cannot {event}")]
pub struct RunHasEnded {
    /// Which run.
    pub run: RunId,
    /// Of which backup.
    pub backup: BackupName,
    /// How it ended.
    pub state: RunStateKind,
    /// What was to happen to it, as a verb.
    pub event: &'static str,
}

impl Run {
    /// A run that has just been started.
    #[must_use]
    pub fn start(spec: RunSpec) -> Self {
        Self { spec, state: RunState::Running { progress: Progress::default() } }
    }

    /// The agent was heard of: it goes on. Contact that was lost is found again.
    pub fn progressed(self, progress: Progress) -> Result<Self, RunHasEnded> {
        self.open("go on")?;
        Ok(Self { state: RunState::Running { progress }, ..self })
    }

    /// Contact with the agent was lost. That is no failure: the run may well have
    /// been stored.
    pub fn lost(self, why: impl Into<String>, now: Timestamp) -> Result<Self, RunHasEnded> {
        self.open("be lost")?;
        let state = match self.state {
            RunState::Running { progress } => {
                RunState::Unknown { progress, since: now, why: why.into() }
            }
            RunState::Unknown { progress, since, .. } => {
                RunState::Unknown { progress, since, why: why.into() }
            }
            ended @ RunState::Ended { .. } => ended,
        };
        Ok(Self { state, ..self })
    }

    /// It has ended. A run ends once: the same end again is taken without a word,
    /// another one is refused.
    pub fn end(self, outcome: RunOutcome, now: Timestamp) -> Result<Self, RunHasEnded> {
        if let RunState::Ended { outcome: known, .. } = &self.state
            && *known == outcome
        {
            return Ok(self);
        }
        self.open("end otherwise")?;
        Ok(Self { state: RunState::Ended { at: now, outcome }, ..self })
    }

    fn open(&self, event: &'static str) -> Result<(), RunHasEnded> {
        let state = self.state.kind();
        if !state.is_final() {
            return Ok(());
        }
        Err(RunHasEnded { run: self.spec.id, backup: self.spec.backup.clone(), state, event })
    }
}
