//! What is known of every daemon now, in memory.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use homelab_domain::{
    fleet::{HostState, Signal, Steadied, Thresholds},
    ids::HostName,
    site::{DaemonKind, Host, Site},
};
use homelab_proto::{agent::v1 as agent, inference::v1 as inference};
use jiff::Timestamp;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::state::Standing;
use crate::{
    app::{Change, Events},
    task::Nudge,
};

/// What is known of the fleet. Clones are the same.
#[derive(Clone, Debug)]
pub struct Fleet {
    hosts: Arc<RwLock<BTreeMap<HostName, Entry>>>,
    events: Events,
    dial: watch::Sender<()>,
    turned: Nudge,
}

/// One host, as far as it is known.
#[derive(Clone, Debug)]
pub struct HostView {
    /// As the site file declares it.
    pub declared: Host,
    /// How it stands.
    pub standing: Standing,
    /// Its daemons, by kind.
    pub daemons: Vec<DaemonView>,
    /// What its agent last said it is.
    pub host: Option<Arc<agent::Host>>,
    /// Its last sample.
    pub health: Option<Arc<agent::Health>>,
}

impl HostView {
    /// The daemon of a kind.
    #[must_use]
    pub fn daemon(&self, kind: DaemonKind) -> Option<&DaemonView> {
        self.daemons.iter().find(|daemon| daemon.kind == kind)
    }
}

/// One daemon, as far as it is known.
#[derive(Clone, Debug)]
pub struct DaemonView {
    /// Kind.
    pub kind: DaemonKind,
    /// Where it is dialled.
    pub address: SocketAddr,
    /// Whether it answers now.
    pub connected: bool,
    /// The same, steadied against single failures.
    pub signal: Signal,
    /// When it last answered.
    pub last_seen_at: Option<Timestamp>,
    /// When an agent last sent a sample.
    pub last_sample_at: Option<Timestamp>,
    /// Its version, once known.
    pub version: Option<String>,
    /// When its certificate ends, once known.
    pub certificate_not_after: Option<Timestamp>,
    /// Epoch of the deny list that it holds, once known.
    pub deny_list_epoch: Option<u64>,
    /// Why it does not answer, for people; empty when it does.
    pub message: String,
}

/// One gpu-worker with its last snapshot.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Its host.
    pub host: HostName,
    /// Whether it answers now.
    pub connected: bool,
    /// Whether a person takes work off its host.
    pub drained: bool,
    /// How its host stands.
    pub host_state: HostState,
    /// When it last answered.
    pub last_seen_at: Option<Timestamp>,
    /// What it last said of itself; kept when it goes away.
    pub worker: Option<Arc<inference::Worker>>,
}

#[derive(Clone, Debug)]
struct Entry {
    view: HostView,
    worker: Option<Arc<inference::Worker>>,
    channels: BTreeMap<DaemonKind, Channel>,
    signals: BTreeMap<DaemonKind, Steadied>,
}

/// What a watcher saw.
#[derive(Clone, Debug)]
pub enum Seen {
    /// It answers; calls may use this channel.
    Connected(Channel),
    /// What it says of itself.
    Node {
        /// Its version.
        version: String,
        /// When its certificate ends.
        certificate_not_after: Option<Timestamp>,
        /// Epoch of the deny list that it holds.
        deny_list_epoch: u64,
    },
    /// What the host is.
    Host(Box<agent::Host>),
    /// A sample of the host.
    Health(Box<agent::Health>),
    /// A snapshot of a gpu-worker.
    Worker(Box<inference::Worker>),
    /// It does not answer, and why.
    Lost(String),
}

impl Fleet {
    /// An empty fleet that tells `events` of changes.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Self {
            hosts: Arc::default(),
            events,
            dial: watch::Sender::new(()),
            turned: Nudge::default(),
        }
    }

    /// All hosts of the site, by name.
    #[must_use]
    pub fn hosts(&self) -> Vec<HostView> {
        self.read().values().map(|entry| entry.view.clone()).collect()
    }

    /// One host.
    #[must_use]
    pub fn host(&self, name: &HostName) -> Option<HostView> {
        self.read().get(name).map(|entry| entry.view.clone())
    }

    /// All gpu-workers of the site, by host. From memory: nothing is dialled or woken.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerView> {
        self.read().values().filter_map(worker_view).collect()
    }

    /// A channel to a daemon that answers now; `None` when it does not.
    #[must_use]
    pub fn channel(&self, host: &HostName, kind: DaemonKind) -> Option<Channel> {
        self.read().get(host)?.channels.get(&kind).cloned()
    }

    /// All daemons that answer now, with their channels.
    #[must_use]
    pub fn channels(&self) -> Vec<(HostName, DaemonKind, Channel)> {
        let hosts = self.read();
        let each = hosts.iter().flat_map(|(name, entry)| {
            entry.channels.iter().map(|(kind, channel)| (name.clone(), *kind, channel.clone()))
        });
        each.collect()
    }

    /// Has every daemon that does not answer dialled again soon, instead of after its pause.
    pub fn dial_soon(&self) {
        self.dial.send_replace(());
    }

    /// Fires when something was seen that may change how a host stands.
    #[must_use]
    pub fn turned(&self) -> Nudge {
        self.turned.clone()
    }

    /// Fires with [`Fleet::dial_soon`].
    pub(super) fn dialling(&self) -> watch::Receiver<()> {
        self.dial.subscribe()
    }

    /// Keeps exactly the hosts and daemons of the site; what is known of those that stay, stays.
    pub(super) fn align(&self, site: &Site) {
        let mut hosts = self.write();
        hosts.retain(|name, _| site.host(name).is_some());
        for host in site.hosts() {
            let entry = hosts.entry(host.name.clone()).or_insert_with(|| Entry::new(host));
            entry.declare(host);
        }
        drop(hosts);
        self.events.tell(Change::Hosts);
    }

    /// Takes in what a watcher saw of a daemon. What is no longer declared is dropped.
    pub(super) fn saw(&self, host: &HostName, kind: DaemonKind, at: Timestamp, seen: Seen) {
        let mut hosts = self.write();
        let Some(entry) = hosts.get_mut(host) else { return };
        let news = entry.take(kind, at, seen);
        drop(hosts);
        if news {
            self.turned.nudge();
        }
        self.events.tell(Change::Hosts);
    }

    /// A daemon has taken over a deny list.
    pub(crate) fn holds_deny_list(&self, host: &HostName, kind: DaemonKind, epoch: u64) {
        let mut hosts = self.write();
        let daemons = hosts.get_mut(host).map(|entry| entry.view.daemons.iter_mut());
        if let Some(daemon) = daemons.into_iter().flatten().find(|daemon| daemon.kind == kind) {
            daemon.deny_list_epoch = Some(epoch);
        }
    }

    /// Takes over how hosts stand; gives the names of those whose state changed.
    pub(super) fn stand(&self, standings: Vec<(HostName, Standing)>) -> Vec<HostName> {
        let mut changed = Vec::new();
        let mut hosts = self.write();
        for (name, standing) in standings {
            let Some(entry) = hosts.get_mut(&name) else { continue };
            if entry.view.standing.state != standing.state
                || entry.view.standing.because != standing.because
                || entry.view.standing.drained != standing.drained
            {
                changed.push(name);
            }
            entry.view.standing = standing;
        }
        drop(hosts);
        if !changed.is_empty() {
            self.events.tell(Change::Hosts);
        }
        changed
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<HostName, Entry>> {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<HostName, Entry>> {
        self.hosts.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(host: &Host) -> Self {
        let view = HostView {
            declared: host.clone(),
            standing: Standing::not_observed(),
            daemons: Vec::new(),
            host: None,
            health: None,
        };
        Self { view, worker: None, channels: BTreeMap::new(), signals: BTreeMap::new() }
    }

    fn declare(&mut self, host: &Host) {
        let mut known = std::mem::take(&mut self.view.daemons);
        for daemon in &host.daemons {
            let address = SocketAddr::new(host.address, daemon.port);
            let same = known
                .iter()
                .position(|view| view.kind == daemon.kind && view.address == address)
                .map(|index| known.swap_remove(index));
            self.view.daemons.push(same.unwrap_or_else(|| DaemonView::new(daemon.kind, address)));
        }
        // What is left has moved or gone: its channel leads nowhere.
        for gone in known {
            self.channels.remove(&gone.kind);
            self.signals.remove(&gone.kind);
        }
        self.view.daemons.sort_by_key(|daemon| daemon.kind);
        self.view.declared = host.clone();
    }

    /// True when it may have changed how the host stands.
    fn take(&mut self, kind: DaemonKind, at: Timestamp, seen: Seen) -> bool {
        let Some(daemon) = self.view.daemons.iter_mut().find(|daemon| daemon.kind == kind) else {
            return false;
        };
        let before = (daemon.connected, daemon.signal);
        let result = if matches!(seen, Seen::Lost(_)) { Signal::Down } else { Signal::Up };
        let steadied = self.signals.entry(kind).or_default();
        (*steadied, _) = steadied.observe(result, Thresholds::default());
        daemon.signal = steadied.signal();
        daemon.connected = result == Signal::Up;
        if daemon.connected {
            daemon.last_seen_at = Some(at);
            daemon.message.clear();
        }
        let mut news = before != (daemon.connected, daemon.signal);
        match seen {
            Seen::Connected(channel) => {
                self.channels.insert(kind, channel);
            }
            Seen::Node { version, certificate_not_after, deny_list_epoch } => {
                daemon.version = Some(version);
                daemon.certificate_not_after = certificate_not_after;
                daemon.deny_list_epoch = Some(deny_list_epoch);
            }
            Seen::Host(host) => self.view.host = Some(Arc::new(*host)),
            Seen::Health(health) => {
                daemon.last_sample_at = Some(at);
                let said = self.view.health.as_ref().map(|before| before.conditions.as_slice());
                news |= said != Some(health.conditions.as_slice());
                self.view.health = Some(Arc::new(*health));
            }
            Seen::Worker(worker) => self.worker = Some(Arc::new(*worker)),
            Seen::Lost(message) => {
                daemon.message = message;
                self.channels.remove(&kind);
            }
        }
        news
    }
}

impl DaemonView {
    fn new(kind: DaemonKind, address: SocketAddr) -> Self {
        Self {
            kind,
            address,
            connected: false,
            signal: Signal::Unknown,
            last_seen_at: None,
            last_sample_at: None,
            version: None,
            certificate_not_after: None,
            deny_list_epoch: None,
            message: "not dialled yet".to_owned(),
        }
    }
}

fn worker_view(entry: &Entry) -> Option<WorkerView> {
    let daemon = entry.view.daemon(DaemonKind::GpuWorker)?;
    Some(WorkerView {
        host: entry.view.declared.name.clone(),
        connected: daemon.connected,
        drained: entry.view.standing.drained,
        host_state: entry.view.standing.state,
        last_seen_at: daemon.last_seen_at,
        worker: entry.worker.clone(),
    })
}
