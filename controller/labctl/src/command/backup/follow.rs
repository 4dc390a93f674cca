//! Following a run until it has ended.

use std::io::{self, IsTerminal};

use homelab_common::exit::Exit;
use homelab_proto::{
    common::v1::{self as common, Progress},
    controller::v1::{Run, RunKind, RunState, WatchRunRequest, WatchRunResponse},
};
use jiff::Timestamp;
use prost::Message;
use tonic::Streaming;

use crate::{
    call,
    failure::{Failure, Trouble},
    lab::Lab,
    output::{self, Rows, bytes, distance, span, word},
};

/// Columns of a list of runs.
pub(super) const HEAD: [&str; 7] = ["run", "backup", "kind", "state", "started", "took", "result"];

/// Says that a run has started, and follows it when that was wished for.
pub(super) async fn started<A: Message>(
    lab: &Lab,
    path: &'static str,
    answer: &A,
    run: Option<&Run>,
    wait: bool,
) -> Result<Exit, Failure> {
    let Some(run) = run.filter(|_| wait && !lab.global.dry_run) else {
        lab.print(path, answer, || {
            let mut rows = Rows::new(&HEAD, "It could start.");
            if let Some(run) = run {
                rows.push(&run.run_id, cells(lab.now(), run));
            }
            rows
        })?;
        return Ok(Exit::Ok);
    };
    until_ended(lab, &run.run_id).await
}

/// Follows a run; the exit code says how it ended.
pub(super) async fn until_ended(lab: &Lab, run_id: &str) -> Result<Exit, Failure> {
    let action = format!("follow run {run_id}");
    let request = WatchRunRequest { run_id: run_id.to_owned() };
    let mut stream = lab.stream::<_, WatchRunResponse>(&action, call::WATCH_RUN, request).await?;
    let mut last = None;
    while let Some(answer) = next(&action, &mut stream).await? {
        if let Some(progress) = answer.run.as_ref().and_then(|run| run.progress.as_ref()) {
            self::progress(progress);
        }
        last = Some(answer);
    }
    let Some(answer) = last else { return Err(cut_off(&action)) };
    let Some(run) = answer.run.as_ref() else { return Err(cut_off(&action)) };
    lab.print(call::WATCH_RUN, &answer, || {
        let mut rows = Rows::new(&HEAD, "");
        rows.push(&run.run_id, cells(lab.now(), run));
        rows
    })?;
    match run.state() {
        RunState::Succeeded => Ok(Exit::Ok),
        RunState::Unverified => Ok(Exit::Partial),
        RunState::Running | RunState::Unknown | RunState::Unspecified => Ok(Exit::Unknown),
        RunState::Failed | RunState::Cancelled => Ok(Exit::Failed),
    }
}

/// One run as a row.
pub(super) fn cells(now: Timestamp, run: &Run) -> Vec<String> {
    let took = match (run.started_at, run.finished_at) {
        (Some(began), Some(ended)) => {
            output::duration(u64::try_from(ended.seconds - began.seconds).unwrap_or_default())
        }
        _ => "-".to_owned(),
    };
    vec![
        run.run_id.clone(),
        run.backup.clone(),
        word(run.kind().as_str_name(), "RUN_KIND"),
        word(run.state().as_str_name(), "RUN_STATE"),
        distance(now, run.started_at),
        took,
        result(run),
    ]
}

fn result(run: &Run) -> String {
    if let Some(failure) = &run.failure {
        return failure.message.clone();
    }
    match (run.kind(), &run.snapshot, &run.drill) {
        (RunKind::Drill, _, Some(drill)) if drill.findings.is_empty() => {
            format!("{} rows equal, restored in {}", drill.rows, span(drill.restore_elapsed))
        }
        (RunKind::Drill, _, Some(drill)) => drill.findings.join("; "),
        (_, Some(snapshot), _) => {
            format!(
                "snapshot {} of {}",
                snapshot.id.chars().take(8).collect::<String>(),
                bytes(snapshot.source_bytes)
            )
        }
        _ => run.progress.as_ref().map(|progress| progress.step.clone()).unwrap_or_default(),
    }
}

/// The next message of a stream.
pub(super) async fn next<A>(action: &str, stream: &mut Streaming<A>) -> Result<Option<A>, Failure> {
    // The work goes on at the other end when the stream breaks, so its outcome is unknown then.
    stream.message().await.map_err(|status| Failure::from_status(action, &status, true))
}

/// Shows progress to a person; programs and pipes are left in peace.
pub(super) fn progress(progress: &Progress) {
    if io::stderr().is_terminal() {
        let amount =
            progress.done_bytes.map(|done| format!("  {}", bytes(done))).unwrap_or_default();
        output::say(&format!("  {}{amount}", progress.step));
    }
}

/// What an agent said went wrong.
pub(super) fn failed(action: &str, failure: &common::Failure) -> Failure {
    Failure::Said(Trouble {
        exit: Exit::Failed,
        what: format!("{action}: {}", failure.message),
        reason: Some(failure.reason.clone()),
        next: failure.retryable.then(|| "the same command may succeed later".to_owned()),
    })
}

/// The stream ended without its last message.
pub(super) fn cut_off(action: &str) -> Failure {
    Failure::new(Exit::Unknown, format!("{action}: the answer broke off before its end"))
        .next("labctl backup runs shows how it ended")
}
