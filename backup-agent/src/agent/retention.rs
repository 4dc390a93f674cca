//! Retention plans and pruning, as they are asked for.

use std::sync::Arc;

use super::{Agent, AgentError};
use crate::{
    blocking,
    ids::RunId,
    journal::Work,
    repository::{Applied, PrunePolicy, Pruned, RetentionOrder},
    runs::{End, Watched},
};

impl Agent {
    /// Carries out a retention plan; see
    /// [`Repository::apply`](crate::repository::Repository::apply).
    ///
    /// # Errors
    ///
    /// Why nothing was done.
    pub async fn apply_retention(
        &self,
        repository: &str,
        order: RetentionOrder,
    ) -> Result<Applied, AgentError> {
        let kept = self.repository(repository)?.1;
        self.answering(&kept.repository).await?;
        let (asked, now) = (Arc::clone(&kept.repository), self.clock.now());
        Ok(blocking::run(move || asked.apply(&order, now)).await?)
    }

    /// What a prune would do now.
    ///
    /// # Errors
    ///
    /// Why it cannot be said.
    pub async fn prune_outlook(&self, repository: &str) -> Result<Pruned, AgentError> {
        let kept = self.repository(repository)?.1;
        self.answering(&kept.repository).await?;
        let asked = Arc::clone(&kept.repository);
        Ok(blocking::run(move || asked.prune_outlook(&PrunePolicy::default())).await?)
    }

    /// Begins a prune, or joins the run of this identifier.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn prune(&self, run: RunId, repository: &str) -> Result<Watched, AgentError> {
        let (name, kept) = self.repository(repository)?;
        let work = Work::Prune { repository: name.clone() };
        if let Some(watched) = self.runs.find(run, &work)? {
            return Ok(watched);
        }
        self.answering(&kept.repository).await?;
        let (asked, clock) = (Arc::clone(&kept.repository), Arc::clone(&self.clock));
        let execute = move |progress, _cancel| async move {
            // Cut off in the middle a prune is harmless, and not to be stopped halfway either.
            let prune = move || asked.prune(&PrunePolicy::default(), clock.now(), &progress);
            match blocking::run(prune).await {
                Ok(pruned) => End::Prune(pruned),
                Err(error) => End::Failed((&error).into()),
            }
        };
        Ok(self.runs.begin(run, work, execute).await?)
    }
}
