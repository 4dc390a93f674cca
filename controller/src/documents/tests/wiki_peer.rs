//! A wiki on loopback that answers as Wiki.js 2 does, over TLS with a CA of its own.

use std::{
    fs,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use homelab_common::{
    clock::ManualClock,
    lifecycle::Tasks,
    secret::Secret,
    tls::{ClientPolicy, Identity, IdentityHandle, ServerOptions, TlsServer},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;

use super::rig::{Rig, now};

const TOKEN: &str = "wiki-token";

/// What the wiki says, from the body of a request.
type Script = dyn Fn(&Value) -> Answer + Send + Sync;

enum Answer {
    Json(Value),
    Raw(String),
    /// Many bytes, and no end.
    Flood,
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

/// A CA and the chain and key of a server that it vouches for under this name.
fn vouched(name: &str) -> (String, String, String) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate").pem();
    (ca_pem, leaf, key.serialize_pem())
}

struct Wiki {
    rig: Rig,
    seen: Arc<Seen>,
    // While it lives, the wiki answers.
    tasks: Tasks,
}

impl Wiki {
    /// One that is called `name` and a rig whose source is it, reached as `localhost`.
    async fn new(name: &str, more: &str, script: Box<Script>) -> Self {
        let tasks = Tasks::default();
        let (ca, chain, key) = vouched(name);
        let identity = Identity::from_pem(&chain, &Secret::new(key)).expect("an identity");
        let mut options = ServerOptions::new(IdentityHandle::new(identity), ClientPolicy::None);
        options.clock = Arc::new(ManualClock::new(now()));
        let server =
            TlsServer::bind((Ipv4Addr::LOCALHOST, 0).into(), options).await.expect("bound");
        let port = server.local_addr().port();
        let seen = Arc::new(Seen::default());
        let mut incoming = server.start(&tasks);
        let heard = Arc::clone(&seen);
        tasks.spawn(async move {
            while let Some(accepted) = incoming.next().await {
                let Ok(mut connection) = accepted else { continue };
                let mut request = Vec::new();
                let body = loop {
                    let mut some = [0; 4096];
                    let Ok(read @ 1..) = connection.read(&mut some).await else { break None };
                    request.extend_from_slice(&some[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    if let Ok(body) = serde_json::from_str::<Value>(body) {
                        heard.0.lock().expect("whole").push(head.to_owned());
                        break Some(body);
                    }
                };
                let Some(body) = body else { continue };
                let answer = match script(&body) {
                    Answer::Json(value) => {
                        let text = value.to_string();
                        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}", text.len())
                    }
                    Answer::Raw(text) => text,
                    Answer::Flood => "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &" ".repeat(17 << 20),
                };
                let _sent = connection.write_all(answer.as_bytes()).await;
                let _closed = connection.shutdown().await;
            }
        });
        let rig = Rig::new(&format!(
            "[[context.source]]\nname = \"wiki\"\nwiki = \"https://localhost:{port}\"\n\
             token = \"{{folder}}/token\"\nca-file = \"{{folder}}/ca.pem\"\n{more}"
        ))
        .await;
        let token = rig.folder.path().join("token");
        fs::write(&token, TOKEN).expect("writable");
        let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&token, only_owner).expect("changed");
        fs::write(rig.folder.path().join("ca.pem"), ca).expect("writable");
        // The clock of the certificate check is the rig's.
        Self { rig, seen, tasks }
    }

    async fn end(self) {
        self.tasks.shutdown(std::time::Duration::ZERO).await;
    }
}

fn row(id: u64, path: &str, content_type: &str) -> Value {
    json!({
        "id": id, "path": path, "locale": "en", "title": format!("Page {id}"),
        "contentType": content_type, "isPublished": path != "draft", "isPrivate": path == "private",
        "updatedAt": "2026-09-21T10:00:00.000Z",
    })
}

/// Pages as the real one gives them.
fn pages(body: &Value) -> Answer {
    let query = body["query"].as_str().unwrap_or_default();
    if query.contains("list(") {
        let rows = [
            row(1, "lab/wake", "markdown"),
            row(2, "lab/visual", "html"),
            row(3, "draft", "markdown"),
            row(4, "private", "markdown"),
            row(5, "other/page", "markdown"),
            row(6, "lab/api", "asciidoc"),
        ];
        return Answer::Json(json!({ "data": { "pages": { "list": rows } } }));
    }
    let page = |id: u64, content: &str| json!({ "id": id, "content": content, "updatedAt": "2026-09-21T10:00:00.000Z" });
    Answer::Json(json!({ "data": { "pages": {
        "p1": page(1, "# Wake\nThe magic packet of x99.\n"),
        "p2": page(2, "<h1>Sleep</h1><p>No magic &amp; no packet.</p>"),
        "p6": page(6, "= Api"),
    } } }))
}

async fn trouble(name: &str, script: Box<Script>) -> String {
    let wiki = Wiki::new(name, "", script).await;
    wiki.rig.look().await;
    let trouble = wiki.rig.trouble("wiki").await;
    wiki.end().await;
    trouble
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_everybody_may_read_are_found_with_their_address() {
    let wiki =
        Wiki::new("localhost", "path-prefix = \"lab/\"\nlocale = \"en\"\n", Box::new(pages)).await;
    wiki.rig.look().await;
    let state = wiki.rig.state("wiki").await;
    let refreshed = state.refreshed.unwrap_or_else(|| panic!("{:?}", state.trouble));
    assert_eq!((refreshed.documents, refreshed.skipped), (2, 1));
    assert_eq!(refreshed.notes, ["lab/api: it is neither Markdown nor HTML"]);
    let found =
        wiki.rig.documents.search("packet of x99", &Default::default()).await.expect("found");
    let citation = &found.passages[0].0;
    assert!(citation.url.starts_with("https://localhost:"), "{}", citation.url);
    assert!(citation.url.ends_with("/en/lab/wake"), "{}", citation.url);
    assert_eq!(citation.heading, "Page 1 > Wake");
    let heads = wiki.seen.0.lock().expect("whole").clone();
    assert!(
        heads
            .iter()
            .all(|head| head.starts_with("POST /graphql") && head.contains("Bearer wiki-token"))
    );
    wiki.rig.look().await;
    assert_eq!(
        wiki.seen.0.lock().expect("whole").len(),
        heads.len() + 1,
        "only the list is read again"
    );
    wiki.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_with_status_200_is_a_refusal() {
    let said = trouble(
        "localhost",
        Box::new(|_| {
            Answer::Json(
                json!({ "errors": [{ "message": "Forbidden" }], "data": { "pages": null } }),
            )
        }),
    )
    .await;
    assert!(said.contains("it refused: Forbidden") && said.contains("read:source"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_accepted_is_said_and_a_redirect_is_not_followed() {
    let answer =
        |text: &'static str| -> Box<Script> { Box::new(move |_| Answer::Raw(text.to_owned())) };
    let said =
        trouble("localhost", answer("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"))
            .await;
    assert!(said.contains("the token is not accepted") && !said.contains(TOKEN), "{said}");
    let moved =
        "HTTP/1.1 301 Moved\r\nlocation: https://192.0.2.1/graphql\r\ncontent-length: 0\r\n\r\n";
    let said = trouble("localhost", answer(moved)).await;
    assert!(said.contains("it points elsewhere"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut_off_and_one_of_another_kind_is_said() {
    let said = trouble("localhost", Box::new(|_| Answer::Flood)).await;
    assert!(said.contains("larger than 16777216 bytes"), "{said}");
    let said = trouble("localhost", Box::new(|_| Answer::Json(json!([1, 2])))).await;
    assert!(said.contains("not of Wiki.js 2"), "{said}");
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
    let said = trouble("localhost", Box::new(move |_| Answer::Raw(broken.to_owned()))).await;
    assert!(said.contains("the connection broke"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiki_under_another_name_is_shown_no_token() {
    let wiki = Wiki::new("other.example", "", Box::new(pages)).await;
    wiki.rig.look().await;
    let said = wiki.rig.trouble("wiki").await;
    assert!(said.contains("no TLS connection"), "{said}");
    assert!(wiki.seen.0.lock().expect("whole").is_empty());
    wiki.end().await;
}
