use std::collections::BTreeSet;

use homelab_proto::access::METHODS;

use super::*;
use crate::{
    peer::SiteName,
    status::{metadata_of, reason_of},
    testing::{TestSite, everybody},
};

fn peer(site: &TestSite, id: &SpiffeId) -> Peer {
    let identity = site.identity(id);
    Peer::from_certificate(&identity.chain()[0]).expect("a peer")
}

fn all() -> Vec<&'static Method> {
    METHODS.iter().chain(COMMON).collect()
}

/// What the `access` option of a method says in words, worked out without the code under test.
fn should_pass(access: Access, id: &SpiffeId) -> bool {
    let person = |text: &str| id.grant().is_some_and(|grant| grant.to_string().contains(text));
    let kind = format!("{:?}", id.kind());
    let listed = access.kinds.iter().any(|listed| format!("{listed:?}") == kind);
    let by_role = match access.role {
        Some(Needed::Viewer) => id.kind() == Kind::User,
        Some(Needed::Operator) => person("operator") || person("admin"),
        Some(Needed::Admin) => person("admin"),
        Some(Needed::Approver) => person("+approver"),
        None | Some(Needed::Unspecified) => false,
    };
    access.anonymous || listed || by_role
}

#[test]
fn every_method_lets_in_exactly_whom_its_option_names() {
    let site = TestSite::new("home");
    let at = site.daemon(Kind::Agent, "qotom");
    let peers: Vec<Peer> = everybody(&site).iter().map(|id| peer(&site, id)).collect();
    assert_eq!(peers.len(), 10, "four kinds of daemon, three roles with and without approver");
    let mut looked_at = 0;
    for method in all() {
        let access = method.access.expect("every method has the option");
        for peer in &peers {
            let passed = authorize(method.path, Some(peer), &at);
            let should = should_pass(access, peer.id());
            assert_eq!(passed.is_ok(), should, "{} by {peer}: {passed:?}", method.path);
            looked_at += 1;
        }
    }
    assert!(looked_at >= 10 * 60, "the table has shrunk to {looked_at} cells");
}

#[test]
fn a_higher_role_may_whatever_a_lower_one_may() {
    let site = TestSite::new("home");
    let at = site.daemon(Kind::Controller, "db");
    let open_to = |grant: &str| -> BTreeSet<&str> {
        let peer = peer(&site, &site.user("anna", grant));
        let open = all().into_iter().filter(|row| authorize(row.path, Some(&peer), &at).is_ok());
        open.map(|row| row.path).collect()
    };
    let (viewer, operator, admin) = (open_to("viewer"), open_to("operator"), open_to("admin"));
    assert!(viewer.is_subset(&operator) && operator.is_subset(&admin));
    assert!(viewer.len() < operator.len() && operator.len() < admin.len());
    assert!(admin.is_subset(&open_to("admin+approver")));
}

#[test]
fn an_admin_is_not_an_approver_by_itself() {
    let site = TestSite::new("home");
    let at = site.daemon(Kind::Controller, "db");
    let for_approvers: Vec<&Method> = all()
        .into_iter()
        .filter(|row| row.access.is_some_and(|access| access.role == Some(Needed::Approver)))
        .collect();
    assert!(!for_approvers.is_empty());
    let admin = peer(&site, &site.user("anna", "admin"));
    let approver = peer(&site, &site.user("bert", "viewer+approver"));
    for method in for_approvers {
        let denied = authorize(method.path, Some(&admin), &at).expect_err(method.path);
        assert!(matches!(denied, Denied::RoleTooLow { need: "approver", .. }), "{denied:?}");
        authorize(method.path, Some(&approver), &at).expect(method.path);
    }
}

#[test]
fn a_stranger_gets_to_enrolment_and_no_further() {
    let site = TestSite::new("home");
    let at = site.daemon(Kind::Controller, "db");
    let open: Vec<&str> = all()
        .into_iter()
        .map(|row| row.path)
        .filter(|path| authorize(path, None, &at).is_ok())
        .collect();
    let strangers: Vec<&str> = all()
        .into_iter()
        .map(|row| row.path)
        .filter(|path| authorize_stranger(path).is_ok())
        .collect();
    assert_eq!(open, strangers);
    assert_eq!(
        open,
        [
            "/homelab.controller.v1.EnrolmentService/BeginEnrolment",
            "/homelab.controller.v1.EnrolmentService/FinishEnrolment",
        ]
    );
}

#[test]
fn what_is_not_listed_is_denied_to_everybody() {
    let site = TestSite::new("home");
    let at = site.daemon(Kind::Agent, "qotom");
    let everybody = everybody(&site);
    for path in [
        "",
        "/",
        "/homelab.agent.v1.HostService/Nope",
        "/homelab.agent.v1.HostService/GetHealth/",
        "/homelab.agent.v1.HostService/gethealth",
        "//homelab.agent.v1.HostService/GetHealth",
        "/grpc.health.v1.Health/Nope",
    ] {
        for id in &everybody {
            let denied = authorize(path, Some(&peer(&site, id)), &at).expect_err(path);
            assert!(matches!(denied, Denied::UnknownMethod { .. }), "{path} by {id}: {denied:?}");
        }
        assert_eq!(authorize(path, None, &at), Err(Denied::NoCertificate));
    }
}

#[test]
fn daemons_may_ask_for_the_health_of_the_controller_and_of_nobody_else() {
    let site = TestSite::new("home");
    let agent = peer(&site, &site.daemon(Kind::BackupAgent, "x99"));
    let check = "/grpc.health.v1.Health/Check";
    authorize(check, Some(&agent), &site.daemon(Kind::Controller, "db")).expect("open");
    authorize(check, Some(&agent), &site.daemon(Kind::Agent, "x99")).expect_err("closed");
}

#[test]
fn another_site_is_told_apart_before_the_role_is_looked_at() {
    let site = TestSite::new("home");
    let mine = site.daemon(Kind::Agent, "qotom");
    let away = SiteName::try_new("away").expect("a name");
    let root = Peer::local_admin(away);
    let path = "/homelab.agent.v1.HostService/GetHealth";
    let denied = authorize(path, Some(&root), &mine).expect_err("denied");
    assert_eq!(denied, Denied::OtherSite { theirs: "away".into(), ours: "home".into() });
}

#[test]
fn each_refusal_has_its_code_and_reason() {
    let have: Grant = "viewer".parse().expect("a grant");
    let path = "/homelab.agent.v1.HostService/GetHealth";
    for (denied, code, reason) in [
        (Denied::NoCertificate, Code::Unauthenticated, "NO_CERTIFICATE"),
        (Denied::BadCertificate { what: "x".into() }, Code::Unauthenticated, "CERTIFICATE_INVALID"),
        (Denied::Revoked { serial_hex: "ab".into() }, Code::Unauthenticated, "CERTIFICATE_REVOKED"),
        (Denied::UnknownMethod { path: path.into() }, Code::PermissionDenied, "METHOD_NOT_OPEN"),
        (Denied::WrongKind { path, kind: Kind::Agent }, Code::PermissionDenied, "METHOD_NOT_OPEN"),
        (Denied::RoleTooLow { path, have, need: "admin" }, Code::PermissionDenied, "ROLE_REQUIRED"),
        (
            Denied::OtherSite { theirs: "a".into(), ours: "b".into() },
            Code::PermissionDenied,
            "OTHER_SITE",
        ),
    ] {
        let status = Status::from(denied.clone());
        assert_eq!(status.code(), code, "{denied:?}");
        assert_eq!(reason_of(&status).as_deref(), Some(reason), "{denied:?}");
        assert_eq!(status.message(), denied.to_string());
    }
    let status = Status::from(Denied::RoleTooLow { path, have, need: "admin" });
    assert_eq!(metadata_of(&status, "have").as_deref(), Some("viewer"));
    assert_eq!(metadata_of(&status, "need").as_deref(), Some("admin"));
}
