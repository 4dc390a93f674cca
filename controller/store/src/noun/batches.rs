//! Files that were given to the gateway, and batches made from them.

use std::fmt;

use async_trait::async_trait;
use homelab_domain::{
    batch::{Batch, LineState, Tally},
    ids::{BatchId, FileId},
};
use jiff::Timestamp;

use crate::error::StoreError;

/// A file, without what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenFile {
    /// Identifier.
    pub id: FileId,
    /// Name of the key that gave it; nobody else sees it.
    pub owner: String,
    /// What it is for, in the words of the API.
    pub purpose: String,
    /// What it was called.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it came.
    pub created_at: Timestamp,
}

/// One line of a batch.
#[derive(Clone, PartialEq, Eq)]
pub struct BatchLine {
    /// Its number in the file, from 1.
    pub line: u32,
    /// The caller's own name for it.
    pub custom_id: String,
    /// What is asked, as JSON; wiped once it has ended.
    pub body: Vec<u8>,
}

impl fmt::Debug for BatchLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchLine({}, {} bytes)", self.line, self.body.len())
    }
}

/// Files and batches.
#[async_trait]
pub trait Batches: Send {
    /// Keeps a file.
    async fn add_file(&mut self, file: &GivenFile, content: &[u8]) -> Result<(), StoreError>;

    /// One file of an owner.
    async fn file(&mut self, owner: &str, id: FileId) -> Result<Option<GivenFile>, StoreError>;

    /// What is in a file of an owner.
    async fn content(&mut self, owner: &str, id: FileId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Files of an owner, newest first, at most `limit`, those older than `after`.
    async fn files(
        &mut self,
        owner: &str,
        after: Option<FileId>,
        limit: u32,
    ) -> Result<Vec<GivenFile>, StoreError>;

    /// Drops a file of an owner; whether it was there. Batches made from it go on.
    async fn drop_file(&mut self, owner: &str, id: FileId) -> Result<bool, StoreError>;

    /// Bytes of all files of an owner.
    async fn bytes_of(&mut self, owner: &str) -> Result<u64, StoreError>;

    /// Keeps a batch with its lines, none of which is begun.
    async fn create(&mut self, batch: &Batch, lines: &[BatchLine]) -> Result<(), StoreError>;

    /// One batch, whoever made it.
    async fn get(&mut self, id: BatchId) -> Result<Option<Batch>, StoreError>;

    /// Batches of an owner, newest first, at most `limit`, those older than `after`.
    async fn list(
        &mut self,
        owner: &str,
        after: Option<BatchId>,
        limit: u32,
    ) -> Result<Vec<Batch>, StoreError>;

    /// Batches that have not ended, oldest first.
    async fn active(&mut self) -> Result<Vec<Batch>, StoreError>;

    /// Keeps where a batch stands.
    async fn update(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// How many lines stand where.
    async fn tally(&mut self, id: BatchId) -> Result<Tally, StoreError>;

    /// Lines in a state with what they ask, in order, at most `limit`.
    async fn lines(
        &mut self,
        id: BatchId,
        state: LineState,
        limit: u32,
    ) -> Result<Vec<BatchLine>, StoreError>;

    /// A line that waited is a job now; false when it did not wait.
    async fn open_line(&mut self, id: BatchId, line: u32) -> Result<bool, StoreError>;

    /// A line has ended with `result`, a line of the output or of the error file; what it asked is
    /// wiped. False when it had ended before.
    async fn end_line(
        &mut self,
        id: BatchId,
        line: u32,
        state: LineState,
        result: &[u8],
    ) -> Result<bool, StoreError>;

    /// Results of lines in a state with their numbers, in order, those after line `after`.
    async fn results(
        &mut self,
        id: BatchId,
        state: LineState,
        after: u32,
        limit: u32,
    ) -> Result<Vec<(u32, Vec<u8>)>, StoreError>;

    /// Drops batches that ended, and files that came, before a moment; how many.
    async fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Adds to the tokens that a key has used on a day.
    async fn spend(&mut self, key: &str, day: i64, tokens: u64) -> Result<(), StoreError>;

    /// Tokens that a key has used on a day.
    async fn spent(&mut self, key: &str, day: i64) -> Result<u64, StoreError>;
}
