//! Names of datasets and snapshots, and the numbers that tell one from another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest full name that ZFS takes, a snapshot's included (`ZFS_MAX_DATASET_NAME_LEN`
/// less the end mark, zfs/sys/fs/zfs.h).
const LEN_MAX: usize = 255;

/// What every snapshot, bookmark and scratch dataset of ours begins with.
pub const PREFIX: &str = "homelab-";

/// A dataset, such as `tank/vault`: letters, digits and `-_.:`, which are also safe
/// in a shell at the far end of an ssh connection. ZFS itself would allow spaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetName(String);

/// The text is not the name of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a dataset such as `tank/vault`: parts of letters, digits and `-_.:`, joined by `/`")]
pub struct InvalidDataset;

impl DatasetName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pool that holds it.
    #[must_use]
    pub fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// A dataset below this one.
    ///
    /// # Errors
    ///
    /// `name` is no plain name, or the whole becomes too long.
    pub fn child(&self, name: &str) -> Result<Self, InvalidDataset> {
        format!("{}/{name}", self.0).parse()
    }

    /// The dataset that holds this one; a pool has none.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// Whether it lies below `other`.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        self.0.strip_prefix(&other.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// One of its snapshots.
    #[must_use]
    pub fn at(&self, snapshot: &str) -> String {
        format!("{}@{snapshot}", self.0)
    }

    /// One of its bookmarks.
    #[must_use]
    pub fn mark(&self, bookmark: &str) -> String {
        format!("{}#{bookmark}", self.0)
    }
}

impl FromStr for DatasetName {
    type Err = InvalidDataset;

    fn from_str(text: &str) -> Result<Self, InvalidDataset> {
        let is_fine = text.len() <= LEN_MAX && text.split('/').all(is_plain);
        is_fine.then(|| Self(text.to_owned())).ok_or(InvalidDataset)
    }
}

/// Whether ZFS takes it as one part of a name, and a shell as one plain word.
#[must_use]
pub fn is_plain(part: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(inside)
}

impl TryFrom<String> for DatasetName {
    type Error = InvalidDataset;

    fn try_from(text: String) -> Result<Self, InvalidDataset> {
        text.parse()
    }
}

impl From<DatasetName> for String {
    fn from(name: DatasetName) -> Self {
        name.0
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells a snapshot from every other one, in any pool: what is received keeps it.
///
/// Written as text, because many readers of JSON round numbers of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guid(pub u64);

impl TryFrom<String> for Guid {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        guid.to_string()
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_plain_word_for_any_shell() {
        for good in ["tank", "tank/vault", "rpool/data/subvol-101-disk-0", "t_1/a.b:c"] {
            assert!(good.parse::<DatasetName>().is_ok(), "{good}");
        }
        for bad in
            ["", "/tank", "tank/", "tank//x", "tank/a b", "tank@x", "tank/$(x)", "-tank", "t/-r"]
        {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_neighbour_with_the_same_beginning_is_not_below() {
        let name = |text: &str| text.parse::<DatasetName>().expect("a name");
        assert!(name("tank/drill/x").is_below(&name("tank/drill")));
        assert!(!name("tank/drill-2/x").is_below(&name("tank/drill")));
        assert!(!name("tank/drill").is_below(&name("tank/drill")));
    }

    #[test]
    fn the_greatest_guid_survives_json() {
        let text = serde_json::to_string(&Guid(u64::MAX)).expect("JSON");
        assert_eq!(text, "\"18446744073709551615\"");
        assert_eq!(serde_json::from_str::<Guid>(&text).expect("a guid"), Guid(u64::MAX));
    }
}
