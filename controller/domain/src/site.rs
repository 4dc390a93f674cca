//! The site as the person declared it, checked.
//!
//! Reading TOML is the controller's work; it ends in a [`SiteDraft`], whose
//! [`SiteDraft::check`] finds every problem between the parts and gives the
//! [`Site`] that all decisions use.

mod backup;
mod check;
mod gold;
mod network;
mod power;

use std::{net::IpAddr, time::Duration};

pub use backup::{
    Backup, GRACE, JITTER, KIT_PROOF_EVERY, Keeper, Repository, SCRUB_EVERY, Secret, SourceKind,
    Window,
};
pub use check::SiteProblem;
pub use gold::{
    Gold, InvalidProviderUrl, PARALLEL, Provider, ProviderModel, ProviderUrl, TokensField,
};
pub use network::{
    Cidr, InvalidCidr, InvalidMac, MacAddress, NetworkSegment, SegmentRule, SegmentVerdict,
};
pub use power::{Period, Power, Price, SleepMethod, Tariff, WakeMethod, WakeRules};

use crate::{
    context::ContextSource,
    ids::{BackupName, HostName, ModelName, RepositoryName, ServiceName, SiteName},
    schedule::Zone,
};

/// A site whose parts may still contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteDraft {
    /// Name; part of every identity.
    pub name: SiteName,
    /// DNS domain of the hosts, such as `home.arpa`.
    pub domain: String,
    /// Zone that schedules are read in.
    pub time_zone: Zone,
    /// Hosts.
    pub hosts: Vec<Host>,
    /// Network segments.
    pub networks: Vec<NetworkSegment>,
    /// What may and may not pass between segments.
    pub segment_rules: Vec<SegmentRule>,
    /// Services.
    pub services: Vec<Service>,
    /// Repositories.
    pub repositories: Vec<Repository>,
    /// Backups.
    pub backups: Vec<Backup>,
    /// Times in which schedules do not fire.
    pub windows: Vec<Window>,
    /// Secrets that a cold start needs.
    pub secrets: Vec<Secret>,
    /// How often the recovery kit is proved to open everything.
    pub kit_proof_every: Duration,
    /// Tiers of AI jobs.
    pub tiers: Vec<TierConfig>,
    /// What may leave the house, to whom, and for how much.
    pub gold: Gold,
    /// Where documents come from that jobs may be given as context.
    pub context: Vec<ContextSource>,
}

/// A site whose parts fit together: names are unique, what is referred to
/// exists, targets can be met. The order of the parts is that of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site(SiteDraft);

impl Site {
    /// Name; part of every identity.
    #[must_use]
    pub const fn name(&self) -> &SiteName {
        &self.0.name
    }

    /// DNS domain of the hosts.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.0.domain
    }

    /// Zone that schedules are read in.
    #[must_use]
    pub const fn time_zone(&self) -> &Zone {
        &self.0.time_zone
    }

    /// Hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.0.hosts
    }

    /// The host of that name.
    #[must_use]
    pub fn host(&self, name: &HostName) -> Option<&Host> {
        self.0.hosts.iter().find(|host| host.name == *name)
    }

    /// Network segments.
    #[must_use]
    pub fn networks(&self) -> &[NetworkSegment] {
        &self.0.networks
    }

    /// What may and may not pass between segments.
    #[must_use]
    pub fn segment_rules(&self) -> &[SegmentRule] {
        &self.0.segment_rules
    }

    /// Services.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.0.services
    }

    /// Repositories.
    #[must_use]
    pub fn repositories(&self) -> &[Repository] {
        &self.0.repositories
    }

    /// Backups.
    #[must_use]
    pub fn backups(&self) -> &[Backup] {
        &self.0.backups
    }

    /// The backup of that name.
    #[must_use]
    pub fn backup(&self, name: &BackupName) -> Option<&Backup> {
        self.0.backups.iter().find(|backup| backup.name == *name)
    }

    /// The repository of that name.
    #[must_use]
    pub fn repository(&self, name: &RepositoryName) -> Option<&Repository> {
        self.0.repositories.iter().find(|one| one.name == *name)
    }

    /// Times in which schedules do not fire.
    #[must_use]
    pub fn windows(&self) -> &[Window] {
        &self.0.windows
    }

    /// Secrets that a cold start needs.
    #[must_use]
    pub fn secrets(&self) -> &[Secret] {
        &self.0.secrets
    }

    /// How often the recovery kit is proved to open everything.
    #[must_use]
    pub const fn kit_proof_every(&self) -> Duration {
        self.0.kit_proof_every
    }

    /// Tiers, in the order in which a job without a tier tries them.
    #[must_use]
    pub fn tiers(&self) -> &[TierConfig] {
        &self.0.tiers
    }

    /// The declaration of a tier.
    #[must_use]
    pub fn tier(&self, tier: Tier) -> Option<&TierConfig> {
        self.0.tiers.iter().find(|config| config.tier == tier)
    }

    /// The tier that a host's worker belongs to.
    #[must_use]
    pub fn tier_of(&self, host: &HostName) -> Option<Tier> {
        self.0.tiers.iter().find(|config| config.hosts.contains(host)).map(|config| config.tier)
    }

    /// What may leave the house, to whom, and for how much.
    #[must_use]
    pub const fn gold(&self) -> &Gold {
        &self.0.gold
    }

    /// Where documents come from that jobs may be given as context.
    #[must_use]
    pub fn context(&self) -> &[ContextSource] {
        &self.0.context
    }

    /// The parts, to be changed and checked again.
    #[must_use]
    pub fn into_draft(self) -> SiteDraft {
        self.0
    }
}

/// What power state a host is expected to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ExpectedPower {
    /// Always on.
    #[default]
    On,
    /// Off until needed.
    OnDemand,
}

crate::words! {
    /// Kinds of daemon that run on hosts and that the controller dials.
    DaemonKind {
        /// Health, inventory, checks, network and power.
        Agent = "agent",
        /// Backups, restores and drills.
        BackupAgent = "backup-agent",
        /// Inference.
        GpuWorker = "gpu-worker",
    }
}

impl DaemonKind {
    /// The port that it listens on unless the site file says otherwise.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Agent => 7450,
            Self::BackupAgent => 7451,
            Self::GpuWorker => 7452,
        }
    }
}

/// One daemon of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Kind.
    pub kind: DaemonKind,
    /// Port that the controller dials.
    pub port: u16,
}

impl Daemon {
    /// A daemon on its default port.
    #[must_use]
    pub const fn on_default_port(kind: DaemonKind) -> Self {
        Self { kind, port: kind.default_port() }
    }
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name.
    pub name: HostName,
    /// Management address.
    pub address: IpAddr,
    /// Its role in the site, for people.
    pub description: String,
    /// Where it is: things at the same place burn together.
    pub place: String,
    /// What power state is expected.
    pub expected_power: ExpectedPower,
    /// Address of the network card that wakes it.
    pub mac: Option<MacAddress>,
    /// How it is woken and when it sleeps; of matter where it is off until needed.
    pub power: Power,
    /// Daemons that it runs.
    pub daemons: Vec<Daemon>,
}

impl Host {
    /// The daemon of a kind.
    #[must_use]
    pub fn daemon(&self, kind: DaemonKind) -> Option<Daemon> {
        self.daemons.iter().copied().find(|daemon| daemon.kind == kind)
    }
}

crate::words! {
    /// How a service is spoken to.
    ServiceKind {
        /// PostgreSQL.
        Postgres = "postgres",
        /// HTTP without TLS.
        Http = "http",
        /// HTTP with TLS.
        Https = "https",
        /// Secure shell.
        Ssh = "ssh",
        /// The Git protocol or a forge.
        Git = "git",
        /// Domain names.
        Dns = "dns",
        /// Anything else that accepts a connection.
        Tcp = "tcp",
    }
}

/// One service of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name.
    pub name: ServiceName,
    /// Host that it runs on.
    pub host: HostName,
    /// Port.
    pub port: u16,
    /// How it is spoken to.
    pub kind: ServiceKind,
    /// Services that it cannot start without.
    pub needs: Vec<ServiceName>,
}

crate::words! {
    /// Where a job may run.
    Tier {
        /// Always on.
        Bronze = "bronze",
        /// Waits until its worker is up.
        Silver = "silver",
        /// Leaves the house; only by rule and within a budget.
        Gold = "gold",
    }
}

/// One tier of AI jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierConfig {
    /// Which.
    pub tier: Tier,
    /// Hosts whose gpu-workers belong to it.
    pub hosts: Vec<HostName>,
    /// Models that jobs may ask for. A worker's own list says which it has.
    pub models: Vec<ModelName>,
    /// Model of a job that names none.
    pub default_model: Option<ModelName>,
}
