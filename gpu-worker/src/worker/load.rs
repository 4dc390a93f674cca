//! Loading and unloading models.

use std::{sync::Arc, time::Duration};

use homelab_common::{error_chain::Chain, lifecycle::Abandoned};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tracing::warn;

use super::{DoesNotFit, ModelView, Seat, UnknownModel, Worker, room::EngineBusy, wake::stopping};
use crate::{
    device,
    engine::{Engine, State, Status},
    model::{Model, ModelFileError, ModelName},
};

/// Steps that a slow watcher may have unread; it misses those beyond.
const STEPS_MAX: usize = 64;

/// How often a watcher is told how much of a model has arrived on its card.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its weights are missing or wrong.
    #[error(transparent)]
    File(#[from] ModelFileError),
    /// No engine is configured for it.
    #[error(
        "no engine of this host takes `{model}`; add it to `models` of an [[engine]] that has one of its backends"
    )]
    NoEngine {
        /// The model.
        model: ModelName,
    },
    /// It is too large.
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    /// It would have to wait for others.
    #[error(transparent)]
    Busy(#[from] EngineBusy),
    /// Its engine does not come up.
    #[error("{because}")]
    Down {
        /// Why, for people.
        because: String,
    },
    /// Somebody wants something else of the engine.
    #[error("another model was asked for meanwhile")]
    Superseded,
    /// The worker stops.
    #[error(transparent)]
    Stopping(#[from] Abandoned),
}

/// What happens while a model is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadEvent {
    /// How far it has come.
    Step(LoadStep),
    /// It answers; nothing follows.
    Loaded(ModelView),
    /// It could not be loaded; nothing follows.
    Failed(LoadFailure),
}

/// How far loading has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadStep {
    /// For people.
    pub text: String,
    /// Bytes of the model that its engine holds already.
    pub done_bytes: Option<u64>,
    /// Bytes of its weights.
    pub total_bytes: Option<u64>,
}

/// Why a model was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFailure {
    /// For people.
    pub because: String,
    /// Whether time alone may help.
    pub is_retryable: bool,
    /// Whether the engines were busy with others.
    pub is_busy: bool,
}

impl From<LoadError> for LoadFailure {
    fn from(error: LoadError) -> Self {
        let is_busy = matches!(error, LoadError::Busy(_));
        let is_retryable = is_busy || matches!(error, LoadError::Superseded);
        Self { because: Chain(&error).to_string(), is_retryable, is_busy }
    }
}

/// Which engines a model may be loaded on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Any that takes it; what runs there is let finish.
    Any,
    /// Those with nothing on their cards.
    Free,
    /// The one at this place.
    Seat(usize),
}

/// A model that is being loaded. Dropping this stops watching, not loading.
#[derive(Debug)]
pub struct Loading(mpsc::Receiver<LoadEvent>);

impl Loading {
    /// The next event; `None` after the last one, or when the worker stops.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<LoadEvent> {
        self.0.recv().await
    }
}

impl Worker {
    /// Loads `model` on the engine that suits best: the one that has it, else a free
    /// one, else the least busy one, whose running requests are let finish, for
    /// `busy_wait` at most. Loading again what an engine already has changes nothing,
    /// but ends a quarantine.
    ///
    /// # Errors
    /// [`UnknownModel`]; all else is told by [`Loading`].
    pub fn load(&self, model: &str, busy_wait: Option<Duration>) -> Result<Loading, UnknownModel> {
        let model = Arc::clone(self.model(model)?);
        Ok(self.start_load(model, Reach::Any, busy_wait))
    }

    pub(super) fn start_load(
        &self,
        model: Arc<Model>,
        reach: Reach,
        busy_wait: Option<Duration>,
    ) -> Loading {
        let (events, loading) = mpsc::channel(STEPS_MAX);
        let load = Load { worker: self.clone(), model, reach, busy_wait, events };
        self.0.tasks.spawn(load.run());
        Loading(loading)
    }

    /// Gives each engine the model that it is to have from the start, unless its
    /// weights are missing or wrong.
    pub async fn load_first(&self) {
        let models: Vec<Arc<Model>> = self.0.models.values().cloned().collect();
        let looking = self.0.tasks.blocking(move || models.iter().for_each(|model| model.look()));
        if looking.await.is_err() {
            return;
        }
        self.0.changed.send_replace(());
        for (place, seat) in self.0.seats.iter().enumerate() {
            let Some(model) = seat.load.as_ref().and_then(|name| self.0.models.get(name)) else {
                continue;
            };
            let mut loading = self.start_load(Arc::clone(model), Reach::Seat(place), None);
            let engine = seat.engine.config().name.clone();
            self.0.tasks.spawn(async move {
                while let Some(event) = loading.next().await {
                    if let LoadEvent::Failed(LoadFailure { because, .. }) = event {
                        warn!(%engine, %because, "a model is not loaded at the start");
                    }
                }
            });
        }
    }

    /// Ends every engine that has `model`, after its running requests.
    ///
    /// # Errors
    /// [`UnknownModel`].
    pub async fn unload(&self, model: &str) -> Result<ModelView, UnknownModel> {
        let model = Arc::clone(self.model(model)?);
        for seat in &self.0.seats {
            if holds(&seat.engine.status(), &model.name) {
                let order = seat.engine.unload();
                let mut statuses = seat.engine.watch();
                // Err: the supervisor is gone, and its process with it.
                drop(statuses.wait_for(|status| status.order >= order).await);
            }
        }
        Ok(self.model_view(&model, &self.devices().await))
    }
}

/// The task that loads one model.
#[derive(Debug)]
pub(super) struct Load {
    worker: Worker,
    pub(super) model: Arc<Model>,
    pub(super) reach: Reach,
    pub(super) busy_wait: Option<Duration>,
    events: mpsc::Sender<LoadEvent>,
}

impl Load {
    async fn run(self) {
        // Its place is taken first, so that the last event always finds room.
        let last = self.events.clone().reserve_owned().await;
        let daemon_stops = self.worker.0.tasks.stopping();
        let end = tokio::select! {
            loaded = self.load() => match loaded {
                Ok(view) => LoadEvent::Loaded(view),
                Err(error) => LoadEvent::Failed(error.into()),
            },
            // The engine ends with the daemon, and tells nobody that it never came up.
            () = daemon_stops.cancelled() => LoadEvent::Failed(stopping()),
        };
        // Err: nobody watches, and the model is loaded all the same.
        drop(last.map(|last| last.send(end)));
    }

    async fn load(&self) -> Result<ModelView, LoadError> {
        self.say(format!("checking the weights of `{}`", self.model.name));
        let (checked, hashes) = (Arc::clone(&self.model), Arc::clone(&self.worker.0.hashes));
        self.worker.0.tasks.blocking(move || checked.check(&hashes)).await??;

        let place = self.worker.choose(&self.model, self.reach).await?;
        let say = |text| self.say(text);
        let room = self.worker.make_room(place, self, &say).await?;
        // Somebody else was quicker to put something there.
        let Some(_room) = room else { return Err(LoadError::Superseded) };
        let Some(seat) = self.worker.0.seats.get(place) else { return Err(self.no_engine()) };
        let statuses = seat.engine.watch();
        let status = seat.engine.status();
        let order = if holds(&status, &self.model.name) && !is_down(&status.state) {
            status.order
        } else {
            seat.engine.load(Arc::clone(&self.model))
        };
        self.watch(&seat.engine, statuses, order).await
    }

    /// Follows the engine until the model answers or cannot.
    async fn watch(
        &self,
        engine: &Engine,
        mut statuses: watch::Receiver<Status>,
        order: u64,
    ) -> Result<ModelView, LoadError> {
        let mut last = None;
        loop {
            let status = statuses.borrow_and_update().clone();
            if status.order >= order {
                if status.order > order || !holds(&status, &self.model.name) {
                    return Err(LoadError::Superseded);
                }
                match &status.state {
                    State::Ready(_) => {
                        let readings = self.worker.devices().await;
                        return Ok(self.worker.model_view(&self.model, &readings));
                    }
                    State::Quarantined => {
                        return Err(LoadError::Down { because: because(&status) });
                    }
                    State::Stopped | State::Starting | State::Loading | State::Failed => {}
                }
            }
            let step = self.step(engine, &status, order).await;
            if last.as_ref() != Some(&step) {
                // A watcher that reads slowly misses steps, not the end.
                drop(self.events.try_send(LoadEvent::Step(step.clone())));
                last = Some(step);
            }
            if let Ok(Err(_)) = time::timeout(PROGRESS_PERIOD, statuses.changed()).await {
                return Err(Abandoned.into());
            }
        }
    }

    async fn step(&self, engine: &Engine, status: &Status, order: u64) -> LoadStep {
        let name = &engine.config().name;
        if status.order < order {
            return words(format!("engine `{name}` finishes what it has"));
        }
        match &status.state {
            State::Failed => {
                words(format!("engine `{name}` will be started again: {}", because(status)))
            }
            State::Loading => {
                let text = format!("engine `{name}` is {}", status.state);
                let total_bytes = self.model.size_bytes().ok().flatten();
                let held = self.held(engine, status).await;
                let done_bytes = held.map(|held| total_bytes.map_or(held, |total| held.min(total)));
                LoadStep { text, done_bytes, total_bytes }
            }
            state => words(format!("engine `{name}` is {state}")),
        }
    }

    /// What the engine's process holds where the model goes.
    async fn held(&self, engine: &Engine, status: &Status) -> Option<u64> {
        let (pid, slots) = (status.pid?, engine.config().slots());
        let roots = self.worker.0.devices.roots().clone();
        let reading = self.worker.0.tasks.blocking(move || device::held_by(&roots, pid, &slots));
        time::timeout(PROGRESS_PERIOD, reading).await.ok()?.ok()?
    }

    fn say(&self, text: String) {
        drop(self.events.try_send(LoadEvent::Step(words(text))));
    }

    fn no_engine(&self) -> LoadError {
        LoadError::NoEngine { model: self.model.name.clone() }
    }
}

fn words(text: String) -> LoadStep {
    LoadStep { text, done_bytes: None, total_bytes: None }
}

impl Worker {
    /// The place of the seat that suits a model best, out of those where it fits.
    async fn choose(&self, model: &Model, reach: Reach) -> Result<usize, LoadError> {
        let readings = self.devices().await;
        let mut shortages = Vec::new();
        let mut best = None;
        for (place, seat) in self.0.seats.iter().enumerate() {
            let has_it = holds(&seat.engine.status(), &model.name);
            let is_in_reach = match reach {
                Reach::Any => true,
                Reach::Free => has_it || self.is_free(seat),
                Reach::Seat(wanted) => place == wanted,
            };
            if !is_in_reach || !seat.takes(model) {
                continue;
            }
            match self.shortage(seat, model, &readings) {
                Some(shortage) if !has_it => shortages.push(shortage),
                _ => {
                    let suits = suitability(seat, &model.name);
                    if best.is_none_or(|(best, _)| suits < best) {
                        best = Some((suits, place));
                    }
                }
            }
        }
        let model = model.name.clone();
        match best {
            Some((_, place)) => Ok(place),
            None if !shortages.is_empty() => Err(DoesNotFit { model, shortages }.into()),
            // It was free when the request was let wait.
            None if reach == Reach::Free => Err(LoadError::Superseded),
            None => Err(LoadError::NoEngine { model }),
        }
    }

    /// Whether nothing stands on the seat's cards and nothing is being put there.
    pub(super) fn is_free(&self, seat: &Seat) -> bool {
        let config = seat.engine.config();
        let is_empty = |other: &Seat| {
            let status = other.engine.status();
            status.model.is_none() && matches!(status.state, State::Stopped)
        };
        let mut others = self.0.seats.iter();
        is_empty(seat)
            && others
                .all(|other| !other.engine.config().shares_a_card_with(config) || is_empty(other))
    }
}

/// Lower is better. One card before several: a model that fits on one is slower on two.
fn suitability(seat: &Seat, model: &ModelName) -> (u8, usize, u8, u32) {
    let status = seat.engine.status();
    let busy = match &status.state {
        State::Ready(session) => session.slots().busy(),
        _ => 0,
    };
    let (class, state) = match &status.state {
        _ if holds(&status, model) => (0, 0),
        State::Stopped => (1, 0),
        _ => (1, 1),
    };
    (class, seat.engine.config().devices.len(), state, busy)
}

pub(super) fn holds(status: &Status, model: &ModelName) -> bool {
    status.model.as_ref().is_some_and(|held| held.name == *model)
}

/// Whether only another order brings it up soon.
pub(super) fn is_down(state: &State) -> bool {
    matches!(state, State::Stopped | State::Failed | State::Quarantined)
}

fn because(status: &Status) -> String {
    match &status.last_incident {
        Some(incident) => match incident.last_lines.last() {
            Some(line) => format!("{}; it last said: {line}", incident.because),
            None => incident.because.clone(),
        },
        None => "no reason is known".to_owned(),
    }
}
