//! A verified snapshot of one repository into another.
//!
//! The files are read from the first, compared with the hashes that were stored with
//! them, and stored in the second as a snapshot of the *same run*, which is proved
//! there like any other. So a copy can be told from its run, made again without harm,
//! and is never better or worse than what it was made from.

use std::{
    io::{self, PipeReader, Read, Write},
    sync::Arc,
    thread,
};

use homelab_common::error_chain::Chain;
use tokio_util::sync::CancellationToken;

use crate::{
    failpoint,
    ids::{Name, SnapshotId},
    progress::{Progress, Stage},
    repository::{Incoming, Intent, Repository, RepositoryError, Snapshot, StoredFile},
    restore,
    stream::{Content, Measured},
};

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    /// The snapshot could not be read.
    #[error("could not read snapshot `{snapshot}` from repository `{from}`; nothing was copied")]
    Read {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Where it is.
        from: Name,
        /// Why.
        #[source]
        source: Box<RepositoryError>,
    },
    /// The copy could not be stored.
    #[error(
        "could not store snapshot `{snapshot}` in repository `{to}`; nothing of it is visible there"
    )]
    Store {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Where it should be.
        to: Name,
        /// Why.
        #[source]
        source: Box<RepositoryError>,
    },
    /// What was read is not what was stored once.
    #[error(
        "`{file}` of snapshot `{snapshot}` in repository `{from}` is damaged; nothing was copied; \
         run a verification there"
    )]
    Damaged {
        /// The file.
        file: String,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Where it is.
        from: Name,
    },
    /// Somebody cancelled it.
    #[error("the copying was cancelled; nothing of it is visible")]
    Cancelled,
}

/// Where to copy what.
#[derive(Clone, Debug)]
pub struct Replication {
    /// What is copied.
    pub snapshot: Snapshot,
    /// Where it is.
    pub from: Arc<dyn Repository>,
    /// Where it should be.
    pub to: Arc<dyn Repository>,
}

impl Replication {
    /// Copies and proves; a run that is there already is only named. Blocks.
    ///
    /// # Errors
    ///
    /// Why nothing was copied.
    pub fn run(
        &self,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Snapshot, ReplicateError> {
        progress.enter(Stage::Preparing, None);
        let there = self.to.snapshots().map_err(|source| self.not_stored(source))?;
        let is_same = |found: &Snapshot| {
            found.run == self.snapshot.run && found.backup == self.snapshot.backup
        };
        if let Some(found) = there.into_iter().find(is_same) {
            return Ok(found);
        }
        let done = self.copy(progress, cancel);
        if cancel.is_cancelled() { Err(ReplicateError::Cancelled) } else { done }
    }

    fn copy(
        &self,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Snapshot, ReplicateError> {
        let Self { snapshot, from, to } = self;
        let files = self.files(cancel)?;
        let intent = Intent {
            run: snapshot.run,
            backup: snapshot.backup.clone(),
            kind: snapshot.kind,
            taken_at: snapshot.taken_at,
        };
        progress.enter(Stage::Copying, Some(snapshot.source_bytes()));
        let mut incoming = Vec::new();
        for file in &files {
            let piped = Piped::new(Arc::clone(from), snapshot, file, cancel);
            let (content, gauge) = Measured::new(Box::new(piped), cancel.clone());
            incoming.push(Incoming { name: file.name.clone(), content, gauge });
        }
        let stored = to.store(&intent, incoming).map_err(|source| self.not_stored(source));
        let mut stored = match stored {
            Ok(stored) => stored,
            Err(error) => return Err(self.blame(error)),
        };
        if let Some(file) = files.iter().find(|file| !stored.files.contains(file)) {
            return Err(self.discard(self.damaged(&file.name)));
        }
        failpoint::reach("copy.stored");
        stored.summary = snapshot.summary.clone();
        to.publish(&stored, progress, cancel)
            .map_err(|source| self.discard(self.not_stored(source)))
    }

    /// The files with their hashes; of a snapshot whose description was lost, by its
    /// manifest.
    fn files(&self, cancel: &CancellationToken) -> Result<Vec<StoredFile>, ReplicateError> {
        let Self { snapshot, from, .. } = self;
        if !snapshot.files.is_empty() {
            return Ok(snapshot.files.clone());
        }
        restore::described(from.as_ref(), snapshot, cancel).map_err(|source| self.not_read(source))
    }

    /// A source that cannot be read makes the storing fail: that is the cause.
    fn blame(&self, error: ReplicateError) -> ReplicateError {
        match error {
            ReplicateError::Store { source, .. }
                if matches!(*source, RepositoryError::Incomplete { .. }) =>
            {
                self.not_read(*source)
            }
            other => other,
        }
    }

    /// What cannot be removed stays invisible.
    fn discard(&self, error: ReplicateError) -> ReplicateError {
        if let Err(left) = self.to.discard(self.snapshot.run) {
            tracing::warn!(
                repository = %self.to.name(), run = %self.snapshot.run, error = %Chain(&left),
                "could not remove what a failed copying stored; the sweeper will"
            );
        }
        error
    }

    fn damaged(&self, file: &str) -> ReplicateError {
        ReplicateError::Damaged {
            file: file.to_owned(),
            snapshot: self.snapshot.id.clone(),
            from: self.from.name().clone(),
        }
    }

    fn not_read(&self, source: RepositoryError) -> ReplicateError {
        let (snapshot, from) = (self.snapshot.id.clone(), self.from.name().clone());
        ReplicateError::Read { snapshot, from, source: source.into() }
    }

    fn not_stored(&self, source: RepositoryError) -> ReplicateError {
        let (snapshot, to) = (self.snapshot.id.clone(), self.to.name().clone());
        ReplicateError::Store { snapshot, to, source: source.into() }
    }
}

/// A file of one repository as a reader for the other. A repository writes into a
/// sink; a pipe and a thread turn that round, once somebody reads.
struct Piped {
    start: Option<Start>,
    pipe: Option<PipeReader>,
    writer: Option<thread::JoinHandle<Result<(), String>>>,
}

struct Start {
    from: Arc<dyn Repository>,
    id: SnapshotId,
    path: String,
    expected: StoredFile,
    cancel: CancellationToken,
}

impl Piped {
    fn new(
        from: Arc<dyn Repository>,
        snapshot: &Snapshot,
        file: &StoredFile,
        cancel: &CancellationToken,
    ) -> Self {
        let start = Start {
            from,
            id: snapshot.id.clone(),
            path: snapshot.path_of(&file.name),
            expected: file.clone(),
            cancel: cancel.clone(),
        };
        Self { start: Some(start), pipe: None, writer: None }
    }

    fn begin(&mut self) -> io::Result<()> {
        let Some(start) = self.start.take() else { return Ok(()) };
        let (reader, mut writer) = io::pipe()?;
        let work = move || start.write_to(&mut writer);
        self.writer = Some(thread::Builder::new().name("copying".to_owned()).spawn(work)?);
        self.pipe = Some(reader);
        Ok(())
    }
}

impl Start {
    fn write_to(self, sink: &mut dyn Write) -> Result<(), String> {
        let Self { from, id, path, expected, cancel } = self;
        let receipt =
            from.read(&id, &path, sink, &cancel).map_err(|error| Chain(&error).to_string())?;
        if receipt.sha256 == expected.sha256 {
            return Ok(());
        }
        Err(format!("it has SHA-256 {}, stored was {}", receipt.sha256, expected.sha256))
    }
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begin()?;
        self.pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(buffer))
    }
}

impl Content for Piped {
    fn finish(&mut self) -> io::Result<()> {
        let verdict = self.writer.take().map_or(Ok(Ok(())), thread::JoinHandle::join);
        verdict
            .unwrap_or_else(|_| Err("the reading thread panicked".to_owned()))
            .map_err(io::Error::other)
    }
}
