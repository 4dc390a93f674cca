//! A job as a row.

use homelab_domain::{
    context::Attached,
    job::{
        Attempts, End, Job, JobClass, JobEvent, JobParts, JobRequest, JobSpec, JobState,
        JobStateKind, Lease, Priority, Record, RequestForm, Terms, Usage,
    },
    queue::Pending,
    reason::{Because, Failure},
    site::Tier,
};
use jiff::Timestamp;

use super::{
    super::{
        Sql,
        args::{at, big, blob, int, maybe_at, maybe_int, maybe_span, maybe_text, text},
        both, each,
        row::{Fields, Row},
    },
    InJobs,
};
use crate::{error::StoreError, noun::jobs::UnmetNeed};

/// Jobs by their identifiers, with their text.
pub(super) const COLUMNS_BY_ID: Sql = each(
    "SELECT jobs.*, job_requests.body FROM jobs LEFT JOIN job_requests ON job_id = id
     WHERE id IN (SELECT value FROM json_each($1)) ORDER BY queue_key, id",
    "SELECT jobs.*, job_requests.body FROM jobs LEFT JOIN job_requests ON job_id = id
     WHERE id = ANY($1) ORDER BY queue_key, id",
);

impl InJobs<'_> {
    /// Keeps a new job; false when there is one with that identifier.
    pub(super) async fn insert(&mut self, job: &Job) -> Result<bool, StoreError> {
        let sql = both(
            "INSERT INTO jobs (id, state, tier, model, priority, queue_key, submitted_by,
               submitted_at, enqueued_at, deadline, tokens_max, record, title, request_form,
               attempt, attempts_limit, reason, message, pieces, request_bytes,
               class, chat, tags, latest_start, needs, kept_for, own_ahead, attached)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
               $18, 0, $19, $20, $21, $22, $23, $24, $25, $26, $27)
             ON CONFLICT (id) DO NOTHING",
        );
        let (spec, because) = (job.spec(), job.state().because());
        let args = [
            text(spec.id),
            text(job.state().kind()),
            text(spec.tier),
            text(&spec.model),
            int(spec.priority.get()),
            int(job.queue_key()),
            text(&spec.submitted_by),
            at(spec.submitted_at),
            at(job.enqueued_at()),
            maybe_at(spec.deadline),
            maybe_int(spec.tokens_max),
            text(spec.record),
            text(&spec.title),
            text(spec.request.form),
            int(job.attempts().given),
            int(job.attempts().limit),
            text(&because.reason),
            text(&because.message),
            big(spec.request.bytes.len() as u64),
            text(spec.terms.class),
            maybe_text(spec.terms.chat.as_ref()),
            maybe_text(as_json(&spec.terms.tags)),
            maybe_at(spec.terms.latest_start),
            maybe_text(as_json(&spec.terms.after)),
            maybe_span(spec.terms.kept_for),
            int(spec.own_ahead),
            maybe_text(attached_as_json(&spec.request)),
        ];
        if self.0.run("keep a job", sql, &args).await? == 0 {
            return Ok(false);
        }
        let sql = both("INSERT INTO job_requests (job_id, body) VALUES ($1, $2)");
        let args = [text(spec.id), blob(&spec.request.bytes)];
        self.0.run("keep the request of a job", sql, &args).await?;
        self.add_event(&job.event(spec.submitted_at), spec.id).await?;
        Ok(true)
    }

    /// Keeps where a job stands now, and how it came to stand there.
    pub(super) async fn save(&mut self, job: &Job, now: Timestamp) -> Result<(), StoreError> {
        let sql = both(
            "UPDATE jobs SET state = $2, queue_key = $3, enqueued_at = $4, deadline = $5,
               attempt = $6, attempts_limit = $7, reason = $8, message = $9, cancelled_by = $10,
               worker = $11, lease_until = $12, started_at = $13, pieces = $14,
               finished_at = $15, usage = $16, drop_at = $17, own_ahead = $18, latest_start = $19
             WHERE id = $1",
        );
        let event = job.event(now);
        let (state, terms) = (job.state(), &job.spec().terms);
        let ended_at = state.end().map(|end| end.at);
        let (started_at, pieces) = match (state, state.end()) {
            (JobState::Running { started_at, pieces, .. }, _) => (Some(*started_at), *pieces),
            (_, Some(end)) => (end.started_at, end.pieces),
            _ => (None, 0),
        };
        let (cancelled_by, usage) = match state {
            JobState::Cancelled { by, .. } => (Some(by), None),
            JobState::Succeeded { usage, .. } | JobState::Failed { usage, .. } => {
                (None, serde_json::to_string(usage).ok())
            }
            _ => (None, None),
        };
        let args = [
            text(job.id()),
            text(state.kind()),
            int(job.queue_key()),
            at(job.enqueued_at()),
            maybe_at(job.spec().deadline),
            int(job.attempts().given),
            int(job.attempts().limit),
            text(&event.reason),
            text(&event.message),
            maybe_text(cancelled_by),
            maybe_text(event.worker.as_ref()),
            maybe_at(state.lease().map(|lease| lease.until)),
            maybe_at(started_at),
            int(pieces),
            maybe_at(ended_at),
            maybe_text(usage),
            maybe_at(ended_at.zip(terms.kept_for).and_then(|(at, time)| at.checked_add(time).ok())),
            int(job.spec().own_ahead),
            maybe_at(terms.latest_start),
        ];
        self.0.run("keep the state of a job", sql, &args).await?;
        self.add_event(&event, job.id()).await?;
        if job.is_to_be_wiped() {
            self.wipe(job.id()).await?;
        }
        Ok(())
    }
}

/// A job with its text.
pub(super) fn whole(row: &Row) -> Result<Job, StoreError> {
    let fields = row.of("jobs", "id");
    let body = fields.maybe_blob("body")?.unwrap_or_default();
    job_of(&fields, body)
}

/// A job without its text.
pub(super) fn listed(row: &Row) -> Result<Job, StoreError> {
    job_of(&row.of("jobs", "id"), Vec::new())
}

fn job_of(fields: &Fields<'_>, bytes: Vec<u8>) -> Result<Job, StoreError> {
    let priority =
        Priority::try_new(fields.u32("priority")?).map_err(|_| fields.wrong("priority"))?;
    let spec = JobSpec {
        id: fields.parsed("id")?,
        model: fields.parsed("model")?,
        tier: fields.word("tier", Tier::from_word)?,
        priority,
        submitted_by: fields.text("submitted_by")?,
        submitted_at: fields.at("submitted_at")?,
        deadline: fields.maybe_at("deadline")?,
        tokens_max: fields.maybe_u32("tokens_max")?,
        record: fields.word("record", Record::from_word)?,
        title: fields.text("title")?,
        terms: terms_of(fields)?,
        own_ahead: fields.u32("own_ahead")?,
        request: JobRequest {
            form: fields.word("request_form", RequestForm::from_word)?,
            bytes,
            attached: attached_of(fields)?,
        },
    };
    let attempts = Attempts { given: fields.u32("attempt")?, limit: fields.u32("attempts_limit")? };
    let state = state_of(fields, attempts.given)?;
    let parts = JobParts { spec, enqueued_at: fields.at("enqueued_at")?, attempts, state };
    Job::from_parts(parts).ok_or_else(|| fields.wrong("attempt"))
}

fn terms_of(fields: &Fields<'_>) -> Result<Terms, StoreError> {
    let list = |column: &'static str| match fields.maybe_text(column)? {
        Some(text) => serde_json::from_str::<Vec<String>>(&text).map_err(|_| fields.wrong(column)),
        None => Ok(Vec::new()),
    };
    let after = list("needs")?;
    let after = after.iter().map(|id| id.parse()).collect::<Result<_, _>>();
    Ok(Terms {
        class: fields.word("class", JobClass::from_word)?,
        chat: fields.maybe_text("chat")?,
        tags: list("tags")?,
        latest_start: fields.maybe_at("latest_start")?,
        after: after.map_err(|_| fields.wrong("needs"))?,
        kept_for: fields.maybe_span("kept_for")?,
    })
}

fn attached_of(fields: &Fields<'_>) -> Result<Option<Box<Attached>>, StoreError> {
    let text = fields.maybe_text("attached")?;
    text.map(|text| serde_json::from_str(&text).map_err(|_| fields.wrong("attached"))).transpose()
}

fn attached_as_json(request: &JobRequest) -> Option<String> {
    request.attached.as_ref().and_then(|attached| serde_json::to_string(attached).ok())
}

/// A list as JSON; none for an empty one.
fn as_json(list: &[impl ToString]) -> Option<String> {
    let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| serde_json::Value::from(texts).to_string())
}

/// A job in the queue, to be counted.
pub(super) fn pending(row: &Row) -> Result<Pending, StoreError> {
    let fields = row.of("jobs", "id");
    Ok(Pending {
        id: fields.parsed("id")?,
        tier: fields.word("tier", Tier::from_word)?,
        model: fields.parsed("model")?,
        class: fields.word("class", JobClass::from_word)?,
        caller: fields.text("submitted_by")?,
        bytes: fields.u64("request_bytes")?,
    })
}

/// What a job in the queue waits for.
pub(super) fn unmet_need(row: &Row) -> Result<UnmetNeed, StoreError> {
    let fields = row.of("jobs", "id");
    let state = fields.maybe_text("state")?;
    let state =
        state.map(|word| JobStateKind::from_word(&word).ok_or_else(|| fields.wrong("state")));
    Ok(UnmetNeed {
        job: fields.parsed("id")?,
        needs: fields.parsed("needs_id")?,
        state: state.transpose()?,
    })
}

fn state_of(fields: &Fields<'_>, attempt: u32) -> Result<JobState, StoreError> {
    let because = || {
        let reason = fields.text("reason")?.try_into().map_err(|_| fields.wrong("reason"))?;
        Ok::<_, StoreError>(Because { reason, message: fields.text("message")? })
    };
    let lease = || {
        let worker = fields.parsed("worker")?;
        Ok::<_, StoreError>(Lease { worker, attempt, until: fields.at("lease_until")? })
    };
    let end = || {
        Ok::<_, StoreError>(End {
            at: fields.at("finished_at")?,
            worker: fields.maybe_parsed("worker")?,
            started_at: fields.maybe_at("started_at")?,
            pieces: fields.u32("pieces")?,
        })
    };
    let usage = || fields.json::<Usage>("usage");
    Ok(match fields.word("state", JobStateKind::from_word)? {
        JobStateKind::Queued => JobState::Queued { because: because()? },
        JobStateKind::Waiting => JobState::Waiting { because: because()? },
        JobStateKind::Assigned => JobState::Assigned { lease: lease()? },
        JobStateKind::Running => JobState::Running {
            lease: lease()?,
            started_at: fields.at("started_at")?,
            pieces: fields.u32("pieces")?,
        },
        JobStateKind::Succeeded => JobState::Succeeded { end: end()?, usage: usage()? },
        JobStateKind::Failed => {
            let Because { reason, message } = because()?;
            let failure = Failure { reason, message, retryable: false };
            JobState::Failed { end: end()?, failure, usage: usage()? }
        }
        JobStateKind::Cancelled => {
            JobState::Cancelled { end: end()?, by: fields.text("cancelled_by")? }
        }
        JobStateKind::Expired => JobState::Expired { end: end()? },
    })
}

pub(super) fn event_of(row: &Row) -> Result<JobEvent, StoreError> {
    let fields = row.of("job_events", "job_id");
    Ok(JobEvent {
        at: fields.at("at")?,
        state: fields.word("state", JobStateKind::from_word)?,
        reason: fields.text("reason")?.try_into().map_err(|_| fields.wrong("reason"))?,
        message: fields.text("message")?,
        attempt: fields.u32("attempt")?,
        worker: fields.maybe_parsed("worker")?,
    })
}
