//! An engine on the bench, and patience with it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use homelab_common::{chance::SystemChance, clock::SystemClock, lifecycle::Tasks, retry::Backoff};
use homelab_gpu_worker::{
    device::{DeviceId, Roots},
    engine::{
        Engine, EngineConfig, MemoryCheck, State, Status, Timing, World,
        backend::Backend,
        build::Build,
        command::Template,
        restart::RestartPolicy,
        session::{Api, Ask, Session},
        stream::Patience,
    },
    fake_engine::{FakeEngine, PROGRAM},
    model::{Model, Options},
};
use tokio::{sync::watch, time};

/// No wait in these tests comes near it unless something is broken.
pub(crate) const CEILING: Duration = Duration::from_secs(20);

/// Short enough to wait for, long enough for a busy machine.
pub(crate) const STALL: Duration = Duration::from_millis(400);

/// An engine with its script.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) fake: FakeEngine,
    pub(crate) tasks: Tasks,
    runtime: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(script: impl FnOnce(FakeEngine) -> FakeEngine) -> Self {
        let tasks = Tasks::default();
        let fake = script(FakeEngine::new(tasks.clone()));
        let runtime = tempfile::tempdir().unwrap();
        let world = world(&fake, &tasks, runtime.path().into());
        let engine = Engine::start(config(), world);
        Self { engine, fake, tasks, runtime }
    }

    /// Loads a model with two slots and waits until it answers.
    pub(crate) async fn loaded(
        script: impl FnOnce(FakeEngine) -> FakeEngine,
    ) -> (Self, Arc<Session>) {
        let bench = Self::new(script);
        bench.engine.load(model());
        let session = bench.ready(1).await;
        (bench, session)
    }

    /// The session of the start number `starts`.
    pub(crate) async fn ready(&self, starts: u32) -> Arc<Session> {
        let status = self
            .until(|status| status.starts >= starts && matches!(status.state, State::Ready(_)))
            .await;
        match status.state {
            State::Ready(session) => session,
            other => panic!("{other}"),
        }
    }

    pub(crate) async fn until(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut statuses = self.engine.watch();
        let waited = time::timeout(CEILING, statuses.wait_for(wanted)).await;
        match waited {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("still {:?}", self.engine.status()),
        }
    }

    pub(crate) fn incidents(&self) -> PathBuf {
        self.runtime.path().join("incidents")
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.runtime.path().join("engine-test.key")
    }
}

/// A world whose programs are `fake`.
pub(crate) fn world(fake: &FakeEngine, tasks: &Tasks, runtime: PathBuf) -> World {
    World {
        exec: Arc::new(fake.clone()),
        clock: Arc::new(SystemClock),
        chance: Arc::new(SystemChance),
        tasks: tasks.clone(),
        incidents: runtime.join("incidents"),
        roots: Roots { sys: runtime.clone(), proc: runtime.clone() },
        runtime,
        changed: watch::channel(()).0,
    }
}

/// Deadlines to wait for in a test.
pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        name: "test".to_owned(),
        devices: vec![DeviceId::Cpu],
        tensor_split: Vec::new(),
        builds: vec![build(None, PROGRAM)],
        remote: None,
        health_path: "/health".to_owned(),
        memory_check: MemoryCheck::Refuse,
        timing: Timing {
            start: Duration::from_secs(5),
            drain: Duration::from_secs(5),
            stop: Duration::from_secs(1),
            stall: STALL,
            prompt_stall: STALL,
            look: Duration::from_millis(40),
            idle_end: None,
            patience: Patience::default(),
            restart: RestartPolicy {
                settled: Duration::from_secs(3600),
                quick_ends_max: 3,
                fall_back_after: 2,
                backoff: Backoff::try_new(Duration::from_millis(5), Duration::from_millis(20), 0.0)
                    .unwrap(),
            },
        },
    }
}

/// A build with the default arguments.
pub(crate) fn build(backend: Option<Backend>, program: &str) -> Build {
    let command = Template::try_new(&[program.to_owned()]).unwrap();
    Build { backend, command, previous: None, environment: Vec::new() }
}

/// A chat for `job`.
pub(crate) fn ask(job: &str) -> Ask {
    let body = Bytes::from_static(br#"{"messages":[]}"#);
    Ask { api: Api::Chat, body, job: job.to_owned(), attempt: 1 }
}

/// A model with two slots.
pub(crate) fn model() -> Arc<Model> {
    Arc::new(Model::new("small".parse().unwrap(), None, Options { slots: 2, ..Options::default() }))
}

/// Polls until `holds`, which says what it waits for.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let polling = async {
        while !holds() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(time::timeout(CEILING, polling).await.is_ok(), "never came: {what}");
}
