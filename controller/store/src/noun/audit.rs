//! Who did what: append-only, each entry chained to the one before.

use async_trait::async_trait;
use homelab_domain::words;
use jiff::Timestamp;
use ring::digest::{Context, SHA256};

use crate::{
    error::StoreError,
    page::{Page, PageRequest},
};

words! {
    /// How an audited call ended.
    AuditOutcome {
        /// Done.
        Allowed = "allowed",
        /// Refused for want of a role.
        Denied = "denied",
        /// Allowed, and failed.
        Failed = "failed",
    }
}

/// An entry to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who: a SPIFFE id, `key/<name>`, or `controller`.
    pub actor: String,
    /// Method, or the name of an own decision.
    pub action: String,
    /// What it was done to: `host/x99`; may be empty.
    pub subject: String,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// Reason or detail, for people; never a secret or a prompt.
    pub detail: String,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Counts from 1 without gaps.
    pub sequence: u64,
    /// What happened.
    pub entry: NewAuditEntry,
    /// SHA-256 over sequence, entry and the hash before it.
    pub hash: [u8; 32],
}

impl AuditEntry {
    /// The hash that an entry must have after one with the hash `previous` (all
    /// zero before the first).
    ///
    /// SHA-256 over the previous hash, the sequence and the time (microseconds
    /// since 1970) as 8 bytes each, big end first, and each text in the order of
    /// [`NewAuditEntry`] with its length in bytes before it, 8 bytes likewise. The
    /// lengths keep text from moving over from one field to the next unseen.
    #[must_use]
    pub fn expected_hash(previous: &[u8; 32], sequence: u64, entry: &NewAuditEntry) -> [u8; 32] {
        let mut digest = Context::new(&SHA256);
        digest.update(previous);
        digest.update(&sequence.to_be_bytes());
        digest.update(&entry.at.as_microsecond().to_be_bytes());
        let texts =
            [&entry.actor, &entry.action, &entry.subject, entry.outcome.as_str(), &entry.detail];
        for text in texts {
            digest.update(&(text.len() as u64).to_be_bytes());
            digest.update(text.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.finish().as_ref());
        hash
    }
}

/// The first entry that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditFault {
    /// Its sequence; the first missing one when entries were taken out.
    pub sequence: u64,
    /// Why it does not fit.
    pub why: &'static str,
}

/// Walks the chain, page by page, oldest first.
///
/// Feed it each entry with [`AuditWalk::step`], then ask [`AuditWalk::finish`],
/// which compares with the head that the store keeps apart: entries cut off at
/// the end leave an intact but shorter chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditWalk {
    entries: u64,
    hash: [u8; 32],
}

impl AuditWalk {
    /// Checks the next entry.
    pub fn step(&mut self, entry: &AuditEntry) -> Result<(), AuditFault> {
        let sequence = self.entries + 1;
        if entry.sequence != sequence {
            return Err(AuditFault { sequence, why: "the entry is missing" });
        }
        if AuditEntry::expected_hash(&self.hash, sequence, &entry.entry) != entry.hash {
            return Err(AuditFault { sequence, why: "its hash does not fit what it says" });
        }
        self.entries = sequence;
        self.hash = entry.hash;
        Ok(())
    }

    /// Entries that fitted so far: where the next page begins.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Hash of the last entry that fitted.
    #[must_use]
    pub const fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Checks that the walk ended where the chain ends.
    pub fn finish(&self, head: Option<(u64, [u8; 32])>) -> Result<(), AuditFault> {
        let (sequence, hash) = head.unwrap_or_default();
        if sequence == self.entries && hash == self.hash {
            return Ok(());
        }
        let why = "the chain ends elsewhere than the store remembers";
        Err(AuditFault { sequence: self.entries.min(sequence) + 1, why })
    }
}

/// The audit log.
#[async_trait]
pub trait Audit: Send {
    /// Appends an entry. The chain is locked until the transaction ends, so append
    /// last. The entry exists only if the transaction is committed: what it tells
    /// of and the telling stand or fall together.
    async fn append(&mut self, entry: &NewAuditEntry) -> Result<AuditEntry, StoreError>;

    /// Entries, newest first; only by `actor`, when given.
    async fn list(
        &mut self,
        actor: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError>;

    /// At most `limit` entries after `sequence`, oldest first: what a walk reads.
    async fn after(&mut self, sequence: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;

    /// Sequence and hash of the last entry, as kept apart from the entries; none
    /// before the first.
    async fn head(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(detail: &str) -> NewAuditEntry {
        NewAuditEntry {
            at: Timestamp::UNIX_EPOCH,
            actor: "controller".to_owned(),
            action: "wake".to_owned(),
            subject: "host/x99".to_owned(),
            outcome: AuditOutcome::Allowed,
            detail: detail.to_owned(),
        }
    }

    fn chain(length: u64) -> Vec<AuditEntry> {
        let mut previous = [0; 32];
        (1..=length)
            .map(|sequence| {
                let entry = entry(&format!("entry {sequence}"));
                let hash = AuditEntry::expected_hash(&previous, sequence, &entry);
                previous = hash;
                AuditEntry { sequence, entry, hash }
            })
            .collect()
    }

    fn walk(entries: &[AuditEntry]) -> Result<AuditWalk, AuditFault> {
        let mut walk = AuditWalk::default();
        entries.iter().try_for_each(|entry| walk.step(entry)).map(|()| walk)
    }

    #[test]
    fn a_changed_entry_is_named() {
        let mut entries = chain(5);
        assert!(walk(&entries).is_ok());
        entries[2].entry.detail.push('!');
        assert_eq!(walk(&entries).unwrap_err().sequence, 3);
    }

    #[test]
    fn a_removed_entry_is_named_wherever_it_was() {
        let entries = chain(5);
        let head = entries.last().map(|last| (last.sequence, last.hash));
        let mut holed = entries.clone();
        holed.remove(1);
        assert_eq!(walk(&holed).unwrap_err().sequence, 2);
        let cut = walk(&entries[..4]).unwrap();
        assert_eq!(cut.finish(head).unwrap_err().sequence, 5);
        assert_eq!(walk(&entries).unwrap().finish(head), Ok(()));
    }

    #[test]
    fn text_cannot_move_between_fields_unseen() {
        let (mut a, mut b) = (entry(""), entry(""));
        (a.actor, a.action) = ("ab".to_owned(), "c".to_owned());
        (b.actor, b.action) = ("a".to_owned(), "bc".to_owned());
        let hash = |entry: &NewAuditEntry| AuditEntry::expected_hash(&[0; 32], 1, entry);
        assert_ne!(hash(&a), hash(&b));
    }
}
