//! The data folder of a Vaultwarden, with a writer that keeps the log of its database open.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use homelab_tests::backup_lab::BackupLab;
use sqlx::{
    AssertSqlSafe, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio::runtime::Runtime;

/// What matters here of the tables of Vaultwarden 1.36.
const SCHEMA: &str = "\
    CREATE TABLE users (uuid TEXT PRIMARY KEY, enabled BOOLEAN NOT NULL DEFAULT 1,
      created_at DATETIME NOT NULL, email TEXT NOT NULL UNIQUE,
      client_kdf_type INTEGER NOT NULL DEFAULT 0, client_kdf_iter INTEGER NOT NULL DEFAULT 600000);
    CREATE TABLE organizations (uuid TEXT PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE collections (uuid TEXT PRIMARY KEY,
      org_uuid TEXT NOT NULL REFERENCES organizations (uuid), name TEXT NOT NULL);
    CREATE TABLE folders (uuid TEXT PRIMARY KEY,
      user_uuid TEXT NOT NULL REFERENCES users (uuid), name TEXT NOT NULL);
    CREATE TABLE ciphers (uuid TEXT PRIMARY KEY, user_uuid TEXT REFERENCES users (uuid),
      organization_uuid TEXT REFERENCES organizations (uuid), name TEXT NOT NULL);
    CREATE TABLE attachments (id TEXT PRIMARY KEY,
      cipher_uuid TEXT NOT NULL REFERENCES ciphers (uuid), file_name TEXT NOT NULL,
      file_size INTEGER NOT NULL);
    CREATE TABLE sends (uuid TEXT PRIMARY KEY, user_uuid TEXT REFERENCES users (uuid),
      atype INTEGER NOT NULL, data TEXT NOT NULL);
    INSERT INTO users (uuid, created_at, email) VALUES ('u1', '2026-01-01', 'ada@lab.example');
    INSERT INTO ciphers (uuid, user_uuid, name) VALUES ('c1', 'u1', 'n'), ('c2', 'u1', 'n');
    INSERT INTO attachments VALUES ('a1', 'c1', 'x', 1000);";

/// A Vaultwarden that runs.
pub(crate) struct Vault {
    pub(crate) folder: PathBuf,
    live: Option<SqliteConnection>,
    runtime: Runtime,
}

impl Vault {
    pub(crate) fn start(lab: &BackupLab) -> anyhow::Result<Self> {
        let folder = lab.path("vault");
        lab.write("vault/attachments/c1/a1", [1; 1000])?;
        lab.write("vault/config.json", "{}")?;
        lab.write("vault/rsa_key.pem", "-----BEGIN PRIVATE KEY-----")?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join("db.sqlite3"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let runtime = Runtime::new()?;
        let live = runtime.block_on(SqliteConnection::connect_with(&options))?;
        let mut vault = Self { folder, live: Some(live), runtime };
        // Everything stays in the log: the file itself has nothing.
        vault.execute("PRAGMA wal_autocheckpoint = 0")?;
        vault.execute(SCHEMA)?;
        Ok(vault)
    }

    fn execute(&mut self, sql: &'static str) -> anyhow::Result<()> {
        let live = self.live.as_mut().context("it runs")?;
        self.runtime.block_on(sqlx::raw_sql(AssertSqlSafe(sql)).execute(live))?;
        Ok(())
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            drop(self.runtime.block_on(live.close()));
        }
    }
}

/// Vault entries of a database that nobody uses.
pub(crate) fn entries(database: &std::path::Path) -> anyhow::Result<i64> {
    fs::metadata(database).context("no database")?;
    let options = SqliteConnectOptions::new().filename(database);
    Ok(Runtime::new()?.block_on(async {
        let mut database = SqliteConnection::connect_with(&options).await?;
        sqlx::query_scalar("SELECT count(*) FROM ciphers").fetch_one(&mut database).await
    })?)
}
