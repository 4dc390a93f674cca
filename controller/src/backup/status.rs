//! How the backups stand: read from the store and the repositories, decided by the domain.

use std::{cmp::Reverse, collections::BTreeMap};

use async_trait::async_trait;
use homelab_domain::{
    copies::CopyRule,
    fleet::Verdict,
    ids::{BackupName, RepositoryName},
    reason::{Because, Reason},
    recovery::{ColdStart, Subject, cold_start, proof_gap},
    retention::{BrakeKind, Plan},
    risk::{self, BackupEvidence, BackupRisk, Gap},
    run::{Run, RunKind, RunStateKind, SnapshotFact},
    schedule::{Punctuality, Served},
    site::{Backup, Site},
};
use homelab_store::{Paused, RunFilter, ScheduleKey, Scrub, StoreError};
use jiff::Timestamp;

use super::{
    Backups,
    copies::CopiesView,
    plan::{Decision, jitter, open_window, plan},
    retention,
};
use crate::overview::{BackupLine, BackupLines};

/// Drills that the figures of a backup are made from.
const DRILLS_LOOKED_AT: u32 = 100;

/// How one backup stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupStatus {
    /// What would be lost, and what is missing.
    pub risk: BackupRisk,
    /// Whether its runs are in time, and since when one is due.
    pub punctuality: (Punctuality, Option<Timestamp>),
    /// Whether its copies make 3-2-1.
    pub copies: CopyRule,
    /// When the next run is due; none while paused. In the past when it is due and waits.
    pub next_run_at: Option<Timestamp>,
    /// When the next drill is due, likewise.
    pub next_drill_at: Option<Timestamp>,
    /// Who paused its schedules.
    pub paused: Option<Paused>,
}

/// When one backup runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleView {
    /// As the site file declares it.
    pub backup: Backup,
    /// When the next run is due, as in [`BackupStatus`].
    pub next_run_at: Option<Timestamp>,
    /// When the next drill is due, likewise.
    pub next_drill_at: Option<Timestamp>,
    /// The newest run.
    pub last_run: Option<Run>,
    /// The newest drill.
    pub last_drill: Option<Run>,
    /// Who paused it.
    pub paused: Option<Paused>,
    /// Whether its runs are in time, and since when one is due.
    pub punctuality: (Punctuality, Option<Timestamp>),
    /// What keeps a run that is due, for people.
    pub held_by: Option<String>,
}

/// What is due, by schedule.
struct Dues {
    decisions: BTreeMap<ScheduleKey, Decision>,
    paused: BTreeMap<BackupName, Paused>,
    known_since: BTreeMap<ScheduleKey, Timestamp>,
}

impl Backups {
    /// How every backup of the site stands, in the order of the site file.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn statuses(&self) -> Result<Vec<BackupStatus>, StoreError> {
        let (site, now) = (self.site(), self.now());
        let dues = self.dues(&site, now).await?;
        let mut tx = self.parts().store.read().await?;
        let mut verified: BTreeMap<_, _> = tx.runs().newest_verified().await?.into_iter().collect();
        let mut last: BTreeMap<_, _> = backup_runs(tx.runs().newest().await?);
        let around = self.around(&site).await?;
        let mut all = Vec::new();
        for backup in site.backups() {
            let newest = self.held().newest(&backup.name, verified.remove(&backup.name));
            let drills = tx.runs().drills(&backup.name, DRILLS_LOOKED_AT).await?;
            let paused = dues.paused.get(&backup.name);
            let last_run = last.remove(&backup.name);
            let evidence = BackupEvidence {
                backup,
                newest_verified: newest.as_ref(),
                drills: &drills,
                last_run: last_run.as_ref(),
                paused: paused.map(|paused| (paused.at, paused.by.as_str())),
            };
            let mut risk = risk::assess(now, &evidence);
            dues.add_held(backup, &mut risk);
            add_trouble(self.held().trouble(&backup.name), &mut risk);
            let copies = self.copies_of(&site, backup, &around.scrubs);
            let plans = self.plan_retention(backup, &self.policy_of(backup)).await?;
            around.add_gaps(&site, backup, &copies, &plans, &mut risk);
            rank(&mut risk);
            let punctuality =
                dues.punctuality(&site, backup, last_run.as_ref(), newest.as_ref(), now);
            all.push(BackupStatus {
                punctuality,
                copies: copies.rule,
                risk,
                next_run_at: dues.next(&backup.name, RunKind::Backup, now),
                next_drill_at: dues.next(&backup.name, RunKind::Drill, now),
                paused: paused.cloned(),
            });
        }
        Ok(all)
    }

    /// When every backup of the site runs, in the order of the site file.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, StoreError> {
        let (site, now) = (self.site(), self.now());
        let dues = self.dues(&site, now).await?;
        let mut tx = self.parts().store.read().await?;
        let newest = tx.runs().newest().await?;
        let mut verified: BTreeMap<_, _> = tx.runs().newest_verified().await?.into_iter().collect();
        drop(tx);
        let last = |backup: &Backup, kind| {
            let of = |run: &&Run| run.spec.backup == backup.name && run.spec.kind == kind;
            newest.iter().find(of).cloned()
        };
        let each = site.backups().iter().map(|backup| ScheduleView {
            punctuality: {
                let newest = self.held().newest(&backup.name, verified.remove(&backup.name));
                let last_run = last(backup, RunKind::Backup);
                dues.punctuality(&site, backup, last_run.as_ref(), newest.as_ref(), now)
            },
            held_by: dues.held_by(&backup.name),
            backup: backup.clone(),
            next_run_at: dues.next(&backup.name, RunKind::Backup, now),
            next_drill_at: dues.next(&backup.name, RunKind::Drill, now),
            last_run: last(backup, RunKind::Backup),
            last_drill: last(backup, RunKind::Drill),
            paused: dues.paused.get(&backup.name).cloned(),
        });
        Ok(each.collect())
    }

    /// Runs, newest first.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn runs(
        &self,
        filter: &RunFilter,
        page: &homelab_store::PageRequest,
    ) -> Result<homelab_store::Page<Run>, StoreError> {
        self.parts().store.read().await?.runs().list(filter, page).await
    }

    async fn dues(&self, site: &Site, now: Timestamp) -> Result<Dues, StoreError> {
        let observed = self.observe(site, now).await?;
        let planned = plan(now, site, &observed).into_iter();
        let records = observed.records;
        let known_since = records.values().map(|it| (it.key.clone(), it.known_since)).collect();
        let pauses = records.into_values().filter_map(|record| {
            let paused = record.paused.filter(|paused| paused.lasts(now))?;
            Some((record.key.backup, paused))
        });
        Ok(Dues {
            known_since,
            decisions: planned.map(|one| (one.key, one.decision)).collect(),
            paused: pauses.collect(),
        })
    }
}

#[async_trait]
impl BackupLines for Backups {
    async fn lines(&self) -> Result<Vec<BackupLine>, StoreError> {
        let line = |status: BackupStatus| BackupLine {
            risk: status.risk,
            next_run_at: status.next_run_at,
            paused: status.paused.is_some(),
        };
        let mut lines: Vec<_> = self.statuses().await?.into_iter().map(line).collect();
        lines.sort_by(|a, b| a.risk.backup.cmp(&b.risk.backup));
        Ok(lines)
    }
}

impl Dues {
    fn next(&self, backup: &BackupName, kind: RunKind, now: Timestamp) -> Option<Timestamp> {
        match self.decisions.get(&ScheduleKey { backup: backup.clone(), kind })? {
            Decision::Wait { next } => *next,
            Decision::Start { .. } => Some(now),
            Decision::Hold { since, .. } => Some(*since),
        }
    }

    /// What keeps the run of a backup that is due.
    fn held_by(&self, backup: &BackupName) -> Option<String> {
        let key = ScheduleKey { backup: backup.clone(), kind: RunKind::Backup };
        match self.decisions.get(&key)? {
            Decision::Hold { because, .. } => Some(because.message.clone()),
            _ => None,
        }
    }

    /// Whether the runs of a backup are in time. What counts is a run that ended well, or a snapshot
    /// that came to the repository without the controller.
    fn punctuality(
        &self,
        site: &Site,
        backup: &Backup,
        last_run: Option<&Run>,
        newest: Option<&SnapshotFact>,
        now: Timestamp,
    ) -> (Punctuality, Option<Timestamp>) {
        let key = ScheduleKey { backup: backup.name.clone(), kind: RunKind::Backup };
        let good = last_run.filter(|run| run.state.kind() == RunStateKind::Succeeded);
        let good =
            good.map(|run| run.spec.started_at.max(run.spec.scheduled_for.unwrap_or_default()));
        let asleep = Reason::EXPECTED_ASLEEP;
        let is_asleep = matches!(self.decisions.get(&key),
            Some(Decision::Hold { because, .. }) if because.reason == asleep);
        let served = Served {
            known_since: self.known_since.get(&key).copied().unwrap_or(now),
            last_good: good.max(newest.map(|one| one.taken_at.min(now))),
            jitter: jitter(backup, &key),
            grace: backup.grace,
            is_paused: is_asleep || self.paused.contains_key(&backup.name),
            held_until: open_window(now, site, backup).map(|(_, until)| until),
        };
        backup.schedule.punctuality(now, &served)
    }

    /// What is due and waits for its host is worth a look; waiting for another run is not.
    fn add_held(&self, backup: &Backup, risk: &mut BackupRisk) {
        for kind in [RunKind::Backup, RunKind::Drill] {
            let key = ScheduleKey { backup: backup.name.clone(), kind };
            let Some(Decision::Hold { because, since }) = self.decisions.get(&key) else {
                continue;
            };
            if because.reason != Reason::HOST_UNREACHABLE {
                continue;
            }
            let mut because = because.clone();
            because.message = format!("its {kind} is due and waits: {}", because.message);
            risk.gaps.push(Gap {
                verdict: Verdict::Warning,
                because,
                since: Some(*since),
                command: format!("labctl host show {}", backup.host),
            });
        }
    }
}

/// What stands around every backup: repositories that were read through, and the way back.
struct Around {
    scrubs: BTreeMap<RepositoryName, Scrub>,
    cold_start: ColdStart,
    kit: Option<Gap>,
}

impl Backups {
    async fn around(&self, site: &Site) -> Result<Around, StoreError> {
        let scrubs = self.parts().store.read().await?.snapshots().scrubs().await?;
        let proof = self.last_kit_proof().await?;
        Ok(Around {
            scrubs: scrubs.into_iter().map(|scrub| (scrub.repository.clone(), scrub)).collect(),
            cold_start: cold_start(site),
            kit: proof_gap(self.now(), site, &self.kit_fingerprint(), proof.as_ref()),
        })
    }
}

impl Around {
    fn add_gaps(
        &self,
        site: &Site,
        backup: &Backup,
        copies: &CopiesView,
        plans: &[Plan],
        risk: &mut BackupRisk,
    ) {
        let name = &backup.name;
        let mut add = |verdict, reason, message: String, command: String| {
            let because = Because::new(reason, message);
            risk.gaps.push(Gap { verdict, because, since: None, command });
        };
        for (plan, brake, reason) in retention::alarming(plans) {
            // Nothing goes where nothing is given up.
            if brake.kind == BrakeKind::TooManyAtOnce && backup.keep.is_none() {
                continue;
            }
            let command = format!("labctl backup retention plan {name}");
            let message = format!("in `{}`: {}", plan.repository, brake.message);
            add(Verdict::Warning, reason, message, command);
        }
        if !backup.copies.is_empty() && !copies.rule.is_met() {
            let message =
                format!("its copies do not make 3-2-1: {}", copies.rule.missing.join(", "));
            let command = format!("labctl backup copies {name}");
            add(Verdict::Warning, Reason::COPIES_MISSING, message, command);
        }
        for repository in backup.repositories() {
            let damage = self.scrubs.get(repository).and_then(|scrub| scrub.problems.first());
            if let Some(damage) = damage {
                let message = format!("`{repository}` is damaged: {damage}");
                let command =
                    format!("labctl backup verify {name} --repository {repository} --read-data");
                add(Verdict::Critical, Reason::REPOSITORY_DAMAGED, message, command);
            }
        }
        if !self.cold_start.reaches(&Subject::Backup(name.clone())) {
            let told = self.cold_start.loops.first().map(ToString::to_string).unwrap_or_default();
            let message = format!("it could not be restored after everything was lost: {told}");
            let command = "labctl recovery-kit show".to_owned();
            add(Verdict::Critical, Reason::RECOVERY_LOOP, message, command);
        }
        let is_opened_by_kit = backup
            .repositories()
            .filter_map(|repository| site.repository(repository))
            .any(|repository| repository.secret.is_some());
        risk.gaps.extend(self.kit.clone().filter(|_| is_opened_by_kit));
    }
}

/// What was in a repository when it could last be read is not known to be there still.
fn add_trouble(trouble: Option<(Timestamp, String)>, risk: &mut BackupRisk) {
    let Some((since, why)) = trouble else { return };
    let message =
        format!("its repository cannot be read, so that nobody knows what is left: {why}");
    risk.gaps.push(Gap {
        verdict: Verdict::Warning,
        because: Because::new(Reason::REPOSITORY_UNAVAILABLE, message),
        since: Some(since),
        command: format!("labctl backup repositories {}", risk.backup),
    });
}

/// Worst first; the worst is the verdict.
fn rank(risk: &mut BackupRisk) {
    risk.gaps.sort_by_key(|gap| Reverse(gap.verdict));
    risk.verdict = risk.gaps.first().map_or(Verdict::Ok, |gap| gap.verdict);
}

fn backup_runs(newest: Vec<Run>) -> BTreeMap<BackupName, Run> {
    let backups = newest.into_iter().filter(|run| run.spec.kind == RunKind::Backup);
    backups.map(|run| (run.spec.backup.clone(), run)).collect()
}
