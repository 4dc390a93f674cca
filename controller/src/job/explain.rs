//! Why a job is where it is.

use homelab_domain::{
    job::Job,
    placement::{Explanation, QueueView, explain},
};

use super::{Jobs, plan};

impl Jobs {
    /// Explains where a job stands and what will be done with it now, from memory.
    #[must_use]
    pub fn explain(&self, job: &Job) -> Explanation {
        let workers = self.workers();
        let views = plan::views(&workers, &job.spec().model, &self.0.slots);
        let ahead = match self.plan().standing(job.id()) {
            Some(standing) => standing.position.saturating_sub(1),
            // Not looked at yet: behind all that wait in its tier.
            None => 0,
        };
        let queue = QueueView { ahead, usual: None, expected_wake: None };
        explain(self.now(), job, &views, &self.site(), queue)
    }
}
