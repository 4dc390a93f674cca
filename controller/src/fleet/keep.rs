//! Looks at the whole fleet, decides how each host stands, and keeps what changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_common::clock::Clock;
use homelab_domain::ids::HostName;
use homelab_store::{HostRecord, Store};
use jiff::Timestamp;
use tracing::info;

use super::{
    registry::{Fleet, HostView},
    state::{Standing, assess},
};
use crate::task::{BackgroundTask, Done, Outcome};

/// How far "last seen" may move on before it is written again: a write per sample and host would be
/// the largest load on the store.
const LAST_SEEN_STEP: Duration = Duration::from_secs(60);

/// Decides how hosts stand.
#[derive(Debug)]
pub struct ObserveHosts {
    /// What was seen.
    pub fleet: Fleet,
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl BackgroundTask for ObserveHosts {
    fn name(&self) -> &'static str {
        "observe-hosts"
    }

    fn description(&self) -> &'static str {
        "Decides how each host stands, from what was seen of it, and keeps what changed."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn activate(&self) -> Outcome {
        let remembered = self.store.read().await?.hosts().all().await?;
        let remembered: BTreeMap<_, _> =
            remembered.into_iter().map(|record| (record.name.clone(), record)).collect();
        let now = self.clock.now();
        let assessed: Vec<_> = self
            .fleet
            .hosts()
            .into_iter()
            .map(|view| (assess(&view, remembered.get(&view.declared.name), now), view))
            .collect();
        let records: Vec<_> = assessed
            .iter()
            .filter_map(|(standing, view)| {
                to_keep(view, standing, remembered.get(&view.declared.name))
            })
            .collect();
        if !records.is_empty() {
            let mut tx = self.store.begin().await?;
            tx.hosts().observed(&records).await?;
            tx.commit().await?;
        }
        let turned = self.announce(assessed);
        Ok(if turned.is_empty() { Done::Nothing } else { Done::Changed(turned.join(", ")) })
    }
}

impl ObserveHosts {
    /// Shows the standings, and gives a sentence for each host whose state turned.
    fn announce(&self, assessed: Vec<(Standing, HostView)>) -> Vec<String> {
        let turned = assessed
            .iter()
            .filter(|(standing, view)| standing.state != view.standing.state)
            .map(|(standing, view)| {
                let host = &view.declared.name;
                let (state, why) = (standing.state, &standing.because.message);
                info!(%host, %state, why, "a host's state changed");
                format!("{host} is {state}")
            })
            .collect();
        let standings = assessed.into_iter().map(|(standing, view)| (view.declared.name, standing));
        self.fleet.stand(standings.collect());
        turned
    }
}

/// What must be written of a host, if anything.
fn to_keep(
    view: &HostView,
    standing: &Standing,
    remembered: Option<&HostRecord>,
) -> Option<HostRecord> {
    let state = standing.since.map(|since| (standing.state, since));
    let before = remembered.and_then(|record| record.state);
    let seen_before = remembered.and_then(|record| record.last_seen_at);
    let moved = moved_on(seen_before, standing.last_seen_at);
    (state != before || moved).then(|| HostRecord {
        name: view.declared.name.clone(),
        enrolled: Vec::new(),
        drained: standing.drained,
        last_seen_at: standing.last_seen_at,
        state,
    })
}

fn moved_on(before: Option<Timestamp>, after: Option<Timestamp>) -> bool {
    match (before, after) {
        (None, Some(_)) => true,
        (Some(before), Some(after)) => {
            after.duration_since(before).unsigned_abs() >= LAST_SEEN_STEP
        }
        (_, None) => false,
    }
}

/// Drains a host, or lets it take work again; gives its record. `None` when it is not in the site.
///
/// # Errors
///
/// The store fails.
pub async fn set_drained(
    store: &dyn Store,
    fleet: &Fleet,
    host: &HostName,
    drained: bool,
) -> Result<Option<HostView>, homelab_store::StoreError> {
    let Some(mut view) = fleet.host(host) else { return Ok(None) };
    let mut tx = store.begin().await?;
    tx.hosts().set_drained(host, drained).await?;
    tx.commit().await?;
    view.standing.drained = drained;
    fleet.stand(vec![(host.clone(), view.standing.clone())]);
    Ok(Some(view))
}
