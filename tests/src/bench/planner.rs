//! The planner: a whole queue decided about in one look.

use std::{collections::HashMap, time::Instant};

use anyhow::Context as _;
use homelab_domain::{
    ids::{HostName, JobId, ModelName, SiteName},
    job::{Job, JobRequest, JobSpec, Priority, Record, RequestForm, Terms},
    placement::{
        EngineView, ModelReadiness, ModelView, QueuePlan, Step, WorkerState, WorkerView, plan_queue,
    },
    schedule::Zone,
    site::{
        Daemon, DaemonKind, ExpectedPower, Gold, Host, KIT_PROOF_EVERY, Power, Site, SiteDraft,
        Tier, TierConfig,
    },
};
use jiff::Timestamp;

use super::{
    Scale, interrupt,
    report::{Chapter, Table, significant, verdict},
};
use crate::demo::Story;

/// Workers, of two devices each: fifty devices.
const WORKERS: u8 = 25;
/// Models that jobs ask for; each device has loaded one.
const MODELS: usize = 20;
/// What a whole queue may take.
const LIMIT_MS: f64 = 5.0;

const METHOD: &str = "The pure planner alone, as the dispatcher calls it: jobs for 20 models in the order of \
the queue, 25 workers of two devices each, of which every other sleeps, two slots a device. Every job gets a \
decision with its reasons. No input, no output, no clock; the median of the rounds. No peer does this: graphile-worker \
and procrastinate hand out jobs one by one and know no devices. The aim is 5 ms for 100,000 jobs.";

pub(super) fn measure(story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
    let now = Timestamp::from_second(1_790_000_000)?;
    let (site, models) = (site(now)?, models()?);
    let workers = workers(&models)?;
    let rounds = scale.pick(101, 11);
    let mut table = Table::new(
        "One look at everything that waits",
        ["jobs", "given to workers", "ms", "ns a job", "of the aim"],
    );
    for count in [1_000, 10_000, 100_000] {
        let row = story.step(&format!("{count} jobs"), || {
            let pending = pending(count, &models, now)?;
            let (homes, needs) = (HashMap::new(), HashMap::new());
            let plan =
                QueuePlan { now, site: &site, workers: &workers, homes: &homes, needs: &needs };
            let mut took = Vec::with_capacity(rounds);
            let mut given = 0;
            for _ in 0..rounds {
                interrupt::check()?;
                let began = Instant::now();
                let steps = plan_queue(&plan, &pending).steps;
                took.push(began.elapsed());
                given = steps.iter().filter(|step| matches!(step, Step::Run { .. })).count();
            }
            took.sort_unstable();
            let median = took.get(rounds / 2).context("no rounds")?.as_secs_f64();
            Ok((given, median))
        })?;
        let (given, median) = row;
        let aim = if count == 100_000 { verdict(median * 1e3, LIMIT_MS) } else { String::new() };
        table.row([
            count.to_string(),
            given.to_string(),
            significant(median * 1e3),
            significant(median * 1e9 / f64::from(count)),
            aim,
        ]);
    }
    Ok(Chapter::new("Planner", METHOD, vec![table]))
}

fn models() -> anyhow::Result<Vec<ModelName>> {
    let name = |number| ModelName::try_new(format!("model-{number}-instruct-q4_k_m"));
    Ok((0..MODELS).map(name).collect::<Result<_, _>>()?)
}

fn host(number: u8) -> anyhow::Result<HostName> {
    Ok(HostName::try_new(format!("worker-{number}"))?)
}

fn site(now: Timestamp) -> anyhow::Result<Site> {
    let models = models()?;
    let hosts = (0..WORKERS).map(|number| {
        Ok(Host {
            name: host(number)?,
            address: [192, 0, 2, number + 1].into(),
            description: String::new(),
            place: "home".to_owned(),
            expected_power: ExpectedPower::On,
            mac: None,
            power: Power::default(),
            daemons: vec![Daemon::on_default_port(DaemonKind::GpuWorker)],
        })
    });
    let tier = |tier, numbers: std::ops::Range<u8>| {
        anyhow::Ok(TierConfig {
            tier,
            hosts: numbers.map(host).collect::<anyhow::Result<_>>()?,
            models: models.clone(),
            default_model: models.first().cloned(),
        })
    };
    let draft = SiteDraft {
        name: SiteName::try_new("bench")?,
        domain: "home.arpa".to_owned(),
        time_zone: Zone::UTC,
        hosts: hosts.collect::<anyhow::Result<_>>()?,
        networks: vec![],
        segment_rules: vec![],
        services: vec![],
        repositories: vec![],
        backups: vec![],
        windows: vec![],
        secrets: vec![],
        kit_proof_every: KIT_PROOF_EVERY,
        gold: Gold::default(),
        context: vec![],
        tiers: vec![tier(Tier::Bronze, 0..12)?, tier(Tier::Silver, 12..WORKERS)?],
    };
    draft.check(now).map_err(|problems| anyhow::anyhow!("{problems:?}"))
}

/// The engines of each, one a device.
const ENGINES: [&str; 2] = ["first", "second"];

/// Each has all models on disk, and one of them loaded on each of its two devices.
fn workers(models: &[ModelName]) -> anyhow::Result<Vec<WorkerView>> {
    let view = |number: u8| {
        let loaded = usize::from(number) * 2 % models.len();
        let model = |(index, name): (usize, &ModelName)| {
            let is_loaded = index == loaded || index == loaded + 1;
            ModelView {
                name: name.clone(),
                readiness: if is_loaded {
                    ModelReadiness::Loaded
                } else {
                    ModelReadiness::Loadable
                },
                slots: if is_loaded { 2 } else { 1 },
                slots_used: 0,
                engines: ENGINES.map(str::to_owned).to_vec(),
                yields_to: None,
            }
        };
        Ok(WorkerView {
            host: host(number)?,
            tier: if number < 12 { Tier::Bronze } else { Tier::Silver },
            state: if number.is_multiple_of(2) { WorkerState::Up } else { WorkerState::Asleep },
            models: Some(models.iter().enumerate().map(model).collect()),
            engines: ENGINES
                .iter()
                .enumerate()
                .map(|(place, name)| EngineView {
                    name: (*name).to_owned(),
                    devices: vec![(*name).to_owned()],
                    holds: models.get(loaded + place).cloned(),
                    busy: 0,
                })
                .collect(),
        })
    };
    (0..WORKERS).map(view).collect()
}

fn pending(count: u32, models: &[ModelName], now: Timestamp) -> anyhow::Result<Vec<Job>> {
    let job = |number: u32| {
        let model = models.get(number as usize % models.len()).context("no models")?;
        Ok(Job::submit(JobSpec {
            id: format!("00000000-0000-7000-8000-{number:012x}").parse::<JobId>()?,
            model: model.clone(),
            tier: if number.is_multiple_of(3) { Tier::Silver } else { Tier::Bronze },
            priority: Priority::DEFAULT,
            submitted_by: format!("key/{}", number % 7),
            submitted_at: now,
            deadline: None,
            tokens_max: None,
            record: Record::Metadata,
            title: String::new(),
            terms: Terms::default(),
            own_ahead: 0,
            request: JobRequest::new(RequestForm::OpenaiChat, Vec::new()),
        }))
    };
    (0..count).map(job).collect()
}
