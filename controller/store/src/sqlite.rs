//! The embedded back end: one file beside the controller.

mod direct;
mod writer;

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use self::writer::Writer;
pub(crate) use self::{direct::OwnRow, writer::Turn};
use crate::{
    error::StoreError,
    sql::{Conn, Dialect, SqlTx, migrator, schema_error, store_error},
    store::{Copied, Store, Tx},
};

/// How long a transaction that reads waits for a connection, and an upgrade of the schema for
/// another process.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Transactions that may read at the same time.
const READERS_MAX: u32 = 4;
/// "home": marks the file as ours, so that no other SQLite file is taken for it.
const APPLICATION_ID: i32 = 0x686f_6d65;
/// Length of the header of an SQLite file.
const HEADER_LEN: usize = 100;

/// One connection writes, a few read. In WAL mode neither waits for the other;
/// writers queue in this process rather than spin on the file's lock.
#[derive(Debug)]
struct Sqlite {
    writer: Writer,
    readers: SqlitePool,
}

/// Opens the file, or makes it if there is none.
pub(crate) async fn open(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
    match header(path) {
        Ok(header) => ours(path, &header)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path).await?,
        Err(error) => return Err(io_error(error)),
    }
    upgrade(path).await?;
    let writer = Writer::new(connect(path)?)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .acquire_timeout(TURN_MAX)
        .test_before_acquire(false)
        .connect_with(
            SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(TURN_MAX),
        )
        .await
        .map_err(|error| damaged_or(path, error))?;
    Ok(Arc::new(Sqlite { writer, readers }))
}

#[async_trait]
impl Store for Sqlite {
    async fn begin(&self) -> Result<Box<dyn Tx>, StoreError> {
        Ok(Box::new(SqlTx { conn: Conn::Writer(self.writer.begin().await?) }))
    }

    async fn read(&self) -> Result<Box<dyn Tx>, StoreError> {
        let tx = self.readers.begin().await;
        let tx = tx.map_err(|error| store_error("begin to read", error))?;
        Ok(Box::new(SqlTx { conn: Conn::Reader(tx) }))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let answer = sqlx::query("SELECT 1").execute(&self.readers).await;
        answer.map(drop).map_err(|error| store_error("ask for a sign of life", error))
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn copy_to(&self, path: &Path) -> Result<Copied, StoreError> {
        let new = beside(path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => private_file(&new).map_err(io_error)?,
        }
        // SQLite takes an empty file for none, and writes what one reader sees.
        let name = new.to_str().ok_or_else(|| corrupt(&new, "its name is not UTF-8"))?;
        let copying = sqlx::query("VACUUM INTO ?").bind(name).execute(&self.readers).await;
        copying.map_err(|error| store_error("copy the store", error))?;
        let copy = fs::File::open(&new).map_err(io_error)?;
        copy.sync_all().map_err(io_error)?;
        let bytes = copy.metadata().map_err(io_error)?.len();
        put_in_place(&new, path)?;
        Ok(Copied::Whole { bytes })
    }
}

/// Brings the schema of a file that is there up to date.
async fn upgrade(path: &Path) -> Result<(), StoreError> {
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options(path))
        .await
        .map_err(|error| damaged_or(path, error))?;
    check(path, &pool).await?;
    migrator(Dialect::Sqlite).run(&pool).await.map_err(schema_error)?;
    pool.close().await;
    Ok(())
}

/// The connection that writes.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connect = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        // A wait would hold up the thread that asks; the writer has a way of its own.
        conn.busy_timeout(Duration::ZERO)?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "foreign_keys", true)?;
        Ok(conn)
    };
    connect().map_err(|error: rusqlite::Error| StoreError::Other {
        operation: "open the store",
        source: Box::new(error),
    })
}

/// How a connection is set up that makes or upgrades a store.
///
/// `synchronous = FULL`: with NORMAL a commit survives the death of the process,
/// but the last ones may be lost in a power cut. A job that was acknowledged must
/// not be; the price is one fsync per commit, which those share who commit at the same time.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(TURN_MAX)
}

/// Makes a new store under another name and moves it into place when it is
/// whole: a crash leaves either no store or a good one.
async fn create(path: &Path) -> Result<(), StoreError> {
    if beside(path, "-wal").exists() {
        return Err(corrupt(path, "it is gone, and its write-ahead log is still there"));
    }
    let new = beside(path, ".new");
    for leftover in ["", "-wal", "-shm", "-journal"] {
        match fs::remove_file(beside(&new, leftover)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => {}
        }
    }
    private_file(&new).map_err(io_error)?;
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options(&new).pragma("application_id", APPLICATION_ID.to_string()))
        .await
        .map_err(|error| store_error("make a new store", error))?;
    migrator(Dialect::Sqlite).run(&pool).await.map_err(schema_error)?;
    pool.close().await;
    put_in_place(&new, path)
}

/// Gives a file that is whole its name, for good.
fn put_in_place(new: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(new, path).map_err(io_error)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error)
}

/// The first bytes of the file, read without SQLite, which would write to a file
/// that is not ours.
fn header(path: &Path) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    let file = fs::File::open(path)?;
    file.take(HEADER_LEN as u64).read_to_end(&mut header)?;
    Ok(header)
}

/// Refuses a file that was cut off or is not ours, by the header that SQLite's
/// file format gives it (<https://www.sqlite.org/fileformat.html>, section 1.3).
fn ours(path: &Path, header: &[u8]) -> Result<(), StoreError> {
    if header.is_empty() {
        return Err(corrupt(path, "it is empty"));
    }
    if header.len() < HEADER_LEN || !header.starts_with(b"SQLite format 3\0") {
        return Err(corrupt(path, "it is no SQLite file"));
    }
    if !header.get(68..).is_some_and(|rest| rest.starts_with(&APPLICATION_ID.to_be_bytes())) {
        return Err(corrupt(path, "it is an SQLite file of some other software"));
    }
    Ok(())
}

/// Refuses a file that is damaged within.
async fn check(path: &Path, pool: &SqlitePool) -> Result<(), StoreError> {
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(pool)
        .await
        .map_err(|error| damaged_or(path, error))?;
    if verdict == "ok" { Ok(()) } else { Err(corrupt(path, &verdict)) }
}

/// Readable by the controller alone: it holds prompts and sealed secrets.
fn private_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn damaged_or(path: &Path, error: sqlx::Error) -> StoreError {
    // 11: malformed; 26: not a database; the extended codes carry them in the low byte.
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        Some(11 | 26) => {
            StoreError::Corrupt { path: path.display().to_string(), source: Box::new(error) }
        }
        _ => store_error("open the store", error),
    }
}

fn corrupt(path: &Path, why: &str) -> StoreError {
    StoreError::Corrupt { path: path.display().to_string(), source: why.into() }
}

fn io_error(error: io::Error) -> StoreError {
    StoreError::Other { operation: "reach the file of the store", source: Box::new(error) }
}
