mod gateway_batches;
mod gateway_limits;
mod gateway_responses;
mod gateway_router;
mod gateway_vectors;
mod job_pages;

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use homelab_common::chance::SeededChance;
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
                 few {} requests=2/min\nthrifty {} tokens=10/day at-once=1\n",
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
        let gateway = Gateway::new(rig.jobs.clone(), keys.clone(), Arc::clone(&metrics));
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
        let link = LoginLink {
            digest: secret_digest("link"),
            user: homelab_domain::ids::UserName::try_new("jan").expect("a name"),
            role: homelab_domain::identity::Role::Admin,
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

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_engines_own_bytes() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let response = lab.chat(&wish("small", true), &[]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(text(response).await, data(&[FIRST, HELLO, LAST, "[DONE]"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_chunk_comes_when_it_is_asked_for() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let mut wish = wish("small", true);
    wish["stream_options"] = json!({"include_usage": true});
    assert_eq!(
        text(lab.chat(&wish, &[]).await).await,
        data(&[FIRST, HELLO, LAST, USAGE, "[DONE]"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_put_together_from_the_pieces() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let response = lab.chat(&wish("small", false), &[]).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let answer = body_json(response).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!((&answer["x_unknown"], &answer["usage"]["total_tokens"]), (&json!(1.0), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_reaches_the_engine_byte_for_byte() {
    let lab = Lab::new().await;
    let body = r#"{ "model":"small", "x_future":[1e3,{"deep":null}], "messages":[{"role":"user","content":"é"}] }"#;
    let headers = [("authorization", "Bearer sk-webui")];
    lab.call(request(Method::POST, "/v1/chat/completions", &headers, Body::from(body))).await;
    let requests = lab.rig.engines.requests();
    assert_eq!(requests[0].openai_request, body.as_bytes());
    assert_eq!(requests[0].model, "small");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_gets_headers_and_a_comment_at_once() {
    let lab = Lab::new().await;
    let response = lab.chat(&wish("large", true), &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let first = body.frame().await.expect("a frame").expect("fine").into_data().expect("data");
    assert_eq!(first, ": queued position=1 tier=silver reason=WORKER_ASLEEP\n\n");
    lab.rig.engines.contact("x99", Contact::Connected);
    lab.rig.engines.script(answer());
    lab.rig.round().await;
    let rest = body.collect().await.expect("a body").to_bytes();
    assert_eq!(rest, data(&[FIRST, HELLO, LAST, "[DONE]"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_open_webui_is_sent_status_events() {
    let lab = Lab::new().await;
    let response = lab.chat(&wish("large", true), &[("x-openwebui-chat-id", "c1")]).await;
    lab.rig.engines.contact("x99", Contact::Connected);
    lab.rig.engines.script(answer());
    lab.rig.round().await;
    let text = text(response).await;
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .filter(|event: &Value| event.get("event").is_some())
        .collect();
    assert_eq!(events.len(), 2, "{text}");
    assert_eq!(events[0]["event"]["data"]["done"], false);
    assert!(events[0]["event"]["data"]["description"].as_str().expect("text").contains("silver"));
    assert_eq!(events[1]["event"]["data"]["done"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_the_engine() {
    for stream in [true, false] {
        let lab = Lab::new().await;
        lab.rig.engines.script(vec![Step::Say("", FIRST), Step::Hang]);
        let router = lab.router.clone();
        let body = Body::from(wish("small", stream).to_string());
        let headers = [("authorization", "Bearer sk-webui")];
        let call = router.oneshot(request(Method::POST, "/v1/chat/completions", &headers, body));
        let mut call = Box::pin(async move {
            let response = call.await.expect("infallible");
            response.into_body().collect().await
        });
        let left = tokio::select! {
            _ended = call.as_mut() => panic!("it hangs"),
            () = lab.rig.wait_for("it runs", || lab.rig.engines.busy() == 1) => std::time::Instant::now(),
        };
        drop(call);
        lab.rig.wait_for("the engine is free", || lab.rig.engines.busy() == 0).await;
        assert!(left.elapsed() < Duration::from_millis(500), "{:?}", left.elapsed());
        lab.rig.until(lab.only_job().await, Kind::Cancelled).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_does_not_hold_up_a_stop() {
    let lab = Lab::new().await;
    let waiting = lab.chat(&wish("large", true), &[]).await;
    lab.rig.tasks.stop();
    let events = text(waiting).await;
    assert!(events.contains("\"code\":\"stopping\""), "{events}");
    let whole = lab.chat(&wish("large", false), &[]).await;
    assert_eq!(whole.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(whole.headers().contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_the_middle_is_the_last_event() {
    let lab = Lab::new().await;
    lab.rig.engines.script(vec![Step::Say("", FIRST), Step::Break("ENGINE_CRASHED", true)]);
    let text = text(lab.chat(&wish("small", true), &[]).await).await;
    let last: Value = text
        .trim_end()
        .rsplit("data: ")
        .next()
        .and_then(|last| serde_json::from_str(last).ok())
        .expect("JSON");
    assert_eq!(last["error"]["code"], "output_already_shown");
    assert!(!text.contains("[DONE]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_like_the_request_is_a_client_error() {
    let lab = Lab::new().await;
    lab.rig.engines.script(vec![Step::Break("ENGINE_REFUSED", false)]);
    let response = lab.chat(&wish("small", false), &[]).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_is_one_job() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let key = [("idempotency-key", "k-1")];
    let first = body_json(lab.chat(&wish("small", false), &key).await).await;
    let second = body_json(lab.chat(&wish("small", false), &key).await).await;
    assert_eq!(first, second);
    assert_eq!(lab.rig.engines.requests().len(), 1);
    let other = lab.chat(&wish("", false), &key).await;
    assert_eq!(other.status(), StatusCode::CONFLICT);
    assert_eq!(other.headers()["x-should-retry"], "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_leave_no_text_behind() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let headers = [("x-homelab-record", "metadata")];
    assert_eq!(
        text(lab.chat(&wish("small", true), &headers).await).await,
        data(&[FIRST, HELLO, LAST, "[DONE]"])
    );
    let job = lab.rig.until(lab.only_job().await, Kind::Succeeded).await;
    assert_eq!((job.spec().record, job.spec().title.as_str()), (Record::Metadata, ""));
    assert!(job.spec().request.bytes.is_empty());
    assert_eq!(lab.rig.jobs.answer(job.id()).await.expect("readable"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_openais_shape_and_status() {
    let lab = Lab::new().await;
    let key = ("authorization", "Bearer sk-webui");
    let bronze = ("authorization", "Bearer sk-bronze");
    let chat = "/v1/chat/completions";
    let post = |path: &str, header: Option<(&str, &str)>, body: String| {
        request(Method::POST, path, header.as_slice(), Body::from(body))
    };
    for (request, status, code) in [
        (post(chat, None, wish("small", true).to_string()), 401, "invalid_api_key"),
        (
            post(chat, Some(("authorization", "Bearer nope")), "{}".to_owned()),
            401,
            "invalid_api_key",
        ),
        (post(&format!("{chat}?api_key=sk-webui"), None, "{}".to_owned()), 401, "invalid_api_key"),
        (post(chat, Some(key), "{".to_owned()), 400, "invalid_request"),
        (post(chat, Some(key), wish("nowhere", true).to_string()), 404, "model_not_found"),
        (post(chat, Some(bronze), wish("large", true).to_string()), 403, "tier_not_allowed"),
        (post("/v1/embeddings", Some(key), "{}".to_owned()), 400, "invalid_request"),
        (post("/v1/responses", Some(key), "{}".to_owned()), 400, "invalid_request"),
        (post("/v1/responses/r1/cancel", Some(key), "{}".to_owned()), 501, "not_built_yet"),
        (post("/v1/batches/b1/cancel", Some(key), "{}".to_owned()), 404, "not_found"),
        (post("/v1/nonsense", Some(key), "{}".to_owned()), 404, "unknown_url"),
        (post("/v1/models", Some(key), "{}".to_owned()), 405, "method_not_allowed"),
        (post(chat, Some(key), "x".repeat(17 * 1024 * 1024)), 413, "request_too_large"),
    ] {
        let path = request.uri().to_string();
        let response = lab.call(request).await;
        assert_eq!(response.status(), status, "{path}");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        let body = body_json(response).await;
        assert_eq!(body["error"]["code"], code, "{path}");
        for part in ["message", "type", "param"] {
            assert!(body["error"].get(part).is_some(), "{path} has no {part}");
        }
    }
    assert_eq!(lab.rig.engines.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_from_memory_with_those_that_sleep() {
    let lab = Lab::new().await;
    let list =
        body_json(lab.get("/v1/models", &[("authorization", "Bearer sk-webui")]).await).await;
    let rows: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (&row["id"], &row["status"]["value"]))
        .collect();
    assert_eq!(rows, [(&json!("small"), &json!("loaded")), (&json!("large"), &json!("asleep"))]);
    let list =
        body_json(lab.get("/v1/models", &[("authorization", "Bearer sk-bronze")]).await).await;
    assert_eq!(list["data"].as_array().expect("a list").len(), 1, "a key sees what it may use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_shown_how_to_log_in_and_nothing_else() {
    let lab = Lab::new().await;
    let response = lab.get("/", &[("cookie", "__Host-homelab=guess")]).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let page = text(response).await;
    assert!(page.contains("labctl dashboard"));
    assert!(!page.contains("onerror"));
    assert_eq!(lab.get("/events", &[]).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_logs_in_once() {
    let lab = Lab::new().await;
    let looked = lab.get("/login/link", &[]).await;
    assert!(
        text(looked).await.contains("<form method=\"post\" action=\"/login\">"),
        "looking uses nothing up"
    );
    let cookie = lab.log_in().await;
    let page = lab.get("/", &[("cookie", &cookie)]).await;
    assert_eq!(
        (page.status(), &page.headers()["cache-control"]),
        (StatusCode::OK, &"no-store".parse().expect("a header"))
    );
    let page = text(page).await;
    assert!(page.contains("&#60;img src=x onerror"), "what others wrote is text");
    assert!(!page.contains("<img src=x"));
    assert_eq!(
        lab.call(form("/login", "token=link", &[])).await.status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_needs_the_forms_own_token() {
    let lab = Lab::new().await;
    let cookie = lab.log_in().await;
    let page = text(lab.get("/", &[("cookie", &cookie)]).await).await;
    let csrf = page
        .split("name=\"csrf\" value=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("a token");
    for (body, headers) in [
        ("csrf=wrong".to_owned(), vec![("cookie", cookie.as_str())]),
        (
            format!("csrf={csrf}"),
            vec![("cookie", cookie.as_str()), ("origin", "https://evil.example")],
        ),
        (
            format!("csrf={csrf}"),
            vec![("cookie", cookie.as_str()), ("sec-fetch-site", "cross-site")],
        ),
    ] {
        assert_eq!(
            lab.call(form("/logout", &body, &headers)).await.status(),
            StatusCode::FORBIDDEN,
            "{body}"
        );
    }
    let left = lab.call(form("/logout", &format!("csrf={csrf}"), &[("cookie", &cookie)])).await;
    assert_eq!(left.status(), StatusCode::OK);
    assert_eq!(lab.get("/", &[("cookie", &cookie)]).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_lies_unused_ends() {
    let lab = Lab::new().await;
    let cookie = lab.log_in().await;
    lab.rig.clock.advance(Duration::from_secs(13 * 3_600));
    assert_eq!(lab.get("/", &[("cookie", &cookie)]).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_kept_alive_by_counted_events() {
    let lab = Lab::new().await;
    let cookie = lab.log_in().await;
    let mut body = lab.get("/events", &[("cookie", &cookie)]).await.into_body();
    for expected in [
        "{\"seq\":0,\"kind\":\"hello\"",
        "{\"seq\":1,\"kind\":\"verdict\"",
        "{\"seq\":2,\"kind\":\"hosts\"",
    ] {
        let frame = body.frame().await.expect("a frame").expect("fine").into_data().expect("data");
        assert!(frame.starts_with(format!("data: {expected}").as_bytes()), "{frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_backups_are_for_those_who_are_logged_in() {
    let lab = Lab::new().await;
    for path in ["/backups", "/backups/wiki", "/events/backups"] {
        let response = lab.get(path, &[]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(!text(response).await.contains("wiki"), "{path}");
    }
    let cookie = lab.log_in().await;
    let cookie = [("cookie", cookie.as_str())];
    let page = lab.get("/backups", &cookie).await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()["cache-control"], "no-store");
    assert!(page.headers().contains_key("content-security-policy"));
    let page = text(page).await;
    assert!(page.contains("<a class=\"name\" href=\"/backups/wiki\">wiki</a>"), "{page}");
    assert!(page.contains("One backup"), "what nobody knows is not healthy: {page}");
    let one = lab.get("/backups/wiki", &cookie).await;
    assert_eq!(one.status(), StatusCode::OK);
    assert!(text(one).await.contains("<h1 id=\"one-title\">wiki</h1>"));
    assert_eq!(lab.get("/backups/other", &cookie).await.status(), StatusCode::NOT_FOUND);
    let mut body = lab.get("/events/backups", &cookie).await.into_body();
    for expected in ["{\"seq\":0,\"kind\":\"hello\"", "{\"seq\":1,\"kind\":\"verdict\""] {
        let frame = body.frame().await.expect("a frame").expect("fine").into_data().expect("data");
        assert!(frame.starts_with(format!("data: {expected}").as_bytes()), "{frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_binds_the_browser() {
    let lab = Lab::new().await;
    for path in ["/", "/backups", "/assets/live.js", "/v1/models", "/healthz", "/nothing"] {
        let response = lab.get(path, &[]).await;
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let policy = header("content-security-policy");
        for part in ["default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("x-request-id").len(), 36, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_in_host_is_not_answered() {
    let lab = Lab::new().await;
    let mut request = request(Method::GET, "/healthz", &[], Body::empty());
    request.headers_mut().insert("host", "evil.example".parse().expect("a header"));
    assert_eq!(lab.call(request).await.status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_for_this_machine_and_for_those_with_a_key() {
    let lab = Lab::new().await;
    assert_eq!(lab.get("/metrics", &[]).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        lab.get("/metrics", &[("authorization", "Bearer sk-webui")]).await.status(),
        StatusCode::OK
    );
    let mut here = request(Method::GET, "/metrics", &[], Body::empty());
    here.extensions_mut().insert(server::Remote("127.0.0.1:9".parse().expect("an address")));
    let text = text(lab.call(here).await).await;
    assert!(text.contains("homelab_jobs{state=") && text.ends_with("# EOF\n"), "{text}");
    let mut proxied =
        request(Method::GET, "/metrics", &[("x-forwarded-for", "192.0.2.9")], Body::empty());
    proxied.extensions_mut().insert(server::Remote("127.0.0.1:9".parse().expect("an address")));
    assert_eq!(lab.call(proxied).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_store() {
    let lab = Lab::new().await;
    assert_eq!(lab.get("/healthz", &[]).await.status(), StatusCode::OK);
    assert_eq!(lab.get("/readyz", &[]).await.status(), StatusCode::OK);
    lab.rig.store.close().await;
    assert_eq!(lab.get("/readyz", &[]).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(lab.get("/healthz", &[]).await.status(), StatusCode::OK, "alive, though not ready");
}
