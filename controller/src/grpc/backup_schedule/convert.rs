//! Schedules, runs and risks as in the protocol.

use homelab_domain::{
    risk::BackupRisk,
    run::{Run, RunKind, RunOutcome, RunState, RunStateKind, RunTrigger},
};
use homelab_proto::{common::v1::Failure, controller::v1 as pb};
use tonic::Status;

use super::invalid;
use crate::backup::{
    ScheduleView,
    convert::{
        drill_message, failure_message, progress_message, snapshot_message, span_message,
        time_message,
    },
};

pub(super) fn schedule(view: &ScheduleView) -> pb::Schedule {
    let backup = &view.backup;
    let paused = view.paused.as_ref();
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
        ..pb::Schedule::default()
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

pub(super) fn risk(risk: &BackupRisk) -> pb::BackupRisk {
    pb::BackupRisk {
        backup: risk.backup.to_string(),
        exposure: risk.exposure.map(span_message),
        rpo: Some(span_message(risk.rpo)),
        within_rpo: risk.within_rpo,
        drilled_exposure: risk.drilled_exposure.map(span_message),
        rto_median: risk.rto_median.map(span_message),
        rto_95: risk.rto_95.map(span_message),
        gaps: risk.gaps.iter().map(|gap| gap.because.message.clone()).collect(),
        ..pb::BackupRisk::default()
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
