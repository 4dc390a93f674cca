//! Calls that are passed on to the agent of a backup, answer by answer.

use futures_util::StreamExt;
use homelab_domain::{ids::HostName, site::Backup};
use homelab_proto::{
    backup::v1::{self as agent, backup_service_client::BackupServiceClient},
    controller::v1 as pb,
};
use homelab_rpc::{
    dial::layer_of,
    status::{Failure, Reason, fail, reason_of},
};
use tonic::{Code, Status, transport::Channel};

use super::{
    Answers, BackupScheduleApi, backup_name, invalid, repository_name, run_id, snapshot_id,
};
use crate::grpc::status::IntoStatus;

impl BackupScheduleApi {
    pub(super) async fn list_snapshots(
        &self,
        request: pb::ListBackupSnapshotsRequest,
        call: &str,
    ) -> Result<pb::ListBackupSnapshotsResponse, Status> {
        let (backup, mut client) = self.agent_of(&request.backup, call)?;
        let answer = client.list_snapshots(agent::ListSnapshotsRequest {
            repository: backup.repository.to_string(),
            backup: backup.name.to_string(),
            page_size: request.page_size,
            page_token: request.page_token,
        });
        let answer = answer.await.map_err(|status| passed(&backup.host, status))?.into_inner();
        Ok(pb::ListBackupSnapshotsResponse {
            snapshots: answer.snapshots,
            next_page_token: answer.next_page_token,
        })
    }

    pub(super) async fn verify(
        &self,
        request: pb::VerifyBackupRequest,
        call: &str,
    ) -> Result<Answers<pb::VerifyBackupResponse>, Status> {
        let id = run_id("request_id", &request.request_id)?;
        let (backup, mut client) = self.agent_of(&request.backup, call)?;
        let answers = client.verify_repository(agent::VerifyRepositoryRequest {
            request_id: id.to_string(),
            repository: repository_of(&backup, "repository", &request.repository)?,
            read_data: request.read_data,
            part: request.part,
            parts: request.parts,
        });
        let answers = answers.await.map_err(|status| passed(&backup.host, status))?.into_inner();
        let each = answers.map(move |answer| match answer {
            Ok(response) => Ok(pb::VerifyBackupResponse { response: Some(response) }),
            Err(status) => Err(passed(&backup.host, status)),
        });
        Ok(each.boxed())
    }

    pub(super) async fn restore(
        &self,
        request: pb::RestoreBackupRequest,
        call: &str,
    ) -> Result<Answers<pb::RestoreBackupResponse>, Status> {
        let id = run_id("request_id", &request.request_id)?;
        let asked = snapshot_id(request.snapshot_id)?;
        let (backup, mut client) = self.agent_of(&request.backup, call)?;
        let repository = repository_of(&backup, "repository", &request.repository)?;
        let snapshot_id = match asked {
            Some(id) => id,
            None => newest(&mut client, &backup, &repository).await?,
        };
        let answers = client.restore(agent::RestoreRequest {
            request_id: id.to_string(),
            validate_only: request.validate_only,
            repository,
            snapshot_id,
            target: request.target,
            replace: request.replace,
            salvage: request.salvage,
        });
        let answers = answers.await.map_err(|status| passed(&backup.host, status))?.into_inner();
        let each = answers.map(move |answer| match answer {
            Ok(response) => Ok(pb::RestoreBackupResponse { response: Some(response) }),
            Err(status) => Err(passed(&backup.host, status)),
        });
        Ok(each.boxed())
    }

    pub(super) async fn access_of(
        &self,
        request: pb::ExplainAccessRequest,
        call: &str,
    ) -> Result<pb::ExplainAccessResponse, Status> {
        let (backup, mut client) = self.agent_of(&request.backup, call)?;
        let request = agent::ExplainAccessRequest { backup: backup.name.to_string() };
        let answer = client.explain_access(request).await;
        let answer = answer.map_err(|status| passed(&backup.host, status))?.into_inner();
        let (statements, findings) = (answer.statements, answer.findings);
        Ok(pb::ExplainAccessResponse { statements, findings })
    }

    pub(super) async fn push_back(
        &self,
        request: pb::PushBackGitRequest,
        call: &str,
    ) -> Result<Answers<pb::PushBackGitResponse>, Status> {
        use agent::push_back_response::Event;
        use pb::push_back_git_response::Event as Passed;
        let id = run_id("request_id", &request.request_id)?;
        let (backup, mut client) = self.agent_of(&request.backup, call)?;
        let answers = client.push_back(agent::PushBackRequest {
            request_id: id.to_string(),
            validate_only: request.validate_only,
            backup: backup.name.to_string(),
            mirror: request.mirror,
            target_url: request.target_url,
            snapshot_id: snapshot_id(request.snapshot_id)?.unwrap_or_default(),
        });
        let answers = answers.await.map_err(|status| passed(&backup.host, status))?.into_inner();
        let each = answers.map(move |answer| {
            let event = answer.map_err(|status| passed(&backup.host, status))?.event;
            let event = event.map(|event| match event {
                Event::Progress(progress) => Passed::Progress(progress),
                Event::Failure(failure) => Passed::Failure(failure),
                Event::Report(report) => Passed::Report(pb::PushBackGitReport {
                    mirrors: report.mirrors,
                    references: report.references,
                    elapsed: report.elapsed,
                    warnings: report.warnings,
                }),
            });
            Ok(pb::PushBackGitResponse { event })
        });
        Ok(each.boxed())
    }

    pub(super) fn agent_of(
        &self,
        backup: &str,
        call: &str,
    ) -> Result<(Backup, BackupServiceClient<Channel>), Status> {
        let name = backup_name(backup)?;
        let backup = self.backups.declared(&name).map_err(|error| error.into_status(call))?;
        let client = self.agents.client(&backup.host).map_err(|error| error.into_status(call))?;
        Ok((backup, client))
    }
}

/// One of the repositories of a backup, the spool included; the primary one when none is named.
pub(super) fn repository_of(backup: &Backup, field: &str, named: &str) -> Result<String, Status> {
    let Some(named) = repository_name(named)? else { return Ok(backup.repository.to_string()) };
    let mut own = backup.repositories().chain(&backup.spool);
    if own.any(|repository| *repository == named) {
        return Ok(named.to_string());
    }
    let message = format!(
        "backup `{0}` does not use repository `{named}`; `labctl backup copies {0}` shows those it uses",
        backup.name,
    );
    Err(invalid(field, &message))
}

/// The newest verified snapshot, as the repository itself has it.
pub(super) async fn newest(
    client: &mut BackupServiceClient<Channel>,
    backup: &Backup,
    repository: &str,
) -> Result<String, Status> {
    let answer = client.list_snapshots(agent::ListSnapshotsRequest {
        repository: repository.to_owned(),
        backup: backup.name.to_string(),
        page_size: 1,
        page_token: String::new(),
    });
    let answer = answer.await.map_err(|status| passed(&backup.host, status))?.into_inner();
    answer.snapshots.into_iter().next().map(|snapshot| snapshot.id).ok_or_else(|| {
        let message = format!(
            "repository `{repository}` holds no verified snapshot of `{0}`; make one with `labctl backup run {0}`",
            backup.name,
        );
        fail(Code::NotFound, Reason::SNAPSHOT_NOT_FOUND, message)
    })
}

/// An agent's status as the controller's caller gets it: the agent's own answer as it is, everything
/// that comes from in between as what it is.
pub(super) fn passed(host: &HostName, status: Status) -> Status {
    let between = layer_of(&status).map(|(layer, words)| format!("{layer}: {words}"));
    if between.is_none() && reason_of(&status).is_some() {
        // Without what the transport put beside it.
        return Status::with_details(
            status.code(),
            status.message().to_owned(),
            status.details().to_vec().into(),
        );
    }
    let why = between.unwrap_or_else(|| status.message().to_owned());
    let message = format!(
        "contact with the backup-agent of `{host}` failed: {why}; what it was told goes on there: \
         call again with the same request id",
    );
    Failure::new(Code::Unavailable, Reason::HOST_UNREACHABLE, message)
        .with("host", host.to_string())
        .into()
}
