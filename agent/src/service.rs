//! `homelab.agent.v1.HostService`, and what is in the protocol and not built yet.
//!
//! `NetworkService` has no method that is built, so it is not served: the guard answers its methods
//! from [`NOT_BUILT`], and health does not call it healthy.

mod power;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use homelab_common::lifecycle::Tasks;
use homelab_proto::agent::v1::host_service_server::{HostService, HostServiceServer};
use homelab_proto::agent::v1::{self as pb};
use homelab_rpc::not_built::NotBuilt;
use homelab_rpc::status::{Failure, Reason, fail};
use tokio::time::MissedTickBehavior;
use tonic::{Code, Request, Response, Status, async_trait};

use crate::check::Runner;
use crate::convert::{self, InvalidChecks};
use crate::health::{Monitor, Watcher};
use crate::inventory::Inventory;

pub use power::PowerApi;

/// 256 checks with the longest texts that are taken fit.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// What is in the protocol and answers that it is not built yet.
pub const NOT_BUILT: &[NotBuilt] = &[
    NotBuilt::new("/homelab.agent.v1.HostService/ListGuests", GUESTS),
    NotBuilt::new("/homelab.agent.v1.NetworkService/GetNetwork", "ask GetHost for addresses"),
    NotBuilt::new("/homelab.agent.v1.NetworkService/PlanNetworkChange", NETWORK),
    NotBuilt::new("/homelab.agent.v1.NetworkService/ApplyNetworkChange", NETWORK),
    NotBuilt::new("/homelab.agent.v1.NetworkService/ConfirmNetworkChange", NETWORK),
    NotBuilt::new("/homelab.agent.v1.NetworkService/RollbackNetworkChange", NETWORK),
    NotBuilt::new("/homelab.agent.v1.NetworkService/WatchNetworkChange", NETWORK),
];

const GUESTS: &str = "look at the web interface of Proxmox, or run: qm list; pct list";
const NETWORK: &str = "edit /etc/network/interfaces on the host's console";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone, Debug)]
pub struct Host {
    /// Name in the inventory: that of the certificate.
    pub name: Arc<str>,
    /// How the host fares.
    pub monitor: Arc<Monitor>,
    /// What the host is.
    pub inventory: Arc<Inventory>,
    /// Runs checks.
    pub runner: Arc<Runner>,
    /// Streams end with these.
    pub tasks: Tasks,
}

impl Host {
    /// As a server can be given it, with its limits.
    #[must_use]
    pub fn into_server(self) -> HostServiceServer<Self> {
        HostServiceServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// `answers` until the daemon stops, and then a word that it does.
    fn until_stopped<T: Send + 'static>(
        &self,
        answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<Answers<T>> {
        let stopping = self.tasks.stopping();
        let asked = stopping.clone();
        let last = async move { asked.is_cancelled().then(|| Err(stops())) };
        let last = stream::once(last).filter_map(std::future::ready);
        let stopped = async move { stopping.cancelled().await };
        Response::new(Box::pin(answers.take_until(Box::pin(stopped)).chain(last)))
    }
}

#[async_trait]
impl HostService for Host {
    type WatchHealthStream = Answers<pb::WatchHealthResponse>;
    type RunChecksStream = Answers<pb::RunChecksResponse>;

    async fn get_host(
        &self,
        _request: Request<pb::GetHostRequest>,
    ) -> Result<Response<pb::GetHostResponse>, Status> {
        let host = self.inventory.host().await;
        let sample = self.monitor.observe().sample;
        let host = Some(convert::host(&self.name, &host, &sample));
        Ok(Response::new(pb::GetHostResponse { host }))
    }

    async fn get_health(
        &self,
        _request: Request<pb::GetHealthRequest>,
    ) -> Result<Response<pb::GetHealthResponse>, Status> {
        let health = Some(convert::health(self.monitor.observe()));
        Ok(Response::new(pb::GetHealthResponse { health }))
    }

    async fn watch_health(
        &self,
        request: Request<pb::WatchHealthRequest>,
    ) -> Result<Response<Self::WatchHealthStream>, Status> {
        let Some(interval) = convert::interval(request.into_inner().interval) else {
            let rule = "give 1 second to 1 hour, or leave it out for 10 seconds";
            let message = format!("health was not watched: the interval is out of bounds; {rule}");
            return Err(Failure::invalid(message).field("interval", rule).into());
        };
        let mut ticks = tokio::time::interval(interval);
        // A caller who was slow gets the next sample at its time and not several at once.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let start = (self.monitor.watcher(), ticks, 1);
        let samples = stream::unfold(start, |(mut watcher, mut ticks, sequence)| async move {
            ticks.tick().await;
            let response = sample(&mut watcher, sequence);
            Some((Ok(response), (watcher, ticks, sequence + 1)))
        });
        Ok(self.until_stopped(samples))
    }

    async fn list_guests(
        &self,
        _request: Request<pb::ListGuestsRequest>,
    ) -> Result<Response<pb::ListGuestsResponse>, Status> {
        // The guard answers before this is reached; this is for servers without one.
        Err(homelab_rpc::status::not_built_yet("HostService/ListGuests", GUESTS))
    }

    async fn run_checks(
        &self,
        request: Request<pb::RunChecksRequest>,
    ) -> Result<Response<Self::RunChecksStream>, Status> {
        let checks = convert::checks(request.into_inner())?;
        let outcomes = Arc::clone(&self.runner).run_all(checks);
        // `None` stands for the end, at which the summary is told.
        let outcomes = outcomes.map(Some).chain(stream::once(std::future::ready(None)));
        let events = outcomes.scan(pb::CheckSummary::default(), |so_far, outcome| {
            use pb::run_checks_response::Event;
            let event = match outcome {
                Some(outcome) => {
                    *so_far = convert::summary(*so_far, outcome.verdict);
                    Event::Result(convert::result(outcome))
                }
                None => Event::Summary(*so_far),
            };
            std::future::ready(Some(Ok(pb::RunChecksResponse { event: Some(event) })))
        });
        Ok(self.until_stopped(events))
    }
}

fn sample(watcher: &mut Watcher, sequence: u64) -> pb::WatchHealthResponse {
    let health = Some(convert::health(watcher.observe()));
    pb::WatchHealthResponse { health, sequence }
}

fn stops() -> Status {
    let message = "this agent stops; call again when it is back";
    fail(Code::Unavailable, Reason::STOPPING, message)
}

impl From<InvalidChecks> for Status {
    fn from(invalid: InvalidChecks) -> Self {
        let message = format!("no check was run: {invalid}; the field violations name each");
        let failure = Failure::invalid(message);
        let fields = invalid.problems.into_iter();
        fields.fold(failure, |failure, (field, what)| failure.field(field, what)).into()
    }
}

#[cfg(test)]
mod tests;
