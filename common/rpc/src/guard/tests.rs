use std::sync::Mutex;

use homelab_common::{chance::SeededChance, clock::ManualClock};
use http_body_util::BodyExt;
use tower::service_fn;

use super::*;
use crate::{peer::SiteName, status::reason_of};

const GET_NODE: &str = "/homelab.common.v1.NodeService/GetNode";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<CallRecord>>);

impl Observer for Seen {
    fn call(&self, record: CallRecord) {
        self.0.lock().expect("not poisoned").push(record);
    }
}

impl Seen {
    fn only(&self) -> CallRecord {
        let records = self.0.lock().expect("not poisoned");
        assert_eq!(records.len(), 1, "{records:?}");
        records[0].clone()
    }
}

struct Scene {
    rules: Arc<Rules>,
    from: Arc<ConnectionInfo>,
    seen: Arc<Seen>,
}

fn scene() -> Scene {
    let seen = Arc::new(Seen::default());
    let site = SiteName::try_new("home").expect("a name");
    let rules = Rules {
        door: Door::Main,
        at: SpiffeId::daemon(site.clone(), crate::peer::Kind::Agent, "qotom").expect("an id"),
        deny_list: DenyList::default(),
        not_built: &[],
        observer: Some(Arc::clone(&seen) as Arc<dyn Observer>),
        clock: Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)),
        chance: Arc::new(SeededChance::new(1)),
        strangers: Strangers::default(),
        stopping: CancellationToken::new(),
    };
    let from = ConnectionInfo::unix(Some(0), 0, site);
    Scene { rules: Arc::new(rules), from: Arc::new(from), seen }
}

impl Scene {
    async fn call<F>(
        &self,
        request: http::Request<Body>,
        handler: impl Fn(http::Request<Body>) -> F + Clone + Send + 'static,
    ) -> http::Response<Body>
    where
        F: Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static,
    {
        let service = service_fn(handler);
        Guard::new(service, Arc::clone(&self.rules), Arc::clone(&self.from)).answer(request).await
    }
}

fn request(path: &str) -> http::Request<Body> {
    http::Request::builder().uri(path).body(Body::empty()).expect("a request")
}

fn status_of(response: &http::Response<Body>) -> Status {
    Status::from_header_map(response.headers()).expect("a status")
}

async fn never(_: http::Request<Body>) -> Result<http::Response<Body>, Infallible> {
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_given_up_after_a_minute() {
    let scene = scene();
    let began = Instant::now();
    let response = scene.call(request(GET_NODE), never).await;
    assert_eq!(began.elapsed(), UNARY_MAX);
    let status = status_of(&response);
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason_of(&status).as_deref(), Some("DEADLINE_PASSED"));
    assert!(status.message().contains("unknown"), "{}", status.message());
    let record = scene.seen.only();
    assert_eq!((record.code, record.elapsed), (Code::DeadlineExceeded, UNARY_MAX));
}

#[tokio::test(start_paused = true)]
async fn the_callers_shorter_deadline_is_kept() {
    let scene = scene();
    let began = Instant::now();
    let mut request = request(GET_NODE);
    request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("250m"));
    let response = scene.call(request, never).await;
    assert_eq!(began.elapsed(), Duration::from_millis(250));
    assert_eq!(status_of(&response).code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_the_minute_but_not_its_own_deadline() {
    let scene = scene();
    let silent = |_| async {
        let body = Body::new(http_body_util::StreamBody::new(tokio_stream::pending::<
            Result<http_body::Frame<bytes::Bytes>, Status>,
        >()));
        Ok(http::Response::new(body))
    };
    let began = Instant::now();
    let mut request = request(WATCH);
    request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("5M"));
    let response = scene.call(request, silent).await;
    let trailers = response.into_body().collect().await.expect("ends").trailers().cloned();
    let status = Status::from_header_map(&trailers.expect("trailers")).expect("a status");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(began.elapsed(), Duration::from_secs(300));
}

#[tokio::test]
async fn a_panicking_handler_is_an_internal_error_with_an_id() {
    let scene = scene();
    let response = scene.call(request(GET_NODE), |_| async { panic!("the secret reason") }).await;
    let status = status_of(&response);
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("secret"), "{}", status.message());
    let record = scene.seen.only();
    assert!(status.message().contains(&record.request_id), "{}", status.message());
}

#[tokio::test]
async fn the_handler_finds_who_calls_and_under_which_id() {
    let scene = scene();
    let handler = |request: http::Request<Body>| async move {
        let peer = request.extensions().get::<Peer>().expect("a peer");
        assert_eq!(peer.name(), "root@local");
        assert!(request.extensions().get::<RequestId>().is_some());
        assert!(request.extensions().get::<Arc<ConnectionInfo>>().is_some());
        Ok(Status::ok("").into_http())
    };
    let response = scene.call(request(GET_NODE), handler).await;
    drop(response);
    let record = scene.seen.only();
    assert_eq!((record.code, &record.outcome), (Code::Ok, &Outcome::Ended));
    assert_eq!(record.method, GET_NODE);
}

#[tokio::test]
async fn a_call_that_is_given_up_counts_as_cancelled() {
    let scene = scene();
    let call = scene.call(request(GET_NODE), never);
    assert!(call.now_or_never().is_none(), "it hangs");
    assert_eq!(scene.seen.only().outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn a_denied_call_reaches_the_observer_and_not_the_handler() {
    let mut scene = scene();
    let site = SiteName::try_new("home").expect("a name");
    scene.from = Arc::new(ConnectionInfo::unix(Some(1_000), 0, site));
    let response = scene.call(request(GET_NODE), |_| async { panic!("was reached") }).await;
    assert_eq!(reason_of(&status_of(&response)).as_deref(), Some("NO_CERTIFICATE"));
    let record = scene.seen.only();
    assert_eq!(record.outcome, Outcome::Denied(Denied::NoCertificate));
    assert_eq!(record.remote, Remote::Unix { uid: Some(1_000) });
}

#[tokio::test]
async fn a_certificate_that_names_nobody_opens_nothing_not_even_enrolment() {
    let mut scene = scene();
    scene.from = Arc::new(ConnectionInfo {
        remote: Remote::Unix { uid: None },
        peer: Err(Denied::BadCertificate { what: "it names 2 URIs".into() }),
        exporter: None,
    });
    let path = "/homelab.controller.v1.EnrolmentService/BeginEnrolment";
    let response = scene.call(request(path), |_| async { panic!("was reached") }).await;
    assert_eq!(reason_of(&status_of(&response)).as_deref(), Some("CERTIFICATE_INVALID"));
}

#[tokio::test]
async fn a_long_path_is_not_remembered_whole() {
    let scene = scene();
    let path = format!("/{}", "x".repeat(5_000));
    drop(scene.call(request(&path), |_| async { panic!("was reached") }).await);
    assert_eq!(scene.seen.only().method.len(), PATH_SHOWN_MAX);
}
