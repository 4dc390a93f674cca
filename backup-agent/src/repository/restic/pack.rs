//! Packs: files of some 16 MiB that hold the sealed blobs (restic's doc/design.rst,
//! "Pack Format"): blob after blob, the sealed header that names them, and its length.

use std::{io, num::NonZeroU32};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    index::damaged,
    vault::{Broken, Id, SEAL_BYTES, Sealed, Vault},
};
use crate::repository::storage::{Range, Storage};

/// A pack is closed when it has reached this size. Large enough that a NAS does not
/// choke on the number of files, small enough to hold two in memory.
pub(super) const PACK_BYTES: usize = 16 << 20;

/// More blobs than this make a header that is costly to read.
const BLOBS_MAX: usize = 10_000;

/// Type, length, hash; compressed ones have the plain length as well.
const ENTRY_BYTES: usize = 1 + 4 + 32;
const ENTRY_BYTES_COMPRESSED: usize = ENTRY_BYTES + 4;

/// What is in a pack: chunks of files, or folder listings. Never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Data,
    Tree,
}

/// One blob of a pack, in the form of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) id: Id,
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    pub(super) offset: u32,
    pub(super) length: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uncompressed_length: Option<NonZeroU32>,
}

impl Blob {
    /// Length of the plain content, in bytes.
    pub(super) fn plain_bytes(&self) -> u32 {
        plain_bytes(self.length, self.uncompressed_length)
    }

    fn entry_bytes(&self) -> usize {
        match self.uncompressed_length {
            Some(_) => ENTRY_BYTES_COMPRESSED,
            None => ENTRY_BYTES,
        }
    }
}

/// The plain length of a blob of this sealed length.
pub(super) fn plain_bytes(length: u32, plain: Option<NonZeroU32>) -> u32 {
    plain.map_or_else(|| length.saturating_sub(SEAL_BYTES), NonZeroU32::get)
}

/// The size of a pack with these blobs, in bytes.
pub(super) fn size_of(blobs: &[Blob]) -> u64 {
    let entries: usize = blobs.iter().map(Blob::entry_bytes).sum();
    let content: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
    content + entries as u64 + u64::from(SEAL_BYTES) + 4
}

/// A pack that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    kind: Kind,
    content: Vec<u8>,
    blobs: Vec<Blob>,
}

/// A pack ready to be written.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) id: Id,
    pub(super) content: Bytes,
}

impl Filling {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, content: Vec::new(), blobs: Vec::new() }
    }

    pub(super) fn add(&mut self, id: Id, sealed: &Sealed) {
        if self.content.is_empty() {
            self.content.reserve_exact(PACK_BYTES + PACK_BYTES / 16);
        }
        self.blobs.push(Blob {
            id,
            kind: self.kind,
            offset: as_u32(self.content.len()),
            length: as_u32(sealed.bytes.len()),
            uncompressed_length: sealed.plain,
        });
        self.content.extend_from_slice(&sealed.bytes);
    }

    pub(super) fn is_full(&self) -> bool {
        self.content.len() >= PACK_BYTES || self.blobs.len() >= BLOBS_MAX
    }

    /// Closes the pack; an empty one is none.
    pub(super) fn close(&mut self, vault: &Vault) -> io::Result<Option<Pack>> {
        if self.blobs.is_empty() {
            return Ok(None);
        }
        let mut header = Vec::with_capacity(self.blobs.len() * ENTRY_BYTES_COMPRESSED);
        for blob in self.blobs.drain(..) {
            let compressed = u8::from(blob.uncompressed_length.is_some()) * 2;
            header.push(compressed + u8::from(blob.kind == Kind::Tree));
            header.extend_from_slice(&blob.length.to_le_bytes());
            if let Some(plain) = blob.uncompressed_length {
                header.extend_from_slice(&plain.get().to_le_bytes());
            }
            header.extend_from_slice(blob.id.as_bytes());
        }
        let sealed = vault.seal(&header)?;
        let mut content = std::mem::take(&mut self.content);
        content.extend_from_slice(&sealed);
        content.extend_from_slice(&as_u32(sealed.len()).to_le_bytes());
        Ok(Some(Pack { id: Id::of(&content), content: content.into() }))
    }
}

/// Proves a pack: the file has its hash, the header fits the file, and every blob
/// opens, decompresses and has the hash that is its name. Gives what it holds.
pub(super) fn prove(vault: &Vault, id: &Id, content: &[u8]) -> Result<Vec<Blob>, Broken> {
    if Id::of(content) != *id {
        return Err(Broken::Hash);
    }
    let blobs = header(vault, content)?;
    if size_of(&blobs) != content.len() as u64 {
        return Err(Broken::Form);
    }
    for blob in &blobs {
        let (start, length) = (blob.offset as usize, blob.length as usize);
        let sealed = content.get(start..start + length).ok_or(Broken::Form)?;
        if Id::of(&vault.unpack(sealed, blob.uncompressed_length)?) != blob.id {
            return Err(Broken::Hash);
        }
    }
    Ok(blobs)
}

/// Reads the header of a pack of this size alone.
pub(super) fn read_header(
    storage: &dyn Storage,
    vault: &Vault,
    (path, bytes): (&str, u64),
) -> io::Result<Vec<Blob>> {
    let broken = || damaged(path, Broken::Form);
    let tail = |length: u64| -> io::Result<Bytes> {
        let offset = bytes.checked_sub(length).ok_or_else(broken)?;
        let length = usize::try_from(length).map_err(|_| broken())?;
        storage.read_range(path, Range { offset, length })
    };
    let length: [u8; 4] = tail(4)?.as_ref().try_into().map_err(|_| broken())?;
    let end = tail(u64::from(u32::from_le_bytes(length)) + 4)?;
    let blobs = header(vault, &end).map_err(|broken| damaged(path, broken))?;
    if size_of(&blobs) == bytes { Ok(blobs) } else { Err(broken()) }
}

fn header(vault: &Vault, content: &[u8]) -> Result<Vec<Blob>, Broken> {
    let (rest, length) = content.split_last_chunk::<4>().ok_or(Broken::Form)?;
    let length = u32::from_le_bytes(*length) as usize;
    let start = rest.len().checked_sub(length).ok_or(Broken::Form)?;
    let plain = vault.open(&rest[start..])?;
    let mut entries = plain.as_slice();
    let (mut blobs, mut offset) = (Vec::new(), 0_u32);
    while let Some((&word, rest)) = entries.split_first() {
        let kind = if word % 2 == 1 { Kind::Tree } else { Kind::Data };
        let (length, rest) = number(rest)?;
        let (plain, rest) = match word {
            0 | 1 => (None, rest),
            2 | 3 => number(rest).map(|(plain, rest)| (NonZeroU32::new(plain), rest))?,
            _ => return Err(Broken::Form),
        };
        let (id, rest) = rest.split_at_checked(32).ok_or(Broken::Form)?;
        let id = Id::from_bytes(id).ok_or(Broken::Form)?;
        blobs.push(Blob { id, kind, offset, length, uncompressed_length: plain });
        offset = offset.checked_add(length).ok_or(Broken::Form)?;
        entries = rest;
    }
    Ok(blobs)
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Broken> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Broken::Form)?;
    Ok((u32::from_le_bytes(*number), rest))
}

/// Packs are closed long before 4 GiB.
fn as_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{
        super::vault::{Packing, tests::vault},
        *,
    };

    fn filled(vault: &Vault) -> Pack {
        let mut packing = Packing::new().expect("a compressor");
        let mut filling = Filling::new(Kind::Data);
        for plain in [vec![b'a'; 9_000], b"short".to_vec(), vec![7; 300]] {
            let sealed = vault.pack(&mut packing, &plain).expect("packed");
            filling.add(Id::of(&plain), &sealed);
        }
        filling.close(vault).expect("closed").expect("not empty")
    }

    #[test]
    fn a_pack_proves_itself() {
        let vault = vault();
        let pack = filled(&vault);
        let blobs = prove(&vault, &pack.id, &pack.content).expect("sound");
        let plain: Vec<u32> = blobs.iter().map(Blob::plain_bytes).collect();
        assert_eq!(plain, [9_000, 5, 300]);
        assert_eq!(size_of(&blobs), pack.content.len() as u64);
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_pack_is_found() {
        let vault = vault();
        let pack = filled(&vault);
        for bit in 0..pack.content.len() * 8 {
            let mut broken = pack.content.to_vec();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(prove(&vault, &pack.id, &broken), Err(Broken::Hash), "bit {bit}");
            // Nor does a file help whose name was made to fit.
            assert!(prove(&vault, &Id::of(&broken), &broken).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_pack_that_is_cut_short_is_found() {
        let vault = vault();
        let pack = filled(&vault);
        for length in 0..pack.content.len() {
            let cut = &pack.content[..length];
            assert!(prove(&vault, &Id::of(cut), cut).is_err(), "{length} bytes");
        }
    }
}
