//! Starts what is due.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use homelab_domain::{
    drill::{self, Drillable, Drilled, Picked},
    ids::RunId,
    run::{RunKind, RunOutcome, RunSpec, RunState, RunTrigger},
    site::{Backup, Site},
};
use homelab_store::{PageRequest, RunFilter, ScheduleKey, SeenState, Started, StoreError, Tx};
use jiff::{SignedDuration, Timestamp};
use tracing::info;

use super::{
    Backups,
    plan::{Decision, Observed, host_of, plan, schedules},
    start::drilled_from,
};
use crate::{
    app::Change,
    audit,
    task::{BackgroundTask, Done, Outcome},
};

/// Drills that are looked at to find the age that has waited longest.
const DRILLS_LOOKED_AT: u32 = 50;

/// Who starts the runs of schedules.
pub(super) const SCHEDULE: &str = "schedule";

/// Fires schedules.
#[derive(Debug)]
pub(super) struct FireSchedules {
    backups: Backups,
    /// When this began, by the controller's clock.
    began: Timestamp,
    /// What is due and waits, as last told: it is told when it changes, not every few seconds.
    waiting: Mutex<Vec<String>>,
}

impl FireSchedules {
    /// Fires the schedules of `backups`.
    pub(super) fn new(backups: Backups) -> Self {
        Self { began: backups.now(), backups, waiting: Mutex::default() }
    }

    /// Whether what the clock says may be far from true: a time source sets it soon.
    fn waits_for_the_clock(&self, now: Timestamp) -> bool {
        let is_free = self.backups.parts().timekeeping.is_synchronized() == Some(false);
        is_free && now.duration_since(self.began) < CLOCK_WAIT
    }

    fn tell(&self, waiting: Vec<String>) {
        let mut told = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for words in waiting.iter().filter(|words| !told.contains(words)) {
            info!(what = words, "a schedule is due and waits");
        }
        *told = waiting;
    }
}

#[async_trait]
impl BackgroundTask for FireSchedules {
    fn name(&self) -> &'static str {
        "fire-schedules"
    }

    fn description(&self) -> &'static str {
        "Starts the backups and drills that are due."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn activate(&self) -> Outcome {
        let backups = &self.backups;
        let (site, now) = (backups.site(), backups.now());
        if self.waits_for_the_clock(now) {
            self.tell(vec![
                "every schedule: no time source keeps the clock in step yet".to_owned(),
            ]);
            return Ok(Done::Nothing);
        }
        let observed = backups.observe(&site, now).await?;
        let (mut started, mut waiting) = (Vec::new(), Vec::new());
        for planned in plan(now, &site, &observed) {
            let key = planned.key;
            match planned.decision {
                Decision::Wait { .. } => {}
                Decision::Hold { because, .. } => {
                    waiting.push(format!("{} of `{}`: {}", key.kind, key.backup, because.message));
                }
                Decision::Start { trigger, scheduled_for, why, notes } => {
                    let firing = Firing { key: &key, trigger, scheduled_for, why: &why, notes };
                    if backups.fire(&site, now, firing).await? {
                        started.push(format!("started {} of `{}`: {why}", key.kind, key.backup));
                    }
                }
            }
        }
        self.tell(waiting);
        Ok(if started.is_empty() { Done::Nothing } else { Done::Changed(started.join("; ")) })
    }
}

/// How long schedules wait after a start for the clock to be kept in step. A host whose battery
/// is empty boots in another year; one without any time source must be backed up all the same.
const CLOCK_WAIT: SignedDuration = SignedDuration::from_mins(10);

/// A schedule whose time has come.
#[derive(Clone, Debug)]
struct Firing<'a> {
    key: &'a ScheduleKey,
    trigger: RunTrigger,
    scheduled_for: Timestamp,
    why: &'a str,
    notes: Vec<String>,
}

impl Backups {
    /// Everything that decides what is due. Schedules that are new become known.
    pub(super) async fn observe(
        &self,
        site: &Site,
        now: Timestamp,
    ) -> Result<Observed, StoreError> {
        let mut observed = Observed { silent: self.silent(site), ..Observed::default() };
        let mut tx = self.parts().store.read().await?;
        for record in tx.schedules().all().await? {
            observed.records.insert(record.key.clone(), record);
        }
        for run in tx.runs().newest().await? {
            let key = ScheduleKey { backup: run.spec.backup.clone(), kind: run.spec.kind };
            observed.last.insert(key, run);
        }
        for run in tx.runs().open().await? {
            observed.open.insert(ScheduleKey { backup: run.spec.backup, kind: run.spec.kind });
        }
        let mut verified: BTreeMap<_, _> = tx.runs().newest_verified().await?.into_iter().collect();
        tx.rollback().await?;
        for backup in site.backups() {
            if self.held().newest(&backup.name, verified.remove(&backup.name)).is_some() {
                observed.restorable.insert(backup.name.clone());
            }
        }
        self.learn(site, now, &mut observed).await?;
        Ok(observed)
    }

    async fn learn(
        &self,
        site: &Site,
        now: Timestamp,
        observed: &mut Observed,
    ) -> Result<(), StoreError> {
        let keys = site.backups().iter().flat_map(|backup| {
            schedules(backup).map(|(kind, _)| ScheduleKey { backup: backup.name.clone(), kind })
        });
        let new: Vec<_> = keys.filter(|key| !observed.records.contains_key(key)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut tx = self.parts().store.begin().await?;
        for key in new {
            let record = tx.schedules().ensure(&key, now).await?;
            observed.records.insert(key, record);
        }
        tx.commit().await
    }

    /// Keeps that the schedule fired, the run and the telling of it, all or nothing; then follows the
    /// run. False when another controller or another run came first.
    async fn fire(
        &self,
        site: &Site,
        now: Timestamp,
        firing: Firing<'_>,
    ) -> Result<bool, StoreError> {
        let key = firing.key;
        let Some(backup) = site.backup(&key.backup) else { return Ok(false) };
        let parts = self.parts();
        let id = homelab_common::chance::uuid_v7(parts.clock.as_ref(), parts.chance.as_ref());
        let mut tx = parts.store.begin().await?;
        let picked = match key.kind {
            RunKind::Backup => None,
            RunKind::Drill => pick_drill(tx.as_mut(), backup, now).await?,
        };
        let spec = RunSpec {
            id: RunId::from(id),
            backup: key.backup.clone(),
            host: host_of(backup, key.kind).clone(),
            kind: key.kind,
            trigger: firing.trigger,
            started_by: SCHEDULE.to_owned(),
            started_at: now,
            scheduled_for: Some(firing.scheduled_for),
            snapshot_id: picked.as_ref().map(|picked| picked.snapshot_id.clone()),
            repository: drilled_from(backup, key.kind),
            drill_age: picked.map(|picked| picked.age),
            notes: firing.notes,
        };
        tx.leadership().require(parts.lease.token()).await?;
        if !tx.schedules().fired(key, firing.scheduled_for).await? {
            return Ok(false);
        }
        let Started::New(run) = tx.runs().start(&spec).await? else { return Ok(false) };
        let subject = format!("backup/{}", key.backup);
        let action = format!("start-{}", key.kind);
        let detail = format!("run {}: {}", spec.id, firing.why);
        let entry = audit::entry(parts.clock.as_ref(), SCHEDULE, action, subject, detail);
        tx.audit().append(&entry).await?;
        tx.commit().await?;
        info!(run = %spec.id, backup = %key.backup, kind = %key.kind, why = firing.why, "a schedule fired");
        self.follow(run);
        parts.events.tell(Change::Backups);
        parts.events.tell(Change::Audit);
        Ok(true)
    }
}

/// The snapshot that is drilled next: see [`drill::pick`]. None leaves it to the agent, which takes
/// the newest.
async fn pick_drill(
    tx: &mut dyn Tx,
    backup: &Backup,
    now: Timestamp,
) -> Result<Option<Picked>, StoreError> {
    let seen = tx.snapshots().of(&backup.name).await?.into_iter();
    let seen = seen.filter(|one| one.repository == *backup.drilled_from());
    let drillable = seen.filter(|one| one.state == SeenState::Present).map(|one| Drillable {
        id: one.id,
        sequence: one.sequence,
        taken_at: one.taken_at,
    });
    let filter = RunFilter { backup: Some(backup.name.clone()), kind: Some(RunKind::Drill) };
    let drills = tx.runs().list(&filter, &PageRequest::first(DRILLS_LOOKED_AT)).await?;
    let made = drills.items.into_iter().filter_map(|run| match run.state {
        RunState::Ended { at, outcome: RunOutcome::Drilled(_) } => {
            Some(Drilled { age: run.spec.drill_age?, at })
        }
        _ => None,
    });
    Ok(drill::pick(now, &drillable.collect::<Vec<_>>(), &made.collect::<Vec<_>>()))
}
