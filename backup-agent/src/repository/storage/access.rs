//! What this host may do with a repository.
//!
//! An agent that can be broken into should be able to add and never to delete: with
//! `append-only` no file is ever removed or replaced, so that forgetting and pruning
//! need another host or at least another configuration. This is what *our* software
//! holds itself to; that the host cannot do it either must be enforced by the server
//! (an SFTP account or export without the right to delete).

use std::{fmt, io};

use bytes::Bytes;

use super::{Inner, Listed, Range, Storage, split};
use crate::repository::{lock, probe::Grade};

/// Rights on a repository, as the configuration names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Store, forget, prune.
    #[default]
    Full,
    /// Store only.
    AppendOnly,
    /// Restore, verify and drill only.
    ReadOnly,
}

impl Access {
    /// The words of the configuration.
    pub const WORDS: [(&str, Self); 3] =
        [("full", Self::Full), ("append-only", Self::AppendOnly), ("read-only", Self::ReadOnly)];
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, access)| access == self);
        f.write_str(word.map_or("full", |(word, _)| word))
    }
}

/// Refuses what the access does not allow.
#[derive(Debug)]
pub struct Restricted {
    inner: Inner,
    access: Access,
}

impl Restricted {
    /// Holds `inner` to `access`.
    #[must_use]
    pub fn new(inner: Inner, access: Access) -> Self {
        Self { inner, access }
    }

    fn refused(&self, what: &str, path: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("`{path}` may not be {what}: this host has `access = \"{}\"`", self.access),
        )
    }
}

/// Lock objects come and go with the work that they stand for.
fn is_transient(path: &str) -> bool {
    split(path).0 == lock::FOLDER
}

impl Storage for Restricted {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }

    fn bytes_of(&self, path: &str) -> io::Result<u64> {
        self.inner.bytes_of(path)
    }

    fn read(&self, path: &str) -> io::Result<Bytes> {
        self.inner.read(path)
    }

    fn read_range(&self, path: &str, range: Range) -> io::Result<Bytes> {
        self.inner.read_range(path, range)
    }

    fn read_back(&self, path: &str) -> io::Result<Bytes> {
        self.inner.read_back(path)
    }

    fn write(&self, path: &str, content: Bytes) -> io::Result<()> {
        match self.access {
            Access::Full => self.inner.write(path, content),
            Access::ReadOnly => Err(self.refused("written", path)),
            // Signs of life of whoever stores.
            Access::AppendOnly if is_transient(path) => self.inner.write(path, content),
            Access::AppendOnly => match self.inner.bytes_of(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.inner.write(path, content)
                }
                // The same bytes under the name of their hash are no change.
                Ok(_) if self.inner.read(path)? == content => Ok(()),
                Ok(_) => Err(self.refused("replaced", path)),
                Err(error) => Err(error),
            },
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        match self.access {
            Access::Full => self.inner.remove(path),
            Access::AppendOnly if is_transient(path) => self.inner.remove(path),
            Access::AppendOnly | Access::ReadOnly => Err(self.refused("removed", path)),
        }
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        match self.access {
            Access::Full | Access::AppendOnly => self.inner.make_folder(path),
            Access::ReadOnly => Err(self.refused("made", path)),
        }
    }

    fn probe(&self) -> io::Result<Grade> {
        match self.access {
            // The canary is no file of the repository, and is gone afterwards.
            Access::Full | Access::AppendOnly => self.inner.probe(),
            Access::ReadOnly => Err(self.refused("probed", "")),
        }
    }

    fn available_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.available_bytes()
    }

    fn is_writable(&self) -> io::Result<bool> {
        Ok(self.access != Access::ReadOnly && self.inner.is_writable()?)
    }
}
