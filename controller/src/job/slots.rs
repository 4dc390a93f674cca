//! Which slots of the workers this controller has filled.
//!
//! The ledger is of what *we* sent: it is exact at once, while a worker's own figure comes later.
//! Somebody else may use the same engine; then the worker says so, and the attempt waits its turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use homelab_domain::ids::{HostName, ModelName};

type Place = (HostName, ModelName);

/// How many jobs each worker has of each model. Clones are the same ledger.
#[derive(Clone, Debug, Default)]
pub struct Slots(Arc<Mutex<HashMap<Place, u32>>>);

/// One slot in use; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    ledger: Slots,
    place: Place,
}

impl Slots {
    /// How many are in use.
    #[must_use]
    pub fn used(&self, worker: &HostName, model: &ModelName) -> u32 {
        self.lock().get(&(worker.clone(), model.clone())).copied().unwrap_or(0)
    }

    /// Takes a slot if fewer than `total` are in use.
    #[must_use]
    pub fn take(&self, worker: &HostName, model: &ModelName, total: u32) -> Option<Slot> {
        let place = (worker.clone(), model.clone());
        let mut used = self.lock();
        let count = used.entry(place.clone()).or_default();
        if *count >= total {
            return None;
        }
        *count += 1;
        Some(Slot { ledger: self.clone(), place })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Host of the worker.
    #[must_use]
    pub fn worker(&self) -> &HostName {
        &self.place.0
    }

    /// The model that it is for.
    #[must_use]
    pub fn model(&self) -> &ModelName {
        &self.place.1
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut used = self.ledger.lock();
        match used.get_mut(&self.place) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                used.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_it_is_dropped() {
        let slots = Slots::default();
        let worker = HostName::try_new("cw-nas").expect("a name");
        let model = ModelName::try_new("qwen").expect("a name");
        let first = slots.take(&worker, &model, 2).expect("free");
        let _second = slots.take(&worker, &model, 2).expect("free");
        assert!(slots.take(&worker, &model, 2).is_none());
        drop(first);
        assert_eq!(slots.used(&worker, &model), 1);
        assert!(slots.take(&worker, &model, 2).is_some());
    }
}
