//! The health agent at rest and when asked.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use homelab_agent::health::{Roots, Sampler};
use homelab_common::clock::{Clock as _, SystemClock};
use homelab_proto::agent::v1::{
    GetHealthRequest, WatchHealthRequest, host_service_client::HostServiceClient,
};
use http::Method;
use prost::Message as _;
use tonic::transport::Channel;

use super::{
    Scale, close,
    grpc::Way,
    interrupt,
    load::{Answers, Question, Rounds, Server, ask},
    measure::{Memory, Span, cpu_of_programs, cpu_of_thread, memory},
    peer::Peer,
    report::{Chapter, Table, ms, ratio, significant, verdict},
    runtime,
};
use crate::{
    demo::Story,
    lab::{Daemon, HOSTS, Lab, Ports},
};

/// Collections one after the other, and at the pace of a scraper in a hurry.
const COLLECTIONS: u32 = 200;
const PACED: u32 = 100;
const PACE: Duration = Duration::from_millis(50);
/// How often is looked for an interruption.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The limits of the design.
const CPU_MS_MAX: f64 = 0.5;
const RSS_MB_MAX: f64 = 10.0;
const BYTES_MAX: f64 = 4096.0;

const METHOD: &str = "`homelab-agent` (release build, enrolled by token) answers `GetHealth` over mTLS; \
the node exporter is Debian's with its usual collectors and answers `GET /metrics` over plain HTTP, both \
on loopback over a connection that stays open. They do not send the same: the exporter has some 40 \
collectors, the agent what a homelab is judged by. CPU is the sum of `/proc/PID/task/*/schedstat`, bytes \
are those of the message or body. \"At rest\" is with nobody connected.";

/// Milliseconds of CPU a second with nobody connected.
#[derive(Clone, Copy, Debug)]
struct Idle {
    own: f64,
    /// Of programs that it runs.
    programs: f64,
}

/// What one of the two cost.
#[derive(Debug)]
struct Cost {
    rest: Memory,
    after: Memory,
    idle: Idle,
    /// CPU for each collection, one after the other and paced.
    each: Duration,
    paced: Duration,
    answers: Answers,
}

pub(super) fn measure(story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
    let mut lab = story.step("a lab with one agent", lab_with_agent)?;
    let measured = measure_in(story, scale, &mut lab);
    close(story, lab)?;
    measured
}

fn measure_in(story: &Story, scale: Scale, lab: &mut Lab) -> anyhow::Result<Chapter> {
    let runtime = runtime()?;
    let exporter = Peer::node_exporter(&lab.folder().join("logs"))?;
    let agent = lab.process("qotom/agent")?.pid();

    let rest = [memory(agent)?, memory(exporter.pid())?];
    let idle = story.step("both at rest", || {
        idle([agent, exporter.pid()], Duration::from_secs(scale.pick(60, 5)))
    })?;

    let theirs = story.step("the exporter is asked", || {
        runtime.block_on(ask_exporter(&exporter, rest[1], idle[1]))
    })?;
    drop(exporter);
    let way = Way::to(lab, "qotom", Daemon::Agent)?;
    let (ours, watched) = story.step("the agent is asked", || {
        let samples = scale.pick(20, 5);
        runtime.block_on(async {
            let mut client = HostServiceClient::new(way.channel()?);
            let cost = ask_agent(&mut client, agent, rest[0], idle[0]).await?;
            let watched = watch(&mut client, agent, samples).await?;
            Ok((Cost { after: memory(agent)?, ..cost }, watched))
        })
    })?;
    let sampled = story.step("the sampler alone", || sample(scale.pick(5_000, 1_000)))?;
    Ok(chapter(&ours, &theirs, watched, sampled))
}

/// The agent of one host, and nobody who watches it: the controller is ended again.
fn lab_with_agent() -> anyhow::Result<Lab> {
    let mut lab = Lab::prepare(Ports::free()?)?;
    lab.start_controller()?;
    let host = HOSTS.iter().find(|host| host.name == "qotom").context("the host qotom")?;
    lab.join(host, Daemon::Agent)?;
    lab.wait_for_hosts(&[("qotom", "ANSWERING")])?;
    lab.process("controller")?.kill_9()?;
    Ok(lab)
}

/// Both at the same time, so that the machine is the same.
fn idle(pids: [u32; 2], window: Duration) -> anyhow::Result<[Idle; 2]> {
    let begin = |pid| Ok((Span::begin(pid)?, cpu_of_programs(pid)?));
    let begun: [anyhow::Result<_>; 2] = pids.map(begin);
    let end = Instant::now() + window;
    while Instant::now() < end {
        interrupt::check()?;
        thread::sleep(LOOK_EVERY);
    }
    let [one, other] = begun.map(|begun| {
        let (span, programs) = begun?;
        let own = millis(span.cpu()?) / window.as_secs_f64();
        let programs = cpu_of_programs(span.pid())?.saturating_sub(programs);
        anyhow::Ok(Idle { own, programs: millis(programs) / window.as_secs_f64() })
    });
    Ok([one?, other?])
}

async fn ask_exporter(exporter: &Peer, rest: Memory, idle: Idle) -> anyhow::Result<Cost> {
    let pid = exporter.pid();
    let server = Server::plain(exporter.address);
    let scrape = Question { method: Method::GET, path: "/metrics", body: Bytes::new(), ending: "" };
    let span = Span::begin(pid)?;
    let answers = ask(&server, &scrape, Rounds::new(1, COLLECTIONS)).await?;
    let each = span.cpu()? / COLLECTIONS;
    let span = Span::begin(pid)?;
    let _answers = ask(&server, &scrape, Rounds::new(1, PACED).paced(PACE)).await?;
    let paced = span.cpu()? / PACED;
    Ok(Cost { rest, after: memory(pid)?, idle, each, paced, answers })
}

async fn ask_agent(
    client: &mut HostServiceClient<Channel>,
    pid: u32,
    rest: Memory,
    idle: Idle,
) -> anyhow::Result<Cost> {
    // The handshake is not what a collection costs.
    let _connected = client.get_health(GetHealthRequest {}).await?;
    let span = Span::begin(pid)?;
    let answers = collect(client, COLLECTIONS, Duration::ZERO).await?;
    let each = span.cpu()? / COLLECTIONS;
    let span = Span::begin(pid)?;
    let _answers = collect(client, PACED, PACE).await?;
    let paced = span.cpu()? / PACED;
    Ok(Cost { rest, after: memory(pid)?, idle, each, paced, answers })
}

async fn collect(
    client: &mut HostServiceClient<Channel>,
    times: u32,
    pace: Duration,
) -> anyhow::Result<Answers> {
    let mut answers = Answers::default();
    for _ in 0..times {
        interrupt::check()?;
        let began = Instant::now();
        let answer = client.get_health(GetHealthRequest {}).await?.into_inner();
        answers.add(began.elapsed(), answer.encoded_len());
        ensure!(answer.health.is_some(), "an answer without health");
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
    }
    Ok(answers)
}

/// CPU of each sample of a stream at 1 Hz, which is what the controller keeps open.
async fn watch(
    client: &mut HostServiceClient<Channel>,
    agent: u32,
    samples: u32,
) -> anyhow::Result<Duration> {
    let interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let mut stream = client.watch_health(WatchHealthRequest { interval }).await?.into_inner();
    let _first = stream.message().await?.context("a first sample")?;
    let span = Span::begin(agent)?;
    for _ in 0..samples {
        interrupt::check()?;
        let _sample = stream.message().await?.context("one more sample")?;
    }
    Ok(span.cpu()? / samples)
}

/// CPU of one sample in this process: reading and parsing, without any wire.
fn sample(times: u32) -> anyhow::Result<Duration> {
    let mut sampler = Sampler::new(&Roots::default());
    let mut look = || black_box(sampler.read(SystemClock.now(), Instant::now()));
    let _first = look();
    let began = cpu_of_thread()?;
    for _ in 0..times {
        let _counters = look();
    }
    Ok(cpu_of_thread()?.saturating_sub(began) / times)
}

fn chapter(ours: &Cost, theirs: &Cost, watched: Duration, sampled: Duration) -> Chapter {
    let mut both = Table::new(
        &format!("{COLLECTIONS} collections one after the other, then {PACED} at 20 a second"),
        ["what", "homelab-agent", "node exporter", "ours to theirs", "limit"],
    );
    let mut row = |what: &str, limit: Option<f64>, of: fn(&Cost) -> f64| {
        let (ours, theirs) = (of(ours), of(theirs));
        let limit = limit.map_or_else(String::new, |limit| verdict(ours, limit));
        let shown = [significant(ours), significant(theirs), ratio(ours, theirs)];
        let [ours, theirs, ratio] = shown;
        both.row([what.to_owned(), ours, theirs, ratio, limit]);
    };
    row("RSS at rest, MB", Some(RSS_MB_MAX), |cost| cost.rest.rss as f64 / 1e6);
    row("RSS after all collections, MB", Some(RSS_MB_MAX), |cost| cost.after.rss as f64 / 1e6);
    row("PSS after all collections, MB", None, |cost| cost.after.pss as f64 / 1e6);
    row("CPU at rest, ms a second", None, |cost| cost.idle.own);
    row("the same of programs that it runs (to 10 ms)", None, |cost| cost.idle.programs);
    row("CPU of a collection, ms", Some(CPU_MS_MAX), |cost| millis(cost.each));
    row("CPU of a collection at 20 a second, ms", Some(CPU_MS_MAX), |cost| millis(cost.paced));
    row("bytes of a collection", Some(BYTES_MAX), |cost| cost.answers.bytes_each() as f64);
    row("time to answer, median, ms", None, |cost| millis(cost.answers.percentile(50)));
    row("time to answer, 99 %, ms", None, |cost| millis(cost.answers.percentile(99)));

    let mut own = Table::new("Without a peer", ["what", "CPU, ms", "limit"]);
    let mut row = |what: &str, cost: Duration| {
        own.row([what.to_owned(), ms(cost), verdict(millis(cost), CPU_MS_MAX)]);
    };
    row("a sample of `WatchHealth` at 1 Hz: what the controller keeps open", watched);
    row("the sampler alone, in this process: read and parse, no wire", sampled);
    Chapter::new("Agent", METHOD, vec![both, own])
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
