//! The command line of `homelab-gpu-worker`.

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use homelab_common::{config::Report, exec::SystemExec};
use homelab_rpc::{
    cli::{DaemonCommand, Program, Started, World},
    daemon::DaemonConfig,
    peer::Kind,
};

use crate::{
    app::{App, Deps},
    config::{self, Config},
    device::Roots,
};

/// Supervises inference engines and serves their tokens over gRPC.
#[derive(Debug, Parser)]
#[command(name = "homelab-gpu-worker", version)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = config::PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: DaemonCommand,
}

impl Cli {
    /// Does what the command line asks for.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.command.run::<GpuWorker>(&self.config)
    }
}

#[derive(Debug)]
struct GpuWorker;

impl Program for GpuWorker {
    const NAME: &'static str = "homelab-gpu-worker";
    const KIND: Kind = Kind::GpuWorker;
    type Config = Config;

    fn load(path: &Path) -> Result<Config, Report> {
        Config::load(path)
    }

    fn daemon(config: &Config) -> &DaemonConfig {
        &config.daemon
    }

    async fn start(config: Config, world: World) -> Result<Started, Box<dyn Error + Send + Sync>> {
        let World { tasks, clock, chance, log } = world;
        let deps =
            Deps { tasks, clock, chance, exec: Arc::new(SystemExec), roots: Roots::default(), log };
        let App { address, reloader, .. } = App::start(config, deps).await?;
        Ok(Started { address, reloader })
    }
}
