//! The body of a request, within bounds.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;

use super::error::ApiError;
use crate::job::submission::REQUEST_BYTES_MAX;

/// How long the body of a request may take to arrive.
const DEADLINE: Duration = Duration::from_secs(60);

/// Reads all of it.
///
/// # Errors
/// 413: more than 16 MiB. 400: it broke off, or took longer than 60 s.
pub(super) async fn read(body: Body) -> Result<Bytes, ApiError> {
    let reading = axum::body::to_bytes(body, REQUEST_BYTES_MAX);
    match tokio::time::timeout(DEADLINE, reading).await {
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
