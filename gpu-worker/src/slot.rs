//! Slots: how many requests an engine works on at once.
//!
//! What an engine queues by itself is invisible to whoever waits, so it is never
//! given more than it can work on. A request holds a [`Permit`]; without one no
//! request reaches the engine.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Every slot of the engine is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {total} slots of the engine are busy")]
pub struct Busy {
    /// How many slots it has.
    pub total: u32,
}

/// The slots of one engine.
#[derive(Debug, Clone)]
pub struct Slots {
    total: u32,
    free: Arc<Semaphore>,
    changed: watch::Sender<()>,
}

/// The right to have one request at the engine, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    // Always there until the drop.
    permit: Option<OwnedSemaphorePermit>,
    changed: watch::Sender<()>,
}

impl Slots {
    /// `total` slots; every taking and giving back is told to `changed`.
    pub fn new(total: u32, changed: watch::Sender<()>) -> Self {
        let free = Arc::new(Semaphore::new(total.try_into().unwrap_or(Semaphore::MAX_PERMITS)));
        Self { total, free, changed }
    }

    /// Takes a slot if one is free; never waits, because the queue is elsewhere.
    ///
    /// # Errors
    /// [`Busy`] when none is.
    pub fn try_acquire(&self) -> Result<Permit, Busy> {
        let permit =
            Arc::clone(&self.free).try_acquire_owned().map_err(|_| Busy { total: self.total })?;
        self.changed.send_replace(());
        Ok(Permit { permit: Some(permit), changed: self.changed.clone() })
    }

    /// How many there are.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How many are taken.
    pub fn busy(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.total.saturating_sub(free)
    }
}

impl Drop for Permit {
    /// Gives back first and tells then, so that whoever looks sees it free.
    fn drop(&mut self) {
        drop(self.permit.take());
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(total: u32) -> (Slots, watch::Receiver<()>) {
        let (changed, receiver) = watch::channel(());
        (Slots::new(total, changed), receiver)
    }

    #[test]
    fn a_slot_is_taken_until_its_permit_is_dropped() {
        let (slots, _) = slots(2);
        let first = slots.try_acquire().unwrap();
        let second = slots.try_acquire().unwrap();
        assert_eq!(slots.busy(), 2);
        assert_eq!(slots.try_acquire().unwrap_err(), Busy { total: 2 });
        drop(first);
        assert_eq!(slots.busy(), 1);
        slots.try_acquire().unwrap();
        drop(second);
        assert_eq!(slots.busy(), 0);
    }

    #[test]
    fn taking_and_giving_back_are_told() {
        let (slots, mut changed) = slots(1);
        changed.mark_unchanged();
        let permit = slots.try_acquire().unwrap();
        assert!(changed.has_changed().unwrap());
        changed.mark_unchanged();
        drop(permit);
        assert!(changed.has_changed().unwrap());
    }
}
