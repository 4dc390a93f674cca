//! The command line that the daemons of a host share: run, enroll, check-config, print-config.
//!
//! A daemon flattens [`DaemonCommand`] into its own commands and says by [`Program`] what it is.

use std::{
    error::Error, fmt::Display, io::Read as _, net::SocketAddr, path::Path, process::ExitCode,
    sync::Arc,
};

use clap::Subcommand;
use homelab_common::{
    chance::{Chance, SystemChance},
    clock::{Clock, SystemClock},
    config::Report,
    error_chain::Chain,
    exit::Exit,
    lifecycle::{self, Lifecycle, Tasks},
    secret::Secret,
    telemetry,
};
use tracing::{error, info};

use crate::{
    daemon::{DaemonConfig, Reloader},
    enrol::{EnrolRequest, Token, enrol},
    node::LogHandle,
    peer::Kind,
};

/// Most bytes of a token.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// What every daemon of a host can be told.
#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Run in the foreground.
    Run,
    /// Get this daemon's certificate by a token of `labctl host enroll`.
    #[command(visible_alias = "enrol")]
    Enroll {
        /// `-` reads the token from standard input, where nobody else can see it; or a file with it.
        token: String,
        /// Address under which the controller reaches this daemon; that of `listen` without it.
        #[arg(long, value_name = "ADDRESS:PORT")]
        address: Option<SocketAddr>,
    },
    /// Say what is wrong with the configuration, or nothing.
    CheckConfig,
    /// Print the configuration with all defaults filled in.
    PrintConfig,
}

/// What a daemon is made with: the real world, or what a test puts in its place.
#[derive(Clone, Debug)]
pub struct World {
    /// All background work.
    pub tasks: Tasks,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// To change the log level at run time.
    pub log: Option<LogHandle>,
}

/// A daemon that serves.
#[derive(Debug)]
pub struct Started {
    /// Where.
    pub address: SocketAddr,
    /// Loads the certificate again: for SIGHUP.
    pub reloader: Reloader,
}

/// One daemon, as its command line sees it.
pub trait Program {
    /// Its name, as people type it.
    const NAME: &'static str;
    /// Its kind.
    const KIND: Kind;
    /// Its checked configuration; displayed as `print-config` shows it.
    type Config: Display + Send;

    /// Reads the configuration.
    ///
    /// # Errors
    /// All problems of the file in one report.
    fn load(path: &Path) -> Result<Self::Config, Report>;

    /// The part that all daemons have.
    fn daemon(config: &Self::Config) -> &DaemonConfig;

    /// Runs what the command line asks for: on several threads, unless the daemon says otherwise.
    fn block_on(program: impl Future<Output = ExitCode>) -> ExitCode {
        lifecycle::block_on(program)
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// Says why it cannot.
    fn start(
        config: Self::Config,
        world: World,
    ) -> impl Future<Output = Result<Started, Box<dyn Error + Send + Sync>>> + Send;
}

impl DaemonCommand {
    /// Does what was asked for.
    pub fn run<P: Program>(self, path: &Path) -> ExitCode {
        let config = match P::load(path) {
            Ok(config) => config,
            Err(report) => return say::<P>(&report, Exit::Usage),
        };
        match self {
            Self::Run => P::block_on(serve::<P>(config)),
            Self::Enroll { token, address } => {
                P::block_on(enroll::<P>(P::daemon(&config).clone(), token, address))
            }
            Self::CheckConfig => Exit::Ok.into(),
            Self::PrintConfig => print(&config),
        }
    }
}

async fn serve<P: Program>(config: P::Config) -> ExitCode {
    let DaemonConfig { log, grace, .. } = P::daemon(&config).clone();
    let telemetry = match telemetry::init(&log) {
        Ok(telemetry) => telemetry,
        Err(error) => return say::<P>(&Chain(&error), Exit::Usage),
    };
    let tasks = Tasks::default();
    let world = World {
        tasks: tasks.clone(),
        clock: Arc::new(SystemClock),
        chance: Arc::new(SystemChance),
        log: Some(LogHandle::new(telemetry, &log.level)),
    };
    let Started { address, reloader } = match P::start(config, world).await {
        Ok(started) => started,
        Err(error) => {
            error!(error = %Chain(error.as_ref()), "could not start");
            return Exit::Failed.into();
        }
    };
    info!(%address, "serving");
    let work = tasks.clone();
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

async fn enroll<P: Program>(
    config: DaemonConfig,
    token: String,
    address: Option<SocketAddr>,
) -> ExitCode {
    let token: Token = match read_token(&token) {
        Err(error) => {
            return say::<P>(&format_args!("could not read `{token}`: {error}"), Exit::Usage);
        }
        Ok(text) => match text.expose().trim().parse() {
            Ok(token) => token,
            Err(error) => return say::<P>(&Chain(&error), Exit::Usage),
        },
    };
    let address = address.unwrap_or(config.listen);
    if address.ip().is_unspecified() {
        let what =
            "the controller must know where to reach this daemon: give --address ADDRESS:PORT";
        return say::<P>(&what, Exit::Usage);
    }
    let request = EnrolRequest { token, kind: P::KIND, address: address.to_string() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    match enrol(request, &config.pki_dir, &clock, &SystemChance).await {
        Ok(enrolled) => {
            print(&format_args!("enrolled as {} until {}\n", enrolled.id, enrolled.not_after))
        }
        Err(error) => say::<P>(&Chain(&error), Exit::Failed),
    }
}

/// A token is a secret: it comes by file or standard input, never as an argument.
fn read_token(from: &str) -> std::io::Result<Secret<String>> {
    let mut text = String::new();
    let _bytes = if from == "-" {
        std::io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut text)?
    } else {
        std::fs::File::open(from)?.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?
    };
    Ok(Secret::new(text))
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn print(result: &dyn Display) -> ExitCode {
    print!("{result}");
    Exit::Ok.into()
}

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn say<P: Program>(what: &dyn Display, exit: Exit) -> ExitCode {
    eprintln!("{}: {what}", P::NAME);
    exit.into()
}
