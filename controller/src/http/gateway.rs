//! The OpenAI-compatible gateway on top of the queue of jobs.
//!
//! What is not built answers 501 by name, never a 404 that looks like a typing error. There are no
//! CORS headers: a browser on another site has no business here.

mod answer;
mod chat;
mod client;
pub mod error;
pub mod frame;
pub mod key;
mod models;
mod outcome;
pub mod request;
mod tale;

use std::sync::{Arc, PoisonError, RwLock};

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use homelab_common::secret::Secret;
use http::{HeaderMap, Uri, header};
use jiff::Timestamp;

use self::{
    error::ApiError,
    key::{Caller, KeyRing},
};
use crate::{http::metrics::Metrics, job::Jobs};

/// Parts of the OpenAI API that are not built.
const NOT_BUILT: [&str; 16] = [
    "completions",
    "embeddings",
    "responses",
    "responses/{*rest}",
    "batches",
    "batches/{*rest}",
    "files",
    "files/{*rest}",
    "moderations",
    "rerank",
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
    keys: Keys,
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

    /// Who calls, by the key in `Authorization`. A key in the address is never read: addresses are
    /// written into logs on the way.
    ///
    /// # Errors
    /// 401: there is none, or it is not known.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
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
        let caller = ring.caller(shown.expose());
        caller.ok_or_else(|| ApiError::unauthorized("The API key is not known to this gateway."))
    }
}

impl Gateway {
    /// A gateway to `jobs` for those who have one of `keys`.
    #[must_use]
    pub fn new(jobs: Jobs, keys: Keys, metrics: Arc<Metrics>) -> Self {
        let started_at = jobs.parts().clock.now();
        Self { jobs, keys, metrics, started_at }
    }

    /// Its routes.
    pub fn routes(self) -> Router {
        let mut routes = Router::new()
            .route("/v1/models", get(models::list))
            .route("/v1/models/{*model}", get(models::get))
            .route("/v1/chat/completions", post(chat::complete));
        for part in NOT_BUILT {
            routes = routes.route(&format!("/v1/{part}"), any(not_built));
        }
        routes
            .route("/v1/{*rest}", any(unknown))
            .method_not_allowed_fallback(wrong_method)
            .with_state(self)
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
        self.keys.caller(headers)
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
