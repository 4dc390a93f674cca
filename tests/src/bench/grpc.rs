//! Calling the daemons of a lab as the person that is logged in.

use anyhow::Context as _;
use homelab_common::tls::{Identity, IdentityHandle, Roots, TrustHandle};
use homelab_rpc::{
    dial::{Dialer, Target},
    peer::{Kind, Peer},
};
use tonic::transport::Channel;

use crate::lab::{Daemon, Lab};

/// The way to one daemon.
#[derive(Clone, Debug)]
pub(super) struct Way {
    dialer: Dialer,
    target: Target,
}

impl Way {
    pub(super) fn to(lab: &Lab, host: &str, daemon: Daemon) -> anyhow::Result<Self> {
        let identity = Identity::from_dir(lab.identity()).context("read the person's identity")?;
        let leaf = identity.chain().first().context("the person's certificate")?;
        let person = Peer::from_certificate(leaf).context("read the person's name")?;
        let dialer = Dialer::new(person.site().clone(), TrustHandle::new(roots(lab)?))
            .identity(IdentityHandle::new(identity));
        let address = lab.ports().of(host, daemon).with_context(|| format!("no {host}"))?;
        let kind = match daemon {
            Daemon::Agent => Kind::Agent,
            Daemon::BackupAgent => Kind::BackupAgent,
            Daemon::GpuWorker => Kind::GpuWorker,
        };
        let target = Target {
            address: address.to_string(),
            server_name: address.ip().to_string(),
            kind,
            name: Some(host.to_owned()),
        };
        Ok(Self { dialer, target })
    }

    /// A channel over mTLS; it connects with its first call, inside of a runtime.
    pub(super) fn channel(&self) -> anyhow::Result<Channel> {
        self.dialer.dial(self.target.clone()).with_context(|| format!("dial {}", self.target))
    }
}

/// The roots of the lab.
pub(super) fn roots(lab: &Lab) -> anyhow::Result<Roots> {
    Roots::from_dir(lab.identity()).context("read the roots")
}
