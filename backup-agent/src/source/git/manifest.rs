//! What mirrors hold.

use serde::{Deserialize, Serialize};

use super::{
    ARCHIVE_FILE,
    refs::{self, Refs},
};
use crate::{repository::StoredFile, tree::Entry};

/// Differences of one repository that are given.
const DIFFERENCES_MAX: usize = 20;

/// What the mirrors of one backup hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitContents {
    /// Where they come from.
    pub remote: String,
    /// Each repository and each wiki.
    pub repositories: Vec<MirrorContents>,
    /// Every path in the archive.
    pub entries: Vec<Entry>,
}

/// What one mirror holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorContents {
    /// What people call it.
    pub name: String,
    /// Its folder in the archive.
    pub folder: String,
    /// Whether it equalled upstream at that moment.
    pub state: MirrorState,
    /// The branch that a clone begins with, as `heads/main`.
    pub head: Option<String>,
    /// Upstream's refs, without `refs/`, with what they point at.
    pub refs: Refs,
    /// What upstream had, below `refs/kept/`.
    pub kept: Refs,
    /// Large files that are there.
    pub lfs_objects: u64,
    /// Their bytes.
    pub lfs_bytes: u64,
    /// Large files that are pointed to and not there, by their SHA-256; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lfs_missing: Vec<String>,
    /// The second hop, where one is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Pushed>,
}

/// Whether a mirror equals upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorState {
    /// Shown by `git ls-remote`.
    Equal,
    /// Upstream has it no more; this is what it last had.
    GoneUpstream,
}

/// What became of the second hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// To where.
    pub to: String,
    /// Why it failed; absent when the refs there were shown to be equal.
    pub failure: Option<String>,
}

impl GitContents {
    /// Refs of all repositories.
    #[must_use]
    pub fn refs(&self) -> u64 {
        self.repositories.iter().map(|it| (it.refs.len() + it.kept.len()) as u64).sum()
    }

    /// Why the archive cannot hold all of it, if that shows already.
    #[must_use]
    pub fn implausible(&self, files: &[StoredFile]) -> Option<String> {
        let archive = files.iter().find(|file| file.name == ARCHIVE_FILE)?;
        let bytes = self.bytes();
        (archive.bytes < bytes)
            .then(|| format!("the archive has {} bytes, the files in it {bytes}", archive.bytes))
    }

    /// Bytes of all files of the archive.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(Entry::bytes).sum()
    }
}

impl MirrorContents {
    /// In what a restored mirror is not this one, a sentence each.
    #[must_use]
    pub fn differences(&self, refs: &Refs, kept: &Refs) -> Vec<String> {
        let name = &self.name;
        let kept_name = format!("{name} (kept)");
        let mut differences = refs::differences(name, &self.refs, refs, DIFFERENCES_MAX);
        differences.extend(refs::differences(&kept_name, &self.kept, kept, DIFFERENCES_MAX));
        differences
    }
}
