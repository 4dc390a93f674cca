//! Calls that are passed on to the agent of a backup: copies, room, standing, and what is to stop.

use futures_util::StreamExt;
use homelab_proto::{backup::v1 as agent, controller::v1 as pb};
use tonic::Status;

use super::{
    Answers, BackupScheduleApi, no_run,
    pass::{newest, passed, repository_of},
    run_id, snapshot_id,
};
use crate::grpc::status::IntoStatus;

impl BackupScheduleApi {
    pub(super) async fn copy(
        &self,
        request: pb::CopyBackupRequest,
        call: &str,
    ) -> Result<Answers<pb::CopyBackupResponse>, Status> {
        let id = run_id("request_id", &request.request_id)?;
        let asked = snapshot_id(request.snapshot_id)?;
        let (backup, mut client) = self.agent_of(&request.backup, call)?;
        let from = repository_of(&backup, "from", &request.from)?;
        let to = repository_of(&backup, "to", &request.to)?;
        let snapshot_id = match asked {
            Some(id) => id,
            None => newest(&mut client, &backup, &from).await?,
        };
        let answers = client.copy_snapshot(agent::CopySnapshotRequest {
            request_id: id.to_string(),
            validate_only: request.validate_only,
            from,
            snapshot_id,
            to,
        });
        let answers = answers.await.map_err(|status| passed(&backup.host, status))?.into_inner();
        let each = answers.map(move |answer| match answer {
            Ok(response) => Ok(pb::CopyBackupResponse { response: Some(response) }),
            Err(status) => Err(passed(&backup.host, status)),
        });
        Ok(each.boxed())
    }

    pub(super) async fn prune(
        &self,
        request: pb::PruneBackupRequest,
        call: &str,
    ) -> Result<Answers<pb::PruneBackupResponse>, Status> {
        let id = run_id("request_id", &request.request_id)?;
        let (backup, mut client) = self.agent_of(&request.backup, call)?;
        let answers = client.prune_repository(agent::PruneRepositoryRequest {
            request_id: id.to_string(),
            validate_only: request.validate_only,
            repository: repository_of(&backup, "repository", &request.repository)?,
        });
        let answers = answers.await.map_err(|status| passed(&backup.host, status))?.into_inner();
        let each = answers.map(move |answer| match answer {
            Ok(response) => Ok(pb::PruneBackupResponse { response: Some(response) }),
            Err(status) => Err(passed(&backup.host, status)),
        });
        Ok(each.boxed())
    }

    pub(super) async fn repositories_of(
        &self,
        request: pb::ListBackupRepositoriesRequest,
        call: &str,
    ) -> Result<pb::ListBackupRepositoriesResponse, Status> {
        let (backup, mut client) = self.agent_of(&request.backup, call)?;
        let mut repositories = Vec::new();
        for repository in backup.repositories().chain(&backup.spool) {
            let asked = agent::GetRepositoryRequest { repository: repository.to_string() };
            let answer = client.get_repository(asked).await;
            let answer = answer.map_err(|status| passed(&backup.host, status))?.into_inner();
            repositories.extend(answer.repository);
        }
        Ok(pb::ListBackupRepositoriesResponse { repositories })
    }

    pub(super) async fn cancel(
        &self,
        request: pb::CancelRunRequest,
        call: &str,
    ) -> Result<pb::CancelRunResponse, Status> {
        let id = run_id("run_id", &request.run_id)?;
        let run = self.backups.stored(id).await.map_err(|error| error.into_status(call))?;
        if run.as_ref().is_some_and(|run| run.state.kind().is_final()) {
            return Ok(pb::CancelRunResponse { was_running: false });
        }
        // A drill may go on at another host than that of its backup.
        let host = match (run, request.backup.as_str()) {
            (Some(run), _) => run.spec.host,
            (None, "") => return Err(no_run(id)),
            (None, name) => self.declared(name, call)?.host,
        };
        let mut client = self.agents.client(&host).map_err(|error| error.into_status(call))?;
        let asked = agent::CancelRunRequest { run_id: id.to_string() };
        let answer = client.cancel_run(asked).await;
        let answer = answer.map_err(|status| passed(&host, status))?;
        Ok(pb::CancelRunResponse { was_running: answer.into_inner().was_running })
    }
}
