//! A real server over real TLS on loopback: who gets in, who does not, and what they are told.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod enrolment;
mod limits;
mod matrix;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use homelab_common::{
    lifecycle::Tasks,
    tls::{Identity, IdentityHandle},
};
use homelab_proto::common::v1::{
    DenyList as DenyListMessage, DenyListEntry, GetNodeRequest, GetNodeResponse,
    PutDenyListRequest, SetLogLevelRequest, node_service_client::NodeServiceClient,
};
use homelab_rpc::{
    deny_list::{self, DenyList},
    dial::{DialError, Dialer, Layer, Target, dial_unix, layer_of},
    guard::{CallRecord, Observer, Outcome},
    node::NodeOptions,
    not_built::NotBuilt,
    peer::{Kind, SpiffeId},
    serve::{Server, bind_unix},
    status::{metadata_of, reason_of},
    testing::{TestSite, Validity, everybody, target},
};
use tokio_stream::StreamExt;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

const NOT_BUILT: &[NotBuilt] = &[NotBuilt::new(
    "/homelab.common.v1.NodeService/SetLogLevel",
    "restart the daemon with another level",
)];

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<CallRecord>>);

impl Observer for Seen {
    fn call(&self, record: CallRecord) {
        self.0.lock().expect("not poisoned").push(record);
    }
}

impl Seen {
    fn find(&self, fits: impl Fn(&CallRecord) -> bool) -> Option<CallRecord> {
        self.0.lock().expect("not poisoned").iter().find(|record| fits(record)).cloned()
    }
}

/// A running agent without services of its own.
struct Agent {
    id: SpiffeId,
    address: String,
    identity: IdentityHandle,
    deny_list: DenyList,
    server: Server,
    tasks: Tasks,
    seen: Arc<Seen>,
}

impl Agent {
    async fn start(site: &TestSite) -> Self {
        Self::start_with(site, |builder| builder, DenyList::default()).await
    }

    async fn start_with(
        site: &TestSite,
        change: impl FnOnce(homelab_rpc::serve::Builder) -> homelab_rpc::serve::Builder,
        deny_list: DenyList,
    ) -> Self {
        let id = site.daemon(Kind::Agent, "qotom");
        let identity = IdentityHandle::new(site.identity(&id));
        let (tasks, seen) = (Tasks::default(), Arc::new(Seen::default()));
        let listener = site.listener(identity.clone()).await;
        let address = listener.local_addr().to_string();
        let options = NodeOptions {
            identity: identity.clone(),
            version: "1.2.3",
            features: vec!["health".into()],
            log: None,
        };
        let builder = Server::builder(id.clone(), tasks.clone())
            .descriptors(homelab_proto::descriptors::AGENT)
            .deny_list(deny_list.clone())
            .observer(Arc::clone(&seen) as Arc<dyn Observer>)
            .node(options);
        let server = change(builder).build().expect("a server");
        server.serve_tls(listener);
        Self { id, address, identity, deny_list, server, tasks, seen }
    }

    fn target(&self) -> Target {
        target(&self.address, &self.id)
    }

    fn channel(&self, dialer: &Dialer) -> Channel {
        dialer.dial(self.target()).expect("a target")
    }

    async fn node(&self, dialer: &Dialer) -> Result<GetNodeResponse, Status> {
        let mut client = NodeServiceClient::new(self.channel(dialer));
        client.get_node(GetNodeRequest {}).await.map(tonic::Response::into_inner)
    }
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

fn deny(site: &TestSite, epoch: u64, serial_hex: &str) -> PutDenyListRequest {
    let entry = DenyListEntry {
        serial_hex: serial_hex.into(),
        identity: "somebody".into(),
        reason: "lost".into(),
        revoked_at: None,
    };
    let list = DenyListMessage { epoch, entries: vec![entry] };
    let signed = deny_list::sign(&list, &site.issuing_key()).expect("signed");
    PutDenyListRequest { deny_list: signed.deny_list.into(), signature: signed.signature.into() }
}

#[tokio::test]
async fn each_method_lets_in_whom_the_table_names_over_real_tls() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    for id in everybody(&site) {
        let mut client = NodeServiceClient::new(agent.channel(&site.dialer(&id)));
        let is_controller = id.kind() == Kind::Controller;

        let got = client.get_node(GetNodeRequest {}).await.map(|_| ());
        let open = id.kind() == Kind::User || is_controller;
        assert_eq!(got.is_ok(), open, "GetNode by {id}: {got:?}");

        let level = SetLogLevelRequest { level: "debug".into() };
        let set = client.set_log_level(level).await.expect_err("there is no log to change");
        let admitted = is_controller || id.role() == Some(homelab_rpc::peer::Role::Admin);
        let reason = if admitted {
            (Code::FailedPrecondition, "METHOD_NOT_OPEN")
        } else if id.kind() == Kind::User {
            (Code::PermissionDenied, "ROLE_REQUIRED")
        } else {
            (Code::PermissionDenied, "METHOD_NOT_OPEN")
        };
        assert_eq!((set.code(), reason_of(&set).as_deref()), (reason.0, Some(reason.1)), "{id}");

        let put = client.put_deny_list(PutDenyListRequest::default()).await.expect_err("unsigned");
        let reason = if is_controller { "SIGNATURE_INVALID" } else { "METHOD_NOT_OPEN" };
        assert_eq!(reason_of(&put).as_deref(), Some(reason), "PutDenyList by {id}");
    }
}

#[tokio::test]
async fn a_denied_person_is_told_what_is_missing() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let viewer = site.user("anna", "viewer+approver");
    let mut client = NodeServiceClient::new(agent.channel(&site.dialer(&viewer)));
    let status = client.set_log_level(SetLogLevelRequest::default()).await.expect_err("denied");
    assert_eq!(metadata_of(&status, "have").as_deref(), Some("viewer+approver"));
    assert_eq!(metadata_of(&status, "need").as_deref(), Some("admin"));
    let record = eventually("the denied call in the records", async || {
        agent.seen.find(|record| record.code == Code::PermissionDenied)
    })
    .await;
    assert!(matches!(record.outcome, Outcome::Denied(_)), "{record:?}");
    assert_eq!(record.peer.expect("known").name(), "anna");
    assert!(record.mutates || record.method.ends_with("SetLogLevel"));
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_told_so_in_words() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let nobody = Dialer::new(site.name().clone(), site.trust());
    let status = agent.node(&nobody).await.expect_err("denied");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(reason_of(&status).as_deref(), Some("NO_CERTIFICATE"));
    assert!(status.message().contains("labctl login"), "{}", status.message());
}

#[tokio::test]
async fn certificates_of_another_ca_or_that_have_ended_do_not_get_through_the_handshake() {
    let (site, other) = (TestSite::new("home"), TestSite::new("home"));
    let agent = Agent::start(&site).await;
    let admin = site.user("anna", "admin");
    for leaf in [other.leaf(&admin), site.leaf_valid(&admin, Validity::Ended)] {
        let dialer = site.dialer_with(leaf.identity());
        let status = agent.node(&dialer).await.expect_err("refused");
        let (layer, words) = layer_of(&status).expect("refused in the handshake");
        assert_eq!((layer, reason_of(&status)), (Layer::Tls, None), "{words}");
    }
    assert!(agent.seen.find(|_| true).is_none());
}

#[tokio::test]
async fn the_same_ca_does_not_open_another_site() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let stranger: SpiffeId = "spiffe://away/user/anna/admin".parse().expect("an identity");
    let status = agent.node(&site.dialer(&stranger)).await.expect_err("denied");
    assert_eq!(reason_of(&status).as_deref(), Some("OTHER_SITE"));
}

#[tokio::test]
async fn a_node_says_who_and_what_it_is() {
    let site = TestSite::new("home");
    let agent =
        Agent::start_with(&site, |builder| builder.not_built(NOT_BUILT), DenyList::default()).await;
    let node = agent.node(&site.dialer(&site.user("anna", "viewer"))).await.expect("open");
    assert_eq!(node.identity, "spiffe://home/agent/qotom");
    assert_eq!(node.version, "1.2.3");
    assert_eq!(node.features, ["health"]);
    assert_eq!(node.not_built_yet, [NOT_BUILT[0].method]);
    assert!(node.now.is_some() && node.started_at.is_some());
    assert!(node.certificate_not_after.is_some());
}

#[tokio::test]
async fn a_method_to_come_says_what_to_do_meanwhile_and_only_to_those_who_may_call_it() {
    let site = TestSite::new("home");
    let agent =
        Agent::start_with(&site, |builder| builder.not_built(NOT_BUILT), DenyList::default()).await;
    let call = async |grant| {
        let dialer = site.dialer(&site.user("anna", grant));
        let mut client = NodeServiceClient::new(agent.channel(&dialer));
        client.set_log_level(SetLogLevelRequest::default()).await.expect_err("not built")
    };
    let status = call("admin").await;
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(reason_of(&status).as_deref(), Some("NOT_BUILT_YET"));
    assert!(status.message().contains("restart the daemon"), "{}", status.message());
    assert_eq!(call("viewer").await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let channel = agent.channel(&site.dialer(&site.user("anna", "viewer")));

    let ask = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .expect("open to viewers")
        .into_inner();
    let answer = answers.next().await.expect("an answer").expect("no error").message_response;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer
    else {
        panic!("not a list: {answer:?}");
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in [
        "homelab.agent.v1.HostService",
        "homelab.common.v1.NodeService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(names.iter().any(|have| have == name), "{name} is missing in {names:?}");
    }

    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                "homelab.common.v1.NodeService".into(),
            ),
        ),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .expect("open to viewers")
        .into_inner();
    let answer = answers.next().await.expect("an answer").expect("no error").message_response;
    assert!(
        matches!(
            answer,
            Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
        ),
        "{answer:?}"
    );
}

#[tokio::test]
async fn health_serves_until_the_stop_and_watchers_learn_of_it() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let dialer = site.dialer(&site.daemon(Kind::Controller, "db"));
    let mut health = HealthClient::new(agent.channel(&dialer));
    for service in ["", "homelab.common.v1.NodeService"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = eventually("serving", async || {
            let status = health.check(request.clone()).await.ok()?.into_inner().status;
            (status == 1).then_some(status)
        })
        .await;
        assert_eq!(status, 1, "{service}");
    }
    let unknown = HealthCheckRequest { service: "nobody".into() };
    assert_eq!(health.check(unknown).await.expect_err("unknown").code(), Code::NotFound);

    let mut watch = health
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .expect("open")
        .into_inner();
    assert_eq!(watch.next().await.expect("an item").expect("no error").status, 1);
    let stopping = agent.tasks.clone();
    let stopped = stopping.shutdown(PATIENCE);
    let watched = async {
        let not_serving = watch.next().await.expect("an item").expect("no error").status;
        let end = watch.next().await.expect("an end").expect_err("stopping");
        (not_serving, end)
    };
    let (graceful, (not_serving, end)) = tokio::join!(stopped, watched);
    assert!(graceful, "nothing had to be dropped");
    assert_eq!(not_serving, 2);
    assert_eq!(reason_of(&end).as_deref(), Some("STOPPING"));
}

#[tokio::test]
async fn a_deny_list_closes_open_streams_and_keeps_the_door_shut() {
    let site = TestSite::new("home");
    let dir = tempfile::tempdir().expect("a scratch directory");
    let file = dir.path().join("deny-list.json");
    let agent =
        Agent::start_with(&site, |builder| builder, DenyList::load(&file).expect("empty")).await;
    let anna = site.identity(&site.user("anna", "viewer"));
    let serial = anna.facts().serial.clone();
    let annas = site.dialer_with(anna);
    let mut watch = HealthClient::new(agent.channel(&annas))
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .expect("open")
        .into_inner();
    watch.next().await.expect("an item").expect("no error");

    let controller = site.dialer(&site.daemon(Kind::Controller, "db"));
    let mut node = NodeServiceClient::new(agent.channel(&controller));
    let put = node.put_deny_list(deny(&site, 7, &serial)).await.expect("taken").into_inner();
    assert_eq!((put.epoch, put.closed_connections), (7, 1));
    let end = tokio::time::timeout(PATIENCE, async {
        loop {
            match watch.next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        }
    })
    .await
    .expect("the stream ends");
    assert!(matches!(end, None | Some(Err(_))), "{end:?}");

    let status = agent.node(&annas).await.expect_err("denied");
    assert_eq!(reason_of(&status).as_deref(), Some("CERTIFICATE_REVOKED"));
    assert!(agent.node(&controller).await.is_ok(), "others go on");

    let again = node.put_deny_list(deny(&site, 7, &serial)).await.expect("idempotent");
    assert_eq!(again.into_inner().epoch, 7);
    let stale = node.put_deny_list(deny(&site, 6, "00")).await.expect_err("stale");
    assert_eq!(
        (stale.code(), reason_of(&stale).as_deref()),
        (Code::Aborted, Some("STALE_GENERATION"))
    );
    assert_eq!(metadata_of(&stale, "have").as_deref(), Some("7"));

    let forged = deny(&TestSite::new("home"), 8, "00");
    let forged = node.put_deny_list(forged).await.expect_err("forged");
    assert_eq!(reason_of(&forged).as_deref(), Some("SIGNATURE_INVALID"));
    assert_eq!(agent.deny_list.epoch(), 7);

    let after_a_restart = DenyList::load(&file).expect("kept");
    assert!(after_a_restart.is_revoked(&serial));
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let controller = site.dialer(&site.daemon(Kind::Controller, "db"));
    let mut node = NodeServiceClient::new(agent.channel(&controller));
    let huge =
        PutDenyListRequest { deny_list: vec![0; 5 << 20].into(), signature: Vec::new().into() };
    let status = node.put_deny_list(huge).await.expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test]
async fn a_connection_carries_only_so_many_calls_at_once() {
    let site = TestSite::new("home");
    let agent =
        Agent::start_with(&site, |builder| builder.streams_max(2), DenyList::default()).await;
    let channel = agent.channel(&site.dialer(&site.user("anna", "viewer")));
    // The limit is known to the client after its first answer.
    NodeServiceClient::new(channel.clone()).get_node(GetNodeRequest {}).await.expect("open");
    let mut health = HealthClient::new(channel.clone());
    let everything = || HealthCheckRequest { service: String::new() };
    let first = health.watch(everything()).await.expect("open");
    let _second = health.watch(everything()).await.expect("open");
    let mut node = NodeServiceClient::new(channel);
    let third = node.get_node(GetNodeRequest {});
    let mut third = std::pin::pin!(third);
    let waited = tokio::time::timeout(Duration::from_millis(300), &mut third).await;
    assert!(waited.is_err(), "the third call waits: {waited:?}");
    drop(first);
    tokio::time::timeout(PATIENCE, third).await.expect("goes on").expect("open");
}

#[tokio::test]
async fn root_needs_no_certificate_on_the_unix_socket() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("admin.sock");
    agent.server.serve_unix(bind_unix(&path).await.expect("bound"));
    let mut node = NodeServiceClient::new(dial_unix(&path).expect("a channel"));
    node.get_node(GetNodeRequest {}).await.expect("open");
    let record = eventually("the call in the records", async || agent.seen.find(|_| true)).await;
    assert_eq!(record.peer.expect("known").name(), "root@local");
    assert!(bind_unix(&path).await.is_err(), "a socket that is served is not taken away");
}

#[tokio::test]
async fn a_socket_that_a_dead_process_left_is_replaced() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("admin.sock");
    drop(bind_unix(&path).await.expect("bound"));
    bind_unix(&path).await.expect("bound again");
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").expect("a file");
    bind_unix(&file).await.expect_err("not a socket");
    assert!(file.exists());
}

#[tokio::test]
async fn each_failed_dial_names_its_layer() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let anna = site.user("anna", "viewer");
    let dialer = site.dialer(&anna);
    let layer = async |dialer: &Dialer, target: &Target| -> Option<Layer> {
        dialer.probe(target).await.expect_err("fails").layer()
    };
    let good = agent.target();
    let peer = dialer.probe(&good).await.expect("answers");
    assert_eq!(peer.id(), &agent.id);

    let nowhere = Target { address: "no-such-host.invalid:1".into(), ..good.clone() };
    assert_eq!(layer(&dialer, &nowhere).await, Some(Layer::Resolve));
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = free.local_addr().expect("an address").to_string();
    drop(free);
    let closed = Target { address: closed, ..good.clone() };
    assert_eq!(layer(&dialer, &closed).await, Some(Layer::Connect));
    let distrustful = TestSite::new("home").dialer(&anna);
    assert_eq!(layer(&distrustful, &good).await, Some(Layer::Tls));
    let other_name = Target { server_name: "other".into(), ..good.clone() };
    assert_eq!(layer(&dialer, &other_name).await, Some(Layer::Tls));
    let other_kind = Target { kind: Kind::BackupAgent, ..good.clone() };
    assert_eq!(layer(&dialer, &other_kind).await, Some(Layer::Identity));
    let other_host = Target { name: Some("x99".into()), ..good.clone() };
    assert_eq!(layer(&dialer, &other_host).await, Some(Layer::Identity));
    let no_port = Target { address: "127.0.0.1".into(), ..good };
    assert!(matches!(dialer.dial(no_port), Err(DialError::Target { .. })));
}

#[tokio::test]
async fn a_failed_call_still_knows_the_layer() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let dialer = site.dialer(&site.user("anna", "viewer"));
    let other_host = Target { name: Some("x99".into()), ..agent.target() };
    let mut node = NodeServiceClient::new(dialer.dial(other_host).expect("a target"));
    let status = node.get_node(GetNodeRequest {}).await.expect_err("fails");
    let (layer, words) = layer_of(&status).expect("a dial error");
    assert_eq!(layer, Layer::Identity);
    assert!(words.contains("spiffe://home/agent/qotom"), "{words}");
}

#[tokio::test]
async fn a_revoked_daemon_is_not_called() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let list = DenyList::default();
    let dialer = site.dialer(&site.user("anna", "viewer")).deny_list(list.clone());
    dialer.probe(&agent.target()).await.expect("answers");
    let serial_hex = agent.identity.current().facts().serial.clone();
    let entry = DenyListEntry { serial_hex, ..DenyListEntry::default() };
    list.replace(DenyListMessage { epoch: 1, entries: vec![entry] }).expect("taken");
    let error = dialer.probe(&agent.target()).await.expect_err("revoked");
    assert_eq!(error.layer(), Some(Layer::Identity));
}

#[tokio::test]
async fn a_call_that_is_open_ends_when_the_daemon_at_its_other_end_is_revoked() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let list = DenyList::default();
    let dialer = site.dialer(&site.user("anna", "viewer")).deny_list(list.clone());
    let mut watch = HealthClient::new(agent.channel(&dialer))
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .expect("open")
        .into_inner();
    watch.next().await.expect("an item").expect("no error");
    let serial_hex = agent.identity.current().facts().serial.clone();
    let entry = DenyListEntry { serial_hex, ..DenyListEntry::default() };
    let taken = list.replace(DenyListMessage { epoch: 1, entries: vec![entry] }).expect("taken");
    assert_eq!(taken.closed_connections, 1);
    let end = tokio::time::timeout(PATIENCE, watch.next()).await.expect("the stream ends");
    assert!(matches!(end, None | Some(Err(_))), "{end:?}");
    let status = agent.node(&dialer).await.expect_err("not called again");
    assert_eq!(layer_of(&status).map(|(layer, _)| layer), Some(Layer::Identity));
}

#[tokio::test]
async fn a_new_identity_is_shown_while_open_calls_go_on() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let dialer = site.dialer(&site.user("anna", "viewer"));
    let mut watch = HealthClient::new(agent.channel(&dialer))
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .expect("open")
        .into_inner();
    watch.next().await.expect("an item").expect("no error");
    let before = dialer.probe(&agent.target()).await.expect("answers");
    let fresh: Identity = site.identity(&agent.id);
    agent.identity.replace(fresh);
    let after = dialer.probe(&agent.target()).await.expect("answers");
    assert_ne!(before.serial_hex(), after.serial_hex());
    agent.server.health().set("", homelab_rpc::serve::ServingStatus::NotServing).await;
    assert_eq!(watch.next().await.expect("an item").expect("no error").status, 2);
}
