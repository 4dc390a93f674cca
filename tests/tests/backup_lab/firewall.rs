//! A firewall that gives its configuration to who has the key of its API.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use homelab_common::{
    lifecycle::Tasks,
    secret::Secret,
    tls::{
        Alpn, ClientPolicy, Connection, Facts, Identity, IdentityHandle, Protocol, ServerOptions,
        TlsServer, install_crypto_provider,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
};

/// The two halves of an API key, as OPNsense gives them in a file.
pub(crate) const CREDENTIALS: &str = "key=w86XNZob/8Oq8aC5\nsecret=puOyw0Ega3xZXeD2\n";
/// The same as it is sent.
const LOGIN: &str = "Basic dzg2WE5ab2IvOE9xOGFDNTpwdU95dzBFZ2EzeFpYZUQy\r\n";
const QUESTION: &str = "GET /api/core/backup/download/this HTTP/1.1\r\n";

/// A firewall on loopback.
pub(crate) struct Firewall {
    address: SocketAddr,
    key: String,
    configuration: Arc<RwLock<String>>,
    tasks: Tasks,
    _runtime: Runtime,
}

impl Firewall {
    /// Starts it with the configuration that the agent's own tests use.
    pub(crate) fn start(root: &Path) -> anyhow::Result<Self> {
        install_crypto_provider();
        let file = root.join("backup-agent/testdata/opnsense-config.xml");
        let configuration = fs::read_to_string(&file).context("the sample of a configuration")?;
        let configuration = Arc::new(RwLock::new(configuration));
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec!["OPNsense.internal".to_owned()])?
            .self_signed(&key)?;
        let secret = Secret::new(key.serialize_pem());
        let identity = Identity::from_pem(&certificate.pem(), &secret)?;
        let key = Facts::of(&identity.chain()[0])?.pin.to_string();
        let options = ServerOptions {
            alpn: Alpn::None,
            protocol: Protocol::Tls12And13,
            ..ServerOptions::new(IdentityHandle::new(identity), ClientPolicy::None)
        };
        let (runtime, tasks) = (Runtime::new()?, Tasks::default());
        let _inside = runtime.enter();
        let server = runtime.block_on(TlsServer::bind(([127, 0, 0, 1], 0).into(), options))?;
        let address = server.local_addr();
        let mut incoming = server.start(&tasks);
        let (shared, serving) = (Arc::clone(&configuration), tasks.clone());
        tasks.spawn(async move {
            while let Some(Ok(connection)) = incoming.next().await {
                let shared = Arc::clone(&shared);
                serving.spawn(async move { answer(connection, &shared).await });
            }
        });
        drop(_inside);
        Ok(Self { address, key, configuration, tasks, _runtime: runtime })
    }

    /// Its keys of a `[[backup]]`.
    pub(crate) fn config(&self, credentials: &Path) -> String {
        format!(
            "url = \"https://{}\"\ntls-key = \"{}\"\ncredentials = \"{}\"\nexpect-host = \"fw.home.example\"\n",
            self.address,
            self.key,
            credentials.display()
        )
    }

    /// What it gives.
    pub(crate) fn configuration(&self) -> String {
        self.configuration.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        self.tasks.stop_hard();
    }
}

async fn answer(mut connection: Connection, configuration: &RwLock<String>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let (status, body) = if !request.contains(LOGIN) {
        (401, String::new())
    } else if request.starts_with(QUESTION) {
        (200, configuration.read().unwrap_or_else(PoisonError::into_inner).clone())
    } else {
        (404, String::new())
    };
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    // A client that hangs up early is its own business.
    drop(connection.write_all((head + &body).as_bytes()).await);
    drop(connection.shutdown().await);
}
