//! How a job comes in: stored first, then given away or put into the queue.

use homelab_domain::{
    ids::JobId,
    job::{Job, JobSpec},
    placement::Placement,
    queue::{Counted, QueueFull},
    reason::{Because, Reason},
};
use homelab_store::{JobError, StoreError, Submitted};

use crate::documents::attach::asked;

use super::{
    Jobs,
    follow::Follower,
    plan,
    slots::Slot,
    submission::{Refused, Submission},
};

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
    #[error(transparent)]
    Full(#[from] QueueFull),
    /// The store failed; the job may or may not be there.
    #[error("could not store the job")]
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
    /// Checks a job without storing it.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub async fn check(&self, submission: Submission) -> Result<JobSpec, Refused> {
        let spec = submission.check(&self.site(), self.now())?;
        match self.0.parts.engines.objection(&spec).await {
            None => Ok(spec),
            Some(because) => Err(Refused::NoPlace { model: spec.model.to_string(), because }),
        }
    }

    /// Takes a job. When this returns it is stored, and either in the queue or given to a worker.
    /// Idempotent by the id of the submission.
    ///
    /// # Errors
    /// It breaks a rule, the queue is full, or the store failed.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, SubmitError> {
        let mut spec = self.check(submission).await?;
        let id = spec.id;
        let way = self.way_in(&spec)?;
        let mut place = None;
        if let WayIn::Queue(_) = way {
            let admitted = self.admit(&spec)?;
            spec.own_ahead = admitted.own_ahead;
            place = Some(admitted);
        }
        let pending = plan::pending_of_spec(&spec);
        let follower = Follower::fresh(self.clone(), id);
        let mut tx = self.0.parts.store.begin().await?;
        let job = match tx.jobs().submit(&spec).await? {
            Submitted::New(job) => job,
            Submitted::NeedMissing(missing) => {
                let rule = format!("there is no job {missing}; see `labctl job list`");
                return Err(Refused::Field { field: "after", rule }.into());
            }
            Submitted::Existing(job) if !is_same_request(job.spec(), &spec) => {
                return Err(SubmitError::OtherRequest(id));
            }
            Submitted::Existing(job) => {
                let follower = Follower::from_store(self.clone(), id, 0, 0);
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
                // Once more, for the store may have been asked for all that waits before this was there.
                self.tally().add(pending);
                if let Some(place) = place {
                    place.keep();
                }
                self.nudge();
            }
        }
        self.tell();
        Ok(Accepted { job, repeated: false, follower })
    }

    /// Counts a job that will wait, until what comes of it is known.
    fn admit(&self, spec: &JobSpec) -> Result<Admitted<'_>, QueueFull> {
        let pending = plan::pending_of_spec(spec);
        let counted = self.tally().admit(pending, self.0.parts.limits)?;
        let (own_ahead, id) = match counted {
            Counted::New { own_ahead } => (own_ahead, Some(spec.id)),
            Counted::Known => (0, None),
        };
        Ok(Admitted { jobs: self, own_ahead, id })
    }

    /// Whether a new job goes straight to a worker: nothing waits before it for the same model, and a
    /// slot is free.
    fn way_in(&self, spec: &JobSpec) -> Result<WayIn, Refused> {
        let workers = self.workers();
        let site = self.site();
        let home = self.homes().of(spec);
        let (slots, plan) = (&self.0.slots, self.plan());
        match plan::place_new(spec, &workers, slots, &site, home.as_ref(), &plan, self.now()) {
            // What it comes after is looked up by the planner.
            _ if !spec.terms.after.is_empty() => Ok(WayIn::Queue(None)),
            Placement::Run { worker, .. } => {
                let waits = self.waits_for(spec.tier, &spec.model);
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
}

/// How a new job begins.
enum WayIn {
    /// With a worker.
    Slot(Slot),
    /// In the queue, and for this reason.
    Queue(Option<Because>),
}

/// A job that counts as waiting, unless this is dropped before it is kept.
struct Admitted<'a> {
    jobs: &'a Jobs,
    own_ahead: u32,
    /// None when it counted before.
    id: Option<JobId>,
}

impl Admitted<'_> {
    fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.jobs.tally().remove(id);
        }
    }
}

/// A job whose state could not be changed stays as it is; only a failing store is an error.
fn unchanged(error: JobError) -> Result<Option<Job>, StoreError> {
    match error {
        JobError::Store(error) => Err(error),
        _ => Ok(None),
    }
}

/// Whether a call that comes again asks for what it asked for before. The text may be gone, when it was
/// not to be kept; what is left decides then.
fn is_same_request(before: &JobSpec, now: &JobSpec) -> bool {
    let same_text = before.request.bytes.is_empty()
        || (before.request.form == now.request.form
            && asked(&before.request) == asked(&now.request));
    same_text
        && before.submitted_by == now.submitted_by
        && before.model == now.model
        && before.tier == now.tier
}
