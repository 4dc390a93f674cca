//! An engine that somebody else runs.

use std::{net::TcpListener, sync::Arc};

use homelab_common::{
    exec::{Exec, Program, Supervised},
    lifecycle::Tasks,
};
use homelab_gpu_worker::{
    engine::{Engine, State, Status, remote::Remote},
    fake_engine::{FakeEngine, Step},
    model::{Model, Options},
};
use tokio::time;

use crate::bench::{CEILING, ask, config, model, until, world};

/// A server that is not ours, and our engine that uses it.
struct Bench {
    fake: FakeEngine,
    server: Supervised,
    port: u16,
    engine: Engine,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(script: impl FnOnce(FakeEngine) -> FakeEngine) -> Self {
        let tasks = Tasks::default();
        let fake = script(FakeEngine::new(tasks.clone()));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = serve(&fake, port);
        let folder = tempfile::tempdir().unwrap();
        let mut config = config();
        config.builds.clear();
        config.devices.clear();
        config.remote = Some(Remote::parse(&format!("http://127.0.0.1:{port}/v1")).unwrap());
        // Our own programs are another scripted one, of which there shall be none.
        let world = world(&FakeEngine::new(tasks.clone()), &tasks, folder.path().into());
        let engine = Engine::start(config, world);
        Self { fake, server, port, engine, _folder: folder }
    }

    async fn until(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut statuses = self.engine.watch();
        let waited = time::timeout(CEILING, statuses.wait_for(wanted)).await;
        waited.expect("a change").unwrap().clone()
    }

    async fn answer(&self) -> String {
        let status = self.until(|status| matches!(status.state, State::Ready(_))).await;
        let State::Ready(session) = status.state else { panic!("it was ready") };
        let mut chat = session.stream(session.admit().unwrap(), ask("j")).await.unwrap();
        let mut text = String::new();
        while let Some(chunk) = chat.next().await.unwrap() {
            text.push_str(&chunk.content);
        }
        text
    }
}

fn serve(fake: &FakeEngine, port: u16) -> Supervised {
    let program = Program::new("/somewhere/fake-engine").arg("--port").arg(port.to_string());
    fake.supervise(program).unwrap()
}

#[tokio::test]
async fn an_engine_elsewhere_answers_and_no_process_is_started_for_it() {
    let bench = Bench::new(|fake| fake);
    bench.engine.load(model());
    assert_eq!(bench.answer().await, "Hello there");
    assert_eq!(bench.engine.status().pid, None);
    bench.engine.unload();
    bench.until(|status| matches!(status.state, State::Stopped) && status.model.is_none()).await;
    assert!(bench.fake.command_lines().len() == 1 && bench.server.pid() > 0, "it goes on");
}

#[tokio::test]
async fn an_engine_elsewhere_that_goes_away_is_used_again_when_it_is_back() {
    let bench = Bench::new(|fake| fake.answering([Step::Text("a"), Step::Hang]));
    bench.engine.load(model());
    bench.until(|status| matches!(status.state, State::Ready(_))).await;
    bench.fake.crash();
    let failed = bench.until(|status| matches!(status.state, State::Failed)).await;
    let because = &failed.last_incident.unwrap().because;
    assert!(
        because.starts_with("it does not answer: cannot connect to the engine at"),
        "{because}"
    );
    let _again =
        serve(&bench.fake.clone().answering([Step::Text("back"), Step::Finish]), bench.port);
    bench.until(|status| matches!(status.state, State::Ready(_))).await;
    until("the first script is used up", || !bench.fake.command_lines().is_empty()).await;
}

#[tokio::test]
async fn a_model_that_an_engine_elsewhere_does_not_have_is_named_with_those_that_it_has() {
    let bench = Bench::new(|fake| fake);
    let other = Model::new("other".parse().unwrap(), None, Options::default());
    bench.engine.load(Arc::new(other));
    let failed = bench.until(|status| status.last_incident.is_some()).await;
    let because = &failed.last_incident.unwrap().because;
    assert_eq!(because, "it has no model `other`; it has small");
}
