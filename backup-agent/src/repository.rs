//! Where snapshots lie: what this crate asks of a repository.
//!
//! The only implementation is [`restic`]; nothing of the library behind it shows
//! here. All calls block (disks, network mounts, key derivation) and belong on a
//! blocking thread.
//!
//! A snapshot is written in two steps. [`Repository::store`] writes what a source
//! delivers as an *unverified* snapshot that no listing shows.
//! [`Repository::publish`] reads all of it back, compares it with what went in,
//! and only then makes a *verified* snapshot of it.

pub mod identity;
pub mod mount;
pub mod restic;

use std::{fmt::Debug, io::Write, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    ids::{Name, RunId, SnapshotId},
    manifest::FILE_NAME as MANIFEST,
    progress::Progress,
    stream::{Measured, Receipt, Sha256, StreamError},
};
use identity::GuardError;

/// Keeps snapshots. Shared as `Arc<dyn Repository>`.
pub trait Repository: Debug + Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &Name;

    /// Checks that the right repository is where it should be.
    ///
    /// # Errors
    ///
    /// What is wrong with the place.
    fn guard(&self) -> Result<(), GuardError>;

    /// Writes every file to its end, as an unverified snapshot.
    ///
    /// # Errors
    ///
    /// A stream failed, or the repository did; nothing of the run is left visible.
    fn store(&self, intent: &Intent, files: Vec<Incoming>) -> Result<Stored, RepositoryError>;

    /// Reads `stored` back, compares it with what went in, and publishes it.
    ///
    /// # Errors
    ///
    /// A byte differs, the repository failed, or `cancel` fired; nothing of the run
    /// is left visible.
    fn publish(
        &self,
        stored: &Stored,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Snapshot, RepositoryError>;

    /// The verified snapshots, newest first.
    ///
    /// # Errors
    ///
    /// The repository could not be read.
    fn snapshots(&self) -> Result<Vec<Snapshot>, RepositoryError>;

    /// What runs left behind or are still writing.
    ///
    /// # Errors
    ///
    /// The repository could not be read.
    fn unverified(&self) -> Result<Vec<Unverified>, RepositoryError>;

    /// Removes the unverified snapshots of `run`; says how many there were.
    ///
    /// # Errors
    ///
    /// The repository could not be read or written.
    fn discard(&self, run: RunId) -> Result<usize, RepositoryError>;

    /// Removes verified snapshots; says how many of them there were. What they held
    /// stays until it is pruned.
    ///
    /// # Errors
    ///
    /// The repository could not be read or written.
    fn forget(&self, ids: &[SnapshotId]) -> Result<usize, RepositoryError>;

    /// Writes one file of a snapshot to `sink`, hashing on the way.
    ///
    /// # Errors
    ///
    /// The file is not there or damaged, the sink refused, or `cancel` fired.
    fn read(
        &self,
        id: &SnapshotId,
        path: &str,
        sink: &mut dyn Write,
        cancel: &CancellationToken,
    ) -> Result<Receipt, RepositoryError>;

    /// Checks the repository; gives what is wrong, a sentence each.
    ///
    /// # Errors
    ///
    /// The check itself could not be done.
    fn check(&self, depth: Depth, progress: &Progress) -> Result<Vec<String>, RepositoryError>;

    /// Room for more, in bytes.
    ///
    /// # Errors
    ///
    /// The place does not answer.
    fn available_bytes(&self) -> Result<u64, GuardError>;

    /// Whether its file system takes writes.
    ///
    /// # Errors
    ///
    /// The place does not answer.
    fn is_writable(&self) -> Result<bool, GuardError>;

    /// Bytes that the repository takes.
    ///
    /// # Errors
    ///
    /// The repository could not be read.
    fn stored_bytes(&self) -> Result<u64, RepositoryError>;

    /// A key for the source of this backup: the same for every run, unknown to
    /// anybody without the repository's password.
    fn derived_key(&self, purpose: &str) -> String;
}

/// How thorough a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Index, trees and sizes.
    Structure,
    /// Every byte of data as well.
    Data,
}

/// What kind of thing was backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A PostgreSQL database.
    Postgres,
    /// A Vaultwarden data folder with its database.
    Vaultwarden,
    /// Git repositories.
    Git,
    /// An OPNsense configuration.
    Opnsense,
    /// ZFS datasets.
    Zfs,
    /// Plain file trees.
    Files,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Postgres, Self::Vaultwarden, Self::Git, Self::Opnsense, Self::Zfs, Self::Files];

    /// The word for it in configurations, tags and manifests.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Vaultwarden => "vaultwarden",
            Self::Git => "git",
            Self::Opnsense => "opnsense",
            Self::Zfs => "zfs",
            Self::Files => "files",
        }
    }
}

impl std::fmt::Display for SourceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// What is going to be stored.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The run that stores.
    pub run: RunId,
    /// The backup that it executes.
    pub backup: Name,
    /// Kind of source.
    pub kind: SourceKind,
    /// The moment whose state is stored.
    pub taken_at: Timestamp,
}

/// One file on its way into a snapshot.
#[derive(Debug)]
pub struct Incoming {
    /// A plain file name, without a folder.
    pub name: String,
    /// Its bytes.
    pub content: Measured,
    /// Tells afterwards what passed.
    pub gauge: crate::stream::Gauge,
}

/// What was written and is not yet proved.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What was meant.
    pub intent: Intent,
    /// The unverified snapshot.
    pub id: SnapshotId,
    /// Each file, in the order of their names.
    pub files: Vec<StoredFile>,
    /// Bytes that the repository grew by.
    pub added_bytes: u64,
    /// What the source said in the end.
    pub summary: Summary,
}

/// What a listing should say of a snapshot without opening its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many things the source held, in its own unit: rows, files, refs. What
    /// falls from one run to the next shows a loss that bytes may hide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// What people should look at although the run is complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Runs whose files are needed as well to restore this snapshot, oldest first:
    /// whatever forgets snapshots must keep theirs as long as this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<RunId>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// File name within the snapshot's folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Digest.
    pub sha256: Sha256,
}

/// A verified snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Identifier.
    pub id: SnapshotId,
    /// The backup that made it.
    pub backup: Name,
    /// The run that made it.
    pub run: RunId,
    /// Host whose agent made it.
    pub host: String,
    /// Kind of source.
    pub kind: SourceKind,
    /// The moment whose state it holds.
    pub taken_at: Timestamp,
    /// When it was proved.
    pub verified_at: Timestamp,
    /// From the moment of the state to the proof.
    pub elapsed: Duration,
    /// Its files.
    pub files: Vec<StoredFile>,
    /// Bytes that the repository grew by.
    pub added_bytes: Option<u64>,
    /// What the source said of it.
    pub summary: Summary,
}

impl Snapshot {
    /// Bytes of all files.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Where one of its files lies within the snapshot.
    #[must_use]
    pub fn path_of(&self, name: &str) -> String {
        path_in_snapshot(&self.backup, name)
    }

    /// One of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&StoredFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// Where a file of `backup` lies within a snapshot: in a folder of the backup's name,
/// except for the manifest, which lies beside it. The listing of a folder names every
/// chunk of its files, a hundredth of a dump; the manifest differs in every run and
/// must not make that listing a new one.
#[must_use]
pub fn path_in_snapshot(backup: &Name, name: &str) -> String {
    if name == MANIFEST { format!("/{backup}.{name}") } else { format!("/{backup}/{name}") }
}

/// A snapshot without proof: of a run that goes on, or of one that died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// Identifier.
    pub id: SnapshotId,
    /// The run that wrote it, when its tag can be read.
    pub run: Option<RunId>,
    /// The moment whose state it holds.
    pub taken_at: Timestamp,
}

/// Why a repository could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The place is not what it should be.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The repository's disk is full.
    #[error("no room left in repository `{repository}`; nothing of this run was kept")]
    NoRoom {
        /// The repository.
        repository: Name,
        /// What the engine said.
        #[source]
        source: EngineError,
    },
    /// The engine failed.
    #[error("could not {action} in repository `{repository}`")]
    Engine {
        /// What was tried.
        action: &'static str,
        /// The repository.
        repository: Name,
        /// What the engine said.
        #[source]
        source: EngineError,
    },
    /// A stream did not come to its end.
    #[error("`{file}` was not stored completely; nothing of this run was kept")]
    Incomplete {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: StreamError,
    },
    /// What was read back is not what went in.
    #[error(
        "`{file}` read back from repository `{repository}` differs from what was written \
         ({detail}); nothing of this run was kept; check the disk and run a verification"
    )]
    Mismatch {
        /// The file.
        file: String,
        /// The repository.
        repository: Name,
        /// What differs.
        detail: String,
    },
    /// There is no such verified snapshot.
    #[error("there is no verified snapshot `{id}` in repository `{repository}`")]
    NoSnapshot {
        /// What was asked for.
        id: String,
        /// The repository.
        repository: Name,
    },
}

/// What the library behind a repository said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub(crate) String);
