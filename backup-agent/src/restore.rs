//! A snapshot back into files, all or nothing.
//!
//! The files are written into a folder beside the target, compared with the hashes
//! of the snapshot, and the folder takes the target's place at the end: see [`Place`].

mod place;

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use homelab_common::error_chain::Chain;
use tokio_util::sync::CancellationToken;

pub use place::{OnDamage, Place, partial_folder};

use crate::{
    failpoint,
    ids::{Name, RunId, SnapshotId},
    manifest::{Contents, FILE_NAME as MANIFEST, Manifest},
    progress::{Progress, Stage},
    repository::{Repository, RepositoryError, Snapshot, StoredFile},
    source::{files, git, opnsense, postgres, vaultwarden, zfs},
};

/// A restore that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Where the files lie.
    pub target: PathBuf,
    /// The files, compared by hash.
    pub files: Vec<StoredFile>,
    /// Files that are damaged and were left out, with why.
    pub damaged: Vec<String>,
    /// Where the old content of the target is now.
    pub kept_aside: Option<PathBuf>,
    /// What to do by hand to put it back into service.
    pub next_steps: Vec<String>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Something is there already.
    #[error(
        "`{}` exists; restore to a path that does not, or confirm with the backup's name that \
         it is to be replaced (what is there is kept beside it)",
        target.display()
    )]
    TargetExists {
        /// The target.
        target: PathBuf,
    },
    /// The confirmation is of something else.
    #[error(
        "the snapshot is of backup `{backup}`, the confirmation says `{said}`; nothing was replaced"
    )]
    NotConfirmed {
        /// What would be restored.
        backup: Name,
        /// What was said.
        said: String,
    },
    /// A repository would be written over, or into.
    #[error(
        "`{}` and the repository at `{}` are one inside the other; restore to another place",
        target.display(), repository.display()
    )]
    InRepository {
        /// The target.
        target: PathBuf,
        /// The repository's folder.
        repository: PathBuf,
    },
    /// Every file is damaged.
    #[error("no file of snapshot `{snapshot}` is intact; nothing was restored; take another one")]
    Nothing {
        /// The snapshot.
        snapshot: SnapshotId,
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

impl RestoreError {
    /// Whether the file in the repository is at fault.
    const fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            // A disk that cannot read one sector reads the others.
            Self::Repository(RepositoryError::Engine { .. }) => true,
            Self::Repository(error) => error.is_damage(),
            _ => false,
        }
    }
}

/// Restores every file of `snapshot` to `place`. Blocks.
///
/// # Errors
///
/// Why nothing was restored; what was there before is there still.
pub fn restore(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    place: &Place,
    run: RunId,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Restored, RestoreError> {
    place.check(&snapshot.backup, &[])?;
    let partial = partial_folder(&place.target, run);
    let restored =
        fill(repository, snapshot, &partial, place.damage, progress, cancel).and_then(|filled| {
            failpoint::reach("restore.filled");
            Ok((filled, place.take(&partial, run)?))
        });
    match restored {
        Ok((filled, kept_aside)) => {
            let manifest = fs::read(place.target.join(MANIFEST)).ok();
            let manifest = manifest.and_then(|bytes| Manifest::from_bytes(&bytes).ok());
            let steps = |manifest: Manifest| next_steps(&place.target, &manifest.contents);
            let next_steps = manifest.map(steps).unwrap_or_default();
            let Filled { files, damaged } = filled;
            Ok(Restored { target: place.target.clone(), files, damaged, kept_aside, next_steps })
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

/// What was read out of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    /// Compared by hash.
    pub(crate) files: Vec<StoredFile>,
    /// Left out, with why.
    pub(crate) damaged: Vec<String>,
}

/// Writes every file of `snapshot` into the new folder `partial` and compares it by
/// hash. Blocks. What it leaves behind at an error is the caller's to remove.
pub(crate) fn fill(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    partial: &Path,
    damage: OnDamage,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Filled, RestoreError> {
    progress.enter(Stage::Restoring, Some(snapshot.source_bytes()));
    let write = |source| RestoreError::Write { path: partial.into(), source };
    DirBuilder::new().mode(0o700).create(partial).map_err(write)?;
    let mut filled = Filled::default();
    let mut done = 0;
    for name in file_names(repository, snapshot, cancel)? {
        let path = partial.join(&name);
        match write_file(repository, snapshot, &name, &path, cancel) {
            Ok(file) => {
                done += file.bytes;
                progress.done(done);
                filled.files.push(file);
            }
            Err(error) if damage == OnDamage::LeaveOut && error.is_damage() => {
                filled.damaged.push(format!("`{name}`: {}", Chain(&error)));
                // Half a file would look like one.
                fs::remove_file(&path).map_err(write)?;
                if cancel.is_cancelled() {
                    return Err(RestoreError::Cancelled);
                }
            }
            Err(error) => return Err(error),
        }
    }
    if filled.files.is_empty() {
        return Err(RestoreError::Nothing { snapshot: snapshot.id.clone() });
    }
    Ok(filled)
}

fn write_file(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    name: &str,
    path: &Path,
    cancel: &CancellationToken,
) -> Result<StoredFile, RestoreError> {
    let write = |source| RestoreError::Write { path: path.into(), source };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut sink = BufWriter::with_capacity(1 << 20, file.map_err(write)?);
    let inside = snapshot.path_of(name);
    let receipt = repository.read(&snapshot.id, &inside, &mut sink, cancel)?;
    sink.flush().map_err(write)?;
    let file = sink.into_inner().map_err(|error| write(error.into_error()))?;
    file.sync_all().map_err(write)?;
    if let Some(stored) = snapshot.file(name)
        && stored.sha256 != receipt.sha256
    {
        return Err(RestoreError::Damaged {
            file: name.to_owned(),
            found: receipt.sha256.to_string(),
            stored: stored.sha256.to_string(),
        });
    }
    Ok(StoredFile { name: name.to_owned(), bytes: receipt.bytes, sha256: receipt.sha256 })
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
    read_manifest(repository, &bytes)
}

/// The files of a snapshot whose description was lost (`restic tag` drops it), as its
/// manifest has them, the manifest itself included. Blocks.
pub(crate) fn described(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    cancel: &CancellationToken,
) -> Result<Vec<StoredFile>, RepositoryError> {
    let mut bytes = Vec::new();
    let path = snapshot.path_of(MANIFEST);
    let receipt = repository.read(&snapshot.id, &path, &mut bytes, cancel)?;
    let manifest = read_manifest(repository, &bytes)?;
    let own =
        StoredFile { name: MANIFEST.to_owned(), bytes: receipt.bytes, sha256: receipt.sha256 };
    Ok(manifest.files.into_iter().chain([own]).collect())
}

fn read_manifest(repository: &dyn Repository, bytes: &[u8]) -> Result<Manifest, RepositoryError> {
    Manifest::from_bytes(bytes).map_err(|error| RepositoryError::Mismatch {
        file: MANIFEST.to_owned(),
        repository: repository.name().clone(),
        detail: error.to_string(),
    })
}

fn file_names(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    cancel: &CancellationToken,
) -> Result<Vec<String>, RepositoryError> {
    if !snapshot.files.is_empty() {
        return Ok(snapshot.files.iter().map(|file| file.name.clone()).collect());
    }
    let files = described(repository, snapshot, cancel)?;
    Ok(files.into_iter().map(|file| file.name).collect())
}

/// What a person does with the restored files, by the standard tools of their kind and
/// with nothing of ours: lines to paste into a shell.
#[must_use]
pub fn next_steps(folder: &Path, contents: &Contents) -> Vec<String> {
    match contents {
        Contents::Postgres(contents) => postgres::restore::next_steps(folder, contents),
        Contents::Files(contents) => files::restore::next_steps(folder, contents),
        Contents::Git(contents) => git::next_steps(folder, contents),
        Contents::Opnsense(contents) => opnsense::next_steps(folder, contents),
        Contents::Zfs(contents) => zfs::restore::next_steps(folder, contents),
        Contents::Vaultwarden(contents) => vaultwarden::restore::next_steps(folder, contents),
    }
}
