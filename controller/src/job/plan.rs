//! What the planner is shown, and what it last said.

use std::collections::HashMap;

use homelab_domain::{
    ids::{HostName, JobId, ModelName},
    job::{Job, JobSpec},
    placement::{ModelReadiness, Placement, WorkerState, WorkerView, place},
    reason::Because,
    site::Site,
};
use homelab_proto::inference::v1::{EngineState, Model, ModelState};
use jiff::Timestamp;

use super::{
    engines::{Contact, WorkerSeen},
    slots::Slots,
};

/// Slots of a model that is not loaded and whose worker does not say how many it will have.
const SLOTS_UNKNOWN: u32 = 1;

/// What the dispatcher last decided about the jobs in the queue.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    waiting: HashMap<JobId, Standing>,
}

/// Why a job waits, and where in the queue of its tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Place, from 1.
    pub position: u64,
    /// Why; the first is the nearest.
    pub because: Vec<Because>,
}

impl Plan {
    /// Why a job waits, if it does.
    #[must_use]
    pub fn standing(&self, id: JobId) -> Option<&Standing> {
        self.waiting.get(&id)
    }

    pub(super) fn note(&mut self, id: JobId, position: u64, because: Vec<Because>) {
        self.waiting.insert(id, Standing { position, because });
    }
}

/// The workers as the planner sees them for one model: each with the slots that it has for that
/// model.
#[must_use]
pub fn views(workers: &[WorkerSeen], model: &ModelName, slots: &Slots) -> Vec<WorkerView> {
    workers.iter().map(|seen| view(seen, model, slots)).collect()
}

/// Where a job that is not stored yet would go.
#[must_use]
pub fn place_new(
    spec: &JobSpec,
    workers: &[WorkerSeen],
    slots: &Slots,
    site: &Site,
    now: Timestamp,
) -> Placement {
    let views = views(workers, &spec.model, slots);
    // The planner asks for a job; its text, which may be large, is none of its business.
    let request = homelab_domain::job::JobRequest { form: spec.request.form, bytes: Vec::new() };
    let bare = JobSpec {
        id: spec.id,
        model: spec.model.clone(),
        tier: spec.tier,
        priority: spec.priority,
        submitted_by: String::new(),
        submitted_at: spec.submitted_at,
        deadline: spec.deadline,
        tokens_max: spec.tokens_max,
        record: spec.record,
        title: String::new(),
        request,
    };
    place(now, &Job::submit(bare), &views, site)
}

/// Slots that a worker has for a model.
#[must_use]
pub fn slots_of(seen: &WorkerSeen, model: &ModelName) -> u32 {
    let Some(worker) = &seen.worker else { return 0 };
    let running = worker.engines.iter().filter(|engine| {
        engine.model == model.as_str()
            && matches!(engine.state(), EngineState::Ready | EngineState::Starting)
    });
    let slots: u32 = running.map(|engine| engine.slots).sum();
    match worker.models.iter().find(|row| row.name == model.as_str()) {
        _ if slots > 0 => slots,
        Some(row) => row.slots.unwrap_or(SLOTS_UNKNOWN).max(1),
        None => 0,
    }
}

/// What workers can take, to notice when that changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacities(Vec<Capacity>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Capacity {
    host: HostName,
    state: WorkerState,
    /// Name, state and slots of each model.
    models: Vec<(String, i32, u32)>,
}

/// What workers can take now.
#[must_use]
pub fn capacities(workers: &[WorkerSeen]) -> Capacities {
    let of_model = |seen: &WorkerSeen, row: &Model| {
        let slots = ModelName::try_new(&row.name).map_or(0, |model| slots_of(seen, &model));
        (row.name.clone(), row.state, slots)
    };
    Capacities(
        workers
            .iter()
            .map(|seen| {
                let models = seen.models().map(|row| of_model(seen, row)).collect();
                Capacity { host: seen.host.clone(), state: state(seen), models }
            })
            .collect(),
    )
}

fn view(seen: &WorkerSeen, model: &ModelName, slots: &Slots) -> WorkerView {
    let models = seen.worker.as_ref().map(|worker| {
        let rows = worker.models.iter();
        rows.filter_map(|row| Some((ModelName::try_new(&row.name).ok()?, readiness(row)))).collect()
    });
    WorkerView {
        host: seen.host.clone(),
        tier: seen.tier,
        state: state(seen),
        slots: slots_of(seen, model),
        slots_used: slots.used(&seen.host, model),
        models,
    }
}

fn state(seen: &WorkerSeen) -> WorkerState {
    let drains = seen.drained || seen.worker.as_ref().is_some_and(|worker| worker.draining);
    match seen.contact {
        Contact::Asleep => WorkerState::Asleep,
        Contact::Unreachable => WorkerState::Unreachable { why: seen.message.clone() },
        Contact::Connected if drains => WorkerState::Draining,
        Contact::Connected => WorkerState::Up,
    }
}

fn readiness(row: &Model) -> ModelReadiness {
    match row.state() {
        ModelState::Loaded => ModelReadiness::Loaded,
        ModelState::Unloaded | ModelState::Loading | ModelState::Unspecified => {
            ModelReadiness::Loadable
        }
        ModelState::Failed => ModelReadiness::Failed { why: row.message.clone() },
    }
}
