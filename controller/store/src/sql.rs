//! One way to speak to both back ends.
//!
//! Each noun is written once; its statements are given once where both dialects
//! say it alike, and twice where each can say it better. Rows are read by name,
//! and a value that cannot be there is named by table, column and row.

mod args;
mod attestations;
mod audit;
mod batches;
mod certificates;
mod context;
mod gold;
mod hosts;
mod jobs;
mod leadership;
mod migrate;
mod power;
mod prune;
mod requests;
mod row;
mod runbooks;
mod runs;
mod schedules;
mod sessions;
mod snapshots;
mod tokens;

use async_trait::async_trait;
use sqlx::{Postgres, Sqlite, Transaction, error::ErrorKind};
use tokio::task::consume_budget;

pub(crate) use migrate::{Dialect, migrator, schema_error};

pub(crate) use self::args::Arg;
use self::{
    args::{bind_postgres, bind_sqlite},
    row::Row,
};
use crate::{
    error::StoreError,
    noun::{
        attestations::Attestations, audit::Audit, batches::Batches, certificates::Certificates,
        context::Context, gold::Gold, hosts::Hosts, jobs::Jobs, leadership::Leadership,
        power::PowerBook, requests::Requests, runbooks::Runbooks, runs::Runs, schedules::Schedules,
        sessions::Sessions, snapshots::Snapshots, tokens::Tokens,
    },
    sqlite::Turn,
    store::Tx,
};

/// A statement in both dialects. Placeholders are `$1`, `$2`, ... in both.
#[derive(Clone, Copy)]
pub(crate) struct Sql {
    sqlite: &'static str,
    postgres: &'static str,
}

/// A statement that both dialects say alike.
const fn both(text: &'static str) -> Sql {
    Sql { sqlite: text, postgres: text }
}

/// A statement that each says in its own way.
const fn each(sqlite: &'static str, postgres: &'static str) -> Sql {
    Sql { sqlite, postgres }
}

/// A connection within a transaction.
pub(crate) enum Conn {
    /// SQLite, to write.
    Writer(Turn),
    /// SQLite, to read.
    Reader(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Conn {
    /// Runs a statement that gives rows. `doing` is a verb and its object.
    async fn rows(
        &mut self,
        doing: &'static str,
        sql: Sql,
        args: &[Arg<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Writer(turn) => {
                // It never waits by itself; a caller with thousands of statements lets others
                // at the thread.
                consume_budget().await;
                let rows = turn.rows(doing, sql.sqlite, args)?;
                return Ok(rows.into_iter().map(Row::Own).collect());
            }
            Self::Reader(tx) => {
                let query = bind_sqlite(sqlx::query(sql.sqlite), args);
                let rows = query.fetch_all(&mut **tx).await;
                rows.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
            Self::Postgres(tx) => {
                let query = bind_postgres(sqlx::query(sql.postgres), args);
                let rows = query.fetch_all(&mut **tx).await;
                rows.map(|rows| rows.into_iter().map(Row::Postgres).collect())
            }
        }
        .map_err(|error| store_error(doing, error))
    }

    /// Runs a statement that gives one row at most.
    async fn row(
        &mut self,
        doing: &'static str,
        sql: Sql,
        args: &[Arg<'_>],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(doing, sql, args).await?.pop())
    }

    /// Runs a statement for its effect; how many rows it touched.
    async fn run(
        &mut self,
        doing: &'static str,
        sql: Sql,
        args: &[Arg<'_>],
    ) -> Result<u64, StoreError> {
        match self {
            Self::Writer(turn) => {
                consume_budget().await;
                return turn.run(doing, sql.sqlite, args);
            }
            Self::Reader(tx) => {
                let query = bind_sqlite(sqlx::query(sql.sqlite), args);
                query.execute(&mut **tx).await.map(|done| done.rows_affected())
            }
            Self::Postgres(tx) => {
                let query = bind_postgres(sqlx::query(sql.postgres), args);
                query.execute(&mut **tx).await.map(|done| done.rows_affected())
            }
        }
        .map_err(|error| store_error(doing, error))
    }
}

/// The error of a back end, sorted into what callers act upon.
pub(crate) fn store_error(doing: &'static str, error: sqlx::Error) -> StoreError {
    let what = match &error {
        sqlx::Error::PoolTimedOut => "no connection became free in time",
        sqlx::Error::PoolClosed => "it is being closed",
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => "the connection broke",
        sqlx::Error::Database(database) => {
            if database.kind() == ErrorKind::UniqueViolation {
                return StoreError::Conflict { what: format!("what was to be kept ({doing})") };
            }
            match database.code().as_deref() {
                // PostgreSQL: serialisation failure, deadlock.
                Some("40001" | "40P01") => {
                    return StoreError::Conflict { what: format!("a row ({doing})") };
                }
                // PostgreSQL: lock or statement timeout.
                Some("55P03" | "57014") => "another transaction takes too long",
                // PostgreSQL: shutting down, starting up, out of connections.
                Some("57P01" | "57P02" | "57P03" | "53300") => "the server takes no work now",
                // SQLite: busy, and locked, by another process.
                Some("5" | "6" | "261" | "517") => "another process writes",
                _ => return StoreError::Other { operation: doing, source: Box::new(error) },
            }
        }
        _ => return StoreError::Other { operation: doing, source: Box::new(error) },
    };
    StoreError::Busy { what, source: Some(Box::new(error)) }
}

/// A transaction over either back end.
pub(crate) struct SqlTx {
    pub(crate) conn: Conn,
}

#[async_trait]
impl Tx for SqlTx {
    fn tokens(&mut self) -> Box<dyn Tokens + '_> {
        Box::new(tokens::InTokens(&mut self.conn))
    }

    fn certificates(&mut self) -> Box<dyn Certificates + '_> {
        Box::new(certificates::InCertificates(&mut self.conn))
    }

    fn hosts(&mut self) -> Box<dyn Hosts + '_> {
        Box::new(hosts::InHosts(&mut self.conn))
    }

    fn audit(&mut self) -> Box<dyn Audit + '_> {
        Box::new(audit::InAudit(&mut self.conn))
    }

    fn schedules(&mut self) -> Box<dyn Schedules + '_> {
        Box::new(schedules::InSchedules(&mut self.conn))
    }

    fn runs(&mut self) -> Box<dyn Runs + '_> {
        Box::new(runs::InRuns(&mut self.conn))
    }

    fn jobs(&mut self) -> Box<dyn Jobs + '_> {
        Box::new(jobs::InJobs(&mut self.conn))
    }

    fn sessions(&mut self) -> Box<dyn Sessions + '_> {
        Box::new(sessions::InSessions(&mut self.conn))
    }

    fn leadership(&mut self) -> Box<dyn Leadership + '_> {
        Box::new(leadership::InLeadership(&mut self.conn))
    }

    fn requests(&mut self) -> Box<dyn Requests + '_> {
        Box::new(requests::InRequests(&mut self.conn))
    }

    fn snapshots(&mut self) -> Box<dyn Snapshots + '_> {
        Box::new(snapshots::InSnapshots(&mut self.conn))
    }

    fn power(&mut self) -> Box<dyn PowerBook + '_> {
        Box::new(power::InPower(&mut self.conn))
    }

    fn attestations(&mut self) -> Box<dyn Attestations + '_> {
        Box::new(attestations::InAttestations(&mut self.conn))
    }

    fn batches(&mut self) -> Box<dyn Batches + '_> {
        Box::new(batches::InBatches(&mut self.conn))
    }

    fn gold(&mut self) -> Box<dyn Gold + '_> {
        Box::new(gold::InGold(&mut self.conn))
    }

    fn context(&mut self) -> Box<dyn Context + '_> {
        Box::new(context::InContext(&mut self.conn))
    }

    fn runbooks(&mut self) -> Box<dyn Runbooks + '_> {
        Box::new(runbooks::InRunbooks(&mut self.conn))
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        match self.conn {
            Conn::Writer(turn) => return turn.commit().await,
            Conn::Reader(tx) => tx.commit().await,
            Conn::Postgres(tx) => tx.commit().await,
        }
        .map_err(|error| store_error("commit", error))
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        match self.conn {
            Conn::Writer(turn) => return turn.rollback(),
            Conn::Reader(tx) => tx.rollback().await,
            Conn::Postgres(tx) => tx.rollback().await,
        }
        .map_err(|error| store_error("roll back", error))
    }
}
