//! Gives up what no policy keeps: planned by the domain, carried out by the agent that may delete,
//! to the letter. What is about to be deleted is stated and signed before the agent hears of it, so
//! that nothing that vanishes later can be mistaken for it.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use homelab_common::error_chain::Chain;
use homelab_domain::{
    evidence::{Fact, SnapshotFacts},
    ids::{BackupName, HostName, RepositoryName},
    reason::Reason,
    retention::{
        self, Acknowledgement, Brake, BrakeKind, Candidate, Evidence, Holding, KeepPolicy, Plan,
        Request,
    },
    run::{RunOutcome, RunState},
    site::Backup,
};
use homelab_store::{Acknowledged, SeenSnapshot, SeenState, StoreError, Tx};
use tracing::{info, warn};

use super::{
    Backups,
    agents::{CallError, RetentionOrder},
    evidence::{attest, sha256},
    holdings::{ReadError, Shelf},
};
use crate::{
    audit,
    ca::issue::hex,
    task::{BackgroundTask, Done, Outcome},
};

/// Who carries plans out that no person asked for.
const RETENTION: &str = "retention";

/// Drills whose verdicts are looked at.
const DRILLS_LOOKED_AT: u32 = 200;

/// Reasons of a failed run that mean that the repository has no room.
const FULL: [&str; 2] = ["REPOSITORY_FULL", "DISK_FULL"];

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The backup is not of the site, or the repository not of the backup.
    #[error("there is no backup `{backup}` in a repository `{repository}` that can be read")]
    NotFound {
        /// Backup.
        backup: BackupName,
        /// Repository.
        repository: RepositoryName,
    },
    /// The site file says nothing about how much is kept.
    #[error("the site file does not say how much of `{0}` is kept, so that nothing is given up")]
    NoPolicy(BackupName),
    /// What is there is not what was planned on.
    #[error("the plan has changed since; look at it again with `labctl backup retention plan {0}`")]
    Stale(BackupName),
    /// Something about the newest snapshots is not as it was.
    #[error("nothing is given up now: {}", _0.message)]
    Braked(Box<Brake>),
    /// There is no such brake.
    #[error("there is no brake {kind} on `{backup}` with that subject that a person may let go")]
    NoBrake {
        /// Backup.
        backup: BackupName,
        /// Which.
        kind: String,
    },
    /// An agent did not say what is there, or did not carry it out.
    #[error(transparent)]
    Agent(#[from] CallError),
    /// The store failed.
    #[error("could not read or write what is known of the snapshots")]
    Store(#[from] StoreError),
}

impl From<ReadError> for RetentionError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Agent(error) => Self::Agent(error),
            ReadError::Store(error) => Self::Store(error),
        }
    }
}

/// What is wanted of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To know whether it would be carried out.
    Check,
    /// To carry it out.
    CarryOut,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Snapshots that were given up.
    pub quarantined: usize,
    /// Snapshots whose quarantine had ended.
    pub deleted: usize,
}

/// SHA-256 of what a plan would do, in hexadecimal digits.
#[must_use]
pub fn digest_of(plan: &Plan) -> String {
    hex(&sha256(plan.statement().as_bytes()))
}

impl Backups {
    /// Plans with what was last seen. The repositories that cannot be read have no plan.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn plan_retention(
        &self,
        backup: &Backup,
        policy: &KeepPolicy,
    ) -> Result<Vec<Plan>, StoreError> {
        let mut tx = self.parts().store.read().await?;
        let holdings = self.observe_holdings(tx.as_mut(), backup).await?;
        let acknowledged = tx.snapshots().acknowledged(&backup.name).await?;
        let acknowledged: Vec<_> = acknowledged
            .into_iter()
            .map(|one| Acknowledgement {
                kind: one.brake,
                subject: one.subject,
                by: format!("{}: {}", one.by, one.reason),
            })
            .collect();
        Ok(retention::plan(&Request {
            backup: &backup.name,
            policy,
            rpo: backup.rpo,
            holdings: &holdings,
            acknowledged: &acknowledged,
            now: self.now(),
            clock_in_step: self.parts().timekeeping.is_synchronized(),
        }))
    }

    /// Looks into the repositories of a backup now, then plans.
    ///
    /// # Errors
    ///
    /// The agent of the backup does not say what is there, or the store failed.
    pub async fn plan_retention_now(
        &self,
        backup: &Backup,
        policy: &KeepPolicy,
    ) -> Result<Vec<Plan>, RetentionError> {
        for repository in backup.repositories() {
            match self.look_into(backup, repository).await {
                // Without the first one, there is nothing to plan on.
                Err(error) if *repository == backup.repository => return Err(error.into()),
                Ok(_) | Err(ReadError::Agent(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.plan_retention(backup, policy).await?)
    }

    /// Carries out the plan with this digest, as the site file's policy gives it now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn apply_retention(
        &self,
        backup: &Backup,
        repository: &RepositoryName,
        digest: &str,
        deed: Deed,
        by: &str,
    ) -> Result<Applied, RetentionError> {
        let name = &backup.name;
        let policy = backup.keep.as_ref().ok_or_else(|| RetentionError::NoPolicy(name.clone()))?;
        let plans = self.plan_retention_now(backup, policy).await?;
        let plan = plans.into_iter().find(|plan| plan.repository == *repository);
        let plan = plan.ok_or_else(|| RetentionError::NotFound {
            backup: name.clone(),
            repository: repository.clone(),
        })?;
        if digest_of(&plan) != digest {
            return Err(RetentionError::Stale(name.clone()));
        }
        self.carry_out(backup, policy, &plan, deed, by).await
    }

    async fn carry_out(
        &self,
        backup: &Backup,
        policy: &KeepPolicy,
        plan: &Plan,
        deed: Deed,
        by: &str,
    ) -> Result<Applied, RetentionError> {
        if let Some(brake) = plan.braked_by() {
            return Err(RetentionError::Braked(Box::new(brake.clone())));
        }
        let owned = |ids: &mut dyn Iterator<Item = &str>| ids.map(str::to_owned).collect();
        let order = RetentionOrder {
            digest: digest_of(plan),
            repository: plan.repository.clone(),
            backup: plan.backup.clone(),
            expected: owned(&mut plan.decisions.iter().map(|one| one.snapshot.id.as_str())),
            quarantine: owned(&mut plan.to_quarantine()),
            rescue: owned(&mut plan.to_rescue()),
            delete: owned(&mut plan.to_delete()),
            quarantine_min: policy.quarantine,
            floor: policy.floor,
            validate_only: false,
        };
        let applied = Applied { quarantined: order.quarantine.len(), deleted: order.delete.len() };
        let host = self.keeper(backup, &plan.repository);
        let agents = &self.parts().agents;
        // What the agent would refuse is not stated as done.
        agents.retain(&host, &RetentionOrder { validate_only: true, ..order.clone() }).await?;
        if deed == Deed::Check || plan.is_empty() {
            return Ok(applied);
        }
        self.state_deleted(plan, &order, by).await?;
        agents.retain(&host, &order).await?;
        info!(
            backup = %plan.backup, repository = %plan.repository, quarantined = applied.quarantined,
            deleted = applied.deleted, by, "retention was carried out"
        );
        // What it left is what counts from now on.
        if let Err(error) = self.look_into(backup, &plan.repository).await {
            warn!(error = %Chain(&error), "could not look into a repository after retention");
        }
        Ok(applied)
    }

    /// The host whose agent may delete in a repository.
    fn keeper(&self, backup: &Backup, repository: &RepositoryName) -> HostName {
        let site = self.site();
        let keeper = site.repository(repository).and_then(|one| one.keeper.clone());
        keeper.unwrap_or_else(|| backup.host.clone())
    }

    /// States what is about to be deleted, as long as this controller leads. One that is there all
    /// the same when somebody looks is present again.
    async fn state_deleted(
        &self,
        plan: &Plan,
        order: &RetentionOrder,
        by: &str,
    ) -> Result<(), StoreError> {
        let (parts, now) = (self.parts(), self.now());
        let mut tx = parts.store.begin().await?;
        tx.leadership().require(parts.lease.token()).await?;
        for decision in &plan.decisions {
            let one = &decision.snapshot;
            if !order.delete.contains(&one.id) {
                continue;
            }
            let snapshot = SnapshotFacts {
                backup: plan.backup.clone(),
                repository: plan.repository.clone(),
                snapshot_id: one.id.clone(),
                taken_at: one.taken_at,
                verified_at: one.verified_at.unwrap_or(one.taken_at),
            };
            let fact = Fact::Deleted { snapshot, plan: order.digest.clone() };
            attest(tx.as_mut(), &parts.signer, now, &fact).await?;
            let deleted = SeenState::Deleted;
            tx.snapshots().mark(&plan.backup, &plan.repository, &one.id, deleted, now).await?;
        }
        let detail = format!(
            "plan {}: {} given up, {} taken back, {} deleted in `{}`",
            order.digest,
            order.quarantine.len(),
            order.rescue.len(),
            order.delete.len(),
            plan.repository
        );
        let subject = format!("backup/{}", plan.backup);
        let entry = audit::entry(parts.clock.as_ref(), by, "apply-retention", subject, detail);
        tx.audit().append(&entry).await?;
        tx.commit().await
    }

    /// Keeps that a person has looked at a brake and lets it go.
    ///
    /// # Errors
    ///
    /// There is no such brake, or the store failed.
    pub async fn acknowledge_brake(
        &self,
        backup: &Backup,
        kind: &str,
        subject: &str,
        by: String,
        reason: String,
    ) -> Result<Brake, RetentionError> {
        let missing =
            || RetentionError::NoBrake { backup: backup.name.clone(), kind: kind.to_owned() };
        let brake = BrakeKind::from_word(kind).filter(|kind| kind.is_acknowledgeable());
        let brake = brake.ok_or_else(missing)?;
        let find = async || {
            let plans = self.plan_retention(backup, &self.policy_of(backup)).await?;
            let mut brakes = plans.into_iter().flat_map(|plan| plan.brakes);
            Ok::<_, StoreError>(brakes.find(|one| one.kind == brake && one.subject == *subject))
        };
        find().await?.ok_or_else(missing)?;
        let acknowledged = Acknowledged {
            backup: backup.name.clone(),
            brake,
            subject: subject.to_owned(),
            by,
            reason,
            at: self.now(),
        };
        let mut tx = self.parts().store.begin().await?;
        tx.snapshots().acknowledge(&acknowledged).await?;
        tx.commit().await?;
        self.changed();
        find().await?.ok_or_else(missing)
    }

    /// The policy of the site file; where it has none, that of a home, which nothing is done by.
    pub(crate) fn policy_of(&self, backup: &Backup) -> KeepPolicy {
        let zone = || backup.schedule.zone().clone();
        backup.keep.clone().unwrap_or_else(|| KeepPolicy::home(zone()))
    }

    async fn observe_holdings(
        &self,
        tx: &mut dyn Tx,
        backup: &Backup,
    ) -> Result<Vec<Holding>, StoreError> {
        let seen = tx.snapshots().of(&backup.name).await?;
        let drills = tx.runs().drills(&backup.name, DRILLS_LOOKED_AT).await?;
        let mut drilled = BTreeMap::new();
        for (_, drill) in &drills {
            drilled.entry(drill.snapshot_id.clone()).or_insert(drill.verdict);
        }
        let latest_seen = tx.attestations().head().await?.map(|head| head.at);
        let last_run = tx.runs().newest().await?.into_iter();
        let is_full = last_run.filter(|run| run.spec.backup == backup.name).any(|run| {
            matches!(&run.state, RunState::Ended { outcome: RunOutcome::Failed(failure), .. }
                if FULL.contains(&failure.reason.as_str()))
        });
        let mut holdings = Vec::new();
        for repository in backup.repositories() {
            let shelf = self.holdings().shelf(&backup.name, repository);
            let here: Vec<_> = seen.iter().filter(|one| one.repository == *repository).collect();
            let vanished = here.iter().filter(|one| one.state == SeenState::Vanished);
            let is_drilled_from = repository == backup.drilled_from();
            let facts = shelf.facts.as_ref();
            holdings.push(Holding {
                repository: repository.clone(),
                evidence: Evidence {
                    listed_at: shelf.listed_at,
                    trouble: shelf.trouble.as_ref().map(|(_, why)| why.clone()),
                    is_full: is_full || facts.is_some_and(|facts| facts.has_room == Some(false)),
                    vanished: vanished.map(|one| one.id.clone()).collect(),
                    last_drill: drills
                        .first()
                        .filter(|_| is_drilled_from)
                        .map(|(_, it)| it.verdict),
                    latest_seen,
                },
                snapshots: candidates(&shelf, &here, &drilled),
            });
        }
        Ok(holdings)
    }
}

/// What is there, in the order of being seen. What has not been kept as seen yet is left out, as is
/// the listing that it belongs to: that counts as older than it is by the next look.
fn candidates(
    shelf: &Shelf,
    seen: &[&SeenSnapshot],
    drilled: &BTreeMap<String, homelab_domain::run::DrillVerdict>,
) -> Vec<Candidate> {
    let sequences: BTreeMap<_, _> =
        seen.iter().map(|one| (one.id.as_str(), one.sequence)).collect();
    // A run has one snapshot in a repository, a replica included.
    let by_run: BTreeMap<_, _> =
        shelf.listed.iter().filter_map(|one| Some((one.run?, &one.snapshot.id))).collect();
    let each = shelf.listed.iter().filter_map(|one| {
        let snapshot = &one.snapshot;
        Some(Candidate {
            id: snapshot.id.clone(),
            sequence: *sequences.get(snapshot.id.as_str())?,
            taken_at: snapshot.taken_at,
            verified_at: Some(snapshot.verified_at),
            source_bytes: snapshot.source_bytes,
            items: one.items,
            drilled: drilled.get(&snapshot.id).copied(),
            quarantined_since: one.quarantined_since,
            needs: one
                .needs
                .iter()
                .filter_map(|run| by_run.get(run))
                .map(|id| (*id).clone())
                .collect(),
        })
    });
    each.collect()
}

/// Carries out every plan that has something to do and no brake.
#[derive(Debug)]
pub(super) struct ApplyRetention(pub(super) Backups);

#[async_trait]
impl BackgroundTask for ApplyRetention {
    fn name(&self) -> &'static str {
        "apply-retention"
    }

    fn description(&self) -> &'static str {
        "Gives up the snapshots that no policy keeps, and deletes those whose quarantine has ended."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(1800)
    }

    async fn activate(&self) -> Outcome {
        let backups = &self.0;
        let site = backups.site();
        let open = backups.parts().store.read().await?.runs().open().await?;
        let (mut done, mut failed) = (Vec::new(), None);
        for backup in site.backups() {
            let is_busy = open.iter().any(|run| run.spec.backup == backup.name);
            let answers = backups.parts().agents.answers(&backup.host).is_ok();
            let Some(policy) = backup.keep.as_ref().filter(|_| !is_busy && answers) else {
                continue;
            };
            let plans = match backups.plan_retention_now(backup, policy).await {
                Ok(plans) => plans,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            for plan in plans.iter().filter(|plan| !plan.is_empty()) {
                match backups.carry_out(backup, policy, plan, Deed::CarryOut, RETENTION).await {
                    Ok(applied) => done.push(format!(
                        "`{}` in `{}`: {} given up, {} deleted",
                        plan.backup, plan.repository, applied.quarantined, applied.deleted
                    )),
                    Err(RetentionError::Braked(brake)) => {
                        let reason = brake.kind.reason();
                        warn!(
                            backup = %plan.backup, repository = %plan.repository, %reason,
                            message = brake.message, "retention stands still"
                        );
                    }
                    // One repository that refuses does not keep the others from it.
                    Err(error) => failed = Some(error),
                }
            }
        }
        match (failed, done.is_empty()) {
            (Some(error), _) => Err(error.into()),
            (None, true) => Ok(Done::Nothing),
            (None, false) => Ok(Done::Changed(done.join("; "))),
        }
    }
}

/// Brakes that a person should look at.
pub(super) fn alarming(plans: &[Plan]) -> impl Iterator<Item = (&Plan, &Brake, Reason)> {
    plans.iter().flat_map(|plan| {
        let open = plan.brakes.iter().filter(|brake| brake.acknowledged_by.is_none());
        let open = open.filter(|brake| brake.kind.is_acknowledgeable());
        open.map(move |brake| (plan, brake, brake.kind.reason()))
    })
}
