//! How long it takes until a model answers: from nothing, and from a host that has just come up.

use std::{
    fs::File,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use homelab_proto::inference::v1::{
    LoadModelRequest, UnloadModelRequest, inference_service_client::InferenceServiceClient,
    load_model_response::Event,
};
use http::Method;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{
    Scale, close,
    grpc::{Way, roots},
    interrupt,
    load::{Question, Server, first_word},
    peer::Peer,
    report::{Chapter, Table, secs},
    runtime,
};
use crate::{
    demo::Story,
    lab::{API_KEY, Daemon, HOSTS, Lab, MODEL, Ports, workspace},
};

/// The host with the worker.
const HOST: &str = "cw-nas";
/// As the lab's worker starts its engine.
const SLOTS: u32 = 2;
const CONTEXT: u32 = 2_048;
/// Longer than any start.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(5);

const METHOD: &str = "The development engine (llama.cpp's server out of a Python wheel) with SmolLM2-135M on the processor, \
two slots of 2,048 tokens. By hand it is started as a program and asked until it answers. Ours starts the same program by \
`LoadModel` of a `homelab-gpu-worker` over mTLS: with a key of its own, its answers checked, watched from then on; the \
first word then comes through gateway, queue and worker. \"Cold\": the kernel was told to forget the model's file \
(`posix_fadvise`), which the machine's owner may do without stopping others; libraries stay. \"Worker up\": a chat waits \
in the queue while its host is off; the clock starts with the worker's process. By hand there is no queue: the engine is \
started, and asked as soon as it is ready.";

/// One kind of start, and what it took each time.
#[derive(Debug)]
struct Start {
    name: &'static str,
    is_cold: bool,
    ready: Vec<Duration>,
    word: Vec<Duration>,
}

impl Start {
    const fn new(name: &'static str, is_cold: bool) -> Self {
        Self { name, is_cold, ready: Vec::new(), word: Vec::new() }
    }

    fn add(&mut self, began: Instant, ready: Instant, word: Instant) {
        self.ready.push(ready - began);
        self.word.push(word - began);
    }
}

pub(super) fn measure(story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
    let mut lab = story.step("a lab with controller and one worker", lab_with_worker)?;
    let measured = measure_in(story, scale, &mut lab);
    close(story, lab)?;
    measured
}

fn measure_in(story: &Story, scale: Scale, lab: &mut Lab) -> anyhow::Result<Chapter> {
    lab.wait_for_model("bronze")?;
    let runtime = runtime()?;
    let rounds = scale.pick(9, 2);
    let mut starts = [
        Start::new("llama-server by hand", false),
        Start::new("LoadModel of the worker", false),
        Start::new("llama-server by hand", true),
        Start::new("LoadModel of the worker", true),
    ];
    let [hand_warm, ours_warm, hand_cold, ours_cold] = &mut starts;
    let gateway = Server::secure(lab.ports().web(), roots(lab)?, API_KEY)?;
    let way = Way::to(lab, HOST, Daemon::GpuWorker)?;
    let mut worker = runtime.block_on(async { way.channel() }).map(InferenceServiceClient::new)?;
    // The worker's engine is away while the other is measured, and its pages are nobody's.
    runtime.block_on(unload(&mut worker))?;
    story.step("starts of the engine", || {
        for _ in 0..rounds {
            for (by_hand, ours) in
                [(&mut *hand_warm, &mut *ours_warm), (&mut *hand_cold, &mut *ours_cold)]
            {
                interrupt::check()?;
                prepare(by_hand)?;
                start_by_hand(lab, by_hand, &runtime)?;
                prepare(ours)?;
                runtime.block_on(load(&mut worker, ours, &gateway))?;
            }
        }
        Ok(())
    })?;
    runtime.block_on(unload(&mut worker))?;
    drop(worker);
    // With the connections in it: a worker that ends waits for those to be closed.
    drop(runtime);
    let runtime = super::runtime()?;
    let up = story.step("first words of a worker that comes up", || {
        (0..rounds).map(|_| come_up(lab, &gateway, &runtime)).collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(chapter(&mut starts, up))
}

fn lab_with_worker() -> anyhow::Result<Lab> {
    let mut lab = Lab::prepare(Ports::free()?)?;
    let host = HOSTS.iter().find(|host| host.name == HOST).context("the host")?;
    lab.start_controller()?;
    lab.join(host, Daemon::GpuWorker)?;
    Ok(lab)
}

/// The model's file is in the page cache, or it is not.
fn prepare(start: &Start) -> anyhow::Result<()> {
    let path = workspace().join(".dev/engine/model.gguf");
    let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    if start.is_cold {
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .context("drop pages")?;
    } else {
        std::io::copy(&mut file, &mut std::io::sink()).context("read the model")?;
    }
    Ok(())
}

fn start_by_hand(
    lab: &Lab,
    start: &mut Start,
    runtime: &tokio::runtime::Runtime,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let engine = Peer::llama_server(&lab.folder().join("logs"), SLOTS, CONTEXT)?;
    let server = Server::plain(engine.address);
    let (ready, word) = runtime.block_on(async {
        let ready = ready(&server).await?;
        anyhow::Ok((ready, first_word(&server, &question()).await?))
    })?;
    start.add(began, ready, word);
    Ok(())
}

/// When the engine said that it is ready.
async fn ready(server: &Server) -> anyhow::Result<Instant> {
    let health = Question { method: Method::GET, path: "/health", body: Bytes::new(), ending: "}" };
    let looking = async {
        while super::load::ask(server, &health, super::load::Rounds::new(1, 1)).await.is_err() {
            sleep(LOOK_EVERY).await;
        }
        Instant::now()
    };
    timeout(READY_WITHIN, looking).await.context("wait for the engine")
}

async fn load(
    worker: &mut InferenceServiceClient<Channel>,
    start: &mut Start,
    gateway: &Server,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let request = LoadModelRequest { model: MODEL.to_owned(), busy_wait: None };
    let mut told = worker.load_model(request).await?.into_inner();
    let ready = loop {
        match told.message().await?.context("an end")?.event {
            Some(Event::Model(_)) => break Instant::now(),
            Some(Event::Failure(failure)) => bail!("not loaded: {}", failure.message),
            Some(Event::Progress(_)) | None => {}
        }
    };
    start.add(began, ready, first_word(gateway, &question()).await?);
    unload(worker).await
}

async fn unload(worker: &mut InferenceServiceClient<Channel>) -> anyhow::Result<()> {
    let request = UnloadModelRequest { model: MODEL.to_owned() };
    worker.unload_model(request).await.context("unload the model")?;
    Ok(())
}

/// Switches the worker off, asks, switches it on, and waits for the first word.
fn come_up(
    lab: &mut Lab,
    gateway: &Server,
    runtime: &tokio::runtime::Runtime,
) -> anyhow::Result<Duration> {
    interrupt::check()?;
    let name = format!("{HOST}/{}", Daemon::GpuWorker.word());
    lab.process(&name)?.end()?;
    let question = question();
    let (began, word) = runtime.block_on(async {
        let asking = first_word(gateway, &question);
        let starting = async {
            // The request is in the queue before there is anybody to take it.
            waits(lab).await?;
            let began = Instant::now();
            lab.restart(&name)?;
            anyhow::Ok(began)
        };
        let (began, word) = tokio::join!(starting, asking);
        anyhow::Ok((began?, word?))
    })?;
    Ok(word - began)
}

async fn waits(lab: &Lab) -> anyhow::Result<()> {
    let looking = async {
        loop {
            let jobs = lab.labctl_json(&["job", "list", "--open"])?;
            // Not assigned: a worker that has gone may be thought there for a moment.
            if matches!(
                jobs["jobs"][0]["state"].as_str(),
                Some("JOB_STATE_QUEUED" | "JOB_STATE_WAITING")
            ) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(READY_WITHIN, looking).await.context("wait for the job")?
}

fn question() -> Question {
    let body = json!({
        "model": MODEL,
        "stream": true,
        "max_tokens": 2,
        "messages": [{ "role": "user", "content": "Say one word." }],
    });
    Question {
        method: Method::POST,
        path: "/v1/chat/completions",
        body: Bytes::from(body.to_string()),
        ending: "data: [DONE]",
    }
}

fn chapter(starts: &mut [Start], mut up: Vec<Duration>) -> Chapter {
    let mut table = Table::new(
        "From no engine to a first word, s",
        ["way", "model's file", "starts", "ready, median", "ready, longest", "first word, median"],
    );
    for start in starts {
        table.row([
            start.name.to_owned(),
            if start.is_cold { "cold" } else { "warm" }.to_owned(),
            start.ready.len().to_string(),
            secs(median(&mut start.ready)),
            secs(start.ready.last().copied().unwrap_or_default()),
            secs(median(&mut start.word)),
        ]);
    }
    let mut came = Table::new(
        "From a worker that comes up to the first word of a chat that waited, s",
        ["way", "starts", "median", "longest"],
    );
    came.row([
        "homelab-gpu-worker, its process started".to_owned(),
        up.len().to_string(),
        secs(median(&mut up)),
        secs(up.last().copied().unwrap_or_default()),
    ]);
    Chapter::new("Engine", METHOD, vec![table, came])
}

/// The middle one, and the list in order from then on.
fn median(values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
