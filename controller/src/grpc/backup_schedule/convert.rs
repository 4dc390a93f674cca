//! Schedules, runs and risks as in the protocol.

use homelab_domain::{
    fleet::Verdict,
    risk::Gap,
    run::{Run, RunKind, RunOutcome, RunState, RunStateKind, RunTrigger},
    schedule::Punctuality,
    site::Site,
};
use homelab_proto::{common::v1::Failure, controller::v1 as pb};
use homelab_store::ScheduleKey;
use tonic::Status;

use super::{invalid, recovery::age, retention::rule_message};
use crate::backup::{
    BackupStatus, ScheduleView,
    convert::{
        drill_message, failure_message, progress_message, snapshot_message, span_message,
        time_message,
    },
    plan::jitter,
};

pub(super) fn schedule(view: &ScheduleView, site: &Site) -> pb::Schedule {
    let backup = &view.backup;
    let paused = view.paused.as_ref();
    let key = ScheduleKey { backup: backup.name.clone(), kind: RunKind::Backup };
    let windows = site.windows().iter().filter(|window| window.holds(&backup.name));
    pb::Schedule {
        backup: backup.name.to_string(),
        host: backup.host.to_string(),
        cron: backup.schedule.cron().to_owned(),
        time_zone: backup.schedule.zone().name().to_owned(),
        drill_cron: backup.drill.as_ref().map(|drill| drill.cron().to_owned()).unwrap_or_default(),
        next_run_at: view.next_run_at.map(time_message),
        next_drill_at: view.next_drill_at.map(time_message),
        last_run: view.last_run.as_ref().map(run),
        last_drill: view.last_drill.as_ref().map(run),
        paused: paused.is_some(),
        pause_reason: paused
            .map(|paused| format!("{}, by {} at {}", paused.reason, paused.by, paused.at))
            .unwrap_or_default(),
        rpo: Some(span_message(backup.rpo)),
        paused_until: paused.and_then(|paused| paused.until).map(time_message),
        punctuality: punctuality(view.punctuality.0).into(),
        grace: Some(span_message(backup.grace)),
        due_since: view.punctuality.1.map(time_message),
        held_by: view.held_by.clone().unwrap_or_default(),
        after: backup.after.iter().map(ToString::to_string).collect(),
        windows: windows.map(|window| window.name.to_string()).collect(),
        jitter: Some(span_message(jitter(backup, &key))),
        drill_host: backup.drill_host.as_ref().map(ToString::to_string).unwrap_or_default(),
        rto: backup.rto.map(span_message),
    }
}

pub(super) fn run(run: &Run) -> pb::Run {
    let spec = &run.spec;
    let mut message = pb::Run {
        run_id: spec.id.to_string(),
        backup: spec.backup.to_string(),
        kind: kind(spec.kind).into(),
        trigger: trigger(spec.trigger).into(),
        state: state(run.state.kind()).into(),
        started_at: Some(time_message(spec.started_at)),
        started_by: spec.started_by.clone(),
        host: spec.host.to_string(),
        repository: spec.repository.as_ref().map(ToString::to_string).unwrap_or_default(),
        drill_age: age(spec.drill_age).into(),
        notes: spec.notes.clone(),
        ..pb::Run::default()
    };
    match &run.state {
        RunState::Running { progress } => message.progress = Some(progress_message(progress)),
        RunState::Unknown { progress, why, .. } => {
            message.progress = Some(progress_message(progress));
            message.failure = Some(Failure {
                reason: "RUN_UNKNOWN".to_owned(),
                message: format!("{why}; the controller asks again until it is known"),
                retryable: true,
            });
        }
        RunState::Ended { at, outcome } => {
            message.finished_at = Some(time_message(*at));
            match outcome {
                RunOutcome::Stored(fact) => message.snapshot = Some(snapshot_message(fact)),
                RunOutcome::Drilled(fact) => message.drill = Some(drill_message(fact)),
                RunOutcome::Failed(failure) => message.failure = Some(failure_message(failure)),
                RunOutcome::Cancelled => {}
            }
        }
    }
    message
}

pub(super) fn risk(status: &BackupStatus) -> pb::BackupRisk {
    let risk = &status.risk;
    pb::BackupRisk {
        backup: risk.backup.to_string(),
        exposure: risk.exposure.map(span_message),
        rpo: Some(span_message(risk.rpo)),
        within_rpo: risk.within_rpo,
        drilled_exposure: risk.drilled_exposure.map(span_message),
        rto_median: risk.rto_median.map(span_message),
        rto_95: risk.rto_95.map(span_message),
        gaps: risk.gaps.iter().map(|gap| gap.because.message.clone()).collect(),
        gap_details: risk.gaps.iter().map(gap).collect(),
        rto: risk.rto.map(span_message),
        within_rto: risk.within_rto,
        copies: Some(rule_message(&status.copies)),
        last_drill_at: risk.last_drill_at.map(time_message),
        last_rto: risk.last_rto.map(span_message),
        punctuality: punctuality(status.punctuality.0).into(),
        newest_verified_at: risk.newest_verified_at.map(time_message),
    }
}

fn gap(gap: &Gap) -> pb::RiskGap {
    let severity = match gap.verdict {
        Verdict::Critical => pb::GapSeverity::Critical,
        Verdict::Ok | Verdict::Warning => pb::GapSeverity::Warning,
    };
    pb::RiskGap {
        severity: severity.into(),
        reason: gap.because.reason.to_string(),
        message: gap.because.message.clone(),
        since: gap.since.map(time_message),
        command: gap.command.clone(),
    }
}

const fn punctuality(punctuality: Punctuality) -> pb::Punctuality {
    match punctuality {
        Punctuality::Ok => pb::Punctuality::Ok,
        Punctuality::Due => pb::Punctuality::Due,
        Punctuality::Late => pb::Punctuality::Late,
        Punctuality::Paused => pb::Punctuality::Paused,
    }
}

/// The kind that a caller asks for; `None` takes all.
pub(super) fn kind_asked(number: i32) -> Result<Option<RunKind>, Status> {
    match pb::RunKind::try_from(number) {
        Ok(pb::RunKind::Unspecified) => Ok(None),
        Ok(pb::RunKind::Backup) => Ok(Some(RunKind::Backup)),
        Ok(pb::RunKind::Drill) => Ok(Some(RunKind::Drill)),
        Err(_) => Err(invalid("kind", "backup or drill")),
    }
}

const fn kind(kind: RunKind) -> pb::RunKind {
    match kind {
        RunKind::Backup => pb::RunKind::Backup,
        RunKind::Drill => pb::RunKind::Drill,
    }
}

const fn trigger(trigger: RunTrigger) -> pb::RunTrigger {
    match trigger {
        RunTrigger::Schedule => pb::RunTrigger::Schedule,
        RunTrigger::CatchUp => pb::RunTrigger::CatchUp,
        RunTrigger::Manual => pb::RunTrigger::Manual,
    }
}

const fn state(state: RunStateKind) -> pb::RunState {
    match state {
        RunStateKind::Running => pb::RunState::Running,
        RunStateKind::Unknown => pb::RunState::Unknown,
        RunStateKind::Succeeded => pb::RunState::Succeeded,
        RunStateKind::Failed => pb::RunState::Failed,
        RunStateKind::Cancelled => pb::RunState::Cancelled,
        RunStateKind::Unverified => pb::RunState::Unverified,
    }
}
