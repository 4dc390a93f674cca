//! `FleetService`: the hosts over the wire.

pub mod convert;

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_domain::{ids::HostName, site::DaemonKind};
use homelab_proto::{
    agent::v1::{
        RunChecksRequest, host_service_client::HostServiceClient,
        run_checks_response::Event as Check,
    },
    controller::v1::{
        DrainHostRequest, DrainHostResponse, GetHostRequest, GetHostResponse, GetStatusRequest,
        GetStatusResponse, ListHostsRequest, ListHostsResponse, RunHostChecksRequest,
        RunHostChecksResponse, WatchHostsRequest, WatchHostsResponse,
        fleet_service_server::FleetService, run_host_checks_response::Event,
    },
};
use homelab_rpc::{
    guard::request_id,
    status::{Failure, Reason, fail},
};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status};

use super::status::IntoStatus;
use crate::{
    app::{Change, Context},
    fleet::{HostView, keep},
    overview::Overviews,
};

/// Messages to one watcher that are on their way; a slow one misses states in between.
const WAITING_MAX: usize = 64;

/// How long a follower lets changes gather before it looks.
const GATHER: Duration = Duration::from_millis(200);

/// Most hosts on a page.
const PAGE_MAX: usize = 1_000;
/// Hosts on a page for which no size was asked.
const PAGE: usize = 100;

/// Checks of one call.
const CHECKS_MAX: usize = 256;

/// How long an agent may take for all its checks.
const CHECKS_DEADLINE: Duration = Duration::from_secs(300);

/// Answers for the fleet.
#[derive(Clone, Debug)]
pub struct FleetApi {
    context: Context,
    overviews: Overviews,
}

impl FleetApi {
    /// Answers from `context`, and sums up with `overviews`.
    #[must_use]
    pub const fn new(context: Context, overviews: Overviews) -> Self {
        Self { context, overviews }
    }

    fn find(&self, name: &str) -> Result<HostView, Status> {
        let host = HostName::try_new(name).ok().and_then(|name| self.context.fleet.host(&name));
        host.ok_or_else(|| {
            let message =
                format!("there is no host `{name}` in the site file; see `labctl host list`");
            fail(Code::NotFound, Reason::HOST_NOT_FOUND, message)
        })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl FleetService for FleetApi {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let overview = self.overviews.at(self.context.now()).await;
        let overview = overview.map_err(|error| error.into_status(request_id(&request)))?;
        let site = self.context.site_now();
        Ok(Response::new(convert::overview(overview, site.name().as_str())))
    }

    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let asked = request.into_inner();
        let size = match usize::try_from(asked.page_size) {
            Ok(0) | Err(_) => PAGE,
            Ok(size) => size.min(PAGE_MAX),
        };
        // By name, so the last name of a page is where the next begins.
        let mut hosts = self.context.fleet.hosts();
        hosts.retain(|host| host.declared.name.as_str() > asked.page_token.as_str());
        let more = hosts.len() > size;
        hosts.truncate(size);
        let last = hosts.last().filter(|_| more).map(|host| host.declared.name.to_string());
        Ok(Response::new(ListHostsResponse {
            next_page_token: last.unwrap_or_default(),
            hosts: hosts.iter().map(convert::host).collect(),
        }))
    }

    async fn get_host(
        &self,
        request: Request<GetHostRequest>,
    ) -> Result<Response<GetHostResponse>, Status> {
        let view = self.find(&request.get_ref().host)?;
        Ok(Response::new(GetHostResponse {
            status: Some(convert::host(&view)),
            host: view.host.map(Arc::unwrap_or_clone),
            health: view.health.map(Arc::unwrap_or_clone),
        }))
    }

    type WatchHostsStream = Answers<WatchHostsResponse>;

    async fn watch_hosts(
        &self,
        _request: Request<WatchHostsRequest>,
    ) -> Result<Response<Self::WatchHostsStream>, Status> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let changes = self.context.events.follow();
        let context = self.context.clone();
        self.context.tasks.spawn(async move {
            let stopping = context.tasks.stopping();
            tokio::select! {
                () = tell_hosts(&context, changes, &sender) => {}
                () = sender.closed() => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn drain_host(
        &self,
        request: Request<DrainHostRequest>,
    ) -> Result<Response<DrainHostResponse>, Status> {
        let id = request_id(&request).to_owned();
        let asked = request.into_inner();
        let mut view = self.find(&asked.host)?;
        view.standing.drained = asked.drain;
        if !asked.validate_only {
            let (store, fleet) = (self.context.store.as_ref(), &self.context.fleet);
            let drained = keep::set_drained(store, fleet, &view.declared.name, asked.drain).await;
            drained.map_err(|error| error.into_status(&id))?;
        }
        Ok(Response::new(DrainHostResponse { host: Some(convert::host(&view)) }))
    }

    type RunHostChecksStream = Answers<RunHostChecksResponse>;

    async fn run_host_checks(
        &self,
        request: Request<RunHostChecksRequest>,
    ) -> Result<Response<Self::RunHostChecksStream>, Status> {
        let asked = request.into_inner();
        if asked.checks.is_empty() || asked.checks.len() > CHECKS_MAX {
            let what = format!("1 to {CHECKS_MAX} checks");
            return Err(Failure::invalid(what.clone()).field("checks", what).into());
        }
        let own = self.context.config.name.clone();
        let view = self.find(if asked.host.is_empty() { &own } else { &asked.host })?;
        let host = view.declared.name;
        let channel = self.context.fleet.channel(&host, DaemonKind::Agent).ok_or_else(|| {
            let message =
                format!("the agent of `{host}` does not answer; see `labctl host show {host}`");
            fail(Code::Unavailable, Reason::HOST_UNREACHABLE, message)
        })?;
        let mut request = Request::new(RunChecksRequest { checks: asked.checks });
        request.set_timeout(CHECKS_DEADLINE);
        let results = HostServiceClient::new(channel).run_checks(request).await?.into_inner();
        Ok(Response::new(Box::pin(results.map(|result| {
            let event = result?.event.map(|event| match event {
                Check::Result(result) => Event::Result(result),
                Check::Summary(summary) => Event::Summary(summary),
            });
            Ok(RunHostChecksResponse { event })
        }))))
    }
}

/// Tells all hosts, then each that has changed. A change says only that something did: what is sent
/// is what differs from what was sent before.
async fn tell_hosts(
    context: &Context,
    mut changes: broadcast::Receiver<Change>,
    sender: &mpsc::Sender<Result<WatchHostsResponse, Status>>,
) {
    let mut told = std::collections::BTreeMap::new();
    let mut sequence = 0;
    loop {
        for host in context.fleet.hosts().iter().map(convert::host) {
            if told.get(&host.name) == Some(&host) {
                continue;
            }
            told.insert(host.name.clone(), host.clone());
            sequence += 1;
            if sender.send(Ok(WatchHostsResponse { host: Some(host), sequence })).await.is_err() {
                return;
            }
        }
        loop {
            match changes.recv().await {
                Ok(Change::Hosts) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
        tokio::time::sleep(GATHER).await;
        changes = changes.resubscribe();
    }
}
