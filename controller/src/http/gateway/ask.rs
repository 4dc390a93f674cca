//! From a request of any dialect to a job in the queue.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use homelab_common::{chance, error_chain::Chain};
use homelab_domain::{
    ids::JobId,
    job::{JobClass, JobRequest, Record, Terms},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::digest;
use tracing::error;
use uuid::Uuid;

use super::{
    Gateway,
    caller::Caller,
    client::Client,
    context,
    error::ApiError,
    key::Key,
    outcome,
    repeat::Sent,
    request::{Delivery, Question},
};
use crate::documents::{attach::asked, sha256};
use crate::job::{Accepted, SubmitError, submission::Submission};

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

/// A request that has become a job, and the client that waits for it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) accepted: Accepted,
    pub(super) client: Client,
    pub(super) caller: Caller,
}

/// Has the queue take a request. `request` is what the engine is sent.
///
/// # Errors
/// What the client did wrong, what it has used up, or why the queue does not take it.
pub(super) async fn ask(
    gateway: &Gateway,
    key: &Arc<Key>,
    headers: &HeaderMap,
    question: &Question,
    request: &Bytes,
) -> Result<Asked, ApiError> {
    let ticket = gateway.meters.enter(key)?;
    let caller = Caller::of(headers);
    let sent = match question.delivery {
        Delivery::Whole if !headers.contains_key(&IDEMPOTENCY_KEY) => Sent::of(headers),
        Delivery::Whole | Delivery::Stream { .. } => Sent::Once,
    };
    let before = (sent == Sent::Again)
        .then(|| gateway.repeats.find(&key.name, question.form, request))
        .flatten();
    let id = match before {
        Some(id) => id,
        None => job_id(gateway, key, headers)?,
    };
    let mut submission = submission(id, key, &caller, headers, question, request)?;
    let wish = question.context.clone().or_else(|| context::of_headers(headers));
    // A title needs no documents, whatever its connection asks for.
    let wish = wish.filter(|_| !caller.is_background);
    submission.request = context::attach(gateway, key, wish, submission.request).await?;
    let repeat =
        (sent != Sent::Once).then(|| gateway.repeats.keep(&key.name, question.form, request, id));
    let mut client = Client::join(&gateway.jobs, id, key.submitter(), ticket, repeat);
    let submitted = gateway.jobs.submit(submission).await.map_err(refused);
    let accepted = submitted.and_then(|accepted| same_request(accepted, question, request));
    // Who is refused is told so; no job of its own is left to cancel.
    let accepted = accepted.inspect_err(|_| client.is_served())?;
    Ok(Asked { accepted, client, caller })
}

/// The headers that tell which job it is and what the key has left.
pub(super) fn headers_of(asked: &Asked) -> HeaderMap {
    let mut headers = asked.client.ticket().headers();
    if let Ok(value) = HeaderValue::from_str(&asked.accepted.job.id().to_string()) {
        headers.insert(JOB, value);
    }
    headers
}

fn submission(
    id: JobId,
    key: &Key,
    caller: &Caller,
    headers: &HeaderMap,
    question: &Question,
    request: &Bytes,
) -> Result<Submission, ApiError> {
    let record = match headers.get(&RECORD).map(HeaderValue::as_bytes) {
        None | Some(b"full") => Record::Full,
        Some(b"metadata") => Record::Metadata,
        Some(_) => {
            return Err(ApiError::invalid(None, "`X-Homelab-Record` is `full` or `metadata`."));
        }
    };
    Ok(Submission {
        id,
        model: question.model.clone(),
        tier: None,
        tiers_allowed: key.tiers.clone(),
        request: JobRequest::new(question.form, request.to_vec()),
        title: question.title.clone(),
        priority: caller.is_background.then_some(BACKGROUND_PRIORITY),
        deadline: None,
        tokens_max: None,
        record,
        terms: terms(caller),
        submitted_by: key.submitter(),
    })
}

fn terms(caller: &Caller) -> Terms {
    let class = if caller.is_background { JobClass::Background } else { JobClass::Interactive };
    Terms { class, chat: caller.chat.clone(), ..Terms::default() }
}

/// A new id, or the one that belongs to the client's idempotency key.
fn job_id(gateway: &Gateway, key: &Key, headers: &HeaderMap) -> Result<JobId, ApiError> {
    let Some(given) = headers.get(&IDEMPOTENCY_KEY) else {
        return Ok(gateway.new_id().into());
    };
    if given.is_empty() || given.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return Err(ApiError::invalid(None, "`Idempotency-Key` is 1 to 255 characters."));
    }
    let parts = [b"homelab gateway job".as_slice(), key.name.as_bytes(), given.as_bytes()];
    Ok(derived_id(&parts).into())
}

/// The id that belongs to `parts`, always the same one.
pub(super) fn derived_id(parts: &[&[u8]]) -> Uuid {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let hash = context.finish();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    // Version 8 (RFC 9562 §5.8): a UUID by a rule of our own.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid::from_bytes(bytes)
}

impl Gateway {
    /// An id that nobody has.
    pub(super) fn new_id(&self) -> Uuid {
        let parts = self.jobs.parts();
        chance::uuid_v7(parts.clock.as_ref(), parts.chance.as_ref())
    }
}

/// A job that was there before must be for the same request.
fn same_request(
    accepted: Accepted,
    question: &Question,
    request: &Bytes,
) -> Result<Accepted, ApiError> {
    if !accepted.repeated {
        return Ok(accepted);
    }
    let before = &accepted.job.spec().request;
    if before.bytes.is_empty() {
        return Err(ApiError::conflict(
            "The request with this `Idempotency-Key` has ended and its text was not kept. Send a new key.",
        ));
    }
    if before.form != question.form || asked(before) != sha256(&[request]) {
        return Err(other_request());
    }
    Ok(accepted)
}

fn other_request() -> ApiError {
    ApiError::conflict("This `Idempotency-Key` was used for another request. Send a new key.")
}

/// Why the queue does not take a job.
pub(super) fn refused(error: SubmitError) -> ApiError {
    match error {
        SubmitError::Refused(refused) => outcome::of_refusal(&refused),
        SubmitError::OtherRequest(_) => other_request(),
        SubmitError::Full(_) => ApiError::too_many(error.to_string(), FULL_RETRY),
        SubmitError::Store(source) => store_failed(&source),
    }
}

/// The store could not be asked.
pub(super) fn store_failed(source: &homelab_store::StoreError) -> ApiError {
    error!(error = %Chain(source), "the store failed under the gateway");
    ApiError::unavailable("store_busy", "The store could not be used. Try again.", STORE_RETRY)
}
