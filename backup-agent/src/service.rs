//! `homelab.backup.v1.BackupService`: thin, in that it only converts and asks.

mod follow;

use std::sync::Arc;

use homelab_common::lifecycle::Tasks;
use homelab_proto::backup::v1::{
    self as pb,
    backup_service_server::{BackupService, BackupServiceServer},
};
use homelab_rpc::{guard, not_built::NotBuilt, status::Failure as Refusal};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    agent::{
        Agent, AgentError, CopyRequest, DrillRequest, Listed, PushBackRequest, RestoreRequest,
    },
    convert,
    ids::RunId,
    restore::OnDamage,
};
use follow::{Answers, Event, Followed, follow, only};

/// Snapshots of a page when the caller does not say.
const PAGE_DEFAULT: usize = 100;

/// Snapshots of a page at most.
const PAGE_MAX: usize = 1000;

/// What is in the protocol and not in the code.
pub const NOT_BUILT: &[NotBuilt] = &[];

/// The service.
#[derive(Clone, Debug)]
pub struct Backups {
    agent: Arc<Agent>,
    tasks: Tasks,
}

impl Backups {
    /// Serves `agent`; answers are written by tasks of `tasks`.
    #[must_use]
    pub const fn new(agent: Arc<Agent>, tasks: Tasks) -> Self {
        Self { agent, tasks }
    }

    /// As a server can be given it.
    #[must_use]
    pub fn into_server(self) -> BackupServiceServer<Self> {
        BackupServiceServer::new(self)
    }

    fn run_for(&self, request_id: &str) -> Result<RunId, Status> {
        Ok(convert::request_id(request_id)?.unwrap_or_else(|| self.agent.new_run()))
    }
}

#[async_trait]
impl BackupService for Backups {
    type RunBackupStream = Answers<pb::RunBackupResponse>;
    type VerifyRepositoryStream = Answers<pb::VerifyRepositoryResponse>;
    type RestoreStream = Answers<pb::RestoreResponse>;
    type RunDrillStream = Answers<pb::RunDrillResponse>;
    type PruneRepositoryStream = Answers<pb::PruneRepositoryResponse>;
    type CopySnapshotStream = Answers<pb::CopySnapshotResponse>;
    type PushBackStream = Answers<pb::PushBackResponse>;

    async fn run_backup(
        &self,
        request: Request<pb::RunBackupRequest>,
    ) -> Result<Response<Self::RunBackupStream>, Status> {
        let call = guard::request_id(&request).to_owned();
        let refused = |error: AgentError| convert::refused(&error, &call);
        let pb::RunBackupRequest { request_id, validate_only, backup } = request.into_inner();
        let run = self.run_for(&request_id)?;
        let answer = |run_id: RunId, event| pb::RunBackupResponse {
            run_id: run_id.to_string(),
            event: Some(event),
            copies: Vec::new(),
        };
        if validate_only {
            let findings = self.agent.inspect_backup(&backup).await.map_err(refused)?;
            let validation = pb::BackupValidation { findings };
            return Ok(only(answer(run, pb::run_backup_response::Event::Validation(validation))));
        }
        let watched = self.agent.run_backup(run, &backup).await.map_err(refused)?;
        let agent = Arc::clone(&self.agent);
        Ok(follow(&self.tasks, watched, move |Followed { run, event, .. }| {
            use pb::run_backup_response::Event as To;
            let event = match event {
                Event::Progress(step) => To::Progress(convert::progress(step)),
                Event::Backup(backed) => {
                    let copies = agent.placed(backed).iter().map(convert::copy).collect();
                    let event = Some(To::Snapshot(convert::backed(backed)));
                    return pb::RunBackupResponse { run_id: run.to_string(), event, copies };
                }
                other => To::Failure(convert::failure(&other.failure())),
            };
            answer(run, event)
        }))
    }

    async fn list_snapshots(
        &self,
        request: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<pb::ListSnapshotsResponse>, Status> {
        let call = guard::request_id(&request).to_owned();
        let request = request.into_inner();
        let listed = self.agent.snapshots(&request.repository, &request.backup).await;
        let listed = listed.map_err(|error| convert::refused(&error, &call))?;
        page(&listed, &request).map(Response::new)
    }

    async fn verify_repository(
        &self,
        request: Request<pb::VerifyRepositoryRequest>,
    ) -> Result<Response<Self::VerifyRepositoryStream>, Status> {
        let call = guard::request_id(&request).to_owned();
        let pb::VerifyRepositoryRequest { request_id, repository, read_data, part, parts } =
            request.into_inner();
        let run = self.run_for(&request_id)?;
        let depth = convert::depth(read_data, (part, parts))?;
        let watched = self.agent.verify(run, &repository, depth).await;
        let watched = watched.map_err(|error| convert::refused(&error, &call))?;
        Ok(follow(&self.tasks, watched, |Followed { run, event, ended_at, elapsed }| {
            use pb::verify_repository_response::Event as To;
            let event = match event {
                Event::Progress(step) => To::Progress(convert::progress(step)),
                Event::Verification(found) => {
                    To::Report(convert::verification(found, ended_at, elapsed))
                }
                other => To::Failure(convert::failure(&other.failure())),
            };
            pb::VerifyRepositoryResponse { run_id: run.to_string(), event: Some(event) }
        }))
    }

    async fn restore(
        &self,
        request: Request<pb::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let call = guard::request_id(&request).to_owned();
        let refused = |error: AgentError| convert::refused(&error, &call);
        let request = request.into_inner();
        let pb::RestoreRequest { request_id, validate_only, repository, snapshot_id, .. } = request;
        let damage = if request.salvage { OnDamage::LeaveOut } else { OnDamage::Refuse };
        let run = self.run_for(&request_id)?;
        if snapshot_id.is_empty() {
            let what = "name the snapshot to restore by at least 8 of its digits";
            return Err(Refusal::invalid(what).field("snapshot_id", what).into());
        }
        let wanted = RestoreRequest {
            repository,
            snapshot: snapshot_id,
            target: request.target.into(),
            replace: request.replace,
            damage,
        };
        if validate_only {
            self.agent.inspect_restore(&wanted).await.map_err(refused)?;
            let event = pb::restore_response::Event::Progress(convert::progress(
                crate::progress::Step::default(),
            ));
            return Ok(only(pb::RestoreResponse { run_id: run.to_string(), event: Some(event) }));
        }
        let watched = self.agent.restore(run, wanted).await.map_err(refused)?;
        Ok(follow(&self.tasks, watched, |Followed { run, event, elapsed, .. }| {
            use pb::restore_response::Event as To;
            let event = match event {
                Event::Progress(step) => To::Progress(convert::progress(step)),
                Event::Restore(restored) => To::Report(convert::restored(restored, elapsed)),
                other => To::Failure(convert::failure(&other.failure())),
            };
            pb::RestoreResponse { run_id: run.to_string(), event: Some(event) }
        }))
    }

    async fn run_drill(
        &self,
        request: Request<pb::RunDrillRequest>,
    ) -> Result<Response<Self::RunDrillStream>, Status> {
        let call = guard::request_id(&request).to_owned();
        let refused = |error: AgentError| convert::refused(&error, &call);
        let request = request.into_inner();
        let pb::RunDrillRequest { request_id, validate_only, backup, snapshot_id, target, .. } =
            request;
        let run = self.run_for(&request_id)?;
        let repository = request.repository;
        let wanted = DrillRequest { backup, snapshot: snapshot_id, target, repository };
        if validate_only {
            self.agent.inspect_drill(&wanted).await.map_err(refused)?;
            let event = pb::run_drill_response::Event::Progress(convert::progress(
                crate::progress::Step::default(),
            ));
            return Ok(only(pb::RunDrillResponse { run_id: run.to_string(), event: Some(event) }));
        }
        let watched = self.agent.drill(run, wanted).await.map_err(refused)?;
        Ok(follow(&self.tasks, watched, |Followed { run, event, .. }| {
            use pb::run_drill_response::Event as To;
            let event = match event {
                Event::Progress(step) => To::Progress(convert::progress(step)),
                Event::Drill(report) => To::Report(convert::drill(report)),
                other => To::Failure(convert::failure(&other.failure())),
            };
            pb::RunDrillResponse { run_id: run.to_string(), event: Some(event) }
        }))
    }

    async fn apply_retention(
        &self,
        request: Request<pb::ApplyRetentionRequest>,
    ) -> Result<Response<pb::ApplyRetentionResponse>, Status> {
        let call = guard::request_id(&request).to_owned();
        let request = request.into_inner();
        let order = convert::retention_order(&request)?;
        let applied = self.agent.apply_retention(&request.repository, order).await;
        let applied = applied.map_err(|error| convert::refused(&error, &call))?;
        tracing::info!(
            repository = request.repository,
            backup = request.backup,
            plan = request.digest,
            check_only = request.validate_only,
            ?applied,
            "a retention plan was carried out"
        );
        Ok(Response::new(convert::applied(applied)))
    }

    async fn prune_repository(
        &self,
        request: Request<pb::PruneRepositoryRequest>,
    ) -> Result<Response<Self::PruneRepositoryStream>, Status> {
        let call = guard::request_id(&request).to_owned();
        let pb::PruneRepositoryRequest { request_id, validate_only, repository } =
            request.into_inner();
        let run = self.run_for(&request_id)?;
        if validate_only {
            let outlook = self.agent.prune_outlook(&repository).await;
            let outlook = outlook.map_err(|error| convert::refused(&error, &call))?;
            let report = convert::pruned(&outlook, self.agent.clock.now());
            let event = Some(pb::prune_repository_response::Event::Report(report));
            return Ok(only(pb::PruneRepositoryResponse { run_id: String::new(), event }));
        }
        let watched = self.agent.prune(run, &repository).await;
        let watched = watched.map_err(|error| convert::refused(&error, &call))?;
        Ok(follow(&self.tasks, watched, |Followed { run, event, ended_at, .. }| {
            use pb::prune_repository_response::Event as To;
            let event = match event {
                Event::Progress(step) => To::Progress(convert::progress(step)),
                Event::Prune(pruned) => To::Report(convert::pruned(pruned, ended_at)),
                other => To::Failure(convert::failure(&other.failure())),
            };
            pb::PruneRepositoryResponse { run_id: run.to_string(), event: Some(event) }
        }))
    }

    async fn list_backups(
        &self,
        _request: Request<pb::ListBackupsRequest>,
    ) -> Result<Response<pb::ListBackupsResponse>, Status> {
        Ok(Response::new(convert::declared(&self.agent)))
    }

    async fn list_copies(
        &self,
        request: Request<pb::ListCopiesRequest>,
    ) -> Result<Response<pb::ListCopiesResponse>, Status> {
        let call = guard::request_id(&request).to_owned();
        let standings = self.agent.standings(&request.into_inner().backup).await;
        let standings = standings.map_err(|error| convert::refused(&error, &call))?;
        let copies = standings.iter().map(convert::copy).collect();
        Ok(Response::new(pb::ListCopiesResponse { copies }))
    }

    async fn copy_snapshot(
        &self,
        request: Request<pb::CopySnapshotRequest>,
    ) -> Result<Response<Self::CopySnapshotStream>, Status> {
        let call = guard::request_id(&request).to_owned();
        let refused = |error: AgentError| convert::refused(&error, &call);
        let pb::CopySnapshotRequest { request_id, validate_only, from, snapshot_id, to } =
            request.into_inner();
        let run = self.run_for(&request_id)?;
        let wanted = CopyRequest { from, snapshot: snapshot_id, to };
        if validate_only {
            self.agent.inspect_copy(&wanted).await.map_err(refused)?;
            let event = pb::copy_snapshot_response::Event::Progress(convert::progress(
                crate::progress::Step::default(),
            ));
            return Ok(only(pb::CopySnapshotResponse {
                run_id: run.to_string(),
                event: Some(event),
            }));
        }
        let watched = self.agent.copy(run, &wanted).await.map_err(refused)?;
        Ok(follow(&self.tasks, watched, |Followed { run, event, .. }| {
            use pb::copy_snapshot_response::Event as To;
            let event = match event {
                Event::Progress(step) => To::Progress(convert::progress(step)),
                Event::Copy(copied) => {
                    To::Snapshot(convert::snapshot(&copied.repository, &copied.snapshot))
                }
                other => To::Failure(convert::failure(&other.failure())),
            };
            pb::CopySnapshotResponse { run_id: run.to_string(), event: Some(event) }
        }))
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        let call = guard::request_id(&request).to_owned();
        let explained = self.agent.explain(&request.into_inner().backup).await;
        let explained = explained.map_err(|error| convert::refused(&error, &call))?;
        Ok(Response::new(convert::explained(&explained)))
    }

    async fn push_back(
        &self,
        request: Request<pb::PushBackRequest>,
    ) -> Result<Response<Self::PushBackStream>, Status> {
        let call = guard::request_id(&request).to_owned();
        let refused = |error: AgentError| convert::refused(&error, &call);
        let pb::PushBackRequest {
            request_id,
            validate_only,
            backup,
            mirror,
            target_url,
            snapshot_id,
        } = request.into_inner();
        let run = self.run_for(&request_id)?;
        if !snapshot_id.is_empty() {
            let what = "mirrors are pushed as they are now; restore the snapshot, and push from \
                        there as its next steps say";
            return Err(Refusal::invalid(what).field("snapshot_id", what).into());
        }
        let wanted = PushBackRequest { backup, mirror, target: target_url };
        if validate_only {
            self.agent.inspect_push_back(run, &wanted).await.map_err(refused)?;
            let event = pb::push_back_response::Event::Progress(convert::progress(
                crate::progress::Step::default(),
            ));
            return Ok(only(pb::PushBackResponse { run_id: run.to_string(), event: Some(event) }));
        }
        let watched = self.agent.push_back(run, wanted).await.map_err(refused)?;
        Ok(follow(&self.tasks, watched, |Followed { run, event, .. }| {
            use pb::push_back_response::Event as To;
            let event = match event {
                Event::Progress(step) => To::Progress(convert::progress(step)),
                Event::PushBack(pushed, elapsed) => To::Report(convert::pushed(pushed, elapsed)),
                other => To::Failure(convert::failure(&other.failure())),
            };
            pb::PushBackResponse { run_id: run.to_string(), event: Some(event) }
        }))
    }

    async fn get_repository(
        &self,
        request: Request<pb::GetRepositoryRequest>,
    ) -> Result<Response<pb::GetRepositoryResponse>, Status> {
        let call = guard::request_id(&request).to_owned();
        let asked = request.into_inner().repository;
        let found = self.agent.repository(&asked);
        let (name, kept) = found.map_err(|error| convert::refused(&error, &call))?;
        let standing = self.agent.standing(kept).await;
        let repository = Some(convert::repository(name, kept, &standing));
        Ok(Response::new(pb::GetRepositoryResponse { repository }))
    }

    async fn cancel_run(
        &self,
        request: Request<pb::CancelRunRequest>,
    ) -> Result<Response<pb::CancelRunResponse>, Status> {
        let call = guard::request_id(&request).to_owned();
        let run = convert::run_id("run_id", &request.into_inner().run_id)?;
        let cancelled = self.agent.cancel(run);
        let was_running = cancelled.map_err(|error| convert::refused(&error, &call))?;
        Ok(Response::new(pb::CancelRunResponse { was_running }))
    }
}

/// The token of a page is the last identifier of the one before: snapshots that come
/// meanwhile stand before it and do no harm.
fn page(
    listed: &[Listed],
    request: &pb::ListSnapshotsRequest,
) -> Result<pb::ListSnapshotsResponse, Status> {
    let size = match usize::try_from(request.page_size) {
        Ok(0) => PAGE_DEFAULT,
        Ok(size) => size.min(PAGE_MAX),
        Err(_) => {
            let what = "a number that is not negative";
            return Err(Refusal::invalid("`page_size` is negative")
                .field("page_size", what)
                .into());
        }
    };
    let token = request.page_token.as_str();
    let start = if token.is_empty() {
        0
    } else {
        let last = listed.iter().position(|one| one.snapshot.id.as_str() == token);
        let gone = || {
            let what = "the token of a page before; begin again without one";
            Status::from(Refusal::invalid("`page_token` is not known").field("page_token", what))
        };
        last.ok_or_else(gone)? + 1
    };
    let page: Vec<_> = listed.iter().skip(start).take(size).collect();
    let more = start + page.len() < listed.len();
    let next = page.last().filter(|_| more).map(|one| one.snapshot.id.to_string());
    Ok(pb::ListSnapshotsResponse {
        snapshots: page.into_iter().map(convert::listed).collect(),
        next_page_token: next.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use homelab_rpc::not_built::strangers;

    use super::*;

    #[test]
    fn what_is_not_built_is_in_the_protocol() {
        assert_eq!(strangers(NOT_BUILT), Vec::<&str>::new());
    }
}
