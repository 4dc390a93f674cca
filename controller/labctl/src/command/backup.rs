//! `labctl backup …`.

mod access;
mod copies;
mod evidence;
mod follow;
mod repository;
mod restore;
mod retention;
mod risk;
mod run;
mod schedule;

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{BackupStatus, GetStatusRequest, GetStatusResponse, Verdict};
use jiff::Timestamp;

pub(super) use self::retention::policy_text;
use crate::{
    args::{BackupCommand, ScheduleCommand},
    call,
    failure::Failure,
    lab::Lab,
    output::{Rows, distance, span},
};

/// Runs one verb on backups.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: BackupCommand) -> Result<Exit, Failure> {
    match command {
        BackupCommand::List => list(lab).await,
        BackupCommand::Risk => risk::show(lab).await,
        BackupCommand::Run(args) => run::start(lab, args).await,
        BackupCommand::Drill(args) => run::drill(lab, args).await,
        BackupCommand::Runs(args) => run::list(lab, args).await,
        BackupCommand::Watch(args) => follow::until_ended(lab, &args.run).await,
        BackupCommand::Cancel(args) => run::cancel(lab, args).await,
        BackupCommand::Snapshots(args) => run::snapshots(lab, args).await,
        BackupCommand::Restore(args) => restore::restore(lab, args).await,
        BackupCommand::PushBack(args) => restore::push_back(lab, args).await,
        BackupCommand::Retention(command) => retention::run(lab, command).await,
        BackupCommand::Copies(args) => copies::list(lab, args).await,
        BackupCommand::Copy(args) => copies::copy(lab, args).await,
        BackupCommand::Repositories(args) => repository::list(lab, args.backup).await,
        BackupCommand::Verify(args) => repository::verify(lab, args.into()).await,
        BackupCommand::Scrub(args) => repository::verify(lab, args.into()).await,
        BackupCommand::Prune(args) => repository::prune(lab, args).await,
        BackupCommand::Schedule(command) => schedule::run(lab, command).await,
        BackupCommand::Pause(args) => schedule::run(lab, ScheduleCommand::Pause(args)).await,
        BackupCommand::Resume(args) => schedule::run(lab, ScheduleCommand::Resume(args)).await,
        BackupCommand::Windows => schedule::windows(lab).await,
        BackupCommand::Access(args) => access::explain(lab, args.backup).await,
        BackupCommand::Evidence(command) => evidence::run(lab, command).await,
    }
}

async fn list(lab: &Lab) -> Result<Exit, Failure> {
    let answer: GetStatusResponse =
        lab.call("list backups", call::GET_STATUS, GetStatusRequest::default()).await?;
    // Only the backups are wanted, for programs as well.
    let only = GetStatusResponse { backups: answer.backups, ..GetStatusResponse::default() };
    lab.print(call::GET_STATUS, &only, || rows(lab.now(), &only.backups))?;
    Ok(Exit::Ok)
}

fn rows(now: Timestamp, backups: &[BackupStatus]) -> Rows {
    let head = ["backup", "verdict", "newest", "target", "drilled", "rto", "next", "message"];
    let mut rows = Rows::new(&head, "No backups are declared in the site file.");
    for backup in backups {
        let verdict = match backup.verdict() {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Critical => "critical",
            Verdict::Unspecified => "unknown",
        };
        let next =
            if backup.paused { "paused".to_owned() } else { distance(now, backup.next_run_at) };
        rows.push(
            &backup.backup,
            [
                backup.backup.clone(),
                verdict.to_owned(),
                distance(now, backup.newest_verified_at),
                span(backup.rpo),
                distance(now, backup.last_drill_at),
                span(backup.last_rto),
                next,
                backup.message.clone(),
            ],
        );
    }
    rows
}
