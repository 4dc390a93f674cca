//! The limits of every server, met with their real figures over real TLS.

use homelab_rpc::serve::STREAMS_MAX_CONTROLLER;
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckResponse;

use super::*;

/// What `tls_options` allows one identity.
const CONNECTIONS_MAX: usize = 16;

/// What `Limits::default` allows at once.
const HANDSHAKES_MAX: usize = 64;

/// What waits does not come within this time.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn one_identity_has_sixteen_connections_and_another_one_still_gets_in() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let anna = site.dialer(&site.user("anna", "viewer"));
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut client = NodeServiceClient::new(agent.channel(&anna));
        client.get_node(GetNodeRequest {}).await.expect("let in");
        open.push(client);
    }
    agent.node(&anna).await.expect_err("the seventeenth is closed after its handshake");
    agent.node(&site.dialer(&site.user("bert", "viewer"))).await.expect("another identity");
    drop(open.pop());
    eventually("a place is free again", async || agent.node(&anna).await.ok()).await;
}

#[tokio::test]
async fn a_connection_of_the_controller_carries_128_calls_and_the_next_waits() {
    let site = TestSite::new("home");
    let change = |builder: homelab_rpc::serve::Builder| builder.streams_max(STREAMS_MAX_CONTROLLER);
    let agent = Agent::start_with(&site, change, DenyList::default()).await;
    let channel = agent.channel(&site.dialer(&site.user("anna", "viewer")));
    let watch = async || -> tonic::Streaming<HealthCheckResponse> {
        let mut client = HealthClient::new(channel.clone());
        let service = String::new();
        let mut stream =
            client.watch(HealthCheckRequest { service }).await.expect("open").into_inner();
        stream.message().await.expect("readable").expect("a first message");
        stream
    };
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX_CONTROLLER {
        open.push(watch().await);
    }
    let one_more = tokio::time::timeout(A_WHILE, watch()).await;
    assert!(one_more.is_err(), "129 calls at once");
    drop(open.pop());
    tokio::time::timeout(PATIENCE, watch()).await.expect("a place is free again");
}

#[tokio::test]
async fn sixty_four_silent_callers_hold_up_the_next_for_no_longer_than_a_handshake_may_last() {
    let site = TestSite::new("home");
    let agent = Agent::start(&site).await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX {
        silent.push(TcpStream::connect(&agent.address).await.expect("accepted"));
    }
    let anna = site.dialer(&site.user("anna", "viewer"));
    let early = tokio::time::timeout(A_WHILE, agent.node(&anna)).await;
    assert!(early.is_err(), "all handshakes are taken: {early:?}");
    eventually("the silent ones are dropped", async || agent.node(&anna).await.ok()).await;
}
