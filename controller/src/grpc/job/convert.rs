//! Jobs between the wire and the queue.

use std::time::Duration;

use bytes::Bytes;
use homelab_domain::{
    job::{
        Job, JobClass, JobEvent, JobRequest, JobState, JobStateKind, Record, RequestForm, Terms,
    },
    placement::Explanation,
    site::Tier,
};
use homelab_proto::{common::v1 as common, controller::v1 as pb, inference::v1 as inference};
use homelab_rpc::{node, status::Failure};
use homelab_store::Piece;
use tonic::Status;

use super::{super::context, invalid};
use crate::{
    http::gateway::request::{self, shorten},
    job::{
        convert::{joules, request_from_messages, usage_to_proto},
        engines::{Contact, WorkerSeen},
        forecast::QueueForecast,
        models::TierModel,
        submission::Submission,
    },
};

/// Every tier: a person with a certificate may use all.
const ALL_TIERS: [Tier; 3] = [Tier::Bronze, Tier::Silver, Tier::Gold];

pub(super) fn submission(
    request: pb::SubmitJobRequest,
    caller: String,
) -> Result<Submission, Status> {
    let tier = tier_from(request.tier)?;
    let record = match pb::JobRecord::try_from(request.record) {
        Ok(pb::JobRecord::Unspecified | pb::JobRecord::Full) => Record::Full,
        Ok(pb::JobRecord::Metadata) => Record::Metadata,
        Err(error) => return Err(invalid("record", error)),
    };
    let deadline = request
        .deadline
        .as_ref()
        .map(|at| node::from_proto(at).ok_or_else(|| invalid("deadline", "it is no moment")));
    let deadline = deadline.transpose()?;
    let id = request.request_id.parse().map_err(|error| invalid("request_id", error))?;
    let terms = terms(&request)?;
    let (title, asked) = what(request.messages, request.openai_request)?;
    Ok(Submission {
        id,
        model: request.model,
        tier,
        tiers_allowed: ALL_TIERS.to_vec(),
        request: asked,
        title,
        priority: request.priority,
        deadline,
        tokens_max: request.tokens_max,
        record,
        terms,
        submitted_by: caller,
    })
}

fn terms(request: &pb::SubmitJobRequest) -> Result<Terms, Status> {
    let class = match pb::JobClass::try_from(request.class) {
        Ok(pb::JobClass::Unspecified | pb::JobClass::Interactive) => JobClass::Interactive,
        Ok(pb::JobClass::Batch) => JobClass::Batch,
        Ok(pb::JobClass::Background) => JobClass::Background,
        Err(error) => return Err(invalid("class", error)),
    };
    let latest_start = request
        .latest_start
        .as_ref()
        .map(|at| node::from_proto(at).ok_or_else(|| invalid("latest_start", "it is no moment")));
    let kept_for = request.kept_for.map(|time| {
        Duration::try_from(time).map_err(|_| invalid("kept_for", "it is no span of time"))
    });
    let after = request.after.iter().map(|id| id.parse().map_err(|error| invalid("after", error)));
    Ok(Terms {
        class,
        chat: Some(request.chat.clone()).filter(|chat| !chat.is_empty()),
        tags: request.tags.clone(),
        latest_start: latest_start.transpose()?,
        after: after.collect::<Result<_, _>>()?,
        kept_for: kept_for.transpose()?,
    })
}

/// What will be done with one queue.
pub(crate) fn queue_plan(forecast: QueueForecast) -> pb::QueuePlan {
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let span = |span: Option<Duration>| span.and_then(|span| span.try_into().ok());
    pb::QueuePlan {
        tier: tier(forecast.tier).into(),
        model: forecast.model.to_string(),
        waiting: narrow(forecast.queued.jobs()),
        interactive: narrow(forecast.queued.interactive),
        running: forecast.running,
        slots: forecast.slots,
        decision: forecast.decision,
        reasons: forecast.reasons,
        wake: forecast.wake.map(|host| host.to_string()).unwrap_or_default(),
        expected_wait: span(forecast.expected_wait),
        expected_end: span(forecast.expected_end),
        next_job_id: forecast.next.map(|id| id.to_string()).unwrap_or_default(),
    }
}

const fn class(class: JobClass) -> pb::JobClass {
    match class {
        JobClass::Interactive => pb::JobClass::Interactive,
        JobClass::Batch => pb::JobClass::Batch,
        JobClass::Background => pb::JobClass::Background,
    }
}

fn what(
    messages: Vec<inference::ChatMessage>,
    openai_request: Bytes,
) -> Result<(String, JobRequest), Status> {
    if !openai_request.is_empty() {
        if !messages.is_empty() {
            let rule = "give either `messages` or `openai_request`";
            return Err(Failure::invalid(rule).field("messages", rule).into());
        }
        let title = match request::read(&openai_request) {
            Ok(request) => request.title,
            Err(error) => return Err(invalid("openai_request", error.message())),
        };
        let bytes = openai_request.to_vec();
        return Ok((title, JobRequest::new(RequestForm::OpenaiChat, bytes)));
    }
    let Some(last) = messages.last() else {
        return Err(invalid(
            "messages",
            "there is nothing to answer; give messages or openai_request",
        ));
    };
    if messages.iter().any(|message| message.role() == inference::ChatRole::Unspecified) {
        return Err(invalid("messages", "a message does not say who said it"));
    }
    Ok((shorten(&last.content), request_from_messages(messages)))
}

pub(super) fn states(request: &pb::ListJobsRequest) -> Result<Vec<JobStateKind>, Status> {
    let state = |number: &i32| match pb::JobState::try_from(*number) {
        Ok(pb::JobState::Queued) => Ok(JobStateKind::Queued),
        Ok(pb::JobState::Waiting) => Ok(JobStateKind::Waiting),
        Ok(pb::JobState::Assigned) => Ok(JobStateKind::Assigned),
        Ok(pb::JobState::Running) => Ok(JobStateKind::Running),
        Ok(pb::JobState::Succeeded) => Ok(JobStateKind::Succeeded),
        Ok(pb::JobState::Failed) => Ok(JobStateKind::Failed),
        Ok(pb::JobState::Cancelled) => Ok(JobStateKind::Cancelled),
        Ok(pb::JobState::Expired) => Ok(JobStateKind::Expired),
        Ok(pb::JobState::Unspecified) | Err(_) => {
            Err(invalid("states", format!("{number} is no state")))
        }
    };
    request.states.iter().map(state).collect()
}

/// A job as it stands, without its answer.
pub(crate) fn job(job: &Job) -> pb::Job {
    let spec = job.spec();
    let terms = &spec.terms;
    let because = job.state().because();
    let end = job.state().end();
    let started_at = match job.state() {
        JobState::Running { started_at, .. } => Some(*started_at),
        _ => end.and_then(|end| end.started_at),
    };
    let worker = job.state().lease().map(|lease| &lease.worker).or_else(|| end?.worker.as_ref());
    let (usage, failure) = match job.state() {
        JobState::Succeeded { usage, .. } => (Some(*usage), None),
        JobState::Failed { usage, failure, .. } => (Some(*usage), Some(failure)),
        _ => (None, None),
    };
    pb::Job {
        job_id: job.id().to_string(),
        state: state(job.state().kind()).into(),
        reason: because.reason.to_string(),
        message: because.message,
        model: spec.model.to_string(),
        tier: tier(spec.tier).into(),
        priority: spec.priority.get(),
        submitted_by: spec.submitted_by.clone(),
        submitted_at: Some(node::to_proto(spec.submitted_at)),
        started_at: started_at.map(node::to_proto),
        finished_at: end.map(|end| node::to_proto(end.at)),
        deadline: spec.deadline.map(node::to_proto),
        attempts: job.attempts().given,
        worker: worker.map(ToString::to_string).unwrap_or_default(),
        usage: usage.map(usage_to_proto),
        failure: failure.map(|failure| common::Failure {
            reason: failure.reason.to_string(),
            message: failure.message.clone(),
            retryable: failure.retryable,
        }),
        answer: String::new(),
        title: spec.title.clone(),
        class: class(terms.class).into(),
        chat: terms.chat.clone().unwrap_or_default(),
        tags: terms.tags.clone(),
        latest_start: terms.latest_start.map(node::to_proto),
        after: terms.after.iter().map(ToString::to_string).collect(),
        kept_for: terms.kept_for.and_then(|time| time.try_into().ok()),
        citations: context::citations(spec.request.attached.as_deref()),
    }
}

/// With what was used for it by the readings of its host, where its worker has no meter that said so.
pub(crate) fn with_energy(job: pb::Job, read_millijoules: Option<u64>) -> pb::Job {
    let usage = match (job.usage, read_millijoules.map(joules)) {
        (Some(usage), read) => {
            let energy_joules = usage.energy_joules.or(read);
            Some(inference::Usage { energy_joules, ..usage })
        }
        (None, None) => None,
        (None, read) => Some(inference::Usage { energy_joules: read, ..Default::default() }),
    };
    pb::Job { usage, ..job }
}

pub(crate) fn event(event: &JobEvent) -> pb::JobEvent {
    pb::JobEvent {
        at: Some(node::to_proto(event.at)),
        state: state(event.state).into(),
        reason: event.reason.to_string(),
        message: event.message.clone(),
        attempt: event.attempt,
        worker: event.worker.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

pub(crate) fn explanation(explanation: Explanation) -> pb::JobExplanation {
    pb::JobExplanation {
        decision: explanation.decision,
        reasons: explanation.reasons,
        destinations: explanation.destinations,
        position: explanation.position.map(|position| u32::try_from(position).unwrap_or(u32::MAX)),
        expected_wait: explanation.expected_wait.and_then(|wait| wait.try_into().ok()),
        outside: Vec::new(),
    }
}

pub(super) fn watch_state(told: &JobEvent) -> pb::WatchJobResponse {
    watch(pb::watch_job_response::Event::State(event(told)), Bytes::new())
}

pub(super) fn watch_piece(piece: &Piece, attempt: u32) -> pb::WatchJobResponse {
    let delta = inference::ChatDelta {
        content: piece.content.clone(),
        reasoning: piece.reasoning.clone(),
        index: piece.index,
    };
    let message =
        watch(pb::watch_job_response::Event::Delta(delta), piece.openai_chunk.clone().into());
    pb::WatchJobResponse { attempt, ..message }
}

pub(super) fn watch_restarted(attempt: u32) -> pb::WatchJobResponse {
    watch(pb::watch_job_response::Event::RestartedAttempt(attempt), Bytes::new())
}

pub(super) fn watch_end(job: pb::Job) -> pb::WatchJobResponse {
    watch(pb::watch_job_response::Event::Job(job), Bytes::new())
}

pub(super) fn tier_model(model: &TierModel) -> pb::TierModel {
    pb::TierModel {
        name: model.name.to_string(),
        tier: tier(model.tier).into(),
        worker: model.worker.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: model.state.into(),
        asleep: model.contact == Some(Contact::Asleep),
        context_tokens: model.context_tokens,
        default_of_tier: model.is_default,
    }
}

pub(crate) fn worker(seen: &WorkerSeen) -> pb::WorkerStatus {
    pb::WorkerStatus {
        host: seen.host.to_string(),
        tier: tier(seen.tier).into(),
        connected: seen.contact == Contact::Connected,
        last_seen_at: seen.last_seen_at.map(node::to_proto),
        worker: seen.worker.as_deref().cloned(),
        message: seen.message.clone(),
    }
}

fn watch(event: pb::watch_job_response::Event, openai_chunk: Bytes) -> pb::WatchJobResponse {
    pb::WatchJobResponse { event: Some(event), openai_chunk, attempt: 0 }
}

fn state(kind: JobStateKind) -> pb::JobState {
    match kind {
        JobStateKind::Queued => pb::JobState::Queued,
        JobStateKind::Waiting => pb::JobState::Waiting,
        JobStateKind::Assigned => pb::JobState::Assigned,
        JobStateKind::Running => pb::JobState::Running,
        JobStateKind::Succeeded => pb::JobState::Succeeded,
        JobStateKind::Failed => pb::JobState::Failed,
        JobStateKind::Cancelled => pb::JobState::Cancelled,
        JobStateKind::Expired => pb::JobState::Expired,
    }
}

fn tier(tier: Tier) -> pb::Tier {
    match tier {
        Tier::Bronze => pb::Tier::Bronze,
        Tier::Silver => pb::Tier::Silver,
        Tier::Gold => pb::Tier::Gold,
    }
}

fn tier_from(number: i32) -> Result<Option<Tier>, Status> {
    match pb::Tier::try_from(number) {
        Ok(pb::Tier::Unspecified) => Ok(None),
        Ok(pb::Tier::Bronze) => Ok(Some(Tier::Bronze)),
        Ok(pb::Tier::Silver) => Ok(Some(Tier::Silver)),
        Ok(pb::Tier::Gold) => Ok(Some(Tier::Gold)),
        Err(error) => Err(invalid("tier", error)),
    }
}
