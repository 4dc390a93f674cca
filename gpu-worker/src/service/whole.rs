//! Answers one caller in one piece.

use std::time::Duration;

use bytes::Bytes;
use homelab_common::error_chain::Chain;
use homelab_rpc::{
    guard::UNARY_MAX,
    status::{Failure, Reason},
};
use tokio::time;
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::{
    convert::{self, ChatRequest, reason},
    energy::Energy,
    engine::stream::AnswerError,
    worker::{Admission, NotWoken},
};

/// How long the model may take to be loaded: the answer has to come before the deadline
/// of every unary call, and loading goes on after it.
const LOAD_WAIT: Duration = UNARY_MAX.saturating_sub(Duration::from_secs(20));

/// When to ask again for a model that is being loaded.
const LOAD_RETRY: Duration = Duration::from_secs(5);

/// The engine's JSON, and the joules that it took.
pub(super) async fn run(
    admission: Admission,
    energy: &Energy,
    request: ChatRequest,
) -> Result<(Bytes, Option<f64>), Status> {
    let (session, permit) = match admission {
        Admission::Ready(session, permit) => (session, permit),
        Admission::AfterLoad(waiting) => match time::timeout(LOAD_WAIT, waiting.admitted()).await {
            Ok(admitted) => admitted.map_err(|error| not_woken(&error))?,
            Err(_) => return Err(still_loading(&request.model)),
        },
    };
    let used = energy.begin(session.devices()).await;
    let (job, attempt, path) =
        (request.ask.job.clone(), request.ask.attempt, request.ask.api.path());
    match session.whole(permit, request.ask).await {
        Ok(answer) => {
            info!(model = %request.model, %job, attempt, path, bytes = answer.len(), "answered");
            Ok((answer, used.joules().await))
        }
        Err(error) => {
            let reason = convert::classify(&error).0;
            warn!(model = %request.model, %job, attempt, path, reason, "an answer broke off");
            Err(broken(&request.model, &error))
        }
    }
}

/// The engine answered, but not what was asked for.
pub(super) fn garbled(model: &str, error: &serde_json::Error) -> Status {
    let message = format!(
        "the answer of `{model}` cannot be understood: {}; look at the engine's version",
        Chain(error)
    );
    Failure::new(Code::Internal, Reason::named(reason::ANSWER_GARBLED), message).into()
}

fn broken(model: &str, error: &AnswerError) -> Status {
    let (reason, is_retryable) = convert::classify(error);
    let code = match reason {
        reason::ENGINE_REFUSED if !is_retryable => Code::InvalidArgument,
        reason::ANSWER_GARBLED => Code::Internal,
        _ => Code::Unavailable,
    };
    let message = convert::failure(model, error).message;
    let failure = Failure::new(code, Reason::named(reason), message).with("model", model);
    if is_retryable { failure.retry_after(LOAD_RETRY).into() } else { failure.into() }
}

fn not_woken(error: &NotWoken) -> Status {
    let (reason, is_retryable) = convert::classify_not_woken(error);
    let code = if is_retryable { Code::Unavailable } else { Code::FailedPrecondition };
    let failure = Failure::new(code, Reason::named(reason), error.to_string());
    if is_retryable { failure.retry_after(LOAD_RETRY).into() } else { failure.into() }
}

fn still_loading(model: &str) -> Status {
    let message = format!("`{model}` is being loaded; ask again");
    Failure::new(Code::Unavailable, Reason::ENGINE_NOT_READY, message)
        .with("model", model)
        .retry_after(LOAD_RETRY)
        .into()
}
