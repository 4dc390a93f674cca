//! TLS servers and clients whose identity, trust and revocations can be changed
//! while they run.
//!
//! `ring` is the only crypto provider and is named explicitly everywhere here.
//! Sessions are not resumed where client certificates matter: a resumed session
//! skips the check of the certificate, and with it the revocation.

mod client;
mod closable;
mod connection;
mod facts;
mod identity;
mod pin;
mod reason;
mod server;
mod trust;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use rustls::{
    SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    time_provider::TimeProvider,
};
pub use rustls_pki_types::CertificateDer;
use rustls_pki_types::UnixTime;

use crate::clock::Clock;

pub use client::{ClientOptions, ClientStream, ConnectError, PeerCheck, ServerTrust, TlsClient};
pub use closable::Closable;
pub use connection::{Accepted, Connection, Connections, PeerInfo};
pub use facts::{Facts, FactsError};
pub use identity::{Identity, IdentityError, IdentityHandle};
pub use pin::{InvalidPin, SpkiPin};
pub use server::{BindError, ClientPolicy, Incoming, Limits, PeerKey, ServerOptions, TlsServer};
pub use trust::{IsRevoked, Roots, RootsError, TrustHandle};

/// Which versions of TLS are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// TLS 1.3 alone: between our own parts.
    #[default]
    Tls13,
    /// TLS 1.2 too: for browsers, libraries and appliances.
    Tls12And13,
}

impl Protocol {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const NEW: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        const BOTH: &[&SupportedProtocolVersion] =
            &[&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::Tls13 => NEW,
            Self::Tls12And13 => BOTH,
        }
    }
}

/// Which application protocols are offered (RFC 7301).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2 alone: gRPC.
    #[default]
    Http2,
    /// HTTP/2 and HTTP/1.1: web.
    Http2And1,
    /// No negotiation.
    None,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Http2And1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::None => Vec::new(),
        }
    }
}

/// Makes `ring` the provider of everything in this process that asks for a
/// default. The first thing in every `main`; calling it again does nothing.
pub fn install_crypto_provider() {
    let _already_installed = ring::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Our clock, as rustls asks for it.
#[derive(Debug)]
struct TlsTime(Arc<dyn Clock>);

impl TlsTime {
    fn shared(clock: &Arc<dyn Clock>) -> Arc<dyn TimeProvider> {
        Arc::new(Self(Arc::clone(clock)))
    }
}

impl TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
