//! Which of several controllers acts.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::error::StoreError;

/// A controller that acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Who: something that names the process, such as `hx310-db/4711`.
    pub holder: String,
    /// Fencing token: grows with each change of leader and is never given twice.
    pub token: u64,
    /// Since when it leads.
    pub since: Timestamp,
    /// Until when, unless it renews.
    pub until: Timestamp,
}

/// Who leads after an attempt to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// The caller.
    Mine(Leader),
    /// Somebody else.
    Theirs(Leader),
}

/// The lease of the acting controller. Its clock is that of whoever calls, so
/// leases must be longer than clocks can differ.
#[async_trait]
pub trait Leadership: Send {
    /// Takes the lease if it is free or has run out. The holder itself gets a new
    /// token too: it has started anew, and its earlier self is to be fenced off.
    async fn acquire(
        &mut self,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Tenure, StoreError>;

    /// Extends the lease. [`StoreError::Conflict`] when the token is not the newest
    /// or the lease has been released: the caller must stop acting.
    async fn renew(&mut self, token: u64, until: Timestamp) -> Result<(), StoreError>;

    /// Gives the lease back before it runs out. Nothing happens when it is not the
    /// caller's any more.
    async fn release(&mut self, token: u64, now: Timestamp) -> Result<(), StoreError>;

    /// Fails with [`StoreError::Conflict`] unless the token is the newest. Called in
    /// a transaction that writes, it keeps a stale controller from committing: the
    /// lease cannot change hands before that transaction ends.
    async fn require(&mut self, token: u64) -> Result<(), StoreError>;

    /// The lease as it is, run out or not; none before the first.
    async fn get(&mut self) -> Result<Option<Leader>, StoreError>;
}
