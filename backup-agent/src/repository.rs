//! Where snapshots lie: what this crate asks of a repository.
//!
//! The only implementation is [`restic`]; nothing of the library behind it shows
//! here. All calls block (disks, network mounts, key derivation) and belong on a
//! blocking thread.
//!
//! A snapshot is written in two steps. [`Repository::store`] writes what a source
//! delivers and proves it from what the place gives back; no listing shows it.
//! [`Repository::publish`] makes a snapshot of it once the source, too, has said that
//! it was all.

pub mod identity;
pub mod lock;
pub mod mount;
pub mod probe;
pub mod restic;
pub mod sftp;
pub mod storage;

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
use identity::{GuardError, Transport};
use lock::Holder;
use mount::Mount;
use probe::Grade;
use storage::access::Access;

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

    /// Writes every file to its end and proves what is new of it; makes no snapshot.
    ///
    /// # Errors
    ///
    /// A stream failed, or the repository did; nothing of the run is left visible.
    fn store(&self, intent: &Intent, files: Vec<Incoming>) -> Result<Stored, RepositoryError>;

    /// Makes a snapshot of `stored`, if all of it is there.
    ///
    /// # Errors
    ///
    /// Something is missing, the repository failed, or `cancel` fired; nothing of the
    /// run is left visible.
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

    /// Snapshots that runs of earlier versions left behind without proof.
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

    /// Removes verified snapshots at once, without quarantine: for a spool whose
    /// snapshots are proved elsewhere. Says how many of them there were. What they held
    /// stays until it is pruned.
    ///
    /// # Errors
    ///
    /// This host may not, or the place failed.
    fn remove(&self, ids: &[SnapshotId]) -> Result<usize, RepositoryError>;

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

    /// Snapshots that were forgotten and can still be recovered.
    ///
    /// # Errors
    ///
    /// The repository could not be read.
    fn forgotten(&self) -> Result<Vec<Forgotten>, RepositoryError>;

    /// Carries out a plan to the letter, or none of it: hides snapshots, takes hidden
    /// ones back, and deletes those whose quarantine is over. Idempotent.
    ///
    /// # Errors
    ///
    /// The plan was made for other snapshots or asks for too much, this host may not,
    /// somebody else works, or the place failed.
    fn apply(&self, order: &RetentionOrder, now: Timestamp) -> Result<Applied, RepositoryError>;

    /// Removes packs that nothing needs: those are marked first, and removed by a
    /// later prune.
    ///
    /// # Errors
    ///
    /// This host may not, somebody else works, or the place failed.
    fn prune(
        &self,
        policy: &PrunePolicy,
        now: Timestamp,
        progress: &Progress,
    ) -> Result<Pruned, RepositoryError>;

    /// What a prune would do, without doing it.
    ///
    /// # Errors
    ///
    /// The repository could not be read.
    fn prune_outlook(&self, policy: &PrunePolicy) -> Result<Pruned, RepositoryError>;

    /// Reads a part of all data, and everything small.
    ///
    /// # Errors
    ///
    /// It could not be done, or `cancel` fired; damage is no error.
    fn scrub(
        &self,
        part: Part,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Scrubbed, RepositoryError>;

    /// What its place is worth, by a canary written there now.
    ///
    /// # Errors
    ///
    /// The place is wrong or failed.
    fn probe(&self) -> Result<Probed, RepositoryError>;

    /// What the last probe of this process found; asks nobody.
    fn probed(&self) -> Option<Probed>;

    /// Since when all of its data was read at least once, in parts or at once.
    ///
    /// # Errors
    ///
    /// The repository could not be read.
    fn scrubbed_at(&self) -> Result<Option<Timestamp>, RepositoryError>;

    /// How it is reached.
    fn transport(&self) -> Transport;

    /// What this host may do with it.
    fn access(&self) -> Access;

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

/// A snapshot in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Since when.
    pub forgotten_at: Timestamp,
}

/// A retention plan, decided elsewhere, for the snapshots of one backup.
#[derive(Clone, Debug)]
pub struct RetentionOrder {
    /// The backup.
    pub backup: Name,
    /// Every snapshot that the plan was made for, those in quarantine too.
    pub expected: Vec<SnapshotId>,
    /// To hide.
    pub quarantine: Vec<SnapshotId>,
    /// To show again.
    pub rescue: Vec<SnapshotId>,
    /// To delete.
    pub delete: Vec<SnapshotId>,
    /// How long a snapshot is hidden at least before it is deleted.
    pub quarantine_min: Duration,
    /// So many stay visible at least; 0 counts as 1.
    pub floor: usize,
    /// Whether it is meant.
    pub mode: OrderMode,
}

/// Whether an order is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderMode {
    /// Check it and do nothing.
    Check,
    /// Carry it out.
    Apply,
}

/// What an order changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Snapshots hidden.
    pub quarantined: u32,
    /// Snapshots shown again.
    pub rescued: u32,
    /// Snapshots deleted.
    pub deleted: u32,
}

/// How long what nobody needs is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunePolicy {
    /// From the prune that found a pack unneeded on: longer than any run lasts that
    /// might build on it.
    pub keep_packs: Duration,
}

impl Default for PrunePolicy {
    /// A day.
    fn default() -> Self {
        Self { keep_packs: Duration::from_secs(24 * 3600) }
    }
}

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Packs that will be removed later.
    pub packs_marked: u64,
    /// Packs removed.
    pub packs_removed: u64,
    /// Packs that had been marked and are needed again.
    pub packs_recovered: u64,
    /// Bytes of packs removed.
    pub freed_bytes: u64,
    /// Bytes that will be freed later.
    pub marked_bytes: u64,
    /// Bytes that were stored anew, because they lay in packs beside unneeded ones.
    pub repacked_bytes: u64,
    /// Files removed that dead runs were writing.
    pub temporaries: u32,
    /// What a check found afterwards; empty is sound.
    pub problems: Vec<String>,
}

/// What a scrub read and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// The part, from 0.
    pub part: u32,
    /// Of so many.
    pub of: u32,
    /// Packs read.
    pub packs: u32,
    /// Bytes read of them.
    pub bytes: u64,
    /// Since when every part was read at least once; absent in the first round.
    pub complete_since: Option<Timestamp>,
    /// What is wrong, a sentence each; empty is sound.
    pub problems: Vec<String>,
}

/// What a place is worth, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// What it is worth.
    pub grade: Grade,
    /// What is mounted there.
    pub mount: Option<Mount>,
    /// What this host had there the last time, where that was something else.
    pub moved_from: Option<Mount>,
}

/// How thorough a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Index, trees and sizes.
    Structure,
    /// Every byte of data as well.
    Data,
    /// A part of the data; see [`Repository::scrub`].
    Part(Part),
}

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 0; absent is the one that was read longest ago.
    pub part: Option<u32>,
    /// Of so many.
    pub of: u32,
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

/// What was written and is not yet a snapshot.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What was meant.
    pub intent: Intent,
    /// Each file, in the order of their names.
    pub files: Vec<StoredFile>,
    /// Bytes that the repository grew by.
    pub added_bytes: u64,
    /// What people should look at, as the repository sees it.
    pub warnings: Vec<String>,
    /// What the source said in the end.
    pub summary: Summary,
    /// What must be found again.
    pub(crate) proof: restic::Proof,
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
    /// A plan was made for other snapshots than there are.
    #[error("the plan does not fit repository `{repository}`: {why}; make a new plan")]
    Stale {
        /// The repository.
        repository: Name,
        /// What does not fit.
        why: String,
    },
    /// A plan asks for more than is ever done.
    #[error("refused in repository `{repository}`: {why}; nothing was changed")]
    Refused {
        /// The repository.
        repository: Name,
        /// What.
        why: String,
    },
    /// Somebody else works on it.
    #[error(
        "repository `{repository}` is in use: process {} on {} has held it since {} ({:?}); \
         try again when it has ended", by.pid, by.host, by.since, by.purpose
    )]
    Locked {
        /// The repository.
        repository: Name,
        /// Who.
        by: Box<Holder>,
    },
    /// This host may not.
    #[error(
        "this host may not {action} in repository `{repository}`: it has `access = \"{access}\"`; \
         ask the host that has full access"
    )]
    Forbidden {
        /// What.
        action: &'static str,
        /// The repository.
        repository: Name,
        /// What it may.
        access: Access,
    },
    /// A file of the repository is not what its name says.
    #[error("repository `{repository}` is damaged; run a verification, and look at its disk")]
    Damaged {
        /// The repository.
        repository: Name,
        /// Which file, and what is wrong with it.
        #[source]
        source: EngineError,
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

impl RepositoryError {
    /// Whether what was stored cannot be read as it was written. Anything else may be
    /// another day's weather.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Incomplete { .. } | Self::Mismatch { .. } | Self::Damaged { .. })
    }
}

/// What the library behind a repository said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub(crate) String);
