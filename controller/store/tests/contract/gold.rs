//! What leaves the house, and what it costs.

use std::sync::Arc;

use futures_util::future::join_all;
use homelab_domain::{
    gold::{Asker, Budget, Money, Period},
    ids::{BudgetName, ModelName, ProviderName},
    schedule::Zone,
};
use homelab_store::{GoldOutcome, NewGoldCall, Reserved, Settlement};
use jiff::SignedDuration;

use crate::bench::{Bench, at, uuid};

fn asker(name: &str) -> Asker {
    name.parse().unwrap()
}

fn call(job: u128, micros: u64) -> NewGoldCall {
    NewGoldCall {
        job: uuid(job).into(),
        attempt: 1,
        at: at(0),
        asker: asker("key/ann"),
        provider: ProviderName::try_new("far").unwrap(),
        model: ModelName::try_new("far-small").unwrap(),
        bytes: 1 << 20,
        digest: [7; 32],
        classes: "2 host-name".to_owned(),
        rules: "names, chat".to_owned(),
        pseudonyms: 2,
        reserved: Money::from_micros(micros),
    }
}

fn budgets(day: u64) -> Vec<Budget> {
    vec![Budget {
        name: BudgetName::try_new("all").unwrap(),
        keys: vec![],
        day: Some(Money::from_micros(day)),
        month: Some(Money::from_micros(day * 3)),
    }]
}

fn settled(micros: u64) -> Settlement {
    Settlement {
        at: at(5),
        outcome: GoldOutcome::Settled,
        cost: Money::from_micros(micros),
        prompt_tokens: Some(10),
        completion_tokens: None,
    }
}

async fn reserve(bench: &Bench, call: &NewGoldCall, day: u64) -> Reserved {
    let mut tx = bench.store.begin().await.unwrap();
    let reserved = tx.gold().reserve(call, &budgets(day), &Zone::UTC).await.unwrap();
    tx.commit().await.unwrap();
    reserved
}

async fn spent(bench: &Bench, secs: i64) -> Vec<(String, u64, u64)> {
    let mut tx = bench.store.read().await.unwrap();
    let spent = tx.gold().spent(at(secs), &Zone::UTC).await.unwrap();
    let micros = |spent: homelab_domain::gold::Spent| {
        (spent.asker.to_string(), spent.day.micros(), spent.month.micros())
    };
    spent.into_iter().map(micros).collect()
}

pub(crate) async fn a_hundred_reservations_at_once_never_exceed_the_budget(bench: &Bench) {
    let tries = (0..100_u128).map(|job| {
        let store = Arc::clone(&bench.store);
        async move {
            let mut tx = store.begin().await.unwrap();
            let reserved = tx.gold().reserve(&call(job, 300), &budgets(1_000), &Zone::UTC).await;
            let reserved = reserved.unwrap();
            tx.commit().await.unwrap();
            reserved == Reserved::Made
        }
    });
    let made = join_all(tries).await.into_iter().filter(|made| *made).count();
    assert_eq!(made, 3);
    assert_eq!(spent(bench, 1).await, [("key/ann".to_owned(), 900, 900)]);
}

pub(crate) async fn a_reservation_counts_until_it_is_settled_and_the_cost_from_then_on(
    bench: &Bench,
) {
    assert_eq!(reserve(bench, &call(1, 600), 1_000).await, Reserved::Made);
    let Reserved::Short(short) = reserve(bench, &call(2, 600), 1_000).await else {
        panic!("there was no room")
    };
    assert_eq!((short.standing.period, short.standing.left().micros()), (Period::Day, 400));
    let mut tx = bench.store.begin().await.unwrap();
    assert!(tx.gold().settle(uuid(1).into(), 1, settled(50)).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(reserve(bench, &call(2, 600), 1_000).await, Reserved::Made);
    let mut tx = bench.store.read().await.unwrap();
    let calls = tx.gold().of_job(uuid(1).into()).await.unwrap();
    assert_eq!(calls.len(), 1);
    assert_eq!((&calls[0].call, calls[0].settlement), (&call(1, 600), Some(settled(50))));
    assert_eq!(tx.gold().newest(1).await.unwrap().len(), 1);
}

pub(crate) async fn an_attempt_is_let_out_and_settled_once(bench: &Bench) {
    assert_eq!(reserve(bench, &call(1, 10), 1_000).await, Reserved::Made);
    assert_eq!(reserve(bench, &call(1, 10), 1_000).await, Reserved::Repeated);
    let second = NewGoldCall { attempt: 2, ..call(1, 10) };
    assert_eq!(reserve(bench, &second, 1_000).await, Reserved::Made);
    let mut tx = bench.store.begin().await.unwrap();
    assert!(tx.gold().settle(uuid(1).into(), 1, settled(5)).await.unwrap());
    assert!(!tx.gold().settle(uuid(1).into(), 1, settled(9)).await.unwrap());
    assert!(!tx.gold().settle(uuid(9).into(), 1, settled(9)).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(spent(bench, 1).await, [("key/ann".to_owned(), 15, 15)]);
}

pub(crate) async fn what_nobody_settles_costs_the_most_that_it_could(bench: &Bench) {
    reserve(bench, &call(1, 300), 1_000).await;
    let later = NewGoldCall { at: at(100), ..call(2, 20) };
    reserve(bench, &later, 1_000).await;
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.gold().give_up(at(50), at(200)).await.unwrap(), 1);
    assert_eq!(tx.gold().give_up(at(50), at(200)).await.unwrap(), 0);
    tx.commit().await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    let lost = tx.gold().of_job(uuid(1).into()).await.unwrap()[0].settlement.unwrap();
    assert_eq!((lost.outcome, lost.cost.micros(), lost.at), (GoldOutcome::Lost, 300, at(200)));
    assert_eq!(tx.gold().of_job(uuid(2).into()).await.unwrap()[0].settlement, None);
}

pub(crate) async fn spending_is_summed_by_asker_day_and_month(bench: &Bench) {
    let day = SignedDuration::from_hours(24);
    reserve(bench, &call(1, 100), 10_000).await;
    let of_bob = NewGoldCall { asker: asker("user/bob"), ..call(2, 20) };
    reserve(bench, &of_bob, 10_000).await;
    let yesterday = NewGoldCall { at: at(0) - day, ..call(3, 7) };
    reserve(bench, &yesterday, 10_000).await;
    let long_ago = NewGoldCall { at: at(0) - day * 40, ..call(4, 5_000) };
    reserve(bench, &long_ago, 10_000).await;
    let expected = [("key/ann".to_owned(), 100, 107), ("user/bob".to_owned(), 20, 20)];
    assert_eq!(spent(bench, 1).await, expected);
}

pub(crate) async fn what_left_long_ago_is_dropped_a_few_at_a_time_and_what_is_open_stays(
    bench: &Bench,
) {
    for job in 1..=5 {
        let left = NewGoldCall { at: at(i64::try_from(job).unwrap()), ..call(job, 10) };
        reserve(bench, &left, 1_000).await;
    }
    let mut tx = bench.store.begin().await.unwrap();
    for job in [1, 2, 4, 5] {
        assert!(tx.gold().settle(uuid(job).into(), 1, settled(5)).await.unwrap());
    }
    tx.commit().await.unwrap();
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.gold().prune(at(5), 2).await.unwrap(), 2);
    let left = tx.gold().newest(10).await.unwrap();
    let left: Vec<_> = left.iter().map(|call| call.call.job).collect();
    assert_eq!(left, [5, 4, 3].map(|job| uuid(job).into()));
    assert_eq!(tx.gold().prune(at(5), 2).await.unwrap(), 1);
    assert_eq!(tx.gold().prune(at(5), 2).await.unwrap(), 0);
    tx.commit().await.unwrap();
    // The one of the moment itself, and the one that nobody has settled.
    assert_eq!(spent(bench, 6).await, [("key/ann".to_owned(), 15, 15)]);
}
