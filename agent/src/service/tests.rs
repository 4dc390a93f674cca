//! The service as a caller meets it: a whole daemon on loopback, over mTLS.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use homelab_common::chance::SystemChance;
use homelab_common::clock::SystemClock;
use homelab_common::exec::fake::FakeExec;
use homelab_proto::agent::v1::host_service_client::HostServiceClient;
use homelab_proto::agent::v1::network_service_client::NetworkServiceClient;
use homelab_proto::agent::v1::power_service_client::PowerServiceClient;
use homelab_proto::common::v1::ConditionStatus;
use homelab_rpc::not_built::strangers;
use homelab_rpc::peer::Kind;
use homelab_rpc::status::reason_of;
use homelab_rpc::testing::{TestSite, target};
use pb::run_checks_response::Event;
use prost::Message as _;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::*;
use crate::app::{App, Deps};
use crate::config::Config;
use crate::health::Roots;

/// Generous: what it bounds takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

struct Agent {
    site: TestSite,
    app: App,
    tasks: Tasks,
    _folder: TempDir,
}

impl Agent {
    async fn start() -> Self {
        let site = TestSite::new("home");
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        fs::create_dir(&pki).unwrap();
        let leaf = site.leaf(&site.daemon(Kind::Agent, "qotom"));
        fs::write(pki.join("cert.pem"), &leaf.chain_pem).unwrap();
        fs::write(pki.join("key.pem"), leaf.key_pem.expose()).unwrap();
        fs::set_permissions(pki.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(pki.join("ca.pem"), site.root_pem()).unwrap();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nadmin-socket = false\nstate-dir = \"{}\"\n",
            folder.path().display()
        );
        let config = Config::parse("agent.toml", &text).unwrap();
        let tasks = Tasks::default();
        let deps = Deps {
            tasks: tasks.clone(),
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            exec: Arc::new(FakeExec::default()),
            roots: Roots::default(),
            log: None,
        };
        let app = App::start(config, deps).await.unwrap();
        Self { site, app, tasks, _folder: folder }
    }

    fn channel(&self, grant: &str) -> Channel {
        let agent = self.site.daemon(Kind::Agent, "qotom");
        let dialer = self.site.dialer(&self.site.user("anna", grant));
        dialer.dial(target(self.app.address, &agent)).unwrap()
    }

    fn client(&self, grant: &str) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel(grant))
    }
}

fn file_check(name: &str, path: &str) -> pb::Check {
    let probe = pb::FileProbe { path: path.to_owned(), ..Default::default() };
    let probe = Some(pb::check::Probe::File(probe));
    pb::Check { name: name.to_owned(), deadline: None, probe }
}

#[test]
fn what_is_not_built_is_in_the_protocol() {
    assert_eq!(strangers(NOT_BUILT), Vec::<&str>::new());
}

#[tokio::test]
async fn a_viewer_learns_what_the_host_is() {
    let agent = Agent::start().await;
    let mut client = agent.client("viewer");
    let host = client.get_host(pb::GetHostRequest {}).await.unwrap().into_inner().host.unwrap();
    assert_eq!(host.name, "qotom");
    assert!(host.cpu_count.unwrap() > 0);
    assert!(host.boot_id.is_some());
    assert!(host.interfaces.iter().any(|interface| interface.name == "lo"));
}

#[tokio::test]
async fn a_viewer_learns_how_the_host_fares() {
    let agent = Agent::start().await;
    let mut client = agent.client("viewer");
    let answer = client.get_health(pb::GetHealthRequest {}).await.unwrap().into_inner();
    let health = answer.health.unwrap();
    assert!(health.memory.unwrap().total_bytes.unwrap() > 0);
    assert!(!health.cores.is_empty());
    // There is no time daemon behind the scripted programs, so nobody vouches for the clock.
    let clock = health.conditions.iter().find(|c| c.r#type == "ClockSynchronized").unwrap();
    assert_eq!(clock.status(), ConditionStatus::Unknown);
}

#[tokio::test]
async fn a_stream_begins_at_once_counts_and_has_rates_from_the_second_sample_on() {
    let agent = Agent::start().await;
    let mut client = agent.client("viewer");
    let interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let request = pb::WatchHealthRequest { interval };
    let mut stream = client.watch_health(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.sequence, 1);
    assert_eq!(first.health.unwrap().over, None);
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!(second.sequence, 2);
    let health = second.health.unwrap();
    assert!(health.over.is_some());
    assert!(health.cpu.unwrap().idle.is_some());
}

#[tokio::test]
async fn a_sample_of_this_machine_is_small() {
    let agent = Agent::start().await;
    let mut client = agent.client("viewer");
    client.get_health(pb::GetHealthRequest {}).await.unwrap();
    let answer = client.get_health(pb::GetHealthRequest {}).await.unwrap().into_inner();
    let health = answer.health.as_ref().unwrap();
    // What is the same on every machine; cores, disks and mounts come on top.
    let rest = pb::Health {
        cores: Vec::new(),
        disks: Vec::new(),
        filesystems: Vec::new(),
        networks: Vec::new(),
        sensors: Vec::new(),
        ..health.clone()
    };
    assert!(rest.encoded_len() < 2048, "{} bytes", rest.encoded_len());
}

#[tokio::test]
async fn an_interval_out_of_bounds_is_refused() {
    let agent = Agent::start().await;
    let mut client = agent.client("viewer");
    let interval = Some(prost_types::Duration { seconds: 0, nanos: 1 });
    let refused = client.watch_health(pb::WatchHealthRequest { interval }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(reason_of(&refused).as_deref(), Some("INVALID_REQUEST"));
}

#[tokio::test]
async fn a_stream_ends_with_a_word_when_the_daemon_stops() {
    let agent = Agent::start().await;
    let mut client = agent.client("viewer");
    let request = pb::WatchHealthRequest { interval: None };
    let mut stream = client.watch_health(request).await.unwrap().into_inner();
    stream.message().await.unwrap();
    agent.tasks.stop();
    let ended = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(reason_of(&ended).as_deref(), Some("STOPPING"));
}

#[tokio::test]
async fn checks_are_told_one_by_one_and_summed_up_at_the_end() {
    let agent = Agent::start().await;
    let mut client = agent.client("operator");
    let checks = vec![file_check("there", "/proc/version"), file_check("gone", "/proc/none")];
    let answers = client.run_checks(pb::RunChecksRequest { checks }).await.unwrap().into_inner();
    let events: Vec<Event> = answers.map(|answer| answer.unwrap().event.unwrap()).collect().await;
    let mut ends = Vec::new();
    for event in &events {
        if let Event::Result(result) = event {
            ends.push((result.name.as_str(), result.status(), result.reason.as_str()));
        }
    }
    ends.sort_unstable_by_key(|(name, ..)| *name);
    let expected = [
        ("gone", pb::CheckStatus::Failed, "FILE_MISSING"),
        ("there", pb::CheckStatus::Passed, "AS_EXPECTED"),
    ];
    assert_eq!(ends, expected);
    let summary = pb::CheckSummary { passed: 1, failed: 1, unknown: 0 };
    assert_eq!(events.last(), Some(&Event::Summary(summary)));
}

#[tokio::test]
async fn bad_checks_are_refused_with_every_field_and_none_is_run() {
    let agent = Agent::start().await;
    let mut client = agent.client("operator");
    let checks = vec![file_check("a", "relative"), file_check("a", "/x")];
    let refused = client.run_checks(pb::RunChecksRequest { checks }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    use tonic_types::StatusExt as _;
    let details = refused.get_error_details();
    let fields: Vec<&str> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["checks[0].file.path", "checks[1].name"]);
}

#[tokio::test]
async fn a_viewer_may_not_run_checks() {
    let agent = Agent::start().await;
    let mut client = agent.client("viewer");
    let checks = vec![file_check("a", "/proc/version")];
    let refused = client.run_checks(pb::RunChecksRequest { checks }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(reason_of(&refused).as_deref(), Some("ROLE_REQUIRED"));
}

#[tokio::test]
async fn what_is_not_built_yet_says_so() {
    let agent = Agent::start().await;
    let channel = agent.channel("admin");
    let guests = HostServiceClient::new(channel.clone())
        .list_guests(pb::ListGuestsRequest::default())
        .await
        .unwrap_err();
    let network = NetworkServiceClient::new(channel)
        .get_network(pb::GetNetworkRequest::default())
        .await
        .unwrap_err();
    for refused in [guests, network] {
        assert_eq!(refused.code(), Code::Unimplemented);
        assert_eq!(reason_of(&refused).as_deref(), Some("NOT_BUILT_YET"));
    }
}

#[tokio::test]
async fn a_host_that_was_not_told_that_it_may_sleep_says_so_and_stays_on() {
    let agent = Agent::start().await;
    let mut client = PowerServiceClient::new(agent.channel("admin"));
    let state = client.get_power_state(pb::GetPowerStateRequest {}).await.unwrap().into_inner();
    assert_eq!(state.may_sleep, Some(false));
    assert!(state.facts.iter().any(|fact| fact.reason == "SLEEP_NOT_ALLOWED"), "{state:?}");
    assert_eq!(state.vetoes.len(), state.facts.len());
    let request = pb::PowerOffRequest { request_id: "a".to_owned(), validate_only: true, fence: 1 };
    let refused = client.power_off(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&refused).as_deref(), Some("SLEEP_REFUSED"));
}

#[tokio::test]
async fn what_is_no_card_cannot_be_woken() {
    let agent = Agent::start().await;
    let mut client = PowerServiceClient::new(agent.channel("operator"));
    for (mac, interface, code) in [
        ("everybody", "", Code::InvalidArgument),
        ("02:00:00:00:00:01", "wan7", Code::FailedPrecondition),
    ] {
        let request = pb::WakeRequest { mac: mac.to_owned(), interface: interface.to_owned() };
        assert_eq!(client.wake(request).await.unwrap_err().code(), code, "{mac}");
    }
}
