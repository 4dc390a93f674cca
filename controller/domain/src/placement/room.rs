//! Where on a worker a model that is not loaded could go.

use super::{ModelReadiness, ModelView, WorkerView};
use crate::ids::ModelName;

/// An engine of a worker, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineView {
    /// Name, unique on the host.
    pub name: String,
    /// What it runs on. Of engines that share a device, one at a time has a process.
    pub devices: Vec<String>,
    /// The model that it holds, or loads.
    pub holds: Option<ModelName>,
    /// Requests that run in it by the worker's own count, whoever sent them.
    pub busy: u32,
}

/// What would have to happen for a model to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// The worker does not say where it fits; it is asked, and finds a place or refuses.
    Unknown,
    /// Nothing: an engine has nothing on its devices, or loads this very model.
    Free {
        /// The engine.
        engine: String,
    },
    /// Other models, which have nothing to do, leave their engines.
    Idle {
        /// The engine.
        engine: String,
    },
    /// Other models finish what they have.
    Busy {
        /// Those on the engine where the fewest stand in the way.
        residents: Vec<ModelName>,
    },
}

impl WorkerView {
    /// Whether a model could be loaded now in the place of others that have nothing to do, and only
    /// there.
    #[must_use]
    pub fn can_swap_in(&self, name: &ModelName) -> bool {
        let model = self.model(name).filter(|model| model.is_loadable());
        model.is_some_and(|model| matches!(self.room(model), Room::Idle { .. }))
    }

    /// Where `model` could go. The fewer others stand in its way the better, and none that works.
    pub(super) fn room(&self, model: &ModelView) -> Room {
        let fits = self.engines.iter().filter(|engine| model.engines.contains(&engine.name));
        let ways = fits.map(|engine| {
            let residents = self.residents(engine, &model.name);
            let is_busy = residents.iter().any(|resident| self.is_at_work(resident));
            (is_busy, residents.len(), engine.devices.len(), engine, residents)
        });
        let best = ways.min_by_key(|(is_busy, others, devices, ..)| (*is_busy, *others, *devices));
        match best {
            None => Room::Unknown,
            Some((false, 0, _, engine, _)) => Room::Free { engine: engine.name.clone() },
            Some((false, _, _, engine, _)) => Room::Idle { engine: engine.name.clone() },
            Some((true, .., residents)) => Room::Busy {
                residents: residents.into_iter().filter_map(|one| one.holds.clone()).collect(),
            },
        }
    }

    /// Notes that an engine loads a model: what else was on its devices is gone.
    pub(super) fn load(&mut self, on: &str, model: &ModelName) {
        let Some(engine) = self.engines.iter().find(|engine| engine.name == on).cloned() else {
            return;
        };
        let mut gone = Vec::new();
        for other in self.engines.iter_mut().filter(|other| other.shares_a_device_with(&engine)) {
            gone.extend(other.holds.take().filter(|held| held != model));
            if other.name == on {
                other.holds = Some(model.clone());
            }
        }
        gone.retain(|name| !self.engines.iter().any(|engine| engine.holds.as_ref() == Some(name)));
        for model in self.models.iter_mut().flatten().filter(|model| gone.contains(&model.name)) {
            model.readiness = ModelReadiness::Loadable;
        }
    }

    /// Lets those that work where `model` fits take no new jobs.
    pub(super) fn clear_for(&mut self, model: &ModelName) {
        let Some(Room::Busy { residents }) = self.model(model).map(|model| self.room(model)) else {
            return;
        };
        let theirs = self.models.iter_mut().flatten();
        for resident in theirs.filter(|resident| residents.contains(&resident.name)) {
            resident.yields_to.get_or_insert_with(|| model.clone());
        }
    }

    /// What holds a model on the devices of an engine, other than `model` itself.
    fn residents<'a>(&'a self, engine: &EngineView, model: &ModelName) -> Vec<&'a EngineView> {
        let others = self.engines.iter().filter(|other| other.shares_a_device_with(engine));
        others.filter(|other| other.holds.as_ref().is_some_and(|held| held != model)).collect()
    }

    fn is_at_work(&self, engine: &EngineView) -> bool {
        let held = engine.holds.as_ref().and_then(|held| self.model(held));
        engine.busy > 0 || held.is_some_and(|model| model.slots_used > 0)
    }
}

impl EngineView {
    /// Also true of itself, whatever it runs on.
    fn shares_a_device_with(&self, other: &Self) -> bool {
        self.name == other.name || self.devices.iter().any(|device| other.devices.contains(device))
    }
}

#[cfg(test)]
mod tests;
