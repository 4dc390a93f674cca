//! Small conversions between the wire and the domain that several services need.

use std::time::Duration;

use homelab_domain::{
    fleet::HostState,
    site::{DaemonKind, ExpectedPower},
};
use homelab_proto::{
    common::v1::{PeerKind, Role as PbRole},
    controller::v1 as pb,
};
use homelab_rpc::{
    peer::{Grant, Kind, Role},
    status::Failure,
};
use tonic::Status;

/// A span as in the protocol; what is too long becomes the longest.
#[must_use]
pub fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span)
        .unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// A span from the protocol, or `default` when there is none.
///
/// # Errors
///
/// It is negative.
pub fn span(
    field: &str,
    given: Option<prost_types::Duration>,
    default: Duration,
) -> Result<Duration, Status> {
    let Some(given) = given else { return Ok(default) };
    Duration::try_from(given).map_err(|_| {
        let what = "a span of time that is not negative";
        Failure::invalid(format!("{field}: {what}")).field(field, what).into()
    })
}

/// Kinds from the protocol.
///
/// # Errors
///
/// One is unknown or unspecified.
pub fn kinds(field: &str, given: &[i32]) -> Result<Vec<Kind>, Status> {
    given.iter().map(|number| kind(field, *number)).collect()
}

/// A kind from the protocol.
///
/// # Errors
///
/// It is unknown or unspecified.
pub fn kind(field: &str, given: i32) -> Result<Kind, Status> {
    PeerKind::try_from(given).ok().and_then(Kind::from_proto).ok_or_else(|| {
        let what = "one of agent, backup-agent, gpu-worker and user";
        Failure::invalid(format!("{field}: {what}")).field(field, what).into()
    })
}

/// What a person is granted; `None` when no role is named.
///
/// # Errors
///
/// The role is unknown, or approver alone.
pub fn grant(role: i32, approver: bool) -> Result<Option<Grant>, Status> {
    let role = match PbRole::try_from(role) {
        Ok(PbRole::Unspecified) => return Ok(None),
        Ok(PbRole::Viewer) => Role::Viewer,
        Ok(PbRole::Operator) => Role::Operator,
        Ok(PbRole::Admin) => Role::Admin,
        Ok(PbRole::Approver) | Err(_) => {
            let what = "one of viewer, operator and admin; approver stands beside it";
            return Err(Failure::invalid(format!("role: {what}")).field("role", what).into());
        }
    };
    Ok(Some(Grant { role, approver }))
}

/// A kind of daemon as in the protocol.
#[must_use]
pub const fn daemon_kind(kind: DaemonKind) -> PeerKind {
    match kind {
        DaemonKind::Agent => PeerKind::Agent,
        DaemonKind::BackupAgent => PeerKind::BackupAgent,
        DaemonKind::GpuWorker => PeerKind::GpuWorker,
    }
}

/// A host's state as in the protocol.
#[must_use]
pub const fn host_state(state: HostState) -> pb::HostState {
    match state {
        HostState::Healthy => pb::HostState::Healthy,
        HostState::Degraded => pb::HostState::Degraded,
        HostState::Unreachable => pb::HostState::Unreachable,
        HostState::Asleep => pb::HostState::Asleep,
        HostState::Unknown => pb::HostState::Unknown,
        HostState::NotEnrolled => pb::HostState::NotEnrolled,
    }
}

/// An expected power state as in the protocol.
#[must_use]
pub const fn expected_power(power: ExpectedPower) -> pb::ExpectedPower {
    match power {
        ExpectedPower::On => pb::ExpectedPower::On,
        ExpectedPower::OnDemand => pb::ExpectedPower::OnDemand,
    }
}
