//! Every method of the protocol against everybody who may try it, over real TLS. The server under test
//! has no services of its own, so that a caller who is let in is told UNIMPLEMENTED and nobody else is.

use homelab_common::tls::Identity;
use homelab_proto::{
    access::{Access, METHODS},
    common::v1::{PeerKind, Role as RoleOption},
};
use homelab_rpc::{
    deny_list::DenyList,
    dial::Dialer,
    peer::{Kind, Role, SpiffeId},
    status::reason_of,
    testing::{TestSite, Validity, everybody},
};
use http::uri::PathAndQuery;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::{Agent, deny};

/// Methods that the server under test really has; they are matched by [`super`] one by one.
const REAL: &str = "/homelab.common.v1.NodeService/";

/// Calls a method with an empty message, whatever it takes.
async fn call(channel: &Channel, path: &'static str) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<(), ()>::default();
    client.unary(Request::new(()), PathAndQuery::from_static(path), codec).await.map(drop)
}

fn rows() -> impl Iterator<Item = (&'static str, Access)> {
    METHODS
        .iter()
        .filter(|row| !row.path.starts_with(REAL))
        .map(|row| (row.path, row.access.expect("every method has the option")))
}

/// Who is let in, said once more in other words than the product's: by counting roles up.
fn is_let_in(id: &SpiffeId, access: Access) -> bool {
    let kind = id.kind().to_proto();
    if access.anonymous {
        return true;
    }
    if kind != PeerKind::User {
        return access.kinds.contains(&kind);
    }
    match access.role {
        None => false,
        Some(RoleOption::Approver) => id.approver(),
        Some(needed) => {
            let rank = match id.role() {
                Some(Role::Viewer) => RoleOption::Viewer,
                Some(Role::Operator) => RoleOption::Operator,
                Some(Role::Admin) => RoleOption::Admin,
                None => return false,
            };
            i32::from(rank) >= i32::from(needed)
        }
    }
}

#[tokio::test]
async fn every_method_opens_to_those_whom_its_option_names_and_to_nobody_else() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    for id in everybody(&site) {
        let channel = agent.channel(&site.dialer(&id));
        for (path, access) in rows() {
            let status = call(&channel, path).await.expect_err("the server has no such service");
            let wanted =
                if is_let_in(&id, access) { Code::Unimplemented } else { Code::PermissionDenied };
            assert_eq!(status.code(), wanted, "{path} by {id}: {}", status.message());
        }
    }
}

#[tokio::test]
async fn without_a_certificate_every_method_but_those_of_enrolment_is_shut() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let channel = agent.channel(&Dialer::new(site.name().clone(), site.trust()));
    for (path, access) in rows() {
        let status = call(&channel, path).await.expect_err("the server has no such service");
        let shut = reason_of(&status).as_deref() == Some("NO_CERTIFICATE");
        assert_eq!(shut, !access.anonymous, "{path}: {}", status.message());
    }
}

#[tokio::test]
async fn with_another_ca_or_after_its_end_a_certificate_opens_no_method() {
    let (site, other) = (TestSite::new("home"), TestSite::new("home"));
    let agent = Agent::start(&site).await;
    for id in everybody(&site) {
        for leaf in [other.leaf(&id), site.leaf_valid(&id, Validity::Ended)] {
            // The handshake fails, before any method is named: one call stands for all.
            let identity: Identity = leaf.identity();
            let channel = agent.channel(&site.dialer_with(identity));
            let (path, _) = rows().next().expect("there are methods");
            let status = call(&channel, path).await.expect_err("refused");
            assert_eq!(reason_of(&status), None, "{id}: {}", status.message());
            assert_ne!(status.code(), Code::Unimplemented, "{id}");
        }
    }
    assert!(agent.seen.find(|_| true).is_none(), "no call reached the server");
}

#[tokio::test]
async fn once_revoked_a_certificate_opens_no_method() {
    let site = TestSite::new("home");
    let deny_list = DenyList::default();
    let agent = Agent::start_with(&site, |builder| builder, deny_list).await;
    let controller = site.daemon(Kind::Controller, "controller");
    let mut node = super::NodeServiceClient::new(agent.channel(&site.dialer(&controller)));
    let admin = site.user("anna", "admin+approver");
    let leaf = site.leaf(&admin);
    let serial = leaf.identity().facts().serial.clone();
    node.put_deny_list(deny(&site, 1, &serial)).await.expect("the deny list is taken");
    let channel = agent.channel(&site.dialer_with(leaf.identity()));
    for (path, _) in rows() {
        let status = call(&channel, path).await.expect_err("revoked");
        assert_eq!(reason_of(&status).as_deref(), Some("CERTIFICATE_REVOKED"), "{path}");
    }
}
