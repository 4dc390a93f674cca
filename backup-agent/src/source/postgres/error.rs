//! Why PostgreSQL could not be read, or be restored into.

use std::{path::PathBuf, time::Duration};

use homelab_common::exec::ExecError;
use homelab_rpc::status::Reason;

use super::fault::Fault;
use crate::{
    failure::{CLIENT_TOO_OLD, DUMP_INCOMPLETE, SOURCE_FAILED, TABLE_LOCKED},
    source::SourceFailure,
    stream::StreamError,
};

/// Why a database could not be read, or a scratch database not be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No installed client is new enough.
    #[error(
        "PostgreSQL {server_major} needs pg_dump {server_major} or newer, {found}; \
         install it: apt install postgresql-client-{server_major}"
    )]
    NoClient {
        /// Of the server.
        server_major: u32,
        /// What is there, for people.
        found: String,
    },
    /// No client is installed.
    #[error(
        "no PostgreSQL client programs below `{}`; install them: apt install postgresql-client",
        root.display()
    )]
    NoClients {
        /// Where they were looked for.
        root: PathBuf,
    },
    /// The private folder for the password could not be made.
    #[error("could not make a private folder in `{}`", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be used.
    #[error("could not use PostgreSQL's client programs")]
    Tool(#[source] ExecError),
    /// A query failed, the connection included.
    #[error("could not {what} on {server}")]
    Query {
        /// What was asked.
        what: String,
        /// Where.
        server: String,
        /// What psql said.
        #[source]
        source: Box<Fault>,
    },
    /// There is nothing to back up, or too much.
    #[error(
        "{found} databases to back up on {server}; name them with `databases = [..]`, {max} at most"
    )]
    Databases {
        /// How many there are.
        found: usize,
        /// Where.
        server: String,
        /// How many there may be.
        max: usize,
    },
    /// There is nobody to ask.
    #[error("no session to count with")]
    NoSession,
    /// A restore was ended by trouble of the server that took it.
    #[error("the restore could not be finished")]
    Restore(#[source] Fault),
    /// A query was answered in an unexpected form.
    #[error("the answer to `{what}` from {server} was not understood")]
    Answer {
        /// What was asked.
        what: String,
        /// Where.
        server: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A stream did not come to its end.
    #[error("could not read all of `{file}`")]
    Stream {
        /// The file that it was to become.
        file: String,
        /// Why.
        #[source]
        source: StreamError,
    },
    /// A program ended well and left the end out.
    #[error(
        "`{file}` stops after {bytes} bytes without the end mark that pg_dump writes last; \
         something cut the stream; nothing of it was kept"
    )]
    Truncated {
        /// The file that it was to become.
        file: String,
        /// How much there was.
        bytes: u64,
    },
    /// Somebody holds a lock.
    #[error("a table stayed locked for {} s: {blockers}; run the backup again later", lock_wait.as_secs())]
    Locked {
        /// How long was waited.
        lock_wait: Duration,
        /// Who holds what, for people.
        blockers: String,
        /// The failure itself.
        #[source]
        source: Box<PostgresError>,
    },
    /// The manifest has no JSON form.
    #[error("could not write the manifest")]
    Encode(#[source] serde_json::Error),
}

impl SourceFailure for PostgresError {
    fn is_echo(&self) -> bool {
        matches!(self, Self::Stream { source: StreamError::Abandoned | StreamError::Cancelled, .. })
    }

    fn reason(&self) -> (Reason, bool) {
        match self {
            Self::NoClient { .. } | Self::NoClients { .. } => (CLIENT_TOO_OLD, false),
            Self::Locked { .. } => (TABLE_LOCKED, true),
            Self::Truncated { .. } => (DUMP_INCOMPLETE, true),
            Self::Scratch { .. }
            | Self::Tool(_)
            | Self::Query { .. }
            | Self::Restore(_)
            | Self::NoSession
            | Self::Databases { .. }
            | Self::Answer { .. }
            | Self::Stream { .. }
            | Self::Encode(_) => (SOURCE_FAILED, true),
        }
    }
}
