//! Runs, drills and what they stored.

use homelab_common::exit::Exit;
use homelab_proto::{
    backup::v1::Snapshot,
    controller::v1::{
        CancelRunRequest, CancelRunResponse, ListBackupSnapshotsRequest,
        ListBackupSnapshotsResponse, ListRunsRequest, ListRunsResponse, RunKind,
        StartBackupRequest, StartBackupResponse, StartDrillRequest, StartDrillResponse,
    },
};
use jiff::Timestamp;

use super::follow;
use crate::{
    args::{CancelArgs, DrillArgs, RunArgs, RunsArgs, SnapshotsArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, bytes, distance, short, yes},
};

/// Starts a backup.
pub(super) async fn start(lab: &Lab, args: RunArgs) -> Result<Exit, Failure> {
    let request = StartBackupRequest {
        request_id: lab.request_id(),
        validate_only: lab.global.dry_run,
        backup: args.backup.clone(),
    };
    let action = format!("start backup {}", args.backup);
    let answer: StartBackupResponse = lab.call(&action, call::START_BACKUP, request).await?;
    follow::started(lab, call::START_BACKUP, &answer, answer.run.as_ref(), args.wait).await
}

/// Starts a drill.
pub(super) async fn drill(lab: &Lab, args: DrillArgs) -> Result<Exit, Failure> {
    let request = StartDrillRequest {
        request_id: lab.request_id(),
        validate_only: lab.global.dry_run,
        backup: args.backup.clone(),
        snapshot_id: args.snapshot.unwrap_or_default(),
        repository: args.repository.unwrap_or_default(),
    };
    let action = format!("start a drill of {}", args.backup);
    let answer: StartDrillResponse = lab.call(&action, call::START_DRILL, request).await?;
    follow::started(lab, call::START_DRILL, &answer, answer.run.as_ref(), args.wait).await
}

/// Lists runs.
pub(super) async fn list(lab: &Lab, args: RunsArgs) -> Result<Exit, Failure> {
    let kind = if args.drills { RunKind::Drill } else { RunKind::Unspecified };
    let request = ListRunsRequest {
        backup: args.backup.unwrap_or_default(),
        kind: kind.into(),
        page_size: args.limit.into(),
        page_token: String::new(),
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

/// Cancels what goes on.
pub(super) async fn cancel(lab: &Lab, args: CancelArgs) -> Result<Exit, Failure> {
    let action = format!("cancel {}", args.run);
    let request =
        CancelRunRequest { run_id: args.run.clone(), backup: args.backup.unwrap_or_default() };
    let answer: CancelRunResponse = lab.call(&action, call::CANCEL_RUN, request).await?;
    lab.print(call::CANCEL_RUN, &answer, || {
        let mut rows = Rows::new(&["run", "went on"], "");
        rows.push(&args.run, [args.run.clone(), yes(answer.was_running).to_owned()]);
        rows
    })?;
    if !answer.was_running {
        output::say("it had ended already: labctl backup runs shows how");
    }
    Ok(Exit::Ok)
}

/// Lists the verified snapshots of a backup.
pub(super) async fn snapshots(lab: &Lab, args: SnapshotsArgs) -> Result<Exit, Failure> {
    let action = format!("list snapshots of {}", args.backup);
    let request = ListBackupSnapshotsRequest {
        backup: args.backup,
        page_size: args.limit.into(),
        page_token: String::new(),
    };
    let answer: ListBackupSnapshotsResponse =
        lab.call(&action, call::LIST_BACKUP_SNAPSHOTS, request).await?;
    lab.print(call::LIST_BACKUP_SNAPSHOTS, &answer, || {
        snapshot_rows(lab.now(), &answer.snapshots)
    })?;
    if !answer.next_page_token.is_empty() {
        output::say("there are more: --limit 1000");
    }
    Ok(Exit::Ok)
}

fn snapshot_rows(now: Timestamp, snapshots: &[Snapshot]) -> Rows {
    let head =
        ["snapshot", "taken", "verified", "source", "grew by", "repository", "host", "remarks"];
    let mut rows = Rows::new(&head, "No verified snapshot yet: labctl backup run NAME");
    for snapshot in snapshots {
        let given_up = snapshot.quarantined_at.is_some().then(|| "given up".to_owned());
        let remarks: Vec<_> = given_up.into_iter().chain(snapshot.warnings.clone()).collect();
        rows.push(
            &snapshot.id,
            [
                short(&snapshot.id),
                distance(now, snapshot.taken_at),
                distance(now, snapshot.verified_at),
                bytes(snapshot.source_bytes),
                snapshot.stored_bytes.map_or_else(|| "-".to_owned(), bytes),
                snapshot.repository.clone(),
                snapshot.host.clone(),
                remarks.join("; "),
            ],
        );
    }
    rows
}
