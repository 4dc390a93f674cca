//! `/v1/batches`: many chats in one file, answered behind everybody else.

pub(super) mod line;
pub(in crate::http) mod runner;

use std::time::Duration;

use axum::{body::Body, extract::State, response::Response};
use homelab_domain::{
    batch::{Batch, BatchState, Tally},
    ids::BatchId,
};
use homelab_store::{BatchLine, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    Gateway,
    ask::store_failed,
    body,
    error::ApiError,
    files::{self, Made, Named},
    head::{Id, Known, Wanted, page},
    key::Key,
    models::json,
};

/// What a line may ask for.
pub(super) const ENDPOINT: &str = "/v1/chat/completions";

/// How long a batch is worked on, the one window that the API knows.
const WINDOW: (&str, Duration) = ("24h", Duration::from_secs(24 * 3_600));

/// Entries of `metadata`, and characters of one.
const METADATA_MAX: (usize, usize) = (16, 512);

/// Open batches of one key.
const OPEN_MAX: usize = 20;

#[derive(Deserialize)]
struct Wish {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    object: &'static str,
    endpoint: String,
    errors: Option<()>,
    input_file_id: String,
    completion_window: &'static str,
    status: String,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: i64,
    in_progress_at: i64,
    expires_at: i64,
    finalizing_at: Option<i64>,
    completed_at: Option<i64>,
    failed_at: Option<i64>,
    expired_at: Option<i64>,
    cancelling_at: Option<i64>,
    cancelled_at: Option<i64>,
    request_counts: Counts,
    metadata: Value,
}

#[derive(Serialize)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

/// As the API writes the identifier of a batch.
fn shown_id(id: BatchId) -> String {
    format!("batch_{}", id.uuid().simple())
}

fn parse_id(text: &str) -> Option<BatchId> {
    Uuid::try_parse(text.strip_prefix("batch_")?).ok().map(Into::into)
}

/// `POST /v1/batches`.
pub(super) async fn create(
    State(gateway): State<Gateway>,
    Known(key): Known,
    body: Body,
) -> Result<Response, ApiError> {
    let _ticket = gateway.meters.enter(&key)?;
    let wish: Wish = serde_json::from_slice(&body::read(body).await?).map_err(|error| {
        ApiError::invalid(None, format!("The body is not a request for a batch: {error}."))
    })?;
    let (batch, lines) = begin(&gateway, &key, wish).await?;
    let kept = keep(&gateway, &batch, &lines).await.map_err(|error| store_failed(&error))?;
    if !kept {
        let words = "20 batches of this key are open already. Wait for one, or cancel one.";
        return Err(ApiError::too_many(words, Duration::from_secs(60)));
    }
    gateway.jobs.parts().driver.nudge(runner::NAME);
    let waiting = u64::try_from(lines.len()).unwrap_or(u64::MAX);
    Ok(json(&shown(&batch, &Tally { waiting, ..Tally::default() })))
}

/// `GET /v1/batches`.
pub(super) async fn list(
    State(gateway): State<Gateway>,
    Known(key): Known,
    wanted: Wanted,
) -> Result<Response, ApiError> {
    let after =
        match wanted.after.as_deref() {
            None => None,
            Some(text) => Some(parse_id(text).ok_or_else(|| {
                ApiError::invalid(Some("after"), "`after` is no batch of a list.")
            })?),
        };
    let limit = wanted.limit();
    let read = async {
        let mut tx = gateway.jobs.parts().store.read().await?;
        let mut rows = Vec::new();
        let batches = tx.batches().list(&key.name, after, limit + 1).await?;
        for batch in batches {
            let tally = tx.batches().tally(batch.id).await?;
            rows.push(shown(&batch, &tally));
        }
        Ok::<_, StoreError>(rows)
    };
    let rows = read.await.map_err(|error| store_failed(&error))?;
    Ok(json(&page(rows, limit, |row: &Shown| row.id.clone())))
}

/// `GET /v1/batches/{id}`.
pub(super) async fn get(
    State(gateway): State<Gateway>,
    Known(key): Known,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let (batch, tally) = find(&gateway, &key, &id).await?;
    Ok(json(&shown(&batch, &tally)))
}

/// `POST /v1/batches/{id}/cancel`.
pub(super) async fn cancel(
    State(gateway): State<Gateway>,
    Known(key): Known,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let (batch, tally) = find(&gateway, &key, &id).await?;
    if batch.state != BatchState::InProgress {
        return Ok(json(&shown(&batch, &tally)));
    }
    let now = gateway.jobs.parts().clock.now();
    let batch = Batch { state: BatchState::Cancelling, cancelling_at: Some(now), ..batch };
    let kept = async {
        let mut tx = gateway.jobs.parts().store.begin().await?;
        tx.batches().update(&batch).await?;
        tx.commit().await
    };
    kept.await.map_err(|error| store_failed(&error))?;
    gateway.jobs.parts().driver.nudge(runner::NAME);
    Ok(json(&shown(&batch, &tally)))
}

/// The batch that is wished for, and its lines out of its file.
async fn begin(
    gateway: &Gateway,
    key: &Key,
    wish: Wish,
) -> Result<(Batch, Vec<BatchLine>), ApiError> {
    if wish.endpoint != ENDPOINT {
        let words = format!("Batches are made of `{ENDPOINT}` only.");
        return Err(ApiError::invalid(Some("endpoint"), words));
    }
    if wish.completion_window != WINDOW.0 {
        return Err(ApiError::invalid(Some("completion_window"), "It must be `24h`."));
    }
    let given = wish.metadata.unwrap_or_default();
    if given.contains_key("tags") {
        let words =
            "`tags` here would change nothing; write them into the `metadata` of each line.";
        return Err(ApiError::invalid(Some("metadata"), words));
    }
    let metadata = metadata(given)?;
    let missing = || ApiError::not_found(format!("file `{}`", wish.input_file_id));
    let Some(Named::Given(input)) = Named::parse(&wish.input_file_id) else {
        return Err(missing());
    };
    let store = &gateway.jobs.parts().store;
    let content = async { store.read().await?.batches().content(&key.name, input).await };
    let content = content.await.map_err(|error| store_failed(&error))?.ok_or_else(missing)?;
    let lines = line::read(&content)?;
    let now = gateway.jobs.parts().clock.now();
    let batch = Batch {
        id: gateway.new_id().into(),
        owner: key.name.clone(),
        tiers: key.tiers.clone(),
        endpoint: wish.endpoint,
        input,
        state: BatchState::InProgress,
        metadata,
        created_at: now,
        expires_at: now.checked_add(WINDOW.1).unwrap_or(now),
        cancelling_at: None,
        ended_at: None,
    };
    Ok((batch, lines))
}

/// Keeps a new batch, unless its key has too many open ones; says whether it did.
async fn keep(gateway: &Gateway, batch: &Batch, lines: &[BatchLine]) -> Result<bool, StoreError> {
    let mut tx = gateway.jobs.parts().store.begin().await?;
    let open = tx.batches().active().await?;
    if open.iter().filter(|other| other.owner == batch.owner).count() >= OPEN_MAX {
        return Ok(false);
    }
    tx.batches().create(batch, lines).await?;
    tx.commit().await?;
    Ok(true)
}

fn metadata(given: Map<String, Value>) -> Result<String, ApiError> {
    let fits = given.len() <= METADATA_MAX.0
        && given.iter().all(|(key, value)| {
            let text = value.as_str();
            key.len() <= 64 && text.is_some_and(|text| text.chars().count() <= METADATA_MAX.1)
        });
    if !fits {
        let words = "At most 16 texts of at most 512 characters, with names of at most 64.";
        return Err(ApiError::invalid(Some("metadata"), words));
    }
    Ok(Value::Object(given).to_string())
}

async fn find(gateway: &Gateway, key: &Key, id: &str) -> Result<(Batch, Tally), ApiError> {
    let missing = || ApiError::not_found(format!("batch `{id}`"));
    let batch = parse_id(id).ok_or_else(missing)?;
    let found = async {
        let mut tx = gateway.jobs.parts().store.read().await?;
        let Some(batch) = tx.batches().get(batch).await? else { return Ok(None) };
        let tally = tx.batches().tally(batch.id).await?;
        Ok::<_, StoreError>(Some((batch, tally)))
    };
    let found = found.await.map_err(|error| store_failed(&error))?;
    found.filter(|(batch, _)| batch.owner == key.name).ok_or_else(missing)
}

fn shown(batch: &Batch, tally: &Tally) -> Shown {
    let ended = |state| batch.ended_at.filter(|_| batch.state == state).map(|at| at.as_second());
    let made =
        |made: Made, lines: u64| (batch.state.is_final() && lines > 0).then(|| made.id(batch.id));
    Shown {
        id: shown_id(batch.id),
        object: "batch",
        endpoint: batch.endpoint.clone(),
        errors: None,
        input_file_id: files::shown(batch.input),
        completion_window: WINDOW.0,
        status: batch.state.to_string(),
        output_file_id: made(Made::Output, tally.succeeded),
        error_file_id: made(Made::Errors, tally.failed),
        created_at: batch.created_at.as_second(),
        in_progress_at: batch.created_at.as_second(),
        expires_at: batch.expires_at.as_second(),
        finalizing_at: ended(BatchState::Completed),
        completed_at: ended(BatchState::Completed),
        failed_at: None,
        expired_at: ended(BatchState::Expired),
        cancelling_at: batch.cancelling_at.map(|at| at.as_second()),
        cancelled_at: ended(BatchState::Cancelled),
        request_counts: Counts {
            total: tally.total(),
            completed: tally.succeeded,
            failed: tally.failed,
        },
        metadata: serde_json::from_str(&batch.metadata).unwrap_or_default(),
    }
}
