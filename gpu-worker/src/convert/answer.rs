//! What a caller is told, piece by piece and at the end.

use bytes::Bytes;
use homelab_common::error_chain::Chain;
use homelab_proto::{common::v1 as common, inference::v1 as pb};
use homelab_rpc::status::Reason;

use super::Form;
use crate::{
    engine::{
        chunk::{Chunk, EngineError},
        http::HttpError,
        stream::{AnswerError, Ending},
    },
    worker::{NotWoken, Refusal},
};

/// One piece of an answer; `None` when it holds nothing for this form.
pub fn delta(chunk: Chunk, index: u32, form: Form) -> Option<pb::ChatCompleteResponse> {
    let openai_chunk = match form {
        Form::Typed if chunk.content.is_empty() && chunk.reasoning.is_empty() => return None,
        Form::Typed => Bytes::new(),
        Form::Json => chunk.raw,
    };
    let delta = pb::ChatDelta { content: chunk.content, reasoning: chunk.reasoning, index };
    Some(pb::ChatCompleteResponse {
        event: Some(pb::chat_complete_response::Event::Delta(delta)),
        openai_chunk,
    })
}

/// The end of a complete answer.
pub fn done(ending: Ending, energy_joules: Option<f64>) -> pb::ChatCompleteResponse {
    let Ending { finish_reason, usage } = ending;
    let usage = pb::Usage { energy_joules, ..usage.into() };
    let done = pb::ChatDone { finish_reason, usage: Some(usage) };
    pb::ChatCompleteResponse {
        event: Some(pb::chat_complete_response::Event::Done(done)),
        openai_chunk: Bytes::new(),
    }
}

/// The end of a broken answer. For a caller with JSON the engine's own error, where
/// it gave one, stands beside it.
pub fn failed(model: &str, error: &AnswerError, form: Form) -> pb::ChatCompleteResponse {
    let raw = match (form, engine_error(error)) {
        (Form::Json, Some(said)) => said.raw.clone(),
        _ => Bytes::new(),
    };
    pb::ChatCompleteResponse {
        event: Some(pb::chat_complete_response::Event::Failure(failure(model, error))),
        openai_chunk: raw,
    }
}

/// The end of a request that waited for its model in vain.
pub fn not_woken(error: &NotWoken) -> pb::ChatCompleteResponse {
    let (reason, retryable) = classify_not_woken(error);
    let next = if retryable { "ask again" } else { "see InferenceService.GetWorker" };
    let message = format!("{error}; {next}");
    let failure = common::Failure { reason: reason.to_owned(), message, retryable };
    pb::ChatCompleteResponse {
        event: Some(pb::chat_complete_response::Event::Failure(failure)),
        openai_chunk: Bytes::new(),
    }
}

/// The reason of a request that waited in vain, and whether asking again may help.
pub fn classify_not_woken(error: &NotWoken) -> (&'static str, bool) {
    match error {
        NotWoken::NotLoaded { failure, .. } => (reason::MODEL_NOT_LOADED, failure.is_retryable),
        NotWoken::Refused(Refusal::Busy { .. }) => (Reason::SLOTS_BUSY.as_str(), true),
        NotWoken::Refused(_) => (Reason::ENGINE_NOT_READY.as_str(), true),
    }
}

/// Stable reasons of broken answers.
pub mod reason {
    /// The engine's process ended or was killed because it hung.
    pub const ENGINE_CRASHED: &str = "ENGINE_CRASHED";
    /// The engine does not answer although its process runs.
    pub const ENGINE_UNREACHABLE: &str = "ENGINE_UNREACHABLE";
    /// The engine says that the request is wrong.
    pub const ENGINE_REFUSED: &str = "ENGINE_REFUSED";
    /// The engine says that it failed.
    pub const ENGINE_FAILED: &str = "ENGINE_FAILED";
    /// The engine has said nothing for too long.
    pub const ENGINE_SILENT: &str = "ENGINE_SILENT";
    /// The connection to the engine broke.
    pub const ANSWER_CUT: &str = "ANSWER_CUT";
    /// The engine's answer cannot be understood.
    pub const ANSWER_GARBLED: &str = "ANSWER_GARBLED";
    /// The caller does not read.
    pub const CALLER_TOO_SLOW: &str = "CALLER_TOO_SLOW";
    /// Another model would have to make room and still answers.
    pub const ENGINE_BUSY: &str = "ENGINE_BUSY";
    /// The model could not be loaded.
    pub const MODEL_NOT_LOADED: &str = "MODEL_NOT_LOADED";
}

/// The reason of a broken answer, and whether asking again may help.
pub fn classify(error: &AnswerError) -> (&'static str, bool) {
    use reason::*;
    match error {
        AnswerError::EngineEnded { .. } => (ENGINE_CRASHED, true),
        AnswerError::Start(HttpError::Refused { status, .. }) => by_status(status.as_u16()),
        AnswerError::Start(_) => (ENGINE_UNREACHABLE, true),
        AnswerError::Engine(said) => by_status(said.code.unwrap_or(500)),
        AnswerError::Silent { .. } => (ENGINE_SILENT, true),
        AnswerError::Cut(_) | AnswerError::Unfinished => (ANSWER_CUT, true),
        AnswerError::NotAStream { .. } | AnswerError::Events(_) | AnswerError::Garbage(_) => {
            (ANSWER_GARBLED, false)
        }
    }
}

fn by_status(status: u16) -> (&'static str, bool) {
    match status {
        408 | 429 => (reason::ENGINE_REFUSED, true),
        // 501: what the engine cannot do it will not be able to do later.
        400..=499 | 501 => (reason::ENGINE_REFUSED, false),
        _ => (reason::ENGINE_FAILED, true),
    }
}

/// A broken answer in words.
pub fn failure(model: &str, error: &AnswerError) -> common::Failure {
    let (reason, retryable) = classify(error);
    let next = match (reason, retryable) {
        (_, true) => "ask again",
        (reason::ENGINE_REFUSED, false) => "correct the request",
        _ => "look at the engine's log and version",
    };
    common::Failure {
        reason: reason.to_owned(),
        message: format!("the answer of `{model}` broke off: {}; {next}", Chain(error)),
        retryable,
    }
}

fn engine_error(error: &AnswerError) -> Option<&EngineError> {
    match error {
        AnswerError::Start(HttpError::Refused { error, .. }) | AnswerError::Engine(error) => {
            Some(error)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn only_json_callers_get_chunks_without_text() {
        let empty = || Chunk { raw: Bytes::from_static(b"{}"), ..Chunk::default() };
        assert_eq!(delta(empty(), 0, Form::Typed), None);
        assert_eq!(delta(empty(), 0, Form::Json).unwrap().openai_chunk, "{}");
        let text = Chunk { content: "a".into(), ..empty() };
        assert!(delta(text, 0, Form::Typed).unwrap().openai_chunk.is_empty());
    }

    #[test]
    fn a_refusal_reaches_the_caller_in_the_engines_words() {
        let raw = Bytes::from_static(br#"{"error":{"code":400,"message":"too long"}}"#);
        let said = EngineError {
            code: Some(400),
            kind: String::new(),
            message: "too long".into(),
            raw: raw.clone(),
        };
        let refused = HttpError::Refused { status: StatusCode::BAD_REQUEST, error: said };
        let answer = failed("small", &AnswerError::Start(refused), Form::Json);
        assert_eq!(answer.openai_chunk, raw);
        let Some(pb::chat_complete_response::Event::Failure(failure)) = answer.event else {
            panic!("{answer:?}");
        };
        assert_eq!((failure.reason.as_str(), failure.retryable), ("ENGINE_REFUSED", false));
        assert_eq!(
            failure.message,
            "the answer of `small` broke off: the engine did not take the request: the engine \
             refused with status 400 Bad Request: the engine says: too long; correct the request"
        );
    }

    #[test]
    fn an_engine_that_died_is_worth_asking_again() {
        let error = AnswerError::EngineEnded { because: "it was killed".into() };
        assert_eq!(classify(&error), ("ENGINE_CRASHED", true));
    }
}
