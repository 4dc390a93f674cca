//! What an admin hands to a new host: `labj1.<base64url>.<crc32>`.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use homelab_common::{chance::Chance, secret::Secret, tls::SpkiPin};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::peer::{InvalidSpiffeId, Kind, SiteName};

/// Length of the secret, in bytes.
pub const SECRET_BYTES: usize = 32;

/// Length of the identifier, in bytes.
pub const TOKEN_ID_BYTES: usize = 8;

const PREFIX: &str = "labj1";

/// Longer texts are no tokens; a paste of something else must not be decoded.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// The secret of a token.
pub type TokenSecret = Secret<[u8; SECRET_BYTES]>;

/// What the controller keeps of a secret: enough to check a proof, not to show the token again.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier([u8; 32]);

impl Verifier {
    /// Of a secret.
    #[must_use]
    pub fn of(secret: &TokenSecret) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret.expose()).as_ref());
        Self(hash)
    }

    /// As it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To store it. Whoever reads these bytes can enrol until the token ends.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A single-use right to enrol under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Names the token; not secret.
    pub id: [u8; TOKEN_ID_BYTES],
    /// Proves the right.
    pub secret: TokenSecret,
    /// The key of the site's root.
    pub root_pin: SpkiPin,
    /// The enrolment port of the controller: `host:port`.
    pub address: String,
    /// The homelab.
    pub site: SiteName,
    /// The host, or the person.
    pub name: String,
    /// Which kinds may enrol with it.
    pub kinds: Vec<Kind>,
    /// When it ends.
    pub not_after: Timestamp,
}

/// Why a text is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It does not begin like one.
    #[error("a token begins with `{PREFIX}.`; make one with `labctl host enroll`")]
    Prefix,
    /// The end is missing.
    #[error("the token is cut off; copy the whole line, without line breaks")]
    Truncated,
    /// A character was lost or changed.
    #[error("the token is damaged (its checksum does not fit); copy it again")]
    Checksum,
    /// It is too long for a token.
    #[error("the text is longer than any token; copy the token alone")]
    TooLong,
    /// The checksum fits, the content does not: made by another version.
    #[error("the token was made by another version of the controller: {what}")]
    Content {
        /// What does not fit.
        what: String,
    },
    /// It was good until then.
    #[error("the token ended at {not_after}; make a new one with `labctl host enroll`")]
    Expired {
        /// When it ended.
        not_after: Timestamp,
    },
}

/// As it stands in the token. Short names keep the line short.
#[derive(Deserialize, Serialize)]
struct Wire {
    i: String,
    s: String,
    p: String,
    a: String,
    d: String,
    n: String,
    k: Vec<String>,
    e: i64,
}

impl Token {
    /// Draws an identifier and a secret.
    #[must_use]
    pub fn draw(chance: &dyn Chance) -> ([u8; TOKEN_ID_BYTES], TokenSecret) {
        let (mut id, mut secret) = ([0; TOKEN_ID_BYTES], [0; SECRET_BYTES]);
        chance.fill(&mut id);
        chance.fill(&mut secret);
        (id, Secret::new(secret))
    }

    /// The identifier as text: sixteen hexadecimal digits.
    #[must_use]
    pub fn id_hex(&self) -> String {
        id_hex(&self.id)
    }

    /// The token as text, with its secret.
    #[must_use]
    pub fn encode(&self) -> Secret<String> {
        let wire = Wire {
            i: URL_SAFE_NO_PAD.encode(self.id),
            s: URL_SAFE_NO_PAD.encode(self.secret.expose()),
            p: self.root_pin.to_string(),
            a: self.address.clone(),
            d: self.site.to_string(),
            n: self.name.clone(),
            k: self.kinds.iter().map(|kind| kind.as_str().to_owned()).collect(),
            e: self.not_after.as_second(),
        };
        // Strings and numbers always have a JSON form.
        let json = serde_json::to_string(&wire).unwrap_or_default();
        let body = format!("{PREFIX}.{}", URL_SAFE_NO_PAD.encode(json));
        Secret::new(format!("{body}.{:08x}", crc32(body.as_bytes())))
    }

    /// Whether it is still good.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn check_time(&self, now: Timestamp) -> Result<(), InvalidToken> {
        if now >= self.not_after {
            return Err(InvalidToken::Expired { not_after: self.not_after });
        }
        Ok(())
    }
}

/// The identifier of a token as text.
fn id_hex(id: &[u8; TOKEN_ID_BYTES]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(InvalidToken::TooLong);
        }
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.'));
        let rest = rest.ok_or(InvalidToken::Prefix)?;
        let (body, sum) = rest.split_once('.').ok_or(InvalidToken::Truncated)?;
        if sum.len() < 8 {
            return Err(InvalidToken::Truncated);
        }
        let covered = format!("{PREFIX}.{body}");
        if sum != format!("{:08x}", crc32(covered.as_bytes())) {
            return Err(InvalidToken::Checksum);
        }
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|error| content(&error))?;
        // The parser's message could repeat the secret; it stays here.
        let wire: Wire = serde_json::from_slice(&json)
            .map_err(|_| InvalidToken::Content { what: "fields are missing".into() })?;
        wire.try_into()
    }
}

impl TryFrom<Wire> for Token {
    type Error = InvalidToken;

    fn try_from(wire: Wire) -> Result<Self, InvalidToken> {
        let kinds: Result<Vec<Kind>, InvalidSpiffeId> =
            wire.k.iter().map(|kind| kind.parse()).collect();
        Ok(Self {
            id: bytes(&wire.i)?,
            secret: Secret::new(bytes(&wire.s)?),
            root_pin: wire.p.parse().map_err(|error| content(&error))?,
            address: wire.a,
            site: wire.d.parse().map_err(|error| content(&error))?,
            name: wire.n,
            kinds: kinds.map_err(|error| content(&error))?,
            not_after: Timestamp::from_second(wire.e).map_err(|error| content(&error))?,
        })
    }
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], InvalidToken> {
    let decoded = URL_SAFE_NO_PAD.decode(text).map_err(|error| content(&error))?;
    decoded.try_into().map_err(|_| InvalidToken::Content { what: "a field is too short".into() })
}

fn content(error: &dyn fmt::Display) -> InvalidToken {
    InvalidToken::Content { what: error.to_string() }
}

/// CRC-32 as in IEEE 802.3: finds what a hasty copy loses.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use homelab_common::chance::SeededChance;

    use super::*;

    fn token() -> Token {
        let (id, secret) = Token::draw(&SeededChance::new(1));
        Token {
            id,
            secret,
            root_pin: SpkiPin::of_spki(b"root"),
            address: "192.168.200.20:7441".into(),
            site: SiteName::try_new("home").expect("a site"),
            name: "qotom".into(),
            kinds: vec![Kind::Agent, Kind::BackupAgent],
            not_after: Timestamp::from_second(1_800_000_000).expect("a time"),
        }
    }

    fn text() -> String {
        token().encode().expose().clone()
    }

    #[test]
    fn a_token_survives_the_clipboard() {
        let pasted = format!("  {}\n", text());
        assert_eq!(pasted.parse(), Ok(token()));
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_cut_off_token_says_so() {
        let text = text();
        for length in [6, text.len() / 2, text.len() - 9, text.len() - 1] {
            let cut = text.get(..length).expect("ASCII");
            assert_eq!(cut.parse::<Token>(), Err(InvalidToken::Truncated), "{length}");
        }
    }

    #[test]
    fn any_changed_character_is_noticed() {
        let text = text();
        for index in 6..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] = if bytes[index] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(changed.parse::<Token>().is_err(), "character {index} went unnoticed");
        }
    }

    #[test]
    fn other_texts_are_told_apart() {
        assert_eq!("hello".parse::<Token>(), Err(InvalidToken::Prefix));
        assert_eq!("labj2.x.00000000".parse::<Token>(), Err(InvalidToken::Prefix));
        assert_eq!("x".repeat(5_000).parse::<Token>(), Err(InvalidToken::TooLong));
    }

    #[test]
    fn another_version_with_a_good_checksum_is_named_as_such() {
        let body = format!("{PREFIX}.{}", URL_SAFE_NO_PAD.encode("{}"));
        let text = format!("{body}.{:08x}", crc32(body.as_bytes()));
        assert!(matches!(text.parse::<Token>(), Err(InvalidToken::Content { .. })));
    }

    #[test]
    fn a_token_ends() {
        let token = token();
        let second = std::time::Duration::from_secs(1);
        assert_eq!(token.check_time(token.not_after - second), Ok(()));
        let ended = InvalidToken::Expired { not_after: token.not_after };
        assert_eq!(token.check_time(token.not_after), Err(ended));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let shown = format!("{:?} {:?}", token(), Verifier::of(&token().secret));
        assert!(shown.contains("***"), "{shown}");
        assert!(!shown.contains(&format!("{:?}", token().secret.expose())));
    }
}
