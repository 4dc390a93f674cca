//! The OpenAI gateway with the durable queue behind it.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::{
    Scale, close,
    grpc::roots,
    load::{Answers, Question, Rounds, Server, ask},
    measure::Span,
    peer::Peer,
    report::{Chapter, Table, ms, verdict},
    runtime,
};
use crate::{
    demo::Story,
    lab::{API_KEY, Daemon, HOSTS, Lab, MODEL, Ports},
};

/// Callers at once.
const CALLERS: [u32; 3] = [1, 16, 64];
/// Slots of the worker: as many as there are callers at once.
const SLOTS: u32 = 64;
/// Words of a streamed answer: 66 events with role, reason to end and `[DONE]`.
const STREAM_TOKENS: u32 = 63;
/// Words of a whole answer.
const WHOLE_TOKENS: u32 = 16;
/// The limits of the design, CPU of the controller.
const WHOLE_MS_MAX: f64 = 0.3;
const STREAM_MS_MAX: f64 = 1.0;

const METHOD: &str = "The engine is a mock that answers in llama-server's form as fast as the socket \
takes it. It is asked directly, through nginx as a bare reverse proxy (one process, `proxy_buffering \
off`, connections kept open, plain HTTP), through LiteLLM's proxy (one process, plain HTTP, one model, the master key \
checked, no database: it remembers nothing of a request) and through ours: HTTPS, key checked, a durable row for the job \
in SQLite (`synchronous = FULL`), placement, a `homelab-gpu-worker` over mTLS, which opens a connection \
to the engine for each request and always has the answer streamed. So a whole answer of 16 words is \
17 events between engine and controller for ours, and one body for the others. The CPU of the load \
generator is not counted, but shares the cores.";

/// What is asked, and how often by one and by many.
#[derive(Clone, Debug)]
struct Load {
    name: &'static str,
    question: Question,
    rounds: [Rounds; CALLERS.len()],
    limit_ms: Option<f64>,
}

/// One way to the engine, and the processes on it.
#[derive(Debug)]
struct Way {
    name: &'static str,
    server: Server,
    /// What stands before the worker.
    front: Option<u32>,
    worker: Option<u32>,
    engine: u32,
}

pub(super) fn measure(story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
    let mut lab = story.step("a lab with controller and one worker", lab_with_worker)?;
    let measured = measure_in(story, scale, &mut lab);
    close(story, lab)?;
    measured
}

fn measure_in(story: &Story, scale: Scale, lab: &mut Lab) -> anyhow::Result<Chapter> {
    lab.wait_for_model("bronze")?;
    let logs = lab.folder().join("logs");
    let engine = Peer::mock_engine(&logs)?;
    let nginx = Peer::nginx(&logs, engine.address)?;
    let litellm = story.step("LiteLLM starts", || Peer::litellm(&logs, engine.address))?;
    let ways = [
        way("engine itself", Server::plain(engine.address), None, engine.pid()),
        way("nginx before it", Server::plain(nginx.address), Some(nginx.pid()), engine.pid()),
        way(
            "LiteLLM before it",
            Server::plain(litellm.address).with_key(API_KEY),
            Some(litellm.pid()),
            engine.pid(),
        ),
        ours(lab)?,
    ];
    let runtime = runtime()?;
    let mut tables = Vec::new();
    for load in loads(scale) {
        let mut table = table(load.name);
        for way in &ways {
            let title = format!("{}: {}", load.name, way.name);
            let measured = story.step(&title, || runtime.block_on(ask_all(way, &load)))?;
            row(&mut table, way, &load, &measured)?;
        }
        tables.push(table);
    }
    ensure!(succeeded(lab)?, "the newest job is not a durable success");
    Ok(Chapter::new("Gateway", METHOD, tables))
}

/// A worker whose engine is the mock, and a controller that sees it.
fn lab_with_worker() -> anyhow::Result<Lab> {
    let mut lab = Lab::prepare(Ports::free()?)?;
    let host = HOSTS.iter().find(|host| host.name == "cw-nas").context("the host cw-nas")?;
    let file = lab.folder().join("etc/cw-nas-gpu-worker.toml");
    let text = fs::read_to_string(&file).context("read the worker's configuration")?;
    let (general, _real_engine) = text.split_once("[[engine]]").context("an engine")?;
    let own = std::env::current_exe().context("find the own program")?;
    let text = format!(
        "{general}[[engine]]\nname = \"mock\"\ncommand = [\"{}\", \"mock-engine\", \"--host\", \"{{host}}\", \
         \"--port\", \"{{port}}\"]\nload = \"{MODEL}\"\n\n[[model]]\nname = \"{MODEL}\"\ncontext = 2048\n\
         slots = {SLOTS}\n",
        own.display()
    );
    fs::write(&file, text).context("write the worker's configuration")?;
    lab.start_controller()?;
    lab.join(host, Daemon::GpuWorker)?;
    Ok(lab)
}

fn way(name: &'static str, server: Server, front: Option<u32>, engine: u32) -> Way {
    Way { name, server, front, worker: None, engine }
}

fn ours(lab: &mut Lab) -> anyhow::Result<Way> {
    let server = Server::secure(lab.ports().web(), roots(lab)?, API_KEY)?;
    let worker = lab.process("cw-nas/gpu-worker")?.pid();
    let engine = child_of(worker)?;
    let front = Some(lab.process("controller")?.pid());
    Ok(Way { name: "homelab gateway", server, front, worker: Some(worker), engine })
}

/// The one child of a process: the engine of a worker.
fn child_of(pid: u32) -> anyhow::Result<u32> {
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("read the worker's threads")? {
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        if let Some(child) = children.split_ascii_whitespace().next() {
            return child.parse().context("read a pid");
        }
    }
    anyhow::bail!("the worker has no engine")
}

fn loads(scale: Scale) -> [Load; 3] {
    let question = |stream: bool, tokens: u32, pace_ms: u32| Question {
        method: Method::POST,
        path: "/v1/chat/completions",
        body: Bytes::from(
            json!({
                "model": MODEL,
                "stream": stream,
                "max_tokens": tokens,
                "messages": [{ "role": "user", "content": "Say many words." }],
                "mock_pace_ms": pace_ms,
            })
            .to_string(),
        ),
        ending: if stream { "data: [DONE]" } else { "}" },
    };
    let rounds = |each: [u32; CALLERS.len()]| {
        std::array::from_fn(|place| Rounds::new(CALLERS[place], each[place]))
    };
    [
        Load {
            name: "Whole answer of 16 words",
            question: question(false, WHOLE_TOKENS, 0),
            rounds: rounds(scale.pick([400, 60, 20], [40, 6, 2])),
            limit_ms: Some(WHOLE_MS_MAX),
        },
        Load {
            name: "Stream of 66 events, as fast as possible",
            question: question(true, STREAM_TOKENS, 0),
            rounds: rounds(scale.pick([200, 30, 8], [20, 3, 1])),
            limit_ms: Some(STREAM_MS_MAX),
        },
        Load {
            name: "Stream of 66 events, 5 ms apart as of a fast engine",
            question: question(true, STREAM_TOKENS, 5),
            rounds: rounds(scale.pick([20, 15, 6], [3, 2, 1])),
            limit_ms: None,
        },
    ]
}

/// What one way cost under one load, by so many callers.
type Measured = Vec<(Rounds, Answers, Costs)>;

async fn ask_all(way: &Way, load: &Load) -> anyhow::Result<Measured> {
    // Connections, caches and the allocator are warm then.
    let _warm = ask(&way.server, &load.question, Rounds::new(2, 3)).await?;
    let mut measured = Vec::with_capacity(load.rounds.len());
    for rounds in load.rounds {
        let (answers, costs) = ask_counted(way, load, rounds).await?;
        measured.push((rounds, answers, costs));
    }
    Ok(measured)
}

/// CPU of each request.
#[derive(Debug)]
struct Costs {
    front: Option<Duration>,
    worker: Option<Duration>,
    engine: Duration,
}

async fn ask_counted(way: &Way, load: &Load, rounds: Rounds) -> anyhow::Result<(Answers, Costs)> {
    let begin = |pid: Option<u32>| pid.map(Span::begin).transpose();
    let (front, worker, engine) = (begin(way.front)?, begin(way.worker)?, Span::begin(way.engine)?);
    let answers = ask(&way.server, &load.question, rounds).await?;
    let each = |span: Option<Span>| -> anyhow::Result<Option<Duration>> {
        span.map(|span| Ok(span.cpu()? / rounds.total())).transpose()
    };
    let engine = engine.cpu()? / rounds.total();
    Ok((answers, Costs { front: each(front)?, worker: each(worker)?, engine }))
}

fn table(name: &str) -> Table {
    Table::new(
        name,
        [
            "way",
            "callers",
            "requests",
            "median, ms",
            "99 %, ms",
            "CPU of gateway, ms",
            "limit",
            "CPU of worker, ms",
            "CPU of engine, ms",
        ],
    )
}

fn row(table: &mut Table, way: &Way, load: &Load, measured: &Measured) -> anyhow::Result<()> {
    let is_ours = way.worker.is_some();
    let shown = |cost: Option<Duration>| cost.map_or_else(|| "-".to_owned(), ms);
    for (rounds, answers, costs) in measured {
        ensure!(answers.count() == rounds.total(), "not every request was answered");
        let limit = match (costs.front, load.limit_ms) {
            (Some(front), Some(limit)) if is_ours => verdict(front.as_secs_f64() * 1e3, limit),
            _ => String::new(),
        };
        table.row([
            way.name.to_owned(),
            rounds.clients().to_string(),
            answers.count().to_string(),
            ms(answers.percentile(50)),
            ms(answers.percentile(99)),
            shown(costs.front),
            limit,
            shown(costs.worker),
            ms(costs.engine),
        ]);
    }
    Ok(())
}

/// Whether the newest job stands in the store as answered.
fn succeeded(lab: &Lab) -> anyhow::Result<bool> {
    let jobs = lab.labctl_json(&["job", "list"])?;
    Ok(jobs["jobs"][0]["state"] == "JOB_STATE_SUCCEEDED")
}
