//! Killing daemons at random moments of the main job, and looking whether anything that was acknowledged
//! is lost. The seed is printed, so that a run can be repeated.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use homelab_common::chance::{Chance, SeededChance};
use serde_json::Value;

use crate::{
    demo::{self, Story},
    lab::{BACKUP, Lab, Ports},
    wait::{Look, wait_for},
};

/// Longest pause between two kills.
const PAUSE_MAX: Duration = Duration::from_millis(1_500);
/// Everything that was begun must have ended by then.
const SETTLE_WITHIN: Duration = Duration::from_secs(240);
/// Jobs that must have been acknowledged for the proof to mean anything.
const JOBS_MIN: usize = 5;
/// States in which a job or run has ended.
const ENDED_JOB: [&str; 4] =
    ["JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"];

/// What was acknowledged so far.
#[derive(Debug, Default)]
struct Acknowledged {
    jobs: BTreeSet<String>,
    snapshots: BTreeSet<String>,
}

/// Brings the lab up, kills `kills` times, and checks that nothing acknowledged is lost and that
/// everything heals by itself.
///
/// # Errors
/// Names what was lost or did not heal.
pub fn run(story: &Story, seed: u64, kills: u32) -> anyhow::Result<()> {
    let chance = SeededChance::new(seed);
    let mut lab = demo::bring_up(story, Ports::free()?)?;
    story.step("the model is loaded", || lab.wait_for_model("bronze"))?;
    story.step("a first backup", || lab.labctl(&["backup", "run", BACKUP, "--wait"]))?;
    let mut known = Acknowledged { snapshots: snapshots(&lab)?, ..Acknowledged::default() };
    let names = lab.running();
    for round in 1..=kills {
        begin_work(&lab, &mut known);
        thread::sleep(chance.jittered(PAUSE_MAX, 1.0));
        let index = usize::try_from(chance.u64() % names.len() as u64).unwrap_or_default();
        let victim = names.get(index).context("something runs")?;
        story.step(&format!("kill -9 {round}/{kills}: {victim}"), || {
            lab.process(victim)?.kill_9()?;
            lab.restart(victim)
        })?;
    }
    story.step("everything heals", || settle(&lab, &known))?;
    story.step("no acknowledged job is lost", || jobs_are_there(&lab, &known))?;
    story.step("no proved snapshot is lost", || {
        let now = snapshots(&lab)?;
        let lost: Vec<_> = known.snapshots.difference(&now).collect();
        ensure!(lost.is_empty(), "lost: {lost:?}");
        let verified = lab.labctl_json(&["backup", "verify", BACKUP, "--read-data"])?;
        ensure!(verified["response"]["report"]["sound"] == true, "not sound: {verified}");
        Ok(())
    })?;
    story.step("the audit chain is intact", || lab.labctl(&["audit", "verify"]).map(drop))?;
    story.step("the main job still works", || {
        lab.labctl(&["backup", "run", BACKUP, "--wait"])?;
        lab.labctl(&["ask", "--tokens-max", "4", "Hello"])
    })?;
    story.step("every daemon ends gracefully", || lab.stop())
}

/// Begins a job and a backup; only what is acknowledged counts. Being refused is fair while something is
/// being killed.
fn begin_work(lab: &Lab, known: &mut Acknowledged) {
    if let Ok(made) = lab.labctl_json(&["job", "submit", "--tokens-max", "24", "Count to ten."])
        && let Some(id) = made["job"]["jobId"].as_str()
    {
        let _new = known.jobs.insert(id.to_owned());
    }
    // Whether it starts does not matter: what counts is what becomes a snapshot.
    drop(lab.labctl(&["backup", "run", BACKUP]));
    if let Ok(now) = snapshots(lab) {
        known.snapshots.extend(now);
    }
}

fn snapshots(lab: &Lab) -> anyhow::Result<BTreeSet<String>> {
    let listed = lab.labctl_json(&["backup", "snapshots", BACKUP])?;
    let ids = listed["snapshots"].as_array().into_iter().flatten();
    Ok(ids.filter_map(|snapshot| snapshot["id"].as_str()).map(str::to_owned).collect())
}

/// Waits until hosts answer and every job and run has ended.
fn settle(lab: &Lab, known: &Acknowledged) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLE_WITHIN;
    lab.wait_for_hosts(&[
        ("qotom", "ANSWERING"),
        ("hx310-db", "ANSWERING"),
        ("cw-nas", "ANSWERING"),
    ])?;
    wait_for("jobs and runs to end", deadline.saturating_duration_since(Instant::now()), || {
        let open_jobs = known.jobs.iter().filter(|id| !ended(lab, id)).count();
        let runs = lab.labctl_json(&["backup", "runs", "--limit", "100"])?;
        let open_runs = runs["runs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|run| {
                run["state"] == "RUN_STATE_RUNNING" || run["state"] == "RUN_STATE_UNKNOWN"
            })
            .count();
        let open = open_jobs + open_runs;
        Ok(if open == 0 {
            Look::Ready(())
        } else {
            Look::NotYet(format!("{open_jobs} jobs, {open_runs} runs"))
        })
    })
}

fn ended(lab: &Lab, id: &str) -> bool {
    job(lab, id)
        .is_ok_and(|job| job["state"].as_str().is_some_and(|state| ENDED_JOB.contains(&state)))
}

fn job(lab: &Lab, id: &str) -> anyhow::Result<Value> {
    Ok(lab.labctl_json(&["job", "show", id])?["job"].take())
}

/// An acknowledged job must be known, and either answered or failed with a reason: never forgotten.
fn jobs_are_there(lab: &Lab, known: &Acknowledged) -> anyhow::Result<()> {
    let mut answered = 0;
    for id in &known.jobs {
        let job = job(lab, id).with_context(|| format!("job {id} is lost"))?;
        match job["state"].as_str() {
            Some("JOB_STATE_SUCCEEDED") => answered += 1,
            Some("JOB_STATE_FAILED") if job["failure"]["reason"].is_string() => (),
            _ => bail!("job {id} ended as {job}"),
        }
    }
    // Otherwise nothing was put to the proof.
    ensure!(known.jobs.len() >= JOBS_MIN, "only {} jobs were acknowledged", known.jobs.len());
    ensure!(answered > 0, "none of {} jobs was answered", known.jobs.len());
    Ok(())
}
