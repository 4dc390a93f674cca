//! Where a job runs, why it waits, and where its text may go.

mod explain;
mod resolve;

use jiff::Timestamp;

pub use explain::{Explanation, QueueView, destinations, explain};
pub use resolve::{Resolved, resolve};

use crate::{
    ids::{HostName, ModelName},
    job::Job,
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

/// A worker, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Host.
    pub host: HostName,
    /// Its tier.
    pub tier: Tier,
    /// Whether it takes work.
    pub state: WorkerState,
    /// Slots in all.
    pub slots: u32,
    /// Slots in use, counted by the controller: jobs that it gave to the worker,
    /// whether the worker has said so yet or not.
    pub slots_used: u32,
    /// Its models; none while nothing is known of them (it has never answered).
    pub models: Option<Vec<(ModelName, ModelReadiness)>>,
}

impl WorkerView {
    /// Slots that are free.
    #[must_use]
    pub const fn slots_free(&self) -> u32 {
        self.slots.saturating_sub(self.slots_used)
    }

    fn readiness(&self, model: &ModelName) -> Option<&ModelReadiness> {
        let models = self.models.as_ref()?;
        models.iter().find(|(name, _)| name == model).map(|(_, readiness)| readiness)
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
#[must_use]
pub fn place(now: Timestamp, job: &Job, workers: &[WorkerView], site: &Site) -> Placement {
    let spec = job.spec();
    let refuse = |because| Placement::Refuse { because: vec![because] };
    if let Some(why) = tier_missing(site, spec.tier) {
        return refuse(why);
    }
    if spec.deadline.is_some_and(|deadline| deadline <= now) {
        return refuse(Because::new(Reason::DEADLINE_EXCEEDED, "its deadline has passed"));
    }
    let mut candidates: Vec<&WorkerView> =
        workers.iter().filter(|worker| worker.tier == spec.tier).collect();
    candidates.sort_by(|a, b| a.host.cmp(&b.host));
    let best = candidates
        .iter()
        .filter(|worker| obstacle(worker, &spec.model).is_none())
        .max_by_key(|worker| {
            let loaded = worker.readiness(&spec.model) == Some(&ModelReadiness::Loaded);
            (loaded, worker.slots_free(), std::cmp::Reverse(&worker.host))
        });
    if let Some(worker) = best {
        return Placement::Run {
            worker: worker.host.clone(),
            because: vec![chosen(worker, &spec.model)],
        };
    }
    let because: Vec<Because> =
        candidates.iter().filter_map(|worker| obstacle(worker, &spec.model)).collect();
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
        .find(|worker| worker.state == WorkerState::Asleep && may_have(worker, &spec.model))
        .map(|worker| worker.host.clone());
    Placement::Wait { because: nearest_first(because), wake }
}

/// Why a job of that tier can never run on this site.
fn tier_missing(site: &Site, tier: Tier) -> Option<Because> {
    if tier == Tier::Gold {
        let message =
            "gold leaves the house, and this version sends nothing out; ask for silver or bronze";
        return Some(Because::new(Reason::GOLD_NOT_CONFIGURED, message));
    }
    site.tier(tier).is_none().then(|| {
        Because::new(Reason::TIER_NOT_CONFIGURED, format!("the site file declares no tier {tier}"))
    })
}

/// What keeps a worker from taking a job with that model now.
fn obstacle(worker: &WorkerView, model: &ModelName) -> Option<Because> {
    let host = &worker.host;
    if !may_have(worker, model) {
        let message = format!("{host} does not have {model}");
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
    match worker.readiness(model) {
        Some(ModelReadiness::Failed { why }) => {
            let message = format!("{model} does not load on {host}: {why}");
            return Some(Because::new(Reason::MODEL_FAILED, message));
        }
        None => {
            let message = format!("{host} has not said yet which models it has");
            return Some(Because::new(Reason::WORKER_UNREACHABLE, message));
        }
        Some(ModelReadiness::Loaded | ModelReadiness::Loadable) => {}
    }
    (worker.slots_free() == 0).then(|| {
        let message =
            format!("{} of {} slots of {host} are in use", worker.slots_used, worker.slots);
        Because::new(Reason::NO_FREE_SLOT, message)
    })
}

/// Whether a worker has the model, or has not said yet.
fn may_have(worker: &WorkerView, model: &ModelName) -> bool {
    worker.models.is_none() || worker.readiness(model).is_some()
}

fn chosen(worker: &WorkerView, model: &ModelName) -> Because {
    let host = &worker.host;
    let (free, slots) = (worker.slots_free(), worker.slots);
    let message = match worker.readiness(model) {
        Some(ModelReadiness::Loaded) => {
            format!("{host} has {model} loaded and {free} of {slots} slots free")
        }
        _ => format!("{host} has {free} of {slots} slots free and loads {model} first"),
    };
    Because::new(Reason::READY, message)
}

/// What will pass by itself comes first: that is what the job waits for.
fn nearest_first(mut because: Vec<Because>) -> Vec<Because> {
    let order = [
        Reason::NO_FREE_SLOT,
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
