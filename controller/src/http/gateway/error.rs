//! Errors in the shape that OpenAI clients read: always the four keys `message`, `type`, `param`
//! and `code`, because SDKs index them without asking whether they are there.

use std::{borrow::Cow, fmt, time::Duration};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use homelab_domain::allowance::{Exhausted, Refusal};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// One refusal or failure of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Cow<'static, str>,
    message: String,
    param: Option<&'static str>,
    retry: Retry,
    headers: Option<Box<HeaderMap>>,
}

/// What the client is told about trying again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Retry {
    /// Nothing: the client goes by the status.
    #[default]
    Unsaid,
    /// Not by itself: the request may have had an effect, or will fail again.
    Never,
    /// After this long.
    After(Duration),
    /// Not by itself, and by a person not before this long.
    LaterByHand(Duration),
}

/// What the gateway serves, for those who ask for something else.
const SERVED: &str = "The gateway serves /v1/models, /v1/chat/completions, /v1/responses, /v1/completions, \
                      /v1/embeddings, /v1/rerank, /v1/files and /v1/batches.";

/// The longest that SDKs wait by themselves.
const SDK_WAIT_MAX: Duration = Duration::from_secs(120);

impl ApiError {
    /// 400: the request itself is wrong in `param`.
    pub fn invalid(param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_request", message)
            .about(param)
    }

    /// 401: no key, or one that is not known.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    }

    /// 403: the key is known and may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", "tier_not_allowed", message)
            .about(Some("model"))
    }

    /// 404: no tier has the model.
    pub fn model_not_found(model: &str) -> Self {
        let message =
            format!("The model `{model}` is in no tier. `GET /v1/models` lists those that are.");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message)
            .about(Some("model"))
    }

    /// 404: no such path.
    pub fn no_such_path(path: &str) -> Self {
        let message = format!("There is no `{path}` here. {SERVED}");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_url", message)
    }

    /// 405: the path is there, with another method.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            "method_not_allowed",
            message,
        )
    }

    /// 403: the key is known and may not do `what`.
    pub fn not_allowed(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", code, message)
    }

    /// 404: there is no such thing as `what` for this key.
    pub fn not_found(what: impl fmt::Display) -> Self {
        let message = format!("There is no {what}.");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
    }

    /// 409: an idempotency key was used for another request.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "invalid_request_error", "idempotency_conflict", message)
            .never_retry()
    }

    /// 413: the body is larger than is read.
    pub fn too_large(bytes_max: usize) -> Self {
        let message = format!("The request is larger than {} MiB.", bytes_max / (1024 * 1024));
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            "request_too_large",
            message,
        )
    }

    /// 429: the queue is full.
    pub fn too_many(message: impl Into<String>, after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", message)
            .retry_after(after)
    }

    /// 429: a limit of the key is used up.
    pub fn used_up(refusal: &Refusal) -> Self {
        // The words by which SDKs and their users tell "wait a little" from "that was all".
        let (kind, code) = match refusal.exhausted {
            Exhausted::Requests | Exhausted::AtOnce => ("requests", "rate_limit_exceeded"),
            Exhausted::Tokens => ("tokens", "rate_limit_exceeded"),
            Exhausted::Budget => ("insufficient_quota", "insufficient_quota"),
        };
        let message = format!("The limit is reached: {refusal}.");
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, kind, code, message);
        let after = refusal.retry_after;
        if after > SDK_WAIT_MAX { error.by_hand_after(after) } else { error.retry_after(after) }
    }

    /// 500: our fault; the log has the chain under the request's id.
    pub fn internal() -> Self {
        let message = "The gateway failed. The log of homelab-controller says why, under the id in `x-request-id`.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message)
            .never_retry()
    }

    /// 501: part of the API, and not built.
    pub fn not_built(missing: &str) -> Self {
        let message = format!("{missing} is not built yet. {SERVED}");
        Self::new(StatusCode::NOT_IMPLEMENTED, "invalid_request_error", "not_built_yet", message)
            .never_retry()
    }

    /// 502: the engine failed; `code` is the stable reason of the job.
    pub fn engine(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "server_error", code, message).never_retry()
    }

    /// 503: every attempt that the queue makes has been made; one more by hand may help later.
    pub fn unreachable(
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        after: Duration,
    ) -> Self {
        Self::unavailable(code, message, after).by_hand_after(after)
    }

    /// 503: cannot be taken now.
    pub fn unavailable(
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        after: Duration,
    ) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", code, message).retry_after(after)
    }

    /// 504: waited as long as a request may; sending it again would only queue it twice.
    pub fn waited_too_long(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", "queued_too_long", message)
            .never_retry()
    }

    /// The body: `{"error":{...}}`.
    #[must_use]
    pub fn body(&self) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: &'a str,
        }
        let body = Body {
            error: Inner {
                message: &self.message,
                r#type: self.kind,
                param: self.param,
                code: &self.code,
            },
        };
        serde_json::to_vec(&body).map_or_else(
            |_| {
                Bytes::from_static(
                    br#"{"error":{"message":"","type":"server_error","param":null,"code":null}}"#,
                )
            },
            Bytes::from,
        )
    }

    /// What is wrong, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Status that it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn new(
        status: StatusCode,
        kind: &'static str,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            kind,
            code: code.into(),
            message: message.into(),
            param: None,
            retry: Retry::Unsaid,
            headers: None,
        }
    }

    /// The same with more headers.
    #[must_use]
    pub fn with_headers(self, headers: HeaderMap) -> Self {
        Self { headers: Some(Box::new(headers)), ..self }
    }

    fn by_hand_after(self, after: Duration) -> Self {
        Self { retry: Retry::LaterByHand(after), ..self }
    }

    fn about(self, param: Option<&'static str>) -> Self {
        Self { param, ..self }
    }

    fn never_retry(self) -> Self {
        Self { retry: Retry::Never, ..self }
    }

    fn retry_after(self, after: Duration) -> Self {
        Self { retry: Retry::After(after), ..self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(more) = self.headers {
            headers.extend(*more);
        }
        if matches!(self.retry, Retry::Never | Retry::LaterByHand(_)) {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Retry::After(after) | Retry::LaterByHand(after) = self.retry {
            // Rounded up: who comes back a moment too early is refused again.
            let seconds = after.as_millis().div_ceil(1_000).max(1);
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)),
            );
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_four_keys() {
        for error in
            [ApiError::unauthorized("no"), ApiError::model_not_found("x\"y"), ApiError::internal()]
        {
            let body: serde_json::Value = serde_json::from_slice(&error.body()).expect("is JSON");
            let keys: Vec<_> =
                body["error"].as_object().expect("an object").keys().map(String::as_str).collect();
            assert_eq!(keys, ["code", "message", "param", "type"]);
        }
    }

    #[test]
    fn a_busy_gateway_says_when_to_come_back() {
        let response = ApiError::too_many("full", Duration::from_secs(7)).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "7");
        assert!(!response.headers().contains_key("x-should-retry"));
    }

    #[test]
    fn what_may_have_had_an_effect_is_not_retried_by_the_client() {
        let response = ApiError::waited_too_long("waited").into_response();
        assert_eq!(response.headers()["x-should-retry"], "false");
    }
}
