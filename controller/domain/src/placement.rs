//! Where a job runs, why it waits, and where its text may go.

mod explain;
mod queue;
mod resolve;

use jiff::Timestamp;

pub use explain::{Explanation, QueueView, destinations, explain};
pub use queue::{Hold, Need, QueuePlan, Step, plan_queue};
pub use resolve::{Resolved, resolve, resolve_for};

use crate::{
    ids::{HostName, ModelName},
    job::{Job, JobClass},
    reason::{Because, Reason},
    site::{Site, Tier},
};

/// Whether a worker takes work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It answers.
    Up,
    /// Its host is off, as expected.
    Asleep,
    /// It should answer and does not.
    Unreachable {
        /// Why, for people.
        why: String,
    },
    /// It, or its host, takes no new work.
    Draining,
}

/// Whether a worker has a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelReadiness {
    /// It answers.
    Loaded,
    /// On disk, or being loaded.
    Loadable,
    /// Its file is wrong, or its engine does not come up.
    Failed {
        /// Why, for people.
        why: String,
    },
}

/// A model of a worker, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelView {
    /// Name.
    pub name: ModelName,
    /// Whether it answers.
    pub readiness: ModelReadiness,
    /// Requests that it takes at once.
    pub slots: u32,
    /// Slots in use, counted by the controller: jobs that it gave to the worker,
    /// whether the worker has said so yet or not.
    pub slots_used: u32,
}

impl ModelView {
    /// Slots that are free.
    #[must_use]
    pub const fn slots_free(&self) -> u32 {
        self.slots.saturating_sub(self.slots_used)
    }
}

/// A worker, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Host.
    pub host: HostName,
    /// Its tier.
    pub tier: Tier,
    /// Whether it takes work.
    pub state: WorkerState,
    /// Its models; none while nothing is known of them (it has never answered).
    pub models: Option<Vec<ModelView>>,
}

impl WorkerView {
    /// What is known of one model.
    #[must_use]
    pub fn model(&self, name: &ModelName) -> Option<&ModelView> {
        self.models.as_ref()?.iter().find(|model| model.name == *name)
    }
}

/// What is done with a job now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It goes to a worker.
    Run {
        /// Host of the worker.
        worker: HostName,
        /// Why this one.
        because: Vec<Because>,
    },
    /// It stays in the queue.
    Wait {
        /// Why; the first is shown with the job. Never empty.
        because: Vec<Because>,
        /// Host whose waking would help.
        wake: Option<HostName>,
    },
    /// It can never run as things are declared.
    Refuse {
        /// Why. Never empty.
        because: Vec<Because>,
    },
}

/// Decides where a job runs now. A job stays in its tier: silver waits for its
/// worker to come up rather than go to bronze, since the person who asked chose
/// the model. Who wants an answer now asks for bronze.
///
/// For a job that a program submits by the way nothing is woken and nothing loaded:
/// it runs where its model is, or waits until somebody else has had it loaded.
#[must_use]
pub fn place(now: Timestamp, job: &Job, workers: &[WorkerView], site: &Site) -> Placement {
    place_near(now, job, workers, site, None)
}

/// The same for a job whose conversation was last answered by the worker of `home`: there it goes
/// when that has a free slot, for the engine may still have what was said before.
#[must_use]
pub fn place_near(
    now: Timestamp,
    job: &Job,
    workers: &[WorkerView],
    site: &Site,
    home: Option<&HostName>,
) -> Placement {
    let spec = job.spec();
    let refuse = |because| Placement::Refuse { because: vec![because] };
    if let Some(why) = tier_missing(site, spec.tier) {
        return refuse(why);
    }
    if spec.deadline.is_some_and(|deadline| deadline <= now) {
        return refuse(Because::new(Reason::DEADLINE_EXCEEDED, "its deadline has passed"));
    }
    let class = spec.terms.class;
    let mut candidates: Vec<&WorkerView> =
        workers.iter().filter(|worker| worker.tier == spec.tier).collect();
    candidates.sort_by(|a, b| a.host.cmp(&b.host));
    let able = candidates.iter().filter(|worker| obstacle(worker, &spec.model, class).is_none());
    let best = able.filter_map(|worker| Some((worker, worker.model(&spec.model)?))).max_by_key(
        |(worker, model)| {
            let is_loaded = model.readiness == ModelReadiness::Loaded;
            let is_home = home == Some(&worker.host);
            (is_loaded, is_home, model.slots_free(), std::cmp::Reverse(&worker.host))
        },
    );
    if let Some((worker, model)) = best {
        return Placement::Run {
            worker: worker.host.clone(),
            because: vec![chosen(&worker.host, model, home == Some(&worker.host))],
        };
    }
    let because: Vec<Because> =
        candidates.iter().filter_map(|worker| obstacle(worker, &spec.model, class)).collect();
    if because.is_empty() {
        let message = format!("no worker of {} is known yet", spec.tier);
        return Placement::Wait {
            because: vec![Because::new(Reason::WORKER_UNREACHABLE, message)],
            wake: None,
        };
    }
    let nobody_has_it = because.iter().all(|why| why.reason == Reason::MODEL_NOT_FOUND);
    if nobody_has_it {
        return Placement::Refuse { because };
    }
    let wake = candidates
        .iter()
        .filter(|_| class != JobClass::Background)
        .find(|worker| worker.state == WorkerState::Asleep && may_have(worker, &spec.model))
        .map(|worker| worker.host.clone());
    Placement::Wait { because: nearest_first(because), wake }
}

/// Why a job of that tier can never run on this site.
fn tier_missing(site: &Site, tier: Tier) -> Option<Because> {
    if site.tier(tier).is_none() && tier == Tier::Gold {
        let message = "gold leaves the house, and the site file has no such tier, so nothing does; \
                       ask for silver or bronze";
        return Some(Because::new(Reason::GOLD_NOT_CONFIGURED, message));
    }
    site.tier(tier).is_none().then(|| {
        Because::new(Reason::TIER_NOT_CONFIGURED, format!("the site file declares no tier {tier}"))
    })
}

/// What keeps a worker from taking a job with that model now.
fn obstacle(worker: &WorkerView, name: &ModelName, class: JobClass) -> Option<Because> {
    let host = &worker.host;
    if !may_have(worker, name) {
        let message = format!("{host} does not have {name}");
        return Some(Because::new(Reason::MODEL_NOT_FOUND, message));
    }
    match &worker.state {
        WorkerState::Asleep => {
            return Some(Because::new(Reason::WORKER_ASLEEP, format!("{host} is asleep")));
        }
        WorkerState::Unreachable { why } => {
            let message = format!("{host} does not answer: {why}");
            return Some(Because::new(Reason::WORKER_UNREACHABLE, message));
        }
        WorkerState::Draining => {
            let message = format!("{host} takes no new work");
            return Some(Because::new(Reason::WORKER_DRAINING, message));
        }
        WorkerState::Up => {}
    }
    let Some(model) = worker.model(name) else {
        let message = format!("{host} has not said yet which models it has");
        return Some(Because::new(Reason::WORKER_UNREACHABLE, message));
    };
    match &model.readiness {
        ModelReadiness::Failed { why } => {
            let message = format!("{name} does not load on {host}: {why}");
            return Some(Because::new(Reason::MODEL_FAILED, message));
        }
        ModelReadiness::Loadable if class == JobClass::Background => {
            let message =
                format!("{name} is not loaded on {host}, and for a background call nothing is");
            return Some(Because::new(Reason::MODEL_NOT_LOADED, message));
        }
        ModelReadiness::Loaded | ModelReadiness::Loadable => {}
    }
    (model.slots_free() == 0).then(|| {
        let message = format!("{} of {} slots of {host} are in use", model.slots_used, model.slots);
        Because::new(Reason::NO_FREE_SLOT, message)
    })
}

/// Whether a worker has the model, or has not said yet.
fn may_have(worker: &WorkerView, name: &ModelName) -> bool {
    worker.models.is_none() || worker.model(name).is_some()
}

fn chosen(host: &HostName, model: &ModelView, is_home: bool) -> Because {
    let (name, free, slots) = (&model.name, model.slots_free(), model.slots);
    let mut message = match model.readiness {
        ModelReadiness::Loaded => {
            format!("{host} has {name} loaded and {free} of {slots} slots free")
        }
        _ => format!("{host} has {free} of {slots} slots free and loads {name} first"),
    };
    if is_home {
        message.push_str(", and answered the conversation before");
    }
    Because::new(Reason::READY, message)
}

/// What will pass by itself comes first: that is what the job waits for.
fn nearest_first(mut because: Vec<Because>) -> Vec<Because> {
    let order = [
        Reason::NO_FREE_SLOT,
        Reason::MODEL_NOT_LOADED,
        Reason::WORKER_ASLEEP,
        Reason::WORKER_UNREACHABLE,
        Reason::WORKER_DRAINING,
        Reason::MODEL_FAILED,
        Reason::MODEL_NOT_FOUND,
    ];
    because.sort_by_key(|why| order.iter().position(|reason| *reason == why.reason));
    because
}

#[cfg(test)]
mod tests;
