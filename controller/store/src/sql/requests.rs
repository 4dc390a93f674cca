//! Answers to calls that may come twice.

use async_trait::async_trait;
use homelab_domain::ids::RequestId;
use jiff::Timestamp;

use super::{
    Conn,
    args::{at, blob, text},
    both,
};
use crate::{
    error::StoreError,
    noun::requests::{Remembered, Requests},
};

pub(super) struct InRequests<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Requests for InRequests<'_> {
    async fn remember(
        &mut self,
        id: RequestId,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Remembered, StoreError> {
        // Of two at once, the second waits here until the first has committed.
        let sql = both(
            "INSERT INTO requests (id, digest, at) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO NOTHING",
        );
        if self.0.run("keep a request id", sql, &[text(id), blob(digest), at(now)]).await? == 1 {
            return Ok(Remembered::New);
        }
        let sql = both("SELECT id, digest, answer FROM requests WHERE id = $1");
        let row = self.0.row("read a request id", sql, &[text(id)]).await?;
        let row = row.ok_or_else(|| StoreError::Conflict { what: format!("request {id}") })?;
        let fields = row.of("requests", "id");
        if fields.digest("digest")? == *digest {
            Ok(Remembered::Same { answer: fields.maybe_blob("answer")? })
        } else {
            Ok(Remembered::Other)
        }
    }

    async fn answer(&mut self, id: RequestId, answer: &[u8]) -> Result<(), StoreError> {
        let sql = both("UPDATE requests SET answer = $2 WHERE id = $1");
        match self.0.run("keep an answer", sql, &[text(id), blob(answer)]).await? {
            1 => Ok(()),
            _ => Err(StoreError::Conflict { what: format!("request {id}") }),
        }
    }

    async fn forget_before(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        let sql = both("DELETE FROM requests WHERE at < $1");
        self.0.run("forget old requests", sql, &[at(before)]).await
    }
}
