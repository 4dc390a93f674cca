//! What the pages of backups are made from, read from the parts of the controller.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_store::StoreError;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{BackupsObserved, health::Chain, one::OneObserved};
use crate::{
    backup::{Backups, evidence},
    grpc::backup_schedule::strategy,
    http::dashboard::board::Source,
};

/// How long the answer of a walk along the whole chain is good for: each takes a check of a signature
/// for every statement.
const WALK_AGE_MAX: Duration = Duration::from_mins(10);

/// Where the page of one backup comes from.
#[async_trait]
pub trait OneSource: fmt::Debug + Send + Sync {
    /// Reads what is told of one backup; none when the site file does not declare it.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn observe_one(
        &self,
        name: &str,
    ) -> Result<Option<OneObserved>, Box<dyn Error + Send + Sync>>;
}

/// The controller's own backups. Clones are the same.
#[derive(Clone, Debug)]
pub struct BackupsSource {
    backups: Backups,
    chain: Arc<Mutex<Chain>>,
}

impl BackupsSource {
    /// Reads from `backups`.
    #[must_use]
    pub fn new(backups: Backups) -> Self {
        Self { backups, chain: Arc::default() }
    }

    /// The chain, walked again when the last walk is old or has not come as far as `sequence`.
    async fn chain(&self, sequence: u64) -> Result<Chain, StoreError> {
        let now = self.backups.parts().clock.now();
        let mut known = self.chain.lock().await;
        let is_new = |at: Timestamp| now.duration_since(at).unsigned_abs() < WALK_AGE_MAX;
        let is_far = known.fault.is_some() || known.sequence >= sequence;
        if !known.walked_at.is_some_and(is_new) || !is_far {
            let walked = evidence::verify(self.backups.parts().store.as_ref()).await?;
            *known = Chain { walked_at: Some(now), sequence: walked.sequence, fault: walked.fault };
        }
        Ok(known.clone())
    }
}

#[async_trait]
impl Source<BackupsObserved> for BackupsSource {
    async fn observe(&self) -> Result<BackupsObserved, Box<dyn Error + Send + Sync>> {
        let strategy = strategy::strategy(&self.backups).await?;
        let evidence = strategy.backups.iter().filter_map(|one| one.last_evidence.as_ref());
        let newest = evidence.map(|one| one.sequence).max().unwrap_or_default();
        Ok(BackupsObserved { chain: self.chain(newest).await?, strategy })
    }
}

#[async_trait]
impl OneSource for BackupsSource {
    async fn observe_one(
        &self,
        name: &str,
    ) -> Result<Option<OneObserved>, Box<dyn Error + Send + Sync>> {
        let Some(facts) = strategy::facts(&self.backups, name).await? else { return Ok(None) };
        let newest = facts.evidence.iter().map(|one| one.sequence).max().unwrap_or_default();
        let site = self.backups.site().name().to_string();
        Ok(Some(OneObserved { site, chain: self.chain(newest).await?, facts }))
    }
}
