//! `GoldService`: what leaves the house, and what it costs.

use async_trait::async_trait;
use homelab_domain::gold::{Action, Asker, Found, InvalidAsker, Ruling, Standing, Tag};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::{
    guard::request_id,
    node::to_proto,
    peer::Peer,
    status::{Failure, Reason, fail},
};
use pb::gold_service_server::GoldService;
use tonic::{Code, Request, Response, Status};

use super::status::IntoStatus as _;
use crate::{
    ca::issue::hex,
    gold::{Gold, Trial},
};

/// Requests that are listed at most.
const CALLS_MAX: u32 = 1_000;

/// Longest text that is tried.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// The tier that leaves the house, over gRPC.
#[derive(Clone, Debug)]
pub struct GoldApi {
    gold: Gold,
}

impl GoldApi {
    /// Serves `gold`.
    #[must_use]
    pub const fn new(gold: Gold) -> Self {
        Self { gold }
    }
}

#[async_trait]
impl GoldService for GoldApi {
    async fn get_budgets(
        &self,
        request: Request<pb::GetBudgetsRequest>,
    ) -> Result<Response<pb::GetBudgetsResponse>, Status> {
        let id = request_id(&request).to_owned();
        let calls_max = request.get_ref().calls_max.min(CALLS_MAX);
        let standings = self.gold.budgets().await.map_err(|error| error.into_status(&id))?;
        let calls = self.gold.newest(calls_max).await.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(pb::GetBudgetsResponse {
            budgets: standings.into_iter().map(standing).collect(),
            currency: self.gold.currency(),
            calls: calls.into_iter().map(call).collect(),
        }))
    }

    async fn check_text(
        &self,
        request: Request<pb::CheckTextRequest>,
    ) -> Result<Response<pb::CheckTextResponse>, Status> {
        let caller = request.extensions().get::<Peer>().map(ToString::to_string);
        let request = request.into_inner();
        if request.text.len() > TEXT_BYTES_MAX {
            return Err(invalid("text", "at most 4 MiB"));
        }
        let asker = match request.asker.as_str() {
            "" => Asker::of_submitter(&caller.unwrap_or_default()),
            asker => asker.parse(),
        };
        let asker = asker.map_err(|error: InvalidAsker| invalid("asker", &error.to_string()))?;
        let tags = request.tags.iter().map(|tag| tag.parse());
        let tags: Vec<Tag> =
            tags.collect::<Result<_, _>>().map_err(|rule: &str| invalid("tags", rule))?;
        let trial = Trial { text: request.text, asker: asker.clone(), tags };
        let verdict = self.gold.try_text(trial).await;
        let stopping = "the controller is stopping; try again in a moment";
        let verdict = verdict.map_err(|_| fail(Code::Unavailable, Reason::STOPPING, stopping))?;
        Ok(Response::new(pb::CheckTextResponse {
            action: action(verdict.action).into(),
            rulings: verdict.rulings.into_iter().map(ruling).collect(),
            findings: verdict.found.into_iter().map(finding).collect(),
            asker: asker.to_string(),
        }))
    }
}

fn invalid(field: &'static str, rule: &str) -> Status {
    Failure::invalid(format!("`{field}` is not valid: {rule}")).field(field, rule.to_owned()).into()
}

fn standing(standing: Standing) -> pb::BudgetStanding {
    pb::BudgetStanding {
        left_micros: standing.left().micros(),
        budget: standing.budget.to_string(),
        period: standing.period.to_string(),
        limit_micros: standing.limit.micros(),
        spent_micros: standing.spent.micros(),
        renews_at: Some(to_proto(standing.renews_at)),
    }
}

const fn action(action: Action) -> pb::GoldAction {
    match action {
        Action::Allow => pb::GoldAction::Allow,
        Action::Pseudonymise => pb::GoldAction::Pseudonymise,
        Action::Refuse => pb::GoldAction::Refuse,
    }
}

fn ruling((ruling, count): (Ruling, u32)) -> pb::GoldRuling {
    pb::GoldRuling {
        class: ruling.class.to_string(),
        count,
        action: action(ruling.action).into(),
        rule: ruling.rule.map(|rule| rule.to_string()).unwrap_or_default(),
    }
}

fn finding(found: Found) -> pb::GoldFinding {
    pb::GoldFinding {
        path: found.place.path,
        line: found.place.line,
        column: found.place.column,
        classes: found.classes.iter().map(ToString::to_string).collect(),
    }
}

fn call(row: homelab_store::GoldCall) -> pb::GoldCall {
    let homelab_store::GoldCall { call, settlement } = row;
    pb::GoldCall {
        job_id: call.job.to_string(),
        attempt: call.attempt,
        at: Some(to_proto(call.at)),
        asker: call.asker.to_string(),
        provider: call.provider.to_string(),
        model: call.model.to_string(),
        bytes: call.bytes,
        digest: hex(&call.digest),
        classes: call.classes,
        rules: call.rules,
        pseudonyms: call.pseudonyms,
        reserved_micros: call.reserved.micros(),
        cost_micros: settlement.map(|settled| settled.cost.micros()),
        outcome: settlement.map(|settled| settled.outcome.to_string()).unwrap_or_default(),
        prompt_tokens: settlement.and_then(|settled| settled.prompt_tokens),
        completion_tokens: settlement.and_then(|settled| settled.completion_tokens),
    }
}
