//! What must be so of every acknowledged job, once all has healed.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use homelab_proto::controller::v1 as pb;
use pb::JobState;

use super::{gateway::Ending, watcher::Watcher};

/// How often a job is tried.
const ATTEMPTS_MAX: u32 = 3;

/// What callers were told about one job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// What belongs to one job: its id or key of the caller, so that no two share a job.
    pub(crate) request: String,
    /// How each of its answers ended.
    pub(crate) endings: Vec<Ending>,
    /// The text of an answer that was told to be complete.
    pub(crate) text: Option<String>,
    /// Whether its life hangs on a client of the gateway.
    pub(crate) by_gateway: bool,
}

/// How many ended how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) cancelled: usize,
    /// Jobs that took more than one attempt.
    pub(crate) repeated: usize,
}

/// Every job was acknowledged to one request only.
pub(crate) fn no_job_is_shared(
    told: Vec<(String, Told)>,
) -> anyhow::Result<BTreeMap<String, Told>> {
    let mut jobs: BTreeMap<String, Told> = BTreeMap::new();
    for (job, told) in told {
        if let Some(other) = jobs.get(&job) {
            ensure!(false, "job {job} was given to {} and {}", other.request, told.request);
        }
        jobs.insert(job, told);
    }
    Ok(jobs)
}

/// Looks at each job that was acknowledged.
pub(crate) async fn each_ended_once(
    watcher: &mut Watcher,
    jobs: &BTreeMap<String, Told>,
) -> anyhow::Result<Sum> {
    let mut sum = Sum::default();
    for (id, told) in jobs {
        let found = watcher.look(id).await?;
        let job = found.job.context("a job")?;
        let words =
            || format!("job {id} of {}: {told:?}\n{job:?}\n{:#?}", told.request, found.events);
        history(&job, &found.events).with_context(words)?;
        agrees(&job, told).with_context(words)?;
        if job.state() == JobState::Succeeded && !told.request.starts_with("labctl") {
            let (read, _job) = watcher.read(id, 7).await?;
            ensure!(
                read.text == job.answer,
                "job {id} reads otherwise in pieces: {:?} and {:?}",
                read.text,
                job.answer
            );
        }
        match job.state() {
            JobState::Succeeded => sum.succeeded += 1,
            JobState::Failed => sum.failed += 1,
            _ => sum.cancelled += 1,
        }
        sum.repeated += usize::from(job.attempts > 1);
    }
    Ok(sum)
}

/// One end, at the end, and every attempt in its turn.
fn history(job: &pb::Job, events: &[pb::JobEvent]) -> anyhow::Result<()> {
    let ends = events.iter().filter(|event| is_end(event.state())).count();
    ensure!(ends == 1, "it ended {ends} times");
    let last = events.last().context("a history")?;
    ensure!(is_end(last.state()), "it went on after its end");
    ensure!(last.state() == job.state(), "its history and itself disagree");
    ensure!(job.attempts <= ATTEMPTS_MAX, "it was tried {} times", job.attempts);
    for state in [JobState::Assigned, JobState::Running] {
        let attempts: Vec<_> = events
            .iter()
            .filter(|event| event.state() == state)
            .map(|event| event.attempt)
            .collect();
        let in_turn = attempts.windows(2).all(|pair| pair[0] < pair[1]);
        ensure!(in_turn, "attempts {attempts:?} were {state:?}, and each may be once");
    }
    Ok(())
}

fn agrees(job: &pb::Job, told: &Told) -> anyhow::Result<()> {
    for ending in &told.endings {
        ensure!(*ending != Ending::Silent, "a stream ended without saying how");
        ensure!(*ending != Ending::Hung, "a stream did not end");
    }
    if told.endings.contains(&Ending::Done) {
        ensure!(job.state() == JobState::Succeeded, "it was told to be complete");
    }
    if let Some(text) = &told.text {
        ensure!(*text == job.answer, "another text was told than is kept: {:?}", job.answer);
    }
    match job.state() {
        JobState::Succeeded => {}
        JobState::Failed => ensure!(
            job.failure.as_ref().is_some_and(|failure| !failure.reason.is_empty()),
            "it failed without a reason"
        ),
        JobState::Cancelled => ensure!(told.by_gateway, "nobody cancelled it"),
        other => ensure!(false, "it is {other:?}"),
    }
    Ok(())
}

fn is_end(state: JobState) -> bool {
    matches!(
        state,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled | JobState::Expired
    )
}
