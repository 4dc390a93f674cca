//! Virtual API keys: names for callers of the gateway, with the tiers that they may use.
//!
//! A keys file has one key a line, `name sha256 [tiers]`: the SHA-256 of the key in hexadecimal,
//! so that the file opens nothing for who reads it, and the tiers separated by commas; without
//! them, all that stay in the house. The one who makes a key takes 32 random bytes, so a plain
//! hash is enough: there is nothing to guess.

use std::{fmt, str::FromStr, sync::Arc};

use homelab_domain::site::Tier;
use ring::digest;

/// Keys in one file.
const KEYS_MAX: usize = 1_000;

/// Tiers of a key that names none: those that keep text in the house.
const TIERS_DEFAULT: &[Tier] = &[Tier::Bronze, Tier::Silver];

/// The keys of the gateway.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyRing {
    keys: Arc<[Key]>,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    caller: Arc<Caller>,
    hash: [u8; digest::SHA256_OUTPUT_LEN],
}

/// Who calls the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name of the key.
    pub name: String,
    /// Tiers that it may use.
    pub tiers: Vec<Tier>,
}

/// What is wrong in a keys file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {rule}")]
pub struct InvalidKeys {
    /// Line, from 1.
    pub line: usize,
    /// The rule that it breaks; no part of the line is repeated.
    pub rule: &'static str,
}

impl KeyRing {
    /// The caller whose key was shown. Each key is compared to the end, so that the time taken says
    /// nothing about any of them.
    #[must_use]
    pub fn caller(&self, shown: &str) -> Option<Arc<Caller>> {
        let hash = digest::digest(&digest::SHA256, shown.as_bytes());
        let mut found = None;
        for key in self.keys.iter() {
            let differing = key.hash.iter().zip(hash.as_ref()).fold(0, |all, (a, b)| all | (a ^ b));
            if differing == 0 {
                found = Some(&key.caller);
            }
        }
        found.map(Arc::clone)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key, so that nobody gets in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.caller.name)).finish()
    }
}

impl FromStr for KeyRing {
    type Err = InvalidKeys;

    fn from_str(text: &str) -> Result<Self, InvalidKeys> {
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = key(line).map_err(|rule| InvalidKeys { line: line_number, rule })?;
            if keys.iter().any(|other| other.caller.name == key.caller.name) {
                return Err(InvalidKeys { line: line_number, rule: "the name stands twice" });
            }
            if keys.len() >= KEYS_MAX {
                return Err(InvalidKeys { line: line_number, rule: "more than 1,000 keys" });
            }
            keys.push(key);
        }
        Ok(Self { keys: keys.into() })
    }
}

fn key(line: &str) -> Result<Key, &'static str> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(hash), tiers, None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("it must be `name sha256 [tiers]`");
    };
    if name.len() > 64
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err("the name is not 1 to 64 of letters, digits, `-`, `_` and `.`");
    }
    let hash =
        hex(hash).ok_or("the hash is not 64 hexadecimal digits, as `sha256sum` prints them")?;
    let tiers = match tiers {
        None => TIERS_DEFAULT.to_vec(),
        Some(list) => list
            .split(',')
            .map(tier)
            .collect::<Option<_>>()
            .ok_or("a tier is not bronze, silver or gold")?,
    };
    Ok(Key { caller: Arc::new(Caller { name: name.to_owned(), tiers }), hash })
}

fn tier(word: &str) -> Option<Tier> {
    match word {
        "bronze" => Some(Tier::Bronze),
        "silver" => Some(Tier::Silver),
        "gold" => Some(Tier::Gold),
        _ => None,
    }
}

fn hex(text: &str) -> Option<[u8; digest::SHA256_OUTPUT_LEN]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    digits.len().is_multiple_of(2).then_some(())?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // SHA-256 of `sk-webui` and of `sk-batch`.
    const WEBUI: &str = "f5ef0ff0b1e4e6a0ee8e1b3ba5e1a2b4cf6f3c6a2a9f8d1b7e2a4c8d9e0f1a2b";

    fn hashed(key: &str) -> String {
        digest::digest(&digest::SHA256, key.as_bytes())
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    #[test]
    fn a_key_is_known_by_its_hash() {
        let text = format!(
            "# keys\n\nwebui {}\nbatch {} bronze,gold\n",
            hashed("sk-webui"),
            hashed("sk-batch").to_uppercase()
        );
        let ring: KeyRing = text.parse().expect("is valid");
        let webui = ring.caller("sk-webui").expect("is known");
        assert_eq!((webui.name.as_str(), webui.tiers.as_slice()), ("webui", TIERS_DEFAULT));
        assert_eq!(ring.caller("sk-batch").expect("is known").tiers, [Tier::Bronze, Tier::Gold]);
        for wrong in ["", "sk-webu", "sk-webui ", WEBUI, &hashed("sk-webui")] {
            assert_eq!(ring.caller(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_not_repeated() {
        let rule = |text: &str| text.parse::<KeyRing>().expect_err("is invalid");
        assert_eq!(
            rule("\nwebui"),
            InvalidKeys { line: 2, rule: "it must be `name sha256 [tiers]`" }
        );
        assert!(rule(&format!("a {WEBUI}\na {WEBUI}")).rule.contains("twice"));
        assert!(rule(&format!("a {WEBUI} iron")).rule.contains("tier"));
        assert!(rule(&format!("a {}0", WEBUI)).rule.contains("64"));
        assert!(rule(&format!("a/b {WEBUI}")).rule.contains("name"));
        let secret = "a sk-my-secret-in-the-clear";
        assert!(
            !rule(secret).to_string().contains("secret"),
            "the key itself must not get into a log"
        );
    }

    #[test]
    fn debug_shows_names_only() {
        let ring: KeyRing = format!("webui {WEBUI}").parse().expect("is valid");
        assert_eq!(format!("{ring:?}"), "[\"webui\"]");
    }
}
