//! The command line of `homelab-agent`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use homelab_common::config::Report;
use homelab_common::exec::SystemExec;
use homelab_common::exit::Exit;
use homelab_common::lifecycle;
use homelab_rpc::cli::{DaemonCommand, Program, Started, World};
use homelab_rpc::daemon::DaemonConfig;
use homelab_rpc::peer::Kind;

use crate::app::{App, Deps};
use crate::config::{self, Config};
use crate::health::Roots;
use crate::show;

/// Tells how this host fares, what it is, and what can be seen from it.
#[derive(Debug, Parser)]
#[command(name = "homelab-agent", version)]
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
    /// Print how this host fares now, without a daemon or an identity.
    Sample,
}

impl Cli {
    /// Does what the command line asks for; without a command, runs the daemon.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Some(Command::Daemon(command)) => command.run::<Agent>(&self.config),
            Some(Command::Sample) => lifecycle::block_on_one_thread(print_sample()),
            None => DaemonCommand::Run.run::<Agent>(&self.config),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
async fn print_sample() -> ExitCode {
    let observation = show::observe_now(&Roots::default(), Arc::new(SystemExec)).await;
    print!("{}", show::Text(&observation));
    Exit::Ok.into()
}

#[derive(Debug)]
struct Agent;

impl Program for Agent {
    const NAME: &'static str = "homelab-agent";
    const KIND: Kind = Kind::Agent;
    type Config = Config;

    fn load(path: &Path) -> Result<Config, Report> {
        Config::load(path)
    }

    fn daemon(config: &Config) -> &DaemonConfig {
        &config.daemon
    }

    fn block_on(program: impl Future<Output = ExitCode>) -> ExitCode {
        lifecycle::block_on_one_thread(program)
    }

    async fn start(config: Config, world: World) -> Result<Started, Box<dyn Error + Send + Sync>> {
        let World { tasks, clock, chance, log } = world;
        let (exec, roots) = (Arc::new(SystemExec), Roots::default());
        let App { address, reloader } =
            App::start(config, Deps { tasks, clock, chance, exec, roots, log }).await?;
        Ok(Started { address, reloader })
    }
}
