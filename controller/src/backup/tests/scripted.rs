//! A backup-agent on paper.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use homelab_domain::{
    ids::{BackupName, HostName, RepositoryName, RunId},
    reason::{Failure, Reason},
    run::{DrillFact, DrillVerdict, Progress, RunOutcome, SnapshotFact},
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use crate::backup::agents::{
    BackupAgents, CallError, Listed, Order, Report, Reports, RepositoryFacts, RetentionOrder,
    Upkeep,
};

/// One agent, which stands for that of every host.
#[derive(Debug)]
pub(crate) struct ScriptedAgent {
    state: Mutex<State>,
    /// Why calls fail now; open ones break as well.
    outage: watch::Sender<Option<Outage>>,
}

#[derive(Clone, Debug)]
struct Outage {
    why: String,
    /// Whether the controller knows of it beforehand.
    is_known: bool,
}

#[derive(Debug)]
struct State {
    since: Instant,
    begun: Vec<RunId>,
    runs: BTreeMap<RunId, watch::Sender<Option<RunOutcome>>>,
    held: Vec<Listed>,
    refusal: Option<&'static str>,
    now: Option<Timestamp>,
    retained: Vec<RetentionOrder>,
    upkeep: Vec<Upkeep>,
    damage: Vec<String>,
}

impl Default for ScriptedAgent {
    fn default() -> Self {
        let state = State {
            since: Instant::now(),
            begun: Vec::new(),
            runs: BTreeMap::new(),
            held: Vec::new(),
            refusal: None,
            now: None,
            retained: Vec::new(),
            upkeep: Vec::new(),
            damage: Vec::new(),
        };
        Self { state: Mutex::new(state), outage: watch::Sender::new(None) }
    }
}

impl ScriptedAgent {
    /// The runs that it began, in order; a run that it began twice is there twice.
    pub(crate) fn begun(&self) -> Vec<RunId> {
        self.state().begun.clone()
    }

    /// Cuts it off, for all to see.
    pub(crate) fn unplug(&self, why: &str) {
        self.outage.send_replace(Some(Outage { why: why.to_owned(), is_known: true }));
    }

    /// Cuts it off, and nobody has noticed yet.
    pub(crate) fn deafen(&self, why: &str) {
        self.outage.send_replace(Some(Outage { why: why.to_owned(), is_known: false }));
    }

    /// It can be reached again.
    pub(crate) fn plug(&self) {
        self.outage.send_replace(None);
    }

    /// Ends its process and starts another one, which knows of no run.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        state.since = Instant::now();
        // Whoever follows a run sees its stream break.
        state.runs.clear();
    }

    /// Lets a run end.
    pub(crate) fn end(&self, run: RunId, outcome: RunOutcome) {
        let state = self.state();
        state.runs.get(&run).expect("a run that it began").send_replace(Some(outcome));
    }

    /// Puts a snapshot into its repository.
    pub(crate) fn hold(&self, snapshot: SnapshotFact, run: Option<RunId>) {
        self.state().held.insert(0, Listed::new(run, snapshot));
    }

    /// Sets the time that it reads from its clock.
    pub(crate) fn set_clock(&self, now: Timestamp) {
        self.state().now = Some(now);
    }

    /// Takes a snapshot out of its repository, as a thief would.
    pub(crate) fn steal(&self, id: &str) {
        self.state().held.retain(|one| one.snapshot.id != id);
    }

    /// What its repository holds, the newest first, and whether it is given up.
    pub(crate) fn held(&self) -> Vec<(String, bool)> {
        let state = self.state();
        let each = state.held.iter();
        each.map(|one| (one.snapshot.id.clone(), one.quarantined_since.is_some())).collect()
    }

    /// The retention plans that it carried out.
    pub(crate) fn retained(&self) -> Vec<RetentionOrder> {
        self.state().retained.clone()
    }

    /// The upkeep that it did.
    pub(crate) fn upkeep(&self) -> Vec<Upkeep> {
        self.state().upkeep.clone()
    }

    /// What its next scrub finds.
    pub(crate) fn damage(&self, problem: &str) {
        self.state().damage.push(problem.to_owned());
    }

    /// Refuses new runs from now on.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.state().refusal = Some(reason);
    }

    fn reach(&self, host: &HostName) -> Result<(), CallError> {
        match self.outage.borrow().clone() {
            Some(Outage { why, .. }) => Err(CallError::Unreachable { host: host.clone(), why }),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }
}

#[async_trait]
impl BackupAgents for ScriptedAgent {
    fn answers(&self, _host: &HostName) -> Result<(), String> {
        match self.outage.borrow().clone() {
            Some(Outage { why, is_known: true }) => Err(why),
            _ => Ok(()),
        }
    }

    async fn uptime(&self, host: &HostName) -> Result<Duration, CallError> {
        self.reach(host)?;
        Ok(self.state().since.elapsed())
    }

    async fn run(&self, order: &Order) -> Result<Reports, CallError> {
        self.reach(&order.host)?;
        let host = order.host.clone();
        let mut state = self.state();
        if let (Some(reason), false) = (state.refusal, state.runs.contains_key(&order.run)) {
            let failure = Failure {
                reason: Reason::try_new(reason).expect("a reason"),
                message: "it cannot be done".to_owned(),
                retryable: true,
            };
            return Err(CallError::Refused { host, failure });
        }
        if !state.runs.contains_key(&order.run) {
            state.begun.push(order.run);
            state.runs.insert(order.run, watch::Sender::new(None));
        }
        let end = state.runs.get(&order.run).expect("just put there").subscribe();
        drop(state);
        let going =
            Report::Progress(Progress { step: "dumping".to_owned(), ..Progress::default() });
        let rest = stream::once(ended(host, end, self.outage.subscribe()));
        Ok(stream::once(async { Ok(going) }).chain(rest).boxed())
    }

    async fn check(&self, order: &Order) -> Result<Vec<String>, CallError> {
        self.reach(&order.host).map(|()| Vec::new())
    }

    async fn snapshots(
        &self,
        host: &HostName,
        _repository: &RepositoryName,
        _backup: &BackupName,
        limit: u16,
    ) -> Result<Vec<Listed>, CallError> {
        self.reach(host)?;
        Ok(self.state().held.iter().take(limit.into()).cloned().collect())
    }

    async fn repository(
        &self,
        host: &HostName,
        _repository: &RepositoryName,
    ) -> Result<RepositoryFacts, CallError> {
        self.reach(host)?;
        Ok(RepositoryFacts { has_room: Some(true), ..RepositoryFacts::default() })
    }

    async fn retain(&self, host: &HostName, order: &RetentionOrder) -> Result<(), CallError> {
        self.reach(host)?;
        let mut state = self.state();
        // It stands for the agents of all repositories, which give up the same one after the other.
        let mut held = state.held.iter().map(|one| &one.snapshot.id);
        let is_stale = held.any(|id| !order.expected.contains(id));
        if is_stale {
            let failure = Failure {
                reason: Reason::try_new("STALE_GENERATION").expect("a reason"),
                message: "something else is there".to_owned(),
                retryable: false,
            };
            return Err(CallError::Refused { host: host.clone(), failure });
        }
        if order.validate_only {
            return Ok(());
        }
        let now = state.now;
        state.held.retain(|one| !order.delete.contains(&one.snapshot.id));
        for one in &mut state.held {
            if order.quarantine.contains(&one.snapshot.id) {
                one.quarantined_since = now;
            }
            if order.rescue.contains(&one.snapshot.id) {
                one.quarantined_since = None;
            }
        }
        state.retained.push(order.clone());
        Ok(())
    }

    async fn keep_up(
        &self,
        host: &HostName,
        _repository: &RepositoryName,
        _id: RunId,
        work: Upkeep,
    ) -> Result<Vec<String>, CallError> {
        self.reach(host)?;
        let mut state = self.state();
        state.upkeep.push(work);
        Ok(match work {
            Upkeep::Scrub { .. } => state.damage.clone(),
            Upkeep::Prune => Vec::new(),
        })
    }
}

async fn ended(
    host: HostName,
    mut end: watch::Receiver<Option<RunOutcome>>,
    mut outage: watch::Receiver<Option<Outage>>,
) -> Result<Report, CallError> {
    let lost = |why: &str| Err(CallError::Lost { host: host.clone(), why: why.to_owned() });
    tokio::select! {
        ended = end.wait_for(Option::is_some) => match ended.as_deref() {
            Ok(Some(outcome)) => Ok(Report::Ended(outcome.clone())),
            _ => lost("its process ended"),
        },
        _ = outage.wait_for(Option::is_some) => lost("the connection broke"),
    }
}

/// A snapshot of a moment.
pub(crate) fn snapshot(run: RunId, taken_at: Timestamp) -> SnapshotFact {
    SnapshotFact {
        id: format!("{:0>64}", run.uuid().simple()),
        taken_at,
        verified_at: taken_at,
        source_bytes: 4096,
        stored_bytes: Some(1024),
        elapsed: Duration::from_secs(3),
        payload: Value::Null,
    }
}

/// A drill that came to a verdict.
pub(crate) fn drilled(verdict: DrillVerdict, snapshot_taken_at: Timestamp) -> DrillFact {
    DrillFact {
        verdict,
        snapshot_id: "ab".repeat(32),
        snapshot_taken_at,
        restore_elapsed: Duration::from_secs(21),
        elapsed: Duration::from_secs(30),
        payload: Value::Null,
    }
}
