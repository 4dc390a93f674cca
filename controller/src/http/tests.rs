//! Everything that is served over HTTP, through the same router as in the daemon.

mod chat_page;
mod edge;
mod gateway_answers;
mod gateway_batches;
mod gateway_chat;
mod gateway_completions;
mod gateway_context;
mod gateway_limits;
mod gateway_responses;
mod gateway_router;
mod gateway_vectors;
mod job_pages;
mod pages;

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use homelab_common::{chance::SeededChance, exec::SystemExec};
use homelab_domain::{
    ids::JobId,
    job::{JobStateKind as Kind, Record},
};
use homelab_proto::controller::v1::{BackupStrategy, GetStrategyResponse, HostStatus, Schedule};
use homelab_store::{JobFilter, LoginLink, PageRequest};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use ring::digest;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{
    dashboard::{
        backups::{BackupsObserved, one::OneObserved, source::OneSource},
        board::{Board, Source},
        chat::ChatSource,
        jobs::source::JobsSource,
        view::Observed,
        workers::WorkersSource,
    },
    gateway::{cors::Origins, key::KeyRing},
    guard::HostNames,
    session::Sessions,
    *,
};
use crate::{
    documents::{self, Documents},
    job::{
        engines::Contact,
        rig::{Rig, Step},
    },
    login::secret_digest,
};

const FIRST: &str = r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"id":"chatcmpl-1","model":"m","object":"chat.completion.chunk"}"#;
const HELLO: &str = r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hello"}}],  "x_unknown":1.0,"id":"chatcmpl-1"}"#;
const LAST: &str =
    r#"{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"id":"chatcmpl-1"}"#;
const USAGE: &str =
    r#"{"choices":[],"id":"chatcmpl-1","usage":{"total_tokens":3},"timings":{"predicted_n":1}}"#;

fn answer() -> Vec<Step> {
    vec![
        Step::Say("", FIRST),
        Step::Say("Hello", HELLO),
        Step::Say("", LAST),
        Step::Say("", USAGE),
        Step::Done,
    ]
}

#[derive(Debug)]
struct Scenery(Observed);

#[async_trait]
impl Source<Observed> for Scenery {
    async fn observe(&self) -> Result<Observed, Box<dyn Error + Send + Sync>> {
        Ok(self.0.clone())
    }
}

/// One backup called `wiki`, of which nothing is known.
#[derive(Debug)]
struct Shelves;

impl Shelves {
    fn backup() -> BackupStrategy {
        let schedule = Schedule { backup: "wiki".to_owned(), ..Schedule::default() };
        BackupStrategy { schedule: Some(schedule), ..BackupStrategy::default() }
    }
}

#[async_trait]
impl Source<BackupsObserved> for Shelves {
    async fn observe(&self) -> Result<BackupsObserved, Box<dyn Error + Send + Sync>> {
        let strategy =
            GetStrategyResponse { backups: vec![Self::backup()], ..GetStrategyResponse::default() };
        Ok(BackupsObserved { strategy, ..BackupsObserved::default() })
    }
}

#[async_trait]
impl OneSource for Shelves {
    async fn observe_one(
        &self,
        name: &str,
    ) -> Result<Option<OneObserved>, Box<dyn Error + Send + Sync>> {
        let mut observed = OneObserved::default();
        observed.facts.strategy = Self::backup();
        Ok((name == "wiki").then_some(observed))
    }
}

/// Documents over the store of a rig, of which nothing is read by itself.
fn documents(rig: &Rig) -> Documents {
    Documents::new(documents::Parts {
        store: Arc::clone(&rig.store),
        clock: Arc::new(rig.clock.clone()),
        exec: Arc::new(SystemExec),
        site: rig.jobs.parts().site.clone(),
        folder: std::env::temp_dir(),
    })
}

struct Lab {
    rig: Rig,
    gateway: Gateway,
    router: Router,
}

impl Lab {
    async fn new() -> Self {
        let mut observed = Observed::default();
        let name = "<img src=x onerror=alert(1)>".to_owned();
        observed.status.hosts.push(HostStatus { name, ..Default::default() });
        Self::showing(observed).await
    }

    async fn showing(observed: Observed) -> Self {
        Self::over(Rig::new().await, observed)
    }

    /// The same store under a new controller, after the old one was killed.
    async fn restart(self) -> Self {
        Self::over(self.rig.restart().await, Observed::default())
    }

    fn over(rig: Rig, observed: Observed) -> Self {
        let clock: Arc<dyn homelab_common::clock::Clock> = Arc::new(rig.clock.clone());
        let chance: Arc<dyn homelab_common::chance::Chance> = Arc::new(SeededChance::new(3));
        let hash = |key: &str| -> String {
            let hash = digest::digest(&digest::SHA256, key.as_bytes());
            hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let keys: KeyRing = format!(
            "webui {}\nbronze-only {} bronze\nkeeper {} bronze,silver manage-models\n\
                 few {} requests=2/min context=runbooks\nthrifty {} tokens=10/day at-once=1\n",
            hash("sk-webui"),
            hash("sk-bronze"),
            hash("sk-keeper"),
            hash("sk-few"),
            hash("sk-thrifty")
        )
        .parse()
        .expect("is valid");
        let board = Board::new(Arc::new(Scenery(observed)));
        board.start(&rig.tasks);
        let backups = Board::new(Arc::new(Shelves));
        backups.start(&rig.tasks);
        let (keys, metrics) = (Keys::new(keys), Arc::<Metrics>::default());
        let gateway =
            Gateway::new(rig.jobs.clone(), documents(&rig), keys.clone(), Arc::clone(&metrics));
        let web = Web {
            gateway: gateway.clone(),
            guard: Guard {
                names: HostNames::new(["lab.home.arpa".to_owned()]),
                clock: Arc::clone(&clock),
                chance: Arc::clone(&chance),
            },
            dashboard: Dashboard {
                board,
                backups,
                backup: Arc::new(Shelves),
                jobs: Board::new(Arc::new(JobsSource::new(rig.jobs.clone()))),
                job: Arc::new(JobsSource::new(rig.jobs.clone())),
                workers: Board::new(WorkersSource::new(rig.jobs.clone())),
                chat: Board::new(ChatSource::new(rig.jobs.clone())),
                gateway: gateway.clone(),
                sessions: Sessions {
                    store: Arc::clone(&rig.store),
                    clock: Arc::clone(&clock),
                    chance,
                },
                clock,
                tasks: rig.tasks.clone(),
            },
            jobs: rig.jobs.clone(),
            keys,
            origins: Origins::new(["https://chat.home.arpa".to_owned()]),
            metrics,
        };
        Self { rig, gateway, router: web.router() }
    }

    async fn call(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.expect("infallible")
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
        self.call(request(Method::GET, path, headers, Body::empty())).await
    }

    async fn chat(&self, body: &Value, headers: &[(&str, &str)]) -> Response<Body> {
        let mut all = headers.to_vec();
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            all.push(("authorization", "Bearer sk-webui"));
        }
        self.call(request(Method::POST, "/v1/chat/completions", &all, Body::from(body.to_string())))
            .await
    }

    /// A session of jan's, and its cookie.
    async fn log_in(&self) -> String {
        self.log_in_as(homelab_domain::identity::Role::Admin).await
    }

    async fn log_in_as(&self, role: homelab_domain::identity::Role) -> String {
        let link = LoginLink {
            digest: secret_digest("link"),
            user: homelab_domain::ids::UserName::try_new("jan").expect("a name"),
            role,
            approver: false,
            expires_at: self
                .rig
                .clock_now()
                .checked_add(Duration::from_secs(60))
                .expect("in range"),
        };
        let mut tx = self.rig.store.begin().await.expect("a transaction");
        tx.sessions().create_link(&link).await.expect("kept");
        tx.commit().await.expect("kept");
        let response = self.call(form("/login", "token=link", &[])).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        let cookie = response.headers()["set-cookie"].to_str().expect("text").to_owned();
        cookie.split(';').next().expect("a pair").to_owned()
    }

    async fn only_job(&self) -> JobId {
        let page = self
            .rig
            .jobs
            .list(&JobFilter::default(), &PageRequest::first(10))
            .await
            .expect("readable");
        let ids: Vec<_> = page.items.iter().map(homelab_domain::job::Job::id).collect();
        assert_eq!(ids.len(), 1);
        ids[0]
    }
}

fn request(method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut builder =
        Request::builder().method(method).uri(path).header("host", "lab.home.arpa:7480");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body).expect("a request")
}

fn form(path: &str, body: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
    all.extend(headers);
    request(Method::POST, path, &all, Body::from(body.to_owned()))
}

async fn bytes(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.expect("a body").to_bytes()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(bytes(response).await.to_vec()).expect("text")
}

async fn body_json(response: Response<Body>) -> Value {
    serde_json::from_slice(&bytes(response).await).expect("JSON")
}

fn wish(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
}

fn data(chunks: &[&str]) -> String {
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect()
}
