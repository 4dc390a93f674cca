//! Who gets which certificate: from tokens, from certificates, and from an administrator's word.

use std::{net::IpAddr, sync::Arc, time::Duration};

use homelab_common::{chance::Chance, clock::Clock};
use homelab_domain::ids::{HostName, TokenId};
use homelab_rpc::{
    enrol::{InvalidRequest, ProofParts, Verifier, verify_proof},
    peer::{Grant, InvalidSpiffeId, Kind, Peer, SiteName, SpiffeId},
};
use homelab_store::{NewToken, Store, StoreError, Token, TokenUse, Tx};
use jiff::Timestamp;
use tracing::{error, info};

use super::{
    Authority,
    issue::{IssueError, Leaf, PublicKey, Terms, Usage},
    kind_of,
    nonce::Nonces,
    record,
    root::user_terms,
    seal::{Seal, SealError},
    token::{grant_of, parse_id},
};
use crate::{audit, fleet::Fleet, site::CurrentSite, task::Nudge};

/// How long a daemon's certificate is good: hosts may sleep for weeks.
pub const DAEMON_VALID_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a person's certificate is good: a working day.
pub const USER_VALID_FOR: Duration = Duration::from_secs(12 * 3600);
/// The longest that a person's certificate may be good.
pub const USER_VALID_FOR_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long the same key may ask again, because the first answer was lost.
const SAME_KEY_AGAIN: Duration = Duration::from_secs(600);

/// What the audit log calls the use of a token by a second key.
pub const SECOND_USE: &str = "enrolment/second-use";

/// How daemons and people reach this controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The enrolment port: `host:port`.
    pub enrolment_address: String,
    /// The main port: `host:port`.
    pub main_address: String,
    /// The DNS name in the controller's certificate.
    pub name: String,
}

/// Gives identities, renews and revokes them.
#[derive(Debug)]
pub struct Enrolments {
    /// Where tokens and certificates are kept.
    pub store: Arc<dyn Store>,
    /// Who signs.
    pub authority: Arc<Authority>,
    /// Seals what is kept of tokens.
    pub seal: Seal,
    /// Nonces for proofs.
    pub nonces: Nonces,
    /// Says where hosts are.
    pub site: CurrentSite,
    /// The trust domain.
    pub site_name: SiteName,
    /// How this controller is reached.
    pub contact: Contact,
    /// Told when somebody has enrolled, so that it is dialled soon.
    pub fleet: Fleet,
    /// Brings the deny list out.
    pub push: Nudge,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
}

/// What an enrolment ends with.
#[derive(Clone, Debug)]
pub struct Finish<'a> {
    /// The token, as text.
    pub token_id: &'a str,
    /// Kind that enrols.
    pub kind: Kind,
    /// PKCS#10 in DER.
    pub signing_request: &'a [u8],
    /// Over request, nonce and connection.
    pub proof: &'a [u8],
    /// Ties the proof to this connection.
    pub exporter: &'a [u8; 32],
    /// Address under which the host will be dialled.
    pub address: &'a str,
}

/// A certificate with its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Whose.
    pub identity: String,
    /// Leaf and issuing CA, PEM.
    pub chain_pem: String,
    /// When it ends.
    pub not_after: Timestamp,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The token is not good for this. Unless the caller has proved to know the secret, `why` says
    /// the same whether the token exists or not.
    #[error("the token was refused: {why}")]
    TokenRefused {
        /// Why, for people.
        why: String,
    },
    /// The signing request is not acceptable.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The address is none, or another than the site file has.
    #[error("{what}")]
    Address {
        /// What is wanted.
        what: String,
    },
    /// The name breaks a rule.
    #[error(transparent)]
    Name(#[from] InvalidSpiffeId),
    /// How long it should be good is out of range.
    #[error("a person's certificate is good for more than nothing and at most 24 h")]
    ValidFor,
    /// The caller has no certificate that could be renewed.
    #[error(
        "there is no certificate to renew: a local caller has none; sign one with \
         EnrolmentService.IssueUserCertificate (`labctl login`)"
    )]
    NothingToRenew,
    /// The caller's certificate was revoked since the call began.
    #[error("the certificate that should be renewed has been revoked")]
    Revoked,
    /// No certificate could be signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// What is kept of the token does not open.
    #[error("what is kept of the token cannot be read")]
    Seal(#[from] SealError),
    /// The store failed.
    #[error("could not keep the certificate")]
    Store(#[from] StoreError),
}

impl EnrolmentError {
    fn refused(why: impl Into<String>) -> Self {
        Self::TokenRefused { why: why.into() }
    }
}

impl Enrolments {
    /// The nonce that a proof must be made over.
    #[must_use]
    pub fn begin(&self, token_id: &str, exporter: &[u8; 32]) -> ([u8; 32], Timestamp) {
        let now = self.clock.now();
        (self.nonces.current(token_id, exporter, now), now)
    }

    /// Turns a proof and a signing request into a certificate.
    ///
    /// Cancel safety: dropped before its transaction is committed, nothing has happened.
    ///
    /// # Errors
    ///
    /// The token, the request or the address is refused, or the store fails.
    pub async fn finish(&self, finish: &Finish<'_>) -> Result<Issued, EnrolmentError> {
        let key = PublicKey::from_request(finish.signing_request)?;
        let now = self.clock.now();
        // Strangers come to the one writer only with a proof.
        let id = self.proved(finish, now).await?;
        let mut tx = self.store.begin().await?;
        let token = tx.tokens().get(id).await?.ok_or_else(unproved)?;
        let kind = kind_of(finish.kind);
        if let Some(used) = token.uses.iter().find(|used| used.kind == kind) {
            return self.again(tx, &token, used, &key, now).await;
        }
        good_for(&token, finish.kind, now)?;
        let terms = self.terms_of(&token.token, finish)?;
        let leaf = self.authority.issue(&terms, &key, now, self.chance.as_ref())?;
        let used = TokenUse {
            kind,
            key_digest: key.digest(),
            used_at: now,
            serial_hex: leaf.serial_hex.clone(),
        };
        tx.tokens().mark_used(token.token.id, &used).await?;
        if let (Some(daemon), Ok(host)) = (kind.daemon(), HostName::try_new(&token.token.name)) {
            tx.hosts().set_enrolled(&host, daemon).await?;
        }
        let issued = self.keep(tx, &terms, &leaf, "enrolment", now).await?;
        info!(identity = %issued.identity, "enrolled");
        self.fleet.dial_soon();
        Ok(issued)
    }

    /// Gives a caller a new certificate for a new key under the identity that it has.
    ///
    /// # Errors
    ///
    /// The request is refused, the caller has no certificate, or the store fails.
    pub async fn renew(
        &self,
        peer: &Peer,
        signing_request: &[u8],
    ) -> Result<Issued, EnrolmentError> {
        if peer.serial_hex().is_empty() {
            return Err(EnrolmentError::NothingToRenew);
        }
        let key = PublicKey::from_request(signing_request)?;
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let before = tx.certificates().get(peer.serial_hex()).await?;
        // Asked again under the lock: a revocation may have gone before while this waited.
        if before.as_ref().is_some_and(|row| row.revocation.is_some()) {
            return Err(EnrolmentError::Revoked);
        }
        let terms = if peer.kind() == Kind::User {
            user_terms(peer.id().clone(), USER_VALID_FOR)
        } else {
            let before = before.map(|row| row.certificate.chain_pem).unwrap_or_default();
            let addresses = match self.declared_address(peer.name()) {
                Some(address) => vec![address],
                None => super::addresses_in(&before),
            };
            self.daemon_terms(peer.id().clone(), addresses)
        };
        let leaf = self.authority.issue(&terms, &key, now, self.chance.as_ref())?;
        self.keep(tx, &terms, &leaf, "renewal", now).await
    }

    /// Signs a certificate for a person.
    ///
    /// # Errors
    ///
    /// The name, the request or the time is refused, or the store fails.
    pub async fn issue_user(
        &self,
        name: &str,
        grant: Grant,
        valid_for: Duration,
        signing_request: &[u8],
    ) -> Result<Issued, EnrolmentError> {
        if valid_for.is_zero() || valid_for > USER_VALID_FOR_MAX {
            return Err(EnrolmentError::ValidFor);
        }
        let identity = SpiffeId::user(self.site_name.clone(), name, grant)?;
        let key = PublicKey::from_request(signing_request)?;
        let now = self.clock.now();
        let terms = user_terms(identity, valid_for);
        let leaf = self.authority.issue(&terms, &key, now, self.chance.as_ref())?;
        let tx = self.store.begin().await?;
        self.keep(tx, &terms, &leaf, "login", now).await
    }

    /// The token, if the proof shows that the caller knows its secret. Only reads.
    async fn proved(&self, finish: &Finish<'_>, now: Timestamp) -> Result<TokenId, EnrolmentError> {
        let token = match parse_id(finish.token_id) {
            Some(id) => self.store.read().await?.tokens().get(id).await?,
            None => None,
        };
        let verifier = match &token {
            Some(token) => self.verifier(&token.token)?,
            // As much work as for a token that exists.
            None => Verifier::from_bytes([0; 32]),
        };
        let nonces = self.nonces.accepted(finish.token_id, finish.exporter, now);
        let fits = nonces.iter().any(|nonce| {
            let parts = ProofParts {
                signing_request: finish.signing_request,
                nonce,
                exporter: finish.exporter,
            };
            verify_proof(&verifier, parts, finish.proof).is_ok()
        });
        token.filter(|_| fits).map(|token| token.token.id).ok_or_else(unproved)
    }

    /// A kind enrols that has enrolled before with this token.
    async fn again(
        &self,
        mut tx: Box<dyn Tx>,
        token: &Token,
        used: &TokenUse,
        key: &PublicKey,
        now: Timestamp,
    ) -> Result<Issued, EnrolmentError> {
        let since = now.duration_since(used.used_at).unsigned_abs();
        if used.key_digest == key.digest() {
            if since > SAME_KEY_AGAIN || token.revoked_at.is_some() {
                return Err(EnrolmentError::refused("it was used already; make a new token"));
            }
            let row = tx.certificates().get(&used.serial_hex).await?;
            let row = row.map(|row| row.certificate);
            return row
                .map(|row| Issued {
                    identity: row.identity,
                    chain_pem: row.chain_pem,
                    not_after: row.not_after,
                })
                .ok_or_else(|| {
                    EnrolmentError::refused("its certificate is gone; make a new token")
                });
        }
        let name = &token.token.name;
        let detail = format!(
            "token {} was used for a {} of {name} at {} and again by another key: one of the two \
             is not yours; revoke certificate {} unless you know that it is",
            super::token::shown_id(token.token.id),
            used.kind,
            used.used_at,
            used.serial_hex,
        );
        error!(%name, serial = %used.serial_hex, "a token was used by two keys; it is revoked now");
        tx.tokens().revoke(token.token.id, now).await?;
        let subject = format!("host/{name}");
        let entry = audit::entry(self.clock.as_ref(), audit::ALARM, SECOND_USE, subject, detail);
        tx.audit().append(&entry).await?;
        tx.commit().await?;
        Err(EnrolmentError::refused("it was used already by another key; an alarm was raised"))
    }

    fn terms_of(&self, token: &NewToken, finish: &Finish<'_>) -> Result<Terms, EnrolmentError> {
        if finish.kind == Kind::User {
            let grant = grant_of(token)
                .ok_or_else(|| EnrolmentError::refused("it grants no role; make a new token"))?;
            let identity = SpiffeId::user(self.site_name.clone(), &token.name, grant)?;
            return Ok(user_terms(identity, USER_VALID_FOR));
        }
        let address = self.address_of(&token.name, finish.address)?;
        let identity = SpiffeId::daemon(self.site_name.clone(), finish.kind, &token.name)?;
        Ok(self.daemon_terms(identity, vec![address]))
    }

    fn daemon_terms(&self, identity: SpiffeId, addresses: Vec<IpAddr>) -> Terms {
        let dns = vec![format!("{}.{}", identity.name(), self.site.file().site.domain())];
        Terms {
            identity,
            usage: Usage::ServerAndClient,
            dns,
            addresses,
            valid_for: DAEMON_VALID_FOR,
        }
    }

    /// The site file decides where a host is; a host that is not in it says so itself.
    fn address_of(&self, host: &str, given: &str) -> Result<IpAddr, EnrolmentError> {
        let parsed = given
            .parse::<IpAddr>()
            .or_else(|_| given.parse::<std::net::SocketAddr>().map(|address| address.ip()));
        match (self.declared_address(host), parsed) {
            (Some(declared), Ok(given)) if declared != given => Err(EnrolmentError::Address {
                what: format!(
                    "the site file has `{host}` at {declared}, not at {given}; correct one of them"
                ),
            }),
            (Some(declared), _) => Ok(declared),
            (None, Ok(given)) => Ok(given),
            (None, Err(_)) => Err(EnrolmentError::Address {
                what: format!("`{host}` is not in the site file; say its IP address"),
            }),
        }
    }

    fn declared_address(&self, host: &str) -> Option<IpAddr> {
        let host = HostName::try_new(host).ok()?;
        self.site.file().site.host(&host).map(|host| host.address)
    }

    /// Keeps a certificate, tells the audit log, and commits.
    async fn keep(
        &self,
        mut tx: Box<dyn Tx>,
        terms: &Terms,
        leaf: &Leaf,
        how: &str,
        now: Timestamp,
    ) -> Result<Issued, EnrolmentError> {
        let chain_pem = self.authority.chain_of(leaf);
        let identity = terms.identity.to_string();
        tx.certificates().insert(&record(terms, leaf, chain_pem.clone(), now)).await?;
        let detail = format!("by {how}: serial {}, until {}", leaf.serial_hex, leaf.not_after);
        let action = "certificate/issue";
        let clock = self.clock.as_ref();
        let entry = audit::entry(clock, audit::CONTROLLER, action, identity.clone(), detail);
        tx.audit().append(&entry).await?;
        tx.commit().await?;
        Ok(Issued { identity, chain_pem, not_after: leaf.not_after })
    }
}

/// The one answer to whoever has not proved to know a secret.
fn unproved() -> EnrolmentError {
    EnrolmentError::refused("it is unknown, or the proof does not fit; make a new token")
}

/// Whether a token whose secret is proved is good for the first use by a kind.
fn good_for(token: &Token, kind: Kind, now: Timestamp) -> Result<(), EnrolmentError> {
    if let Some(at) = token.revoked_at {
        return Err(EnrolmentError::refused(format!("it was made worthless at {at}")));
    }
    if token.token.expires_at <= now {
        let at = token.token.expires_at;
        return Err(EnrolmentError::refused(format!("it ended at {at}; make a new one")));
    }
    if !token.token.kinds.contains(&kind_of(kind)) {
        return Err(EnrolmentError::refused(format!("it is not for a {kind}")));
    }
    Ok(())
}
