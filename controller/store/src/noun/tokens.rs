//! Enrolment tokens.

use std::fmt;

use async_trait::async_trait;
use homelab_domain::{
    identity::{PeerKind, Role},
    ids::TokenId,
};
use jiff::Timestamp;

use crate::{
    error::StoreError,
    page::{Page, PageRequest},
};

/// A token to be.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Identifier: not secret.
    pub id: TokenId,
    /// Host name, or a person's name when the kind is user.
    pub name: String,
    /// Kinds of peer that may enrol with it, each once.
    pub kinds: Vec<PeerKind>,
    /// Role of the person, when the kind is user.
    pub role: Option<Role>,
    /// Whether the person is an approver as well.
    pub approver: bool,
    /// The secret, sealed by the caller: the proof of enrolment needs it again,
    /// and the store must not be able to read it.
    pub sealed_secret: Vec<u8>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("kinds", &self.kinds)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// One use of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// Kind that enrolled.
    pub kind: PeerKind,
    /// SHA-256 of the public key that enrolled: the same key may ask again.
    pub key_digest: [u8; 32],
    /// When.
    pub used_at: Timestamp,
    /// Serial of the certificate that was issued, lower-case hexadecimal.
    pub serial_hex: String,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// As it was made.
    pub token: NewToken,
    /// Its uses, one per kind at most.
    pub uses: Vec<TokenUse>,
    /// When it was made worthless, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// Enrolment tokens.
#[async_trait]
pub trait Tokens: Send {
    /// Keeps a new token. [`StoreError::Conflict`] when the identifier is taken.
    async fn create(&mut self, token: &NewToken) -> Result<(), StoreError>;

    /// The token with its uses.
    async fn get(&mut self, id: TokenId) -> Result<Option<Token>, StoreError>;

    /// Records the use of a token by a kind. `Ok(None)` when it was the first;
    /// otherwise the earlier use, and nothing was recorded. Of two at once, the
    /// second waits until the first has committed. Whether the token is
    /// good at all (its end, its kinds, revoked) is for the caller to look at.
    async fn mark_used(
        &mut self,
        id: TokenId,
        token_use: &TokenUse,
    ) -> Result<Option<TokenUse>, StoreError>;

    /// Makes a token worthless; an earlier moment stays. None when there is no
    /// such token.
    async fn revoke(&mut self, id: TokenId, at: Timestamp) -> Result<Option<Token>, StoreError>;

    /// Tokens, newest first.
    async fn list(&mut self, page: &PageRequest) -> Result<Page<Token>, StoreError>;

    /// Drops tokens with their uses that ended before, oldest first, at most `limit`; how many.
    async fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
