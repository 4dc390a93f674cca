//! Which tier and model a request means.

use crate::{
    ids::ModelName,
    job::JobClass,
    reason::{Because, Reason},
    site::{Site, Tier, TierConfig},
};

/// The tier and the model of a job to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Tier.
    pub tier: Tier,
    /// Model.
    pub model: ModelName,
}

/// Completes what the caller left open: without a tier, the first of the house
/// that has the model (or a default one); without a model, the default of the
/// tier. Gold is taken only by its name, or by that of a model which the house
/// does not have. The reason says what cannot be had, and what can.
pub fn resolve(
    site: &Site,
    model: Option<&ModelName>,
    tier: Option<Tier>,
) -> Result<Resolved, Because> {
    let found = match (tier, model) {
        (Some(tier), _) => {
            if let Some(why) = super::tier_missing(site, tier) {
                return Err(why);
            }
            site.tier(tier).and_then(|config| in_tier(config, model))
        }
        (None, _) => site
            .tiers()
            .iter()
            .filter(|config| config.tier != Tier::Gold)
            .find_map(|config| in_tier(config, model))
            .or_else(|| in_tier(site.tier(Tier::Gold)?, Some(model?))),
    };
    found.ok_or_else(|| nothing_found(site, model, tier))
}

/// The same for a job of a class. What a program asks by the way goes to bronze, when the caller may
/// use it and it has a default model, rather than to a tier whose hosts sleep: a title for a
/// conversation is not worth waking a host.
pub fn resolve_for(
    site: &Site,
    model: Option<&ModelName>,
    tier: Option<Tier>,
    class: JobClass,
    allowed: &[Tier],
) -> Result<Resolved, Because> {
    let found = resolve(site, model, tier)?;
    if class != JobClass::Background || found.tier == Tier::Bronze || tier.is_some() {
        return Ok(found);
    }
    let bronze = site.tier(Tier::Bronze).filter(|config| allowed.contains(&config.tier));
    let instead =
        bronze.and_then(|config| in_tier(config, model).or_else(|| in_tier(config, None)));
    Ok(instead.unwrap_or(found))
}

fn in_tier(config: &TierConfig, model: Option<&ModelName>) -> Option<Resolved> {
    let model = match model {
        Some(model) => config.models.contains(model).then_some(model),
        None => config.default_model.as_ref(),
    }?;
    Some(Resolved { tier: config.tier, model: model.clone() })
}

fn nothing_found(site: &Site, model: Option<&ModelName>, tier: Option<Tier>) -> Because {
    let place = tier.map_or_else(|| "any tier".to_owned(), |tier| tier.to_string());
    let Some(model) = model else {
        let message = format!("{place} declares no default model; name one");
        return Because::new(Reason::MODEL_NOT_FOUND, message);
    };
    let elsewhere: Vec<String> = site
        .tiers()
        .iter()
        .flat_map(|config| {
            config.models.iter().map(move |model| format!("{model} ({})", config.tier))
        })
        .collect();
    let known = if elsewhere.is_empty() { "none".to_owned() } else { elsewhere.join(", ") };
    Because::new(Reason::MODEL_NOT_FOUND, format!("{place} has no model {model}; known: {known}"))
}
