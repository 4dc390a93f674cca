//! AI jobs: a durable queue in front of the workers.
//!
//! A job is acknowledged once it is stored. From there two paths lead to a worker: when nothing waits
//! and a slot is free, the transaction that stores the job also gives it away; otherwise the
//! [`dispatch`] task does, which reads the whole queue and asks the pure planner. An [`attempt`] then
//! carries the pieces from the worker to the store and to those who [`follow`]. Whatever an attempt
//! reports is fenced by its number, so that one which was given up can do no harm.

pub mod attempt;
pub mod convert;
pub mod dispatch;
pub mod engines;
pub mod explain;
pub mod fleet_engines;
pub mod follow;
pub mod live;
pub mod models;
pub mod plan;
pub mod slots;
pub mod submission;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use homelab_common::{chance::Chance, clock::Clock, error_chain::Chain, lifecycle::Tasks};
use homelab_domain::{
    ids::{JobId, RequestId},
    job::{Job, JobEvent, JobSpec},
    placement::Placement,
    reason::{Because, Reason},
    site::Site,
};
use homelab_store::{
    JobCounts, JobError, JobFilter, Page, PageRequest, Remembered, Store, StoreError, Submitted,
};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    app::{Change, Events},
    task::Driver,
};
use attempt::Attempt;
use dispatch::Dispatcher;
use engines::{Engines, WorkerSeen};
use follow::Follower;
use live::Lives;
use plan::{Capacities, Plan};
use slots::{Slot, Slots};
use submission::{Refused, Submission};

/// Jobs that may wait; more are refused with the advice to come back.
pub const PENDING_MAX: u64 = 10_000;

/// How long a worker may be silent about a job before it is taken away.
const LEASE: Duration = Duration::from_secs(15);

/// How often leases are renewed: four misses are forgiven.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// How often is looked whether the last attempt has ended, once the controller stops.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Tries to bring a change into a store that is busy.
const STORE_TRIES_MAX: u32 = 5;

/// Pause between them.
const STORE_PAUSE: Duration = Duration::from_millis(200);

/// What the queue is built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
    /// Where attempts are spawned.
    pub tasks: Tasks,
    /// Runs the dispatcher.
    pub driver: Driver,
    /// What the site file says now.
    pub site: watch::Receiver<Arc<Site>>,
    /// The workers.
    pub engines: Arc<dyn Engines>,
    /// Tells of changes.
    pub events: Events,
}

/// The queue. Clones are the same queue.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    parts: Parts,
    lives: Lives,
    slots: Slots,
    /// Attempts that run, for the heartbeat.
    attempts: Mutex<HashMap<JobId, Running>>,
    /// What the dispatcher last decided, for those who ask why a job waits.
    plan: Mutex<Arc<Plan>>,
    /// Jobs that were put into the queue and not given away, as far as known here.
    pending: AtomicU64,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("attempts", &self.attempts().len()).finish_non_exhaustive()
    }
}

/// An attempt that runs here.
#[derive(Clone, Debug)]
struct Running {
    attempt: u32,
    stop: CancellationToken,
}

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// It breaks a rule.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The same id was used for something else.
    #[error("request id {0} was used for another request; choose a new one")]
    OtherRequest(JobId),
    /// The queue is full.
    #[error("{pending} jobs wait already, and the queue holds {PENDING_MAX}; try again later")]
    Full {
        /// How many wait.
        pending: u64,
    },
    /// The store failed; the job may or may not be there.
    #[error("could not store the job")]
    Store(#[from] StoreError),
}

/// Why a job is not tried again.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// The same id was used for something else.
    #[error("request id {0} was used for another request; choose a new one")]
    OtherRequest(RequestId),
    /// The job cannot be tried again.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The store failed.
    #[error("could not store it")]
    Store(#[from] StoreError),
}

/// A job that was taken.
#[derive(Debug)]
pub struct Accepted {
    /// The job.
    pub job: Job,
    /// Whether the same call came before.
    pub repeated: bool,
    /// Its text, from the start.
    pub follower: Follower,
}

impl Jobs {
    /// A queue that nobody serves yet; see [`Jobs::start`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            lives: Lives::default(),
            slots: Slots::default(),
            attempts: Mutex::default(),
            plan: Mutex::default(),
            // Nothing is known yet: the first job goes through the dispatcher.
            pending: AtomicU64::new(1),
        }))
    }

    /// Starts the dispatcher and the heartbeat.
    pub fn start(&self) {
        self.0.parts.driver.start(Arc::new(Dispatcher::new(self.clone())));
        self.0.parts.tasks.spawn(self.clone().keep_leases());
        let (jobs, mut changes) = (self.clone(), self.0.parts.events.follow());
        let stopping = self.0.parts.tasks.stopping();
        self.0.parts.tasks.spawn(async move {
            let mut offers = Capacities::default();
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = stopping.cancelled() => return,
                };
                // Hosts tell of each sample; the dispatcher only cares for what workers can take.
                let now = plan::capacities(&jobs.workers());
                let waiting = jobs.0.pending.load(Ordering::Relaxed) > 0;
                if !matches!(change, Ok(Change::Jobs)) && now != offers && waiting {
                    jobs.nudge();
                }
                offers = now;
            }
        });
    }

    /// Renews the leases of running attempts; after a soft stop for as long as there are any.
    async fn keep_leases(self) {
        let stopping = self.0.parts.tasks.stopping();
        loop {
            let pause = if stopping.is_cancelled() { LAST_LOOK } else { HEARTBEAT };
            tokio::select! {
                () = tokio::time::sleep(pause) => self.renew_leases().await,
                () = stopping.cancelled(), if !stopping.is_cancelled() => {}
            }
            if stopping.is_cancelled() && self.attempts().is_empty() {
                return;
            }
        }
    }

    /// Checks a job without storing it.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self, submission: Submission) -> Result<JobSpec, Refused> {
        submission.check(&self.site(), self.now())
    }

    /// Takes a job. When this returns it is stored, and either in the queue or given to a worker.
    /// Idempotent by the id of the submission.
    ///
    /// # Errors
    /// It breaks a rule, the queue is full, or the store failed.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, SubmitError> {
        let spec = self.check(submission)?;
        let id = spec.id;
        let way = self.way_in(&spec)?;
        let follower = Follower::fresh(self.clone(), id);
        let mut tx = self.0.parts.store.begin().await?;
        let job = match tx.jobs().submit(&spec, PENDING_MAX).await? {
            Submitted::New(job) => job,
            Submitted::Full { pending } => return Err(SubmitError::Full { pending }),
            Submitted::Existing(job) if !is_same_request(job.spec(), &spec) => {
                return Err(SubmitError::OtherRequest(id));
            }
            Submitted::Existing(job) => {
                let follower = Follower::from_store(self.clone(), id, 0);
                return Ok(Accepted { job, repeated: true, follower });
            }
        };
        let now = self.now();
        let changed = match &way {
            WayIn::Slot(slot) => {
                tx.jobs().assign(id, slot.worker(), now, self.lease_end(now)).await.map(Some)
            }
            WayIn::Queue(Some(because)) => tx.jobs().wait(id, because.clone(), now).await.map(Some),
            WayIn::Queue(None) => Ok(None),
        };
        let job = changed.or_else(unchanged)?.unwrap_or(job);
        tx.commit().await?;
        match way {
            WayIn::Slot(slot) if job.state().kind().is_owned() => self.run(job.clone(), slot),
            WayIn::Slot(_) | WayIn::Queue(_) => {
                self.0.pending.fetch_add(1, Ordering::Relaxed);
                self.nudge();
            }
        }
        self.tell();
        Ok(Accepted { job, repeated: false, follower })
    }

    /// One job with its history.
    ///
    /// # Errors
    /// The store failed.
    pub async fn get(&self, id: JobId) -> Result<Option<(Job, Vec<JobEvent>)>, StoreError> {
        let mut tx = self.0.parts.store.read().await?;
        let Some(job) = tx.jobs().get(id).await? else { return Ok(None) };
        let events = tx.jobs().events(id).await?;
        Ok(Some((job, events)))
    }

    /// The whole text of a job so far.
    ///
    /// # Errors
    /// The store failed.
    pub async fn answer(&self, id: JobId) -> Result<String, StoreError> {
        const PIECES_MAX: u32 = 1_000;
        let mut tx = self.0.parts.store.read().await?;
        let mut answer = String::new();
        let mut from = 0;
        loop {
            let pieces = tx.jobs().pieces(id, from, PIECES_MAX).await?;
            let Some(last) = pieces.last() else { return Ok(answer) };
            from = last.index + 1;
            answer.extend(pieces.iter().map(|piece| piece.content.as_str()));
        }
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(
        &self,
        filter: &JobFilter,
        page: &PageRequest,
    ) -> Result<Page<Job>, StoreError> {
        self.0.parts.store.read().await?.jobs().list(filter, page).await
    }

    /// How many jobs are in which state; those that ended within the last day.
    ///
    /// # Errors
    /// The store failed.
    pub async fn counts(&self) -> Result<JobCounts, StoreError> {
        let day = jiff::SignedDuration::from_hours(24);
        let since = self.now().checked_sub(day).unwrap_or(Timestamp::MIN);
        self.0.parts.store.read().await?.jobs().counts(since).await
    }

    /// Follows a job from one piece of its text on, until it has ended.
    #[must_use]
    pub fn follow(&self, id: JobId, from_index: u32) -> Follower {
        Follower::from_store(self.clone(), id, from_index)
    }

    /// Cancels a job; the slot of one that runs is free within moments. A job that has ended is left
    /// as it is.
    ///
    /// # Errors
    /// There is no such job, or the store failed.
    pub async fn cancel(&self, id: JobId, by: &str) -> Result<Job, JobError> {
        // The engine first: it works for nobody from now on. Should the store fail, the lease runs
        // out, and the job is queued again or failed for that reason.
        self.stop(id);
        let mut tries = 0;
        let job = loop {
            tries += 1;
            match self.try_cancel(id, by).await {
                Err(JobError::Store(error)) if tries < STORE_TRIES_MAX => {
                    warn!(job = %id, error = %Chain(&error), "could not store a cancellation; trying again");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                Err(JobError::Refused(refused)) => {
                    let mut tx = self.0.parts.store.read().await?;
                    let job = tx.jobs().get(id).await?.ok_or(JobError::NotFound(id))?;
                    if job.state().kind().is_final() {
                        break job;
                    }
                    return Err(JobError::Refused(refused));
                }
                outcome => break outcome?,
            }
        };
        self.ended(&job);
        self.nudge();
        Ok(job)
    }

    /// Puts a job that ended into the queue again. Idempotent by the id of the call.
    ///
    /// # Errors
    /// There is no such job, it has not ended or has succeeded, its text was not kept, or the store
    /// failed.
    pub async fn retry(&self, id: JobId, call: RequestId, by: &str) -> Result<Job, RetryError> {
        let mut digest = [0; 32];
        let text = format!("RetryJob {id}");
        digest
            .copy_from_slice(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref());
        let now = self.now();
        let mut tx = self.0.parts.store.begin().await?;
        let remembered = tx.requests().remember(call, &digest, now).await?;
        match remembered {
            Remembered::New => {}
            Remembered::Same { .. } => {
                return Ok(tx.jobs().get(id).await?.ok_or(JobError::NotFound(id))?);
            }
            Remembered::Other => return Err(RetryError::OtherRequest(call)),
        }
        let job = tx.jobs().retry(id, by, now).await?;
        tx.commit().await?;
        self.requeued();
        self.tell();
        Ok(job)
    }

    /// The workers, as last seen.
    #[must_use]
    pub fn workers(&self) -> Arc<[WorkerSeen]> {
        self.0.parts.engines.workers()
    }

    /// What the site file says now.
    #[must_use]
    pub fn site(&self) -> Arc<Site> {
        Arc::clone(&self.0.parts.site.borrow())
    }

    /// What the dispatcher last decided.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&lock(&self.0.plan))
    }

    /// The jobs that somebody watches or runs.
    #[must_use]
    pub fn lives(&self) -> &Lives {
        &self.0.lives
    }

    /// What the queue is built from.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.0.parts
    }

    fn now(&self) -> Timestamp {
        self.0.parts.clock.now()
    }

    fn lease_end(&self, now: Timestamp) -> Timestamp {
        now.checked_add(LEASE).unwrap_or(Timestamp::MAX)
    }

    fn nudge(&self) {
        self.0.parts.driver.nudge(dispatch::NAME);
    }

    /// A slot has become free; whoever waits for one is looked after.
    fn nudge_if_waiting(&self) {
        if self.0.pending.load(Ordering::Relaxed) > 0 {
            self.nudge();
        }
    }

    /// A job is in the queue again.
    fn requeued(&self) {
        self.0.pending.fetch_add(1, Ordering::Relaxed);
        self.nudge();
    }

    fn tell(&self) {
        self.0.parts.events.tell(Change::Jobs);
    }

    /// Whether a new job goes straight to a worker: nothing waits before it, and a slot is free.
    fn way_in(&self, spec: &JobSpec) -> Result<WayIn, Refused> {
        let workers = self.workers();
        let site = self.site();
        match plan::place_new(spec, &workers, &self.0.slots, &site, self.now()) {
            Placement::Run { worker, .. } => {
                let waits = self.0.pending.load(Ordering::Relaxed) > 0;
                let seen = workers.iter().find(|seen| seen.host == worker).filter(|_| !waits);
                let slot = seen.and_then(|seen| {
                    self.0.slots.take(&worker, &spec.model, plan::slots_of(seen, &spec.model))
                });
                Ok(slot.map_or(WayIn::Queue(None), WayIn::Slot))
            }
            Placement::Wait { because, .. } => Ok(WayIn::Queue(because.into_iter().next())),
            Placement::Refuse { because } => Err(Refused::NoPlace {
                model: spec.model.to_string(),
                because: because.into_iter().next().unwrap_or_else(|| {
                    Because::new(Reason::MODEL_NOT_FOUND, "no worker can take it")
                }),
            }),
        }
    }

    /// Starts the attempt that a job was given.
    fn run(&self, job: Job, slot: Slot) {
        if let Some(lease) = job.state().lease() {
            let stop = CancellationToken::new();
            let running = Running { attempt: lease.attempt, stop: stop.clone() };
            self.attempts().insert(job.id(), running);
            let attempt = Attempt::new(self.clone(), &job, lease.attempt, slot, stop);
            self.0.parts.tasks.spawn(attempt.run());
        }
    }

    /// Stops the attempt at a job that runs here, if one does; its engine is free within moments.
    /// What is stored of the job is another matter.
    pub fn stop(&self, id: JobId) {
        if let Some(running) = self.attempts().get(&id) {
            running.stop.cancel();
        }
    }

    /// The attempt is over, in whatever way.
    fn attempt_over(&self, id: JobId, attempt: u32) {
        let mut attempts = self.attempts();
        if attempts.get(&id).is_some_and(|running| running.attempt == attempt) {
            attempts.remove(&id);
        }
    }

    /// Tells everybody that a job has ended, if it has.
    fn ended(&self, job: &Job) {
        if job.state().kind().is_final() {
            self.0.lives.end(&Arc::new(job.clone()));
        }
        self.tell();
    }

    async fn try_cancel(&self, id: JobId, by: &str) -> Result<Job, JobError> {
        let mut tx = self.0.parts.store.begin().await?;
        let (job, _lease) = tx.jobs().cancel(id, by, self.now()).await?;
        tx.commit().await?;
        Ok(job)
    }

    async fn renew_leases(&self) {
        let running: Vec<_> =
            self.attempts().iter().map(|(id, running)| (*id, running.attempt)).collect();
        if running.is_empty() {
            return;
        }
        let renewed = async {
            let mut tx = self.0.parts.store.begin().await?;
            let refused = tx.jobs().renew(&running, self.lease_end(self.now())).await?;
            tx.commit().await.map(|()| refused)
        };
        match renewed.await {
            // One that ended since the list was made is refused too, and is not there to be stopped.
            Ok(refused) => self.stop_attempts(&running, &refused),
            Err(error) => {
                warn!(error = %Chain(&error), "could not renew the leases of running jobs")
            }
        }
    }

    /// Stops those of `running` that the store has refused, unless a newer attempt runs meanwhile.
    fn stop_attempts(&self, running: &[(JobId, u32)], refused: &[JobId]) {
        let attempts = self.attempts();
        for (id, attempt) in running.iter().filter(|(id, _)| refused.contains(id)) {
            if let Some(running) = attempts.get(id).filter(|running| running.attempt == *attempt) {
                running.stop.cancel();
            }
        }
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<JobId, Running>> {
        lock(&self.0.attempts)
    }
}

/// How a new job begins.
enum WayIn {
    /// With a worker.
    Slot(Slot),
    /// In the queue, and for this reason.
    Queue(Option<Because>),
}

/// A job whose state could not be changed stays as it is; only a failing store is an error.
fn unchanged(error: JobError) -> Result<Option<Job>, StoreError> {
    match error {
        JobError::Store(error) => Err(error),
        _ => Ok(None),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;

/// Whether a call that comes again asks for what it asked for before. The text may be gone, when it was
/// not to be kept; what is left decides then.
fn is_same_request(before: &JobSpec, now: &JobSpec) -> bool {
    let same_text = before.request.bytes.is_empty() || before.request == now.request;
    same_text
        && before.submitted_by == now.submitted_by
        && before.model == now.model
        && before.tier == now.tier
}
