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

mod access;
mod agent;
mod context;
mod enrolment;
mod gold;
mod life;
mod postgres;
mod restore;

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
        Self::start_at(agent_port, Arc::new(SystemClock)).await
    }

    /// The same at another time of day.
    async fn start_at(agent_port: u16, clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("homelab.toml"), site_file(agent_port))
            .expect("writable");
        let config = config(folder.path(), "state");
        Self::found(folder, config, clock).await
    }

    /// Founds a site whose site file is there, and starts it.
    async fn found(folder: TempDir, config: Config, clock: Arc<dyn Clock>) -> Self {
        let options = InitOptions {
            recovery_dir: folder.path().join("recovery"),
            admin: "ada".into(),
            admin_dir: folder.path().join("ada"),
        };
        init(&config, &options, &SystemClock, &SystemChance).expect("founded");
        let (app, tasks) = start_at(config, clock).await;
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
    start_at(config, Arc::new(SystemClock)).await
}

async fn start_at(config: Config, clock: Arc<dyn Clock>) -> (App, Tasks) {
    let millis = Duration::from_millis;
    let pace = Pace {
        sample: Duration::from_secs(1),
        node: millis(500),
        silence_max: Duration::from_secs(5),
        backoff: Backoff::try_new(millis(50), millis(100), 0.5).expect("valid"),
    };
    let deps = Deps { pace, clock, ..Deps::system(None) };
    let tasks = deps.tasks.clone();
    (App::build(config, deps).await.expect("starts"), tasks)
}

/// A site with one host, whose agent listens on `agent_port`.
fn site_file(agent_port: u16) -> String {
    format!(
        "[site]\nname = \"home\"\n[[host]]\nname = \"x99\"\naddress = \"127.0.0.1\"\n\
         daemons = [\"agent\"]\nagent-port = {agent_port}\n"
    )
}

fn config(folder: &Path, state: &str) -> Config {
    let store = format!("url = \"sqlite:{}/controller.db\"", folder.display());
    config_on(folder, state, &store)
}

/// The same with another `[store]`.
fn config_on(folder: &Path, state: &str, store: &str) -> Config {
    let path = folder.display();
    let text = format!(
        "name = \"hx310-db\"\naddresses = [\"127.0.0.1\"]\nsite = \"{path}/homelab.toml\"\n\
         state-dir = \"{path}/{state}\"\nruntime-dir = \"{path}/{state}-run\"\n\
         pki-dir = \"{path}/pki\"\n[store]\n{store}\n\
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
