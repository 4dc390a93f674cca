//! `[[backup]]` with `source = "vaultwarden"`.

use std::{fmt, path::PathBuf};

use homelab_common::config::{Section, parse};

use crate::source::postgres::config::PostgresConfig;

/// More than a bad day's deletions, less than a vault that was emptied.
const MAY_FALL_PERCENT: u8 = 30;

/// A Vaultwarden to back up.
#[derive(Clone, Debug)]
pub struct VaultwardenConfig {
    /// Its `DATA_FOLDER`.
    pub data_folder: PathBuf,
    /// Its `ATTACHMENTS_FOLDER`, if that lies elsewhere.
    pub attachments_folder: Option<PathBuf>,
    /// Its `SENDS_FOLDER`, if that lies elsewhere.
    pub sends_folder: Option<PathBuf>,
    /// Where its rows are.
    pub store: StoreConfig,
    /// By how much the rows may have fallen since the last backup, in percent.
    pub may_fall_percent: u8,
    /// So many rows are enough, whatever there were before.
    pub accept_items: Option<u64>,
    /// Uploads that are known to be lost, by their paths in the data folder.
    pub known_missing: Vec<String>,
}

/// Which database a Vaultwarden uses.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// A file; `db.sqlite3` in the data folder unless named.
    Sqlite(Option<PathBuf>),
    /// PostgreSQL.
    Postgres(PostgresConfig),
}

impl VaultwardenConfig {
    /// Reads the keys of a `[[backup]]`; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let data_folder = section.required("data-folder", parse::path);
        let attachments_folder = section.optional("attachments-folder", parse::path);
        let sends_folder = section.optional("sends-folder", parse::path);
        let words = [("sqlite", false), ("postgres", true)];
        let store = if section.or("store", false, parse::word(&words)) {
            StoreConfig::Postgres(PostgresConfig::read(section)?)
        } else {
            StoreConfig::Sqlite(section.optional("database-file", parse::path))
        };
        let may_fall_percent =
            section.or("may-fall-percent", MAY_FALL_PERCENT, parse::integer(0..=100));
        let accept_items = section.optional("accept-items", parse::integer(1..=u64::MAX));
        let known_missing = section.list("known-missing", parse::string);
        Some(Self {
            data_folder: data_folder?,
            attachments_folder,
            sends_folder,
            store,
            may_fall_percent,
            accept_items,
            known_missing,
        })
    }
}

impl fmt::Display for VaultwardenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "data-folder = \"{}\"", self.data_folder.display())?;
        if let Some(folder) = &self.attachments_folder {
            writeln!(f, "attachments-folder = \"{}\"", folder.display())?;
        }
        if let Some(folder) = &self.sends_folder {
            writeln!(f, "sends-folder = \"{}\"", folder.display())?;
        }
        match &self.store {
            StoreConfig::Sqlite(None) => writeln!(f, "store = \"sqlite\"")?,
            StoreConfig::Sqlite(Some(file)) => {
                writeln!(f, "store = \"sqlite\"\ndatabase-file = \"{}\"", file.display())?;
            }
            StoreConfig::Postgres(config) => write!(f, "store = \"postgres\"\n{config}")?,
        }
        writeln!(f, "may-fall-percent = {}", self.may_fall_percent)?;
        if let Some(items) = self.accept_items {
            writeln!(f, "accept-items = {items}")?;
        }
        if self.known_missing.is_empty() {
            return Ok(());
        }
        writeln!(f, "known-missing = {:?}", self.known_missing)
    }
}
