//! Why something was refused or went wrong, as data: one stable reason for each way.
//!
//! Messages carry the whole chain of causes, because whoever reads them on another
//! host has no log at hand.

use std::error::Error;

use homelab_common::error_chain::Chain;
use homelab_rpc::status::Reason;

use crate::{
    agent::AgentError,
    backup::BackupError,
    drill::DrillError,
    replicate::ReplicateError,
    repository::{RepositoryError, identity::GuardError},
    restore::RestoreError,
    runs::Refused,
    source::SourceError,
    verify::VerifyError,
};

/// The repository has too little room.
pub const REPOSITORY_FULL: Reason = Reason::named("REPOSITORY_FULL");
/// A retention plan asks for more than is ever done.
pub const RETENTION_REFUSED: Reason = Reason::named("RETENTION_REFUSED");
/// Somebody else works on the repository.
pub const REPOSITORY_LOCKED: Reason = Reason::named("REPOSITORY_LOCKED");
/// This host may not do that with the repository.
pub const ACCESS_FORBIDDEN: Reason = Reason::named("ACCESS_FORBIDDEN");
/// What is stored is not what was stored.
pub const REPOSITORY_DAMAGED: Reason = Reason::named("REPOSITORY_DAMAGED");
/// The source could not be read.
pub const SOURCE_FAILED: Reason = Reason::named("SOURCE_FAILED");
/// A table stayed locked.
pub const TABLE_LOCKED: Reason = Reason::named("TABLE_LOCKED");
/// No installed client program is new enough.
pub const CLIENT_TOO_OLD: Reason = Reason::named("CLIENT_TOO_OLD");
/// The dump lacks its end or fits not what was counted.
pub const DUMP_INCOMPLETE: Reason = Reason::named("DUMP_INCOMPLETE");
/// The drill target could not be used.
pub const TARGET_FAILED: Reason = Reason::named("TARGET_FAILED");
/// The target of a restore and a repository are one in the other.
pub const TARGET_IN_REPOSITORY: Reason = Reason::named("TARGET_IN_REPOSITORY");
/// The server to push to has something of its own.
pub const TARGET_NOT_EMPTY: Reason = Reason::named("TARGET_NOT_EMPTY");
/// Somebody cancelled it.
pub const CANCELLED: Reason = Reason::named("CANCELLED");

/// A run that failed, or a request that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable.
    pub reason: Reason,
    /// What failed, on what, why and what to do next.
    pub message: String,
    /// Whether the same may succeed later without any change.
    pub retryable: bool,
}

impl Failure {
    /// Whether another repository could have taken it.
    #[must_use]
    pub fn is_of_place(&self) -> bool {
        self.reason == Reason::REPOSITORY_UNAVAILABLE
    }

    /// Somebody cancelled `what`, which left nothing behind that needs a word.
    #[must_use]
    pub fn cancelled(what: &str) -> Self {
        let message = format!("{what} was cancelled");
        Self { reason: CANCELLED, message, retryable: true }
    }

    fn of(error: &(dyn Error + 'static), (reason, retryable): (Reason, bool)) -> Self {
        Self { reason, message: Chain(error).to_string(), retryable }
    }
}

impl From<&SourceError> for Failure {
    fn from(error: &SourceError) -> Self {
        Self::of(error, error.reason())
    }
}

impl From<&AgentError> for Failure {
    fn from(error: &AgentError) -> Self {
        let kind = match error {
            AgentError::Guard(_) | AgentError::Hanging { .. } => {
                (Reason::REPOSITORY_UNAVAILABLE, true)
            }
            AgentError::Repository(error) => return error.into(),
            AgentError::Restore(error) => return error.into(),
            AgentError::Drill(error) => return error.into(),
            AgentError::Backup(error) => return error.into(),
            AgentError::NoSnapshot { .. } => (Reason::SNAPSHOT_NOT_FOUND, false),
            AgentError::Source(error) => error.reason(),
            AgentError::Refused(Refused::InProgress { .. } | Refused::TooMany) => {
                (Reason::RUN_IN_PROGRESS, true)
            }
            AgentError::Refused(_) => (Reason::INTERNAL, true),
            AgentError::Unknown { .. }
            | AgentError::Unnamed { .. }
            | AgentError::Ambiguous { .. }
            | AgentError::NoRun { .. }
            | AgentError::NoGit { .. }
            | AgentError::BadAddress { .. }
            | AgentError::SameRepository { .. } => (Reason::INVALID_REQUEST, false),
        };
        Self::of(error, kind)
    }
}

impl From<&BackupError> for Failure {
    fn from(error: &BackupError) -> Self {
        let kind = match error {
            BackupError::Guard(guard) => of_guard(guard),
            BackupError::Source { source, .. } => source.reason(),
            BackupError::Repository { source, .. } => of_repository(source),
            BackupError::Implausible { .. } => (DUMP_INCOMPLETE, true),
            BackupError::Cancelled { .. } => (CANCELLED, true),
        };
        Self::of(error, kind)
    }
}

impl From<&RepositoryError> for Failure {
    fn from(error: &RepositoryError) -> Self {
        Self::of(error, of_repository(error))
    }
}

impl From<&VerifyError> for Failure {
    fn from(error: &VerifyError) -> Self {
        let kind = match error {
            VerifyError::Cancelled => (CANCELLED, true),
            VerifyError::Repository(source) => of_repository(source),
        };
        Self::of(error, kind)
    }
}

impl From<&RestoreError> for Failure {
    fn from(error: &RestoreError) -> Self {
        let kind = match error {
            RestoreError::TargetExists { .. } => (Reason::TARGET_EXISTS, false),
            RestoreError::BadTarget { .. } | RestoreError::NotConfirmed { .. } => {
                (Reason::INVALID_REQUEST, false)
            }
            RestoreError::InRepository { .. } => (TARGET_IN_REPOSITORY, false),
            RestoreError::Write { .. } => (TARGET_FAILED, true),
            RestoreError::Repository(source) => of_repository(source),
            RestoreError::Damaged { .. } | RestoreError::Nothing { .. } => {
                (REPOSITORY_DAMAGED, false)
            }
            RestoreError::Cancelled => (CANCELLED, true),
        };
        Self::of(error, kind)
    }
}

impl From<&ReplicateError> for Failure {
    fn from(error: &ReplicateError) -> Self {
        let kind = match error {
            ReplicateError::Read { source, .. } | ReplicateError::Store { source, .. } => {
                of_repository(source)
            }
            ReplicateError::Damaged { .. } => (REPOSITORY_DAMAGED, false),
            ReplicateError::Cancelled => (CANCELLED, true),
        };
        Self::of(error, kind)
    }
}

impl From<&DrillError> for Failure {
    fn from(error: &DrillError) -> Self {
        let kind = match error {
            DrillError::TargetIsSource { .. } => (Reason::TARGET_IS_SOURCE, false),
            DrillError::Repository { source, .. } => of_repository(source),
            DrillError::Manifest { .. } => (REPOSITORY_DAMAGED, false),
            DrillError::Target { .. } | DrillError::Folder { .. } => (TARGET_FAILED, true),
            DrillError::Unsuited { .. } => (Reason::INVALID_REQUEST, false),
            DrillError::Cancelled => (CANCELLED, true),
        };
        Self::of(error, kind)
    }
}

const fn of_guard(error: &GuardError) -> (Reason, bool) {
    match error {
        GuardError::TooLittleRoom { .. } => (REPOSITORY_FULL, true),
        // A mount that comes back makes them right.
        GuardError::Unreachable { .. }
        | GuardError::Hanging(_)
        | GuardError::NoConnection { .. }
        | GuardError::NotMounted { .. }
        | GuardError::WrongFilesystem { .. }
        | GuardError::NoIdentity { .. }
        | GuardError::Identity { .. }
        | GuardError::OtherRepository { .. } => (Reason::REPOSITORY_UNAVAILABLE, true),
        GuardError::NotEmpty { .. } | GuardError::Unsafe { .. } | GuardError::HostKey { .. } => {
            (Reason::REPOSITORY_UNAVAILABLE, false)
        }
    }
}

const fn of_repository(error: &RepositoryError) -> (Reason, bool) {
    match error {
        RepositoryError::Guard(guard) => of_guard(guard),
        RepositoryError::NoRoom { .. } => (REPOSITORY_FULL, true),
        RepositoryError::Engine { .. } => (Reason::REPOSITORY_UNAVAILABLE, true),
        RepositoryError::Stale { .. } => (Reason::STALE_GENERATION, false),
        RepositoryError::Refused { .. } => (RETENTION_REFUSED, false),
        RepositoryError::Locked { .. } => (REPOSITORY_LOCKED, true),
        RepositoryError::Forbidden { .. } => (ACCESS_FORBIDDEN, false),
        RepositoryError::Incomplete { .. }
        | RepositoryError::Mismatch { .. }
        | RepositoryError::Damaged { .. } => (REPOSITORY_DAMAGED, true),
        RepositoryError::NoSnapshot { .. } => (Reason::SNAPSHOT_NOT_FOUND, false),
    }
}
