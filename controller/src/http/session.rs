//! Browsers that are logged in.
//!
//! A person gets in by a link that works once, made by `labctl dashboard`; the browser then holds a
//! random secret in a cookie, of which the store keeps the digest. Forms carry a second value drawn
//! from the same secret, which another site cannot read.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use homelab_common::{
    chance::{self, Chance},
    clock::Clock,
};
use homelab_domain::identity::Role;
use homelab_store::{Session, Store, StoreError};
use http::{HeaderMap, HeaderValue, header};
use jiff::{SignedDuration, Timestamp};

use crate::login::secret_digest;

/// Name of the cookie. The prefix makes browsers take it over HTTPS only, for this host only.
const COOKIE: &str = "__Host-homelab";

/// How long a session lasts, however much it is used.
const LASTS: Duration = Duration::from_secs(24 * 3_600);

/// How long it may lie unused.
const IDLE: Duration = Duration::from_secs(12 * 3_600);

/// How often its use is written down.
const TOUCHED_EVERY: SignedDuration = SignedDuration::from_secs(60);

/// Longest secret that is looked at: ours have 43 characters.
const SECRET_BYTES_MAX: usize = 128;

/// The sessions. Clones are the same.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Where their digests are kept.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
}

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// The session.
    pub session: Session,
    /// What a form must carry.
    pub csrf: String,
}

impl LoggedIn {
    /// The role as a word.
    #[must_use]
    pub fn role(&self) -> &'static str {
        match self.session.role {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl Sessions {
    /// Exchanges the secret of a link for a new session and its cookie. None when the link is not
    /// good, or was used before.
    ///
    /// # Errors
    /// The store failed.
    pub async fn redeem(&self, secret: &str) -> Result<Option<HeaderValue>, StoreError> {
        if secret.len() > SECRET_BYTES_MAX {
            return Ok(None);
        }
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let Some(link) = tx.sessions().redeem_link(&secret_digest(secret), now).await? else {
            return Ok(None);
        };
        let mut bytes = [0; 32];
        self.chance.fill(&mut bytes);
        let secret = URL_SAFE_NO_PAD.encode(bytes);
        let session = Session {
            id: chance::uuid_v7(self.clock.as_ref(), self.chance.as_ref()).into(),
            digest: secret_digest(&secret),
            user: link.user,
            role: link.role,
            approver: link.approver,
            created_at: now,
            last_used_at: now,
            expires_at: now.checked_add(LASTS).unwrap_or(Timestamp::MAX),
            idle: IDLE,
        };
        tx.sessions().create(&session).await?;
        tx.commit().await?;
        Ok(cookie(&secret, LASTS))
    }

    /// Who sends these headers, if somebody who is logged in does.
    ///
    /// # Errors
    /// The store failed.
    pub async fn who(&self, headers: &HeaderMap) -> Result<Option<LoggedIn>, StoreError> {
        let Some(secret) = secret(headers) else { return Ok(None) };
        let now = self.clock.now();
        let digest = secret_digest(secret);
        let found = self.store.read().await?.sessions().find(&digest, now).await?;
        let Some(session) = found else { return Ok(None) };
        if now.duration_since(session.last_used_at) >= TOUCHED_EVERY {
            let mut tx = self.store.begin().await?;
            tx.sessions().touch(session.id, now).await?;
            tx.commit().await?;
        }
        Ok(Some(LoggedIn { session, csrf: csrf(secret) }))
    }

    /// Whether a session is still good, without counting as its use.
    ///
    /// # Errors
    /// The store failed.
    pub async fn is_good(&self, session: &Session) -> Result<bool, StoreError> {
        let now = self.clock.now();
        Ok(self.store.read().await?.sessions().find(&session.digest, now).await?.is_some())
    }

    /// Ends a session; the cookie that takes its place.
    ///
    /// # Errors
    /// The store failed.
    pub async fn end(&self, session: &Session) -> Result<Option<HeaderValue>, StoreError> {
        let mut tx = self.store.begin().await?;
        tx.sessions().end(session.id).await?;
        tx.commit().await?;
        Ok(cookie("", Duration::ZERO))
    }
}

/// Whether two secrets are the same, in a time that does not say where they differ.
#[must_use]
pub fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Whether a request that changes something comes from a page of our own. Browsers say where a
/// request comes from; programs that are no browsers do not, and have no cookie to lose.
#[must_use]
pub fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let site_fits = matches!(text("sec-fetch-site"), None | Some("same-origin" | "none"));
    let origin_fits = match (headers.get(header::ORIGIN), text("host")) {
        (None, _) => true,
        (Some(origin), Some(host)) => {
            origin.to_str().is_ok_and(|origin| origin == format!("https://{host}"))
        }
        // HTTP/2 names the host elsewhere; `sec-fetch-site` decides alone.
        (Some(_), None) => text("sec-fetch-site").is_some(),
    };
    site_fits && origin_fits
}

fn secret(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let pairs =
        cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs.filter(|(name, _)| *name == COOKIE).map(|(_, secret)| secret);
    ours.find(|secret| !secret.is_empty() && secret.len() <= SECRET_BYTES_MAX)
}

fn csrf(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(secret_digest(&format!("form of {secret}")))
}

fn cookie(secret: &str, lasts: Duration) -> Option<HeaderValue> {
    let age = lasts.as_secs();
    let text =
        format!("{COOKIE}={secret}; Path=/; Max-Age={age}; Secure; HttpOnly; SameSite=Strict");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        assert_eq!(
            secret(&headers(&[("cookie", "a=b; __Host-homelab=s3cret; c=d")])),
            Some("s3cret")
        );
        assert_eq!(secret(&headers(&[("cookie", "x__Host-homelab=no")])), None);
        assert_eq!(secret(&headers(&[("cookie", "__Host-homelab=")])), None);
    }

    #[test]
    fn the_cookie_stays_with_https_with_us_and_away_from_scripts() {
        let cookie = cookie("s", LASTS).expect("a header");
        assert_eq!(
            cookie.to_str().expect("text"),
            "__Host-homelab=s; Path=/; Max-Age=86400; Secure; HttpOnly; SameSite=Strict"
        );
    }

    #[test]
    fn the_form_token_does_not_give_the_cookie_away() {
        assert_ne!(csrf("s"), "s");
        assert_eq!(csrf("s"), csrf("s"));
        assert_ne!(csrf("s"), csrf("t"));
    }

    #[test]
    fn a_form_of_another_site_is_not_ours() {
        let ours = [
            ("host", "lab:7480"),
            ("origin", "https://lab:7480"),
            ("sec-fetch-site", "same-origin"),
        ];
        assert!(is_same_origin(&headers(&ours)));
        assert!(is_same_origin(&headers(&[("host", "lab:7480")])));
        for theirs in [
            [
                ("host", "lab:7480"),
                ("origin", "https://evil.example"),
                ("sec-fetch-site", "cross-site"),
            ],
            [("host", "lab:7480"), ("origin", "null"), ("sec-fetch-site", "same-origin")],
            [
                ("host", "lab:7480"),
                ("origin", "http://lab:7480"),
                ("sec-fetch-site", "same-origin"),
            ],
            [("host", "lab:7480"), ("origin", "https://lab:7480"), ("sec-fetch-site", "same-site")],
        ] {
            assert!(!is_same_origin(&headers(&theirs)), "{theirs:?}");
        }
    }
}
