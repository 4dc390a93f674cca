//! Whether all is well, and what is not.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::{HostState, HostVerdict};
use crate::{
    ids::{HostName, JobId},
    reason::{Because, Reason},
    risk::BackupRisk,
    text,
};

crate::words! {
    /// How something stands; the greater, the worse.
    Verdict {
        /// Nothing is wrong.
        Ok = "ok",
        /// Something needs a look, or could not be found out.
        Warning = "warning",
        /// Something is broken.
        Critical = "critical",
    }
}

/// One thing that is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// How bad.
    pub verdict: Verdict,
    /// What it is about: `host/x99`, `backup/wiki`, `job/…`.
    pub subject: String,
    /// What is wrong.
    pub because: Because,
    /// Since when, if known.
    pub since: Option<Timestamp>,
    /// The `labctl` command that shows more.
    pub command: String,
}

/// What is known of a host.
#[derive(Clone, Copy, Debug)]
pub struct HostInput<'a> {
    /// Name.
    pub name: &'a HostName,
    /// How it stands.
    pub verdict: &'a HostVerdict,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Takes no new work.
    pub drained: bool,
}

/// What is known of a backup.
#[derive(Clone, Copy, Debug)]
pub struct BackupInput<'a> {
    /// What would be lost.
    pub risk: &'a BackupRisk,
}

/// What is known of the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobsInput {
    /// Failed or expired within the last day.
    pub failed: u64,
    /// The one that has waited longest, with since when and why.
    pub oldest: Option<(JobId, Timestamp, Because)>,
}

/// A job that waits longer than this is worth a look. Waiting for a host that
/// sleeps is not: that is how silver works.
const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(30 * 60);

/// Everything that is not well, worst first; within the same verdict, what has
/// lasted longest first.
#[must_use]
pub fn concerns(
    now: Timestamp,
    hosts: &[HostInput<'_>],
    backups: &[BackupInput<'_>],
    jobs: &JobsInput,
) -> Vec<Concern> {
    let mut all: Vec<Concern> = hosts.iter().filter_map(of_host).collect();
    all.extend(backups.iter().flat_map(|backup| of_backup(backup.risk)));
    all.extend(of_jobs(now, jobs));
    all.sort_by_key(|concern| {
        let since = concern.since.unwrap_or(Timestamp::MAX);
        (Reverse(concern.verdict), since, concern.subject.clone())
    });
    all
}

/// The worst of all concerns.
#[must_use]
pub fn verdict(concerns: &[Concern]) -> Verdict {
    concerns.iter().map(|concern| concern.verdict).max().unwrap_or(Verdict::Ok)
}

fn of_host(host: &HostInput<'_>) -> Option<Concern> {
    let name = host.name;
    let show = format!("labctl host show {name}");
    let (verdict, command) = match host.verdict.state {
        HostState::Healthy | HostState::Asleep if host.drained => {
            return Some(Concern {
                verdict: Verdict::Warning,
                subject: format!("host/{name}"),
                because: Because::new(Reason::DRAINED, "it is drained and takes no new work"),
                since: None,
                command: format!("labctl host undrain {name}"),
            });
        }
        HostState::Healthy | HostState::Asleep => return None,
        HostState::Unreachable => (Verdict::Critical, show),
        HostState::Degraded | HostState::Unknown => (Verdict::Warning, show),
        HostState::NotEnrolled => (Verdict::Warning, format!("labctl host enroll {name}")),
    };
    Some(Concern {
        verdict,
        subject: format!("host/{name}"),
        because: host.verdict.because.clone(),
        since: host.since,
        command,
    })
}

fn of_backup(risk: &BackupRisk) -> Vec<Concern> {
    let concern = |gap: &crate::risk::Gap| Concern {
        verdict: gap.verdict,
        subject: format!("backup/{}", risk.backup),
        because: gap.because.clone(),
        since: gap.since,
        command: gap.command.clone(),
    };
    risk.gaps.iter().map(concern).collect()
}

fn of_jobs(now: Timestamp, jobs: &JobsInput) -> Vec<Concern> {
    let mut all = Vec::new();
    if jobs.failed > 0 {
        let message = format!("{} failed or expired within a day", text::count(jobs.failed, "job"));
        all.push(Concern {
            verdict: Verdict::Warning,
            subject: "job".to_owned(),
            because: Because::new(Reason::JOBS_FAILED, message),
            since: None,
            command: "labctl job list".to_owned(),
        });
    }
    if let Some((id, since, because)) = &jobs.oldest {
        let waited = now.duration_since(*since).unsigned_abs();
        if waited > WAIT_MAX && because.reason != Reason::WORKER_ASLEEP {
            let message = format!("it has waited for {}: {}", text::span(waited), because.message);
            all.push(Concern {
                verdict: Verdict::Warning,
                subject: format!("job/{id}"),
                because: Because::new(Reason::JOB_WAITS_LONG, message),
                since: Some(*since),
                command: format!("labctl job explain {id}"),
            });
        }
    }
    all
}
