//! Certificates that were issued, and those that are no longer good.

use async_trait::async_trait;
use homelab_domain::identity::PeerKind;
use jiff::Timestamp;

use crate::{
    error::StoreError,
    page::{Page, PageRequest},
};

/// A certificate that has just been signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCertificate {
    /// Serial number, lower-case hexadecimal.
    pub serial_hex: String,
    /// Whose: a SPIFFE id.
    pub identity: String,
    /// Kind of peer.
    pub kind: PeerKind,
    /// Host or person: the name within the identity.
    pub name: String,
    /// From when.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// Leaf and issuing CA, PEM: given again to a caller whose answer was lost.
    pub chain_pem: String,
    /// When it was signed.
    pub issued_at: Timestamp,
}

/// Why a certificate is no longer good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Since when.
    pub at: Timestamp,
    /// Why, for people.
    pub reason: String,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// As it was signed.
    pub certificate: NewCertificate,
    /// Whether it was revoked.
    pub revocation: Option<Revocation>,
}

/// Which certificates to revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoke<'a> {
    /// The one with this serial.
    Serial(&'a str),
    /// All of this SPIFFE id.
    Identity(&'a str),
    /// All daemons of this host; people of the same name are left alone.
    Host(&'a str),
}

/// Everything that agents must refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyList {
    /// Grows with each revocation; 0 before the first.
    pub epoch: u64,
    /// Certificates that are revoked and have not ended by themselves.
    pub entries: Vec<Certificate>,
}

/// Certificates.
#[async_trait]
pub trait Certificates: Send {
    /// Keeps a certificate. [`StoreError::Conflict`] when the serial is taken.
    async fn insert(&mut self, certificate: &NewCertificate) -> Result<(), StoreError>;

    /// The certificate with that serial.
    async fn get(&mut self, serial_hex: &str) -> Result<Option<Certificate>, StoreError>;

    /// Certificates, newest first; only of that host or person, when given.
    async fn list(
        &mut self,
        name: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<Certificate>, StoreError>;

    /// Revokes those that still run at `revocation.at` and are not revoked yet.
    /// Returns them; when there was one, the epoch of the deny list has grown.
    async fn revoke(
        &mut self,
        which: Revoke<'_>,
        revocation: &Revocation,
    ) -> Result<Vec<Certificate>, StoreError>;

    /// The deny list as it is at `now`.
    async fn deny_list(&mut self, now: Timestamp) -> Result<DenyList, StoreError>;

    /// Drops certificates that ended before, oldest first, at most `limit`; how many.
    async fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
