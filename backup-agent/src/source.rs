//! What is backed up.
//!
//! A source hands out streams and, in the end, says whether they are complete. It
//! knows nothing of repositories; the pipeline in [`crate::backup`] joins the two.

pub mod files;
pub mod git;
pub mod opnsense;
pub mod postgres;
pub mod rights;
pub mod vaultwarden;
pub mod zfs;

use std::{
    fmt::Debug,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use homelab_common::error_chain::Chain;
use homelab_rpc::status::Reason;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    ids::{Name, RunId},
    manifest::Manifest,
    repository::{Incoming, Repository, Snapshot, SourceKind},
    restore,
};
use files::FilesError;
use git::{GitError, GitSource};
use opnsense::OpnsenseError;
use postgres::PostgresError;
use rights::Explained;
use vaultwarden::VaultwardenError;
use zfs::ZfsError;

/// Something that can be backed up. Shared as `Arc<dyn Source>`.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// What kind of thing it is.
    fn kind(&self) -> SourceKind;

    /// Checks that a run could begin; says what it would do, a sentence each.
    ///
    /// # Errors
    ///
    /// Why a run could not begin.
    async fn inspect(&self, run: RunId) -> Result<Vec<String>, SourceError>;

    /// Fixes the moment to back up and starts its streams.
    ///
    /// # Errors
    ///
    /// Why there is nothing to read.
    async fn begin(&self, context: Context) -> Result<Capture, SourceError>;

    /// Says which rights it needs where it reads, and tries those that it has. Changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// It could not be tried.
    async fn explain(&self, run: RunId) -> Result<Explained, SourceError> {
        let outcome = self.inspect(run).await.map_err(|error| Chain(&error).to_string());
        Ok(Explained::by_trying(outcome))
    }

    /// Itself, if it has Git mirrors: what they hold can be pushed to another server.
    fn as_git(&self) -> Option<&GitSource> {
        None
    }
}

/// What a source must know about the run.
#[derive(Clone, Debug)]
pub struct Context {
    /// The run.
    pub run: RunId,
    /// The backup that it executes.
    pub backup: Name,
    /// A secret of this backup, the same for every run.
    pub key: String,
    /// How many items its last verified snapshot has, in the unit of the kind.
    pub last_items: Option<u64>,
    /// Ends everything that was started for the run.
    pub cancel: CancellationToken,
    /// What is stored of this backup already.
    pub before: Before,
}

/// What a repository already holds of a backup, for sources that build on it.
#[derive(Clone, Debug, Default)]
pub struct Before {
    repository: Option<Arc<dyn Repository>>,
    snapshots: Vec<Snapshot>,
    manifest: Arc<OnceLock<Option<Manifest>>>,
}

impl Before {
    /// The verified snapshots of this backup in `repository`, newest first.
    #[must_use]
    pub fn new(repository: Arc<dyn Repository>, snapshots: Vec<Snapshot>) -> Self {
        Self { repository: Some(repository), snapshots, manifest: Arc::default() }
    }

    /// Whether a verified snapshot of this run is there.
    #[must_use]
    pub fn holds(&self, run: RunId) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot.run == run)
    }

    /// The newest manifest. Blocks. One that cannot be read counts as none: whatever
    /// would build on it starts anew.
    #[must_use]
    pub fn manifest(&self) -> Option<Manifest> {
        self.manifest.get_or_init(|| self.read()).clone()
    }

    fn read(&self) -> Option<Manifest> {
        let (repository, newest) = self.repository.as_ref().zip(self.snapshots.first())?;
        match restore::manifest(repository.as_ref(), newest, &CancellationToken::new()) {
            Ok(manifest) => Some(manifest),
            Err(error) => {
                tracing::warn!(
                    backup = %newest.backup, snapshot = %newest.id, error = %Chain(&error),
                    "the newest manifest cannot be read; the next run starts anew"
                );
                None
            }
        }
    }
}

/// A source that has begun.
pub struct Capture {
    /// The moment whose state the streams hold.
    pub taken_at: Timestamp,
    /// The streams, each a file. They must be read at the same time as
    /// `completion` is polled.
    pub files: Vec<Incoming>,
    /// Resolves when all streams were read: the manifest, if everything is there.
    pub completion: BoxFuture<'static, Result<Manifest, SourceError>>,
}

impl Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Why a source could not be read completely, or what it stored not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A PostgreSQL source.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// A tree of files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Git repositories.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A firewall.
    #[error(transparent)]
    Opnsense(#[from] OpnsenseError),
    /// A ZFS source.
    #[error(transparent)]
    Zfs(#[from] ZfsError),
    /// A Vaultwarden.
    #[error(transparent)]
    Vaultwarden(#[from] VaultwardenError),
}

impl SourceError {
    fn failure(&self) -> &dyn SourceFailure {
        match self {
            Self::Postgres(error) => error,
            Self::Files(error) => error,
            Self::Git(error) => error,
            Self::Opnsense(error) => error,
            Self::Zfs(error) => error,
            Self::Vaultwarden(error) => error,
        }
    }

    /// Whether this is only the echo of a repository that stopped reading, or of a
    /// cancellation: then that is the cause to report.
    #[must_use]
    pub fn is_echo(&self) -> bool {
        self.failure().is_echo()
    }

    /// The stable reason, and whether the same may succeed later without any change.
    #[must_use]
    pub fn reason(&self) -> (Reason, bool) {
        self.failure().reason()
    }
}

/// What must be known of the error of any source.
pub(crate) trait SourceFailure {
    /// As [`SourceError::is_echo`].
    fn is_echo(&self) -> bool;

    /// As [`SourceError::reason`].
    fn reason(&self) -> (Reason, bool);
}
