//! What machines ask: is it alive, is it ready, how is it doing.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use homelab_common::error_chain::Chain;
use homelab_store::Store;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tracing::error;

use super::{
    dashboard::{board::Board, view::Observed},
    gateway::Keys,
    metrics::{CONTENT_TYPE, Metrics, Own},
    server::Remote,
};
use crate::job::Jobs;

/// How long the store may take for a sign of life.
const PING_DEADLINE: Duration = Duration::from_secs(1);

/// What probes are answered from.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) store: Arc<dyn Store>,
    pub(super) board: Arc<Board<Observed>>,
    pub(super) jobs: Jobs,
    pub(super) keys: Keys,
    pub(super) metrics: Arc<Metrics>,
}

impl Probe {
    pub(super) fn routes(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

/// Ready when the store answers: without it nothing can be promised.
async fn ready(State(probe): State<Probe>) -> Response {
    match tokio::time::timeout(PING_DEADLINE, probe.store.ping()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(_)) => (StatusCode::SERVICE_UNAVAILABLE, "the store fails\n").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n").into_response(),
    }
}

/// The figures name hosts and backups: they are for this machine itself, and for those who have a key
/// of the gateway.
async fn metrics(
    State(probe): State<Probe>,
    remote: Option<Extension<Remote>>,
    headers: HeaderMap,
) -> Response {
    let is_here = remote.is_some_and(|Extension(Remote(remote))| remote.ip().is_loopback());
    // A proxy on this machine speaks for others.
    let is_proxied =
        headers.contains_key("x-forwarded-for") || headers.contains_key(header::FORWARDED);
    if (!is_here || is_proxied)
        && let Err(error) = probe.keys.find(&headers)
    {
        return error.into_response();
    }
    let text = match probe.board.snapshot().await {
        Ok((_, observed)) => {
            let own = Own { pages: probe.board.watchers(), live_jobs: probe.jobs.lives().len() };
            probe.metrics.text(&observed.status, own).map_err(|error| Chain(&error).to_string())
        }
        Err(error) => Err(Chain(error.as_ref()).to_string()),
    };
    match text {
        Ok(text) => {
            ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], text).into_response()
        }
        Err(error) => {
            error!(%error, "the figures could not be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
