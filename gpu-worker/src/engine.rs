//! One engine: a foreign inference process, kept running and kept honest.
//!
//! A handle says what is wanted (a model, or nothing) and shows what is; a single
//! task in between starts the process, waits until it is ready, watches that a busy
//! engine makes progress, ends it, and starts it again after a pause. It knows
//! nothing of tokens: those go from the process's socket to whoever asked, through
//! the [`session::Session`] that exists while the process is ready.

pub mod backend;
pub mod build;
pub mod chunk;
pub mod command;
pub mod health;
pub mod http;
pub mod incident;
mod placed;
mod process;
pub mod recent;
pub mod remote;
pub mod request;
pub mod restart;
pub mod session;
pub mod sse;
pub mod stream;
mod trace;

use std::{collections::VecDeque, fmt, path::PathBuf, sync::Arc, time::Duration};

use homelab_common::{
    chance::Chance, clock::Clock, error_chain::Chain, exec::Exec, lifecycle::Tasks,
};
use jiff::Timestamp;
use tokio::{sync::watch, time};
use tracing::{info, warn};

use crate::{
    device::{self, DeviceId, PciSlot, Roots},
    engine::{
        build::{Build, Variant, variants},
        incident::{Bundle, Incident, Remedy, Row},
        process::End,
        recent::Recent,
        remote::Remote,
        restart::{History, Next, RestartPolicy},
        session::Session,
        stream::Patience,
    },
    model::Model,
};

/// A card that hangs can block whoever reads its files.
const READ_DEADLINE: Duration = Duration::from_secs(3);

/// What a person has configured about an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Name, unique on the host.
    pub name: String,
    /// What it runs on, by slot; more than one when it spans cards.
    pub devices: Vec<DeviceId>,
    /// How the layers are shared out among them; empty for by their memory.
    pub tensor_split: Vec<u32>,
    /// What may be started, best first; nothing when it runs elsewhere.
    pub builds: Vec<Build>,
    /// Where it is, when somebody else runs it.
    pub remote: Option<Remote>,
    /// Page that answers 200 once it is ready.
    pub health_path: String,
    /// What is done about a model that does not seem to fit.
    pub memory_check: MemoryCheck,
    /// Its deadlines.
    pub timing: Timing,
}

/// What is done about a model that does not seem to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryCheck {
    /// It is not loaded.
    Refuse,
    /// It is loaded all the same.
    Ignore,
}

impl EngineConfig {
    /// The slots of its cards; none when it runs on the processor.
    pub fn slots(&self) -> Vec<PciSlot> {
        self.devices.iter().filter_map(|device| device.slot().cloned()).collect()
    }

    /// Whether two engines would share a card, which holds one process at a time.
    pub fn shares_a_card_with(&self, other: &Self) -> bool {
        let is_theirs =
            |device: &DeviceId| device.slot().is_some() && other.devices.contains(device);
        self.devices.iter().any(is_theirs)
    }

    /// Whether there is a build that may run `model`.
    pub fn can_run(&self, model: &Model) -> bool {
        match &self.remote {
            // What it computes with is not known.
            Some(_) => model.options.backends.is_empty(),
            None => !variants(&self.builds, model).is_empty(),
        }
    }
}

/// The deadlines of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// From the start of the process until it is ready.
    pub start: Duration,
    /// How long running requests may go on when it shall end.
    pub drain: Duration,
    /// From SIGTERM to SIGKILL.
    pub stop: Duration,
    /// How long an engine may show no progress while it writes.
    pub stall: Duration,
    /// How long it may show none while it only reads prompts.
    pub prompt_stall: Duration,
    /// How often a busy engine is looked at.
    pub look: Duration,
    /// After so long without a request its process ends; `None` for never.
    pub idle_end: Option<Duration>,
    /// How long one answer may be silent.
    pub patience: Patience,
    /// When it is started again.
    pub restart: RestartPolicy,
}

/// What an engine needs of the world.
#[derive(Debug, Clone)]
pub struct World {
    /// Starts the process.
    pub exec: Arc<dyn Exec>,
    /// Dates what happens.
    pub clock: Arc<dyn Clock>,
    /// Makes keys and spreads pauses.
    pub chance: Arc<dyn Chance>,
    /// Runs the task.
    pub tasks: Tasks,
    /// Private folder for key files.
    pub runtime: PathBuf,
    /// Folder of incidents.
    pub incidents: PathBuf,
    /// Where devices are read.
    pub roots: Roots,
    /// Told of every change that a watcher may want to see.
    pub changed: watch::Sender<()>,
}

/// Where an engine stands.
#[derive(Debug, Clone)]
pub enum State {
    /// No process is wanted.
    Stopped,
    /// The process runs and does not listen yet.
    Starting,
    /// It listens and loads the model.
    Loading,
    /// It answers.
    Ready(Arc<Session>),
    /// It ended by itself and will be started again.
    Failed,
    /// It ended too often and is left alone until a model is loaded again.
    Quarantined,
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Loading => "loading its model",
            Self::Ready(_) => "ready",
            Self::Failed => "failed, to be started again",
            Self::Quarantined => "quarantined",
        })
    }
}

/// An engine, as it stands.
#[derive(Debug, Clone)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// The model that it has or shall have.
    pub model: Option<Arc<Model>>,
    /// The model that it had until it ended for want of requests.
    pub idled: Option<Arc<Model>>,
    /// What was last started.
    pub variant: Option<Arc<Variant>>,
    /// Its process, when there is one.
    pub pid: Option<u32>,
    /// How often a process was started.
    pub starts: u32,
    /// How it last ended by itself.
    pub last_incident: Option<Arc<Incident>>,
    /// Which request to load or unload this answers.
    pub order: u64,
}

/// What shall be.
#[derive(Debug, Clone, Default)]
struct Wanted {
    model: Option<Arc<Model>>,
    order: u64,
}

/// A supervised engine. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    config: Arc<EngineConfig>,
    wanted: watch::Sender<Wanted>,
    status: watch::Sender<Status>,
    recent: Arc<Recent>,
}

impl Engine {
    /// Sets up an engine that is stopped, and the task that supervises it.
    pub fn start(config: EngineConfig, world: World) -> Self {
        let status = Status {
            state: State::Stopped,
            since: world.clock.now(),
            model: None,
            idled: None,
            variant: None,
            pid: None,
            starts: 0,
            last_incident: None,
            order: 0,
        };
        let engine = Self {
            config: Arc::new(config),
            wanted: watch::channel(Wanted::default()).0,
            status: watch::channel(status).0,
            recent: Arc::new(Recent::new(Arc::clone(&world.clock))),
        };
        let tasks = world.tasks.clone();
        tasks.spawn(Supervisor { engine: engine.clone(), world }.run());
        engine
    }

    /// What was configured.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Its requests, over all runs of its process.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Its status and every later one.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Wants `model`, ending what runs now after its running requests. Ends a
    /// quarantine too. Gives the number of the order, which [`Status::order`]
    /// repeats once it is being carried out.
    pub fn load(&self, model: Arc<Model>) -> u64 {
        self.order(Some(model))
    }

    /// Wants no process, ending what runs now after its running requests.
    pub fn unload(&self) -> u64 {
        self.order(None)
    }

    fn order(&self, model: Option<Arc<Model>>) -> u64 {
        let mut order = 0;
        self.wanted.send_modify(|wanted| {
            wanted.order += 1;
            wanted.model = model;
            order = wanted.order;
        });
        order
    }
}

/// The task behind an engine.
#[derive(Debug)]
struct Supervisor {
    engine: Engine,
    world: World,
}

impl Supervisor {
    async fn run(self) {
        let mut wanted = self.engine.wanted.subscribe();
        let stopping = self.world.tasks.stopping();
        while !stopping.is_cancelled() {
            let order = wanted.borrow_and_update().clone();
            match &order.model {
                Some(model) => self.keep_running(model, order.order, &mut wanted).await,
                None => {
                    self.set(|status| {
                        status.state = State::Stopped;
                        status.model = None;
                        status.order = order.order;
                    });
                    self.asked(&mut wanted).await;
                }
            }
        }
    }

    /// Runs one process after the other until something else is asked for.
    async fn keep_running(
        &self,
        model: &Arc<Model>,
        order: u64,
        wanted: &mut watch::Receiver<Wanted>,
    ) {
        let mut history = History::default();
        let mut builds: VecDeque<Arc<Variant>> =
            variants(&self.engine.config.builds, model).into_iter().map(Arc::new).collect();
        self.set(|status| {
            status.model = Some(Arc::clone(model));
            status.idled = None;
            status.order = order;
        });
        if let Some(remote) = &self.engine.config.remote {
            return self.follow(remote, model, wanted).await;
        }
        while let Some(variant) = builds.front() {
            let mut incident = match self.run_once(model, variant, wanted).await {
                End::Asked => return,
                End::Idle => return self.forget(model, order),
                End::ByItself(incident) => incident,
            };
            let (policy, chance) = (&self.engine.config.timing.restart, self.world.chance.as_ref());
            let builds_left = builds.len() - 1;
            let next = match incident.remedy {
                Remedy::Again => history.ended(policy, incident.ready_for, builds_left, chance),
                Remedy::Another => history.hopeless(policy, builds_left, chance),
            };
            incident.bundle = self.bundle(&incident, next).await;
            self.note(incident, next);
            let asked = self.asked(wanted);
            let after = match next {
                Next::Quarantine { .. } => return asked.await,
                Next::FallBack { after } => {
                    builds.pop_front();
                    after
                }
                Next::Restart { after } => after,
            };
            if time::timeout(after, asked).await.is_ok() {
                return;
            }
        }
    }

    /// Ends the wish for `model` because nobody uses it, unless something else was
    /// asked for meanwhile.
    fn forget(&self, model: &Arc<Model>, order: u64) {
        self.set(|status| status.idled = Some(Arc::clone(model)));
        self.engine.wanted.send_if_modified(|wanted| {
            let is_current = wanted.order == order;
            if is_current {
                wanted.model = None;
                wanted.order += 1;
            }
            is_current
        });
    }

    /// Waits for another order, or for the end of the daemon.
    ///
    /// Cancel safety: an order that comes in between is seen by the next call.
    async fn asked(&self, wanted: &mut watch::Receiver<Wanted>) {
        let stopping = self.world.tasks.stopping();
        tokio::select! {
            // The sender lives as long as this supervisor.
            _ = wanted.changed() => wanted.mark_changed(),
            () = stopping.cancelled() => {}
        }
    }

    /// Writes down what may help to understand an incident; gives the bundle's name.
    async fn bundle(&self, incident: &Incident, next: Next) -> Option<String> {
        let (roots, pid) = (self.world.roots.clone(), incident.pid);
        let reading = self.world.tasks.blocking(move || device::list(&roots, pid.as_slice()));
        let devices = match time::timeout(READ_DEADLINE, reading).await {
            Ok(Ok(devices)) => devices,
            // A card that hangs may hang whoever reads it.
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        let EngineConfig { name, devices: ours, .. } = self.engine.config();
        let readings = devices.into_iter().filter(|device| ours.contains(&device.id));
        let (options, variant) = (&incident.model.options, incident.variant.as_deref());
        let bundle = Bundle {
            at: incident.at,
            engine: name.clone(),
            devices: ours.iter().map(ToString::to_string).collect(),
            because: incident.because.clone(),
            followed_by: next.to_string(),
            model: incident.model.name.to_string(),
            context_tokens: options.context_tokens,
            slots: options.slots,
            backend: variant.and_then(|variant| variant.backend).map(|backend| backend.to_string()),
            command: variant.map(|variant| variant.command.words().to_vec()).unwrap_or_default(),
            pid: incident.pid,
            starts: self.engine.status().starts,
            ready_seconds: incident.ready_for.map(|ready_for| ready_for.as_secs()),
            readings: readings.map(Row::from).collect(),
            requests: self.engine.recent.all(),
            last_lines: incident.last_lines.clone(),
        };
        let folder = self.world.incidents.clone();
        let storing = self.world.tasks.blocking(move || incident::store(&folder, bundle));
        match storing.await {
            Ok(Ok(name)) => Some(name),
            Ok(Err(error)) => {
                warn!(engine = %name, error = %Chain(&error), "an incident could not be written down");
                None
            }
            Err(_) => None,
        }
    }

    fn note(&self, incident: Incident, next: Next) {
        let engine = self.engine.config.name.as_str();
        match next {
            Next::Restart { after } => warn!(
                engine,
                because = %incident.because,
                restart_after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
                "an engine ended by itself"
            ),
            Next::FallBack { after } => warn!(
                engine,
                because = %incident.because,
                fall_back_after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
                "an engine ended by itself; the next build is tried"
            ),
            Next::Quarantine { quick_ends } => warn!(
                engine,
                because = %incident.because,
                quick_ends,
                "an engine ended too often and is left alone"
            ),
        }
        self.set(|status| {
            status.pid = None;
            status.last_incident = Some(Arc::new(incident));
            status.state = match next {
                Next::Restart { .. } | Next::FallBack { .. } => State::Failed,
                Next::Quarantine { .. } => State::Quarantined,
            };
        });
    }

    fn set_state(&self, state: State) {
        info!(engine = %self.engine.config.name, %state, "engine");
        self.set(|status| status.state = state);
    }

    fn set(&self, change: impl FnOnce(&mut Status)) {
        let now = self.world.clock.now();
        self.engine.status.send_modify(|status| {
            change(status);
            status.since = now;
        });
        self.world.changed.send_replace(());
    }
}
