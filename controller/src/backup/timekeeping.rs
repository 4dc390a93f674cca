//! Whether the clock that ages are measured with is kept in step: snapshots are given up by their age,
//! and a clock that runs free may say anything.

use std::fmt;

use homelab_domain::ids::HostName;

use crate::fleet::Fleet;

/// Knows whether the controller's clock is kept in step.
pub trait Timekeeping: fmt::Debug + Send + Sync {
    /// Whether a time source disciplines it; none when nobody can tell.
    fn is_synchronized(&self) -> Option<bool>;
}

/// What the agent on the controller's own host last said.
#[derive(Clone, Debug)]
pub struct OwnHost {
    /// The hosts.
    pub fleet: Fleet,
    /// The one that the controller runs on; none when the site file has no host of that name.
    pub host: Option<HostName>,
}

impl Timekeeping for OwnHost {
    fn is_synchronized(&self) -> Option<bool> {
        let view = self.fleet.host(self.host.as_ref()?)?;
        view.health.as_ref()?.time_sync.as_ref()?.synchronized
    }
}
