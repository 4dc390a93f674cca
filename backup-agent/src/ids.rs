//! Identifiers and names, checked where they enter.

use std::{fmt, str::FromStr};

use homelab_common::{
    chance::{Chance, uuid_v7},
    clock::Clock,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest name of a backup, repository or drill target.
const NAME_LEN_MAX: usize = 40;

/// One execution of a backup, drill, restore or verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

impl RunId {
    /// A new one; later ones sort later.
    #[must_use]
    pub fn generate(clock: &dyn Clock, chance: &dyn Chance) -> Self {
        Self(uuid_v7(clock, chance))
    }

    /// The identifier without hyphens, for names that may hold none.
    #[must_use]
    pub fn compact(self) -> String {
        self.0.simple().to_string()
    }
}

impl From<Uuid> for RunId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The text is not a UUID.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a UUID such as 0190a5de-9a2b-7c3d-8e4f-5a6b7c8d9e0f")]
pub struct InvalidRunId {
    /// What was given.
    pub text: String,
}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidRunId { text: text.to_owned() })
    }
}

/// The name of a backup, repository or drill target: lower-case letters, digits
/// and hyphens, so that it is safe as a file name, a restic tag and a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name of 1 to {NAME_LEN_MAX} lower-case letters, digits and hyphens, a letter first")]
pub struct InvalidName;

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase());
        if text.len() > NAME_LEN_MAX || !starts_well || !text.chars().all(plain) {
            return Err(InvalidName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A snapshot in a repository: 64 hexadecimal digits, the same that plain restic shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(String);

/// The fewest digits by which a person may name a snapshot, as restic prints them.
const SNAPSHOT_DIGITS_MIN: usize = 8;

impl SnapshotId {
    /// Whether `prefix` (at least 8 digits) names this snapshot.
    #[must_use]
    pub fn starts_with(&self, prefix: &str) -> bool {
        prefix.len() >= SNAPSHOT_DIGITS_MIN && self.0.starts_with(prefix)
    }

    /// All digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a snapshot identifier.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a snapshot identifier of 64 hexadecimal digits")]
pub struct InvalidSnapshotId {
    /// What was given.
    pub text: String,
}

impl FromStr for SnapshotId {
    type Err = InvalidSnapshotId;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshotId> {
        let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        if text.len() != 64 || !text.chars().all(is_digit) {
            return Err(InvalidSnapshotId { text: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names_and_tags() {
        assert!("db-daily-2".parse::<Name>().is_ok());
        let long = "a".repeat(NAME_LEN_MAX + 1);
        for bad in ["", "2db", "-db", "Db", "a,b", "../a", "a b", long.as_str()] {
            assert_eq!(bad.parse::<Name>(), Err(InvalidName), "{bad}");
        }
    }

    #[test]
    fn a_snapshot_is_named_by_no_fewer_than_eight_digits() {
        let id: SnapshotId = "0123456789abcdef".repeat(4).parse().expect("an id");
        assert!(id.starts_with("01234567"));
        assert!(!id.starts_with("0123456"));
        assert!(!id.starts_with("76543210"));
    }
}
