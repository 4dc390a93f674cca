//! Browsers that are logged in. Secrets come as SHA-256 digests only.

use std::time::Duration;

use async_trait::async_trait;
use homelab_domain::{
    identity::Role,
    ids::{SessionId, UserName},
};
use jiff::Timestamp;

use crate::error::StoreError;

/// A link that logs a browser in once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginLink {
    /// SHA-256 of the secret in the link.
    pub digest: [u8; 32],
    /// Who logs in.
    pub user: UserName,
    /// With which role.
    pub role: Role,
    /// Whether the person is an approver as well.
    pub approver: bool,
    /// When the link ends.
    pub expires_at: Timestamp,
}

/// One browser that is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Identifier: not secret.
    pub id: SessionId,
    /// SHA-256 of the secret in the cookie.
    pub digest: [u8; 32],
    /// Who.
    pub user: UserName,
    /// With which role.
    pub role: Role,
    /// Whether the person is an approver as well.
    pub approver: bool,
    /// Since when.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Timestamp,
    /// When it ends, however much it is used.
    pub expires_at: Timestamp,
    /// How long it may lie unused.
    pub idle: Duration,
}

/// Sessions.
#[async_trait]
pub trait Sessions: Send {
    /// Keeps a login link.
    async fn create_link(&mut self, link: &LoginLink) -> Result<(), StoreError>;

    /// Takes a link out of the store and returns it, if it was there and is still
    /// good. Of two that try, one gets it.
    async fn redeem_link(
        &mut self,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<LoginLink>, StoreError>;

    /// Keeps a session.
    async fn create(&mut self, session: &Session) -> Result<(), StoreError>;

    /// The session of a cookie, if it is still good at `now`.
    async fn find(
        &mut self,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<Session>, StoreError>;

    /// The session was used. Callers do this once a minute at most, not per page.
    async fn touch(&mut self, id: SessionId, now: Timestamp) -> Result<(), StoreError>;

    /// Ends a session. False when there was none.
    async fn end(&mut self, id: SessionId) -> Result<bool, StoreError>;

    /// Ends all sessions and links of a person; how many sessions.
    async fn end_all(&mut self, user: &UserName) -> Result<u64, StoreError>;

    /// Drops what is no longer good.
    async fn sweep(&mut self, now: Timestamp) -> Result<(), StoreError>;
}
