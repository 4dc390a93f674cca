//! Who is let in, who is no longer, and what is written of it.

use super::{
    agent::{ScriptedAgent, serve_agent},
    *,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_closes_an_open_stream_and_reaches_the_agents() {
    let port = free_port();
    let lab = Lab::start(port).await;
    let pki = lab.folder.path().join("agent-pki");
    lab.enrol(lab.token().await, &pki).await.expect("enrolled");
    serve_agent(lab.folder.path(), &pki, port, ScriptedAgent::default()).await;
    eventually("x99 is healthy", || async { lab.state().await == HostState::Healthy }).await;

    // A person with a certificate of her own follows the hosts.
    let eve = lab.person("eve").await;
    let mut watching = FleetServiceClient::new(lab.channel_as(&eve))
        .watch_hosts(pb::WatchHostsRequest {})
        .await
        .expect("a stream")
        .into_inner();
    watching.message().await.expect("a message").expect("a host");

    let revoked = EnrolmentServiceClient::new(lab.admin())
        .revoke_certificate(pb::RevokeCertificateRequest {
            identity: "spiffe://home/user/eve/viewer".into(),
            reason: "she has left".into(),
            ..Default::default()
        })
        .await
        .expect("revoked")
        .into_inner();
    assert_eq!((revoked.revoked, revoked.epoch), (1, 1));

    let ended = async { while let Ok(Some(_)) = watching.message().await {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the stream ends within 5 s");
    let again = FleetServiceClient::new(lab.channel_as(&eve))
        .list_hosts(pb::ListHostsRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(reason_of(&again).as_deref(), Some("CERTIFICATE_REVOKED"));
    eventually("the agent holds epoch 1", || async {
        let view = lab.app.context().fleet.host(&x99()).expect("declared");
        view.daemons[0].deny_list_epoch == Some(1)
    })
    .await;
    let twice = EnrolmentServiceClient::new(lab.admin())
        .revoke_certificate(pb::RevokeCertificateRequest {
            identity: "spiffe://home/user/eve/viewer".into(),
            reason: "she has left".into(),
            ..Default::default()
        })
        .await
        .expect("idempotent")
        .into_inner();
    assert_eq!((twice.revoked, twice.epoch), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_gets_in_by_the_admin_socket_without_a_certificate() {
    let lab = Lab::start(free_port()).await;
    let channel = dial_unix(&lab.app.bound().admin_socket).expect("a socket");
    let site = SiteServiceClient::new(channel.clone())
        .get_site(pb::GetSiteRequest {})
        .await
        .expect("allowed")
        .into_inner();
    assert_eq!(site.name, "home");
    let tasks = SiteServiceClient::new(channel.clone())
        .list_tasks(pb::ListTasksRequest {})
        .await
        .expect("allowed")
        .into_inner()
        .tasks;
    for name in [
        "push-deny-list",
        "renew-own-certificate",
        "expire",
        "keep-lease",
        "observe-hosts",
        "upkeep",
    ] {
        assert!(tasks.iter().any(|task| task.name == name), "{name} is not in {tasks:?}");
    }
    let unbuilt = SiteServiceClient::new(channel.clone())
        .diff_site(pb::DiffSiteRequest {})
        .await
        .expect_err("not built");
    assert_eq!(reason_of(&unbuilt).as_deref(), Some("NOT_BUILT_YET"));
    let link = EnrolmentServiceClient::new(channel)
        .create_login_link(pb::CreateLoginLinkRequest {})
        .await
        .expect("a link")
        .into_inner();
    let begin = format!("https://{}/login/", lab.app.bound().web);
    assert!(link.url.starts_with(&begin), "{}", link.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_and_changing_calls_are_audited_and_the_chain_holds() {
    let lab = Lab::start(free_port()).await;
    let viewer = lab.person("eve").await;
    let denied = EnrolmentServiceClient::new(lab.channel_as(&viewer))
        .create_token(pb::CreateTokenRequest::default())
        .await
        .expect_err("denied");
    assert_eq!(denied.code(), Code::PermissionDenied);
    let stranger = lab.dialer(None).dial(lab.target()).expect("a target");
    let unknown = FleetServiceClient::new(stranger)
        .list_hosts(pb::ListHostsRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(reason_of(&unknown).as_deref(), Some("NO_CERTIFICATE"));

    let entries = || async {
        AuditServiceClient::new(lab.admin())
            .list_audit_entries(pb::ListAuditEntriesRequest::default())
            .await
            .expect("entries")
            .into_inner()
            .entries
    };
    eventually("both denials are in the log", || async {
        let entries = entries().await;
        let denials =
            entries.iter().filter(|entry| entry.outcome() == pb::AuditOutcome::Denied).count();
        denials == 2
    })
    .await;
    let entries = entries().await;
    let eve = entries.iter().find(|entry| entry.actor == "spiffe://home/user/eve/viewer");
    assert!(eve.is_some_and(|entry| entry.action.ends_with("/CreateToken")), "{entries:?}");
    assert!(entries.iter().any(|entry| entry.action == "token/create"));
    let verified = AuditServiceClient::new(lab.admin())
        .verify_audit(pb::VerifyAuditRequest {})
        .await
        .expect("verified")
        .into_inner();
    assert!(verified.intact && verified.entries >= 4, "{verified:?}");
}
