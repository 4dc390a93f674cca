//! Where a job runs, why it waits, and where its text may go.

mod explain;
mod queue;
mod resolve;
mod room;

use std::cmp::Reverse;

use jiff::Timestamp;

pub use explain::{Explanation, QueueView, destinations, explain};
pub use queue::{Hold, Need, QueuePlan, QueueSteps, Step, Yield, plan_queue};
pub use resolve::{Resolved, resolve, resolve_for};
pub use room::EngineView;
use room::Room;

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
    /// Engines that take it and where it fits: its weights, the context of all its slots, and room
    /// to compute. Empty when the worker does not say.
    pub engines: Vec<String>,
    /// It takes no new jobs here, so that this other model, which has waited long, gets its engine.
    pub yields_to: Option<ModelName>,
}

impl ModelView {
    /// Slots that are free.
    #[must_use]
    pub const fn slots_free(&self) -> u32 {
        self.slots.saturating_sub(self.slots_used)
    }

    fn is_loadable(&self) -> bool {
        self.readiness == ModelReadiness::Loadable
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
    /// Its engines, each of which holds one model at a time.
    pub engines: Vec<EngineView>,
}

impl WorkerView {
    /// What is known of one model.
    #[must_use]
    pub fn model(&self, name: &ModelName) -> Option<&ModelView> {
        self.models.as_ref()?.iter().find(|model| model.name == *name)
    }
}

/// How a job gets at its model. The better one is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It answers already.
    Loaded,
    /// It is loaded first, where nothing else is.
    Load,
    /// It is loaded first, in the place of models that have nothing to do.
    Swap,
}

/// What is done with a job now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
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
    let mut because = Vec::new();
    let mut able = Vec::new();
    for worker in &candidates {
        match access(worker, &spec.model, class) {
            Ok((model, way)) => able.push((*worker, model, way)),
            Err(why) => because.push(why),
        }
    }
    let best = able.into_iter().max_by_key(|(worker, model, way)| {
        let is_home = home == Some(&worker.host);
        (Reverse(*way), is_home, model.slots_free(), Reverse(&worker.host))
    });
    if let Some((worker, model, way)) = best {
        let is_home = home == Some(&worker.host);
        return Placement::Run {
            worker: worker.host.clone(),
            way,
            because: vec![chosen(worker, model, way, is_home)],
        };
    }
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

/// How a worker can take a job with that model now, or what keeps it from that.
fn access<'a>(
    worker: &'a WorkerView,
    name: &ModelName,
    class: JobClass,
) -> Result<(&'a ModelView, Way), Because> {
    let host = &worker.host;
    if !may_have(worker, name) {
        let message = format!("{host} does not have {name}");
        return Err(Because::new(Reason::MODEL_NOT_FOUND, message));
    }
    answers(worker)?;
    let Some(model) = worker.model(name) else {
        let message = format!("{host} has not said yet which models it has");
        return Err(Because::new(Reason::WORKER_UNREACHABLE, message));
    };
    let way = match &model.readiness {
        ModelReadiness::Failed { why } => {
            let message = format!("{name} does not load on {host}: {why}");
            return Err(Because::new(Reason::MODEL_FAILED, message));
        }
        ModelReadiness::Loadable if class == JobClass::Background => {
            let message =
                format!("{name} is not loaded on {host}, and for a background call nothing is");
            return Err(Because::new(Reason::MODEL_NOT_LOADED, message));
        }
        ModelReadiness::Loadable => loadable(worker, model)?,
        ModelReadiness::Loaded => Way::Loaded,
    };
    if let Some(other) = &model.yields_to {
        let message = format!("{name} makes room on {host} for {other}, which has waited long");
        return Err(Because::new(Reason::MODEL_MAKES_ROOM, message));
    }
    if model.slots_free() == 0 {
        let message = format!("{} of {} slots of {host} are in use", model.slots_used, model.slots);
        return Err(Because::new(Reason::NO_FREE_SLOT, message));
    }
    Ok((model, way))
}

/// Whether a worker takes any work now.
fn answers(worker: &WorkerView) -> Result<(), Because> {
    let host = &worker.host;
    Err(match &worker.state {
        WorkerState::Up => return Ok(()),
        WorkerState::Asleep => Because::new(Reason::WORKER_ASLEEP, format!("{host} is asleep")),
        WorkerState::Unreachable { why } => {
            Because::new(Reason::WORKER_UNREACHABLE, format!("{host} does not answer: {why}"))
        }
        WorkerState::Draining => {
            Because::new(Reason::WORKER_DRAINING, format!("{host} takes no new work"))
        }
    })
}

/// How a model that is not loaded could be, without breaking off what others run.
fn loadable(worker: &WorkerView, model: &ModelView) -> Result<Way, Because> {
    match worker.room(model) {
        Room::Unknown | Room::Free { .. } => Ok(Way::Load),
        Room::Idle { .. } => Ok(Way::Swap),
        Room::Busy { residents } => {
            let (name, host) = (&model.name, &worker.host);
            let residents: Vec<&str> = residents.iter().map(ModelName::as_str).collect();
            let message = format!(
                "the engines of {host} that {name} fits on work on {}",
                residents.join(", ")
            );
            Err(Because::new(Reason::ENGINES_BUSY, message))
        }
    }
}

/// Whether a worker has the model, or has not said yet.
fn may_have(worker: &WorkerView, name: &ModelName) -> bool {
    worker.models.is_none() || worker.model(name).is_some()
}

fn chosen(worker: &WorkerView, model: &ModelView, way: Way, is_home: bool) -> Because {
    let host = &worker.host;
    let (name, free, slots) = (&model.name, model.slots_free(), model.slots);
    let mut message = match way {
        Way::Loaded => format!("{host} has {name} loaded and {free} of {slots} slots free"),
        Way::Load => format!("{host} has {free} of {slots} slots free and loads {name} first"),
        Way::Swap => format!("{host} loads {name} in the place of a model that has nothing to do"),
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
        Reason::MODEL_MAKES_ROOM,
        Reason::ENGINES_BUSY,
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
