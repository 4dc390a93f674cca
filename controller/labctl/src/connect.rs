//! The way to the controller, and why there is none.

use homelab_common::{
    exit::Exit,
    tls::{IdentityHandle, TrustHandle},
};
use homelab_rpc::{
    dial::{DialError, Dialer, Layer, Target},
    peer::Kind,
};
use tonic::transport::Channel;

use crate::{context::Context, failure::Failure, lab::Lab};

/// A channel to the controller, as the person that is logged in.
///
/// # Errors
/// Denied when nobody is; otherwise the layer that failed, with the fix.
pub async fn controller(lab: &Lab) -> Result<Channel, Failure> {
    let (dialer, target) = way(lab)?;
    // One early try tells which layer fails; the channel itself connects with its first call.
    dialer.probe(&target).await.map_err(|error| no_way(&error))?;
    dialer.dial(target).map_err(|error| no_way(&error))
}

/// Who dials, and whom.
///
/// # Errors
/// Denied when nobody is logged in.
pub fn way(lab: &Lab) -> Result<(Dialer, Target), Failure> {
    let context = lab.context()?;
    let (identity, roots) = Context::identity(&lab.folder, lab.now())?;
    let dialer = Dialer::new(context.id.site().clone(), TrustHandle::new(roots))
        .identity(IdentityHandle::new(identity));
    let target = Target {
        address: context.controller,
        server_name: context.controller_name,
        kind: Kind::Controller,
        name: None,
    };
    Ok((dialer, target))
}

/// Says which layer failed, and what to do about it.
#[must_use]
pub fn no_way(error: &DialError) -> Failure {
    let words = homelab_common::error_chain::Chain(error).to_string();
    let fix = match error.layer() {
        None => "check the address: labctl --controller ADDRESS:PORT …",
        Some(Layer::Resolve) => {
            "check the name and the name server, or give an address: --controller ADDRESS"
        }
        Some(Layer::Connect) => {
            "is it running, and may you reach it? `systemctl status homelab-controller` on its host"
        }
        Some(Layer::Tls) => "the certificates do not fit each other: labctl login",
        Some(Layer::Identity) => "somebody else answers at this address: check --controller",
    };
    Failure::new(Exit::Unreachable, words).next(fix)
}
