//! Hosts, and the lead.

use homelab_domain::{fleet::HostState, site::DaemonKind};
use homelab_store::{HostRecord, StoreError, Tenure};

use crate::bench::{Bench, at, host};

fn seen(secs: Option<i64>, state: Option<(HostState, i64)>) -> HostRecord {
    HostRecord {
        name: host("x99"),
        enrolled: vec![],
        drained: false,
        last_seen_at: secs.map(at),
        state: state.map(|(state, since)| (state, at(since))),
    }
}

pub(crate) async fn what_was_seen_of_a_host_only_grows(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    tx.hosts().observed(&[seen(None, None)]).await.unwrap();
    assert_eq!(tx.hosts().all().await.unwrap(), [seen(None, None)]);
    let newest = seen(Some(50), Some((HostState::Healthy, 40)));
    tx.hosts().observed(std::slice::from_ref(&newest)).await.unwrap();
    tx.hosts().observed(&[seen(Some(30), None)]).await.unwrap();
    tx.hosts().observed(&[seen(None, None)]).await.unwrap();
    assert_eq!(tx.hosts().get(&host("x99")).await.unwrap(), Some(newest));
}

pub(crate) async fn enrolling_and_draining_leave_each_other_alone(bench: &Bench) {
    let name = host("x99");
    let mut tx = bench.store.begin().await.unwrap();
    tx.hosts().set_enrolled(&name, DaemonKind::Agent).await.unwrap();
    tx.hosts().set_enrolled(&name, DaemonKind::Agent).await.unwrap();
    tx.hosts().set_enrolled(&name, DaemonKind::GpuWorker).await.unwrap();
    tx.hosts().set_drained(&name, true).await.unwrap();
    tx.hosts().observed(&[seen(Some(1), Some((HostState::Asleep, 1)))]).await.unwrap();
    let record = tx.hosts().get(&name).await.unwrap().unwrap();
    assert_eq!(record.enrolled, [DaemonKind::Agent, DaemonKind::GpuWorker]);
    assert!(record.drained);
    assert!(tx.hosts().forget(&name).await.unwrap());
    assert!(!tx.hosts().forget(&name).await.unwrap());
    assert_eq!(tx.hosts().all().await.unwrap(), []);
}

pub(crate) async fn a_stale_leader_is_fenced_off(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.leadership().get().await.unwrap(), None);
    let Tenure::Mine(first) = tx.leadership().acquire("a", at(0), at(15)).await.unwrap() else {
        panic!("the lead was free");
    };
    tx.leadership().renew(first.token, at(20)).await.unwrap();
    let theirs = tx.leadership().acquire("b", at(19), at(34)).await.unwrap();
    assert!(matches!(theirs, Tenure::Theirs(leader) if leader.holder == "a"));
    // It stops for a while; its lease runs out.
    let Tenure::Mine(second) = tx.leadership().acquire("b", at(20), at(35)).await.unwrap() else {
        panic!("the lease had run out");
    };
    assert!(second.token > first.token);
    let renewed = tx.leadership().renew(first.token, at(60)).await;
    assert!(matches!(renewed, Err(StoreError::Conflict { .. })), "{renewed:?}");
    let required = tx.leadership().require(first.token).await;
    assert!(matches!(required, Err(StoreError::Conflict { .. })), "{required:?}");
    tx.leadership().require(second.token).await.unwrap();
}

pub(crate) async fn a_released_lead_is_free_at_once(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    let Tenure::Mine(first) = tx.leadership().acquire("a", at(0), at(15)).await.unwrap() else {
        panic!("the lead was free");
    };
    tx.leadership().release(first.token, at(1)).await.unwrap();
    assert!(tx.leadership().require(first.token).await.is_err());
    let next = tx.leadership().acquire("b", at(1), at(16)).await.unwrap();
    let Tenure::Mine(second) = next else { panic!("{next:?}") };
    // A late release by the first changes nothing.
    tx.leadership().release(first.token, at(2)).await.unwrap();
    assert_eq!(tx.leadership().get().await.unwrap(), Some(second));
}
