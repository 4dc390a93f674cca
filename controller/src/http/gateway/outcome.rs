//! What became of a job, as an OpenAI client is told.

use std::time::Duration;

use homelab_domain::{
    job::{Job, JobState},
    reason::Reason,
};

use super::error::ApiError;
use crate::job::submission::Refused;

/// When a worker that is not there is worth another try by hand; the queue has made its own.
const WORKER_RETRY: Duration = Duration::from_secs(30);

/// When a controller that stops is probably back.
const STOPPING_RETRY: Duration = Duration::from_secs(10);

/// Why a request does not become a job.
pub(super) fn of_refusal(refused: &Refused) -> ApiError {
    match refused {
        Refused::NoPlace { model, because }
            if because.reason == Reason::MODEL_NOT_FOUND && !model.is_empty() =>
        {
            ApiError::model_not_found(model)
        }
        Refused::NoPlace { because, .. }
            if [Reason::GOLD_REFUSED, Reason::LOCAL_ONLY].contains(&because.reason) =>
        {
            ApiError::forbidden(sentence(&refused.to_string()))
        }
        Refused::NoPlace { .. } => ApiError::invalid(Some("model"), sentence(&refused.to_string())),
        Refused::TierNotAllowed(_) => ApiError::forbidden(sentence(&refused.to_string())),
        Refused::Field { .. } => ApiError::invalid(None, sentence(&refused.to_string())),
    }
}

/// The controller stops before the job's turn has come.
pub(super) fn stopping() -> ApiError {
    ApiError::unavailable(
        "stopping",
        "The controller is stopping. Try again in a moment.",
        STOPPING_RETRY,
    )
}

/// Whether a job that has ended has an answer.
pub(super) fn of_end(job: &Job) -> Result<(), ApiError> {
    let because = job.state().because();
    let code = because.reason.as_str().to_ascii_lowercase();
    let message = sentence(&because.message);
    match job.state() {
        JobState::Succeeded { .. } => Ok(()),
        JobState::Failed { failure, .. } => Err(match failure.reason.as_str() {
            // The engine read the request and did not like it: too long, or malformed.
            "ENGINE_REFUSED" | "INVALID_REQUEST" => ApiError::invalid(None, message),
            "GOLD_REFUSED" | "LOCAL_ONLY" | "GOLD_BUDGET_EXHAUSTED" => ApiError::forbidden(message),
            "MODEL_NOT_FOUND" => ApiError::model_not_found(job.spec().model.as_str()),
            "WORKER_UNREACHABLE" | "HOST_UNREACHABLE" => {
                ApiError::unreachable(code, message, WORKER_RETRY)
            }
            _ => ApiError::engine(code, message),
        }),
        JobState::Expired { .. } => Err(ApiError::waited_too_long(message)),
        _ => Err(ApiError::engine(code, message)),
    }
}

/// With a capital and a full stop, as the API's own messages have.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    let mut sentence: String = first.chain(chars).collect();
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}
