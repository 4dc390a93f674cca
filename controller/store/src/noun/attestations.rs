//! Signed statements: one chain that only grows.

use async_trait::async_trait;
use homelab_domain::{evidence::StatementKind, ids::BackupName};
use jiff::Timestamp;

use crate::{
    error::StoreError,
    page::{Page, PageRequest},
};

/// One signed statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Counts from 1 without gaps.
    pub sequence: u64,
    /// When it was made.
    pub at: Timestamp,
    /// What it is about.
    pub kind: StatementKind,
    /// The backup that it is about.
    pub backup: Option<BackupName>,
    /// The text that is signed; it names the digest of the one before.
    pub statement: String,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
    /// ECDSA P-256 with SHA-256 over the text, in ASN.1 DER.
    pub signature: Vec<u8>,
    /// SHA-256 of the public key, in hexadecimal digits.
    pub key_id: String,
}

/// Signed statements.
#[async_trait]
pub trait Attestations: Send {
    /// Appends one. Its `sequence` must follow the newest; of two that are made at the same time, one
    /// gets [`StoreError::Conflict`].
    async fn append(&mut self, attestation: &Attestation) -> Result<(), StoreError>;

    /// The newest.
    async fn head(&mut self) -> Result<Option<Attestation>, StoreError>;

    /// At most `limit` after a place in the chain, in order: to walk it.
    async fn after(&mut self, sequence: u64, limit: u32) -> Result<Vec<Attestation>, StoreError>;

    /// Those of a kind, the newest first, of one backup or of all.
    async fn list(
        &mut self,
        kind: StatementKind,
        backup: Option<&BackupName>,
        page: &PageRequest,
    ) -> Result<Page<Attestation>, StoreError>;
}
