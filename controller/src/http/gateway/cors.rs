//! Browsers on other sites: only those that the person has listed.
//!
//! Open WebUI's server calls from no browser and needs none of this; its "direct connections" do.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

/// What such a browser may send.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");

/// What a script may read of an answer beside its body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "retry-after, x-homelab-job, x-request-id, x-should-retry, x-ratelimit-remaining-requests, \
     x-ratelimit-remaining-tokens",
);

/// How long a browser remembers what it was allowed, in seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// Sites whose pages may call, as browsers write them in `Origin`. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Origins(Arc<[HeaderValue]>);

impl Origins {
    /// Those of `list`; what cannot stand in a header is no origin.
    pub fn new(list: impl IntoIterator<Item = String>) -> Self {
        Self(list.into_iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect())
    }

    fn listed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.0.contains(origin).then(|| origin.clone())
    }
}

/// Answers a browser's question whether it may call, and lets scripts of listed sites read.
pub(super) async fn allow(
    State(origins): State<Origins>,
    request: Request,
    next: Next,
) -> Response {
    let asks = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let Some(origin) = origins.listed(request.headers()) else { return next.run(request).await };
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response =
        if asks { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if asks {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        // SDKs send a dozen headers of their own; none of them opens anything without a key.
        if let Some(wanted) = wanted {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        }
    } else {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}
