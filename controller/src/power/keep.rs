//! The task that looks after hosts that are off until needed.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use homelab_common::error_chain::Chain;
use tracing::warn;

use super::{
    Powers,
    picture::{Picture, on_demand},
    round::Round,
};
use crate::{
    app::Change,
    task::{BackgroundTask, Done, Outcome},
};

/// Name of the task.
pub const NAME: &str = "keep-power";

/// How often it runs without being nudged: as exact are the phases of a boot.
const PERIOD: Duration = Duration::from_secs(2);

/// Days that are remembered of what kept hosts awake and what they used.
const DAYS_KEPT: i64 = 400;

/// Boots of a host that are remembered.
const BOOTS_KEPT: u32 = 200;

/// Wakes hosts and puts them to sleep.
#[derive(Debug)]
pub struct KeepPower {
    powers: Powers,
}

impl KeepPower {
    /// Looks after the hosts of `powers`.
    #[must_use]
    pub const fn new(powers: Powers) -> Self {
        Self { powers }
    }
}

#[async_trait]
impl BackgroundTask for KeepPower {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        "Wakes hosts that are off until needed when it pays, and puts them to sleep when they may."
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Outcome {
        let acted = self.powers.round().await?;
        Ok(if acted.is_empty() { Done::Nothing } else { Done::Changed(acted.join("; ")) })
    }
}

impl Powers {
    /// Looks at every host once and does what is to be done; a sentence for each that was.
    pub(super) async fn round(&self) -> Result<Vec<String>, homelab_store::StoreError> {
        let site = self.site();
        let mut wards = self.0.wards.lock().await;
        self.let_go(&site, &mut wards).await?;
        if on_demand(&site).next().is_none() {
            self.0.board.show(BTreeMap::new());
            return Ok(Vec::new());
        }
        let picture = Picture::read(self).await?;
        let (mut acted, mut standings) = (Vec::new(), BTreeMap::new());
        for host in on_demand(&picture.site) {
            let (Some(known), Some(seen)) =
                (picture.known(&host.name), self.0.parts.hands.seen(&host.name))
            else {
                continue;
            };
            let ward = wards.entry(host.name.clone()).or_default();
            let round = Round { powers: self, picture: &picture, host, known, seen: &seen };
            // One host that cannot be looked after leaves the others theirs.
            match round.go(ward).await {
                Ok(found) => {
                    acted.extend(found.acted);
                    standings.insert(host.name.clone(), found.standing);
                }
                Err(error) => {
                    warn!(host = %host.name, error = %Chain(&error), "could not look after it");
                }
            }
        }
        if self.0.board.show(standings) {
            self.0.parts.events.tell(Change::Hosts);
        }
        if !acted.is_empty() {
            self.forget_old(&picture).await?;
        }
        Ok(acted)
    }

    /// Now and then is often enough: whenever something was done.
    async fn forget_old(&self, picture: &Picture) -> Result<(), homelab_store::StoreError> {
        let today = picture.site.time_zone().local(picture.now).date();
        let days = jiff::Span::new().days(DAYS_KEPT);
        let Ok(oldest) = today.checked_sub(days) else { return Ok(()) };
        let mut tx = self.0.parts.store.begin().await?;
        tx.power().forget(oldest, BOOTS_KEPT).await?;
        tx.commit().await
    }
}
