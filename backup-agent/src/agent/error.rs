//! Why a request is refused before a run begins.

use super::door::GUARD_MAX;
use crate::{
    backup::BackupError,
    drill::DrillError,
    ids::{Name, RunId},
    repository::{RepositoryError, identity::GuardError},
    restore::RestoreError,
    runs::Refused,
    source::{SourceError, git::remote::InvalidBase},
};

/// What kind of thing a name should have named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    /// A backup.
    Backup,
    /// A repository.
    Repository,
    /// A drill target.
    Target,
    /// A mirrored Git repository.
    Mirror,
}

impl std::fmt::Display for Noun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Backup => "backup",
            Self::Repository => "repository",
            Self::Target => "drill target",
            Self::Mirror => "mirrored repository",
        })
    }
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no such thing.
    #[error("there is no {noun} `{name}` on this host; there is: {known}")]
    Unknown {
        /// What kind of thing.
        noun: Noun,
        /// What was asked for.
        name: String,
        /// What there is, for people.
        known: String,
    },
    /// Nothing was named, and it cannot be guessed.
    #[error("name a {noun}: {known}")]
    Unnamed {
        /// What kind of thing.
        noun: Noun,
        /// What there is, for people.
        known: String,
    },
    /// There is no such snapshot.
    #[error("there is no verified snapshot `{id}`{of}")]
    NoSnapshot {
        /// What was asked for.
        id: String,
        /// Of what, for people.
        of: String,
    },
    /// Several begin like that.
    #[error("several snapshots begin with `{id}`; give more digits")]
    Ambiguous {
        /// What was asked for.
        id: String,
    },
    /// There is no such run.
    #[error("this agent knows no run `{id}`; it forgets those before its last start")]
    NoRun {
        /// What was asked for.
        id: RunId,
    },
    /// A repository is named as both ends of a copying.
    #[error("repository `{repository}` holds the snapshot already; name another one to copy it to")]
    SameRepository {
        /// The repository.
        repository: Name,
    },
    /// Only Git mirrors can be pushed.
    #[error("backup `{backup}` has no Git mirrors; name one with `source = \"git\"`")]
    NoGit {
        /// The backup.
        backup: Name,
    },
    /// The address of a server cannot be used.
    #[error("`{address}` cannot be pushed to")]
    BadAddress {
        /// What was given.
        address: String,
        /// What it should be.
        #[source]
        source: InvalidBase,
    },
    /// The source could not be looked at.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The run did not begin.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The place is wrong.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The place does not answer.
    #[error(
        "repository `{repository}` does not answer within {} s; its network mount hangs: \
         look at the NAS, then at `mount`", GUARD_MAX.as_secs()
    )]
    Hanging {
        /// The repository.
        repository: Name,
    },
    /// The repository could not be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The target of a restore cannot be used.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A drill could not begin.
    #[error(transparent)]
    Drill(#[from] DrillError),
    /// A backup could not begin.
    #[error(transparent)]
    Backup(#[from] BackupError),
}
