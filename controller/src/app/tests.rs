//! A whole controller in this process, spoken to over real TLS.

use std::{
    future::pending,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use homelab_common::{
    chance::SystemChance,
    clock::SystemClock,
    lifecycle::Tasks,
    retry::Backoff,
    tls::{Identity, IdentityHandle, Roots, TrustHandle},
};
use homelab_domain::{fleet::HostState, ids::HostName, site::DaemonKind};
use homelab_proto::{
    agent::v1::{
        GetHealthRequest, GetHealthResponse, GetHostRequest, GetHostResponse, Health, Host,
        ListGuestsRequest, ListGuestsResponse, RunChecksRequest, RunChecksResponse,
        WatchHealthRequest, WatchHealthResponse,
        host_service_server::{HostService, HostServiceServer},
    },
    common::v1::{Condition, ConditionStatus, PeerKind},
    controller::v1::{
        self as pb, audit_service_client::AuditServiceClient,
        enrolment_service_client::EnrolmentServiceClient, fleet_service_client::FleetServiceClient,
        site_service_client::SiteServiceClient,
    },
};
use homelab_rpc::{
    daemon::{Daemon, DaemonConfig, DaemonParts},
    dial::{Dialer, Target, dial_unix},
    enrol::{EnrolError, EnrolRequest, Token, enrol},
    peer::{Kind, SiteName},
    status::reason_of,
};
use tempfile::TempDir;
use tokio_stream::{Stream, StreamExt as _, wrappers::IntervalStream};
use tonic::{Code, Request, Response, Status, transport::Channel};

use super::*;

const DEADLINE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(1);

/// A controller with its folders.
struct Lab {
    folder: TempDir,
    app: App,
    tasks: Tasks,
}

impl Lab {
    /// Founds a site with one host, whose agent will listen on `agent_port`, and starts it.
    async fn start(agent_port: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let site = format!(
            "[site]\nname = \"home\"\n[[host]]\nname = \"x99\"\naddress = \"127.0.0.1\"\n\
             daemons = [\"agent\"]\nagent-port = {agent_port}\n"
        );
        std::fs::write(folder.path().join("homelab.toml"), site).expect("writable");
        let config = config(folder.path(), "state");
        let options = InitOptions {
            recovery_dir: folder.path().join("recovery"),
            admin: "ada".into(),
            admin_dir: folder.path().join("ada"),
        };
        init(&config, &options, &SystemClock, &SystemChance).expect("founded");
        let (app, tasks) = start(config).await;
        Self { folder, app, tasks }
    }

    fn admin(&self) -> Channel {
        self.channel_as(&self.folder.path().join("ada"))
    }

    /// A channel with the identity in `pki`.
    fn channel_as(&self, pki: &Path) -> Channel {
        let identity = IdentityHandle::new(Identity::from_dir(pki).expect("an identity"));
        self.dialer(Some(identity)).dial(self.target()).expect("a target")
    }

    fn dialer(&self, identity: Option<IdentityHandle>) -> Dialer {
        let roots = Roots::from_dir(self.folder.path().join("ada")).expect("roots");
        let site = SiteName::try_new("home").expect("a site");
        let dialer = Dialer::new(site, TrustHandle::new(roots));
        match identity {
            Some(identity) => dialer.identity(identity),
            None => dialer,
        }
    }

    fn target(&self) -> Target {
        Target {
            address: self.app.bound().grpc.to_string(),
            server_name: "hx310-db.home.arpa".into(),
            kind: Kind::Controller,
            name: None,
        }
    }

    async fn token(&self) -> Token {
        let made = EnrolmentServiceClient::new(self.admin())
            .create_token(pb::CreateTokenRequest {
                name: "x99".into(),
                kinds: vec![PeerKind::Agent.into()],
                ..Default::default()
            })
            .await
            .expect("a token");
        made.into_inner().token.parse().expect("a token")
    }

    async fn enrol(&self, token: Token, pki: &Path) -> Result<(), EnrolError> {
        let request = EnrolRequest { token, kind: Kind::Agent, address: "127.0.0.1".into() };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        enrol(request, pki, &clock, &SystemChance).await.map(drop)
    }

    async fn state(&self) -> HostState {
        let view = self.app.context().fleet.host(&x99()).expect("declared");
        view.standing.state
    }
}

async fn start(config: Config) -> (App, Tasks) {
    let millis = Duration::from_millis;
    let pace = Pace {
        sample: Duration::from_secs(1),
        node: millis(500),
        silence_max: Duration::from_secs(5),
        backoff: Backoff::try_new(millis(50), millis(100), 0.5).expect("valid"),
    };
    let deps = Deps { pace, ..Deps::system(None) };
    let tasks = deps.tasks.clone();
    (App::build(config, deps).await.expect("starts"), tasks)
}

fn config(folder: &Path, state: &str) -> Config {
    let path = folder.display();
    let text = format!(
        "name = \"hx310-db\"\naddresses = [\"127.0.0.1\"]\nsite = \"{path}/homelab.toml\"\n\
         state-dir = \"{path}/{state}\"\nruntime-dir = \"{path}/{state}-run\"\n\
         pki-dir = \"{path}/pki\"\n[store]\nurl = \"sqlite:{path}/controller.db\"\n\
         [listen]\ngrpc = \"127.0.0.1:0\"\nenrolment = \"127.0.0.1:0\"\nweb = \"127.0.0.1:0\"\n"
    );
    Config::parse("controller.toml", &text).unwrap_or_else(|report| panic!("{report}"))
}

fn x99() -> HostName {
    HostName::try_new("x99").expect("a name")
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Asks until the answer is yes; `what` says what never came true.
async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, asking).await.is_ok(),
        "not within {DEADLINE:?}: {what}"
    );
}

/// An agent whose only condition holds or not, as the test says.
#[derive(Clone, Debug, Default)]
struct ScriptedAgent {
    is_bad: Arc<AtomicBool>,
}

impl ScriptedAgent {
    fn health(&self) -> Health {
        let bad = self.is_bad.load(Ordering::Relaxed);
        let status = if bad { ConditionStatus::False } else { ConditionStatus::True };
        let condition = Condition {
            r#type: "FilesystemsHaveRoom".into(),
            status: status.into(),
            reason: "FILESYSTEM_FULL".into(),
            message: "/ is 99 % full".into(),
            since: None,
        };
        Health { conditions: vec![condition], ..Default::default() }
    }
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl HostService for ScriptedAgent {
    async fn get_host(
        &self,
        _: Request<GetHostRequest>,
    ) -> Result<Response<GetHostResponse>, Status> {
        let host = Host { name: "x99".into(), cpu_count: Some(56), ..Default::default() };
        Ok(Response::new(GetHostResponse { host: Some(host) }))
    }

    async fn get_health(
        &self,
        _: Request<GetHealthRequest>,
    ) -> Result<Response<GetHealthResponse>, Status> {
        Ok(Response::new(GetHealthResponse { health: Some(self.health()) }))
    }

    type WatchHealthStream = Answers<WatchHealthResponse>;

    async fn watch_health(
        &self,
        _: Request<WatchHealthRequest>,
    ) -> Result<Response<Self::WatchHealthStream>, Status> {
        let agent = self.clone();
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(50)));
        let samples = ticks
            .map(move |_| Ok(WatchHealthResponse { health: Some(agent.health()), sequence: 1 }));
        Ok(Response::new(Box::pin(samples)))
    }

    async fn list_guests(
        &self,
        _: Request<ListGuestsRequest>,
    ) -> Result<Response<ListGuestsResponse>, Status> {
        pending().await
    }

    type RunChecksStream = Answers<RunChecksResponse>;

    async fn run_checks(
        &self,
        _: Request<RunChecksRequest>,
    ) -> Result<Response<Self::RunChecksStream>, Status> {
        pending().await
    }
}

/// Serves an agent with the identity in `pki`; it ends with the tasks.
async fn serve_agent(folder: &Path, pki: &Path, port: u16, agent: ScriptedAgent) -> Tasks {
    let tasks = Tasks::default();
    let mut config = DaemonConfig::default_for(Kind::Agent);
    config.listen = ([127, 0, 0, 1], port).into();
    config.pki_dir = pki.into();
    config.state_dir = folder.join("agent-state");
    config.admin_socket = None;
    std::fs::create_dir_all(&config.state_dir).expect("a folder");
    let parts = DaemonParts {
        config,
        kind: Kind::Agent,
        version: "0.1.0",
        descriptors: descriptors::AGENT,
        not_built: &[],
        features: Vec::new(),
        log: None,
        observer: None,
        tasks: tasks.clone(),
        clock: Arc::new(SystemClock),
        chance: Arc::new(SystemChance),
    };
    let daemon = Daemon::open(parts).await.expect("an enrolled daemon");
    daemon.serve(|builder| builder.service(HostServiceServer::new(agent))).expect("serves");
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_enrols_turns_healthy_degraded_and_unreachable() {
    let port = free_port();
    let lab = Lab::start(port).await;
    eventually("x99 is known not to have enrolled", || async {
        lab.state().await == HostState::NotEnrolled
    })
    .await;

    let pki = lab.folder.path().join("agent-pki");
    lab.enrol(lab.token().await, &pki).await.expect("enrolled");
    let agent = ScriptedAgent::default();
    let agent_tasks = serve_agent(lab.folder.path(), &pki, port, agent.clone()).await;
    eventually("x99 is healthy", || async { lab.state().await == HostState::Healthy }).await;
    let view = lab.app.context().fleet.host(&x99()).expect("declared");
    assert_eq!(view.host.expect("said what it is").cpu_count, Some(56));
    assert_eq!(view.daemons[0].version.as_deref(), Some("0.1.0"));
    assert!(lab.app.context().fleet.channel(&x99(), DaemonKind::Agent).is_some());

    agent.is_bad.store(true, Ordering::Relaxed);
    eventually("x99 is degraded", || async { lab.state().await == HostState::Degraded }).await;
    let status = FleetServiceClient::new(lab.admin())
        .get_status(pb::GetStatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    assert_eq!(status.verdict(), pb::Verdict::Warning);
    assert_eq!(status.concerns[0].subject, "host/x99");
    assert!(status.concerns[0].message.contains("99 % full"), "{:?}", status.concerns);

    agent_tasks.shutdown(Duration::ZERO).await;
    eventually("x99 is unreachable", || async { lab.state().await == HostState::Unreachable })
        .await;
    let record = lab.app.context().store.read().await.expect("reads").hosts().get(&x99()).await;
    let record = record.expect("reads").expect("is remembered");
    assert_eq!(record.state.map(|(state, _)| state), Some(HostState::Unreachable));
    assert!(record.last_seen_at.is_some());
    assert!(lab.app.context().fleet.channel(&x99(), DaemonKind::Agent).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_use_of_a_token_raises_an_alarm_and_spoils_the_token() {
    let lab = Lab::start(free_port()).await;
    let token = lab.token().await;
    let pki = |name: &str| lab.folder.path().join(name);
    lab.enrol(token.clone(), &pki("first")).await.expect("enrolled");
    let error = lab.enrol(token.clone(), &pki("second")).await.expect_err("refused");
    let EnrolError::Refused { status, .. } = &error else { panic!("{error:?}") };
    assert_eq!(reason_of(status).as_deref(), Some("TOKEN_REFUSED"));
    assert!(status.message().contains("alarm"), "{}", status.message());

    let tokens = EnrolmentServiceClient::new(lab.admin())
        .list_tokens(pb::ListTokensRequest::default())
        .await
        .expect("tokens")
        .into_inner()
        .tokens;
    assert!(tokens[0].revoked);
    let status = FleetServiceClient::new(lab.admin())
        .get_status(pb::GetStatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    assert_eq!(status.verdict(), pb::Verdict::Critical);
    assert_eq!(status.concerns[0].reason, "TOKEN_USED_TWICE");
    let third = lab.enrol(token, &pki("third")).await.expect_err("spoilt");
    assert!(matches!(third, EnrolError::Refused { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_exist_and_wrong_proofs_are_answered_alike() {
    let lab = Lab::start(free_port()).await;
    let good = lab.token().await;
    let mut unknown = good.clone();
    unknown.id = [0; 8];
    let mut wrong = good.clone();
    wrong.secret = homelab_common::secret::Secret::new([0; 32]);
    let mut answers = Vec::new();
    for token in [unknown, wrong] {
        match lab.enrol(token, &lab.folder.path().join("pki-of-nobody")).await {
            Err(EnrolError::Refused { status, .. }) => {
                answers.push((status.code(), status.message().to_owned(), reason_of(&status)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers[0], answers[1]);
    lab.enrol(good, &lab.folder.path().join("agent-pki")).await.expect("still good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_closes_an_open_stream_and_reaches_the_agents() {
    let port = free_port();
    let lab = Lab::start(port).await;
    let pki = lab.folder.path().join("agent-pki");
    lab.enrol(lab.token().await, &pki).await.expect("enrolled");
    serve_agent(lab.folder.path(), &pki, port, ScriptedAgent::default()).await;
    eventually("x99 is healthy", || async { lab.state().await == HostState::Healthy }).await;

    // A person with a certificate of her own follows the hosts.
    let eve = lab.person("eve").await;
    let mut watching = FleetServiceClient::new(lab.channel_as(&eve))
        .watch_hosts(pb::WatchHostsRequest {})
        .await
        .expect("a stream")
        .into_inner();
    watching.message().await.expect("a message").expect("a host");

    let revoked = EnrolmentServiceClient::new(lab.admin())
        .revoke_certificate(pb::RevokeCertificateRequest {
            identity: "spiffe://home/user/eve/viewer".into(),
            reason: "she has left".into(),
            ..Default::default()
        })
        .await
        .expect("revoked")
        .into_inner();
    assert_eq!((revoked.revoked, revoked.epoch), (1, 1));

    let ended = async { while let Ok(Some(_)) = watching.message().await {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the stream ends within 5 s");
    let again = FleetServiceClient::new(lab.channel_as(&eve))
        .list_hosts(pb::ListHostsRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(reason_of(&again).as_deref(), Some("CERTIFICATE_REVOKED"));
    eventually("the agent holds epoch 1", || async {
        let view = lab.app.context().fleet.host(&x99()).expect("declared");
        view.daemons[0].deny_list_epoch == Some(1)
    })
    .await;
    let twice = EnrolmentServiceClient::new(lab.admin())
        .revoke_certificate(pb::RevokeCertificateRequest {
            identity: "spiffe://home/user/eve/viewer".into(),
            reason: "she has left".into(),
            ..Default::default()
        })
        .await
        .expect("idempotent")
        .into_inner();
    assert_eq!((twice.revoked, twice.epoch), (0, 1));
}

impl Lab {
    /// Enrols a viewer by token; gives the folder of the identity.
    async fn person(&self, name: &str) -> PathBuf {
        let made = EnrolmentServiceClient::new(self.admin())
            .create_token(pb::CreateTokenRequest {
                name: name.into(),
                kinds: vec![PeerKind::User.into()],
                role: homelab_proto::common::v1::Role::Viewer.into(),
                ..Default::default()
            })
            .await
            .expect("a token");
        let token = made.into_inner().token.parse().expect("a token");
        let request = EnrolRequest { token, kind: Kind::User, address: String::new() };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let folder = self.folder.path().join(name);
        enrol(request, &folder, &clock, &SystemChance).await.expect("enrolled");
        folder
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_gets_in_by_the_admin_socket_without_a_certificate() {
    let lab = Lab::start(free_port()).await;
    let channel = dial_unix(&lab.app.bound().admin_socket).expect("a socket");
    let site = SiteServiceClient::new(channel.clone())
        .get_site(pb::GetSiteRequest {})
        .await
        .expect("allowed")
        .into_inner();
    assert_eq!(site.name, "home");
    let tasks = SiteServiceClient::new(channel.clone())
        .list_tasks(pb::ListTasksRequest {})
        .await
        .expect("allowed")
        .into_inner()
        .tasks;
    for name in ["push-deny-list", "renew-own-certificate", "expire", "keep-lease", "observe-hosts"]
    {
        assert!(tasks.iter().any(|task| task.name == name), "{name} is not in {tasks:?}");
    }
    let unbuilt = SiteServiceClient::new(channel.clone())
        .diff_site(pb::DiffSiteRequest {})
        .await
        .expect_err("not built");
    assert_eq!(reason_of(&unbuilt).as_deref(), Some("NOT_BUILT_YET"));
    let link = EnrolmentServiceClient::new(channel)
        .create_login_link(pb::CreateLoginLinkRequest {})
        .await
        .expect("a link")
        .into_inner();
    let begin = format!("https://{}/login/", lab.app.bound().web);
    assert!(link.url.starts_with(&begin), "{}", link.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_and_changing_calls_are_audited_and_the_chain_holds() {
    let lab = Lab::start(free_port()).await;
    let viewer = lab.person("eve").await;
    let denied = EnrolmentServiceClient::new(lab.channel_as(&viewer))
        .create_token(pb::CreateTokenRequest::default())
        .await
        .expect_err("denied");
    assert_eq!(denied.code(), Code::PermissionDenied);
    let stranger = lab.dialer(None).dial(lab.target()).expect("a target");
    let unknown = FleetServiceClient::new(stranger)
        .list_hosts(pb::ListHostsRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(reason_of(&unknown).as_deref(), Some("NO_CERTIFICATE"));

    let entries = || async {
        AuditServiceClient::new(lab.admin())
            .list_audit_entries(pb::ListAuditEntriesRequest::default())
            .await
            .expect("entries")
            .into_inner()
            .entries
    };
    eventually("both denials are in the log", || async {
        let entries = entries().await;
        let denials =
            entries.iter().filter(|entry| entry.outcome() == pb::AuditOutcome::Denied).count();
        denials == 2
    })
    .await;
    let entries = entries().await;
    let eve = entries.iter().find(|entry| entry.actor == "spiffe://home/user/eve/viewer");
    assert!(eve.is_some_and(|entry| entry.action.ends_with("/CreateToken")), "{entries:?}");
    assert!(entries.iter().any(|entry| entry.action == "token/create"));
    let verified = AuditServiceClient::new(lab.admin())
        .verify_audit(pb::VerifyAuditRequest {})
        .await
        .expect("verified")
        .into_inner();
    assert!(verified.intact && verified.entries >= 4, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_enrolment_port_answers_strangers_and_only_the_two_methods() {
    let lab = Lab::start(free_port()).await;
    let mut target = lab.target();
    target.address = lab.app.bound().enrolment.to_string();
    let channel = lab.dialer(None).dial(target).expect("a target");
    let begun = EnrolmentServiceClient::new(channel.clone())
        .begin_enrolment(pb::BeginEnrolmentRequest { token_id: "0000000000000000".into() })
        .await
        .expect("answered whether the token exists or not")
        .into_inner();
    assert_eq!(begun.nonce.len(), 32);
    for (path, code) in [
        (
            EnrolmentServiceClient::new(channel.clone())
                .list_tokens(pb::ListTokensRequest::default())
                .await
                .map(drop),
            Code::Unauthenticated,
        ),
        (
            FleetServiceClient::new(channel)
                .list_hosts(pb::ListHostsRequest::default())
                .await
                .map(drop),
            Code::Unauthenticated,
        ),
    ] {
        let status = path.expect_err("refused");
        assert!(
            [code, Code::PermissionDenied, Code::Unimplemented].contains(&status.code()),
            "{status:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_controller_on_the_same_store_says_who_acts() {
    let lab = Lab::start(free_port()).await;
    let other = config(lab.folder.path(), "other-state");
    let error = App::build(other, Deps::system(None)).await.expect_err("refused");
    assert!(matches!(error, BuildError::Lease(_)), "{error}");
    assert!(error.to_string().contains("hx310-db/"), "{error}");
    let same = config(lab.folder.path(), "state");
    let error = App::build(same, Deps::system(None)).await.expect_err("refused");
    assert!(matches!(error, BuildError::Instance(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_starts_again_at_once_on_its_own_state() {
    let lab = Lab::start(free_port()).await;
    let Lab { folder, app, tasks } = lab;
    let token = app.context().lease.token();
    assert!(tasks.shutdown(GRACE).await, "a graceful stop");
    // Killed: nothing is given back.
    drop(app);
    let (app, tasks) = start(config(folder.path(), "state")).await;
    assert!(app.context().lease.token() > token);
    assert!(tasks.shutdown(GRACE).await, "a graceful stop");
    app.finish().await;
    drop(app);
    // The lease was given back, so that another installation need not wait for it to run out.
    let (_app, _tasks) = start(config(folder.path(), "other-state")).await;
}

fn signing_request() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key);
    request.expect("a request").der().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_renews_under_its_own_identity_and_root_signs_people_in() {
    let lab = Lab::start(free_port()).await;
    let pki = lab.folder.path().join("agent-pki");
    lab.enrol(lab.token().await, &pki).await.expect("enrolled");
    let signing_request = signing_request();
    EnrolmentServiceClient::new(lab.channel_as(&pki))
        .renew_certificate(pb::RenewCertificateRequest {
            signing_request: signing_request.clone().into(),
        })
        .await
        .expect("renewed");
    let issued = EnrolmentServiceClient::new(lab.admin())
        .list_certificates(pb::ListCertificatesRequest { name: "x99".into(), ..Default::default() })
        .await
        .expect("certificates")
        .into_inner()
        .certificates;
    let identities: Vec<_> = issued.iter().map(|row| row.identity.as_str()).collect();
    assert_eq!(identities, ["spiffe://home/agent/x99"; 2]);

    let root = dial_unix(&lab.app.bound().admin_socket).expect("a socket");
    let mut root = EnrolmentServiceClient::new(root);
    let signed = root
        .issue_user_certificate(pb::IssueUserCertificateRequest {
            name: "ada".into(),
            role: homelab_proto::common::v1::Role::Operator.into(),
            signing_request: signing_request.clone().into(),
            ..Default::default()
        })
        .await
        .expect("signed")
        .into_inner();
    assert_eq!(signed.identity, "spiffe://home/user/ada/operator");
    let renewal = pb::RenewCertificateRequest { signing_request: signing_request.into() };
    let none = root.renew_certificate(renewal).await.expect_err("has none");
    assert_eq!(none.code(), Code::FailedPrecondition);
    let garbage = root
        .issue_user_certificate(pb::IssueUserCertificateRequest {
            name: "ada".into(),
            role: homelab_proto::common::v1::Role::Operator.into(),
            signing_request: vec![0; 100].into(),
            ..Default::default()
        })
        .await
        .expect_err("refused");
    assert_eq!(garbage.code(), Code::InvalidArgument);
}
