//! `RunbookService`: proposals by jobs and people, decisions by people.

use async_trait::async_trait;
use homelab_domain::{
    ids::{JobId, RunbookId},
    job::JobStateKind,
    runbook::{Decision, Runbook, RunbookState, RunbookVerdict, Undecided},
};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::{
    guard::request_id,
    node::to_proto,
    peer::Peer,
    status::{Failure, Reason, fail},
};
use homelab_store::Decided;
use jiff::Timestamp;
use pb::{propose_runbook_request::Source, runbook_service_server::RunbookService};
use tonic::{Code, Request, Response, Status};

use super::status::IntoStatus as _;
use crate::{
    ca::issue::hex,
    documents::{
        Documents,
        runbooks::{Proposal, ProposeError},
    },
    job::Jobs,
};

const RUNBOOK_NOT_FOUND: Reason = Reason::named("RUNBOOK_NOT_FOUND");
const RUNBOOK_CHANGED: Reason = Reason::named("RUNBOOK_CHANGED");
const RUNBOOK_REJECTED: Reason = Reason::named("RUNBOOK_REJECTED");
const JOB_HAS_NO_ANSWER: Reason = Reason::named("JOB_HAS_NO_ANSWER");

/// Runbooks of a page that asks for none in particular, and at most.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 1_000;

/// Longest reason of a decision, in bytes.
const REASON_BYTES_MAX: usize = 1_000;

/// Runbooks, over gRPC.
#[derive(Clone, Debug)]
pub struct RunbookApi {
    documents: Documents,
    jobs: Jobs,
}

impl RunbookApi {
    /// Serves the runbooks among `documents`; answers come from `jobs`.
    #[must_use]
    pub const fn new(documents: Documents, jobs: Jobs) -> Self {
        Self { documents, jobs }
    }

    /// The answer of a job that has succeeded.
    async fn answer(&self, id: &str, call: &str) -> Result<(JobId, String), Status> {
        let id: JobId = id.parse().map_err(|error| invalid("job_id", &error))?;
        let found = self.jobs.get(id).await.map_err(|error| error.into_status(call))?;
        let Some((job, _)) = found else {
            let message =
                format!("there is no job {id}; `labctl job list` shows those that there are");
            return Err(fail(Code::NotFound, Reason::JOB_NOT_FOUND, message));
        };
        let answer = self.jobs.answer(id).await.map_err(|error| error.into_status(call))?;
        if job.state().kind() != JobStateKind::Succeeded || answer.is_empty() {
            let message = format!(
                "job {id} has no answer: it is {}, or its text was not kept; see `labctl job show {id}`",
                job.state().kind()
            );
            return Err(fail(Code::FailedPrecondition, JOB_HAS_NO_ANSWER, message));
        }
        Ok((id, answer))
    }

    async fn find(&self, id: &str, call: &str) -> Result<Runbook, Status> {
        let id: RunbookId = id.parse().map_err(|error| invalid("runbook_id", &error))?;
        let found = self.documents.runbook(id).await.map_err(|error| error.into_status(call))?;
        found.ok_or_else(|| not_found(id))
    }

    fn now(&self) -> Timestamp {
        self.jobs.parts().clock.now()
    }
}

#[async_trait]
impl RunbookService for RunbookApi {
    async fn propose_runbook(
        &self,
        request: Request<pb::ProposeRunbookRequest>,
    ) -> Result<Response<pb::ProposeRunbookResponse>, Status> {
        let (by, call) = (caller(&request), request_id(&request).to_owned());
        let request = request.into_inner();
        let id = request.request_id.parse().map_err(|error| invalid("request_id", &error))?;
        let (text, from_job) = match request.source {
            Some(Source::Text(text)) => (text, None),
            Some(Source::JobId(job)) => {
                let (job, answer) = self.answer(&job, &call).await?;
                (answer, Some(job))
            }
            None => return Err(invalid("source", &"give a text or a job")),
        };
        let proposed = self.documents.propose(Proposal { id, text, by, from_job }).await;
        let runbook = proposed.map_err(|error| match error {
            ProposeError::Text(error) => {
                let message = format!("the text is no runbook: {error}");
                Failure::invalid(message).field("text", error.to_string()).into()
            }
            ProposeError::OtherRequest(_) => invalid("request_id", &error),
            ProposeError::Store(error) => error.into_status(&call),
        })?;
        Ok(Response::new(pb::ProposeRunbookResponse { runbook: Some(shown(&runbook)) }))
    }

    async fn list_runbooks(
        &self,
        request: Request<pb::ListRunbooksRequest>,
    ) -> Result<Response<pb::ListRunbooksResponse>, Status> {
        let call = request_id(&request).to_owned();
        let request = request.into_inner();
        let state = match pb::RunbookState::try_from(request.state) {
            Ok(pb::RunbookState::Unspecified) => None,
            Ok(pb::RunbookState::Proposed) => Some(RunbookState::Proposed),
            Ok(pb::RunbookState::Approved) => Some(RunbookState::Approved),
            Ok(pb::RunbookState::Rejected) => Some(RunbookState::Rejected),
            Err(error) => return Err(invalid("state", &error)),
        };
        let limit = match u32::try_from(request.page_size) {
            Ok(0) => PAGE,
            Ok(size) => size.min(PAGE_MAX),
            Err(_) => return Err(invalid("page_size", &"it is negative")),
        };
        let before = Some(request.page_token.as_str()).filter(|token| !token.is_empty());
        let before = before.map(str::parse::<RunbookId>).transpose();
        let before = before.map_err(|_| invalid("page_token", &"it is not of an answer before"))?;
        // One more than is shown says whether there is a next page.
        let mut all = self
            .documents
            .runbooks(state, before, limit + 1)
            .await
            .map_err(|error| error.into_status(&call))?;
        let is_last = all.len() <= limit as usize;
        all.truncate(limit as usize);
        let last = all.last().filter(|_| !is_last);
        let next_page_token = last.map(|runbook| runbook.id.to_string()).unwrap_or_default();
        let row = |runbook: &Runbook| pb::Runbook { steps: Vec::new(), ..shown(runbook) };
        let runbooks = all.iter().map(row).collect();
        Ok(Response::new(pb::ListRunbooksResponse { runbooks, next_page_token }))
    }

    async fn get_runbook(
        &self,
        request: Request<pb::GetRunbookRequest>,
    ) -> Result<Response<pb::GetRunbookResponse>, Status> {
        let call = request_id(&request).to_owned();
        let runbook = self.find(&request.get_ref().runbook_id, &call).await?;
        let text = runbook.text.to_string();
        Ok(Response::new(pb::GetRunbookResponse { runbook: Some(shown(&runbook)), text }))
    }

    async fn decide_runbook(
        &self,
        request: Request<pb::DecideRunbookRequest>,
    ) -> Result<Response<pb::DecideRunbookResponse>, Status> {
        let (by, call) = (caller(&request), request_id(&request).to_owned());
        let request = request.into_inner();
        if request.reason.len() > REASON_BYTES_MAX {
            return Err(invalid("reason", &"at most 1,000 bytes are kept"));
        }
        let id = self.find(&request.runbook_id, &call).await?.id;
        let rule = "64 hexadecimal digits, as `labctl runbook show` prints them";
        let digest = digest(&request.digest).ok_or_else(|| invalid("digest", &rule))?;
        let verdict =
            if request.approve { RunbookVerdict::Approve } else { RunbookVerdict::Reject };
        let decision = Decision { verdict, by, at: self.now(), reason: request.reason };
        let decided = self.documents.decide(id, digest, decision).await;
        match decided.map_err(|error| error.into_status(&call))? {
            Decided::Stands(runbook) => {
                Ok(Response::new(pb::DecideRunbookResponse { runbook: Some(shown(&runbook)) }))
            }
            Decided::NotFound => Err(not_found(id)),
            Decided::Refused(why) => {
                let reason = match why {
                    Undecided::OtherText => RUNBOOK_CHANGED,
                    Undecided::Rejected => RUNBOOK_REJECTED,
                };
                Err(fail(Code::FailedPrecondition, reason, why.to_string()))
            }
        }
    }
}

/// The caller's SPIFFE id; the guard has let in nobody without one.
fn caller<T>(request: &Request<T>) -> String {
    request.extensions().get::<Peer>().map_or_else(|| "stranger".to_owned(), ToString::to_string)
}

fn invalid(field: &'static str, error: &dyn std::fmt::Display) -> Status {
    Failure::invalid(format!("`{field}` is not valid: {error}"))
        .field(field, error.to_string())
        .into()
}

fn not_found(id: RunbookId) -> Status {
    let message =
        format!("there is no runbook {id}; `labctl runbook list` shows those that there are");
    fail(Code::NotFound, RUNBOOK_NOT_FOUND, message)
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (index, byte) in digest.iter_mut().enumerate().filter(|_| is_hex) {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    is_hex.then_some(digest)
}

fn shown(runbook: &Runbook) -> pb::Runbook {
    let decision = runbook.decision.as_ref();
    let state = match runbook.state() {
        RunbookState::Proposed => pb::RunbookState::Proposed,
        RunbookState::Approved => pb::RunbookState::Approved,
        RunbookState::Rejected => pb::RunbookState::Rejected,
    };
    pb::Runbook {
        runbook_id: runbook.id.to_string(),
        title: runbook.text.title().to_owned(),
        purpose: runbook.text.purpose().to_owned(),
        steps: runbook.text.steps().to_vec(),
        state: state.into(),
        digest: hex(&runbook.digest),
        proposed_by: runbook.proposed_by.clone(),
        proposed_at: Some(to_proto(runbook.proposed_at)),
        from_job: runbook.from_job.map(|job| job.to_string()).unwrap_or_default(),
        decided_by: decision.map(|decision| decision.by.clone()).unwrap_or_default(),
        decided_at: decision.map(|decision| to_proto(decision.at)),
        decision_reason: decision.map(|decision| decision.reason.clone()).unwrap_or_default(),
    }
}
