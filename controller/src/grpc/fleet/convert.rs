//! Hosts, backups and concerns as in the protocol.

use homelab_domain::fleet::{Concern, Verdict};
use homelab_proto::{common::v1 as common, controller::v1 as pb};
use homelab_rpc::node::to_proto;
use homelab_store::JobCounts;

use crate::{
    fleet::{DaemonView, HostView},
    grpc::wire,
    overview::{BackupLine, Overview},
};

/// The whole.
#[must_use]
pub fn overview(overview: Overview, site: &str) -> pb::GetStatusResponse {
    pb::GetStatusResponse {
        verdict: verdict(overview.verdict).into(),
        concerns: overview.concerns.into_iter().map(concern).collect(),
        hosts: overview.hosts.iter().map(host).collect(),
        backups: overview.backups.iter().map(backup).collect(),
        jobs: Some(jobs(overview.jobs)),
        site: site.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        observed_at: Some(to_proto(overview.observed_at)),
    }
}

/// One host in a line.
#[must_use]
pub fn host(view: &HostView) -> pb::HostStatus {
    let standing = &view.standing;
    pb::HostStatus {
        name: view.declared.name.to_string(),
        state: wire::host_state(standing.state).into(),
        message: standing.because.message.clone(),
        since: standing.since.map(to_proto),
        last_seen_at: standing.last_seen_at.map(to_proto),
        address: view.declared.address.to_string(),
        conditions: conditions(view),
        daemons: view.daemons.iter().map(daemon).collect(),
        expected_power: wire::expected_power(view.declared.expected_power).into(),
        drained: standing.drained,
        description: view.declared.description.clone(),
    }
}

/// What the agent stated, what does not hold first.
fn conditions(view: &HostView) -> Vec<common::Condition> {
    let Some(health) = &view.health else { return Vec::new() };
    let mut conditions = health.conditions.clone();
    conditions.sort_by_key(|condition| match condition.status() {
        common::ConditionStatus::False => 0,
        common::ConditionStatus::Unknown | common::ConditionStatus::Unspecified => 1,
        common::ConditionStatus::True => 2,
    });
    conditions
}

fn daemon(view: &DaemonView) -> pb::DaemonStatus {
    pb::DaemonStatus {
        kind: wire::daemon_kind(view.kind).into(),
        address: view.address.to_string(),
        connected: view.connected,
        version: view.version.clone().unwrap_or_default(),
        certificate_not_after: view.certificate_not_after.map(to_proto),
        message: view.message.clone(),
    }
}

fn backup(line: &BackupLine) -> pb::BackupStatus {
    let risk = &line.risk;
    pb::BackupStatus {
        backup: risk.backup.to_string(),
        verdict: verdict(risk.verdict).into(),
        message: risk.message(),
        newest_verified_at: risk.newest_verified_at.map(to_proto),
        exposure: risk.exposure.map(wire::duration),
        rpo: Some(wire::duration(risk.rpo)),
        last_drill_at: risk.last_drill_at.map(to_proto),
        last_rto: risk.last_rto.map(wire::duration),
        next_run_at: line.next_run_at.map(to_proto),
        paused: line.paused,
    }
}

fn concern(concern: Concern) -> pb::Concern {
    pb::Concern {
        verdict: verdict(concern.verdict).into(),
        subject: concern.subject,
        reason: concern.because.reason.to_string(),
        message: concern.because.message,
        since: concern.since.map(to_proto),
        command: concern.command,
    }
}

fn jobs(counts: JobCounts) -> pb::JobCounts {
    let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    pb::JobCounts {
        pending: number(counts.pending),
        running: number(counts.running),
        succeeded: number(counts.succeeded),
        failed: number(counts.failed),
    }
}

/// A verdict as in the protocol.
#[must_use]
pub const fn verdict(verdict: Verdict) -> pb::Verdict {
    match verdict {
        Verdict::Ok => pb::Verdict::Ok,
        Verdict::Warning => pb::Verdict::Warning,
        Verdict::Critical => pb::Verdict::Critical,
    }
}
