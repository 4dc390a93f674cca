//! Runbooks that were proposed, and what people said to them.

use async_trait::async_trait;
use homelab_domain::{
    ids::RunbookId,
    runbook::{Decision, Runbook, RunbookState, Undecided},
};

use crate::error::StoreError;

/// What became of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It stands; here is the runbook as it is now.
    Stands(Box<Runbook>),
    /// It does not, and why.
    Refused(Undecided),
    /// There is no such runbook.
    NotFound,
}

/// Runbooks.
#[async_trait]
pub trait Runbooks: Send {
    /// Keeps a proposal, unless the same call came before: then that one is returned.
    async fn propose(&mut self, runbook: &Runbook) -> Result<Runbook, StoreError>;

    /// One runbook.
    async fn get(&mut self, id: RunbookId) -> Result<Option<Runbook>, StoreError>;

    /// Runbooks, the newest first, at most `limit`; those in one state, or all, and only those
    /// before one.
    async fn list(
        &mut self,
        state: Option<RunbookState>,
        before: Option<RunbookId>,
        limit: u32,
    ) -> Result<Vec<Runbook>, StoreError>;

    /// Keeps what a person decided. See [`homelab_domain::runbook::decide`]; of two at once, the
    /// later sees the earlier.
    async fn decide(
        &mut self,
        id: RunbookId,
        digest: [u8; 32],
        decision: Decision,
    ) -> Result<Decided, StoreError>;
}
