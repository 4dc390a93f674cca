//! From the wish for an answer to a job in the queue.

use homelab_domain::{
    ids::{JobId, ModelName},
    job::{JobRequest, JobSpec, Priority, Record, Terms},
    placement::{Resolved, resolve_for},
    reason::{Because, Reason},
    site::{Site, Tier},
};
use jiff::Timestamp;

/// Largest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most tokens that a request may ask for.
const TOKENS_MAX: u32 = 1_000_000;

/// What somebody wants answered, not checked yet.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Identifier that the caller chose.
    pub id: JobId,
    /// Model; empty takes the tier's default.
    pub model: String,
    /// Tier; none takes the first that has the model.
    pub tier: Option<Tier>,
    /// Tiers that the caller may use.
    pub tiers_allowed: Vec<Tier>,
    /// What it asks for.
    pub request: JobRequest,
    /// First characters of the last message.
    pub title: String,
    /// Higher goes first, 0 to 100; none means 50.
    pub priority: Option<u32>,
    /// When it is not wanted any more.
    pub deadline: Option<Timestamp>,
    /// Most tokens to answer with.
    pub tokens_max: Option<u32>,
    /// Whether the text is kept.
    pub record: Record,
    /// On which terms.
    pub terms: Terms,
    /// Who asks.
    pub submitted_by: String,
}

/// Why a wish does not become a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A field breaks a rule.
    #[error("`{field}`: {rule}")]
    Field {
        /// Name in the protocol.
        field: &'static str,
        /// The rule.
        rule: String,
    },
    /// No tier can take it: the model is not there, or the tier is not.
    #[error("{}", because.message)]
    NoPlace {
        /// The model that was asked for; empty for the default.
        model: String,
        /// Why.
        because: Because,
    },
    /// The caller may not use the tier.
    #[error(
        "the caller may not use the tier {0}; use a model of another tier, or give the key that tier"
    )]
    TierNotAllowed(Tier),
}

impl Submission {
    /// Checks every rule and decides on model and tier. Whether a worker is there is another question:
    /// a job may wait for one.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(self, site: &Site, now: Timestamp) -> Result<JobSpec, Refused> {
        let field = |field, rule: &str| Refused::Field { field, rule: rule.to_owned() };
        if self.request.bytes.is_empty() {
            return Err(field(
                "messages",
                "there is nothing to answer; give messages or openai_request",
            ));
        }
        if self.request.bytes.len() > REQUEST_BYTES_MAX {
            return Err(field("openai_request", "it is larger than 16 MiB"));
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(field("deadline", "it has passed"));
        }
        if self.tokens_max.is_some_and(|tokens| tokens == 0 || tokens > TOKENS_MAX) {
            return Err(field("tokens_max", "1 to 1,000,000 is allowed"));
        }
        let priority = match self.priority {
            None => Priority::DEFAULT,
            Some(points) => Priority::try_new(points)
                .map_err(|error| Refused::Field { field: "priority", rule: error.to_string() })?,
        };
        self.terms
            .check(self.id, now)
            .map_err(|bad| Refused::Field { field: bad.field, rule: bad.rule })?;
        let Resolved { tier, model } = self.route(site)?;
        if !self.tiers_allowed.contains(&tier) {
            return Err(Refused::TierNotAllowed(tier));
        }
        Ok(JobSpec {
            id: self.id,
            model,
            tier,
            priority,
            submitted_by: self.submitted_by,
            submitted_at: now,
            deadline: self.deadline,
            tokens_max: self.tokens_max,
            record: self.record,
            title: if self.record == Record::Metadata { String::new() } else { self.title },
            terms: self.terms,
            own_ahead: 0,
            request: self.request,
        })
    }

    fn route(&self, site: &Site) -> Result<Resolved, Refused> {
        let model = self.model.as_str();
        let no_place =
            |because| Refused::NoPlace { model: model.chars().take(200).collect(), because };
        let name = match model {
            "" => None,
            text => Some(ModelName::try_new(text).map_err(|error| {
                no_place(Because::new(Reason::MODEL_NOT_FOUND, error.to_string()))
            })?),
        };
        let class = self.terms.class;
        resolve_for(site, name.as_ref(), self.tier, class, &self.tiers_allowed).map_err(no_place)
    }
}
