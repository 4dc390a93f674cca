//! Hashes of weights, computed once for each file and remembered over restarts.
//!
//! A model of 14 GB takes a minute to read; nobody waits for that at every start. What
//! counts as the same file: device, inode, size, and both of its times. Whoever can
//! change a file without changing those could change this list as well.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use homelab_common::{
    error_chain::Chain,
    ledger::{Ledger, LedgerError},
};
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Sha256;

/// The form of what is stored.
const VERSION: u32 = 1;

/// Weights are read in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// More files than any host has models; the list starts anew beyond.
const FILES_MAX: usize = 1024;

/// By what a file is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    identity: Identity,
    sha256: String,
}

/// The hashes of files as they were last read.
#[derive(Debug)]
pub struct Hashes {
    ledger: Mutex<Ledger<BTreeMap<PathBuf, Known>>>,
}

impl Hashes {
    /// Reads what is remembered in `file`. What cannot be read is not believed: files
    /// are hashed again then.
    ///
    /// # Errors
    /// The file can neither be read nor be moved out of the way.
    pub fn load(file: &Path) -> Result<Self, LedgerError> {
        let ledger = match Ledger::load(file, VERSION) {
            Ok(ledger) => ledger,
            Err(error) => {
                warn!(error = %Chain(&error), "hashes of models are computed anew");
                // If it cannot be removed, loading says so.
                drop(std::fs::remove_file(file));
                Ledger::load(file, VERSION)?
            }
        };
        Ok(Self { ledger: Mutex::new(ledger) })
    }

    /// The hash of the file at `path`, which is `identity` now. Blocks, for long if the
    /// file is not known yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(&self, path: &Path, identity: Identity) -> io::Result<Sha256> {
        if let Some(known) = self.known(path, identity) {
            return Ok(known);
        }
        let found = hash(path)?;
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = ledger.get().cloned().unwrap_or_default();
        if all.len() >= FILES_MAX {
            all.clear();
        }
        all.insert(path.to_owned(), Known { identity, sha256: found.to_string() });
        if let Err(error) = ledger.store(all) {
            warn!(error = %Chain(&error), "the hash of a model is not remembered");
        }
        Ok(found)
    }

    fn known(&self, path: &Path, identity: Identity) -> Option<Sha256> {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let known = ledger.get()?.get(path)?;
        (known.identity == identity).then(|| known.sha256.parse().ok())?
    }
}

fn hash(path: &Path) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = file.read(&mut piece)?;
        let Some(read) = piece.get(..length).filter(|read| !read.is_empty()) else { break };
        context.update(read);
    }
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(context.finish().as_ref());
    Ok(Sha256::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    // SHA-256 of "abc": the first example of FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn identity(path: &Path) -> Identity {
        Identity::from(&std::fs::metadata(path).unwrap())
    }

    #[test]
    fn a_file_is_read_once_however_often_the_worker_starts() {
        let folder = tempfile::tempdir().unwrap();
        let (path, list) = (folder.path().join("m.gguf"), folder.path().join("hashes.json"));
        std::fs::write(&path, "abc").unwrap();
        let identity = identity(&path);
        let hashes = Hashes::load(&list).unwrap();
        assert_eq!(hashes.of(&path, identity).unwrap().to_string(), ABC);
        // Gone, so that it could not be read again.
        std::fs::remove_file(&path).unwrap();
        let again = Hashes::load(&list).unwrap();
        assert_eq!(again.of(&path, identity).unwrap().to_string(), ABC);
    }

    #[test]
    fn another_file_under_the_same_name_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let hashes = Hashes::load(&folder.path().join("hashes.json")).unwrap();
        std::fs::write(&path, "abc").unwrap();
        hashes.of(&path, identity(&path)).unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "abd").unwrap();
        // As large and by its first time as old as before.
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_ne!(hashes.of(&path, identity(&path)).unwrap().to_string(), ABC);
    }

    #[test]
    fn a_damaged_list_is_no_reason_to_believe_it_or_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let (path, list) = (folder.path().join("m.gguf"), folder.path().join("hashes.json"));
        std::fs::write(&path, "abc").unwrap();
        std::fs::write(&list, "{").unwrap();
        let hashes = Hashes::load(&list).unwrap();
        assert_eq!(hashes.of(&path, identity(&path)).unwrap().to_string(), ABC);
    }
}
