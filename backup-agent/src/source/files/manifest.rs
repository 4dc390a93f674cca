//! What a tree of files held.

use serde::{Deserialize, Serialize};

use crate::tree::{Entry, Packed, escape};

/// What was counted when a tree was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesContents {
    /// Where the tree came from, escaped as in [`Entry::path`].
    pub roots: Vec<Box<str>>,
    /// Patterns for what was left out.
    pub exclude: Vec<String>,
    /// How many paths they left out, not counting what was in folders.
    pub excluded: u64,
    /// What was mounted below a root and is not in the backup, escaped.
    pub mounts: Vec<Box<str>>,
    /// Everything that is in the archive, in its order.
    pub entries: Vec<Entry>,
}

impl FilesContents {
    pub(super) fn new(roots: &[std::path::PathBuf], exclude: &[String], packed: Packed) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let Packed { entries, excluded, mounts, warnings: _ } = packed;
        let roots = roots.iter().map(|root| escape(root.as_os_str().as_bytes())).collect();
        Self { roots, exclude: exclude.to_vec(), excluded, mounts, entries }
    }

    /// How many things there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(Entry::bytes).sum()
    }
}
