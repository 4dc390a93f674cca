//! The folder that a drill works in, and how it is removed again.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use homelab_common::error_chain::Chain;
use tracing::warn;

use super::{DrillError, FolderTarget};
use crate::ids::RunId;

/// How the name of a scratch folder begins; the run's identifier follows.
pub const PREFIX: &str = "homelab-drill-";

/// The file that says whose the folder is: the run's identifier and the host of the
/// agent. Whatever lacks it is not ours.
pub const MARKER: &str = "homelab-drill.marker";

/// The scratch folder of one drill.
pub(super) struct Scratch<'a> {
    pub(super) path: PathBuf,
    target: &'a FolderTarget,
}

impl<'a> Scratch<'a> {
    /// Makes it, marked before anything else is in it.
    pub(super) fn make(target: &'a FolderTarget, run: RunId) -> Result<Self, DrillError> {
        let path = folder_of(target, run);
        let refused = |source| target.refused(&path, source);
        DirBuilder::new().mode(0o700).create(&path).map_err(refused)?;
        let marked = mark(&path, &text_of(run, &target.owner));
        let scratch = Self { path: path.clone(), target };
        match marked {
            Ok(()) => Ok(scratch),
            Err(source) => {
                scratch.remove();
                Err(refused(source))
            }
        }
    }

    /// Removes all of it. What cannot be removed is left to the sweeper.
    pub(super) fn remove(self) {
        if let Err(error) = remove(&self.path) {
            warn!(
                target_name = %self.target.name, path = %self.path.display(), error = %Chain(&error),
                "could not remove what a drill made; the sweeper will"
            );
        }
    }
}

fn folder_of(target: &FolderTarget, run: RunId) -> PathBuf {
    target.path.join(format!("{PREFIX}{run}"))
}

fn text_of(run: RunId, owner: &str) -> String {
    format!("{run} {owner}\n")
}

fn mark(folder: &Path, text: &str) -> io::Result<()> {
    let path = folder.join(MARKER);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The marker goes last, so that what is interrupted here is still ours. A restored
/// tree may hold folders that nobody may write to.
fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    match fs::remove_file(folder.join(MARKER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir(folder)
}

/// Links are not followed: `file_type` is the entry's own.
fn unlock(folder: &Path) -> io::Result<()> {
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(())
}

/// See [`FolderTarget::sweep`].
pub(super) fn sweep(
    target: &FolderTarget,
    is_alive: impl Fn(RunId) -> bool,
) -> Result<Vec<String>, DrillError> {
    let unusable = |source| target.refused(&target.path, source);
    let mut removed = Vec::new();
    for entry in fs::read_dir(&target.path).map_err(unusable)? {
        let entry = entry.map_err(unusable)?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name().to_string_lossy().into_owned();
        let run = name.strip_prefix(PREFIX).and_then(|run| run.parse::<RunId>().ok());
        let Some(run) = run.filter(|run| is_folder && !is_alive(*run)) else { continue };
        let path = folder_of(target, run);
        if path != entry.path() {
            continue;
        }
        match fs::read_to_string(path.join(MARKER)) {
            Ok(text) if text == text_of(run, &target.owner) => {
                remove(&path).map_err(|source| target.refused(&path, source))?;
                removed.push(name);
            }
            // Cut off between making and marking: only an empty folder can be that.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && fs::remove_dir(&path).is_ok() =>
            {
                removed.push(name);
            }
            _ => {}
        }
    }
    Ok(removed)
}
