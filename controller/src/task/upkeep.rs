//! Drops what is over for long enough: jobs, runs, certificates, tokens, requests outside. The audit log stays.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_common::clock::Clock;
use homelab_domain::upkeep::KeepRules;
use homelab_store::{Store, StoreError};
use tracing::info;

use super::{BackgroundTask, Done, Outcome};

/// Rows of one kind that go in one transaction, so that nobody waits long for the writer.
const BATCH_MAX: u32 = 200;

/// Transactions of one activation; the next one carries on.
const BATCHES_MAX: u32 = 50;

/// Drops what is over for long enough.
#[derive(Debug)]
pub struct Upkeep {
    /// Where it is kept.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// For how long.
    pub rules: KeepRules,
}

#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    jobs: u64,
    runs: u64,
    certificates: u64,
    tokens: u64,
    gold: u64,
}

impl Dropped {
    const fn total(self) -> u64 {
        self.jobs + self.runs + self.certificates + self.tokens + self.gold
    }
}

#[async_trait]
impl BackgroundTask for Upkeep {
    fn name(&self) -> &'static str {
        "upkeep"
    }

    fn description(&self) -> &'static str {
        "Drops jobs, runs, certificates, tokens and requests outside that ended long ago, as [keep] says."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    async fn activate(&self) -> Outcome {
        let mut sum = Dropped::default();
        for _ in 0..BATCHES_MAX {
            let batch = self.batch().await?;
            if batch.total() == 0 {
                break;
            }
            sum.jobs += batch.jobs;
            sum.runs += batch.runs;
            sum.certificates += batch.certificates;
            sum.tokens += batch.tokens;
            sum.gold += batch.gold;
        }
        if sum.total() == 0 {
            return Ok(Done::Nothing);
        }
        let Dropped { jobs, runs, certificates, tokens, gold } = sum;
        info!(jobs, runs, certificates, tokens, gold, "dropped what ended long ago");
        Ok(Done::Changed(format!(
            "dropped {jobs} jobs, {runs} runs, {certificates} certificates, {tokens} tokens, {gold} requests outside"
        )))
    }
}

impl Upkeep {
    async fn batch(&self) -> Result<Dropped, StoreError> {
        let now = self.clock.now();
        let cut = self.rules.at(now);
        let mut tx = self.store.begin().await?;
        let jobs = tx.jobs().prune(cut.jobs, now, BATCH_MAX).await?;
        let runs = tx.runs().prune(cut.runs, BATCH_MAX).await?;
        let certificates = tx.certificates().prune(cut.certificates, BATCH_MAX).await?;
        let tokens = tx.tokens().prune(cut.tokens, BATCH_MAX).await?;
        let gold = tx.gold().prune(cut.gold, BATCH_MAX).await?;
        tx.commit().await?;
        Ok(Dropped { jobs, runs, certificates, tokens, gold })
    }
}
