//! Answers to calls that may come twice.

use async_trait::async_trait;
use homelab_domain::ids::RequestId;
use jiff::Timestamp;

use crate::error::StoreError;

/// What is known of a request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// It is new, and is kept now; do the work in the same transaction.
    New,
    /// The same call came before; the answer that was kept, if one was.
    Same {
        /// As the caller of [`Requests::answer`] wrote it.
        answer: Option<Vec<u8>>,
    },
    /// Another call used the id before; the id must not be used for this one.
    Other,
}

/// Calls and their answers.
#[async_trait]
pub trait Requests: Send {
    /// Keeps a request id. `digest` is over the method and the request, by which
    /// the same call is known.
    async fn remember(
        &mut self,
        id: RequestId,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Remembered, StoreError>;

    /// Keeps the answer for a request that was remembered.
    async fn answer(&mut self, id: RequestId, answer: &[u8]) -> Result<(), StoreError>;

    /// Forgets requests from before a moment; how many.
    async fn forget_before(&mut self, before: Timestamp) -> Result<u64, StoreError>;
}
