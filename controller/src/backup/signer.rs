//! The key that evidence is signed with: an own one, which outlives the certificates of the
//! controller, so that what was signed a year ago can be checked with what the recovery kit prints.

use std::{fmt, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use homelab_common::secret;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};

use crate::ca::{
    files::{self, FileError, Readers},
    issue::hex,
};

/// What stands before the point of a P-256 key in a SubjectPublicKeyInfo (RFC 5480, section 2).
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file cannot be read.
    #[error("the key that evidence is signed with cannot be read")]
    Read(#[from] secret::SecretError),
    /// The file holds something else, or the system gives no randomness.
    #[error("there is no usable key for signing evidence; restore the file from the backup")]
    NotAKey,
}

/// Signs evidence. Clones share the key.
#[derive(Clone)]
pub struct Signer(Arc<Inner>);

struct Inner {
    key: EcdsaKeyPair,
    random: SystemRandom,
    spki: Vec<u8>,
    key_id: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.0.key_id).finish()
    }
}

impl Signer {
    /// Uses the key in the file, which is made when it is not there.
    ///
    /// # Errors
    ///
    /// The file cannot be made or read, is readable by others, or holds no key.
    pub fn open(path: &Path) -> Result<Self, SignerError> {
        let fresh = Self::fresh()?;
        match files::create(path, &STANDARD.encode(&fresh), Readers::Owner) {
            Err(error) if !error.is_already_there() => return Err(error.into()),
            _ => {}
        }
        let text = secret::from_file(path)?;
        let pkcs8 = STANDARD.decode(text.expose().trim()).map_err(|_| SignerError::NotAKey)?;
        Self::of(&pkcs8)
    }

    /// A key that is gone with the process: for tests.
    ///
    /// # Errors
    ///
    /// The system gives no randomness.
    pub fn ephemeral() -> Result<Self, SignerError> {
        Self::of(&Self::fresh()?)
    }

    fn fresh() -> Result<Vec<u8>, SignerError> {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
        made.map(|pkcs8| pkcs8.as_ref().to_vec()).map_err(|_| SignerError::NotAKey)
    }

    fn of(pkcs8: &[u8]) -> Result<Self, SignerError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random)
            .map_err(|_| SignerError::NotAKey)?;
        let spki = [&SPKI_HEAD, key.public_key().as_ref()].concat();
        let key_id = hex(digest(&SHA256, &spki).as_ref());
        Ok(Self(Arc::new(Inner { key, random, spki, key_id })))
    }

    /// Signs a text: ECDSA P-256 with SHA-256, in ASN.1 DER. None when the system gives no randomness.
    #[must_use]
    pub fn sign(&self, text: &str) -> Option<Vec<u8>> {
        let signed = self.0.key.sign(&self.0.random, text.as_bytes()).ok()?;
        Some(signed.as_ref().to_vec())
    }

    /// SHA-256 of the public key, in hexadecimal digits.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.0.key_id
    }

    /// The public key, in base64 of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> String {
        STANDARD.encode(&self.0.spki)
    }

    /// The public key in PEM.
    #[must_use]
    pub fn public_pem(&self) -> String {
        let text = self.spki();
        let (mut lines, mut rest) = (String::new(), text.as_str());
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            lines.push_str(line);
            lines.push('\n');
            rest = more;
        }
        format!("-----BEGIN PUBLIC KEY-----\n{lines}-----END PUBLIC KEY-----\n")
    }
}

/// Whether `signature` over `text` is of the key with that SubjectPublicKeyInfo, in base64, and the
/// key has that identifier.
#[must_use]
pub fn is_signed(spki: &str, key_id: &str, text: &str, signature: &[u8]) -> bool {
    let Ok(spki) = STANDARD.decode(spki) else { return false };
    let Some(point) = spki.strip_prefix(SPKI_HEAD.as_slice()) else { return false };
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    hex(digest(&SHA256, &spki).as_ref()) == key_id && key.verify(text.as_bytes(), signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("evidence.key");
        let first = Signer::open(&path).expect("a key");
        let again = Signer::open(&path).expect("the same key");
        assert_eq!(first.key_id(), again.key_id());
        let signature = first.sign("a text").expect("a signature");
        assert!(is_signed(&again.spki(), again.key_id(), "a text", &signature));
        assert!(!is_signed(&again.spki(), again.key_id(), "another", &signature));
        let other = Signer::ephemeral().expect("a key");
        assert!(!is_signed(&other.spki(), other.key_id(), "a text", &signature));
        assert!(first.public_pem().starts_with("-----BEGIN PUBLIC KEY-----\nMFkw"));
    }
}
