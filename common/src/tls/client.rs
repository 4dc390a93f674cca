//! Connecting to a TLS server.

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, Error,
    client::{Resumption, WantsClientCert, danger::ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    Alpn, IdentityHandle, Protocol, SpkiPin, TlsTime, TrustHandle, pin::KeyVerifier,
    pin::PinVerifier, provider, reason::why, trust::ServerVerifier,
};
use crate::clock::{Clock, SystemClock};

/// A connection to a server.
pub type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Looks at the server's verified chain, leaf first; an error says why this is
/// not the right server, and ends the handshake before we show who we are.
pub type PeerCheck = Arc<dyn Fn(&[CertificateDer<'_>]) -> Result<(), String> + Send + Sync>;

/// Which servers are trusted.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// Those whose certificate chains up to one of these roots.
    Roots(TrustHandle),
    /// Those whose certificate chains up to a CA with this key, which they show:
    /// for the first contact, when there are no roots yet.
    Pin(SpkiPin),
    /// The one whose own certificate has this key; neither its name nor its dates
    /// count. For an appliance with a self-signed certificate.
    Key(SpkiPin),
}

/// How to connect.
#[derive(Clone)]
pub struct ClientOptions {
    /// Which servers are trusted.
    pub trust: ServerTrust,
    /// Who we are, if we show it.
    pub identity: Option<IdentityHandle>,
    /// A further check of the server.
    pub peer_check: Option<PeerCheck>,
    /// The application protocols to offer.
    pub alpn: Alpn,
    /// The versions of TLS to speak.
    pub protocol: Protocol,
    /// The time of day, for the validity of certificates.
    pub clock: Arc<dyn Clock>,
}

impl ClientOptions {
    /// Without an identity and further checks; TLS 1.3 and HTTP/2.
    #[must_use]
    pub fn new(trust: ServerTrust) -> Self {
        Self {
            trust,
            identity: None,
            peer_check: None,
            alpn: Alpn::default(),
            protocol: Protocol::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("trust", &self.trust)
            .field("identity", &self.identity)
            .field("alpn", &self.alpn)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name cannot stand in a certificate.
    #[error("`{server_name}` is neither a DNS name nor an IP address")]
    ServerName {
        /// The name.
        server_name: String,
    },
    /// Nothing answers there.
    #[error("could not reach {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("{address} did not answer within {}", crate::config::parse::show_duration(*after))]
    Deadline {
        /// Where.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// Something answers, but it is not the right server, or it refused us.
    #[error("no TLS connection to {address} as `{server_name}`: {reason}")]
    Handshake {
        /// Where.
        address: String,
        /// The name that its certificate must carry.
        server_name: String,
        /// Why, in words.
        reason: String,
    },
}

/// Connects to TLS servers. Clones are cheap.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Makes a client.
    ///
    /// # Errors
    ///
    /// The provider does not support the versions of TLS, which no choice of
    /// options leads to.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let verifier: Arc<dyn ServerCertVerifier> = match options.trust {
            ServerTrust::Roots(trust) => {
                Arc::new(ServerVerifier { trust, check: options.peer_check })
            }
            ServerTrust::Pin(pin) => Arc::new(PinVerifier::new(pin, options.peer_check)),
            ServerTrust::Key(pin) => Arc::new(KeyVerifier::new(pin, options.peer_check)),
        };
        let time = TlsTime::shared(&options.clock);
        let builder: rustls::ConfigBuilder<_, WantsClientCert> =
            ClientConfig::builder_with_details(provider(), time)
                .with_protocol_versions(options.protocol.versions())?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
        let mut config = match options.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn.protocols();
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config) })
    }

    /// Connects to `address` (`host:port`) and checks that the certificate there
    /// is for `server_name`. All of it must be done within `deadline`.
    ///
    /// In TLS 1.3 a server checks our certificate after this is done: its
    /// refusal comes as an error of the first read.
    ///
    /// Cancel safety: dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// Nothing answers, it takes too long, or it is not the right server.
    pub async fn connect(
        &self,
        address: impl fmt::Display,
        server_name: &str,
        deadline: Duration,
    ) -> Result<ClientStream, ConnectError> {
        let address = address.to_string();
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| ConnectError::ServerName { server_name: server_name.into() })?;
        let connecting = async {
            let tcp = TcpStream::connect(&address)
                .await
                .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
                .map_err(|source| ConnectError::Unreachable { address: address.clone(), source })?;
            let connector = TlsConnector::from(Arc::clone(&self.config));
            connector.connect(name, tcp).await.map_err(|error| ConnectError::Handshake {
                address: address.clone(),
                server_name: server_name.into(),
                reason: why(&error, "server"),
            })
        };
        match tokio::time::timeout(deadline, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(ConnectError::Deadline { address: address.clone(), after: deadline }),
        }
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

/// Applies a further check to a verified chain.
pub(super) fn apply(
    check: Option<&PeerCheck>,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), Error> {
    let Some(check) = check else { return Ok(()) };
    let chain: Vec<CertificateDer<'_>> =
        std::iter::once(leaf).chain(intermediates).cloned().collect();
    check(&chain).map_err(Error::General)
}
