//! What PostgreSQL databases held at the moment that was dumped.
//!
//! Taken in the exported snapshot that `pg_dump` reads, so that it says what the
//! dump *should* hold. It is what a drill compares a restored database with: the exit
//! code of psql proves nothing, since a dump cut in the middle of a table restores
//! with exit code 0.

mod compare;

use serde::{Deserialize, Serialize};

pub use compare::{Difference, compare};

use crate::{repository::StoredFile, stream::Sha256};

/// What the databases of one server held, all but at the same moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresContents {
    /// Version of the `pg_dump` that was used.
    pub dump_version: String,
    /// Places on the server's disks that its databases use, beside the usual one. A
    /// restore needs others or none: a drill puts all into one place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<String>,
    /// Each database, with the file that holds its dump.
    pub databases: Vec<StoredDatabase>,
}

/// A database and its dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDatabase {
    /// The file of the dump, beside the manifest.
    pub file: String,
    /// What it should hold.
    #[serde(flatten)]
    pub contents: DatabaseContents,
}

impl PostgresContents {
    /// Rows of all tables, those of materialised views included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.databases.iter().map(|database| database.contents.rows()).sum()
    }

    /// Why the dumps cannot hold all of it, if that shows by their sizes.
    pub(crate) fn implausible(&self, files: &[StoredFile]) -> Option<String> {
        self.databases.iter().find_map(|database| {
            let dump = files.iter().find(|file| file.name == database.file)?;
            database.contents.implausible(dump)
        })
    }
}

/// What a database holds, whether source or restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseContents {
    /// The server and the database itself.
    pub database: Database,
    /// How [`Table::hash`] was made.
    #[serde(default)]
    pub row_hash: RowHash,
    /// Ordinary tables and materialised views.
    pub tables: Vec<Table>,
    /// Sequences.
    pub sequences: Vec<Sequence>,
    /// All large objects together.
    pub large_objects: LargeObjects,
    /// Extensions.
    pub extensions: Vec<Extension>,
    /// Roles that own something or hold rights; a restore needs them all.
    pub roles: Vec<String>,
    /// Everything the schema consists of.
    pub objects: Vec<Object>,
}

impl DatabaseContents {
    /// Rows of all tables, those of materialised views included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Every row takes at least a line break in a plain dump: fewer bytes than rows
    /// cannot be all of them.
    fn implausible(&self, dump: &StoredFile) -> Option<String> {
        let dumped = |table: &&Table| table.kind == TableKind::Table;
        let rows: u64 = self.tables.iter().filter(dumped).map(|table| table.rows).sum();
        (dump.bytes == 0 || dump.bytes < rows).then(|| {
            format!(
                "`{}` has {} bytes, yet the database held {rows} rows at that moment; look at \
                 what pg_dump is given to read",
                dump.name, dump.bytes
            )
        })
    }

    /// Digest of all schema objects, owners and rights included.
    #[must_use]
    pub fn schema_hash(&self) -> Sha256 {
        let mut text = String::new();
        for Object { kind, name, owner, definition } in &self.objects {
            for part in [kind, name, owner, definition] {
                text.push_str(part);
                text.push('\0');
            }
        }
        Sha256::of(text.as_bytes())
    }
}

/// A server and one of its databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Name of the database.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// Version of the server, such as `15.13 (Debian 15.13-1)`.
    pub server_version: String,
    /// The same as a number: 150013.
    pub server_version_num: u32,
    /// Identifier of the cluster, from `pg_control_system()`: no two clusters share one.
    pub system_identifier: String,
    /// Encoding, as `UTF8`.
    pub encoding: String,
    /// Sort order.
    pub collate: String,
    /// Character classes.
    pub ctype: String,
    /// ICU locale, when the database uses ICU.
    pub icu_locale: Option<String>,
    /// `ALTER DATABASE … SET` of this database, `role/name=value` each. They are
    /// not in the dump.
    pub settings: Vec<String>,
}

impl Database {
    /// The major version of the server.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.server_version_num / 10_000
    }
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Schema and name, quoted where SQL needs it.
    pub name: String,
    /// What it is: its rows come from the dump, or are computed at restore.
    pub kind: TableKind,
    /// Owner.
    pub owner: String,
    /// Rows.
    pub rows: u64,
    /// Sum over all rows of a 64-bit hash of the row: the same in any order.
    pub hash: String,
}

/// What of a row is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowHash {
    /// The text form of the whole row.
    #[default]
    Text,
    /// The values themselves, where equal values have but one text form; the text form
    /// of others. A fifth of the work.
    Values,
}

impl RowHash {
    /// The cheapest that a server can do: it hashes records since version 14.
    #[must_use]
    pub const fn best_for(major: u32) -> Self {
        if major >= 14 { Self::Values } else { Self::Text }
    }
}

/// Where the rows of a table come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableKind {
    /// From the dump.
    Table,
    /// From its query, run again at restore.
    MaterializedView,
}

/// One sequence. Sequences are outside of transactions, so that their state in the
/// dump lies between the two that were read before and after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Schema and name.
    pub name: String,
    /// Before the dump; absent when never used.
    pub before: Option<i64>,
    /// After the dump.
    pub after: Option<i64>,
}

/// All large objects of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeObjects {
    /// How many.
    pub count: u64,
    /// Sum over all of a hash of identifier and bytes.
    pub hash: String,
}

/// One extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
}

/// One object of the schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Object {
    /// What it is: `table`, `index`, `function` and so on.
    pub kind: String,
    /// Its name, unambiguous within the kind.
    pub name: String,
    /// Owner; empty where the owner is that of a table.
    pub owner: String,
    /// MD5 of definition and rights: a fingerprint, not a protection.
    pub definition: String,
}
