use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;

use super::*;
use crate::{clock::ManualClock, lifecycle::Tasks, lock, secret::Secret};

const DEADLINE: Duration = Duration::from_secs(10);

/// A root and an issuing CA below it.
struct Authority {
    root_pem: String,
    issuing: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let root = ca(&format!("{name} root"), 1);
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().expect("a key"))
            .expect("a root");
        let issuing = ca(&format!("{name} issuing"), 0);
        let issuing =
            CertifiedIssuer::signed_by(issuing, KeyPair::generate().expect("a key"), &root)
                .expect("an issuing CA");
        Self { root_pem: root.pem(), issuing }
    }

    fn roots(&self) -> Roots {
        Roots::from_pem(&self.root_pem).expect("roots")
    }

    fn trust(&self) -> TrustHandle {
        TrustHandle::new(self.roots())
    }

    fn identity(&self, name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let uri = format!("spiffe://test/agent/{name}").try_into().expect("a URI");
        params.subject_alt_names.push(SanType::URI(uri));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let leaf = params.signed_by(&key, &self.issuing).expect("a leaf");
        let chain = leaf.pem() + &self.issuing.pem();
        Identity::from_pem(&chain, &Secret::new(key.serialize_pem())).expect("an identity")
    }
}

fn ca(name: &str, below: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A server that sends back what it gets.
struct Echo {
    address: SocketAddr,
    connections: Connections,
    _tasks: Tasks,
}

impl Echo {
    async fn start(options: ServerOptions) -> Self {
        let tasks = Tasks::default();
        let server = TlsServer::bind(([127, 0, 0, 1], 0).into(), options).await.expect("a port");
        let (address, connections) = (server.local_addr(), server.connections());
        let mut incoming = server.start(&tasks);
        let serving = tasks.clone();
        tasks.spawn(async move {
            while let Some(Ok(connection)) = incoming.next().await {
                serving.spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(connection);
                    let _ended = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    async fn connect(&self, options: ClientOptions) -> Result<ClientStream, ConnectError> {
        let client = TlsClient::new(options).expect("a client");
        client.connect(self.address, "agent.test", DEADLINE).await
    }
}

fn server(authority: &Authority) -> ServerOptions {
    let identity = IdentityHandle::new(authority.identity("agent.test"));
    ServerOptions::new(identity, ClientPolicy::Required(authority.trust()))
}

fn client(authority: &Authority) -> ClientOptions {
    let identity = IdentityHandle::new(authority.identity("controller.test"));
    let identity = Some(identity);
    ClientOptions { identity, ..ClientOptions::new(ServerTrust::Roots(authority.trust())) }
}

async fn says_back(stream: &mut ClientStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    assert_eq!(&reply, b"ping");
    Ok(())
}

/// A refusal may come at the handshake or at the first read (TLS 1.3).
async fn refusal(connected: Result<ClientStream, ConnectError>) -> String {
    match connected {
        Err(error) => error.to_string(),
        Ok(mut stream) => says_back(&mut stream).await.expect_err("refused").to_string(),
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let authority = Authority::new("a");
    let echo = Echo::start(server(&authority)).await;
    let mut stream = echo.connect(client(&authority)).await.expect("a connection");
    says_back(&mut stream).await.expect("an echo");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(echo.connections.len(), 1);
    drop(stream);
    eventually("the place is given back", || echo.connections.is_empty()).await;
}

#[tokio::test]
async fn a_connection_tells_who_the_peer_is() {
    let authority = Authority::new("a");
    let tasks = Tasks::default();
    let server = TlsServer::bind(([127, 0, 0, 1], 0).into(), server(&authority)).await;
    let server = server.expect("a port");
    let address = server.local_addr();
    let mut incoming = server.start(&tasks);
    let dialer = TlsClient::new(client(&authority)).expect("a client");
    let stream = dialer.connect(address, "agent.test", DEADLINE).await.expect("a connection");
    let connection = incoming.next().await.expect("an item").expect("a connection");
    let peer = connection.peer();
    assert_eq!(peer.remote, stream.get_ref().0.local_addr().expect("an address"));
    assert_eq!(peer.chain.len(), 2);
    let facts = Facts::of(&peer.chain[0]).expect("facts");
    assert_eq!(facts.uris, ["spiffe://test/agent/controller.test"]);
    assert_eq!(facts.not_after, "2040-01-01T00:00:00Z".parse().expect("a time"));
    assert_eq!(connection.alpn(), Some(b"h2".as_slice()));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new("a");
    let echo = Echo::start(server(&authority)).await;
    let options = ClientOptions { identity: None, ..client(&authority) };
    let reason = refusal(echo.connect(options).await).await;
    assert!(reason.contains("CertificateRequired"), "{reason}");
}

#[tokio::test]
async fn a_certificate_may_be_optional_but_not_wrong() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let mut options = server(&authority);
    options.clients = ClientPolicy::Optional(authority.trust());
    let echo = Echo::start(options).await;
    let anonymous = ClientOptions { identity: None, ..client(&authority) };
    let mut stream = echo.connect(anonymous).await.expect("a connection");
    says_back(&mut stream).await.expect("an echo");
    let stranger = Some(IdentityHandle::new(other.identity("controller.test")));
    let options = ClientOptions { identity: stranger, ..client(&authority) };
    refusal(echo.connect(options).await).await;
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let echo = Echo::start(server(&authority)).await;
    let stranger = Some(IdentityHandle::new(other.identity("controller.test")));
    let options = ClientOptions { identity: stranger, ..client(&authority) };
    let reason = refusal(echo.connect(options).await).await;
    assert!(reason.contains("UnknownCA"), "{reason}");
    assert!(echo.connections.is_empty());
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused_in_words() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let echo = Echo::start(server(&other)).await;
    let reason = refusal(echo.connect(client(&authority)).await).await;
    assert!(reason.contains("not from a CA that is trusted here"), "{reason}");
}

#[tokio::test]
async fn a_server_with_another_name_is_refused() {
    let authority = Authority::new("a");
    let echo = Echo::start(server(&authority)).await;
    let dialer = TlsClient::new(client(&authority)).expect("a client");
    let error = dialer.connect(echo.address, "other.test", DEADLINE).await.expect_err("refused");
    assert!(error.to_string().contains("is for another name"), "{error}");
}

#[tokio::test]
async fn expired_certificates_are_refused_on_both_sides() {
    let authority = Authority::new("a");
    let later: Timestamp = "2041-01-01T00:00:00Z".parse().expect("a time");
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(later));
    let strict = ServerOptions { clock: Arc::clone(&clock), ..server(&authority) };
    let echo = Echo::start(strict).await;
    let reason = refusal(echo.connect(client(&authority)).await).await;
    assert!(reason.contains("CertificateExpired"), "{reason}");
    let echo = Echo::start(server(&authority)).await;
    let options = ClientOptions { clock, ..client(&authority) };
    let reason = refusal(echo.connect(options).await).await;
    assert!(reason.contains("has expired"), "{reason}");
}

/// A deny list of public keys.
fn deny_list(trust: &TrustHandle) -> Arc<Mutex<HashSet<SpkiPin>>> {
    let denied = Arc::new(Mutex::new(HashSet::new()));
    let asked = Arc::clone(&denied);
    trust.replace_revocation(Arc::new(move |certificate| {
        Facts::of(certificate).is_ok_and(|facts| lock(&asked).contains(&facts.pin))
    }));
    denied
}

#[tokio::test]
async fn a_revoked_client_is_refused() {
    let authority = Authority::new("a");
    let trust = authority.trust();
    let denied = deny_list(&trust);
    let options = ServerOptions { clients: ClientPolicy::Required(trust), ..server(&authority) };
    let echo = Echo::start(options).await;
    let options = client(&authority);
    let mut stream = echo.connect(options.clone()).await.expect("a connection");
    says_back(&mut stream).await.expect("an echo");
    let identity = options.identity.clone().expect("an identity");
    lock(&denied).insert(identity.current().facts().pin);
    let reason = refusal(echo.connect(options).await).await;
    assert!(reason.contains("CertificateRevoked"), "{reason}");
}

#[tokio::test]
async fn a_revoked_issuing_ca_takes_its_leaves_along() {
    let authority = Authority::new("a");
    let trust = authority.trust();
    let denied = deny_list(&trust);
    let issuing = Facts::of(authority.issuing.der()).expect("facts");
    lock(&denied).insert(issuing.pin);
    let echo = Echo::start(server(&authority)).await;
    let options = ClientOptions { trust: ServerTrust::Roots(trust), ..client(&authority) };
    let reason = refusal(echo.connect(options).await).await;
    assert!(reason.contains("the certificate of the server is revoked"), "{reason}");
}

#[tokio::test]
async fn revocation_closes_an_open_idle_connection_and_no_other() {
    let authority = Authority::new("a");
    let echo = Echo::start(server(&authority)).await;
    let (options, others) = (client(&authority), client(&authority));
    let mut stream = echo.connect(options.clone()).await.expect("a connection");
    let mut other = echo.connect(others).await.expect("a connection");
    says_back(&mut stream).await.expect("an echo");
    says_back(&mut other).await.expect("an echo");
    let pin = options.identity.expect("an identity").current().facts().pin;
    let closed =
        echo.connections.close_where(|leaf| Facts::of(leaf).is_ok_and(|facts| facts.pin == pin));
    assert_eq!(closed, 1);
    let mut byte = [0];
    let read = tokio::time::timeout(DEADLINE, stream.read(&mut byte)).await.expect("closed");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    says_back(&mut other).await.expect("an echo");
}

#[tokio::test]
async fn identity_and_roots_are_exchanged_while_serving() {
    let (old, new) = (Authority::new("a"), Authority::new("b"));
    let trust = old.trust();
    let options = ServerOptions { clients: ClientPolicy::Required(trust.clone()), ..server(&old) };
    let identity = options.identity.clone();
    let echo = Echo::start(options).await;
    let mut before = echo.connect(client(&old)).await.expect("a connection");
    says_back(&mut before).await.expect("an echo");
    trust.replace_roots(new.roots());
    identity.replace(new.identity("agent.test"));
    let mut after = echo.connect(client(&new)).await.expect("a connection");
    says_back(&mut after).await.expect("an echo");
    refusal(echo.connect(client(&old)).await).await;
    says_back(&mut before).await.expect("an echo");
}

#[tokio::test]
async fn a_slow_handshake_is_dropped() {
    assert_eq!(Limits::default().handshake, Duration::from_secs(5));
    let authority = Authority::new("a");
    let mut options = server(&authority);
    options.limits.handshake = Duration::from_millis(100);
    options.limits.handshakes_max = 1;
    let echo = Echo::start(options).await;
    let mut slow = tokio::net::TcpStream::connect(echo.address).await.expect("a connection");
    let read = tokio::time::timeout(DEADLINE, slow.read(&mut [0])).await.expect("dropped");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let mut next = echo.connect(client(&authority)).await.expect("the place is free again");
    says_back(&mut next).await.expect("an echo");
}

#[tokio::test]
async fn what_is_not_tls_does_no_harm() {
    let authority = Authority::new("a");
    let echo = Echo::start(server(&authority)).await;
    let mut plain = tokio::net::TcpStream::connect(echo.address).await.expect("a connection");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    let mut reply = Vec::new();
    let _reset_or_alert = plain.read_to_end(&mut reply).await;
    assert!(!reply.starts_with(b"HTTP"));
    let mut next = echo.connect(client(&authority)).await.expect("a connection");
    says_back(&mut next).await.expect("an echo");
}

#[tokio::test]
async fn a_peer_has_only_so_many_connections() {
    let authority = Authority::new("a");
    let mut options = server(&authority);
    options.limits.connections_per_peer_max = 2;
    let key: PeerKey = Arc::new(|leaf| Facts::of(leaf).ok()?.uris.into_iter().next());
    options.limits.peer_key = Some(key);
    let echo = Echo::start(options).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = echo.connect(client(&authority)).await.expect("a connection");
        says_back(&mut stream).await.expect("an echo");
        open.push(stream);
    }
    refusal(echo.connect(client(&authority)).await).await;
    open.pop();
    eventually("a place is free", || echo.connections.len() == 1).await;
    let mut stream = echo.connect(client(&authority)).await.expect("a connection");
    says_back(&mut stream).await.expect("an echo");
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let authority = Authority::new("a");
    let mut options = server(&authority);
    options.limits.connections_max = 1;
    let echo = Echo::start(options).await;
    let mut first = echo.connect(client(&authority)).await.expect("a connection");
    says_back(&mut first).await.expect("an echo");
    let waiting = echo.connect(client(&authority));
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "it did not wait");
    drop(first);
    let mut second = waiting.await.expect("a connection");
    says_back(&mut second).await.expect("an echo");
}

#[tokio::test]
async fn the_peer_check_ends_the_handshake_with_its_reason() {
    let authority = Authority::new("a");
    let echo = Echo::start(server(&authority)).await;
    let check: PeerCheck = Arc::new(|chain| {
        let uris = Facts::of(&chain[0]).map_err(|error| error.to_string())?.uris;
        Err(format!("{uris:?} is not a controller"))
    });
    let options = ClientOptions { peer_check: Some(check), ..client(&authority) };
    let reason = refusal(echo.connect(options).await).await;
    assert!(reason.contains("spiffe://test/agent/agent.test"), "{reason}");
    assert!(reason.contains("is not a controller"), "{reason}");
}

async fn pinned(echo: &Echo, pin: SpkiPin) -> Result<ClientStream, ConnectError> {
    echo.connect(ClientOptions::new(ServerTrust::Pin(pin))).await
}

#[tokio::test]
async fn the_first_contact_trusts_the_pinned_ca_alone() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let identity = authority.identity("agent.test").showing_roots(&authority.roots());
    let options = ServerOptions::new(IdentityHandle::new(identity), ClientPolicy::None);
    let echo = Echo::start(options).await;
    let pin_of =
        |authority: &Authority| Facts::of(&authority.roots().certificates()[0]).expect("facts").pin;
    let mut stream = pinned(&echo, pin_of(&authority)).await.expect("a connection");
    says_back(&mut stream).await.expect("an echo");
    let reason = refusal(pinned(&echo, pin_of(&other)).await).await;
    assert!(reason.contains("does not show the CA key that is pinned"), "{reason}");
}

#[tokio::test]
async fn a_pinned_appliance_is_known_by_its_own_key_alone() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    // A name and an issuer that nobody here knows.
    let identity = authority.identity("elsewhere.test");
    let pin = Facts::of(&identity.chain()[0]).expect("facts").pin;
    let options = ServerOptions::new(IdentityHandle::new(identity), ClientPolicy::None);
    let echo = Echo::start(options).await;
    let connect = |pin| echo.connect(ClientOptions::new(ServerTrust::Key(pin)));
    says_back(&mut connect(pin).await.expect("a connection")).await.expect("an echo");
    let wrong = Facts::of(&other.identity("elsewhere.test").chain()[0]).expect("facts").pin;
    let reason = refusal(connect(wrong).await).await;
    assert!(reason.contains(&format!("the server has the key {pin}")), "{reason}");
}

#[tokio::test]
async fn showing_a_pinned_ca_without_being_signed_by_it_does_not_help() {
    let (authority, impostor) = (Authority::new("a"), Authority::new("b"));
    let identity = impostor.identity("agent.test").showing_roots(&authority.roots());
    let options = ServerOptions::new(IdentityHandle::new(identity), ClientPolicy::None);
    let echo = Echo::start(options).await;
    let pin = Facts::of(&authority.roots().certificates()[0]).expect("facts").pin;
    let reason = refusal(pinned(&echo, pin).await).await;
    assert!(reason.contains("not from a CA that is trusted here"), "{reason}");
}

#[tokio::test]
async fn old_tls_is_spoken_only_where_it_is_allowed() {
    let authority = Authority::new("a");
    let (strict, mut web) = (server(&authority), server(&authority));
    web.protocol = Protocol::Tls12And13;
    web.alpn = Alpn::Http2And1;
    let verifier = trust::ServerVerifier { trust: authority.trust(), check: None };
    let identity = IdentityHandle::new(authority.identity("controller.test"));
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("TLS 1.2")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(identity));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    for (options, works) in [(strict, false), (web, true)] {
        let echo = Echo::start(options).await;
        let tcp = tokio::net::TcpStream::connect(echo.address).await.expect("a connection");
        let name = "agent.test".try_into().expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config.clone()));
        assert_eq!(connector.connect(name, tcp).await.is_ok(), works);
    }
}

#[tokio::test]
async fn nobody_listening_is_told_from_not_answering() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let authority = Authority::new("a");
    let dialer = TlsClient::new(client(&authority)).expect("a client");
    let short = Duration::from_millis(50);
    let silent = dialer.connect(address, "agent.test", short).await.expect_err("silent");
    assert!(matches!(silent, ConnectError::Deadline { .. }), "{silent}");
    drop(listener);
    let nobody = dialer.connect(address, "agent.test", DEADLINE).await.expect_err("nobody");
    assert!(matches!(nobody, ConnectError::Unreachable { .. }), "{nobody}");
    let unnamed = dialer.connect(address, "not a name", DEADLINE).await.expect_err("no name");
    assert!(matches!(unnamed, ConnectError::ServerName { .. }), "{unnamed}");
}

#[tokio::test]
async fn the_server_stops_accepting_with_its_tasks() {
    let authority = Authority::new("a");
    let tasks = Tasks::default();
    let server = TlsServer::bind(([127, 0, 0, 1], 0).into(), server(&authority)).await;
    let mut incoming = server.expect("a port").start(&tasks);
    assert!(tasks.shutdown(DEADLINE).await);
    assert!(incoming.next().await.is_none());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let authority = Authority::new("a");
    let first = TlsServer::bind(([127, 0, 0, 1], 0).into(), server(&authority)).await;
    let address = first.as_ref().expect("a port").local_addr();
    let error = TlsServer::bind(address, server(&authority)).await.expect_err("taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn an_identity_is_loaded_from_its_directory() {
    use std::os::unix::fs::PermissionsExt;

    let authority = Authority::new("a");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["agent.test".to_owned()]).expect("a name");
    let leaf = params.signed_by(&key, &authority.issuing).expect("a leaf");
    let dir = tempfile::tempdir().expect("a scratch directory");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("file");
    write("cert.pem", &leaf.pem());
    write("ca.pem", &authority.root_pem);
    write("key.pem", &key.serialize_pem());
    let key_file = dir.path().join("key.pem");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&key_file, open).expect("chmod");
    assert!(matches!(Identity::from_dir(dir.path()), Err(IdentityError::Key(_))));
    let closed = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&key_file, closed).expect("chmod");
    let identity = Identity::from_dir(dir.path()).expect("an identity");
    assert_eq!(identity.facts().dns_names, ["agent.test"]);
    assert_eq!(Roots::from_dir(dir.path()).expect("roots").certificates().len(), 1);
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = Authority::new("a");
    let key = Secret::new(KeyPair::generate().expect("a key").serialize_pem());
    let error = Identity::from_pem(&authority.issuing.pem(), &key).expect_err("a mismatch");
    assert!(matches!(error, IdentityError::Mismatch(_)), "{error}");
    assert!(matches!(Identity::from_pem("", &key), Err(IdentityError::Chain)));
    assert!(matches!(Roots::from_pem("nothing"), Err(RootsError::Pem)));
}

#[test]
fn pins_are_read_as_they_are_shown() {
    let pin = SpkiPin::of_spki(b"key");
    assert_eq!(pin.to_string().parse(), Ok(pin));
    for bad in ["", "sha256:", "sha256:00", "md5:00", &"g".repeat(71)] {
        assert_eq!(bad.parse::<SpkiPin>(), Err(InvalidPin), "{bad}");
    }
}
