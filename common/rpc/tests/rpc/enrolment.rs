//! From a token to an identity and to the next one, against a controller in miniature.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use homelab_common::{
    chance::SystemChance,
    clock::{Clock, ManualClock, SystemClock},
    tls::{Roots, TlsServer},
};
use homelab_proto::{
    common::v1::PeerKind,
    controller::v1::{
        BeginEnrolmentRequest, BeginEnrolmentResponse, CreateLoginLinkRequest,
        CreateLoginLinkResponse, CreateTokenRequest, CreateTokenResponse, FinishEnrolmentRequest,
        FinishEnrolmentResponse, IssueUserCertificateRequest, IssueUserCertificateResponse,
        ListCertificatesRequest, ListCertificatesResponse, ListTokensRequest, ListTokensResponse,
        RenewCertificateRequest, RenewCertificateResponse, RevokeCertificateRequest,
        RevokeCertificateResponse, RevokeTokenRequest, RevokeTokenResponse,
        enrolment_service_server::{EnrolmentService, EnrolmentServiceServer},
    },
};
use homelab_rpc::{
    enrol::{
        EnrolError, EnrolRequest, Enrolled, InvalidToken, ProofParts, Renewal, Token, Verifier,
        csr_public_key, enrol, enrolment_in, verify_proof,
    },
    guard,
    node::to_proto,
    serve::enrolment_tls_options,
    status::{Reason, fail},
};
use jiff::Timestamp;
use tonic::{Request, Response, async_trait};

use super::*;

const NONCE: [u8; 32] = [5; 32];

/// A controller that knows one token and signs whatever proves to know it.
#[derive(Debug)]
struct Signer {
    site: Arc<TestSite>,
    verifier: Verifier,
    name: String,
    now: Timestamp,
    sign_as: Kind,
    address: Mutex<String>,
    begun: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
    renewals: AtomicUsize,
    failing_renewals: usize,
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[async_trait]
impl EnrolmentService for Signer {
    async fn begin_enrolment(
        &self,
        _request: Request<BeginEnrolmentRequest>,
    ) -> Result<Response<BeginEnrolmentResponse>, Status> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let now = Some(to_proto(self.now));
        Ok(Response::new(BeginEnrolmentResponse { nonce: NONCE.to_vec().into(), now }))
    }

    async fn finish_enrolment(
        &self,
        request: Request<FinishEnrolmentRequest>,
    ) -> Result<Response<FinishEnrolmentResponse>, Status> {
        self.finished.fetch_add(1, Ordering::SeqCst);
        let exporter = guard::exporter(&request)?;
        let request = request.into_inner();
        let parts = ProofParts {
            signing_request: &request.signing_request,
            nonce: &NONCE,
            exporter: &exporter,
        };
        verify_proof(&self.verifier, parts, &request.proof).map_err(|error| {
            fail(Code::PermissionDenied, Reason::TOKEN_REFUSED, error.to_string())
        })?;
        let spki = csr_public_key(&request.signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        assert_eq!(request.kind(), PeerKind::Agent);
        let id = self.site.daemon(self.sign_as, &self.name);
        Ok(Response::new(FinishEnrolmentResponse {
            certificate_chain: self.site.sign(&spki, &id, Validity::Now),
            roots: self.site.root_pem().into(),
            not_after: None,
            identity: id.to_string(),
            controller_address: self.address.lock().expect("not poisoned").clone(),
            controller_name: homelab_rpc::testing::SERVER_NAME.into(),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let id = guard::peer(&request)?.id().clone();
        if self.renewals.fetch_add(1, Ordering::SeqCst) < self.failing_renewals {
            return Err(Status::unavailable("not at the first attempt"));
        }
        let spki = csr_public_key(&request.into_inner().signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(RenewCertificateResponse {
            certificate_chain: self.site.sign(&spki, &id, Validity::Now),
            roots: self.site.root_pem().into(),
            not_after: None,
        }))
    }

    async fn create_token(
        &self,
        _request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        unused()
    }

    async fn list_tokens(
        &self,
        _request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        unused()
    }

    async fn revoke_token(
        &self,
        _request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        unused()
    }

    async fn issue_user_certificate(
        &self,
        _request: Request<IssueUserCertificateRequest>,
    ) -> Result<Response<IssueUserCertificateResponse>, Status> {
        unused()
    }

    async fn list_certificates(
        &self,
        _request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        unused()
    }

    async fn revoke_certificate(
        &self,
        _request: Request<RevokeCertificateRequest>,
    ) -> Result<Response<RevokeCertificateResponse>, Status> {
        unused()
    }

    async fn create_login_link(
        &self,
        _request: Request<CreateLoginLinkRequest>,
    ) -> Result<Response<CreateLoginLinkResponse>, Status> {
        unused()
    }
}

struct Controller {
    token: Token,
    begun: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
    dir: tempfile::TempDir,
    _tasks: Tasks,
}

/// What is unusual about a controller.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Oddity {
    None,
    ClockAhead,
    SignsForOthers,
    IsNoController,
    FailsToRenewOnce,
}

impl Controller {
    async fn start(site: &Arc<TestSite>, oddity: Oddity) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let kind =
            if oddity == Oddity::IsNoController { Kind::GpuWorker } else { Kind::Controller };
        let id = site.daemon(kind, "db");
        let skew = if oddity == Oddity::ClockAhead { 7_200 } else { 0 };
        let (token_id, secret) = Token::draw(&SystemChance);
        let (begun, finished) = (Arc::default(), Arc::default());
        let signer = Arc::new(Signer {
            site: Arc::clone(site),
            verifier: Verifier::of(&secret),
            name: "qotom".into(),
            now: clock.now() + Duration::from_secs(skew),
            sign_as: match oddity {
                Oddity::SignsForOthers => Kind::Controller,
                _ => Kind::Agent,
            },
            address: Mutex::default(),
            begun: Arc::clone(&begun),
            finished: Arc::clone(&finished),
            renewals: AtomicUsize::new(0),
            failing_renewals: usize::from(oddity == Oddity::FailsToRenewOnce),
        });
        let tasks = Tasks::default();
        let main = site.listener(IdentityHandle::new(site.identity(&id))).await;
        *signer.address.lock().expect("not poisoned") = main.local_addr().to_string();
        let identity = site.identity(&id).showing_roots(&site.roots());
        let options = enrolment_tls_options(IdentityHandle::new(identity), &clock);
        let port = TlsServer::bind(([127, 0, 0, 1], 0).into(), options).await.expect("a port");
        let token = Token {
            id: token_id,
            secret,
            root_pin: site.pin(),
            address: port.local_addr().to_string(),
            site: site.name().clone(),
            name: "qotom".into(),
            kinds: vec![Kind::Agent],
            not_after: clock.now() + Duration::from_secs(3_600),
        };
        let service = || EnrolmentServiceServer::from_arc(Arc::clone(&signer));
        let server = || Server::builder(id.clone(), tasks.clone()).service(service());
        server().for_strangers().build().expect("a server").serve_tls(port);
        server().build().expect("a server").serve_tls(main);
        let dir = tempfile::tempdir().expect("a scratch directory");
        Self { token, begun, finished, dir, _tasks: tasks }
    }

    fn pki(&self) -> PathBuf {
        self.dir.path().join("pki")
    }

    async fn enrol(&self, token: Token) -> Result<Enrolled, EnrolError> {
        self.enrol_at(token, Kind::Agent, Arc::new(SystemClock)).await
    }

    async fn enrol_at(
        &self,
        token: Token,
        kind: Kind,
        clock: Arc<dyn Clock>,
    ) -> Result<Enrolled, EnrolError> {
        let request = EnrolRequest { token, kind, address: "127.0.0.1:7450".into() };
        enrol(request, &self.pki(), &clock, &SystemChance).await
    }

    fn nothing_is_left(&self) -> bool {
        std::fs::read_dir(self.dir.path()).expect("readable").next().is_none()
    }
}

#[tokio::test]
async fn a_token_becomes_an_identity() {
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::None).await;
    let token: Token = controller.token.encode().expose().parse().expect("the same token");
    let enrolled = controller.enrol(token).await.expect("enrolled");
    assert_eq!(enrolled.id.to_string(), "spiffe://home/agent/qotom");
    let identity = Identity::from_dir(controller.pki()).expect("an identity");
    assert_eq!(identity.facts().not_after, enrolled.not_after);
    Roots::from_dir(controller.pki()).expect("roots");
    let kept = enrolment_in(&controller.pki()).expect("readable").expect("there");
    assert_eq!(kept, enrolled.enrolment);

    let again = controller.enrol(controller.token.clone()).await.expect_err("occupied");
    assert!(matches!(again, EnrolError::Files(_)), "{again}");
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_leaves_nothing() {
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::None).await;
    let (_, secret) = Token::draw(&SystemChance);
    let token = Token { secret, ..controller.token.clone() };
    let error = controller.enrol(token).await.expect_err("refused");
    let EnrolError::Refused { status, .. } = error else { panic!("{error}") };
    assert_eq!(reason_of(&status).as_deref(), Some("TOKEN_REFUSED"));
    assert!(controller.nothing_is_left());
}

#[tokio::test]
async fn somebody_in_between_learns_nothing() {
    let (site, rogue) = (Arc::new(TestSite::new("home")), Arc::new(TestSite::new("home")));
    let honest = Controller::start(&site, Oddity::None).await;
    let between = Controller::start(&rogue, Oddity::None).await;
    let token = Token { address: between.token.address.clone(), ..honest.token.clone() };
    let error = between.enrol(token).await.expect_err("refused");
    assert!(matches!(error, EnrolError::Untrusted { .. }), "{error}");
    assert_eq!(between.begun.load(Ordering::SeqCst), 0, "not a single call was made");
    assert!(between.nothing_is_left());
}

#[tokio::test]
async fn another_daemon_of_the_site_cannot_play_the_controller() {
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::IsNoController).await;
    let error = controller.enrol(controller.token.clone()).await.expect_err("refused");
    assert!(matches!(error, EnrolError::Untrusted { .. }), "{error}");
    assert_eq!(controller.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_wrong_clock_is_named_before_the_secret_is_used() {
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::ClockAhead).await;
    let error = controller.enrol(controller.token.clone()).await.expect_err("refused");
    assert!(error.to_string().contains("2.0 hours behind"), "{error}");
    assert_eq!(controller.finished.load(Ordering::SeqCst), 0);
    assert!(controller.nothing_is_left());
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::SignsForOthers).await;
    let error = controller.enrol(controller.token.clone()).await.expect_err("refused");
    assert!(matches!(error, EnrolError::Answer { .. }), "{error}");
    assert!(controller.nothing_is_left());
}

#[tokio::test]
async fn a_token_that_has_ended_or_is_for_others_is_not_even_shown() {
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::None).await;
    let token = &controller.token;
    let later = Arc::new(ManualClock::new(token.not_after));
    let ended = controller.enrol_at(token.clone(), Kind::Agent, later).await;
    assert!(matches!(ended, Err(EnrolError::Token(InvalidToken::Expired { .. }))));
    let clock = Arc::new(SystemClock);
    let other = controller.enrol_at(token.clone(), Kind::GpuWorker, clock).await;
    assert!(matches!(other, Err(EnrolError::Kind { .. })));
    assert_eq!(controller.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_enrolment_port_has_nothing_else_to_offer() {
    use homelab_proto::controller::v1::enrolment_service_client::EnrolmentServiceClient;
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::None).await;
    let id = site.daemon(Kind::Controller, "db");
    let admin = site.dialer(&site.user("anna", "admin"));
    let port = target(&controller.token.address, &id);
    let channel = admin.dial(port).expect("a target");
    let mut service = EnrolmentServiceClient::new(channel.clone());
    let tokens = service.list_tokens(ListTokensRequest::default()).await.expect_err("closed");
    assert_eq!(reason_of(&tokens).as_deref(), Some("NO_CERTIFICATE"));
    let everything = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(channel).check(everything).await.expect_err("closed");
    assert_eq!(reason_of(&health).as_deref(), Some("METHOD_NOT_OPEN"));
}

#[tokio::test]
async fn renewal_swaps_key_and_certificate_in_memory_and_on_the_disk() {
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::FailsToRenewOnce).await;
    let enrolled = controller.enrol(controller.token.clone()).await.expect("enrolled");
    let identity = IdentityHandle::new(Identity::from_dir(controller.pki()).expect("ours"));
    let (trust, clock) = (site.trust(), Arc::new(SystemClock));
    let old = identity.current().facts().clone();
    let renewal = Renewal {
        directory: controller.pki(),
        enrolment: enrolled.enrolment,
        identity: identity.clone(),
        trust: trust.clone(),
        dialer: Dialer::new(site.name().clone(), trust).identity(identity.clone()),
        clock,
        chance: Arc::new(SystemChance),
    };
    renewal.renew().await.expect_err("the first attempt fails");
    assert_eq!(identity.current().facts().serial, old.serial, "the old one stays in use");
    renewal.renew().await.expect("the second one does not");
    let new = identity.current().facts().clone();
    assert_ne!(new.serial, old.serial);
    assert_ne!(new.pin, old.pin, "a new key each time");
    let kept = Identity::from_dir(controller.pki()).expect("complete");
    assert_eq!(kept.facts().serial, new.serial);
    assert!(enrolment_in(&controller.pki()).expect("readable").is_some());
}

#[tokio::test]
async fn the_task_renews_when_it_is_due_and_stops_when_told() {
    let site = Arc::new(TestSite::new("home"));
    let controller = Controller::start(&site, Oddity::None).await;
    let enrolled = controller.enrol(controller.token.clone()).await.expect("enrolled");
    let due = site.leaf_valid(&enrolled.id, Validity::Days(20_000, 40_000)).identity();
    let old = due.facts().serial.clone();
    let identity = IdentityHandle::new(due);
    let renewal = Renewal {
        directory: controller.pki(),
        enrolment: enrolled.enrolment,
        identity: identity.clone(),
        trust: site.trust(),
        dialer: site.dialer(&enrolled.id),
        // Two thirds of the lifetime are over: day 33,334.
        clock: Arc::new(ManualClock::new(Timestamp::from_second(33_400 * 86_400).expect("a time"))),
        chance: Arc::new(SystemChance),
    };
    let tasks = Tasks::default();
    tasks.spawn(renewal.run(tasks.stopping()));
    eventually("a new certificate", async || {
        (identity.current().facts().serial != old).then_some(())
    })
    .await;
    assert!(tasks.shutdown(PATIENCE).await, "the task ends by itself");
}
