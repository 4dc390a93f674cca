//! A firewall that answers by a script, and what becomes of its configuration.

use std::{
    fs,
    io::Read,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::StreamExt as _;
use homelab_common::{
    clock::SystemClock,
    exec::{Exec, Program, SystemExec},
    lifecycle::Tasks,
    secret::Secret,
    tls::{
        Alpn, ClientPolicy, Connection, Facts as CertificateFacts, Identity, IdentityHandle,
        Protocol, ServerOptions, ServerTrust, SpkiPin, TlsServer,
    },
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    api::Credentials,
    publish::{Author, Push},
    redact::paths::Pattern,
    *,
};
use crate::{
    blocking,
    drill::{
        Verdict,
        folder::{Examination, FolderTools},
    },
    progress::Progress,
    source::git::{
        GitTools,
        remote::{Login, Remote},
    },
};

/// A firewall that answers with what it is told.
struct Firewall {
    port: u16,
    pin: SpkiPin,
    answer: Arc<Mutex<(u16, Vec<u8>)>>,
    _tasks: Tasks,
}

impl Firewall {
    async fn start() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["OPNsense.internal".to_owned()];
        let certificate =
            rcgen::CertificateParams::new(names).expect("names").self_signed(&key).expect("a leaf");
        let key = Secret::new(key.serialize_pem());
        let identity = Identity::from_pem(&certificate.pem(), &key).expect("an identity");
        let pin = CertificateFacts::of(&identity.chain()[0]).expect("facts").pin;
        let options = ServerOptions {
            alpn: Alpn::None,
            protocol: Protocol::Tls12And13,
            ..ServerOptions::new(IdentityHandle::new(identity), ClientPolicy::None)
        };
        let tasks = Tasks::default();
        let server = TlsServer::bind(([127, 0, 0, 1], 0).into(), options).await.expect("a port");
        let port = server.local_addr().port();
        let mut incoming = server.start(&tasks);
        let answer = Arc::new(Mutex::new((200, sample::config().into_bytes())));
        let (shared, serving) = (Arc::clone(&answer), tasks.clone());
        tasks.spawn(async move {
            while let Some(Ok(connection)) = incoming.next().await {
                let answer = Arc::clone(&shared);
                serving.spawn(async move { serve(connection, &answer).await });
            }
        });
        Self { port, pin, answer, _tasks: tasks }
    }

    fn answers(&self, status: u16, body: impl Into<Vec<u8>>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = (status, body.into());
    }

    fn source(&self) -> OpnsenseSource {
        let file = Secret::new("key=w86XNZob/8Oq8aC5\nsecret=puOyw0Ega3xZXeD2\n".to_owned());
        OpnsenseSource {
            api: Api {
                address: format!("https://127.0.0.1:{}", self.port).parse().expect("an address"),
                trust: ServerTrust::Key(self.pin),
                credentials: Credentials::parse(&file).expect("credentials"),
                clock: Arc::new(SystemClock),
            },
            expected: Expected::default(),
            paths: Paths::with(Vec::new(), Vec::new()),
            publication: None,
            clock: Arc::new(SystemClock),
        }
    }
}

async fn serve(mut connection: Connection, answer: &Mutex<(u16, Vec<u8>)>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let login = STANDARD.encode("w86XNZob/8Oq8aC5:puOyw0Ega3xZXeD2");
    let known = request.contains(&format!("Basic {login}\r\n"));
    let asked = request.starts_with("GET /api/core/backup/download/this HTTP/1.1\r\n");
    let (status, body) = match (known, asked) {
        (false, _) => (401, br#"{"status":401,"message":"Authentication Failed"}"#.to_vec()),
        (true, false) => (404, Vec::new()),
        (true, true) => answer.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    };
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/octet-stream\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A client that hangs up early is its own business.
    drop(connection.write_all(head.as_bytes()).await);
    drop(connection.write_all(&body).await);
    drop(connection.shutdown().await);
}

fn run_of(number: u128) -> RunId {
    RunId::from(Uuid::from_u128(number))
}

type Taken = (Manifest, Vec<(String, Vec<u8>)>);

async fn take(source: &OpnsenseSource, run: u128) -> Result<Taken, SourceError> {
    let context = Context {
        run: run_of(run),
        backup: "firewall".parse().expect("a name"),
        key: "a secret of the backup".to_owned(),
        last_items: None,
        cancel: CancellationToken::new(),
        before: crate::source::Before::default(),
    };
    let capture = source.begin(context).await?;
    let reading = blocking::run(move || {
        let read = |mut file: Incoming| {
            let mut bytes = Vec::new();
            file.content.read_to_end(&mut bytes).expect("the stream");
            (file.name, bytes)
        };
        capture.files.into_iter().map(read).collect::<Vec<_>>()
    });
    let (files, manifest) = tokio::join!(reading, capture.completion);
    Ok((manifest?, files))
}

fn contents(manifest: &Manifest) -> &OpnsenseContents {
    match &manifest.contents {
        Contents::Opnsense(contents) => contents,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_whole_file_is_stored_as_it_came_and_counted() {
    let firewall = Firewall::start().await;
    let (manifest, files) = take(&firewall.source(), 1).await.expect("a run");
    assert_eq!(files[0], (CONFIG_FILE.to_owned(), sample::config().into_bytes()));
    assert_eq!(Manifest::from_bytes(&files[1].1).expect("a manifest"), manifest);
    assert_eq!(manifest.files[0].sha256, Sha256::of(&files[0].1));
    let facts = &contents(&manifest).facts;
    assert_eq!((facts.interfaces.len(), facts.vlans.len(), facts.counts["rules"]), (4, 2, 3));
    assert_eq!(manifest.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn whatever_is_no_configuration_is_refused() {
    let firewall = Firewall::start().await;
    let source = firewall.source();
    let login = "<!DOCTYPE html>\n<html><body>Login</body></html>";
    let whole = sample::config();
    let cut: String = whole.chars().take(2_000).collect();
    let small = "<opnsense><system><hostname>x</hostname><user/></system><interfaces><lan/>\
                 </interfaces><revision><time>1</time></revision></opnsense>";
    for (status, body, expected) in [
        (200, "", "answered with nothing"),
        (200, login, "a web page came"),
        (200, cut.as_str(), "not well-formed"),
        (200, small, "fewer than any real one"),
        (200, "<pfsense></pfsense>", "`pfsense`"),
        (401, "{}", "does not accept the API key (401)"),
        (403, "{}", "Diagnostics: Configuration History"),
        (503, "busy", "answered 503"),
    ] {
        firewall.answers(status, body);
        let error = take(&source, 1).await.expect_err("no configuration");
        let text = Chain(&error).to_string();
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[tokio::test]
async fn a_firewall_with_another_key_gets_no_credentials() {
    let (firewall, other) = (Firewall::start().await, Firewall::start().await);
    let mut source = firewall.source();
    source.api.trust = ServerTrust::Key(other.pin);
    let error = take(&source, 1).await.expect_err("another key");
    let text = Chain(&error).to_string();
    assert!(text.contains("pinned is"), "{text}");
}

#[tokio::test]
async fn the_owners_inventory_is_a_warning_where_it_differs() {
    let firewall = Firewall::start().await;
    let mut source = firewall.source();
    source.expected = Expected { vlans: vec![20, 30, 90], ..Expected::default() };
    let (manifest, _) = take(&source, 1).await.expect("a run");
    assert_eq!(manifest.warnings, ["VLAN 90 is expected and not there"]);
}

/// A Git repository to publish into, with a server to push to.
struct Tree {
    folder: TempDir,
}

impl Tree {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["scratch", "tree"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let tree = Self { folder };
        let home = tree.folder.path().to_owned();
        git(&home, &["init", "--quiet", "--bare", "--initial-branch=main", "docs.git"]).await;
        git(&tree.path(), &["init", "--quiet", "--initial-branch=main"]).await;
        fs::write(tree.path().join("README.md"), "docs").expect("a file");
        fs::write(tree.path().join(".gitignore"), "*.xml\n").expect("a file");
        git(&tree.path(), &["add", "README.md", ".gitignore"]).await;
        git(&tree.path(), &["commit", "--quiet", "-m", "docs"]).await;
        tree
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("tree")
    }

    fn publication(&self) -> Publication {
        let base = format!("file://{}", self.folder.path().display());
        let remote =
            Remote { base: base.parse().expect("an address"), login: Login::None, tls_root: None };
        Publication {
            tree: self.path(),
            file: "opnsense/config.xml".into(),
            author: Author { name: "backup".to_owned(), mail: "backup@home.example".to_owned() },
            push: Some(Push { url: remote.url(&"docs".parse().expect("a name")), remote }),
            tools: GitTools {
                exec: Arc::new(SystemExec),
                clock: Arc::new(SystemClock),
                git: "git".to_owned(),
                scratch: self.folder.path().join("scratch"),
                deadline: Duration::from_secs(60),
            },
        }
    }

    async fn log(&self) -> Vec<String> {
        let text = git(&self.path(), &["log", "--format=%an: %s"]).await;
        text.lines().map(str::to_owned).collect()
    }
}

async fn git(directory: &Path, args: &[&str]) -> String {
    let program = Program::new("git")
        .args(args.iter().copied())
        .directory(directory)
        .env("HOME", directory.display().to_string())
        .env("GIT_AUTHOR_NAME", "me")
        .env("GIT_AUTHOR_EMAIL", "me@home.example")
        .env("GIT_COMMITTER_NAME", "me")
        .env("GIT_COMMITTER_EMAIL", "me@home.example");
    let output = SystemExec.run(program).await.expect("git; apt install git");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn the_copy_in_git_shows_every_change_and_no_secret() {
    let firewall = Firewall::start().await;
    let tree = Tree::new().await;
    let mut source = firewall.source();
    source.publication = Some(tree.publication());
    let (manifest, _) = take(&source, 1).await.expect("a run");
    let Published::Committed { commit } = &contents(&manifest).redacted else {
        panic!("{:?}", contents(&manifest).redacted)
    };
    assert!(contents(&manifest).masked >= 6);
    let copy = fs::read_to_string(tree.path().join("opnsense/config.xml")).expect("a copy");
    for secret in sample::SECRETS {
        assert!(!copy.contains(secret), "{secret}");
    }
    assert!(copy.contains("no telemetry &amp; no ads") && copy.contains("JHbGsQn2c0y7xL5"));
    assert_eq!(
        tree.log().await,
        ["backup: fw.home.example: configuration of 2025-11-23T02:40:00Z", "me: docs"]
    );
    let pushed = git(&tree.folder.path().join("docs.git"), &["rev-parse", "main"]).await;
    assert_eq!(&pushed, commit);

    // Only the time of the revision: nothing that anybody would read.
    let touched = sample::config().replace("1763865600", "1763952000");
    firewall.answers(200, touched);
    let (manifest, _) = take(&source, 2).await.expect("a run");
    assert_eq!(contents(&manifest).redacted, Published::Unchanged { commit: commit.clone() });

    firewall.answers(200, sample::config().replace("cf-token-Zx81kQ", "cf-token-Qk18xZ"));
    let (manifest, _) = take(&source, 3).await.expect("a run");
    assert!(matches!(contents(&manifest).redacted, Published::Committed { .. }));
    let diff = git(&tree.path(), &["diff", "--unified=0", "HEAD~1", "HEAD"]).await;
    let lines: Vec<&str> = diff.lines().filter(|line| line.contains("dns_cf_token")).collect();
    assert_eq!(lines.len(), 2, "{diff}");
    assert!(!diff.contains("Qk18xZ"), "{diff}");
}

#[tokio::test]
async fn what_may_be_a_secret_refuses_the_commit_but_not_the_backup() {
    let firewall = Firewall::start().await;
    let tree = Tree::new().await;
    let unknown = "<New><answer>Kx8vQ2mZp4Lr7TnW3sYbHc9d</answer></New>";
    let config = sample::config().replace("<OPNsense>", &format!("<OPNsense>{unknown}"));
    firewall.answers(200, config.clone());
    let mut source = firewall.source();
    source.publication = Some(tree.publication());
    let (manifest, files) = take(&source, 1).await.expect("a run");
    assert_eq!(files[0].1, config.as_bytes());
    let path = "/opnsense/OPNsense/New/answer";
    let refused = Published::Refused { paths: vec![path.to_owned()] };
    assert_eq!(contents(&manifest).redacted, refused);
    let warning = &manifest.warnings[0];
    assert!(warning.contains(path) && warning.contains("secret-paths"), "{warning}");
    assert!(!warning.contains("Kx8vQ2mZp4"), "{warning}");
    assert_eq!(tree.log().await.len(), 1);
    assert!(!tree.path().join("opnsense").exists());

    let pattern: Pattern = path.parse().expect("a path");
    source.paths = Paths::with(vec![pattern], Vec::new());
    let (manifest, _) = take(&source, 2).await.expect("a run");
    assert!(matches!(contents(&manifest).redacted, Published::Committed { .. }));
}

#[tokio::test]
async fn nothing_is_committed_into_the_work_of_others() {
    let firewall = Firewall::start().await;
    let tree = Tree::new().await;
    fs::write(tree.path().join("README.md"), "half done").expect("a file");
    git(&tree.path(), &["add", "README.md"]).await;
    let mut source = firewall.source();
    source.publication = Some(tree.publication());
    let (manifest, _) = take(&source, 1).await.expect("a run");
    let Published::Failed { reason } = &contents(&manifest).redacted else { panic!("committed") };
    assert!(reason.contains("staged changes"), "{reason}");
    assert_eq!(tree.log().await.len(), 1);
}

async fn examined(manifest: Manifest, config: Vec<u8>) -> Verdict {
    blocking::run(move || {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(CONFIG_FILE), config).expect("a file");
        let tools = FolderTools {
            exec: Arc::new(SystemExec),
            clock: Arc::new(SystemClock),
            run_max: Duration::from_secs(60),
        };
        let (target, cancel) = ("nas".parse().expect("a name"), CancellationToken::new());
        let examination = Examination {
            run: run_of(9),
            target: &target,
            tools: &tools,
            work: folder.path(),
            cancel: &cancel,
            progress: &Progress::unwatched(),
        };
        examine(folder.path(), contents(&manifest), &examination).expect("a look").verdict
    })
    .await
}

#[tokio::test]
async fn a_drill_counts_again_and_compares_with_the_inventory() {
    let firewall = Firewall::start().await;
    let (mut manifest, files) = take(&firewall.source(), 1).await.expect("a run");
    let config = files[0].1.clone();
    assert_eq!(examined(manifest.clone(), config.clone()).await, Verdict::Passed);
    let other =
        sample::config().replace("<user uuid", "<admin uuid").replace("</user>", "</admin>");
    let Verdict::Failed { differences } = examined(manifest.clone(), other.into()).await else {
        panic!("passed")
    };
    assert!(differences[0].contains("no user"), "{differences:?}");
    if let Contents::Opnsense(contents) = &mut manifest.contents {
        contents.expected.interfaces.push("opt7".to_owned());
    }
    let Verdict::Failed { differences } = examined(manifest, config).await else {
        panic!("passed")
    };
    assert_eq!(differences, ["interface `opt7` is expected and not there"]);
}
