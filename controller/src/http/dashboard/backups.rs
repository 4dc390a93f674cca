//! The page of all backups, and the page of one: late, due or in time, what is aimed at against what
//! was measured, where the copies are, and what the last drill proved. What nobody knows is never
//! shown as healthy.

pub mod health;
pub mod one;
pub mod source;
mod view;

use askama::Template;
use homelab_proto::controller::v1::GetStrategyResponse;
use jiff::Timestamp;

use super::{
    board::Live,
    moment::{Ages, Moment},
    page::{Top, VerdictSection, Viewer},
};
use health::Chain;
use view::{DrillsView, PlacesView, RecoveryView, StateView};

/// What the page of all backups is made from.
#[derive(Clone, Debug, Default)]
pub struct BackupsObserved {
    /// The same facts that the strategy document is made from.
    pub strategy: GetStrategyResponse,
    /// What is known of the chain of evidence.
    pub chain: Chain,
}

impl Live for BackupsObserved {
    const SECTIONS: &'static [&'static str] = &["verdict", "state", "places", "drills", "recovery"];

    fn sections(&self, ages: Ages) -> askama::Result<Vec<String>> {
        Ok(vec![
            VerdictSection { verdict: view::verdict(self, ages) }.render()?,
            StateSection { state: view::state(self, ages) }.render()?,
            PlacesSection { places: view::places(self, ages) }.render()?,
            DrillsSection { drills: view::drills(self, ages) }.render()?,
            RecoverySection { recovery: view::recovery(self, ages) }.render()?,
        ])
    }
}

/// The whole page, readable without scripts.
///
/// # Errors
/// When a template cannot be filled, which is a bug.
pub fn page(
    observed: &BackupsObserved,
    viewer: &Viewer,
    seq: u64,
    now: Timestamp,
) -> askama::Result<String> {
    let ages = Ages::Written(now);
    let page = BackupsPage {
        top: Top {
            site: &observed.strategy.site,
            viewer,
            here: "/backups",
            path: "/backups",
            events: "/events/backups",
            seq,
            made: Moment::new(Some(now), ages),
        },
        sections: observed.sections(ages)?,
    };
    page.render()
}

#[derive(Template)]
#[template(path = "backups/page.html")]
struct BackupsPage<'a> {
    top: Top<'a>,
    sections: Vec<String>,
}

#[derive(Template)]
#[template(path = "backups/state.html")]
struct StateSection {
    state: StateView,
}

#[derive(Template)]
#[template(path = "backups/places.html")]
struct PlacesSection {
    places: PlacesView,
}

#[derive(Template)]
#[template(path = "backups/drills.html")]
struct DrillsSection {
    drills: DrillsView,
}

#[derive(Template)]
#[template(path = "backups/recovery.html")]
struct RecoverySection {
    recovery: RecoveryView,
}

#[cfg(test)]
mod tests;
