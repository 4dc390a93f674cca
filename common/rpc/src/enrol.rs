//! From a token to an identity, and from an identity to the next one.
//!
//! A token carries the key pin of the site's root, so that a host proves that it knows the secret
//! only to the right controller. The secret itself never crosses the wire: what does is a proof
//! over the signing request, the controller's nonce and the TLS connection.

mod client;
mod files;
mod proof;
mod renew;
mod request;
mod token;

pub use client::{EnrolError, EnrolRequest, Enrolled, enrol};
pub use files::{
    ENROLMENT_FILE, Enrolment, FilesError, IdentityFiles, enrolment_in, give_to_owner_of,
};
pub use proof::{NONCE_BYTES, PROOF_BYTES, ProofParts, WrongProof, prove, verify_proof};
pub use renew::{RenewError, Renewal, due_at};
pub use request::{InvalidRequest, NewKey, SIGNING_REQUEST_BYTES_MAX, csr_public_key};
pub use token::{InvalidToken, SECRET_BYTES, TOKEN_ID_BYTES, Token, TokenSecret, Verifier};
