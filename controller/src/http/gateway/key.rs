//! Virtual API keys: names for callers of the gateway, with the tiers and how much they may use.
//!
//! A keys file has one key a line, `name sha256 [tiers] [setting...]`: the SHA-256 of the key in
//! hexadecimal, so that the file opens nothing for who reads it; the tiers separated by commas,
//! without them all that stay in the house; and settings: `requests=60/min`, `tokens=20000/min`,
//! `tokens=2000000/day`, `at-once=8`, `manage-models` for who may load and unload, and
//! `context=NAME,NAME` or `context=all` for who may be given documents of the house. The one who makes a key takes 32 random bytes, so a plain hash is enough: there is nothing to guess.

use std::{fmt, str::FromStr, sync::Arc};

use homelab_domain::{allowance::Limits, ids::SourceName, site::Tier};
use ring::digest;

/// Keys in one file.
const KEYS_MAX: usize = 1_000;

/// Tiers of a key that names none: those that keep text in the house.
const TIERS_DEFAULT: &[Tier] = &[Tier::Bronze, Tier::Silver];

/// The setting of a key that may load and unload models.
const MANAGE: &str = "manage-models";

/// The setting of a key that may be given documents.
const CONTEXT: &str = "context";

/// The keys of the gateway.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyRing {
    keys: Arc<[Hashed]>,
}

#[derive(Clone, PartialEq, Eq)]
struct Hashed {
    key: Arc<Key>,
    hash: [u8; digest::SHA256_OUTPUT_LEN],
}

/// What a key of the gateway is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Who has it.
    pub holder: Holder,
    /// Its name, by which its jobs are known.
    pub name: String,
    /// Tiers that it may use.
    pub tiers: Vec<Tier>,
    /// How much it may ask for.
    pub limits: Limits,
    /// Whether it may load and unload models.
    pub models: Models,
    /// Which documents of the house may be put before its requests.
    pub reads: Reads,
}

/// What of the house's documents a key may be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// Nothing.
    #[default]
    Nothing,
    /// These sources.
    Of(Vec<String>),
    /// Every source.
    All,
}

/// Who has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A program: it sends a key of the file.
    Program,
    /// A person who is logged in on the dashboard; the name says so.
    Person,
}

impl Key {
    /// As jobs name who asked: `key/<name>` or `user/<name>`.
    #[must_use]
    pub fn submitter(&self) -> String {
        match self.holder {
            Holder::Program => format!("key/{}", self.name),
            Holder::Person => self.name.clone(),
        }
    }
}

/// What a key may do with the models themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Models {
    /// Use them.
    #[default]
    Use,
    /// Load and unload them too.
    Manage,
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
    /// The key that was shown. Each is compared to the end, so that the time taken says nothing about
    /// any of them.
    #[must_use]
    pub fn find(&self, shown: &str) -> Option<Arc<Key>> {
        let hash = digest::digest(&digest::SHA256, shown.as_bytes());
        let mut found = None;
        for hashed in self.keys.iter() {
            let pairs = hashed.hash.iter().zip(hash.as_ref());
            let differing = pairs.fold(0, |all, (a, b)| all | (a ^ b));
            if differing == 0 {
                found = Some(&hashed.key);
            }
        }
        found.map(Arc::clone)
    }

    /// The key of that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<Key>> {
        self.all().find(|key| key.name == name)
    }

    /// All keys.
    pub fn all(&self) -> impl Iterator<Item = Arc<Key>> {
        self.keys.iter().map(|hashed| Arc::clone(&hashed.key))
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
        f.debug_list().entries(self.keys.iter().map(|hashed| &hashed.key.name)).finish()
    }
}

impl FromStr for KeyRing {
    type Err = InvalidKeys;

    fn from_str(text: &str) -> Result<Self, InvalidKeys> {
        let mut keys: Vec<Hashed> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let hashed = key(line).map_err(|rule| InvalidKeys { line: line_number, rule })?;
            if keys.iter().any(|other| other.key.name == hashed.key.name) {
                return Err(InvalidKeys { line: line_number, rule: "the name stands twice" });
            }
            if keys.len() >= KEYS_MAX {
                return Err(InvalidKeys { line: line_number, rule: "more than 1,000 keys" });
            }
            keys.push(hashed);
        }
        Ok(Self { keys: keys.into() })
    }
}

fn key(line: &str) -> Result<Hashed, &'static str> {
    let mut words = line.split_whitespace().peekable();
    let (Some(name), Some(hash)) = (words.next(), words.next()) else {
        return Err("it must be `name sha256 [tiers] [setting...]`");
    };
    if name.len() > 64
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err("the name is not 1 to 64 of letters, digits, `-`, `_` and `.`");
    }
    let hash =
        hex(hash).ok_or("the hash is not 64 hexadecimal digits, as `sha256sum` prints them")?;
    let tiers = match words.next_if(|word| *word != MANAGE && !word.contains('=')) {
        None => TIERS_DEFAULT.to_vec(),
        Some(list) => list
            .split(',')
            .map(tier)
            .collect::<Option<_>>()
            .ok_or("a tier is not bronze, silver or gold")?,
    };
    let mut key = Key {
        holder: Holder::Program,
        name: name.to_owned(),
        tiers,
        limits: Limits::default(),
        models: Models::Use,
        reads: Reads::Nothing,
    };
    for word in words {
        setting(&mut key, word).ok_or(
            "a setting is not one of `requests=N/min`, `tokens=N/min`, `tokens=N/day`, `at-once=N`, \
             `context=NAMES` and `manage-models`, or stands twice, or its number is not 1 or more",
        )?;
    }
    Ok(Hashed { key: Arc::new(key), hash })
}

/// Takes one setting; none when it is not understood, or was given before.
fn setting(key: &mut Key, word: &str) -> Option<()> {
    if word == MANAGE {
        let before = std::mem::replace(&mut key.models, Models::Manage);
        return (before == Models::Use).then_some(());
    }
    let (name, value) = word.split_once('=')?;
    if name == CONTEXT {
        let sources: Vec<String> = value.split(',').map(str::to_owned).collect();
        let all_are_names = sources.iter().all(|source| SourceName::try_new(source).is_ok());
        let reads = if value == "all" { Reads::All } else { Reads::Of(sources) };
        let before = std::mem::replace(&mut key.reads, reads);
        return (all_are_names && before == Reads::Nothing).then_some(());
    }
    let (number, per) = value.split_once('/').unwrap_or((value, ""));
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let small = u32::try_from(number).ok();
    let limits = &mut key.limits;
    let before = match (name, per) {
        ("requests", "min") => limits.requests_per_minute.replace(small?).map(u64::from),
        ("tokens", "min") => limits.tokens_per_minute.replace(small?).map(u64::from),
        ("tokens", "day") => limits.tokens_per_day.replace(number),
        ("at-once", "") => limits.at_once.replace(small?).map(u64::from),
        _ => return None,
    };
    before.is_none().then_some(())
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
        let webui = ring.find("sk-webui").expect("is known");
        assert_eq!((webui.name.as_str(), webui.tiers.as_slice()), ("webui", TIERS_DEFAULT));
        assert_eq!(ring.find("sk-batch").expect("is known").tiers, [Tier::Bronze, Tier::Gold]);
        for wrong in ["", "sk-webu", "sk-webui ", WEBUI, &hashed("sk-webui")] {
            assert_eq!(ring.find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_not_repeated() {
        let rule = |text: &str| text.parse::<KeyRing>().expect_err("is invalid");
        assert_eq!(
            rule("\nwebui"),
            InvalidKeys { line: 2, rule: "it must be `name sha256 [tiers] [setting...]`" }
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
    fn settings_say_how_much_a_key_may_use() {
        let hash = hashed("sk-a");
        let ring: KeyRing =
            format!("a {hash} silver requests=60/min tokens=2000/min tokens=90000/day at-once=4 manage-models")
                .parse()
                .expect("is valid");
        let key = ring.find("sk-a").expect("is known");
        assert_eq!((key.tiers.as_slice(), key.models), ([Tier::Silver].as_slice(), Models::Manage));
        let Limits { requests_per_minute, tokens_per_minute, tokens_per_day, at_once } = key.limits;
        assert_eq!((requests_per_minute, tokens_per_minute), (Some(60), Some(2_000)));
        assert_eq!((tokens_per_day, at_once), (Some(90_000), Some(4)));
        let ring: KeyRing = format!("a {hash} at-once=1").parse().expect("tiers may be left out");
        assert_eq!(ring.find("sk-a").expect("is known").tiers, TIERS_DEFAULT);
        for wrong in
            ["requests=60", "requests=0/min", "tokens=9/hour", "at-once=x", "at-once=1 at-once=2"]
        {
            let error = format!("a {hash} bronze {wrong}").parse::<KeyRing>().expect_err(wrong);
            assert!(error.rule.contains("at-once"), "{wrong}: {error}");
        }
    }

    #[test]
    fn debug_shows_names_only() {
        let ring: KeyRing = format!("webui {WEBUI}").parse().expect("is valid");
        assert_eq!(format!("{ring:?}"), "[\"webui\"]");
    }
}
