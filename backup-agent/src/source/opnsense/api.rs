//! One question to a firewall: its configuration.
//!
//! OPNsense answers `GET /api/core/backup/download/this` with the running
//! `config.xml`, unencrypted. Its web certificate is most often of its own making,
//! so that the certificate's key is pinned, or the CA that its owner runs. A wrong
//! host in the path is answered with 200 and nothing, and a proxy in front with a
//! login page: whoever calls must look at what came.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use homelab_common::{
    clock::Clock,
    secret::Secret,
    tls::{Alpn, ClientOptions, ConnectError, Protocol, ServerTrust, TlsClient},
};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;

use super::xml::BYTES_MAX;

/// The running configuration.
const PATH: &str = "/api/core/backup/download/this";

/// How long the whole exchange may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Where a firewall answers: `https://host` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// The text is no address of a firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address such as \"https://192.168.0.1\" or \"https://fw.home.example:8443\"")]
pub struct InvalidAddress;

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let rest = text.strip_prefix("https://").ok_or(InvalidAddress)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let uri: http::uri::Authority = rest.parse().map_err(|_| InvalidAddress)?;
        if uri.as_str().contains('@') || uri.host().is_empty() {
            return Err(InvalidAddress);
        }
        Ok(Self { host: uri.host().to_owned(), port: uri.port_u16().unwrap_or(443) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            443 => write!(f, "https://{}", self.host),
            port => write!(f, "https://{}:{port}", self.host),
        }
    }
}

/// An API key with its secret.
#[derive(Clone, Debug)]
pub struct Credentials(Secret<String>);

/// The text is no file of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not hold the two lines `key=...` and `secret=...` that OPNsense hands out")]
pub struct InvalidCredentials;

impl Credentials {
    /// From the file that OPNsense hands out once for each key.
    ///
    /// # Errors
    ///
    /// It lacks one of the two lines.
    pub fn parse(file: &Secret<String>) -> Result<Self, InvalidCredentials> {
        let value = |name: &str| {
            let lines = file.expose().lines();
            let mut values = lines.filter_map(|line| line.trim().strip_prefix(name));
            values.find_map(|rest| rest.trim_start().strip_prefix('=')).map(str::trim)
        };
        match (value("key"), value("secret")) {
            (Some(key), Some(secret)) if !key.is_empty() && !secret.is_empty() => Ok(Self(
                Secret::new(format!("Basic {}", STANDARD.encode(format!("{key}:{secret}")))),
            )),
            _ => Err(InvalidCredentials),
        }
    }
}

/// How to ask a firewall.
#[derive(Clone, Debug)]
pub struct Api {
    /// Where it answers.
    pub address: Address,
    /// How it is known.
    pub trust: ServerTrust,
    /// Who asks.
    pub credentials: Credentials,
    /// For the dates of certificates.
    pub clock: Arc<dyn Clock>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No connection.
    #[error("could not reach the firewall")]
    Connect(#[source] ConnectError),
    /// TLS cannot be set up.
    #[error("could not prepare TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No HTTP.
    #[error("{address} gave no HTTP answer")]
    Http {
        /// Where.
        address: String,
        /// What the library said.
        #[source]
        source: hyper::Error,
    },
    /// The request cannot be made.
    #[error("could not ask {address}")]
    Request {
        /// Where.
        address: String,
        /// What is wrong.
        #[source]
        source: http::Error,
    },
    /// The key is not known there.
    #[error("{address} does not accept the API key (401); make a new one and store it")]
    Unauthorized {
        /// Where.
        address: String,
    },
    /// The key may not.
    #[error(
        "the user of the API key may not read the configuration of {address} (403); give it the \
         privilege `Diagnostics: Configuration History`"
    )]
    Forbidden {
        /// Where.
        address: String,
    },
    /// Another answer.
    #[error("{address} answered {status} to {PATH}")]
    Status {
        /// Where.
        address: String,
        /// What.
        status: u16,
    },
    /// Too much.
    #[error("the answer of {address} is larger than {BYTES_MAX} bytes or was cut")]
    Body {
        /// Where.
        address: String,
        /// What the library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{address} did not send its configuration within 60 s")]
    Deadline {
        /// Where.
        address: String,
    },
}

impl ApiError {
    /// Whether the same may succeed later without any change.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Unauthorized { .. } | Self::Forbidden { .. } | Self::Tls(_))
    }
}

impl Api {
    /// Downloads the running configuration, whatever the firewall says it is.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn download(&self) -> Result<Vec<u8>, ApiError> {
        match tokio::time::timeout(DEADLINE, self.exchange()).await {
            Ok(done) => done,
            Err(_) => Err(ApiError::Deadline { address: self.address.to_string() }),
        }
    }

    async fn exchange(&self) -> Result<Vec<u8>, ApiError> {
        let address = || self.address.to_string();
        let options = ClientOptions {
            alpn: Alpn::None,
            protocol: Protocol::Tls12And13,
            clock: Arc::clone(&self.clock),
            ..ClientOptions::new(self.trust.clone())
        };
        let client = TlsClient::new(options).map_err(|error| ApiError::Tls(error.into()))?;
        let Address { host, port } = &self.address;
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let stream = client
            .connect(format!("{host}:{port}"), name, CONNECT_MAX)
            .await
            .map_err(ApiError::Connect)?;
        let http = |source| ApiError::Http { address: address(), source };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let asking = async {
            let answer = sender.send_request(self.request()?).await.map_err(http)?;
            self.judge(answer.status())?;
            let body = http_body_util::Limited::new(answer.into_body(), BYTES_MAX);
            let body = body.collect().await;
            let body = body.map_err(|source| ApiError::Body { address: address(), source })?;
            Ok(body.to_bytes().to_vec())
        };
        // The connection does the work; it goes when the answer is there.
        tokio::pin!(asking);
        tokio::select! {
            answer = &mut asking => answer,
            end = connection => match end {
                Ok(()) => asking.await,
                Err(source) => Err(http(source)),
            },
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, ApiError> {
        let Address { host, port } = &self.address;
        let request = Request::get(PATH)
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::USER_AGENT, "homelab-backup-agent")
            .header(header::CONNECTION, "close")
            .header(header::AUTHORIZATION, self.credentials.0.expose());
        request
            .body(Empty::new())
            .map_err(|source| ApiError::Request { address: self.address.to_string(), source })
    }

    fn judge(&self, status: StatusCode) -> Result<(), ApiError> {
        let address = self.address.to_string();
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::UNAUTHORIZED => Err(ApiError::Unauthorized { address }),
            StatusCode::FORBIDDEN => Err(ApiError::Forbidden { address }),
            other => Err(ApiError::Status { address, status: other.as_u16() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for text in ["https://192.168.0.1", "https://fw.home.example:8443", "https://[fd00::1]"] {
            assert_eq!(text.parse::<Address>().expect("an address").to_string(), text);
        }
        for bad in ["http://fw", "fw", "https://me:pw@fw", "https://", "https://fw/path"] {
            assert_eq!(bad.parse::<Address>(), Err(InvalidAddress), "{bad}");
        }
    }

    #[test]
    fn the_file_of_a_key_is_read_as_opnsense_hands_it_out() {
        let read = |text: &str| Credentials::parse(&Secret::new(text.to_owned()));
        let credentials = read("key=abc+/=\nsecret=def==\n").expect("credentials");
        assert_eq!(credentials.0.expose(), &format!("Basic {}", STANDARD.encode("abc+/=:def==")));
        assert_eq!(format!("{credentials:?}"), "Credentials(***)");
        assert!(read("key=abc\n").is_err() && read("").is_err());
    }
}
