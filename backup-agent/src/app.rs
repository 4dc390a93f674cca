//! The daemon, put together: the one place that says what is real.

mod network;
mod parts;

use std::{
    fs::{self, DirBuilder},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use homelab_common::{
    chance::Chance,
    clock::Clock,
    exec::{Exec, SystemExec},
    ledger::LedgerError,
    lifecycle::Tasks,
    secret::{Secret, SecretError, Source as SecretSource},
    tls::RootsError,
};
use homelab_proto::descriptors;
use homelab_rpc::{
    daemon::{Daemon, DaemonError, DaemonParts, Reloader},
    node::LogHandle,
    peer::Kind,
};

use crate::{
    agent::{Agent, Copies, Declared, Door, Kept},
    backup::Backup,
    config::{Config, RepositoryConfig},
    ids::Name,
    journal::Journal,
    repository::{
        Repository,
        identity::{Place, Site},
        restic::ResticRepository,
        sftp::SftpSite,
    },
    runs::Runs,
    service::{Backups, NOT_BUILT},
    source::opnsense::api::InvalidCredentials,
};
use parts::Parts;

/// What the daemon needs of the world.
#[derive(Clone, Debug)]
pub struct Deps {
    /// All background work.
    pub tasks: Tasks,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Runs PostgreSQL's programs.
    pub exec: Arc<dyn Exec>,
    /// To change the log level at run time.
    pub log: Option<LogHandle>,
}

/// A running daemon; it ends with its tasks.
#[derive(Debug)]
pub struct App {
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// What it can be asked to do.
    pub agent: Arc<Agent>,
    /// Takes a new certificate from the disk.
    pub reloader: Reloader,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Identity or sockets.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A password cannot be loaded.
    #[error("could not load the password of {of}")]
    Secret {
        /// Whose.
        of: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// A file of an API key is not one.
    #[error("the API key of {of} cannot be used")]
    ApiKey {
        /// Whose.
        of: String,
        /// What is wrong.
        #[source]
        source: InvalidCredentials,
    },
    /// A file of certificates is not one.
    #[error("the certificates of {of} cannot be used")]
    Roots {
        /// Whose.
        of: String,
        /// What is wrong.
        #[source]
        source: RootsError,
    },
    /// The journal cannot be read.
    #[error("could not read which runs were cut off")]
    Journal(#[from] LedgerError),
    /// A folder cannot be had.
    #[error("could not make the folder `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl App {
    /// Binds the sockets, clears up after runs that were cut off, and serves.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: Config, deps: Deps) -> Result<Self, StartError> {
        let daemon = Daemon::open(DaemonParts {
            config: config.daemon.clone(),
            kind: Kind::BackupAgent,
            version: env!("CARGO_PKG_VERSION"),
            descriptors: descriptors::BACKUP,
            not_built: NOT_BUILT,
            features: Vec::new(),
            log: deps.log.clone(),
            observer: None,
            tasks: deps.tasks.clone(),
            clock: Arc::clone(&deps.clock),
            chance: Arc::clone(&deps.chance),
        })
        .await?;
        let scratch = config.daemon.state_dir.join("scratch");
        empty_folder(&scratch)
            .map_err(|source| StartError::Folder { path: scratch.clone(), source })?;
        let journal = Arc::new(Journal::open(&config.daemon.state_dir)?);
        let cut_off = journal.entries();
        let runs = Runs::new(Arc::clone(&journal), deps.tasks.clone(), Arc::clone(&deps.clock));
        let agent = Arc::new(agent(&config, &deps, runs, scratch)?);
        let sweeping = Arc::clone(&agent).keep_sweeping(journal, cut_off, deps.tasks.stopping());
        deps.tasks.spawn(sweeping);
        deps.tasks.spawn(Arc::clone(&agent).keep_copying(deps.tasks.stopping()));
        let (address, reloader) = (daemon.local_addr(), daemon.reloader());
        let service = Backups::new(Arc::clone(&agent), deps.tasks.clone()).into_server();
        daemon.serve(|builder| builder.service(service))?;
        Ok(Self { address, agent, reloader })
    }
}

/// Every repository of the configuration, by itself: for commands without a daemon.
///
/// # Errors
///
/// A password cannot be loaded.
pub fn repository(
    config: &RepositoryConfig,
    host: &str,
    clock: &Arc<dyn Clock>,
) -> Result<ResticRepository, StartError> {
    let password = load(&config.password, || format!("repository `{}`", config.name))?;
    let site: Arc<dyn Site> = match &config.login {
        Some(login) => Arc::new(SftpSite::new(login, config.id, Arc::new(SystemExec))),
        None => {
            let (path, mount) = (config.path.clone(), config.mount.clone());
            Arc::new(Place { path, id: config.id, mount })
        }
    };
    let name = config.name.clone();
    let repository = ResticRepository::at(name, site, password, host.to_owned(), Arc::clone(clock));
    let repository = repository.with_access(config.access);
    Ok(match config.bandwidth {
        Some(bytes) => repository.with_bandwidth(bytes),
        None => repository,
    })
}

/// An agent that serves nobody and remembers nothing, for commands without a daemon:
/// its private folder `scratch` is the caller's to remove.
///
/// # Errors
///
/// [`StartError`].
pub fn bare(config: &Config, deps: &Deps, scratch: &Path) -> Result<Agent, StartError> {
    let journal = Arc::new(Journal::open(scratch)?);
    let runs = Runs::new(journal, deps.tasks.clone(), Arc::clone(&deps.clock));
    agent(config, deps, runs, scratch.into())
}

fn agent(config: &Config, deps: &Deps, runs: Runs, scratch: PathBuf) -> Result<Agent, StartError> {
    let parts = Parts::new(config, deps, scratch);
    let mut agent = Agent {
        backups: std::collections::BTreeMap::new(),
        repositories: std::collections::BTreeMap::new(),
        targets: std::collections::BTreeMap::new(),
        runs,
        copies: Copies::default(),
        clock: Arc::clone(&deps.clock),
        chance: Arc::clone(&deps.chance),
    };
    for entry in &config.repositories {
        let repository: Arc<dyn Repository> =
            Arc::new(repository(entry, &config.host, &deps.clock)?);
        let kept = Kept {
            repository,
            path: entry.path.clone(),
            id: entry.id,
            whereabouts: entry.whereabouts.clone(),
            door: Door::default(),
        };
        agent.repositories.insert(entry.name.clone(), kept);
    }
    for entry in &config.targets {
        agent.targets.insert(entry.name.clone(), parts.target(entry)?);
    }
    for entry in &config.backups {
        // The configuration was checked: each backup names a repository that is there.
        let Some(kept) = agent.repositories.get(&entry.repository) else { continue };
        let backup = Backup {
            name: entry.name.clone(),
            source: parts.source(entry)?,
            repository: Arc::clone(&kept.repository),
        };
        let named =
            |name: &Name| agent.repositories.get(name).map(|kept| Arc::clone(&kept.repository));
        let declared = Declared {
            backup,
            copies: entry.copies.iter().filter_map(named).collect(),
            spool: entry.spool.as_ref().and_then(named),
            drill_target: entry.drill_target.clone(),
        };
        agent.backups.insert(entry.name.clone(), declared);
    }
    Ok(agent)
}

/// A secret, with whose it is should it be missing.
pub(crate) fn load(
    source: &SecretSource,
    of: impl Fn() -> String,
) -> Result<Secret<String>, StartError> {
    source.load().map_err(|source| StartError::Secret { of: of(), source })
}

/// Password files of runs that were cut off go with the folder.
fn empty_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
