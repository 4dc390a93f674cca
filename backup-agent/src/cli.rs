//! The command line of `homelab-backup-agent`.

mod git;

use std::{
    error::Error,
    fmt::Display,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};
use homelab_common::{config::Report, error_chain::Chain, exec::SystemExec, exit::Exit, lifecycle};
use homelab_rpc::{
    cli::{DaemonCommand, Program, Started, World},
    daemon::DaemonConfig,
    peer::Kind,
};

use crate::{
    app::{App, Deps},
    config::{self, Config},
    offline::{self, GiveUp},
    repository::Depth,
    restore::{OnDamage, Place},
};
use git::GitCommand;

/// Makes backups, proves them and restores them; serves that over gRPC.
#[derive(Debug, Parser)]
#[command(name = "homelab-backup-agent", version)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = config::PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Daemon(DaemonCommand),
    /// Makes a repository in its existing, empty folder; the only thing that ever does.
    InitRepository {
        /// Its name in the configuration.
        repository: String,
    },
    /// Lists the verified snapshots, without daemon and controller.
    Snapshots {
        /// Its name in the configuration.
        repository: String,
    },
    /// Restores a snapshot into a folder, without daemon and controller.
    Restore {
        /// Its name in the configuration.
        repository: String,
        /// At least 8 digits of the snapshot, or `latest:BACKUP`.
        snapshot: String,
        /// The folder, which must not exist yet unless it is to be replaced.
        target: PathBuf,
        /// Replaces the folder, whose content is kept beside it: the backup's name confirms it.
        #[arg(long, value_name = "BACKUP")]
        replace: Option<String>,
        /// Restores what is intact and names what is damaged.
        #[arg(long)]
        salvage: bool,
    },
    /// Runs a backup once, without daemon and controller.
    Backup {
        /// Its name in the configuration.
        backup: String,
    },
    /// Copies what a backup's spool and repositories still have to give each other.
    Copy {
        /// Its name in the configuration.
        backup: String,
    },
    /// Drills a snapshot, without daemon and controller.
    Drill {
        /// Name of the repository in the configuration.
        repository: String,
        /// At least 8 digits of the snapshot, or `latest:BACKUP`.
        snapshot: String,
        /// Name of the drill target in the configuration.
        target: String,
    },
    /// Hides snapshots, or deletes hidden ones, without daemon and controller.
    Forget {
        /// Name of the repository in the configuration.
        repository: String,
        /// At least 8 digits of each snapshot; all of one backup.
        #[arg(required = true)]
        snapshots: Vec<String>,
        /// Deletes them, if they were hidden long enough.
        #[arg(long)]
        delete: bool,
        /// How many days are long enough.
        #[arg(long, value_name = "DAYS", default_value_t = 7, requires = "delete")]
        after_days: u64,
    },
    /// Frees the room of deleted snapshots, without daemon and controller.
    Prune {
        /// Its name in the configuration.
        repository: String,
    },
    /// Checks a repository, without daemon and controller.
    Verify {
        /// Its name in the configuration.
        repository: String,
        /// Reads every byte of it as well.
        #[arg(long)]
        read_data: bool,
    },
    /// Mirrored Git repositories.
    #[command(subcommand)]
    Git(GitCommand),
}

impl Cli {
    /// Does what the command line asks for.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let path = &self.config;
        match self.command.unwrap_or(Command::Daemon(DaemonCommand::Run)) {
            Command::Daemon(command) => command.run::<BackupAgent>(path),
            Command::InitRepository { repository } => {
                offline(path, |config| offline::init(config, &repository))
            }
            Command::Snapshots { repository } => {
                offline(path, |config| offline::list(config, &repository))
            }
            Command::Restore { repository, snapshot, target, replace, salvage } => {
                let damage = if salvage { OnDamage::LeaveOut } else { OnDamage::Refuse };
                let place = Place { target, replace, damage };
                offline(path, |config| offline::restore(config, &repository, &snapshot, &place))
            }
            Command::Forget { repository, snapshots, delete, after_days } => {
                let after = Duration::from_secs(after_days.saturating_mul(24 * 3600));
                let how = if delete { GiveUp::Delete { after } } else { GiveUp::Quarantine };
                offline(path, |config| offline::forget(config, &repository, &snapshots, how))
            }
            Command::Prune { repository } => {
                offline(path, |config| offline::prune(config, &repository))
            }
            Command::Verify { repository, read_data } => {
                let depth = if read_data { Depth::Data } else { Depth::Structure };
                offline(path, |config| offline::verify(config, &repository, depth))
            }
            Command::Backup { backup } => {
                working(path, async |config| offline::back_up(&config, &backup).await)
            }
            Command::Copy { backup } => {
                working(path, async |config| offline::copy(&config, &backup).await)
            }
            Command::Drill { repository, snapshot, target } => working(path, async |config| {
                offline::drill(&config, &repository, &snapshot, &target).await
            }),
            Command::Git(GitCommand::PushBack(push)) if push.needs_config() => {
                working(path, async |config| push.run(Some(&config)).await)
            }
            Command::Git(GitCommand::PushBack(push)) => {
                lifecycle::block_on(async { tell(push.run(None).await) })
            }
        }
    }
}

#[derive(Debug)]
struct BackupAgent;

impl Program for BackupAgent {
    const NAME: &'static str = "homelab-backup-agent";
    const KIND: Kind = Kind::BackupAgent;
    type Config = Config;

    fn load(path: &Path) -> Result<Config, Report> {
        Config::load(path)
    }

    fn daemon(config: &Config) -> &DaemonConfig {
        &config.daemon
    }

    async fn start(config: Config, world: World) -> Result<Started, Box<dyn Error + Send + Sync>> {
        let World { tasks, clock, chance, log } = world;
        let deps = Deps { tasks, clock, chance, exec: Arc::new(SystemExec), log };
        let App { address, reloader, .. } = App::start(config, deps).await?;
        Ok(Started { address, reloader })
    }
}

/// What needs neither a daemon nor the controller.
fn offline<E: Error + 'static>(
    path: &Path,
    verb: impl FnOnce(&Config) -> Result<String, E>,
) -> ExitCode {
    match Config::load(path) {
        Ok(config) => tell(verb(&config)),
        Err(report) => say(&report, Exit::Usage),
    }
}

/// The same, with a source or a target.
fn working<E: Error + 'static>(
    path: &Path,
    verb: impl AsyncFnOnce(Config) -> Result<String, E>,
) -> ExitCode {
    match Config::load(path) {
        Ok(config) => lifecycle::block_on(async { tell(verb(config).await) }),
        Err(report) => say(&report, Exit::Usage),
    }
}

fn tell<E: Error + 'static>(outcome: Result<String, E>) -> ExitCode {
    match outcome {
        Ok(text) => print(&text),
        Err(error) => say(&Chain(&error), Exit::Failed),
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn print(result: &dyn Display) -> ExitCode {
    print!("{result}");
    Exit::Ok.into()
}

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn say(what: &dyn Display, exit: Exit) -> ExitCode {
    eprintln!("homelab-backup-agent: {what}");
    exit.into()
}
