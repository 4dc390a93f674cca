//! `POST /v1/completions`: a text to be continued, by the older API that editors still use.
//!
//! It goes the way of a chat: the same queue, the same life line, the same limits.

use axum::{body::Body, extract::State, response::Response};
use http::HeaderMap;

use super::{
    Gateway, answer::Answer, ask, body, chat, error::ApiError, head::Known,
    request::read_completion,
};

/// Answers.
pub(super) async fn create(
    State(gateway): State<Gateway>,
    Known(key): Known,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = body::read(body).await?;
    let question = read_completion(&body)?;
    let asked = ask::ask(&gateway, &key, &headers, &question, &body).await?;
    chat::answer(asked, &question, Answer::finish_text).await
}
