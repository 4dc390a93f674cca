//! The proof that a host knows a token's secret.

use ring::hmac;

use super::{TokenSecret, Verifier};
use crate::connection::EXPORTER_BYTES;

/// Length of the controller's nonce, in bytes.
pub const NONCE_BYTES: usize = 32;

/// Length of a proof, in bytes.
pub const PROOF_BYTES: usize = 32;

/// Keeps this use of the key apart from any other.
const LABEL: &[u8] = b"homelab enrolment proof v1";

/// What a proof is made over.
#[derive(Clone, Copy, Debug)]
pub struct ProofParts<'p> {
    /// The signing request, DER.
    pub signing_request: &'p [u8],
    /// The controller's nonce.
    pub nonce: &'p [u8],
    /// The value of the TLS connection, so that the proof is worth nothing in another one.
    pub exporter: &'p [u8; EXPORTER_BYTES],
}

/// The proof does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not fit the token, the request and this connection")]
pub struct WrongProof;

/// HMAC-SHA-256 over label, signing request, nonce and exporter, each behind its length (eight
/// bytes, big-endian). The key is the SHA-256 of the secret, which is what the controller keeps.
#[must_use]
pub fn prove(secret: &TokenSecret, parts: ProofParts<'_>) -> [u8; PROOF_BYTES] {
    let mut proof = [0; PROOF_BYTES];
    proof.copy_from_slice(hmac::sign(&key(&Verifier::of(secret)), &message(parts)).as_ref());
    proof
}

/// Checks a proof, in a time that does not depend on it.
///
/// # Errors
///
/// It does not fit.
pub fn verify_proof(
    verifier: &Verifier,
    parts: ProofParts<'_>,
    proof: &[u8],
) -> Result<(), WrongProof> {
    hmac::verify(&key(verifier), &message(parts), proof).map_err(|_| WrongProof)
}

fn key(verifier: &Verifier) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, verifier.as_bytes())
}

fn message(parts: ProofParts<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    for part in [LABEL, parts.signing_request, parts.nonce, parts.exporter.as_slice()] {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

#[cfg(test)]
mod tests {
    use homelab_common::secret::Secret;

    use super::*;

    fn parts<'p>(csr: &'p [u8], nonce: &'p [u8], exporter: &'p [u8; 32]) -> ProofParts<'p> {
        ProofParts { signing_request: csr, nonce, exporter }
    }

    #[test]
    fn a_proof_fits_its_parts_and_nothing_else() {
        let secret = Secret::new([7; 32]);
        let verifier = Verifier::of(&secret);
        let good = parts(b"csr", b"nonce", &[1; 32]);
        let proof = prove(&secret, good);
        assert_eq!(verify_proof(&verifier, good, &proof), Ok(()));
        for other in [
            parts(b"cs", b"rnonce", &[1; 32]),
            parts(b"csr", b"other", &[1; 32]),
            parts(b"csr", b"nonce", &[2; 32]),
        ] {
            assert_eq!(verify_proof(&verifier, other, &proof), Err(WrongProof));
        }
        let stranger = Verifier::of(&Secret::new([8; 32]));
        assert_eq!(verify_proof(&stranger, good, &proof), Err(WrongProof));
        assert_eq!(verify_proof(&verifier, good, &proof[..31]), Err(WrongProof));
        assert_eq!(verify_proof(&verifier, good, &[]), Err(WrongProof));
    }
}
