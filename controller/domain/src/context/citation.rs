//! Where a passage is from.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Leaves, Passage};
use crate::ids::SourceName;

/// Where a passage that was put before a job is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Citation {
    /// Its number before the job: an answer says `[2]`.
    pub number: u32,
    /// Its source.
    pub source: SourceName,
    /// The document, as its source names it.
    pub document: String,
    /// Headings above it; may be empty.
    pub heading: String,
    /// Where people find the document; may be empty.
    pub url: String,
    /// Which state of the document: a commit, or when a page was changed.
    pub version: String,
    /// The passage's own name, 32 hexadecimal digits.
    pub passage: String,
}

impl Citation {
    /// The citation of a passage under a number.
    #[must_use]
    pub fn of(number: u32, source: &SourceName, passage: &Passage) -> Self {
        Self {
            number,
            source: source.clone(),
            document: passage.document.clone(),
            heading: passage.heading.clone(),
            url: passage.url.clone(),
            version: passage.version.clone(),
            passage: passage.id.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// `[2] homelab: docs/restore.md @ 3f2a91c0d4e5 — Backups > Restore`.
impl fmt::Display for Citation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version: String = self.version.chars().take(24).collect();
        write!(f, "[{}] {}: {} @ {version}", self.number, self.source, self.document)?;
        if self.heading.is_empty() { Ok(()) } else { write!(f, " — {}", self.heading) }
    }
}

/// What was put before a job, once, when it came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Where each passage is from, by number.
    pub citations: Vec<Citation>,
    /// Where a job with these passages may go: the strictest word of their sources.
    pub leaves: Leaves,
    /// SHA-256 of the request as its caller sent it: the same call that comes again is known by it.
    pub asked: [u8; 32],
}
