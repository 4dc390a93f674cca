//! Vaultwarden's SQLite database: a copy of it, and what is in the copy.
//!
//! The copy is made by `VACUUM INTO` (sqlite.org/lang_vacuum.html): one consistent
//! state, whatever is written meanwhile, with what still lies in the write-ahead log
//! and without what was deleted. A copied *file* has neither: without its log it may
//! not even have tables.

use std::{
    fs::{OpenOptions, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    VaultwardenError,
    manifest::{TableRows, Upload, UploadKind},
};
use crate::tree::escape;

/// How long a writer is waited for. Vaultwarden itself waits for 5 s.
const BUSY_MAX: Duration = Duration::from_secs(30);

/// Findings of SQLite that are given.
const FINDINGS_MAX: usize = 10;

/// What a database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Rows of each table, by name.
    pub(crate) tables: Vec<TableRows>,
    /// The files that its rows stand for.
    pub(crate) uploads: Vec<Upload>,
    /// Somebody who may log in.
    pub(crate) user: Option<User>,
    /// What SQLite finds wrong with it, a sentence each.
    pub(crate) damage: Vec<String>,
}

/// What anybody may learn of a user before logging in
/// (`/identity/accounts/prelogin`): how the key is made from the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) email: String,
    pub(crate) kdf: i64,
    pub(crate) iterations: i64,
}

/// Copies the live database at `from` into the new file `to`.
pub(super) async fn copy(from: &Path, to: &Path) -> Result<(), VaultwardenError> {
    match from.metadata() {
        Ok(found) if found.len() > 0 => {}
        // SQLite would take it for a database without tables.
        Ok(_) => return Err(VaultwardenError::NoUsers { path: from.into() }),
        Err(source) => return Err(VaultwardenError::NoDatabase { path: from.into(), source }),
    }
    let mut live = open(from).await?;
    let target = to.to_string_lossy().into_owned();
    let copied = sqlx::query("VACUUM INTO ?").bind(target).execute(&mut live).await;
    let copied = copied.map_err(|source| failed("copy", from, source));
    close(live).await;
    copied?;
    date_like(from, to).map_err(|source| VaultwardenError::Scratch { path: to.into(), source })
}

/// Two copies of an unchanged database are equal in everything that is stored.
fn date_like(from: &Path, to: &Path) -> io::Result<()> {
    let modified = from.metadata()?.modified()?;
    let copy = OpenOptions::new().write(true).open(to)?;
    copy.set_permissions(Permissions::from_mode(0o600))?;
    copy.set_modified(modified)
}

/// Looks at a database that nobody else uses.
pub(crate) async fn look(path: &Path) -> Result<Facts, VaultwardenError> {
    let mut database = open(path).await?;
    let facts = Look { database: &mut database, path }.facts().await;
    close(database).await;
    facts
}

struct Look<'a> {
    database: &'a mut SqliteConnection,
    path: &'a Path,
}

impl Look<'_> {
    async fn facts(&mut self) -> Result<Facts, VaultwardenError> {
        let damage = self.damage().await?;
        let tables = self.tables().await?;
        if !tables.iter().any(|it| it.table == "users" && it.rows > 0) {
            return Err(VaultwardenError::NoUsers { path: self.path.into() });
        }
        let mut uploads = self.attachments().await?;
        uploads.extend(self.sends().await?);
        let user = self.user().await?;
        Ok(Facts { tables, uploads, user, damage })
    }

    async fn damage(&mut self) -> Result<Vec<String>, VaultwardenError> {
        let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(10)")
            .fetch_all(&mut *self.database)
            .await
            .map_err(|source| failed("check", self.path, source))?;
        let mut damage: Vec<String> = found.into_iter().filter(|line| line != "ok").collect();
        let orphans: Vec<(String, i64, String)> = sqlx::query_as(
            "SELECT \"table\", coalesce(rowid, 0), \"parent\" FROM pragma_foreign_key_check",
        )
        .fetch_all(&mut *self.database)
        .await
        .map_err(|source| failed("check the references of", self.path, source))?;
        let more = orphans.len().saturating_sub(FINDINGS_MAX);
        damage.extend(orphans.into_iter().take(FINDINGS_MAX).map(|(table, row, parent)| {
            format!("row {row} of `{table}` refers to a row of `{parent}` that is not there")
        }));
        if more > 0 {
            damage.push(format!("and {more} more rows refer to nothing"));
        }
        Ok(damage)
    }

    async fn tables(&mut self) -> Result<Vec<TableRows>, VaultwardenError> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
             ORDER BY name",
        )
        .fetch_all(&mut *self.database)
        .await
        .map_err(|source| failed("list the tables of", self.path, source))?;
        let mut tables = Vec::with_capacity(names.len());
        for table in names {
            // A table's name cannot be bound; the quotes keep it a name.
            let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut *self.database)
                .await
                .map_err(|source| failed("count the rows of", self.path, source))?;
            tables.push(TableRows { table, rows: u64::try_from(rows).unwrap_or_default() });
        }
        Ok(tables)
    }

    async fn attachments(&mut self) -> Result<Vec<Upload>, VaultwardenError> {
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT cipher_uuid, id, file_size FROM attachments ORDER BY 1, 2")
                .fetch_all(&mut *self.database)
                .await
                .map_err(|source| failed("list the attachments of", self.path, source))?;
        Ok(rows.into_iter().map(|(cipher, id, bytes)| attachment(&cipher, &id, bytes)).collect())
    }

    async fn sends(&mut self) -> Result<Vec<Upload>, VaultwardenError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT uuid, data FROM sends WHERE atype = 1 ORDER BY 1")
                .fetch_all(&mut *self.database)
                .await
                .map_err(|source| failed("list the Sends of", self.path, source))?;
        rows.into_iter()
            .map(|(id, data)| {
                send(&id, &data).map_err(|source| VaultwardenError::Send {
                    path: self.path.into(),
                    id,
                    source,
                })
            })
            .collect()
    }

    async fn user(&mut self) -> Result<Option<User>, VaultwardenError> {
        let row: Option<(String, i64, i64)> = sqlx::query_as(
            "SELECT email, client_kdf_type, client_kdf_iter FROM users WHERE enabled \
             ORDER BY created_at, email LIMIT 1",
        )
        .fetch_optional(&mut *self.database)
        .await
        .map_err(|source| failed("look up a user in", self.path, source))?;
        Ok(row.map(|(email, kdf, iterations)| User { email, kdf, iterations }))
    }
}

/// Where Vaultwarden keeps the file of an attachment.
pub(super) fn attachment(cipher: &str, id: &str, bytes: i64) -> Upload {
    let path = escape(format!("attachments/{cipher}/{id}").as_bytes());
    Upload { kind: UploadKind::Attachment, path, bytes: u64::try_from(bytes).unwrap_or_default() }
}

/// Where Vaultwarden keeps the file of a Send, whose row has a JSON text.
pub(super) fn send(id: &str, data: &str) -> serde_json::Result<Upload> {
    /// Written as a number by some versions and as a text by others.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Number(u64),
        Text(String),
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(alias = "Id")]
        id: String,
        #[serde(alias = "Size")]
        size: Size,
    }
    let Data { id: file, size } = serde_json::from_str(data)?;
    let bytes = match size {
        Size::Number(bytes) => bytes,
        Size::Text(text) => text.parse().map_err(serde::de::Error::custom)?,
    };
    let path = escape(format!("sends/{id}/{file}").as_bytes());
    Ok(Upload { kind: UploadKind::Send, path, bytes })
}

async fn open(path: &Path) -> Result<SqliteConnection, VaultwardenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .busy_timeout(BUSY_MAX);
    let opened = SqliteConnection::connect_with(&options).await;
    opened.map_err(|source| failed("open", path, source))
}

async fn close(database: SqliteConnection) {
    if let Err(error) = database.close().await {
        tracing::debug!(%error, "a database that was only read did not close");
    }
}

fn failed(action: &'static str, path: &Path, source: sqlx::Error) -> VaultwardenError {
    VaultwardenError::Database { action, path: PathBuf::from(path), source: Box::new(source) }
}
