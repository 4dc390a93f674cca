//! Between the wire and the queue.

use homelab_domain::{
    job::{JobRequest, JobSpec, RequestForm, Usage},
    reason::{Failure, Reason},
};
use homelab_proto::{
    common::v1 as common,
    inference::v1::{self as inference, ChatCompleteRequest, ChatMessage},
};
use prost::Message as _;
use std::time::Duration;

/// For an engine that failed in a way that has no name of its own.
#[must_use]
pub fn engine_failed() -> Reason {
    Reason::try_new("ENGINE_FAILED").unwrap_or(Reason::MODEL_FAILED)
}

/// Messages of the protocol as a request that can be stored.
#[must_use]
pub fn request_from_messages(messages: Vec<ChatMessage>) -> JobRequest {
    let request = ChatCompleteRequest { messages, ..Default::default() };
    JobRequest { form: RequestForm::Chat, bytes: request.encode_to_vec() }
}

/// What a worker is sent for one attempt at a job.
#[must_use]
pub fn chat_request(spec: &JobSpec, attempt: u32) -> ChatCompleteRequest {
    let bytes = spec.request.bytes.as_slice();
    let request = match spec.request.form {
        // What does not decode was not written by us; the worker refuses the empty chat.
        RequestForm::Chat => ChatCompleteRequest::decode(bytes).unwrap_or_default(),
        RequestForm::OpenaiChat => ChatCompleteRequest {
            openai_request: bytes::Bytes::copy_from_slice(bytes),
            ..Default::default()
        },
    };
    ChatCompleteRequest {
        model: spec.model.to_string(),
        tokens_max: spec.tokens_max,
        job_id: spec.id.to_string(),
        attempt,
        ..request
    }
}

/// What an answer cost, from the wire.
#[must_use]
pub fn usage_from_proto(usage: inference::Usage) -> Usage {
    let span =
        |span: Option<prost_types::Duration>| span.and_then(|span| Duration::try_from(span).ok());
    Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        prompt_elapsed: span(usage.prompt_elapsed),
        completion_elapsed: span(usage.completion_elapsed),
    }
}

/// What an answer cost, for the wire.
#[must_use]
pub fn usage_to_proto(usage: Usage) -> inference::Usage {
    let span =
        |span: Option<Duration>| span.and_then(|span| prost_types::Duration::try_from(span).ok());
    inference::Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        prompt_elapsed: span(usage.prompt_elapsed),
        completion_elapsed: span(usage.completion_elapsed),
        // A worker measures it; jobs do not keep it.
        energy_joules: None,
    }
}

/// A worker's own words for why it broke off.
#[must_use]
pub fn failure_from_proto(failure: common::Failure) -> Failure {
    Failure {
        reason: Reason::try_new(failure.reason).unwrap_or_else(|_| engine_failed()),
        message: failure.message,
        retryable: failure.retryable,
    }
}
