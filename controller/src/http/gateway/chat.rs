//! `POST /v1/chat/completions`.
//!
//! Whoever streams gets headers at once, then comments while the job waits, then the engine's own
//! chunks byte for byte. Whoever does not stream waits for the whole. Either way the connection is
//! the job's life line: when the last client of a job has gone, it is cancelled.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use homelab_common::{chance, error_chain::Chain};
use homelab_domain::{
    ids::JobId,
    job::{JobRequest, Record, RequestForm},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::digest;
use tokio::time::Instant;
use tracing::error;
use uuid::Uuid;

use super::{
    Gateway,
    answer::Answer,
    client::Client,
    error::ApiError,
    key::Caller,
    outcome,
    request::{self, ChatRequest, Delivery},
    tale::Tale,
};
use crate::job::{
    Accepted, SubmitError,
    follow::{FollowError, Follower, Told},
    submission::{REQUEST_BYTES_MAX, Submission},
};

/// How long the body of a request may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// How long a request that does not stream may wait for its turn. The SDKs give up after 600 s and
/// would send it again.
const QUEUED_MAX: Duration = Duration::from_secs(580);

/// When a full queue is worth another try.
const FULL_RETRY: Duration = Duration::from_secs(30);

/// When a busy store is.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// Longest `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Priority of what Open WebUI asks by itself (titles, tags), below that of people.
const BACKGROUND_PRIORITY: u32 = 20;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const RECORD: HeaderName = HeaderName::from_static("x-homelab-record");
const JOB: HeaderName = HeaderName::from_static("x-homelab-job");
const TASK: HeaderName = HeaderName::from_static("x-lab-task");
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Headers that only Open WebUI sends: when it forwards who its user is, or when the connection was
/// set up as our manual says.
const OPEN_WEBUI: [&str; 4] =
    ["x-openwebui-user-id", "x-openwebui-user-jwt", "x-openwebui-chat-id", "x-lab-chat"];

/// Answers a chat.
pub(super) async fn complete(State(gateway): State<Gateway>, request: Request) -> Response {
    let metrics = Arc::clone(&gateway.metrics);
    let response = match answer(gateway, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    metrics.answered("chat/completions", response.status());
    response
}

async fn answer(gateway: Gateway, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let caller = gateway.caller(&parts.headers)?;
    let body = read_body(body).await?;
    let chat = request::read(&body)?;
    let submission = submission(&gateway, &caller, &parts.headers, &chat, &body)?;
    let id = submission.id;
    let accepted = gateway.jobs.submit(submission).await.map_err(refused)?;
    if accepted.repeated {
        same_request(&accepted, &body)?;
    }
    let client = Client::join(&gateway.jobs, &accepted.follower, &caller.name);
    let mut response = match chat.delivery {
        Delivery::Whole => whole(accepted.follower, client).await?,
        Delivery::Stream { usage } => {
            let is_open_webui = OPEN_WEBUI.iter().any(|name| parts.headers.contains_key(*name));
            let tale = Tale::new(accepted, client, usage, is_open_webui);
            streamed(tale)
        }
    };
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(JOB, value);
    }
    Ok(response)
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    let reading = axum::body::to_bytes(body, REQUEST_BYTES_MAX);
    match tokio::time::timeout(BODY_DEADLINE, reading).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_too_large(&error) => Err(ApiError::too_large(REQUEST_BYTES_MAX)),
        Ok(Err(_)) => Err(ApiError::invalid(None, "The body broke off.")),
        Err(_) => Err(ApiError::invalid(None, "The body took longer than 60 s to arrive.")),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn submission(
    gateway: &Gateway,
    caller: &Caller,
    headers: &HeaderMap,
    chat: &ChatRequest,
    body: &Bytes,
) -> Result<Submission, ApiError> {
    let is_background = headers.get(TASK).is_some_and(|task| !task.is_empty());
    let record = match headers.get(RECORD).map(HeaderValue::as_bytes) {
        None | Some(b"full") => Record::Full,
        Some(b"metadata") => Record::Metadata,
        Some(_) => {
            return Err(ApiError::invalid(None, "`X-Homelab-Record` is `full` or `metadata`."));
        }
    };
    Ok(Submission {
        id: job_id(gateway, caller, headers)?,
        model: chat.model.clone(),
        tier: None,
        tiers_allowed: caller.tiers.clone(),
        request: JobRequest { form: RequestForm::OpenaiChat, bytes: body.to_vec() },
        title: chat.title.clone(),
        priority: is_background.then_some(BACKGROUND_PRIORITY),
        deadline: None,
        tokens_max: None,
        record,
        submitted_by: format!("key/{}", caller.name),
    })
}

/// A new id, or the one that belongs to the client's idempotency key.
fn job_id(gateway: &Gateway, caller: &Caller, headers: &HeaderMap) -> Result<JobId, ApiError> {
    let parts = gateway.jobs.parts();
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(chance::uuid_v7(parts.clock.as_ref(), parts.chance.as_ref()).into());
    };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return Err(ApiError::invalid(None, "`Idempotency-Key` is 1 to 255 characters."));
    }
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [b"homelab gateway job".as_slice(), caller.name.as_bytes(), key.as_bytes()] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let hash = context.finish();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    // Version 8 (RFC 9562 §5.8): a UUID by a rule of our own.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(Uuid::from_bytes(bytes).into())
}

fn same_request(accepted: &Accepted, body: &Bytes) -> Result<(), ApiError> {
    let before = &accepted.job.spec().request.bytes;
    if before.is_empty() {
        return Err(ApiError::conflict(
            "The request with this `Idempotency-Key` has ended and its text was not kept. Send a new key.",
        ));
    }
    if before != body {
        return Err(other_request());
    }
    Ok(())
}

fn other_request() -> ApiError {
    ApiError::conflict("This `Idempotency-Key` was used for another request. Send a new key.")
}

fn refused(error: SubmitError) -> ApiError {
    match error {
        SubmitError::Refused(refused) => outcome::of_refusal(&refused),
        SubmitError::OtherRequest(_) => other_request(),
        SubmitError::Full { .. } => ApiError::too_many(error.to_string(), FULL_RETRY),
        SubmitError::Store(source) => {
            error!(error = %Chain(&source), "could not store a job of the gateway");
            ApiError::unavailable(
                "store_busy",
                "The queue could not be written to. Try again.",
                STORE_RETRY,
            )
        }
    }
}

async fn whole(mut follower: Follower, mut client: Client) -> Result<Response, ApiError> {
    let mut answer = Answer::default();
    let mut has_started = false;
    let turn_due = Instant::now() + QUEUED_MAX;
    let stopping = client.jobs().parts().tasks.stopping();
    loop {
        let told = tokio::select! {
            told = follower.next() => told,
            () = stopping.cancelled(), if !has_started => return Err(outcome::stopping()),
            () = tokio::time::sleep_until(turn_due), if !has_started => {
                return Err(ApiError::waited_too_long(
                    "The request has waited 580 s for its turn and was taken out of the queue. Stream, or submit a job with `labctl job submit`.",
                ));
            }
        };
        match told {
            Ok(Some(Told::Piece(piece))) => {
                has_started = true;
                answer.add(&piece.openai_chunk).map_err(|error| {
                    ApiError::engine(
                        "engine_garbage",
                        format!("The engine's answer cannot be read: {error}."),
                    )
                })?;
            }
            Ok(Some(Told::State(event))) => has_started |= event.state.is_owned(),
            Ok(Some(Told::Restarted(_))) => answer = Answer::default(),
            Ok(Some(Told::Ended(job))) => {
                client.is_served();
                outcome::of_end(&job)?;
                let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
                return Ok((json, answer.finish()).into_response());
            }
            Ok(None) => return Err(ApiError::internal()),
            Err(error) => return Err(lost(&error)),
        }
    }
}

fn lost(error: &FollowError) -> ApiError {
    error!(error = %Chain(error), "could not follow a job of the gateway");
    ApiError::internal()
}

fn streamed(tale: Tale) -> Response {
    let frames = stream::unfold(tale, |mut tale| async {
        let frame = tale.next().await?;
        Some((Ok::<_, Infallible>(frame), tale))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // A proxy that collects events before it passes them on would hold back every word.
        (BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(frames)).into_response()
}
