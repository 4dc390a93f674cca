//! Identity: tokens, certificates, the audit log, request ids.

use homelab_domain::identity::{PeerKind, Role};
use homelab_store::{
    AuditOutcome, AuditWalk, NewAuditEntry, NewCertificate, NewToken, PageRequest, Remembered,
    Revocation, Revoke, StoreError, TokenUse,
};

use crate::bench::{Bench, at, uuid};

pub(crate) fn token(id: u128) -> NewToken {
    NewToken {
        id: uuid(id).into(),
        name: "x99".to_owned(),
        kinds: vec![PeerKind::Agent, PeerKind::GpuWorker],
        role: Some(Role::Operator),
        approver: true,
        sealed_secret: vec![1, 0, 255],
        expires_at: at(3600),
        created_by: "ann".to_owned(),
        created_at: at(i64::try_from(id).unwrap()),
    }
}

pub(crate) fn certificate(serial: &str, kind: PeerKind, name: &str, ends: i64) -> NewCertificate {
    NewCertificate {
        serial_hex: serial.to_owned(),
        identity: format!("spiffe://home/{kind}/{name}"),
        kind,
        name: name.to_owned(),
        not_before: at(0),
        not_after: at(ends),
        chain_pem: "-----BEGIN CERTIFICATE-----".to_owned(),
        issued_at: at(0),
    }
}

fn revocation(secs: i64) -> Revocation {
    Revocation { at: at(secs), reason: "the disk was sold".to_owned() }
}

pub(crate) async fn a_token_is_used_once_per_kind(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    tx.tokens().create(&token(1)).await.unwrap();
    let token_use = |kind, key: u8| TokenUse {
        kind,
        key_digest: [key; 32],
        used_at: at(5),
        serial_hex: format!("0{key}"),
    };
    let id = uuid(1).into();
    let first = token_use(PeerKind::Agent, 1);
    assert_eq!(tx.tokens().mark_used(id, &first).await.unwrap(), None);
    let earlier = tx.tokens().mark_used(id, &token_use(PeerKind::Agent, 2)).await.unwrap();
    assert_eq!(earlier, Some(first.clone()));
    let worker = token_use(PeerKind::GpuWorker, 3);
    assert_eq!(tx.tokens().mark_used(id, &worker).await.unwrap(), None);
    let stored = tx.tokens().get(id).await.unwrap().unwrap();
    assert_eq!(stored.token, token(1));
    assert_eq!(stored.uses, [first, worker]);
    assert_eq!(tx.tokens().get(uuid(2).into()).await.unwrap(), None);
}

pub(crate) async fn a_revoked_token_stays_revoked_since_the_first_time(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    tx.tokens().create(&token(1)).await.unwrap();
    let id = uuid(1).into();
    tx.tokens().revoke(id, at(5)).await.unwrap();
    let again = tx.tokens().revoke(id, at(9)).await.unwrap().unwrap();
    assert_eq!(again.revoked_at, Some(at(5)));
    assert_eq!(tx.tokens().revoke(uuid(2).into(), at(9)).await.unwrap(), None);
}

pub(crate) async fn tokens_are_listed_newest_first(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    for id in 1..=3 {
        tx.tokens().create(&token(id)).await.unwrap();
    }
    let first = tx.tokens().list(&PageRequest::first(2)).await.unwrap();
    let ids: Vec<_> = first.items.iter().map(|token| token.token.id).collect();
    assert_eq!(ids, [uuid(3).into(), uuid(2).into()]);
    let rest = PageRequest::after(2, first.next.unwrap());
    let rest = tx.tokens().list(&rest).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (1, None));
    let taken = tx.tokens().create(&token(1)).await;
    assert!(matches!(taken, Err(StoreError::Conflict { .. })), "{taken:?}");
}

pub(crate) async fn revoking_raises_the_epoch_once(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    let agent = certificate("0a", PeerKind::Agent, "x99", 100);
    tx.certificates().insert(&agent).await.unwrap();
    assert_eq!(tx.certificates().deny_list(at(1)).await.unwrap().epoch, 0);
    let revoked = tx.certificates().revoke(Revoke::Serial("0a"), &revocation(1)).await.unwrap();
    assert_eq!(revoked.len(), 1);
    let again = tx.certificates().revoke(Revoke::Serial("0a"), &revocation(2)).await.unwrap();
    assert_eq!(again, []);
    let list = tx.certificates().deny_list(at(2)).await.unwrap();
    assert_eq!((list.epoch, list.entries), (1, revoked));
    let stored = tx.certificates().get("0a").await.unwrap().unwrap();
    assert_eq!((stored.certificate, stored.revocation), (agent, Some(revocation(1))));
}

pub(crate) async fn revoking_a_host_leaves_people_alone(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    for (serial, kind) in
        [("01", PeerKind::Agent), ("02", PeerKind::GpuWorker), ("03", PeerKind::User)]
    {
        let certificate = certificate(serial, kind, "x99", 100);
        tx.certificates().insert(&certificate).await.unwrap();
    }
    let revoked = tx.certificates().revoke(Revoke::Host("x99"), &revocation(1)).await.unwrap();
    assert_eq!(revoked.len(), 2);
    let person = "spiffe://home/user/x99";
    let revoked = tx.certificates().revoke(Revoke::Identity(person), &revocation(1)).await.unwrap();
    assert_eq!(revoked.len(), 1);
    let listed = tx.certificates().list(Some("x99"), &PageRequest::first(2)).await.unwrap();
    assert_eq!(listed.items[0].certificate.serial_hex, "03");
    assert!(listed.next.is_some());
    assert_eq!(
        tx.certificates().list(Some("nobody"), &PageRequest::default()).await.unwrap().items,
        []
    );
}

pub(crate) async fn the_deny_list_forgets_what_has_ended_by_itself(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    for (serial, ends) in [("01", 10), ("02", 100)] {
        let certificate = certificate(serial, PeerKind::Agent, "x99", ends);
        tx.certificates().insert(&certificate).await.unwrap();
    }
    tx.certificates().revoke(Revoke::Host("x99"), &revocation(1)).await.unwrap();
    assert_eq!(tx.certificates().deny_list(at(9)).await.unwrap().entries.len(), 2);
    let later = tx.certificates().deny_list(at(10)).await.unwrap();
    assert_eq!((later.epoch, later.entries.len()), (1, 1));
}

pub(crate) async fn the_audit_log_cannot_be_changed_and_shows_when_it_was(bench: &Bench) {
    let entry = |detail: &str| NewAuditEntry {
        at: at(0),
        actor: "ann".to_owned(),
        action: "wake".to_owned(),
        subject: "host/x99".to_owned(),
        outcome: AuditOutcome::Denied,
        detail: detail.to_owned(),
    };
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.audit().head().await.unwrap(), None);
    for detail in ["one", "two", "three"] {
        tx.audit().append(&entry(detail)).await.unwrap();
    }
    let newest = tx.audit().list(Some("ann"), &PageRequest::first(1)).await.unwrap();
    assert_eq!(newest.items[0].entry.detail, "three");
    let next = PageRequest::after(1, newest.next.unwrap());
    assert_eq!(tx.audit().list(None, &next).await.unwrap().items[0].sequence, 2);
    tx.commit().await.unwrap();

    assert!(bench.tamper("UPDATE audit SET detail = 'x' WHERE sequence = 2").await.is_err());
    assert!(bench.tamper("DELETE FROM audit").await.is_err());
    let by_force = if bench.is_sqlite() {
        "DROP TRIGGER audit_is_not_changed; UPDATE audit SET detail = 'x' WHERE sequence = 2"
    } else {
        "DROP TRIGGER audit_is_append_only ON audit; UPDATE audit SET detail = 'x' WHERE sequence = 2"
    };
    bench.tamper(by_force).await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    let mut walk = AuditWalk::default();
    let entries = tx.audit().after(0, 10).await.unwrap();
    let fault = entries.iter().find_map(|entry| walk.step(entry).err()).unwrap();
    assert_eq!(fault.sequence, 2);
}

pub(crate) async fn a_request_id_belongs_to_one_request(bench: &Bench) {
    let id = uuid(1).into();
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.requests().remember(id, &[1; 32], at(0)).await.unwrap(), Remembered::New);
    let same = tx.requests().remember(id, &[1; 32], at(1)).await.unwrap();
    assert_eq!(same, Remembered::Same { answer: None });
    tx.requests().answer(id, b"done").await.unwrap();
    let same = tx.requests().remember(id, &[1; 32], at(1)).await.unwrap();
    assert_eq!(same, Remembered::Same { answer: Some(b"done".to_vec()) });
    assert_eq!(tx.requests().remember(id, &[2; 32], at(1)).await.unwrap(), Remembered::Other);
    assert_eq!(tx.requests().forget_before(at(1)).await.unwrap(), 1);
    assert!(tx.requests().answer(id, b"late").await.is_err());
}
