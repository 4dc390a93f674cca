//! The attempts that run here: their leases, and how they are stopped.

use std::{sync::Arc, time::Duration};

use homelab_common::error_chain::Chain;
use homelab_domain::{ids::JobId, job::Job};
use homelab_store::JobError;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Jobs, attempt::Attempt, slots::Slot};

/// How long a worker may be silent about a job before it is taken away.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// How often leases are renewed: four misses are forgiven.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// How often is looked whether the last attempt has ended, once the controller stops.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Tries to bring a change into a store that is busy.
const STORE_TRIES_MAX: u32 = 5;

/// Pause between them.
pub(super) const STORE_PAUSE: Duration = Duration::from_millis(200);

/// An attempt that runs here.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) attempt: u32,
    pub(super) stop: CancellationToken,
}

impl Jobs {
    /// Cancels a job; the slot of one that runs is free within moments. A job that has ended is left
    /// as it is.
    ///
    /// # Errors
    /// There is no such job, or the store failed.
    pub async fn cancel(&self, id: JobId, by: &str) -> Result<Job, JobError> {
        // The engine first: it works for nobody from now on. Should the store fail, the lease runs
        // out, and the job is queued again or failed for that reason.
        self.stop(id);
        let mut tries = 0;
        let job = loop {
            tries += 1;
            match self.try_cancel(id, by).await {
                Err(JobError::Store(error)) if tries < STORE_TRIES_MAX => {
                    warn!(job = %id, error = %Chain(&error), "could not store a cancellation; trying again");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                Err(JobError::Refused(refused)) => {
                    let mut tx = self.0.parts.store.read().await?;
                    let job = tx.jobs().get(id).await?.ok_or(JobError::NotFound(id))?;
                    if job.state().kind().is_final() {
                        break job;
                    }
                    return Err(JobError::Refused(refused));
                }
                outcome => break outcome?,
            }
        };
        self.ended(&job);
        self.nudge();
        Ok(job)
    }

    /// Stops the attempt at a job that runs here, if one does; its engine is free within moments.
    /// What is stored of the job is another matter.
    pub fn stop(&self, id: JobId) {
        if let Some(running) = self.attempts().get(&id) {
            running.stop.cancel();
        }
    }

    /// Renews the leases of running attempts; after a soft stop for as long as there are any.
    pub(super) async fn keep_leases(self) {
        let stopping = self.0.parts.tasks.stopping();
        loop {
            let pause = if stopping.is_cancelled() { LAST_LOOK } else { HEARTBEAT };
            tokio::select! {
                () = tokio::time::sleep(pause) => self.renew_leases().await,
                () = stopping.cancelled(), if !stopping.is_cancelled() => {}
            }
            if stopping.is_cancelled() && self.attempts().is_empty() {
                return;
            }
        }
    }

    /// Starts the attempt that a job was given.
    pub(super) fn run(&self, job: Job, slot: Slot) {
        if let Some(lease) = job.state().lease() {
            let stop = CancellationToken::new();
            let running = Running { attempt: lease.attempt, stop: stop.clone() };
            self.attempts().insert(job.id(), running);
            let attempt = Attempt::new(self.clone(), &job, lease.attempt, slot, stop);
            self.0.parts.tasks.spawn(attempt.run());
        }
    }

    /// The attempt is over, in whatever way.
    pub(super) fn attempt_over(&self, id: JobId, attempt: u32) {
        let mut attempts = self.attempts();
        if attempts.get(&id).is_some_and(|running| running.attempt == attempt) {
            attempts.remove(&id);
        }
    }

    /// Tells everybody that a job has ended, if it has.
    pub(super) fn ended(&self, job: &Job) {
        if job.state().kind().is_final() {
            self.tally().remove(job.id());
            self.0.lives.end(&Arc::new(job.clone()));
        }
        self.tell();
    }

    async fn try_cancel(&self, id: JobId, by: &str) -> Result<Job, JobError> {
        let mut tx = self.0.parts.store.begin().await?;
        let (job, _lease) = tx.jobs().cancel(id, by, self.now()).await?;
        tx.commit().await?;
        Ok(job)
    }

    pub(super) async fn renew_leases(&self) {
        let running: Vec<_> =
            self.attempts().iter().map(|(id, running)| (*id, running.attempt)).collect();
        if running.is_empty() {
            return;
        }
        let renewed = async {
            let mut tx = self.0.parts.store.begin().await?;
            let refused = tx.jobs().renew(&running, self.lease_end(self.now())).await?;
            tx.commit().await.map(|()| refused)
        };
        match renewed.await {
            // One that ended since the list was made is refused too, and is not there to be stopped.
            Ok(refused) => self.stop_attempts(&running, &refused),
            Err(error) => {
                warn!(error = %Chain(&error), "could not renew the leases of running jobs")
            }
        }
    }

    /// Stops those of `running` that the store has refused, unless a newer attempt runs meanwhile.
    fn stop_attempts(&self, running: &[(JobId, u32)], refused: &[JobId]) {
        let attempts = self.attempts();
        for (id, attempt) in running.iter().filter(|(id, _)| refused.contains(id)) {
            if let Some(running) = attempts.get(id).filter(|running| running.attempt == *attempt) {
                running.stop.cancel();
            }
        }
    }

    pub(super) fn lease_end(&self, now: Timestamp) -> Timestamp {
        now.checked_add(LEASE).unwrap_or(Timestamp::MAX)
    }
}
