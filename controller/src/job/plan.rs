//! What the planner is shown, and what it last said.

use std::{collections::HashMap, sync::Arc};

use homelab_domain::{
    ids::{HostName, JobId, ModelName},
    job::{Job, JobSpec},
    placement::{
        EngineView, Hold, ModelReadiness, ModelView, Need, Placement, WorkerState, WorkerView,
        Yield, place_near,
    },
    queue::Pending,
    site::Site,
};
use homelab_proto::inference::v1::{Engine, EngineState, Model, ModelState};
use homelab_store::StoreError;
use jiff::Timestamp;

use super::{
    Jobs,
    engines::{Contact, WorkerSeen},
    slots::Slots,
};

/// Slots of a model that is not loaded and whose worker does not say how many it will have.
const SLOTS_UNKNOWN: u32 = 1;

/// What jobs in the queue wait for of what they come after.
pub(super) type Needs = HashMap<JobId, Vec<Need>>;

/// What the dispatcher last decided about the jobs in the queue.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    waiting: HashMap<JobId, Standing>,
    yields: Vec<Yield>,
}

/// Why a job waits, and where in the queue of its tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Place, from 1.
    pub position: u64,
    /// Why; the first is the nearest.
    pub hold: Arc<Hold>,
}

impl Plan {
    /// Why a job waits, if it does.
    #[must_use]
    pub fn standing(&self, id: JobId) -> Option<&Standing> {
        self.waiting.get(&id)
    }

    /// Everything that waits, in no order.
    pub fn standings(&self) -> impl Iterator<Item = (JobId, &Standing)> {
        self.waiting.iter().map(|(id, standing)| (*id, standing))
    }

    /// Notes which models take no new jobs until the next look.
    pub(super) fn yields(&mut self, yields: Vec<Yield>) {
        self.yields = yields;
    }

    /// Shows workers what holds until the next look.
    fn apply(&self, workers: &mut [WorkerView]) {
        for Yield { worker, model, to } in &self.yields {
            let worker = workers.iter_mut().find(|seen| seen.host == *worker);
            let mut models =
                worker.into_iter().flat_map(|worker| worker.models.iter_mut().flatten());
            if let Some(seen) = models.find(|seen| seen.name == *model) {
                seen.yields_to = Some(to.clone());
            }
        }
    }

    pub(super) fn note(&mut self, id: JobId, position: u64, hold: Arc<Hold>) {
        self.waiting.insert(id, Standing { position, hold });
    }
}

/// The workers as the planner sees them, with all their models.
#[must_use]
pub fn views(workers: &[WorkerSeen], slots: &Slots) -> Vec<WorkerView> {
    workers.iter().map(|seen| view(seen, slots, |_| true)).collect()
}

/// The same with one model only, and those that an engine holds: enough to place one job between
/// two looks at the queue.
#[must_use]
pub fn views_for(
    workers: &[WorkerSeen],
    model: &ModelName,
    slots: &Slots,
    plan: &Plan,
) -> Vec<WorkerView> {
    let is_wanted = |row: &Model| row.name == model.as_str() || !row.engine.is_empty();
    let mut views: Vec<_> = workers.iter().map(|seen| view(seen, slots, is_wanted)).collect();
    plan.apply(&mut views);
    views
}

/// What is counted of a job in the queue.
#[must_use]
pub fn pending_of(job: &Job) -> Pending {
    pending_of_spec(job.spec())
}

/// The same of one that is not in the queue yet.
#[must_use]
pub fn pending_of_spec(spec: &JobSpec) -> Pending {
    Pending {
        id: spec.id,
        tier: spec.tier,
        model: spec.model.clone(),
        class: spec.terms.class,
        caller: spec.submitted_by.clone(),
        bytes: spec.request.bytes.len() as u64,
    }
}

/// Where a job that is not stored yet would go.
#[must_use]
pub fn place_new(
    spec: &JobSpec,
    workers: &[WorkerSeen],
    slots: &Slots,
    site: &Site,
    home: Option<&HostName>,
    plan: &Plan,
    now: Timestamp,
) -> Placement {
    let views = views_for(workers, &spec.model, slots, plan);
    place_near(now, &Job::submit(spec.without_text()), &views, site, home)
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

impl Jobs {
    /// Whether a model could be loaded on a worker in the place of others that have nothing to do,
    /// and only there.
    pub(super) fn can_swap_in(&self, worker: &HostName, model: &ModelName) -> bool {
        let workers = self.workers();
        let seen = workers.iter().find(|seen| seen.host == *worker);
        seen.is_some_and(|seen| view(seen, &self.0.slots, |_| true).can_swap_in(model))
    }

    /// The first jobs of each queue, so many each, and what they come after.
    pub(super) async fn pending(&self, limit: u32) -> Result<(Vec<Job>, Needs), StoreError> {
        let mut tx = self.0.parts.store.read().await?;
        let pending = tx.jobs().pending(limit).await?;
        let mut needs = Needs::new();
        if pending.iter().any(|job| !job.spec().terms.after.is_empty()) {
            for unmet in tx.jobs().unmet_needs().await? {
                let need = Need { job: unmet.needs, state: unmet.state };
                needs.entry(unmet.job).or_default().push(need);
            }
        }
        Ok((pending, needs))
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
    /// What each engine holds, and whether it has nothing to do.
    engines: Vec<(String, bool)>,
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
                let engines = seen.worker.iter().flat_map(|worker| &worker.engines);
                let engines =
                    engines.map(|engine| (engine.model.clone(), engine.slots_busy == 0)).collect();
                Capacity { host: seen.host.clone(), state: state(seen), models, engines }
            })
            .collect(),
    )
}

fn view(seen: &WorkerSeen, slots: &Slots, is_wanted: impl Fn(&Model) -> bool) -> WorkerView {
    let model = |row: &Model| {
        let name = ModelName::try_new(&row.name).ok()?;
        Some(ModelView {
            readiness: readiness(row),
            slots: slots_of(seen, &name),
            slots_used: slots.used(&seen.host, &name),
            engines: row.engines.clone(),
            yields_to: None,
            name,
        })
    };
    let models = seen.worker.as_ref().map(|worker| {
        worker.models.iter().filter(|row| is_wanted(row)).filter_map(model).collect()
    });
    let engines = seen.worker.iter().flat_map(|worker| &worker.engines).map(engine).collect();
    WorkerView { host: seen.host.clone(), tier: seen.tier, state: state(seen), models, engines }
}

fn engine(row: &Engine) -> EngineView {
    let devices = if row.devices.is_empty() && !row.device.is_empty() {
        vec![row.device.clone()]
    } else {
        row.devices.clone()
    };
    EngineView {
        name: row.name.clone(),
        devices,
        holds: ModelName::try_new(&row.model).ok(),
        busy: row.slots_busy,
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
