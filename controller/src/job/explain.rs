//! Why a job is where it is.

use std::time::Duration;

use homelab_domain::{
    job::Job,
    placement::{Explanation, Need, QueueView, explain},
};
use homelab_store::StoreError;

use super::{Jobs, plan};
use crate::power::board::Expected;

impl Jobs {
    /// Explains where a job stands and what will be done with it now. From memory, unless it comes
    /// after others.
    ///
    /// # Errors
    /// The store failed.
    pub async fn explain(&self, job: &Job) -> Result<Explanation, StoreError> {
        let needs = self.unmet(job).await?;
        Ok(self.explain_after(job, &needs))
    }

    /// Those that a job comes after and that have not succeeded.
    async fn unmet(&self, job: &Job) -> Result<Vec<Need>, StoreError> {
        if job.spec().terms.after.is_empty() || !job.state().kind().is_pending() {
            return Ok(Vec::new());
        }
        let mut tx = self.0.parts.store.read().await?;
        let unmet = tx.jobs().unmet_needs().await?;
        let own = unmet.iter().filter(|unmet| unmet.job == job.id());
        Ok(own.map(|unmet| Need { job: unmet.needs, state: unmet.state }).collect())
    }

    /// The same for a job that comes after no other: from memory.
    #[must_use]
    pub fn explain_from_memory(&self, job: &Job) -> Explanation {
        self.explain_after(job, &[])
    }

    fn explain_after(&self, job: &Job, needs: &[Need]) -> Explanation {
        let (workers, spec) = (self.workers(), job.spec());
        let plan = self.plan();
        let views = plan::views_for(&workers, &spec.model, &self.0.slots, &plan);
        let ahead = match plan.standing(job.id()) {
            Some(standing) => standing.position.saturating_sub(1),
            // Not looked at yet: behind all that wait in its tier.
            None => 0,
        };
        let usual = self.pace().usual(spec.tier, &spec.model);
        let wake = self.wake_of(job);
        let expected_wake = wake.as_ref().and_then(|wake| wake.up_in);
        let queue = QueueView { ahead, usual, expected_wake };
        let mut explanation = explain(self.now(), job, &views, &self.site(), queue, needs);
        if job.state().kind().is_pending() {
            explanation.reasons.extend(wake.map(|wake| wake.words));
        }
        explanation
    }

    /// When the first of the sleeping hosts will be there that could run it.
    fn wake_of(&self, job: &Job) -> Option<Expected> {
        let (site, now) = (self.site(), self.now());
        let hosts = &site.tier(job.spec().tier)?.hosts;
        let expected = hosts.iter().filter_map(|host| self.wakes().expected(host, now));
        expected.min_by_key(|wake| wake.up_in.unwrap_or(Duration::MAX))
    }

    /// What of a job leaves or has left the house, a line each.
    pub async fn outlook(&self, job: &Job) -> Vec<String> {
        self.0.parts.engines.outlook(job).await
    }
}
