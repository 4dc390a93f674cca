//! Files that were given to the gateway, and batches made from them.

use async_trait::async_trait;
use homelab_domain::{
    batch::{Batch, BatchState, LineState, Tally},
    ids::{BatchId, FileId},
    site::Tier,
};
use jiff::Timestamp;

use super::{
    Conn,
    args::{at, big, blob, int, maybe_at, text},
    both,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::batches::{BatchLine, Batches, GivenFile},
};

/// Sorts behind every identifier.
const BEHIND_ALL: &str = "~";

pub(super) struct InBatches<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Batches for InBatches<'_> {
    async fn add_file(&mut self, file: &GivenFile, content: &[u8]) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO gateway_files (id, owner, purpose, name, bytes, created_at, content)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        );
        let args = [
            text(file.id),
            text(&file.owner),
            text(&file.purpose),
            text(&file.name),
            big(file.bytes),
            at(file.created_at),
            blob(content),
        ];
        self.0.run("keep a file", sql, &args).await.map(drop)
    }

    async fn file(&mut self, owner: &str, id: FileId) -> Result<Option<GivenFile>, StoreError> {
        let sql = both(
            "SELECT id, owner, purpose, name, bytes, created_at FROM gateway_files
             WHERE id = $1 AND owner = $2",
        );
        let row = self.0.row("find a file", sql, &[text(id), text(owner)]).await?;
        row.as_ref().map(file_of).transpose()
    }

    async fn content(&mut self, owner: &str, id: FileId) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = both("SELECT id, content FROM gateway_files WHERE id = $1 AND owner = $2");
        let row = self.0.row("read a file", sql, &[text(id), text(owner)]).await?;
        row.map(|row| row.of("gateway_files", "id").blob("content")).transpose()
    }

    async fn files(
        &mut self,
        owner: &str,
        after: Option<FileId>,
        limit: u32,
    ) -> Result<Vec<GivenFile>, StoreError> {
        let sql = both(
            "SELECT id, owner, purpose, name, bytes, created_at FROM gateway_files
             WHERE owner = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        );
        let args = [text(owner), below(after), int(limit)];
        let rows = self.0.rows("list files", sql, &args).await?;
        rows.iter().map(file_of).collect()
    }

    async fn drop_file(&mut self, owner: &str, id: FileId) -> Result<bool, StoreError> {
        let sql = both("DELETE FROM gateway_files WHERE id = $1 AND owner = $2");
        Ok(self.0.run("drop a file", sql, &[text(id), text(owner)]).await? > 0)
    }

    async fn bytes_of(&mut self, owner: &str) -> Result<u64, StoreError> {
        let sql = both(
            "SELECT 'bytes' AS what, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes
             FROM gateway_files WHERE owner = $1",
        );
        match self.0.row("add up files", sql, &[text(owner)]).await? {
            Some(row) => row.of("gateway_files", "what").u64("bytes"),
            None => Ok(0),
        }
    }

    async fn create(&mut self, batch: &Batch, lines: &[BatchLine]) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO batches (id, owner, tiers, endpoint, input, state, metadata, created_at,
               expires_at, cancelling_at, ended_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        );
        let tiers: Vec<_> = batch.tiers.iter().map(ToString::to_string).collect();
        let args = [
            text(batch.id),
            text(&batch.owner),
            text(tiers.join(",")),
            text(&batch.endpoint),
            text(batch.input),
            text(batch.state),
            text(&batch.metadata),
            at(batch.created_at),
            at(batch.expires_at),
            maybe_at(batch.cancelling_at),
            maybe_at(batch.ended_at),
        ];
        self.0.run("keep a batch", sql, &args).await?;
        let sql = both(
            "INSERT INTO batch_lines (batch_id, line, state, custom_id, body)
             VALUES ($1, $2, $3, $4, $5)",
        );
        for line in lines {
            let args = [
                text(batch.id),
                int(line.line),
                text(LineState::Waiting),
                text(&line.custom_id),
                blob(&line.body),
            ];
            self.0.run("keep a line of a batch", sql, &args).await?;
        }
        Ok(())
    }

    async fn get(&mut self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        let sql = both("SELECT * FROM batches WHERE id = $1");
        let row = self.0.row("find a batch", sql, &[text(id)]).await?;
        row.as_ref().map(batch_of).transpose()
    }

    async fn list(
        &mut self,
        owner: &str,
        after: Option<BatchId>,
        limit: u32,
    ) -> Result<Vec<Batch>, StoreError> {
        let sql =
            both("SELECT * FROM batches WHERE owner = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
        let args = [text(owner), below(after), int(limit)];
        let rows = self.0.rows("list batches", sql, &args).await?;
        rows.iter().map(batch_of).collect()
    }

    async fn active(&mut self) -> Result<Vec<Batch>, StoreError> {
        let sql = both("SELECT * FROM batches WHERE ended_at IS NULL ORDER BY id");
        let rows = self.0.rows("list open batches", sql, &[]).await?;
        rows.iter().map(batch_of).collect()
    }

    async fn update(&mut self, batch: &Batch) -> Result<(), StoreError> {
        // What has ended stays as it is, whoever looked at it before.
        let sql = both(
            "UPDATE batches SET state = $2, cancelling_at = $3, ended_at = $4
             WHERE id = $1 AND ended_at IS NULL",
        );
        let args = [
            text(batch.id),
            text(batch.state),
            maybe_at(batch.cancelling_at),
            maybe_at(batch.ended_at),
        ];
        self.0.run("change a batch", sql, &args).await.map(drop)
    }

    async fn tally(&mut self, id: BatchId) -> Result<Tally, StoreError> {
        let sql = both(
            "SELECT state, COUNT(*) AS lines FROM batch_lines WHERE batch_id = $1 GROUP BY state",
        );
        let mut tally = Tally::default();
        for row in self.0.rows("count lines of a batch", sql, &[text(id)]).await? {
            let fields = row.of("batch_lines", "state");
            let lines = fields.u64("lines")?;
            match fields.word("state", LineState::from_word)? {
                LineState::Waiting => tally.waiting = lines,
                LineState::Open => tally.open = lines,
                LineState::Succeeded => tally.succeeded = lines,
                LineState::Failed => tally.failed = lines,
            }
        }
        Ok(tally)
    }

    async fn lines(
        &mut self,
        id: BatchId,
        state: LineState,
        limit: u32,
    ) -> Result<Vec<BatchLine>, StoreError> {
        let sql = both(
            "SELECT batch_id, line, custom_id, body FROM batch_lines
             WHERE batch_id = $1 AND state = $2 ORDER BY line LIMIT $3",
        );
        let args = [text(id), text(state), int(limit)];
        let rows = self.0.rows("list lines of a batch", sql, &args).await?;
        let line_of = |row: &Row| {
            let fields = row.of("batch_lines", "batch_id");
            Ok(BatchLine {
                line: fields.u32("line")?,
                custom_id: fields.text("custom_id")?,
                body: fields.blob("body")?,
            })
        };
        rows.iter().map(line_of).collect()
    }

    async fn open_line(&mut self, id: BatchId, line: u32) -> Result<bool, StoreError> {
        let sql = both(
            "UPDATE batch_lines SET state = $3 WHERE batch_id = $1 AND line = $2 AND state = $4",
        );
        let args = [text(id), int(line), text(LineState::Open), text(LineState::Waiting)];
        Ok(self.0.run("begin a line of a batch", sql, &args).await? > 0)
    }

    async fn end_line(
        &mut self,
        id: BatchId,
        line: u32,
        state: LineState,
        result: &[u8],
    ) -> Result<bool, StoreError> {
        let sql = both(
            "UPDATE batch_lines SET state = $3, result = $4, body = $5
             WHERE batch_id = $1 AND line = $2 AND result IS NULL",
        );
        let args = [text(id), int(line), text(state), blob(result), blob(b"")];
        Ok(self.0.run("end a line of a batch", sql, &args).await? > 0)
    }

    async fn results(
        &mut self,
        id: BatchId,
        state: LineState,
        after: u32,
        limit: u32,
    ) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        let sql = both(
            "SELECT batch_id, line, result FROM batch_lines
             WHERE batch_id = $1 AND state = $2 AND line > $3 ORDER BY line LIMIT $4",
        );
        let args = [text(id), text(state), int(after), int(limit)];
        let rows = self.0.rows("read results of a batch", sql, &args).await?;
        let result_of = |row: &Row| {
            let fields = row.of("batch_lines", "batch_id");
            Ok((fields.u32("line")?, fields.maybe_blob("result")?.unwrap_or_default()))
        };
        rows.iter().map(result_of).collect()
    }

    async fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let ended = both(
            "DELETE FROM batches WHERE id IN (
               SELECT id FROM batches WHERE ended_at < $1 ORDER BY ended_at LIMIT $2)",
        );
        let files = both(
            "DELETE FROM gateway_files WHERE id IN (
               SELECT id FROM gateway_files WHERE created_at < $1 ORDER BY id LIMIT $2)",
        );
        let days = both("DELETE FROM key_days WHERE day < $1");
        let args = [at(before), int(limit)];
        let dropped = self.0.run("drop old batches", ended, &args).await?
            + self.0.run("drop old files", files, &args).await?;
        let day = homelab_domain::allowance::day_of(before);
        self.0.run("drop old days of keys", days, &[int(day)]).await?;
        Ok(dropped)
    }

    async fn spend(&mut self, key: &str, day: i64, tokens: u64) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO key_days (key, day, tokens) VALUES ($1, $2, $3)
             ON CONFLICT (key, day) DO UPDATE SET tokens = key_days.tokens + excluded.tokens",
        );
        let args = [text(key), int(day), big(tokens)];
        self.0.run("charge a key", sql, &args).await.map(drop)
    }

    async fn spent(&mut self, key: &str, day: i64) -> Result<u64, StoreError> {
        let sql = both("SELECT key, tokens FROM key_days WHERE key = $1 AND day = $2");
        match self.0.row("ask what a key has used", sql, &[text(key), int(day)]).await? {
            Some(row) => row.of("key_days", "key").u64("tokens"),
            None => Ok(0),
        }
    }
}

fn below(id: Option<impl ToString>) -> super::args::Arg<'static> {
    text(id.map_or_else(|| BEHIND_ALL.to_owned(), |id| id.to_string()))
}

fn file_of(row: &Row) -> Result<GivenFile, StoreError> {
    let fields = row.of("gateway_files", "id");
    Ok(GivenFile {
        id: fields.parsed("id")?,
        owner: fields.text("owner")?,
        purpose: fields.text("purpose")?,
        name: fields.text("name")?,
        bytes: fields.u64("bytes")?,
        created_at: fields.at("created_at")?,
    })
}

fn batch_of(row: &Row) -> Result<Batch, StoreError> {
    let fields = row.of("batches", "id");
    let tiers = fields.text("tiers")?;
    let tiers: Option<Vec<Tier>> =
        tiers.split(',').filter(|word| !word.is_empty()).map(Tier::from_word).collect();
    Ok(Batch {
        id: fields.parsed("id")?,
        owner: fields.text("owner")?,
        tiers: tiers.ok_or_else(|| fields.wrong("tiers"))?,
        endpoint: fields.text("endpoint")?,
        input: fields.parsed("input")?,
        state: fields.word("state", BatchState::from_word)?,
        metadata: fields.text("metadata")?,
        created_at: fields.at("created_at")?,
        expires_at: fields.at("expires_at")?,
        cancelling_at: fields.maybe_at("cancelling_at")?,
        ended_at: fields.maybe_at("ended_at")?,
    })
}
