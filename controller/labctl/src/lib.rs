//! The command line of homelab.
//!
//! Every verb is a few lines: it builds one request, calls through [`lab::Lab`] and prints rows.
//! `--grpcurl`, deadlines, exit codes and the forms of a result are therefore the same everywhere,
//! and JSON is drawn from the descriptor set: the same that `grpcurl` prints.

pub mod args;
pub mod ask;
pub mod call;
pub mod command;
pub mod connect;
pub mod context;
pub mod failure;
pub mod lab;
pub mod output;
pub mod progress;
pub mod wire;

use std::time::Duration;

use homelab_common::exit::Exit;

use crate::{
    args::{
        AiCommand, Cli, Command, DocsCommand, HostCommand, JobCommand, ModelCommand, PowerCommand,
        TaskCommand,
    },
    failure::Failure,
    lab::Lab,
};

/// Time between two rounds of `--watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// Runs one verb.
///
/// # Errors
/// As the verb; the caller prints it and exits with its code.
pub async fn run(cli: Cli) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Completions(args) => return command::manual::completions(args),
        Command::Man(args) => return command::manual::man(args),
        _ => (),
    }
    let lab = Lab::new(cli.global)?;
    match cli.command {
        Command::Status if lab.global.watch => watch(|| command::status::run(&lab)).await,
        Command::Status => command::status::run(&lab).await,
        Command::Host(HostCommand::List) if lab.global.watch => {
            watch(|| command::host::run(&lab, HostCommand::List)).await
        }
        Command::Backup(command) if lab.global.watch && command.is_list() => {
            watch(|| command::backup::run(&lab, command.clone())).await
        }
        Command::Job(JobCommand::List(args)) if lab.global.watch => {
            watch(|| command::job::run(&lab, JobCommand::List(args.clone()))).await
        }
        Command::Init(args) => command::init::run(&lab, args).await,
        Command::Login(args) => command::login::run(&lab, args).await,
        Command::Doctor(args) => command::doctor::run(&lab, args).await,
        Command::Power(PowerCommand::List) if lab.global.watch => {
            watch(|| command::power::run(&lab, PowerCommand::List)).await
        }
        Command::Host(command) => command::host::run(&lab, command).await,
        Command::Power(command) => command::power::run(&lab, command).await,
        Command::Backup(command) => command::backup::run(&lab, command).await,
        Command::RecoveryKit(command) => command::recovery_kit::run(&lab, command).await,
        Command::Docs(DocsCommand::Render(args)) => command::docs::render(&lab, &args).await,
        Command::Job(command) => command::job::run(&lab, command).await,
        Command::Ai(AiCommand::Plan) if lab.global.watch => {
            watch(|| command::job::plan(&lab)).await
        }
        Command::Ask(args) => command::job::ask(&lab, args).await,
        Command::Ai(command) => command::ai::run(&lab, command).await,
        Command::Runbook(command) => command::runbook::run(&lab, command).await,
        Command::Model(ModelCommand::List) => command::overview::models(&lab).await,
        Command::Ca(command) => command::ca::run(&lab, command).await,
        Command::Audit(command) => command::audit::run(&lab, command).await,
        Command::Task(TaskCommand::List) => command::overview::tasks(&lab).await,
        Command::Dashboard => command::overview::dashboard(&lab).await,
        Command::Completions(_) | Command::Man(_) => Ok(Exit::Ok),
    }
}

/// Prints again and again until Ctrl-C, or until it fails.
async fn watch<F>(mut print: impl FnMut() -> F) -> Result<Exit, Failure>
where
    F: Future<Output = Result<Exit, Failure>>,
{
    loop {
        output::next_round()?;
        print().await?;
        tokio::select! {
            () = tokio::time::sleep(WATCH_PERIOD) => (),
            stop = tokio::signal::ctrl_c() => {
                return stop.map(|()| Exit::Ok).map_err(|error| anyhow::Error::from(error).into());
            }
        }
    }
}
