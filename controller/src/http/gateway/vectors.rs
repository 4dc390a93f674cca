//! `POST /v1/embeddings` and `POST /v1/rerank`: passed to a worker and back unchanged.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, extract::State, response::Response};
use homelab_common::error_chain::Chain;
use homelab_rpc::status::reason_of;
use http::HeaderMap;
use serde::{Deserialize, de::IgnoredAny};
use tonic::Code;
use tracing::warn;

use super::{
    Gateway, body, caller::Caller, chat::json, error::ApiError, head::Known, key::Key, outcome,
};
use crate::job::errand::{Errand, ErrandError, Fetched, ShortCall};

/// How long a person's call may wait and take. Open WebUI and the SDKs wait longer.
const WITHIN: Duration = Duration::from_secs(60);

/// How long what a program asks by itself may.
const WITHIN_BACKGROUND: Duration = Duration::from_secs(10);

/// When a worker that is busy or away is worth another try.
const RETRY: Duration = Duration::from_secs(5);

/// What decides about the way of a call; the rest is the engine's.
#[derive(Deserialize)]
struct Wire {
    model: Option<String>,
    input: Option<Input>,
    query: Option<IgnoredAny>,
    documents: Option<Vec<IgnoredAny>>,
    encoding_format: Option<String>,
}

/// A text, texts, tokens, or lists of tokens.
#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    List(Vec<IgnoredAny>),
}

/// `POST /v1/embeddings`.
pub(super) async fn embed(
    State(gateway): State<Gateway>,
    Known(key): Known,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    fetch(&gateway, &key, &headers, body, Errand::Embed).await
}

/// `POST /v1/rerank`.
pub(super) async fn rerank(
    State(gateway): State<Gateway>,
    Known(key): Known,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    fetch(&gateway, &key, &headers, body, Errand::Rerank).await
}

async fn fetch(
    gateway: &Gateway,
    key: &Arc<Key>,
    headers: &HeaderMap,
    body: Body,
    errand: Errand,
) -> Result<Response, ApiError> {
    let body = body::read(body).await?;
    let model = read(&body, errand)?;
    let mut ticket = gateway.meters.enter(key)?;
    let is_background = Caller::of(headers).is_background;
    let call = ShortCall {
        errand,
        model,
        tiers_allowed: key.tiers.clone(),
        request: body,
        within: if is_background { WITHIN_BACKGROUND } else { WITHIN },
    };
    let Fetched { answer, usage } = gateway.jobs.fetch(call).await.map_err(|error| said(&error))?;
    ticket.costs(usage.and_then(|usage| usage.prompt_tokens).unwrap_or(0).into());
    let mut response = json(answer);
    response.headers_mut().extend(ticket.headers());
    Ok(response)
}

/// The model, if the rest is well-formed.
fn read(body: &[u8], errand: Errand) -> Result<String, ApiError> {
    let wire: Wire = serde_json::from_slice(body)
        .map_err(|_| ApiError::invalid(None, "The body is not a request of this kind as JSON."))?;
    let model = wire.model.filter(|model| !model.is_empty());
    let model = model.ok_or_else(|| ApiError::invalid(Some("model"), "`model` is missing."))?;
    match errand {
        Errand::Embed => {
            let is_empty = match &wire.input {
                None => true,
                Some(Input::Text(text)) => text.is_empty(),
                Some(Input::List(list)) => list.is_empty(),
            };
            if is_empty {
                return Err(ApiError::invalid(Some("input"), "`input` is missing or empty."));
            }
            if !matches!(wire.encoding_format.as_deref(), None | Some("float" | "base64")) {
                let words = "`encoding_format` is `float` or `base64`.";
                return Err(ApiError::invalid(Some("encoding_format"), words));
            }
        }
        Errand::Rerank => {
            if wire.query.is_none() {
                return Err(ApiError::invalid(Some("query"), "`query` is missing."));
            }
            if wire.documents.is_none_or(|documents| documents.is_empty()) {
                return Err(ApiError::invalid(
                    Some("documents"),
                    "`documents` is missing or empty.",
                ));
            }
        }
    }
    Ok(model)
}

fn said(error: &ErrandError) -> ApiError {
    match error {
        ErrandError::Refused(refused) => outcome::of_refusal(refused),
        ErrandError::Away(because) => {
            let code = because.reason.as_str().to_ascii_lowercase();
            ApiError::unavailable(code, outcome::sentence(&because.message), RETRY)
        }
        ErrandError::Busy { .. } => {
            ApiError::unavailable("slots_busy", outcome::sentence(&error.to_string()), RETRY)
        }
        ErrandError::Worker { worker, source } => {
            warn!(%worker, error = %Chain(source.as_ref()), "a short call failed");
            let code = reason_of(source).unwrap_or_else(|| "worker_failed".to_owned());
            let words = outcome::sentence(source.message());
            match source.code() {
                Code::InvalidArgument | Code::FailedPrecondition => ApiError::invalid(None, words),
                Code::Unavailable => ApiError::unavailable(code.to_ascii_lowercase(), words, RETRY),
                _ => ApiError::engine(code.to_ascii_lowercase(), words),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_a_text_texts_or_tokens() {
        for input in [r#""a""#, r#"["a","b"]"#, "[1,2]", "[[1],[2,3]]"] {
            for format in ["", r#","encoding_format":"base64""#, r#","x_new":{}"#] {
                let body = format!(r#"{{"model":"m","input":{input}{format}}}"#);
                assert_eq!(read(body.as_bytes(), Errand::Embed).expect(&body), "m");
            }
        }
        for wrong in [
            r#"{"input":"a"}"#,
            r#"{"model":"m"}"#,
            r#"{"model":"m","input":[]}"#,
            r#"{"model":"m","input":{}}"#,
            r#"{"model":"m","input":"a","encoding_format":"hex"}"#,
            "[]",
        ] {
            assert_eq!(read(wrong.as_bytes(), Errand::Embed).expect_err(wrong).status(), 400);
        }
    }

    #[test]
    fn a_rerank_has_a_query_and_documents() {
        let good = br#"{"model":"m","query":"q","documents":["a",{"text":"b"}],"top_n":1}"#;
        assert_eq!(read(good, Errand::Rerank).expect("is valid"), "m");
        let none = br#"{"model":"m","query":"q","documents":[]}"#;
        assert_eq!(read(none, Errand::Rerank).expect_err("is empty").status(), 400);
    }
}
