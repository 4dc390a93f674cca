//! Browsers.

use homelab_domain::{identity::Role, ids::UserName};
use homelab_store::{LoginLink, Session};

use crate::bench::{Bench, SECOND, at, uuid};

fn ann() -> UserName {
    UserName::try_new("ann").unwrap()
}

fn session(id: u128) -> Session {
    Session {
        id: uuid(id).into(),
        digest: [u8::try_from(id).unwrap(); 32],
        user: ann(),
        role: Role::Admin,
        approver: true,
        created_at: at(0),
        last_used_at: at(0),
        expires_at: at(100),
        idle: SECOND * 30,
    }
}

pub(crate) async fn a_link_works_once_and_not_after_its_end(bench: &Bench) {
    let link = |digest: u8| LoginLink {
        digest: [digest; 32],
        user: ann(),
        role: Role::Operator,
        approver: false,
        expires_at: at(60),
    };
    let mut tx = bench.store.begin().await.unwrap();
    tx.sessions().create_link(&link(1)).await.unwrap();
    tx.sessions().create_link(&link(2)).await.unwrap();
    assert_eq!(tx.sessions().redeem_link(&[1; 32], at(59)).await.unwrap(), Some(link(1)));
    assert_eq!(tx.sessions().redeem_link(&[1; 32], at(59)).await.unwrap(), None);
    assert_eq!(tx.sessions().redeem_link(&[2; 32], at(60)).await.unwrap(), None);
    assert_eq!(tx.sessions().redeem_link(&[3; 32], at(0)).await.unwrap(), None);
}

pub(crate) async fn a_session_ends_by_idling_and_by_age(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    tx.sessions().create(&session(1)).await.unwrap();
    assert_eq!(tx.sessions().find(&[1; 32], at(29)).await.unwrap(), Some(session(1)));
    assert_eq!(tx.sessions().find(&[1; 32], at(30)).await.unwrap(), None);
    for used in [29, 58, 80] {
        tx.sessions().touch(uuid(1).into(), at(used)).await.unwrap();
    }
    tx.sessions().touch(uuid(1).into(), at(5)).await.unwrap();
    assert!(tx.sessions().find(&[1; 32], at(99)).await.unwrap().is_some());
    assert_eq!(tx.sessions().find(&[1; 32], at(100)).await.unwrap(), None);
    tx.sessions().sweep(at(100)).await.unwrap();
    assert!(!tx.sessions().end(uuid(1).into()).await.unwrap());
}

pub(crate) async fn a_person_can_be_logged_out_everywhere(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    for id in 1..=3 {
        tx.sessions().create(&session(id)).await.unwrap();
    }
    assert!(tx.sessions().end(uuid(3).into()).await.unwrap());
    assert_eq!(tx.sessions().end_all(&ann()).await.unwrap(), 2);
    assert_eq!(tx.sessions().find(&[1; 32], at(1)).await.unwrap(), None);
}
