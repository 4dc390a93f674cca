//! The private folder of a command, and those that commands left which were killed.
//!
//! A password file for a database client may lie in it, so what a killed command leaves
//! must not stay. Whoever lives holds a lock on their folder, which goes with the
//! process: no number of a process can be mistaken for another one's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use crate::ids::RunId;

/// The name begins like this; a run's id follows.
const PREFIX: &str = "homelab-backup-agent-";

/// Written once the folder is locked: one without it has nothing in it yet.
const MARKER: &str = "of-a-command";

const MODE: u32 = 0o700;

/// For its owner only, and removed with the value.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    path: PathBuf,
    _lock: File,
}

impl PrivateFolder {
    /// Makes one below `parent`, where those of dead commands are removed first.
    pub(super) fn make(parent: &Path, run: RunId) -> io::Result<Self> {
        sweep(parent);
        let path = parent.join(format!("{PREFIX}{run}"));
        DirBuilder::new().mode(MODE).create(&path)?;
        let lock = open(&path)?;
        let folder = Self { path, _lock: lock };
        folder._lock.try_lock()?;
        fs::write(folder.path.join(MARKER), "")?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a private folder is left");
        }
    }
}

/// Removes what dead commands of this user left. What cannot be looked at is left.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let run = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if run.is_none_or(|run| run.parse::<RunId>().is_err()) {
            continue;
        }
        let path = entry.path();
        match is_left(&path).and_then(|left| if left { fs::remove_dir_all(&path) } else { Ok(()) })
        {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a private folder is left");
            }
            _ => {}
        }
    }
}

fn is_left(path: &Path) -> io::Result<bool> {
    let folder = open(path)?;
    let found = folder.metadata()?;
    let is_ours = found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o7777 == MODE;
    Ok(is_ours && path.join(MARKER).exists() && folder.try_lock().is_ok())
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

#[cfg(test)]
mod tests {
    use homelab_common::{chance::SystemChance, clock::SystemClock};

    use super::*;

    fn run() -> RunId {
        RunId::generate(&SystemClock, &SystemChance)
    }

    #[test]
    fn the_folder_of_a_command_that_lives_is_left_alone() {
        let parent = tempfile::tempdir().expect("a scratch directory");
        let first = PrivateFolder::make(parent.path(), run()).expect("a folder");
        let second = PrivateFolder::make(parent.path(), run()).expect("a folder");
        assert!(first.path().is_dir() && second.path().is_dir());
        drop((first, second));
        assert_eq!(fs::read_dir(parent.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn only_what_has_our_name_and_our_marker_is_swept() {
        let parent = tempfile::tempdir().expect("a scratch directory");
        let make = |name: &str, marker: &str| {
            let path = parent.path().join(name);
            DirBuilder::new().mode(MODE).create(&path).expect("a folder");
            fs::write(path.join(marker), "").expect("a file");
            path
        };
        let dead = make(&format!("{PREFIX}{}", run()), MARKER);
        let others = [
            make(&format!("{PREFIX}{}", run()), "precious"),
            make(&format!("{PREFIX}notes"), MARKER),
            make("precious", MARKER),
        ];
        sweep(parent.path());
        assert!(!dead.exists());
        assert!(others.iter().all(|path| path.exists()));
    }
}
