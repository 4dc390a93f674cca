//! What is over is dropped, and nothing else.

use std::time::Duration;

use homelab_domain::{
    identity::PeerKind,
    run::{RunOutcome, RunSpec},
    upkeep::Cutoff,
};
use homelab_store::{PageRequest, RunFilter};
use jiff::Timestamp;

use crate::{
    bench::{Bench, at, backup, job, run, uuid},
    certificates::{certificate, token},
    runs::{complete_at, stored},
};

const PLENTY: u32 = 1_000;

fn older_than(secs: i64) -> Cutoff {
    Cutoff { before: at(secs), newest: PLENTY }
}

fn newest(count: u32) -> Cutoff {
    Cutoff { before: Timestamp::MIN, newest: count }
}

async fn cancelled(bench: &Bench, id: u128, secs: i64) {
    let id = bench.submit(job(id)).await.id();
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().cancel(id, "ann", at(secs)).await.unwrap();
    tx.commit().await.unwrap();
}

async fn prune_jobs(bench: &Bench, cut: Cutoff, limit: u32) -> (u64, Vec<u128>) {
    let mut tx = bench.store.begin().await.unwrap();
    let dropped = tx.jobs().prune(cut, at(250), limit).await.unwrap();
    let mut left = Vec::new();
    for id in 1..=9 {
        if tx.jobs().get(uuid(id).into()).await.unwrap().is_some() {
            left.push(id);
        }
    }
    tx.commit().await.unwrap();
    (dropped, left)
}

pub(crate) async fn a_job_is_dropped_sooner_when_that_was_asked_for(bench: &Bench) {
    for (id, secs) in [(1, 100), (2, 200)] {
        let mut spec = job(id);
        spec.terms.kept_for = Some(Duration::from_secs(secs));
        bench.submit(spec).await;
        let mut tx = bench.store.begin().await.unwrap();
        tx.jobs().cancel(uuid(id).into(), "ann", at(100)).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(prune_jobs(bench, older_than(0), 9).await, (1, vec![2]));
}

pub(crate) async fn jobs_are_dropped_by_age_and_by_number_with_all_that_belongs_to_them(
    bench: &Bench,
) {
    bench.submit(job(1)).await;
    for id in 2..=7 {
        cancelled(bench, id, i64::try_from(id).unwrap() * 100).await;
    }
    assert_eq!(prune_jobs(bench, older_than(100), 9).await, (0, vec![1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(prune_jobs(bench, older_than(450), 2).await, (2, vec![1, 4, 5, 6, 7]));
    assert_eq!(prune_jobs(bench, older_than(450), 2).await, (1, vec![1, 5, 6, 7]));
    assert_eq!(prune_jobs(bench, newest(2), 9).await, (1, vec![1, 6, 7]));
    // What waits is not over, however old it is.
    assert_eq!(prune_jobs(bench, older_than(1 << 30), 9).await, (2, vec![1]));
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.jobs().events(uuid(7).into()).await.unwrap(), []);
    assert!(!tx.jobs().events(uuid(1).into()).await.unwrap().is_empty());
}

pub(crate) async fn what_is_known_of_a_backup_is_never_dropped(bench: &Bench) {
    let begun = |id, secs| RunSpec { started_at: at(secs), ..run(id) };
    complete_at(bench, begun(1, 10), stored("newest", at(9)), 11).await;
    complete_at(bench, begun(2, 20), stored("copied late", at(5)), 21).await;
    complete_at(bench, begun(3, 30), RunOutcome::Cancelled, 31).await;
    complete_at(bench, begun(4, 40), RunOutcome::Cancelled, 41).await;
    let other = RunSpec { backup: backup("git"), ..begun(5, 0) };
    complete_at(bench, other, stored("git", at(1)), 1).await;
    let mut tx = bench.store.begin().await.unwrap();
    tx.runs().start(&begun(6, 50)).await.unwrap();
    for cut in [older_than(1_000), newest(0)] {
        let before = tx.runs().newest_verified().await.unwrap();
        tx.runs().prune(cut, 100).await.unwrap();
        assert_eq!(tx.runs().newest_verified().await.unwrap(), before);
        let left = tx.runs().list(&RunFilter::default(), &PageRequest::first(10)).await.unwrap();
        let left: Vec<_> = left.items.iter().map(|run| run.spec.id).collect();
        assert_eq!(left, [6, 4, 2, 1, 5].map(|id| uuid(id).into()), "{cut:?}");
    }
}

pub(crate) async fn certificates_and_tokens_are_dropped_after_their_end(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    for (serial, ends) in [("01", 10), ("02", 20), ("03", 30)] {
        let row = certificate(serial, PeerKind::Agent, "x99", ends);
        tx.certificates().insert(&row).await.unwrap();
    }
    tx.tokens().create(&token(1)).await.unwrap();
    assert_eq!(tx.certificates().prune(at(10), 9).await.unwrap(), 0);
    assert_eq!(tx.certificates().prune(at(30), 1).await.unwrap(), 1);
    assert_eq!(tx.certificates().prune(at(30), 9).await.unwrap(), 1);
    assert_eq!(tx.certificates().get("01").await.unwrap(), None);
    assert!(tx.certificates().get("03").await.unwrap().is_some());
    assert_eq!(tx.tokens().prune(at(3_600), 9).await.unwrap(), 0);
    assert_eq!(tx.tokens().prune(at(3_601), 9).await.unwrap(), 1);
    assert_eq!(tx.tokens().get(uuid(1).into()).await.unwrap(), None);
}
