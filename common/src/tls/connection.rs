//! Accepted connections, and how to close them from outside.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::closable::Closable;
use crate::lock;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its address.
    pub remote: SocketAddr,
    /// Our address that it reached.
    pub local: SocketAddr,
    /// Its verified chain, leaf first; empty when it showed none.
    pub chain: Vec<CertificateDer<'static>>,
}

/// An accepted connection after its handshake. It takes part in the server's
/// limits until it is dropped.
pub type Connection = Closable<TlsStream<TcpStream>, Accepted>;

/// What an accepted connection holds.
#[derive(Debug)]
pub struct Accepted {
    peer: Arc<PeerInfo>,
    _registered: Registered,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn accepted(
        stream: TlsStream<TcpStream>,
        peer: Arc<PeerInfo>,
        registered: Registered,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let closed = registered.token.clone();
        let kept = Accepted { peer, _registered: registered, _permit: permit };
        let why = "the connection was closed because its certificate no longer counts";
        Self::new(stream, kept, closed, why)
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &Arc<PeerInfo> {
        &self.kept().peer
    }

    /// The application protocol that was agreed on, such as `h2`.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.get_ref().get_ref().1.alpn_protocol()
    }

    /// 32 bytes that both ends of this connection and nobody else can work out
    /// for `label` (RFC 8446 §7.5): they tie a proof to this very connection.
    #[must_use]
    pub fn exporter(&self, label: &[u8]) -> Option<[u8; 32]> {
        self.get_ref().get_ref().1.export_keying_material([0; 32], label, None).ok()
    }
}

/// The open connections of a server. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    leaf: Option<CertificateDer<'static>>,
    peer_key: Option<String>,
    token: CancellationToken,
}

impl Connections {
    /// How many connections are open.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.open).entries.len()
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes the connections whose peer's leaf certificate fits, at once and
    /// also in the middle of a request; gives how many there were. Peers without
    /// a certificate are left alone.
    pub fn close_where(&self, mut fits: impl FnMut(&CertificateDer<'_>) -> bool) -> usize {
        let open = lock(&self.open);
        let fitting =
            open.entries.values().filter(|entry| entry.leaf.as_ref().is_some_and(&mut fits));
        fitting.inspect(|entry| entry.token.cancel()).count()
    }

    /// Takes a new connection in, unless its peer already has `per_peer_max`.
    pub(super) fn admit(
        &self,
        leaf: Option<CertificateDer<'static>>,
        peer_key: Option<String>,
        per_peer_max: usize,
    ) -> Option<Registered> {
        let mut open = lock(&self.open);
        if peer_key.is_some() {
            let same = open.entries.values().filter(|entry| entry.peer_key == peer_key).count();
            if same >= per_peer_max {
                return None;
            }
        }
        let token = CancellationToken::new();
        open.last_id += 1;
        let id = open.last_id;
        open.entries.insert(id, Entry { leaf, peer_key, token: token.clone() });
        Some(Registered { connections: self.clone(), id, token })
    }
}

/// A place in the list of open connections; given back when dropped.
#[derive(Debug)]
pub(super) struct Registered {
    connections: Connections,
    id: u64,
    pub(super) token: CancellationToken,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.connections.open).entries.remove(&self.id);
    }
}
