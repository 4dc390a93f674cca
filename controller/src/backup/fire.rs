//! Starts what is due.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use homelab_domain::{
    ids::RunId,
    run::{RunSpec, RunTrigger},
    site::Site,
};
use homelab_store::{ScheduleKey, Started, StoreError};
use jiff::Timestamp;
use tracing::info;

use super::{
    Backups,
    plan::{Decision, Observed, plan, schedules},
};
use crate::{
    app::Change,
    audit,
    task::{BackgroundTask, Done, Outcome},
};

/// Who starts the runs of schedules.
pub(super) const SCHEDULE: &str = "schedule";

/// Fires schedules.
#[derive(Debug)]
pub(super) struct FireSchedules {
    backups: Backups,
    /// What is due and waits, as last told: it is told when it changes, not every few seconds.
    waiting: Mutex<Vec<String>>,
}

impl FireSchedules {
    /// Fires the schedules of `backups`.
    pub(super) fn new(backups: Backups) -> Self {
        Self { backups, waiting: Mutex::default() }
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
        let observed = backups.observe(&site, now).await?;
        let (mut started, mut waiting) = (Vec::new(), Vec::new());
        for planned in plan(now, &site, &observed) {
            let key = planned.key;
            match planned.decision {
                Decision::Wait { .. } => {}
                Decision::Hold { because, .. } => {
                    waiting.push(format!("{} of `{}`: {}", key.kind, key.backup, because.message));
                }
                Decision::Start { trigger, scheduled_for, why } => {
                    let firing = Firing { key: &key, trigger, scheduled_for, why: &why };
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

/// A schedule whose time has come.
#[derive(Clone, Copy, Debug)]
struct Firing<'a> {
    key: &'a ScheduleKey,
    trigger: RunTrigger,
    scheduled_for: Timestamp,
    why: &'a str,
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
            let key = ScheduleKey { backup: run.spec.backup, kind: run.spec.kind };
            observed.ever_run.insert(key);
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
        let spec = RunSpec {
            id: RunId::from(id),
            backup: key.backup.clone(),
            host: backup.host.clone(),
            kind: key.kind,
            trigger: firing.trigger,
            started_by: SCHEDULE.to_owned(),
            started_at: now,
            scheduled_for: Some(firing.scheduled_for),
            snapshot_id: None,
        };
        let mut tx = parts.store.begin().await?;
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
