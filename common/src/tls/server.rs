//! Accepting TLS connections, within limits.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tracing::{debug, info, warn};

use super::{
    Alpn, Connection, Connections, IdentityHandle, PeerInfo, Protocol, TlsTime, TrustHandle,
    provider, reason::why, trust::ClientVerifier,
};
use crate::{
    clock::{Clock, SystemClock},
    error_chain::Chain,
    lifecycle::Tasks,
};

/// Accepted connections that wait to be served.
const WAITING_MAX: usize = 64;

/// The pause after a failed accept, which is most often for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether clients show certificates.
#[derive(Clone, Debug)]
pub enum ClientPolicy {
    /// They are not asked: browsers.
    None,
    /// They may; one that is shown must be valid.
    Optional(TrustHandle),
    /// They must.
    Required(TrustHandle),
}

/// Names the peer behind a leaf certificate, for the limit per peer.
pub type PeerKey = Arc<dyn Fn(&CertificateDer<'_>) -> Option<String> + Send + Sync>;

/// What a server puts up with.
#[derive(Clone)]
pub struct Limits {
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How many handshakes run at once; more wait in the kernel's queue.
    pub handshakes_max: usize,
    /// How many connections are open at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// How many connections one peer may have; needs `peer_key`.
    pub connections_per_peer_max: usize,
    /// Names peers; without it, there is no limit per peer.
    pub peer_key: Option<PeerKey>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            handshakes_max: 64,
            connections_max: 4_096,
            connections_per_peer_max: 4,
            peer_key: None,
        }
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("handshake", &self.handshake)
            .field("handshakes_max", &self.handshakes_max)
            .field("connections_max", &self.connections_max)
            .field("connections_per_peer_max", &self.connections_per_peer_max)
            .finish_non_exhaustive()
    }
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Who we are.
    pub identity: IdentityHandle,
    /// Whether clients show certificates, and which count.
    pub clients: ClientPolicy,
    /// The application protocols to offer.
    pub alpn: Alpn,
    /// The versions of TLS to speak.
    pub protocol: Protocol,
    /// What the server puts up with.
    pub limits: Limits,
    /// The time of day, for the validity of certificates.
    pub clock: Arc<dyn Clock>,
}

impl ServerOptions {
    /// TLS 1.3, HTTP/2, the default limits.
    #[must_use]
    pub fn new(identity: IdentityHandle, clients: ClientPolicy) -> Self {
        Self {
            identity,
            clients,
            alpn: Alpn::default(),
            protocol: Protocol::default(),
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
        }
    }

    fn trust(&self) -> Option<&TrustHandle> {
        match &self.clients {
            ClientPolicy::None => None,
            ClientPolicy::Optional(trust) | ClientPolicy::Required(trust) => Some(trust),
        }
    }

    fn config(&self) -> Result<ServerConfig, rustls::Error> {
        let time = TlsTime::shared(&self.clock);
        let builder = ServerConfig::builder_with_details(provider(), time)
            .with_protocol_versions(self.protocol.versions())?;
        let verifier = |trust: &TrustHandle, mandatory| {
            Arc::new(ClientVerifier { trust: trust.clone(), mandatory })
        };
        let builder = match &self.clients {
            ClientPolicy::None => builder.with_no_client_auth(),
            ClientPolicy::Optional(trust) => {
                builder.with_client_cert_verifier(verifier(trust, false))
            }
            ClientPolicy::Required(trust) => {
                builder.with_client_cert_verifier(verifier(trust, true))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.identity.clone()));
        config.alpn_protocols = self.alpn.protocols();
        // A resumed session would skip the check of the client's certificate, and where
        // there is none to check, connections stay open: nothing is gained by resuming.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(config)
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not ours.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The provider does not support the versions of TLS.
    #[error("could not set up TLS on {address}")]
    Tls {
        /// The address.
        address: SocketAddr,
        /// What is not supported.
        #[source]
        source: rustls::Error,
    },
}

/// A listening server that does not accept yet.
pub struct TlsServer {
    listener: TcpListener,
    local: SocketAddr,
    acceptor: TlsAcceptor,
    options: ServerOptions,
    connections: Connections,
}

impl TlsServer {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// The address is taken or not ours.
    pub async fn bind(address: SocketAddr, options: ServerOptions) -> Result<Self, BindError> {
        let config = options.config().map_err(|source| BindError::Tls { address, source })?;
        let listening = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listening)?;
        let local = listener.local_addr().map_err(listening)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { listener, local, acceptor, options, connections: Connections::default() })
    }

    /// The address that it listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The open connections.
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Accepts until `tasks` are stopping, or until the stream is dropped.
    #[must_use]
    pub fn start(self, tasks: &Tasks) -> Incoming {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let accepting = Accepting {
            handshakes: Arc::new(Semaphore::new(self.options.limits.handshakes_max)),
            slots: Arc::new(Semaphore::new(self.options.limits.connections_max)),
            server: Arc::new(self),
            tasks: tasks.clone(),
            sender,
        };
        tasks.spawn(accepting.run());
        Incoming { receiver }
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("local", &self.local).finish_non_exhaustive()
    }
}

/// The accepted connections. Errors of single connections are logged, not
/// yielded, so that every item is `Ok`: servers want the type.
#[derive(Debug)]
pub struct Incoming {
    receiver: mpsc::Receiver<Connection>,
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Connection>>> {
        self.receiver.poll_recv(context).map(|connection| connection.map(Ok))
    }
}

/// The accept loop.
struct Accepting {
    server: Arc<TlsServer>,
    handshakes: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    tasks: Tasks,
    sender: mpsc::Sender<Connection>,
}

impl Accepting {
    async fn run(self) {
        let stopping = self.tasks.stopping();
        let local = self.server.local;
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = self.sender.closed() => break,
                () = stopping.cancelled() => break,
            };
            match accepted {
                Some(Ok(accepted)) => self.spawn_handshake(accepted),
                Some(Err(error)) => {
                    warn!(%local, error = %Chain(&error), "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                None => break,
            }
        }
        debug!(%local, "no longer accepting connections");
    }

    /// First the right to serve one more, then the connection: what is too much
    /// waits in the kernel, where it costs us nothing.
    async fn accept(&self) -> Option<io::Result<Accepted>> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        let handshake = Arc::clone(&self.handshakes).acquire_owned().await.ok()?;
        let accepted = self.server.listener.accept().await;
        Some(accepted.map(|(tcp, remote)| Accepted { tcp, remote, slot, handshake }))
    }

    fn spawn_handshake(&self, accepted: Accepted) {
        let (server, sender) = (Arc::clone(&self.server), self.sender.clone());
        let stopping = self.tasks.stopping();
        self.tasks.spawn(async move {
            let remote = accepted.remote;
            let delivery = async {
                match server.handshake(accepted).await {
                    // Fails when the server is gone, and with it the interest.
                    Ok(connection) => drop(sender.send(connection).await),
                    Err(reason) => {
                        info!(%remote, local = %server.local, %reason, "refused a connection");
                    }
                }
            };
            tokio::select! { () = delivery => {}, () = stopping.cancelled() => {} }
        });
    }
}

struct Accepted {
    tcp: TcpStream,
    remote: SocketAddr,
    slot: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
}

impl TlsServer {
    /// The error says why the connection was refused.
    async fn handshake(&self, accepted: Accepted) -> Result<Connection, String> {
        let Accepted { tcp, remote, slot, handshake } = accepted;
        let limits = &self.options.limits;
        let local = tcp.local_addr().unwrap_or(self.local);
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let stream = tokio::time::timeout(limits.handshake, self.acceptor.accept(tcp))
            .await
            .map_err(|_| "the handshake took too long".to_owned())?
            .map_err(|error| why(&error, "client"))?;
        drop(handshake);

        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<CertificateDer<'static>> =
            chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let leaf = chain.first().cloned();
        let peer_key =
            leaf.as_ref().zip(limits.peer_key.as_ref()).and_then(|(leaf, key)| key(leaf));
        let registered = self
            .connections
            .admit(leaf, peer_key, limits.connections_per_peer_max)
            .ok_or("the client already has as many connections as it may")?;
        // Revoked between the check in the handshake and the entry in the list.
        if self.options.trust().is_some_and(|trust| trust.is_revoked(&chain)) {
            return Err("the certificate of the client is revoked".into());
        }
        let peer = Arc::new(PeerInfo { remote, local, chain });
        Ok(Connection::accepted(stream, peer, registered, slot))
    }
}
