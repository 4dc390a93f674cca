//! What every part of the controller is given.

use std::sync::Arc;

use homelab_common::{
    chance::{Chance, uuid_v7},
    clock::Clock,
    lifecycle::Tasks,
};
use homelab_domain::site::Site;
use homelab_store::Store;
use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::Events;
use crate::{
    audit::AuditLog,
    config::Config,
    fleet::Fleet,
    site::CurrentSite,
    task::{Driver, lease::Lease},
};

/// The parts that all others are built from. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Context {
    /// What the process was told.
    pub config: Arc<Config>,
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
    /// Where tasks are spawned.
    pub tasks: Tasks,
    /// Runs reconcilers: see [`crate::task::BackgroundTask`].
    pub driver: Driver,
    /// What the site file says now.
    pub site: watch::Receiver<Arc<Site>>,
    /// The site file itself.
    pub site_file: CurrentSite,
    /// The daemons: what is known of them, and channels to them.
    pub fleet: Fleet,
    /// Who did what.
    pub audit: AuditLog,
    /// Tells of changes.
    pub events: Events,
    /// How browsers reach the dashboard, without a slash at the end.
    pub web_url: Arc<str>,
    /// That this controller acts, and no other: [`Lease::token`] fences writes.
    pub lease: Lease,
}

impl Context {
    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A new identifier; later ones sort later.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        uuid_v7(self.clock.as_ref(), self.chance.as_ref())
    }

    /// What the site file says now.
    #[must_use]
    pub fn site_now(&self) -> Arc<Site> {
        Arc::clone(&self.site.borrow())
    }
}
