//! What would leave, by which rule, and what budget is left: for people, before anything happens.

use homelab_common::lifecycle::Abandoned;
use homelab_domain::{
    gold::{Action, Asker, DataClass, Ruling, Standing, Tag, Verdict, judge},
    job::Job,
    text,
};
use homelab_store::{GoldCall, StoreError};
use serde_json::json;

use super::Gold;

/// A text that is tried without being sent.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The text.
    pub text: String,
    /// Who would ask.
    pub asker: Asker,
    /// Tags that the job would carry.
    pub tags: Vec<Tag>,
}

impl Gold {
    /// What the rules make of a text. Nothing is sent, stored or written down.
    ///
    /// # Errors
    /// The controller stops.
    pub async fn try_text(&self, trial: Trial) -> Result<Verdict, Abandoned> {
        let view = self.view();
        let work = move || {
            let request = json!({ "messages": [{ "role": "user", "content": trial.text }] });
            let rules = &view.site.gold().rules;
            judge(rules, &view.classifier, &trial.asker, &trial.tags, &request)
        };
        self.0.parts.tasks.blocking(work).await
    }

    /// How the budgets stand.
    ///
    /// # Errors
    /// The store failed.
    pub async fn budgets(&self) -> Result<Vec<Standing>, StoreError> {
        let site = self.view().site;
        let now = self.0.parts.clock.now();
        let mut tx = self.0.parts.store.read().await?;
        let spent = tx.gold().spent(now, site.time_zone()).await?;
        Ok(Standing::all(&site.gold().budgets, &spent, now, site.time_zone()))
    }

    /// What money is counted in.
    #[must_use]
    pub fn currency(&self) -> String {
        self.view().site.gold().currency.clone()
    }

    /// The newest requests that left.
    ///
    /// # Errors
    /// The store failed.
    pub async fn newest(&self, limit: u32) -> Result<Vec<GoldCall>, StoreError> {
        self.0.parts.store.read().await?.gold().newest(limit).await
    }

    /// What of a job leaves or has left the house, a line each.
    pub async fn outlook(&self, job: &Job) -> Vec<String> {
        let currency = self.currency();
        let mut lines = Vec::new();
        if !job.state().kind().is_final() {
            match self.outbound(job.spec()).await {
                Ok(outbound) => {
                    let bytes = u64::try_from(outbound.body().len()).unwrap_or(u64::MAX);
                    lines.push(format!(
                        "{} leave the house for {}, at a cost of at most {} {currency}",
                        text::count(bytes, "byte"),
                        outbound.provider().url,
                        outbound.worst().cost,
                    ));
                    lines.extend(outbound.verdict().rulings.iter().map(line));
                }
                Err(refusal) => lines.push(refusal.because.message),
            }
            lines.extend(self.budget_lines(job, &currency).await);
        }
        lines.extend(self.history(job, &currency).await);
        lines
    }

    async fn budget_lines(&self, job: &Job, currency: &str) -> Vec<String> {
        let Ok(asker) = Asker::of_submitter(&job.spec().submitted_by) else { return Vec::new() };
        let site = self.view().site;
        let covers = |standing: &Standing| {
            let mut budgets = site.gold().budgets.iter();
            budgets.any(|budget| budget.name == standing.budget && budget.covers(&asker))
        };
        match self.budgets().await {
            Ok(standings) => standings
                .iter()
                .filter(|standing| covers(standing))
                .map(|standing| {
                    let Standing { budget, period, limit, .. } = standing;
                    format!(
                        "budget {budget}: {} of {limit} {currency} left this {period}",
                        standing.left()
                    )
                })
                .collect(),
            Err(_) => vec!["how the budgets stand could not be read".to_owned()],
        }
    }

    async fn history(&self, job: &Job, currency: &str) -> Vec<String> {
        let calls = async { self.0.parts.store.read().await?.gold().of_job(job.id()).await };
        let calls = calls.await.unwrap_or_default();
        let line = |GoldCall { call, settlement }: GoldCall| {
            let cost = match settlement {
                Some(settled) => format!("{} {currency} ({})", settled.cost, settled.outcome),
                None => format!("at most {} {currency} (under way)", call.reserved),
            };
            format!(
                "attempt {} sent {} to {} at {}: {cost}",
                call.attempt,
                text::count(call.bytes, "byte"),
                call.provider,
                call.at
            )
        };
        calls.into_iter().map(line).collect()
    }
}

fn line((ruling, count): &(Ruling, u32)) -> String {
    let what = match ruling.class {
        DataClass::Plain => "the text".to_owned(),
        class => text::count(u64::from(*count), class.as_str()),
    };
    let done = match ruling.action {
        Action::Allow => "leaves as it is",
        Action::Pseudonymise => "leaves as pseudonyms",
        Action::Refuse => "stays",
    };
    match &ruling.rule {
        Some(rule) => format!("{what} {done}, by rule {rule}"),
        None => format!("{what} {done}, for no rule lets it leave"),
    }
}
