//! The connection of a client as the life line of its job.

use std::{sync::Arc, time::Duration};

use homelab_common::error_chain::Chain;
use homelab_domain::{
    ids::JobId,
    job::{Job, JobState},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{meter::Ticket, repeat::Repeat};
use crate::job::{Jobs, live::Live};
use homelab_store::JobError;

/// How long the place in the queue is kept for a client that is known to ask again by itself. SDKs
/// come back within 8 s.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// How often it is looked whether the job's turn has come meanwhile: then its slot is worth more.
const LOOK: Duration = Duration::from_millis(250);

/// One client that waits for a job. Dropped before the end, as happens when the connection breaks,
/// it cancels the job, unless another client waits for it too.
#[derive(Debug)]
pub(super) struct Client {
    jobs: Jobs,
    live: Arc<Live>,
    id: JobId,
    submitter: String,
    ticket: Ticket,
    repeat: Option<Repeat>,
    is_served: bool,
}

impl Client {
    /// Begins before the job is stored, so that no moment is left in which a client that leaves is not
    /// noticed.
    pub(super) fn join(
        jobs: &Jobs,
        id: JobId,
        submitter: String,
        ticket: Ticket,
        repeat: Option<Repeat>,
    ) -> Self {
        let live = jobs.lives().enter(id);
        live.client_joined();
        Self { jobs: jobs.clone(), live, id, submitter, ticket, repeat, is_served: false }
    }

    /// A piece of the answer goes to it.
    pub(super) fn is_shown_a_piece(&mut self) {
        self.ticket.shows_a_piece();
    }

    /// It has got its answer, or the reason why there is none.
    pub(super) fn is_served(&mut self) {
        self.is_served = true;
    }

    /// It is told not to ask again: its place in the queue is not kept.
    pub(super) fn will_not_come_back(&mut self) {
        self.repeat = None;
    }

    /// It has got its answer, and what it cost is known.
    pub(super) fn is_served_by(&mut self, job: &Job) {
        self.is_served = true;
        self.ticket.costs(cost(job));
    }

    /// What its key has left.
    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    pub(super) fn jobs(&self) -> &Jobs {
        &self.jobs
    }
}

/// Tokens read and written; the pieces that were shown when the engine did not say.
fn cost(job: &Job) -> u64 {
    let (JobState::Succeeded { usage, end } | JobState::Failed { usage, end, .. }) = job.state()
    else {
        return 0;
    };
    match (usage.prompt_tokens, usage.completion_tokens) {
        (None, None) => end.pieces.into(),
        (prompt, completion) => u64::from(prompt.unwrap_or(0)) + u64::from(completion.unwrap_or(0)),
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let was_last = self.live.client_left();
        if self.is_served || !was_last {
            self.jobs.lives().leave(self.id, &self.live);
            return;
        }
        let leaver = Leaver {
            jobs: self.jobs.clone(),
            live: Arc::clone(&self.live),
            id: self.id,
            by: format!("{}, whose connection ended", self.submitter),
        };
        match self.repeat.take() {
            Some(repeat) => {
                self.jobs.parts().tasks.spawn(async move {
                    if leaver.nobody_comes_back().await {
                        leaver.cancel().await;
                    }
                    // Until here it could be found by who asks again.
                    drop(repeat);
                });
            }
            None => {
                // At once, before anything is stored: the slot is worth more than the row.
                self.jobs.stop(self.id);
                self.jobs.parts().tasks.spawn(async move { leaver.cancel().await });
            }
        }
    }
}

/// What is left to do for a client that has gone.
struct Leaver {
    jobs: Jobs,
    live: Arc<Live>,
    id: JobId,
    by: String,
}

impl Leaver {
    /// Waits while the job does, whether the same client asks again.
    async fn nobody_comes_back(&self) -> bool {
        let until = Instant::now() + KEPT_FOR;
        let stopping = self.jobs.parts().tasks.stopping();
        while Instant::now() < until && !stopping.is_cancelled() {
            let waits = match self.jobs.get(self.id).await {
                Ok(Some((job, _))) => job.state().kind().is_pending(),
                Ok(None) | Err(_) => false,
            };
            if !waits {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stopping.cancelled() => {}
            }
        }
        self.live.client_joined();
        self.live.client_left()
    }

    async fn cancel(self) {
        self.jobs.stop(self.id);
        match self.jobs.cancel(self.id, &self.by).await {
            Ok(job) => debug!(job = %self.id, state = %job.state().kind(), "a client left"),
            // It left before its job was stored.
            Err(JobError::NotFound(_)) => self.jobs.lives().leave(self.id, &self.live),
            Err(error) => {
                warn!(job = %self.id, error = %Chain(&error), "could not cancel the job of a client that left");
            }
        }
    }
}
