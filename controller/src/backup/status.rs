//! How the backups stand: read from the store and the repositories, decided by the domain.

use std::{cmp::Reverse, collections::BTreeMap};

use async_trait::async_trait;
use homelab_domain::{
    fleet::Verdict,
    ids::BackupName,
    reason::{Because, Reason},
    risk::{self, BackupEvidence, BackupRisk, Gap},
    run::{Run, RunKind},
    site::{Backup, Site},
};
use homelab_store::{Paused, RunFilter, ScheduleKey, StoreError};
use jiff::Timestamp;

use super::{
    Backups,
    plan::{Decision, plan},
};
use crate::overview::{BackupLine, BackupLines};

/// Drills that the figures of a backup are made from.
const DRILLS_LOOKED_AT: u32 = 100;

/// How one backup stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupStatus {
    /// What would be lost, and what is missing.
    pub risk: BackupRisk,
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
}

/// What is due, by schedule.
struct Dues {
    decisions: BTreeMap<ScheduleKey, Decision>,
    paused: BTreeMap<BackupName, Paused>,
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
            rank(&mut risk);
            all.push(BackupStatus {
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
        let newest = self.parts().store.read().await?.runs().newest().await?;
        let last = |backup: &Backup, kind| {
            let of = |run: &&Run| run.spec.backup == backup.name && run.spec.kind == kind;
            newest.iter().find(of).cloned()
        };
        let each = site.backups().iter().map(|backup| ScheduleView {
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
        let pauses = observed
            .records
            .into_values()
            .filter_map(|record| record.paused.map(|paused| (record.key.backup, paused)));
        Ok(Dues {
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

/// What was in a repository when it could last be read is not known to be there still.
fn add_trouble(trouble: Option<(Timestamp, String)>, risk: &mut BackupRisk) {
    let Some((since, why)) = trouble else { return };
    let message =
        format!("its repository cannot be read, so that nobody knows what is left: {why}");
    risk.gaps.push(Gap {
        verdict: Verdict::Warning,
        because: Because::new(Reason::REPOSITORY_UNAVAILABLE, message),
        since: Some(since),
        command: format!("labctl backup verify {}", risk.backup),
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
