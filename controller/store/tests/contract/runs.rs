//! Runs and schedules.

use homelab_domain::{
    reason::{Failure, Reason},
    run::{
        DrillFact, DrillVerdict, Progress, Run, RunKind, RunOutcome, RunSpec, RunStateKind,
        SnapshotFact,
    },
};
use homelab_store::{PageRequest, Paused, RunError, RunFilter, ScheduleKey, Started};
use jiff::Timestamp;

use crate::bench::{Bench, SECOND, at, backup, run, uuid};

pub(crate) fn stored(id: &str, taken_at: Timestamp) -> RunOutcome {
    RunOutcome::Stored(SnapshotFact {
        id: id.to_owned(),
        taken_at,
        verified_at: at(90),
        source_bytes: 1 << 40,
        stored_bytes: None,
        elapsed: SECOND * 3,
        payload: serde_json::json!({"manifest": {"rows": 5}, "ü": null}),
    })
}

fn drilled(verdict: DrillVerdict) -> RunOutcome {
    RunOutcome::Drilled(DrillFact {
        verdict,
        snapshot_id: "s1".to_owned(),
        snapshot_taken_at: at(1),
        restore_elapsed: SECOND * 7,
        elapsed: SECOND * 9,
        payload: serde_json::json!({"findings": ["public.docs: 3 rows are missing"]}),
    })
}

fn drill(id: u128) -> RunSpec {
    RunSpec { kind: RunKind::Drill, snapshot_id: Some("s1".to_owned()), ..run(id) }
}

async fn complete(bench: &Bench, spec: RunSpec, outcome: RunOutcome) -> Run {
    complete_at(bench, spec, outcome, 99).await
}

/// Starts a run and ends it at a moment.
pub(crate) async fn complete_at(
    bench: &Bench,
    spec: RunSpec,
    outcome: RunOutcome,
    secs: i64,
) -> Run {
    let mut tx = bench.store.begin().await.unwrap();
    let started = tx.runs().start(&spec).await.unwrap();
    assert!(matches!(started, Started::New(_)), "{started:?}");
    let run = tx.runs().end(spec.id, outcome, at(secs)).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.runs().get(spec.id).await.unwrap().as_ref(), Some(&run));
    run
}

pub(crate) async fn a_run_is_started_once_however_often_it_is_asked_for(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    let Started::New(first) = tx.runs().start(&run(1)).await.unwrap() else { panic!("not new") };
    assert_eq!(tx.runs().start(&run(1)).await.unwrap(), Started::Existing(first.clone()));
    let ended = tx.runs().end(first.spec.id, RunOutcome::Cancelled, at(9)).await.unwrap();
    assert_eq!(tx.runs().start(&run(1)).await.unwrap(), Started::Existing(ended));
}

pub(crate) async fn runs_of_one_backup_do_not_overlap(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    let Started::New(first) = tx.runs().start(&run(1)).await.unwrap() else { panic!("not new") };
    assert_eq!(tx.runs().start(&run(2)).await.unwrap(), Started::InProgress(first));
    // A drill beside a backup is another matter.
    assert!(matches!(tx.runs().start(&drill(3)).await.unwrap(), Started::New(_)));
    tx.runs().end(uuid(1).into(), RunOutcome::Cancelled, at(9)).await.unwrap();
    assert!(matches!(tx.runs().start(&run(2)).await.unwrap(), Started::New(_)));
}

pub(crate) async fn a_run_ends_once(bench: &Bench) {
    let failed = RunOutcome::Failed(Failure {
        reason: Reason::RUN_FAILED,
        message: "pg_dump exited with 1".to_owned(),
        retryable: true,
    });
    let run = complete(bench, run(1), failed.clone()).await;
    assert_eq!(run.state.kind(), RunStateKind::Failed);
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.runs().end(run.spec.id, failed, at(100)).await.unwrap(), run);
    let otherwise = tx.runs().end(run.spec.id, stored("s", at(1)), at(100)).await;
    assert!(matches!(otherwise, Err(RunError::Ended(_))), "{otherwise:?}");
    let late = tx.runs().progressed(run.spec.id, Progress::default()).await;
    assert!(matches!(late, Err(RunError::Ended(_))), "{late:?}");
    let nobody = tx.runs().end(uuid(7).into(), RunOutcome::Cancelled, at(1)).await;
    assert!(matches!(nobody, Err(RunError::NotFound(_))), "{nobody:?}");
}

pub(crate) async fn a_lost_run_is_open_until_it_is_known(bench: &Bench) {
    let id = uuid(1).into();
    let mut tx = bench.store.begin().await.unwrap();
    tx.runs().start(&run(1)).await.unwrap();
    let progress = Progress {
        step: "dump".to_owned(),
        done_bytes: Some(10),
        total_bytes: None,
        ..Progress::default()
    };
    tx.runs().progressed(id, progress.clone()).await.unwrap();
    tx.runs().lost(id, "the stream broke", at(5)).await.unwrap();
    let still = tx.runs().lost(id, "no route to host", at(8)).await.unwrap();
    assert_eq!(tx.runs().open().await.unwrap(), std::slice::from_ref(&still));
    let homelab_domain::run::RunState::Unknown { progress: known, since, why } = still.state else {
        panic!("it is lost");
    };
    assert_eq!((known, since, why.as_str()), (progress.clone(), at(5), "no route to host"));
    tx.runs().progressed(id, progress).await.unwrap();
    tx.runs().end(id, stored("s1", at(1)), at(9)).await.unwrap();
    assert_eq!(tx.runs().open().await.unwrap(), []);
}

pub(crate) async fn the_newest_verified_snapshot_is_by_its_moment_not_by_its_run(bench: &Bench) {
    complete(bench, run(1), stored("new", at(80))).await;
    complete(bench, run(2), stored("old", at(20))).await;
    complete(bench, run(3), RunOutcome::Cancelled).await;
    complete(bench, RunSpec { backup: backup("git"), ..run(4) }, stored("git", at(3))).await;
    let mut tx = bench.store.read().await.unwrap();
    let newest = tx.runs().newest_verified().await.unwrap();
    let newest: Vec<_> =
        newest.iter().map(|(name, fact)| (name.as_str(), fact.id.as_str())).collect();
    assert_eq!(newest, [("git", "git"), ("wiki", "new")]);
    let last: Vec<_> = tx.runs().newest().await.unwrap().iter().map(|run| run.spec.id).collect();
    assert_eq!(last, [uuid(4).into(), uuid(3).into()]);
}

pub(crate) async fn drills_are_listed_with_what_they_showed(bench: &Bench) {
    complete(bench, drill(1), drilled(DrillVerdict::Passed)).await;
    complete(bench, drill(2), RunOutcome::Cancelled).await;
    let failed = complete(bench, drill(3), drilled(DrillVerdict::Failed)).await;
    assert_eq!(failed.state.kind(), RunStateKind::Failed);
    let unverified = complete(bench, drill(4), drilled(DrillVerdict::Unverified)).await;
    assert_eq!(unverified.state.kind(), RunStateKind::Unverified);
    complete(bench, run(5), stored("s", at(1))).await;
    let mut tx = bench.store.read().await.unwrap();
    let drills = tx.runs().drills(&backup("wiki"), 2).await.unwrap();
    let verdicts: Vec<_> = drills.iter().map(|(_, drill)| drill.verdict).collect();
    assert_eq!(verdicts, [DrillVerdict::Unverified, DrillVerdict::Failed]);
    let filter = RunFilter { backup: Some(backup("wiki")), kind: Some(RunKind::Drill) };
    let page = tx.runs().list(&filter, &PageRequest::first(3)).await.unwrap();
    assert_eq!((page.items.len(), page.next.is_some()), (3, true));
    let rest = PageRequest::after(3, page.next.unwrap());
    assert_eq!(tx.runs().list(&filter, &rest).await.unwrap().items.len(), 1);
    let all = tx.runs().list(&RunFilter::default(), &PageRequest::default()).await.unwrap();
    assert_eq!(all.items.len(), 5);
}

pub(crate) async fn a_schedule_fires_for_a_time_once(bench: &Bench) {
    let key = ScheduleKey { backup: backup("wiki"), kind: RunKind::Backup };
    let mut tx = bench.store.begin().await.unwrap();
    let made = tx.schedules().ensure(&key, at(0)).await.unwrap();
    assert_eq!((made.known_since, made.last_fired_for), (at(0), None));
    assert_eq!(tx.schedules().ensure(&key, at(9)).await.unwrap(), made);
    assert!(tx.schedules().fired(&key, at(60)).await.unwrap());
    assert!(!tx.schedules().fired(&key, at(60)).await.unwrap());
    assert!(!tx.schedules().fired(&key, at(30)).await.unwrap());
    assert!(tx.schedules().fired(&key, at(61)).await.unwrap());
    let all = tx.schedules().all().await.unwrap();
    assert_eq!((all.len(), all[0].last_fired_for), (1, Some(at(61))));
}

pub(crate) async fn what_passed_while_paused_is_not_made_up_for(bench: &Bench) {
    let key = ScheduleKey { backup: backup("wiki"), kind: RunKind::Backup };
    let paused = Paused {
        by: "ann".to_owned(),
        reason: "the NAS is being moved".to_owned(),
        at: at(10),
        until: Some(at(500)),
    };
    let mut tx = bench.store.begin().await.unwrap();
    tx.schedules().fired(&key, at(5)).await.unwrap();
    tx.schedules().set_paused(&key.backup, Some(&paused), at(10)).await.unwrap();
    let record = tx.schedules().ensure(&key, at(11)).await.unwrap();
    assert_eq!((record.paused, record.last_fired_for), (Some(paused), Some(at(5))));
    tx.schedules().set_paused(&key.backup, None, at(500)).await.unwrap();
    let record = tx.schedules().ensure(&key, at(501)).await.unwrap();
    assert_eq!((record.paused, record.last_fired_for), (None, Some(at(500))));
    // Resuming what goes on anyway changes nothing.
    tx.schedules().set_paused(&key.backup, None, at(900)).await.unwrap();
    let record = tx.schedules().ensure(&key, at(901)).await.unwrap();
    assert_eq!(record.last_fired_for, Some(at(500)));
}
