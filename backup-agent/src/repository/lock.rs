//! Who else works on the repository: lock objects.
//!
//! Advisory locks of the kernel are unreliable on network file systems, so a lock is
//! a file that says who holds it, since when, and when its holder was last alive.
//! Runs that store hold it together, a prune holds it alone. A lock is never the only
//! guard: a prune marks packs and removes them much later, so that a lock that broke
//! costs nothing (docs/adr/008-proof-of-a-backup.md).

use std::{
    fs, io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use homelab_common::clock::Clock;
use jiff::Timestamp;
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use serde::{Deserialize, Serialize};

use super::storage::{Storage, folder::random_suffix, remove_if_there};

/// Where lock objects lie.
pub const FOLDER: &str = "homelab-locks";

/// How often a holder says that it is alive.
const BEAT: Duration = Duration::from_secs(120);

/// A holder of another host that has not been heard of for so long is dead. Longer
/// than clocks of one household differ.
const SILENCE_MAX: Duration = Duration::from_secs(1800);

/// What is done under a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Storing; any number at once.
    Store,
    /// Forgetting and pruning; alone.
    Prune,
}

/// What a lock object says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What for.
    pub purpose: Purpose,
    /// Host.
    pub host: String,
    /// Process there.
    pub pid: i32,
    /// That host's boot: processes of an earlier one are dead.
    pub boot: String,
    /// Since when.
    pub since: Timestamp,
    /// Last sign of life.
    pub alive_at: Timestamp,
}

impl Holder {
    /// This process.
    #[must_use]
    pub fn this(purpose: Purpose, host: &str, now: Timestamp) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            purpose,
            host: host.to_owned(),
            pid: Pid::this().as_raw(),
            boot: boot.trim().to_owned(),
            since: now,
            alive_at: now,
        }
    }

    /// Whether its holder is gone, as seen from `this` process.
    #[must_use]
    pub fn is_dead(&self, this: &Self, is_running: impl Fn(i32) -> bool) -> bool {
        if self.host == this.host {
            return self.boot != this.boot || !is_running(self.pid);
        }
        let silence = this.alive_at.duration_since(self.alive_at);
        Duration::try_from(silence).unwrap_or_default() > SILENCE_MAX
    }

    fn excludes(&self, other: &Self) -> bool {
        self.purpose == Purpose::Prune || other.purpose == Purpose::Prune
    }
}

/// Whether a process of this host runs.
#[must_use]
pub fn is_running(pid: i32) -> bool {
    !matches!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH))
}

/// A lock that is held; given up when dropped.
#[derive(Debug)]
pub struct Lock {
    storage: Arc<dyn Storage>,
    path: String,
    stop: Arc<(Mutex<bool>, Condvar)>,
}

/// Why a lock cannot be had.
#[derive(Debug)]
pub enum Refusal {
    /// Somebody holds it.
    Held(Box<Holder>),
    /// The place failed.
    Place(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Place(error)
    }
}

impl Lock {
    /// Takes a lock: first the own object, then a look at the others, so that of two
    /// that come at once at least one gives way.
    ///
    /// # Errors
    ///
    /// Who holds one that does not go with it, or the place failed.
    pub fn take(
        storage: &Arc<dyn Storage>,
        this: Holder,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Refusal> {
        let name = format!("{}.json", random_suffix()?);
        let lock = Self {
            storage: Arc::clone(storage),
            path: format!("{FOLDER}/{name}"),
            stop: Arc::default(),
        };
        write(storage.as_ref(), &lock.path, &this)?;
        for (other, holder) in holders(storage.as_ref())? {
            if other == lock.path || !holder.excludes(&this) {
                continue;
            }
            if !holder.is_dead(&this, is_running) {
                return Err(Refusal::Held(Box::new(holder)));
            }
            tracing::warn!(host = %holder.host, pid = holder.pid, "removed the lock of a dead process");
            remove_if_there(storage.as_ref(), &other)?;
        }
        lock.keep_alive(this, clock)?;
        Ok(lock)
    }

    fn keep_alive(&self, mut holder: Holder, clock: Arc<dyn Clock>) -> io::Result<()> {
        let (storage, path) = (Arc::clone(&self.storage), self.path.clone());
        let stop = Arc::clone(&self.stop);
        let beat = move || {
            let (stopped, changed) = &*stop;
            loop {
                let guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
                let wait = changed.wait_timeout_while(guard, BEAT, |stopped| !*stopped);
                let (stopped, _) = wait.unwrap_or_else(PoisonError::into_inner);
                if *stopped {
                    return;
                }
                // Held while writing: a dropped lock must not come back.
                holder.alive_at = clock.now();
                if let Err(error) = write(storage.as_ref(), &path, &holder) {
                    tracing::warn!(%error, "could not say that a lock is still held");
                }
            }
        };
        thread::Builder::new().name("lock".to_owned()).spawn(beat).map(drop)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let (stopped, changed) = &*self.stop;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Err(error) = remove_if_there(self.storage.as_ref(), &self.path) {
            tracing::warn!(%error, "could not give up a lock; it dies with this process");
        }
    }
}

/// Who holds locks, with the paths of their objects.
///
/// # Errors
///
/// The place failed.
pub fn holders(storage: &dyn Storage) -> io::Result<Vec<(String, Holder)>> {
    let listed = match storage.list(FOLDER) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut holders = Vec::new();
    for file in listed.iter().filter(|file| file.name.ends_with(".json")) {
        let path = format!("{FOLDER}/{}", file.name);
        // One that goes meanwhile is given up; one that nobody can read holds nothing.
        let text = super::storage::read_if_there(storage, &path)?;
        if let Some(holder) = text.and_then(|text| serde_json::from_slice(&text).ok()) {
            holders.push((path, holder));
        }
    }
    Ok(holders)
}

fn write(storage: &dyn Storage, path: &str, holder: &Holder) -> io::Result<()> {
    storage.write(path, serde_json::to_vec(holder)?.into())
}

#[cfg(test)]
mod tests {
    use homelab_common::clock::SystemClock;
    use uuid::Uuid;

    use super::*;
    use crate::repository::identity::{Place, Site};

    fn holder(purpose: Purpose) -> Holder {
        Holder::this(purpose, "hx310-db", "2026-11-23T03:00:00Z".parse().expect("a time"))
    }

    fn storage(folder: &tempfile::TempDir) -> Arc<dyn Storage> {
        let place = Place { path: folder.path().into(), id: Uuid::nil(), mount: None };
        place.enter_empty().expect("an empty folder")
    }

    fn take(storage: &Arc<dyn Storage>, holder: Holder) -> Result<Lock, Refusal> {
        Lock::take(storage, holder, Arc::new(SystemClock))
    }

    #[test]
    fn pitfall_19_runs_share_a_lock_and_a_prune_has_it_alone() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let storage = storage(&folder);
        let one = take(&storage, holder(Purpose::Store)).expect("a lock");
        let two = take(&storage, holder(Purpose::Store)).expect("a lock");
        let Err(Refusal::Held(by)) = take(&storage, holder(Purpose::Prune)) else {
            panic!("a prune beside a run")
        };
        assert_eq!((by.host.as_str(), by.pid), ("hx310-db", Pid::this().as_raw()));
        drop((one, two));
        let prune = take(&storage, holder(Purpose::Prune)).expect("a lock");
        assert!(matches!(take(&storage, holder(Purpose::Store)), Err(Refusal::Held(_))));
        drop(prune);
        assert_eq!(holders(storage.as_ref()).expect("a listing"), []);
    }

    #[test]
    fn pitfall_19_the_lock_of_a_dead_process_or_an_earlier_boot_is_taken_over() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let storage = storage(&folder);
        let earlier = Holder { boot: "earlier".to_owned(), ..holder(Purpose::Prune) };
        write(storage.as_ref(), &format!("{FOLDER}/1.json"), &earlier).expect("written");
        take(&storage, holder(Purpose::Store)).expect("a lock");
        assert_eq!(holders(storage.as_ref()).expect("a listing"), []);
    }

    #[test]
    fn pitfall_19_another_host_is_dead_only_after_long_silence() {
        let this = holder(Purpose::Store);
        let other = Holder { host: "nas".to_owned(), ..this.clone() };
        assert!(!other.is_dead(&this, |_| false));
        let later = this.alive_at + jiff::SignedDuration::from_secs(1801);
        assert!(other.is_dead(&Holder { alive_at: later, ..this.clone() }, |_| true));
        assert!(Holder { pid: 1, ..this.clone() }.is_dead(&this, |_| false));
    }
}
