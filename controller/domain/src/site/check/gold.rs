//! Providers, rules and budgets of the tier that leaves the house.

use super::{SiteProblem, each, known, unique};
use crate::{
    gold::Action,
    site::{Provider, SiteDraft, Tier},
};

impl SiteDraft {
    pub(super) fn gold_fits(&self, problems: &mut Vec<SiteProblem>) {
        let gold = &self.gold;
        unique(problems, "ai.provider", "name", each(&gold.providers, |one| Some(&one.name)));
        unique(problems, "ai.rule", "name", each(&gold.rules, |rule| Some(&rule.name)));
        unique(problems, "ai.budget", "name", each(&gold.budgets, |budget| Some(&budget.name)));
        for (index, provider) in gold.providers.iter().enumerate() {
            self.provider_fits(index, provider, problems);
        }
        self.rules_fit(problems);
        self.budgets_fit(problems);
        self.gold_tier_fits(problems);
    }

    fn provider_fits(&self, index: usize, provider: &Provider, problems: &mut Vec<SiteProblem>) {
        let mut problem = |key: &str, message: String| {
            problems.push(SiteProblem::new(format!("ai.provider[{index}].{key}"), message));
        };
        let name = provider.name.as_str();
        if self.hosts.iter().any(|host| host.name.as_str() == name) {
            problem("name", format!("`{name}` is a host; attempts at jobs name either"));
        }
        if provider.models.is_empty() {
            problem("name", "it offers no model; add [[ai.provider.model]]".to_owned());
        }
        for (place, model) in provider.models.iter().enumerate() {
            let before = self.gold.providers.iter().take(index).flat_map(|other| &other.models);
            let mut before = before.chain(provider.models.iter().take(place));
            if before.any(|other| other.name == model.name) {
                let message = format!("`{}` is offered already; give it another name", model.name);
                problem(&format!("model[{place}].name"), message);
            }
            if model.output_tokens_max > model.context_tokens {
                let message = format!("more than its context of {} tokens", model.context_tokens);
                problem(&format!("model[{place}].output_tokens_max"), message);
            }
        }
    }

    fn rules_fit(&self, problems: &mut Vec<SiteProblem>) {
        for (index, rule) in self.gold.rules.iter().enumerate() {
            if rule.classes.is_empty() {
                let path = format!("ai.rule[{index}].classes");
                problems.push(SiteProblem::new(path, "name at least one class"));
            }
            for class in rule.classes.iter().filter(|class| !class.may(rule.action)) {
                let message = match rule.action {
                    Action::Allow => {
                        format!("a {class} never leaves as it is; pseudonymise or refuse it")
                    }
                    _ => format!("{class} has nothing to replace; allow or refuse it"),
                };
                problems.push(SiteProblem::new(format!("ai.rule[{index}].action"), message));
            }
        }
    }

    fn budgets_fit(&self, problems: &mut Vec<SiteProblem>) {
        for (index, budget) in self.gold.budgets.iter().enumerate() {
            if budget.limits().next().is_none() {
                let path = format!("ai.budget[{index}].name");
                problems.push(SiteProblem::new(path, "it has no limit; give `day` or `month`"));
            }
        }
        let covers_all = self.gold.budgets.iter().any(|budget| budget.keys.is_empty());
        if !self.gold.providers.is_empty() && !covers_all {
            let message = "nothing bounds what is spent; add [[ai.budget]] without `keys`";
            problems.push(SiteProblem::new("ai.provider[0].name", message));
        }
    }

    fn gold_tier_fits(&self, problems: &mut Vec<SiteProblem>) {
        let tiers = self.tiers.iter().enumerate();
        for (index, config) in tiers.filter(|(_, config)| config.tier == Tier::Gold) {
            let path = |key: &str| format!("ai.tier[{index}].{key}");
            if !config.hosts.is_empty() {
                let message = "gold leaves the house: it has providers and no hosts";
                problems.push(SiteProblem::new(path("hosts"), message));
            }
            let offered = || self.gold.providers.iter().flat_map(|provider| &provider.models);
            for model in &config.models {
                if !offered().any(|offer| offer.name == *model) {
                    let known = known(offered().map(|offer| &offer.name));
                    let message = format!("no [[ai.provider]] offers `{model}`; {known}");
                    problems.push(SiteProblem::new(path("models"), message));
                }
            }
        }
    }
}
