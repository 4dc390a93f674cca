//! The models of all tiers, sleeping ones too, from memory.

use homelab_domain::{
    ids::{HostName, ModelName},
    site::Tier,
};
use homelab_proto::inference::v1::ModelState;

use super::{Jobs, engines::Contact};

/// One model of a tier.
#[derive(Clone, Debug, PartialEq)]
pub struct TierModel {
    /// Name.
    pub name: ModelName,
    /// Tier.
    pub tier: Tier,
    /// Host of the worker that has it, or would have it if it were awake.
    pub worker: Option<HostName>,
    /// Where it stands, as last seen.
    pub state: ModelState,
    /// How that worker can be reached.
    pub contact: Option<Contact>,
    /// Tokens that one conversation may hold.
    pub context_tokens: Option<u32>,
    /// The default of its tier.
    pub is_default: bool,
}

impl Jobs {
    /// The models that the site declares, by tier, then name, each as it stands on the worker that
    /// is nearest to answering. Nothing is asked and nothing is woken.
    #[must_use]
    pub fn models(&self) -> Vec<TierModel> {
        let (site, workers) = (self.site(), self.workers());
        let mut models = Vec::new();
        for config in site.tiers() {
            for name in &config.models {
                let tier = config.tier;
                let candidates = workers.iter().filter(|seen| seen.tier == tier);
                let best = candidates
                    .filter(|seen| seen.worker.is_none() || seen.has(name))
                    .max_by_key(|seen| (seen.contact == Contact::Connected, seen.worker.is_some()));
                let row = best.and_then(|seen| seen.models().find(|row| row.name == name.as_str()));
                models.push(TierModel {
                    name: name.clone(),
                    tier,
                    worker: best.map(|seen| seen.host.clone()),
                    state: row.map_or(ModelState::Unspecified, |row| row.state()),
                    contact: best.map(|seen| seen.contact),
                    context_tokens: row.and_then(|row| row.context_tokens),
                    is_default: config.default_model.as_ref() == Some(name),
                });
            }
        }
        models.sort_by(|a, b| (a.tier, &a.name).cmp(&(b.tier, &b.name)));
        models
    }
}
