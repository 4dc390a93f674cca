//! Seals small secrets that must be kept in the store: the secret of an enrolment token is needed
//! again to check a proof, so that a hash would not do.
//!
//! The key stands in a file beside the store, so that a copy of the database alone gives nothing.

use std::{fmt, path::Path};

use homelab_common::{chance::Chance, secret};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::{
    files::{self, FileError, Readers},
    issue::hex,
};

const KEY_BYTES: usize = 32;

/// Seals with AES-256-GCM under one key.
pub struct Seal(LessSafeKey);

/// Why a secret cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key file cannot be read.
    #[error("the key that seals secrets cannot be read")]
    Read(#[from] secret::SecretError),
    /// The key file holds something else.
    #[error("the key file does not hold 64 hexadecimal digits; restore it from the backup")]
    NotAKey,
    /// The sealed bytes were changed, or belong to something else, or another key sealed them.
    #[error("a sealed secret does not open: it was changed, or sealed with another key")]
    Broken,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(***)")
    }
}

impl Seal {
    /// Uses the key in the file, which is made when it is not there.
    ///
    /// # Errors
    ///
    /// The file cannot be made or read, is readable by others, or holds no key.
    pub fn open(path: &Path, chance: &dyn Chance) -> Result<Self, SealError> {
        let mut key = [0; KEY_BYTES];
        chance.fill(&mut key);
        match files::create(path, &hex(&key), Readers::Owner) {
            Err(error) if !error.is_already_there() => return Err(error.into()),
            _ => {}
        }
        let text = secret::from_file(path)?;
        let key = unhex(text.expose()).ok_or(SealError::NotAKey)?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| SealError::NotAKey)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Seals `secret` so that it opens only for the same `context`.
    ///
    /// # Errors
    ///
    /// Never in practice: the secret would have to be larger than 64 GiB.
    pub fn seal(
        &self,
        secret: &[u8],
        context: &str,
        chance: &dyn Chance,
    ) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        chance.fill(&mut nonce);
        let mut sealed = secret.to_vec();
        let aad = Aad::from(context.as_bytes());
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(nonce_of, aad, &mut sealed)
            .map_err(|_| SealError::Broken)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`Seal::seal`] gave for the same `context`.
    ///
    /// # Errors
    ///
    /// [`SealError::Broken`] for anything else.
    pub fn open_sealed(&self, sealed: &[u8], context: &str) -> Result<Vec<u8>, SealError> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
        let mut body = body.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(context.as_bytes()), &mut body);
        opened.map(|secret| secret.to_vec()).map_err(|_| SealError::Broken)
    }
}

fn unhex(text: &str) -> Option<[u8; KEY_BYTES]> {
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use homelab_common::chance::SystemChance;

    use super::*;

    #[test]
    fn what_is_sealed_opens_after_a_restart_and_only_for_its_context() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("seal.key");
        let open = || Seal::open(&path, &SystemChance).expect("a key");
        let sealed = open().seal(b"geheim", "token/1", &SystemChance).expect("sealed");
        assert_eq!(open().open_sealed(&sealed, "token/1").expect("opens"), b"geheim");
        assert!(matches!(open().open_sealed(&sealed, "token/2"), Err(SealError::Broken)));
        assert!(!sealed.windows(6).any(|part| part == b"geheim"));
    }

    #[test]
    fn one_changed_bit_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let seal = Seal::open(&folder.path().join("seal.key"), &SystemChance).expect("a key");
        let mut sealed = seal.seal(b"geheim", "x", &SystemChance).expect("sealed");
        for place in 0..sealed.len() {
            sealed[place] ^= 1;
            assert!(seal.open_sealed(&sealed, "x").is_err(), "bit of byte {place}");
            sealed[place] ^= 1;
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("seal.key");
        Seal::open(&path, &SystemChance).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
        let error = Seal::open(&path, &SystemChance).expect_err("refused");
        assert!(
            std::error::Error::source(&error).is_some_and(|e| e.to_string().contains("chmod 600"))
        );
    }
}
