use std::{collections::HashMap, time::Duration};

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{
    ids::{JobId, SiteName},
    job::{JobRequest, JobSpec, JobStateKind, Priority, Record, RequestForm, Terms},
    schedule::Zone,
    site::{Daemon, DaemonKind, ExpectedPower, Host, Power, SiteDraft, TierConfig},
};

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

pub(super) fn name(text: &str) -> HostName {
    HostName::try_new(text).unwrap()
}

pub(super) fn model(text: &str) -> ModelName {
    ModelName::try_new(text).unwrap()
}

pub(super) fn site() -> Site {
    let host = |text: &str, last: u8, expected_power| Host {
        name: name(text),
        address: [192, 168, 200, last].into(),
        description: String::new(),
        place: "home".to_owned(),
        expected_power,
        mac: (expected_power == ExpectedPower::OnDemand)
            .then(|| "00:1b:21:3c:4d:5e".parse().unwrap()),
        power: Power::default(),
        daemons: vec![Daemon::on_default_port(DaemonKind::GpuWorker)],
    };
    let tier = |tier, hosts: &[&str], models: &[&str]| TierConfig {
        tier,
        hosts: hosts.iter().map(|host| name(host)).collect(),
        models: models.iter().map(|one| model(one)).collect(),
        default_model: models.first().map(|one| model(one)),
    };
    let draft = SiteDraft {
        name: SiteName::try_new("home").unwrap(),
        domain: "home.arpa".to_owned(),
        time_zone: Zone::UTC,
        hosts: vec![
            host("cw-nas", 30, ExpectedPower::On),
            host("ryzen", 50, ExpectedPower::On),
            host("x99", 40, ExpectedPower::OnDemand),
        ],
        networks: vec![],
        segment_rules: vec![],
        services: vec![],
        repositories: vec![],
        backups: vec![],
        windows: vec![],
        secrets: vec![],
        kit_proof_every: crate::site::KIT_PROOF_EVERY,
        gold: crate::site::Gold::default(),
        context: vec![],
        tiers: vec![
            tier(Tier::Bronze, &["cw-nas", "ryzen"], &["tiny", "small"]),
            tier(Tier::Silver, &["x99"], &["big", "small"]),
        ],
    };
    draft.check(now()).unwrap()
}

fn job(tier: Tier, wanted: &str) -> Job {
    Job::submit(JobSpec {
        id: JobId::from(uuid::Uuid::nil()),
        model: model(wanted),
        tier,
        priority: Priority::DEFAULT,
        submitted_by: "ann".to_owned(),
        submitted_at: now(),
        deadline: None,
        tokens_max: None,
        record: Record::Full,
        title: String::new(),
        terms: Terms::default(),
        own_ahead: 0,
        request: JobRequest::new(RequestForm::Chat, vec![]),
    })
}

fn worker(host: &str, tier: Tier, state: WorkerState, used: u32, wanted: &str) -> WorkerView {
    WorkerView {
        host: name(host),
        tier,
        state,
        models: Some(vec![with(wanted, ModelReadiness::Loadable, used)]),
        engines: vec![],
    }
}

pub(super) fn with(name: &str, readiness: ModelReadiness, slots_used: u32) -> ModelView {
    ModelView {
        name: model(name),
        readiness,
        slots: 2,
        slots_used,
        engines: vec![],
        yields_to: None,
    }
}

fn reason(placement: &Placement) -> &str {
    match placement {
        Placement::Run { .. } => "RUN",
        Placement::Wait { because, .. } | Placement::Refuse { because } => {
            because[0].reason.as_str()
        }
    }
}

#[test]
fn a_silver_job_waits_for_its_host_though_bronze_is_free() {
    let workers = [
        worker("cw-nas", Tier::Bronze, WorkerState::Up, 0, "small"),
        worker("x99", Tier::Silver, WorkerState::Asleep, 0, "small"),
    ];
    let placement = place(now(), &job(Tier::Silver, "small"), &workers, &site());
    assert_eq!(reason(&placement), "WORKER_ASLEEP");
    assert!(matches!(placement, Placement::Wait { wake: Some(host), .. } if host == name("x99")));
    // Who asks for bronze gets it now.
    let placement = place(now(), &job(Tier::Bronze, "small"), &workers, &site());
    assert!(matches!(placement, Placement::Run { worker, .. } if worker == name("cw-nas")));
}

#[test]
fn gold_is_refused_where_the_site_has_no_such_tier() {
    let placement = place(now(), &job(Tier::Gold, "small"), &[], &site());
    assert!(matches!(placement, Placement::Refuse { .. }));
    assert_eq!(reason(&placement), "GOLD_NOT_CONFIGURED");
    let refused = resolve(&site(), None, Some(Tier::Gold)).unwrap_err();
    assert_eq!(refused.reason, Reason::GOLD_NOT_CONFIGURED);
}

#[test]
fn a_worker_with_the_model_loaded_goes_before_one_with_more_room() {
    let mut loaded = worker("ryzen", Tier::Bronze, WorkerState::Up, 1, "tiny");
    loaded.models = Some(vec![with("tiny", ModelReadiness::Loaded, 1)]);
    let workers = [worker("cw-nas", Tier::Bronze, WorkerState::Up, 0, "tiny"), loaded];
    let placement = place(now(), &job(Tier::Bronze, "tiny"), &workers, &site());
    let Placement::Run { worker, because, .. } = placement else { panic!("{placement:?}") };
    assert_eq!(worker, name("ryzen"));
    assert_eq!(because[0].message, "ryzen has tiny loaded and 1 of 2 slots free");
}

#[test]
fn a_model_that_nobody_has_is_refused_and_one_that_may_come_is_waited_for() {
    let mut unheard = worker("ryzen", Tier::Bronze, WorkerState::Up, 0, "tiny");
    unheard.models = None;
    let has_not = worker("cw-nas", Tier::Bronze, WorkerState::Up, 0, "tiny");
    let wanted = job(Tier::Bronze, "small");
    let placement = place(now(), &wanted, std::slice::from_ref(&has_not), &site());
    assert!(matches!(placement, Placement::Refuse { .. }), "{placement:?}");
    let placement = place(now(), &wanted, &[has_not, unheard], &site());
    assert_eq!(reason(&placement), "WORKER_UNREACHABLE");
    assert_eq!(reason(&place(now(), &wanted, &[], &site())), "WORKER_UNREACHABLE");
}

#[test]
fn a_draining_or_broken_worker_gets_nothing() {
    let mut broken = worker("ryzen", Tier::Bronze, WorkerState::Up, 0, "tiny");
    let why = "its file is missing".to_owned();
    broken.models = Some(vec![with("tiny", ModelReadiness::Failed { why }, 0)]);
    let draining = worker("cw-nas", Tier::Bronze, WorkerState::Draining, 0, "tiny");
    let placement = place(now(), &job(Tier::Bronze, "tiny"), &[broken, draining], &site());
    let Placement::Wait { because, wake: None } = placement else { panic!("{placement:?}") };
    let reasons: Vec<&str> = because.iter().map(|why| why.reason.as_str()).collect();
    assert_eq!(reasons, ["WORKER_DRAINING", "MODEL_FAILED"]);
}

#[test]
fn what_a_request_leaves_open_is_completed() {
    let resolved = |wanted: Option<&str>, tier| {
        let wanted = wanted.map(model);
        resolve(&site(), wanted.as_ref(), tier).map(|found| (found.tier, found.model.to_string()))
    };
    assert_eq!(resolved(None, None), Ok((Tier::Bronze, "tiny".to_owned())));
    assert_eq!(resolved(Some("big"), None), Ok((Tier::Silver, "big".to_owned())));
    assert_eq!(resolved(Some("small"), Some(Tier::Silver)), Ok((Tier::Silver, "small".to_owned())));
    let refused = resolved(Some("big"), Some(Tier::Bronze)).unwrap_err();
    assert!(refused.message.contains("bronze has no model big"), "{}", refused.message);
    assert!(refused.message.contains("big (silver)"), "{}", refused.message);
}

#[test]
fn an_explanation_says_what_why_where_and_when() {
    let workers = [worker("x99", Tier::Silver, WorkerState::Asleep, 0, "big")];
    let queue = QueueView {
        ahead: 3,
        usual: Some(Duration::from_secs(20)),
        expected_wake: Some(Duration::from_secs(95)),
    };
    let explained = explain(now(), &job(Tier::Silver, "big"), &workers, &site(), queue, &[]);
    assert_eq!(explained.decision, "it waits for x99 to wake");
    assert_eq!(explained.reasons, ["x99 is asleep", "3 jobs of its tier go first"]);
    let place = "x99 (192.168.200.40, silver, in the house, off until needed)";
    assert_eq!(explained.destinations, [place]);
    assert_eq!(explained.position, Some(4));
    assert_eq!(explained.expected_wait, Some(Duration::from_secs(95 + 2 * 20)));
}

#[test]
fn a_job_past_its_deadline_is_not_placed() {
    let workers = [worker("cw-nas", Tier::Bronze, WorkerState::Up, 0, "tiny")];
    let job = job(Tier::Bronze, "tiny");
    let mut parts = job.parts().clone();
    parts.spec.deadline = Some(now() - SignedDuration::from_secs(1));
    let job = Job::from_parts(parts).unwrap();
    assert_eq!(reason(&place(now(), &job, &workers, &site())), "DEADLINE_EXCEEDED");
}

#[test]
fn a_background_call_wakes_and_loads_nothing_and_goes_to_bronze_instead() {
    let mut parts = job(Tier::Silver, "big").parts().clone();
    parts.spec.terms.class = JobClass::Background;
    let wanted = Job::from_parts(parts).unwrap();
    let asleep = [worker("x99", Tier::Silver, WorkerState::Asleep, 0, "big")];
    let placement = place(now(), &wanted, &asleep, &site());
    assert!(matches!(placement, Placement::Wait { wake: None, .. }), "{placement:?}");
    let up = [worker("x99", Tier::Silver, WorkerState::Up, 0, "big")];
    assert_eq!(reason(&place(now(), &wanted, &up, &site())), "MODEL_NOT_LOADED");
    let loaded = vec![with("big", ModelReadiness::Loaded, 0)];
    let up = [WorkerView { models: Some(loaded), ..up[0].clone() }];
    assert_eq!(reason(&place(now(), &wanted, &up, &site())), "RUN");

    let big = model("big");
    let resolved = |class, allowed: &[Tier]| {
        resolve_for(&site(), Some(&big), None, class, allowed).map(|found| found.model.to_string())
    };
    let (both, silver) = ([Tier::Bronze, Tier::Silver], [Tier::Silver]);
    assert_eq!(resolved(JobClass::Background, &both).as_deref(), Ok("tiny"));
    assert_eq!(resolved(JobClass::Background, &silver).as_deref(), Ok("big"));
    assert_eq!(resolved(JobClass::Interactive, &both).as_deref(), Ok("big"));
}

#[test]
fn the_next_turn_of_a_conversation_goes_where_the_one_before_ran() {
    let loaded = |host| {
        let models = Some(vec![with("tiny", ModelReadiness::Loaded, 0)]);
        WorkerView { models, ..worker(host, Tier::Bronze, WorkerState::Up, 0, "tiny") }
    };
    let workers = [loaded("cw-nas"), loaded("ryzen")];
    let wanted = job(Tier::Bronze, "tiny");
    let goes_to = |workers: &[WorkerView], home: Option<&str>| {
        let home = home.map(name);
        match place_near(now(), &wanted, workers, &site(), home.as_ref()) {
            Placement::Run { worker, .. } => worker.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(goes_to(&workers, None), "cw-nas");
    assert_eq!(goes_to(&workers, Some("ryzen")), "ryzen");
    // A full home is not waited for.
    let mut full = workers.clone();
    full[1].models = Some(vec![with("tiny", ModelReadiness::Loaded, 2)]);
    assert_eq!(goes_to(&full, Some("ryzen")), "cw-nas");
}

pub(super) fn numbered(id: u128, tier: Tier, wanted: &str) -> Job {
    let mut parts = job(tier, wanted).parts().clone();
    parts.spec.id = JobId::from(uuid::Uuid::from_u128(id));
    Job::from_parts(parts).unwrap()
}

#[test]
fn slots_are_given_best_first_and_no_queue_stands_in_the_way_of_another() {
    let workers = [
        worker("cw-nas", Tier::Bronze, WorkerState::Up, 0, "tiny"),
        worker("x99", Tier::Silver, WorkerState::Asleep, 0, "big"),
    ];
    let mut pending: Vec<Job> = (0..50).map(|id| numbered(id, Tier::Silver, "big")).collect();
    pending.extend((50..53).map(|id| numbered(id, Tier::Bronze, "tiny")));
    let (site, homes, needs) = (site(), HashMap::new(), HashMap::new());
    let plan =
        QueuePlan { now: now(), site: &site, workers: &workers, homes: &homes, needs: &needs };
    let steps = plan_queue(&plan, &pending).steps;
    let holds_up = |step: &Step, because: &str| match step {
        Step::Wait(hold) => hold.because[0].reason.as_str() == because,
        _ => false,
    };
    assert!(steps[..50].iter().all(|step| holds_up(step, "WORKER_ASLEEP")));
    assert!(steps[50..52].iter().all(|step| matches!(step, Step::Run { .. })), "{steps:?}");
    assert!(holds_up(&steps[52], "NO_FREE_SLOT"));
}

#[test]
fn a_job_waits_for_what_it_comes_after_and_ends_when_that_failed() {
    let mut parts = numbered(1, Tier::Bronze, "tiny").parts().clone();
    let before = JobId::from(uuid::Uuid::from_u128(9));
    parts.spec.terms.after = vec![before];
    let job = Job::from_parts(parts).unwrap();
    let workers = [worker("cw-nas", Tier::Bronze, WorkerState::Up, 0, "tiny")];
    let (site, homes) = (site(), HashMap::new());
    let step = |state: Option<Option<JobStateKind>>| {
        let needs: HashMap<JobId, Vec<Need>> =
            state.map(|state| (job.id(), vec![Need { job: before, state }])).into_iter().collect();
        let plan =
            QueuePlan { now: now(), site: &site, workers: &workers, homes: &homes, needs: &needs };
        plan_queue(&plan, std::slice::from_ref(&job)).steps.remove(0)
    };
    let Step::Wait(hold) = step(Some(Some(JobStateKind::Running))) else { panic!("it runs") };
    assert_eq!(hold.because[0].reason, Reason::WAITS_FOR_DEPENDENCY);
    assert!(matches!(step(None), Step::Run { .. }), "it has succeeded");
    for lost in [None, Some(JobStateKind::Failed), Some(JobStateKind::Cancelled)] {
        let Step::GiveUp(because) = step(Some(lost)) else { panic!("it waits for {lost:?}") };
        assert_eq!(because.reason, Reason::DEPENDENCY_FAILED);
    }
}

proptest! {
    /// One look at many is the same as a look at each.
    #[test]
    fn a_plan_of_all_decides_as_one_by_one(
        wanted in proptest::collection::vec((any::<bool>(), 0..3_usize, any::<bool>()), 0..40),
        states in proptest::collection::vec((0..3_u8, 0..3_u32), 2),
    ) {
        let models = ["tiny", "small", "big"];
        let state = |of: u8| match of {
            0 => WorkerState::Up,
            1 => WorkerState::Asleep,
            _ => WorkerState::Draining,
        };
        let one = |host: &str, tier, at: usize| WorkerView {
            models: Some(models.map(|name| with(name, ModelReadiness::Loaded, states[at].1)).to_vec()),
            ..worker(host, tier, state(states[at].0), 0, "tiny")
        };
        let workers = [one("cw-nas", Tier::Bronze, 0), one("x99", Tier::Silver, 1)];
        let pending: Vec<Job> = wanted.iter().zip(1..).map(|((silver, name, late), id)| {
            let tier = if *silver { Tier::Silver } else { Tier::Bronze };
            let mut parts = numbered(id, tier, models[*name]).parts().clone();
            parts.spec.deadline = late.then(|| now() - SignedDuration::from_secs(1));
            Job::from_parts(parts).unwrap()
        }).collect();
        let (site, homes, needs) = (site(), HashMap::new(), HashMap::new());
        let plan = QueuePlan { now: now(), site: &site, workers: &workers, homes: &homes, needs: &needs };
        let steps = plan_queue(&plan, &pending).steps;
        let mut left = workers.to_vec();
        for (job, step) in pending.iter().zip(&steps) {
            match place(now(), job, &left, &site) {
                Placement::Run { worker, .. } => {
                    let Step::Run { worker: given, .. } = step else { panic!("{step:?}") };
                    prop_assert_eq!(given, &worker);
                    let host = left.iter_mut().find(|one| one.host == worker).unwrap();
                    let model = host.models.as_mut().unwrap().iter_mut();
                    model.filter(|one| one.name == job.spec().model).for_each(|one| one.slots_used += 1);
                }
                Placement::Wait { because, .. } | Placement::Refuse { because } => {
                    let Step::Wait(hold) = step else { panic!("{step:?}") };
                    prop_assert_eq!(&hold.because[0].reason, &because[0].reason);
                }
            }
        }
    }

    /// Whatever the workers are like, a job goes only to one of its tier that is up,
    /// has the model and has a free slot.
    #[test]
    fn no_job_goes_where_it_cannot_run(
        states in proptest::collection::vec((0..4_u8, 0..4_u32, 0..4_u8, any::<bool>()), 0..6),
        silver in any::<bool>(),
    ) {
        let tier = if silver { Tier::Silver } else { Tier::Bronze };
        let workers: Vec<WorkerView> = states.iter().enumerate().map(|(number, one)| WorkerView {
            host: name(&format!("w{number}")),
            tier: if one.3 { Tier::Silver } else { Tier::Bronze },
            state: match one.0 {
                0 => WorkerState::Up,
                1 => WorkerState::Asleep,
                2 => WorkerState::Unreachable { why: "…".to_owned() },
                _ => WorkerState::Draining,
            },
            models: match one.2 {
                0 => None,
                1 => Some(vec![]),
                2 => Some(vec![with("small", ModelReadiness::Loaded, one.1)]),
                _ => Some(vec![with("small", ModelReadiness::Failed { why: "…".to_owned() }, 0)]),
            },
            engines: vec![],
        }).collect();
        match place(now(), &job(tier, "small"), &workers, &site()) {
            Placement::Run { worker, because, .. } => {
                let chosen = workers.iter().find(|one| one.host == worker).unwrap();
                prop_assert_eq!(chosen.tier, tier);
                prop_assert_eq!(&chosen.state, &WorkerState::Up);
                let chosen = chosen.model(&model("small")).unwrap();
                prop_assert!(chosen.slots_free() > 0);
                prop_assert_eq!(&chosen.readiness, &ModelReadiness::Loaded);
                prop_assert!(!because.is_empty());
            }
            Placement::Wait { because, .. } | Placement::Refuse { because } => {
                prop_assert!(!because.is_empty());
                let able = workers.iter().any(|one| {
                    one.tier == tier
                        && one.state == WorkerState::Up
                        && one.model(&model("small")).is_some_and(|model| {
                            model.slots_free() > 0 && model.readiness == ModelReadiness::Loaded
                        })
                });
                prop_assert!(!able, "an able worker was passed over");
            }
        }
    }
}
