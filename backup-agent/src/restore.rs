//! A snapshot back into files, all or nothing, and never over something.
//!
//! The files are written into a folder beside the target, compared with the hashes
//! of the snapshot, and the folder is renamed at the end. The rename itself refuses
//! an existing target (`RENAME_NOREPLACE`, rename(2)), so that nothing can slip in
//! between the check and the end.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tokio_util::sync::CancellationToken;

use crate::{
    ids::RunId,
    manifest::{Contents, FILE_NAME as MANIFEST, Manifest},
    progress::{Progress, Stage},
    repository::{Repository, RepositoryError, Snapshot, StoredFile},
    source::{files, postgres},
};

/// A restore that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Where the files lie.
    pub target: PathBuf,
    /// The files, compared by hash.
    pub files: Vec<StoredFile>,
    /// What to do by hand to put it back into service.
    pub next_steps: Vec<String>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Something is there already.
    #[error("`{}` exists; restore to a path that does not", target.display())]
    TargetExists {
        /// The target.
        target: PathBuf,
    },
    /// The path cannot be a target.
    #[error("`{}` is no absolute path below an existing folder", target.display())]
    BadTarget {
        /// The target.
        target: PathBuf,
    },
    /// The disk refused.
    #[error("could not write `{}`; nothing was restored", path.display())]
    Write {
        /// What was written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The snapshot could not be read.
    #[error("could not read the snapshot; nothing was restored")]
    Repository(#[from] RepositoryError),
    /// A file is not what was stored.
    #[error(
        "`{file}` of the snapshot has SHA-256 {found}, stored was {stored}; nothing was restored; \
         run a verification, and take another snapshot"
    )]
    Damaged {
        /// The file.
        file: String,
        /// What was read.
        found: String,
        /// What should have been.
        stored: String,
    },
    /// Somebody cancelled it.
    #[error("the restore was cancelled; nothing was restored")]
    Cancelled,
}

/// The folder in which a restore to `target` works until it is complete.
#[must_use]
pub fn partial_folder(target: &Path, run: RunId) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{run}.partial"))
}

/// Checks that `target` can be restored to.
///
/// # Errors
///
/// It exists, or is no absolute path below an existing folder.
pub fn check_target(target: &Path) -> Result<(), RestoreError> {
    let parent_is_there = target.parent().is_some_and(Path::is_dir);
    if !target.is_absolute() || target.file_name().is_none() || !parent_is_there {
        return Err(RestoreError::BadTarget { target: target.into() });
    }
    if target.symlink_metadata().is_ok() {
        return Err(RestoreError::TargetExists { target: target.into() });
    }
    Ok(())
}

/// Restores every file of `snapshot` into the new folder `target`. Blocks.
///
/// # Errors
///
/// Why nothing was restored; the target does not exist then.
pub fn restore(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    target: &Path,
    run: RunId,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Restored, RestoreError> {
    check_target(target)?;
    let partial = partial_folder(target, run);
    let restored = fill(repository, snapshot, &partial, progress, cancel)
        .and_then(|restored| Ok((restored, put_in_place(&partial, target)?)));
    match restored {
        Ok((files, ())) => {
            let manifest = fs::read(target.join(MANIFEST)).ok();
            let manifest = manifest.and_then(|bytes| Manifest::from_bytes(&bytes).ok());
            let next_steps =
                manifest.map(|manifest| next_steps(target, &manifest.contents)).unwrap_or_default();
            Ok(Restored { target: target.into(), files, next_steps })
        }
        Err(error) => {
            remove_partial(&partial);
            Err(if cancel.is_cancelled() { RestoreError::Cancelled } else { error })
        }
    }
}

/// Removes what an interrupted restore left.
pub fn remove_partial(partial: &Path) {
    match fs::remove_dir_all(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %partial.display(), %error, "could not remove half a restore");
        }
        _ => {}
    }
}

/// Writes every file of `snapshot` into the new folder `partial` and compares it by
/// hash. Blocks. What it leaves behind at an error is the caller's to remove.
pub(crate) fn fill(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    partial: &Path,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Vec<StoredFile>, RestoreError> {
    progress.enter(Stage::Restoring, Some(snapshot.source_bytes()));
    let write = |source| RestoreError::Write { path: partial.into(), source };
    DirBuilder::new().mode(0o700).create(partial).map_err(write)?;
    let mut files = Vec::new();
    let mut done = 0;
    for name in file_names(repository, snapshot, cancel)? {
        let path = partial.join(&name);
        let write = |source| RestoreError::Write { path: path.clone(), source };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut sink = BufWriter::with_capacity(1 << 20, file.map_err(write)?);
        let inside = snapshot.path_of(&name);
        let receipt = repository.read(&snapshot.id, &inside, &mut sink, cancel)?;
        sink.flush().map_err(write)?;
        let file = sink.into_inner().map_err(|error| write(error.into_error()))?;
        file.sync_all().map_err(write)?;
        if let Some(stored) = snapshot.file(&name)
            && stored.sha256 != receipt.sha256
        {
            return Err(RestoreError::Damaged {
                file: name,
                found: receipt.sha256.to_string(),
                stored: stored.sha256.to_string(),
            });
        }
        done += receipt.bytes;
        progress.done(done);
        files.push(StoredFile { name, bytes: receipt.bytes, sha256: receipt.sha256 });
    }
    Ok(files)
}

/// The manifest of a snapshot. Blocks.
///
/// # Errors
///
/// It cannot be read, or is none.
pub fn manifest(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    cancel: &CancellationToken,
) -> Result<Manifest, RepositoryError> {
    let mut bytes = Vec::new();
    repository.read(&snapshot.id, &snapshot.path_of(MANIFEST), &mut bytes, cancel)?;
    Manifest::from_bytes(&bytes).map_err(|error| RepositoryError::Mismatch {
        file: MANIFEST.to_owned(),
        repository: repository.name().clone(),
        detail: error.to_string(),
    })
}

/// A snapshot whose description was lost (`restic tag` drops it) still has its files,
/// and the manifest names them.
fn file_names(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    cancel: &CancellationToken,
) -> Result<Vec<String>, RepositoryError> {
    if !snapshot.files.is_empty() {
        return Ok(snapshot.files.iter().map(|file| file.name.clone()).collect());
    }
    let manifest = manifest(repository, snapshot, cancel)?;
    let names = manifest.files.into_iter().map(|file| file.name);
    Ok(names.chain([MANIFEST.to_owned()]).collect())
}

fn put_in_place(partial: &Path, target: &Path) -> Result<(), RestoreError> {
    let write = |source| RestoreError::Write { path: target.into(), source };
    File::open(partial).and_then(|folder| folder.sync_all()).map_err(write)?;
    match renameat2(AT_FDCWD, partial, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => {}
        Err(nix::errno::Errno::EEXIST) => {
            return Err(RestoreError::TargetExists { target: target.into() });
        }
        Err(error) => return Err(write(error.into())),
    }
    let parent = target.parent().unwrap_or_else(|| Path::new("/"));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(write)
}

/// What a person does with the restored files, by the standard tools of their kind and
/// with nothing of ours: lines to paste into a shell.
#[must_use]
pub fn next_steps(folder: &Path, contents: &Contents) -> Vec<String> {
    match contents {
        Contents::Postgres(contents) => postgres::restore::next_steps(folder, contents),
        Contents::Files(contents) => files::restore::next_steps(folder, contents),
    }
}
