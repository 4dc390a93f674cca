//! Hosts that are off until needed: woken when it pays, put to sleep when nothing speaks against it.
//!
//! The [`keep`] task reads what is so (the fleet, the queue, the site file, the store), asks the
//! domain, and acts with [`hands`]. What it last found stands on a [`board`], which jobs read for
//! how long they will wait. What people ask for ([`person`]) goes through the same places.

pub mod board;
pub mod demand;
pub mod hands;
pub mod keep;
mod leave;
pub mod person;
mod picture;
pub mod plug;
mod rest;
mod round;
mod usage;
mod wake;
mod ward;
pub mod wire;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use homelab_common::{chance::Chance, clock::Clock, lifecycle::Tasks};
use homelab_domain::{ids::HostName, site::Site};
use homelab_store::Store;
use jiff::Timestamp;
use tokio::sync::{broadcast::error::RecvError, watch};

use crate::{
    app::{Change, Events},
    job::Jobs,
    task::{Driver, Nudge},
};
use board::Board;
use hands::Hands;
use keep::KeepPower;
use ward::Ward;

/// How long changes of the queue may gather before the task looks.
const GATHER: Duration = Duration::from_millis(500);

/// What power is kept with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
    /// Where the follower of the queue is spawned.
    pub tasks: Tasks,
    /// What the site file says now.
    pub site: watch::Receiver<Arc<Site>>,
    /// Who waits.
    pub jobs: Jobs,
    /// Tells of changes.
    pub events: Events,
    /// What reaches hosts.
    pub hands: Arc<dyn Hands>,
}

/// The power of hosts that are off until needed. Clones are the same.
#[derive(Clone)]
pub struct Powers(Arc<Inner>);

struct Inner {
    parts: Parts,
    board: Board,
    /// What is only known while the controller runs; held for as long as anything is done to a host.
    wards: tokio::sync::Mutex<BTreeMap<HostName, Ward>>,
    /// Hosts that somebody wants awake now, and who.
    asked: Mutex<BTreeMap<HostName, String>>,
    nudge: Nudge,
    /// Whether hosts that are always on were asked what an earlier life of this controller left there.
    looked_back: AtomicBool,
}

impl fmt::Debug for Powers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Powers").field("hands", &self.0.parts.hands).finish_non_exhaustive()
    }
}

impl Powers {
    /// Nobody is looked after yet; see [`Powers::start`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let board = parts.jobs.wakes().clone();
        Self(Arc::new(Inner {
            parts,
            board,
            wards: tokio::sync::Mutex::default(),
            asked: Mutex::default(),
            nudge: Nudge::default(),
            looked_back: AtomicBool::new(false),
        }))
    }

    /// Starts the task that looks after the hosts, and has it look when the queue changes.
    pub fn start(&self, driver: &Driver) {
        driver.start_with(Arc::new(KeepPower::new(self.clone())), self.0.nudge.clone());
        let (powers, mut changes) = (self.clone(), self.0.parts.events.follow());
        let stopping = self.0.parts.tasks.stopping();
        self.0.parts.tasks.spawn(async move {
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = stopping.cancelled() => return,
                };
                match change {
                    Ok(Change::Jobs) | Err(RecvError::Lagged(_)) => {}
                    Ok(_) => continue,
                    Err(RecvError::Closed) => return,
                }
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => powers.0.nudge.nudge(),
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    /// What was last found.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.0.board
    }

    /// The time of day.
    #[must_use]
    pub fn clock_now(&self) -> Timestamp {
        self.now()
    }

    fn now(&self) -> Timestamp {
        self.0.parts.clock.now()
    }

    fn site(&self) -> Arc<Site> {
        Arc::clone(&self.0.parts.site.borrow())
    }

    /// Who wants the host awake now, if anybody does; asked once.
    fn take_asked(&self, host: &HostName) -> Option<String> {
        self.asked().remove(host)
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<HostName, String>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
