//! Files and batches of the gateway, and what keys have used.

use homelab_domain::{
    batch::{Batch, BatchState, LineState, Tally},
    site::Tier,
};
use homelab_store::{BatchLine, GivenFile};

use crate::bench::{Bench, at, uuid};

fn file(number: u128, owner: &str) -> GivenFile {
    GivenFile {
        id: uuid(number).into(),
        owner: owner.to_owned(),
        purpose: "batch".to_owned(),
        name: "in.jsonl".to_owned(),
        bytes: 3,
        created_at: at(0),
    }
}

fn batch(number: u128, owner: &str) -> Batch {
    Batch {
        id: uuid(number).into(),
        owner: owner.to_owned(),
        tiers: vec![Tier::Bronze, Tier::Silver],
        endpoint: "/v1/chat/completions".to_owned(),
        input: uuid(1).into(),
        state: BatchState::InProgress,
        metadata: "{\"a\":\"b\"}".to_owned(),
        created_at: at(1),
        expires_at: at(100),
        cancelling_at: None,
        ended_at: None,
    }
}

fn lines(count: u32) -> Vec<BatchLine> {
    let line = |line| BatchLine { line, custom_id: format!("c{line}"), body: b"{}".to_vec() };
    (1..=count).map(line).collect()
}

pub(crate) async fn a_file_belongs_to_who_gave_it(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    for number in 1..=3 {
        tx.batches().add_file(&file(number, "a"), &[0, 159, 255]).await.unwrap();
    }
    tx.batches().add_file(&file(4, "b"), b"b").await.unwrap();
    assert_eq!(tx.batches().file("a", uuid(2).into()).await.unwrap(), Some(file(2, "a")));
    assert_eq!(tx.batches().content("a", uuid(2).into()).await.unwrap(), Some(vec![0, 159, 255]));
    assert_eq!(tx.batches().file("b", uuid(2).into()).await.unwrap(), None);
    assert_eq!(tx.batches().content("b", uuid(2).into()).await.unwrap(), None);
    assert!(!tx.batches().drop_file("b", uuid(2).into()).await.unwrap());
    let newest = tx.batches().files("a", None, 2).await.unwrap();
    assert_eq!(newest, [file(3, "a"), file(2, "a")]);
    let rest = tx.batches().files("a", Some(uuid(2).into()), 2).await.unwrap();
    assert_eq!(rest, [file(1, "a")]);
    assert_eq!(tx.batches().bytes_of("a").await.unwrap(), 9);
    assert!(tx.batches().drop_file("a", uuid(2).into()).await.unwrap());
    assert_eq!(tx.batches().bytes_of("a").await.unwrap(), 6);
    assert_eq!(tx.batches().bytes_of("nobody").await.unwrap(), 0);
}

pub(crate) async fn each_line_of_a_batch_is_begun_and_ended_once(bench: &Bench) {
    let id = uuid(7).into();
    let mut tx = bench.store.begin().await.unwrap();
    tx.batches().create(&batch(7, "a"), &lines(3)).await.unwrap();
    assert_eq!(tx.batches().get(id).await.unwrap(), Some(batch(7, "a")));
    let waiting = tx.batches().lines(id, LineState::Waiting, 2).await.unwrap();
    assert_eq!(waiting, lines(2));
    assert!(tx.batches().open_line(id, 1).await.unwrap());
    assert!(!tx.batches().open_line(id, 1).await.unwrap());
    assert!(tx.batches().end_line(id, 1, LineState::Succeeded, b"first").await.unwrap());
    assert!(!tx.batches().end_line(id, 1, LineState::Failed, b"again").await.unwrap());
    assert!(tx.batches().end_line(id, 3, LineState::Succeeded, b"third").await.unwrap());
    let tally = tx.batches().tally(id).await.unwrap();
    assert_eq!(tally, Tally { waiting: 1, open: 0, succeeded: 2, failed: 0 });
    let all = tx.batches().results(id, LineState::Succeeded, 0, 10).await.unwrap();
    assert_eq!(all, [(1, b"first".to_vec()), (3, b"third".to_vec())]);
    let rest = tx.batches().results(id, LineState::Succeeded, 1, 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    let ended = tx.batches().lines(id, LineState::Succeeded, 10).await.unwrap();
    assert!(ended.iter().all(|line| line.body.is_empty()), "what was asked is wiped");
}

pub(crate) async fn a_batch_that_has_ended_stays_as_it_is(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    tx.batches().create(&batch(7, "a"), &lines(1)).await.unwrap();
    tx.batches().create(&batch(8, "a"), &lines(1)).await.unwrap();
    let ended = Batch { state: BatchState::Completed, ended_at: Some(at(9)), ..batch(7, "a") };
    tx.batches().update(&ended).await.unwrap();
    let late =
        Batch { state: BatchState::Cancelling, cancelling_at: Some(at(10)), ..batch(7, "a") };
    tx.batches().update(&late).await.unwrap();
    assert_eq!(tx.batches().get(uuid(7).into()).await.unwrap(), Some(ended.clone()));
    assert_eq!(tx.batches().active().await.unwrap(), [batch(8, "a")]);
    assert_eq!(tx.batches().list("a", None, 10).await.unwrap(), [batch(8, "a"), ended]);
    assert_eq!(tx.batches().list("b", None, 10).await.unwrap(), []);
}

pub(crate) async fn old_batches_go_with_their_lines_and_open_ones_stay(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    tx.batches().create(&batch(7, "a"), &lines(2)).await.unwrap();
    tx.batches().create(&batch(8, "a"), &lines(2)).await.unwrap();
    let ended = Batch { state: BatchState::Completed, ended_at: Some(at(9)), ..batch(7, "a") };
    tx.batches().update(&ended).await.unwrap();
    tx.batches().add_file(&file(1, "a"), b"abc").await.unwrap();
    assert_eq!(tx.batches().prune(at(10), 10).await.unwrap(), 2);
    assert_eq!(tx.batches().tally(uuid(7).into()).await.unwrap(), Tally::default());
    assert_eq!(tx.batches().active().await.unwrap(), [batch(8, "a")]);
}

pub(crate) async fn what_a_key_has_used_is_added_up_by_day(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    tx.batches().spend("a", 20_000, 7).await.unwrap();
    tx.batches().spend("a", 20_000, 5).await.unwrap();
    tx.batches().spend("a", 20_001, 1).await.unwrap();
    assert_eq!(tx.batches().spent("a", 20_000).await.unwrap(), 12);
    assert_eq!(tx.batches().spent("a", 20_001).await.unwrap(), 1);
    assert_eq!(tx.batches().spent("b", 20_000).await.unwrap(), 0);
}
