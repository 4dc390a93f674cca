//! `/v1/files`: what batches are made from, and what came of them.
//!
//! What is given is kept with its key's name, and no other key sees it. The output and the error file
//! of a batch are no rows of their own: they are read line by line from the batch.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use homelab_domain::{
    batch::LineState,
    ids::{BatchId, FileId},
};
use homelab_store::{GivenFile, StoreError};
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Gateway,
    ask::store_failed,
    body,
    error::ApiError,
    head::{Id, Known, Wanted, page},
    key::Key,
    models::json,
    multipart::{self, Part},
};

/// Bytes of all files that one key may keep here.
const KEPT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Longest name of a file, in characters.
const NAME_CHARS_MAX: usize = 200;

/// Results that are read from the store at once.
const RESULTS_MAX: u32 = 100;

/// What a file identifier stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// One that was given.
    Given(FileId),
    /// What came of a batch.
    Made(BatchId, Made),
}

/// Which of a batch's two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// The answers.
    Output,
    /// What has no answer.
    Errors,
}

impl Made {
    pub(super) const fn lines(self) -> LineState {
        match self {
            Self::Output => LineState::Succeeded,
            Self::Errors => LineState::Failed,
        }
    }

    pub(super) fn id(self, batch: BatchId) -> String {
        let which = match self {
            Self::Output => "output",
            Self::Errors => "errors",
        };
        format!("file-{which}-{}", batch.uuid().simple())
    }
}

impl Named {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("file-")?;
        let made = |hex, made| Some(Self::Made(Uuid::try_parse(hex).ok()?.into(), made));
        if let Some(hex) = rest.strip_prefix("output-") {
            return made(hex, Made::Output);
        }
        if let Some(hex) = rest.strip_prefix("errors-") {
            return made(hex, Made::Errors);
        }
        Uuid::try_parse(rest).ok().map(|uuid| Self::Given(uuid.into()))
    }
}

/// As the API writes the identifier of a file that was given.
pub(super) fn shown(id: FileId) -> String {
    format!("file-{}", id.uuid().simple())
}

#[derive(Serialize)]
struct File {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: i64,
    filename: String,
    purpose: String,
    status: &'static str,
}

/// `POST /v1/files`.
pub(super) async fn give(
    State(gateway): State<Gateway>,
    Known(key): Known,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let _ticket = gateway.meters.enter(&key)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(multipart::boundary).ok_or_else(|| {
        ApiError::invalid(None, "Send `multipart/form-data` with the fields `purpose` and `file`.")
    })?;
    let body = body::read(body).await?;
    let parts = multipart::parts(&body, boundary)
        .ok_or_else(|| ApiError::invalid(None, "The form is broken or ends too early."))?;
    let field = |name: &str| parts.iter().find(|part| part.name == name);
    match field("purpose").map(|part| &part.content[..]) {
        Some(b"batch") => {}
        _ => return Err(ApiError::invalid(Some("purpose"), "`purpose` must be `batch`.")),
    }
    let file = field("file").filter(|part| !part.content.is_empty());
    let file =
        file.ok_or_else(|| ApiError::invalid(Some("file"), "`file` is missing or empty."))?;
    Ok(json(&keep(&gateway, &key, file).await?))
}

/// `GET /v1/files`.
pub(super) async fn list(
    State(gateway): State<Gateway>,
    Known(key): Known,
    wanted: Wanted,
) -> Result<Response, ApiError> {
    let after = match wanted.after.as_deref().map(Named::parse) {
        None => None,
        Some(Some(Named::Given(id))) => Some(id),
        Some(_) => return Err(ApiError::invalid(Some("after"), "`after` is no file of a list.")),
    };
    let limit = wanted.limit();
    let files = async {
        let mut tx = gateway.jobs.parts().store.read().await?;
        tx.batches().files(&key.name, after, limit + 1).await
    };
    let files = files.await.map_err(|error| store_failed(&error))?;
    Ok(json(&page(files.iter().map(file_of).collect(), limit, |file: &File| file.id.clone())))
}

/// `GET /v1/files/{id}`.
pub(super) async fn get(
    State(gateway): State<Gateway>,
    Known(key): Known,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let named = named(&id)?;
    let found = async {
        let mut tx = gateway.jobs.parts().store.read().await?;
        Ok::<_, StoreError>(match named {
            Named::Given(id) => tx.batches().file(&key.name, id).await?.as_ref().map(file_of),
            Named::Made(batch, made) => {
                let found = tx.batches().get(batch).await?;
                found.filter(|batch| batch.owner == key.name).map(|batch| File {
                    id: made.id(batch.id),
                    object: "file",
                    bytes: 0,
                    created_at: batch.ended_at.unwrap_or(batch.created_at).as_second(),
                    filename: format!("{}.jsonl", made.id(batch.id)),
                    purpose: "batch_output".to_owned(),
                    status: "processed",
                })
            }
        })
    };
    let found = found.await.map_err(|error| store_failed(&error))?;
    Ok(json(&found.ok_or_else(|| missing(&id))?))
}

/// `GET /v1/files/{id}/content`.
pub(super) async fn content(
    State(gateway): State<Gateway>,
    Known(key): Known,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let body = match named(&id)? {
        Named::Given(given) => {
            let content = async {
                let mut tx = gateway.jobs.parts().store.read().await?;
                tx.batches().content(&key.name, given).await
            };
            let content = content.await.map_err(|error| store_failed(&error))?;
            Body::from(content.ok_or_else(|| missing(&id))?)
        }
        Named::Made(batch, made) => {
            let found =
                async { gateway.jobs.parts().store.read().await?.batches().get(batch).await };
            let found = found.await.map_err(|error| store_failed(&error))?;
            found.filter(|batch| batch.owner == key.name).ok_or_else(|| missing(&id))?;
            results(&gateway, batch, made)
        }
    };
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl"))];
    Ok((kind, body).into_response())
}

/// `DELETE /v1/files/{id}`.
pub(super) async fn remove(
    State(gateway): State<Gateway>,
    Known(key): Known,
    Id(id): Id,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Deleted {
        id: String,
        object: &'static str,
        deleted: bool,
    }
    let Named::Given(given) = named(&id)? else {
        let words = "What came of a batch is dropped with its batch, 30 days after it ended.";
        return Err(ApiError::invalid(None, words));
    };
    let dropped = async {
        let mut tx = gateway.jobs.parts().store.begin().await?;
        let dropped = tx.batches().drop_file(&key.name, given).await?;
        tx.commit().await?;
        Ok::<_, StoreError>(dropped)
    };
    if !dropped.await.map_err(|error| store_failed(&error))? {
        return Err(missing(&id));
    }
    Ok(json(&Deleted { id, object: "file", deleted: true }))
}

fn named(id: &str) -> Result<Named, ApiError> {
    Named::parse(id).ok_or_else(|| missing(id))
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("file `{id}`"))
}

async fn keep(gateway: &Gateway, key: &Key, part: &Part) -> Result<File, ApiError> {
    let bytes = u64::try_from(part.content.len()).unwrap_or(u64::MAX);
    let name = part.file_name.as_deref().unwrap_or("file.jsonl");
    let file = GivenFile {
        id: gateway.new_id().into(),
        owner: key.name.clone(),
        purpose: "batch".to_owned(),
        name: name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect(),
        bytes,
        created_at: gateway.jobs.parts().clock.now(),
    };
    let kept = async {
        let mut tx = gateway.jobs.parts().store.begin().await?;
        if tx.batches().bytes_of(&key.name).await?.saturating_add(bytes) > KEPT_BYTES_MAX {
            return Ok::<_, StoreError>(false);
        }
        tx.batches().add_file(&file, &part.content).await?;
        tx.commit().await?;
        Ok(true)
    };
    if !kept.await.map_err(|error| store_failed(&error))? {
        let words =
            "The files of this key would be more than 256 MiB. Delete those that are not needed.";
        return Err(ApiError::invalid(Some("file"), words));
    }
    Ok(file_of(&file))
}

/// The lines of a file that was made, a few at a time: all together may be larger than memory is.
fn results(gateway: &Gateway, batch: BatchId, made: Made) -> Body {
    let store = Arc::clone(&gateway.jobs.parts().store);
    let pages = stream::unfold(Some(0), move |after| {
        let store = Arc::clone(&store);
        async move {
            let after = after?;
            let read = async {
                let mut tx = store.read().await?;
                tx.batches().results(batch, made.lines(), after, RESULTS_MAX).await
            };
            match read.await {
                Ok(rows) => {
                    let last = rows.last().map(|(line, _)| *line)?;
                    let mut text = Vec::new();
                    for (_, row) in &rows {
                        text.extend_from_slice(row);
                        text.push(b'\n');
                    }
                    Some((Ok::<_, StoreError>(Bytes::from(text)), Some(last)))
                }
                // The connection breaks, so that half a file is not taken for a whole one.
                Err(error) => Some((Err(error), None)),
            }
        }
    });
    Body::from_stream(pages)
}

fn file_of(file: &GivenFile) -> File {
    File {
        id: shown(file.id),
        object: "file",
        bytes: file.bytes,
        created_at: file.created_at.as_second(),
        filename: file.name.clone(),
        purpose: file.purpose.clone(),
        status: "processed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_which_file_it_is() {
        let uuid = Uuid::from_u128(0x0190_a5de_9a2b_7c3d_8e4f_5a6b_7c8d_9e0f);
        assert_eq!(Named::parse(&shown(uuid.into())), Some(Named::Given(uuid.into())));
        for made in [Made::Output, Made::Errors] {
            let id = made.id(uuid.into());
            assert_eq!(Named::parse(&id), Some(Named::Made(uuid.into(), made)));
        }
        for wrong in ["", "file-", "file-output-", "batch_1", "0190a5de9a2b7c3d8e4f5a6b7c8d9e0f"] {
            assert_eq!(Named::parse(wrong), None, "{wrong}");
        }
    }
}
