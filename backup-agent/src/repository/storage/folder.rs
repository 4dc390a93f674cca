//! A folder on a local disk or a network mount.
//!
//! All access goes through the open folder that the guard let us hold (see
//! [`super::super::identity`]), so that nothing lands on the disk under a mount that
//! vanished. After `ESTALE`, which an NFS server answers when it has forgotten the
//! folder's handle, the place is guarded again from its path and the call repeated
//! once.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    fcntl::{PosixFadviseAdvice, posix_fadvise},
};
use ring::rand::{SecureRandom, SystemRandom};

use super::{Listed, Range, Storage, TEMPORARY, split};
use crate::{
    repository::{
        identity::{Anchor, Place, flush_folder, is_unsupported},
        probe::{self, CANARY_BYTES, Grade, Steps},
    },
    stream::hex,
};

/// A repository's folder; see the module.
#[derive(Debug)]
pub struct Folder {
    place: Place,
    anchor: RwLock<Arc<Anchor>>,
}

impl Folder {
    /// Works through `anchor`, which `place` gave.
    #[must_use]
    pub fn new(place: Place, anchor: Anchor) -> Self {
        Self { place, anchor: RwLock::new(Arc::new(anchor)) }
    }

    fn anchor(&self) -> Arc<Anchor> {
        Arc::clone(&self.anchor.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn at<T>(&self, work: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
        match work(&self.anchor().through()) {
            Err(error) if error.raw_os_error() == Some(Errno::ESTALE as i32) => {
                let fresh = Arc::new(self.place.guard().map_err(io::Error::other)?);
                *self.anchor.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
                work(&fresh.through())
            }
            outcome => outcome,
        }
    }
}

impl Storage for Folder {
    fn location(&self) -> String {
        self.place.path.display().to_string()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.at(|root| {
            let mut listed = Vec::new();
            for entry in fs::read_dir(root.join(folder))? {
                let entry = entry?;
                // A file may go between the listing and the look at it.
                match entry.metadata() {
                    Ok(metadata) if metadata.is_file() => listed.push(Listed {
                        name: entry.file_name().to_string_lossy().into_owned(),
                        bytes: metadata.len(),
                        modified_at: metadata.modified().ok().and_then(|at| at.try_into().ok()),
                    }),
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(listed)
        })
    }

    fn bytes_of(&self, path: &str) -> io::Result<u64> {
        self.at(|root| fs::metadata(root.join(path)).map(|metadata| metadata.len()))
    }

    fn read(&self, path: &str) -> io::Result<Bytes> {
        self.at(|root| fs::read(root.join(path)).map(Bytes::from))
    }

    fn read_range(&self, path: &str, range: Range) -> io::Result<Bytes> {
        self.at(|root| {
            let mut buffer = vec![0; range.length];
            File::open(root.join(path))?.read_exact_at(&mut buffer, range.offset)?;
            Ok(buffer.into())
        })
    }

    fn read_back(&self, path: &str) -> io::Result<Bytes> {
        self.at(|root| {
            let file = File::open(root.join(path))?;
            forget_cached(&file);
            let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            let mut buffer = vec![0; length];
            file.read_exact_at(&mut buffer, 0)?;
            // Nobody reads it again soon.
            forget_cached(&file);
            Ok(buffer.into())
        })
    }

    fn write(&self, path: &str, content: Bytes) -> io::Result<()> {
        self.at(|root| write(root, path, &content))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.at(|root| {
            fs::remove_file(root.join(path))?;
            flush_folder(&root.join(split(path).0))
        })
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.at(|root| {
            make_folder(&root.join(path))?;
            flush_folder(&root.join(split(path).0))
        })
    }

    fn probe(&self) -> io::Result<Grade> {
        let mut noise = vec![0; CANARY_BYTES];
        SystemRandom::new().fill(&mut noise).map_err(|_| no_random())?;
        let suffix = random_suffix()?;
        self.at(|root| probe::grade(&Canaries(root), &suffix, &noise))
    }

    fn available_bytes(&self) -> io::Result<Option<u64>> {
        self.at(|_| self.anchor().available_bytes().map(Some))
    }

    fn is_writable(&self) -> io::Result<bool> {
        self.at(|_| self.anchor().is_writable())
    }
}

/// Only a wish: a memory file system has nothing to drop.
fn forget_cached(file: &File) {
    if let Err(errno) = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED) {
        tracing::debug!(%errno, "the page cache was not dropped");
    }
}

/// Temporary name, write, fsync, close, rename, fsync of the folder. Every step's
/// error counts: a network file system may report the lost write at any of them.
fn write(root: &Path, path: &str, content: &[u8]) -> io::Result<()> {
    let (folder, name) = split(path);
    let folder = root.join(folder);
    let temporary = folder.join(format!("{name}{TEMPORARY}{}", random_suffix()?));
    let written = create(&temporary).and_then(|file| fill(file, content));
    let outcome = written.and_then(|()| fs::rename(&temporary, root.join(path)));
    if outcome.is_err() {
        // What failed may have left nothing to remove; the first error says why.
        drop(fs::remove_file(&temporary));
        return outcome;
    }
    flush_folder(&folder)
}

/// Makes the file, and the folder if that is what is missing: restic makes some of
/// the 256 folders of packs only when it needs them. Never the folder's parent.
fn create(path: &Path) -> io::Result<File> {
    let open = || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(folder)?;
            open()
        }
        (outcome, _) => outcome,
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn fill(mut file: File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()?;
    nix::unistd::close(file).map_err(io::Error::from)
}

/// For names that nobody else has.
pub(crate) fn random_suffix() -> io::Result<String> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| no_random())?;
    Ok(hex(&bytes))
}

fn no_random() -> io::Error {
    io::Error::other("the system gives no random numbers")
}

/// The steps of a probe in a folder.
struct Canaries<'a>(&'a Path);

impl Steps for Canaries<'_> {
    fn write_flushed(&self, name: &str, content: &[u8]) -> io::Result<bool> {
        let mut file = create(&self.0.join(name))?;
        file.write_all(content)?;
        // Without it no file can be stored here.
        file.sync_all()?;
        nix::unistd::close(file)?;
        Ok(true)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn flush_names(&self) -> io::Result<bool> {
        supported(File::open(self.0)?.sync_all())
    }

    fn read_back(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut file = match File::open(self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        forget_cached(&file);
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(Some(content))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }
}

/// Whether a flush was done; false where the file system has no such thing.
fn supported(flushed: io::Result<()>) -> io::Result<bool> {
    match flushed {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use uuid::Uuid;

    use super::*;
    use crate::repository::identity::Site;

    fn folder(dir: &Path) -> Folder {
        let place = Place { path: dir.into(), id: Uuid::nil(), mount: None };
        let storage = place.enter_empty().expect("an empty folder");
        place.write_identity(storage.as_ref()).expect("an identity");
        Folder::new(place.clone(), place.guard().expect("a repository"))
    }

    #[test]
    fn pitfall_16_a_stale_handle_is_taken_anew_from_the_path_and_tried_once_more() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let folder = folder(dir.path());
        let stale = || io::Error::from_raw_os_error(Errno::ESTALE as i32);
        let calls = Cell::new(0);
        let work = |_: &Path| {
            calls.set(calls.get() + 1);
            if calls.get() == 1 { Err(stale()) } else { Ok(calls.get()) }
        };
        assert_eq!(folder.at(work).expect("the second call"), 2);
        let error = folder.at(|_| Err::<(), _>(stale())).expect_err("stale again");
        assert_eq!(error.raw_os_error(), Some(Errno::ESTALE as i32));
        fs::remove_file(dir.path().join(crate::repository::identity::FILE_NAME)).expect("removed");
        let error = folder.at(|_| Err::<(), _>(stale())).expect_err("not our repository");
        assert!(error.to_string().contains("holds no homelab repository"), "{error}");
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let folder = folder(dir.path());
        folder.make_folder("data").expect("a folder");
        folder.write("data/ab/abc", Bytes::from_static(b"pack")).expect("written");
        assert_eq!(folder.read_back("data/ab/abc").expect("read"), "pack");
        assert_eq!(folder.list("data/ab").expect("a listing").len(), 1);
        // The name is taken by a folder: the rename fails, and nothing is left.
        fs::create_dir_all(dir.path().join("data/ab/taken/x")).expect("a folder");
        folder.write("data/ab/taken", Bytes::from_static(b"pack")).expect_err("refused");
        assert_eq!(folder.list("data/ab").expect("a listing").len(), 1);
        // Never more than the last folder: what is above it went away with the mount.
        let error = folder.write("gone/ab/abc", Bytes::new()).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_local_disk_is_durable() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let folder = folder(dir.path());
        assert_eq!(folder.probe().expect("a grade"), Grade::Durable);
        assert_eq!(folder.list("").expect("a listing").len(), 1, "a canary is left");
    }
}
