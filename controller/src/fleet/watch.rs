//! One task per daemon: dials it, follows what it says, and dials again when it goes away.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use homelab_common::{
    chance::Chance, clock::Clock, error_chain::Chain, lifecycle::Tasks, retry::Backoff,
};
use homelab_domain::{
    ids::HostName,
    site::{Daemon, DaemonKind, Host, Site},
};
use homelab_proto::{
    agent::v1::{GetHostRequest, WatchHealthRequest, host_service_client::HostServiceClient},
    common::v1::{GetNodeRequest, node_service_client::NodeServiceClient},
    inference::v1::{WatchWorkerRequest, inference_service_client::InferenceServiceClient},
};
use homelab_rpc::{
    dial::{Dialer, Target, layer_of},
    node::from_proto,
    peer::Kind,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tracing::{debug, info};

use super::registry::{Fleet, Seen};

/// Daemons that are dialled at once: after a restart of the controller, the rest wait their turn.
const HANDSHAKES_MAX: usize = 64;

/// How long a small question to a daemon may take, the handshake included.
const QUESTION_MAX: Duration = Duration::from_secs(10);

/// A daemon that answered for this long is dialled again at once when it goes away.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// How often things happen. The defaults are for a home; tests are in more of a hurry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Between samples of a host.
    pub sample: Duration,
    /// Between questions who a daemon is; for backup-agents the only sign of life.
    pub node: Duration,
    /// A stream that is silent for this long is given up.
    pub silence_max: Duration,
    /// Between attempts to reach a daemon.
    pub backoff: Backoff,
}

impl Default for Pace {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        let backoff = Backoff::try_new(second, 30 * second, 0.5);
        Self {
            sample: 10 * second,
            node: 20 * second,
            silence_max: 30 * second,
            #[expect(clippy::expect_used, reason = "the numbers stand two lines above")]
            backoff: backoff.expect("valid numbers"),
        }
    }
}

/// What a watcher needs.
#[derive(Clone, Debug)]
pub struct Watchers {
    /// Where it puts what it sees.
    pub fleet: Fleet,
    /// How it reaches daemons.
    pub dialer: Dialer,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
    /// Where tasks are spawned.
    pub tasks: Tasks,
    /// How often things happen.
    pub pace: Pace,
}

impl Watchers {
    /// Starts a task that keeps one watcher per daemon of the site, as the site changes.
    pub fn start(self, site: watch::Receiver<Arc<Site>>) {
        // Hosts are known from the first call on, long before they are reached.
        self.fleet.align(&site.borrow());
        let tasks = self.tasks.clone();
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        tasks.spawn(self.supervise(site, handshakes));
    }

    async fn supervise(self, mut site: watch::Receiver<Arc<Site>>, handshakes: Arc<Semaphore>) {
        let stopping = self.tasks.stopping();
        // By the target in words: a daemon that moves is another target.
        let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
        loop {
            let now = Arc::clone(&site.borrow_and_update());
            self.fleet.align(&now);
            let wanted: BTreeMap<String, Wanted> = now
                .hosts()
                .iter()
                .flat_map(|host| host.daemons.iter().map(move |daemon| (host, *daemon)))
                .map(|(host, daemon)| {
                    let target = target(&now, host, daemon);
                    (
                        target.to_string(),
                        Wanted { target, host: host.name.clone(), kind: daemon.kind },
                    )
                })
                .collect();
            running.retain(|words, stop| {
                let stays = wanted.contains_key(words);
                if !stays {
                    stop.cancel();
                }
                stays
            });
            for (words, wanted) in wanted {
                if running.contains_key(&words) {
                    continue;
                }
                let stop = stopping.child_token();
                running.insert(words, stop.clone());
                let Wanted { target, host, kind } = wanted;
                let (parts, handshakes) = (self.clone(), Arc::clone(&handshakes));
                let watcher = Watcher { parts, handshakes, host, kind, target };
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = watcher.run() => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            tokio::select! {
                changed = site.changed() => if changed.is_err() { return },
                () = stopping.cancelled() => return,
            }
        }
    }
}

/// Whom to dial for a daemon, and who must answer.
#[must_use]
pub fn target(site: &Site, host: &Host, daemon: Daemon) -> Target {
    Target {
        address: std::net::SocketAddr::new(host.address, daemon.port).to_string(),
        server_name: format!("{}.{}", host.name, site.domain()),
        kind: kind_of(daemon.kind),
        name: Some(host.name.to_string()),
    }
}

/// A kind of daemon, as identities have it.
#[must_use]
pub const fn kind_of(kind: DaemonKind) -> Kind {
    match kind {
        DaemonKind::Agent => Kind::Agent,
        DaemonKind::BackupAgent => Kind::BackupAgent,
        DaemonKind::GpuWorker => Kind::GpuWorker,
    }
}

/// One daemon to be watched.
struct Wanted {
    target: Target,
    host: HostName,
    kind: DaemonKind,
}

struct Watcher {
    parts: Watchers,
    handshakes: Arc<Semaphore>,
    host: HostName,
    kind: DaemonKind,
    target: Target,
}

impl Watcher {
    async fn run(self) {
        let mut attempt = 0;
        let mut dialling = self.parts.fleet.dialling();
        loop {
            let began = Instant::now();
            let lost = match self.session().await {
                Ok(()) => "it ended the stream".to_owned(),
                Err(status) => words(&status),
            };
            if began.elapsed() >= STABLE_AFTER {
                attempt = 0;
            }
            self.note(&lost);
            self.saw(Seen::Lost(lost));
            let pause = self.parts.pace.backoff.delay(attempt, self.parts.chance.as_ref());
            tokio::select! {
                () = tokio::time::sleep(pause) => attempt = attempt.saturating_add(1),
                Ok(()) = dialling.changed() => attempt = 0,
            }
        }
    }

    /// From the handshake until the daemon goes away.
    async fn session(&self) -> Result<(), Status> {
        let channel = self
            .parts
            .dialer
            .dial(self.target.clone())
            .map_err(|error| Status::internal(Chain(&error).to_string()))?;
        let Ok(permit) = self.handshakes.acquire().await else { return Ok(()) };
        let node = self.ask_node(&channel).await;
        drop(permit);
        let node = node?;
        info!(host = %self.host, daemon = %self.kind, "a daemon answers");
        self.saw(Seen::Connected(channel.clone()));
        self.saw(node);
        match self.kind {
            DaemonKind::Agent => self.follow_agent(channel).await,
            DaemonKind::GpuWorker => self.follow_worker(channel).await,
            DaemonKind::BackupAgent => self.poll(channel).await,
        }
    }

    async fn follow_agent(&self, channel: Channel) -> Result<(), Status> {
        let mut client = HostServiceClient::new(channel.clone());
        match within(QUESTION_MAX, client.get_host(GetHostRequest {})).await {
            Ok(answer) => {
                if let Some(host) = answer.into_inner().host {
                    self.saw(Seen::Host(Box::new(host)));
                }
            }
            Err(status) => debug!(host = %self.host, error = %status, "could not ask what it is"),
        }
        let interval = prost_types::Duration::try_from(self.parts.pace.sample).ok();
        let asked = client.watch_health(WatchHealthRequest { interval });
        let mut stream = within(QUESTION_MAX, asked).await?.into_inner();
        let mut node_asked = Instant::now();
        while let Some(message) = within(self.parts.pace.silence_max, stream.message()).await? {
            if let Some(health) = message.health {
                self.saw(Seen::Health(Box::new(health)));
            }
            if node_asked.elapsed() >= self.parts.pace.node {
                node_asked = Instant::now();
                self.saw(self.ask_node(&channel).await?);
            }
        }
        Ok(())
    }

    async fn follow_worker(&self, channel: Channel) -> Result<(), Status> {
        let mut client = InferenceServiceClient::new(channel.clone());
        let asked = client.watch_worker(WatchWorkerRequest {});
        let mut stream = within(QUESTION_MAX, asked).await?.into_inner();
        let mut node_asked = Instant::now();
        while let Some(message) = within(self.parts.pace.silence_max, stream.message()).await? {
            if let Some(worker) = message.worker {
                self.saw(Seen::Worker(Box::new(worker)));
            }
            if node_asked.elapsed() >= self.parts.pace.node {
                node_asked = Instant::now();
                self.saw(self.ask_node(&channel).await?);
            }
        }
        Ok(())
    }

    async fn poll(&self, channel: Channel) -> Result<(), Status> {
        loop {
            let pause = self.parts.chance.jittered(self.parts.pace.node, 0.1);
            tokio::time::sleep(pause).await;
            self.saw(self.ask_node(&channel).await?);
        }
    }

    async fn ask_node(&self, channel: &Channel) -> Result<Seen, Status> {
        let mut client = NodeServiceClient::new(channel.clone());
        let node = within(QUESTION_MAX, client.get_node(GetNodeRequest {})).await?.into_inner();
        Ok(Seen::Node {
            certificate_not_after: node.certificate_not_after.as_ref().and_then(from_proto),
            version: node.version,
            deny_list_epoch: node.deny_list_epoch,
        })
    }

    fn saw(&self, seen: Seen) {
        self.parts.fleet.saw(&self.host, self.kind, self.parts.clock.now(), seen);
    }

    /// Told once when it goes away, not with every attempt to reach it again.
    fn note(&self, lost: &str) {
        let view = self.parts.fleet.host(&self.host);
        let was_connected = view
            .as_ref()
            .and_then(|view| view.daemon(self.kind))
            .is_some_and(|daemon| daemon.connected);
        if was_connected {
            info!(host = %self.host, daemon = %self.kind, why = lost, "a daemon went away");
        } else {
            debug!(host = %self.host, daemon = %self.kind, why = lost, "a daemon does not answer");
        }
    }
}

/// The answer, or `DEADLINE_EXCEEDED` after `limit`.
async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = || Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()));
    timeout(limit, asked).await.unwrap_or_else(|_| Err(late()))
}

/// Why a daemon does not answer, for people.
fn words(status: &Status) -> String {
    layer_of(status).map_or_else(|| status.message().to_owned(), |(_, words)| words)
}
