//! The same over gRPC, and without it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use homelab_backup_agent::{
    app::{App, Deps},
    config::Config,
    journal::{Entry, Journal, Work},
    offline,
    restore::Place,
    stream::Sha256,
};
use homelab_common::{
    chance::SystemChance, clock::SystemClock, error_chain::Chain, exec::SystemExec,
    lifecycle::Tasks, tls::install_crypto_provider,
};
use homelab_proto::{
    backup::v1::{
        self as pb, backup_service_client::BackupServiceClient,
        run_backup_response::Event as RunEvent,
    },
    common::v1::ConditionStatus,
};
use homelab_rpc::{
    peer::{Kind, SpiffeId},
    status::reason_of,
    testing::{TestSite, target},
};
use homelab_tests::postgres::{self, Cluster, PASSWORD, USER};
use uuid::Uuid;

use crate::bench::*;

/// The daemon over real TLS, with one backup, one drill target and two certificates.
struct Served {
    tasks: Tasks,
    client: BackupServiceClient<tonic::transport::Channel>,
    viewer: BackupServiceClient<tonic::transport::Channel>,
}

impl Served {
    async fn start(bench: &Bench, source: &Cluster, nas: &Cluster) -> Self {
        install_crypto_provider();
        let site = TestSite::new("home");
        let id = site.daemon(Kind::BackupAgent, "hx310-db");
        let config = Config::parse("backup-agent.toml", &config_of(bench, source, nas));
        let config = config.unwrap_or_else(|report| panic!("{report}"));
        write_identity(&site, &id, &config.daemon.pki_dir);
        let tasks = Tasks::default();
        let deps = Deps {
            tasks: tasks.clone(),
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            exec: Arc::new(SystemExec),
            log: None,
        };
        let app = App::start(config, deps).await;
        let app = app.unwrap_or_else(|error| panic!("{}", Chain(&error)));
        let connect = |grant| {
            let dialer = site.dialer(&site.user("rob", grant));
            dialer.dial(target(app.address, &id)).expect("a channel")
        };
        Self {
            tasks,
            client: BackupServiceClient::new(connect("admin")),
            viewer: BackupServiceClient::new(connect("viewer")),
        }
    }

    async fn run_backup(&self, request: pb::RunBackupRequest) -> Result<pb::Snapshot, String> {
        let answer = self.client.clone().run_backup(request).await;
        let mut stream = answer.expect("a stream").into_inner();
        let mut last = None;
        while let Some(message) = stream.message().await.expect("a message") {
            assert!(last.is_none_or(|event| matches!(event, RunEvent::Progress(_))));
            last = message.event;
        }
        match last.expect("an end") {
            RunEvent::Snapshot(snapshot) => Ok(snapshot),
            RunEvent::Failure(failure) => Err(failure.reason),
            other => panic!("the stream ended with {other:?}"),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.tasks.stop_hard();
    }
}

fn config_of(bench: &Bench, source: &Cluster, nas: &Cluster) -> String {
    let folder = bench.folder.path();
    let secret = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        path.display().to_string()
    };
    let (password, postgres) =
        (secret("password", REPOSITORY_PASSWORD), secret("postgres-password", PASSWORD));
    format!(
        r#"
listen = "127.0.0.1:0"
state-dir = "{state}"
admin-socket = false
host = "hx310-db"

[postgres]
clients = "{clients}"

[[repository]]
name = "nas"
path = "{repository}"
id = "{id}"
password = "{password}"
require-mount = false

[[backup]]
name = "wiki-daily"
source = "postgres"
repository = "nas"
host = "127.0.0.1"
port = {source}
user = "{USER}"
password = "{postgres}"
database = "{DATABASE}"
drill-target = "nas-postgres"

[[drill-target]]
name = "nas-postgres"
host = "127.0.0.1"
port = {nas}
user = "{USER}"
password = "{postgres}"
"#,
        state = folder.join("state").display(),
        clients = bench.clients.display(),
        repository = bench.path().display(),
        id = Uuid::from_u128(0xbac0),
        source = source.port(),
        nas = nas.port(),
    )
}

fn write_identity(site: &TestSite, id: &SpiffeId, pki: &Path) {
    fs::create_dir_all(pki).expect("a folder");
    let leaf = site.leaf(id);
    let key = leaf.key_pem.expose().clone();
    let files =
        [("cert.pem", leaf.chain_pem), ("key.pem", key), ("ca.pem", site.root_pem().to_owned())];
    for (name, text) in files {
        let path = pki.join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
}

fn wiki(request_id: &str) -> pb::RunBackupRequest {
    pb::RunBackupRequest {
        request_id: request_id.to_owned(),
        validate_only: false,
        backup: "wiki-daily".to_owned(),
    }
}

#[tokio::test]
async fn the_service_backs_up_lists_verifies_drills_and_restores() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let served = Served::start(&bench, &source, &nas).await;
    let request_id = new_run().to_string();
    let snapshot = served.run_backup(wiki(&request_id)).await.expect("a snapshot");
    assert_eq!(
        (snapshot.run_id.as_str(), snapshot.host.as_str()),
        (request_id.as_str(), "hx310-db")
    );
    let manifest = snapshot.manifest.as_ref().and_then(|manifest| manifest.postgres.as_ref());
    assert_eq!(manifest.expect("a manifest").tables.len(), 4);
    // The same request again is the same run.
    let again = served.run_backup(wiki(&request_id)).await.expect("the same snapshot");
    assert_eq!(again, snapshot);

    let mut client = served.client.clone();
    let listed = client.list_snapshots(pb::ListSnapshotsRequest::default()).await;
    let listed = listed.expect("a page").into_inner().snapshots;
    assert_eq!(listed, [pb::Snapshot { manifest: None, ..snapshot.clone() }]);

    let verify = pb::VerifyRepositoryRequest { read_data: true, ..Default::default() };
    let mut stream = client.verify_repository(verify).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(message) = stream.message().await.expect("a message") {
        last = message.event;
    }
    let Some(pb::verify_repository_response::Event::Report(report)) = last else {
        panic!("{last:?}")
    };
    assert!(report.sound && report.snapshots == 1, "{report:?}");

    let drill = pb::RunDrillRequest { backup: "wiki-daily".to_owned(), ..Default::default() };
    let mut stream = client.run_drill(drill).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(message) = stream.message().await.expect("a message") {
        last = message.event;
    }
    let Some(pb::run_drill_response::Event::Report(report)) = last else { panic!("{last:?}") };
    assert_eq!((report.verdict(), report.rows), (pb::DrillVerdict::Passed, 20_005));
    assert_eq!(report.snapshot_id, snapshot.id);

    let folder = bench.folder.path().join("restored");
    let restore = pb::RestoreRequest {
        snapshot_id: short(&snapshot.id).to_owned(),
        target: folder.display().to_string(),
        ..Default::default()
    };
    let mut stream = client.restore(restore.clone()).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(message) = stream.message().await.expect("a message") {
        last = message.event;
    }
    let Some(pb::restore_response::Event::Report(report)) = last else { panic!("{last:?}") };
    let sizes =
        |files: &[pb::SnapshotFile]| files.iter().map(|f| f.sha256.clone()).collect::<Vec<_>>();
    assert_eq!(sizes(&report.files), sizes(&snapshot.files));
    let refused = client.restore(restore).await.expect_err("it exists");
    assert_eq!(reason_of(&refused).as_deref(), Some("TARGET_EXISTS"));

    let repository = client.get_repository(pb::GetRepositoryRequest::default()).await;
    let repository = repository.expect("a repository").into_inner().repository.expect("it");
    assert_eq!((repository.snapshots, repository.conditions.len()), (Some(1), 4));
    let unmet = repository.conditions.iter().filter(|c| c.status() != ConditionStatus::True);
    assert_eq!(unmet.count(), 0, "{repository:?}");
}

#[tokio::test]
async fn a_second_run_of_a_backup_is_refused_and_the_first_can_be_cancelled() {
    let (source, nas, mut bench) = (seeded(), cluster("nas"), Bench::new());
    let stuck = bench.folder.path().join("stuck");
    let script = format!("REAL \"$@\" | head -c 100000; touch {}; sleep 60", stuck.display());
    bench.shim(postgres::MAJOR, &[("pg_dump", &only_when_dumping(&script))]);
    let served = Served::start(&bench, &source, &nas).await;
    let mut client = served.client.clone();
    let run_id = new_run().to_string();
    let mut first = client.run_backup(wiki(&run_id)).await.expect("a stream").into_inner();
    tokio::task::spawn_blocking(move || wait_until("the dump is stuck", || stuck.exists()))
        .await
        .expect("the dump is stuck");
    let refused = client.run_backup(wiki("")).await.expect_err("one goes on");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(reason_of(&refused).as_deref(), Some("RUN_IN_PROGRESS"));

    let denied =
        served.viewer.clone().cancel_run(pb::CancelRunRequest { run_id: run_id.clone() }).await;
    assert_eq!(denied.expect_err("a viewer").code(), tonic::Code::PermissionDenied);
    let cancel = || pb::CancelRunRequest { run_id: run_id.clone() };
    let told = client.cancel_run(cancel()).await.expect("an answer").into_inner();
    assert!(told.was_running);
    let mut last = None;
    while let Some(message) = first.message().await.expect("a message") {
        last = message.event;
    }
    let Some(RunEvent::Failure(failure)) = last else { panic!("{last:?}") };
    assert_eq!(failure.reason, "CANCELLED");
    let told = client.cancel_run(cancel()).await.expect("an answer").into_inner();
    assert!(!told.was_running);
    bench.assert_nothing_is_there().await;
}

#[tokio::test]
async fn what_is_refused_says_why_by_a_stable_reason() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let served = Served::start(&bench, &source, &nas).await;
    let mut client = served.client.clone();
    let unknown = pb::RunBackupRequest { backup: "wik".to_owned(), ..Default::default() };
    let refused = client.run_backup(unknown).await.expect_err("unknown");
    assert_eq!(reason_of(&refused).as_deref(), Some("BACKUP_NOT_FOUND"));
    assert!(refused.message().contains("there is: wiki-daily"), "{refused:?}");
    let refused = client.run_backup(wiki("not a uuid")).await.expect_err("no uuid");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let drill = pb::RunDrillRequest { backup: "wiki-daily".to_owned(), ..Default::default() };
    let refused = client.run_drill(drill).await.expect_err("nothing to drill");
    assert_eq!(reason_of(&refused).as_deref(), Some("SNAPSHOT_NOT_FOUND"));
    let push = pb::PushBackRequest { backup: "wiki-daily".to_owned(), ..Default::default() };
    let refused = client.push_back(push).await.expect_err("a database has no mirrors");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let explain = pb::ExplainAccessRequest { backup: "wiki-daily".to_owned() };
    let explained = client.explain_access(explain).await.expect("an explanation").into_inner();
    let held = i32::from(ConditionStatus::True);
    assert!(explained.findings.iter().all(|finding| finding.status == held), "{explained:?}");

    let validate = pb::RunBackupRequest { validate_only: true, ..wiki("") };
    let mut stream = client.run_backup(validate).await.expect("a stream").into_inner();
    let message = stream.message().await.expect("a message").expect("one message");
    let Some(RunEvent::Validation(validation)) = message.event else { panic!("{message:?}") };
    assert!(validation.findings[0].contains("would be dumped by pg_dump 15."), "{validation:?}");

    fs::rename(bench.path(), bench.folder.path().join("elsewhere")).expect("moved");
    let refused = client.run_backup(wiki("")).await.expect_err("unavailable");
    assert_eq!(reason_of(&refused).as_deref(), Some("REPOSITORY_UNAVAILABLE"));
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(!bench.path().exists());
}

#[tokio::test]
async fn a_restarted_daemon_clears_up_after_the_runs_that_died_with_it() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let run = new_run();
    let state = bench.folder.path().join("state");
    fs::create_dir_all(state.join("scratch")).expect("a folder");
    fs::write(state.join("scratch/pgpass"), "secret").expect("a file");
    let work = Work::Backup { backup: name("wiki-daily"), repository: name("nas") };
    let journal = Journal::open(&state).expect("a journal");
    journal.begin(Entry { run, started_at: jiff::Timestamp::UNIX_EPOCH, work }).expect("written");
    drop(journal);

    let served = Served::start(&bench, &source, &nas).await;
    assert_eq!(fs::read_dir(state.join("scratch")).expect("a folder").count(), 0);
    let swept = move || {
        wait_until("the dead run is swept", || {
            Journal::open(&state).expect("a journal").entries().is_empty()
        });
    };
    tokio::task::spawn_blocking(swept).await.expect("swept");
    drop(served);
}

#[tokio::test]
async fn a_snapshot_is_restored_without_daemon_and_controller() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let config = Config::parse("backup-agent.toml", &config_of(&bench, &source, &nas));
    let config = config.expect("a configuration");
    let listed = offline::list(&config, "nas").expect("a list");
    assert!(listed.contains(short(backed.snapshot.id.as_str())), "{listed}");
    let folder = bench.folder.path().join("restored");
    let said = offline::restore(&config, "nas", "latest:wiki-daily", &Place::new(&folder))
        .expect("restored");
    assert!(said.contains("psql -X -v ON_ERROR_STOP=1 -d wiki -f"), "{said}");
    let dump = fs::read(folder.join("database.sql")).expect("a dump");
    assert_eq!(Some(&Sha256::of(&dump)), backed.snapshot.file("database.sql").map(|f| &f.sha256));
    let again = offline::init(&config, "nas").expect_err("it is there already");
    assert!(Chain(&again).to_string().contains("is not empty"));
}
