//! Dropping what is over, oldest first and a few at a time.

use homelab_domain::upkeep::Cutoff;
use jiff::Timestamp;

use super::{
    Conn, Sql,
    args::{at, int, text},
    both,
};
use crate::error::StoreError;

const FIRST_JOB_TOO_MANY: Sql = both(
    "SELECT id, finished_at AS moment FROM jobs WHERE finished_at IS NOT NULL
     ORDER BY finished_at DESC, id DESC LIMIT 1 OFFSET $1",
);

const OLD_JOBS: Sql = both(
    "DELETE FROM jobs WHERE id IN (
       SELECT id FROM jobs WHERE finished_at IS NOT NULL
       AND (finished_at < $1 OR (finished_at, id) <= ($2, $3))
       ORDER BY finished_at, id LIMIT $4)",
);

/// Jobs that were to be kept for a shorter time than others.
const JOBS_BY_WISH: Sql = both(
    "DELETE FROM jobs WHERE id IN (
       SELECT id FROM jobs WHERE drop_at <= $1 ORDER BY drop_at, id LIMIT $2)",
);

const FIRST_RUN_TOO_MANY: Sql = both(
    "SELECT id, started_at AS moment FROM runs
     ORDER BY started_at DESC, id DESC LIMIT 1 OFFSET $1",
);

/// All but the newest of its backup, kind and outcome, and all but the newest snapshot.
const OLD_RUNS: Sql = both(
    "DELETE FROM runs WHERE id IN (
       SELECT r.id FROM runs AS r WHERE r.finished_at IS NOT NULL
       AND ((r.started_at < $1 AND r.finished_at < $1) OR (r.started_at, r.id) <= ($2, $3))
       AND EXISTS (SELECT 1 FROM runs AS n WHERE n.backup = r.backup AND n.kind = r.kind
         AND n.state = r.state AND COALESCE(n.drill_verdict, '') = COALESCE(r.drill_verdict, '')
         AND (n.started_at, n.id) > (r.started_at, r.id))
       AND (r.kind <> 'backup' OR r.state <> 'succeeded' OR EXISTS (
         SELECT 1 FROM runs AS n WHERE n.backup = r.backup AND n.kind = r.kind
         AND n.state = r.state AND n.snapshot_taken_at > r.snapshot_taken_at))
       ORDER BY r.started_at, r.id LIMIT $4)",
);

const OLD_CERTIFICATES: Sql = both(
    "DELETE FROM certificates WHERE serial_hex IN (
       SELECT serial_hex FROM certificates WHERE not_after < $1 ORDER BY not_after LIMIT $2)",
);

const OLD_TOKENS: Sql = both(
    "DELETE FROM tokens WHERE id IN (
       SELECT id FROM tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
);

const OLD_GOLD: Sql = both(
    "DELETE FROM gold_calls WHERE (job, attempt) IN (
       SELECT job, attempt FROM gold_calls WHERE at < $1 AND outcome IS NOT NULL
       ORDER BY at, job, attempt LIMIT $2)",
);

impl Conn {
    pub(super) async fn prune_jobs(&mut self, cut: Cutoff, limit: u32) -> Result<u64, StoreError> {
        self.prune("drop old jobs", FIRST_JOB_TOO_MANY, OLD_JOBS, cut, limit).await
    }

    pub(super) async fn prune_jobs_by_wish(
        &mut self,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.run("drop jobs whose time is up", JOBS_BY_WISH, &[at(now), int(limit)]).await
    }

    pub(super) async fn prune_runs(&mut self, cut: Cutoff, limit: u32) -> Result<u64, StoreError> {
        self.prune("drop old runs", FIRST_RUN_TOO_MANY, OLD_RUNS, cut, limit).await
    }

    pub(super) async fn prune_certificates(
        &mut self,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.run("drop old certificates", OLD_CERTIFICATES, &[at(before), int(limit)]).await
    }

    pub(super) async fn prune_tokens(
        &mut self,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.run("drop old tokens", OLD_TOKENS, &[at(before), int(limit)]).await
    }

    pub(super) async fn prune_gold(
        &mut self,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.run("drop what left long ago", OLD_GOLD, &[at(before), int(limit)]).await
    }

    async fn prune(
        &mut self,
        doing: &'static str,
        first_too_many: Sql,
        old: Sql,
        cut: Cutoff,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let row = self.row(doing, first_too_many, &[int(cut.newest)]).await?;
        let (moment, id) = match row {
            Some(row) => {
                let fields = row.of("jobs or runs", "id");
                (at(fields.at("moment")?), fields.text("id")?)
            }
            // Nothing ended before time began.
            None => (int(i64::MIN), String::new()),
        };
        self.run(doing, old, &[at(cut.before), moment, text(id), int(limit)]).await
    }
}
