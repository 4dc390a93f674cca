//! The repository's key at work: what restic's format calls encryption and hashes.
//!
//! Everything is sealed with AES-256 in counter mode and Poly1305-AES: 16 bytes of
//! nonce, the ciphertext, 16 bytes of tag (restic's doc/design.rst, "Keys, Encryption
//! and MAC"). The library behind [`super`] can do the same and does not let it be
//! used alone.

use std::{fmt, io, num::NonZeroU32};

use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce, Tag, aead::AeadInPlace};
use ring::{
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};
use rustic_core::repofile::MasterKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::stream::hex;

/// Nonce and tag.
pub(super) const SEAL_BYTES: u32 = 32;

const NONCE_BYTES: usize = 16;

/// zstd's own default: stronger levels cost more time than pg_dump takes.
const LEVEL: i32 = 3;

/// First byte of a sealed file that is compressed (design.rst, "Unpacked Data
/// Format"); without it there is JSON.
const COMPRESSED: u8 = 2;

/// No file of index or snapshots is larger; a bound on what a forged one unpacks to.
const FILE_BYTES_MAX: usize = 512 << 20;

/// A SHA-256 hash: the name of a blob or a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id([u8; 32]);

impl Id {
    /// Of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut id = Self([0; 32]);
        id.0.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        id
    }

    /// From its 32 bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From its 64 digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut id = Self([0; 32]);
        for (byte, pair) in id.0.iter_mut().zip(digits.chunks(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(id)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first four bytes as a number: ids are evenly spread.
    pub(super) fn spread(&self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not 64 hexadecimal digits"))
    }
}

/// What is wrong with bytes that should have been ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// Too short, or the tag does not fit.
    #[error("it is damaged or was not written with this repository's key")]
    Seal,
    /// zstd.
    #[error("it cannot be decompressed")]
    Compression,
    /// Of other content than its name says.
    #[error("its content does not have the hash that is its name")]
    Hash,
    /// Lengths that do not add up, or no JSON.
    #[error("its form is not that of its kind")]
    Form,
}

/// A blob ready to be packed.
#[derive(Debug)]
pub(super) struct Sealed {
    /// Nonce, ciphertext, tag.
    pub(super) bytes: Vec<u8>,
    /// The plain length, where compressed.
    pub(super) plain: Option<NonZeroU32>,
}

/// Holds the key; threads share it.
pub(super) struct Vault {
    cipher: Aes256CtrPoly1305Aes,
    /// For whatever else needs a secret of this repository.
    secret: hmac::Key,
    random: SystemRandom,
}

impl Vault {
    /// From the key that the password opened; `None` when it has a wrong length.
    pub(super) fn new(key: &MasterKey) -> Option<Self> {
        let parts = [key.encrypt.as_slice(), &key.mac.k, &key.mac.r];
        let bytes = parts.concat();
        if parts.map(<[u8]>::len) != [32, 16, 16] {
            return None;
        }
        Some(Self {
            cipher: Aes256CtrPoly1305Aes::new(Key::from_slice(&bytes)),
            secret: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            random: SystemRandom::new(),
        })
    }

    /// A number that only holders of the key can know.
    pub(super) fn derived(&self, purpose: &str) -> [u8; 32] {
        let mut derived = [0; 32];
        derived.copy_from_slice(hmac::sign(&self.secret, purpose.as_bytes()).as_ref());
        derived
    }

    /// Compresses, where that gains anything, and seals.
    pub(super) fn pack(&self, packing: &mut Packing, plain: &[u8]) -> io::Result<Sealed> {
        let bound = zstd::zstd_safe::compress_bound(plain.len());
        packing.buffer.resize(bound, 0);
        let size = packing.compressor.compress_to_buffer(plain, &mut packing.buffer[..])?;
        let length = u32::try_from(plain.len()).ok().and_then(NonZeroU32::new);
        if size < plain.len() && length.is_some() {
            Ok(Sealed { bytes: self.seal(&packing.buffer[..size])?, plain: length })
        } else {
            Ok(Sealed { bytes: self.seal(plain)?, plain: None })
        }
    }

    /// The other way round; the result has exactly the length that was promised.
    pub(super) fn unpack(
        &self,
        sealed: &[u8],
        plain: Option<NonZeroU32>,
    ) -> Result<Vec<u8>, Broken> {
        let opened = self.open(sealed)?;
        let Some(length) = plain else { return Ok(opened) };
        let length = length.get() as usize;
        let plain = zstd::bulk::decompress(&opened, length).map_err(|_| Broken::Compression)?;
        if plain.len() == length { Ok(plain) } else { Err(Broken::Form) }
    }

    pub(super) fn seal(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut sealed = vec![0; NONCE_BYTES];
        sealed.reserve(plain.len() + SEAL_BYTES as usize);
        // Never from a chance that a test can seed: a nonce that comes twice gives both texts away.
        self.random
            .fill(&mut sealed)
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let nonce = *Nonce::from_slice(&sealed);
        sealed.extend_from_slice(plain);
        let tag = self
            .cipher
            .encrypt_in_place_detached(&nonce, &[], &mut sealed[NONCE_BYTES..])
            .map_err(|_| io::Error::other("too much for one message"))?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    pub(super) fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Broken> {
        let length = sealed.len().checked_sub(SEAL_BYTES as usize).ok_or(Broken::Seal)?;
        let (nonce, rest) = sealed.split_at(NONCE_BYTES);
        let (body, tag) = rest.split_at(length);
        let mut plain = body.to_vec();
        let (nonce, tag) = (Nonce::from_slice(nonce), Tag::from_slice(tag));
        self.cipher
            .decrypt_in_place_detached(nonce, &[], &mut plain, tag)
            .map_err(|_| Broken::Seal)?;
        Ok(plain)
    }

    /// A file beside the packs: compressed and sealed as a whole.
    pub(super) fn seal_file(&self, json: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = vec![COMPRESSED];
        plain.extend(zstd::bulk::compress(json, LEVEL)?);
        self.seal(&plain)
    }

    /// The JSON of such a file.
    pub(super) fn open_file(&self, sealed: &[u8]) -> Result<Vec<u8>, Broken> {
        let plain = self.open(sealed)?;
        match plain.split_first() {
            Some((b'{' | b'[', _)) => Ok(plain),
            Some((&COMPRESSED, rest)) => inflate(rest),
            _ => Err(Broken::Form),
        }
    }
}

fn inflate(compressed: &[u8]) -> Result<Vec<u8>, Broken> {
    use io::Read as _;
    let mut plain = Vec::new();
    let decoder =
        zstd::stream::Decoder::with_buffer(compressed).map_err(|_| Broken::Compression)?;
    let read = decoder.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut plain);
    match read {
        Ok(size) if size <= FILE_BYTES_MAX => Ok(plain),
        _ => Err(Broken::Compression),
    }
}

/// What one thread needs to compress: making it anew for every chunk of 32 KiB would
/// cost as much as the compression.
pub(super) struct Packing {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Packing {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(LEVEL)?, buffer: Vec::new() })
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn vault() -> Vault {
        Vault::new(&MasterKey::new()).expect("a key")
    }

    #[test]
    fn what_is_sealed_opens_and_a_flipped_bit_anywhere_does_not() {
        let vault = vault();
        let sealed = vault.seal(b"a page of the wiki").expect("sealed");
        assert_eq!(vault.open(&sealed).expect("opened"), b"a page of the wiki");
        for bit in 0..sealed.len() * 8 {
            let mut broken = sealed.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(vault.open(&broken), Err(Broken::Seal), "bit {bit}");
        }
    }

    #[test]
    fn incompressible_bytes_are_stored_as_they_are() {
        let (vault, mut packing) = (vault(), Packing::new().expect("a compressor"));
        let noise: Vec<u8> = (0_u32..256).flat_map(|i| vault.derived(&i.to_string())).collect();
        let sealed = vault.pack(&mut packing, &noise).expect("packed");
        assert_eq!((sealed.plain, sealed.bytes.len()), (None, noise.len() + SEAL_BYTES as usize));
        let text = vec![b'x'; 10_000];
        let sealed = vault.pack(&mut packing, &text).expect("packed");
        assert!(sealed.bytes.len() < 200);
        assert_eq!(vault.unpack(&sealed.bytes, sealed.plain).expect("unpacked"), text);
        assert!(vault.unpack(&sealed.bytes, NonZeroU32::new(9_999)).is_err());
    }

    #[test]
    fn a_file_opens_compressed_or_not() {
        let vault = vault();
        let json = br#"{"packs":[]}"#;
        let compressed = vault.seal_file(json).expect("sealed");
        let plain = vault.seal(json).expect("sealed");
        assert_eq!(vault.open_file(&compressed).expect("opened"), json);
        assert_eq!(vault.open_file(&plain).expect("opened"), json);
    }
}
