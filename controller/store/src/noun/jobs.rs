//! The queue of AI jobs.
//!
//! Whatever a worker reports is fenced by the number of its attempt: the state
//! machine of [`homelab_domain::job`] decides, inside the transaction and with
//! the row locked, and each change of state leaves an event.

use std::fmt;

use async_trait::async_trait;
use homelab_domain::{
    ids::{HostName, JobId, ModelName},
    job::{Job, JobEvent, JobSpec, JobStateKind, Lease, Outcome},
    queue::Pending,
    reason::Because,
    site::Tier,
    upkeep::Cutoff,
};
use jiff::Timestamp;

use crate::{
    error::{JobError, StoreError},
    page::{Page, PageRequest},
};

/// What became of the wish to submit a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is in the queue.
    New(Job),
    /// The same call came before; here is its job as it stands now.
    Existing(Job),
    /// It was to come after this one, which is not there; nothing was kept.
    NeedMissing(JobId),
}

/// A job in the queue comes after another that has not succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmetNeed {
    /// Which waits.
    pub job: JobId,
    /// For which.
    pub needs: JobId,
    /// Where that one stands; none when it is not there any more.
    pub state: Option<JobStateKind>,
}

/// What a worker with free slots can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Host of the worker.
    pub worker: HostName,
    /// Its tier.
    pub tier: Tier,
    /// Models that it has.
    pub models: Vec<ModelName>,
    /// Slots that are free: at most so many jobs are given.
    pub slots: u32,
    /// Now.
    pub now: Timestamp,
    /// How long the leases run at first.
    pub until: Timestamp,
}

/// A piece of a job's text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Counts from 0 without gaps.
    pub index: u32,
    /// Text of the answer.
    pub content: String,
    /// Text of the reasoning.
    pub reasoning: String,
    /// The engine's own chunk as JSON, when the request was JSON.
    pub openai_chunk: Vec<u8>,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({}, {} bytes)", self.index, self.content.len() + self.reasoning.len())
    }
}

/// Which jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only in these states; empty takes all.
    pub states: Vec<JobStateKind>,
}

/// How many jobs are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Queued or waiting.
    pub pending: u64,
    /// Assigned or running.
    pub running: u64,
    /// Succeeded since the moment asked for.
    pub succeeded: u64,
    /// Failed or expired since the moment asked for.
    pub failed: u64,
}

/// What a sweep changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs whose deadline had come.
    pub expired: Vec<Job>,
    /// Jobs whose worker had stopped reporting: queued again, or failed.
    pub lost: Vec<Job>,
}

/// Jobs.
///
/// A job comes with its request from [`Jobs::submit`], [`Jobs::get`],
/// [`Jobs::claim`], [`Jobs::assign`] and [`Jobs::retry`]; everywhere else the
/// request is left out (empty), for it may be 16 MiB.
#[async_trait]
pub trait Jobs: Send {
    /// Puts a job into the queue, unless the same call came before or a job that it is to come
    /// after is not there. How much may wait is not asked here: whoever owns the queue knows.
    async fn submit(&mut self, spec: &JobSpec) -> Result<Submitted, StoreError>;

    /// One job.
    async fn get(&mut self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// Gives queued or waiting jobs of the tier with one of the models to a worker,
    /// highest effective priority first. Jobs that another transaction is giving
    /// away are passed over, never waited for; those past their deadline are left
    /// to the sweep, and those that come after others to who plans.
    async fn claim(&mut self, claim: &Claim) -> Result<Vec<Job>, StoreError>;

    /// Gives one job to a worker. See [`Job::assign`]; of two that try, one is
    /// refused.
    async fn assign(
        &mut self,
        id: JobId,
        worker: &HostName,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Job, JobError>;

    /// Says what a job waits for. See [`Job::wait`]; the same reason again leaves
    /// no event.
    async fn wait(&mut self, id: JobId, because: Because, now: Timestamp) -> Result<Job, JobError>;

    /// Nothing stands in the way any more. See [`Job::ready`].
    async fn ready(&mut self, id: JobId, now: Timestamp) -> Result<Job, JobError>;

    /// The worker has begun to write. See [`Job::start`].
    async fn start(&mut self, id: JobId, attempt: u32, now: Timestamp) -> Result<Job, JobError>;

    /// The workers of these attempts are alive. Returns those that were refused:
    /// their attempts are over, and their work must be stopped. One statement.
    async fn renew(
        &mut self,
        attempts: &[(JobId, u32)],
        until: Timestamp,
    ) -> Result<Vec<JobId>, StoreError>;

    /// Stores text; it counts as shown from then on, and the lease is extended.
    /// See [`Job::wrote`]. Two statements.
    async fn append(
        &mut self,
        id: JobId,
        attempt: u32,
        pieces: &[Piece],
        until: Timestamp,
    ) -> Result<(), JobError>;

    /// An attempt has ended. See [`Job::finish`]. When only figures are to be kept
    /// and the job has ended, its text is wiped in the same transaction.
    async fn finish(
        &mut self,
        id: JobId,
        attempt: u32,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Job, JobError>;

    /// Cancels a job. See [`Job::cancel`]. The lease that it had is returned, so
    /// that its worker can be told to stop.
    async fn cancel(
        &mut self,
        id: JobId,
        by: &str,
        now: Timestamp,
    ) -> Result<(Job, Option<Lease>), JobError>;

    /// Puts a job that ended into the queue again. See [`Job::retry`].
    async fn retry(&mut self, id: JobId, by: &str, now: Timestamp) -> Result<Job, JobError>;

    /// Expires jobs whose deadline has come and takes jobs from workers whose lease
    /// has run out, at most `limit` of each.
    async fn sweep(&mut self, now: Timestamp, limit: u32) -> Result<Swept, StoreError>;

    /// Queued and waiting jobs, highest effective priority first: the first `limit` of each class of
    /// each model of each tier, those that come after others apart, so that nothing that cannot run
    /// hides what can.
    async fn pending(&mut self, limit: u32) -> Result<Vec<Job>, StoreError>;

    /// Everything that is queued or waiting, in no order.
    async fn pending_all(&mut self) -> Result<Vec<Pending>, StoreError>;

    /// What jobs in the queue still wait for of what they come after.
    async fn unmet_needs(&mut self) -> Result<Vec<UnmetNeed>, StoreError>;

    /// Gives up a job that can never run. See [`Job::give_up`].
    async fn give_up(
        &mut self,
        id: JobId,
        because: Because,
        now: Timestamp,
    ) -> Result<Job, JobError>;

    /// Assigned and running jobs: what a controller that has just started asks the
    /// workers about.
    async fn owned(&mut self) -> Result<Vec<Job>, StoreError>;

    /// Jobs, newest first.
    async fn list(
        &mut self,
        filter: &JobFilter,
        page: &PageRequest,
    ) -> Result<Page<Job>, StoreError>;

    /// At most `limit` pieces from `from_index` on.
    async fn pieces(
        &mut self,
        id: JobId,
        from_index: u32,
        limit: u32,
    ) -> Result<Vec<Piece>, StoreError>;

    /// The history of a job, oldest first.
    async fn events(&mut self, id: JobId) -> Result<Vec<JobEvent>, StoreError>;

    /// How many jobs are in which state; those that ended since `since`.
    async fn counts(&mut self, since: Timestamp) -> Result<JobCounts, StoreError>;

    /// Drops jobs that have ended with all that belongs to them, oldest first, at most `limit`;
    /// how many. Those whose own time is up at `now` go too.
    async fn prune(&mut self, cut: Cutoff, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
