use rustls_pki_types::pem::PemObject;

use super::*;
use crate::{peer::Kind, testing::TestSite};

fn list(epoch: u64, serials: &[&str]) -> pb::DenyList {
    let entry = |serial: &&str| pb::DenyListEntry {
        serial_hex: (*serial).into(),
        ..pb::DenyListEntry::default()
    };
    pb::DenyList { epoch, entries: serials.iter().map(entry).collect() }
}

fn put(held: &DenyList, site: &TestSite, list: &pb::DenyList) -> Result<Taken, DenyListError> {
    let signed = sign(list, &site.issuing_key()).expect("signed");
    let ours = site.identity(&site.daemon(Kind::Agent, "qotom"));
    held.put(&signed.deny_list, &signed.signature, &ours.chain()[1..])
}

#[test]
fn a_signed_list_counts_whatever_the_case_and_the_zeros() {
    let (site, held) = (TestSite::new("home"), DenyList::default());
    assert!(!held.is_revoked("ab01"));
    put(&held, &site, &list(1, &["00AB01"])).expect("taken");
    assert!(held.is_revoked("ab01"));
    assert!(held.is_revoked("00ab01"));
    assert!(!held.is_revoked("ab02"));
}

#[test]
fn only_the_issuing_ca_can_sign() {
    let (site, held) = (TestSite::new("home"), DenyList::default());
    let other = TestSite::new("home");
    let good = list(1, &["ab"]);
    let ours = site.identity(&site.daemon(Kind::Agent, "qotom"));
    let issuers = &ours.chain()[1..];
    let signed = sign(&good, &other.issuing_key()).expect("signed");
    let refused = held.put(&signed.deny_list, &signed.signature, issuers);
    assert!(matches!(refused, Err(DenyListError::Signature)));

    let mut signed = sign(&good, &site.issuing_key()).expect("signed");
    signed.deny_list.push(0);
    let refused = held.put(&signed.deny_list, &signed.signature, issuers);
    assert!(matches!(refused, Err(DenyListError::Signature)), "a changed list");

    let leaf = site.leaf(&site.daemon(Kind::Controller, "db"));
    let key =
        rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(leaf.key_pem.expose().as_bytes());
    let signed = sign(&good, key.expect("a key").secret_pkcs8_der()).expect("signed");
    let refused = held.put(&signed.deny_list, &signed.signature, leaf.identity().chain());
    assert!(matches!(refused, Err(DenyListError::Signature)), "a certificate that is no CA");
    assert_eq!(held.epoch(), 0);
}

#[test]
fn an_older_list_does_not_let_anybody_back_in() {
    let (site, held) = (TestSite::new("home"), DenyList::default());
    put(&held, &site, &list(5, &["ab"])).expect("taken");
    let stale = put(&held, &site, &list(4, &[]));
    assert!(matches!(stale, Err(DenyListError::Stale { have: 5, got: 4 })));
    let other_of_the_same_epoch = put(&held, &site, &list(5, &[]));
    assert!(matches!(other_of_the_same_epoch, Err(DenyListError::Stale { have: 5, got: 5 })));
    assert!(held.is_revoked("ab"));
    put(&held, &site, &list(5, &["ab"])).expect("the same again");
    put(&held, &site, &list(6, &[])).expect("taken");
    assert!(!held.is_revoked("ab"));
}

#[test]
fn the_list_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let file = dir.path().join("deny-list.json");
    let held = DenyList::load(&file).expect("empty");
    held.replace(list(3, &["ab"])).expect("taken");
    let again = DenyList::load(&file).expect("kept");
    assert_eq!((again.epoch(), again.is_revoked("ab")), (3, true));
}

#[test]
fn a_damaged_list_is_not_an_empty_one() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let file = dir.path().join("deny-list.json");
    std::fs::write(&file, "{}").expect("written");
    assert!(matches!(DenyList::load(&file), Err(DenyListError::Keep(_))));
}

#[test]
fn a_list_that_cannot_be_kept_does_not_count() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let file = dir.path().join("deny-list.json");
    let held = DenyList::load(&file).expect("empty");
    std::fs::create_dir(dir.path().join("deny-list.json.new")).expect("in the way");
    assert!(matches!(held.replace(list(1, &["ab"])), Err(DenyListError::Keep(_))));
    assert_eq!((held.epoch(), held.is_revoked("ab")), (0, false));
}

#[test]
fn a_list_has_a_length_limit() {
    let long =
        pb::DenyList { epoch: 1, entries: vec![pb::DenyListEntry::default(); ENTRIES_MAX + 1] };
    let refused = DenyList::default().replace(long);
    assert!(matches!(refused, Err(DenyListError::Malformed { .. })));
}

#[test]
fn an_entry_without_a_number_denies_nobody() {
    let held = DenyList::default();
    held.replace(list(1, &["", "00"])).expect("taken");
    assert!(!held.is_revoked(""), "local callers have no number");
}
