//! A backup-agent that is really served and has nothing to back up.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use homelab_common::{lifecycle::Tasks, tls::IdentityHandle};
use homelab_proto::{
    backup::v1::{
        self as pb,
        backup_service_server::{BackupService, BackupServiceServer},
    },
    common::v1::Progress,
};
use homelab_rpc::{
    node::NodeOptions,
    peer::Kind,
    serve::Server,
    status::{Reason, fail},
    testing::TestSite,
};
use jiff::Timestamp;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use super::Answers;
use crate::backup::convert::{span_message, time_message};

/// What it was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    /// Runs that it began; one that it began twice is there twice.
    pub(super) begun: Vec<String>,
    /// Snapshot and target of drills.
    pub(super) drilled: Vec<(String, String)>,
    /// Snapshots that it restored.
    pub(super) restored: Vec<String>,
    /// Snapshots that it copied, and where.
    pub(super) copied: Vec<(String, String)>,
    /// Runs that it cancelled.
    pub(super) cancelled: Vec<String>,
}

/// One agent, served on loopback.
pub(super) struct Agent {
    pub(super) address: String,
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    calls: Mutex<Calls>,
    known: Mutex<BTreeSet<String>>,
    is_mounted: watch::Sender<bool>,
    is_done: watch::Sender<bool>,
}

impl Agent {
    pub(super) async fn start(site: &TestSite) -> Self {
        let id = site.daemon(Kind::BackupAgent, "hx310-db");
        let identity = IdentityHandle::new(site.identity(&id));
        let listener = site.listener(identity.clone()).await;
        let address = listener.local_addr().to_string();
        let (tasks, shared) = (Tasks::default(), Arc::new(Shared::new()));
        let node = NodeOptions { identity, version: "0.0.0", features: Vec::new(), log: None };
        let server = Server::builder(id, tasks.clone())
            .service(BackupServiceServer::new(Service(Arc::clone(&shared))))
            .node(node)
            .build()
            .expect("a server");
        server.serve_tls(listener);
        Self { address, shared, tasks }
    }

    pub(super) fn calls(&self) -> Calls {
        self.shared.calls().clone()
    }

    /// Lets all runs end, now and later.
    pub(super) fn finish(&self) {
        self.shared.is_done.send_replace(true);
    }

    /// Takes its repository away.
    pub(super) fn unmount(&self) {
        self.shared.is_mounted.send_replace(false);
    }

    /// Ends it as `kill` would.
    pub(super) async fn stop(self) {
        self.tasks.shutdown(Duration::ZERO).await;
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            calls: Mutex::default(),
            known: Mutex::default(),
            is_mounted: watch::Sender::new(true),
            is_done: watch::Sender::new(false),
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().expect("no test panics while it holds this")
    }

    fn begin(&self, run: &str) -> bool {
        let is_new = self.known.lock().expect("no panic").insert(run.to_owned());
        if is_new {
            self.calls().begun.push(run.to_owned());
        }
        is_new
    }

    fn guard(&self) -> Result<(), Status> {
        if *self.is_mounted.borrow() {
            return Ok(());
        }
        let message = "repository `nas` is not mounted";
        Err(fail(Code::FailedPrecondition, Reason::REPOSITORY_UNAVAILABLE, message))
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl BackupService for Service {
    type RunBackupStream = Answers<pb::RunBackupResponse>;

    async fn run_backup(
        &self,
        request: Request<pb::RunBackupRequest>,
    ) -> Result<Response<Self::RunBackupStream>, Status> {
        use pb::run_backup_response::Event;
        let request = request.into_inner();
        self.0.guard()?;
        let run = request.request_id.clone();
        let say = move |event| pb::RunBackupResponse {
            run_id: run.clone(),
            event: Some(event),
            copies: Vec::new(),
        };
        if request.validate_only {
            let findings = vec!["would dump database `wiki`".to_owned()];
            let event = Event::Validation(pb::BackupValidation { findings });
            return Ok(Response::new(stream::iter([Ok(say(event))]).boxed()));
        }
        self.0.begin(&request.request_id);
        let end = say(Event::Snapshot(snapshot(&request.request_id)));
        Ok(going(&self.0, say(Event::Progress(dumping())), end))
    }

    async fn list_snapshots(
        &self,
        _request: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<pb::ListSnapshotsResponse>, Status> {
        let snapshots = vec![snapshot("0190a5de-9a2b-7c3d-8e4f-5a6b7c8d9e0f")];
        let next_page_token = String::new();
        Ok(Response::new(pb::ListSnapshotsResponse { snapshots, next_page_token }))
    }

    type VerifyRepositoryStream = Answers<pb::VerifyRepositoryResponse>;

    async fn verify_repository(
        &self,
        request: Request<pb::VerifyRepositoryRequest>,
    ) -> Result<Response<Self::VerifyRepositoryStream>, Status> {
        use pb::verify_repository_response::Event;
        let run_id = request.into_inner().request_id;
        let report = pb::VerificationReport { sound: true, ..Default::default() };
        let events = [Event::Progress(dumping()), Event::Report(report)];
        let each = events.map(|event| {
            Ok(pb::VerifyRepositoryResponse { run_id: run_id.clone(), event: Some(event) })
        });
        Ok(Response::new(stream::iter(each).boxed()))
    }

    type RestoreStream = Answers<pb::RestoreResponse>;

    async fn restore(
        &self,
        request: Request<pb::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let request = request.into_inner();
        if request.target == "/etc" {
            return Err(fail(Code::AlreadyExists, Reason::TARGET_EXISTS, "`/etc` exists"));
        }
        self.0.calls().restored.push(request.snapshot_id);
        let report = pb::RestoreReport { target: request.target, ..Default::default() };
        let event = Some(pb::restore_response::Event::Report(report));
        let only = pb::RestoreResponse { run_id: request.request_id, event };
        Ok(Response::new(stream::iter([Ok(only)]).boxed()))
    }

    type RunDrillStream = Answers<pb::RunDrillResponse>;

    async fn run_drill(
        &self,
        request: Request<pb::RunDrillRequest>,
    ) -> Result<Response<Self::RunDrillStream>, Status> {
        use pb::run_drill_response::Event;
        let request = request.into_inner();
        if self.0.begin(&request.request_id) {
            let what = (request.snapshot_id.clone(), request.target.clone());
            self.0.calls().drilled.push(what);
        }
        let report = pb::DrillReport {
            verdict: pb::DrillVerdict::Unverified.into(),
            findings: vec!["extension postgis is missing".to_owned()],
            snapshot_id: request.snapshot_id,
            snapshot_age: Some(span_message(Duration::from_secs(60))),
            finished_at: Some(time_message(moment())),
            ..Default::default()
        };
        let run_id = request.request_id;
        let say = |event| pb::RunDrillResponse { run_id: run_id.clone(), event: Some(event) };
        Ok(going(&self.0, say(Event::Progress(dumping())), say(Event::Report(report))))
    }

    type PruneRepositoryStream = Answers<pb::PruneRepositoryResponse>;

    async fn prune_repository(
        &self,
        request: Request<pb::PruneRepositoryRequest>,
    ) -> Result<Response<Self::PruneRepositoryStream>, Status> {
        let event = Some(pb::prune_repository_response::Event::Report(pb::PruneReport::default()));
        let run_id = request.into_inner().request_id;
        let only = pb::PruneRepositoryResponse { run_id, event };
        Ok(Response::new(stream::iter([Ok(only)]).boxed()))
    }

    async fn list_backups(
        &self,
        _request: Request<pb::ListBackupsRequest>,
    ) -> Result<Response<pb::ListBackupsResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn list_copies(
        &self,
        _request: Request<pb::ListCopiesRequest>,
    ) -> Result<Response<pb::ListCopiesResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    type CopySnapshotStream = Answers<pb::CopySnapshotResponse>;

    async fn copy_snapshot(
        &self,
        request: Request<pb::CopySnapshotRequest>,
    ) -> Result<Response<Self::CopySnapshotStream>, Status> {
        let request = request.into_inner();
        self.0.calls().copied.push((request.snapshot_id, request.to));
        let event = pb::copy_snapshot_response::Event::Snapshot(snapshot(&request.request_id));
        let only = pb::CopySnapshotResponse { run_id: request.request_id, event: Some(event) };
        Ok(Response::new(stream::iter([Ok(only)]).boxed()))
    }

    async fn explain_access(
        &self,
        _request: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    type PushBackStream = Answers<pb::PushBackResponse>;

    async fn push_back(
        &self,
        _request: Request<pb::PushBackRequest>,
    ) -> Result<Response<Self::PushBackStream>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn apply_retention(
        &self,
        _request: Request<pb::ApplyRetentionRequest>,
    ) -> Result<Response<pb::ApplyRetentionResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn get_repository(
        &self,
        request: Request<pb::GetRepositoryRequest>,
    ) -> Result<Response<pb::GetRepositoryResponse>, Status> {
        let name = request.into_inner().repository;
        let repository = Some(pb::Repository { name, ..Default::default() });
        Ok(Response::new(pb::GetRepositoryResponse { repository }))
    }

    async fn cancel_run(
        &self,
        request: Request<pb::CancelRunRequest>,
    ) -> Result<Response<pb::CancelRunResponse>, Status> {
        self.0.calls().cancelled.push(request.into_inner().run_id);
        Ok(Response::new(pb::CancelRunResponse { was_running: true }))
    }
}

/// Progress at once, and the end once the test says so.
fn going<T: Send + 'static>(shared: &Shared, progress: T, end: T) -> Response<Answers<T>> {
    let mut done = shared.is_done.subscribe();
    let end = stream::once(async move {
        match done.wait_for(|done| *done).await {
            Ok(_) => Ok(end),
            Err(_) => Err(Status::unavailable("the agent stops")),
        }
    });
    Response::new(stream::iter([Ok(progress)]).chain(end).boxed())
}

fn dumping() -> Progress {
    Progress { step: "dumping".to_owned(), done_bytes: Some(1), ..Progress::default() }
}

fn moment() -> Timestamp {
    "2026-02-02T12:00:00Z".parse().expect("a time")
}

fn snapshot(run: &str) -> pb::Snapshot {
    let postgres = pb::PostgresManifest { database: "wiki".to_owned(), ..Default::default() };
    pb::Snapshot {
        id: "ab".repeat(32),
        run_id: run.to_owned(),
        taken_at: Some(time_message(moment())),
        verified_at: Some(time_message(moment())),
        manifest: Some(pb::Manifest { postgres: Some(postgres), ..Default::default() }),
        ..Default::default()
    }
}
