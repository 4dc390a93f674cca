//! Documents that jobs may be given as context, in full-text search.

use async_trait::async_trait;
use homelab_domain::{
    context::{Candidate, Passage, Query, Refreshed, SourceState},
    ids::SourceName,
};
use jiff::Timestamp;

use crate::error::StoreError;

/// Passages that are put in at once, at most: some 800 KiB, so that nobody waits long for the writer.
pub const PASSAGES_AT_ONCE_MAX: usize = 200;

/// Sources and their passages.
///
/// A source is replaced as a whole: [`Context::begin`] gives the number of a new generation,
/// [`Context::put`] fills it over as many transactions as it takes, and from [`Context::publish`] on
/// it is the one that is searched. Until then searches find the one before, whole.
#[async_trait]
pub trait Context: Send {
    /// What is known of each source, by name.
    async fn sources(&mut self) -> Result<Vec<SourceState>, StoreError>;

    /// Begins a new generation of a source. One that somebody else has begun can be filled no more.
    async fn begin(&mut self, source: &SourceName) -> Result<u64, StoreError>;

    /// Puts passages into a generation that is being built. [`StoreError::Conflict`] when another
    /// one was begun since.
    async fn put(
        &mut self,
        source: &SourceName,
        generation: u64,
        passages: &[Passage],
    ) -> Result<(), StoreError>;

    /// Has the generation searched from now on, and the source counts as read and well.
    /// [`StoreError::Conflict`] as for [`Context::put`].
    async fn publish(
        &mut self,
        source: &SourceName,
        generation: u64,
        refreshed: &Refreshed,
    ) -> Result<(), StoreError>;

    /// A source was seen to be as it was.
    async fn seen(&mut self, source: &SourceName, now: Timestamp) -> Result<(), StoreError>;

    /// A source could not be read; how often that has been so in a row.
    async fn failed(
        &mut self,
        source: &SourceName,
        message: &str,
        now: Timestamp,
    ) -> Result<u32, StoreError>;

    /// Forgets sources that are not among these.
    async fn retain(&mut self, sources: &[SourceName]) -> Result<u64, StoreError>;

    /// Drops passages that no search finds any more, at most `limit`; how many.
    async fn sweep(&mut self, limit: u32) -> Result<u64, StoreError>;

    /// Passages of these sources that have any of the words, the back end's best first, at most
    /// `limit`.
    async fn search(
        &mut self,
        query: &Query,
        sources: &[SourceName],
        limit: u32,
    ) -> Result<Vec<Candidate>, StoreError>;
}
