//! The daemon, put together: the one place that says what is real.

use std::net::SocketAddr;
use std::sync::Arc;

use homelab_common::chance::Chance;
use homelab_common::clock::Clock;
use homelab_common::exec::Exec;
use homelab_common::lifecycle::Tasks;
use homelab_proto::agent::v1::power_service_server::PowerServiceServer;
use homelab_proto::descriptors;
use homelab_rpc::daemon::{Daemon, DaemonError, DaemonParts, Reloader};
use homelab_rpc::node::LogHandle;
use homelab_rpc::peer::Kind;

use crate::check::Runner;
use crate::config::Config;
use crate::health::{Monitor, Roots, SlowReader};
use crate::inventory::Inventory;
use crate::power::Power;
use crate::service::{Host, NOT_BUILT, PowerApi};

/// What the daemon needs of the world.
#[derive(Clone, Debug)]
pub struct Deps {
    /// All background work.
    pub tasks: Tasks,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Runs programs.
    pub exec: Arc<dyn Exec>,
    /// Where the kernel is read.
    pub roots: Roots,
    /// To change the log level at run time.
    pub log: Option<LogHandle>,
}

/// A running daemon; it ends with its tasks.
#[derive(Debug)]
pub struct App {
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// Takes a new certificate from the disk.
    pub reloader: Reloader,
}

impl App {
    /// Binds the sockets, begins to read and serves.
    ///
    /// # Errors
    /// There is no identity, or the sockets cannot be had; nothing runs then.
    pub async fn start(config: Config, deps: Deps) -> Result<Self, DaemonError> {
        let daemon = Daemon::open(DaemonParts {
            config: config.daemon.clone(),
            kind: Kind::Agent,
            version: env!("CARGO_PKG_VERSION"),
            descriptors: descriptors::AGENT,
            not_built: NOT_BUILT,
            features: Vec::new(),
            log: deps.log.clone(),
            observer: None,
            tasks: deps.tasks.clone(),
            clock: Arc::clone(&deps.clock),
            chance: Arc::clone(&deps.chance),
        })
        .await?;
        let (address, reloader) = (daemon.local_addr(), daemon.reloader());
        let power = PowerServiceServer::new(PowerApi::new(Arc::new(power(&config, &deps))));
        let service = host(daemon.id().name().as_str(), &config, deps).into_server();
        daemon.serve(|builder| builder.service(service).service(power))?;
        Ok(Self { address, reloader })
    }
}

fn power(config: &Config, deps: &Deps) -> Power {
    let Deps { roots, clock, exec, .. } = deps;
    let state_dir = config.daemon.state_dir.clone();
    Power::new(config.power.clone(), roots.clone(), state_dir, Arc::clone(clock), Arc::clone(exec))
}

/// The service of the host called `name`, and its background readings.
fn host(name: &str, config: &Config, deps: Deps) -> Host {
    let Deps { tasks, clock, chance, exec, roots, .. } = deps;
    let reader = SlowReader::new(roots.clone(), Arc::clone(&clock), Arc::clone(&exec));
    let monitor = Monitor::new(&roots, config.thresholds, Arc::clone(&clock), reader.newest());
    let monitor = Arc::new(monitor);
    let background = Arc::clone(&monitor);
    let stopping = tasks.stopping();
    tasks.spawn(async move {
        tokio::select! {
            () = reader.run() => {}
            () = background.keep_fresh() => {}
            () = stopping.cancelled() => {}
        }
    });
    let inventory = Inventory::new(roots.clone(), Arc::clone(&clock), Arc::clone(&exec));
    let runner = Runner::new(roots, clock, chance, exec);
    Host {
        name: Arc::from(name),
        monitor,
        inventory: Arc::new(inventory),
        runner: Arc::new(runner),
        tasks,
    }
}
