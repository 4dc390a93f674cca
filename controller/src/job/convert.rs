//! Between the wire and the queue.

use homelab_domain::{
    job::{JobRequest, JobSpec, RequestForm, Usage},
    reason::{Failure, Reason},
};
use homelab_proto::{
    common::v1 as common,
    inference::v1::{
        self as inference, ChatCompleteRequest, ChatCompleteResponse, ChatMessage, CompleteRequest,
        CompleteResponse, chat_complete_response, complete_response,
    },
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
    JobRequest::new(RequestForm::Chat, request.encode_to_vec())
}

/// What a worker is asked for one attempt at a job.
#[derive(Clone, Debug)]
pub enum WorkerRequest {
    /// To answer a chat.
    Chat(ChatCompleteRequest),
    /// To continue a text.
    Completion(CompleteRequest),
}

/// What a worker is sent for one attempt at a job.
#[must_use]
pub fn worker_request(spec: &JobSpec, attempt: u32) -> WorkerRequest {
    let bytes = spec.request.bytes.as_slice();
    let chat = match spec.request.form {
        // What does not decode was not written by us; the worker refuses the empty chat.
        RequestForm::Chat => ChatCompleteRequest::decode(bytes).unwrap_or_default(),
        RequestForm::OpenaiChat => ChatCompleteRequest {
            openai_request: bytes::Bytes::copy_from_slice(bytes),
            ..Default::default()
        },
        RequestForm::OpenaiCompletion => {
            return WorkerRequest::Completion(CompleteRequest {
                model: spec.model.to_string(),
                tokens_max: spec.tokens_max,
                openai_request: bytes::Bytes::copy_from_slice(bytes),
                job_id: spec.id.to_string(),
                attempt,
                ..Default::default()
            });
        }
    };
    WorkerRequest::Chat(ChatCompleteRequest {
        model: spec.model.to_string(),
        tokens_max: spec.tokens_max,
        job_id: spec.id.to_string(),
        attempt,
        ..chat
    })
}

/// A piece of a continued text as one of an answer: they differ in their name only.
#[must_use]
pub fn piece_of_completion(piece: CompleteResponse) -> ChatCompleteResponse {
    let CompleteResponse { event, openai_chunk } = piece;
    let event = event.map(|event| match event {
        complete_response::Event::Delta(delta) => chat_complete_response::Event::Delta(delta),
        complete_response::Event::Done(done) => chat_complete_response::Event::Done(done),
        complete_response::Event::Failure(why) => chat_complete_response::Event::Failure(why),
    });
    ChatCompleteResponse { event, openai_chunk }
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
