//! Calling another daemon: a channel that proves who is at the other end before it says anything.

use std::{
    error::Error,
    fmt, io,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use homelab_common::{
    clock::{Clock, SystemClock},
    error_chain::Chain,
    tls::{
        CertificateDer, ClientOptions, ClientStream, Closable, ConnectError, IdentityHandle,
        PeerCheck, ServerTrust, TlsClient, TrustHandle,
    },
};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixStream, lookup_host};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::{
    deny_list::DenyList,
    peer::{Kind, Peer, SiteName},
};

/// What a call fails with when the other side is revoked while it goes on.
const REVOKED: &str = "the certificate of the other side has been revoked";

/// From the name to the end of the handshake.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);

/// While calls are open, the other side is asked for a sign of life this often ...
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// ... and given up when none comes for this long.
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// The largest header block that is read, in bytes.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Whom to call, and how to know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where: `host:port`.
    pub address: String,
    /// The DNS name or address that the certificate must carry.
    pub server_name: String,
    /// The kind of daemon that must answer.
    pub kind: Kind,
    /// The host that it must be; `None` takes any of that kind.
    pub name: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} {name} at {}", self.kind, self.address),
            None => write!(f, "{} at {}", self.kind, self.address),
        }
    }
}

/// What a call has to get through, from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The name becomes an address.
    Resolve,
    /// Something listens there.
    Connect,
    /// It speaks TLS with a certificate that we trust, and takes ours.
    Tls,
    /// It is the one that we want.
    Identity,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "name resolution",
            Self::Connect => "connection",
            Self::Tls => "TLS",
            Self::Identity => "identity",
        })
    }
}

/// Why there is no connection; each names its layer.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is not `host:port`, or the server name is none.
    #[error("`{seen}` is not {wanted}")]
    Target {
        /// What was given.
        seen: String,
        /// What is needed.
        wanted: &'static str,
    },
    /// The name leads to no address.
    #[error("could not find the address of `{address}`; check the name and the DNS server")]
    Resolve {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing answers.
    #[error("could not connect to {target}")]
    Connect {
        /// Whom.
        target: String,
        /// What the connector said.
        #[source]
        source: ConnectError,
    },
    /// No socket answers.
    #[error("could not connect to the socket `{}`; does the daemon run?", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something answers that we do not trust, or that speaks no TLS.
    #[error("could not agree on TLS with {target}")]
    Tls {
        /// Whom.
        target: String,
        /// What the connector said.
        #[source]
        source: ConnectError,
    },
    /// Somebody trustworthy answers, but not the one that is wanted.
    #[error("{target} is somebody else: {what}")]
    Identity {
        /// Whom.
        target: String,
        /// Who answers, or why they do not count.
        what: String,
    },
    /// TLS cannot be set up here.
    #[error("could not set up TLS")]
    Setup(#[source] rustls::Error),
}

impl DialError {
    /// Where it failed; `None` when it was not tried.
    #[must_use]
    pub const fn layer(&self) -> Option<Layer> {
        match self {
            Self::Target { .. } | Self::Setup(_) => None,
            Self::Resolve { .. } => Some(Layer::Resolve),
            Self::Connect { .. } | Self::Unix { .. } => Some(Layer::Connect),
            Self::Tls { .. } => Some(Layer::Tls),
            Self::Identity { .. } => Some(Layer::Identity),
        }
    }
}

/// Where a call failed before it reached a handler, with the words for it; `None` when the
/// status is the other side's own answer.
#[must_use]
pub fn layer_of(status: &Status) -> Option<(Layer, String)> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return dial.layer().map(|layer| (layer, Chain(dial).to_string()));
        }
        if let Some(alert) = error.downcast_ref::<io::Error>().and_then(refusal) {
            let words = format!(
                "the server refused our certificate ({alert}): it is of another CA, has ended, \
                 or is revoked"
            );
            return Some((Layer::Tls, words));
        }
        next = error.source();
    }
    None
}

/// In TLS 1.3 a server's refusal of our certificate comes with the first answer, and h2 passes on
/// nothing but its text.
fn refusal(error: &io::Error) -> Option<String> {
    error.to_string().strip_prefix("received fatal alert: ").map(str::to_owned)
}

/// Makes channels. Clones share identity, trust and deny list.
#[derive(Clone, Debug)]
pub struct Dialer {
    site: SiteName,
    trust: TrustHandle,
    identity: Option<IdentityHandle>,
    deny_list: DenyList,
    clock: Arc<dyn Clock>,
}

impl Dialer {
    /// Calls daemons of `site` that `trust` vouches for, without showing who calls.
    #[must_use]
    pub fn new(site: SiteName, trust: TrustHandle) -> Self {
        let clock = Arc::new(SystemClock);
        Self { site, trust, identity: None, deny_list: DenyList::default(), clock }
    }

    /// Shows this identity.
    #[must_use]
    pub fn identity(mut self, identity: IdentityHandle) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Does not talk to those on this list.
    #[must_use]
    pub fn deny_list(mut self, deny_list: DenyList) -> Self {
        self.deny_list = deny_list;
        self
    }

    /// Another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// A channel that connects with its first call, and again whenever it must. What goes wrong
    /// then is in the status of the call: see [`layer_of`].
    ///
    /// # Errors
    ///
    /// The target makes no sense; nothing is connected yet.
    pub fn dial(&self, target: Target) -> Result<Channel, DialError> {
        let endpoint = endpoint(&target)?;
        let dialer = self.clone();
        Ok(endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (dialer, target) = (dialer.clone(), target.clone());
            async move {
                let stream = dialer.connect(&target).await?;
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                // As long as this lives, a new deny list looks at the connection.
                let dialled = dialer.deny_list.dialled(chain);
                let (denied, why) = (dialled.denied(), REVOKED);
                Ok::<_, DialError>(TokioIo::new(Closable::new(stream, dialled, denied, why)))
            }
        })))
    }

    /// Connects once and tells who answers: for `doctor`.
    ///
    /// Cancel safety: dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// Names the layer that failed.
    pub async fn probe(&self, target: &Target) -> Result<Peer, DialError> {
        let stream = self.connect(target).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let unknown = |what: String| DialError::Identity { target: target.to_string(), what };
        let leaf = chain.first().ok_or_else(|| unknown("it shows no certificate".into()))?;
        Peer::from_certificate(leaf).map_err(|error| unknown(Chain(&error).to_string()))
    }

    async fn connect(&self, target: &Target) -> Result<ClientStream, DialError> {
        let began = tokio::time::Instant::now();
        let late = |address: String| DialError::Connect {
            target: target.to_string(),
            source: ConnectError::Deadline { address, after: CONNECT_MAX },
        };
        let addresses = tokio::time::timeout(CONNECT_MAX, resolve(&target.address))
            .await
            .map_err(|_| late(target.address.clone()))??;
        let mut failed = None;
        for address in addresses {
            let left = CONNECT_MAX.saturating_sub(began.elapsed());
            match self.connect_to(target, address, left).await {
                Ok(stream) => return Ok(stream),
                // Another address may be another machine; one that answers wrongly is not
                // mended by asking on.
                Err(error @ DialError::Connect { .. }) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| late(target.address.clone())))
    }

    async fn connect_to(
        &self,
        target: &Target,
        address: SocketAddr,
        left: Duration,
    ) -> Result<ClientStream, DialError> {
        let found = Arc::new(Mutex::new(None));
        let mut options = ClientOptions::new(ServerTrust::Roots(self.trust.clone()));
        options.identity = self.identity.clone();
        options.clock = Arc::clone(&self.clock);
        options.peer_check = Some(self.check(target, &found));
        let client = TlsClient::new(options).map_err(DialError::Setup)?;
        client.connect(address, &target.server_name, left).await.map_err(|source| {
            let target = target.to_string();
            let what = found.lock().unwrap_or_else(PoisonError::into_inner).take();
            match (what, source) {
                (Some(what), _) => DialError::Identity { target, what },
                (None, source @ ConnectError::Handshake { .. }) => {
                    DialError::Tls { target, source }
                }
                (None, source) => DialError::Connect { target, source },
            }
        })
    }

    /// Runs within the handshake, before we show who we are. What it finds is kept, because the
    /// handshake turns it into one reason among many.
    fn check(&self, target: &Target, found: &Arc<Mutex<Option<String>>>) -> PeerCheck {
        let (site, deny_list) = (self.site.clone(), self.deny_list.clone());
        let (target, found) = (target.clone(), Arc::clone(found));
        Arc::new(move |chain| {
            judge(chain, &target, &site, &deny_list).inspect_err(|what| {
                *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(what.clone());
            })
        })
    }
}

/// A channel to a daemon's unix socket, which connects with its first call.
///
/// # Errors
///
/// Never; the result is what other dials have.
pub fn dial_unix(path: &Path) -> Result<Channel, DialError> {
    let path = path.to_path_buf();
    let endpoint = tuned(Endpoint::from_static("http://localhost"));
    Ok(endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            let connected = UnixStream::connect(&path).await;
            connected.map(TokioIo::new).map_err(|source| DialError::Unix { path, source })
        }
    })))
}

fn judge(
    chain: &[CertificateDer<'_>],
    target: &Target,
    site: &SiteName,
    deny_list: &DenyList,
) -> Result<(), String> {
    let leaf = chain.first().ok_or("it shows no certificate")?;
    let peer = Peer::from_certificate(leaf).map_err(|error| Chain(&error).to_string())?;
    let fits = peer.site() == site
        && peer.kind() == target.kind
        && target.name.as_ref().is_none_or(|name| name == peer.name());
    if !fits {
        return Err(format!("`{peer}` answers there"));
    }
    if deny_list.denies(chain) {
        return Err(format!("the certificate of `{peer}` is revoked"));
    }
    Ok(())
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |source| DialError::Resolve { address: address.into(), source };
    let found: Vec<SocketAddr> =
        lookup_host(address).await.map_err(failed)?.take(ADDRESSES_MAX).collect();
    if found.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    Ok(found)
}

fn endpoint(target: &Target) -> Result<Endpoint, DialError> {
    let address = &target.address;
    let port = address.rsplit_once(':').and_then(|(host, port)| {
        port.parse::<u16>().ok().filter(|port| *port > 0 && !host.is_empty())
    });
    if port.is_none() {
        let wanted = "an address with a port, such as `192.168.200.10:7450`";
        return Err(DialError::Target { seen: address.clone(), wanted });
    }
    let name = &target.server_name;
    let host = if name.parse::<Ipv6Addr>().is_ok() { format!("[{name}]") } else { name.clone() };
    // Plain for tonic: the connector below it speaks TLS.
    let endpoint = Endpoint::from_shared(format!("http://{host}")).map_err(|_| {
        DialError::Target { seen: name.clone(), wanted: "a DNS name or an address" }
    })?;
    Ok(tuned(endpoint))
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(false)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
}
