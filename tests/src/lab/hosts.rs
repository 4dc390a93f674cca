//! The hosts of the lab, on loopback addresses of their own.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::Context as _;

/// Daemons of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// `homelab-agent`.
    Agent,
    /// `homelab-backup-agent`.
    BackupAgent,
    /// `homelab-gpu-worker`.
    GpuWorker,
}

impl Daemon {
    /// Its kind, as in files and on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::BackupAgent => "backup-agent",
            Self::GpuWorker => "gpu-worker",
        }
    }

    /// Its program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Agent => "homelab-agent",
            Self::BackupAgent => "homelab-backup-agent",
            Self::GpuWorker => "homelab-gpu-worker",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Agent => 7450,
            Self::BackupAgent => 7451,
            Self::GpuWorker => 7452,
        }
    }
}

/// One host of the lab.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Its name.
    pub name: &'static str,
    /// Its loopback address.
    pub address: Ipv4Addr,
    /// Its role, for people.
    pub description: &'static str,
    /// Whether it is off until needed.
    pub on_demand: bool,
    /// Its daemons.
    pub daemons: &'static [Daemon],
}

/// The hosts; x99 is asleep when the lab starts.
pub const HOSTS: [Host; 4] = [
    Host {
        name: "qotom",
        address: Ipv4Addr::new(127, 0, 0, 10),
        description: "edge",
        on_demand: false,
        daemons: &[Daemon::Agent],
    },
    Host {
        name: "hx310-db",
        address: Ipv4Addr::new(127, 0, 0, 20),
        description: "PostgreSQL and the controller",
        on_demand: false,
        daemons: &[Daemon::Agent, Daemon::BackupAgent],
    },
    Host {
        name: "cw-nas",
        address: Ipv4Addr::new(127, 0, 0, 30),
        description: "Bronze tier",
        on_demand: false,
        daemons: &[Daemon::Agent, Daemon::GpuWorker],
    },
    Host {
        name: "x99",
        address: Ipv4Addr::new(127, 0, 0, 40),
        description: "Silver tier, off until needed",
        on_demand: true,
        daemons: &[Daemon::Agent, Daemon::GpuWorker],
    },
];

/// Splits `HOST/KIND`.
pub(super) fn parse(name: &str) -> anyhow::Result<(&'static Host, Daemon)> {
    let (host, kind) =
        name.split_once('/').with_context(|| format!("`{name}` is not HOST/KIND"))?;
    let host = HOSTS
        .iter()
        .find(|known| known.name == host)
        .with_context(|| format!("no host `{host}`"))?;
    let daemon = host.daemons.iter().find(|daemon| daemon.word() == kind);
    Ok((host, *daemon.with_context(|| format!("no {kind} on {}", host.name))?))
}

/// Where everything listens.
#[derive(Clone, Debug)]
pub struct Ports {
    daemons: BTreeMap<(&'static str, Daemon), SocketAddr>,
    controller: [SocketAddr; 3],
}

impl Ports {
    /// The ports of a real installation, when they are free on the lab's addresses; else any.
    ///
    /// # Errors
    /// When the system has no free port.
    pub fn usual_or_free() -> anyhow::Result<Self> {
        let usual = Self::by(|address, port| Ok(SocketAddr::from((address, port))))?;
        let all = usual.daemons.values().chain(&usual.controller);
        let taken = all.map(TcpListener::bind).collect::<Result<Vec<_>, _>>().is_err();
        if taken { Self::free() } else { Ok(usual) }
    }

    /// Any free ports, so that several labs run side by side.
    ///
    /// # Errors
    /// When the system has no free port.
    pub fn free() -> anyhow::Result<Self> {
        // All stay bound until the last is found, so that none is given twice.
        let mut held = Vec::new();
        Self::by(|address, _| {
            let listener = TcpListener::bind((address, 0)).context("find a free port")?;
            let found = listener.local_addr().context("find a free port")?;
            held.push(listener);
            Ok(found)
        })
    }

    fn by(
        mut pick: impl FnMut(Ipv4Addr, u16) -> anyhow::Result<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let mut daemons = BTreeMap::new();
        for host in &HOSTS {
            for daemon in host.daemons {
                let _new = daemons
                    .insert((host.name, *daemon), pick(host.address, daemon.default_port())?);
            }
        }
        let home = Ipv4Addr::LOCALHOST;
        let controller = [pick(home, 7440)?, pick(home, 7441)?, pick(home, 7480)?];
        Ok(Self { daemons, controller })
    }

    /// Of one daemon, when the lab has it.
    #[must_use]
    pub fn of(&self, host: &str, daemon: Daemon) -> Option<SocketAddr> {
        let found = self.daemons.iter().find(|((name, kind), _)| *name == host && *kind == daemon);
        found.map(|(_, address)| *address)
    }

    /// The controller's gRPC port.
    #[must_use]
    pub const fn grpc(&self) -> SocketAddr {
        self.controller[0]
    }

    /// The controller's enrolment port.
    #[must_use]
    pub const fn enrolment(&self) -> SocketAddr {
        self.controller[1]
    }

    /// The controller's web port.
    #[must_use]
    pub const fn web(&self) -> SocketAddr {
        self.controller[2]
    }
}
