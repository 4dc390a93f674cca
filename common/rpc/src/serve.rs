//! Putting a server together: every limit, health, reflection, the guard, and a graceful end.
//!
//! Connections are driven by hyper directly instead of by tonic's own loop: tonic ends a
//! connection that has reached its age without telling the client first, starts tasks that
//! nobody can wait for, and asks for the peer's certificate again with every call.

use std::{convert::Infallible, fmt, io, sync::Arc, time::Duration};

use homelab_common::{
    chance::{Chance, SystemChance},
    clock::{Clock, SystemClock},
    lifecycle::Tasks,
    tls::{ClientPolicy, IdentityHandle, Limits, ServerOptions, TlsServer, TrustHandle},
};
use homelab_proto::common::v1::node_service_server::NodeServiceServer;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
pub use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Service;

use crate::{
    deny_list::DenyList,
    guard::{Door, Observer, Rules, Strangers},
    node::{Node, NodeOptions},
    not_built::NotBuilt,
    peer::{Peer, SpiffeId},
};

mod drive;
mod unix;

pub use unix::{BindUnixError, bind_unix};

/// Open calls of one connection of an agent, which answers few.
pub const STREAMS_MAX_AGENT: u32 = 64;

/// Open calls of one connection of the controller.
pub const STREAMS_MAX_CONTROLLER: u32 = 128;

/// Open connections of one identity; a scripted `labctl` needs several at once.
const CONNECTIONS_PER_PEER_MAX: usize = 16;

/// How TLS is to be spoken on the main port. Certificates are asked for, not demanded: whoever
/// shows none is told so in words, by the guard.
#[must_use]
pub fn tls_options(
    identity: IdentityHandle,
    trust: TrustHandle,
    clock: &Arc<dyn Clock>,
) -> ServerOptions {
    let mut options = ServerOptions::new(identity, ClientPolicy::Optional(trust));
    options.clock = Arc::clone(clock);
    options.limits = Limits {
        connections_per_peer_max: CONNECTIONS_PER_PEER_MAX,
        peer_key: Some(Arc::new(|leaf| Peer::from_certificate(leaf).ok().map(|p| p.to_string()))),
        ..Limits::default()
    };
    options
}

/// How TLS is to be spoken on the enrolment port: clients have nothing to show yet, and know
/// only the key of the root, which must therefore be part of the chain
/// ([`Identity::showing_roots`](homelab_common::tls::Identity::showing_roots)).
#[must_use]
pub fn enrolment_tls_options(identity: IdentityHandle, clock: &Arc<dyn Clock>) -> ServerOptions {
    let mut options = ServerOptions::new(identity, ClientPolicy::None);
    options.clock = Arc::clone(clock);
    options
}

/// Why a server could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The descriptor set is damaged.
    #[error("the description of the services cannot be served by reflection")]
    Descriptors(#[source] tonic_reflection::server::Error),
}

/// A server being put together.
pub struct Builder {
    at: SpiffeId,
    tasks: Tasks,
    routes: RoutesBuilder,
    names: Vec<&'static str>,
    descriptors: Vec<&'static [u8]>,
    door: Door,
    streams_max: u32,
    deny_list: DenyList,
    observer: Option<Arc<dyn Observer>>,
    not_built: &'static [NotBuilt],
    node: Option<NodeOptions>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("at", &self.at)
            .field("services", &self.names)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Adds a service; health has it under its name.
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// Adds an encoded `FileDescriptorSet` for reflection.
    #[must_use]
    pub fn descriptors(mut self, set: &'static [u8]) -> Self {
        self.descriptors.push(set);
        self
    }

    /// Lets only strangers in: the enrolment port, without health and reflection.
    #[must_use]
    pub const fn for_strangers(mut self) -> Self {
        self.door = Door::Strangers;
        self
    }

    /// At most this many open calls in one connection; 64 otherwise.
    #[must_use]
    pub const fn streams_max(mut self, streams_max: u32) -> Self {
        self.streams_max = streams_max;
        self
    }

    /// Who is no longer let in; otherwise nobody is on the list.
    #[must_use]
    pub fn deny_list(mut self, deny_list: DenyList) -> Self {
        self.deny_list = deny_list;
        self
    }

    /// Who hears of every call.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Methods that the guard answers itself, because they are not built yet.
    #[must_use]
    pub const fn not_built(mut self, list: &'static [NotBuilt]) -> Self {
        self.not_built = list;
        self
    }

    /// Serves `NodeService`.
    #[must_use]
    pub fn node(mut self, options: NodeOptions) -> Self {
        self.node = Some(options);
        self
    }

    /// Another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Other chance than the system's.
    #[must_use]
    pub fn chance(mut self, chance: Arc<dyn Chance>) -> Self {
        self.chance = chance;
        self
    }

    /// Puts the server together; it serves nothing yet.
    ///
    /// # Errors
    ///
    /// A descriptor set is damaged.
    pub fn build(mut self) -> Result<Server, BuildError> {
        if let Some(options) = self.node.take() {
            let node = Node {
                id: self.at.clone(),
                options,
                started_at: self.clock.now(),
                deny_list: self.deny_list.clone(),
                not_built: self.not_built,
                clock: Arc::clone(&self.clock),
                tasks: self.tasks.clone(),
            };
            self = self.service(NodeServiceServer::new(node));
        }
        let reporter = HealthReporter::new();
        if self.door == Door::Main {
            self.add_reflection()?;
            self.routes.add_service(health_service(&reporter));
        }
        let ending = CancellationToken::new();
        let rules = Rules {
            door: self.door,
            at: self.at,
            deny_list: self.deny_list,
            not_built: self.not_built,
            observer: self.observer,
            clock: self.clock,
            chance: self.chance,
            strangers: Strangers::default(),
            stopping: ending.clone(),
        };
        let health = Health { reporter, names: self.names.into() };
        let shared = Shared {
            routes: self.routes.routes().prepare(),
            rules: Arc::new(rules),
            streams_max: self.streams_max,
            tasks: self.tasks,
            ending,
        };
        let server = Server { shared: Arc::new(shared), health };
        server.arrange_the_end();
        Ok(server)
    }

    fn add_reflection(&mut self) -> Result<(), BuildError> {
        let configured = || {
            self.descriptors.iter().fold(
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET),
                |builder, set| builder.register_encoded_file_descriptor_set(set),
            )
        };
        let v1 = configured().build_v1().map_err(BuildError::Descriptors)?;
        let v1alpha = configured().build_v1alpha().map_err(BuildError::Descriptors)?;
        self.routes.add_service(v1).add_service(v1alpha);
        Ok(())
    }
}

/// The largest health request, in bytes: it holds one service name.
const HEALTH_REQUEST_BYTES_MAX: usize = 16 * 1024;

fn health_service(
    reporter: &HealthReporter,
) -> tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health> {
    let service = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    tonic_health::pb::health_server::HealthServer::new(service)
        .max_decoding_message_size(HEALTH_REQUEST_BYTES_MAX)
}

/// A server. Clones are the same server; it may serve several listeners.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
    health: Health,
}

#[derive(Debug)]
struct Shared {
    routes: Routes,
    rules: Arc<Rules>,
    streams_max: u32,
    tasks: Tasks,
    /// Fires when a stop has begun and health says so.
    ending: CancellationToken,
}

impl Server {
    /// Begins a server whose own identity is `at` and which stops with `tasks`.
    #[must_use]
    pub fn builder(at: SpiffeId, tasks: Tasks) -> Builder {
        Builder {
            at,
            tasks,
            routes: Routes::builder(),
            names: Vec::new(),
            descriptors: Vec::new(),
            door: Door::Main,
            streams_max: STREAMS_MAX_AGENT,
            deny_list: DenyList::default(),
            observer: None,
            not_built: &[],
            node: None,
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
        }
    }

    /// Serves the connections of a TLS listener, until the tasks stop.
    pub fn serve_tls(&self, listener: TlsServer) {
        self.shared.rules.deny_list.applies_to(listener.connections());
        let incoming = listener.start(&self.shared.tasks);
        self.shared.tasks.spawn(drive::tls(Arc::clone(&self.shared), incoming));
    }

    /// Serves the connections of a unix socket, until the tasks stop. Root and this process's
    /// own user are let in, as local admins.
    pub fn serve_unix(&self, listener: UnixListener) {
        self.shared.tasks.spawn(unix::serve(Arc::clone(&self.shared), listener));
    }

    /// What health says.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Everything serves from the beginning; the stop takes it back before anything ends.
    fn arrange_the_end(&self) {
        let (health, shared) = (self.health.clone(), Arc::clone(&self.shared));
        let stopping = self.shared.tasks.stopping();
        self.shared.tasks.spawn(async move {
            health.set_all(ServingStatus::Serving).await;
            stopping.cancelled().await;
            health.set_all(ServingStatus::NotServing).await;
            shared.ending.cancel();
        });
    }
}

/// What grpc.health.v1 says of a server and of each of its services. Clones are the same.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    names: Arc<[&'static str]>,
}

impl Health {
    /// Says how one service is; the empty name is the whole daemon.
    pub async fn set(&self, service: &str, status: ServingStatus) {
        self.reporter.set_service_status(service, status).await;
    }

    /// Says how everything is.
    pub async fn set_all(&self, status: ServingStatus) {
        self.set("", status).await;
        for name in self.names.iter() {
            self.set(name, status).await;
        }
    }
}

/// How long connections live, so that certificates are looked at again.
const AGE_MAX: Duration = Duration::from_secs(12 * 3_600);

/// How much of the age is chance, so that a fleet does not come back all at once.
const AGE_SPREAD: f64 = 0.1;

/// How long calls may go on in a connection that has reached its age.
const AGE_GRACE: Duration = Duration::from_secs(5 * 60);

/// How long a connection of somebody without a certificate lives: one enrolment.
const STRANGER_AGE_MAX: Duration = Duration::from_secs(60);

impl Shared {
    fn age_of(&self, is_stranger: Stranger) -> Duration {
        match is_stranger {
            Stranger::Yes => STRANGER_AGE_MAX,
            Stranger::No => self.rules.chance.jittered(AGE_MAX, AGE_SPREAD),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stranger {
    Yes,
    No,
}

/// Why a connection could not be accepted.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}
