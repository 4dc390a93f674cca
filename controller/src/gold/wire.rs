//! HTTPS to a provider: one request, one connection, one answer.
//!
//! The only place of this process from which text can leave the house, and it takes nothing but a
//! [`Ticket`]: host, port, key and bytes come out of that and from nowhere else. A redirect is an
//! error, since whoever follows one has let a stranger choose where the text goes. Whoever reads the
//! answer drives the connection, so that dropping it ends the request at once.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use homelab_common::{
    clock::Clock,
    secret::Secret,
    tls::{
        Alpn, ClientOptions, ConnectError, Protocol, Roots, RootsError, ServerTrust, TlsClient,
        TrustHandle,
    },
};
use homelab_domain::site::{Provider, ProviderUrl};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Full;
use tokio::time::timeout;

use super::ledger::Ticket;
use crate::exchange;
pub use crate::exchange::Connection;

/// The CAs that Debian trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Until the connection stands.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Until the answer begins; a large request is read whole before.
const HEADERS_DEADLINE: Duration = Duration::from_secs(300);

/// An error is read no further than this.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// How long a provider may take to say why it refuses.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(10);

/// Opens connections that leave the house.
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync {
    /// Connects to the host and port that the ticket is for, and nowhere else.
    ///
    /// # Errors
    /// Nobody answers there, or it is somebody else.
    async fn connect(&self, ticket: &Ticket) -> Result<Box<dyn Connection>, WireError>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The CAs that may vouch for the provider cannot be read.
    #[error("could not load the CAs in `{}`", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS cannot be set up.
    #[error("could not prepare TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No connection.
    #[error("no connection")]
    Connect(#[source] ConnectError),
    /// The request cannot be made: the key cannot stand in a header.
    #[error("the request cannot be made; the key may hold what no key holds")]
    Request(#[source] http::Error),
    /// The connection broke, or what came was no HTTP.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// It took too long.
    #[error("it has not {what} within {} s", after.as_secs())]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// It answered with something else than an answer.
    #[error("it answered {status}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// When it is worth another try.
        retry_after: Option<Duration>,
        /// What it said; may repeat parts of the request.
        body: Bytes,
    },
}

impl WireError {
    /// Whether the request cannot have reached the provider, or was refused by it unread.
    #[must_use]
    pub fn is_free(&self) -> bool {
        match self {
            Self::Roots { .. } | Self::Tls(_) | Self::Connect(_) | Self::Request(_) => true,
            Self::Refused { status, .. } => status.is_client_error(),
            Self::Broken(_) | Self::Deadline { .. } => false,
        }
    }
}

/// The real way out: TLS to the pinned host.
#[derive(Debug)]
pub struct TlsConnector {
    clock: Arc<dyn Clock>,
}

impl TlsConnector {
    /// With the time of day, for the dates of certificates.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    fn client(&self, provider: &Provider) -> Result<TlsClient, WireError> {
        let path = provider.ca_file.as_deref().unwrap_or_else(|| Path::new(SYSTEM_ROOTS));
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| WireError::Roots {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.into()))?;
        let roots = Roots::from_pem(&text).map_err(|error: RootsError| wrong(error.into()))?;
        let trust = ServerTrust::Roots(TrustHandle::new(roots));
        let options = ClientOptions {
            // A server that is offered nothing speaks HTTP/1.1.
            alpn: Alpn::None,
            protocol: Protocol::Tls12And13,
            clock: Arc::clone(&self.clock),
            ..ClientOptions::new(trust)
        };
        TlsClient::new(options).map_err(|error| WireError::Tls(error.into()))
    }
}

#[async_trait]
impl Connector for TlsConnector {
    async fn connect(&self, ticket: &Ticket) -> Result<Box<dyn Connection>, WireError> {
        let provider = ticket.outbound().provider();
        let client = self.client(provider)?;
        let connecting =
            client.connect(authority(&provider.url), provider.url.host(), CONNECT_DEADLINE);
        Ok(Box::new(connecting.await.map_err(WireError::Connect)?))
    }
}

fn authority(url: &ProviderUrl) -> String {
    let (host, port) = (url.host(), url.port());
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The default port is left out, as every client does.
fn host_header(url: &ProviderUrl) -> String {
    let authority = authority(url);
    authority.strip_suffix(":443").unwrap_or(&authority).to_owned()
}

/// An answer as far as it was read. Dropping it ends the request.
#[derive(Debug)]
pub struct Exchange(exchange::Exchange);

impl Exchange {
    /// Sends what the ticket lets out and returns once the provider has begun to answer.
    ///
    /// Cancel safety: dropping the future closes the connection.
    ///
    /// # Errors
    /// No connection, no answer in time, or a refusal.
    pub async fn start(
        connector: &dyn Connector,
        ticket: &Ticket,
        key: &Secret<String>,
    ) -> Result<Self, WireError> {
        let url = &ticket.outbound().provider().url;
        let request = Request::post(format!("{}/chat/completions", url.path()))
            .header(header::HOST, host_header(url))
            .header(header::USER_AGENT, concat!("homelab/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, format!("Bearer {}", key.expose()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "text/event-stream")
            .body(Full::new(Bytes::copy_from_slice(ticket.outbound().body())))
            .map_err(WireError::Request)?;
        let connection = connector.connect(ticket).await?;
        let starting = exchange::Exchange::start(connection, request);
        let started = timeout(HEADERS_DEADLINE, starting).await.map_err(|_| {
            WireError::Deadline { what: "begun to answer", after: HEADERS_DEADLINE }
        })?;
        let mut exchange = started.map_err(WireError::Broken)?;
        if exchange.status() == StatusCode::OK {
            return Ok(Self(exchange));
        }
        let beginning = exchange.beginning(REFUSAL_BYTES_MAX);
        let body = timeout(REFUSAL_DEADLINE, beginning).await.unwrap_or_default();
        let retry_after = exchange.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        Err(WireError::Refused { status: exchange.status(), retry_after, body })
    }

    /// The headers of the answer.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    /// The next bytes of the body; none at its proper end.
    ///
    /// Cancel safety: no bytes are lost when the future is dropped.
    ///
    /// # Errors
    /// The connection ended before the body did.
    pub async fn next(&mut self) -> Result<Option<Bytes>, WireError> {
        self.0.next().await.map_err(WireError::Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cas_of_the_system_are_usable() {
        let text = std::fs::read_to_string(SYSTEM_ROOTS)
            .unwrap_or_else(|error| panic!("{error}: apt install ca-certificates"));
        assert!(Roots::from_pem(&text).expect("usable").certificates().len() > 10);
    }

    #[test]
    fn the_host_header_names_only_a_port_that_is_not_the_usual() {
        for (url, host) in [
            ("https://openrouter.ai/api/v1", "openrouter.ai"),
            ("https://localhost:8443", "localhost:8443"),
            ("https://[::1]:443/v1", "[::1]"),
        ] {
            assert_eq!(host_header(&url.parse().expect("an address")), host);
        }
    }
}
