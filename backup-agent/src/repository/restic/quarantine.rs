//! Forgetting in steps that can be taken back.
//!
//! Retention never deletes at once. A snapshot is first hidden: a sealed mark with a
//! date is laid beside the repository, and the snapshot itself stays as it is, under
//! its own id, readable for plain `restic`. Taking the mark away recovers it. A mark
//! alone never leads to a deletion: whoever decides must ask for it by name, when the
//! mark is old enough.

use std::{collections::BTreeMap, io};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    index::damaged,
    vault::{Broken, Id, Vault},
};
use crate::{
    ids::SnapshotId,
    repository::storage::{Storage, remove_if_there, write_proved},
};

const FOLDER: &str = "homelab-forgotten";

/// What a mark says. It is sealed: who has no key can hide nothing.
#[derive(Debug, Deserialize, Serialize)]
struct Mark {
    snapshot: String,
    forgotten_at: Timestamp,
    host: String,
}

fn path_of(id: &str) -> String {
    format!("{FOLDER}/{id}")
}

/// Every mark, with its date. One that is not ours hides nothing.
pub(super) fn marks(
    storage: &dyn Storage,
    vault: &Vault,
) -> io::Result<BTreeMap<String, Timestamp>> {
    let (marks, broken) = read(storage, vault)?;
    for why in broken {
        tracing::warn!(%why, "a mark is ignored");
    }
    Ok(marks)
}

/// What is wrong with marks, a sentence each.
pub(super) fn broken(storage: &dyn Storage, vault: &Vault) -> io::Result<Vec<String>> {
    read(storage, vault).map(|(_, broken)| broken)
}

type Marks = BTreeMap<String, Timestamp>;

fn read(storage: &dyn Storage, vault: &Vault) -> io::Result<(Marks, Vec<String>)> {
    let (mut marks, mut broken) = (Marks::new(), Vec::new());
    let listed = match storage.list(FOLDER) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((marks, broken)),
        listed => listed?,
    };
    for file in listed.iter().filter(|file| Id::parse(&file.name).is_some()) {
        let path = path_of(&file.name);
        let Some(sealed) = crate::repository::storage::read_if_there(storage, &path)? else {
            continue;
        };
        match open(vault, &path, &sealed) {
            Ok(mark) if mark.snapshot == file.name => {
                marks.insert(mark.snapshot, mark.forgotten_at);
            }
            Ok(_) => broken.push(format!("`{path}` is the mark of another snapshot")),
            Err(error) => broken.push(error.to_string()),
        }
    }
    Ok((marks, broken))
}

fn open(vault: &Vault, path: &str, sealed: &[u8]) -> io::Result<Mark> {
    let json = vault.open_file(sealed).map_err(|broken| damaged(path, broken))?;
    serde_json::from_slice(&json).map_err(|_| damaged(path, Broken::Form))
}

/// Hides a snapshot; one that is hidden keeps its date.
pub(super) fn hide(
    storage: &dyn Storage,
    vault: &Vault,
    id: &SnapshotId,
    (host, now): (&str, Timestamp),
) -> io::Result<()> {
    let mark = Mark { snapshot: id.to_string(), forgotten_at: now, host: host.to_owned() };
    let sealed = vault.seal_file(&serde_json::to_vec(&mark)?)?;
    write_proved(storage, &path_of(id.as_str()), sealed.into())
}

/// Takes the mark away.
pub(super) fn show(storage: &dyn Storage, id: &str) -> io::Result<()> {
    remove_if_there(storage, &path_of(id))
}
