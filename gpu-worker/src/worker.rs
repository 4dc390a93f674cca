//! All engines and models of one host: who gets which engine, and how all stands.

mod devices;
mod fit;
mod load;
mod room;
mod view;
mod wake;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use homelab_common::{clock::Clock, lifecycle::Tasks};
use tokio::{sync::watch, time};

pub use devices::Reading;
pub use fit::{DoesNotFit, Shortage};
pub use load::{LoadError, LoadEvent, LoadFailure, LoadStep, Loading, Reach};
pub use room::EngineBusy;
pub use view::{EngineView, ModelState, ModelView, Snapshot};
pub use wake::{Admission, NotWoken, Waiting};

use crate::{
    device::{DeviceId, Roots},
    energy::Energy,
    engine::{
        Engine, State,
        session::{NotAdmitted, Session},
    },
    fence::{Fence, Overtaken},
    model::{Hashes, Model, ModelName},
    slot::{Busy, Permit},
    worker::devices::Devices,
};

/// An engine and the models that it may be given.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The engine.
    pub engine: Engine,
    /// Its models; empty for all of them.
    pub models: Vec<ModelName>,
    /// The model that it is given at the start.
    pub load: Option<ModelName>,
}

impl Seat {
    fn takes(&self, model: &Model) -> bool {
        (self.models.is_empty() || self.models.contains(&model.name))
            && self.engine.config().can_run(model)
    }
}

/// The worker. Clones are the same worker.
#[derive(Debug, Clone)]
pub struct Worker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: String,
    seats: Vec<Seat>,
    /// Held while the model of the seat at the same place is changed.
    swaps: Vec<tokio::sync::Mutex<()>>,
    /// Requests that wait for a model to be loaded.
    waiting: Mutex<HashMap<ModelName, u32>>,
    models: BTreeMap<ModelName, Arc<Model>>,
    hashes: Arc<Hashes>,
    devices: Devices,
    energy: Energy,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    changed: watch::Sender<()>,
    is_draining: AtomicBool,
    fence: Mutex<Fence>,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// Name of the host.
    pub host: String,
    /// The engines.
    pub seats: Vec<Seat>,
    /// The configured models.
    pub models: Vec<Arc<Model>>,
    /// The hashes of their files.
    pub hashes: Hashes,
    /// Where devices are read.
    pub roots: Roots,
    /// Runs what takes long.
    pub tasks: Tasks,
    /// Dates what is shown.
    pub clock: Arc<dyn Clock>,
    /// The same as every engine's.
    pub changed: watch::Sender<()>,
}

/// There is no such model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no model `{name}` on this host; it has {}", Listed(.known))]
pub struct UnknownModel {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<ModelName>,
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such model.
    #[error(transparent)]
    Unknown(#[from] UnknownModel),
    /// The worker takes no new requests.
    #[error("this worker is being drained; ask another one, or end it with `drain: false`")]
    Draining,
    /// No engine has the model ready.
    #[error("`{model}` is not ready: {state}")]
    NotReady {
        /// The model.
        model: ModelName,
        /// Where it stands and what to do, for people.
        state: String,
    },
    /// Every slot of every engine that has the model is taken.
    #[error("`{model}` has no free slot")]
    Busy {
        /// The model.
        model: ModelName,
        /// The slots of its engine.
        #[source]
        busy: Busy,
    },
    /// The attempt is an old one.
    #[error(transparent)]
    Overtaken(#[from] Overtaken),
}

impl Worker {
    /// Puts a worker together.
    pub fn new(parts: Parts) -> Self {
        let Parts { host, seats, models, hashes, roots, tasks, clock, changed } = parts;
        let models = models.into_iter().map(|model| (model.name.clone(), model)).collect();
        let energy = Energy::new(roots.clone(), tasks.clone());
        let used: BTreeSet<DeviceId> =
            seats.iter().flat_map(|seat| seat.engine.config().devices.clone()).collect();
        tasks.spawn(energy.clone().keep(used.into_iter().collect()));
        let devices = Devices::new(roots, tasks.clone(), energy.clone());
        let (is_draining, fence) = (AtomicBool::new(false), Mutex::default());
        Self(Arc::new(Inner {
            host,
            swaps: seats.iter().map(|_| tokio::sync::Mutex::default()).collect(),
            waiting: Mutex::default(),
            seats,
            models,
            hashes: Arc::new(hashes),
            devices,
            energy,
            tasks,
            clock,
            changed,
            is_draining,
            fence,
        }))
    }

    /// Told of every change worth showing.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Takes a slot of the least busy engine that has `model` ready, for attempt
    /// number `attempt` of `job` (which may be empty). A model that no engine has and
    /// that a free one takes is loaded first.
    ///
    /// # Errors
    /// [`Refusal`]; this never waits.
    pub fn admit(
        &self,
        model: &str,
        job: &str,
        attempt: u32,
        reach: Reach,
    ) -> Result<Admission, Refusal> {
        let model = self.model(model)?;
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        if !job.is_empty() {
            let mut fence = self.0.fence.lock().unwrap_or_else(PoisonError::into_inner);
            fence.pass(job, attempt)?;
        }
        match self.take(model) {
            Ok((session, permit)) => Ok(Admission::Ready(session, permit)),
            Err(refusal @ Refusal::NotReady { .. }) => match self.wait_for(model, reach)? {
                Some(waiting) => Ok(Admission::AfterLoad(waiting)),
                None => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        }
    }

    /// Takes a slot of the least busy engine that has `model` ready.
    fn take(&self, model: &Arc<Model>) -> Result<(Arc<Session>, Permit), Refusal> {
        let mut sessions = self.sessions(&model.name);
        sessions.sort_by_key(|session| session.slots().busy());
        let mut full = None;
        for session in sessions {
            match session.admit() {
                Ok(permit) => return Ok((session, permit)),
                Err(NotAdmitted::Busy(busy)) => full = full.or(Some(busy)),
                Err(NotAdmitted::Closing) => {}
            }
        }
        let model = model.name.clone();
        Err(match full {
            Some(busy) => Refusal::Busy { model, busy },
            None => Refusal::NotReady { state: self.why_not_ready(&model), model },
        })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<ModelName, u32>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no new requests, or takes them again; waits up to `wait` for those
    /// that run. Gives how many still run; those that wait for a load count.
    pub async fn drain(&self, drain: bool, wait: Duration) -> u32 {
        self.0.is_draining.store(drain, Ordering::Relaxed);
        self.0.changed.send_replace(());
        if drain {
            let mut changes = self.changes();
            let idle = async { while self.running() > 0 && changes.changed().await.is_ok() {} };
            // What still runs is in the answer.
            drop(time::timeout(wait, idle).await);
        }
        self.running()
    }

    /// Whether new requests are refused.
    pub fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::Relaxed)
    }

    /// The devices of the host.
    pub async fn devices(&self) -> Vec<Reading> {
        let engines = self.0.seats.iter().filter_map(|seat| seat.engine.status().pid).collect();
        self.0.devices.read(engines).await
    }

    /// The meters of the host.
    pub fn energy(&self) -> &Energy {
        &self.0.energy
    }

    /// Whether there is such a model.
    ///
    /// # Errors
    /// [`UnknownModel`] lists what there is.
    pub fn knows(&self, model: &str) -> Result<(), UnknownModel> {
        self.model(model).map(|_| ())
    }

    fn model(&self, name: &str) -> Result<&Arc<Model>, UnknownModel> {
        let found = name.parse::<ModelName>().ok().and_then(|name| self.0.models.get(&name));
        found.ok_or_else(|| UnknownModel {
            name: name.to_owned(),
            known: self.0.models.keys().cloned().collect(),
        })
    }

    fn running(&self) -> u32 {
        let ready = |seat: &Seat| match seat.engine.status().state {
            State::Ready(session) => session.slots().busy(),
            _ => 0,
        };
        // Who waits for a load was taken, and is answered or told before the host may sleep. Counted
        // first: who gets a slot in between counts twice and not never.
        let waiting: u32 = self.waiting().values().sum();
        self.0.seats.iter().map(ready).sum::<u32>() + waiting
    }

    fn sessions(&self, model: &ModelName) -> Vec<Arc<Session>> {
        let ready = |seat: &Seat| match seat.engine.status().state {
            State::Ready(session) if session.model().name == *model => Some(session),
            _ => None,
        };
        self.0.seats.iter().filter_map(ready).collect()
    }

    fn why_not_ready(&self, model: &ModelName) -> String {
        let holder = self
            .0
            .seats
            .iter()
            .map(|seat| seat.engine.status())
            .find(|status| status.model.as_ref().is_some_and(|held| held.name == *model));
        match holder {
            None => format!(
                "no engine has it, and none that takes it is free; call \
                 InferenceService.LoadModel for `{model}`"
            ),
            Some(status) => match &status.last_incident {
                Some(incident) if matches!(status.state, State::Failed | State::Quarantined) => {
                    format!("its engine is {}: {}", status.state, incident.because)
                }
                _ => format!("its engine is {}", status.state),
            },
        }
    }
}

/// Names, separated by commas.
struct Listed<'a>(&'a [ModelName]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("none");
        }
        for (place, name) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(formatter, "{separator}`{name}`")?;
        }
        Ok(())
    }
}
