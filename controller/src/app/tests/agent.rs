//! An agent whose health is what a test says, and what the controller makes of it.

use super::*;

/// An agent whose only condition holds or not, as the test says.
#[derive(Clone, Debug, Default)]
pub(super) struct ScriptedAgent {
    is_bad: Arc<AtomicBool>,
}

impl ScriptedAgent {
    fn health(&self) -> Health {
        let bad = self.is_bad.load(Ordering::Relaxed);
        let status = if bad { ConditionStatus::False } else { ConditionStatus::True };
        let condition = Condition {
            r#type: "FilesystemsHaveRoom".into(),
            status: status.into(),
            reason: "FILESYSTEM_FULL".into(),
            message: "/ is 99 % full".into(),
            since: None,
        };
        Health { conditions: vec![condition], ..Default::default() }
    }
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl HostService for ScriptedAgent {
    async fn get_host(
        &self,
        _: Request<GetHostRequest>,
    ) -> Result<Response<GetHostResponse>, Status> {
        let host = Host { name: "x99".into(), cpu_count: Some(56), ..Default::default() };
        Ok(Response::new(GetHostResponse { host: Some(host) }))
    }

    async fn get_health(
        &self,
        _: Request<GetHealthRequest>,
    ) -> Result<Response<GetHealthResponse>, Status> {
        Ok(Response::new(GetHealthResponse { health: Some(self.health()) }))
    }

    type WatchHealthStream = Answers<WatchHealthResponse>;

    async fn watch_health(
        &self,
        _: Request<WatchHealthRequest>,
    ) -> Result<Response<Self::WatchHealthStream>, Status> {
        let agent = self.clone();
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(50)));
        let samples = ticks
            .map(move |_| Ok(WatchHealthResponse { health: Some(agent.health()), sequence: 1 }));
        Ok(Response::new(Box::pin(samples)))
    }

    async fn list_guests(
        &self,
        _: Request<ListGuestsRequest>,
    ) -> Result<Response<ListGuestsResponse>, Status> {
        pending().await
    }

    type RunChecksStream = Answers<RunChecksResponse>;

    async fn run_checks(
        &self,
        _: Request<RunChecksRequest>,
    ) -> Result<Response<Self::RunChecksStream>, Status> {
        pending().await
    }
}

/// Serves an agent with the identity in `pki`; it ends with the tasks.
pub(super) async fn serve_agent(
    folder: &Path,
    pki: &Path,
    port: u16,
    agent: ScriptedAgent,
) -> Tasks {
    let tasks = Tasks::default();
    let mut config = DaemonConfig::default_for(Kind::Agent);
    config.listen = ([127, 0, 0, 1], port).into();
    config.pki_dir = pki.into();
    config.state_dir = folder.join("agent-state");
    config.admin_socket = None;
    std::fs::create_dir_all(&config.state_dir).expect("a folder");
    let parts = DaemonParts {
        config,
        kind: Kind::Agent,
        version: "0.1.0",
        descriptors: descriptors::AGENT,
        not_built: &[],
        features: Vec::new(),
        log: None,
        observer: None,
        tasks: tasks.clone(),
        clock: Arc::new(SystemClock),
        chance: Arc::new(SystemChance),
    };
    let daemon = Daemon::open(parts).await.expect("an enrolled daemon");
    daemon.serve(|builder| builder.service(HostServiceServer::new(agent))).expect("serves");
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_enrols_turns_healthy_degraded_and_unreachable() {
    let port = free_port();
    let lab = Lab::start(port).await;
    eventually("x99 is known not to have enrolled", || async {
        lab.state().await == HostState::NotEnrolled
    })
    .await;

    let pki = lab.folder.path().join("agent-pki");
    lab.enrol(lab.token().await, &pki).await.expect("enrolled");
    let agent = ScriptedAgent::default();
    let agent_tasks = serve_agent(lab.folder.path(), &pki, port, agent.clone()).await;
    eventually("x99 is healthy", || async { lab.state().await == HostState::Healthy }).await;
    let view = lab.app.context().fleet.host(&x99()).expect("declared");
    assert_eq!(view.host.expect("said what it is").cpu_count, Some(56));
    assert_eq!(view.daemons[0].version.as_deref(), Some("0.1.0"));
    assert!(lab.app.context().fleet.channel(&x99(), DaemonKind::Agent).is_some());

    agent.is_bad.store(true, Ordering::Relaxed);
    eventually("x99 is degraded", || async { lab.state().await == HostState::Degraded }).await;
    let status = FleetServiceClient::new(lab.admin())
        .get_status(pb::GetStatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    assert_eq!(status.verdict(), pb::Verdict::Warning);
    assert_eq!(status.concerns[0].subject, "host/x99");
    assert!(status.concerns[0].message.contains("99 % full"), "{:?}", status.concerns);

    agent_tasks.shutdown(Duration::ZERO).await;
    eventually("x99 is unreachable", || async { lab.state().await == HostState::Unreachable })
        .await;
    let record = lab.app.context().store.read().await.expect("reads").hosts().get(&x99()).await;
    let record = record.expect("reads").expect("is remembered");
    assert_eq!(record.state.map(|(state, _)| state), Some(HostState::Unreachable));
    assert!(record.last_seen_at.is_some());
    assert!(lab.app.context().fleet.channel(&x99(), DaemonKind::Agent).is_none());
}
