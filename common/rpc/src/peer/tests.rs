use homelab_proto::common::v1::PeerKind;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType, SerialNumber};

use super::*;
use crate::testing::TestSite;

fn id(text: &str) -> Result<SpiffeId, InvalidSpiffeId> {
    text.parse()
}

#[test]
fn an_identity_is_read_as_it_is_written() {
    for text in [
        "spiffe://home/agent/qotom",
        "spiffe://home/backup-agent/hx310-db",
        "spiffe://home/gpu-worker/x99",
        "spiffe://my.home/controller/hx310-db",
        "spiffe://home/user/anna.de_vries/viewer",
        "spiffe://home/user/anna/operator+approver",
        "spiffe://home/user/anna/admin",
    ] {
        assert_eq!(id(text).expect(text).to_string(), text);
    }
}

#[test]
fn the_parts_of_an_identity_are_what_was_written() {
    let anna = id("spiffe://home/user/anna/operator+approver").expect("an identity");
    assert_eq!(anna.kind(), Kind::User);
    assert_eq!(anna.name().as_str(), "anna");
    assert_eq!((anna.role(), anna.approver()), (Some(Role::Operator), true));
    let agent = id("spiffe://home/agent/qotom").expect("an identity");
    assert_eq!((agent.role(), agent.approver()), (None, false));
}

#[test]
fn what_is_no_identity_names_the_rule_that_it_breaks() {
    type Is = fn(&InvalidSpiffeId) -> bool;
    let shape: Is = |error| matches!(error, InvalidSpiffeId::Shape { .. });
    let site: Is = |error| matches!(error, InvalidSpiffeId::Site { .. });
    let kind: Is = |error| matches!(error, InvalidSpiffeId::Kind { .. });
    let host: Is = |error| matches!(error, InvalidSpiffeId::Host { .. });
    let user: Is = |error| matches!(error, InvalidSpiffeId::User { .. });
    let role: Is = |error| matches!(error, InvalidSpiffeId::Role { .. });
    let grant: Is = |error| matches!(error, InvalidSpiffeId::Grant { .. });
    for (text, is) in [
        ("", shape),
        ("https://home/agent/qotom", shape),
        ("SPIFFE://home/agent/qotom", shape),
        ("spiffe://home", shape),
        ("spiffe://home/agent", shape),
        ("spiffe://home/user/anna/admin/more", shape),
        ("spiffe:///agent/qotom", site),
        ("spiffe://Home/agent/qotom", site),
        ("spiffe://home:1/agent/qotom", site),
        ("spiffe://home/Agent/qotom", kind),
        ("spiffe://home/root/qotom", kind),
        ("spiffe://home/agent/", host),
        ("spiffe://home/agent/QOTOM", host),
        ("spiffe://home/agent/-qotom", host),
        ("spiffe://home/agent/qotom.home", host),
        ("spiffe://home/agent/qo tom", host),
        ("spiffe://home/agent/qotom?x", host),
        ("spiffe://home/agent/..", host),
        ("spiffe://home/user/root@local/admin", user),
        ("spiffe://home/user/anna%2Fadmin/viewer", user),
        ("spiffe://home/user/anna/root", role),
        ("spiffe://home/user/anna/admin+", role),
        ("spiffe://home/user/anna/approver", role),
        ("spiffe://home/user/anna/admin+approver+approver", role),
        ("spiffe://home/user/anna", grant),
        ("spiffe://home/agent/qotom/admin", grant),
    ] {
        let error = id(text).expect_err(text);
        assert!(is(&error), "{text}: {error:?}");
    }
}

#[test]
fn names_have_a_length_limit() {
    assert!(PeerName::host(&"a".repeat(63)).is_ok());
    assert!(PeerName::host(&"a".repeat(64)).is_err());
}

#[test]
fn roles_include_those_below() {
    assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
}

#[test]
fn kinds_are_those_of_the_protocol() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_proto(kind.to_proto()), Some(kind));
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
    assert_eq!(Kind::from_proto(PeerKind::Unspecified), None);
}

fn certificate(uris: &[&str], is_ca: IsCa) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.is_ca = is_ca;
    params.serial_number = Some(SerialNumber::from_slice(&[0xab, 0x01]));
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("ASCII")));
    }
    params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").into()
}

#[test]
fn a_certificate_names_its_holder() {
    let leaf = certificate(&["spiffe://home/agent/qotom"], IsCa::ExplicitNoCa);
    let peer = Peer::from_certificate(&leaf).expect("a peer");
    assert_eq!(peer.to_string(), "spiffe://home/agent/qotom");
    assert_eq!(peer.serial_hex(), "ab01", "without the sign byte of DER");
    assert!(peer.not_after().is_some());
}

#[test]
fn a_certificate_names_exactly_one_holder() {
    let nobody = certificate(&[], IsCa::NoCa);
    assert_eq!(Peer::from_certificate(&nobody), Err(InvalidCertificate::Uris { found: 0 }));
    let uris = ["spiffe://home/agent/qotom", "spiffe://home/user/anna/admin"];
    let two = certificate(&uris, IsCa::NoCa);
    assert_eq!(Peer::from_certificate(&two), Err(InvalidCertificate::Uris { found: 2 }));
    let foreign = certificate(&["https://example.org"], IsCa::NoCa);
    assert!(matches!(
        Peer::from_certificate(&foreign),
        Err(InvalidCertificate::SpiffeId(InvalidSpiffeId::Shape { .. }))
    ));
}

#[test]
fn a_ca_is_nobody() {
    let ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = certificate(&["spiffe://home/user/anna/admin"], ca);
    assert_eq!(Peer::from_certificate(&ca), Err(InvalidCertificate::IsCa));
}

#[test]
fn bytes_are_not_a_certificate() {
    let junk = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
    assert!(matches!(Peer::from_certificate(&junk), Err(InvalidCertificate::Malformed { .. })));
}

#[test]
fn the_local_admin_has_a_name_that_no_certificate_can_have() {
    let site = TestSite::new("home");
    let root = Peer::local_admin(site.name().clone());
    assert_eq!((root.role(), root.approver()), (Some(Role::Admin), true));
    assert!(PeerName::user(root.name()).is_err());
}
