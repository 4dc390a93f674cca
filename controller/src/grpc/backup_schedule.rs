//! `BackupScheduleService`.

mod commands;
mod convert;
mod keep;
mod pass;
mod recovery;
mod retention;
pub mod strategy;

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use homelab_domain::{
    ids::{BackupName, RepositoryName, RunId},
    risk::worst_first,
    run::RunKind,
};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::{
    guard::request_id,
    node::from_proto,
    peer::Peer,
    status::{Failure, Reason, fail},
};
use homelab_store::{PageRequest, RunFilter, StoreError};
use jiff::{SignedDuration, Timestamp};
use pb::backup_schedule_service_server::BackupScheduleService;
use tonic::{Code, Request, Response, Status};

use super::status::IntoStatus;
use crate::backup::{Backups, StartError, Wish, agents::CallError, wire::GrpcAgents};

/// The longest reason for a pause, in bytes.
const REASON_BYTES_MAX: usize = 500;

/// The longest pause that ends by itself.
const PAUSE_MAX: SignedDuration = SignedDuration::from_hours(90 * 24);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Schedules and runs, over gRPC.
#[derive(Clone, Debug)]
pub struct BackupScheduleApi {
    backups: Backups,
    agents: GrpcAgents,
    /// The certificate of the CA's root, for the recovery kit.
    ca_root_pem: Arc<str>,
}

impl BackupScheduleApi {
    /// Serves `backups`; what is asked of an agent as it is goes to `agents`.
    #[must_use]
    pub fn new(backups: Backups, agents: GrpcAgents, ca_root_pem: Arc<str>) -> Self {
        Self { backups, agents, ca_root_pem }
    }

    async fn schedule(&self, backup: &BackupName, call: &str) -> Result<pb::Schedule, Status> {
        let all = self.backups.schedules().await.map_err(|error| error.into_status(call))?;
        let view = all.iter().find(|view| view.backup.name == *backup);
        let site = self.backups.site();
        view.map(|view| convert::schedule(view, &site))
            .ok_or_else(|| StartError::NotFound(backup.clone()).into_status(call))
    }

    fn pause_end(
        &self,
        until: Option<&prost_types::Timestamp>,
    ) -> Result<Option<Timestamp>, Status> {
        let Some(until) = until else { return Ok(None) };
        let until = from_proto(until).ok_or_else(|| invalid("until", "it is no moment"))?;
        let now = self.backups.parts().clock.now();
        let last = now.checked_add(PAUSE_MAX).unwrap_or(Timestamp::MAX);
        if until <= now || until > last {
            return Err(invalid("until", "a moment of the next 90 days is wanted"));
        }
        Ok(Some(until))
    }

    async fn begin(&self, wish: Wish, validate_only: bool) -> Result<pb::Run, StartError> {
        if validate_only {
            let run = self.backups.check_run(wish).await?;
            // It has no state, since it does not exist.
            return Ok(pb::Run { state: 0, progress: None, ..convert::run(&run) });
        }
        Ok(convert::run(&self.backups.start_run(wish).await?))
    }
}

#[tonic::async_trait]
impl BackupScheduleService for BackupScheduleApi {
    async fn list_schedules(
        &self,
        request: Request<pb::ListSchedulesRequest>,
    ) -> Result<Response<pb::ListSchedulesResponse>, Status> {
        let all = self.backups.schedules().await;
        let mut all = all.map_err(|error| error.into_status(request_id(&request)))?;
        all.sort_by(|a, b| a.backup.name.cmp(&b.backup.name));
        let site = self.backups.site();
        let schedules = all.iter().map(|view| convert::schedule(view, &site)).collect();
        Ok(Response::new(pb::ListSchedulesResponse { schedules }))
    }

    async fn pause_schedule(
        &self,
        request: Request<pb::PauseScheduleRequest>,
    ) -> Result<Response<pb::PauseScheduleResponse>, Status> {
        let (call, by) = (request_id(&request).to_owned(), caller(&request));
        let request = request.into_inner();
        let backup = backup_name(&request.backup)?;
        let reason = reason(&request.reason)?;
        let until = self.pause_end(request.until.as_ref())?;
        let paused = self.backups.pause(&backup, by, reason, until).await;
        paused.map_err(|error| error.into_status(&call))?;
        let schedule = Some(self.schedule(&backup, &call).await?);
        Ok(Response::new(pb::PauseScheduleResponse { schedule }))
    }

    async fn resume_schedule(
        &self,
        request: Request<pb::ResumeScheduleRequest>,
    ) -> Result<Response<pb::ResumeScheduleResponse>, Status> {
        let call = request_id(&request).to_owned();
        let backup = backup_name(&request.get_ref().backup)?;
        let resumed = self.backups.resume(&backup).await;
        resumed.map_err(|error| error.into_status(&call))?;
        let schedule = Some(self.schedule(&backup, &call).await?);
        Ok(Response::new(pb::ResumeScheduleResponse { schedule }))
    }

    async fn start_backup(
        &self,
        request: Request<pb::StartBackupRequest>,
    ) -> Result<Response<pb::StartBackupResponse>, Status> {
        let (call, by) = (request_id(&request).to_owned(), caller(&request));
        let request = request.into_inner();
        let wish = Wish {
            id: run_id("request_id", &request.request_id)?,
            backup: backup_name(&request.backup)?,
            kind: RunKind::Backup,
            snapshot_id: None,
            repository: None,
            by,
        };
        let run = self.begin(wish, request.validate_only).await;
        let run = Some(run.map_err(|error| error.into_status(&call))?);
        Ok(Response::new(pb::StartBackupResponse { run }))
    }

    async fn start_drill(
        &self,
        request: Request<pb::StartDrillRequest>,
    ) -> Result<Response<pb::StartDrillResponse>, Status> {
        let (call, by) = (request_id(&request).to_owned(), caller(&request));
        let request = request.into_inner();
        let wish = Wish {
            id: run_id("request_id", &request.request_id)?,
            backup: backup_name(&request.backup)?,
            kind: RunKind::Drill,
            snapshot_id: snapshot_id(request.snapshot_id)?,
            repository: repository_name(&request.repository)?,
            by,
        };
        let run = self.begin(wish, request.validate_only).await;
        let run = Some(run.map_err(|error| error.into_status(&call))?);
        Ok(Response::new(pb::StartDrillResponse { run }))
    }

    async fn list_runs(
        &self,
        request: Request<pb::ListRunsRequest>,
    ) -> Result<Response<pb::ListRunsResponse>, Status> {
        let call = request_id(&request).to_owned();
        let request = request.into_inner();
        let page = PageRequest::try_new(request.page_size, &request.page_token);
        let page = page.map_err(|error| error.into_status(&call))?;
        let filter = RunFilter {
            backup: Some(request.backup.as_str())
                .filter(|name| !name.is_empty())
                .map(backup_name)
                .transpose()?,
            kind: convert::kind_asked(request.kind)?,
        };
        let page = self.backups.runs(&filter, &page).await;
        let page = page.map_err(|error| error.into_status(&call))?;
        let runs = page.items.iter().map(convert::run).collect();
        Ok(Response::new(pb::ListRunsResponse { runs, next_page_token: page.next_token() }))
    }

    type WatchRunStream = Answers<pb::WatchRunResponse>;

    async fn watch_run(
        &self,
        request: Request<pb::WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let id = run_id("run_id", &request.get_ref().run_id)?;
        let watched = self.backups.watch_run(id).await;
        let watched = watched.map_err(|error| error.into_status(request_id(&request)))?;
        let Some(mut watched) = watched else {
            return Err(no_run(id));
        };
        watched.mark_changed();
        let answers = stream::unfold(Some(watched), |watched| async {
            let mut watched = watched?;
            if watched.changed().await.is_err() {
                let message = "this controller stops, and the run goes on; watch it again later";
                return Some((Err(fail(Code::Unavailable, Reason::STOPPING, message)), None));
            }
            let run = watched.borrow_and_update().clone();
            let next = (!run.state.kind().is_final()).then_some(watched);
            Some((Ok(pb::WatchRunResponse { run: Some(convert::run(&run)) }), next))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn get_risk(
        &self,
        request: Request<pb::GetRiskRequest>,
    ) -> Result<Response<pb::GetRiskResponse>, Status> {
        let all = self.backups.statuses().await;
        let all = all.map_err(|error| error.into_status(request_id(&request)))?;
        let mut order: Vec<_> = all.iter().map(|status| status.risk.clone()).collect();
        worst_first(&mut order);
        let ranked = order.iter().filter_map(|risk| {
            all.iter().find(|status| status.risk.backup == risk.backup).map(convert::risk)
        });
        let risks = ranked.collect();
        Ok(Response::new(pb::GetRiskResponse { risks }))
    }

    async fn list_backup_snapshots(
        &self,
        request: Request<pb::ListBackupSnapshotsRequest>,
    ) -> Result<Response<pb::ListBackupSnapshotsResponse>, Status> {
        let call = request_id(&request).to_owned();
        self.list_snapshots(request.into_inner(), &call).await.map(Response::new)
    }

    type VerifyBackupStream = Answers<pb::VerifyBackupResponse>;

    async fn verify_backup(
        &self,
        request: Request<pb::VerifyBackupRequest>,
    ) -> Result<Response<Self::VerifyBackupStream>, Status> {
        let call = request_id(&request).to_owned();
        self.verify(request.into_inner(), &call).await.map(Response::new)
    }

    type RestoreBackupStream = Answers<pb::RestoreBackupResponse>;

    async fn restore_backup(
        &self,
        request: Request<pb::RestoreBackupRequest>,
    ) -> Result<Response<Self::RestoreBackupStream>, Status> {
        let call = request_id(&request).to_owned();
        self.restore(request.into_inner(), &call).await.map(Response::new)
    }

    type CopyBackupStream = Answers<pb::CopyBackupResponse>;

    async fn copy_backup(
        &self,
        request: Request<pb::CopyBackupRequest>,
    ) -> Result<Response<Self::CopyBackupStream>, Status> {
        let call = request_id(&request).to_owned();
        self.copy(request.into_inner(), &call).await.map(Response::new)
    }

    type PruneBackupStream = Answers<pb::PruneBackupResponse>;

    async fn prune_backup(
        &self,
        request: Request<pb::PruneBackupRequest>,
    ) -> Result<Response<Self::PruneBackupStream>, Status> {
        let call = request_id(&request).to_owned();
        self.prune(request.into_inner(), &call).await.map(Response::new)
    }

    async fn list_backup_repositories(
        &self,
        request: Request<pb::ListBackupRepositoriesRequest>,
    ) -> Result<Response<pb::ListBackupRepositoriesResponse>, Status> {
        let call = request_id(&request).to_owned();
        self.repositories_of(request.into_inner(), &call).await.map(Response::new)
    }

    async fn cancel_run(
        &self,
        request: Request<pb::CancelRunRequest>,
    ) -> Result<Response<pb::CancelRunResponse>, Status> {
        let call = request_id(&request).to_owned();
        self.cancel(request.into_inner(), &call).await.map(Response::new)
    }

    async fn list_maintenance_windows(
        &self,
        _request: Request<pb::ListMaintenanceWindowsRequest>,
    ) -> Result<Response<pb::ListMaintenanceWindowsResponse>, Status> {
        let now = self.backups.parts().clock.now();
        let windows = retention::windows(&self.backups.site(), now);
        Ok(Response::new(pb::ListMaintenanceWindowsResponse { windows }))
    }

    async fn plan_backup_retention(
        &self,
        request: Request<pb::PlanBackupRetentionRequest>,
    ) -> Result<Response<pb::PlanBackupRetentionResponse>, Status> {
        let call = request_id(&request).to_owned();
        self.plan_retention(request.into_inner(), &call).await.map(Response::new)
    }

    async fn apply_backup_retention(
        &self,
        request: Request<pb::ApplyBackupRetentionRequest>,
    ) -> Result<Response<pb::ApplyBackupRetentionResponse>, Status> {
        let (call, by) = (request_id(&request).to_owned(), caller(&request));
        self.apply_retention(request.into_inner(), by, &call).await.map(Response::new)
    }

    async fn acknowledge_brake(
        &self,
        request: Request<pb::AcknowledgeBrakeRequest>,
    ) -> Result<Response<pb::AcknowledgeBrakeResponse>, Status> {
        let (call, by) = (request_id(&request).to_owned(), caller(&request));
        self.acknowledge(request.into_inner(), by, &call).await.map(Response::new)
    }

    async fn list_backup_copies(
        &self,
        request: Request<pb::ListBackupCopiesRequest>,
    ) -> Result<Response<pb::ListBackupCopiesResponse>, Status> {
        let call = request_id(&request).to_owned();
        self.copies(request.into_inner(), &call).await.map(Response::new)
    }

    async fn list_drill_evidence(
        &self,
        request: Request<pb::ListDrillEvidenceRequest>,
    ) -> Result<Response<pb::ListDrillEvidenceResponse>, Status> {
        let call = request_id(&request).to_owned();
        self.list_evidence(request.into_inner(), &call).await.map(Response::new)
    }

    async fn verify_drill_evidence(
        &self,
        request: Request<pb::VerifyDrillEvidenceRequest>,
    ) -> Result<Response<pb::VerifyDrillEvidenceResponse>, Status> {
        self.verify_evidence(request_id(&request)).await.map(Response::new)
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        let call = request_id(&request).to_owned();
        self.access_of(request.into_inner(), &call).await.map(Response::new)
    }

    type PushBackGitStream = Answers<pb::PushBackGitResponse>;

    async fn push_back_git(
        &self,
        request: Request<pb::PushBackGitRequest>,
    ) -> Result<Response<Self::PushBackGitStream>, Status> {
        let call = request_id(&request).to_owned();
        self.push_back(request.into_inner(), &call).await.map(Response::new)
    }

    async fn get_recovery_kit(
        &self,
        request: Request<pb::GetRecoveryKitRequest>,
    ) -> Result<Response<pb::GetRecoveryKitResponse>, Status> {
        self.recovery_kit(request_id(&request)).await.map(Response::new)
    }

    async fn record_kit_proof(
        &self,
        request: Request<pb::RecordKitProofRequest>,
    ) -> Result<Response<pb::RecordKitProofResponse>, Status> {
        let (call, by) = (request_id(&request).to_owned(), caller(&request));
        self.record_proof(request.into_inner(), by, &call).await.map(Response::new)
    }

    async fn get_strategy(
        &self,
        request: Request<pb::GetStrategyRequest>,
    ) -> Result<Response<pb::GetStrategyResponse>, Status> {
        self.strategy(request_id(&request)).await.map(Response::new)
    }
}

impl IntoStatus for StartError {
    fn into_status(self, request_id: &str) -> Status {
        let message = self.to_string();
        match self {
            Self::NotFound(_) => fail(Code::NotFound, Reason::BACKUP_NOT_FOUND, message),
            Self::OtherRequest(_) => {
                let field = "an id that no other call has used";
                Failure::invalid(message).field("request_id", field).into()
            }
            Self::InProgress(run) => {
                let subject = format!("backup/{}", run.spec.backup);
                Failure::new(Code::FailedPrecondition, Reason::RUN_IN_PROGRESS, message.clone())
                    .with("run_id", run.spec.id.to_string())
                    .precondition(Reason::RUN_IN_PROGRESS.as_str(), subject, message)
                    .into()
            }
            Self::Agent(error) => error.into_status(request_id),
            Self::Refused { failure, .. } => {
                let known = known_reason(failure.reason.as_str());
                let reason = failure.reason.to_string();
                Failure::new(Code::FailedPrecondition, known, message.clone())
                    .with("agent_reason", reason.clone())
                    .precondition(reason, "backup-agent", message)
                    .into()
            }
            Self::Store(error) => StoreError::into_status(error, request_id),
        }
    }
}

impl IntoStatus for CallError {
    fn into_status(self, _request_id: &str) -> Status {
        let message = self.to_string();
        match self {
            Self::Unreachable { host, .. } | Self::Lost { host, .. } => {
                Failure::new(Code::Unavailable, Reason::HOST_UNREACHABLE, message)
                    .with("host", host.to_string())
                    .into()
            }
            Self::Refused { failure, .. } => {
                fail(Code::FailedPrecondition, known_reason(failure.reason.as_str()), message)
            }
        }
    }
}

/// An agent's reason as one of ours; one that is news to this version stands in the metadata alone.
fn known_reason(reason: &str) -> Reason {
    let known = Reason::ALL.iter().find(|known| known.as_str() == reason);
    known.copied().unwrap_or(Reason::named("AGENT_REFUSED"))
}

fn caller<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<Peer>();
    peer.map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

fn backup_name(text: &str) -> Result<BackupName, Status> {
    BackupName::try_new(text).map_err(|error| invalid("backup", &error.to_string()))
}

fn repository_name(text: &str) -> Result<Option<RepositoryName>, Status> {
    let name = Some(text).filter(|text| !text.is_empty()).map(RepositoryName::try_new);
    name.transpose().map_err(|error| invalid("repository", &error.to_string()))
}

fn no_run(id: RunId) -> Status {
    let message = format!("there is no run {id}; `labctl backup runs` shows them");
    fail(Code::NotFound, Reason::RUN_NOT_FOUND, message)
}

fn run_id(field: &str, text: &str) -> Result<RunId, Status> {
    text.parse::<RunId>().map_err(|error| invalid(field, &error.to_string()))
}

/// A snapshot as callers name it: at least 8 hexadecimal digits, as the agent wants them.
fn snapshot_id(text: String) -> Result<Option<String>, Status> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match text.len() {
        0 => Ok(None),
        8..=64 if is_hex => Ok(Some(text)),
        _ => Err(invalid("snapshot_id", "8 to 64 lower-case hexadecimal digits are wanted")),
    }
}

fn reason(text: &str) -> Result<String, Status> {
    let text = text.trim();
    if text.is_empty() || text.len() > REASON_BYTES_MAX {
        return Err(invalid("reason", "say why, in 1 to 500 bytes; others will read it"));
    }
    Ok(text.to_owned())
}

fn invalid(field: &str, what: &str) -> Status {
    Failure::invalid(format!("{field}: {what}")).field(field, what).into()
}

#[cfg(test)]
mod tests;
