//! Why a Vaultwarden could not be backed up, or a restored one not be looked at.

use std::{io, path::PathBuf};

use homelab_common::exec::ExecError;
use homelab_rpc::status::Reason;

use crate::{
    failure::{DUMP_INCOMPLETE, SOURCE_FAILED},
    source::SourceFailure,
    stream::StreamError,
    tree::{CompareError, ExtractError, Names},
};

/// Why a Vaultwarden could not be backed up, or a restored one not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VaultwardenError {
    /// The data folder is not there.
    #[error("the data folder `{}` cannot be used", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database file is not there.
    #[error(
        "there is no database `{}`; name Vaultwarden's own DATA_FOLDER, or its database by \
         `database-file`",
        path.display()
    )]
    NoDatabase {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database is empty.
    #[error(
        "the database `{}` has no users: it is not the one that people use, and nothing of it was \
         kept",
        path.display()
    )]
    NoUsers {
        /// The file.
        path: PathBuf,
    },
    /// SQLite failed.
    #[error("could not {action} the database `{}`", path.display())]
    Database {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Box<sqlx::Error>,
    },
    /// SQLite finds the database damaged.
    #[error(
        "the database is damaged ({damage}); nothing of it was kept, earlier snapshots are \
         untouched; restore one of them"
    )]
    Damaged {
        /// What SQLite found.
        damage: String,
    },
    /// A row of a Send cannot be read.
    #[error("the row of Send `{id}` in `{}` is not understood", path.display())]
    Send {
        /// The file.
        path: PathBuf,
        /// The Send.
        id: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Much fewer rows than last time.
    #[error(
        "there are {found} users, vault entries, attachments, folders, collections and \
         organisations, and there were {before} in the last backup; nothing was kept; if that is \
         right, set `accept-items = {found}` for this backup"
    )]
    Collapsed {
        /// How many there are.
        found: u64,
        /// How many there were.
        before: u64,
    },
    /// Rows without their file.
    #[error(
        "the database names files that are not in the data folder, or have another size: {paths}; \
         if they are lost, list them in `known-missing`; if they lie elsewhere, set \
         `attachments-folder` or `sends-folder`"
    )]
    Missing {
        /// The files.
        paths: Names,
    },
    /// The archive did not come to its end.
    #[error("could not read all of the data folder")]
    Stream(#[source] StreamError),
    /// A private folder could not be made.
    #[error("could not make a private folder in `{}`", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A restored data folder could not be looked at.
    #[error("could not compare the restored data folder")]
    Compare(#[from] CompareError),
    /// The archive could not be extracted, for want of room or rights.
    #[error("could not extract the archive")]
    Extract(#[from] ExtractError),
    /// A server could not be started in a drill, for want of a program or rights.
    #[error("could not start Vaultwarden for the drill")]
    Start(#[source] ExecError),
    /// No port could be had in a drill.
    #[error("could not find a free port on the loopback interface")]
    Port(#[source] io::Error),
    /// The manifest has no JSON form.
    #[error("could not write the manifest")]
    Encode(#[source] serde_json::Error),
}

impl SourceFailure for VaultwardenError {
    fn is_echo(&self) -> bool {
        matches!(self, Self::Stream(StreamError::Abandoned | StreamError::Cancelled))
    }

    fn reason(&self) -> (Reason, bool) {
        match self {
            Self::Missing { .. } => (DUMP_INCOMPLETE, true),
            Self::NoUsers { .. } | Self::Damaged { .. } | Self::Collapsed { .. } => {
                (DUMP_INCOMPLETE, false)
            }
            _ => (SOURCE_FAILED, true),
        }
    }
}
