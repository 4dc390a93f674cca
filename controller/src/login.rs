//! Links that log a browser into the dashboard once.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use homelab_common::{chance::Chance, clock::Clock, secret::Secret};
use homelab_domain::ids::UserName;
use homelab_rpc::{
    peer::{Peer, Role},
    status::{Reason, fail},
};
use homelab_store::{LoginLink, Store, StoreError};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use tonic::{Code, Status};

use crate::{ca::token::role_of, grpc::status::IntoStatus};

/// How long a link is good: from the terminal to the browser.
pub const LINK_VALID_FOR: Duration = Duration::from_secs(300);

/// Where the dashboard redeems links; the secret follows.
pub const LOGIN_PATH: &str = "/login/";

/// Makes login links. Clones are the same.
#[derive(Clone, Debug)]
pub struct LoginLinks {
    /// Where their digests are kept.
    pub store: Arc<dyn Store>,
    /// How browsers reach the dashboard, without a slash at the end.
    pub web_url: Arc<str>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
}

/// A new link.
#[derive(Debug)]
pub struct MadeLink {
    /// The address, with its secret.
    pub url: Secret<String>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Why no link was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateLinkError {
    /// The caller is a daemon, or has a name that the dashboard cannot keep.
    #[error("only people log in to the dashboard, and `{caller}` is none that it can keep")]
    NotAPerson {
        /// Who asked.
        caller: String,
    },
    /// The store failed.
    #[error("could not keep the login link")]
    Store(#[from] StoreError),
}

impl IntoStatus for CreateLinkError {
    fn into_status(self, request_id: &str) -> Status {
        match self {
            Self::NotAPerson { .. } => {
                fail(Code::FailedPrecondition, Reason::METHOD_NOT_OPEN, self.to_string())
            }
            Self::Store(error) => error.into_status(request_id),
        }
    }
}

impl LoginLinks {
    /// Makes a link that logs in `peer`, with the role that it has.
    ///
    /// # Errors
    ///
    /// The caller is no person, or the store fails.
    pub async fn create(&self, peer: &Peer) -> Result<MadeLink, CreateLinkError> {
        let (user, role) =
            person(peer).ok_or_else(|| CreateLinkError::NotAPerson { caller: peer.to_string() })?;
        let mut secret = [0; 32];
        self.chance.fill(&mut secret);
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let now = self.clock.now();
        let expires_at = now.checked_add(LINK_VALID_FOR).unwrap_or(now);
        let link = LoginLink {
            digest: secret_digest(&secret),
            user,
            role: role_of(role),
            approver: peer.approver(),
            expires_at,
        };
        let mut tx = self.store.begin().await?;
        tx.sessions().create_link(&link).await?;
        tx.commit().await?;
        let url = Secret::new(format!("{}{LOGIN_PATH}{secret}", self.web_url));
        Ok(MadeLink { url, expires_at })
    }
}

/// What the store keeps of the secret in a link or cookie.
#[must_use]
pub fn secret_digest(secret: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    bytes
}

/// Whoever comes over the controller's own socket is `root@local`, which is no user name.
fn person(peer: &Peer) -> Option<(UserName, Role)> {
    let name = peer.name().split('@').next().unwrap_or_default();
    Some((UserName::try_new(name).ok()?, peer.role()?))
}
