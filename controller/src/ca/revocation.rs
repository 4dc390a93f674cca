//! Taking certificates back.

use homelab_domain::{identity::PeerKind, ids::UserName};
use homelab_rpc::peer::{Kind, SpiffeId};
use homelab_store::{Certificate, Page, PageRequest, Revocation, Revoke, StoreError, Tx};

use super::enrolment::Enrolments;
use crate::audit;

/// Which certificates to take back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one with this serial number, lower-case hexadecimal.
    Serial(String),
    /// All of a SPIFFE id.
    Identity(String),
    /// All daemons of a host.
    Host(String),
}

impl Target {
    fn as_store(&self) -> Revoke<'_> {
        match self {
            Self::Serial(serial) => Revoke::Serial(serial),
            Self::Identity(identity) => Revoke::Identity(identity),
            Self::Host(host) => Revoke::Host(host),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Serial(text) | Self::Identity(text) | Self::Host(text) => text,
        }
    }
}

/// What was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// How many certificates.
    pub count: usize,
    /// Epoch of the deny list.
    pub epoch: u64,
}

/// Why nothing was taken back.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// No certificate fits.
    #[error(
        "there is no certificate of `{target}`; list them with `labctl ca list`; a person is named by the whole identity"
    )]
    NotFound {
        /// What was asked for.
        target: String,
    },
    /// The store failed.
    #[error("could not keep the revocation")]
    Store(#[from] StoreError),
}

impl Enrolments {
    /// Certificates, newest first; only of one host or person, when given.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub async fn list_certificates(
        &self,
        name: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<Certificate>, StoreError> {
        self.store.read().await?.certificates().list(name, page).await
    }

    /// Takes certificates back, ends the browser sessions of people among their owners, and has the
    /// deny list brought out. Doing it again changes nothing.
    ///
    /// # Errors
    ///
    /// No certificate fits, or the store fails.
    pub async fn revoke(
        &self,
        target: &Target,
        reason: &str,
        actor: &str,
    ) -> Result<Revoked, RevokeError> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let revocation = Revocation { at: now, reason: reason.to_owned() };
        let revoked = tx.certificates().revoke(target.as_store(), &revocation).await?;
        if revoked.is_empty() && !known(tx.as_mut(), target).await? {
            return Err(RevokeError::NotFound { target: target.as_str().to_owned() });
        }
        if let Target::Identity(identity) = target {
            // A browser session outlives the certificate that began it.
            end_sessions_of(tx.as_mut(), identity).await?;
        }
        for certificate in &revoked {
            end_sessions(tx.as_mut(), certificate).await?;
            let detail = format!("serial {}: {reason}", certificate.certificate.serial_hex);
            let subject = certificate.certificate.identity.clone();
            let clock = self.clock.as_ref();
            let entry = audit::entry(clock, actor, "certificate/revoke", subject, detail);
            tx.audit().append(&entry).await?;
        }
        let epoch = tx.certificates().deny_list(now).await?.epoch;
        tx.commit().await?;
        self.push.nudge();
        Ok(Revoked { count: revoked.len(), epoch })
    }
}

/// Whether there ever was a certificate of that kind: taking back twice is no mistake.
async fn known(tx: &mut dyn Tx, target: &Target) -> Result<bool, StoreError> {
    match target {
        Target::Serial(serial) => Ok(tx.certificates().get(serial).await?.is_some()),
        Target::Host(host) => {
            // Only daemons: a person of that name is another one, and must be named as such.
            let page = tx.certificates().list(Some(host), &PageRequest::first(1_000)).await?;
            Ok(page.items.iter().any(|row| row.certificate.kind != PeerKind::User))
        }
        Target::Identity(identity) => {
            let name = identity.split('/').nth(4).unwrap_or_default();
            let page = tx.certificates().list(Some(name), &PageRequest::first(1_000)).await?;
            Ok(page.items.iter().any(|row| row.certificate.identity == *identity))
        }
    }
}

async fn end_sessions_of(tx: &mut dyn Tx, identity: &str) -> Result<(), StoreError> {
    let id = identity.parse::<SpiffeId>().ok().filter(|id| id.kind() == Kind::User);
    if let Some(user) = id.and_then(|id| UserName::try_new(id.name().as_str()).ok()) {
        tx.sessions().end_all(&user).await?;
    }
    Ok(())
}

async fn end_sessions(tx: &mut dyn Tx, certificate: &Certificate) -> Result<(), StoreError> {
    if certificate.certificate.kind != PeerKind::User {
        return Ok(());
    }
    if let Ok(user) = UserName::try_new(&certificate.certificate.name) {
        tx.sessions().end_all(&user).await?;
    }
    Ok(())
}
