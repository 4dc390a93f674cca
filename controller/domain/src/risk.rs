//! What would be lost right now, and what it would take to get it back.
//!
//! Only verified snapshots count, by the moment whose state they hold; "stored
//! lately" and "restored and compared" are two figures, since a fresh snapshot
//! says nothing about an old drill and the other way round.

use std::{cmp::Reverse, time::Duration};

use jiff::Timestamp;

use crate::{
    fleet::Verdict,
    ids::BackupName,
    reason::{Because, Reason},
    run::{DrillFact, DrillVerdict, Run, RunKind, RunStateKind, SnapshotFact},
    site::Backup,
    text::span,
};

/// Clocks of two hosts may differ by this much without a word.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// What is known of one backup.
#[derive(Clone, Copy, Debug)]
pub struct BackupEvidence<'a> {
    /// As it was declared.
    pub backup: &'a Backup,
    /// The verified snapshot with the newest moment.
    pub newest_verified: Option<&'a SnapshotFact>,
    /// Drills that came to a verdict, newest first, with when each ended.
    pub drills: &'a [(Timestamp, DrillFact)],
    /// The newest run.
    pub last_run: Option<&'a Run>,
    /// Since when and by whom it is paused, for people.
    pub paused: Option<(Timestamp, &'a str)>,
}

/// One thing that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How bad.
    pub verdict: Verdict,
    /// What.
    pub because: Because,
    /// Since when, if known.
    pub since: Option<Timestamp>,
    /// The `labctl` command that does something about it.
    pub command: String,
}

/// What would be lost of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRisk {
    /// Backup.
    pub backup: BackupName,
    /// The worst of its gaps.
    pub verdict: Verdict,
    /// The moment of the newest verified snapshot.
    pub newest_verified_at: Option<Timestamp>,
    /// Age of it: what would be lost right now. None means everything.
    pub exposure: Option<Duration>,
    /// The target.
    pub rpo: Duration,
    /// Within the target.
    pub within_rpo: bool,
    /// How long a restore may take.
    pub rto: Option<Duration>,
    /// The median of restores is within that; none when either is unknown.
    pub within_rto: Option<bool>,
    /// How old the newest snapshot is that was restored and found equal.
    pub drilled_exposure: Option<Duration>,
    /// When the newest such drill ended.
    pub last_drill_at: Option<Timestamp>,
    /// How long its restore took.
    pub last_rto: Option<Duration>,
    /// Median time of restores that were found equal.
    pub rto_median: Option<Duration>,
    /// 95th percentile of them.
    pub rto_95: Option<Duration>,
    /// What is missing, worst first.
    pub gaps: Vec<Gap>,
}

impl BackupRisk {
    /// The whole in one sentence, for people.
    #[must_use]
    pub fn message(&self) -> String {
        match (self.gaps.first(), self.exposure) {
            (Some(gap), _) => gap.because.message.clone(),
            (None, Some(exposure)) => {
                format!("the newest verified snapshot is {} old", span(exposure))
            }
            (None, None) => "there is no verified snapshot".to_owned(),
        }
    }
}

/// Assesses one backup.
#[must_use]
pub fn assess(now: Timestamp, evidence: &BackupEvidence<'_>) -> BackupRisk {
    let backup = evidence.backup;
    let newest = evidence.newest_verified.map(|snapshot| snapshot.taken_at);
    let exposure = newest.map(|at| age(now, at));
    let from_future = newest.is_some_and(|at| ahead(now, at) > CLOCK_SKEW_MAX);
    let passed =
        || evidence.drills.iter().filter(|(_, drill)| drill.verdict == DrillVerdict::Passed);
    let mut restores: Vec<Duration> = passed().map(|(_, drill)| drill.restore_elapsed).collect();
    restores.sort_unstable();
    let mut gaps = gaps(now, evidence, exposure, from_future);
    let rto_median = percentile(&restores, 50);
    let within_rto = backup.rto.zip(rto_median).map(|(rto, median)| median <= rto);
    if let Some((rto, median)) = backup.rto.zip(rto_median).filter(|_| within_rto == Some(false)) {
        let message = format!("restores take {}, and {} is allowed", span(median), span(rto));
        gaps.push(Gap {
            verdict: Verdict::Warning,
            because: Because::new(Reason::RTO_MISSED, message),
            since: None,
            command: format!("labctl backup runs {}", backup.name),
        });
    }
    gaps.sort_by_key(|gap| Reverse(gap.verdict));
    BackupRisk {
        backup: backup.name.clone(),
        verdict: gaps.first().map_or(Verdict::Ok, |gap| gap.verdict),
        newest_verified_at: newest,
        exposure,
        rpo: backup.rpo,
        within_rpo: !from_future && exposure.is_some_and(|exposure| exposure <= backup.rpo),
        drilled_exposure: passed().map(|(_, drill)| age(now, drill.snapshot_taken_at)).min(),
        last_drill_at: passed().map(|(at, _)| *at).max(),
        last_rto: passed().max_by_key(|(at, _)| *at).map(|(_, drill)| drill.restore_elapsed),
        rto: backup.rto,
        within_rto,
        rto_median,
        rto_95: percentile(&restores, 95),
        gaps,
    }
}

/// The worst first; among equals, what is exposed longest in relation to its target.
pub fn worst_first(risks: &mut [BackupRisk]) {
    let overdue = |risk: &BackupRisk| match risk.exposure {
        None => u128::MAX,
        Some(exposure) => exposure.as_millis() * 1000 / risk.rpo.as_millis().max(1),
    };
    risks.sort_by(|a, b| {
        let key = |risk: &BackupRisk| Reverse((risk.verdict, overdue(risk)));
        key(a).cmp(&key(b)).then_with(|| a.backup.cmp(&b.backup))
    });
}

fn gaps(
    now: Timestamp,
    evidence: &BackupEvidence<'_>,
    exposure: Option<Duration>,
    from_future: bool,
) -> Vec<Gap> {
    let backup = evidence.backup;
    let name = &backup.name;
    let run = format!("labctl backup run {name}");
    let mut gaps = Vec::new();
    let mut add = |verdict, reason, message: String, since, command: String| {
        gaps.push(Gap { verdict, because: Because::new(reason, message), since, command });
    };
    match exposure {
        _ if from_future => {
            let message = "its newest snapshot lies in the future; check the clocks".to_owned();
            add(
                Verdict::Critical,
                Reason::CLOCK_SKEW,
                message,
                None,
                format!("labctl host show {}", backup.host),
            );
        }
        None => {
            let message = "never backed up: everything would be lost".to_owned();
            add(Verdict::Critical, Reason::NEVER_BACKED_UP, message, None, run);
        }
        Some(exposure) if exposure > backup.rpo => {
            let message = format!(
                "older than its target: {}, and {} is allowed",
                span(exposure),
                span(backup.rpo)
            );
            let since = now.checked_sub(exposure.saturating_sub(backup.rpo)).ok();
            add(Verdict::Critical, Reason::RPO_MISSED, message, since, run);
        }
        Some(_) => {}
    }
    if let Some((since, who)) = evidence.paused {
        let command = format!("labctl backup schedule resume {name}");
        add(
            Verdict::Warning,
            Reason::SCHEDULE_PAUSED,
            format!("schedule paused by {who}"),
            Some(since),
            command,
        );
    }
    match evidence.drills.first() {
        None => {
            let command = format!("labctl backup drill {name}");
            add(Verdict::Warning, Reason::NEVER_DRILLED, "never drilled".to_owned(), None, command);
        }
        Some((at, drill)) if drill.verdict != DrillVerdict::Passed => {
            let verdict = match drill.verdict {
                DrillVerdict::Failed => Verdict::Critical,
                DrillVerdict::Passed | DrillVerdict::Unverified => Verdict::Warning,
            };
            let message =
                format!("its last drill, {} ago, came to: {}", span(age(now, *at)), drill.verdict);
            let command = format!("labctl backup runs {name}");
            add(verdict, Reason::DRILL_FAILED, message, Some(*at), command);
        }
        Some(_) => {}
    }
    if let Some(last) = evidence.last_run.filter(|last| last.spec.kind == RunKind::Backup) {
        let command = format!("labctl backup runs {name}");
        let since = Some(last.spec.started_at);
        match last.state.kind() {
            RunStateKind::Failed => {
                let message =
                    format!("its last run, {} ago, failed", span(age(now, last.spec.started_at)));
                add(Verdict::Warning, Reason::RUN_FAILED, message, since, command);
            }
            RunStateKind::Unknown => {
                let message = "contact with its last run was lost".to_owned();
                add(Verdict::Warning, Reason::RUN_UNKNOWN, message, since, command);
            }
            _ => {}
        }
    }
    gaps
}

/// How long ago; zero for what lies ahead.
fn age(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO)
}

fn ahead(now: Timestamp, at: Timestamp) -> Duration {
    age(at, now)
}

/// The value that so many of a hundred do not exceed (nearest rank).
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests;
