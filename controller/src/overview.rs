//! Whether all is well, and what is not: one answer for `labctl status` and the dashboard.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_domain::{
    fleet::{BackupInput, Concern, HostInput, HostVerdict, JobsInput, Verdict, concerns, verdict},
    ids::JobId,
    reason::{Because, Reason},
    risk::BackupRisk,
};
use homelab_store::{JobCounts, PageRequest, Store, StoreError, Tx};
use jiff::Timestamp;

use crate::{
    audit,
    ca::enrolment::SECOND_USE,
    documents::Documents,
    fleet::{Fleet, HostView},
};

/// Finished jobs that are counted.
const JOBS_SINCE: Duration = Duration::from_secs(24 * 3600);

/// Waiting jobs that are looked at for the one that has waited longest.
const JOBS_LOOKED_AT: u32 = 200;

/// How long a token that was used twice stays a concern.
const ALARM_SHOWN_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Alarms that are looked at.
const ALARMS_LOOKED_AT: u32 = 200;

/// One backup in a line.
#[derive(Clone, Debug)]
pub struct BackupLine {
    /// What would be lost.
    pub risk: BackupRisk,
    /// When the next run is due.
    pub next_run_at: Option<Timestamp>,
    /// Whether the schedule is paused.
    pub paused: bool,
}

/// Knows how the backups stand.
#[async_trait]
pub trait BackupLines: fmt::Debug + Send + Sync {
    /// All backups, by name.
    async fn lines(&self) -> Result<Vec<BackupLine>, StoreError>;
}

/// How the whole stands at one moment.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The worst of all concerns.
    pub verdict: Verdict,
    /// What is not well, worst first.
    pub concerns: Vec<Concern>,
    /// Hosts, by name.
    pub hosts: Vec<HostView>,
    /// Backups, by name.
    pub backups: Vec<BackupLine>,
    /// Jobs.
    pub jobs: JobCounts,
    /// When this was so.
    pub observed_at: Timestamp,
}

/// What an overview is made from. Clones are the same.
#[derive(Clone, Debug)]
pub struct Overviews {
    /// The hosts.
    pub fleet: Fleet,
    /// The backups.
    pub backups: Arc<dyn BackupLines>,
    /// Jobs and alarms.
    pub store: Arc<dyn Store>,
    /// Documents that jobs are given.
    pub documents: Documents,
}

impl Overviews {
    /// How the whole stands `now`.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub async fn at(&self, now: Timestamp) -> Result<Overview, StoreError> {
        let hosts = self.fleet.hosts();
        let backups = self.backups.lines().await?;
        let since = now.checked_sub(JOBS_SINCE).unwrap_or(now);
        let mut tx = self.store.read().await?;
        let jobs = tx.jobs().counts(since).await?;
        let oldest = oldest_waiting(tx.as_mut()).await?;
        drop(tx);
        let alarms = self.alarms(now).await?;

        let verdicts: Vec<_> = hosts.iter().map(host_verdict).collect();
        let host_inputs: Vec<_> = hosts
            .iter()
            .zip(&verdicts)
            .map(|(host, verdict)| HostInput {
                name: &host.declared.name,
                verdict,
                since: host.standing.since,
                drained: host.standing.drained,
            })
            .collect();
        let backup_inputs: Vec<_> =
            backups.iter().map(|line| BackupInput { risk: &line.risk }).collect();
        let jobs_input = JobsInput { failed: jobs.failed, oldest };
        let mut concerns = concerns(now, &host_inputs, &backup_inputs, &jobs_input);
        concerns.extend(self.documents.concerns(now).await?);
        // Somebody may be in the house: nothing is worse.
        concerns.splice(0..0, alarms);
        Ok(Overview {
            verdict: verdict(&concerns),
            concerns,
            hosts,
            backups,
            jobs,
            observed_at: now,
        })
    }

    /// Tokens that two keys used, lately.
    async fn alarms(&self, now: Timestamp) -> Result<Vec<Concern>, StoreError> {
        let page = PageRequest::first(ALARMS_LOOKED_AT);
        let own = audit::list(self.store.as_ref(), Some(audit::ALARM), &page).await?;
        let since = now.checked_sub(ALARM_SHOWN_FOR).unwrap_or(now);
        let lately = own
            .items
            .into_iter()
            .filter(|row| row.entry.action == SECOND_USE && row.entry.at > since);
        Ok(lately
            .map(|row| Concern {
                verdict: Verdict::Critical,
                subject: row.entry.subject,
                because: Because::new(token_used_twice(), row.entry.detail),
                since: Some(row.entry.at),
                command: "labctl audit list".to_owned(),
            })
            .collect())
    }
}

/// The job that has waited longest among those that are next.
async fn oldest_waiting(
    tx: &mut dyn Tx,
) -> Result<Option<(JobId, Timestamp, Because)>, StoreError> {
    let pending = tx.jobs().pending(JOBS_LOOKED_AT).await?;
    let oldest = pending.iter().min_by_key(|job| job.enqueued_at());
    Ok(oldest.map(|job| (job.id(), job.enqueued_at(), job.state().because())))
}

fn token_used_twice() -> Reason {
    Reason::try_new("TOKEN_USED_TWICE").unwrap_or(Reason::CONDITION_FALSE)
}

fn host_verdict(host: &HostView) -> HostVerdict {
    let standing = &host.standing;
    HostVerdict { state: standing.state, because: standing.because.clone() }
}
