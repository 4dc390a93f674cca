//! Following what goes on at an agent until it has ended.

use std::time::Duration;

use homelab_common::exit::Exit;
use homelab_proto::{
    common::v1::{self as common, Progress},
    controller::v1::{Run, RunKind, RunState, WatchRunRequest, WatchRunResponse},
};
use jiff::Timestamp;
use prost::Message;
use tokio::time::MissedTickBehavior;
use tonic::Streaming;

use crate::{
    call,
    failure::{Failure, Trouble},
    lab::Lab,
    output::{self, Rows, bytes, distance, short, span, word},
    progress::Meter,
};

/// Columns of a list of runs.
pub(super) const HEAD: [&str; 7] = ["run", "backup", "kind", "state", "started", "took", "result"];

/// How often a person sees that time goes by.
const TICK: Duration = Duration::from_secs(1);

/// What a message of a stream says.
#[derive(Debug)]
pub(super) enum Said<'a> {
    /// How far it has come.
    Progress(&'a Progress),
    /// It failed.
    Failure(&'a common::Failure),
    /// It has ended, and this message says how.
    End,
    /// Nothing that this version understands.
    Nothing,
}

/// A piece of work that goes on at an agent.
#[derive(Debug)]
pub(super) struct Work {
    /// What the person wanted, for errors.
    pub(super) action: String,
    /// How to go on after the watching was broken off.
    pub(super) resume: String,
}

impl Work {
    /// A restore, verification, copy or pruning, which can be cancelled by its request.
    pub(super) fn of_request(action: String, id: &str, backup: &str) -> Self {
        let resume =
            format!("it goes on; `labctl backup cancel {id} --backup {backup}` would end it");
        Self { action, resume }
    }

    /// Follows the stream to its last message, which is returned. A check (`--dry-run`) has ended well when
    /// its stream ends without a failure.
    pub(super) async fn to_end<A: Clone>(
        &self,
        lab: &Lab,
        mut stream: Streaming<A>,
        read: fn(&A) -> Said<'_>,
    ) -> Result<A, Failure> {
        let mut meter = Meter::new(lab);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            let message = tokio::select! {
                // The work goes on at the other end when the stream breaks, so its outcome is unknown then.
                message = stream.message() => {
                    message.map_err(|status| Failure::from_status(&self.action, &status, true))?
                }
                _ = tick.tick() => {
                    if last.is_some() {
                        meter.tick();
                    }
                    continue;
                }
                _ = tokio::signal::ctrl_c() => return Err(self.left()),
            };
            let Some(message) = message else { break };
            match read(&message) {
                Said::Progress(progress) => meter.tell(progress),
                Said::Failure(failure) => return Err(failed(&self.action, failure)),
                Said::End => return Ok(message),
                Said::Nothing => (),
            }
            last = Some(message);
        }
        last.filter(|_| lab.global.dry_run).ok_or_else(|| cut_off(&self.action))
    }

    fn left(&self) -> Failure {
        Failure::new(Exit::Unknown, format!("{}: not waited for its end", self.action))
            .next(self.resume.clone())
    }
}

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
            if let Some(run) = run.filter(|_| !lab.global.dry_run) {
                rows.push(&run.run_id, cells(lab.now(), run));
            }
            rows
        })?;
        if let Some(run) = run.filter(|_| !lab.global.dry_run) {
            output::say(&format!("next: labctl backup watch {}", run.run_id));
        }
        return Ok(Exit::Ok);
    };
    until_ended(lab, &run.run_id).await
}

/// Follows a run; the exit code says how it ended.
pub(super) async fn until_ended(lab: &Lab, run_id: &str) -> Result<Exit, Failure> {
    let work = Work {
        action: format!("follow run {run_id}"),
        resume: format!(
            "it goes on: labctl backup watch {run_id}; `labctl backup cancel {run_id}` would end it"
        ),
    };
    let request = WatchRunRequest { run_id: run_id.to_owned() };
    let stream = lab.stream(&work.action, call::WATCH_RUN, request).await?;
    let answer = work.to_end(lab, stream, said_of_run).await?;
    let Some(run) = answer.run.as_ref() else { return Err(cut_off(&work.action)) };
    lab.print(call::WATCH_RUN, &answer, || {
        let mut rows = Rows::new(&HEAD, "");
        rows.push(&run.run_id, cells(lab.now(), run));
        rows
    })?;
    for note in &run.notes {
        output::say(&format!("note: {note}"));
    }
    Ok(match run.state() {
        RunState::Succeeded => Exit::Ok,
        RunState::Unverified => Exit::Partial,
        RunState::Running | RunState::Unknown | RunState::Unspecified => Exit::Unknown,
        RunState::Failed | RunState::Cancelled => Exit::Failed,
    })
}

fn said_of_run(answer: &WatchRunResponse) -> Said<'_> {
    let Some(run) = &answer.run else { return Said::Nothing };
    match (run.state(), &run.progress) {
        (RunState::Running | RunState::Unknown | RunState::Unspecified, Some(progress)) => {
            Said::Progress(progress)
        }
        (RunState::Running | RunState::Unknown | RunState::Unspecified, None) => Said::Nothing,
        _ => Said::End,
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
            let compared = if drill.compared.is_empty() {
                format!("{} rows", drill.rows)
            } else {
                let each = drill.compared.iter().map(|one| format!("{} {}", one.count, one.what));
                each.collect::<Vec<_>>().join(", ")
            };
            format!("{compared} equal, restored in {}", span(drill.restore_elapsed))
        }
        (RunKind::Drill, _, Some(drill)) => drill.findings.join("; "),
        (_, Some(snapshot), _) => {
            format!("snapshot {} of {}", short(&snapshot.id), bytes(snapshot.source_bytes))
        }
        _ => run.progress.as_ref().map(|progress| progress.step.clone()).unwrap_or_default(),
    }
}

/// What an agent said went wrong.
fn failed(action: &str, failure: &common::Failure) -> Failure {
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
        .next("`labctl backup runs` shows how it ended")
}
