//! Where the files of a repository lie, whatever carries them.
//!
//! A [`Storage`] knows a handful of whole-file operations on short relative paths.
//! Folders on a mount and SFTP servers are the two carriers; deadlines, bandwidth
//! and rights are layers around any of them, so that neither the carriers nor the
//! engine above know of them.

pub mod access;
pub mod deadline;
pub mod folder;
pub mod limit;

use std::{fmt::Debug, io, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;

use super::probe::Grade;

/// Restic's own folders, in the order in which they are made.
pub const FOLDERS: [&str; 5] = ["keys", "snapshots", "index", "data", "locks"];

/// What stands in the names of files that are being written: before it the name to
/// be, behind it a random number. Restic, too, passes over names that are no hashes.
pub const TEMPORARY: &str = "-tmp-";

/// A file of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name within the folder.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written, by the clock of the place.
    pub modified_at: Option<Timestamp>,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: usize,
}

/// Whole-file operations; paths are relative to the repository's root, with `/`
/// between their parts. Shared as `Arc<dyn Storage>`. All calls block.
pub trait Storage: Debug + Send + Sync {
    /// What people call the place.
    fn location(&self) -> String;

    /// The plain files of a folder, in no order; `""` is the root.
    ///
    /// # Errors
    ///
    /// The place failed. A missing folder is [`io::ErrorKind::NotFound`].
    fn list(&self, folder: &str) -> io::Result<Vec<Listed>>;

    /// The size of a file, in bytes.
    ///
    /// # Errors
    ///
    /// The place failed, or there is no such file.
    fn bytes_of(&self, path: &str) -> io::Result<u64>;

    /// A whole file.
    ///
    /// # Errors
    ///
    /// The place failed, or there is no such file.
    fn read(&self, path: &str) -> io::Result<Bytes>;

    /// A part of a file.
    ///
    /// # Errors
    ///
    /// The place failed, or the file is shorter.
    fn read_range(&self, path: &str, range: Range) -> io::Result<Bytes>;

    /// A whole file from the medium, as far as that can be had: what the operating
    /// system remembers of it is dropped first.
    ///
    /// # Errors
    ///
    /// As [`Storage::read`].
    fn read_back(&self, path: &str) -> io::Result<Bytes>;

    /// Writes a file that afterwards is there whole and durable, or not at all. A
    /// file of this name is replaced.
    ///
    /// # Errors
    ///
    /// The place failed; nothing of the file is left under its name.
    fn write(&self, path: &str, content: Bytes) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// The place failed, or there is no such file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes a folder in one that exists; one that is there is no error.
    ///
    /// # Errors
    ///
    /// The place failed.
    fn make_folder(&self, path: &str) -> io::Result<()>;

    /// Writes a canary and grades the place by what becomes of it.
    ///
    /// # Errors
    ///
    /// The place failed.
    fn probe(&self) -> io::Result<Grade>;

    /// Room for more, in bytes; absent where the place cannot say.
    ///
    /// # Errors
    ///
    /// The place failed.
    fn available_bytes(&self) -> io::Result<Option<u64>>;

    /// Whether it takes writes at all.
    ///
    /// # Errors
    ///
    /// The place failed.
    fn is_writable(&self) -> io::Result<bool>;
}

/// Writes and reads back: for files whose loss nobody would notice otherwise. What is
/// not what was written does not stay.
///
/// # Errors
///
/// The place failed, or gave something else back than it was given.
pub fn write_proved(storage: &dyn Storage, path: &str, content: Bytes) -> io::Result<()> {
    storage.write(path, content.clone())?;
    if storage.read_back(path)? == content {
        return Ok(());
    }
    // Where nothing may be removed, it is found damaged by whoever reads it.
    drop(storage.remove(path));
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("`{path}` read back differs from what was written"),
    ))
}

/// A file that need not be there.
///
/// # Errors
///
/// The place failed.
pub fn read_if_there(storage: &dyn Storage, path: &str) -> io::Result<Option<Bytes>> {
    match storage.read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file that need not be there.
///
/// # Errors
///
/// The place failed.
pub fn remove_if_there(storage: &dyn Storage, path: &str) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The folder of a path and the name in it; the root is `""`.
#[must_use]
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A layer has the same calls as what it lies around; this names what it passes on.
pub(crate) type Inner = Arc<dyn Storage>;
