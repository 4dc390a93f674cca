//! The restic repository format, through `rustic_core`.
//!
//! Chosen because plain `restic` lists, checks and restores it without us. Four
//! traps of `rustic_core` 0.13 shape this module, each held by a test:
//!
//! - its own `stdin_command` keeps the snapshot of a child that failed, so the
//!   child is owned by our [`Measured`](crate::stream::Measured) reader, and a
//!   snapshot is published only after proof;
//! - its chunker slows down for good after one short read (see [`crate::stream`]);
//! - it stores a stream with file size 0, and `restic restore` then quietly makes
//!   an *empty* file of it. The size is known only at the end, so publishing
//!   archives a second time, from the repository itself, with the size: the very
//!   bytes that are read back for proof become the verified snapshot. All chunks
//!   are there already, so nothing but a folder listing is written;
//! - its local backend creates missing folders on every write, which would fill
//!   the disk under a vanished mount: see [`super::identity::Anchor`].
//!
//! Only this software may prune: rustic takes no locks (rustic-rs/docs#144).

mod archive;
mod record;

use std::{
    cmp::Reverse,
    fmt,
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use homelab_common::{clock::Clock, error_chain::Chain, secret::Secret};
use ring::hmac;
use rustic_backend::BackendOptions;
use rustic_core::{
    CheckOptions, ConfigOptions, Credentials, KeyOptions, OpenStatus, RepositoryOptions,
    RusticError,
    repofile::{MasterKey, SnapshotFile, SnapshotId as EngineId},
};
use tokio_util::sync::CancellationToken;

use super::{
    Depth, EngineError, Incoming, Intent, Repository, RepositoryError, Snapshot, Stored,
    Unverified,
    identity::{Anchor, GuardError, Place},
};
use crate::{
    ids::{Name, RunId, SnapshotId},
    progress::{Progress, Stage},
    stream::{Receipt, hex},
};

/// Average chunk size for dumps: scattered row updates then grow the repository
/// by a sixth of what restic's own 1 MiB would, for 4.5 % more on the first run.
/// Bounds are a quarter and eight times of it, the proportions of restic.
const CHUNK_BYTES: u64 = 32 * 1024;
const CHUNK_BYTES_MIN: u64 = CHUNK_BYTES / 4;
const CHUNK_BYTES_MAX: u64 = CHUNK_BYTES * 8;

/// Findings of a check that are given; the rest is only counted.
const FINDINGS_MAX: usize = 100;

type Open = rustic_core::Repository<OpenStatus>;

/// A repository in restic's format; see the module.
pub struct ResticRepository {
    name: Name,
    place: Place,
    password: Secret<String>,
    host: String,
    clock: Arc<dyn Clock>,
    /// Deriving the key from the password takes a third of a second; kept after the first time.
    key: Mutex<Option<MasterKey>>,
}

impl ResticRepository {
    /// Names the repository; nothing is opened yet.
    #[must_use]
    pub fn new(
        name: Name,
        place: Place,
        password: Secret<String>,
        host: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { name, place, password, host, clock, key: Mutex::new(None) }
    }

    /// Makes the repository in its existing, empty folder. Never done by itself.
    ///
    /// # Errors
    ///
    /// The place is wrong or not empty, or the disk refused.
    pub fn init(&self) -> Result<(), RepositoryError> {
        let guarded = Guarded { repository: self, anchor: self.place.guard_empty()? };
        let mut options = ConfigOptions::default();
        // The engine's type for sizes is not exported; it can be parsed.
        options.set_chunk_size = format!("{CHUNK_BYTES}B").parse().ok();
        options.set_chunk_min_size = format!("{CHUNK_BYTES_MIN}B").parse().ok();
        options.set_chunk_max_size = format!("{CHUNK_BYTES_MAX}B").parse().ok();
        let credentials = Credentials::password(self.password.expose());
        guarded
            .unopened()?
            .init(&credentials, &KeyOptions::default(), &options)
            .map_err(|error| guarded.engine("make a repository", &error))?;
        // Last: half a repository has no identity and is refused everywhere.
        guarded
            .anchor
            .write_identity(self.place.id)
            .map_err(|error| guarded.failure("write the identity file", error.to_string()))
    }

    fn guarded(&self) -> Result<Guarded<'_>, GuardError> {
        Ok(Guarded { repository: self, anchor: self.place.guard()? })
    }
}

/// The repository after its guard let us in.
struct Guarded<'a> {
    repository: &'a ResticRepository,
    anchor: Anchor,
}

impl Guarded<'_> {
    fn unopened(&self) -> Result<rustic_core::Repository<()>, RepositoryError> {
        let through = self.anchor.through().display().to_string();
        let mut options = RepositoryOptions::default();
        // A cache would be one more thing that can be stale; the repository is local.
        options.no_cache = true;
        BackendOptions::default()
            .repository(through)
            .to_backends()
            .and_then(|backends| rustic_core::Repository::new(&options, &backends))
            .map_err(|error| self.engine("reach the files", &error))
    }

    fn open(&self) -> Result<Open, RepositoryError> {
        let known = self.repository.key.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let credentials = known.map_or_else(
            || Credentials::password(self.repository.password.expose()),
            Credentials::Masterkey,
        );
        let open = self
            .unopened()?
            .open(&credentials)
            .map_err(|error| self.engine("open the repository", &error))?;
        *self.repository.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(open.key());
        Ok(open)
    }

    /// Our error for the engine's, with the folder's real name in it.
    fn engine(&self, action: &'static str, error: &RusticError) -> RepositoryError {
        let through = self.anchor.through().display().to_string();
        let real = self.anchor.path().display().to_string();
        let text = error.display_log().replace(&through, &real);
        let repository = self.repository.name.clone();
        let source = EngineError(text.trim_start_matches("Error: ").to_owned());
        if is_full(error) {
            RepositoryError::NoRoom { repository, source }
        } else {
            RepositoryError::Engine { action, repository, source }
        }
    }

    fn failure(&self, action: &'static str, text: String) -> RepositoryError {
        let repository = self.repository.name.clone();
        RepositoryError::Engine { action, repository, source: EngineError(text) }
    }

    fn mismatch(&self, file: &str, detail: String) -> RepositoryError {
        let repository = self.repository.name.clone();
        RepositoryError::Mismatch { file: file.to_owned(), repository, detail }
    }

    /// Every snapshot, whoever made it. One that somebody removes between the listing
    /// and the reading is no longer there, and no error.
    fn all(&self, open: &Open) -> Result<Vec<SnapshotFile>, RepositoryError> {
        let failed = |error: Box<RusticError>| self.engine("read the snapshots", &error);
        let mut all = Vec::new();
        for id in open.list::<EngineId>().map_err(failed)? {
            match open.get_file::<SnapshotFile>(&id) {
                Ok(file) => all.push(SnapshotFile { id, ..file }),
                Err(error) => {
                    if open.list::<EngineId>().map_err(failed)?.any(|listed| listed == id) {
                        return Err(failed(error));
                    }
                }
            }
        }
        Ok(all)
    }

    fn find(&self, open: &Open, id: &SnapshotId) -> Result<SnapshotFile, RepositoryError> {
        let mut all = self.all(open)?;
        all.retain(|file| file.id.to_hex().as_str() == id.as_str());
        all.pop().ok_or_else(|| RepositoryError::NoSnapshot {
            id: id.to_string(),
            repository: self.repository.name.clone(),
        })
    }

    fn discard(&self, run: RunId) -> Result<usize, RepositoryError> {
        let ours = record::run_tag(run);
        let open = self.open()?;
        let ids: Vec<_> = self
            .all(&open)?
            .iter()
            .filter(|file| record::is_unverified(file) && file.tags.contains(&ours))
            .map(|file| file.id)
            .collect();
        open.delete_snapshots(&ids)
            .map_err(|error| self.engine("remove what was not proved", &error))?;
        Ok(ids.len())
    }

    /// Best effort: what stays is invisible, and the sweeper comes later.
    fn clear_up(&self, run: RunId) {
        if let Err(error) = self.discard(run) {
            tracing::warn!(
                repository = %self.repository.name, %run, error = %Chain(&error),
                "could not remove an unverified snapshot; it stays invisible and is swept later"
            );
        }
    }

    fn flush(&self) -> Result<(), RepositoryError> {
        self.anchor
            .flush()
            .map_err(|error| self.failure("make the snapshot durable", error.to_string()))
    }
}

impl Repository for ResticRepository {
    fn name(&self) -> &Name {
        &self.name
    }

    fn guard(&self) -> Result<(), GuardError> {
        self.place.guard().map(drop)
    }

    fn store(&self, intent: &Intent, files: Vec<Incoming>) -> Result<Stored, RepositoryError> {
        let guarded = self.guarded()?;
        let stored = archive::store(&guarded, intent, files);
        if stored.is_err() {
            guarded.clear_up(intent.run);
        }
        stored
    }

    fn publish(
        &self,
        stored: &Stored,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Snapshot, RepositoryError> {
        // From the path again: the mount may have gone meanwhile.
        let guarded = self.guarded()?;
        let snapshot = archive::publish(&guarded, stored, progress, cancel);
        // The unverified forms go in either case; after success they are only clutter.
        guarded.clear_up(stored.intent.run);
        snapshot
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, RepositoryError> {
        let guarded = self.guarded()?;
        let mut snapshots: Vec<_> =
            guarded.all(&guarded.open()?)?.iter().filter_map(record::to_snapshot).collect();
        snapshots.sort_by_key(|snapshot| Reverse((snapshot.taken_at, snapshot.run)));
        Ok(snapshots)
    }

    fn unverified(&self) -> Result<Vec<Unverified>, RepositoryError> {
        let guarded = self.guarded()?;
        Ok(guarded.all(&guarded.open()?)?.iter().filter_map(record::to_unverified).collect())
    }

    fn discard(&self, run: RunId) -> Result<usize, RepositoryError> {
        self.guarded()?.discard(run)
    }

    fn forget(&self, ids: &[SnapshotId]) -> Result<usize, RepositoryError> {
        let guarded = self.guarded()?;
        let open = guarded.open()?;
        let files = guarded.all(&open)?;
        let wanted = |file: &&SnapshotFile| {
            record::to_snapshot(file).is_some_and(|snapshot| ids.contains(&snapshot.id))
        };
        let found: Vec<_> = files.iter().filter(wanted).map(|file| file.id).collect();
        open.delete_snapshots(&found)
            .map_err(|error| guarded.engine("remove a snapshot", &error))?;
        Ok(found.len())
    }

    fn read(
        &self,
        id: &SnapshotId,
        path: &str,
        sink: &mut dyn Write,
        cancel: &CancellationToken,
    ) -> Result<Receipt, RepositoryError> {
        archive::read(&self.guarded()?, id, path, sink, cancel)
    }

    fn check(&self, depth: Depth, progress: &Progress) -> Result<Vec<String>, RepositoryError> {
        let guarded = self.guarded()?;
        progress.enter(Stage::Checking, None);
        let options = CheckOptions::default().read_data(depth == Depth::Data);
        let open = guarded.open()?;
        let trees = guarded.all(&open)?.into_iter().map(|file| file.tree).collect();
        let results = open
            .check_with_trees(options, trees)
            .map_err(|error| guarded.engine("check the repository", &error))?;
        if results.is_ok().is_ok() {
            return Ok(Vec::new());
        }
        // The type of the severity is not exported; its name is.
        let errors = results.0.iter().filter(|(severity, _)| format!("{severity:?}") == "Error");
        Ok(errors.map(|(_, finding)| finding.to_string()).take(FINDINGS_MAX).collect())
    }

    fn available_bytes(&self) -> Result<u64, GuardError> {
        self.place.guard()?.available_bytes()
    }

    fn is_writable(&self) -> Result<bool, GuardError> {
        self.place.guard()?.is_writable()
    }

    fn stored_bytes(&self) -> Result<u64, RepositoryError> {
        let guarded = self.guarded()?;
        let files = guarded
            .open()?
            .infos_files()
            .map_err(|error| guarded.engine("measure the repository", &error))?;
        Ok(files.repo.iter().map(|info| info.size).sum())
    }

    fn derived_key(&self, purpose: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.password.expose().as_bytes());
        let tag = hmac::sign(&key, format!("{}\n{purpose}", self.place.id).as_bytes());
        hex(tag.as_ref())
    }
}

impl ResticRepository {
    fn elapsed_since(&self, intent: &Intent) -> Duration {
        Duration::try_from(self.clock.now().duration_since(intent.taken_at)).unwrap_or_default()
    }
}

impl fmt::Debug for ResticRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResticRepository")
            .field("name", &self.name)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

fn is_full(error: &RusticError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
        {
            return true;
        }
        next = error.source();
    }
    false
}
