//! Is everything in a repository still readable?

use tokio_util::sync::CancellationToken;

use crate::{
    progress::{Progress, Stage},
    repository::{Depth, Repository, RepositoryError, Scrubbed, Snapshot},
};

/// Problems that are given; a repository with more needs no longer list.
const PROBLEMS_MAX: usize = 100;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// What is wrong, a sentence each; empty is sound.
    pub problems: Vec<String>,
    /// Verified snapshots looked at.
    pub snapshots: u32,
    /// The part of the data that was read, if it was a part.
    pub scrubbed: Option<Scrubbed>,
}

/// Why a verification says nothing.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It was cancelled before everything was read.
    #[error("the verification was cancelled; nothing is known about what it had not read")]
    Cancelled,
    /// The repository could not be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// Checks the repository; with [`Depth::Data`] every pack as well, and every file of
/// every verified snapshot against the hash that was stored with it. Blocks.
///
/// # Errors
///
/// The verification could not be done, which says nothing about the repository.
pub fn verify(
    repository: &dyn Repository,
    depth: Depth,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Verification, VerifyError> {
    let going_on = || if cancel.is_cancelled() { Err(VerifyError::Cancelled) } else { Ok(()) };
    let mut scrubbed = None;
    let mut problems = repository.check(depth, progress)?;
    going_on()?;
    if let Depth::Part(part) = depth {
        let part = repository.scrub(part, progress, cancel)?;
        going_on()?;
        problems.extend_from_slice(&part.problems);
        scrubbed = Some(part);
    }
    let snapshots = repository.snapshots()?;
    if depth == Depth::Data {
        let total = snapshots.iter().map(Snapshot::source_bytes).sum();
        progress.enter(Stage::Proving, Some(total));
        let mut done = 0;
        for snapshot in &snapshots {
            problems.extend(unreadable(repository, snapshot, cancel));
            // What was not read is not sound.
            going_on()?;
            done += snapshot.source_bytes();
            progress.done(done);
        }
    }
    problems.truncate(PROBLEMS_MAX);
    let snapshots = u32::try_from(snapshots.len()).unwrap_or(u32::MAX);
    Ok(Verification { problems, snapshots, scrubbed })
}

fn unreadable(
    repository: &dyn Repository,
    snapshot: &Snapshot,
    cancel: &CancellationToken,
) -> Vec<String> {
    let mut problems = Vec::new();
    if snapshot.files.is_empty() {
        problems.push(format!(
            "snapshot {} of {} has lost its description, so that there are no hashes to compare",
            snapshot.id, snapshot.backup
        ));
    }
    for file in &snapshot.files {
        let path = snapshot.path_of(&file.name);
        let what = format!("snapshot {} of {}: `{}`", snapshot.id, snapshot.backup, file.name);
        match repository.read(&snapshot.id, &path, &mut std::io::sink(), cancel) {
            Ok(receipt) if receipt.sha256 == file.sha256 => {}
            Ok(_) => problems.push(format!("{what} has other content than was stored")),
            Err(_) if cancel.is_cancelled() => break,
            Err(error) => {
                let chain = homelab_common::error_chain::Chain(&error).to_string();
                problems.push(format!("{what} cannot be read: {chain}"));
            }
        }
    }
    problems
}
