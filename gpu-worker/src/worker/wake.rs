//! Requests for a model that is not loaded, and could be at once.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::{
    Refusal, Seat, Worker,
    load::{LoadEvent, LoadFailure, Reach},
};
use crate::{
    engine::session::Session,
    model::Model,
    slot::{Busy, Permit},
};

/// How long a request that waited for its model may then wait for a slot that another
/// one was quicker to take.
const SLOT_WAIT: Duration = Duration::from_secs(60);

/// What became of a request.
#[derive(Debug)]
pub enum Admission {
    /// It has a slot.
    Ready(Arc<Session>, Permit),
    /// It waits until its model is loaded.
    AfterLoad(Waiting),
}

/// A request that waits until its model is loaded.
#[derive(Debug)]
pub struct Waiting {
    worker: Worker,
    model: Arc<Model>,
    reach: Reach,
}

/// Why a request that waited got no slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWoken {
    /// The model was not loaded.
    #[error("`{model}` could not be loaded: {}", .failure.because)]
    NotLoaded {
        /// The model.
        model: String,
        /// Why.
        failure: LoadFailure,
    },
    /// It was, and gone or full again.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Worker {
    /// Lets a request wait for `model` if an engine in its reach could load it: one that has
    /// nothing on its cards or, where others may have to go, any; or one that loads it for
    /// another such request. No more wait than the model will have slots.
    pub(super) fn wait_for(
        &self,
        model: &Arc<Model>,
        reach: Reach,
    ) -> Result<Option<Waiting>, Refusal> {
        let mut waiting = self.waiting();
        let count = waiting.get(&model.name).copied().unwrap_or(0);
        let is_in_reach = |(place, seat): (usize, &Seat)| match reach {
            Reach::Any => true,
            Reach::Free => self.is_free(seat),
            Reach::Seat(wanted) => place == wanted,
        };
        let mut seats = self.0.seats.iter().enumerate().filter(|(_, seat)| seat.takes(model));
        let mut could_load = || seats.any(is_in_reach);
        if count == 0 && !could_load() {
            return Ok(None);
        }
        let total = model.options.slots;
        if count >= total {
            let (model, busy) = (model.name.clone(), Busy { total });
            return Err(Refusal::Busy { model, busy });
        }
        *waiting.entry(model.name.clone()).or_default() += 1;
        Ok(Some(Waiting { worker: self.clone(), model: Arc::clone(model), reach }))
    }
}

impl Worker {
    fn still_takes(&self) -> Result<(), Refusal> {
        if self.is_draining() { Err(Refusal::Draining) } else { Ok(()) }
    }
}

impl Waiting {
    /// Loads the model and takes a slot.
    ///
    /// Cancel safety: dropping the future takes the request back; the model is loaded
    /// all the same.
    ///
    /// # Errors
    /// [`NotWoken`].
    pub async fn admitted(self) -> Result<(Arc<Session>, Permit), NotWoken> {
        // Another worker has it sooner than one that first loads a model and then goes.
        self.worker.still_takes()?;
        let mut loading = self.worker.start_load(Arc::clone(&self.model), self.reach, None);
        let failure = loop {
            match loading.next().await {
                Some(LoadEvent::Step(_)) => {}
                Some(LoadEvent::Loaded(_)) => break None,
                Some(LoadEvent::Failed(failure)) => break Some(failure),
                None => break Some(stopping()),
            }
        };
        if let Some(failure) = failure {
            let model = self.model.name.to_string();
            return Err(NotWoken::NotLoaded { model, failure });
        }
        let mut changes = self.worker.changes();
        let taking = async {
            loop {
                self.worker.still_takes()?;
                match self.worker.take(&self.model) {
                    Err(Refusal::Busy { .. }) if changes.changed().await.is_ok() => {}
                    taken => return taken,
                }
            }
        };
        let taken = time::timeout(SLOT_WAIT, taking).await;
        Ok(taken.unwrap_or_else(|_| self.worker.take(&self.model))?)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        {
            let mut waiting = self.worker.waiting();
            if let Some(count) = waiting.get_mut(&self.model.name) {
                *count -= 1;
                if *count == 0 {
                    waiting.remove(&self.model.name);
                }
            }
        }
        // Who drains waits for it.
        self.worker.0.changed.send_replace(());
    }
}

/// Why nothing comes of a load when the daemon is asked to end.
pub(super) fn stopping() -> LoadFailure {
    LoadFailure { because: "the worker stops".to_owned(), is_retryable: true, is_busy: false }
}
