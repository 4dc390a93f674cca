//! A snapshot of files, restored into a folder of its own and looked at there.
//!
//! The frame does what is the same for all kinds: room, a scratch folder that says
//! whose it is, the files with their hashes, and cleaning up. Each kind then looks at
//! the files with its own tools.

mod scratch;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use homelab_common::{clock::Clock, error_chain::Chain, exec::Exec};
use nix::sys::statvfs::statvfs;
use tokio_util::sync::CancellationToken;

use super::{DrillError, Shown, Verdict, Work, target_error};
use crate::{
    failpoint,
    ids::{Name, RunId},
    manifest::{Contents, Manifest},
    progress::{Progress, Stage},
    restore::{self, OnDamage, RestoreError},
    source::{SourceError, files, git, opnsense, vaultwarden},
};
use scratch::Scratch;
pub use scratch::{MARKER, PREFIX};

/// A folder to restore into.
#[derive(Clone, Debug)]
pub struct FolderTarget {
    /// Its name.
    pub name: Name,
    /// The folder. It must exist; what a drill makes lies directly below it.
    pub path: PathBuf,
    /// This host: what it makes there carries the name.
    pub owner: String,
    /// What runs there.
    pub tools: FolderTools,
    /// A Vaultwarden to start on restored data, if it is not where it usually is.
    pub vaultwarden: Option<PathBuf>,
}

/// What looking at restored files takes.
#[derive(Clone, Debug)]
pub struct FolderTools {
    /// Runs programs.
    pub exec: Arc<dyn Exec>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Whatever takes longer is ended.
    pub run_max: Duration,
}

/// A look at restored files, for the kind that has to take it. It happens on a thread
/// that may block.
#[derive(Debug)]
pub struct Examination<'a> {
    /// The drill.
    pub run: RunId,
    /// The target's name, for errors.
    pub target: &'a Name,
    /// What runs there.
    pub tools: &'a FolderTools,
    /// An empty folder for whatever the look needs; removed with everything else.
    pub work: &'a Path,
    /// Fires when somebody cancels the drill.
    pub cancel: &'a CancellationToken,
    /// Where to say how far it has come.
    pub progress: &'a Progress,
}

impl Examination<'_> {
    /// Waits for something asynchronous, such as a program.
    ///
    /// # Errors
    ///
    /// The drill was cancelled meanwhile.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, DrillError> {
        tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(DrillError::Cancelled),
                done = future => Ok(done),
            }
        })
    }

    /// Trouble of the target, in the words of the kind: it makes the drill unverified.
    #[must_use]
    pub fn trouble(&self, source: impl Into<SourceError>) -> DrillError {
        target_error(self.target, source)
    }

    /// The same, for what the system refused.
    #[must_use]
    pub fn refused(&self, path: &Path, source: std::io::Error) -> DrillError {
        DrillError::Folder { target: self.target.clone(), path: path.into(), source }
    }
}

/// Looks at the restored files in `folder`. What is wrong with them is a verdict;
/// `restore_elapsed` is what it took beyond the files to make them usable.
fn examine(
    folder: &Path,
    work: &Work<'_>,
    manifest: &Manifest,
    examination: &Examination<'_>,
) -> Result<Shown, DrillError> {
    match &manifest.contents {
        Contents::Postgres(_) => Err(work.unsuited(manifest, "postgres")),
        Contents::Files(contents) => files::restore::examine(folder, contents, examination),
        Contents::Git(contents) => git::examine(folder, contents, examination),
        Contents::Opnsense(contents) => opnsense::examine(folder, contents, examination),
        Contents::Zfs(_) => Err(work.unsuited(manifest, "zfs")),
        Contents::Vaultwarden(contents) => {
            let program = work.drill.target.vaultwarden();
            vaultwarden::restore::examine(folder, contents, program, examination)
        }
    }
}

/// Whether snapshots of this kind can be looked at in a folder.
fn suits(work: &Work<'_>, manifest: &Manifest) -> Result<(), DrillError> {
    match &manifest.contents {
        Contents::Postgres(_) => Err(work.unsuited(manifest, "postgres")),
        Contents::Files(_)
        | Contents::Git(_)
        | Contents::Opnsense(_)
        | Contents::Vaultwarden(_) => Ok(()),
        Contents::Zfs(_) => Err(work.unsuited(manifest, "zfs")),
    }
}

impl FolderTarget {
    pub(super) fn inspect(
        &self,
        work: &Work<'_>,
        manifest: &Manifest,
    ) -> Result<String, DrillError> {
        suits(work, manifest)?;
        self.available_bytes()?;
        Ok(format!("a folder of its own below `{}`", self.path.display()))
    }

    pub(super) fn show(&self, work: &Work<'_>, manifest: &Manifest) -> Result<Shown, DrillError> {
        suits(work, manifest)?;
        // The files, and what is unpacked from them.
        let wanted = work.drill.snapshot.source_bytes().saturating_mul(2);
        let available = self.available_bytes()?;
        if available < wanted {
            return Ok(Shown::unverified(vec![format!(
                "`{}` has {available} bytes left, the drill may need {wanted}; make room there",
                self.path.display()
            )]));
        }
        let scratch = Scratch::make(self, work.drill.run)?;
        failpoint::reach("drill.scratch-made");
        let shown = self.in_scratch(&scratch, work, manifest);
        work.progress.enter(Stage::CleaningUp, None);
        failpoint::reach("drill.examined");
        scratch.remove();
        failpoint::reach("drill.removed");
        shown
    }

    fn in_scratch(
        &self,
        scratch: &Scratch<'_>,
        work: &Work<'_>,
        manifest: &Manifest,
    ) -> Result<Shown, DrillError> {
        let (drill, cancel) = (work.drill, &work.stop.cancel);
        let began = Instant::now();
        let (files, own) = (scratch.path.join("snapshot"), scratch.path.join("work"));
        let (repository, snapshot) = (drill.repository.as_ref(), &drill.snapshot);
        let damage = OnDamage::Refuse;
        let filled = restore::fill(repository, snapshot, &files, damage, work.progress, cancel);
        let restored = began.elapsed();
        failpoint::reach("drill.restored");
        if cancel.is_cancelled() {
            return Err(DrillError::Cancelled);
        }
        let stored = match filled {
            Ok(filled) => filled.files,
            Err(error) => return self.not_restored(work, error, restored),
        };
        let of_run = manifest.files.iter().find(|file| !stored.contains(file));
        if let Some(file) = of_run {
            let text = format!("`{}` is not the one that the manifest belongs to", file.name);
            return Ok(failed(text, restored));
        }
        fs::create_dir(&own).map_err(|source| self.refused(&own, source))?;
        let examination = Examination {
            run: drill.run,
            target: &self.name,
            tools: &self.tools,
            work: &own,
            cancel,
            progress: work.progress,
        };
        work.progress.enter(Stage::Comparing, None);
        let mut shown = examine(&files, work, manifest, &examination)?;
        shown.restore_elapsed += restored;
        Ok(shown)
    }

    /// A snapshot that cannot be read is the backup's fault, a disk that refuses is not.
    fn not_restored(
        &self,
        work: &Work<'_>,
        error: RestoreError,
        elapsed: Duration,
    ) -> Result<Shown, DrillError> {
        match error {
            RestoreError::Write { path, source } => Err(self.refused(&path, source)),
            RestoreError::Repository(source) if source.is_damage() => {
                Ok(failed(format!("the snapshot cannot be read: {}", Chain(&source)), elapsed))
            }
            RestoreError::Repository(source) => Err(work.repository_error(source)),
            damaged => Ok(failed(Chain(&damaged).to_string(), elapsed)),
        }
    }

    /// Removes what drills left below the folder. A folder needs our name *and* our
    /// marker with the same run in both; anything else is not touched.
    pub(super) fn sweep(
        &self,
        is_alive: impl Fn(RunId) -> bool,
    ) -> Result<Vec<String>, DrillError> {
        scratch::sweep(self, is_alive)
    }

    fn available_bytes(&self) -> Result<u64, DrillError> {
        let room = statvfs(&self.path).map_err(|errno| self.refused(&self.path, errno.into()))?;
        Ok(room.blocks_available().saturating_mul(room.fragment_size()))
    }

    fn refused(&self, path: &Path, source: std::io::Error) -> DrillError {
        DrillError::Folder { target: self.name.clone(), path: path.into(), source }
    }
}

fn failed(difference: String, restore_elapsed: Duration) -> Shown {
    let verdict = Verdict::Failed { differences: vec![difference] };
    Shown { verdict, restore_elapsed, compared: Vec::new() }
}
