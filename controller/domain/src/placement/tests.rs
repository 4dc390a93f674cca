use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{
    ids::{JobId, SiteName},
    job::{JobRequest, JobSpec, Priority, Record, RequestForm},
    schedule::Zone,
    site::{Daemon, DaemonKind, ExpectedPower, Host, Power, SiteDraft, TierConfig},
};

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn name(text: &str) -> HostName {
    HostName::try_new(text).unwrap()
}

fn model(text: &str) -> ModelName {
    ModelName::try_new(text).unwrap()
}

fn site() -> Site {
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
        request: JobRequest { form: RequestForm::Chat, bytes: vec![] },
    })
}

fn worker(host: &str, tier: Tier, state: WorkerState, used: u32, wanted: &str) -> WorkerView {
    WorkerView {
        host: name(host),
        tier,
        state,
        slots: 2,
        slots_used: used,
        models: Some(vec![(model(wanted), ModelReadiness::Loadable)]),
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
fn gold_is_refused() {
    let placement = place(now(), &job(Tier::Gold, "small"), &[], &site());
    assert!(matches!(placement, Placement::Refuse { .. }));
    assert_eq!(reason(&placement), "GOLD_NOT_CONFIGURED");
    let refused = resolve(&site(), None, Some(Tier::Gold)).unwrap_err();
    assert_eq!(refused.reason, Reason::GOLD_NOT_CONFIGURED);
}

#[test]
fn a_worker_with_the_model_loaded_goes_before_one_with_more_room() {
    let mut loaded = worker("ryzen", Tier::Bronze, WorkerState::Up, 1, "tiny");
    loaded.models = Some(vec![(model("tiny"), ModelReadiness::Loaded)]);
    let workers = [worker("cw-nas", Tier::Bronze, WorkerState::Up, 0, "tiny"), loaded];
    let placement = place(now(), &job(Tier::Bronze, "tiny"), &workers, &site());
    let Placement::Run { worker, because } = placement else { panic!("{placement:?}") };
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
    broken.models = Some(vec![(model("tiny"), ModelReadiness::Failed { why })]);
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
    let explained = explain(now(), &job(Tier::Silver, "big"), &workers, &site(), queue);
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

proptest! {
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
            slots: 2,
            slots_used: one.1,
            models: match one.2 {
                0 => None,
                1 => Some(vec![]),
                2 => Some(vec![(model("small"), ModelReadiness::Loaded)]),
                _ => Some(vec![(model("small"), ModelReadiness::Failed { why: "…".to_owned() })]),
            },
        }).collect();
        match place(now(), &job(tier, "small"), &workers, &site()) {
            Placement::Run { worker, because } => {
                let chosen = workers.iter().find(|one| one.host == worker).unwrap();
                prop_assert_eq!(chosen.tier, tier);
                prop_assert_eq!(&chosen.state, &WorkerState::Up);
                prop_assert!(chosen.slots_free() > 0);
                prop_assert_eq!(chosen.readiness(&model("small")), Some(&ModelReadiness::Loaded));
                prop_assert!(!because.is_empty());
            }
            Placement::Wait { because, .. } | Placement::Refuse { because } => {
                prop_assert!(!because.is_empty());
                let able = workers.iter().any(|one| {
                    one.tier == tier
                        && one.state == WorkerState::Up
                        && one.slots_free() > 0
                        && one.readiness(&model("small")) == Some(&ModelReadiness::Loaded)
                });
                prop_assert!(!able, "an able worker was passed over");
            }
        }
    }
}
