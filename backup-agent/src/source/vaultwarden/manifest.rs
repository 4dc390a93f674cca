//! What a Vaultwarden held.

use serde::{Deserialize, Serialize};

use crate::{
    source::postgres::manifest::PostgresContents,
    tree::{Entry, What},
};

/// What was counted when a Vaultwarden was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultwardenContents {
    /// The data folder that was read, escaped.
    pub folder: Box<str>,
    /// The database, if it is one of PostgreSQL; SQLite's is a file of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresContents>,
    /// Rows of every table, by name.
    pub tables: Vec<TableRows>,
    /// The files that rows of the database stand for.
    pub uploads: Vec<Upload>,
    /// Those of them that users deleted while the backup ran: rows without a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted_meanwhile: Vec<Box<str>>,
    /// Everything that is in the archive, in its order.
    pub entries: Vec<Entry>,
}

/// How many rows a table has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
}

/// What kind of file a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UploadKind {
    /// An attachment of an entry of somebody's vault.
    Attachment,
    /// The file of a Send.
    Send,
}

/// A file that a row of the database stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// What it is.
    pub kind: UploadKind,
    /// Its path in the data folder, escaped.
    pub path: Box<str>,
    /// Its size, as the row has it.
    pub bytes: u64,
}

/// The tables whose rows people would miss.
const TREASURED: [&str; 6] =
    ["users", "ciphers", "attachments", "folders", "collections", "organizations"];

impl VaultwardenContents {
    /// Rows of the tables whose rows people would miss: users, vault entries,
    /// attachments, folders, collections, organisations.
    #[must_use]
    pub fn items(&self) -> u64 {
        items(&self.tables)
    }

    /// Rows of one table.
    #[must_use]
    pub fn rows(&self, table: &str) -> u64 {
        self.tables.iter().filter(|it| it.table == table).map(|it| it.rows).sum()
    }

    /// How many files of this kind rows stand for.
    #[must_use]
    pub fn uploads_of(&self, kind: UploadKind) -> u64 {
        self.uploads.iter().filter(|upload| upload.kind == kind).count() as u64
    }
}

/// As [`VaultwardenContents::items`].
pub(super) fn items(tables: &[TableRows]) -> u64 {
    let treasured = tables.iter().filter(|it| TREASURED.contains(&it.table.as_str()));
    treasured.map(|it| it.rows).sum()
}

/// The uploads that the archive lacks, or has in another size.
pub(super) fn missing<'a>(uploads: &'a [Upload], entries: &[Entry]) -> Vec<&'a Upload> {
    let files: std::collections::HashMap<&str, u64> = entries
        .iter()
        .filter(|entry| matches!(entry.what, What::File { .. }))
        .map(|entry| (&*entry.path, entry.bytes()))
        .collect();
    uploads.iter().filter(|upload| files.get(&*upload.path) != Some(&upload.bytes)).collect()
}

/// How many files in the folders of uploads no row stands for, and the first of them.
/// They do no harm: Vaultwarden leaves some behind when an upload breaks off.
pub(crate) fn orphans<'a>(uploads: &[Upload], entries: &'a [Entry]) -> Vec<&'a str> {
    let known: std::collections::HashSet<&str> =
        uploads.iter().map(|upload| &*upload.path).collect();
    let of_uploads = |path: &str| path.starts_with("attachments/") || path.starts_with("sends/");
    entries
        .iter()
        .filter(|entry| matches!(entry.what, What::File { .. }))
        .map(|entry| &*entry.path)
        .filter(|path| of_uploads(path) && !known.contains(path))
        .collect()
}
