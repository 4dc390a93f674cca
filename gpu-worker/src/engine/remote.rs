//! An engine that somebody else runs: reached by a URL, never started or ended by us.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use homelab_common::{error_chain::Chain, secret};
use http::Uri;
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{info, warn};

use crate::{
    engine::{
        State, Supervisor, Wanted,
        http::{self as engine_http, Endpoint},
        incident::{Incident, Remedy},
        process::Cause,
        session::{Session, SessionParts},
    },
    model::Model,
};

/// The page that OpenAI-compatible servers list their models on.
const MODELS_PATH: &str = "/v1/models";

/// How long that page may take.
const MODELS_DEADLINE: Duration = Duration::from_secs(5);

/// A server with thousands of models has a page of this size.
const MODELS_BYTES_MAX: usize = 4 << 20;

/// A server is looked at that many times less often than a busy engine.
const LOOKS_BETWEEN: u32 = 5;

/// After so many failures in a row a server is taken for gone.
const FAILURES_MAX: u32 = 3;

/// Where somebody else's engine is.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Its address, on this host or in a private network.
    pub address: SocketAddr,
    /// What its paths begin with, such as `/v1`.
    pub base: String,
    /// The key that it asks for.
    pub key: Option<secret::Source>,
}

/// Why a URL cannot be that of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "`http://ADDRESS:PORT/v1` with an IP address of this host or of a private network; text leaves the house through the controller's providers only"
)]
pub struct InvalidUrl;

impl Remote {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`InvalidUrl`]: a name could come to mean another machine, and a public address
    /// is none of ours.
    pub fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let uri: Uri = url.parse().map_err(|_| InvalidUrl)?;
        let host = uri.host().ok_or(InvalidUrl)?.trim_matches(['[', ']']);
        let ip: IpAddr = host.parse().map_err(|_| InvalidUrl)?;
        let is_ours = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
        };
        if uri.scheme_str() != Some("http") || !is_ours || uri.query().is_some() {
            return Err(InvalidUrl);
        }
        let address = SocketAddr::new(ip, uri.port_u16().unwrap_or(80));
        Ok(Self { address, base: uri.path().trim_end_matches('/').to_owned(), key: None })
    }

    /// As [`Remote::parse`] reads it.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.base)
    }
}

#[derive(Deserialize)]
struct Listing {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

impl Supervisor {
    /// Serves `model` from somebody else's engine until something else is asked for.
    pub(super) async fn follow(
        &self,
        remote: &Remote,
        model: &Arc<Model>,
        wanted: &mut watch::Receiver<Wanted>,
    ) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let mut ready_at = None;
            let cause = match self.serve(remote, model, wanted, &mut ready_at).await {
                Ok(()) => return,
                Err(cause) => cause,
            };
            failures = if ready_at.is_some() { 0 } else { failures + 1 };
            let backoff = self.engine.config.timing.restart.backoff;
            let after = backoff.delay(failures, self.world.chance.as_ref());
            let because = Chain(&cause).to_string();
            let engine = &self.engine.config.name;
            warn!(%engine, %because, elapsed = ?began.elapsed(), "an engine elsewhere does not answer");
            let incident = Incident {
                at: self.world.clock.now(),
                because,
                model: Arc::clone(model),
                pid: None,
                ready_for: ready_at.map(|at: Instant| at.elapsed()),
                last_lines: Vec::new(),
                variant: None,
                remedy: Remedy::Again,
                bundle: None,
            };
            self.set(|status| {
                status.state = State::Failed;
                status.last_incident = Some(Arc::new(incident));
            });
            if time::timeout(after, self.asked(wanted)).await.is_ok() {
                return;
            }
        }
    }

    async fn serve(
        &self,
        remote: &Remote,
        model: &Arc<Model>,
        wanted: &mut watch::Receiver<Wanted>,
        ready_at: &mut Option<Instant>,
    ) -> Result<(), Cause> {
        let config = &self.engine.config;
        let key = remote.key.as_ref().map(secret::Source::load).transpose();
        let key = key.map_err(Cause::RemoteKey)?;
        let endpoint = Endpoint::elsewhere(remote.address, remote.base.clone(), key);
        self.set(|status| {
            status.state = State::Starting;
            status.starts += 1;
        });
        check_model(&endpoint, model).await?;
        info!(engine = %config.name, url = %remote.url(), "an engine elsewhere answers");
        let session = Arc::new(Session::new(SessionParts {
            model: Arc::clone(model),
            devices: config.devices.clone(),
            endpoint: endpoint.clone(),
            patience: config.timing.patience,
            recent: Arc::clone(&self.engine.recent),
            tasks: self.world.tasks.clone(),
            changed: self.world.changed.clone(),
        }));
        *ready_at = Some(Instant::now());
        self.set_state(State::Ready(Arc::clone(&session)));
        let cause = tokio::select! {
            cause = self.until_gone(&endpoint, model) => cause,
            stalled = self.until_stalled(&session) => stalled,
            () = self.asked_and_drained(&session, wanted) => {
                session.end("it is not used any more");
                return Ok(());
            }
        };
        session.end(&Chain(&cause).to_string());
        Err(cause)
    }

    /// Looks whether the server still has the model.
    async fn until_gone(&self, endpoint: &Endpoint, model: &Model) -> Cause {
        let period = self.engine.config.timing.look * LOOKS_BETWEEN;
        let mut failures = 0;
        loop {
            time::sleep(period).await;
            match check_model(endpoint, model).await {
                Ok(()) => failures = 0,
                Err(cause) => {
                    failures += 1;
                    if failures >= FAILURES_MAX {
                        return cause;
                    }
                }
            }
        }
    }
}

async fn check_model(endpoint: &Endpoint, model: &Model) -> Result<(), Cause> {
    let asking = engine_http::get(endpoint, MODELS_PATH, MODELS_DEADLINE, MODELS_BYTES_MAX);
    let answer = asking.await.map_err(Cause::Remote)?;
    if !answer.status.is_success() {
        return Err(Cause::RemoteStatus(answer.status));
    }
    // A server that lists nothing that can be read may have the model all the same.
    let listing: Option<Listing> = serde_json::from_slice(&answer.body).ok();
    let Some(listing) = listing else { return Ok(()) };
    let name = model.name.as_str();
    if listing.data.is_empty() || listing.data.iter().any(|listed| listed.id == name) {
        return Ok(());
    }
    let known: Vec<&str> = listing.data.iter().map(|listed| listed.id.as_str()).collect();
    Err(Cause::RemoteModel { model: name.to_owned(), known: known.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_elsewhere_are_at_home() {
        for (url, address, base) in [
            ("http://127.0.0.1:11434/v1", "127.0.0.1:11434", "/v1"),
            ("http://192.168.200.50:8000/v1/", "192.168.200.50:8000", "/v1"),
            ("http://10.0.0.1", "10.0.0.1:80", ""),
            ("http://[::1]:8000/v3", "[::1]:8000", "/v3"),
        ] {
            let remote = Remote::parse(url).unwrap();
            assert_eq!(
                (remote.address.to_string().as_str(), remote.base.as_str()),
                (address, base)
            );
            assert_eq!(Remote::parse(&remote.url()).unwrap().address, remote.address);
        }
        for url in [
            "",
            "https://127.0.0.1/v1",
            "http://ollama:11434/v1",
            "http://8.8.8.8/v1",
            "http://127.0.0.1/v1?key=x",
            "127.0.0.1:8000",
        ] {
            assert!(Remote::parse(url).is_err(), "{url}");
        }
    }
}
