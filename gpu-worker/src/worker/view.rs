//! How a worker stands, as plain data.

use jiff::Timestamp;

use super::{Reading, Seat, Worker};
use crate::{
    device::DeviceId,
    engine::{State, Status, backend::Backend, remote::Remote},
    model::{Model, ModelName, Purpose, Sha256},
};

/// Everything there is to show of a worker.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Name of the host.
    pub host: String,
    /// Its engines, as configured.
    pub engines: Vec<EngineView>,
    /// Its devices.
    pub devices: Vec<Reading>,
    /// Its models, by name.
    pub models: Vec<ModelView>,
    /// Whether new requests are refused.
    pub is_draining: bool,
    /// When this was so.
    pub observed_at: Timestamp,
}

/// One engine.
#[derive(Debug, Clone)]
pub struct EngineView {
    /// Its name.
    pub name: String,
    /// What it runs on.
    pub devices: Vec<DeviceId>,
    /// How it stands.
    pub status: Status,
    /// Requests that it takes at once.
    pub slots: u32,
    /// Requests that run now.
    pub slots_busy: u32,
    /// Tokens written since the process started.
    pub completion_tokens: Option<u64>,
    /// The jobs that it works on.
    pub jobs: Vec<String>,
    /// Where it is, when somebody else runs it.
    pub url: Option<String>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelView {
    /// Its name.
    pub name: ModelName,
    /// Where it stands.
    pub state: ModelState,
    /// The engine that holds it.
    pub engine: Option<String>,
    /// Tokens that one conversation may hold.
    pub context_tokens: u32,
    /// Requests at once.
    pub slots: u32,
    /// Size of its file.
    pub size_bytes: Option<u64>,
    /// Why it is in this state, for people.
    pub message: String,
    /// Its family, as its file says.
    pub architecture: Option<String>,
    /// How its weights are stored, as its file says.
    pub quantization: Option<String>,
    /// Tokens of context that it was trained for.
    pub context_trained: Option<u32>,
    /// Memory that it needs when all its slots are full.
    pub memory_bytes: Option<u64>,
    /// What its file has to hash to.
    pub sha256: Option<Sha256>,
    /// The backends that may run it, best first; empty for the engine's own order.
    pub backends: Vec<Backend>,
    /// What it is for.
    pub purpose: Purpose,
    /// The engines that take it and where it fits.
    pub engines: Vec<String>,
}

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    /// No engine has it.
    Unloaded,
    /// An engine loads it.
    Loading,
    /// It answers.
    Loaded,
    /// Its file is missing, or its engine does not come up.
    Failed,
}

impl Worker {
    /// How all stands now.
    pub async fn snapshot(&self) -> Snapshot {
        let devices = self.devices().await;
        Snapshot {
            host: self.0.host.clone(),
            engines: self.engines(),
            models: self.models(&devices),
            devices,
            is_draining: self.is_draining(),
            observed_at: self.0.clock.now(),
        }
    }

    /// Its engines.
    pub fn engines(&self) -> Vec<EngineView> {
        self.0.seats.iter().map(engine_view).collect()
    }

    /// Its models. Where they fit is told as far as `readings` of its devices tell.
    pub fn models(&self, readings: &[Reading]) -> Vec<ModelView> {
        self.0.models.values().map(|model| self.model_view(model, readings)).collect()
    }

    /// Says so when an engine ended because nobody used the model.
    fn idled(&self, model: &Model) -> String {
        let is_idled = |seat: &&Seat| {
            let idled = seat.engine.status().idled;
            idled.is_some_and(|idled| idled.name == model.name)
        };
        match self.0.seats.iter().find(is_idled) {
            None => String::new(),
            Some(seat) => format!(
                "engine `{}` ended because nobody used it; the next request starts it again",
                seat.engine.config().name
            ),
        }
    }

    pub(super) fn model_view(&self, model: &Model, readings: &[Reading]) -> ModelView {
        let holders = self.0.seats.iter().filter_map(|seat| {
            let status = seat.engine.status();
            let holds = status.model.as_ref().is_some_and(|held| held.name == model.name);
            holds.then(|| (seat.engine.config().name.clone(), status))
        });
        // Of two engines that hold it, the one that answers counts.
        let holder = holders.min_by_key(|(_, status)| rank(&status.state));
        let size = model.size_bytes();
        let header = model.header();
        let places = self.places(model, readings);
        let (state, message) = match (&holder, &size, &places) {
            (Some((_, status)), ..) => held_state(status),
            (None, Err(error), _) => {
                (ModelState::Failed, homelab_common::error_chain::Chain(error).to_string())
            }
            (None, Ok(_), Err(does_not_fit)) => (ModelState::Failed, does_not_fit.to_string()),
            (None, Ok(_), Ok(_)) => (ModelState::Unloaded, self.idled(model)),
        };
        ModelView {
            name: model.name.clone(),
            state,
            engine: holder.map(|(name, _)| name),
            context_tokens: model.options.context_tokens,
            slots: model.options.slots,
            size_bytes: size.ok().flatten(),
            message,
            architecture: header.as_ref().map(|header| header.architecture.clone()),
            quantization: header.as_ref().and_then(|header| header.quantization).map(str::to_owned),
            context_trained: header.and_then(|header| header.context_trained),
            memory_bytes: self.need(model).map(|need| need.total()),
            sha256: model.options.sha256,
            backends: model.options.backends.clone(),
            purpose: model.options.purpose,
            engines: places.unwrap_or_default(),
        }
    }
}

fn engine_view(seat: &Seat) -> EngineView {
    let config = seat.engine.config();
    let status = seat.engine.status();
    let session = match &status.state {
        State::Ready(session) => Some(session),
        _ => None,
    };
    let configured = status.model.as_ref().map_or(0, |model| model.options.slots);
    EngineView {
        name: config.name.clone(),
        devices: config.devices.clone(),
        slots: session.map_or(configured, |session| session.slots().total()),
        slots_busy: session.map_or(0, |session| session.slots().busy()),
        completion_tokens: session.map(|session| session.completion_tokens()),
        jobs: seat.engine.recent().jobs(),
        url: config.remote.as_ref().map(Remote::url),
        status,
    }
}

fn rank(state: &State) -> u8 {
    match state {
        State::Ready(_) => 0,
        State::Loading => 1,
        State::Starting => 2,
        State::Failed => 3,
        State::Quarantined => 4,
        State::Stopped => 5,
    }
}

fn held_state(status: &Status) -> (ModelState, String) {
    let incident = || {
        let because = status.last_incident.as_ref().map(|incident| incident.because.as_str());
        format!("its engine is {}: {}", status.state, because.unwrap_or("no reason is known"))
    };
    match &status.state {
        State::Ready(_) => (ModelState::Loaded, String::new()),
        State::Starting | State::Loading => (ModelState::Loading, status.state.to_string()),
        State::Failed | State::Quarantined => (ModelState::Failed, incident()),
        State::Stopped => (ModelState::Unloaded, String::new()),
    }
}
