//! Signing requests (PKCS#10, RFC 2986): made by hosts, looked at by the controller.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use homelab_common::secret::Secret;

/// The largest signing request, in bytes; the protocol says so.
pub const SIGNING_REQUEST_BYTES_MAX: usize = 4 * 1024;

/// id-ecPublicKey (RFC 5480 §2.1.1).
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";

/// secp256r1 (RFC 5480 §2.1.1.1).
const P256: &str = "1.2.840.10045.3.1.7";

/// ecdsa-with-SHA256 (RFC 5758 §3.2).
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";

/// Why a signing request is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// It is larger than one of ours can be.
    #[error(
        "the signing request has {bytes} bytes, at most {SIGNING_REQUEST_BYTES_MAX} are allowed"
    )]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// It is not PKCS#10.
    #[error("the signing request is not PKCS#10 in DER")]
    Malformed,
    /// Its key is of another kind.
    #[error("the signing request must be for an ECDSA key on P-256, signed with SHA-256")]
    Algorithm,
    /// Whoever made it does not have the key.
    #[error("the signing request is not signed with the key that it is for")]
    Signature,
}

/// The public key (SubjectPublicKeyInfo, DER) of a signing request; nothing else of it is to be
/// used. The sender has proved to hold the private key.
///
/// # Errors
///
/// It is too large, not PKCS#10, for a key that is not P-256, or not signed with that key.
pub fn csr_public_key(der: &[u8]) -> Result<Vec<u8>, InvalidRequest> {
    if der.len() > SIGNING_REQUEST_BYTES_MAX {
        return Err(InvalidRequest::TooLarge { bytes: der.len() });
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| InvalidRequest::Malformed)?;
    if !rest.is_empty() {
        return Err(InvalidRequest::Malformed);
    }
    let info = &request.certification_request_info;
    let key = &info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    let is_p256 = key.algorithm.algorithm.to_id_string() == EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve.to_id_string() == P256);
    if !is_p256 || request.signature_algorithm.algorithm.to_id_string() != ECDSA_SHA256 {
        return Err(InvalidRequest::Algorithm);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.subject_public_key.data.as_ref())
        .verify(info.raw, request.signature_value.data.as_ref())
        .map_err(|_| InvalidRequest::Signature)?;
    Ok(key.raw.to_vec())
}

/// A new key with its signing request.
#[derive(Debug)]
pub struct NewKey {
    /// The private key, PEM.
    pub key_pem: Secret<String>,
    /// The request, PKCS#10 in DER.
    pub signing_request: Vec<u8>,
}

impl NewKey {
    /// Makes a P-256 key. The request names nobody: the signer knows who asks.
    ///
    /// # Errors
    ///
    /// The system gives no randomness.
    pub fn make() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let signing_request = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { key_pem: Secret::new(key.serialize_pem()), signing_request })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::PKCS_ECDSA_P384_SHA384;

    use super::*;

    #[test]
    fn our_own_request_gives_its_key() {
        let new = NewKey::make().expect("a key");
        let key = KeyPair::from_pem(new.key_pem.expose()).expect("the same key");
        let spki = csr_public_key(&new.signing_request).expect("accepted");
        assert_eq!(spki, rcgen::PublicKeyData::subject_public_key_info(&key));
    }

    #[test]
    fn no_flipped_byte_leads_to_another_key() {
        let good = NewKey::make().expect("a key").signing_request;
        let key = csr_public_key(&good);
        assert!(key.is_ok());
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            let got = csr_public_key(&bad);
            assert!(got.is_err() || got == key, "byte {index} went unnoticed");
        }
    }

    #[test]
    fn other_curves_are_refused() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        assert_eq!(csr_public_key(request.der()), Err(InvalidRequest::Algorithm));
    }

    #[test]
    fn a_request_that_is_too_large_is_not_parsed() {
        let bytes = SIGNING_REQUEST_BYTES_MAX + 1;
        assert_eq!(csr_public_key(&vec![0; bytes]), Err(InvalidRequest::TooLarge { bytes }));
    }

    #[test]
    fn bytes_after_the_request_are_refused() {
        let mut request = NewKey::make().expect("a key").signing_request;
        request.push(0);
        assert_eq!(csr_public_key(&request), Err(InvalidRequest::Malformed));
    }
}
