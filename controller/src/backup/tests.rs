//! Schedules and followers, on a real SQLite store and a clock that is moved by hand. The agent is
//! a scripted one that keeps the promises of the protocol: one request id is one run, which goes on
//! without its caller and is forgotten by a restart.

mod keeping;
mod scripted;

use std::{future::Future, sync::Arc, time::Duration};

use homelab_common::{chance::SeededChance, clock::ManualClock, lifecycle::Tasks, retry::Backoff};
use homelab_domain::{
    fleet::Verdict,
    ids::{BackupName, RunId},
    reason::{Failure, Reason},
    run::{DrillVerdict, Run, RunKind, RunOutcome, RunState, RunStateKind, RunTrigger},
};
use homelab_store::{PageRequest, RunFilter, StoreUrl};
use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    BackupStatus, Backups, Pace, Parts, StartError, Wish, agents::BackupAgents,
    fire::FireSchedules, follow::FollowRuns, repository::ReadRepositories, signer::Signer,
    timekeeping::Timekeeping,
};
use crate::{
    app::Events,
    site::SiteFile,
    task::{BackgroundTask, Done, lease::Lease},
};
use scripted::{ScriptedAgent, drilled, snapshot};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// One backup at 02:30 in Amsterdam, drilled on Sundays.
const SITE: &str = r#"
[site]
name = "home"
time-zone = "Europe/Amsterdam"
[[host]]
name = "hx310-db"
address = "127.0.0.1"
daemons = ["backup-agent"]
[[repository]]
name = "nas"
[[backup]]
name = "wiki"
host = "hx310-db"
source = "postgres"
repository = "nas"
schedule = "30 2 * * *"
drill-schedule = "0 5 * * 0"
drill-target = "nas-postgres"
rpo = "26h"
"#;

/// A controller's schedules, and what it takes to start another one on the same store.
struct Lab {
    folder: tempfile::TempDir,
    clock: ManualClock,
    agent: Arc<ScriptedAgent>,
    tasks: Tasks,
    backups: Backups,
    fire: FireSchedules,
    site: &'static str,
}

impl Lab {
    async fn at(now: &str) -> Self {
        Self::of(now, SITE).await
    }

    async fn of(now: &str, site: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let (clock, agent) = (ManualClock::new(time(now)), Arc::new(ScriptedAgent::default()));
        let (tasks, backups) = controller_of(&folder, &clock, agent.clone(), site).await;
        let fire = FireSchedules::new(backups.clone());
        let lab = Self { folder, clock, agent, tasks, backups, fire, site };
        lab.tick().await;
        lab
    }

    /// Kills the controller and starts another one.
    async fn restart(&mut self) {
        self.tasks.shutdown(Duration::ZERO).await;
        self.backups.parts().store.close().await;
        let (tasks, backups) =
            controller_of(&self.folder, &self.clock, self.agent.clone(), self.site).await;
        self.fire = FireSchedules::new(backups.clone());
        (self.tasks, self.backups) = (tasks, backups);
    }

    /// Fires what is due, once.
    async fn tick(&self) -> Done {
        self.fire.activate().await.expect("the store answers")
    }

    async fn tick_at(&self, now: &str) -> Done {
        self.clock.set(time(now));
        self.tick().await
    }

    async fn look_into_repositories(&self) {
        ReadRepositories(self.backups.clone()).activate().await.expect("the agent answers");
    }

    async fn runs(&self) -> Vec<Run> {
        let page = self.backups.runs(&RunFilter::default(), &PageRequest::first(100)).await;
        page.expect("the store answers").items
    }

    async fn newest(&self) -> Run {
        self.runs().await.into_iter().next().expect("a run")
    }

    async fn status(&self) -> BackupStatus {
        self.backups.statuses().await.expect("the store answers").remove(0)
    }

    /// Waits until the newest run is in a state.
    async fn until(&self, state: RunStateKind) -> Run {
        eventually(&format!("a run that is {state}"), async || {
            Some(self.newest().await).filter(|run| run.state.kind() == state)
        })
        .await
    }

    /// Waits until the agent works on so many runs in all.
    async fn until_begun(&self, count: usize) -> Vec<RunId> {
        eventually("a run at the agent", async || {
            Some(self.agent.begun()).filter(|begun| begun.len() == count)
        })
        .await
    }

    /// Waits until the agent was heard working on the newest run.
    async fn until_heard(&self) {
        eventually("progress", async || is_heard(&self.newest().await).then_some(())).await;
    }

    /// Has the newest run end well, with a snapshot of now.
    async fn succeed(&self) -> Run {
        let run = self.newest().await;
        self.agent.end(run.spec.id, RunOutcome::Stored(snapshot(run.spec.id, self.backups.now())));
        self.until(RunStateKind::Succeeded).await
    }

    async fn start(&self, id: u128, kind: RunKind) -> Result<Run, StartError> {
        self.backups
            .start_run(Wish {
                id: run_id(id),
                backup: wiki(),
                kind,
                snapshot_id: None,
                repository: None,
                by: "spiffe://home/user/ada/operator".to_owned(),
            })
            .await
    }
}

/// A clock that nothing has set yet.
#[derive(Debug)]
struct Free;

impl Timekeeping for Free {
    fn is_synchronized(&self) -> Option<bool> {
        Some(false)
    }
}

#[tokio::test]
async fn pitfall_22_after_a_start_schedules_wait_for_the_clock_to_be_set_and_not_for_ever() {
    let mut lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.clock.set(time("2026-02-02T01:25:00Z"));
    let parts = Parts { timekeeping: Arc::new(Free), ..lab.backups.parts().clone() };
    lab.backups = Backups::new(parts);
    lab.fire = FireSchedules::new(lab.backups.clone());
    lab.tick_at("2026-02-02T01:30:30Z").await;
    assert_eq!(lab.runs().await.len(), 0, "it may be any year");
    lab.tick_at("2026-02-02T01:36:00Z").await;
    lab.until_begun(1).await;
}

/// A clock that is kept in step.
#[derive(Debug)]
struct InStep;

impl Timekeeping for InStep {
    fn is_synchronized(&self) -> Option<bool> {
        Some(true)
    }
}

/// A controller's schedules with its store in a folder.
pub(crate) async fn controller(
    folder: &tempfile::TempDir,
    clock: &ManualClock,
    agents: Arc<dyn BackupAgents>,
) -> (Tasks, Backups) {
    controller_of(folder, clock, agents, SITE).await
}

/// The same with a site of its own.
async fn controller_of(
    folder: &tempfile::TempDir,
    clock: &ManualClock,
    agents: Arc<dyn BackupAgents>,
    site: &str,
) -> (Tasks, Backups) {
    let url = StoreUrl::Sqlite(folder.path().join("store.db"));
    let store = homelab_store::open(&url).await.expect("a store");
    let now = homelab_common::clock::Clock::now(clock);
    let file = SiteFile::parse("homelab.toml", site, now).unwrap_or_else(|bad| panic!("{bad}"));
    let (_, site) = watch::channel(file.site);
    let tasks = Tasks::default();
    let milli = Duration::from_millis(1);
    let parts = Parts {
        timekeeping: Arc::new(InStep),
        lease: Lease::acquire(store.as_ref(), "test", now).await.expect("the lease"),
        store,
        clock: Arc::new(clock.clone()),
        chance: Arc::new(SeededChance::new(u64::from(std::process::id()))),
        tasks: tasks.clone(),
        site,
        agents,
        events: Events::default(),
        signer: Signer::ephemeral().expect("a key"),
        pace: Pace {
            rejoin: Backoff::try_new(milli, 20 * milli, 0.5).expect("valid numbers"),
            progress: milli,
            store: milli,
        },
    };
    (tasks, Backups::new(parts))
}

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn wiki() -> BackupName {
    BackupName::try_new("wiki").expect("a name")
}

pub(crate) fn run_id(number: u128) -> RunId {
    RunId::from(Uuid::from_u128(number))
}

pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(what, looking).await
}

async fn within<T>(what: &str, wanted: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wanted).await.unwrap_or_else(|_| panic!("{what} never came"))
}

pub(crate) fn is_heard(run: &Run) -> bool {
    matches!(&run.state, RunState::Running { progress } if !progress.step.is_empty())
}

fn failed(run: &Run) -> &Failure {
    match &run.state {
        RunState::Ended { outcome: RunOutcome::Failed(failure), .. } => failure,
        state => panic!("not failed: {state:?}"),
    }
}

#[tokio::test]
async fn a_schedule_fires_once_at_its_time() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    assert_eq!(lab.tick_at("2026-02-02T01:29:59Z").await, Done::Nothing, "02:29:59 in Amsterdam");
    lab.tick_at("2026-02-02T01:30:30Z").await;
    let run = lab.newest().await;
    assert_eq!(run.spec.trigger, RunTrigger::Schedule);
    assert_eq!(run.spec.started_by, "schedule");
    assert_eq!(run.spec.scheduled_for, Some(time("2026-02-02T01:30:00Z")));
    lab.until_begun(1).await;
    lab.succeed().await;
    for minute in 31..59 {
        lab.tick_at(&format!("2026-02-02T01:{minute}:00Z")).await;
    }
    let backups = lab.runs().await.into_iter().filter(|run| run.spec.kind == RunKind::Backup);
    assert_eq!(backups.count(), 1);
}

#[tokio::test]
async fn a_fired_schedule_stands_in_the_audit_log_as_its_own_decision() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.tick_at("2026-02-02T01:30:30Z").await;
    let mut tx = lab.backups.parts().store.read().await.expect("the store answers");
    let log = tx.audit().list(Some("schedule"), &PageRequest::first(10)).await.expect("the log");
    let entry = &log.items.first().expect("an entry").entry;
    assert_eq!((entry.action.as_str(), entry.subject.as_str()), ("start-backup", "backup/wiki"));
    assert!(entry.detail.contains(&lab.newest().await.spec.id.to_string()), "{}", entry.detail);
}

/// Looks every minute through a night in which clocks change; gives the times that were fired for.
async fn night(from: &str, minutes: u32) -> Vec<Timestamp> {
    let lab = Lab::at(from).await;
    for _ in 0..minutes {
        lab.clock.advance(Duration::from_secs(60));
        let open = lab.runs().await.iter().any(|run| !run.state.kind().is_final());
        if matches!(lab.tick().await, Done::Changed(_)) || open {
            let run = lab.newest().await;
            let failure = Failure {
                reason: Reason::RUN_FAILED,
                message: "out of luck".to_owned(),
                retryable: true,
            };
            lab.until_begun(lab.runs().await.len()).await;
            lab.agent.end(run.spec.id, RunOutcome::Failed(failure));
            lab.until(RunStateKind::Failed).await;
        }
    }
    lab.runs().await.iter().filter_map(|run| run.spec.scheduled_for).collect()
}

#[tokio::test]
async fn a_time_that_spring_leaves_out_fires_once_at_the_end_of_the_gap() {
    // 02:30 does not exist in Amsterdam on 29 March 2026.
    let fired = night("2026-03-28T23:50:00Z", 150).await;
    assert_eq!(fired, [time("2026-03-29T01:00:00Z")]);
}

#[tokio::test]
async fn a_time_that_autumn_has_twice_fires_once() {
    // 02:30 exists at 00:30Z and at 01:30Z on 25 October 2026.
    let fired = night("2026-10-24T23:50:00Z", 150).await;
    assert_eq!(fired, [time("2026-10-25T00:30:00Z")]);
}

#[tokio::test]
async fn pitfall_23_any_number_of_missed_times_makes_one_catch_up_run() {
    let mut lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.restart().await;
    lab.tick_at("2026-02-05T09:00:00Z").await;
    let run = lab.newest().await;
    assert_eq!(run.spec.trigger, RunTrigger::CatchUp);
    assert_eq!(run.spec.scheduled_for, Some(time("2026-02-05T01:30:00Z")), "the newest of four");
    lab.until_begun(1).await;
    lab.succeed().await;
    lab.tick_at("2026-02-05T09:01:00Z").await;
    let backups = lab.runs().await.into_iter().filter(|run| run.spec.kind == RunKind::Backup);
    assert_eq!(backups.count(), 1);
}

#[tokio::test]
async fn pitfall_22_a_clock_that_is_set_back_fires_nothing_twice() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.tick_at("2026-02-02T01:30:30Z").await;
    lab.until_begun(1).await;
    lab.succeed().await;
    lab.tick_at("2026-02-02T00:31:00Z").await;
    lab.tick_at("2026-02-02T01:30:40Z").await;
    let backups = lab.runs().await.into_iter().filter(|run| run.spec.kind == RunKind::Backup);
    assert_eq!(backups.count(), 1);
}

#[tokio::test]
async fn pitfall_24_a_run_that_goes_on_keeps_the_next_from_starting() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.tick_at("2026-02-02T01:30:30Z").await;
    lab.until_begun(1).await;
    assert_eq!(lab.tick_at("2026-02-03T01:30:30Z").await, Done::Nothing);
    assert_eq!(lab.runs().await.len(), 1);
    lab.succeed().await;
    lab.tick().await;
    let times = lab.runs().await.into_iter().filter(|run| run.spec.kind == RunKind::Backup);
    assert_eq!(times.count(), 2, "then it makes up for the one that waited");
}

#[tokio::test]
async fn what_is_due_waits_for_its_host_and_says_so() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.agent.unplug("connection refused");
    assert_eq!(lab.tick_at("2026-02-02T01:40:00Z").await, Done::Nothing);
    assert!(lab.runs().await.is_empty());
    let status = lab.status().await;
    let gap = status.risk.gaps.iter().find(|gap| gap.because.reason == Reason::HOST_UNREACHABLE);
    let gap = gap.expect("the status says what waits");
    assert!(gap.because.message.contains("connection refused"), "{}", gap.because.message);
    assert_eq!(gap.since, Some(time("2026-02-02T01:30:00Z")));
    lab.agent.plug();
    lab.tick_at("2026-02-02T01:50:00Z").await;
    assert_eq!(lab.newest().await.spec.trigger, RunTrigger::CatchUp);
    lab.until_begun(1).await;
}

#[tokio::test]
async fn a_paused_schedule_stands_still_and_makes_up_for_nothing() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.backups
        .pause(&wiki(), "ada".to_owned(), "moving house".to_owned(), None)
        .await
        .expect("paused");
    lab.tick_at("2026-02-03T09:00:00Z").await;
    let status = lab.status().await;
    assert_eq!((status.next_run_at, status.next_drill_at), (None, None));
    assert_eq!(status.paused.map(|paused| paused.reason), Some("moving house".to_owned()));
    lab.backups.resume(&wiki()).await.expect("resumed");
    lab.tick().await;
    assert!(lab.runs().await.is_empty());
    lab.tick_at("2026-02-04T01:30:30Z").await;
    assert_eq!(lab.newest().await.spec.trigger, RunTrigger::Schedule);
    let other = BackupName::try_new("other").expect("a name");
    assert!(matches!(lab.backups.resume(&other).await, Err(StartError::NotFound(_))));
}

#[tokio::test]
async fn a_lost_stream_is_unknown_and_is_joined_again_not_run_again() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_heard().await;
    for _ in 0..3 {
        lab.agent.unplug("no route to host");
        lab.until(RunStateKind::Unknown).await;
        let gaps = lab.status().await.risk.gaps;
        assert!(gaps.iter().any(|gap| gap.because.reason == Reason::RUN_UNKNOWN), "{gaps:?}");
        lab.agent.plug();
        lab.until(RunStateKind::Running).await;
    }
    lab.succeed().await;
    assert_eq!(lab.agent.begun(), [run_id(7)]);
}

#[tokio::test]
async fn an_end_that_comes_while_contact_is_lost_is_learned_afterwards() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    let run = lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_heard().await;
    lab.agent.unplug("no route to host");
    lab.until(RunStateKind::Unknown).await;
    let fact = snapshot(run.spec.id, lab.backups.now());
    lab.agent.end(run.spec.id, RunOutcome::Stored(fact));
    lab.agent.plug();
    lab.until(RunStateKind::Succeeded).await;
    assert_eq!(lab.agent.begun().len(), 1);
}

#[tokio::test]
async fn pitfall_24_a_restarted_controller_finds_its_runs_again() {
    let mut lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.tick_at("2026-02-02T01:30:30Z").await;
    lab.until_heard().await;
    lab.restart().await;
    FollowRuns(lab.backups.clone()).activate().await.expect("the store answers");
    lab.succeed().await;
    assert_eq!(lab.agent.begun().len(), 1, "joined, not begun again");
}

#[tokio::test]
async fn a_run_that_was_stored_before_its_agent_heard_of_it_starts_after_a_restart() {
    let mut lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.agent.deafen("the network went away");
    lab.tick_at("2026-02-02T01:30:30Z").await;
    lab.until(RunStateKind::Unknown).await;
    lab.restart().await;
    lab.agent.plug();
    FollowRuns(lab.backups.clone()).activate().await.expect("the store answers");
    lab.until_begun(1).await;
    lab.succeed().await;
}

#[tokio::test]
async fn an_agent_that_was_restarted_has_lost_its_run_and_is_not_given_it_again() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_heard().await;
    lab.agent.restart();
    let run = lab.until(RunStateKind::Failed).await;
    let failure = failed(&run);
    assert_eq!(failure.reason.as_str(), "RUN_LOST");
    assert!(failure.retryable && failure.message.contains("labctl backup run wiki"));
    assert_eq!(lab.agent.begun(), [run_id(7)]);
}

#[tokio::test]
async fn a_lost_run_whose_snapshot_is_in_the_repository_has_succeeded() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    let run = lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_heard().await;
    lab.agent.hold(snapshot(run.spec.id, lab.backups.now()), Some(run.spec.id));
    lab.agent.restart();
    lab.until(RunStateKind::Succeeded).await;
    assert_eq!(lab.agent.begun(), [run_id(7)]);
}

#[tokio::test]
async fn a_refused_run_has_failed_for_the_agents_reason() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.agent.refuse("REPOSITORY_UNAVAILABLE");
    lab.tick_at("2026-02-02T01:30:30Z").await;
    let run = lab.until(RunStateKind::Failed).await;
    assert_eq!(failed(&run).reason.as_str(), "REPOSITORY_UNAVAILABLE");
    assert!(lab.agent.begun().is_empty());
}

#[tokio::test]
async fn the_first_drill_comes_with_the_first_snapshot_and_the_next_by_its_schedule() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    assert_eq!(lab.tick().await, Done::Nothing, "there is nothing to drill yet");
    lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_begun(1).await;
    lab.succeed().await;
    lab.tick().await;
    let drill = lab.newest().await;
    assert_eq!((drill.spec.kind, drill.spec.trigger), (RunKind::Drill, RunTrigger::Schedule));
    lab.until_begun(2).await;
    let fact = drilled(DrillVerdict::Passed, lab.backups.now());
    lab.agent.end(drill.spec.id, RunOutcome::Drilled(fact));
    lab.until(RunStateKind::Succeeded).await;
    let status = lab.status().await;
    assert_eq!(status.risk.verdict, Verdict::Ok, "{:?}", status.risk.gaps);
    assert!(status.risk.last_rto.is_some() && status.risk.drilled_exposure.is_some());
    assert_eq!(lab.tick_at("2026-02-02T00:10:00Z").await, Done::Nothing);
    let next = lab.status().await.next_drill_at.expect("a time");
    let sunday = time("2026-02-08T04:00:00Z");
    assert!(next >= sunday && next < sunday.checked_add(Duration::from_secs(30)).expect("a time"));
}

#[tokio::test]
async fn a_drill_that_could_not_show_it_is_neither_passed_nor_failed() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.agent.hold(snapshot(run_id(1), lab.backups.now()), None);
    lab.look_into_repositories().await;
    lab.start(8, RunKind::Drill).await.expect("started");
    lab.until_begun(1).await;
    let fact = drilled(DrillVerdict::Unverified, lab.backups.now());
    lab.agent.end(run_id(8), RunOutcome::Drilled(fact));
    let run = lab.until(RunStateKind::Unverified).await;
    assert!(matches!(run.state, RunState::Ended { .. }));
    let risk = lab.status().await.risk;
    assert_eq!((risk.last_rto, risk.verdict), (None, Verdict::Warning));
}

#[tokio::test]
async fn runs_that_fail_do_not_make_a_backup_younger() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_begun(1).await;
    lab.succeed().await;
    lab.clock.set(time("2026-02-03T06:00:00Z"));
    lab.agent.refuse("SOURCE_UNREADABLE");
    lab.start(9, RunKind::Backup).await.expect("started");
    lab.until(RunStateKind::Failed).await;
    let risk = lab.status().await.risk;
    assert_eq!(risk.exposure, Some(Duration::from_secs(30 * 3600)));
    assert!(!risk.within_rpo && risk.verdict == Verdict::Critical);
}

#[tokio::test]
async fn a_target_is_missed_although_nothing_fires_and_nothing_fails() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_begun(1).await;
    lab.succeed().await;
    assert!(lab.status().await.risk.within_rpo);
    lab.clock.advance(Duration::from_secs(27 * 3600));
    let risk = lab.status().await.risk;
    assert!(risk.gaps.iter().any(|gap| gap.because.reason == Reason::RPO_MISSED));
}

#[tokio::test]
async fn what_the_repository_holds_counts_and_what_it_lost_does_not() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_begun(1).await;
    lab.succeed().await;
    assert!(lab.status().await.risk.exposure.is_some());
    lab.look_into_repositories().await;
    assert_eq!(lab.status().await.risk.exposure, None, "somebody has emptied the repository");
    lab.agent.hold(snapshot(run_id(99), time("2026-02-01T23:00:00Z")), None);
    lab.clock.advance(Duration::from_secs(3600));
    lab.look_into_repositories().await;
    assert_eq!(lab.status().await.risk.exposure, Some(Duration::from_secs(2 * 3600)));
}

#[tokio::test]
async fn a_repository_that_cannot_be_read_any_more_is_not_called_well() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.agent.hold(snapshot(run_id(99), lab.backups.now()), None);
    lab.look_into_repositories().await;
    let is_unreadable = |status: &BackupStatus| {
        status.risk.gaps.iter().any(|gap| gap.because.reason == Reason::REPOSITORY_UNAVAILABLE)
    };
    assert!(!is_unreadable(&lab.status().await));
    lab.agent.deafen("the mount hangs");
    lab.clock.advance(Duration::from_secs(3600));
    ReadRepositories(lab.backups.clone()).activate().await.expect_err("it cannot be read");
    let status = lab.status().await;
    assert!(is_unreadable(&status) && status.risk.verdict != Verdict::Ok, "{:?}", status.risk);
    lab.agent.plug();
    lab.look_into_repositories().await;
    assert!(!is_unreadable(&lab.status().await));
}

#[tokio::test]
async fn fifty_calls_with_one_id_start_one_run() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    let calls = (0..50).map(|_| lab.start(7, RunKind::Backup));
    let runs = futures_util::future::join_all(calls).await;
    assert!(runs.iter().all(|run| run.as_ref().is_ok_and(|run| run.spec.id == run_id(7))));
    lab.until_begun(1).await;
    lab.succeed().await;
    let again = lab.start(7, RunKind::Backup).await.expect("the same run");
    assert_eq!(again.state.kind(), RunStateKind::Succeeded);
    assert_eq!(lab.agent.begun(), [run_id(7)]);
}

#[tokio::test]
async fn another_call_does_not_start_a_second_run_of_the_same_kind() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.start(7, RunKind::Backup).await.expect("started");
    let second = lab.start(8, RunKind::Backup).await;
    assert!(matches!(second, Err(StartError::InProgress(run)) if run.spec.id == run_id(7)));
    let other = lab.start(7, RunKind::Drill).await;
    assert!(matches!(other, Err(StartError::OtherRequest(_))));
}

#[tokio::test]
async fn a_person_is_told_at_once_that_the_agent_cannot_be_reached() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.agent.unplug("connection refused");
    let error = lab.start(7, RunKind::Backup).await.expect_err("nothing started");
    assert!(error.to_string().contains("hx310-db") && error.to_string().contains("refused"));
    assert!(lab.runs().await.is_empty());
}
