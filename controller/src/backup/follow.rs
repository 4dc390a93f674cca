//! One follower per run: from the store to the agent, and back into the store.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use homelab_common::error_chain::Chain;
use homelab_domain::{
    evidence::{DrillFacts, Fact},
    ids::{HostName, RepositoryName, RunId},
    reason::Failure,
    run::{DrillFact, Progress, Run, RunKind, RunOutcome, RunState, RunStateKind, SnapshotFact},
};
use homelab_store::{RunError, StoreError, Tx};
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    Backups,
    agents::{CallError, Order, Report},
    convert::drill_message,
    evidence::{attest, sha256},
    plan::word,
};
use crate::{
    app::Change,
    ca::issue::hex,
    task::{BackgroundTask, Done, Outcome},
};

/// Snapshots among which that of a lost run is looked for.
const SNAPSHOTS_LOOKED_AT: u16 = 100;

/// How long a run may be unknown: as long, it keeps the next one of its backup from starting.
const LOST_MAX: SignedDuration = SignedDuration::from_hours(24);

/// The runs that are followed now.
#[derive(Clone, Debug, Default)]
pub(super) struct Followers(Arc<Mutex<BTreeMap<RunId, watch::Receiver<Run>>>>);

impl Followers {
    /// How many.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, watch::Receiver<Run>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a run out of the list when its follower ends, however it ends.
struct Entry {
    followers: Followers,
    id: RunId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.followers.lock().remove(&self.id);
    }
}

impl Backups {
    /// Follows a run until it has ended. Following it twice is following it once; whoever asks gets
    /// it as it changes.
    pub(super) fn follow(&self, run: Run) -> watch::Receiver<Run> {
        self.follow_as(run, Origin::Started)
    }

    fn follow_as(&self, run: Run, origin: Origin) -> watch::Receiver<Run> {
        let id = run.spec.id;
        let mut followed = self.followers().lock();
        if let Some(follower) = followed.get(&id) {
            return follower.clone();
        }
        let (shown, seen) = watch::channel(run);
        followed.insert(id, seen.clone());
        drop(followed);
        let entry = Entry { followers: self.followers().clone(), id };
        let follower = Follower {
            backups: self.clone(),
            id,
            shown,
            origin,
            heard_since: None,
            reports: 0,
            written_at: None,
            entry,
        };
        self.parts().tasks.spawn(follower.run());
        seen
    }
}

/// Where the follower of a run comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// This controller started the run.
    Started,
    /// The run was in the store; perhaps it was started before this controller was.
    FoundAgain,
}

struct Follower {
    backups: Backups,
    id: RunId,
    shown: watch::Sender<Run>,
    origin: Origin,
    /// Since when the agent is known, here, to work on it.
    heard_since: Option<Instant>,
    /// How often the agent was heard of.
    reports: u64,
    /// When its progress was last written.
    written_at: Option<Instant>,
    #[expect(dead_code, reason = "held for what happens when it is dropped")]
    entry: Entry,
}

impl Follower {
    /// Cancel safety: stopping drops it at any await; the run stays open in the store, and the next
    /// start finds it again.
    async fn run(mut self) {
        let stopping = self.backups.parts().tasks.stopping();
        tokio::select! {
            () = self.follow() => {}
            () = stopping.cancelled() => {}
        }
    }

    async fn follow(&mut self) {
        // Whoever asked for this follower may have read the run a while ago.
        self.refresh().await;
        let mut attempt = 0;
        loop {
            if self.run_now().state.kind().is_final() {
                return;
            }
            let reports_before = self.reports;
            match self.attend().await {
                Ok(outcome) => return self.end(outcome).await,
                Err(error) => self.lose(&error).await,
            }
            if self.is_given_up() {
                let why = "nobody could ask it for a day";
                return self.end(lost_for_good(&self.run_now(), why)).await;
            }
            // Contact that was had meanwhile makes it a new outage.
            attempt = if self.reports == reports_before { attempt + 1 } else { 0 };
            let parts = self.backups.parts();
            tokio::time::sleep(parts.pace.rejoin.delay(attempt, parts.chance.as_ref())).await;
        }
    }

    /// Joins the run and reads what the agent says, to the end of either.
    async fn attend(&mut self) -> Result<RunOutcome, CallError> {
        let run = self.run_now();
        let site = self.backups.site();
        if site.host(&run.spec.host).is_none() {
            return Ok(lost_for_good(&run, "the host is not in the site file any more"));
        }
        if self.was_heard() && self.agent_is_another().await? {
            return self.stored_or_lost("it was restarted meanwhile").await;
        }
        // A controller that was killed may have told the agent and not have heard of it again; an agent
        // that was restarted as well would begin anew what is in the repository already.
        if self.origin == Origin::FoundAgain
            && !self.was_heard()
            && let Some(stored) = self.find_stored().await?
        {
            return Ok(RunOutcome::Stored(stored));
        }
        let agents = Arc::clone(&self.backups.parts().agents);
        let mut reports = match agents.run(&Order::of(&run, &site)).await {
            Ok(reports) => reports,
            Err(error) => return self.refused(error).await,
        };
        while let Some(report) = reports.next().await {
            match report {
                Ok(Report::Progress(progress)) => self.progress(progress).await,
                Ok(Report::Ended(outcome)) => return Ok(outcome),
                Err(error) => return self.refused(error).await,
            }
        }
        let why = "it ended the call without saying how the run ended".to_owned();
        Err(CallError::Lost { host: run.spec.host, why })
    }

    /// A refusal ends a run that the agent has never worked on. An agent that refuses what it has
    /// worked on does not know it any more.
    async fn refused(&self, error: CallError) -> Result<RunOutcome, CallError> {
        match error {
            CallError::Refused { failure, .. } if self.was_heard() => {
                self.stored_or_lost(&failure.message).await
            }
            CallError::Refused { failure, .. } => Ok(RunOutcome::Failed(failure)),
            error => Err(error),
        }
    }

    /// Whether the agent, now or before this controller was started, was heard working on the run.
    fn was_heard(&self) -> bool {
        let run = self.shown.borrow();
        let (RunState::Running { progress } | RunState::Unknown { progress, .. }) = &run.state
        else {
            return true;
        };
        self.heard_since.is_some() || !progress.step.is_empty()
    }

    /// Whether the agent's process is younger than the run's time in it: sent the order again, it
    /// would begin anew what has died.
    ///
    /// When this controller was started in between, only the moment when the run was made is known;
    /// an agent is not given a run unless it answers, so that the one stands for the other.
    async fn agent_is_another(&self) -> Result<bool, CallError> {
        let spec = self.run_now().spec;
        let in_it_before = self.time_in_agent(spec.started_at);
        let uptime = self.backups.parts().agents.uptime(&spec.host).await?;
        // The agent looked at its clock somewhere between question and answer.
        if uptime >= self.time_in_agent(spec.started_at) {
            return Ok(false);
        }
        if uptime < in_it_before {
            return Ok(true);
        }
        let why = "its process is about as old as the run, and may be another".to_owned();
        Err(CallError::Lost { host: spec.host, why })
    }

    fn time_in_agent(&self, started_at: Timestamp) -> Duration {
        match self.heard_since {
            Some(since) => since.elapsed(),
            None => Duration::try_from(self.backups.now().duration_since(started_at))
                .unwrap_or_default(),
        }
    }

    /// The agent does not know the run any more. Its snapshot may be in a repository all the same.
    async fn stored_or_lost(&self, why: &str) -> Result<RunOutcome, CallError> {
        let stored = self.find_stored().await?;
        Ok(stored.map_or_else(|| lost_for_good(&self.run_now(), why), RunOutcome::Stored))
    }

    /// The snapshot of this run, in whichever repository of its backup it is: also in the spool, when
    /// the first one was away.
    async fn find_stored(&self) -> Result<Option<SnapshotFact>, CallError> {
        let run = self.run_now();
        let site = self.backups.site();
        let backup = site.backup(&run.spec.backup).filter(|_| run.spec.kind == RunKind::Backup);
        let Some(backup) = backup else { return Ok(None) };
        let mut unread = Ok(None);
        for repository in backup.repositories().chain(&backup.spool) {
            let agents = &self.backups.parts().agents;
            let host = &run.spec.host;
            match agents.snapshots(host, repository, &backup.name, SNAPSHOTS_LOOKED_AT).await {
                Ok(listed) => {
                    let own = listed.into_iter().find(|one| one.run == Some(self.id));
                    if let Some(own) = own {
                        return Ok(Some(own.snapshot));
                    }
                }
                // Without a look into it, nobody can say that nothing was stored.
                Err(CallError::Refused { host, failure }) => {
                    unread = Err(CallError::Lost { host, why: failure.message });
                }
                Err(error) => unread = Err(error),
            }
        }
        unread
    }

    /// Whether contact has been lost for so long that the run must not keep the next one any longer.
    /// Should it have been stored after all, the next look into the repository finds the snapshot.
    fn is_given_up(&self) -> bool {
        let run = self.run_now();
        let RunState::Unknown { since, .. } = &run.state else { return false };
        self.backups.now().duration_since(*since) > LOST_MAX
    }

    async fn progress(&mut self, progress: Progress) {
        self.reports += 1;
        let pace = self.backups.parts().pace.progress;
        let was_open = self.run_now().state.kind() == RunStateKind::Running;
        let is_first = !self.was_heard() || !was_open;
        let is_due = self.written_at.is_none_or(|at| at.elapsed() >= pace);
        if self.heard_since.is_none() {
            self.heard_since = Some(Instant::now());
        }
        if !is_first && !is_due {
            self.shown.send_modify(|run| {
                if let RunState::Running { progress: shown } = &mut run.state {
                    *shown = progress;
                }
            });
            return;
        }
        self.written_at = Some(Instant::now());
        match self.backups.write_progress(self.id, progress).await {
            Ok(run) => self.show(run),
            // The next report comes soon; only the end must not be missed.
            Err(error) => warn!(run = %self.id, error = %Chain(&error), "could not keep progress"),
        }
        if is_first {
            self.backups.parts().events.tell(Change::Backups);
        }
    }

    async fn lose(&self, error: &CallError) {
        let run = self.run_now();
        let why = error.to_string();
        if matches!(&run.state, RunState::Unknown { why: known, .. } if *known == why) {
            return;
        }
        warn!(run = %self.id, backup = %run.spec.backup, why, "contact with a run was lost; asking again");
        match self.backups.write_lost(self.id, &why).await {
            Ok(run) => self.show(run),
            Err(error) => {
                warn!(run = %self.id, error = %Chain(&error), "could not keep that a run is unknown")
            }
        }
        self.backups.parts().events.tell(Change::Backups);
    }

    /// Keeps the end, however often the store refuses: the agent may not tell it twice.
    async fn end(&self, outcome: RunOutcome) {
        loop {
            match self.backups.write_end(self.id, outcome.clone()).await {
                Ok(run) => {
                    tell(&run);
                    self.show(run);
                    break;
                }
                Err(error @ (RunError::Ended(_) | RunError::NotFound(_))) => {
                    warn!(run = %self.id, error = %Chain(&error), "a run ended that had ended");
                    self.refresh().await;
                    break;
                }
                Err(error) => {
                    warn!(run = %self.id, error = %Chain(&error), "could not keep the end of a run; trying again");
                }
            }
            tokio::time::sleep(self.backups.parts().pace.store).await;
        }
        self.backups.changed();
    }

    /// Takes over what the store says of the run.
    async fn refresh(&self) {
        match self.backups.stored(self.id).await {
            Ok(Some(run)) => self.show(run),
            Ok(None) => {}
            Err(error) => warn!(run = %self.id, error = %Chain(&error), "could not read a run"),
        }
    }

    fn show(&self, run: Run) {
        self.shown.send_replace(run);
    }

    fn run_now(&self) -> Run {
        self.shown.borrow().clone()
    }
}

impl Backups {
    /// A run as the store has it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn stored(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        self.parts().store.read().await?.runs().get(id).await
    }

    /// A transaction of the controller that leads: one that was taken over from changes nothing.
    async fn leading(&self) -> Result<Box<dyn Tx>, StoreError> {
        let mut tx = self.parts().store.begin().await?;
        tx.leadership().require(self.parts().lease.token()).await?;
        Ok(tx)
    }

    async fn write_progress(&self, id: RunId, progress: Progress) -> Result<Run, RunError> {
        let mut tx = self.leading().await?;
        let run = tx.runs().progressed(id, progress).await?;
        tx.commit().await?;
        Ok(run)
    }

    async fn write_lost(&self, id: RunId, why: &str) -> Result<Run, RunError> {
        let mut tx = self.leading().await?;
        let run = tx.runs().lost(id, why, self.now()).await?;
        tx.commit().await?;
        Ok(run)
    }

    async fn write_end(&self, id: RunId, outcome: RunOutcome) -> Result<Run, RunError> {
        let now = self.now();
        let mut tx = self.leading().await?;
        let before = tx.runs().get(id).await?;
        let was_open = before.is_some_and(|run| !run.state.kind().is_final());
        let run = tx.runs().end(id, outcome, now).await?;
        if let RunState::Ended { outcome: RunOutcome::Drilled(drill), .. } = &run.state
            && was_open
        {
            let fact = Fact::Drill(self.drill_facts(&run, drill));
            attest(tx.as_mut(), &self.parts().signer, now, &fact).await?;
        }
        tx.commit().await?;
        if let RunState::Ended { outcome: RunOutcome::Stored(snapshot), .. } = &run.state {
            self.held().add(&run.spec.backup, snapshot);
        }
        Ok(run)
    }

    /// What is signed of a drill. The report itself is in the run; its digest binds the two.
    fn drill_facts(&self, run: &Run, drill: &DrillFact) -> DrillFacts {
        let site = self.site();
        let backup = site.backup(&run.spec.backup);
        let report = drill_message(drill);
        let of_report = RepositoryName::try_new(&report.repository).ok();
        let declared = || backup.map(|backup| backup.drilled_from().clone());
        let repository = of_report.or_else(|| run.spec.repository.clone()).or_else(declared);
        let source_host = HostName::try_new(&report.source_host).ok();
        let source_host = source_host.or_else(|| backup.map(|backup| backup.host.clone()));
        DrillFacts {
            run: run.spec.id,
            backup: run.spec.backup.clone(),
            snapshot_id: drill.snapshot_id.clone(),
            snapshot_taken_at: drill.snapshot_taken_at,
            repository,
            source_host: source_host.unwrap_or_else(|| run.spec.host.clone()),
            drill_host: run.spec.host.clone(),
            age: run.spec.drill_age,
            verdict: drill.verdict,
            restore_elapsed: drill.restore_elapsed,
            report: hex(&sha256(&report.encode_to_vec())),
        }
    }
}

fn lost_for_good(run: &Run, why: &str) -> RunOutcome {
    let spec = &run.spec;
    let (agent, again) = match spec.kind {
        RunKind::Backup => ("nothing of it is in the repository", "run"),
        RunKind::Drill => ("what it showed is not known", "drill"),
    };
    let message = format!(
        "the backup-agent of `{}` does not know the run any more ({why}), and {agent}; start it \
         again with `labctl backup {again} {}`",
        spec.host, spec.backup,
    );
    RunOutcome::Failed(Failure { reason: word("RUN_LOST"), message, retryable: true })
}

fn tell(run: &Run) {
    let (id, spec) = (run.spec.id, &run.spec);
    match &run.state {
        RunState::Ended { outcome: RunOutcome::Failed(failure), .. } => {
            let (reason, message) = (failure.reason.as_str(), failure.message.as_str());
            warn!(run = %id, backup = %spec.backup, kind = %spec.kind, reason, message, "a run failed");
        }
        state => {
            let state = state.kind();
            info!(run = %id, backup = %spec.backup, kind = %spec.kind, %state, "a run has ended");
        }
    }
}

/// Sees to it that every run that has not ended is followed: after a restart, those of before.
#[derive(Debug)]
pub(super) struct FollowRuns(pub(super) Backups);

#[async_trait]
impl BackgroundTask for FollowRuns {
    fn name(&self) -> &'static str {
        "follow-runs"
    }

    fn description(&self) -> &'static str {
        "Finds the backup runs and drills again that have not ended."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn activate(&self) -> Outcome {
        let backups = &self.0;
        let open = backups.parts().store.read().await?.runs().open().await?;
        let before = backups.followers().count();
        for run in open {
            backups.follow_as(run, Origin::FoundAgain);
        }
        match backups.followers().count().saturating_sub(before) {
            0 => Ok(Done::Nothing),
            found => Ok(Done::Changed(format!("found {found} runs again"))),
        }
    }
}
