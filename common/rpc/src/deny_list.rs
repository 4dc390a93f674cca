//! Who is no longer accepted, although their certificate has not ended yet.
//!
//! The controller signs the list with the key of the issuing CA and hands it to every daemon; a
//! controller certificate alone is not enough to lock others out. Lower epochs are refused, so
//! that an old list cannot let somebody back in, and the list survives a restart.

use std::{
    collections::HashSet,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use homelab_common::{
    ledger::{Ledger, LedgerError},
    tls::{Connections, Facts},
};
use homelab_proto::common::v1 as pb;
use prost::Message;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// The most entries that a list may have; the protocol says so.
pub const ENTRIES_MAX: usize = 10_000;

const LEDGER_VERSION: u32 = 1;

/// Why a deny list was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum DenyListError {
    /// The bytes are no deny list.
    #[error("the deny list cannot be read: {what}")]
    Malformed {
        /// What does not fit.
        what: String,
    },
    /// The signature is not by a CA that issued this daemon's certificate.
    #[error("the deny list is not signed by the CA that issued this daemon's certificate")]
    Signature,
    /// The list is older than the one held.
    #[error("the deny list has epoch {got}, this daemon holds {have}")]
    Stale {
        /// Epoch held.
        have: u64,
        /// Epoch offered.
        got: u64,
    },
    /// The list could not be made durable; the old one stands.
    #[error("the deny list could not be kept")]
    Keep(#[source] LedgerError),
}

/// What a new list did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Epoch now held.
    pub epoch: u64,
    /// How many open connections were closed.
    pub closed_connections: u32,
}

/// The deny list of a daemon, which closes connections. Clones are the same list.
#[derive(Clone)]
pub struct DenyList {
    held: Arc<RwLock<Held>>,
    ledger: Arc<Mutex<Option<Ledger<Kept>>>>,
    connections: Arc<Mutex<Vec<Connections>>>,
    dialled: Arc<Mutex<Vec<Weak<Open>>>>,
}

impl fmt::Debug for DenyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenyList").field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Held {
    list: pb::DenyList,
    serials: HashSet<String>,
}

impl Held {
    fn new(list: pb::DenyList) -> Self {
        let serials = list.entries.iter().map(|entry| normal(&entry.serial_hex));
        // A local caller has no serial number, and must not be denied by an empty entry.
        let serials = serials.filter(|serial| !serial.is_empty()).collect();
        Self { list, serials }
    }
}

/// On the disk: the bytes that were signed, base64.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    deny_list: String,
}

impl Default for DenyList {
    /// An empty list that is kept in memory only.
    fn default() -> Self {
        Self::with(Held::default(), None)
    }
}

impl DenyList {
    /// The list in the file, or an empty one when there is no file yet. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is damaged: starting without it would let revoked peers in.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, DenyListError> {
        let ledger = Ledger::<Kept>::load(path, LEDGER_VERSION).map_err(DenyListError::Keep)?;
        let held = match ledger.get() {
            None => Held::default(),
            Some(kept) => {
                let bytes = STANDARD.decode(&kept.deny_list).map_err(|error| malformed(&error))?;
                Held::new(decode(&bytes)?)
            }
        };
        Ok(Self::with(held, Some(ledger)))
    }

    fn with(held: Held, ledger: Option<Ledger<Kept>>) -> Self {
        Self {
            held: Arc::new(RwLock::new(held)),
            ledger: Arc::new(Mutex::new(ledger)),
            connections: Arc::default(),
            dialled: Arc::default(),
        }
    }

    /// Epoch of the list; 0 when there is none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.read(|held| held.list.epoch)
    }

    /// The list as it was given.
    #[must_use]
    pub fn list(&self) -> pb::DenyList {
        self.read(|held| held.list.clone())
    }

    /// Whether a certificate is on the list, by its serial number in hexadecimal.
    #[must_use]
    pub fn is_revoked(&self, serial_hex: &str) -> bool {
        self.read(|held| {
            // Most calls: nothing is revoked, and nothing needs to be allocated.
            !held.serials.is_empty() && held.serials.contains(normal(serial_hex).as_str())
        })
    }

    /// Whether any certificate of a chain is on the list.
    #[must_use]
    pub fn denies(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.read(|held| !held.serials.is_empty()) && chain.iter().any(|one| self.denies_one(one))
    }

    fn denies_one(&self, certificate: &CertificateDer<'_>) -> bool {
        Facts::of(certificate).is_ok_and(|facts| self.is_revoked(&facts.serial))
    }

    /// From now on, a new list closes those of these connections that it denies.
    pub fn applies_to(&self, connections: Connections) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(connections);
    }

    /// Has a connection to another daemon looked at whenever the list changes.
    pub(crate) fn dialled(&self, chain: &[CertificateDer<'_>]) -> Dialled {
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        let open = Arc::new(Open { chain, denied: CancellationToken::new() });
        let mut all = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&open));
        drop(all);
        // The list may have changed since the handshake.
        if self.denies(&open.chain) {
            open.denied.cancel();
        }
        Dialled(open)
    }

    fn close_denied(&self) -> u32 {
        let servers = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let closed: usize =
            servers.iter().map(|open| open.close_where(|leaf| self.denies_one(leaf))).sum();
        let dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        let denied =
            dialled.iter().filter_map(Weak::upgrade).filter(|open| self.denies(&open.chain));
        let ended = denied.inspect(|open| open.denied.cancel()).count();
        u32::try_from(closed + ended).unwrap_or(u32::MAX)
    }

    /// Takes over a list that came over the wire. Blocks on the disk. `issuers` are the CA
    /// certificates whose signature counts: those in this daemon's own chain.
    ///
    /// # Errors
    ///
    /// Says why the list was refused; the old one stands then.
    pub fn put(
        &self,
        signed: &[u8],
        signature: &[u8],
        issuers: &[CertificateDer<'_>],
    ) -> Result<Taken, DenyListError> {
        if !issuers.iter().any(|issuer| is_signed_by(issuer, signed, signature)) {
            return Err(DenyListError::Signature);
        }
        self.take(decode(signed)?, signed)
    }

    /// Takes over the list of whoever makes it: the controller itself. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// The list is older than the one held, too long, or cannot be made durable.
    pub fn replace(&self, list: pb::DenyList) -> Result<Taken, DenyListError> {
        let bytes = list.encode_to_vec();
        self.take(decode(&bytes)?, &bytes)
    }

    fn take(&self, list: pb::DenyList, bytes: &[u8]) -> Result<Taken, DenyListError> {
        // Held for the whole change, so that two lists do not overtake each other.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let (have, got) = (self.epoch(), list.epoch);
        let same = self.read(|held| held.list == list);
        if got < have || (got == have && have > 0 && !same) {
            return Err(DenyListError::Stale { have, got });
        }
        if let Some(ledger) = ledger.as_mut().filter(|_| !same) {
            let kept = Kept { deny_list: STANDARD.encode(bytes) };
            ledger.store(kept).map_err(DenyListError::Keep)?;
        }
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Held::new(list);
        drop(ledger);
        Ok(Taken { epoch: got, closed_connections: self.close_denied() })
    }

    fn read<T>(&self, look: impl FnOnce(&Held) -> T) -> T {
        look(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A connection to another daemon, as long as it is open.
#[derive(Debug)]
pub(crate) struct Dialled(Arc<Open>);

impl Dialled {
    /// Fires when the other side's certificate is denied.
    pub(crate) fn denied(&self) -> CancellationToken {
        self.0.denied.clone()
    }
}

#[derive(Debug)]
struct Open {
    chain: Vec<CertificateDer<'static>>,
    denied: CancellationToken,
}

/// The bytes and the signature of a list, as `PutDenyListRequest` wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The encoded list.
    pub deny_list: Vec<u8>,
    /// ECDSA P-256 with SHA-256, ASN.1.
    pub signature: Vec<u8>,
}

/// The key of the issuing CA could not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key of the issuing CA is not a PKCS#8 ECDSA P-256 key")]
pub struct SignError;

/// Signs a list with the key of the issuing CA, PKCS#8 in DER.
///
/// # Errors
///
/// The key is of another kind.
pub fn sign(list: &pb::DenyList, key_pkcs8: &[u8]) -> Result<Signed, SignError> {
    let random = ring::rand::SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key_pkcs8, &random)
        .map_err(|_| SignError)?;
    let deny_list = list.encode_to_vec();
    let signature = key.sign(&random, &deny_list).map_err(|_| SignError)?.as_ref().to_vec();
    Ok(Signed { deny_list, signature })
}

fn is_signed_by(issuer: &CertificateDer<'_>, signed: &[u8], signature: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(issuer) else { return false };
    let point = certificate.public_key().subject_public_key.data.as_ref();
    certificate.is_ca()
        && UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(signed, signature).is_ok()
}

fn decode(bytes: &[u8]) -> Result<pb::DenyList, DenyListError> {
    let list = pb::DenyList::decode(bytes).map_err(|error| malformed(&error))?;
    if list.entries.len() > ENTRIES_MAX {
        let what = format!("{} entries, at most {ENTRIES_MAX} are allowed", list.entries.len());
        return Err(DenyListError::Malformed { what });
    }
    Ok(list)
}

fn malformed(error: &dyn fmt::Display) -> DenyListError {
    DenyListError::Malformed { what: error.to_string() }
}

/// Programs differ in letter case and in leading zeros; serial numbers do not.
fn normal(serial_hex: &str) -> String {
    serial_hex.trim_start_matches('0').to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
