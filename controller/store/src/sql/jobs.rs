//! The queue.

mod pieces;
mod rows;

use async_trait::async_trait;
use homelab_domain::{
    ids::{HostName, JobId},
    job::{InvalidTransition, Job, JobEvent, JobSpec, JobStateKind, Lease, Outcome},
    queue::Pending,
    reason::Because,
    upkeep::Cutoff,
};
use jiff::Timestamp;

use self::rows::{COLUMNS_BY_ID, event_of, listed};
use super::{
    Conn,
    args::{at, big, int, text, texts},
    both, each,
};
use crate::{
    error::{JobError, StoreError},
    noun::jobs::{Claim, JobCounts, JobFilter, Jobs, Piece, Submitted, Swept, UnmetNeed},
    page::{Cursor, Page, PageRequest},
};

pub(super) struct InJobs<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Jobs for InJobs<'_> {
    async fn submit(&mut self, spec: &JobSpec) -> Result<Submitted, StoreError> {
        if let Some(missing) = self.missing_need(spec).await? {
            // A call that comes again finds its job, whatever became of what it came after.
            let known = self.get(spec.id).await?;
            return Ok(known.map_or(Submitted::NeedMissing(missing), Submitted::Existing));
        }
        let job = Job::submit(spec.clone());
        if self.insert(&job).await? {
            return Ok(Submitted::New(job));
        }
        let known = self.get(spec.id).await?;
        known
            .map(Submitted::Existing)
            .ok_or_else(|| StoreError::Conflict { what: format!("job {}", spec.id) })
    }

    async fn get(&mut self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.with_text(vec![id]).await?.pop())
    }

    async fn claim(&mut self, claim: &Claim) -> Result<Vec<Job>, StoreError> {
        let sql = each(
            "SELECT jobs.*, job_requests.body FROM jobs LEFT JOIN job_requests ON job_id = id
             WHERE state IN ('queued', 'waiting') AND tier = $1 AND needs IS NULL
             AND model IN (SELECT value FROM json_each($2))
             AND (deadline IS NULL OR deadline > $3)
             ORDER BY queue_key, id LIMIT $4",
            "SELECT jobs.*, job_requests.body FROM jobs LEFT JOIN job_requests ON job_id = id
             WHERE state IN ('queued', 'waiting') AND tier = $1 AND needs IS NULL
             AND model = ANY($2) AND (deadline IS NULL OR deadline > $3)
             ORDER BY queue_key, id LIMIT $4 FOR UPDATE OF jobs SKIP LOCKED",
        );
        let args = [text(claim.tier), texts(&claim.models), at(claim.now), int(claim.slots)];
        let rows = self.0.rows("find jobs to give away", sql, &args).await?;
        let mut given = Vec::with_capacity(rows.len());
        for row in &rows {
            // What was selected is pending and within its deadline; a job that the
            // machine refuses nevertheless is left where it is.
            if let Ok(job) = rows::whole(row)?.assign(claim.worker.clone(), claim.now, claim.until)
            {
                self.save(&job, claim.now).await?;
                given.push(job);
            }
        }
        Ok(given)
    }

    async fn assign(
        &mut self,
        id: JobId,
        worker: &HostName,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Job, JobError> {
        self.change(id, now, |job| job.assign(worker.clone(), now, until)).await?;
        self.get(id).await?.ok_or(JobError::NotFound(id))
    }

    async fn wait(&mut self, id: JobId, because: Because, now: Timestamp) -> Result<Job, JobError> {
        self.change(id, now, |job| job.wait(because)).await
    }

    async fn ready(&mut self, id: JobId, now: Timestamp) -> Result<Job, JobError> {
        self.change(id, now, Job::ready).await
    }

    async fn start(&mut self, id: JobId, attempt: u32, now: Timestamp) -> Result<Job, JobError> {
        self.change(id, now, |job| job.start(attempt, now)).await
    }

    async fn renew(
        &mut self,
        attempts: &[(JobId, u32)],
        until: Timestamp,
    ) -> Result<Vec<JobId>, StoreError> {
        let sql = each(
            "UPDATE jobs SET lease_until = MAX(lease_until, $3)
             WHERE id IN (SELECT value FROM json_each($1))
             AND id || '/' || attempt IN (SELECT value FROM json_each($2))
             AND state IN ('assigned', 'running') RETURNING id",
            "UPDATE jobs SET lease_until = GREATEST(lease_until, $3)
             WHERE id = ANY($1) AND id || '/' || attempt = ANY($2)
             AND state IN ('assigned', 'running') RETURNING id",
        );
        let fences = attempts.iter().map(|(id, attempt)| format!("{id}/{attempt}"));
        let args = [texts(attempts.iter().map(|(id, _)| id)), texts(fences), at(until)];
        let renewed = self.ids("renew leases", sql, &args).await?;
        Ok(attempts.iter().map(|(id, _)| *id).filter(|id| !renewed.contains(id)).collect())
    }

    async fn append(
        &mut self,
        id: JobId,
        attempt: u32,
        pieces: &[Piece],
        until: Timestamp,
    ) -> Result<(), JobError> {
        self.append_pieces(id, attempt, pieces, until).await
    }

    async fn finish(
        &mut self,
        id: JobId,
        attempt: u32,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Job, JobError> {
        self.change(id, now, |job| job.finish(attempt, outcome, now)).await
    }

    async fn cancel(
        &mut self,
        id: JobId,
        by: &str,
        now: Timestamp,
    ) -> Result<(Job, Option<Lease>), JobError> {
        let job = self.lock(id).await?.ok_or(JobError::NotFound(id))?;
        let lease = job.state().lease().cloned();
        let job = job.cancel(by, now)?;
        self.save(&job, now).await?;
        Ok((job, lease))
    }

    async fn retry(&mut self, id: JobId, by: &str, now: Timestamp) -> Result<Job, JobError> {
        self.lock(id).await?.ok_or(JobError::NotFound(id))?;
        // With its text this time: without it, it cannot be tried again.
        let job = self.get(id).await?.ok_or(JobError::NotFound(id))?.retry(by, now)?;
        self.save(&job, now).await?;
        self.drop_pieces(id).await?;
        Ok(job)
    }

    async fn sweep(&mut self, now: Timestamp, limit: u32) -> Result<Swept, StoreError> {
        let due = each(
            "SELECT id FROM jobs WHERE state IN ('queued', 'waiting') AND deadline <= $1
             ORDER BY deadline LIMIT $2",
            "SELECT id FROM jobs WHERE state IN ('queued', 'waiting') AND deadline <= $1
             ORDER BY deadline LIMIT $2 FOR UPDATE SKIP LOCKED",
        );
        let lost = each(
            "SELECT id FROM jobs WHERE state IN ('assigned', 'running') AND lease_until <= $1
             ORDER BY lease_until LIMIT $2",
            "SELECT id FROM jobs WHERE state IN ('assigned', 'running') AND lease_until <= $1
             ORDER BY lease_until LIMIT $2 FOR UPDATE SKIP LOCKED",
        );
        let due = self.ids("find expired jobs", due, &[at(now), int(limit)]).await?;
        let lost = self.ids("find lost jobs", lost, &[at(now), int(limit)]).await?;
        Ok(Swept {
            expired: self.change_all(due, now, |job| job.expire(now)).await?,
            lost: self.change_all(lost, now, |job| job.lose_lease(now)).await?,
        })
    }

    async fn pending(&mut self, limit: u32) -> Result<Vec<Job>, StoreError> {
        let sql = both(
            "SELECT * FROM (
               SELECT jobs.*, ROW_NUMBER() OVER (
                 PARTITION BY tier, model, class, needs IS NULL
                 ORDER BY queue_key, id) AS place
               FROM jobs WHERE state IN ('queued', 'waiting')) AS placed
             WHERE place <= $1 ORDER BY queue_key, id",
        );
        let rows = self.0.rows("list pending jobs", sql, &[int(limit)]).await?;
        rows.iter().map(listed).collect()
    }

    async fn pending_all(&mut self) -> Result<Vec<Pending>, StoreError> {
        let sql = both(
            "SELECT id, tier, model, class, submitted_by, request_bytes FROM jobs
             WHERE state IN ('queued', 'waiting')",
        );
        let rows = self.0.rows("count pending jobs", sql, &[]).await?;
        rows.iter().map(rows::pending).collect()
    }

    async fn unmet_needs(&mut self) -> Result<Vec<UnmetNeed>, StoreError> {
        let sql = each(
            "SELECT p.id, need.value AS needs_id, n.state FROM jobs AS p
             JOIN json_each(p.needs) AS need LEFT JOIN jobs AS n ON n.id = need.value
             WHERE p.state IN ('queued', 'waiting') AND p.needs IS NOT NULL
             AND (n.state IS NULL OR n.state <> 'succeeded') ORDER BY p.id, need.value",
            "SELECT p.id, need.value AS needs_id, n.state FROM jobs AS p
             CROSS JOIN LATERAL jsonb_array_elements_text(CAST(p.needs AS JSONB)) AS need (value)
             LEFT JOIN jobs AS n ON n.id = need.value
             WHERE p.state IN ('queued', 'waiting') AND p.needs IS NOT NULL
             AND (n.state IS NULL OR n.state <> 'succeeded') ORDER BY p.id, need.value",
        );
        let rows = self.0.rows("find what jobs come after", sql, &[]).await?;
        rows.iter().map(rows::unmet_need).collect()
    }

    async fn give_up(
        &mut self,
        id: JobId,
        because: Because,
        now: Timestamp,
    ) -> Result<Job, JobError> {
        self.change(id, now, |job| job.give_up(because, now)).await
    }

    async fn owned(&mut self) -> Result<Vec<Job>, StoreError> {
        let sql = both("SELECT * FROM jobs WHERE state IN ('assigned', 'running') ORDER BY id");
        let rows = self.0.rows("list running jobs", sql, &[]).await?;
        rows.iter().map(listed).collect()
    }

    async fn list(
        &mut self,
        filter: &JobFilter,
        page: &PageRequest,
    ) -> Result<Page<Job>, StoreError> {
        let sql = each(
            "SELECT * FROM jobs WHERE state IN (SELECT value FROM json_each($1))
             AND (submitted_at, id) < ($2, $3) ORDER BY submitted_at DESC, id DESC LIMIT $4",
            "SELECT * FROM jobs WHERE state = ANY($1)
             AND (submitted_at, id) < ($2, $3) ORDER BY submitted_at DESC, id DESC LIMIT $4",
        );
        let states = if filter.states.is_empty() { JobStateKind::ALL } else { &filter.states };
        let (key, id) = page.below();
        let args = [texts(states), int(key), text(id), int(i64::from(page.limit()) + 1)];
        let rows = self.0.rows("list jobs", sql, &args).await?;
        let jobs = rows.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(jobs, page, |job| Cursor {
            key: job.spec().submitted_at.as_microsecond(),
            id: job.id().to_string(),
        }))
    }

    async fn pieces(
        &mut self,
        id: JobId,
        from_index: u32,
        limit: u32,
    ) -> Result<Vec<Piece>, StoreError> {
        self.read_pieces(id, from_index, limit).await
    }

    async fn events(&mut self, id: JobId) -> Result<Vec<JobEvent>, StoreError> {
        let sql = both("SELECT * FROM job_events WHERE job_id = $1 ORDER BY sequence");
        let rows = self.0.rows("read the history of a job", sql, &[text(id)]).await?;
        rows.iter().map(event_of).collect()
    }

    async fn counts(&mut self, since: Timestamp) -> Result<JobCounts, StoreError> {
        let sql = both(
            "SELECT state, COUNT(*) AS jobs FROM jobs
             WHERE state IN ('queued', 'waiting') GROUP BY state
             UNION ALL
             SELECT state, COUNT(*) AS jobs FROM jobs
             WHERE state IN ('assigned', 'running') GROUP BY state
             UNION ALL
             SELECT state, COUNT(*) AS jobs FROM jobs
             WHERE finished_at IS NOT NULL AND finished_at >= $1 GROUP BY state",
        );
        let mut counts = JobCounts::default();
        for row in self.0.rows("count jobs", sql, &[at(since)]).await? {
            let fields = row.of("jobs", "state");
            let jobs = fields.u64("jobs")?;
            match fields.word("state", JobStateKind::from_word)? {
                JobStateKind::Queued | JobStateKind::Waiting => counts.pending += jobs,
                JobStateKind::Assigned | JobStateKind::Running => counts.running += jobs,
                JobStateKind::Succeeded => counts.succeeded += jobs,
                JobStateKind::Failed | JobStateKind::Expired => counts.failed += jobs,
                JobStateKind::Cancelled => {}
            }
        }
        Ok(counts)
    }

    async fn prune(&mut self, cut: Cutoff, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let dropped = self.0.prune_jobs_by_wish(now, limit).await?;
        let left = limit.saturating_sub(u32::try_from(dropped).unwrap_or(limit));
        Ok(dropped + self.0.prune_jobs(cut, left).await?)
    }
}

impl InJobs<'_> {
    /// Locks a job, lets the state machine decide, and keeps what it says. A
    /// transition that changes nothing leaves no trace.
    async fn change(
        &mut self,
        id: JobId,
        now: Timestamp,
        transition: impl FnOnce(Job) -> Result<Job, InvalidTransition> + Send,
    ) -> Result<Job, JobError> {
        let before = self.lock(id).await?.ok_or(JobError::NotFound(id))?;
        let job = transition(before.clone())?;
        if job != before {
            self.save(&job, now).await?;
        }
        Ok(job)
    }

    /// The same for many that were selected for it; one that is refused all the
    /// same is left where it is.
    async fn change_all(
        &mut self,
        ids: Vec<JobId>,
        now: Timestamp,
        transition: impl Fn(Job) -> Result<Job, InvalidTransition> + Send + Sync,
    ) -> Result<Vec<Job>, StoreError> {
        let mut changed = Vec::with_capacity(ids.len());
        for id in ids {
            match self.change(id, now, &transition).await {
                Ok(job) => changed.push(job),
                Err(JobError::Store(error)) => return Err(error),
                Err(JobError::NotFound(_) | JobError::Refused(_)) => {}
            }
        }
        Ok(changed)
    }

    /// The job, without its text, held until the transaction ends.
    async fn lock(&mut self, id: JobId) -> Result<Option<Job>, StoreError> {
        let sql =
            each("SELECT * FROM jobs WHERE id = $1", "SELECT * FROM jobs WHERE id = $1 FOR UPDATE");
        let row = self.0.row("read a job", sql, &[text(id)]).await?;
        row.as_ref().map(listed).transpose()
    }

    /// Jobs with their text, in the order of the queue.
    async fn with_text(&mut self, ids: Vec<JobId>) -> Result<Vec<Job>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.0.rows("read jobs", COLUMNS_BY_ID, &[texts(&ids)]).await?;
        rows.iter().map(rows::whole).collect()
    }

    async fn ids(
        &mut self,
        doing: &'static str,
        sql: super::Sql,
        args: &[super::Arg<'_>],
    ) -> Result<Vec<JobId>, StoreError> {
        let rows = self.0.rows(doing, sql, args).await?;
        rows.iter().map(|row| row.of("jobs", "id").parsed("id")).collect()
    }

    /// The first of those that a job is to come after that is not there.
    async fn missing_need(&mut self, spec: &JobSpec) -> Result<Option<JobId>, StoreError> {
        let after = &spec.terms.after;
        if after.is_empty() {
            return Ok(None);
        }
        let sql = each(
            "SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each($1))",
            "SELECT id FROM jobs WHERE id = ANY($1)",
        );
        let known = self.ids("look for what a job comes after", sql, &[texts(after)]).await?;
        Ok(after.iter().copied().find(|id| !known.contains(id)))
    }

    async fn drop_pieces(&mut self, id: JobId) -> Result<(), StoreError> {
        let sql = both("DELETE FROM job_pieces WHERE job_id = $1");
        self.0.run("drop the text of a job", sql, &[text(id)]).await.map(drop)
    }

    /// Nothing but figures stays.
    async fn wipe(&mut self, id: JobId) -> Result<(), StoreError> {
        self.drop_pieces(id).await?;
        let sql = both("DELETE FROM job_requests WHERE job_id = $1");
        self.0.run("drop the request of a job", sql, &[text(id)]).await?;
        let sql = both("UPDATE jobs SET title = '', attached = NULL WHERE id = $1");
        self.0.run("drop the title of a job", sql, &[text(id)]).await.map(drop)
    }

    /// Keeps the history of a job.
    async fn add_event(&mut self, event: &JobEvent, id: JobId) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO job_events (job_id, sequence, at, state, reason, message, attempt, worker)
             SELECT $1, COALESCE(MAX(sequence), 0) + 1, $2, $3, $4, $5, $6, $7
             FROM job_events WHERE job_id = $1",
        );
        let args = [
            text(id),
            at(event.at),
            text(event.state),
            text(&event.reason),
            text(&event.message),
            big(u64::from(event.attempt)),
            super::args::maybe_text(event.worker.as_ref()),
        ];
        self.0.run("keep an event of a job", sql, &args).await.map(drop)
    }
}
