//! The one gate: from a wish to something that a provider may be sent.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    Action, Asker, Classifier, DataClass, LOCAL_ONLY, Money, Pseudonyms, Rule, Ruling, Shortfall,
    Standing, Tag, Worst, decide,
    request::{Found, Part, Place, reduced, rewrite},
};
use crate::{
    context::{Attached, Leaves},
    ids::ModelName,
    reason::{Because, Reason},
    site::{Provider, ProviderModel, Site, Tier},
    text,
};

/// Findings that are named one by one.
const FOUND_MAX: usize = 100;

/// Answers to one request at most.
const CHOICES_MAX: u64 = 8;

/// A job that wants to leave the house.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'w> {
    /// Tier that it was submitted for. Only gold leaves.
    pub tier: Tier,
    /// Who submitted it, as the job says.
    pub submitted_by: &'w str,
    /// Most tokens to answer with, when the job says so.
    pub tokens_max: Option<u32>,
    /// Tags that the caller gave the job, beside those within the request.
    pub tags: &'w [String],
    /// The request in the form of OpenAI's chat API.
    pub request: &'w Value,
    /// What was put before it of the house's own documents.
    pub attached: Option<&'w Attached>,
    /// From which pseudonyms are drawn: the same for all attempts at a job.
    pub seed: u64,
}

/// What the rules say about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The strictest of all rulings.
    pub action: Action,
    /// What was ruled for each class that occurs, with how often it does.
    pub rulings: Vec<(Ruling, u32)>,
    /// What was found and where; at most a hundred places.
    pub found: Vec<Found>,
}

impl Verdict {
    /// The classes in one line: `2 private-address, 1 host-name`.
    #[must_use]
    pub fn classes(&self) -> String {
        let found = self.rulings.iter().filter(|(ruling, _)| ruling.class != DataClass::Plain);
        let words: Vec<String> =
            found.map(|(ruling, count)| format!("{count} {}", ruling.class)).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }

    /// The rules that decided, in one line.
    #[must_use]
    pub fn rules(&self) -> String {
        let mut names: Vec<&str> = self
            .rulings
            .iter()
            .filter_map(|(ruling, _)| Some(ruling.rule.as_ref()?.as_str()))
            .collect();
        names.dedup();
        names.join(", ")
    }

    fn action_of(&self, class: DataClass) -> Action {
        let ruling = self.rulings.iter().find(|(ruling, _)| ruling.class == class);
        ruling.map_or(Action::Refuse, |(ruling, _)| ruling.action)
    }
}

/// Why a job stays in the house.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, with what to do next.
    pub because: Because,
    /// What was found in it; empty when it was not even read.
    pub found: Vec<Found>,
}

impl Refusal {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { because: Because::new(reason, message), found: Vec::new() }
    }
}

/// A request that may leave: for one provider, with everything taken out that
/// must not. Nothing but [`permit`] makes one, and the adapter of a provider takes
/// nothing else.
pub struct Outbound {
    provider: Provider,
    model: ProviderModel,
    asker: Asker,
    body: Vec<u8>,
    pseudonyms: Arc<Pseudonyms>,
    worst: Worst,
    verdict: Verdict,
    withheld: Vec<String>,
}

impl Outbound {
    /// To whom.
    #[must_use]
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    /// For which of its models.
    #[must_use]
    pub const fn model(&self) -> &ProviderModel {
        &self.model
    }

    /// On whose behalf.
    #[must_use]
    pub const fn asker(&self) -> &Asker {
        &self.asker
    }

    /// The bytes that leave, and all of them.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// What stands for what in them.
    #[must_use]
    pub const fn pseudonyms(&self) -> &Arc<Pseudonyms> {
        &self.pseudonyms
    }

    /// The most that it can cost.
    #[must_use]
    pub const fn worst(&self) -> Worst {
        self.worst
    }

    /// What the rules said.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Fields of the request that stay here.
    #[must_use]
    pub fn withheld(&self) -> &[String] {
        &self.withheld
    }
}

/// Without its text.
impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("provider", &self.provider.name)
            .field("model", &self.model.name)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// The tags of a request: `metadata.tags`, names separated by commas, or a list.
///
/// # Errors
/// One that is no tag. It may have been meant to keep the job at home.
pub fn tags_of(request: &Value) -> Result<Vec<Tag>, &'static str> {
    let tags = match request.pointer("/metadata/tags") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().ok_or("a tag is text")?
        }
        Some(_) => return Err("tags are text, separated by commas"),
    };
    let tags = tags.iter().map(|tag| tag.trim().to_lowercase()).filter(|tag| !tag.is_empty());
    tags.map(|tag| tag.parse()).collect()
}

fn all_tags(wish: Wish<'_>) -> Result<Vec<Tag>, &'static str> {
    let mut tags = tags_of(wish.request)?;
    for tag in wish.tags {
        tags.push(tag.trim().to_lowercase().parse()?);
    }
    Ok(tags)
}

/// Says what the rules make of a request, without sending anything.
#[must_use]
pub fn judge(
    rules: &[Rule],
    classifier: &Classifier,
    asker: &Asker,
    tags: &[Tag],
    request: &Value,
) -> Verdict {
    let mut found = Vec::new();
    let mut counts = BTreeMap::from([(DataClass::Plain, 0_u32)]);
    let mut note = |place: &dyn Fn() -> Place, classes: Vec<DataClass>| {
        for class in &classes {
            *counts.entry(*class).or_default() += 1;
        }
        if found.len() < FOUND_MAX {
            // Finding the line costs a walk from the start of the text, so only for those shown.
            found.push(Found { place: place(), classes });
        }
    };
    let (sent, _) = reduced(request);
    rewrite(&mut sent.into(), "", &mut |path, part| {
        match part {
            Part::Attachment => {
                note(&|| Place::within(path, "", 0), vec![DataClass::Attachment]);
            }
            Part::Text(text) => classifier.find(text).into_iter().for_each(|finding| {
                note(&|| Place::within(path, text, finding.span.start), finding.classes);
            }),
        }
        None
    });
    let rulings: Vec<(Ruling, u32)> = counts
        .into_iter()
        .map(|(class, count)| (decide(rules, asker, tags, class), count))
        .collect();
    let action = rulings.iter().map(|(ruling, _)| ruling.action).max().unwrap_or(Action::Refuse);
    Verdict { action, rulings, found }
}

/// What the rules say of passages of documents, beside what they say of the text in them.
fn judge_documents(
    verdict: &mut Verdict,
    attached: &Attached,
    ruling: Ruling,
) -> Result<(), Refusal> {
    if attached.leaves == Leaves::Never {
        let message = "passages of documents were put before it that stay in the house; ask \
                       without context, or for silver or bronze";
        return Err(Refusal::new(Reason::LOCAL_ONLY, message));
    }
    verdict.action = verdict.action.max(ruling.action);
    let count = u32::try_from(attached.citations.len()).unwrap_or(u32::MAX);
    verdict.rulings.push((ruling, count));
    Ok(())
}

/// Decides whether a job may leave the house, and in what form. The only way out.
///
/// # Errors
/// It may not: it is not for gold, nobody offers its model, it is tagged to stay,
/// or a rule, or the want of one, keeps it here.
pub fn permit(
    site: &Site,
    classifier: &Classifier,
    model: &ModelName,
    wish: Wish<'_>,
) -> Result<Outbound, Refusal> {
    if wish.tier != Tier::Gold {
        let message = format!("it was submitted for {}, which is in the house", wish.tier);
        return Err(Refusal::new(Reason::LOCAL_ONLY, message));
    }
    let Some((provider, model)) = site.gold().offer(model) else {
        let message = format!("no provider of the site file offers {model}");
        return Err(Refusal::new(Reason::MODEL_NOT_FOUND, message));
    };
    let asker = Asker::of_submitter(wish.submitted_by).map_err(|_| {
        let message = "it was asked for neither by a key of the gateway nor by a person";
        Refusal::new(Reason::GOLD_REFUSED, message)
    })?;
    let tags = all_tags(wish).map_err(|rule| {
        let message =
            format!("its tags cannot be read, and one of them might keep it here: {rule}");
        Refusal::new(Reason::GOLD_REFUSED, message)
    })?;
    if tags.iter().any(|tag| tag.as_str() == LOCAL_ONLY) {
        let message = format!("it is tagged `{LOCAL_ONLY}`; ask for silver or bronze");
        return Err(Refusal::new(Reason::LOCAL_ONLY, message));
    }
    let mut verdict = judge(&site.gold().rules, classifier, &asker, &tags, wish.request);
    if let Some(attached) = wish.attached {
        judge_documents(
            &mut verdict,
            attached,
            decide(&site.gold().rules, &asker, &tags, DataClass::Document),
        )?;
    }
    if verdict.action == Action::Refuse {
        return Err(refused(&verdict, &asker));
    }
    let (mut sent, withheld) = reduced(wish.request);
    let pseudonyms = masked(&mut sent, classifier, &verdict, wish.seed)?;
    let written = bounded(&mut sent, provider, model, wish)?;
    sent.insert("model".to_owned(), model.upstream.as_str().into());
    sent.insert("stream".to_owned(), true.into());
    sent.insert("stream_options".to_owned(), json!({ "include_usage": true }));
    let body = Value::from(sent).to_string().into_bytes();
    let worst = worst(model, &verdict, body.len(), written);
    Ok(Outbound {
        provider: provider.clone(),
        model: model.clone(),
        asker,
        body,
        pseudonyms: Arc::new(pseudonyms),
        worst,
        verdict,
        withheld,
    })
}

/// Puts pseudonyms in the place of what the rules say must have them.
fn masked(
    sent: &mut Map<String, Value>,
    classifier: &Classifier,
    verdict: &Verdict,
    seed: u64,
) -> Result<Pseudonyms, Refusal> {
    let whole = Value::from(std::mem::take(sent));
    let text = whole.to_string();
    let mut pseudonyms = Pseudonyms::new(seed, |start| text.contains(start));
    let mut value = whole;
    let mut too_many = false;
    rewrite(&mut value, "", &mut |_, part| {
        let Part::Text(text) = part else { return None };
        let mut changed = String::new();
        let mut from = 0;
        for finding in classifier.find(text) {
            let mut classes = finding.classes.iter().rev().copied();
            let class = classes.find(|class| verdict.action_of(*class) != Action::Allow);
            let Some(class) = class else { continue };
            let original = text.get(finding.span.clone()).unwrap_or_default();
            let Some(pseudonym) = pseudonyms.of(class, original) else {
                too_many = true;
                return None;
            };
            changed.push_str(text.get(from..finding.span.start).unwrap_or_default());
            changed.push_str(&pseudonym);
            from = finding.span.end;
        }
        (from > 0).then(|| changed + text.get(from..).unwrap_or_default())
    });
    if let (Value::Object(fields), false) = (value, too_many) {
        *sent = fields;
        return Ok(pseudonyms);
    }
    let message = "more was found in it than pseudonyms can tell apart; shorten it";
    Err(Refusal::new(Reason::GOLD_REFUSED, message))
}

/// Bounds the answer; how many tokens it may have, over all choices.
fn bounded(
    sent: &mut Map<String, Value>,
    provider: &Provider,
    model: &ProviderModel,
    wish: Wish<'_>,
) -> Result<u64, Refusal> {
    let number = |field: &str| wish.request.get(field).and_then(Value::as_u64);
    let asked =
        [number("max_completion_tokens"), number("max_tokens"), wish.tokens_max.map(u64::from)];
    let most = u64::from(model.output_tokens_max);
    let tokens = asked.into_iter().flatten().chain([most]).min().unwrap_or(most).max(1);
    sent.insert(provider.tokens_field.as_str().to_owned(), tokens.into());
    let choices = match sent.get("n") {
        None | Some(Value::Null) => 1,
        Some(choices) => {
            choices.as_u64().filter(|n| (1..=CHOICES_MAX).contains(n)).ok_or_else(|| {
                let message = format!("`n` must be 1 to {CHOICES_MAX}, for each answer costs");
                Refusal::new(Reason::GOLD_REFUSED, message)
            })?
        }
    };
    Ok(tokens.saturating_mul(choices))
}

/// The most that it can cost. A token is a byte at least, and no request is longer
/// than the model's context; what a picture costs is anybody's guess within it.
fn worst(model: &ProviderModel, verdict: &Verdict, bytes: usize, written: u64) -> Worst {
    let context = u64::from(model.context_tokens);
    let has_attachment =
        verdict.rulings.iter().any(|(ruling, _)| ruling.class == DataClass::Attachment);
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let read = if has_attachment { context } else { bytes.min(context) };
    Worst { read, written, cost: model.price.of(read, written) }
}

fn refused(verdict: &Verdict, asker: &Asker) -> Refusal {
    let mut reasons: Vec<String> = Vec::new();
    for (ruling, count) in verdict.rulings.iter().rev() {
        if ruling.action != Action::Refuse {
            continue;
        }
        let what = match (ruling.class, count) {
            (DataClass::Plain, _) => "any text".to_owned(),
            (class, count) => text::count(u64::from(*count), class.as_str()),
        };
        reasons.push(match &ruling.rule {
            Some(rule) => format!("rule `{rule}` refuses {what}"),
            None => format!("no rule lets {what} of {asker} leave"),
        });
    }
    let first = verdict.found.iter().find(|found| {
        found.classes.iter().any(|class| verdict.action_of(*class) == Action::Refuse)
    });
    let place = first.map(|found| format!("; first at {}", found.place)).unwrap_or_default();
    let message = format!(
        "it stays in the house: {}{place}; take that out, ask for silver or bronze, or change \
         [[ai.rule]] in the site file (`labctl ai check` tries a text)",
        reasons.join(", ")
    );
    Refusal { because: Because::new(Reason::GOLD_REFUSED, message), found: verdict.found.clone() }
}

impl Refusal {
    /// A budget has no room.
    #[must_use]
    pub fn over_budget(short: &Shortfall, currency: &str) -> Self {
        let Standing { budget, period, limit, renews_at, .. } = &short.standing;
        let (wanted, left): (Money, Money) = (short.wanted, short.standing.left());
        let message = format!(
            "it may cost {wanted} {currency}, and budget `{budget}` has {left} of {limit} left this \
             {period}, until {renews_at}; ask for fewer tokens, or for silver or bronze \
             (`labctl ai budget`)"
        );
        Self::new(Reason::GOLD_BUDGET_EXHAUSTED, message)
    }
}

#[cfg(test)]
mod tests;
