//! What is done with everything that waits, in one look.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use super::{Placement, WorkerView, place_near};
use crate::{
    ids::{HostName, JobId, ModelName},
    job::{Job, JobClass, JobStateKind},
    reason::{Because, Reason},
    site::{Site, Tier},
};

/// A job waits for another that it comes after and that has not succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// For which.
    pub job: JobId,
    /// Where that one stands; none when it is not there any more.
    pub state: Option<JobStateKind>,
}

/// Why jobs wait: the same for all that wait for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Why; the first is the nearest. Never empty.
    pub because: Vec<Because>,
    /// Host whose waking would help.
    pub wake: Option<HostName>,
}

/// What is done with one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes to a worker.
    Run {
        /// Host of the worker.
        worker: HostName,
        /// Why this one.
        because: Vec<Because>,
    },
    /// It stays in the queue.
    Wait(Arc<Hold>),
    /// It can never run, and ends.
    GiveUp(Because),
}

/// What is known beside the jobs.
#[derive(Clone, Copy, Debug)]
pub struct QueuePlan<'a> {
    /// Now.
    pub now: Timestamp,
    /// What is declared.
    pub site: &'a Site,
    /// The workers, as last seen.
    pub workers: &'a [WorkerView],
    /// Where conversations were answered last.
    pub homes: &'a HashMap<String, HostName>,
    /// What jobs wait for of what they come after.
    pub needs: &'a HashMap<JobId, Vec<Need>>,
}

/// What decides alike for many jobs.
type Alike<'a> = (Tier, &'a ModelName, JobClass);

/// Decides about all jobs, best first, each with the slots that those before it left. Whoever is
/// asked about a hundred jobs for the same model thinks once: as long as nothing but slots changes,
/// and those only become fewer, what kept the first waiting keeps the next.
#[must_use]
pub fn plan_queue(plan: &QueuePlan<'_>, pending: &[Job]) -> Vec<Step> {
    let mut workers = plan.workers.to_vec();
    let mut held: HashMap<Alike<'_>, Arc<Hold>> = HashMap::new();
    let mut steps = Vec::with_capacity(pending.len());
    for job in pending {
        steps.push(step(plan, job, &mut workers, &mut held));
    }
    steps
}

fn step<'a>(
    plan: &QueuePlan<'_>,
    job: &'a Job,
    workers: &mut [WorkerView],
    held: &mut HashMap<Alike<'a>, Arc<Hold>>,
) -> Step {
    let spec = job.spec();
    if let Some(needs) = plan.needs.get(&job.id()).filter(|_| !spec.terms.after.is_empty()) {
        return after(needs);
    }
    let alike = (spec.tier, &spec.model, spec.terms.class);
    let is_late = spec.deadline.is_some_and(|deadline| deadline <= plan.now);
    if !is_late && let Some(hold) = held.get(&alike) {
        return Step::Wait(Arc::clone(hold));
    }
    let home = spec.terms.chat.as_ref().and_then(|chat| plan.homes.get(chat));
    match place_near(plan.now, job, workers, plan.site, home) {
        Placement::Run { worker, because } => {
            take_slot(workers, &worker, &spec.model);
            Step::Run { worker, because }
        }
        // What can never run as things stand may run when the site file or a worker changes; one
        // that is past its deadline is left to the sweep.
        Placement::Wait { because, wake } => hold(held, alike, Hold { because, wake }, is_late),
        Placement::Refuse { because } => hold(held, alike, Hold { because, wake: None }, is_late),
    }
}

fn hold<'a>(
    held: &mut HashMap<Alike<'a>, Arc<Hold>>,
    alike: Alike<'a>,
    hold: Hold,
    is_its_own: bool,
) -> Step {
    let hold = Arc::new(hold);
    if !is_its_own {
        held.insert(alike, Arc::clone(&hold));
    }
    Step::Wait(hold)
}

/// What a job that comes after others waits for; the first that can never succeed ends it.
pub(super) fn after(needs: &[Need]) -> Step {
    let lost = needs.iter().find(|need| need.state.is_none_or(JobStateKind::is_final));
    if let Some(Need { job, state }) = lost {
        let how = match state {
            Some(state) => format!("job {job}, which it comes after, is {state}"),
            None => format!("job {job}, which it comes after, is not there any more"),
        };
        let message = format!("{how}; retry that one first, then this one");
        return Step::GiveUp(Because::new(Reason::DEPENDENCY_FAILED, message));
    }
    let because = needs
        .iter()
        .map(|need| {
            let state = need.state.map_or_else(String::new, |state| format!(", which is {state}"));
            let message = format!("it comes after job {}{state}", need.job);
            Because::new(Reason::WAITS_FOR_DEPENDENCY, message)
        })
        .collect();
    Step::Wait(Arc::new(Hold { because, wake: None }))
}

fn take_slot(workers: &mut [WorkerView], host: &HostName, name: &ModelName) {
    let worker = workers.iter_mut().find(|worker| worker.host == *host);
    let models = worker.and_then(|worker| worker.models.as_mut());
    let model = models.and_then(|models| models.iter_mut().find(|model| model.name == *name));
    if let Some(model) = model {
        model.slots_used += 1;
    }
}
