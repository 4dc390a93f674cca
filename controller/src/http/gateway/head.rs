//! What stands before every handler: who calls, what for, which page of a list, and what is counted.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path, Query, Request, State},
    middleware::{self, Next},
    response::Response,
    routing::MethodRouter,
};
use http::request::Parts;
use serde::{Deserialize, Serialize};

use super::{Gateway, error::ApiError, key::Key};
use crate::http::metrics::Metrics;

/// Entries on a page for which no size was asked, and most of them.
const PAGE: (u32, u32) = (20, 100);

/// Has a part of the API counted under a name.
pub(super) fn counted(
    metrics: &Arc<Metrics>,
    route: &'static str,
    methods: MethodRouter<Gateway>,
) -> MethodRouter<Gateway> {
    methods.route_layer(middleware::from_fn_with_state((Arc::clone(metrics), route), count))
}

async fn count(
    State((metrics, route)): State<(Arc<Metrics>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    metrics.answered(route, response.status());
    response
}

/// Whose key was shown. Named first by every handler, so that a stranger learns nothing else.
#[derive(Debug)]
pub(super) struct Known(pub(super) Arc<Key>);

impl FromRequestParts<Gateway> for Known {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        gateway.keys.find(&parts.headers).map(Self)
    }
}

/// What a path names at its end.
#[derive(Debug)]
pub(super) struct Id(pub(super) String);

impl FromRequestParts<Gateway> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let found = Path::<String>::from_request_parts(parts, gateway).await;
        found.map(|Path(id)| Self(id)).map_err(|_| ApiError::no_such_path(parts.uri.path()))
    }
}

/// Which page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// Entries after this one.
    pub(super) after: Option<String>,
    limit: Option<u32>,
}

impl FromRequestParts<Gateway> for Wanted {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _gateway: &Gateway) -> Result<Self, ApiError> {
        let wanted = Query::<Self>::try_from_uri(&parts.uri);
        let words = "`limit` is a number, and stands once, as `after` does.";
        wanted.map(|Query(wanted)| wanted).map_err(|_| ApiError::invalid(Some("limit"), words))
    }
}

impl Wanted {
    pub(super) fn limit(&self) -> u32 {
        self.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1)
    }
}

/// One page of a list.
#[derive(Serialize)]
pub(super) struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// A page out of one entry more than fits on it.
pub(super) fn page<T>(mut data: Vec<T>, limit: u32, id: impl Fn(&T) -> String) -> List<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = data.len() > limit;
    data.truncate(limit);
    let (first_id, last_id) = (data.first().map(&id), data.last().map(&id));
    List { object: "list", data, first_id, last_id, has_more }
}
