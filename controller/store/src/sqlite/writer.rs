//! The one connection that writes to the file.
//!
//! Statements run where they are asked for: each takes microseconds, less than handing it to
//! another thread and back would. Only what waits for the disk has a thread of its own: the
//! commit. It takes its turn behind those who already wait for theirs, so what they write
//! meanwhile is kept together with it, and one `fsync` serves them all. Each caller's part is a
//! savepoint, so that one can be dropped without the others, and nobody is told that a part is
//! kept before it is.

use std::{
    mem,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use rusqlite::Connection;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::direct::{self, OwnRow};
use crate::{error::StoreError, sql::Arg};

/// How long a transaction waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);
/// How soon a file that another process writes to is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);
/// Statements that are kept ready: all of this crate, and some to spare.
const STATEMENTS: usize = 512;
/// What has been asked of a store that is being closed.
const CLOSED: StoreError = StoreError::Busy { what: "it is being closed", source: None };

/// Whoever holds its desk writes.
#[derive(Debug)]
pub(super) struct Writer {
    desk: Arc<Mutex<Desk>>,
    /// Wakes the thread that commits; none once the store is being closed.
    bell: std::sync::Mutex<Option<SyncSender<()>>>,
    closed: Mutex<Option<oneshot::Receiver<()>>>,
}

/// One caller's part of a transaction, and its turn to write. Dropped without
/// [`Turn::commit`], its part is undone.
#[derive(Debug)]
pub(crate) struct Turn {
    desk: Option<OwnedMutexGuard<Desk>>,
    bell: SyncSender<()>,
    changes_before: u64,
}

#[derive(Debug)]
struct Desk {
    /// None once the store is closed.
    conn: Option<Connection>,
    /// Those whose part is written and not yet kept.
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

impl Writer {
    /// Takes over a connection that is set up.
    pub(super) fn new(conn: Connection) -> Result<Self, StoreError> {
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        let desk = Arc::new(Mutex::new(Desk { conn: Some(conn), waiting: Vec::new() }));
        // One ring is enough: whoever is woken keeps all that is written by then.
        let (bell, rung) = sync_channel(1);
        let (tell, closed) = oneshot::channel();
        let theirs = Arc::clone(&desk);
        thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || keep(&theirs, &rung, tell))
            .map_err(|error| StoreError::Other {
                operation: "start the thread that commits",
                source: Box::new(error),
            })?;
        let (bell, closed) = (std::sync::Mutex::new(Some(bell)), Mutex::new(Some(closed)));
        Ok(Self { desk, bell, closed })
    }

    /// Waits for a turn to write.
    pub(super) async fn begin(&self) -> Result<Turn, StoreError> {
        let until = Instant::now() + TURN_MAX;
        let bell = self.bell().as_ref().map(SyncSender::clone).ok_or(CLOSED)?;
        let desk = timeout_at(until, Arc::clone(&self.desk).lock_owned()).await;
        let desk = desk.map_err(|error| StoreError::Busy {
            what: "no connection became free in time",
            source: Some(Box::new(error)),
        })?;
        loop {
            match desk.begin() {
                Err(StoreError::Busy { .. }) if Instant::now() < until => sleep(TRY_AGAIN).await,
                begun => {
                    let changes_before = begun?;
                    return Ok(Turn { desk: Some(desk), bell, changes_before });
                }
            }
        }
    }

    /// Waits for those who write and for what they wrote to be kept, and closes the file.
    pub(super) async fn close(&self) {
        drop(self.bell().take());
        if let Some(closed) = self.closed.lock().await.take() {
            // It is told, or has been dropped: in either case the thread is at its end.
            drop(closed.await);
        }
    }

    fn bell(&self) -> std::sync::MutexGuard<'_, Option<SyncSender<()>>> {
        self.bell.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Turn {
    /// Runs a statement that gives rows.
    pub(crate) fn rows(
        &mut self,
        doing: &'static str,
        sql: &'static str,
        args: &[Arg<'_>],
    ) -> Result<Vec<OwnRow>, StoreError> {
        self.ask(doing, |conn| direct::rows(conn, sql, args))
    }

    /// Runs a statement for its effect; how many rows it touched.
    pub(crate) fn run(
        &mut self,
        doing: &'static str,
        sql: &'static str,
        args: &[Arg<'_>],
    ) -> Result<u64, StoreError> {
        self.ask(doing, |conn| direct::run(conn, sql, args))
    }

    /// Keeps what was written: when this has returned, it lies on the disk.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        let Some(mut desk) = self.desk.take() else { return Err(CLOSED) };
        desk.intact("commit")?;
        let wrote = desk.conn()?.total_changes() != self.changes_before;
        if !wrote && desk.waiting.is_empty() {
            return desk.undo();
        }
        direct::run(desk.conn()?, "RELEASE part", &[])
            .map_err(|error| direct::store_error("commit", error))?;
        let (tell, kept) = oneshot::channel();
        desk.waiting.push(tell);
        // A full bell has been rung already.
        let _already_rung = self.bell.try_send(());
        drop(desk);
        kept.await.map_err(|_| CLOSED)?
    }

    /// Undoes what was written.
    pub(crate) fn rollback(mut self) -> Result<(), StoreError> {
        self.desk.take().map_or(Ok(()), |mut desk| desk.undo())
    }

    fn ask<T>(
        &mut self,
        doing: &'static str,
        statement: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let desk = self.desk.as_mut().ok_or(CLOSED)?;
        desk.intact(doing)?;
        statement(desk.conn()?).map_err(|error| {
            desk.after_an_error();
            direct::store_error(doing, error)
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(mut desk) = self.desk.take() {
            // A connection that cannot undo has nothing left to be undone.
            drop(desk.undo());
        }
    }
}

impl Desk {
    fn conn(&self) -> Result<&Connection, StoreError> {
        self.conn.as_ref().ok_or(CLOSED)
    }

    /// Begins a part, in a transaction of its own unless one is open; how many changes the
    /// connection has seen so far.
    fn begin(&self) -> Result<u64, StoreError> {
        let conn = self.conn()?;
        let begin = || {
            if conn.is_autocommit() {
                // Takes the lock of the file at once: a transaction that read first and wanted
                // to write later could only fail.
                direct::run(conn, "BEGIN IMMEDIATE", &[])?;
            }
            direct::run(conn, "SAVEPOINT part", &[])
        };
        begin().map_err(|error| direct::store_error("begin a transaction", error))?;
        Ok(conn.total_changes())
    }

    /// Refuses to go on in a transaction that is no more: statements would be kept one by one.
    fn intact(&self, doing: &'static str) -> Result<(), StoreError> {
        if self.conn()?.is_autocommit() {
            return Err(StoreError::Other {
                operation: doing,
                source: "an error before has ended the transaction".into(),
            });
        }
        Ok(())
    }

    /// Undoes the part that was begun last, and the transaction if nobody else has one in it.
    fn undo(&mut self) -> Result<(), StoreError> {
        let conn = self.conn()?;
        if conn.is_autocommit() {
            return Ok(());
        }
        let undo = || {
            if self.waiting.is_empty() {
                return direct::run(conn, "ROLLBACK", &[]);
            }
            direct::run(conn, "ROLLBACK TO part", &[])?;
            direct::run(conn, "RELEASE part", &[])
        };
        let undone = undo().map_err(|error| direct::store_error("roll back", error));
        self.after_an_error();
        undone.map(drop)
    }

    /// SQLite ends the whole transaction by itself after some errors, of a full disk for one
    /// (<https://www.sqlite.org/lang_transaction.html>, section 3). Then the parts of those who
    /// wait are gone as well.
    fn after_an_error(&mut self) {
        if self.conn.as_ref().is_none_or(Connection::is_autocommit) {
            self.tell_all(|| {
                Err(StoreError::Other {
                    operation: "commit",
                    source: "an error of another caller has ended the transaction".into(),
                })
            });
        }
    }

    /// Keeps all parts that are written.
    fn keep(&mut self) {
        let Some(conn) = self.conn.as_ref().filter(|_| !self.waiting.is_empty()) else { return };
        match direct::run(conn, "COMMIT", &[]) {
            Ok(_) => self.tell_all(|| Ok(())),
            Err(error) => {
                if !conn.is_autocommit() {
                    // What cannot be undone now is undone when the file is opened again.
                    drop(direct::run(conn, "ROLLBACK", &[]));
                }
                let why = error.to_string();
                self.tell_all(|| {
                    Err(StoreError::Other { operation: "commit", source: why.clone().into() })
                });
            }
        }
    }

    fn tell_all(&mut self, result: impl Fn() -> Result<(), StoreError>) {
        for waiting in mem::take(&mut self.waiting) {
            // Who no longer waits needs no answer.
            drop(waiting.send(result()));
        }
    }
}

/// What the thread does: commits whenever it is told to, until nobody can tell it any more.
fn keep(desk: &Mutex<Desk>, rung: &Receiver<()>, closed: oneshot::Sender<()>) {
    while rung.recv().is_ok() {
        desk.blocking_lock().keep();
    }
    let mut desk = desk.blocking_lock();
    desk.keep();
    drop(desk.conn.take());
    let _nobody_waits = closed.send(());
}

#[cfg(test)]
mod tests;
