//! The connection of a client as the life line of its job.

use std::sync::Arc;

use homelab_common::error_chain::Chain;
use homelab_domain::ids::JobId;
use tracing::{debug, warn};

use crate::job::{Jobs, follow::Follower, live::Live};

/// One client that waits for a job. Dropped before the end, as happens when the connection breaks,
/// it cancels the job, unless another client waits for it too.
#[derive(Debug)]
pub(super) struct Client {
    jobs: Jobs,
    live: Arc<Live>,
    id: JobId,
    key: String,
    is_served: bool,
}

impl Client {
    pub(super) fn join(jobs: &Jobs, follower: &Follower, key: &str) -> Self {
        let live = Arc::clone(follower.live());
        live.client_joined();
        Self {
            jobs: jobs.clone(),
            live,
            id: follower.job_id(),
            key: key.to_owned(),
            is_served: false,
        }
    }

    /// It has got its answer, or the reason why there is none.
    pub(super) fn is_served(&mut self) {
        self.is_served = true;
    }

    pub(super) fn jobs(&self) -> &Jobs {
        &self.jobs
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let was_last = self.live.client_left();
        if self.is_served || !was_last {
            return;
        }
        // At once, before anything is stored: the slot is worth more than the row.
        self.jobs.stop(self.id);
        let (jobs, id) = (self.jobs.clone(), self.id);
        let by = format!("key/{}, whose connection ended", self.key);
        self.jobs.parts().tasks.spawn(async move {
            match jobs.cancel(id, &by).await {
                Ok(job) => debug!(job = %id, state = %job.state().kind(), "a client left"),
                Err(error) => warn!(job = %id, error = %Chain(&error), "could not cancel the job of a client that left"),
            }
        });
    }
}
