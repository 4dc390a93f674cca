//! The back end for a site that has PostgreSQL, or wants a standby controller.

use std::{path::Path, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{
    PgPool, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    error::StoreError,
    sql::{Conn, Dialect, SqlTx, migrator, schema_error, store_error},
    store::{Copied, Store, Tx},
};

/// Connections of one controller at most.
const CONNECTIONS_MAX: u32 = 16;
/// How long a transaction waits for a connection.
const TURN_MAX: Duration = Duration::from_secs(5);

/// A pool of connections.
#[derive(Debug)]
struct Postgres {
    pool: PgPool,
}

/// Connects and brings the schema up to date.
pub(crate) async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    // The server gives up before the caller does, so that a hung statement holds
    // neither a row nor a connection for long.
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| store_error("read the address of the database", error))?
        .application_name("homelab-controller")
        .options([
            ("statement_timeout", "15s"),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(TURN_MAX)
        // Beginning a transaction tests it as well; see `Postgres::begun`.
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(|error| store_error("connect to the database", error))?;
    migrator(Dialect::Postgres).run(&pool).await.map_err(schema_error)?;
    Ok(Arc::new(Postgres { pool }))
}

impl Postgres {
    /// Begins a transaction. A connection that broke while it lay idle, as all do
    /// when the server restarts, is passed over: nothing was asked of it yet.
    async fn begun(
        &self,
        begin: &'static str,
    ) -> Result<Transaction<'static, sqlx::Postgres>, sqlx::Error> {
        for _ in 0..CONNECTIONS_MAX {
            match self.pool.begin_with(begin).await {
                Err(error) if is_broken(&error) => {}
                begun => return begun,
            }
        }
        self.pool.begin_with(begin).await
    }
}

/// Whether the connection is no more: cut off, or ended by the server (57P01: by an
/// administrator, 57P02: by a crash).
fn is_broken(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(error, sqlx::Error::Io(_)) || matches!(code.as_deref(), Some("57P01" | "57P02"))
}

#[async_trait]
impl Store for Postgres {
    async fn begin(&self) -> Result<Box<dyn Tx>, StoreError> {
        // Read committed: what must not change is locked by name, row by row.
        let tx = self.begun("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await;
        let tx = tx.map_err(|error| store_error("begin a transaction", error))?;
        Ok(Box::new(SqlTx { conn: Conn::Postgres(tx) }))
    }

    async fn read(&self) -> Result<Box<dyn Tx>, StoreError> {
        let tx = self.begun("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        let tx = tx.map_err(|error| store_error("begin to read", error))?;
        Ok(Box::new(SqlTx { conn: Conn::Postgres(tx) }))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let answer = sqlx::query("SELECT 1").execute(&self.pool).await;
        answer.map(drop).map_err(|error| store_error("ask for a sign of life", error))
    }

    async fn close(&self) {
        self.pool.close().await;
    }

    async fn copy_to(&self, _path: &Path) -> Result<Copied, StoreError> {
        Ok(Copied::Elsewhere)
    }
}
