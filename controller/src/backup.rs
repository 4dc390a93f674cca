//! Fires schedules, follows runs, and knows what would be lost right now.
//!
//! A run is in the store before its agent hears of it, under an id that the agent knows it by: so a
//! reply that was lost, a controller that was killed and a call that came twice all end in asking
//! for the same run again. What is due decides [`plan`], purely; what an agent says goes through one
//! follower per run into the store. How old a backup is, is measured from the newest verified
//! snapshot that its [`repository`] was seen to hold, never from runs that ended well.

pub mod agents;
pub mod convert;
pub mod copies;
pub mod evidence;
mod fire;
mod follow;
pub mod holdings;
pub mod kit;
pub mod plan;
pub mod repository;
pub mod retention;
pub mod signer;
mod start;
mod status;
pub mod timekeeping;
mod upkeep;
pub mod wire;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use homelab_common::{chance::Chance, clock::Clock, lifecycle::Tasks, retry::Backoff};
use homelab_domain::{ids::HostName, site::Site};
use homelab_store::{RunError, Store, StoreError};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    app::{Change, Context, Events},
    task::{Driver, Nudge, lease::Lease},
};
use agents::BackupAgents;
use follow::Followers;
use holdings::Holdings;
pub use plan::{Decision, Observed, Planned};
use repository::Held;
use signer::Signer;
pub use start::{StartError, Wish};
pub use status::{BackupStatus, ScheduleView};
use timekeeping::{OwnHost, Timekeeping};

/// What schedules and runs are built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
    /// Where followers are spawned.
    pub tasks: Tasks,
    /// What the site file says now.
    pub site: watch::Receiver<Arc<Site>>,
    /// The backup-agents.
    pub agents: Arc<dyn BackupAgents>,
    /// Whether the clock is kept in step.
    pub timekeeping: Arc<dyn Timekeeping>,
    /// Tells of changes.
    pub events: Events,
    /// That this controller acts, and no other.
    pub lease: Lease,
    /// Signs evidence.
    pub signer: Signer,
    /// How often things happen.
    pub pace: Pace,
}

impl Parts {
    /// The parts of the controller.
    #[must_use]
    pub fn of(context: &Context, agents: Arc<dyn BackupAgents>, signer: Signer) -> Self {
        Self {
            store: Arc::clone(&context.store),
            clock: Arc::clone(&context.clock),
            chance: Arc::clone(&context.chance),
            tasks: context.tasks.clone(),
            site: context.site.clone(),
            agents,
            timekeeping: Arc::new(OwnHost {
                fleet: context.fleet.clone(),
                host: HostName::try_new(&context.config.name).ok(),
            }),
            events: context.events.clone(),
            lease: context.lease.clone(),
            signer,
            pace: Pace::default(),
        }
    }
}

/// How often things happen. The defaults are for a home; tests are in more of a hurry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Between attempts to find a run again.
    pub rejoin: Backoff,
    /// Between two writes of a run's progress: agents report several times a second.
    pub progress: Duration,
    /// Before the end of a run is given to a store that refused it again.
    pub store: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        let rejoin = Backoff::try_new(second, 30 * second, 0.3);
        Self {
            #[expect(clippy::expect_used, reason = "the numbers stand one line above")]
            rejoin: rejoin.expect("valid numbers"),
            progress: 2 * second,
            store: second,
        }
    }
}

/// Why something about backups could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BackupsError {
    /// The store failed.
    #[error("could not read or write what is known of the backups")]
    Store(#[from] StoreError),
    /// A run could not be changed.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Schedules and runs. Clones are the same.
#[derive(Clone)]
pub struct Backups(Arc<Inner>);

struct Inner {
    parts: Parts,
    held: Held,
    holdings: Holdings,
    followers: Followers,
    /// Fires the schedules soon, once they are fired at all.
    fire: std::sync::OnceLock<Nudge>,
    /// Has repositories kept up soon, once they are.
    upkeep: std::sync::OnceLock<[Nudge; 2]>,
}

impl fmt::Debug for Backups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backups")
            .field("followed", &self.0.followers.count())
            .finish_non_exhaustive()
    }
}

impl Backups {
    /// Schedules that nobody fires yet; see [`Backups::start`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            held: Held::default(),
            holdings: Holdings::default(),
            followers: Followers::default(),
            fire: std::sync::OnceLock::new(),
            upkeep: std::sync::OnceLock::new(),
        }))
    }

    /// Finds the runs again that go on, fires schedules, and reads the repositories, until the
    /// controller stops.
    pub fn start(&self, driver: &Driver) {
        driver.start(Arc::new(follow::FollowRuns(self.clone())));
        driver.start(Arc::new(repository::ReadRepositories(self.clone())));
        let upkeep = [
            driver.start(Arc::new(retention::ApplyRetention(self.clone()))),
            driver.start(Arc::new(upkeep::KeepUpRepositories(self.clone()))),
        ];
        let nudge = driver.start(Arc::new(fire::FireSchedules::new(self.clone())));
        // Started twice, the first start's nudge does as well.
        drop(self.0.fire.set(nudge));
        drop(self.0.upkeep.set(upkeep));
    }

    /// What it is built from.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// What the site file says now.
    #[must_use]
    pub fn site(&self) -> Arc<Site> {
        Arc::clone(&self.0.parts.site.borrow())
    }

    fn now(&self) -> Timestamp {
        self.0.parts.clock.now()
    }

    fn held(&self) -> &Held {
        &self.0.held
    }

    /// What each repository was last seen to hold.
    #[must_use]
    pub fn holdings(&self) -> &Holdings {
        &self.0.holdings
    }

    fn followers(&self) -> &Followers {
        &self.0.followers
    }

    /// Something changed that people may be looking at, and that may make something due.
    fn changed(&self) {
        self.0.parts.events.tell(Change::Backups);
        if let Some(nudge) = self.0.fire.get() {
            nudge.nudge();
        }
    }

    /// What a repository holds became known: whoever keeps it up need not wait for the next round.
    fn became_known(&self) {
        for nudge in self.0.upkeep.get().into_iter().flatten() {
            nudge.nudge();
        }
    }

    /// Hosts of backups whose agent does not answer, and why.
    fn silent(&self, site: &Site) -> BTreeMap<HostName, String> {
        let hosts = site.backups().iter().flat_map(|backup| [&backup.host, backup.drilled_on()]);
        hosts
            .filter_map(|host| Some((host.clone(), self.0.parts.agents.answers(host).err()?)))
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
