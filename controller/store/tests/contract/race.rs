//! Many at once.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::join_all;
use homelab_domain::{
    identity::{PeerKind, Role},
    ids::UserName,
    job::Job,
    run::RunKind,
};
use homelab_store::{
    AuditOutcome, AuditWalk, LoginLink, NewAuditEntry, NewToken, ScheduleKey, Tenure, TokenUse,
};

use crate::bench::{Bench, at, backup, claim, host, job, uuid};

const MANY: usize = 32;

pub(crate) async fn thirty_two_claimers_get_each_job_once(bench: &Bench) {
    for id in 1..=64 {
        bench.submit(job(id)).await;
    }
    let claimers = (0..MANY).map(|number| {
        let store = Arc::clone(&bench.store);
        async move {
            let mut claim = claim(3);
            claim.worker = host(&format!("worker-{number}"));
            let mut mine = Vec::new();
            loop {
                let mut tx = store.begin().await.unwrap();
                let given = tx.jobs().claim(&claim).await.unwrap();
                tx.commit().await.unwrap();
                // SKIP LOCKED may show an empty queue while others still hold the
                // rest; those give it away themselves.
                if given.is_empty() {
                    return mine;
                }
                mine.extend(given.iter().map(Job::id));
            }
        }
    });
    let given = join_all(claimers).await.concat();
    assert_eq!(given.len(), 64);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 64);
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.jobs().pending(100).await.unwrap(), []);
}

pub(crate) async fn two_assignments_of_one_job_end_in_one(bench: &Bench) {
    let id = bench.submit(job(1)).await.id();
    let assign = |worker: &'static str| {
        let store = Arc::clone(&bench.store);
        async move {
            let mut tx = store.begin().await.unwrap();
            let done = tx.jobs().assign(id, &host(worker), at(0), at(30)).await;
            if done.is_ok() {
                tx.commit().await.unwrap();
            }
            done.is_ok()
        }
    };
    let done = join_all(["a", "b", "c", "d"].map(assign)).await;
    assert_eq!(done.iter().filter(|done| **done).count(), 1);
}

pub(crate) async fn one_of_many_schedulers_fires(bench: &Bench) {
    let fire = |_| {
        let store = Arc::clone(&bench.store);
        async move {
            let key = ScheduleKey { backup: backup("wiki"), kind: RunKind::Backup };
            let mut tx = store.begin().await.unwrap();
            let mine = tx.schedules().fired(&key, at(60)).await.unwrap();
            tx.commit().await.unwrap();
            mine
        }
    };
    let fired = join_all((0..MANY).map(fire)).await;
    assert_eq!(fired.iter().filter(|mine| **mine).count(), 1);
}

pub(crate) async fn one_of_many_enrolments_is_the_first(bench: &Bench) {
    let token = NewToken {
        id: uuid(1).into(),
        name: "x99".to_owned(),
        kinds: vec![PeerKind::Agent],
        role: None,
        approver: false,
        sealed_secret: vec![1],
        expires_at: at(3600),
        created_by: "ann".to_owned(),
        created_at: at(0),
    };
    let mut tx = bench.store.begin().await.unwrap();
    tx.tokens().create(&token).await.unwrap();
    tx.commit().await.unwrap();
    let enrol = |number: usize| {
        let store = Arc::clone(&bench.store);
        async move {
            let token_use = TokenUse {
                kind: PeerKind::Agent,
                key_digest: [u8::try_from(number).unwrap(); 32],
                used_at: at(1),
                serial_hex: format!("{number:02x}"),
            };
            let mut tx = store.begin().await.unwrap();
            let earlier = tx.tokens().mark_used(uuid(1).into(), &token_use).await.unwrap();
            tx.commit().await.unwrap();
            earlier.is_none()
        }
    };
    let first = join_all((0..MANY).map(enrol)).await;
    assert_eq!(first.iter().filter(|first| **first).count(), 1);
}

pub(crate) async fn one_of_many_browsers_redeems_a_link(bench: &Bench) {
    let link = LoginLink {
        digest: [7; 32],
        user: UserName::try_new("ann").unwrap(),
        role: Role::Viewer,
        approver: false,
        expires_at: at(60),
    };
    let mut tx = bench.store.begin().await.unwrap();
    tx.sessions().create_link(&link).await.unwrap();
    tx.commit().await.unwrap();
    let redeem = |_| {
        let store = Arc::clone(&bench.store);
        async move {
            let mut tx = store.begin().await.unwrap();
            let link = tx.sessions().redeem_link(&[7; 32], at(1)).await.unwrap();
            tx.commit().await.unwrap();
            link.is_some()
        }
    };
    let redeemed = join_all((0..MANY).map(redeem)).await;
    assert_eq!(redeemed.iter().filter(|mine| **mine).count(), 1);
}

pub(crate) async fn audit_entries_written_at_once_form_one_chain(bench: &Bench) {
    let append = |number: usize| {
        let store = Arc::clone(&bench.store);
        async move {
            let entry = NewAuditEntry {
                at: at(0),
                actor: format!("actor-{}", number % 2),
                action: "test".to_owned(),
                subject: String::new(),
                outcome: AuditOutcome::Allowed,
                detail: format!("entry {number}"),
            };
            let mut tx = store.begin().await.unwrap();
            tx.audit().append(&entry).await.unwrap();
            tx.commit().await.unwrap();
        }
    };
    join_all((0..MANY).map(append)).await;
    let mut tx = bench.store.read().await.unwrap();
    let mut walk = AuditWalk::default();
    loop {
        let page = tx.audit().after(walk.entries(), 10).await.unwrap();
        if page.is_empty() {
            break;
        }
        for entry in page {
            walk.step(&entry).unwrap();
        }
    }
    assert_eq!(walk.entries(), 32);
    walk.finish(tx.audit().head().await.unwrap()).unwrap();
}

pub(crate) async fn one_of_many_controllers_leads(bench: &Bench) {
    let acquire = |number: usize| {
        let store = Arc::clone(&bench.store);
        async move {
            let mut tx = store.begin().await.unwrap();
            let holder = format!("host/{number}");
            let tenure = tx.leadership().acquire(&holder, at(0), at(15)).await.unwrap();
            tx.commit().await.unwrap();
            matches!(tenure, Tenure::Mine(_))
        }
    };
    let leads = join_all((0..MANY).map(acquire)).await;
    assert_eq!(leads.iter().filter(|mine| **mine).count(), 1);
}
