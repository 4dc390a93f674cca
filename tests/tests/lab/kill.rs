//! Kill -9 of controller, worker and engine while 200 jobs go through the queue by every way there is, and
//! what must be so of each that was acknowledged. All of it is looked at from outside.

#[path = "kill/caller.rs"]
mod caller;
#[path = "kill/gateway.rs"]
mod gateway;
#[path = "kill/proof.rs"]
mod proof;
#[path = "kill/victim.rs"]
mod victim;
#[path = "kill/watcher.rs"]
mod watcher;

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use homelab_common::{
    chance::{Chance as _, SeededChance},
    tls::install_crypto_provider,
};
use homelab_tests::{
    demo::Story,
    lab::{Daemon, HOSTS, Lab, Ports},
    wait::{Look, wait_for},
};

use self::{caller::Scene, proof::Told, victim::Victim};

/// Jobs that must be acknowledged.
const JOBS: u32 = 200;
/// Who submit them, each one job after the other.
const CALLERS: u32 = 8;
/// How often each kind of process is killed.
const KILLS_EACH: u32 = 6;
/// After a kill was due, at most this passes until it happens.
const MOMENT_MAX: Duration = Duration::from_millis(600);
/// All jobs must be acknowledged by then.
const SUBMIT_WITHIN: Duration = Duration::from_secs(400);
/// Everything must have ended so long after the last was acknowledged.
const HEAL_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn whoever_is_killed_each_acknowledged_job_ends_once_and_no_stream_ends_silently() {
    let seed = std::env::var("HOMELAB_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()) ^ 0x9e37);
    let story = Story::begin();
    story.tell(&format!("seed {seed}: repeat with HOMELAB_SEED={seed}\n")).expect("printed");
    run(&story, seed).with_context(|| format!("HOMELAB_SEED={seed}")).expect("each ends once");
}

fn run(story: &Story, seed: u64) -> anyhow::Result<()> {
    install_crypto_provider();
    let mut lab = story.step("a lab with controller, worker and engine", bring_up)?;
    story.step("the model is loaded", || lab.wait_for_model("bronze"))?;
    let scene = Scene {
        person: lab.person(),
        gateway: gateway::Gateway::new(lab.ports().web(), caller::roots(&lab)?)?,
        way: watcher::Way::to(&lab)?,
        seed,
        wanted: JOBS,
        until: Instant::now() + SUBMIT_WITHIN,
        acknowledged: AtomicU32::new(0),
        controllers: AtomicU32::new(1),
        is_over: AtomicBool::new(false),
    };
    let told = thread::scope(|threads| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let scene = &scene;
                threads.spawn(move || caller::call(scene, number).inspect_err(|_| scene.end()))
            })
            .collect();
        let killed = kill_in_between(story, &mut lab, &scene);
        if killed.is_err() {
            scene.end();
        }
        let mut told = Vec::new();
        for caller in callers {
            told.extend(caller.join().map_err(|_| anyhow!("a caller panicked"))??);
        }
        killed?;
        anyhow::Ok(told)
    })?;
    let took = scene.until - SUBMIT_WITHIN;
    story.tell(&format!("{} jobs in {:?}\n", told.len(), took.elapsed()))?;
    story.step("each acknowledged job ended once", || prove(story, &scene, told))?;
    story.step("the audit chain is intact", || lab.labctl(&["audit", "verify"]).map(drop))?;
    story.step("the queue still works", || lab.labctl(&["ask", "--tokens-max", "4", "Hello"]))?;
    story.step("every daemon ends gracefully", || lab.stop())
}

/// One worker with the real engine, and the controller.
fn bring_up() -> anyhow::Result<Lab> {
    let mut lab = Lab::prepare(Ports::free()?)?;
    let file = lab.folder().join("etc/cw-nas-gpu-worker.toml");
    let text = fs::read_to_string(&file).context("read the worker's configuration")?;
    // An engine that ends every few seconds would be left alone after the fifth time, and rightly so.
    let patient = "[[engine]]\nquick-ends-max = 1000\nrestart-max = \"2s\"\n";
    ensure!(text.contains("[[engine]]\n"), "no engine in {text}");
    fs::write(&file, text.replace("[[engine]]\n", patient)).context("write it")?;
    lab.start_controller()?;
    let host = HOSTS.iter().find(|host| host.name == "cw-nas").context("the host cw-nas")?;
    lab.join(host, Daemon::GpuWorker)?;
    Ok(lab)
}

/// Spreads the kills over the jobs, in an order and at moments that the seed decides.
fn kill_in_between(story: &Story, lab: &mut Lab, scene: &Scene) -> anyhow::Result<()> {
    let chance = SeededChance::new(scene.seed);
    let victims = victim::in_order_of(&chance, KILLS_EACH);
    let count = u32::try_from(victims.len())?;
    for (number, victim) in (1..).zip(victims) {
        let due = JOBS * number / (count + 1);
        let left = scene.until.saturating_duration_since(Instant::now());
        wait_for("jobs to be acknowledged", left, || {
            let acknowledged = scene.acknowledged.load(Ordering::Relaxed);
            Ok(if acknowledged >= due || scene.is_over.load(Ordering::Relaxed) {
                Look::Ready(())
            } else {
                Look::NotYet(format!("{acknowledged} of {due}"))
            })
        })?;
        if scene.is_over.load(Ordering::Relaxed) {
            // A caller has failed, and says so.
            return Ok(());
        }
        thread::sleep(MOMENT_MAX.mul_f64(chance.fraction()));
        let words = format!("after {due} jobs, {number}/{count}: {victim}");
        story.step(&words, || strike(lab, scene, victim))?;
    }
    Ok(())
}

fn strike(lab: &mut Lab, scene: &Scene, victim: Victim) -> anyhow::Result<()> {
    match victim {
        Victim::Controller => {
            // Before it happens, so that nobody sees a connection break without a reason.
            scene.controllers.fetch_add(1, Ordering::SeqCst);
            lab.process("controller")?.kill_9()?;
            lab.restart("controller")
        }
        Victim::PausedController => victim::pause(lab.process("controller")?.pid()),
        Victim::Worker => {
            lab.process("cw-nas/gpu-worker")?.kill_9()?;
            lab.restart("cw-nas/gpu-worker")
        }
        Victim::Engine => victim::kill_engine_of(lab.process("cw-nas/gpu-worker")?.pid()),
    }
}

fn prove(story: &Story, scene: &Scene, told: Vec<(String, Told)>) -> anyhow::Result<()> {
    ensure!(told.len() >= JOBS as usize, "only {} jobs were acknowledged", told.len());
    let jobs = proof::no_job_is_shared(told)?;
    caller::runtime()?.block_on(async {
        let mut watcher = scene.way.dial()?;
        let deadline = Instant::now() + HEAL_WITHIN;
        loop {
            let open = watcher.open().await?;
            if open.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "{} did not end: {:#?}", open.len(), open.first());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let sum = proof::each_ended_once(&mut watcher, &jobs).await?;
        story.tell(&format!("{sum:?} "))?;
        // Otherwise nothing was put to the proof.
        ensure!(sum.succeeded >= jobs.len() / 2, "only {} were answered", sum.succeeded);
        ensure!(sum.repeated > 0, "no job was tried twice: nobody was killed at work");
        Ok(())
    })
}
