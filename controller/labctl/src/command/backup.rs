//! `labctl backup …`.

mod follow;
mod schedule;

use homelab_common::exit::Exit;
use homelab_proto::{
    backup::v1::{restore_response, verify_repository_response},
    controller::v1::{
        GetRiskRequest, GetRiskResponse, GetStatusRequest, GetStatusResponse,
        ListBackupSnapshotsRequest, ListBackupSnapshotsResponse, ListRunsRequest, ListRunsResponse,
        RestoreBackupRequest, RestoreBackupResponse, StartBackupRequest, StartBackupResponse,
        StartDrillRequest, StartDrillResponse, Verdict, VerifyBackupRequest, VerifyBackupResponse,
    },
};

use crate::{
    args::{BackupCommand, DrillArgs, RestoreArgs, RunArgs, RunsArgs, VerifyArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, bytes, distance, span},
};

/// Runs one verb on backups.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: BackupCommand) -> Result<Exit, Failure> {
    match command {
        BackupCommand::List => list(lab).await,
        BackupCommand::Risk => risk(lab).await,
        BackupCommand::Run(args) => start(lab, args).await,
        BackupCommand::Drill(args) => drill(lab, args).await,
        BackupCommand::Runs(args) => runs(lab, args).await,
        BackupCommand::Snapshots(args) => snapshots(lab, args.backup).await,
        BackupCommand::Verify(args) => verify(lab, args).await,
        BackupCommand::Restore(args) => restore(lab, args).await,
        BackupCommand::Schedule(command) => schedule::run(lab, command).await,
    }
}

async fn list(lab: &Lab) -> Result<Exit, Failure> {
    let answer: GetStatusResponse =
        lab.call("list backups", call::GET_STATUS, GetStatusRequest::default()).await?;
    // Only the backups are wanted, for programs as well.
    let only = GetStatusResponse { backups: answer.backups, ..GetStatusResponse::default() };
    lab.print(call::GET_STATUS, &only, || {
        let head = ["backup", "verdict", "newest", "target", "drilled", "rto", "next", "message"];
        let mut rows = Rows::new(&head, "No backups are declared in the site file.");
        for backup in &only.backups {
            let verdict = match backup.verdict() {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Critical => "critical",
                Verdict::Unspecified => "unknown",
            };
            rows.push(
                &backup.backup,
                [
                    backup.backup.clone(),
                    verdict.to_owned(),
                    distance(lab.now(), backup.newest_verified_at),
                    span(backup.rpo),
                    distance(lab.now(), backup.last_drill_at),
                    span(backup.last_rto),
                    if backup.paused {
                        "paused".to_owned()
                    } else {
                        distance(lab.now(), backup.next_run_at)
                    },
                    backup.message.clone(),
                ],
            );
        }
        rows
    })?;
    Ok(Exit::Ok)
}

async fn risk(lab: &Lab) -> Result<Exit, Failure> {
    let answer: GetRiskResponse =
        lab.call("work out the risk", call::GET_RISK, GetRiskRequest::default()).await?;
    lab.print(call::GET_RISK, &answer, || {
        let head = ["backup", "you would lose", "target", "within", "proved to", "rto", "gaps"];
        let mut rows = Rows::new(&head, "No backups are declared in the site file.");
        for risk in &answer.risks {
            rows.push(
                &risk.backup,
                [
                    risk.backup.clone(),
                    risk.exposure.map_or_else(|| "everything".to_owned(), |age| span(Some(age))),
                    span(risk.rpo),
                    if risk.within_rpo { "yes" } else { "no" }.to_owned(),
                    risk.drilled_exposure.map_or_else(|| "never".to_owned(), |age| span(Some(age))),
                    span(risk.rto_median),
                    risk.gaps.join("; "),
                ],
            );
        }
        rows
    })?;
    let all_well = answer.risks.iter().all(|risk| risk.within_rpo);
    Ok(if all_well { Exit::Ok } else { Exit::Partial })
}

async fn start(lab: &Lab, args: RunArgs) -> Result<Exit, Failure> {
    let request = StartBackupRequest {
        request_id: lab.request_id(),
        validate_only: lab.global.dry_run,
        backup: args.backup.clone(),
    };
    let action = format!("start backup {}", args.backup);
    let answer: StartBackupResponse = lab.call(&action, call::START_BACKUP, request).await?;
    follow::started(lab, call::START_BACKUP, &answer, answer.run.as_ref(), args.wait).await
}

async fn drill(lab: &Lab, args: DrillArgs) -> Result<Exit, Failure> {
    let request = StartDrillRequest {
        request_id: lab.request_id(),
        validate_only: lab.global.dry_run,
        backup: args.backup.clone(),
        snapshot_id: args.snapshot.unwrap_or_default(),
        repository: String::new(),
    };
    let action = format!("start a drill of {}", args.backup);
    let answer: StartDrillResponse = lab.call(&action, call::START_DRILL, request).await?;
    follow::started(lab, call::START_DRILL, &answer, answer.run.as_ref(), args.wait).await
}

async fn runs(lab: &Lab, args: RunsArgs) -> Result<Exit, Failure> {
    let request = ListRunsRequest {
        backup: args.backup.unwrap_or_default(),
        page_size: args.limit.into(),
        ..ListRunsRequest::default()
    };
    let answer: ListRunsResponse = lab.call("list runs", call::LIST_RUNS, request).await?;
    lab.print(call::LIST_RUNS, &answer, || {
        let mut rows = Rows::new(&follow::HEAD, "Nothing has run yet: labctl backup run NAME");
        for run in &answer.runs {
            rows.push(&run.run_id, follow::cells(lab.now(), run));
        }
        rows
    })?;
    Ok(Exit::Ok)
}

async fn snapshots(lab: &Lab, backup: String) -> Result<Exit, Failure> {
    let action = format!("list snapshots of {backup}");
    let request = ListBackupSnapshotsRequest { backup, ..ListBackupSnapshotsRequest::default() };
    let answer: ListBackupSnapshotsResponse =
        lab.call(&action, call::LIST_BACKUP_SNAPSHOTS, request).await?;
    lab.print(call::LIST_BACKUP_SNAPSHOTS, &answer, || {
        let head = ["snapshot", "taken", "verified", "source", "grew by", "repository", "host"];
        let mut rows = Rows::new(&head, "No verified snapshot yet: labctl backup run NAME");
        for snapshot in &answer.snapshots {
            rows.push(
                &snapshot.id,
                [
                    snapshot.id.chars().take(8).collect(),
                    distance(lab.now(), snapshot.taken_at),
                    distance(lab.now(), snapshot.verified_at),
                    bytes(snapshot.source_bytes),
                    snapshot.stored_bytes.map_or_else(|| "-".to_owned(), bytes),
                    snapshot.repository.clone(),
                    snapshot.host.clone(),
                ],
            );
        }
        rows
    })?;
    Ok(Exit::Ok)
}

async fn verify(lab: &Lab, args: VerifyArgs) -> Result<Exit, Failure> {
    let action = format!("verify the repository of {}", args.backup);
    let request = VerifyBackupRequest {
        request_id: lab.request_id(),
        backup: args.backup,
        read_data: args.read_data,
    };
    let mut stream =
        lab.stream::<_, VerifyBackupResponse>(&action, call::VERIFY_BACKUP, request).await?;
    while let Some(answer) = follow::next(&action, &mut stream).await? {
        match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
            Some(verify_repository_response::Event::Progress(progress)) => {
                follow::progress(progress)
            }
            Some(verify_repository_response::Event::Failure(failure)) => {
                return Err(follow::failed(&action, failure));
            }
            Some(verify_repository_response::Event::Report(report)) => {
                lab.print(call::VERIFY_BACKUP, &answer, || {
                    let mut rows = Rows::new(&["sound", "snapshots", "took", "problems"], "");
                    let sound = if report.sound { "yes" } else { "NO" };
                    rows.push(
                        sound,
                        [
                            sound.to_owned(),
                            report.snapshots.to_string(),
                            span(report.elapsed),
                            report.problems.join("; "),
                        ],
                    );
                    rows
                })?;
                return Ok(if report.sound { Exit::Ok } else { Exit::Failed });
            }
            None => (),
        }
    }
    Err(follow::cut_off(&action))
}

async fn restore(lab: &Lab, args: RestoreArgs) -> Result<Exit, Failure> {
    let action = format!("restore {}", args.backup);
    let request = RestoreBackupRequest {
        request_id: lab.request_id(),
        validate_only: lab.global.dry_run,
        backup: args.backup,
        snapshot_id: args.snapshot.unwrap_or_default(),
        target: args.target,
    };
    let mut stream =
        lab.stream::<_, RestoreBackupResponse>(&action, call::RESTORE_BACKUP, request).await?;
    while let Some(answer) = follow::next(&action, &mut stream).await? {
        match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
            Some(restore_response::Event::Progress(progress)) => follow::progress(progress),
            Some(restore_response::Event::Failure(failure)) => {
                return Err(follow::failed(&action, failure));
            }
            Some(restore_response::Event::Report(report)) => {
                lab.print(call::RESTORE_BACKUP, &answer, || {
                    let mut rows = Rows::new(&["file", "size"], "");
                    for file in &report.files {
                        rows.push(&file.path, [file.path.clone(), bytes(file.size_bytes)]);
                    }
                    rows
                })?;
                output::say(&format!(
                    "restored into {} in {}",
                    report.target,
                    span(report.elapsed)
                ));
                for step in &report.next_steps {
                    output::say(&format!("  next: {step}"));
                }
                return Ok(Exit::Ok);
            }
            None => (),
        }
    }
    Err(follow::cut_off(&action))
}
