//! "Something changed": what pages and streams follow.

use tokio::sync::broadcast;

/// How many changes a slow follower may lag behind before it is told that it missed some.
const WAITING_MAX: usize = 256;

/// What changed. It carries no content: whoever hears it reads the state anew, so that a missed
/// change does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A host's state or what is known of it.
    Hosts,
    /// A run, a drill or a schedule.
    Backups,
    /// A job.
    Jobs,
    /// The audit log has a new entry.
    Audit,
}

/// Tells of changes. Clones are the same.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Change>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING_MAX))
    }
}

impl Events {
    /// Tells all followers; nobody needs to listen.
    pub fn tell(&self, change: Change) {
        // An error only says that nobody follows.
        let _nobody = self.0.send(change);
    }

    /// Follows from now on. `RecvError::Lagged` means: read everything anew.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Change> {
        self.0.subscribe()
    }
}
