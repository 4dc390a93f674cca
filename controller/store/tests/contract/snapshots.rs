//! Snapshots that were seen, what people let go, and signed statements.

use homelab_domain::{
    drill::DrillAge,
    evidence::StatementKind,
    ids::{BackupName, RepositoryName},
    retention::BrakeKind,
    run::{RunKind, RunSpec},
};
use homelab_store::{
    Acknowledged, Attestation, PageRequest, Scrub, SeenSnapshot, SeenState, StoreError,
};

use crate::bench::{Bench, at, backup, run, uuid};

fn repository(name: &str) -> RepositoryName {
    RepositoryName::try_new(name).unwrap()
}

fn seen(id: &str, sequence: u64) -> SeenSnapshot {
    SeenSnapshot {
        backup: backup("wiki"),
        repository: repository("nas"),
        id: id.to_owned(),
        sequence,
        run: Some(uuid(7).into()),
        taken_at: at(3),
        verified_at: at(4),
        source_bytes: 1 << 40,
        items: None,
        state: SeenState::Present,
        state_since: at(5),
    }
}

fn attestation(sequence: u64, kind: StatementKind, of: Option<BackupName>) -> Attestation {
    Attestation {
        sequence,
        at: at(1),
        kind,
        backup: of,
        statement: format!("{{\"sequence\":{sequence}}}"),
        digest: [7; 32],
        signature: vec![1, 2, 3],
        key_id: "ab".repeat(32),
    }
}

pub(crate) async fn a_run_keeps_what_it_was_asked_for(bench: &Bench) {
    let spec = RunSpec {
        kind: RunKind::Drill,
        repository: Some(repository("off-site")),
        drill_age: Some(DrillAge::Monthly),
        notes: vec!["`db` failed before it".to_owned(), "ü".to_owned()],
        ..run(1)
    };
    let mut tx = bench.store.begin().await.unwrap();
    tx.runs().start(&spec).await.unwrap();
    assert_eq!(tx.runs().get(spec.id).await.unwrap().unwrap().spec, spec);
}

pub(crate) async fn a_snapshot_is_seen_once_and_its_order_stays(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    assert!(tx.snapshots().add(&seen("b", 1)).await.unwrap());
    assert!(tx.snapshots().add(&seen("a", 2)).await.unwrap());
    assert!(!tx.snapshots().add(&seen("b", 9)).await.unwrap(), "it is known");
    let other = SeenSnapshot { repository: repository("off-site"), ..seen("b", 3) };
    assert!(tx.snapshots().add(&other).await.unwrap(), "another repository is another snapshot");
    let (wiki, nas) = (backup("wiki"), repository("nas"));
    let gone = SeenState::Vanished;
    assert!(tx.snapshots().mark(&wiki, &nas, "b", gone, at(50)).await.unwrap());
    assert!(!tx.snapshots().mark(&wiki, &nas, "b", gone, at(60)).await.unwrap(), "it was before");
    assert!(!tx.snapshots().mark(&wiki, &nas, "zz", gone, at(60)).await.unwrap());
    tx.commit().await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    let first = SeenSnapshot { state: gone, state_since: at(50), ..seen("b", 1) };
    assert_eq!(tx.snapshots().of(&wiki).await.unwrap(), [first, seen("a", 2), other]);
    assert_eq!(tx.snapshots().of(&backup("git")).await.unwrap(), []);
}

pub(crate) async fn the_first_who_lets_a_brake_go_stands(bench: &Bench) {
    let one = |by: &str| Acknowledged {
        backup: backup("wiki"),
        brake: BrakeKind::SizesCollapsed,
        subject: "s1".to_owned(),
        by: by.to_owned(),
        reason: "emptied on purpose".to_owned(),
        at: at(9),
    };
    let mut tx = bench.store.begin().await.unwrap();
    tx.snapshots().acknowledge(&one("ada")).await.unwrap();
    tx.snapshots().acknowledge(&one("bob")).await.unwrap();
    assert_eq!(tx.snapshots().acknowledged(&backup("wiki")).await.unwrap(), [one("ada")]);
    assert_eq!(tx.snapshots().acknowledged(&backup("git")).await.unwrap(), []);
}

pub(crate) async fn the_last_scrub_of_a_repository_counts(bench: &Bench) {
    let scrub = |second, problems: &[&str]| Scrub {
        repository: repository("nas"),
        at: at(second),
        problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
    };
    let mut tx = bench.store.begin().await.unwrap();
    tx.snapshots().scrubbed(&scrub(1, &["pack 7 is damaged"])).await.unwrap();
    tx.snapshots().scrubbed(&scrub(2, &[])).await.unwrap();
    assert_eq!(tx.snapshots().scrubs().await.unwrap(), [scrub(2, &[])]);
}

pub(crate) async fn signed_statements_only_grow(bench: &Bench) {
    let wiki = Some(backup("wiki"));
    let all = [
        attestation(1, StatementKind::Key, None),
        attestation(2, StatementKind::Drill, wiki.clone()),
        attestation(3, StatementKind::Drill, Some(backup("git"))),
        attestation(4, StatementKind::Drill, wiki.clone()),
    ];
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.attestations().head().await.unwrap(), None);
    for one in &all {
        tx.attestations().append(one).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.attestations().head().await.unwrap().as_ref(), all.last());
    assert_eq!(tx.attestations().after(1, 2).await.unwrap(), all[1..3]);
    let page = PageRequest::first(1);
    let kind = StatementKind::Drill;
    let first = tx.attestations().list(kind, wiki.as_ref(), &page).await.unwrap();
    assert_eq!(first.items, [all[3].clone()]);
    let next = PageRequest::try_new(1, &first.next_token()).unwrap();
    let second = tx.attestations().list(kind, wiki.as_ref(), &next).await.unwrap();
    assert_eq!((second.items.as_slice(), second.next_token().as_str()), (&all[1..2], ""));
    assert_eq!(
        tx.attestations().list(kind, None, &PageRequest::first(9)).await.unwrap().items.len(),
        3
    );
}

pub(crate) async fn two_statements_of_one_place_end_in_one(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    tx.attestations().append(&attestation(1, StatementKind::Key, None)).await.unwrap();
    let second = tx.attestations().append(&attestation(1, StatementKind::Key, None)).await;
    assert!(matches!(second, Err(StoreError::Conflict { .. })), "{second:?}");
}
