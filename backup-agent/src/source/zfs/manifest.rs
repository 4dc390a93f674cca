//! What a dataset was when it was backed up, and what a restore of it needs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    census::Census,
    inventory::{Properties, Snapshot},
    names::{DatasetName, Guid},
};
use crate::{ids::RunId, repository::StoredFile};

/// A backed-up dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZfsContents {
    /// The dataset.
    pub dataset: DatasetName,
    /// Its guid.
    pub guid: Guid,
    /// Whether it is a block device and no filesystem.
    pub volume: bool,
    /// The way it is encrypted; the stream then holds the blocks as they are, and a
    /// restore needs the dataset's own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// Properties that were set on it, by name. They are not in the stream.
    pub properties: BTreeMap<String, String>,
    /// The snapshot that was backed up.
    pub snapshot: SnapshotFacts,
    /// The stream beside this manifest; absent for a backup that only replicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// The copy in another pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaFacts>,
    /// What its files are, where they could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub census: Option<Census>,
    /// The program that was used.
    pub zfs: String,
    /// What this program cannot do and was done without, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Datasets below this one, which are *not* part of this backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<String>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// What stands after the `@`.
    pub name: String,
    /// Its guid, which whatever is received from it keeps.
    pub guid: Guid,
    /// Its transaction group.
    pub createtxg: u64,
    /// When it was made.
    pub creation: Timestamp,
    /// Bytes that it shows.
    pub referenced_bytes: u64,
}

/// A stream in the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// The file beside this manifest.
    pub file: String,
    /// Where it lies within the snapshot; the streams of earlier runs lie there in theirs.
    pub path: String,
    /// What it makes of what.
    pub link: Link,
    /// Streams of earlier runs that must be received before it, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Link>,
    /// Why it is full or builds on another one.
    pub because: String,
}

/// One stream of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The run that stored it.
    pub run: RunId,
    /// Guid of the dataset.
    pub dataset: Guid,
    /// The snapshot that it makes.
    pub to: Guid,
    /// The snapshot that it builds on; absent for a full stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Guid>,
    /// Options of `zfs send`.
    pub options: String,
}

/// A copy in another pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFacts {
    /// The dataset that holds it.
    pub dataset: DatasetName,
    /// The host that it is on; absent for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The snapshot that it ends with.
    pub guid: Guid,
    /// How it got there, and why so.
    pub how: String,
    /// Bytes that were sent.
    pub sent_bytes: u64,
}

impl ZfsContents {
    /// Streams of earlier runs without which this one cannot be restored, oldest first.
    #[must_use]
    pub fn needs(&self) -> Vec<RunId> {
        self.stream.iter().flat_map(|stream| &stream.needs).map(|link| link.run).collect()
    }

    /// All streams of a restore, in order, this one last.
    #[must_use]
    pub fn chain(&self) -> Vec<&Link> {
        let stream = self.stream.iter();
        stream.flat_map(|stream| stream.needs.iter().chain([&stream.link])).collect()
    }

    /// Why the files that were stored cannot hold all of it.
    #[must_use]
    pub fn implausible(&self, files: &[StoredFile]) -> Option<String> {
        if self.stream.is_none() && self.replica.is_none() {
            return Some("neither a stream nor a copy was made".to_owned());
        }
        let stream = self.stream.as_ref()?;
        let is_there = files.iter().any(|file| file.name == stream.file && file.bytes > 0);
        (!is_there).then(|| format!("the stream `{}` is empty", stream.file))
    }
}

impl From<&Snapshot> for SnapshotFacts {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            name: snapshot.name.clone(),
            guid: snapshot.guid,
            createtxg: snapshot.createtxg,
            creation: snapshot.creation,
            referenced_bytes: snapshot.referenced_bytes,
        }
    }
}

/// The properties that somebody set, from all that `zfs get all` printed: what is a
/// default or inherited comes by itself where it is restored. Ours are left out.
#[must_use]
pub fn set_properties(properties: &Properties) -> BTreeMap<String, String> {
    let is_set = |source: &str| matches!(source, "local" | "received");
    // Fixed when a dataset is made, and part of its stream, or needed to make it again.
    let fixed = ["volsize", "volblocksize", "recordsize", "casesensitivity", "normalization"];
    let properties = properties.iter().filter(|(name, property)| {
        let wanted = is_set(&property.source) || fixed.contains(&name.as_str());
        wanted && property.value != "-" && !name.starts_with("homelab:")
    });
    properties.map(|(name, property)| (name.clone(), property.value.clone())).collect()
}
