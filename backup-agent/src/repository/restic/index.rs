//! Which blob lies in which pack (restic's doc/design.rst, "Indexing").

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use homelab_common::clock::Clock;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    pack::{self, Blob},
    vault::{Broken, Id, Vault},
};
use crate::repository::storage::{Storage, write_proved};

const FOLDER: &str = "index";

/// An index file is closed with this many blobs, or at this age: what a run that dies
/// had indexed by then, the next one need not store again.
const BLOBS_MAX: usize = 50_000;
const AGE_MAX: Duration = Duration::from_secs(300);

/// Where a pack lies.
pub(super) fn pack_path(id: &Id) -> String {
    let digits = id.to_string();
    format!("data/{}/{digits}", digits.get(..2).unwrap_or_default())
}

/// A damaged file, by its name.
pub(super) fn damaged(path: &str, broken: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{path}`: {broken}"))
}

/// An index file.
#[derive(Debug, Default, Deserialize, Serialize)]
struct File {
    packs: Vec<Pack>,
    /// rustic's: packs that a prune has marked and will remove later. Not to be built upon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    packs_to_delete: Vec<Pack>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Pack {
    id: Id,
    blobs: Vec<Blob>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
}

/// All that the repository holds, at one moment.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The index files that this was read from.
    files: BTreeSet<String>,
    /// Packs with their sizes in bytes.
    packs: Vec<(Id, u64)>,
    /// Sorted by id; a hundred bytes in a hash map are forty here.
    blobs: Vec<(Id, Entry)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    pack: u32,
    offset: u32,
    length: u32,
    plain: Option<NonZeroU32>,
}

/// Where a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its pack.
    pub(super) pack: Id,
    /// The pack's size in bytes.
    pub(super) pack_bytes: u64,
    /// Where in the pack.
    pub(super) offset: u32,
    /// Its sealed length in bytes.
    pub(super) length: u32,
    /// Its plain length in bytes, where compressed.
    pub(super) plain: Option<NonZeroU32>,
}

impl Found {
    /// The blob's plain size in bytes.
    pub(super) fn bytes(&self) -> u32 {
        pack::plain_bytes(self.length, self.plain)
    }
}

impl Index {
    /// Reads every index file; one that is damaged is an error.
    pub(super) fn load(storage: &dyn Storage, vault: &Vault) -> io::Result<Self> {
        Self::read(storage, vault, &mut |error| Err(error))
    }

    /// Reads what can be read; gives what is damaged, a sentence each.
    pub(super) fn salvage(storage: &dyn Storage, vault: &Vault) -> io::Result<(Self, Vec<String>)> {
        let mut problems = Vec::new();
        let index = Self::read(storage, vault, &mut |error| {
            problems.push(error.to_string());
            Ok(())
        })?;
        Ok((index, problems))
    }

    fn read(
        storage: &dyn Storage,
        vault: &Vault,
        on_damage: &mut dyn FnMut(io::Error) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut index = Self::default();
        for listed in storage.list(FOLDER)? {
            let Some(id) = Id::parse(&listed.name) else { continue };
            let path = format!("{FOLDER}/{}", listed.name);
            let sealed = match storage.read(&path) {
                // A prune has replaced it since the listing; what replaced it is listed as well,
                // or is found missing when a blob is looked up.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                sealed => sealed?,
            };
            match open(vault, &id, &sealed) {
                Ok(file) => index.take(file)?,
                Err(broken) => on_damage(damaged(&path, broken))?,
            }
            index.files.insert(listed.name);
        }
        index.sort();
        Ok(index)
    }

    /// Reads the headers of packs that no index file names: what a damaged one has
    /// named is found again that way.
    pub(super) fn add_unindexed(&mut self, storage: &dyn Storage, vault: &Vault) -> io::Result<()> {
        let known = self.packs();
        for (id, bytes) in packs_there(storage)? {
            if known.contains_key(&id) {
                continue;
            }
            match pack::read_header(storage, vault, (&pack_path(&id), bytes)) {
                Ok(blobs) => self.take_pack(id, &blobs)?,
                // Half a pack of a run that died, or damaged itself.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::debug!(%error, "a pack without an index is passed over");
                }
                Err(error) => return Err(error),
            }
        }
        self.sort();
        Ok(())
    }

    fn sort(&mut self) {
        self.blobs.sort_unstable_by_key(|(id, _)| *id);
        self.blobs.dedup_by_key(|(id, _)| *id);
    }

    fn take(&mut self, file: File) -> io::Result<()> {
        for pack in file.packs {
            self.take_pack(pack.id, &pack.blobs)?;
        }
        Ok(())
    }

    fn take_pack(&mut self, pack: Id, blobs: &[Blob]) -> io::Result<()> {
        let number = u32::try_from(self.packs.len()).map_err(io::Error::other)?;
        self.packs.push((pack, pack::size_of(blobs)));
        let entry = |it: &Blob| {
            let (offset, length, plain) = (it.offset, it.length, it.uncompressed_length);
            (it.id, Entry { pack: number, offset, length, plain })
        };
        self.blobs.extend(blobs.iter().map(entry));
        Ok(())
    }

    pub(super) fn find(&self, id: &Id) -> Option<Found> {
        let at = self.blobs.binary_search_by_key(id, |(id, _)| *id).ok()?;
        let entry = self.blobs.get(at)?.1;
        let (pack, pack_bytes) = *self.packs.get(entry.pack as usize)?;
        let Entry { offset, length, plain, .. } = entry;
        Some(Found { pack, pack_bytes, offset, length, plain })
    }

    /// Every pack with its size.
    pub(super) fn packs(&self) -> BTreeMap<Id, u64> {
        self.packs.iter().copied().collect()
    }

    /// Whether all of its files are still there; if not, somebody has pruned.
    pub(super) fn is_current(&self, storage: &dyn Storage) -> io::Result<bool> {
        let there: BTreeSet<String> =
            storage.list(FOLDER)?.into_iter().map(|listed| listed.name).collect();
        Ok(self.files.is_subset(&there))
    }
}

/// Every pack that lies there, with its size.
pub(super) fn packs_there(storage: &dyn Storage) -> io::Result<BTreeMap<Id, u64>> {
    let mut packs = BTreeMap::new();
    for number in 0..=u8::MAX {
        let listed = match storage.list(&format!("data/{number:02x}")) {
            // Restic makes them when they are needed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            listed => listed?,
        };
        packs.extend(listed.iter().filter_map(|file| Some((Id::parse(&file.name)?, file.bytes))));
    }
    Ok(packs)
}

fn open(vault: &Vault, id: &Id, sealed: &[u8]) -> Result<File, Broken> {
    if Id::of(sealed) != *id {
        return Err(Broken::Hash);
    }
    serde_json::from_slice(&vault.open_file(sealed)?).map_err(|_| Broken::Form)
}

/// Takes new packs into the index.
pub(super) struct Shelf<'a> {
    storage: &'a dyn Storage,
    vault: &'a Vault,
    clock: Arc<dyn Clock>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    file: File,
    blobs: usize,
    since: Option<Timestamp>,
    written: u64,
}

impl<'a> Shelf<'a> {
    pub(super) fn new(storage: &'a dyn Storage, vault: &'a Vault, clock: Arc<dyn Clock>) -> Self {
        Self { storage, vault, clock, open: Mutex::default() }
    }

    /// Notes a pack that lies in the repository and is proved.
    pub(super) fn add(&self, pack: Id, blobs: Vec<Blob>) -> io::Result<()> {
        let now = self.clock.now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *open.since.get_or_insert(now);
        open.blobs += blobs.len();
        open.file.packs.push(Pack { id: pack, blobs, time: Some(now) });
        let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        if open.blobs >= BLOBS_MAX || age >= AGE_MAX { self.write(&mut open) } else { Ok(()) }
    }

    /// Writes what is not written yet; gives the bytes of all index files of this shelf.
    pub(super) fn close(&self) -> io::Result<u64> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&mut open)?;
        Ok(open.written)
    }

    fn write(&self, open: &mut Open) -> io::Result<()> {
        if open.file.packs.is_empty() {
            return Ok(());
        }
        let json = serde_json::to_vec(&open.file)?;
        let sealed = self.vault.seal_file(&json)?;
        let path = format!("{FOLDER}/{}", Id::of(&sealed));
        open.written += sealed.len() as u64;
        write_proved(self.storage, &path, sealed.into())?;
        *open = Open { written: open.written, ..Open::default() };
        Ok(())
    }
}
