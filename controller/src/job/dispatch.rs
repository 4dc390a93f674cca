//! The task that gives jobs to workers.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use homelab_domain::{
    job::{Job, JobState},
    placement::{Placement, place},
    reason::{Because, Reason},
    site::Tier,
};
use homelab_store::{JobError, StoreError};
use std::sync::{Arc, atomic::Ordering};

use super::{Jobs, lock, plan, plan::Plan, slots::Slot};
use crate::task::{BackgroundTask, Done, Outcome};

/// Name of the task, by which it is nudged.
pub const NAME: &str = "dispatch-jobs";

/// How often it runs without being nudged: as late may a deadline or a lost lease be noticed.
const PERIOD: Duration = Duration::from_secs(2);

/// Jobs of the queue that are looked at in one round, the first ones.
const CONSIDERED_MAX: u32 = 500;

/// Jobs that a sweep expires or takes away in one round.
const SWEPT_MAX: u32 = 100;

/// Gives jobs to workers.
#[derive(Debug)]
pub(super) struct Dispatcher {
    jobs: Jobs,
}

/// What one round decided for one job.
enum Decision {
    Assign(Slot),
    Wait(Because),
    Ready,
    Nothing,
}

impl Dispatcher {
    pub(super) fn new(jobs: Jobs) -> Self {
        Self { jobs }
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
        for job in swept.expired.iter().chain(&swept.lost) {
            // An attempt of ours that lost its lease: the store was away for too long.
            self.jobs.stop(job.id());
            self.jobs.ended(job);
        }
        Ok(swept.expired.len() + swept.lost.len())
    }

    async fn dispatch(&self) -> Result<usize, StoreError> {
        let pending = self.jobs.parts().store.read().await?.jobs().pending(CONSIDERED_MAX).await?;
        let (plan, decisions) = self.decide(&pending);
        let acts = decisions.iter().any(|decision| !matches!(decision, Decision::Nothing));
        let mut given = Vec::new();
        if acts {
            given = self.carry_out(&pending, decisions).await?;
        }
        let left = pending.len().saturating_sub(given.len());
        *lock(&self.jobs.0.plan) = Arc::new(plan);
        self.jobs.0.pending.store(u64::try_from(left).unwrap_or(u64::MAX), Ordering::Relaxed);
        let count = given.len();
        for (job, slot) in given {
            self.jobs.run(job, slot);
        }
        if acts {
            self.jobs.tell();
        }
        Ok(count)
    }

    /// Asks the planner about each job, best first, with the slots that those before it left.
    fn decide(&self, pending: &[Job]) -> (Plan, Vec<Decision>) {
        let (workers, site, now) = (self.jobs.workers(), self.jobs.site(), self.jobs.now());
        let slots = &self.jobs.0.slots;
        let mut plan = Plan::default();
        let mut ahead: HashMap<Tier, u64> = HashMap::new();
        let mut decisions = Vec::with_capacity(pending.len());
        for job in pending {
            let spec = job.spec();
            let views = plan::views(&workers, &spec.model, slots);
            let (decision, because) = match place(now, job, &views, &site) {
                Placement::Run { worker, because } => {
                    let seen = workers.iter().find(|seen| seen.host == worker);
                    let total = seen.map_or(0, |seen| plan::slots_of(seen, &spec.model));
                    match slots.take(&worker, &spec.model, total) {
                        Some(slot) => (Decision::Assign(slot), None),
                        // Taken in this moment by a job that came straight in.
                        None => (Decision::Nothing, Some(because)),
                    }
                }
                // A job that has not expired yet is left to the sweep; what can never run as things
                // stand may run when the site file or a worker changes.
                Placement::Wait { because, .. } | Placement::Refuse { because } => {
                    (waits(job, because.first()), Some(because))
                }
            };
            if let Some(because) = because {
                let ahead = ahead.entry(spec.tier).or_default();
                *ahead += 1;
                plan.note(job.id(), *ahead, because);
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
        let mut changed = Vec::new();
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
            }
        }
        tx.commit().await?;
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
        let swept = self.sweep().await?;
        let given = self.dispatch().await?;
        // Single jobs are in their own history; a line for each in the log would be noise.
        let _given = given;
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
