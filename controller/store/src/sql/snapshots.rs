//! Snapshots that were seen, brakes that were let go, repositories that were read through.

use async_trait::async_trait;
use homelab_domain::{
    ids::{BackupName, RepositoryName},
    retention::BrakeKind,
};
use jiff::Timestamp;

use super::{
    Conn,
    args::{Arg, at, big, maybe_text, text},
    both,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::snapshots::{Acknowledged, Scrub, SeenSnapshot, SeenState, Snapshots},
};

pub(super) struct InSnapshots<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Snapshots for InSnapshots<'_> {
    async fn add(&mut self, one: &SeenSnapshot) -> Result<bool, StoreError> {
        let sql = both(
            "INSERT INTO snapshots (backup, repository, id, sequence, run, taken_at, verified_at,
               source_bytes, items, state, state_since)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING",
        );
        let args = [
            text(&one.backup),
            text(&one.repository),
            text(&one.id),
            big(one.sequence),
            maybe_text(one.run),
            at(one.taken_at),
            at(one.verified_at),
            big(one.source_bytes),
            one.items.map_or(Arg::Int(None), big),
            text(one.state),
            at(one.state_since),
        ];
        Ok(self.0.run("keep a snapshot", sql, &args).await? == 1)
    }

    async fn of(&mut self, backup: &BackupName) -> Result<Vec<SeenSnapshot>, StoreError> {
        let sql = both("SELECT * FROM snapshots WHERE backup = $1 ORDER BY sequence, repository");
        let rows = self.0.rows("list snapshots", sql, &[text(backup)]).await?;
        rows.iter().map(snapshot_of).collect()
    }

    async fn mark(
        &mut self,
        backup: &BackupName,
        repository: &RepositoryName,
        id: &str,
        state: SeenState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = both(
            "UPDATE snapshots SET state = $4, state_since = $5
             WHERE backup = $1 AND repository = $2 AND id = $3 AND state <> $4",
        );
        let args = [text(backup), text(repository), text(id), text(state), at(now)];
        Ok(self.0.run("mark a snapshot", sql, &args).await? == 1)
    }

    async fn acknowledge(&mut self, one: &Acknowledged) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO acknowledgements (backup, brake, subject, by_whom, reason, at)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        );
        let args = [
            text(&one.backup),
            text(one.brake),
            text(&one.subject),
            text(&one.by),
            text(&one.reason),
            at(one.at),
        ];
        self.0.run("keep an acknowledgement", sql, &args).await?;
        Ok(())
    }

    async fn acknowledged(&mut self, backup: &BackupName) -> Result<Vec<Acknowledged>, StoreError> {
        let sql = both("SELECT * FROM acknowledgements WHERE backup = $1 ORDER BY at, subject");
        let rows = self.0.rows("list acknowledgements", sql, &[text(backup)]).await?;
        rows.iter().map(acknowledged_of).collect()
    }

    async fn scrubbed(&mut self, scrub: &Scrub) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO scrubs (repository, at, problems) VALUES ($1, $2, $3)
             ON CONFLICT (repository) DO UPDATE SET at = excluded.at, problems = excluded.problems",
        );
        let problems = serde_json::Value::from(scrub.problems.clone());
        let args = [text(&scrub.repository), at(scrub.at), text(problems)];
        self.0.run("keep a scrub", sql, &args).await?;
        Ok(())
    }

    async fn scrubs(&mut self) -> Result<Vec<Scrub>, StoreError> {
        let sql = both("SELECT * FROM scrubs ORDER BY repository");
        let rows = self.0.rows("list scrubs", sql, &[]).await?;
        rows.iter().map(scrub_of).collect()
    }
}

fn snapshot_of(row: &Row) -> Result<SeenSnapshot, StoreError> {
    let fields = row.of("snapshots", "id");
    Ok(SeenSnapshot {
        backup: fields.parsed("backup")?,
        repository: fields.parsed("repository")?,
        id: fields.text("id")?,
        sequence: fields.u64("sequence")?,
        run: fields.maybe_parsed("run")?,
        taken_at: fields.at("taken_at")?,
        verified_at: fields.at("verified_at")?,
        source_bytes: fields.u64("source_bytes")?,
        items: fields.maybe_u64("items")?,
        state: fields.word("state", SeenState::from_word)?,
        state_since: fields.at("state_since")?,
    })
}

fn acknowledged_of(row: &Row) -> Result<Acknowledged, StoreError> {
    let fields = row.of("acknowledgements", "subject");
    Ok(Acknowledged {
        backup: fields.parsed("backup")?,
        brake: fields.word("brake", BrakeKind::from_word)?,
        subject: fields.text("subject")?,
        by: fields.text("by_whom")?,
        reason: fields.text("reason")?,
        at: fields.at("at")?,
    })
}

fn scrub_of(row: &Row) -> Result<Scrub, StoreError> {
    let fields = row.of("scrubs", "repository");
    Ok(Scrub {
        repository: fields.parsed("repository")?,
        at: fields.at("at")?,
        problems: fields.json("problems")?,
    })
}
