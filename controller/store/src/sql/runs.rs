//! Runs of backups and drills.

mod rows;

use async_trait::async_trait;
use homelab_domain::{
    ids::{BackupName, RunId},
    run::{DrillFact, Progress, Run, RunHasEnded, RunOutcome, RunSpec, RunState, SnapshotFact},
    upkeep::Cutoff,
};
use jiff::Timestamp;

use self::rows::run_of;
use super::{
    Conn,
    args::{int, maybe_text, text},
    both, each,
};
use crate::{
    error::{RunError, StoreError},
    noun::runs::{RunFilter, Runs, Started},
    page::{Cursor, Page, PageRequest},
};

pub(super) struct InRuns<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Runs for InRuns<'_> {
    async fn start(&mut self, spec: &RunSpec) -> Result<Started, StoreError> {
        let run = Run::start(spec.clone());
        if self.insert(&run).await? {
            return Ok(Started::New(run));
        }
        if let Some(known) = self.get(spec.id).await? {
            return Ok(Started::Existing(known));
        }
        let sql = both(
            "SELECT * FROM runs WHERE backup = $1 AND kind = $2
             AND state IN ('running', 'unknown')",
        );
        let args = [text(&spec.backup), text(spec.kind)];
        match self.0.row("find the run in progress", sql, &args).await? {
            Some(row) => Ok(Started::InProgress(run_of(&row)?)),
            // It ended in this very moment.
            None => Err(StoreError::Conflict { what: format!("the runs of `{}`", spec.backup) }),
        }
    }

    async fn get(&mut self, id: RunId) -> Result<Option<Run>, StoreError> {
        let sql = both("SELECT * FROM runs WHERE id = $1");
        let row = self.0.row("read a run", sql, &[text(id)]).await?;
        row.as_ref().map(run_of).transpose()
    }

    async fn progressed(&mut self, id: RunId, progress: Progress) -> Result<Run, RunError> {
        self.change(id, |run| run.progressed(progress)).await
    }

    async fn lost(&mut self, id: RunId, why: &str, now: Timestamp) -> Result<Run, RunError> {
        self.change(id, |run| run.lost(why, now)).await
    }

    async fn end(
        &mut self,
        id: RunId,
        outcome: RunOutcome,
        now: Timestamp,
    ) -> Result<Run, RunError> {
        self.change(id, |run| run.end(outcome, now)).await
    }

    async fn list(
        &mut self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<Run>, StoreError> {
        let sql = both(
            "SELECT * FROM runs WHERE ($1 IS NULL OR backup = $1) AND ($2 IS NULL OR kind = $2)
             AND (started_at, id) < ($3, $4) ORDER BY started_at DESC, id DESC LIMIT $5",
        );
        let (key, id) = page.below();
        let args = [
            maybe_text(filter.backup.as_ref()),
            maybe_text(filter.kind),
            int(key),
            text(id),
            int(i64::from(page.limit()) + 1),
        ];
        let rows = self.0.rows("list runs", sql, &args).await?;
        let runs = rows.iter().map(run_of).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(runs, page, |run| Cursor {
            key: run.spec.started_at.as_microsecond(),
            id: run.spec.id.to_string(),
        }))
    }

    async fn open(&mut self) -> Result<Vec<Run>, StoreError> {
        let sql = both(
            "SELECT * FROM runs WHERE state IN ('running', 'unknown') ORDER BY started_at, id",
        );
        let rows = self.0.rows("list open runs", sql, &[]).await?;
        rows.iter().map(run_of).collect()
    }

    async fn newest(&mut self) -> Result<Vec<Run>, StoreError> {
        let sql = both(
            "SELECT * FROM runs WHERE id IN (
               SELECT (SELECT id FROM runs AS r WHERE r.backup = k.backup AND r.kind = k.kind
                       ORDER BY started_at DESC, id DESC LIMIT 1)
               FROM (SELECT DISTINCT backup, kind FROM runs) AS k)
             ORDER BY backup, kind",
        );
        let rows = self.0.rows("find the newest runs", sql, &[]).await?;
        rows.iter().map(run_of).collect()
    }

    async fn newest_verified(&mut self) -> Result<Vec<(BackupName, SnapshotFact)>, StoreError> {
        let sql = both(
            "SELECT * FROM runs WHERE id IN (
               SELECT (SELECT id FROM runs AS r WHERE r.backup = k.backup
                       AND kind = 'backup' AND state = 'succeeded'
                       ORDER BY snapshot_taken_at DESC, id DESC LIMIT 1)
               FROM (SELECT DISTINCT backup FROM runs
                     WHERE kind = 'backup' AND state = 'succeeded') AS k)
             ORDER BY backup",
        );
        let rows = self.0.rows("find the newest snapshots", sql, &[]).await?;
        let mut newest = Vec::with_capacity(rows.len());
        for row in &rows {
            let run = run_of(row)?;
            if let RunState::Ended { outcome: RunOutcome::Stored(snapshot), .. } = run.state {
                newest.push((run.spec.backup, snapshot));
            }
        }
        Ok(newest)
    }

    async fn drills(
        &mut self,
        backup: &BackupName,
        limit: u32,
    ) -> Result<Vec<(Timestamp, DrillFact)>, StoreError> {
        let sql = both(
            "SELECT * FROM runs WHERE backup = $1 AND kind = 'drill'
             AND drill_verdict IS NOT NULL ORDER BY started_at DESC, id DESC LIMIT $2",
        );
        let rows = self.0.rows("list drills", sql, &[text(backup), int(limit)]).await?;
        let mut drills = Vec::with_capacity(rows.len());
        for row in &rows {
            if let RunState::Ended { at, outcome: RunOutcome::Drilled(drill) } = run_of(row)?.state
            {
                drills.push((at, drill));
            }
        }
        Ok(drills)
    }

    async fn prune(&mut self, cut: Cutoff, limit: u32) -> Result<u64, StoreError> {
        self.0.prune_runs(cut, limit).await
    }
}

impl InRuns<'_> {
    async fn change(
        &mut self,
        id: RunId,
        transition: impl FnOnce(Run) -> Result<Run, RunHasEnded> + Send,
    ) -> Result<Run, RunError> {
        let sql =
            each("SELECT * FROM runs WHERE id = $1", "SELECT * FROM runs WHERE id = $1 FOR UPDATE");
        let row = self.0.row("read a run", sql, &[text(id)]).await?;
        let before = row.as_ref().map(run_of).transpose()?.ok_or(RunError::NotFound(id))?;
        let run = transition(before.clone())?;
        if run != before {
            self.save(&run).await?;
        }
        Ok(run)
    }
}
