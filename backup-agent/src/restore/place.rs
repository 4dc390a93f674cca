//! Where a restore goes, and how it gets there.
//!
//! A new folder is put in place by a rename that itself refuses an existing target
//! (`RENAME_NOREPLACE`, rename(2)), so that nothing can slip in between the check and
//! the end. A folder that is to be replaced is *exchanged* with the new one in one step
//! (`RENAME_EXCHANGE`): there is no moment without either, nothing of the old one stays
//! beside the new (a database and a stale log of it, say), and the old one is kept.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
};

use super::RestoreError;
use crate::{
    failpoint,
    ids::{Name, RunId},
    repository::identity::FILE_NAME as IDENTITY,
};

/// What a damaged file does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Nothing is restored.
    #[default]
    Refuse,
    /// The others are restored, and it is named.
    LeaveOut,
}

/// Where a restore goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The folder that it becomes.
    pub target: PathBuf,
    /// The confirmation that a folder which exists is to be replaced: the backup's name.
    pub replace: Option<String>,
    /// What a damaged file does.
    pub damage: OnDamage,
}

/// The folder in which a restore to `target` works until it is complete.
#[must_use]
pub fn partial_folder(target: &Path, run: RunId) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{run}.partial"))
}

/// Where the old content of `target` is kept.
fn kept_folder(target: &Path, run: RunId) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}.before-{run}"))
}

impl Place {
    /// A folder that does not exist yet.
    #[must_use]
    pub fn new(target: &Path) -> Self {
        Self { target: target.into(), replace: None, damage: OnDamage::Refuse }
    }

    /// Checks that a snapshot of `backup` can be restored here. `repositories` are the
    /// folders that must not be written to; others are known by what lies in them.
    ///
    /// # Errors
    ///
    /// It exists and is not to be replaced, is no absolute path below an existing
    /// folder, or is in the way of a repository.
    pub fn check(&self, backup: &Name, repositories: &[PathBuf]) -> Result<(), RestoreError> {
        let bad = || RestoreError::BadTarget { target: self.target.clone() };
        if !self.target.is_absolute() {
            return Err(bad());
        }
        let name = self.target.file_name().ok_or_else(bad)?;
        let parent = self.target.parent().and_then(|parent| parent.canonicalize().ok());
        let parent = parent.filter(|parent| parent.is_dir()).ok_or_else(bad)?;
        self.check_repositories(&parent.join(name), &parent, repositories)?;
        match (self.target.symlink_metadata(), &self.replace) {
            (Err(_), _) => Ok(()),
            (Ok(_), Some(said)) if said != backup.as_str() => {
                Err(RestoreError::NotConfirmed { backup: backup.clone(), said: said.clone() })
            }
            (Ok(found), Some(_)) if found.is_dir() => Ok(()),
            (Ok(_), _) => Err(RestoreError::TargetExists { target: self.target.clone() }),
        }
    }

    fn check_repositories(
        &self,
        target: &Path,
        parent: &Path,
        repositories: &[PathBuf],
    ) -> Result<(), RestoreError> {
        let is_one = |folder: &Path| folder.join(IDENTITY).symlink_metadata().is_ok();
        let above = parent.ancestors().chain([target]).find(|folder| is_one(folder));
        let below = || repositories.iter().map(PathBuf::as_path).find(|it| it.starts_with(target));
        match above.or_else(below) {
            Some(repository) => Err(RestoreError::InRepository {
                target: self.target.clone(),
                repository: repository.into(),
            }),
            None => Ok(()),
        }
    }

    /// Puts the complete folder `partial` here; gives where the old content is now.
    pub(super) fn take(&self, partial: &Path, run: RunId) -> Result<Option<PathBuf>, RestoreError> {
        let write = |source| RestoreError::Write { path: self.target.clone(), source };
        File::open(partial).and_then(|folder| folder.sync_all()).map_err(write)?;
        let kept = match rename(partial, &self.target, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => None,
            Err(Errno::EEXIST) if self.replace.is_some() => Some(self.exchange(partial, run)?),
            Err(Errno::EEXIST) => {
                return Err(RestoreError::TargetExists { target: self.target.clone() });
            }
            Err(error) => return Err(write(error.into())),
        };
        let parent = self.target.parent().unwrap_or_else(|| Path::new("/"));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(write)?;
        Ok(kept)
    }

    /// The new folder leaves the name of what is swept *before* the exchange: a crash
    /// in between must not leave the old content under it.
    fn exchange(&self, partial: &Path, run: RunId) -> Result<PathBuf, RestoreError> {
        let write = |error: Errno| RestoreError::Write {
            path: self.target.clone(),
            source: io::Error::from(error),
        };
        let kept = kept_folder(&self.target, run);
        rename(partial, &kept, RenameFlags::RENAME_NOREPLACE).map_err(write)?;
        failpoint::reach("restore.named");
        if let Err(error) = rename(&kept, &self.target, RenameFlags::RENAME_EXCHANGE) {
            // Still the new one: nothing was exchanged.
            if let Err(left) = fs::rename(&kept, partial) {
                tracing::warn!(path = %kept.display(), error = %left, "a restore is left here");
            }
            return Err(write(error));
        }
        failpoint::reach("restore.exchanged");
        Ok(kept)
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn wiki() -> Name {
        "wiki".parse().expect("a name")
    }

    fn run() -> RunId {
        RunId::from(Uuid::from_u128(7))
    }

    #[test]
    fn a_target_inside_or_around_a_repository_is_refused() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let repository = dir.path().join("nas/homelab");
        fs::create_dir_all(repository.join("data")).expect("made");
        fs::write(repository.join(IDENTITY), "{}").expect("written");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&repository, &link).expect("linked");
        let known = [repository.clone()];
        for target in [repository.join("x"), repository.join("data/x"), link.join("x")] {
            let refused = Place::new(&target).check(&wiki(), &known).expect_err("inside");
            assert!(matches!(refused, RestoreError::InRepository { .. }), "{refused}");
        }
        let around = Place { replace: Some("wiki".into()), ..Place::new(&dir.path().join("nas")) };
        let refused = around.check(&wiki(), &known).expect_err("around");
        assert!(matches!(refused, RestoreError::InRepository { .. }), "{refused}");
    }

    #[test]
    fn an_existing_folder_is_replaced_only_with_the_name_of_its_backup() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let target = dir.path().join("wiki-data");
        fs::create_dir(&target).expect("made");
        let place =
            |word: Option<&str>| Place { replace: word.map(str::to_owned), ..Place::new(&target) };
        let check = |word| place(word).check(&wiki(), &[]);
        assert!(matches!(check(None), Err(RestoreError::TargetExists { .. })));
        assert!(matches!(check(Some("yes")), Err(RestoreError::NotConfirmed { .. })));
        check(Some("wiki")).expect("confirmed");
    }

    #[test]
    fn pitfall_29_a_replaced_folder_is_exchanged_whole_and_the_old_one_kept() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let target = dir.path().join("vault");
        fs::create_dir(&target).expect("made");
        fs::write(target.join("db.sqlite3"), "old").expect("written");
        fs::write(target.join("db.sqlite3-wal"), "stale").expect("written");
        let partial = partial_folder(&target, run());
        fs::create_dir(&partial).expect("made");
        fs::write(partial.join("db.sqlite3"), "new").expect("written");
        let place = Place { replace: Some("wiki".into()), ..Place::new(&target) };
        let kept = place.take(&partial, run()).expect("taken").expect("kept");
        assert_eq!(fs::read(target.join("db.sqlite3")).expect("a file"), b"new");
        assert!(!target.join("db.sqlite3-wal").exists(), "the stale log is beside the restore");
        assert_eq!(fs::read(kept.join("db.sqlite3-wal")).expect("a file"), b"stale");
        assert!(!partial.exists());
    }

    #[test]
    fn a_file_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let target = dir.path().join("file");
        fs::write(&target, "precious").expect("written");
        let place = Place { replace: Some("wiki".into()), ..Place::new(&target) };
        assert!(matches!(place.check(&wiki(), &[]), Err(RestoreError::TargetExists { .. })));
    }
}
