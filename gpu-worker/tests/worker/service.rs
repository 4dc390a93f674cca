//! The service over a real gRPC connection, against a scripted engine.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use homelab_common::{clock::SystemClock, exec::Ended, lifecycle::Tasks};
use homelab_gpu_worker::{
    device::Roots,
    engine::Engine,
    fake_engine::{FakeEngine, Start, Step},
    model::Hashes,
    service::Inference,
    worker::{LoadEvent, Parts, Seat, Worker},
};
use homelab_proto::{
    common::v1::Failure,
    inference::v1::{
        self as pb, chat_complete_response::Event, complete_response::Event as Piece,
        inference_service_client::InferenceServiceClient, load_model_response::Event as Load,
    },
};
use homelab_rpc::status::{metadata_of, reason_of};
use tokio::{net::TcpListener, sync::watch, time};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Status,
    transport::{Channel, Server},
};

use crate::bench::{CEILING, config, model, until, world};

struct Daemon {
    client: InferenceServiceClient<Channel>,
    worker: Worker,
    fake: FakeEngine,
    tasks: Tasks,
    _runtime: tempfile::TempDir,
}

impl Daemon {
    async fn start(script: impl FnOnce(FakeEngine) -> FakeEngine) -> Self {
        let tasks = Tasks::default();
        let fake = script(FakeEngine::new(tasks.clone()));
        let runtime = tempfile::tempdir().unwrap();
        let changed = watch::channel(()).0;
        let mut world = world(&fake, &tasks, runtime.path().into());
        world.changed = changed.clone();
        let worker = Worker::new(Parts {
            host: "x99".to_owned(),
            seats: vec![Seat {
                engine: Engine::start(config(), world),
                models: Vec::new(),
                load: None,
            }],
            models: vec![model()],
            hashes: Hashes::load(&runtime.path().join("hashes.json")).unwrap(),
            roots: Roots { sys: runtime.path().into(), proc: runtime.path().into() },
            tasks: tasks.clone(),
            clock: Arc::new(SystemClock),
            changed,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Inference::new(worker.clone(), tasks.clone()).into_server();
        tasks.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { client: connect(address).await, worker, fake, tasks, _runtime: runtime }
    }

    /// With the model loaded.
    async fn loaded(script: impl FnOnce(FakeEngine) -> FakeEngine) -> Self {
        let daemon = Self::start(script).await;
        let last = daemon.load().await.pop().unwrap();
        assert!(matches!(last, Load::Model(_)), "{last:?}");
        daemon
    }

    async fn load(&self) -> Vec<Load> {
        let request = pb::LoadModelRequest { model: "small".to_owned(), ..Default::default() };
        let mut stream = self.client.clone().load_model(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            events.push(message.event.unwrap());
        }
        events
    }

    async fn chat(&self, request: pb::ChatCompleteRequest) -> Result<Vec<Message>, Status> {
        let mut stream = self.client.clone().chat_complete(request).await?.into_inner();
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await? {
            messages.push((message.event.unwrap(), message.openai_chunk));
        }
        Ok(messages)
    }

    async fn show(&self) -> pb::Worker {
        let reply = self.client.clone().get_worker(pb::GetWorkerRequest {}).await.unwrap();
        reply.into_inner().worker.unwrap()
    }
}

type Message = (Event, Bytes);

async fn connect(address: SocketAddr) -> InferenceServiceClient<Channel> {
    InferenceServiceClient::connect(format!("http://{address}")).await.unwrap()
}

fn hello() -> pb::ChatCompleteRequest {
    let message = pb::ChatMessage { role: pb::ChatRole::User.into(), content: "hi".to_owned() };
    pb::ChatCompleteRequest {
        model: "small".to_owned(),
        messages: vec![message],
        ..Default::default()
    }
}

fn json(request: &'static str) -> pb::ChatCompleteRequest {
    pb::ChatCompleteRequest {
        messages: Vec::new(),
        openai_request: Bytes::from_static(request.as_bytes()),
        ..hello()
    }
}

fn failure(messages: &[Message]) -> &Failure {
    match messages.last() {
        Some((Event::Failure(failure), _)) => failure,
        other => panic!("ends with {other:?}"),
    }
}

#[tokio::test]
async fn a_typed_chat_is_answered_in_pieces_and_ends_with_its_cost() {
    let daemon = Daemon::loaded(|fake| fake).await;
    let messages = daemon.chat(hello()).await.unwrap();
    let texts: Vec<(String, u32)> = messages
        .iter()
        .filter_map(|(event, raw)| match event {
            Event::Delta(delta) => {
                assert!(raw.is_empty(), "typed callers get no JSON");
                Some((delta.content.clone(), delta.index))
            }
            _ => None,
        })
        .collect();
    assert_eq!(texts, [("Hello".to_owned(), 0), (" there".to_owned(), 1)]);
    let Some((Event::Done(done), _)) = messages.last() else { panic!("{messages:?}") };
    assert_eq!(done.finish_reason, "stop");
    assert_eq!(done.usage.unwrap().completion_tokens, Some(2));
    let sent = &daemon.fake.requests()[0];
    assert_eq!(sent["messages"][0]["content"], "hi");
}

#[tokio::test]
async fn a_chat_in_json_reaches_the_engine_and_its_chunks_the_caller_unchanged() {
    const CHUNK: &str = r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}],"odd":1.50}"#;
    let daemon = Daemon::loaded(|fake| {
        let event: &'static str = Box::leak(format!("data: {CHUNK}\n\n").into_boxed_str());
        fake.answering([Step::Raw(event), Step::Finish])
    })
    .await;
    let request = json(r#"{"model":"gpt","stream":false,"tools":[],"x-new":{"a":1}}"#);
    let messages = daemon.chat(request).await.unwrap();
    assert_eq!(messages[0].1, CHUNK);
    assert_eq!(messages.len(), 4, "the chunk, the reason, the cost, the end");
    let sent = &daemon.fake.requests()[0];
    assert_eq!((&sent["x-new"]["a"], &sent["tools"]), (&1.into(), &serde_json::json!([])));
    assert_eq!((&sent["model"], &sent["stream"]), (&"small".into(), &true.into()));
}

#[tokio::test]
async fn a_caller_that_leaves_frees_its_slot() {
    let daemon = Daemon::loaded(|fake| fake.answering([Step::Text("a"), Step::Hang])).await;
    let mut stream = daemon.client.clone().chat_complete(hello()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    assert_eq!(daemon.show().await.engines[0].slots_busy, 1);
    drop(stream);
    until("the engine stops", || daemon.fake.open_answers() == 0).await;
    until("the slot is free", || daemon.worker.engines()[0].slots_busy == 0).await;
}

#[tokio::test]
async fn an_engine_that_dies_ends_the_answer_with_a_failure_and_answers_the_next() {
    let daemon = Daemon::loaded(|fake| fake.answering([Step::Text("a"), Step::Hang])).await;
    let mut stream = daemon.client.clone().chat_complete(hello()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    daemon.fake.crash();
    let last = stream.message().await.unwrap().unwrap();
    let Some(Event::Failure(failure)) = last.event else { panic!("{last:?}") };
    assert_eq!((failure.reason.as_str(), failure.retryable), ("ENGINE_CRASHED", true));
    assert!(failure.message.contains("SIGKILL"), "{}", failure.message);
    assert_eq!(stream.message().await.unwrap(), None, "nothing follows the end");

    until("the engine is back", || daemon.worker.engines()[0].slots > 0).await;
    let answer = async {
        loop {
            match daemon.chat(hello()).await {
                Ok(messages) => return messages,
                Err(status) => assert_eq!(status.code(), Code::Unavailable),
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    let messages = time::timeout(CEILING, answer).await.expect("an answer");
    assert!(matches!(messages.last(), Some((Event::Done(_), _))));
    let engine = &daemon.show().await.engines[0];
    assert_eq!(
        (engine.starts, engine.last_failure.as_str()),
        (2, "its process was ended by SIGKILL")
    );
}

#[tokio::test]
async fn a_refusal_of_the_engine_is_passed_on_in_its_words() {
    const BODY: &str =
        r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}"#;
    let daemon = Daemon::loaded(|fake| fake.answering([Step::Refuse(400, BODY)])).await;
    let messages = daemon.chat(json("{}")).await.unwrap();
    assert_eq!(failure(&messages).reason, "ENGINE_REFUSED");
    assert!(!failure(&messages).retryable);
    assert_eq!(messages[0].1, BODY);
}

#[tokio::test]
async fn full_slots_are_an_answer() {
    let hang = || [Step::Text("a"), Step::Hang];
    let daemon = Daemon::loaded(|fake| fake.answering(hang()).answering(hang())).await;
    let mut client = daemon.client.clone();
    let _first = client.chat_complete(hello()).await.unwrap();
    let _second = client.chat_complete(hello()).await.unwrap();
    let status = daemon.chat(hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason_of(&status).as_deref(), Some("SLOTS_BUSY"));
    assert_eq!(metadata_of(&status, "slots").as_deref(), Some("2"));
}

#[tokio::test]
async fn what_cannot_be_served_says_why() {
    let ends = Start::Ends(Ended { code: Some(1), signal: None });
    let daemon = Daemon::start(|fake| fake.starting([ends; 3])).await;
    daemon.load().await;
    let not_ready = daemon.chat(hello()).await.unwrap_err();
    assert_eq!(reason_of(&not_ready).as_deref(), Some("ENGINE_NOT_READY"));
    assert_eq!(
        not_ready.message(),
        "`small` is not ready: its engine is quarantined: its process ended with exit code 1"
    );

    let unknown = pb::ChatCompleteRequest { model: "big".to_owned(), ..hello() };
    let unknown = daemon.chat(unknown).await.unwrap_err();
    assert_eq!(
        (unknown.code(), reason_of(&unknown).as_deref()),
        (Code::NotFound, Some("MODEL_NOT_FOUND"))
    );

    let invalid = pb::ChatCompleteRequest { messages: Vec::new(), ..hello() };
    assert_eq!(daemon.chat(invalid).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_overtaken_attempt_is_refused() {
    let daemon = Daemon::loaded(|fake| fake).await;
    let attempt =
        |attempt| pb::ChatCompleteRequest { job_id: "job-1".to_owned(), attempt, ..hello() };
    daemon.chat(attempt(2)).await.unwrap();
    let status = daemon.chat(attempt(1)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason_of(&status).as_deref()),
        (Code::Aborted, Some("STALE_GENERATION"))
    );
}

#[tokio::test]
async fn loading_tells_its_steps_and_is_idempotent() {
    let daemon = Daemon::start(|fake| fake.starting([Start::Loading(2)])).await;
    let steps = |events: &[Load]| -> Vec<String> {
        let text = |event: &Load| match event {
            Load::Progress(progress) => progress.step.clone(),
            Load::Model(model) => format!("{} {}", model.name, model.engine),
            Load::Failure(failure) => failure.message.clone(),
        };
        events.iter().map(text).collect()
    };
    let first = steps(&daemon.load().await);
    assert_eq!(first[0], "checking the weights of `small`");
    assert!(first.contains(&"engine `test` is loading its model".to_owned()), "{first:?}");
    assert_eq!(first.last().unwrap(), "small test");
    let second = steps(&daemon.load().await);
    assert_eq!(second, ["checking the weights of `small`", "small test"]);
    assert_eq!(daemon.show().await.engines[0].starts, 1);
}

#[tokio::test]
async fn a_model_whose_engine_does_not_come_up_is_a_failure_with_the_reason() {
    let ends = Start::Ends(Ended { code: Some(1), signal: None });
    let daemon = Daemon::start(|fake| fake.starting([ends; 3])).await;
    let events = daemon.load().await;
    let Some(Load::Failure(failure)) = events.last() else { panic!("{events:?}") };
    assert_eq!(failure.reason, "MODEL_NOT_LOADED");
    assert_eq!(
        failure.message,
        "`small` could not be loaded: its process ended with exit code 1; it last said: loading \
         the tensors"
    );
    let worker = daemon.show().await;
    assert_eq!(worker.engines[0].state(), pb::EngineState::Quarantined);
    assert_eq!(worker.models[0].state(), pb::ModelState::Failed);
}

#[tokio::test]
async fn a_worker_that_stops_gives_up_a_load_that_never_ends() {
    let daemon = Daemon::start(|fake| fake.starting([Start::Deaf])).await;
    let mut loading = daemon.worker.load("small", None).unwrap();
    assert!(matches!(loading.next().await, Some(LoadEvent::Step(_))));
    daemon.tasks.stop();
    let end = async {
        loop {
            match loading.next().await {
                Some(LoadEvent::Failed(failure)) => return failure.because,
                Some(_) => {}
                None => panic!("it ends without a word"),
            }
        }
    };
    let because = time::timeout(CEILING, end).await.expect("it ends with the daemon");
    assert_eq!(because, "the worker stops");
}

#[tokio::test]
async fn a_request_for_a_model_that_a_free_engine_takes_loads_it() {
    let daemon = Daemon::start(|fake| fake.starting([Start::Loading(2)])).await;
    let (first, second) = tokio::join!(daemon.chat(hello()), daemon.chat(hello()));
    for messages in [first, second] {
        let messages = messages.unwrap();
        assert!(matches!(messages.last(), Some((Event::Done(_), _))), "{messages:?}");
    }
    assert_eq!(daemon.show().await.engines[0].starts, 1);
}

#[tokio::test]
async fn a_request_that_waited_for_its_model_in_vain_is_told_why() {
    let ends = Start::Ends(Ended { code: Some(1), signal: None });
    let daemon = Daemon::start(|fake| fake.starting([ends; 3])).await;
    let messages = daemon.chat(hello()).await.unwrap();
    assert_eq!(failure(&messages).reason, "MODEL_NOT_LOADED");
    assert!(failure(&messages).message.contains("ended with exit code 1"), "{messages:?}");
}

#[tokio::test]
async fn unloading_ends_the_engine() {
    let daemon = Daemon::loaded(|fake| fake).await;
    let request = pb::UnloadModelRequest { model: "small".to_owned() };
    let reply = daemon.client.clone().unload_model(request).await.unwrap().into_inner();
    assert_eq!(reply.model.unwrap().state(), pb::ModelState::Unloaded);
    assert_eq!(daemon.show().await.engines[0].state(), pb::EngineState::Stopped);
}

#[tokio::test]
async fn a_draining_worker_finishes_what_it_has_and_takes_nothing_new() {
    let daemon = Daemon::loaded(|fake| {
        fake.answering([Step::Text("a"), Step::Wait(Duration::from_millis(300)), Step::Finish])
    })
    .await;
    let request = pb::ChatCompleteRequest { job_id: "job-9".to_owned(), ..hello() };
    let mut stream = daemon.client.clone().chat_complete(request).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let drain = |drain, millis: i32| pb::DrainRequest {
        drain,
        wait: Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 }),
    };
    let reply = daemon.client.clone().drain(drain(true, 0)).await.unwrap().into_inner();
    assert_eq!((reply.running, reply.jobs), (1, vec!["job-9".to_owned()]));
    let status = daemon.chat(hello()).await.unwrap_err();
    assert_eq!(reason_of(&status).as_deref(), Some("WORKER_DRAINING"));
    let long = pb::DrainRequest { drain: true, wait: None };
    assert_eq!(daemon.client.clone().drain(long).await.unwrap().into_inner().running, 0);
    let last = stream.message().await.unwrap().unwrap();
    assert!(matches!(last.event, Some(Event::Done(_))), "{last:?}");
    daemon.client.clone().drain(drain(false, 0)).await.unwrap();
    daemon.chat(hello()).await.unwrap();
}

#[tokio::test]
async fn watching_shows_the_worker_at_once_and_after_each_change() {
    let daemon = Daemon::start(|fake| fake).await;
    let mut stream =
        daemon.client.clone().watch_worker(pb::WatchWorkerRequest {}).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.sequence, 1);
    assert_eq!(first.worker.unwrap().engines[0].state(), pb::EngineState::Stopped);
    daemon.load().await;
    let mut sequence = 1;
    let ready = async {
        loop {
            let message = stream.message().await.unwrap().unwrap();
            sequence += 1;
            assert_eq!(message.sequence, sequence, "counted without gaps");
            if message.worker.unwrap().engines[0].state() == pb::EngineState::Ready {
                break;
            }
        }
    };
    time::timeout(CEILING, ready).await.expect("the engine is shown as ready");
    daemon.tasks.stop();
    let end = async { while let Ok(Some(_)) = stream.message().await {} };
    time::timeout(CEILING, end).await.expect("the stream ends with the daemon");
}

#[tokio::test]
async fn devices_and_models_are_listed() {
    let daemon = Daemon::loaded(|fake| fake).await;
    let mut client = daemon.client.clone();
    let devices =
        client.list_devices(pb::ListDevicesRequest {}).await.unwrap().into_inner().devices;
    assert_eq!((devices[0].id.as_str(), devices[0].kind()), ("cpu", pb::DeviceKind::Cpu));
    assert!(devices[0].missing.iter().any(|missing| missing.field == "memory_bytes"));
    let models = client.list_models(pb::ListModelsRequest {}).await.unwrap().into_inner().models;
    assert_eq!((models[0].state(), models[0].slots), (pb::ModelState::Loaded, Some(2)));
}

#[tokio::test]
async fn a_text_is_continued_in_pieces() {
    let daemon = Daemon::loaded(|fake| fake).await;
    let request = pb::CompleteRequest {
        model: "small".to_owned(),
        prompt: "Once".to_owned(),
        tokens_max: Some(3),
        ..Default::default()
    };
    let mut stream = daemon.client.clone().complete(request).await.unwrap().into_inner();
    let mut text = String::new();
    let mut last = None;
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(Piece::Delta(delta)) = &message.event {
            text.push_str(&delta.content);
        }
        last = message.event;
    }
    assert_eq!(text, "Hello there");
    assert!(matches!(last, Some(Piece::Done(_))), "{last:?}");
    let sent = &daemon.fake.requests()[0];
    assert_eq!((&sent["prompt"], &sent["max_tokens"]), (&"Once".into(), &3.into()));
}

#[tokio::test]
async fn texts_become_vectors_and_are_put_in_order() {
    const VECTORS: &str =
        r#"{"data":[{"index":0,"embedding":[0.5,1.0]}],"usage":{"prompt_tokens":3}}"#;
    const ORDER: &str = r#"{"results":[{"index":1,"relevance_score":0.5}]}"#;
    let daemon = Daemon::loaded(|fake| {
        fake.answering([Step::Json(VECTORS)])
            .answering([Step::Json(VECTORS)])
            .answering([Step::Json(ORDER)])
    })
    .await;
    let mut client = daemon.client.clone();
    let typed = pb::EmbedRequest {
        model: "small".to_owned(),
        inputs: vec!["a".to_owned()],
        ..Default::default()
    };
    let answer = client.embed(typed.clone()).await.unwrap().into_inner();
    assert_eq!(answer.embeddings[0].values, [0.5, 1.0]);
    assert_eq!(answer.usage.unwrap().prompt_tokens, Some(3));
    let json = pb::EmbedRequest {
        inputs: Vec::new(),
        openai_request: Bytes::from_static(br#"{"input":"a","odd":1.50}"#),
        ..typed
    };
    let answer = client.embed(json).await.unwrap().into_inner();
    assert_eq!(answer.openai_response, VECTORS);
    assert_eq!(daemon.fake.requests()[1]["odd"], 1.5);
    let question = pb::RerankRequest {
        model: "small".to_owned(),
        query: "q".to_owned(),
        documents: vec!["a".to_owned(), "b".to_owned()],
        ..Default::default()
    };
    let answer = client.rerank(question).await.unwrap().into_inner();
    assert_eq!((answer.results[0].index, answer.results[0].score), (1, 0.5));
}

#[tokio::test]
async fn what_an_engine_does_not_do_is_said_in_its_words() {
    const BODY: &str = r#"{"error":{"code":501,"message":"no embeddings here"}}"#;
    let daemon = Daemon::loaded(|fake| fake.answering([Step::Refuse(501, BODY)])).await;
    let request = pb::EmbedRequest {
        model: "small".to_owned(),
        inputs: vec!["a".to_owned()],
        ..Default::default()
    };
    let status = daemon.client.clone().embed(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason_of(&status).as_deref()),
        (Code::InvalidArgument, Some("ENGINE_REFUSED"))
    );
    assert!(status.message().contains("no embeddings here"), "{}", status.message());
}
