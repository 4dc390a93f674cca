//! The real way out, to a provider on loopback with a CA of its own.

use std::{fs, net::Ipv4Addr, sync::Arc};

use homelab_common::{
    clock::ManualClock,
    lifecycle::Tasks,
    secret::Secret,
    tls::{ClientPolicy, Identity, IdentityHandle, ServerOptions, TlsServer},
};
use homelab_domain::job::{JobState, JobStateKind as Kind};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tokio::io::AsyncWriteExt as _;
use tokio_stream::StreamExt as _;

use super::{
    far::{Far, answer, read_request},
    rig::{House, Rig, asks, usual},
};
use crate::gold::wire::TlsConnector;

/// A CA and the chain and key of a server that it vouches for under these names.
fn vouched(names: &[&str]) -> (String, String, String) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate").pem();
    (ca_pem, leaf, key.serialize_pem())
}

/// A provider on loopback; its port, and the CA that vouches for it.
async fn provider(names: &[&str], tasks: &Tasks, clock: &ManualClock) -> (u16, String) {
    let (ca, chain, key) = vouched(names);
    let identity = Identity::from_pem(&chain, &Secret::new(key)).expect("an identity");
    let mut options = ServerOptions::new(IdentityHandle::new(identity), ClientPolicy::None);
    options.clock = Arc::new(clock.clone());
    let server = TlsServer::bind((Ipv4Addr::LOCALHOST, 0).into(), options).await.expect("bound");
    let port = server.local_addr().port();
    let mut incoming = server.start(tasks);
    tasks.spawn(async move {
        while let Some(accepted) = incoming.next().await {
            let Ok(mut connection) = accepted else { continue };
            let Some((head, _)) = read_request(&mut connection).await else { continue };
            assert!(head.contains("Bearer sk-far-key"));
            let chunks: String = answer("over TLS", 3, 2)
                .iter()
                .map(|chunk| format!("data: {chunk}\r\n\r\n"))
                .collect();
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            let whole = format!("{head}: hello\r\n\r\n{chunks}data: [DONE]\r\n\r\n");
            let _sent = connection.write_all(whole.as_bytes()).await;
            let _closed = connection.shutdown().await;
        }
    });
    (port, ca)
}

async fn asked(names: &[&str], trusts_it: bool) -> (homelab_domain::job::Job, String) {
    let tasks = Tasks::default();
    let clock = ManualClock::new(jiff::Timestamp::from_second(1_790_000_000).expect("a moment"));
    let (port, ca) = provider(names, &tasks, &clock).await;
    let folder = tempfile::tempdir().expect("a folder");
    let ca_file = folder.path().join("ca.pem");
    let other = vouched(&["localhost"]).0;
    fs::write(&ca_file, if trusts_it { ca } else { other }).expect("writable");
    let url = format!("https://localhost:{port}/v1");
    let ca_file = ca_file.display().to_string();
    let far = Arc::new(Far::default());
    let rig = Rig::on(&usual(), "1.00", House::Up, far, tasks, &url, Some(&ca_file), |clock| {
        Arc::new(TlsConnector::new(clock))
    })
    .await;
    rig.run(asks(1, "far-small", "hello")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_reached_over_tls_by_its_own_ca() {
    let (job, text) = asked(&["localhost"], true).await;
    assert_eq!((job.state().kind(), text.as_str()), (Kind::Succeeded, "over TLS"), "{job:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_under_another_name_or_ca_is_shown_neither_key_nor_text() {
    for (names, trusts_it) in [(&["other.example"], true), (&["localhost"], false)] {
        let (job, _) = asked(names, trusts_it).await;
        let JobState::Failed { failure, .. } = job.state() else { panic!("{job:?}") };
        assert!(failure.message.contains("no TLS connection"), "{failure:?}");
    }
}
