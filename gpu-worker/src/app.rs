//! The daemon, put together: the one place that says what is real.

use std::{
    fs::DirBuilder, io, net::SocketAddr, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc,
};

use homelab_common::{
    chance::Chance,
    clock::Clock,
    exec::Exec,
    ledger::LedgerError,
    lifecycle::{Abandoned, Tasks},
};
use homelab_proto::descriptors;
use homelab_rpc::{
    daemon::{Daemon, DaemonError, DaemonParts, Reloader},
    node::LogHandle,
    peer::Kind,
};
use tokio::sync::watch;

use crate::{
    config::{Config, EngineEntry},
    device::Roots,
    engine::{Engine, World},
    model::Hashes,
    service::{Inference, NOT_BUILT},
    worker::{Parts, Seat, Worker},
};

/// In the state folder: which model file had which hash.
const HASHES: &str = "model-hashes.json";

/// In the state folder: bundles about engines that ended by themselves.
const INCIDENTS: &str = "incidents";

/// What the daemon needs of the world.
#[derive(Debug, Clone)]
pub struct Deps {
    /// All background work.
    pub tasks: Tasks,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Starts engines.
    pub exec: Arc<dyn Exec>,
    /// Where devices are read.
    pub roots: Roots,
    /// To change the log level at run time.
    pub log: Option<LogHandle>,
}

/// A running daemon; it ends with its tasks.
#[derive(Debug)]
pub struct App {
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// The engines and models.
    pub worker: Worker,
    /// Takes a new certificate from the disk.
    pub reloader: Reloader,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Identity or sockets.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The folder for key files cannot be had.
    #[error("could not make the folder `{}` for the keys of engines", path.display())]
    Runtime {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is remembered of models can neither be read nor thrown away.
    #[error(transparent)]
    Hashes(LedgerError),
    /// The daemon was stopped meanwhile.
    #[error(transparent)]
    Stopping(Abandoned),
}

impl App {
    /// Binds the sockets, starts the engines and serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: Config, deps: Deps) -> Result<Self, StartError> {
        let Config { daemon, runtime, engines, models } = config;
        let state_dir = daemon.state_dir.clone();
        let daemon = Daemon::open(DaemonParts {
            config: daemon,
            kind: Kind::GpuWorker,
            version: env!("CARGO_PKG_VERSION"),
            descriptors: descriptors::INFERENCE,
            not_built: NOT_BUILT,
            features: Vec::new(),
            log: deps.log.clone(),
            observer: None,
            tasks: deps.tasks.clone(),
            clock: Arc::clone(&deps.clock),
            chance: Arc::clone(&deps.chance),
        })
        .await?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&runtime)
            .map_err(|source| StartError::Runtime { path: runtime.clone(), source })?;

        let hashes = state_dir.join(HASHES);
        let loading = deps.tasks.blocking(move || Hashes::load(&hashes)).await;
        let hashes = loading.map_err(StartError::Stopping)?.map_err(StartError::Hashes)?;

        let changed = watch::channel(()).0;
        let world = World {
            exec: Arc::clone(&deps.exec),
            clock: Arc::clone(&deps.clock),
            chance: Arc::clone(&deps.chance),
            tasks: deps.tasks.clone(),
            runtime,
            incidents: state_dir.join(INCIDENTS),
            roots: deps.roots.clone(),
            changed: changed.clone(),
        };
        let seat = |EngineEntry { engine, models, load }| Seat {
            engine: Engine::start(engine, world.clone()),
            models,
            load,
        };
        let worker = Worker::new(Parts {
            host: daemon.id().name().as_str().to_owned(),
            seats: engines.into_iter().map(seat).collect(),
            models,
            hashes,
            roots: deps.roots,
            tasks: deps.tasks.clone(),
            clock: deps.clock,
            changed,
        });
        let (address, reloader) = (daemon.local_addr(), daemon.reloader());
        let service = Inference::new(worker.clone(), deps.tasks.clone()).into_server();
        daemon.serve(|builder| builder.service(service))?;
        let first = worker.clone();
        deps.tasks.spawn(async move { first.load_first().await });
        Ok(Self { address, worker, reloader })
    }
}
