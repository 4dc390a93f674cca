//! The command line of `homelab-gpu-worker`.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use homelab_common::{
    chance::SystemChance,
    clock::{Clock, SystemClock},
    error_chain::Chain,
    exec::SystemExec,
    exit::Exit,
    lifecycle::{self, Lifecycle, Tasks},
    telemetry,
};
use homelab_rpc::{
    enrol::{EnrolRequest, Token, enrol},
    node::LogHandle,
    peer::Kind,
};
use tracing::{error, info};

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
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon in the foreground.
    Run,
    /// Gets the certificate of this daemon by a token of `labctl host enroll`.
    #[command(visible_alias = "enrol")]
    Enroll {
        /// The token, or `-` to read it from standard input, where nobody else can see it.
        token: String,
        /// The address under which the controller reaches this daemon; that of `listen` otherwise.
        #[arg(long, value_name = "ADDRESS:PORT")]
        address: Option<SocketAddr>,
    },
    /// Says what is wrong with the configuration, or nothing.
    CheckConfig,
    /// Prints the configuration with all defaults filled in.
    PrintConfig,
}

impl Cli {
    /// Does what the command line asks for.
    pub fn run(self) -> ExitCode {
        let config = match Config::load(&self.config) {
            Ok(config) => config,
            Err(report) => return say(&report, Exit::Usage),
        };
        match self.command {
            Command::Run => lifecycle::block_on(serve(config)),
            Command::Enroll { token, address } => {
                lifecycle::block_on(enroll(config, token, address))
            }
            Command::CheckConfig => Exit::Ok.into(),
            Command::PrintConfig => print(&config),
        }
    }
}

async fn serve(config: Config) -> ExitCode {
    let log = &config.daemon.log;
    let telemetry = match telemetry::init(log) {
        Ok(telemetry) => telemetry,
        Err(error) => return say(&Chain(&error), Exit::Usage),
    };
    let tasks = Tasks::default();
    let deps = Deps {
        tasks: tasks.clone(),
        clock: Arc::new(SystemClock),
        chance: Arc::new(SystemChance),
        exec: Arc::new(SystemExec),
        roots: Roots::default(),
        log: Some(LogHandle::new(telemetry, &log.level)),
    };
    let grace = config.daemon.grace;
    let app = match App::start(config, deps).await {
        Ok(app) => app,
        Err(error) => {
            error!(error = %Chain(&error), "could not start");
            return Exit::Failed.into();
        }
    };
    info!(address = %app.address, "serving");
    let (reloader, work) = (app.reloader, tasks.clone());
    let lifecycle = Lifecycle::new(grace).on_reload(move || {
        let (reloader, work) = (reloader.clone(), work.clone());
        async move {
            if let Ok(Err(error)) = work.blocking(move || reloader.reload()).await {
                error!(error = %Chain(&error), "the certificate was not loaded again");
            }
        }
    });
    lifecycle::run(tasks, lifecycle).await
}

async fn enroll(config: Config, token: String, address: Option<SocketAddr>) -> ExitCode {
    let token =
        if token == "-" { std::io::read_to_string(std::io::stdin()).ok() } else { Some(token) };
    let token: Token = match token.as_deref().unwrap_or_default().trim().parse() {
        Ok(token) => token,
        Err(error) => return say(&Chain(&error), Exit::Usage),
    };
    let address = address.unwrap_or(config.daemon.listen);
    if address.ip().is_unspecified() {
        let what =
            "the controller must know where to reach this daemon: give --address ADDRESS:PORT";
        return say(&what, Exit::Usage);
    }
    let request = EnrolRequest { token, kind: Kind::GpuWorker, address: address.to_string() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    match enrol(request, &config.daemon.pki_dir, &clock, &SystemChance).await {
        Ok(enrolled) => {
            print(&format_args!("enrolled as {} until {}\n", enrolled.id, enrolled.not_after))
        }
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
    eprintln!("homelab-gpu-worker: {what}");
    exit.into()
}
