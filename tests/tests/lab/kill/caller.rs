//! Those who want something of the queue, each in its own way, while others are killed.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use homelab_common::{
    chance::{Chance as _, SeededChance, SystemChance, uuid_v7},
    clock::SystemClock,
    tls::Roots,
};
use homelab_proto::controller::v1::JobState;
use homelab_tests::{
    lab::{Lab, MODEL},
    person::Person,
};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    gateway::{Ending, Gateway, Heard},
    proof::Told,
    watcher::{Watcher, Way},
};

/// Between two tries while nobody answers.
const PAUSE: Duration = Duration::from_millis(100);

/// What callers share.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) person: Person,
    pub(crate) gateway: Gateway,
    pub(crate) way: Way,
    pub(crate) seed: u64,
    /// Jobs that are to be acknowledged.
    pub(crate) wanted: u32,
    pub(crate) until: Instant,
    pub(crate) acknowledged: AtomicU32,
    /// Controllers so far: a connection breaks only when this changes.
    pub(crate) controllers: AtomicU32,
    /// Something went wrong, and nobody needs to go on.
    pub(crate) is_over: AtomicBool,
}

impl Scene {
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst) && Instant::now() < self.until
    }
}

/// The ways into the queue.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Labctl,
    Grpc { is_followed: bool },
    Gateway { is_stream: bool, is_keyed: bool },
}

impl Manner {
    const ALL: [Self; 7] = [
        Self::Labctl,
        Self::Grpc { is_followed: true },
        Self::Grpc { is_followed: false },
        Self::Gateway { is_stream: false, is_keyed: false },
        Self::Gateway { is_stream: false, is_keyed: true },
        Self::Gateway { is_stream: true, is_keyed: false },
        Self::Gateway { is_stream: true, is_keyed: true },
    ];
}

pub(crate) fn roots(lab: &Lab) -> anyhow::Result<Roots> {
    Roots::from_dir(lab.identity()).context("read the roots")
}

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// Submits one job after the other until enough were acknowledged; returns what it was told of each.
pub(crate) fn call(scene: &Scene, number: u32) -> anyhow::Result<Vec<(String, Told)>> {
    let chance = SeededChance::new(scene.seed.wrapping_add(1 + u64::from(number)));
    let runtime = runtime()?;
    let mut watcher = runtime.block_on(async { scene.way.dial() })?;
    let mut told = Vec::new();
    for turn in 0_u32.. {
        if scene.acknowledged.load(Ordering::SeqCst) >= scene.wanted {
            break;
        }
        ensure!(scene.goes_on(), "caller {number} was at turn {turn} when the time was over");
        let place = usize::try_from(chance.u64() % Manner::ALL.len() as u64)?;
        let wish = Wish {
            name: format!("{}-{number}-{turn}", scene.seed),
            manner: Manner::ALL[place],
            tokens: 4 + u32::try_from(chance.u64() % 13)?,
            pieces: 2 + u32::try_from(chance.u64() % 5)?,
        };
        let one = runtime
            .block_on(wish.fulfil(scene, &mut watcher))
            .with_context(|| format!("{wish:?}"))?;
        if one.is_some() {
            scene.acknowledged.fetch_add(1, Ordering::SeqCst);
        } else {
            thread::sleep(PAUSE);
        }
        told.extend(one);
    }
    Ok(told)
}

/// One job that somebody wants.
#[derive(Clone, Debug)]
struct Wish {
    /// Unique.
    name: String,
    manner: Manner,
    tokens: u32,
    /// Pieces after which a follower hangs up and calls again.
    pieces: u32,
}

impl Wish {
    /// Nothing when it was not acknowledged.
    async fn fulfil(
        &self,
        scene: &Scene,
        watcher: &mut Watcher,
    ) -> anyhow::Result<Option<(String, Told)>> {
        match self.manner {
            Manner::Labctl => self.by_labctl(scene),
            Manner::Grpc { is_followed } => self.by_grpc(watcher, is_followed).await,
            Manner::Gateway { is_keyed: true, .. } => self.again_and_again(scene).await,
            Manner::Gateway { is_keyed: false, .. } => self.once(scene).await,
        }
    }

    fn by_labctl(&self, scene: &Scene) -> anyhow::Result<Option<(String, Told)>> {
        let tokens = self.tokens.to_string();
        let submit = ["job", "submit", "--model", MODEL, "--tokens-max", &tokens, &self.name];
        // Being refused is fair while the controller is away.
        let Ok(made) = scene.person.labctl_json(&submit) else { return Ok(None) };
        let job = made["job"]["jobId"].as_str().context("an id")?.to_owned();
        Ok(Some((job, Told { request: format!("labctl {}", self.name), ..Told::default() })))
    }

    async fn by_grpc(
        &self,
        watcher: &mut Watcher,
        is_followed: bool,
    ) -> anyhow::Result<Option<(String, Told)>> {
        let id = uuid_v7(&SystemClock, &SystemChance).to_string();
        watcher.submit(&id, &self.body(false)).await?;
        let mut told = Told { request: format!("grpc {}", self.name), ..Told::default() };
        if is_followed {
            let (read, job) = watcher.read(&id, self.pieces).await?;
            if job.state() == JobState::Succeeded {
                told.endings.push(Ending::Done);
                told.text = Some(read.text);
            }
        }
        Ok(Some((id, told)))
    }

    async fn once(&self, scene: &Scene) -> anyhow::Result<Option<(String, Told)>> {
        let heard = self.ask(scene, None).await?;
        Ok(heard.job.clone().map(|job| (job, self.told(&[heard]))))
    }

    /// Sends the same under the same key until there is an answer, which must be of the same job.
    async fn again_and_again(&self, scene: &Scene) -> anyhow::Result<Option<(String, Told)>> {
        let mut all: Vec<Heard> = Vec::new();
        while scene.goes_on() {
            let heard = self.ask(scene, Some(&self.name)).await?;
            let is_passing = matches!(heard.ending, Ending::Nothing | Ending::Broken)
                || heard.status == Some(StatusCode::SERVICE_UNAVAILABLE);
            all.push(heard);
            if !is_passing {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let mut jobs = all.iter().filter_map(|heard| heard.job.clone());
        let Some(job) = jobs.next() else { return Ok(None) };
        ensure!(jobs.all(|other| other == job), "one key, and several jobs: {all:?}");
        Ok(Some((job, self.told(&all))))
    }

    async fn ask(&self, scene: &Scene, key: Option<&str>) -> anyhow::Result<Heard> {
        let is_stream = matches!(self.manner, Manner::Gateway { is_stream: true, .. });
        let controllers = scene.controllers.load(Ordering::SeqCst);
        let heard = scene.gateway.ask(&self.body(is_stream), key).await;
        let is_the_same = controllers == scene.controllers.load(Ordering::SeqCst);
        ensure!(
            heard.ending != Ending::Broken || !is_the_same,
            "a connection broke though nobody killed the controller: {heard:?}"
        );
        ensure!(heard.answers.len() <= 1, "pieces of several answers in one: {heard:?}");
        Ok(heard)
    }

    fn body(&self, is_stream: bool) -> Value {
        json!({
            "model": MODEL,
            "stream": is_stream,
            "max_tokens": self.tokens,
            "messages": [{ "role": "user", "content": format!("Tell me about {}.", self.name) }],
        })
    }

    fn told(&self, heard: &[Heard]) -> Told {
        let done = heard.iter().find(|heard| heard.ending == Ending::Done);
        Told {
            request: format!("gateway {}", self.name),
            endings: heard.iter().map(|heard| heard.ending.clone()).collect(),
            text: done.map(|heard| heard.text.clone()),
            by_gateway: true,
        }
    }
}
