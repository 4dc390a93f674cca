//! The facts of the strategy: per backup what is aimed at, what was measured, and what proves it.

use std::collections::BTreeMap;

use homelab_domain::{
    evidence::StatementKind,
    ids::BackupName,
    run::{Run, RunKind},
    site::Backup,
};
use homelab_proto::controller::v1 as pb;
use homelab_store::{PageRequest, RunFilter, StoreError};

use super::{
    commands, convert,
    recovery::{
        cold_start_message, evidence_message, kit_repository, proof_message, secrets, source_kind,
    },
    retention,
};
use crate::backup::{
    BackupStatus, Backups, ScheduleView, convert::time_message, copies::CopiesView,
    kit::KitRepository,
};

/// Runs and pieces of evidence that are told of one backup.
const TOLD_MAX: u32 = 20;

/// Everything that can be told of one backup.
#[derive(Clone, Debug, Default)]
pub struct BackupFacts {
    /// As the strategy has it.
    pub strategy: pb::BackupStrategy,
    /// Its newest runs and drills, the newest first.
    pub runs: Vec<pb::Run>,
    /// What retention would do in each repository that can be read, which lists its snapshots.
    pub plans: Vec<pb::RetentionPlan>,
    /// The newest evidence, the newest first.
    pub evidence: Vec<pb::DrillEvidence>,
}

/// The facts of all backups, in the order of the site file.
///
/// # Errors
///
/// The store failed.
pub async fn strategy(backups: &Backups) -> Result<pb::GetStrategyResponse, StoreError> {
    let site = backups.site();
    let now = backups.parts().clock.now();
    let (schedules, statuses) = (backups.schedules().await?, backups.statuses().await?);
    let (copies, last) = (backups.copies().await?, backups.last_kit_proof().await?);
    let evidence = newest_evidence(backups).await?;
    let repositories = backups.kit_repositories();
    let start = backups.cold_start();
    let each = schedules.iter().zip(&statuses).zip(&copies).map(|((schedule, status), copies)| {
        let evidence = evidence.get(&schedule.backup.name).cloned();
        of_backup(backups, (schedule, status, copies), evidence, &repositories)
    });
    Ok(pb::GetStrategyResponse {
        site: site.name().to_string(),
        generated_at: Some(time_message(now)),
        time_zone: site.time_zone().name().to_owned(),
        backups: each.collect(),
        repositories: repositories.iter().map(kit_repository).collect(),
        cold_start: Some(cold_start_message(&start, &statuses)),
        last_proof: last.as_ref().map(proof_message),
        next_proof_due_at: Some(time_message(backups.next_kit_proof(&site, last.as_ref()))),
        windows: retention::windows(&site, now),
        secrets: secrets(&site, &start),
    })
}

/// The facts of one backup; none when the site file does not declare it.
///
/// # Errors
///
/// The store failed.
pub async fn facts(backups: &Backups, name: &str) -> Result<Option<BackupFacts>, StoreError> {
    let site = backups.site();
    let declared = BackupName::try_new(name).ok().and_then(|name| site.backup(&name).cloned());
    let Some(backup) = declared else { return Ok(None) };
    let all = strategy(backups).await?.backups;
    let is_it = |one: &pb::BackupStrategy| {
        one.schedule.as_ref().is_some_and(|schedule| schedule.backup == name)
    };
    let Some(strategy) = all.into_iter().find(is_it) else { return Ok(None) };
    let (runs, plans) = (runs(backups, &backup).await?, plans(backups, &backup).await?);
    let page = PageRequest::first(TOLD_MAX);
    let mut tx = backups.parts().store.read().await?;
    let evidence = tx.attestations().list(StatementKind::Drill, Some(&backup.name), &page).await?;
    let evidence = evidence.items.iter().map(evidence_message).collect();
    Ok(Some(BackupFacts { strategy, runs, plans, evidence }))
}

async fn runs(backups: &Backups, backup: &Backup) -> Result<Vec<pb::Run>, StoreError> {
    let mut found = Vec::new();
    for kind in [RunKind::Backup, RunKind::Drill] {
        let filter = RunFilter { backup: Some(backup.name.clone()), kind: Some(kind) };
        found.extend(backups.runs(&filter, &PageRequest::first(TOLD_MAX)).await?.items);
    }
    found.sort_by_key(|run: &Run| std::cmp::Reverse(run.spec.started_at));
    Ok(found.iter().map(convert::run).collect())
}

async fn plans(backups: &Backups, backup: &Backup) -> Result<Vec<pb::RetentionPlan>, StoreError> {
    let (policy, now) = (backups.policy_of(backup), backups.parts().clock.now());
    let plans = backups.plan_retention(backup, &policy).await?;
    Ok(plans.iter().map(|plan| retention::plan_message(plan, &policy, now)).collect())
}

fn of_backup(
    backups: &Backups,
    (schedule, status, copies): (&ScheduleView, &BackupStatus, &CopiesView),
    evidence: Option<pb::DrillEvidence>,
    repositories: &[KitRepository],
) -> pb::BackupStrategy {
    let backup = &schedule.backup;
    let target = backup.drill_target.as_ref();
    pb::BackupStrategy {
        schedule: Some(convert::schedule(schedule, &backups.site())),
        risk: Some(convert::risk(status)),
        copies: Some(retention::copies_message(copies)),
        retention: backup.keep.as_ref().map(retention::policy_message),
        last_evidence: evidence,
        source_kind: source_kind(backup.source).into(),
        services: backup.services.iter().map(ToString::to_string).collect(),
        drill_target: target
            .map(|target| format!("{target} on {}", backup.drilled_on()))
            .unwrap_or_default(),
        restore_commands: commands::kit_backup(backups, backup, repositories).commands,
    }
}

/// The newest evidence of each backup.
async fn newest_evidence(
    backups: &Backups,
) -> Result<BTreeMap<BackupName, pb::DrillEvidence>, StoreError> {
    let mut tx = backups.parts().store.read().await?;
    let mut newest = BTreeMap::new();
    for backup in backups.site().backups() {
        let (kind, page) = (StatementKind::Drill, PageRequest::first(1));
        let found = tx.attestations().list(kind, Some(&backup.name), &page).await?;
        newest.extend(found.items.first().map(|one| (backup.name.clone(), evidence_message(one))));
    }
    Ok(newest)
}
