//! Loading and unloading models.

use std::sync::Arc;

use homelab_common::{error_chain::Chain, lifecycle::Abandoned};
use tokio::sync::watch;
use tracing::warn;

use super::{ModelView, Seat, UnknownModel, Worker};
use crate::{
    engine::{Engine, State, Status},
    model::{Model, ModelFileError, ModelName},
};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such model.
    #[error(transparent)]
    Unknown(#[from] UnknownModel),
    /// Its weights are missing or wrong.
    #[error(transparent)]
    File(#[from] ModelFileError),
    /// No engine is configured for it.
    #[error("no engine of this host takes `{model}`; add it to `models` of an [[engine]]")]
    NoEngine {
        /// The model.
        model: ModelName,
    },
    /// The worker stops.
    #[error(transparent)]
    Stopping(#[from] Abandoned),
}

/// What happens while a model is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadEvent {
    /// How far it has come, for people.
    Step(String),
    /// It answers; nothing follows.
    Loaded(ModelView),
    /// It could not be loaded, for people; nothing follows.
    Failed(String),
}

/// A model that is being loaded. Dropping this stops watching, not loading.
#[derive(Debug)]
pub struct Loading {
    worker: Worker,
    model: Arc<Model>,
    engine: Engine,
    statuses: watch::Receiver<Status>,
    order: u64,
    last_step: Option<String>,
}

impl Worker {
    /// Loads `model` on the engine that suits best: the one that has it, else a free
    /// one, else the least busy one, whose running requests are let finish. Loading
    /// again what an engine already has changes nothing, but ends a quarantine.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, model: &str) -> Result<Loading, LoadError> {
        let model = Arc::clone(self.model(model)?);
        let checked = Arc::clone(&model);
        self.0.tasks.blocking(move || checked.check()).await??;

        let seats = self.0.seats.iter().filter(|seat| seat.takes(&model.name));
        let seat = seats.min_by_key(|seat| suitability(seat, &model.name));
        let Some(seat) = seat else {
            return Err(LoadError::NoEngine { model: model.name.clone() });
        };
        let engine = seat.engine.clone();
        let statuses = engine.watch();
        let status = engine.status();
        let order = if holds(&status, &model.name) && !is_down(&status.state) {
            status.order
        } else {
            engine.load(Arc::clone(&model))
        };
        Ok(Loading { worker: self.clone(), model, engine, statuses, order, last_step: None })
    }

    /// Gives each engine the model that it is to have from the start, unless its
    /// weights are missing or wrong.
    pub async fn load_first(&self) {
        for seat in &self.0.seats {
            let Some(model) = seat.load.as_ref().and_then(|name| self.0.models.get(name)) else {
                continue;
            };
            let checked = Arc::clone(model);
            match self.0.tasks.blocking(move || checked.check()).await {
                Ok(Ok(())) => drop(seat.engine.load(Arc::clone(model))),
                Ok(Err(error)) => {
                    let engine = &seat.engine.config().name;
                    warn!(%engine, error = %Chain(&error), "a model is not loaded at the start");
                }
                Err(Abandoned) => return,
            }
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
        Ok(self.model_view(&model))
    }
}

impl Loading {
    /// What happened since the last call; waits for something to happen.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> LoadEvent {
        loop {
            let status = self.statuses.borrow_and_update().clone();
            if status.order >= self.order {
                if status.order > self.order || !holds(&status, &self.model.name) {
                    return LoadEvent::Failed("another model was asked for meanwhile".to_owned());
                }
                match &status.state {
                    State::Ready(_) => {
                        return LoadEvent::Loaded(self.worker.model_view(&self.model));
                    }
                    State::Quarantined => return LoadEvent::Failed(because(&status)),
                    State::Stopped | State::Starting | State::Loading | State::Failed => {}
                }
            }
            let step = self.step(&status);
            if self.last_step.as_ref() != Some(&step) {
                self.last_step = Some(step.clone());
                return LoadEvent::Step(step);
            }
            if self.statuses.changed().await.is_err() {
                return LoadEvent::Failed("the worker stops".to_owned());
            }
        }
    }

    fn step(&self, status: &Status) -> String {
        let engine = &self.engine.config().name;
        if status.order < self.order {
            return format!("engine `{engine}` finishes what it has");
        }
        match &status.state {
            State::Failed => {
                format!("engine `{engine}` will be started again: {}", because(status))
            }
            state => format!("engine `{engine}` is {state}"),
        }
    }
}

/// Lower is better.
fn suitability(seat: &Seat, model: &ModelName) -> (u8, u32) {
    let status = seat.engine.status();
    let busy = match &status.state {
        State::Ready(session) => session.slots().busy(),
        _ => 0,
    };
    let class = match &status.state {
        _ if holds(&status, model) => 0,
        State::Stopped => 1,
        _ => 2,
    };
    (class, busy)
}

fn holds(status: &Status, model: &ModelName) -> bool {
    status.model.as_ref().is_some_and(|held| held.name == *model)
}

/// Whether only another order brings it up soon.
fn is_down(state: &State) -> bool {
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
