//! AI jobs: a durable queue in front of the workers.
//!
//! A job is acknowledged once it is stored. From there two paths lead to a worker: when nothing waits
//! for its model and a slot is free, the transaction that stores the job also gives it away; otherwise the
//! [`dispatch`] task does, which reads the whole queue and asks the pure planner. An [`attempt`] then
//! carries the pieces from the worker to the store and to those who [`follow`]. Whatever an attempt
//! reports is fenced by its number, so that one which was given up can do no harm.

pub mod attempt;
pub mod convert;
pub mod dispatch;
pub mod engines;
pub mod errand;
pub mod explain;
pub mod fleet_engines;
pub mod follow;
pub mod forecast;
mod homes;
pub mod live;
pub mod models;
mod pace;
pub mod plan;
mod running;
pub mod slots;
pub mod submission;
mod submit;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use homelab_common::{chance::Chance, clock::Clock, lifecycle::Tasks};
use homelab_domain::{
    ids::{JobId, ModelName, RequestId},
    job::{Job, JobEvent},
    queue::{QueueLimits, Tally},
    site::{Site, Tier},
};
use homelab_store::{
    JobCounts, JobError, JobFilter, Page, PageRequest, Remembered, Store, StoreError,
};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    app::{Change, Events},
    power::board::Board,
    task::Driver,
};
use dispatch::Dispatcher;
use engines::{Engines, WorkerSeen};
use follow::Follower;
use homes::Homes;
use live::Lives;
use pace::Pace;
use plan::{Capacities, Plan};
use running::Running;
use slots::Slots;
pub use submit::{Accepted, SubmitError};

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
    /// What may wait; more is refused with the advice to come back.
    pub limits: QueueLimits,
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
    /// What waits, so that nobody has to count it.
    tally: Mutex<Tally>,
    /// Whether that is known: not before the store was asked for the first time.
    is_tallied: AtomicBool,
    /// Where conversations were answered last.
    homes: Mutex<Homes>,
    /// How long jobs take.
    pace: Mutex<Pace>,
    /// When hosts that sleep will be there; empty until somebody looks after them.
    wakes: Board,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("attempts", &self.attempts().len()).finish_non_exhaustive()
    }
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
            tally: Mutex::default(),
            // The first jobs go through the dispatcher.
            is_tallied: AtomicBool::new(false),
            homes: Mutex::default(),
            pace: Mutex::default(),
            wakes: Board::default(),
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
                if !matches!(change, Ok(Change::Jobs)) && now != offers && jobs.is_waited() {
                    jobs.nudge();
                }
                offers = now;
            }
        });
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

    /// What was used for a job in all its attempts, in millijoules, by the readings of hosts that are
    /// off until needed; none when nothing was measured.
    ///
    /// # Errors
    /// The store failed.
    pub async fn energy_of(&self, id: JobId) -> Result<Option<u64>, StoreError> {
        self.0.parts.store.read().await?.power().energy_of(id).await
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

    /// Follows a job from one piece of its text on, until it has ended. `attempt` is the one whose
    /// text was read up to there, 0 when nobody knows.
    #[must_use]
    pub fn follow(&self, id: JobId, from_index: u32, attempt: u32) -> Follower {
        Follower::from_store(self.clone(), id, from_index, attempt)
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
        self.requeued(&job);
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

    /// When hosts that sleep will be there.
    #[must_use]
    pub fn wakes(&self) -> &Board {
        &self.0.wakes
    }

    /// What the queue is built from.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.0.parts
    }

    fn now(&self) -> Timestamp {
        self.0.parts.clock.now()
    }

    fn nudge(&self) {
        self.0.parts.driver.nudge(dispatch::NAME);
    }

    /// A slot has become free; whoever waits for one is looked after.
    fn nudge_if_waiting(&self) {
        if self.is_waited() {
            self.nudge();
        }
    }

    /// A job is in the queue again.
    fn requeued(&self, job: &Job) {
        self.tally().add(plan::pending_of(job));
        self.nudge();
    }

    /// Whether anything waits, or may: what is not known is not nothing.
    fn is_waited(&self) -> bool {
        !self.0.is_tallied.load(Ordering::Acquire) || self.tally().jobs() > 0
    }

    /// Whether a job for that model would have to stand in line.
    fn waits_for(&self, tier: Tier, model: &ModelName) -> bool {
        !self.0.is_tallied.load(Ordering::Acquire) || self.tally().of_queue(tier, model) > 0
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.0.tally)
    }

    fn homes(&self) -> MutexGuard<'_, Homes> {
        lock(&self.0.homes)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        lock(&self.0.pace)
    }

    fn tell(&self) {
        self.0.parts.events.tell(Change::Jobs);
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<JobId, Running>> {
        lock(&self.0.attempts)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;
