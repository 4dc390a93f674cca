//! Drops what has ended by itself: sessions, login links, remembered requests.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_common::clock::Clock;
use homelab_store::Store;

use super::{BackgroundTask, Done, Outcome};

/// How long a request id keeps a call from being done twice. Callers that come back later than this
/// have given up.
const REQUESTS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Drops what has ended.
#[derive(Debug)]
pub struct Expire {
    /// Where it is kept.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl BackgroundTask for Expire {
    fn name(&self) -> &'static str {
        "expire"
    }

    fn description(&self) -> &'static str {
        "Drops sessions, login links and remembered requests that have ended."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(600)
    }

    async fn activate(&self) -> Outcome {
        let now = self.clock.now();
        let before = now.checked_sub(REQUESTS_KEPT).unwrap_or(now);
        let mut tx = self.store.begin().await?;
        tx.sessions().sweep(now).await?;
        let forgotten = tx.requests().forget_before(before).await?;
        tx.commit().await?;
        Ok(match forgotten {
            0 => Done::Nothing,
            count => Done::Changed(format!("forgot {count} requests")),
        })
    }
}
