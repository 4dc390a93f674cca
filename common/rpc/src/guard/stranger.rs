//! How often somebody without a certificate may call.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use homelab_common::rate::{Limiter, Rate, party};
use tokio::time::Instant;

use crate::{
    access::Denied,
    connection::{ConnectionInfo, Remote},
};

/// For one address. An enrolment is two calls, so that sixty daemons can enrol at once from behind
/// one address, and then one a second.
const EACH: Rate = Rate { burst: 120, every: Duration::from_millis(500) };

/// For all addresses together.
const ALL: Rate = Rate { burst: 480, every: Duration::from_millis(50) };

/// The calls of strangers, counted. Clones are the same count.
#[derive(Clone, Debug)]
pub(crate) struct Strangers(Arc<Mutex<Limiter<IpAddr>>>);

impl Default for Strangers {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Limiter::new(EACH, ALL))))
    }
}

impl Strangers {
    /// Counts a call.
    pub(super) fn admit(&self, from: &ConnectionInfo) -> Result<(), Denied> {
        let address = match from.remote {
            Remote::Tcp(address) => party(address.ip()),
            Remote::Unix { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let mut limiter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.take(address, Instant::now()).map_err(|wait| Denied::TooMany { wait })
    }
}
