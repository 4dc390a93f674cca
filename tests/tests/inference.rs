//! A real gpu-worker over mTLS with a real engine and a real model.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail the test, and figures are worth seeing"
)]

#[path = "inference/context.rs"]
mod context;
#[path = "inference/sdk.rs"]
mod sdk;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use homelab_common::{
    chance::SystemChance, clock::SystemClock, exec::SystemExec, lifecycle::Tasks, secret,
    tls::install_crypto_provider,
};
use homelab_gpu_worker::{
    app::{App, Deps},
    config::Config,
    device::Roots,
    engine::http::{Endpoint, get},
};
use homelab_proto::{
    common::v1::Failure,
    inference::v1::{
        self as pb, chat_complete_response::Event, inference_service_client::InferenceServiceClient,
    },
};
use homelab_rpc::{
    dial::Dialer,
    peer::Kind,
    status::reason_of,
    testing::{TestSite, target},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::{Code, Status, Streaming, transport::Channel};

/// No wait in these tests comes near it unless something is broken.
const CEILING: Duration = Duration::from_secs(60);

/// A caller that leaves frees the slot within half a second; the figures are printed.
const FREED_MAX: Duration = Duration::from_millis(500);

/// A machine that also compiles may stand in the way of one caller, not of ten.
const LEAVERS_MAX: usize = 10;

struct Worker {
    client: InferenceServiceClient<Channel>,
    site: TestSite,
    address: SocketAddr,
    folder: tempfile::TempDir,
    tasks: Tasks,
}

impl Worker {
    /// A worker with the development engine and its model loaded, two slots.
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with more settings of the engine.
    async fn start_with(settings: &str) -> Self {
        install_crypto_provider();
        let engine = dev_engine();
        let folder = tempfile::tempdir().unwrap();
        let site = TestSite::new("home");
        let id = site.daemon(Kind::GpuWorker, "cw-nas");
        let pki = folder.path().join("pki");
        fs::create_dir(&pki).unwrap();
        let leaf = site.leaf(&id);
        write_private(&pki.join("cert.pem"), &leaf.chain_pem);
        write_private(&pki.join("key.pem"), leaf.key_pem.expose());
        write_private(&pki.join("ca.pem"), site.root_pem());

        let text = format!(
            r#"
            listen = "127.0.0.1:0"
            state-dir = "{folder}"
            runtime-dir = "{folder}/run"
            admin-socket = false

            [[engine]]
            name = "cpu"
            command = ["{engine}/bin/llama-server"]
            load = "smollm2"
            drain-deadline = "1s"
            {settings}

            [[model]]
            name = "smollm2"
            path = "{engine}/model.gguf"
            context = 2048
            slots = 2

            [[model]]
            name = "vectors"
            path = "{engine}/model.gguf"
            context = 512
            purpose = "embeddings"
            arguments = ["--pooling", "mean"]

            [[model]]
            name = "order"
            path = "{engine}/model.gguf"
            context = 512
            purpose = "rerank"

            [[model]]
            name = "everything"
            path = "{engine}/model.gguf"
            context = 16777216
            slots = 256
            "#,
            folder = folder.path().display(),
            engine = engine.display(),
        );
        let config = Config::parse("gpu-worker.toml", &text).unwrap();
        let tasks = Tasks::default();
        let deps = Deps {
            tasks: tasks.clone(),
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            exec: Arc::new(SystemExec),
            roots: Roots::default(),
            log: None,
        };
        let app = App::start(config, deps).await.unwrap();
        let dialer = site.dialer(&site.daemon(Kind::Controller, "hx310-db"));
        let client = client(&dialer, &site, app.address);
        let worker = Self { client, site, address: app.address, folder, tasks };
        worker.ready(1).await;
        worker
    }

    fn as_user(&self, grant: &str) -> InferenceServiceClient<Channel> {
        let dialer = self.site.dialer(&self.site.user("somebody", grant));
        client(&dialer, &self.site, self.address)
    }

    /// The engine, once its start number `starts` is ready.
    async fn ready(&self, starts: u32) -> pb::Engine {
        self.until(|engine| engine.starts >= starts && engine.state() == pb::EngineState::Ready)
            .await
    }

    async fn until(&self, wanted: impl Fn(&pb::Engine) -> bool) -> pb::Engine {
        let mut stream =
            self.client.clone().watch_worker(pb::WatchWorkerRequest {}).await.unwrap().into_inner();
        let mut last = None;
        let watching = async {
            loop {
                let message = stream.message().await.unwrap().expect("the stream goes on");
                let engine = message.worker.unwrap().engines.remove(0);
                if wanted(&engine) {
                    return engine;
                }
                last = Some(engine);
            }
        };
        match tokio::time::timeout(CEILING, watching).await {
            Ok(engine) => engine,
            Err(_) => panic!("the engine is still {last:?}"),
        }
    }

    async fn engine(&self) -> pb::Engine {
        let reply = self.client.clone().get_worker(pb::GetWorkerRequest {}).await.unwrap();
        reply.into_inner().worker.unwrap().engines.remove(0)
    }

    async fn ask(
        &self,
        request: pb::ChatCompleteRequest,
    ) -> Result<Streaming<pb::ChatCompleteResponse>, Status> {
        Ok(self.client.clone().chat_complete(request).await?.into_inner())
    }

    /// How loading a model ends.
    async fn try_load(&self, model: &str) -> Option<pb::load_model_response::Event> {
        let request = pb::LoadModelRequest { model: model.to_owned(), ..Default::default() };
        let mut stream = self.client.clone().load_model(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(message) = stream.message().await.unwrap() {
            last = message.event;
        }
        last
    }

    async fn load(&self, model: &str) -> pb::Model {
        match self.try_load(model).await {
            Some(pb::load_model_response::Event::Model(model)) => model,
            other => panic!("{model} is not loaded: {other:?}"),
        }
    }

    async fn pid(&self) -> Pid {
        let pid = self.engine().await.pid.expect("the engine has a process");
        Pid::from_raw(i32::try_from(pid).unwrap())
    }

    /// How many slots the engine itself calls busy: asked past the worker.
    async fn busy_by_the_engines_account(&self) -> usize {
        let pid = self.pid().await;
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let port = arguments.split('\0').skip_while(|word| *word != "--port").nth(1).unwrap();
        let key = secret::from_file(self.folder.path().join("run/engine-cpu.key")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
        let endpoint = Endpoint::try_new(address, key).unwrap();
        let answer = get(&endpoint, "/slots", Duration::from_secs(5), 1 << 20).await.unwrap();
        let slots: Vec<serde_json::Value> = serde_json::from_slice(&answer.body).unwrap();
        slots.iter().filter(|slot| slot["is_processing"] == true).count()
    }

    async fn end(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(20)).await, "it stops in time");
    }
}

fn client(
    dialer: &Dialer,
    site: &TestSite,
    address: SocketAddr,
) -> InferenceServiceClient<Channel> {
    let id = site.daemon(Kind::GpuWorker, "cw-nas");
    InferenceServiceClient::new(dialer.dial(target(address, &id)).unwrap())
}

fn dev_engine() -> PathBuf {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.dev/engine");
    let Ok(engine) = engine.canonicalize() else {
        panic!(
            "the development engine is missing; install it with `packaging/dev-engine/install.sh`, \
             which `make setup` calls too"
        );
    };
    engine
}

fn write_private(path: &Path, text: &str) {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn say(text: &str, tokens_max: u32) -> pb::ChatCompleteRequest {
    let message = pb::ChatMessage { role: pb::ChatRole::User.into(), content: text.to_owned() };
    pb::ChatCompleteRequest {
        model: "smollm2".to_owned(),
        messages: vec![message],
        tokens_max: Some(tokens_max),
        temperature: Some(0.0),
        seed: Some(1),
        ..Default::default()
    }
}

/// An answer that goes on for longer than any test.
fn story() -> pb::ChatCompleteRequest {
    in_json(
        r#"{"messages":[{"role":"user","content":"Tell a long story."}],"max_tokens":1800,
            "ignore_eos":true}"#,
    )
}

fn in_json(request: &str) -> pb::ChatCompleteRequest {
    pb::ChatCompleteRequest {
        model: "smollm2".to_owned(),
        openai_request: Bytes::copy_from_slice(request.as_bytes()),
        ..Default::default()
    }
}

async fn read(mut stream: Streaming<pb::ChatCompleteResponse>) -> Vec<(Event, Bytes)> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        messages.push((message.event.unwrap(), message.openai_chunk));
    }
    messages
}

fn failure(messages: &[(Event, Bytes)]) -> &Failure {
    match messages.last() {
        Some((Event::Failure(failure), _)) => failure,
        other => panic!("ends with {other:?}"),
    }
}

/// Reads until `count` pieces have come.
async fn pieces(stream: &mut Streaming<pb::ChatCompleteResponse>, count: usize) {
    for _ in 0..count {
        stream.message().await.unwrap().expect("the answer goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_model_answers_piece_by_piece() {
    let worker = Worker::start().await;
    let began = std::time::Instant::now();
    let messages = read(worker.ask(say("What is 2 + 2?", 24)).await.unwrap()).await;
    let text: String = messages
        .iter()
        .filter_map(|(event, _)| match event {
            Event::Delta(delta) => Some(delta.content.as_str()),
            _ => None,
        })
        .collect();
    assert!(messages.len() > 4, "in pieces, not at once: {messages:?}");
    assert!(text.chars().filter(|letter| letter.is_alphabetic()).count() > 5, "{text:?}");
    let Some((Event::Done(done), _)) = messages.last() else { panic!("{messages:?}") };
    let usage = done.usage.unwrap();
    assert!(usage.prompt_tokens > Some(5) && usage.completion_tokens > Some(3), "{usage:?}");
    assert!(usage.completion_elapsed.is_some());
    let seconds = began.elapsed().as_secs_f64();
    println!("{text:?}: {:?} tokens in {seconds:.2} s", usage.completion_tokens);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_reach_the_real_engine_and_its_chunks_come_back_whole() {
    let worker = Worker::start().await;
    let request = in_json(
        r#"{"messages":[{"role":"user","content":"Say yes."}],"max_tokens":4,"logprobs":true,
            "top_logprobs":2,"timings_per_token":true}"#,
    );
    let messages = read(worker.ask(request).await.unwrap()).await;
    let chunks: Vec<serde_json::Value> = messages
        .iter()
        .filter(|(_, raw)| !raw.is_empty())
        .map(|(_, raw)| serde_json::from_slice(raw).unwrap())
        .collect();
    let has = |pointer: &str| chunks.iter().any(|chunk| chunk.pointer(pointer).is_some());
    assert!(has("/choices/0/logprobs/content/0/top_logprobs/1"), "{chunks:?}");
    assert!(has("/timings/predicted_per_second"), "{chunks:?}");
    assert!(has("/usage/completion_tokens"), "the cost is always asked for: {chunks:?}");
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_frees_the_slot_of_the_real_engine() {
    let worker = Worker::start().await;
    let mut figures = Vec::new();
    while figures.len() < LEAVERS_MAX && figures.iter().all(|freed| *freed > FREED_MAX) {
        figures.push(freed_after_leaving(&worker).await);
    }
    println!("the slot was free after {figures:?}");
    assert!(figures.iter().any(|freed| *freed <= FREED_MAX), "free only after {figures:?}");
    worker.end().await;
}

/// How long after its caller has left a slot is free, by the worker's and by the engine's account.
async fn freed_after_leaving(worker: &Worker) -> Duration {
    let mut stream = worker.ask(story()).await.unwrap();
    pieces(&mut stream, 5).await;
    assert_eq!(worker.busy_by_the_engines_account().await, 1);
    let left = std::time::Instant::now();
    drop(stream);
    while worker.engine().await.slots_busy > 0 {
        assert!(left.elapsed() < CEILING, "the slot is never free");
    }
    let freed = left.elapsed();
    while worker.busy_by_the_engines_account().await > 0 {
        assert!(left.elapsed() < CEILING, "the engine works on for nobody");
    }
    freed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_engine_ends_its_answers_with_a_failure_and_comes_back() {
    let worker = Worker::start().await;
    let mut stream = worker.ask(story()).await.unwrap();
    pieces(&mut stream, 5).await;
    kill(worker.pid().await, Signal::SIGKILL).unwrap();

    let messages = tokio::time::timeout(CEILING, read(stream)).await.expect("the answer ends");
    let failure = failure(&messages);
    assert_eq!((failure.reason.as_str(), failure.retryable), ("ENGINE_CRASHED", true));
    assert!(failure.message.contains("SIGKILL"), "{}", failure.message);

    let engine = worker.ready(2).await;
    assert!(engine.last_failure.contains("SIGKILL"), "{engine:?}");
    let messages = read(worker.ask(say("Say yes.", 4)).await.unwrap()).await;
    assert!(matches!(messages.last(), Some((Event::Done(_), _))), "{messages:?}");
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_engine_is_found_by_its_lack_of_progress() {
    let worker = Worker::start_with("stall-deadline = \"3s\"").await;
    let mut stream = worker.ask(story()).await.unwrap();
    pieces(&mut stream, 5).await;
    kill(worker.pid().await, Signal::SIGSTOP).unwrap();

    let messages = tokio::time::timeout(CEILING, read(stream)).await.expect("the answer ends");
    let failure = failure(&messages);
    assert_eq!(failure.reason, "ENGINE_CRASHED");
    assert!(failure.message.contains("it made no progress for"), "{}", failure.message);
    worker.ready(2).await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_request_on_two_slots_is_refused_and_never_queued_by_the_engine() {
    let worker = Worker::start().await;
    let mut first = worker.ask(story()).await.unwrap();
    let mut second = worker.ask(story()).await.unwrap();
    pieces(&mut first, 2).await;
    pieces(&mut second, 2).await;
    let status = worker.ask(say("hi", 4)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason_of(&status).as_deref(), Some("SLOTS_BUSY"));
    assert_eq!(worker.busy_by_the_engines_account().await, 2);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_is_too_long_is_refused_in_the_engines_words() {
    let worker = Worker::start().await;
    let request = in_json(&format!(
        r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#,
        "word ".repeat(4000)
    ));
    let messages = read(worker.ask(request).await.unwrap()).await;
    assert_eq!(failure(&messages).reason, "ENGINE_REFUSED");
    assert!(!failure(&messages).retryable);
    let said: serde_json::Value = serde_json::from_slice(&messages.last().unwrap().1).unwrap();
    assert_eq!(said["error"]["type"], "exceed_context_size_error", "{said}");
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unloading_ends_the_process_and_loading_starts_another() {
    let worker = Worker::start().await;
    let first = worker.pid().await;
    let request = pb::UnloadModelRequest { model: "smollm2".to_owned() };
    worker.client.clone().unload_model(request).await.unwrap();
    assert!(!Path::new(&format!("/proc/{first}")).exists(), "the process is gone");
    let model = worker.load("smollm2").await;
    assert_eq!(model.state(), pb::ModelState::Loaded);
    assert_ne!(worker.pid().await, first);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_model_continues_a_text() {
    let worker = Worker::start().await;
    let request = pb::CompleteRequest {
        model: "smollm2".to_owned(),
        prompt: "One, two, three,".to_owned(),
        tokens_max: Some(6),
        temperature: Some(0.0),
        ..Default::default()
    };
    let mut stream = worker.client.clone().complete(request).await.unwrap().into_inner();
    let mut text = String::new();
    let mut done = None;
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            pb::complete_response::Event::Delta(delta) => text.push_str(&delta.content),
            pb::complete_response::Event::Done(end) => done = Some(end),
            pb::complete_response::Event::Failure(failure) => panic!("{failure:?}"),
        }
    }
    assert!(!text.trim().is_empty() && done.is_some(), "{text:?} {done:?}");
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_model_gives_vectors_and_says_what_it_does_not_do() {
    let worker = Worker::start().await;
    let mut client = worker.client.clone();
    let inputs = ["a cat", "a cat", "the tax office"].map(str::to_owned).into();
    let request = pb::EmbedRequest { model: "vectors".to_owned(), inputs, ..Default::default() };
    // The one engine of this host has another model, which makes room when it is told to.
    let busy = client.embed(request.clone()).await.unwrap_err();
    assert_eq!(reason_of(&busy).as_deref(), Some("ENGINE_NOT_READY"));
    worker.load("vectors").await;
    let answer = client.embed(request).await.unwrap().into_inner();
    let vectors: Vec<&[f32]> =
        answer.embeddings.iter().map(|vector| vector.values.as_slice()).collect();
    assert_eq!((vectors.len(), vectors[0].len()), (3, 576));
    let cosine = |left: &[f32], right: &[f32]| -> f32 {
        left.iter().zip(right).map(|(left, right)| left * right).sum()
    };
    assert!(cosine(vectors[0], vectors[1]) > 0.99);
    assert!(cosine(vectors[0], vectors[2]) < cosine(vectors[0], vectors[1]));
    assert!(answer.usage.unwrap().prompt_tokens > Some(3));

    let openai_request = Bytes::from_static(br#"{"input":"a cat","model":"gpt"}"#);
    let json =
        pb::EmbedRequest { model: "vectors".to_owned(), openai_request, ..Default::default() };
    let answer = client.embed(json).await.unwrap().into_inner();
    let said: serde_json::Value = serde_json::from_slice(&answer.openai_response).unwrap();
    assert_eq!(said["object"], "list", "{said}");

    let question = pb::RerankRequest {
        model: "vectors".to_owned(),
        query: "cat".to_owned(),
        documents: vec!["a cat".to_owned()],
        ..Default::default()
    };
    let status = client.rerank(question).await.unwrap_err();
    assert_eq!(reason_of(&status).as_deref(), Some("ENGINE_REFUSED"));
    assert!(status.message().contains("--reranking"), "{}", status.message());

    worker.load("order").await;
    let question = pb::RerankRequest {
        model: "order".to_owned(),
        query: "cat".to_owned(),
        documents: ["a cat", "the tax office"].map(str::to_owned).into(),
        ..Default::default()
    };
    // Which comes first is the model's business, and this one was not made for it.
    let results = client.rerank(question).await.unwrap().into_inner().results;
    assert!(results.len() == 2 && results[0].score >= results[1].score, "{results:?}");
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_file_tells_what_its_model_needs_and_what_does_not_fit_is_not_tried() {
    let worker = Worker::start().await;
    let models = worker.client.clone().list_models(pb::ListModelsRequest {}).await.unwrap();
    let models = models.into_inner().models;
    let model = models.iter().find(|model| model.name == "smollm2").unwrap();
    assert_eq!(model.architecture.as_deref(), Some("llama"));
    assert_eq!(model.context_trained_tokens, Some(8192));
    // 30 layers of 3 heads of 64 numbers in f16, for keys and for values.
    let cache = 2 * 30 * 3 * 64 * 2 * 4096;
    let needs = model.memory_bytes.unwrap();
    assert!((cache..cache + (1 << 30)).contains(&needs), "{needs}");
    let Some(pb::load_model_response::Event::Failure(failure)) =
        worker.try_load("everything").await
    else {
        panic!("it fits");
    };
    assert!(failure.message.contains("`everything` needs "), "{}", failure.message);
    assert_eq!(worker.engine().await.starts, 1);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_sees_the_worker_and_may_not_use_it() {
    let worker = Worker::start().await;
    let mut viewer = worker.as_user("viewer");
    viewer.get_worker(pb::GetWorkerRequest {}).await.unwrap();
    let status = viewer.chat_complete(say("hi", 4)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let stream = worker.as_user("operator").chat_complete(say("hi", 4)).await.unwrap().into_inner();
    assert!(matches!(read(stream).await.last(), Some((Event::Done(_), _))));
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_the_engine_and_leaves_no_key_behind() {
    let worker = Worker::start().await;
    let pid = worker.pid().await;
    let key = worker.folder.path().join("run/engine-cpu.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = worker.ask(story()).await.unwrap();
    pieces(&mut stream, 2).await;
    let reading = read(stream);
    let (graceful, messages) =
        tokio::join!(worker.tasks.shutdown(Duration::from_secs(20)), reading);
    assert!(graceful);
    assert_eq!(failure(&messages).reason, "ENGINE_CRASHED", "no answer ends without a word");
    assert!(!Path::new(&format!("/proc/{pid}")).exists() && !key.exists());
}
