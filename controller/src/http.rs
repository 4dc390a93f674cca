//! HTTPS for people and for OpenAI clients: dashboard, gateway, metrics.

pub mod dashboard;
pub mod gateway;
pub mod guard;
pub mod metrics;
mod probe;
pub mod server;
pub mod session;
mod start;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware};

use self::{
    dashboard::handler::Dashboard,
    gateway::{Gateway, Keys, cors::Origins},
    guard::Guard,
    metrics::Metrics,
    probe::Probe,
};
use crate::job::Jobs;

pub use start::{KeysError, Parts, Running, start};

/// Largest body, except of a chat.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// All that is served over HTTPS.
#[derive(Clone, Debug)]
pub struct Web {
    /// Who may address us, and how requests are told apart.
    pub guard: Guard,
    /// The dashboard.
    pub dashboard: Dashboard,
    /// The gateway.
    pub gateway: Gateway,
    /// The jobs behind the gateway.
    pub jobs: Jobs,
    /// Keys of the gateway.
    pub keys: Keys,
    /// Sites whose pages may call the gateway from a browser.
    pub origins: Origins,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Web {
    /// Everything as one router.
    pub fn router(self) -> Router {
        let probe = Probe {
            store: Arc::clone(&self.jobs.parts().store),
            board: Arc::clone(&self.dashboard.board),
            jobs: self.jobs.clone(),
            keys: self.keys.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        Router::new()
            .merge(self.dashboard.routes())
            .merge(probe.routes())
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .merge(self.gateway.routes(self.origins))
            .layer(middleware::from_fn_with_state(self.guard, guard::guard))
    }
}

#[cfg(test)]
mod tests;
