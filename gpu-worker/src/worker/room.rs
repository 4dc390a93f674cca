//! Makes room on cards: one process a card, and nobody's answer is broken off for it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::MutexGuard, time};

use super::{
    Seat, Worker,
    load::{Load, Reach, holds, is_down},
};
use crate::engine::{Engine, State, session::Session};

/// What has to make room still answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "engine `{engine}` has {running} running requests of `{model}`{}, which are not broken off; ask again later, or wait longer", Jobs(.jobs)
)]
pub struct EngineBusy {
    /// The engine.
    pub engine: String,
    /// The model that it has.
    pub model: String,
    /// Requests that ran when the time was up.
    pub running: u32,
    /// The jobs among them.
    pub jobs: Vec<String>,
}

/// Names the jobs, if there are any.
struct Jobs<'a>(&'a [String]);

impl fmt::Display for Jobs<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, " (jobs {})", self.0.join(", ")) }
    }
}

/// Holds a place on the cards while a model is put there; others wait for it.
#[derive(Debug)]
pub(super) struct Room<'a>(
    #[expect(dead_code, reason = "held, not looked at")] Vec<MutexGuard<'a, ()>>,
);

impl Worker {
    /// Lets everything on the cards of the seat at `place` finish, and ends the other
    /// engines there. Changes nothing when that seat has the model already. `None` when
    /// only a free place would do and it is none any more.
    pub(super) async fn make_room(
        &self,
        place: usize,
        load: &Load,
        say: &(dyn Fn(String) + Sync),
    ) -> Result<Option<Room<'_>>, EngineBusy> {
        let seats = &self.0.seats;
        let Some(seat) = seats.get(place) else { return Ok(None) };
        let config = seat.engine.config();
        let involved: Vec<usize> = (0..seats.len())
            .filter(|other| {
                *other == place
                    || seats
                        .get(*other)
                        .is_some_and(|other| other.engine.config().shares_a_card_with(config))
            })
            .collect();
        // Always from the first to the last, so that two who wait never wait for each other.
        let mut guards = Vec::with_capacity(involved.len());
        for other in &involved {
            if let Some(swap) = self.0.swaps.get(*other) {
                guards.push(swap.lock().await);
            }
        }
        let room = Room(guards);
        let status = seat.engine.status();
        if holds(&status, &load.model.name) && !is_down(&status.state) {
            return Ok(Some(room));
        }
        if load.reach == Reach::Free && !self.is_free(seat) {
            return Ok(None);
        }
        let involved: Vec<&Seat> = involved.iter().filter_map(|other| seats.get(*other)).collect();
        self.finish(&involved, load.busy_wait, say).await?;
        for other in involved.iter().filter(|other| other.engine.config().name != config.name) {
            let status = other.engine.status();
            // A quarantined engine has no process, and shall not be forgotten.
            if status.model.is_none() || matches!(status.state, State::Quarantined) {
                continue;
            }
            say(format!("engine `{}` ends to make room", other.engine.config().name));
            let order = other.engine.unload();
            let mut statuses = other.engine.watch();
            // Err: the supervisor is gone, and its process with it.
            drop(statuses.wait_for(|status| status.order >= order).await);
        }
        Ok(Some(room))
    }

    /// Takes no new requests at these seats and waits for those that run; takes them
    /// again if that lasts too long.
    async fn finish(
        &self,
        seats: &[&Seat],
        busy_wait: Option<Duration>,
        say: &(dyn Fn(String) + Sync),
    ) -> Result<(), EngineBusy> {
        let ready = |seat: &&Seat| match seat.engine.status().state {
            State::Ready(session) => Some((seat.engine.clone(), session)),
            _ => None,
        };
        let sessions: Vec<(Engine, Arc<Session>)> = seats.iter().filter_map(ready).collect();
        for (engine, session) in &sessions {
            session.close();
            let running = session.slots().busy();
            if running > 0 {
                let jobs = engine.recent().jobs();
                let (name, jobs) = (&engine.config().name, Jobs(&jobs));
                say(format!("engine `{name}` finishes {running} running requests{jobs}"));
            }
        }
        self.0.changed.send_replace(());
        let idle = async {
            for (_, session) in &sessions {
                session.idle().await;
            }
        };
        let Some(busy_wait) = busy_wait else {
            idle.await;
            return Ok(());
        };
        if time::timeout(busy_wait, idle).await.is_ok() {
            return Ok(());
        }
        let busy = sessions.iter().find(|(_, session)| session.slots().busy() > 0);
        let error = busy.map(|(engine, session)| EngineBusy {
            engine: engine.config().name.clone(),
            model: session.model().name.to_string(),
            running: session.slots().busy(),
            jobs: engine.recent().jobs(),
        });
        match error {
            // The last one has finished in this very moment.
            None => Ok(()),
            Some(error) => {
                sessions.iter().for_each(|(_, session)| session.reopen());
                self.0.changed.send_replace(());
                Err(error)
            }
        }
    }
}
