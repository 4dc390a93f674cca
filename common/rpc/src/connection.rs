//! One accepted connection: where it comes from and who is at the other end.

use std::{fmt, net::SocketAddr};

use homelab_common::{error_chain::Chain, secret::Secret, tls};

use crate::{
    access::Denied,
    peer::{InvalidCertificate, Peer, SiteName},
};

/// Length of the value that ties an enrolment to its TLS connection, in bytes.
pub const EXPORTER_BYTES: usize = 32;

/// Label of that value (RFC 8446 §7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-homelab-enrolment";

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// Over TLS.
    Tcp(SocketAddr),
    /// Over a unix socket, from a process of this user, if the kernel told.
    Unix {
        /// User id of the process.
        uid: Option<u32>,
    },
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid: Some(uid) } => write!(f, "unix, uid {uid}"),
            Self::Unix { uid: None } => f.write_str("unix"),
        }
    }
}

/// What is known of a connection. Handlers find it in the extensions of a request.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Where it comes from.
    pub remote: Remote,
    /// Who is at the other end, read once from the certificate.
    pub peer: Result<Peer, Denied>,
    /// Ties a proof to this very connection; `None` on a unix socket.
    pub exporter: Option<Secret<[u8; EXPORTER_BYTES]>>,
}

impl ConnectionInfo {
    /// A TLS connection after its handshake.
    #[must_use]
    pub fn tls(connection: &tls::Connection) -> Self {
        let peer = match connection.peer().chain.first() {
            None => Err(Denied::NoCertificate),
            Some(leaf) => Peer::from_certificate(leaf).map_err(|error| bad_certificate(&error)),
        };
        let exporter = connection.exporter(EXPORTER_LABEL).map(Secret::new);
        Self { remote: Remote::Tcp(connection.peer().remote), peer, exporter }
    }

    /// A connection to the socket of root. Root and the daemon's own user are let in as local
    /// admins, whatever the permissions of the socket have become.
    #[must_use]
    pub fn unix(uid: Option<u32>, own_uid: u32, site: SiteName) -> Self {
        let admitted = uid.is_some_and(|uid| uid == 0 || uid == own_uid);
        let peer = if admitted { Ok(Peer::local_admin(site)) } else { Err(Denied::NoCertificate) };
        Self { remote: Remote::Unix { uid }, peer, exporter: None }
    }
}

fn bad_certificate(error: &InvalidCertificate) -> Denied {
    Denied::BadCertificate { what: Chain(error).to_string() }
}
