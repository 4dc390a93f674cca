//! What is done with everything that waits, in one look.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::{Placement, Way, WorkerState, WorkerView, place_near, room::Room};
use crate::{
    ids::{HostName, JobId, ModelName},
    job::{Job, JobClass, JobStateKind},
    reason::{Because, Reason},
    site::{Site, Tier},
};

/// How long a job waits for engines that work on other models before those take no new jobs: with
/// somebody who waits for the answer, and without.
const PATIENCE_INTERACTIVE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5 * 60);

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
        /// How it gets at its model.
        way: Way,
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

/// A model takes no new jobs on a worker, so that another one, which has waited long, gets its engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Yield {
    /// Host of the worker.
    pub worker: HostName,
    /// Which.
    pub model: ModelName,
    /// For which other.
    pub to: ModelName,
}

/// What is done with the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSteps {
    /// What is done with each job.
    pub steps: Vec<Step>,
    /// What holds as well for jobs that come before the next look.
    pub yields: Vec<Yield>,
}

/// What decides alike for many jobs.
type Alike<'a> = (Tier, &'a ModelName, JobClass);

/// What has been decided so far.
struct Round<'a> {
    workers: Vec<WorkerView>,
    held: HashMap<Alike<'a>, Arc<Hold>>,
    cleared: HashSet<(Tier, &'a ModelName)>,
}

/// Decides about all jobs, best first, each with the slots that those before it left. Whoever is
/// asked about a hundred jobs for the same model thinks once: as long as nothing but slots changes,
/// and those only become fewer, what kept the first waiting keeps the next.
///
/// A model that waits for engines which others keep busy gets one in the end: once a job for it has
/// been patient, those others take no new jobs there, and it goes in when the last has finished.
#[must_use]
pub fn plan_queue(plan: &QueuePlan<'_>, pending: &[Job]) -> QueueSteps {
    let workers = plan.workers.to_vec();
    let mut round = Round { workers, held: HashMap::new(), cleared: HashSet::new() };
    let steps = pending.iter().map(|job| step(plan, job, &mut round)).collect();
    let yields = round.workers.iter().flat_map(yields_of).collect();
    QueueSteps { steps, yields }
}

fn step<'a>(plan: &QueuePlan<'_>, job: &'a Job, round: &mut Round<'a>) -> Step {
    let spec = job.spec();
    if let Some(needs) = plan.needs.get(&job.id()).filter(|_| !spec.terms.after.is_empty()) {
        return after(needs);
    }
    let alike = (spec.tier, &spec.model, spec.terms.class);
    let is_late = spec.deadline.is_some_and(|deadline| deadline <= plan.now);
    if !is_late && let Some(hold) = round.held.get(&alike).map(Arc::clone) {
        round.clear_if_patient(plan.now, job, &hold);
        return Step::Wait(hold);
    }
    let home = spec.terms.chat.as_ref().and_then(|chat| plan.homes.get(chat));
    let hold = match place_near(plan.now, job, &round.workers, plan.site, home) {
        Placement::Run { worker, way, because } => {
            round.take_slot(&worker, &spec.model);
            return Step::Run { worker, way, because };
        }
        // What can never run as things stand may run when the site file or a worker changes; one
        // that is past its deadline is left to the sweep.
        Placement::Wait { because, wake } => Arc::new(Hold { because, wake }),
        Placement::Refuse { because } => Arc::new(Hold { because, wake: None }),
    };
    round.clear_if_patient(plan.now, job, &hold);
    if !is_late {
        round.held.insert(alike, Arc::clone(&hold));
    }
    Step::Wait(hold)
}

impl<'a> Round<'a> {
    fn take_slot(&mut self, host: &HostName, name: &ModelName) {
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.host == *host) else {
            return;
        };
        if let Some(model) = worker.model(name).filter(|model| model.is_loadable())
            && let Room::Free { engine } | Room::Idle { engine } = worker.room(model)
        {
            worker.load(&engine, name);
        }
        let mut models = worker.models.iter_mut().flatten();
        if let Some(model) = models.find(|model| model.name == *name) {
            model.slots_used += 1;
        }
    }

    /// Has the first worker whose engines are busy cleared for a model, once for all its jobs.
    fn clear_if_patient(&mut self, now: Timestamp, job: &'a Job, hold: &Hold) {
        let spec = job.spec();
        let is_held_up = hold.because.iter().any(|why| why.reason == Reason::ENGINES_BUSY);
        let patience = match spec.terms.class {
            JobClass::Interactive => PATIENCE_INTERACTIVE,
            JobClass::Batch => PATIENCE,
            // Nothing is loaded for them.
            JobClass::Background => return,
        };
        let waited = Duration::try_from(now.duration_since(job.enqueued_at())).unwrap_or_default();
        if !is_held_up || waited < patience || !self.cleared.insert((spec.tier, &spec.model)) {
            return;
        }
        let is_busy = |worker: &&mut WorkerView| {
            worker.tier == spec.tier
                && worker.state == WorkerState::Up
                && worker.model(&spec.model).is_some_and(|model| {
                    model.is_loadable() && matches!(worker.room(model), Room::Busy { .. })
                })
        };
        if let Some(worker) = self.workers.iter_mut().find(is_busy) {
            worker.clear_for(&spec.model);
        }
    }
}

fn yields_of(worker: &WorkerView) -> impl Iterator<Item = Yield> {
    let models = worker.models.iter().flatten();
    models.filter_map(|model| {
        let to = model.yields_to.clone()?;
        Some(Yield { worker: worker.host.clone(), model: model.name.clone(), to })
    })
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
