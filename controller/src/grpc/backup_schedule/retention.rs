//! Retention, copies and windows over the wire.

use homelab_domain::{
    copies::{CopyRole, CopyRule, CopyStatus},
    retention::{Brake, Decision, KeepPolicy, Plan, Verdict},
    schedule::Zone,
    site::{Backup, Site},
};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::status::{Failure, Reason, fail};
use jiff::Timestamp;
use tonic::{Code, Status};

use super::{BackupScheduleApi, backup_name, invalid, reason, repository_name};
use crate::{
    backup::{
        convert::{span, span_message, time_message},
        copies::CopiesView,
        retention::{Deed, RetentionError, digest_of},
    },
    grpc::status::IntoStatus,
};

impl BackupScheduleApi {
    pub(super) async fn plan_retention(
        &self,
        request: pb::PlanBackupRetentionRequest,
        call: &str,
    ) -> Result<pb::PlanBackupRetentionResponse, Status> {
        let backup = self.declared(&request.backup, call)?;
        let only = repository_name(&request.repository)?;
        let is_tried = request.policy.is_some() || backup.keep.is_none();
        let policy = match &request.policy {
            Some(policy) => tried(policy, backup.schedule.zone())?,
            None => self.backups.policy_of(&backup),
        };
        let plans = self.backups.plan_retention_now(&backup, &policy).await;
        let plans = plans.map_err(|error| error.into_status(call))?;
        let now = self.backups.parts().clock.now();
        let plans =
            plans.iter().filter(|plan| only.as_ref().is_none_or(|it| *it == plan.repository));
        let plans = plans.map(|plan| {
            let can_apply = !is_tried && !plan.is_empty() && plan.braked_by().is_none();
            pb::RetentionPlan { applicable: can_apply, ..plan_message(plan, &policy, now) }
        });
        let plans = plans.collect();
        Ok(pb::PlanBackupRetentionResponse { plans })
    }

    pub(super) async fn apply_retention(
        &self,
        request: pb::ApplyBackupRetentionRequest,
        by: String,
        call: &str,
    ) -> Result<pb::ApplyBackupRetentionResponse, Status> {
        let backup = self.declared(&request.backup, call)?;
        let repository = repository_name(&request.repository)?;
        let repository = repository.ok_or_else(|| invalid("repository", "name the repository"))?;
        let deed = if request.validate_only { Deed::Check } else { Deed::CarryOut };
        let digest = &request.digest;
        let applied = self.backups.apply_retention(&backup, &repository, digest, deed, &by).await;
        let applied = applied.map_err(|error| error.into_status(call))?;
        let number = |one: usize| u32::try_from(one).unwrap_or(u32::MAX);
        Ok(pb::ApplyBackupRetentionResponse {
            quarantined: number(applied.quarantined),
            deleted: number(applied.deleted),
        })
    }

    pub(super) async fn acknowledge(
        &self,
        request: pb::AcknowledgeBrakeRequest,
        by: String,
        call: &str,
    ) -> Result<pb::AcknowledgeBrakeResponse, Status> {
        let backup = self.declared(&request.backup, call)?;
        let why = reason(&request.reason)?;
        let (kind, subject) = (&request.brake, &request.subject);
        let brake = self.backups.acknowledge_brake(&backup, kind, subject, by, why).await;
        let brake = brake.map_err(|error| error.into_status(call))?;
        Ok(pb::AcknowledgeBrakeResponse { brake: Some(brake_message(&brake)) })
    }

    pub(super) async fn copies(
        &self,
        request: pb::ListBackupCopiesRequest,
        call: &str,
    ) -> Result<pb::ListBackupCopiesResponse, Status> {
        let only = match request.backup.as_str() {
            "" => None,
            name => Some(self.declared(name, call)?.name),
        };
        let all = self.backups.copies().await.map_err(|error| error.into_status(call))?;
        let all = all.iter().filter(|one| only.as_ref().is_none_or(|it| *it == one.backup.name));
        Ok(pb::ListBackupCopiesResponse { backups: all.map(copies_message).collect() })
    }

    /// A backup as the site file declares it.
    pub(super) fn declared(&self, name: &str, call: &str) -> Result<Backup, Status> {
        let name = backup_name(name)?;
        self.backups.declared(&name).map_err(|error| error.into_status(call))
    }
}

impl IntoStatus for RetentionError {
    fn into_status(self, request_id: &str) -> Status {
        let message = self.to_string();
        match self {
            Self::NotFound { .. } => fail(Code::NotFound, Reason::BACKUP_NOT_FOUND, message),
            Self::NoBrake { .. } => fail(Code::NotFound, Reason::named("BRAKE_NOT_FOUND"), message),
            Self::Stale(_) => fail(Code::Aborted, Reason::named("STALE_GENERATION"), message),
            Self::NoPolicy(_) => {
                fail(Code::FailedPrecondition, Reason::named("RETENTION_REFUSED"), message)
            }
            Self::Braked(brake) => {
                let reason = Reason::named("RETENTION_BRAKED");
                Failure::new(Code::FailedPrecondition, reason, message.clone())
                    .with("brake", brake.kind.to_string())
                    .with("subject", brake.subject.clone())
                    .precondition(brake.kind.to_string(), brake.subject, message)
                    .into()
            }
            Self::Agent(error) => error.into_status(request_id),
            Self::Store(error) => error.into_status(request_id),
        }
    }
}

/// A policy that a caller wants to try.
fn tried(message: &pb::KeepPolicy, zone: &Zone) -> Result<KeepPolicy, Status> {
    let home = KeepPolicy::home(zone.clone());
    let zone = match message.time_zone.as_str() {
        "" => zone.clone(),
        name => {
            Zone::try_new(name).map_err(|error| invalid("policy.time_zone", &error.to_string()))?
        }
    };
    Ok(KeepPolicy {
        last: message.last,
        hourly: message.hourly,
        daily: message.daily,
        weekly: message.weekly,
        monthly: message.monthly,
        yearly: message.yearly,
        floor: message.floor.max(1),
        floor_total: home.floor_total,
        quarantine: span(message.quarantine.as_ref()).unwrap_or(home.quarantine),
        zone,
    })
}

pub(super) fn policy_message(policy: &KeepPolicy) -> pb::KeepPolicy {
    pb::KeepPolicy {
        last: policy.last,
        hourly: policy.hourly,
        daily: policy.daily,
        weekly: policy.weekly,
        monthly: policy.monthly,
        yearly: policy.yearly,
        floor: policy.floor,
        quarantine: Some(span_message(policy.quarantine)),
        time_zone: policy.zone.name().to_owned(),
    }
}

pub(super) fn plan_message(plan: &Plan, policy: &KeepPolicy, now: Timestamp) -> pb::RetentionPlan {
    let calendar = plan.calendar.iter().map(|entry| pb::CalendarEntry {
        rule: entry.rule.to_string(),
        period: entry.period.clone(),
        snapshot_id: entry.snapshot_id.clone().unwrap_or_default(),
    });
    pb::RetentionPlan {
        backup: plan.backup.to_string(),
        repository: plan.repository.to_string(),
        digest: digest_of(plan),
        planned_at: Some(time_message(now)),
        policy: Some(policy_message(policy)),
        decisions: plan.decisions.iter().map(decision_message).collect(),
        brakes: plan.brakes.iter().map(brake_message).collect(),
        calendar: calendar.collect(),
        applicable: false,
    }
}

fn decision_message(decision: &Decision) -> pb::SnapshotDecision {
    let one = &decision.snapshot;
    let (verdict, until) = match decision.verdict {
        Verdict::Keep => (pb::RetentionVerdict::Keep, None),
        Verdict::Quarantine { until } => (pb::RetentionVerdict::Quarantine, Some(until)),
        Verdict::Quarantined { until } => (pb::RetentionVerdict::Quarantined, Some(until)),
        Verdict::Delete => (pb::RetentionVerdict::Delete, None),
    };
    pb::SnapshotDecision {
        snapshot_id: one.id.clone(),
        verdict: verdict.into(),
        reasons: decision.reasons.clone(),
        taken_at: Some(time_message(one.taken_at)),
        sequence: one.sequence,
        source_bytes: one.source_bytes,
        drilled: one.drilled == Some(homelab_domain::run::DrillVerdict::Passed),
        quarantine_until: until.map(time_message),
    }
}

fn brake_message(brake: &Brake) -> pb::Brake {
    pb::Brake {
        reason: brake.kind.to_string(),
        message: brake.message.clone(),
        subject: brake.subject.clone(),
        acknowledgeable: brake.kind.is_acknowledgeable(),
        acknowledged_by: brake.acknowledged_by.clone().unwrap_or_default(),
    }
}

pub(super) fn rule_message(rule: &CopyRule) -> pb::CopyRule {
    pb::CopyRule {
        copies: rule.copies,
        media: rule.media,
        off_site: rule.off_site,
        met: rule.is_met(),
        missing: rule.missing.clone(),
    }
}

pub(super) fn copies_message(view: &CopiesView) -> pb::BackupCopies {
    pb::BackupCopies {
        backup: view.backup.name.to_string(),
        rule: Some(rule_message(&view.rule)),
        copies: view.copies.iter().map(copy_message).collect(),
    }
}

fn copy_message(copy: &CopyStatus) -> pb::BackupCopy {
    let fact = &copy.fact;
    let role = match fact.role {
        CopyRole::Source => pb::CopyRole::Source,
        CopyRole::Primary => pb::CopyRole::Primary,
        CopyRole::Copy => pb::CopyRole::Copy,
        CopyRole::Spool => pb::CopyRole::Spool,
    };
    pb::BackupCopy {
        role: role.into(),
        repository: fact.repository.as_ref().map(ToString::to_string).unwrap_or_default(),
        medium: fact.medium.clone(),
        place: fact.place.clone(),
        newest_at: fact.newest_at.map(time_message),
        snapshots: fact.snapshots,
        counts: copy.why_not.is_none(),
        why_not: copy.why_not.clone().unwrap_or_default(),
        seen_at: fact.seen_at.map(time_message),
        scrubbed_at: fact.scrubbed_at.map(time_message),
        append_only: fact.append_only,
    }
}

/// The windows of a site, with their next times.
pub(super) fn windows(site: &Site, now: Timestamp) -> Vec<pb::MaintenanceWindow> {
    let each = site.windows().iter().map(|window| {
        let ends_at = window.open_until(now);
        pb::MaintenanceWindow {
            name: window.name.to_string(),
            cron: window.begins.cron().to_owned(),
            time_zone: window.begins.zone().name().to_owned(),
            length: Some(span_message(window.length)),
            backups: window.backups.iter().map(ToString::to_string).collect(),
            open: ends_at.is_some(),
            ends_at: ends_at.map(time_message),
            next_at: window.begins.next_after(now).map(time_message),
            description: window.description.clone(),
        }
    });
    each.collect()
}
