//! Makes sure that of several controllers on one store only one acts.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use homelab_common::{chance::Chance, clock::Clock, lifecycle::Tasks};
use homelab_store::{Store, StoreError, Tenure};
use jiff::Timestamp;
use tracing::error;

use super::{BackgroundTask, Done, Outcome};
use crate::ca::issue::hex;

/// How long the lease is good. Longer than clocks of two machines may differ and than the store may
/// be away for a restart; a standby waits this long after a crash.
const TERM: Duration = Duration::from_secs(60);

/// How often it is renewed: three misses are forgiven.
const PERIOD: Duration = Duration::from_secs(15);

/// The file that names this installation across restarts, and whose lock keeps a second process out.
const INSTANCE: &str = "instance-id";

/// That this controller acts, and no other. Clones are the same lease.
#[derive(Clone, Debug)]
pub struct Lease {
    token: u64,
    holder: Arc<str>,
}

/// Why this controller does not act.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another controller acts on the same store.
    #[error(
        "another controller acts on this store: `{holder}` since {since}, at least until {until}; \
         stop it first, or give this one a store of its own"
    )]
    Held {
        /// Who.
        holder: String,
        /// Since when.
        since: Timestamp,
        /// Until when, unless it renews.
        until: Timestamp,
    },
    /// The store failed.
    #[error("could not ask the store who acts")]
    Store(#[from] StoreError),
}

/// Why this process may not use the state folder.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another process uses it.
    #[error("another controller runs on `{}`; stop it first", path.display())]
    Running {
        /// The folder.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("could not use `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// This installation: one state folder, one running process. Dropping it lets another one in.
#[derive(Debug)]
pub struct Instance {
    name: String,
    _lock: File,
}

impl Instance {
    /// Locks the folder and reads its name, which is made when there is none.
    ///
    /// # Errors
    ///
    /// Another process has the lock, or the file cannot be used.
    pub fn lock(state_dir: &Path, chance: &dyn Chance) -> Result<Self, InstanceError> {
        let path = state_dir.join(INSTANCE);
        let failed = |source| InstanceError::File { path: path.clone(), source };
        let mut options = File::options();
        let mut file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(InstanceError::Running { path: state_dir.into() });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut name = String::new();
        file.read_to_string(&mut name).map_err(failed)?;
        if name.trim().is_empty() {
            let mut random = [0; 8];
            chance.fill(&mut random);
            name = hex(&random);
            file.write_all(name.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Ok(Self { name: name.trim().to_owned(), _lock: file })
    }

    /// Names this installation: the same after every restart.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Lease {
    /// Takes the lease, or says who has it. A controller that was killed gets its own back at once.
    ///
    /// # Errors
    ///
    /// Another controller acts, or the store fails.
    pub async fn acquire(
        store: &dyn Store,
        holder: &str,
        now: Timestamp,
    ) -> Result<Self, LeaseError> {
        let mut tx = store.begin().await?;
        let tenure = tx.leadership().acquire(holder, now, until(now)).await?;
        match tenure {
            Tenure::Mine(leader) => {
                tx.commit().await?;
                Ok(Self { token: leader.token, holder: holder.into() })
            }
            Tenure::Theirs(leader) => Err(LeaseError::Held {
                holder: leader.holder,
                since: leader.since,
                until: leader.until,
            }),
        }
    }

    /// The fencing token: `tx.leadership().require(token)` keeps a stale controller from
    /// committing.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }
}

fn until(now: Timestamp) -> Timestamp {
    now.checked_add(TERM).unwrap_or(now)
}

/// Renews the lease, and stops the controller when it is lost.
#[derive(Debug)]
pub struct KeepLease {
    /// The lease.
    pub lease: Lease,
    /// Where it is kept.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// What is stopped.
    pub tasks: Tasks,
}

#[async_trait]
impl BackgroundTask for KeepLease {
    fn name(&self) -> &'static str {
        "keep-lease"
    }

    fn description(&self) -> &'static str {
        "Renews the lease that lets this controller, and no other, act on the store."
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn deadline(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Outcome {
        let mut tx = self.store.begin().await?;
        let renewed = tx.leadership().renew(self.lease.token, until(self.clock.now())).await;
        match renewed {
            Ok(()) => {
                tx.commit().await?;
                Ok(Done::Nothing)
            }
            Err(error @ StoreError::Conflict { .. }) => {
                error!("another controller has taken over; this one stops");
                self.tasks.stop();
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Gives the lease back, so that a standby need not wait.
///
/// # Errors
///
/// The store fails; the lease then runs out by itself.
pub async fn release(lease: &Lease, store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    tx.leadership().release(lease.token, now).await?;
    tx.commit().await
}
