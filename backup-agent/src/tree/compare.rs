//! What a restored tree lacks, has too much, or has otherwise.

use std::{
    collections::HashMap,
    io::{self, Read},
    path::Path,
};

use tokio::sync::oneshot::error::TryRecvError;
use tokio_util::sync::CancellationToken;

use super::{Changing, Entry, Filesystems, PackError, Packed, Root, Rules, What, pack};
use crate::stream::Content;

/// Findings that are given; more would not be read.
const FINDINGS_MAX: usize = 100;

/// What is compared of two entries besides kind and content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Everything: mode, owner, time.
    Everything,
    /// Nothing: a scratch folder may be of another user and on another file system.
    Contents,
}

/// How two trees differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// A sentence each, at most 100.
    pub texts: Vec<String>,
    /// How many more there are.
    pub more: u64,
}

impl Differences {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The sentences, with one more for those that are not given.
    #[must_use]
    pub fn into_texts(mut self) -> Vec<String> {
        if self.more > 0 {
            self.texts.push(format!("and {} more differences", self.more));
        }
        self.texts
    }

    pub(crate) fn push(&mut self, text: impl FnOnce() -> String) {
        if self.texts.len() < FINDINGS_MAX {
            self.texts.push(text());
        } else {
            self.more += 1;
        }
    }
}

/// Why a folder could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The disk failed.
    #[error("could not read back what was extracted")]
    Read(#[source] io::Error),
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Compares two lists of entries.
#[must_use]
pub fn differences(expected: &[Entry], found: &[Entry], strictness: Strictness) -> Differences {
    let mut differences = Differences::default();
    let (wanted, present) = (by_path(expected), by_path(found));
    for entry in expected {
        let Some(other) = present.get(&*entry.path) else {
            differences.push(|| format!("`{}` is missing", entry.path));
            continue;
        };
        if content(entry, &wanted) != content(other, &present) {
            differences.push(|| format!("`{}` is different: {}", entry.path, how(entry, other)));
        } else if strictness == Strictness::Everything && facts(entry) != facts(other) {
            let texts = [entry, other].map(Entry::to_string);
            differences.push(|| format!("`{}` should be `{}`", texts[1], texts[0]));
        }
    }
    for entry in found {
        if !wanted.contains_key(&*entry.path) && !leads_to(entry, expected) {
            differences.push(|| format!("`{}` is there and should not be", entry.path));
        }
    }
    differences
}

/// Reads a folder and compares its contents with `expected`. Blocks.
///
/// # Errors
///
/// The folder cannot be read, or `cancel` fired.
pub fn compare(
    expected: &[Entry],
    folder: &Path,
    cancel: &CancellationToken,
) -> Result<Differences, CompareError> {
    let found = scan(folder, cancel)?;
    Ok(differences(expected, &found, Strictness::Contents))
}

/// What a folder holds: an archive of it that nobody keeps.
fn scan(folder: &Path, cancel: &CancellationToken) -> Result<Vec<Entry>, CompareError> {
    let root = Root { path: folder.to_owned(), inside: "".into() };
    let rules = Rules { filesystems: Filesystems::All, ..Rules::default() };
    let (mut pack, mut packed) = pack(vec![root], rules, Changing::Fail);
    let mut piece = vec![0; 256 * 1024];
    while pack.read(&mut piece).map_err(CompareError::Read)? > 0 {
        if cancel.is_cancelled() {
            return Err(CompareError::Cancelled);
        }
    }
    pack.finish().map_err(CompareError::Read)?;
    match packed.try_recv() {
        Ok(Packed { entries, .. }) => Ok(entries),
        Err(TryRecvError::Empty | TryRecvError::Closed) => {
            Err(CompareError::Read(io::Error::other(PackError::TooMany)))
        }
    }
}

type ByPath<'a> = HashMap<&'a str, &'a Entry>;

fn by_path(entries: &[Entry]) -> ByPath<'_> {
    entries.iter().map(|entry| (&*entry.path, entry)).collect()
}

/// What a path gives when it is read: a second name gives what the first one does.
fn content<'a>(entry: &'a Entry, entries: &ByPath<'a>) -> &'a What {
    match &entry.what {
        What::HardLink { to } => entries.get(&**to).map_or(&entry.what, |first| &first.what),
        what => what,
    }
}

const fn facts(entry: &Entry) -> (u32, u32, u32, i64) {
    (entry.mode, entry.uid, entry.gid, entry.mtime)
}

fn how(expected: &Entry, found: &Entry) -> String {
    match (&expected.what, &found.what) {
        (What::File { bytes, .. }, What::File { bytes: other, .. }) if bytes == other => {
            format!("its {bytes} bytes have another digest")
        }
        (What::File { bytes, .. }, What::File { bytes: other, .. }) => {
            format!("{other} bytes instead of {bytes}")
        }
        _ => format!("`{found}` instead of `{expected}`"),
    }
}

/// A folder above a root is made by every extraction and is no entry.
fn leads_to(entry: &Entry, expected: &[Entry]) -> bool {
    let below = |path: &str| path.strip_prefix(&*entry.path).is_some_and(|it| it.starts_with('/'));
    entry.what == What::Folder && expected.iter().any(|other| below(&other.path))
}
