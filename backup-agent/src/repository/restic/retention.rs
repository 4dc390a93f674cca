//! The hands of retention: hide, recover, and in the end remove.
//!
//! What to forget is decided elsewhere. Here is only what must hold whatever was
//! decided: nothing without our marks is removed, nothing is deleted before its
//! quarantine is over or because of a mark alone, packs go in two steps, and all of it
//! is done alone under a lock.

use std::{io, sync::Arc, time::Duration};

use jiff::{Span, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use rustic_core::{LimitOption, PruneOptions, PrunePlan, repofile::SnapshotFile};

use super::{Opened, order, quarantine, record};
use crate::{
    failpoint,
    ids::SnapshotId,
    progress::{Progress, Stage},
    repository::{
        Applied, Forgotten, OrderMode, PrunePolicy, Pruned, RepositoryError, RetentionOrder,
        lock::{Holder, Lock, Purpose, Refusal},
        storage::{FOLDERS, Storage, TEMPORARY, access::Access, remove_if_there},
    },
};

/// Removed when the disk is full, so that a prune has room for its index files.
pub(super) const RESERVE: &str = "homelab-reserve";

/// Bounds on the reserve, in bytes: as much as a prune of a home's repository writes,
/// and no more than a two-hundredth of what is free.
const RESERVE_MAX: u64 = 16 << 20;
const RESERVE_MIN: u64 = 64 << 10;
const RESERVE_SHARE: u64 = 200;

/// Files that were being written so long ago belong to a run that died.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Share of unused data that may stay in packs, in percent: removing the last of it
/// costs more traffic than it frees.
const UNUSED_PERCENT_MAX: u64 = 5;

impl Opened<'_> {
    /// Takes part in the work, or has it alone.
    pub(super) fn lock(&self, purpose: Purpose) -> Result<Lock, RepositoryError> {
        let repository = self.repository;
        let this = Holder::this(purpose, &repository.host, repository.clock.now());
        let clock = Arc::clone(&repository.clock);
        Lock::take(&self.storage, this, clock).map_err(|refusal| match refusal {
            Refusal::Held(by) => {
                RepositoryError::Locked { repository: repository.name.clone(), by }
            }
            Refusal::Place(error) => repository.place("take a lock", error),
        })
    }

    /// This host may at least add.
    pub(super) fn require_storing_access(&self) -> Result<(), RepositoryError> {
        match self.repository.access {
            Access::Full | Access::AppendOnly => Ok(()),
            access @ Access::ReadOnly => {
                let repository = self.repository.name.clone();
                Err(RepositoryError::Forbidden { action: "store", repository, access })
            }
        }
    }

    fn require_full_access(&self, action: &'static str) -> Result<(), RepositoryError> {
        let (repository, access) = (self.repository.name.clone(), self.repository.access);
        match access {
            Access::Full => Ok(()),
            Access::AppendOnly | Access::ReadOnly => {
                Err(RepositoryError::Forbidden { action, repository, access })
            }
        }
    }

    /// Snapshots of ours in quarantine, those forgotten last first.
    pub(super) fn forgotten(&self) -> Result<Vec<Forgotten>, RepositoryError> {
        let marks = self.marks()?;
        let forgotten = |file| {
            let snapshot = record::to_snapshot(&file)?;
            let forgotten_at = *marks.get(snapshot.id.as_str())?;
            Some(Forgotten { snapshot, forgotten_at })
        };
        let mut all: Vec<_> = self.readable()?.0.into_iter().filter_map(forgotten).collect();
        all.sort_by_key(|it| std::cmp::Reverse((it.forgotten_at, it.snapshot.taken_at)));
        Ok(all)
    }

    /// Checks the whole order against what is there now, and then carries it out.
    pub(super) fn apply(
        &self,
        order: &RetentionOrder,
        now: Timestamp,
    ) -> Result<Applied, RepositoryError> {
        self.require_full_access("apply a retention plan")?;
        let repository = self.repository;
        // On a full disk there would be no room for the marks either.
        self.yield_reserve().map_err(|error| repository.place("free the reserve", error))?;
        let _alone = self.lock(Purpose::Prune)?;
        let (marks, all) = (self.marks()?, self.all()?);
        let of_backup = |file: &SnapshotFile| {
            record::to_snapshot(file).filter(|snapshot| snapshot.backup == order.backup)
        };
        let chained: Vec<order::Chained> =
            all.iter().filter_map(of_backup).map(order::Chained::from).collect();
        let ours: Vec<SnapshotId> = chained.iter().map(|it| it.id.clone()).collect();
        let mut task = order::check(order, &ours, &marks, now).map_err(|fault| {
            let repository = repository.name.clone();
            match fault {
                order::Fault::Stale(why) => RepositoryError::Stale { repository, why },
                order::Fault::Refused(why) => RepositoryError::Refused { repository, why },
            }
        })?;
        let spared = task.spare_needed(&chained, &marks);
        if !spared.is_empty() {
            tracing::info!(backup = %order.backup, snapshots = ?spared, "others build on them: kept");
        }
        if order.mode == OrderMode::Apply {
            self.carry_out(&task, &all, now)?;
        }
        let count = |ids: &[SnapshotId]| u32::try_from(ids.len()).unwrap_or(u32::MAX);
        Ok(Applied {
            quarantined: count(&task.hide),
            rescued: count(&task.show),
            deleted: count(&task.delete),
        })
    }

    /// Each step by itself leaves a state that the same order, given again, completes.
    fn carry_out(
        &self,
        task: &order::Task,
        all: &[SnapshotFile],
        now: Timestamp,
    ) -> Result<(), RepositoryError> {
        let repository = self.repository;
        let failed = |error| repository.place("apply a retention plan", error);
        for id in &task.show {
            quarantine::show(self.storage(), id.as_str()).map_err(failed)?;
        }
        failpoint::reach("retention.shown");
        for id in &task.hide {
            let by = (repository.host.as_str(), now);
            quarantine::hide(self.storage(), &self.vault, id, by).map_err(failed)?;
        }
        failpoint::reach("retention.hidden");
        let doomed =
            |file: &&SnapshotFile| record::id_of(file).is_some_and(|id| task.delete.contains(&id));
        let doomed: Vec<_> = all.iter().filter(doomed).map(|file| file.id).collect();
        let deleted = self.engine.delete_snapshots(&doomed);
        repository.engine_result(deleted, "delete a snapshot")?;
        failpoint::reach("retention.deleted");
        // The mark goes last: a snapshot is never shown again on its way out.
        for id in &task.delete {
            quarantine::show(self.storage(), id.as_str()).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes these at once.
    pub(super) fn remove(&self, ids: &[SnapshotId]) -> Result<usize, RepositoryError> {
        self.require_full_access("remove snapshots")?;
        let _alone = self.lock(Purpose::Prune)?;
        let all = self.all()?;
        let wanted = |file: &&SnapshotFile| {
            record::to_snapshot(file).is_some_and(|snapshot| ids.contains(&snapshot.id))
        };
        let found: Vec<_> = all.iter().filter(wanted).map(|file| file.id).collect();
        let deleted = self.engine.delete_snapshots(&found);
        self.repository.engine_result(deleted, "remove a snapshot")?;
        Ok(found.len())
    }

    /// Marks packs that nothing needs, and removes those that were marked long enough.
    pub(super) fn prune(
        &self,
        policy: &PrunePolicy,
        now: Timestamp,
        progress: &Progress,
    ) -> Result<Pruned, RepositoryError> {
        self.require_full_access("prune")?;
        let repository = self.repository;
        self.yield_reserve().map_err(|error| repository.place("free the reserve", error))?;
        let _alone = self.lock(Purpose::Prune)?;
        progress.enter(Stage::Checking, None);
        let temporaries =
            self.sweep(now).map_err(|error| repository.place("sweep temporary files", error))?;
        failpoint::reach("prune.began");
        let mut pruned = self.prune_packs(policy)?;
        failpoint::reach("prune.packs-done");
        pruned.temporaries = temporaries;
        // Room for the next time; a disk that is still full has none.
        if let Err(error) = self.keep_reserve() {
            tracing::warn!(repository = %repository.name, %error, "no reserve could be kept");
        }
        pruned.problems = self.check(progress)?;
        Ok(pruned)
    }

    /// What [`Opened::prune`] would do now.
    pub(super) fn prune_outlook(&self, policy: &PrunePolicy) -> Result<Pruned, RepositoryError> {
        let plan = self.engine.prune_plan(&options_for(policy));
        Ok(outlook(&self.repository.engine_result(plan, "see what can be pruned")?))
    }

    fn prune_packs(&self, policy: &PrunePolicy) -> Result<Pruned, RepositoryError> {
        let options = options_for(policy);
        let repository = self.repository;
        let plan =
            repository.engine_result(self.engine.prune_plan(&options), "see what can be pruned")?;
        let pruned = outlook(&plan);
        repository.engine_result(self.engine.prune(&options, plan), "prune")?;
        Ok(pruned)
    }

    /// Files of runs that died while writing. By age: those of living runs are young.
    fn sweep(&self, now: Timestamp) -> io::Result<u32> {
        let storage = self.storage();
        let packs = (0..=u8::MAX).map(|number| format!("data/{number:02x}"));
        let folders =
            FOLDERS.iter().map(|&name| name.to_owned()).chain([String::new()]).chain(packs);
        let mut swept = 0;
        for folder in folders {
            let listed = match storage.list(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                listed => listed?,
            };
            for file in listed {
                let is_old = file.modified_at.is_some_and(|at| {
                    let age = Duration::try_from(now.duration_since(at)).unwrap_or_default();
                    age > TEMPORARY_AGE_MAX
                });
                if is_old && file.name.contains(TEMPORARY) {
                    let path = format!("{folder}/{}", file.name);
                    remove_if_there(storage, path.trim_start_matches('/'))?;
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }

    /// On a full disk the reserve makes room for the prune itself.
    fn yield_reserve(&self) -> io::Result<()> {
        let storage = self.storage();
        let reserve = match storage.bytes_of(RESERVE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        match storage.available_bytes()? {
            Some(available) if available < reserve => storage.remove(RESERVE),
            _ => Ok(()),
        }
    }

    fn keep_reserve(&self) -> io::Result<()> {
        match self.storage().bytes_of(RESERVE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_reserve(self.storage()),
            outcome => outcome.map(drop),
        }
    }
}

fn options_for(policy: &PrunePolicy) -> PruneOptions {
    let seconds = i64::try_from(policy.keep_packs.as_secs()).unwrap_or(i64::MAX);
    let keep = Span::new().try_seconds(seconds).unwrap_or_else(|_| Span::new().hours(23));
    let mut options = PruneOptions::default();
    options.keep_delete = keep;
    options.max_unused = LimitOption::Percentage(UNUSED_PERCENT_MAX);
    // Ours are smaller than the engine's own; making them larger gains nothing.
    options.no_resize = true;
    options
}

/// Random, because some file systems store zeros in no room at all.
pub(super) fn make_reserve(storage: &dyn Storage) -> io::Result<()> {
    let Some(available) = storage.available_bytes()? else { return Ok(()) };
    let bytes = (available / RESERVE_SHARE).min(RESERVE_MAX);
    if bytes < RESERVE_MIN {
        return Ok(());
    }
    let mut content = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    SystemRandom::new()
        .fill(&mut content)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    storage.write(RESERVE, content.into())
}

/// What the plan will do, in our terms.
fn outlook(plan: &PrunePlan) -> Pruned {
    let stats = &plan.stats;
    let size = stats.size_sum();
    Pruned {
        packs_marked: stats.packs.unused + stats.packs.repack,
        packs_removed: stats.packs_to_delete.remove,
        packs_recovered: stats.packs_to_delete.recover,
        freed_bytes: stats.size_to_delete.remove,
        marked_bytes: size.remove + size.repackrm,
        repacked_bytes: size.repack - size.repackrm,
        ..Pruned::default()
    }
}
