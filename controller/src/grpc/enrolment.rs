//! Identities over the wire.

pub mod nonce;
