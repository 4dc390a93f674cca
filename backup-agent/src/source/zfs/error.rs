//! Why a dataset could not be backed up, or a copy of it not be looked at.

use std::io;

use homelab_common::exec::ExecError;
use homelab_rpc::status::Reason;

use super::{
    inventory::InvalidInventory,
    names::{DatasetName, Guid},
    plan::Refusal,
};
use crate::{
    failure::{CANCELLED, DUMP_INCOMPLETE, SOURCE_FAILED},
    source::SourceFailure,
    stream::StreamError,
};

/// A copy that only a person can bring up to date.
pub(super) const REPLICA_REFUSED: Reason = Reason::named("REPLICA_REFUSED");

/// Why a dataset could not be backed up, or a copy of it not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ZfsError {
    /// The program failed.
    #[error("could not {what}{}", advice(source))]
    Command {
        /// What was tried.
        what: String,
        /// What it said.
        #[source]
        source: Box<ExecError>,
    },
    /// Its answer was not understood.
    #[error("the answer of zfs was not understood")]
    Answer(#[source] InvalidInventory),
    /// There is no such dataset.
    #[error("there is no dataset `{dataset}`{}; `zfs list` shows what there is", on(host.as_ref()))]
    NoDataset {
        /// What was asked for.
        dataset: DatasetName,
        /// The other host.
        host: Option<String>,
    },
    /// It is encrypted and would be sent in the clear.
    #[error(
        "`{dataset}` is encrypted, and {program} can only send it in the clear (it has no `send \
         -w`); nothing was sent; install OpenZFS 0.8 or later"
    )]
    ClearOnly {
        /// The dataset.
        dataset: DatasetName,
        /// The version of zfs.
        program: String,
    },
    /// A person has to decide.
    #[error("the copy was not touched")]
    Refused(#[source] Box<Refusal>),
    /// A snapshot is not the one that it was.
    #[error("`{name}` is not (any more) the snapshot that this backup made; it was not touched")]
    NotOurs {
        /// Its full name.
        name: String,
    },
    /// Something would be destroyed that no drill made.
    #[error("`{name}` does not say that this drill made it; it was not touched")]
    NotScratch {
        /// Its full name.
        name: String,
    },
    /// The programs ended well, and yet it is not there.
    #[error("`{replica}` does not hold snapshot {guid} after it was received")]
    NotThere {
        /// The copy.
        replica: DatasetName,
        /// The snapshot.
        guid: Guid,
    },
    /// A replication was cut.
    #[error(
        "sending to `{replica}` stopped after {bytes} bytes; {}",
        if *resumes { "the next run goes on from there" } else { "the next run starts again" }
    )]
    Interrupted {
        /// The copy.
        replica: DatasetName,
        /// How far it came.
        bytes: u64,
        /// Whether what arrived is of use.
        resumes: bool,
        /// What the sender died of.
        #[source]
        source: io::Error,
    },
    /// The stream did not come to its end.
    #[error("could not read all of `{file}`")]
    Stream {
        /// The file that it was to become.
        file: &'static str,
        /// Why.
        #[source]
        source: StreamError,
    },
    /// A word that a shell at the other end would take apart.
    #[error("`{word}` cannot be sent to another host: its shell would take it apart")]
    NotPlain {
        /// The word.
        word: String,
    },
    /// The files of a mounted copy could not be counted.
    #[error("could not read the files of `{name}`")]
    Files {
        /// The snapshot or dataset.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// The manifest has no JSON form.
    #[error("could not write the manifest")]
    Encode(#[source] serde_json::Error),
}

impl From<Refusal> for ZfsError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl SourceFailure for ZfsError {
    fn is_echo(&self) -> bool {
        matches!(
            self,
            Self::Stream { source: StreamError::Abandoned | StreamError::Cancelled, .. }
                | Self::Cancelled
        )
    }

    fn reason(&self) -> (Reason, bool) {
        match self {
            Self::Refused(_) => (REPLICA_REFUSED, false),
            Self::NoDataset { .. } | Self::ClearOnly { .. } | Self::NotPlain { .. } => {
                (SOURCE_FAILED, false)
            }
            Self::NotThere { .. } => (DUMP_INCOMPLETE, true),
            Self::Cancelled => (CANCELLED, true),
            Self::Command { .. }
            | Self::Answer(_)
            | Self::NotOurs { .. }
            | Self::NotScratch { .. }
            | Self::Interrupted { .. }
            | Self::Stream { .. }
            | Self::Files { .. }
            | Self::Encode(_) => (SOURCE_FAILED, true),
        }
    }
}

fn on(host: Option<&String>) -> String {
    host.map(|host| format!(" on {host}")).unwrap_or_default()
}

/// What to do about the failures that a first setup meets.
fn advice(error: &ExecError) -> &'static str {
    match error {
        ExecError::NotFound { .. } => "; install it: apt install zfsutils-linux",
        ExecError::Exit { stderr_tail, .. } if stderr_tail.contains("ermission denied") => {
            "; give this user the right with `zfs allow` (packaging/examples/backup-agent.toml)"
        }
        _ => "",
    }
}
