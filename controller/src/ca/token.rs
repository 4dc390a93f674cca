//! Enrolment tokens: made for one name, good once per kind, worthless after an hour.

use std::time::Duration;

use homelab_domain::{identity::PeerKind, ids::TokenId};
use homelab_rpc::{
    enrol::{Token as SecretToken, TokenSecret, Verifier},
    peer::{Grant, InvalidSpiffeId, Kind, PeerName, Role},
};
use homelab_store::{NewToken, Page, PageRequest, StoreError, Token};
use jiff::Timestamp;
use uuid::Uuid;

use super::{enrolment::Enrolments, kind_of, seal::SealError};
use crate::audit;

/// How long a token is good unless its maker says otherwise.
pub const VALID_FOR: Duration = Duration::from_secs(3600);
/// The longest that a token may be good.
pub const VALID_FOR_MAX: Duration = Duration::from_secs(24 * 3600);

/// For whom a token is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOrder {
    /// Host, or person when the kind is user.
    pub name: String,
    /// Kinds that may enrol with it.
    pub kinds: Vec<Kind>,
    /// What the person is granted, when the kind is user.
    pub grant: Option<Grant>,
    /// How long it is good.
    pub valid_for: Duration,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateTokenError {
    /// The order breaks a rule.
    #[error("{what}")]
    Order {
        /// Which field.
        field: &'static str,
        /// What is allowed.
        what: String,
    },
    /// The name breaks a rule.
    #[error(transparent)]
    Name(#[from] InvalidSpiffeId),
    /// The secret could not be sealed.
    #[error("could not seal the token's secret")]
    Seal(#[from] SealError),
    /// The store failed.
    #[error("could not keep the token")]
    Store(#[from] StoreError),
}

impl TokenOrder {
    /// Checks the order.
    ///
    /// # Errors
    ///
    /// Names the field that breaks a rule.
    pub fn check(&self) -> Result<(), CreateTokenError> {
        let wrong =
            |field, what: &str| Err(CreateTokenError::Order { field, what: what.to_owned() });
        let mut kinds = self.kinds.clone();
        kinds.sort_unstable();
        kinds.dedup();
        if kinds.is_empty() || kinds.len() != self.kinds.len() {
            return wrong("kinds", "name each kind that may enrol once, at least one");
        }
        if kinds.contains(&Kind::Controller) {
            return wrong(
                "kinds",
                "the controller enrols with nobody; allowed are the other kinds",
            );
        }
        let is_person = kinds.contains(&Kind::User);
        if is_person && kinds.len() > 1 {
            return wrong(
                "kinds",
                "a token is for a person or for the daemons of a host, not both",
            );
        }
        if is_person != self.grant.is_some() {
            return wrong("role", "a person needs a role, a daemon has none");
        }
        if is_person {
            PeerName::user(&self.name)?
        } else {
            PeerName::host(&self.name)?
        };
        if self.valid_for.is_zero() || self.valid_for > VALID_FOR_MAX {
            return wrong("valid_for", "more than nothing and at most 24 h");
        }
        Ok(())
    }
}

/// A new token with its secret, to be shown once.
#[derive(Debug)]
pub struct MadeToken {
    /// The text to hand over.
    pub token: homelab_common::secret::Secret<String>,
    /// Its identifier.
    pub id_hex: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Enrolments {
    /// Makes a token.
    ///
    /// # Errors
    ///
    /// The order breaks a rule, or the store fails.
    pub async fn create_token(
        &self,
        order: &TokenOrder,
        actor: &str,
    ) -> Result<MadeToken, CreateTokenError> {
        order.check()?;
        let now = self.clock.now();
        let expires_at = now.checked_add(order.valid_for).unwrap_or(now);
        let (id, secret) = SecretToken::draw(self.chance.as_ref());
        let token = SecretToken {
            id,
            secret: secret.clone(),
            root_pin: self.authority.root_pin(),
            address: self.contact.enrolment_address.clone(),
            site: self.site_name.clone(),
            name: order.name.clone(),
            kinds: order.kinds.clone(),
            not_after: expires_at,
        };
        let id_hex = token.id_hex();
        let row = NewToken {
            id: stored_id(id),
            name: order.name.clone(),
            kinds: order.kinds.iter().copied().map(kind_of).collect(),
            role: order.grant.map(|grant| role_of(grant.role)),
            approver: order.grant.is_some_and(|grant| grant.approver),
            sealed_secret: self.seal(&secret, &id_hex)?,
            expires_at,
            created_by: actor.to_owned(),
            created_at: now,
        };
        let mut tx = self.store.begin().await?;
        tx.tokens().create(&row).await?;
        let kinds: Vec<_> = order.kinds.iter().map(|kind| kind.as_str()).collect();
        let detail = format!("token {id_hex} for {} on {}", kinds.join(", "), order.name);
        let entry =
            audit::entry(self.clock.as_ref(), actor, "token/create", order.name.clone(), detail);
        tx.audit().append(&entry).await?;
        tx.commit().await?;
        Ok(MadeToken { token: token.encode(), id_hex, expires_at })
    }

    /// Tokens, newest first.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub async fn list_tokens(&self, page: &PageRequest) -> Result<Page<Token>, StoreError> {
        self.store.read().await?.tokens().list(page).await
    }

    /// Makes a token worthless; `None` when there is no such token.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub async fn revoke_token(&self, id: TokenId) -> Result<Option<Token>, StoreError> {
        let mut tx = self.store.begin().await?;
        let token = tx.tokens().revoke(id, self.clock.now()).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// What is kept of a secret: its verifier, sealed for this very token.
    fn seal(&self, secret: &TokenSecret, id_hex: &str) -> Result<Vec<u8>, SealError> {
        let verifier = Verifier::of(secret);
        self.seal.seal(verifier.as_bytes(), &context(id_hex), self.chance.as_ref())
    }

    /// Opens what [`Self::seal`] kept.
    pub(super) fn verifier(&self, token: &NewToken) -> Result<Verifier, SealError> {
        let opened = self.seal.open_sealed(&token.sealed_secret, &context(&shown_id(token.id)))?;
        let bytes: [u8; 32] = opened.try_into().map_err(|_| SealError::Broken)?;
        Ok(Verifier::from_bytes(bytes))
    }
}

fn context(id_hex: &str) -> String {
    format!("token/{id_hex}")
}

/// The store names things by 128 bits, a token by 64: they are the first half.
fn stored_id(id: [u8; 8]) -> TokenId {
    TokenId::from(Uuid::from_u64_pair(u64::from_be_bytes(id), 0))
}

/// The identifier as tokens and people have it: 16 hexadecimal digits.
#[must_use]
pub fn shown_id(id: TokenId) -> String {
    format!("{:016x}", id.uuid().as_u64_pair().0)
}

/// The identifier behind 16 hexadecimal digits.
#[must_use]
pub fn parse_id(text: &str) -> Option<TokenId> {
    let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()?;
    Some(stored_id(number.to_be_bytes()))
}

/// A role as the store has it.
#[must_use]
pub const fn role_of(role: Role) -> homelab_domain::identity::Role {
    match role {
        Role::Viewer => homelab_domain::identity::Role::Viewer,
        Role::Operator => homelab_domain::identity::Role::Operator,
        Role::Admin => homelab_domain::identity::Role::Admin,
    }
}

/// What a token for a person grants.
#[must_use]
pub fn grant_of(token: &NewToken) -> Option<Grant> {
    let role = match token.role? {
        homelab_domain::identity::Role::Viewer => Role::Viewer,
        homelab_domain::identity::Role::Operator => Role::Operator,
        homelab_domain::identity::Role::Admin => Role::Admin,
    };
    Some(Grant { role, approver: token.approver })
}

/// A kind as identities have it.
#[must_use]
pub const fn kind_from(kind: PeerKind) -> Kind {
    match kind {
        PeerKind::Agent => Kind::Agent,
        PeerKind::BackupAgent => Kind::BackupAgent,
        PeerKind::GpuWorker => Kind::GpuWorker,
        PeerKind::Controller => Kind::Controller,
        PeerKind::User => Kind::User,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(kinds: &[Kind]) -> TokenOrder {
        TokenOrder { name: "x99".into(), kinds: kinds.into(), grant: None, valid_for: VALID_FOR }
    }

    fn field(order: &TokenOrder) -> &'static str {
        match order.check() {
            Err(CreateTokenError::Order { field, .. }) => field,
            Err(_) => "name",
            Ok(()) => "",
        }
    }

    #[test]
    fn an_order_names_the_field_that_breaks_a_rule() {
        assert_eq!(field(&order(&[Kind::Agent, Kind::GpuWorker])), "");
        assert_eq!(field(&order(&[])), "kinds");
        assert_eq!(field(&order(&[Kind::Agent, Kind::Agent])), "kinds");
        assert_eq!(field(&order(&[Kind::Controller])), "kinds");
        assert_eq!(field(&order(&[Kind::User])), "role");
        let grant = Some(Grant { role: Role::Viewer, approver: false });
        assert_eq!(field(&TokenOrder { grant, ..order(&[Kind::User]) }), "");
        assert_eq!(field(&TokenOrder { grant, ..order(&[Kind::Agent, Kind::User]) }), "kinds");
        assert_eq!(field(&TokenOrder { grant, ..order(&[Kind::Agent]) }), "role");
        assert_eq!(field(&TokenOrder { name: "X 99".into(), ..order(&[Kind::Agent]) }), "name");
        let valid_for = VALID_FOR_MAX + Duration::from_secs(1);
        assert_eq!(field(&TokenOrder { valid_for, ..order(&[Kind::Agent]) }), "valid_for");
    }

    #[test]
    fn an_identifier_survives_the_store() {
        let id = parse_id("00ff00ff00ff00ff").expect("16 digits");
        assert_eq!(shown_id(id), "00ff00ff00ff00ff");
        assert_eq!(parse_id("+0ff00ff00ff00ff"), None);
        assert_eq!(parse_id("ff"), None);
    }
}
