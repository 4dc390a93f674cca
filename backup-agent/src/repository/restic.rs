//! The restic repository format.
//!
//! Chosen because plain `restic` lists, checks and restores it without us. Reading,
//! checking and pruning go through `rustic_core`; writing is ours ([`write`]), because
//! its archiver stores a stream with file size 0 (of which `restic restore` quietly
//! makes an *empty* file), keeps the snapshot of a child that failed, slows down for
//! good after one short read, and tells of errors only in its log. Ours proves each
//! pack when it is written and makes no snapshot before everything is proved
//! (docs/adr/008-proof-of-a-backup.md).
//!
//! Only this software may prune: rustic takes no locks (rustic-rs/docs#144).

mod backend;
mod chunk;
mod index;
mod order;
mod pack;
mod place;
mod quarantine;
mod read;
mod record;
mod retention;
mod scrub;
mod store;
#[cfg(test)]
mod tests;
mod vault;
mod write;

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use homelab_common::{clock::Clock, error_chain::Chain, secret::Secret};
use jiff::Timestamp;
use ring::hmac;
use rustic_core::{
    CheckOptions, ConfigOptions, Credentials, KeyOptions, OpenStatus, RepositoryOptions,
    RusticError,
    repofile::{MasterKey, SnapshotFile, SnapshotId as EngineId},
};
use tokio_util::sync::CancellationToken;

pub(crate) use store::Proof;

use super::{
    Applied, Depth, EngineError, Forgotten, Incoming, Intent, Part, Probed, PrunePolicy, Pruned,
    Repository, RepositoryError, RetentionOrder, Scrubbed, Snapshot, Stored, Unverified,
    identity::{GuardError, Site, Transport},
    storage::{
        Storage,
        access::{Access, Restricted},
        deadline::{Hung, Threads, Timed},
        limit::{Bucket, Limited, Sleep},
    },
};
use crate::{
    ids::{Name, RunId, SnapshotId},
    progress::{Progress, Stage},
    stream::{Receipt, hex},
};
use chunk::{CHUNK_BYTES, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use vault::{Id, Vault};

/// How long a call without data may take before its place counts as hanging: a disk
/// of a NAS that has to spin up first takes ten seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// Findings of a check that are given; the rest is only counted.
const FINDINGS_MAX: usize = 100;

type Engine = rustic_core::Repository<OpenStatus>;

/// A repository in restic's format; see the module.
pub struct ResticRepository {
    name: Name,
    site: Arc<dyn Site>,
    password: Secret<String>,
    host: String,
    clock: Arc<dyn Clock>,
    access: Access,
    threads: Threads,
    /// Shared by everything that is opened.
    bucket: Option<Arc<Mutex<Bucket>>>,
    /// What the last probe found.
    known: Mutex<Option<place::Known>>,
    /// Deriving the key from the password takes a third of a second; kept after the first time.
    key: Mutex<Option<MasterKey>>,
}

impl ResticRepository {
    /// Names the repository; nothing is opened yet.
    #[must_use]
    pub fn new(
        name: Name,
        site: impl Site + 'static,
        password: Secret<String>,
        host: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::at(name, Arc::new(site), password, host, clock)
    }

    /// The same, in a place that was chosen elsewhere.
    #[must_use]
    pub fn at(
        name: Name,
        site: Arc<dyn Site>,
        password: Secret<String>,
        host: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            threads: Threads::new(name.as_str(), DEADLINE),
            site,
            name,
            password,
            host,
            clock,
            access: Access::Full,
            bucket: None,
            known: Mutex::new(None),
            key: Mutex::new(None),
        }
    }

    /// Holds it to less than full access.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Keeps its traffic below so many bytes a second.
    #[must_use]
    pub fn with_bandwidth(mut self, bytes_a_second: u64) -> Self {
        let bucket = Bucket::new(bytes_a_second, self.clock.now());
        self.bucket = Some(Arc::new(Mutex::new(bucket)));
        self
    }

    /// Gives up on its place after so long; data takes longer by its length.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.threads = Threads::new(self.name.as_str(), deadline);
        self
    }

    /// Makes the repository in its existing, empty folder. Never done by itself.
    ///
    /// # Errors
    ///
    /// The place is wrong or not empty, or the disk refused.
    pub fn init(&self) -> Result<(), RepositoryError> {
        let storage = self.enter_by(|site| site.enter_empty())?;
        let mut options = ConfigOptions::default();
        // The engine's type for sizes is not exported; it can be parsed.
        options.set_chunk_size = format!("{CHUNK_BYTES}B").parse().ok();
        options.set_chunk_min_size = format!("{CHUNK_BYTES_MIN}B").parse().ok();
        options.set_chunk_max_size = format!("{CHUNK_BYTES_MAX}B").parse().ok();
        let credentials = Credentials::password(self.password.expose());
        self.unopened(&storage)?
            .init(&credentials, &KeyOptions::default(), &options)
            .map_err(|error| self.engine("make a repository", &error))?;
        retention::make_reserve(storage.as_ref())
            .map_err(|error| self.place("keep a reserve", error))?;
        // Last: half a repository has no identity and is refused everywhere.
        self.site
            .write_identity(storage.as_ref())
            .map_err(|error| self.place("write the identity file", error))
    }

    fn enter(&self) -> Result<Arc<dyn Storage>, GuardError> {
        self.enter_by(|site| site.enter())
    }

    /// Goes through the guard and gives the storage behind it, with all its layers.
    fn enter_by(
        &self,
        way: impl FnOnce(&dyn Site) -> Result<Arc<dyn Storage>, GuardError> + Send + 'static,
    ) -> Result<Arc<dyn Storage>, GuardError> {
        let site = Arc::clone(&self.site);
        let what = || format!("opening {}", self.site.location());
        let entered = self.threads.call(what, 0, move || way(site.as_ref()));
        let storage = entered.map_err(GuardError::Hanging)??;
        let mut storage: Arc<dyn Storage> = Arc::new(Timed::new(storage, self.threads.clone()));
        if let Some(bucket) = &self.bucket {
            let (bucket, clock) = (Arc::clone(bucket), Arc::clone(&self.clock));
            storage = Arc::new(Limited::new(storage, bucket, clock, Arc::new(Sleep)));
        }
        if self.access != Access::Full {
            storage = Arc::new(Restricted::new(storage, self.access));
        }
        Ok(storage)
    }

    fn unopened(
        &self,
        storage: &Arc<dyn Storage>,
    ) -> Result<rustic_core::Repository<()>, RepositoryError> {
        let mut options = RepositoryOptions::default();
        // A cache would be one more thing that can be stale.
        options.no_cache = true;
        rustic_core::Repository::new(&options, &backend::backends(storage))
            .map_err(|error| self.engine("reach the files", &error))
    }

    fn open(&self) -> Result<Opened<'_>, RepositoryError> {
        let storage = self.enter()?;
        let known = lock(&self.key).clone();
        let credentials = known
            .map_or_else(|| Credentials::password(self.password.expose()), Credentials::Masterkey);
        let engine = self
            .unopened(&storage)?
            .open(&credentials)
            .map_err(|error| self.engine("open the repository", &error))?;
        let key = engine.key();
        let vault = Vault::new(&key).ok_or_else(|| {
            self.failure("open the repository", "its key is too short".to_owned())
        })?;
        *lock(&self.key) = Some(key);
        Ok(Opened { repository: self, storage, engine, vault })
    }

    /// Our error for the engine's.
    fn engine(&self, action: &'static str, error: &RusticError) -> RepositoryError {
        if let Some(hung) = Hung::behind(error) {
            return GuardError::Hanging(hung.clone()).into();
        }
        let text = error.display_log();
        let source = EngineError(text.trim_start_matches("Error: ").to_owned());
        let repository = self.name.clone();
        match kind_behind(error) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                RepositoryError::NoRoom { repository, source }
            }
            Some(io::ErrorKind::InvalidData) => RepositoryError::Damaged { repository, source },
            _ => RepositoryError::Engine { action, repository, source },
        }
    }

    fn engine_result<T>(
        &self,
        outcome: Result<T, Box<RusticError>>,
        action: &'static str,
    ) -> Result<T, RepositoryError> {
        outcome.map_err(|error| self.engine(action, &error))
    }

    /// Our error for the storage's.
    fn place(&self, action: &'static str, error: io::Error) -> RepositoryError {
        if let Some(hung) = Hung::behind(&error) {
            return GuardError::Hanging(hung.clone()).into();
        }
        let source = EngineError(Chain(&error).to_string());
        let repository = self.name.clone();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                RepositoryError::NoRoom { repository, source }
            }
            io::ErrorKind::InvalidData => RepositoryError::Damaged { repository, source },
            _ => RepositoryError::Engine { action, repository, source },
        }
    }

    fn damaged(&self, path: &str) -> RepositoryError {
        let (repository, source) = (self.name.clone(), EngineError(format!("`{path}` is damaged")));
        RepositoryError::Damaged { repository, source }
    }

    fn failure(&self, action: &'static str, text: String) -> RepositoryError {
        let repository = self.name.clone();
        RepositoryError::Engine { action, repository, source: EngineError(text) }
    }

    fn mismatch(&self, file: &str, detail: String) -> RepositoryError {
        let repository = self.name.clone();
        RepositoryError::Mismatch { file: file.to_owned(), repository, detail }
    }

    fn elapsed_since(&self, intent: &Intent) -> Duration {
        Duration::try_from(self.clock.now().duration_since(intent.taken_at)).unwrap_or_default()
    }
}

/// The repository after its guard let us in and its password opened it.
struct Opened<'a> {
    repository: &'a ResticRepository,
    storage: Arc<dyn Storage>,
    engine: Engine,
    vault: Vault,
}

impl Opened<'_> {
    fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Every snapshot, whoever made it: for whoever takes something away by what it
    /// does not find in them.
    fn all(&self) -> Result<Vec<SnapshotFile>, RepositoryError> {
        let (all, damaged) = self.readable()?;
        match damaged.first() {
            Some(path) => Err(self.repository.damaged(path)),
            None => Ok(all),
        }
    }

    /// The snapshots that are whole, whoever made them, and the files of those that are
    /// not: one that is damaged takes no other one away. One that somebody removes
    /// between the listing and the reading is no longer there, and no error.
    fn readable(&self) -> Result<(Vec<SnapshotFile>, Vec<String>), RepositoryError> {
        let failed = |error: Box<RusticError>| self.repository.engine("read the snapshots", &error);
        let (mut readable, mut damaged) = (Vec::new(), Vec::new());
        for id in self.engine.list::<EngineId>().map_err(failed)? {
            let error = match self.engine.get_file::<SnapshotFile>(&id) {
                Ok(file) => {
                    readable.push(SnapshotFile { id, ..file });
                    continue;
                }
                Err(error) => error,
            };
            let path = format!("snapshots/{}", id.to_hex().as_str());
            match self.storage.read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Its name is its hash.
                Ok(content) if Id::of(&content).to_string() != id.to_hex().as_str() => {
                    tracing::error!(repository = %self.repository.name, path, "is damaged");
                    damaged.push(path);
                }
                _ => return Err(failed(error)),
            }
        }
        Ok((readable, damaged))
    }

    /// Snapshots in quarantine, with the date of their marks.
    fn marks(&self) -> Result<BTreeMap<String, Timestamp>, RepositoryError> {
        quarantine::marks(self.storage(), &self.vault)
            .map_err(|error| self.repository.place("read what was forgotten", error))
    }

    /// Index, trees and sizes.
    fn check(&self, progress: &Progress) -> Result<Vec<String>, RepositoryError> {
        self.check_with(CheckOptions::default(), progress)
    }

    fn check_with(
        &self,
        options: CheckOptions,
        progress: &Progress,
    ) -> Result<Vec<String>, RepositoryError> {
        progress.enter(Stage::Checking, None);
        let (readable, damaged) = self.readable()?;
        let trees = readable.into_iter().map(|file| file.tree).collect();
        let checked = self.engine.check_with_trees(options, trees);
        let results = self.repository.engine_result(checked, "check the repository")?;
        let damaged = damaged.into_iter().map(|path| format!("`{path}` is damaged"));
        // The type of the severity is not exported; its name is.
        let errors = results.0.iter().filter(|(severity, _)| format!("{severity:?}") == "Error");
        let errors = errors.map(|(_, finding)| finding.to_string());
        Ok(damaged.chain(errors).take(FINDINGS_MAX).collect())
    }

    fn find(&self, id: &SnapshotId) -> Result<SnapshotFile, RepositoryError> {
        let (mut all, _) = self.readable()?;
        all.retain(|file| file.id.to_hex().as_str() == id.as_str());
        all.pop().ok_or_else(|| RepositoryError::NoSnapshot {
            id: id.to_string(),
            repository: self.repository.name.clone(),
        })
    }
}

impl Repository for ResticRepository {
    fn name(&self) -> &Name {
        &self.name
    }

    fn guard(&self) -> Result<(), GuardError> {
        self.enter().map(drop)
    }

    fn store(&self, intent: &Intent, files: Vec<Incoming>) -> Result<Stored, RepositoryError> {
        let opened = self.open()?;
        opened.require_storing_access()?;
        let weakness = opened.require_safe_place()?;
        let mut stored = store::store(&opened, intent, files)?;
        stored.warnings.extend(weakness);
        Ok(stored)
    }

    fn publish(
        &self,
        stored: &Stored,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Snapshot, RepositoryError> {
        store::publish(&self.open()?, stored, progress, cancel)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, RepositoryError> {
        let opened = self.open()?;
        let (marks, (all, _)) = (opened.marks()?, opened.readable()?);
        let mut snapshots: Vec<_> = all.iter().filter_map(record::to_snapshot).collect();
        snapshots.retain(|snapshot| !marks.contains_key(snapshot.id.as_str()));
        snapshots.sort_by_key(|snapshot| Reverse((snapshot.taken_at, snapshot.run)));
        Ok(snapshots)
    }

    fn unverified(&self) -> Result<Vec<Unverified>, RepositoryError> {
        Ok(self.open()?.readable()?.0.iter().filter_map(record::to_unverified).collect())
    }

    fn discard(&self, run: RunId) -> Result<usize, RepositoryError> {
        let ours = record::run_tag(run);
        let opened = self.open()?;
        let ids: Vec<_> = opened
            .readable()?
            .0
            .iter()
            .filter(|file| record::is_unverified(file) && file.tags.contains(&ours))
            .map(|file| file.id)
            .collect();
        opened
            .engine
            .delete_snapshots(&ids)
            .map_err(|error| self.engine("remove what was not proved", &error))?;
        Ok(ids.len())
    }

    fn remove(&self, ids: &[SnapshotId]) -> Result<usize, RepositoryError> {
        self.open()?.remove(ids)
    }

    fn read(
        &self,
        id: &SnapshotId,
        path: &str,
        sink: &mut dyn Write,
        cancel: &CancellationToken,
    ) -> Result<Receipt, RepositoryError> {
        read::read(&self.open()?, id, path, sink, cancel)
    }

    fn check(&self, depth: Depth, progress: &Progress) -> Result<Vec<String>, RepositoryError> {
        self.open()?.check_with(CheckOptions::default().read_data(depth == Depth::Data), progress)
    }

    fn forgotten(&self) -> Result<Vec<Forgotten>, RepositoryError> {
        self.open()?.forgotten()
    }

    fn apply(&self, order: &RetentionOrder, now: Timestamp) -> Result<Applied, RepositoryError> {
        self.open()?.apply(order, now)
    }

    fn prune(
        &self,
        policy: &PrunePolicy,
        now: Timestamp,
        progress: &Progress,
    ) -> Result<Pruned, RepositoryError> {
        self.open()?.prune(policy, now, progress)
    }

    fn prune_outlook(&self, policy: &PrunePolicy) -> Result<Pruned, RepositoryError> {
        self.open()?.prune_outlook(policy)
    }

    fn scrub(
        &self,
        part: Part,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Scrubbed, RepositoryError> {
        scrub::scrub(&self.open()?, part, progress, cancel)
    }

    fn probe(&self) -> Result<Probed, RepositoryError> {
        self.open()?.probe()
    }

    fn probed(&self) -> Option<Probed> {
        lock(&self.known).as_ref().map(|known| known.probed.clone())
    }

    fn scrubbed_at(&self) -> Result<Option<Timestamp>, RepositoryError> {
        scrub::complete_since(&self.open()?)
    }

    fn transport(&self) -> Transport {
        self.site.transport()
    }

    fn access(&self) -> Access {
        self.access
    }

    fn available_bytes(&self) -> Result<u64, GuardError> {
        let available = self.enter()?.available_bytes();
        let available = available.map_err(|error| self.site.unreachable(error))?;
        Ok(available.unwrap_or(u64::MAX))
    }

    fn is_writable(&self) -> Result<bool, GuardError> {
        let writable = self.enter()?.is_writable();
        writable.map_err(|error| self.site.unreachable(error))
    }

    fn stored_bytes(&self) -> Result<u64, RepositoryError> {
        let files = self
            .open()?
            .engine
            .infos_files()
            .map_err(|error| self.engine("measure the repository", &error))?;
        Ok(files.repo.iter().map(|info| info.size).sum())
    }

    fn derived_key(&self, purpose: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.password.expose().as_bytes());
        let tag = hmac::sign(&key, format!("{}\n{purpose}", self.site.id()).as_bytes());
        hex(tag.as_ref())
    }
}

impl fmt::Debug for ResticRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResticRepository")
            .field("name", &self.name)
            .field("site", &self.site)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What kind of I/O error is behind an error of the engine.
fn kind_behind(error: &RusticError) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}
