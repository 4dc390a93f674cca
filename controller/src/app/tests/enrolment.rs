//! Who gets a certificate.

use homelab_common::clock::ManualClock;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_use_of_a_token_raises_an_alarm_and_spoils_the_token() {
    let lab = Lab::start(free_port()).await;
    let token = lab.token().await;
    let pki = |name: &str| lab.folder.path().join(name);
    lab.enrol(token.clone(), &pki("first")).await.expect("enrolled");
    let error = lab.enrol(token.clone(), &pki("second")).await.expect_err("refused");
    let EnrolError::Refused { status, .. } = &error else { panic!("{error:?}") };
    assert_eq!(reason_of(status).as_deref(), Some("TOKEN_REFUSED"));
    assert!(status.message().contains("alarm"), "{}", status.message());

    let tokens = EnrolmentServiceClient::new(lab.admin())
        .list_tokens(pb::ListTokensRequest::default())
        .await
        .expect("tokens")
        .into_inner()
        .tokens;
    assert!(tokens[0].revoked);
    let status = FleetServiceClient::new(lab.admin())
        .get_status(pb::GetStatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    assert_eq!(status.verdict(), pb::Verdict::Critical);
    assert_eq!(status.concerns[0].reason, "TOKEN_USED_TWICE");
    let third = lab.enrol(token, &pki("third")).await.expect_err("spoilt");
    assert!(matches!(third, EnrolError::Refused { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_exist_and_wrong_proofs_are_answered_alike() {
    let lab = Lab::start(free_port()).await;
    let good = lab.token().await;
    let mut unknown = good.clone();
    unknown.id = [0; 8];
    let mut wrong = good.clone();
    wrong.secret = homelab_common::secret::Secret::new([0; 32]);
    let mut answers = Vec::new();
    for token in [unknown, wrong] {
        match lab.enrol(token, &lab.folder.path().join("pki-of-nobody")).await {
            Err(EnrolError::Refused { status, .. }) => {
                answers.push((status.code(), status.message().to_owned(), reason_of(&status)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers[0], answers[1]);
    lab.enrol(good, &lab.folder.path().join("agent-pki")).await.expect("still good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_proof_does_not_wait_for_the_one_writer() {
    let lab = Lab::start(free_port()).await;
    let mut wrong = lab.token().await;
    wrong.secret = homelab_common::secret::Secret::new([0; 32]);
    let writing = lab.app.context().store.begin().await.expect("the one writer");
    let refused = lab.enrol(wrong, &lab.folder.path().join("pki-of-nobody")).await;
    let Err(EnrolError::Refused { status, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(reason_of(&status).as_deref(), Some("TOKEN_REFUSED"), "{status:?}");
    writing.rollback().await.expect("nothing was written");
}

/// The clock of a host that takes its time whenever it has looked at it: the controller's time goes on
/// by `pause` meanwhile.
#[derive(Debug)]
struct Dawdling {
    time: Arc<ManualClock>,
    pause: Duration,
}

impl Clock for Dawdling {
    fn now(&self) -> jiff::Timestamp {
        let now = self.time.now();
        self.time.advance(self.pause);
        now
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_good_for_five_minutes_over_the_wire_and_not_for_eleven() {
    let time = Arc::new(ManualClock::new(SystemClock.now()));
    let lab = Lab::start_at(free_port(), time.clone()).await;
    let enrol_in = async |minutes: u64, name: &str| {
        let pause = Duration::from_secs(60 * minutes);
        let clock: Arc<dyn Clock> = Arc::new(Dawdling { time: time.clone(), pause });
        let token = lab.token().await;
        let request = EnrolRequest { token, kind: Kind::Agent, address: "127.0.0.1".into() };
        enrol(request, &lab.folder.path().join(name), &clock, &SystemChance).await.map(drop)
    };
    enrol_in(4, "in-time").await.expect("enrolled");
    let late = enrol_in(11, "too-late").await.expect_err("refused");
    let EnrolError::Refused { status, .. } = &late else { panic!("{late:?}") };
    assert!(status.message().contains("the proof does not fit"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_calls_too_often_is_told_when_to_come_back() {
    let lab = Lab::start(free_port()).await;
    let mut target = lab.target();
    target.address = lab.app.bound().enrolment.to_string();
    let channel = lab.dialer(None).dial(target).expect("a target");
    let mut client = EnrolmentServiceClient::new(channel);
    let mut refusals = Vec::new();
    for _ in 0..200 {
        let request = pb::BeginEnrolmentRequest { token_id: "0000000000000000".into() };
        refusals.extend(client.begin_enrolment(request).await.err());
    }
    let refusal = refusals.first().expect("a limit");
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert_eq!(reason_of(refusal).as_deref(), Some("RATE_LIMITED"));
    assert!(refusal.message().contains("come back in 1 s"), "{}", refusal.message());

    // Everybody else is served, and the log has one entry for all of it.
    lab.token().await;
    eventually("the denial is in the log", || async {
        let entries = AuditServiceClient::new(lab.admin())
            .list_audit_entries(pb::ListAuditEntriesRequest::default())
            .await
            .expect("entries")
            .into_inner()
            .entries;
        let strangers = entries.iter().filter(|entry| entry.actor.starts_with("stranger/"));
        let strangers = strangers.count();
        assert!(strangers <= 1, "{entries:?}");
        strangers == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_enrolment_port_answers_strangers_and_only_the_two_methods() {
    let lab = Lab::start(free_port()).await;
    let mut target = lab.target();
    target.address = lab.app.bound().enrolment.to_string();
    let channel = lab.dialer(None).dial(target).expect("a target");
    let begun = EnrolmentServiceClient::new(channel.clone())
        .begin_enrolment(pb::BeginEnrolmentRequest { token_id: "0000000000000000".into() })
        .await
        .expect("answered whether the token exists or not")
        .into_inner();
    assert_eq!(begun.nonce.len(), 32);
    for (path, code) in [
        (
            EnrolmentServiceClient::new(channel.clone())
                .list_tokens(pb::ListTokensRequest::default())
                .await
                .map(drop),
            Code::Unauthenticated,
        ),
        (
            FleetServiceClient::new(channel)
                .list_hosts(pb::ListHostsRequest::default())
                .await
                .map(drop),
            Code::Unauthenticated,
        ),
    ] {
        let status = path.expect_err("refused");
        assert!(
            [code, Code::PermissionDenied, Code::Unimplemented].contains(&status.code()),
            "{status:?}"
        );
    }
}

fn signing_request() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key);
    request.expect("a request").der().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_renews_under_its_own_identity_and_root_signs_people_in() {
    let lab = Lab::start(free_port()).await;
    let pki = lab.folder.path().join("agent-pki");
    lab.enrol(lab.token().await, &pki).await.expect("enrolled");
    let signing_request = signing_request();
    EnrolmentServiceClient::new(lab.channel_as(&pki))
        .renew_certificate(pb::RenewCertificateRequest {
            signing_request: signing_request.clone().into(),
        })
        .await
        .expect("renewed");
    let issued = EnrolmentServiceClient::new(lab.admin())
        .list_certificates(pb::ListCertificatesRequest { name: "x99".into(), ..Default::default() })
        .await
        .expect("certificates")
        .into_inner()
        .certificates;
    let identities: Vec<_> = issued.iter().map(|row| row.identity.as_str()).collect();
    assert_eq!(identities, ["spiffe://home/agent/x99"; 2]);

    let root = dial_unix(&lab.app.bound().admin_socket).expect("a socket");
    let mut root = EnrolmentServiceClient::new(root);
    let signed = root
        .issue_user_certificate(pb::IssueUserCertificateRequest {
            name: "ada".into(),
            role: homelab_proto::common::v1::Role::Operator.into(),
            signing_request: signing_request.clone().into(),
            ..Default::default()
        })
        .await
        .expect("signed")
        .into_inner();
    assert_eq!(signed.identity, "spiffe://home/user/ada/operator");
    let renewal = pb::RenewCertificateRequest { signing_request: signing_request.into() };
    let none = root.renew_certificate(renewal).await.expect_err("has none");
    assert_eq!(none.code(), Code::FailedPrecondition);
    let garbage = root
        .issue_user_certificate(pb::IssueUserCertificateRequest {
            name: "ada".into(),
            role: homelab_proto::common::v1::Role::Operator.into(),
            signing_request: vec![0; 100].into(),
            ..Default::default()
        })
        .await
        .expect_err("refused");
    assert_eq!(garbage.code(), Code::InvalidArgument);
}
