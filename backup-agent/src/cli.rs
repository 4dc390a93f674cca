//! The command line of `homelab-backup-agent`.

use std::{
    error::Error,
    fmt::Display,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use homelab_common::{config::Report, error_chain::Chain, exec::SystemExec, exit::Exit};
use homelab_rpc::{
    cli::{DaemonCommand, Program, Started, World},
    daemon::DaemonConfig,
    peer::Kind,
};

use crate::{
    app::{App, Deps},
    config::{self, Config},
    offline,
};

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
    /// Restores a snapshot into a new folder, without daemon and controller.
    Restore {
        /// Its name in the configuration.
        repository: String,
        /// At least 8 digits of the snapshot, or `latest:BACKUP`.
        snapshot: String,
        /// The folder, which must not exist yet.
        target: PathBuf,
    },
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
            Command::Restore { repository, snapshot, target } => {
                offline(path, |config| offline::restore(config, &repository, &snapshot, &target))
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
fn offline(
    path: &Path,
    verb: impl FnOnce(&Config) -> Result<String, offline::OfflineError>,
) -> ExitCode {
    match Config::load(path) {
        Ok(config) => tell(verb(&config)),
        Err(report) => say(&report, Exit::Usage),
    }
}

fn tell(outcome: Result<String, offline::OfflineError>) -> ExitCode {
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
