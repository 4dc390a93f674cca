//! What can go wrong with a store.

use std::error::Error;

use homelab_domain::{
    ids::{JobId, RunId},
    job::InvalidTransition,
    run::RunHasEnded,
};

/// Why the store did not do what was asked. Only the cases that callers act
/// upon are told apart; all others are for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else changed the same thing first; begin anew and try again.
    #[error("{what} was changed by somebody else meanwhile")]
    Conflict {
        /// What was changed, for people.
        what: String,
    },
    /// The store has no room for another transaction now, or is not reachable;
    /// try again later.
    #[error("the store is busy: {what}")]
    Busy {
        /// What could not be had in time.
        what: &'static str,
        /// What the back end said, when it said anything.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A stored value is not one that this version writes. Nothing was changed.
    #[error(
        "the store is inconsistent: {table}.{column} of row `{row}` holds what cannot be there"
    )]
    Inconsistent {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
        /// Key of the row.
        row: String,
    },
    /// The file is no store, or is damaged. It is left as it is.
    #[error(
        "`{path}` is no intact store and was left as it is; restore it from a backup, or move it \
         away to begin anew"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What SQLite said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store was last used by a newer version of this software.
    #[error("the store has schema {found}, and this version knows schemas up to {known}")]
    TooNew {
        /// Newest migration in the store.
        found: i64,
        /// Newest migration that is built in.
        known: i64,
    },
    /// Anything else.
    #[error("could not {operation}")]
    Other {
        /// What was being done, as a verb and its object.
        operation: &'static str,
        /// What the back end said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Why a job was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// There is no such job.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The job stands where that is not allowed, or another attempt has it.
    #[error(transparent)]
    Refused(#[from] InvalidTransition),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a run was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no such run.
    #[error("there is no run {0}")]
    NotFound(RunId),
    /// The run has ended otherwise.
    #[error(transparent)]
    Ended(#[from] RunHasEnded),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
