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

impl WorkerRequest {
    /// The same, with leave for its model to take the place of others, or without.
    #[must_use]
    pub fn making_room(mut self, make_room: bool) -> Self {
        match &mut self {
            Self::Chat(request) => request.make_room = make_room,
            Self::Completion(request) => request.make_room = make_room,
        }
        self
    }
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
        energy_millijoules: usage.energy_joules.and_then(millijoules),
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
        energy_joules: usage.energy_millijoules.map(joules),
    }
}

/// Joules of a meter as a whole number of thousandths; none for what no meter says.
fn millijoules(joules: f64) -> Option<u64> {
    // Watt-seconds are taken for seconds, whose thousandths the standard library counts exactly.
    let thousandths = Duration::try_from_secs_f64(joules).ok()?.as_millis();
    u64::try_from(thousandths).ok()
}

/// The same for the wire.
#[must_use]
pub fn joules(millijoules: u64) -> f64 {
    Duration::from_millis(millijoules).as_secs_f64()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_used_is_kept_to_the_thousandth_of_a_joule() {
        let measured = inference::Usage { energy_joules: Some(35.2154), ..Default::default() };
        let kept = usage_from_proto(measured);
        assert_eq!(kept.energy_millijoules, Some(35_215));
        assert_eq!(usage_to_proto(kept).energy_joules, Some(35.215));
        for nonsense in [None, Some(-1.0), Some(f64::NAN), Some(f64::INFINITY)] {
            let usage = inference::Usage { energy_joules: nonsense, ..Default::default() };
            assert_eq!(usage_from_proto(usage).energy_millijoules, None, "{nonsense:?}");
        }
    }

    #[test]
    fn what_was_kept_before_energy_was_is_read_all_the_same() {
        let kept: Usage = serde_json::from_str(
            r#"{"prompt_tokens":1,"completion_tokens":2,"prompt_elapsed":null,"completion_elapsed":null}"#,
        )
        .expect("is understood");
        assert_eq!((kept.completion_tokens, kept.energy_millijoules), (Some(2), None));
    }
}
