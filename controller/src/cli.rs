//! The command line of `homelab-controller`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use homelab_common::{
    chance::SystemChance,
    clock::SystemClock,
    error_chain::Chain,
    exit::Exit,
    lifecycle::{self, Lifecycle},
    telemetry,
};
use homelab_rpc::node::LogHandle;
use jiff::Timestamp;

use crate::{
    app::{self, App, Deps, InitOptions},
    config::{Config, DEFAULT_PATH},
    site::SiteFile,
};

/// The control plane of a homelab: fleet, schedules, jobs, gateway, dashboard, certificates, audit.
#[derive(Debug, Parser)]
#[command(name = "homelab-controller", version)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, global = true, default_value = DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the controller; what happens without a command.
    Run,
    /// Founds the site's identities, once: root and issuing CA, the controller, the first admin.
    Init(Init),
    /// Checks the configuration and the site file, and lists every problem.
    CheckConfig,
    /// Prints every setting as it counts, with where it comes from.
    PrintConfig,
}

#[derive(Args, Debug)]
struct Init {
    /// Where the root's key goes, and nowhere else: best a medium that you can take out.
    #[arg(long, value_name = "FOLDER")]
    recovery: PathBuf,
    /// Your name: lower-case letters, digits, hyphens.
    #[arg(long, value_name = "NAME")]
    admin: String,
    /// Where your certificate goes.
    #[arg(long, value_name = "FOLDER")]
    admin_dir: PathBuf,
}

/// Does what the command line asks for.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let config = match Config::load(&cli.config) {
        Ok(config) => config,
        Err(report) => return complain(&report.to_string(), Exit::Usage),
    };
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => serve(config),
        Command::Init(options) => init(&config, options),
        Command::CheckConfig => match SiteFile::load(&config.site, Timestamp::now()) {
            Ok(_) => say(&format!(
                "{} and {} are in order\n",
                cli.config.display(),
                config.site.display()
            )),
            Err(report) => complain(&report.to_string(), Exit::Usage),
        },
        Command::PrintConfig => say(&config.to_string()),
    }
}

fn serve(config: Config) -> ExitCode {
    let telemetry = match telemetry::init(&config.log) {
        Ok(telemetry) => telemetry,
        Err(error) => return complain(&Chain(&error).to_string(), Exit::Usage),
    };
    let log = LogHandle::new(telemetry, &config.log.level);
    lifecycle::block_on(async move {
        let deps = Deps::system(Some(log));
        let tasks = deps.tasks.clone();
        let app = match App::build(config, deps).await {
            Ok(app) => std::sync::Arc::new(app),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the controller does not start");
                return Exit::Failed.into();
            }
        };
        let reloaded = std::sync::Arc::clone(&app);
        let lifecycle = Lifecycle::new(Config::GRACE).on_reload(move || reloaded.reload());
        let code = lifecycle::run(tasks, lifecycle).await;
        app.finish().await;
        code
    })
}

fn init(config: &Config, options: Init) -> ExitCode {
    let Init { recovery, admin, admin_dir } = options;
    let options = InitOptions { recovery_dir: recovery, admin, admin_dir };
    match app::init(config, &options, &SystemClock, &SystemChance) {
        Ok(founded) => say(&format!(
            "The site is founded.\n\
             Root key pin:       {}\n\
             Issuing CA ends:    {}\n\
             Administrator:      {} in {}, until {}\n\
             Recovery kit:       {}\n\n\
             Move the recovery kit to two media that stay offline, then delete it here. Start the \
             controller next.\n",
            founded.root_pin,
            founded.issuing_not_after,
            founded.admin,
            options.admin_dir.display(),
            founded.admin_not_after,
            options.recovery_dir.display(),
        )),
        Err(error) => complain(&Chain(&error).to_string(), Exit::Failed),
    }
}

fn say(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok.into(),
        Err(_) => Exit::Failed.into(),
    }
}

fn complain(text: &str, exit: Exit) -> ExitCode {
    // Nothing is left to be done when standard error is closed.
    let _closed = writeln!(io::stderr(), "homelab-controller: {text}");
    exit.into()
}
