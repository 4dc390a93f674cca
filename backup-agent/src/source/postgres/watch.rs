//! A limit on each step of a program that is held open.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use homelab_common::exec::Killer;

/// Ends a program when a step takes too long. A blocked read cannot be interrupted in
/// another way.
#[derive(Debug)]
pub(super) struct Watch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    deadline: Option<Instant>,
    expired: bool,
    closed: bool,
}

impl Watch {
    pub(super) fn start(killer: Killer) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        thread::Builder::new().name("psql-watch".into()).spawn(move || watched.wait(&killer))?;
        Ok(Self(shared))
    }

    /// From now on, the program has so long.
    pub(super) fn begin(&self, limit: Duration) {
        self.0.lock().deadline = Some(Instant::now() + limit);
        self.0.changed.notify_all();
    }

    /// The step is done; says whether it was too late.
    pub(super) fn end(&self) -> bool {
        let mut state = self.0.lock();
        state.deadline = None;
        state.expired
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, killer: &Killer) {
        let mut state = self.lock();
        while !state.closed {
            let Some(deadline) = state.deadline else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.expired = true;
                killer.kill();
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
