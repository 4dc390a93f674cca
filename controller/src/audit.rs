//! The append-only record of who did what.
//!
//! Own decisions are appended in the transaction that they belong to, with [`entry`]. Calls are
//! heard of after they have ended, on the path of the call, where nobody may wait for the disk: they
//! go through a bounded queue to one writer. What does not fit any more is counted, and the count
//! becomes an entry itself, so that nothing is lost silently. Prompts and secrets never come here:
//! a call is its method, its caller and its outcome.

mod stranger;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use homelab_common::{clock::Clock, error_chain::Chain, lifecycle::Tasks};
use homelab_rpc::guard::{CallRecord, Observer, Outcome};
use homelab_store::{
    AuditEntry, AuditFault, AuditOutcome, AuditWalk, NewAuditEntry, Page, PageRequest, Store,
    StoreError,
};
use tokio::sync::mpsc;
use tonic::Code;
use tracing::error;

use self::stranger::Strangers;
use crate::app::{Change, Events};

/// Entries that wait for the disk. At 200 bytes each this is 2 MB.
const WAITING_MAX: usize = 10_000;

/// Entries that are written in one transaction.
const BATCH_MAX: usize = 256;

/// Entries that a walk reads at once.
const WALK_PAGE: u32 = 1_000;

/// How long to wait after the store refused, before the same entries are tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the counts of strangers are looked at.
const COUNTS_EVERY: Duration = Duration::from_secs(5);

/// The actor of what the controller does by itself.
pub const CONTROLLER: &str = "controller";

/// The actor of alarms: apart from everyday decisions, so that no number of those pushes one out of sight.
pub const ALARM: &str = "controller/alarm";

/// The audit log. Clones are the same log.
#[derive(Clone, Debug)]
pub struct AuditLog {
    queue: mpsc::Sender<NewAuditEntry>,
    lost: Arc<AtomicU64>,
    strangers: Arc<Mutex<Strangers>>,
}

/// An entry about one of the controller's own decisions, to be appended in the transaction that
/// makes it true.
#[must_use]
pub fn entry(
    clock: &dyn Clock,
    actor: impl Into<String>,
    action: impl Into<String>,
    subject: impl Into<String>,
    detail: impl Into<String>,
) -> NewAuditEntry {
    NewAuditEntry {
        at: clock.now(),
        actor: actor.into(),
        action: action.into(),
        subject: subject.into(),
        outcome: AuditOutcome::Allowed,
        detail: detail.into(),
    }
}

impl AuditLog {
    /// Starts the writer. It ends after all other tasks, because calls that are drained or dropped
    /// while the controller stops are told of as well.
    #[must_use]
    pub fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        events: Events,
        tasks: &Tasks,
    ) -> Self {
        Self::start_bounded(store, clock, events, tasks, WAITING_MAX)
    }

    fn start_bounded(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        events: Events,
        tasks: &Tasks,
        waiting_max: usize,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(waiting_max);
        let lost = Arc::new(AtomicU64::new(0));
        let log = Self { queue, lost, strangers: Arc::default() };
        let (lost, strangers) = (Arc::clone(&log.lost), Arc::clone(&log.strangers));
        let writer = Writer { store, clock, events, lost, strangers, alone: tasks.alone() };
        tasks.spawn_last(writer.run(waiting));
        log
    }

    /// Appends an entry soon, without waiting for the disk. For what is not part of a transaction.
    pub fn record(&self, entry: NewAuditEntry) {
        if self.queue.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Entries, newest first; only by `actor`, when given.
///
/// # Errors
///
/// The store fails.
pub async fn list(
    store: &dyn Store,
    actor: Option<&str>,
    page: &PageRequest,
) -> Result<Page<AuditEntry>, StoreError> {
    store.read().await?.audit().list(actor, page).await
}

/// What a walk along the chain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Entries that fit.
    pub entries: u64,
    /// Hash of the last one.
    pub head_hash: [u8; 32],
    /// The first that does not fit.
    pub fault: Option<AuditFault>,
}

/// Walks the whole chain, as of one moment, page by page.
///
/// # Errors
///
/// The store fails.
pub async fn verify(store: &dyn Store) -> Result<Verified, StoreError> {
    let mut tx = store.read().await?;
    let mut walk = AuditWalk::default();
    let fault = loop {
        let page = tx.audit().after(walk.entries(), WALK_PAGE).await?;
        if page.is_empty() {
            break walk.finish(tx.audit().head().await?).err();
        }
        if let Err(fault) = page.iter().try_for_each(|entry| walk.step(entry)) {
            break Some(fault);
        }
    };
    Ok(Verified { entries: walk.entries(), head_hash: walk.hash(), fault })
}

impl Observer for AuditLog {
    fn call(&self, record: CallRecord) {
        let Some(entry) = entry_of(&record) else { return };
        let is_strangers = record.peer.is_none() && entry.outcome == AuditOutcome::Denied;
        let entry = if is_strangers {
            lock(&self.strangers).denied(&record.remote, entry)
        } else {
            Some(entry)
        };
        if let Some(entry) = entry {
            self.record(entry);
        }
    }
}

/// What is written of a call: those that change something, and those that were denied.
fn entry_of(call: &CallRecord) -> Option<NewAuditEntry> {
    let (outcome, detail) = match (&call.outcome, call.code) {
        (Outcome::Denied(why), _) => (AuditOutcome::Denied, why.to_string()),
        _ if !call.mutates => return None,
        (Outcome::Ended, Code::Ok) => (AuditOutcome::Allowed, String::new()),
        (Outcome::Ended, Code::PermissionDenied | Code::Unauthenticated) => {
            (AuditOutcome::Denied, call.code.to_string())
        }
        (Outcome::Ended, code) => (AuditOutcome::Failed, code.to_string()),
        (Outcome::Cancelled, _) => {
            (AuditOutcome::Failed, "the caller went away before the end".to_owned())
        }
    };
    let actor = match &call.peer {
        Some(peer) => peer.to_string(),
        None => format!("stranger/{}", call.remote),
    };
    let note = format!("request {}", call.request_id);
    Some(NewAuditEntry {
        at: call.started,
        actor,
        action: call.method.clone(),
        subject: String::new(),
        outcome,
        detail: if detail.is_empty() { note } else { format!("{detail}; {note}") },
    })
}

struct Writer {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    events: Events,
    lost: Arc<AtomicU64>,
    strangers: Arc<Mutex<Strangers>>,
    alone: tokio_util::sync::CancellationToken,
}

fn lock(strangers: &Mutex<Strangers>) -> std::sync::MutexGuard<'_, Strangers> {
    strangers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    async fn run(self, mut waiting: mpsc::Receiver<NewAuditEntry>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut counts = tokio::time::interval(COUNTS_EVERY);
        loop {
            tokio::select! {
                received = waiting.recv_many(&mut batch, BATCH_MAX) => if received == 0 {
                    return;
                },
                _ = counts.tick() => batch = lock(&self.strangers).due(self.clock.now()),
                () = self.alone.cancelled() => break,
            }
            if !batch.is_empty() {
                self.write(&mut batch).await;
            }
        }
        waiting.close();
        while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.write(&mut batch).await;
        }
        batch = lock(&self.strangers).all();
        if !batch.is_empty() {
            self.write(&mut batch).await;
        }
    }

    /// Writes the batch, however often the store refuses: entries wait in the queue meanwhile.
    async fn write(&self, batch: &mut Vec<NewAuditEntry>) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let detail = format!("{lost} entries did not fit into the queue and are missing here");
            batch.push(entry(self.clock.as_ref(), CONTROLLER, "audit/overflow", "", detail));
        }
        while let Err(error) = self.append(batch).await {
            error!(error = %Chain(&error), "could not write the audit log; trying again");
            tokio::time::sleep(PAUSE).await;
        }
        batch.clear();
        self.events.tell(Change::Audit);
    }

    async fn append(&self, batch: &[NewAuditEntry]) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        for entry in batch {
            tx.audit().append(entry).await?;
        }
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use homelab_common::clock::{ManualClock, SystemClock};
    use homelab_rpc::{access::Denied, connection::Remote};
    use homelab_store::{StoreUrl, open};
    use jiff::Timestamp;

    use super::*;

    async fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&StoreUrl::Sqlite(folder.path().join("store.db"))).await.expect("opens");
        (folder, store)
    }

    async fn entries(store: &dyn Store) -> Vec<NewAuditEntry> {
        let page = list(store, None, &PageRequest::first(100)).await.expect("a page");
        page.items.into_iter().map(|row| row.entry).collect()
    }

    fn call(outcome: Outcome, code: Code) -> CallRecord {
        CallRecord {
            peer: None,
            remote: Remote::Tcp(([192, 0, 2, 1], 4711).into()),
            method: "/x.Y/Z".into(),
            mutates: true,
            request_id: "1".into(),
            started: Timestamp::UNIX_EPOCH,
            elapsed: Duration::ZERO,
            outcome,
            code,
        }
    }

    #[tokio::test]
    async fn a_call_that_is_drained_or_dropped_long_after_the_stop_is_in_the_log() {
        let (_folder, store) = store().await;
        let (tasks, clock) = (Tasks::default(), Arc::new(SystemClock));
        let log = AuditLog::start(Arc::clone(&store), clock, Events::default(), &tasks);
        struct Dropped(AuditLog);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.call(call(Outcome::Cancelled, Code::Cancelled));
            }
        }
        let (draining, stopping) = (log.clone(), tasks.stopping());
        tasks.spawn(async move {
            stopping.cancelled().await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            draining.call(call(Outcome::Ended, Code::Ok));
        });
        let dropped = Dropped(log);
        tasks.spawn(async move {
            let _dropped = dropped;
            std::future::pending::<()>().await;
        });
        assert!(!tasks.shutdown(Duration::from_millis(100)).await, "one call hung");
        let details: Vec<_> = entries(store.as_ref()).await.into_iter().map(|e| e.detail).collect();
        assert_eq!(details, ["the caller went away before the end; request 1", "request 1"]);
    }

    #[tokio::test]
    async fn a_flood_of_strangers_becomes_one_entry_and_a_count() {
        let (_folder, store) = store().await;
        let (tasks, clock) = (Tasks::default(), Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)));
        let log = AuditLog::start(Arc::clone(&store), clock, Events::default(), &tasks);
        for _ in 0..5_000 {
            log.call(call(Outcome::Denied(Denied::NoCertificate), Code::Unauthenticated));
        }
        assert!(tasks.shutdown(Duration::from_secs(30)).await);
        let entries = entries(store.as_ref()).await;
        assert_eq!(entries.len(), 2, "{entries:?}");
        assert!(entries[0].detail.starts_with("4999 more"), "{}", entries[0].detail);
        assert_eq!(entries[0].actor, "stranger/192.0.2.1:4711");
    }

    #[tokio::test]
    async fn what_did_not_fit_is_counted_in_the_log_itself() {
        let (_folder, store) = store().await;
        let tasks = Tasks::default();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let events = Events::default();
        let log = AuditLog::start_bounded(Arc::clone(&store), clock, events, &tasks, 2);
        // The writer has had no turn yet on this one thread.
        for number in 0..5 {
            log.record(entry(&SystemClock, "ada", format!("act {number}"), "", ""));
        }
        assert!(tasks.shutdown(Duration::from_secs(30)).await, "the queue is emptied first");

        let page = list(store.as_ref(), None, &PageRequest::first(10)).await.expect("a page");
        let actions: Vec<_> = page.items.iter().map(|row| row.entry.action.as_str()).collect();
        assert_eq!(actions, ["audit/overflow", "act 1", "act 0"]);
        assert!(page.items[0].entry.detail.starts_with("3 entries"));
        let verified = verify(store.as_ref()).await.expect("verified");
        assert_eq!((verified.entries, verified.fault), (3, None));
    }
}
