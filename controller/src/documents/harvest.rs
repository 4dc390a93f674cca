//! What one look at a source brought home.

use homelab_domain::context::Document;

/// Largest document that is read, in bytes.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 256 * 1024;

/// Documents of one source at most.
pub(super) const DOCUMENTS_MAX: usize = 5_000;

/// Bytes of all documents of one source at most: they are held in memory while they are cut.
pub(super) const TOTAL_BYTES_MAX: u64 = 16 << 20;

/// Notes that are kept of one refresh.
const NOTES_MAX: usize = 20;

/// Documents, and what is not among them.
#[derive(Debug, Default)]
pub struct Harvest {
    /// What was read.
    pub documents: Vec<Document>,
    /// How many were passed over.
    pub skipped: u32,
    /// Some of those, with why.
    pub notes: Vec<String>,
}

impl Harvest {
    /// Counts a document that is not taken.
    pub(super) fn pass_over(&mut self, path: &str, why: &str) {
        self.skipped += 1;
        self.note(path, why);
    }

    /// Writes down something worth knowing, while there is room.
    pub(super) fn note(&mut self, path: &str, what: &str) {
        if self.notes.len() < NOTES_MAX {
            let path: String = path.chars().take(200).collect();
            self.notes.push(format!("{path}: {what}"));
        }
    }
}
