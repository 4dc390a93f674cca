//! The OpenAI-compatible gateway on top of the queue of jobs.
//!
//! What is not built answers 501 by name, never a 404 that looks like a typing error. A browser on
//! another site is answered only when the person has listed that site.

mod answer;
mod ask;
pub(super) mod batches;
mod body;
pub mod caller;
mod chat;
mod client;
mod completions;
mod context;
pub mod cors;
pub mod error;
mod files;
pub mod frame;
mod head;
pub mod key;
pub mod meter;
mod models;
mod multipart;
mod outcome;
mod person;
mod repeat;
pub mod request;
mod responses;
mod router;
mod tale;
mod vectors;
mod whole;

use std::sync::{Arc, PoisonError, RwLock};

use axum::{
    Router, middleware,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use homelab_common::{error_chain::Chain, secret::Secret};
use http::{HeaderMap, Uri, header};
use jiff::Timestamp;
use tracing::warn;

use self::{
    batches::runner::Runner,
    cors::Origins,
    error::ApiError,
    key::{Key, KeyRing},
    meter::Meters,
    repeat::Repeats,
};
use crate::{documents::Documents, http::metrics::Metrics, job::Jobs};

/// Parts of the OpenAI API that are not built.
const NOT_BUILT: [&str; 8] = [
    "responses/{*rest}",
    "moderations",
    "audio/{*rest}",
    "images/{*rest}",
    "fine_tuning/{*rest}",
    "assistants",
    "threads",
    "uploads",
];

/// The gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    jobs: Jobs,
    documents: Documents,
    keys: Keys,
    meters: Meters,
    repeats: Repeats,
    metrics: Arc<Metrics>,
    started_at: Timestamp,
}

/// The keys that count now; exchanged when the file is read again. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Keys(Arc<RwLock<KeyRing>>);

impl Keys {
    /// Begins with `ring`.
    #[must_use]
    pub fn new(ring: KeyRing) -> Self {
        Self(Arc::new(RwLock::new(ring)))
    }

    /// Takes over a new file.
    pub fn replace(&self, ring: KeyRing) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    /// The key of that name, if it still counts.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<Key>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).named(name)
    }

    fn all(&self) -> Vec<Arc<Key>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).all().collect()
    }

    /// Who calls, by the key in `Authorization`. A key in the address is never read: addresses are
    /// written into logs on the way.
    ///
    /// # Errors
    /// 401: there is none, or it is not known.
    pub fn find(&self, headers: &HeaderMap) -> Result<Arc<Key>, ApiError> {
        let ring = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(key.trim().to_owned()))
        });
        let Some(shown) = shown else {
            return Err(ApiError::unauthorized(
                "No API key was sent. Send `Authorization: Bearer <key>`; keys in the address are not read.",
            ));
        };
        if ring.is_empty() {
            return Err(ApiError::unauthorized(
                "The gateway has no keys. Name a keys file in `gateway.keys` of controller.toml.",
            ));
        }
        let key = ring.find(shown.expose());
        key.ok_or_else(|| ApiError::unauthorized("The API key is not known to this gateway."))
    }
}

impl Gateway {
    /// A gateway to `jobs`, which may be given `documents`, for those who have one of `keys`.
    #[must_use]
    pub fn new(jobs: Jobs, documents: Documents, keys: Keys, metrics: Arc<Metrics>) -> Self {
        let parts = jobs.parts();
        let started_at = parts.clock.now();
        let meters =
            Meters::new(Arc::clone(&parts.clock), Arc::clone(&parts.store), parts.tasks.clone());
        Self { jobs, documents, keys, meters, repeats: Repeats::default(), metrics, started_at }
    }

    /// Starts what goes on without being asked: work on batches, and what keys have used of their day.
    pub fn start(&self) {
        self.jobs.parts().driver.start(Arc::new(Runner::new(self.clone())));
        let gateway = self.clone();
        self.jobs.parts().tasks.spawn(async move {
            let keys: Vec<_> = gateway.keys.all();
            if let Err(error) = gateway.meters.recall(&keys).await {
                warn!(error = %Chain(&error), "what keys have used today is not known and counts as nothing");
            }
        });
    }

    /// Its routes, for programs and for browsers on `origins`.
    pub fn routes(self, origins: Origins) -> Router {
        let counted = |route, methods| head::counted(&self.metrics, route, methods);
        let mut routes = Router::new()
            .route("/v1/models", counted("models", get(models::list)))
            .route("/v1/models/{*model}", counted("models", get(models::get)))
            .route("/v1/chat/completions", counted("chat/completions", post(chat::complete)))
            .route("/v1/completions", counted("completions", post(completions::create)))
            .route("/v1/responses", counted("responses", post(responses::create)))
            .route("/v1/embeddings", counted("embeddings", post(vectors::embed)))
            .route("/v1/rerank", counted("rerank", post(vectors::rerank)))
            .route("/v1/files", counted("files", get(files::list).post(files::give)))
            .route("/v1/files/{id}", counted("files", get(files::get).delete(files::remove)))
            .route("/v1/files/{id}/content", counted("files", get(files::content)))
            .route("/v1/batches", counted("batches", get(batches::list).post(batches::create)))
            .route("/v1/batches/{id}", counted("batches", get(batches::get)))
            .route("/v1/batches/{id}/cancel", counted("batches", post(batches::cancel)))
            .route(
                "/models",
                counted(
                    "router/models",
                    get(router::list).post(router::no_files).delete(router::no_files),
                ),
            )
            .route("/models/load", counted("router/load", post(router::load)))
            .route("/models/unload", counted("router/unload", post(router::unload)))
            .route("/models/sse", counted("router/sse", get(router::events)));
        for part in NOT_BUILT {
            routes = routes.route(&format!("/v1/{part}"), any(not_built));
        }
        routes
            .route("/v1/{*rest}", any(unknown))
            .method_not_allowed_fallback(wrong_method)
            .layer(middleware::from_fn_with_state(origins, cors::allow))
            .with_state(self)
    }
}

async fn not_built(uri: Uri) -> Response {
    ApiError::not_built(&format!("`{}`", uri.path())).into_response()
}

async fn unknown(uri: Uri) -> Response {
    ApiError::no_such_path(uri.path()).into_response()
}

async fn wrong_method(uri: Uri) -> Response {
    ApiError::method_not_allowed(format!("`{}` does not take this method.", uri.path()))
        .into_response()
}
