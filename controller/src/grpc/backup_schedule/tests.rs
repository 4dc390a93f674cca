//! The service in front of an agent that is really called: TLS, HTTP/2, guard and all. The agent
//! makes up its snapshots.

mod agent;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures_util::StreamExt;
use homelab_common::{clock::ManualClock, lifecycle::Tasks};
use homelab_domain::{
    ids::HostName,
    run::{Run, RunStateKind},
};
use homelab_rpc::{
    dial::Dialer,
    peer::Kind,
    status::{metadata_of, reason_of},
    testing::{TestSite, target},
};
use homelab_store::{PageRequest, RunFilter};
use tonic::transport::Channel;

use super::*;
use crate::backup::{
    tests::{controller, eventually, is_heard, run_id as numbered, time},
    wire::Channels,
};
use agent::Agent;

/// Channels that a test can lead elsewhere.
#[derive(Debug, Default)]
struct Lines(Mutex<BTreeMap<HostName, Channel>>);

impl Channels for Lines {
    fn channel(&self, host: &HostName) -> Result<Channel, String> {
        let lines = self.0.lock().expect("no test panics while it holds this");
        lines.get(host).cloned().ok_or_else(|| "not dialled yet".to_owned())
    }
}

struct Lab {
    _folder: tempfile::TempDir,
    site: TestSite,
    dialer: Dialer,
    lines: Arc<Lines>,
    backups: Backups,
    api: BackupScheduleApi,
    _tasks: Tasks,
}

impl Lab {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let clock = ManualClock::new(time("2026-02-02T12:00:00Z"));
        let site = TestSite::new("home");
        let dialer = site.dialer(&site.daemon(Kind::Controller, "hx310-db"));
        let lines = Arc::new(Lines::default());
        let agents = GrpcAgents::new(Arc::clone(&lines) as Arc<dyn Channels>);
        let (tasks, backups) = controller(&folder, &clock, Arc::new(agents.clone())).await;
        let api = BackupScheduleApi::new(backups.clone(), agents, "a certificate".into());
        Self { _folder: folder, site, dialer, lines, backups, api, _tasks: tasks }
    }

    /// A lab whose agent answers.
    async fn with_agent() -> (Self, Agent) {
        let lab = Self::new().await;
        let agent = lab.plug_in().await;
        (lab, agent)
    }

    /// Starts an agent and leads the channel to it.
    async fn plug_in(&self) -> Agent {
        let agent = Agent::start(&self.site).await;
        self.lead_to(&agent.address);
        agent
    }

    fn lead_to(&self, address: &str) {
        let id = self.site.daemon(Kind::BackupAgent, "hx310-db");
        let channel = self.dialer.dial(target(address, &id)).expect("a target");
        let host = HostName::try_new("hx310-db").expect("a name");
        self.lines.0.lock().expect("no panic").insert(host, channel);
    }

    async fn start_backup(&self, id: u128) -> Result<pb::Run, Status> {
        let request = pb::StartBackupRequest {
            request_id: numbered(id).to_string(),
            validate_only: false,
            backup: "wiki".to_owned(),
        };
        let answer = self.api.start_backup(self.as_ada(request)).await?.into_inner();
        Ok(answer.run.expect("a run"))
    }

    /// Follows a run to its end.
    async fn watch(&self, id: u128) -> Vec<pb::Run> {
        let request = pb::WatchRunRequest { run_id: numbered(id).to_string() };
        let stream = self.api.watch_run(Request::new(request)).await.expect("a run").into_inner();
        stream.map(|answer| answer.expect("an answer").run.expect("a run")).collect().await
    }

    fn as_ada<T>(&self, message: T) -> Request<T> {
        let ada = self.site.identity(&self.site.user("ada", "operator"));
        let peer = Peer::from_certificate(&ada.chain()[0]).expect("an identity");
        let mut request = Request::new(message);
        request.extensions_mut().insert(peer);
        request
    }
}

#[tokio::test]
async fn a_backup_is_started_watched_and_listed() {
    let (lab, agent) = Lab::with_agent().await;
    let run = lab.start_backup(7).await.expect("started");
    assert_eq!(run.run_id, numbered(7).to_string());
    assert_eq!(run.started_by, "spiffe://home/user/ada/operator");
    agent.finish();
    let seen = lab.watch(7).await;
    let last = seen.last().expect("at least the end");
    assert_eq!(last.state(), pb::RunState::Succeeded);
    let snapshot = last.snapshot.as_ref().expect("what it stored");
    let manifest = snapshot.manifest.as_ref().and_then(|manifest| manifest.postgres.as_ref());
    assert_eq!(manifest.map(|postgres| postgres.database.as_str()), Some("wiki"));
    assert!(seen.iter().rev().skip(1).all(|run| run.state() == pb::RunState::Running));

    let again = lab.start_backup(7).await.expect("the same run");
    assert_eq!(again.state(), pb::RunState::Succeeded);
    assert_eq!(agent.calls().begun, [numbered(7).to_string()]);
    let request = pb::ListRunsRequest { kind: pb::RunKind::Backup.into(), ..Default::default() };
    let runs = lab.api.list_runs(Request::new(request)).await.expect("runs").into_inner().runs;
    assert_eq!(runs.len(), 1);
    let late = lab.watch(7).await;
    assert_eq!(late.len(), 1, "a run that has ended is told once");
}

#[tokio::test]
async fn a_drill_restores_into_the_target_of_the_site_file() {
    let (lab, agent) = Lab::with_agent().await;
    agent.finish();
    let request = pb::StartDrillRequest {
        request_id: numbered(9).to_string(),
        validate_only: false,
        backup: "wiki".to_owned(),
        snapshot_id: "abcdef0123".to_owned(),
        repository: String::new(),
    };
    lab.api.start_drill(lab.as_ada(request)).await.expect("started");
    let last = lab.watch(9).await.pop().expect("the end");
    assert_eq!(last.state(), pb::RunState::Unverified);
    assert_eq!(last.drill.expect("a report").findings, ["extension postgis is missing"]);
    assert_eq!(agent.calls().drilled, [("abcdef0123".to_owned(), "nas-postgres".to_owned())]);
}

#[tokio::test]
async fn a_check_starts_nothing_and_says_what_is_in_the_way() {
    let (lab, agent) = Lab::with_agent().await;
    let check = || {
        lab.as_ada(pb::StartBackupRequest {
            request_id: numbered(7).to_string(),
            validate_only: true,
            backup: "wiki".to_owned(),
        })
    };
    let run = lab.api.start_backup(check()).await.expect("it could start").into_inner().run;
    assert_eq!(run.map(|run| run.state), Some(0));
    agent.unmount();
    let status = lab.api.start_backup(check()).await.expect_err("it could not");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&status).as_deref(), Some("REPOSITORY_UNAVAILABLE"));
    assert!(agent.calls().begun.is_empty());
    let page = lab.backups.runs(&RunFilter::default(), &PageRequest::first(9)).await;
    assert!(page.expect("the store answers").items.is_empty());
}

#[tokio::test]
async fn another_run_of_the_same_backup_is_refused_with_the_one_that_goes_on() {
    let (lab, _agent) = Lab::with_agent().await;
    lab.start_backup(7).await.expect("started");
    let status = lab.start_backup(8).await.expect_err("one goes on");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&status).as_deref(), Some("RUN_IN_PROGRESS"));
    assert_eq!(metadata_of(&status, "run_id"), Some(numbered(7).to_string()));
}

#[tokio::test]
async fn snapshots_verification_and_restore_are_passed_on() {
    let (lab, agent) = Lab::with_agent().await;
    let request =
        pb::ListBackupSnapshotsRequest { backup: "wiki".to_owned(), ..Default::default() };
    let listed = lab.api.list_backup_snapshots(Request::new(request)).await.expect("a list");
    assert_eq!(listed.into_inner().snapshots.len(), 1);

    let request = pb::VerifyBackupRequest {
        request_id: numbered(1).to_string(),
        backup: "wiki".to_owned(),
        read_data: true,
        ..Default::default()
    };
    let verified = lab.api.verify_backup(Request::new(request)).await.expect("a stream");
    let verified: Vec<_> = verified.into_inner().collect().await;
    assert!(verified.len() == 2 && verified.iter().all(Result::is_ok), "{verified:?}");

    let restore = |target: &str| {
        Request::new(pb::RestoreBackupRequest {
            request_id: numbered(2).to_string(),
            backup: "wiki".to_owned(),
            target: target.to_owned(),
            ..Default::default()
        })
    };
    let restored = lab.api.restore_backup(restore("/srv/new")).await.expect("a stream");
    let restored: Vec<_> = restored.into_inner().collect().await;
    assert_eq!(restored.len(), 1);
    assert_eq!(agent.calls().restored, ["ab".repeat(32)], "the newest, since none was named");
    let Err(refused) = lab.api.restore_backup(restore("/etc")).await else { panic!("it exists") };
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(reason_of(&refused).as_deref(), Some("TARGET_EXISTS"), "the agent's own words");
}

#[tokio::test]
async fn copies_pruning_and_standing_concern_the_repositories_of_the_backup_only() {
    let (lab, agent) = Lab::with_agent().await;
    let copy = |to: &str| {
        Request::new(pb::CopyBackupRequest {
            request_id: numbered(3).to_string(),
            backup: "wiki".to_owned(),
            to: to.to_owned(),
            ..Default::default()
        })
    };
    let Err(foreign) = lab.api.copy_backup(copy("elsewhere")).await else { panic!("not its own") };
    assert_eq!(foreign.code(), Code::InvalidArgument);
    assert!(foreign.message().contains("labctl backup copies wiki"), "{}", foreign.message());
    let copied = lab.api.copy_backup(copy("nas")).await.expect("a stream").into_inner();
    assert_eq!(copied.count().await, 1);
    assert_eq!(agent.calls().copied, [("ab".repeat(32), "nas".to_owned())], "the newest");

    let prune = pb::PruneBackupRequest {
        request_id: numbered(4).to_string(),
        backup: "wiki".to_owned(),
        ..Default::default()
    };
    let pruned = lab.api.prune_backup(Request::new(prune)).await.expect("a stream").into_inner();
    let pruned: Vec<_> = pruned.collect().await;
    let response = pruned[0].as_ref().expect("a report").response.as_ref().expect("the agent's");
    assert_eq!(response.run_id, numbered(4).to_string());

    let request = pb::ListBackupRepositoriesRequest { backup: "wiki".to_owned() };
    let listed = lab.api.list_backup_repositories(Request::new(request)).await.expect("a list");
    let names: Vec<_> =
        listed.into_inner().repositories.into_iter().map(|repository| repository.name).collect();
    assert_eq!(names, ["nas"]);
}

#[tokio::test]
async fn a_run_is_cancelled_where_it_goes_on() {
    let (lab, agent) = Lab::with_agent().await;
    let cancel = |id: u128, backup: &str| {
        lab.as_ada(pb::CancelRunRequest {
            run_id: numbered(id).to_string(),
            backup: backup.to_owned(),
        })
    };
    let unknown = lab.api.cancel_run(cancel(7, "")).await.expect_err("no run, and no backup named");
    assert_eq!(reason_of(&unknown).as_deref(), Some("RUN_NOT_FOUND"));
    lab.start_backup(7).await.expect("started");
    let told = lab.api.cancel_run(cancel(7, "")).await.expect("told").into_inner();
    assert!(told.was_running);
    let restore = lab.api.cancel_run(cancel(8, "wiki")).await.expect("told").into_inner();
    assert!(restore.was_running, "a restore is known to the agent of its backup alone");
    assert_eq!(agent.calls().cancelled, [numbered(7).to_string(), numbered(8).to_string()]);
    agent.finish();
    lab.watch(7).await;
    let late = lab.api.cancel_run(cancel(7, "")).await.expect("an answer").into_inner();
    assert!(!late.was_running);
}

#[tokio::test]
async fn a_host_that_is_not_there_is_called_unreachable() {
    let lab = Lab::new().await;
    let status = lab.start_backup(7).await.expect_err("not dialled");
    assert_eq!(reason_of(&status).as_deref(), Some("HOST_UNREACHABLE"));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = closed.local_addr().expect("an address").to_string();
    drop(closed);
    lab.lead_to(&address);
    let request =
        pb::ListBackupSnapshotsRequest { backup: "wiki".to_owned(), ..Default::default() };
    let status =
        lab.api.list_backup_snapshots(Request::new(request)).await.expect_err("nobody there");
    assert_eq!(
        (status.code(), reason_of(&status).as_deref()),
        (Code::Unavailable, Some("HOST_UNREACHABLE"))
    );
    assert!(status.message().contains("hx310-db"), "{}", status.message());
}

#[tokio::test]
async fn a_run_outlives_the_connection_and_is_lost_only_with_its_agent() {
    let (lab, agent) = Lab::with_agent().await;
    lab.start_backup(7).await.expect("started");
    let until = async |what: &str, wanted: fn(&Run) -> bool| {
        eventually(what, async || {
            let page = lab.backups.runs(&RunFilter::default(), &PageRequest::first(1)).await;
            page.expect("the store answers").items.first().is_some_and(wanted).then_some(())
        })
        .await;
    };
    until("a run that was heard of", is_heard).await;
    agent.stop().await;
    until("an unknown run", |run| run.state.kind() == RunStateKind::Unknown).await;
    let next = lab.plug_in().await;
    until("a failed run", |run| run.state.kind() == RunStateKind::Failed).await;
    let last = lab.watch(7).await.pop().expect("the end");
    assert_eq!(last.failure.expect("why").reason, "RUN_LOST");
    assert!(next.calls().begun.is_empty(), "it was not begun a second time");
}

#[tokio::test]
async fn schedules_show_when_who_and_why() {
    let (lab, _agent) = Lab::with_agent().await;
    let pause = |reason: &str| {
        lab.as_ada(pb::PauseScheduleRequest {
            backup: "wiki".to_owned(),
            reason: reason.to_owned(),
            until: None,
        })
    };
    let status = lab.api.pause_schedule(pause(" ")).await.expect_err("no reason");
    assert_eq!(status.code(), Code::InvalidArgument);
    let paused = lab.api.pause_schedule(pause("moving house")).await.expect("paused").into_inner();
    let paused = paused.schedule.expect("a schedule");
    assert!(paused.paused && paused.next_run_at.is_none());
    for part in ["moving house", "spiffe://home/user/ada/operator"] {
        assert!(paused.pause_reason.contains(part), "{}", paused.pause_reason);
    }
    let request = pb::ResumeScheduleRequest { backup: "wiki".to_owned() };
    lab.api.resume_schedule(Request::new(request)).await.expect("resumed");
    let all = lab.api.list_schedules(Request::new(pb::ListSchedulesRequest {})).await;
    let schedule = all.expect("schedules").into_inner().schedules.remove(0);
    assert_eq!(
        (schedule.cron.as_str(), schedule.time_zone.as_str()),
        ("30 2 * * *", "Europe/Amsterdam")
    );
    assert!(!schedule.paused && schedule.next_run_at.is_some());
}

#[tokio::test]
async fn requests_that_make_no_sense_name_their_field() {
    let lab = Lab::new().await;
    let unknown = pb::WatchRunRequest { run_id: numbered(1).to_string() };
    let Err(status) = lab.api.watch_run(Request::new(unknown)).await else { panic!("no run") };
    assert_eq!(reason_of(&status).as_deref(), Some("RUN_NOT_FOUND"));
    let request = pb::StartBackupRequest { backup: "wiki".to_owned(), ..Default::default() };
    let status = lab.api.start_backup(Request::new(request)).await.expect_err("no id");
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = pb::StartBackupRequest {
        backup: "nope".to_owned(),
        request_id: numbered(1).to_string(),
        validate_only: false,
    };
    let status = lab.api.start_backup(Request::new(request)).await.expect_err("no backup");
    assert_eq!(reason_of(&status).as_deref(), Some("BACKUP_NOT_FOUND"));
    let request = pb::ListRunsRequest { page_token: "nonsense".to_owned(), ..Default::default() };
    let status = lab.api.list_runs(Request::new(request)).await.expect_err("no token");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn retention_is_planned_from_what_the_agent_lists_and_not_applied_without_a_policy() {
    let (lab, _agent) = Lab::with_agent().await;
    let request =
        pb::PlanBackupRetentionRequest { backup: "wiki".to_owned(), ..Default::default() };
    let plans = lab.api.plan_backup_retention(lab.as_ada(request)).await.expect("a plan");
    let plan = plans.into_inner().plans.remove(0);
    assert!(!plan.applicable, "the site file says nothing of retention");
    assert!(!plan.decisions.is_empty());
    for decision in &plan.decisions {
        assert_eq!(decision.verdict(), pb::RetentionVerdict::Keep);
        assert!(!decision.reasons.is_empty() && decision.sequence > 0);
    }
    let apply = pb::ApplyBackupRetentionRequest {
        backup: "wiki".to_owned(),
        repository: "nas".to_owned(),
        digest: plan.digest,
        validate_only: false,
    };
    let refused = lab.api.apply_backup_retention(lab.as_ada(apply)).await.expect_err("no policy");
    assert_eq!(reason_of(&refused).as_deref(), Some("RETENTION_REFUSED"));
    let brake = pb::AcknowledgeBrakeRequest {
        backup: "wiki".to_owned(),
        brake: "SIZES_COLLAPSED".to_owned(),
        subject: "nothing".to_owned(),
        reason: "on purpose".to_owned(),
    };
    let missing = lab.api.acknowledge_brake(lab.as_ada(brake)).await.expect_err("no such brake");
    assert_eq!(reason_of(&missing).as_deref(), Some("BRAKE_NOT_FOUND"));
}

#[tokio::test]
async fn the_strategy_and_the_kit_say_what_is_where() {
    let (lab, _agent) = Lab::with_agent().await;
    let strategy = lab.api.get_strategy(lab.as_ada(pb::GetStrategyRequest {})).await;
    let strategy = strategy.expect("an answer").into_inner();
    let wiki = &strategy.backups[0];
    assert_eq!(wiki.schedule.as_ref().map(|it| it.backup.as_str()), Some("wiki"));
    assert_eq!(wiki.copies.as_ref().map(|it| it.copies.len()), Some(2));
    assert!(wiki.restore_commands[0].starts_with("restic -r "), "{:?}", wiki.restore_commands);
    let steps = strategy.cold_start.expect("an order").steps;
    let subjects: Vec<_> = steps.iter().map(|step| step.subject.as_str()).collect();
    assert_eq!(subjects, ["host/hx310-db", "repository/nas", "backup/wiki"]);

    let kit = async || {
        let request = lab.as_ada(pb::GetRecoveryKitRequest {});
        lab.api.get_recovery_kit(request).await.expect("an answer").into_inner()
    };
    let before = kit().await;
    assert_eq!((before.fingerprint.len(), before.last_proof), (64, None));
    let item =
        pb::KitProofItem { secret: "nas-key".to_owned(), opened: true, ..Default::default() };
    let proof = pb::RecordKitProofRequest {
        request_id: numbered(3).to_string(),
        fingerprint: before.fingerprint.clone(),
        items: vec![item],
    };
    let again = lab.as_ada(proof.clone());
    let kept =
        lab.api.record_kit_proof(lab.as_ada(proof.clone())).await.expect("kept").into_inner();
    assert!(kept.missing.is_empty());
    let same = lab.api.record_kit_proof(again).await.expect("the same").into_inner();
    assert_eq!(same, kept, "a call that comes twice is one proof");
    let other = pb::RecordKitProofRequest { fingerprint: "ab".repeat(32), ..proof };
    let refused = lab.api.record_kit_proof(lab.as_ada(other)).await.expect_err("another call");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let after = kit().await;
    assert_eq!(after.fingerprint, before.fingerprint);
    assert!(after.last_proof.is_some_and(|proof| proof.passed && proof.by.contains("ada")));
    let verified = lab.api.verify_drill_evidence(lab.as_ada(pb::VerifyDrillEvidenceRequest {}));
    let verified = verified.await.expect("an answer").into_inner();
    assert!(verified.intact && verified.public_key_pem.contains("PUBLIC KEY"));
}

#[tokio::test]
async fn a_pause_ends_within_ninety_days() {
    let (lab, _agent) = Lab::with_agent().await;
    let pause = async |until: &str| {
        let request = pb::PauseScheduleRequest {
            backup: "wiki".to_owned(),
            reason: "moving house".to_owned(),
            until: Some(homelab_rpc::node::to_proto(time(until))),
        };
        lab.api.pause_schedule(lab.as_ada(request)).await
    };
    for wrong in ["2026-02-02T11:00:00Z", "2027-02-02T12:00:00Z"] {
        assert!(pause(wrong).await.is_err(), "{wrong}");
    }
    let paused = pause("2026-02-04T12:00:00Z").await.expect("paused").into_inner();
    let schedule = paused.schedule.expect("a schedule");
    assert!(schedule.paused && schedule.paused_until.is_some() && schedule.next_run_at.is_some());
    assert_eq!(schedule.punctuality(), pb::Punctuality::Ok);
}
