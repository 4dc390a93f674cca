use jiff::SignedDuration;
use serde_json::Value;

use super::*;
use crate::{
    ids::{DrillTargetName, HostName, RepositoryName},
    run::{RunOutcome, RunSpec, RunTrigger},
    schedule::{Schedule, Zone},
    site::SourceKind,
};

const HOUR: i64 = 3600;

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn ago(secs: i64) -> Timestamp {
    now() - SignedDuration::from_secs(secs)
}

fn wiki() -> Backup {
    let name = BackupName::try_new("wiki").unwrap();
    let host = HostName::try_new("hx310-db").unwrap();
    let repository = RepositoryName::try_new("nas").unwrap();
    let schedule = Schedule::try_new("0 3 * * *", Zone::UTC).unwrap();
    let rpo = Duration::from_secs(26 * 3600);
    Backup {
        drill_target: Some(DrillTargetName::try_new("nas-pg").unwrap()),
        ..Backup::new(name, host, repository, SourceKind::Postgres, schedule, rpo)
    }
}

fn snapshot(taken_at: Timestamp) -> SnapshotFact {
    SnapshotFact {
        id: "s".to_owned(),
        taken_at,
        verified_at: taken_at,
        source_bytes: 1,
        stored_bytes: None,
        elapsed: Duration::ZERO,
        payload: Value::Null,
    }
}

fn drill(
    ended: i64,
    snapshot_age: i64,
    verdict: DrillVerdict,
    secs: u64,
) -> (Timestamp, DrillFact) {
    let fact = DrillFact {
        verdict,
        snapshot_id: "s".to_owned(),
        snapshot_taken_at: ago(snapshot_age),
        restore_elapsed: Duration::from_secs(secs),
        elapsed: Duration::from_secs(secs + 1),
        payload: Value::Null,
    };
    (ago(ended), fact)
}

fn reasons(risk: &BackupRisk) -> Vec<&str> {
    risk.gaps.iter().map(|gap| gap.because.reason.as_str()).collect()
}

fn assessed(newest: Option<Timestamp>, drills: &[(Timestamp, DrillFact)]) -> BackupRisk {
    let (backup, newest) = (wiki(), newest.map(snapshot));
    assess(
        now(),
        &BackupEvidence {
            backup: &backup,
            newest_verified: newest.as_ref(),
            drills,
            last_run: None,
            paused: None,
        },
    )
}

#[test]
fn a_backup_that_never_ran_would_lose_everything() {
    let risk = assessed(None, &[]);
    assert_eq!((risk.exposure, risk.within_rpo, risk.verdict), (None, false, Verdict::Critical));
    assert_eq!(reasons(&risk), ["NEVER_BACKED_UP", "NEVER_DRILLED"]);
    assert_eq!(risk.gaps[0].command, "labctl backup run wiki");
}

#[test]
fn pitfall_25_fresh_and_restorable_are_two_lights() {
    let passed = [drill(2 * HOUR, 30 * HOUR, DrillVerdict::Passed, 40)];
    let risk = assessed(Some(ago(HOUR)), &passed);
    assert_eq!(risk.exposure, Some(Duration::from_secs(3600)));
    assert_eq!(risk.drilled_exposure, Some(Duration::from_secs(30 * 3600)));
    assert!(risk.within_rpo);
    assert_eq!(risk.verdict, Verdict::Ok);
}

#[test]
fn a_target_is_missed_since_the_moment_it_was() {
    let risk = assessed(Some(ago(28 * HOUR)), &[drill(1, 28 * HOUR, DrillVerdict::Passed, 1)]);
    assert!(!risk.within_rpo);
    let gap = &risk.gaps[0];
    assert_eq!((gap.verdict, gap.since), (Verdict::Critical, Some(ago(2 * HOUR))));
    assert_eq!(gap.because.message, "older than its target: 1 d 4 h, and 1 d 2 h is allowed");
}

#[test]
fn a_failed_drill_is_critical_and_does_not_count_as_a_restore() {
    let drills = [
        drill(HOUR, 2 * HOUR, DrillVerdict::Failed, 5),
        drill(9 * HOUR, 10 * HOUR, DrillVerdict::Passed, 60),
    ];
    let risk = assessed(Some(ago(HOUR)), &drills);
    assert_eq!(risk.verdict, Verdict::Critical);
    assert_eq!(reasons(&risk), ["DRILL_FAILED"]);
    assert_eq!(risk.rto_median, Some(Duration::from_secs(60)));
    assert_eq!(risk.last_rto, Some(Duration::from_secs(60)));
    let unverified = assessed(Some(ago(HOUR)), &[drill(1, 1, DrillVerdict::Unverified, 1)]);
    assert_eq!((unverified.verdict, unverified.rto_median), (Verdict::Warning, None));
}

#[test]
fn restores_are_summed_up_by_median_and_95th_percentile() {
    let drills: Vec<_> =
        (1..=20_u64).map(|secs| drill(HOUR, HOUR, DrillVerdict::Passed, secs)).collect();
    let risk = assessed(Some(ago(HOUR)), &drills);
    assert_eq!(risk.rto_median, Some(Duration::from_secs(10)));
    assert_eq!(risk.rto_95, Some(Duration::from_secs(19)));
}

#[test]
fn pitfall_22_a_snapshot_from_the_future_is_not_fresh() {
    let risk = assessed(Some(ago(-HOUR)), &[]);
    assert!(!risk.within_rpo);
    assert_eq!(reasons(&risk)[0], "CLOCK_SKEW");
    assert!(assessed(Some(ago(-60)), &[]).within_rpo, "a minute is within what clocks differ by");
}

#[test]
fn pauses_and_failed_runs_are_gaps() {
    let (backup, newest) = (wiki(), snapshot(ago(HOUR)));
    let mut last = Run::start(RunSpec {
        id: uuid::Uuid::nil().into(),
        backup: backup.name.clone(),
        host: backup.host.clone(),
        kind: RunKind::Backup,
        trigger: RunTrigger::Schedule,
        started_by: "schedule".to_owned(),
        started_at: ago(600),
        scheduled_for: None,
        snapshot_id: None,
        repository: None,
        drill_age: None,
        notes: Vec::new(),
    });
    let failure = crate::reason::Failure {
        reason: Reason::RUN_FAILED,
        message: "…".to_owned(),
        retryable: false,
    };
    last = last.end(RunOutcome::Failed(failure), ago(500)).unwrap();
    let evidence = BackupEvidence {
        backup: &backup,
        newest_verified: Some(&newest),
        drills: &[],
        last_run: Some(&last),
        paused: Some((ago(60), "ann: moving the NAS")),
    };
    let risk = assess(now(), &evidence);
    assert_eq!(reasons(&risk), ["SCHEDULE_PAUSED", "NEVER_DRILLED", "RUN_FAILED"]);
    assert_eq!(risk.message(), "schedule paused by ann: moving the NAS");
}

#[test]
fn the_worst_comes_first() {
    let mut risks = vec![
        assessed(Some(ago(HOUR)), &[drill(1, 1, DrillVerdict::Passed, 1)]),
        assessed(Some(ago(30 * HOUR)), &[]),
        assessed(None, &[]),
        assessed(Some(ago(90 * HOUR)), &[]),
    ];
    worst_first(&mut risks);
    let exposures: Vec<Option<u64>> =
        risks.iter().map(|risk| risk.exposure.map(|span| span.as_secs() / 3600)).collect();
    assert_eq!(exposures, [None, Some(90), Some(30), Some(1)]);
}

#[test]
fn restores_that_take_longer_than_their_target_are_a_gap() {
    let mut backup = wiki();
    let drills = [drill(60, 600, DrillVerdict::Passed, 90)];
    let newest = snapshot(ago(600));
    let risk = |backup: &Backup| {
        let evidence = BackupEvidence {
            backup,
            newest_verified: Some(&newest),
            drills: &drills,
            last_run: None,
            paused: None,
        };
        assess(now(), &evidence)
    };
    assert_eq!(risk(&backup).within_rto, None, "nobody said how long");
    backup.rto = Some(Duration::from_secs(60));
    let slow = risk(&backup);
    assert_eq!((slow.within_rto, reasons(&slow)), (Some(false), vec!["RTO_MISSED"]));
    backup.rto = Some(Duration::from_secs(90));
    assert_eq!(risk(&backup).within_rto, Some(true));
}
