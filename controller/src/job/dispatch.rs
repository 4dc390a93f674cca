//! The task that gives jobs to workers.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use homelab_domain::{
    job::{Job, JobState},
    placement::{Hold, QueuePlan, QueueSteps, Step, plan_queue},
    reason::{Because, Reason},
    site::Tier,
};
use homelab_store::{JobError, StoreError};
use jiff::Timestamp;
use std::sync::{Arc, Mutex, atomic::Ordering};

use super::{
    Jobs, lock,
    plan::{self, Needs, Plan},
    slots::Slot,
};
use crate::task::{BackgroundTask, Done, Outcome};

/// Name of the task, by which it is nudged.
pub const NAME: &str = "dispatch-jobs";

/// How often it runs without being nudged: as late may a deadline or a lost lease be noticed.
const PERIOD: Duration = Duration::from_secs(2);

/// Jobs of each model of each tier that are looked at in one round, the first ones.
const CONSIDERED_MAX: u32 = 500;

/// How often what waits is counted anew.
const TALLY_PERIOD: Duration = Duration::from_secs(60);

/// Jobs that a sweep expires or takes away in one round.
const SWEPT_MAX: u32 = 100;

/// Gives jobs to workers.
#[derive(Debug)]
pub(super) struct Dispatcher {
    jobs: Jobs,
    /// When what waits was last counted.
    tallied_at: Mutex<Option<Timestamp>>,
}

/// What one round decided for one job.
enum Decision {
    Assign(Slot),
    Wait(Because),
    Ready,
    GiveUp(Because),
    Nothing,
}

impl Dispatcher {
    pub(super) fn new(jobs: Jobs) -> Self {
        Self { jobs, tallied_at: Mutex::default() }
    }

    /// Ends what is past its deadline and takes jobs from workers that have stopped reporting.
    async fn sweep(&self) -> Result<usize, StoreError> {
        let mut tx = self.jobs.parts().store.begin().await?;
        let swept = tx.jobs().sweep(self.jobs.now(), SWEPT_MAX).await?;
        if swept.expired.is_empty() && swept.lost.is_empty() {
            tx.rollback().await?;
            return Ok(0);
        }
        tx.commit().await?;
        for job in swept.lost.iter().filter(|job| job.state().kind().is_pending()) {
            self.jobs.tally().add(plan::pending_of(job));
        }
        for job in swept.expired.iter().chain(&swept.lost) {
            // An attempt of ours that lost its lease: the store was away for too long.
            self.jobs.stop(job.id());
            self.jobs.ended(job);
        }
        Ok(swept.expired.len() + swept.lost.len())
    }

    /// Counts what waits as the store has it: at the start, and now and then in case the count has
    /// gone astray.
    async fn tally(&self) -> Result<(), StoreError> {
        let now = self.jobs.now();
        let due = lock(&self.tallied_at)
            .is_none_or(|at| now.duration_since(at).unsigned_abs() >= TALLY_PERIOD);
        if !due {
            return Ok(());
        }
        self.jobs.tally().begin_sync();
        let all = self.jobs.parts().store.read().await?.jobs().pending_all().await?;
        self.jobs.tally().finish_sync(all);
        self.jobs.0.is_tallied.store(true, Ordering::Release);
        *lock(&self.tallied_at) = Some(now);
        Ok(())
    }

    async fn dispatch(&self) -> Result<(), StoreError> {
        if !self.jobs.is_waited() {
            *lock(&self.jobs.0.plan) = Arc::default();
            return Ok(());
        }
        let (pending, needs) = self.jobs.pending(CONSIDERED_MAX).await?;
        let (plan, decisions) = self.decide(&pending, &needs);
        let acts = decisions.iter().any(|decision| !matches!(decision, Decision::Nothing));
        let mut given = Vec::new();
        if acts {
            given = self.carry_out(&pending, decisions).await?;
        }
        *lock(&self.jobs.0.plan) = Arc::new(plan);
        for (job, slot) in given {
            self.jobs.tally().remove(job.id());
            self.jobs.run(job, slot);
        }
        if acts {
            self.jobs.tell();
        }
        Ok(())
    }

    /// Asks the planner about all jobs, best first, and takes the slots that it gives.
    fn decide(&self, pending: &[Job], needs: &Needs) -> (Plan, Vec<Decision>) {
        let (workers, site, now) = (self.jobs.workers(), self.jobs.site(), self.jobs.now());
        let slots = &self.jobs.0.slots;
        let views = plan::views(&workers, slots);
        let homes = self.jobs.homes().of_all(pending);
        let known = QueuePlan { now, site: &site, workers: &views, homes: &homes, needs };
        let QueueSteps { steps, yields } = plan_queue(&known, pending);
        let mut plan = Plan::default();
        plan.yields(yields);
        let mut ahead: HashMap<Tier, u64> = HashMap::new();
        let mut decisions = Vec::with_capacity(pending.len());
        for (job, step) in pending.iter().zip(steps) {
            let spec = job.spec();
            let (decision, hold) = match step {
                Step::Run { worker, because, .. } => {
                    let seen = workers.iter().find(|seen| seen.host == worker);
                    let total = seen.map_or(0, |seen| plan::slots_of(seen, &spec.model));
                    match slots.take(&worker, &spec.model, total) {
                        Some(slot) => (Decision::Assign(slot), None),
                        // Taken in this moment by a job that came straight in.
                        None => (Decision::Nothing, Some(Arc::new(Hold { because, wake: None }))),
                    }
                }
                Step::Wait(hold) => (waits(job, hold.because.first()), Some(hold)),
                Step::GiveUp(because) => (Decision::GiveUp(because), None),
            };
            if let Some(hold) = hold {
                let ahead = ahead.entry(spec.tier).or_default();
                *ahead += 1;
                plan.note(job.id(), *ahead, hold);
            }
            decisions.push(decision);
        }
        (plan, decisions)
    }

    /// Stores all decisions of one round in one transaction.
    async fn carry_out(
        &self,
        pending: &[Job],
        decisions: Vec<Decision>,
    ) -> Result<Vec<(Job, Slot)>, StoreError> {
        let now = self.jobs.now();
        let until = self.jobs.lease_end(now);
        let mut given = Vec::new();
        let (mut changed, mut ended) = (Vec::new(), Vec::new());
        let mut tx = self.jobs.parts().store.begin().await?;
        for (job, decision) in pending.iter().zip(decisions) {
            let id = job.id();
            match decision {
                Decision::Nothing => {}
                Decision::Assign(slot) => {
                    let assigned = tx.jobs().assign(id, slot.worker(), now, until).await;
                    given.extend(unless_refused(assigned)?.map(|job| (job, slot)));
                }
                Decision::Wait(because) => {
                    changed.extend(unless_refused(tx.jobs().wait(id, because, now).await)?);
                }
                Decision::Ready => changed.extend(unless_refused(tx.jobs().ready(id, now).await)?),
                Decision::GiveUp(because) => {
                    ended.extend(unless_refused(tx.jobs().give_up(id, because, now).await)?);
                }
            }
        }
        tx.commit().await?;
        for job in &ended {
            self.jobs.ended(job);
        }
        for job in changed.iter().chain(given.iter().map(|(job, _)| job)) {
            if let Some(live) = self.jobs.lives().get(job.id()) {
                live.state(job.event(now));
            }
        }
        Ok(given)
    }
}

#[async_trait]
impl BackgroundTask for Dispatcher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        "Gives AI jobs to workers, expires those past their deadline, takes back those that were lost."
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Outcome {
        self.tally().await?;
        let swept = self.sweep().await?;
        // Single jobs are in their own history; a line for each in the log would be noise.
        self.dispatch().await?;
        Ok(match swept {
            0 => Done::Nothing,
            _ => Done::Changed(format!(
                "{swept} jobs had passed their deadline or lost their worker"
            )),
        })
    }
}

/// The same reason again is no news.
fn waits(job: &Job, because: Option<&Because>) -> Decision {
    let Some(because) = because else { return Decision::Nothing };
    match job.state() {
        // A full worker is no obstacle, only a queue: nothing stands in the way but the jobs before.
        JobState::Queued { .. } if because.reason == Reason::NO_FREE_SLOT => Decision::Nothing,
        JobState::Waiting { .. } if because.reason == Reason::NO_FREE_SLOT => Decision::Ready,
        JobState::Waiting { because: before } if before == because => Decision::Nothing,
        _ => Decision::Wait(because.clone()),
    }
}

fn unless_refused(changed: Result<Job, JobError>) -> Result<Option<Job>, StoreError> {
    match changed {
        Ok(job) => Ok(Some(job)),
        Err(JobError::Store(error)) => Err(error),
        // Cancelled, or given away, since it was read.
        Err(_) => Ok(None),
    }
}
