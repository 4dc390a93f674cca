//! What a snapshot should hold.
//!
//! Taken by the source in the very moment that it backs up, stored beside its files,
//! and what a drill compares a restore with: that a restore ended well proves
//! nothing. The frame is the same for all kinds of sources; what was counted is the
//! business of each.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{Name, RunId},
    repository::{SourceKind, StoredFile},
    source::{
        files::manifest::FilesContents, git::manifest::GitContents,
        opnsense::manifest::OpnsenseContents, postgres::manifest::PostgresContents,
        vaultwarden::manifest::VaultwardenContents, zfs::manifest::ZfsContents,
    },
};

/// The file that holds the manifest, in every snapshot.
pub const FILE_NAME: &str = "manifest.json";

/// The form of the file; raised when old readers would misread it.
pub const FORMAT: u32 = 1;

/// Warnings that are kept; more would not be read.
pub const WARNINGS_MAX: usize = 100;

/// A manifest file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The run that made it.
    pub run: RunId,
    /// The backup.
    pub backup: Name,
    /// The moment whose state was stored.
    pub taken_at: Timestamp,
    /// The files beside this one, with what flowed into them.
    pub files: Vec<StoredFile>,
    /// What people should look at although the run is complete, a sentence each, such
    /// as a branch that was rewritten upstream. At most [`WARNINGS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the source held.
    #[serde(flatten)]
    pub contents: Contents,
}

/// What was counted, by kind of source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "there is one of them for each run, never a list")]
pub enum Contents {
    /// Of PostgreSQL databases.
    Postgres(PostgresContents),
    /// Of a tree of files; the manifest has `files` of its own.
    #[serde(rename = "tree")]
    Files(FilesContents),
    /// Of Git repositories.
    Git(GitContents),
    /// Of a firewall.
    Opnsense(OpnsenseContents),
    /// Of a ZFS dataset.
    Zfs(ZfsContents),
    /// Of a Vaultwarden.
    Vaultwarden(VaultwardenContents),
}

impl Contents {
    /// The kind of source that holds such things.
    #[must_use]
    pub const fn kind(&self) -> SourceKind {
        match self {
            Self::Postgres(_) => SourceKind::Postgres,
            Self::Files(_) => SourceKind::Files,
            Self::Git(_) => SourceKind::Git,
            Self::Opnsense(_) => SourceKind::Opnsense,
            Self::Zfs(_) => SourceKind::Zfs,
            Self::Vaultwarden(_) => SourceKind::Vaultwarden,
        }
    }

    /// How many things there were, in the unit of the kind: rows, files, refs.
    #[must_use]
    pub fn items(&self) -> Option<u64> {
        match self {
            Self::Postgres(contents) => Some(contents.rows()),
            Self::Files(contents) => Some(contents.count()),
            Self::Git(contents) => Some(contents.refs()),
            Self::Opnsense(contents) => Some(contents.facts.items()),
            Self::Zfs(contents) => contents.census.as_ref().map(|census| census.files),
            Self::Vaultwarden(contents) => Some(contents.items()),
        }
    }

    /// Runs whose files are needed as well to restore this one, oldest first.
    #[must_use]
    pub fn needs(&self) -> Vec<RunId> {
        match self {
            Self::Zfs(contents) => contents.needs(),
            _ => Vec::new(),
        }
    }

    /// Why the files that were stored cannot hold all of it, if that shows already.
    #[must_use]
    pub fn implausible(&self, files: &[StoredFile]) -> Option<String> {
        match self {
            Self::Postgres(contents) => contents.implausible(files),
            // An empty tree is one.
            Self::Files(_) => None,
            Self::Git(contents) => contents.implausible(files),
            // It was read to its end before it was stored.
            Self::Opnsense(_) => None,
            Self::Zfs(contents) => contents.implausible(files),
            Self::Vaultwarden(contents) => {
                contents.postgres.as_ref().and_then(|database| database.implausible(files))
            }
        }
    }
}

impl Manifest {
    /// The file's bytes.
    ///
    /// # Errors
    ///
    /// The value has no JSON form.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a manifest file.
    ///
    /// # Errors
    ///
    /// It is not a manifest, or one of a later form.
    pub fn from_bytes(bytes: &[u8]) -> serde_json::Result<Self> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.format != FORMAT {
            let text = format!("manifest of format {}, expected {FORMAT}", manifest.format);
            return Err(serde::de::Error::custom(text));
        }
        Ok(manifest)
    }
}
