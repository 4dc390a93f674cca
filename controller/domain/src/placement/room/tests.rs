use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{
    ids::HostName,
    job::{Job, JobClass},
    placement::{
        QueuePlan, QueueSteps, Step, Way, WorkerState, plan_queue,
        tests::{model, name, now, numbered, site, with},
    },
    reason::Reason,
    site::Tier,
};

/// x99 with two cards, an engine on each and one over both. `big` fits on both together only,
/// `small` everywhere.
fn x99(on_first: Option<&str>, on_second: Option<&str>, on_both: Option<&str>) -> WorkerView {
    let engine = |text: &str, devices: &[&str], holds: Option<&str>| EngineView {
        name: text.to_owned(),
        devices: devices.iter().map(ToString::to_string).collect(),
        holds: holds.map(model),
        busy: 0,
    };
    let held = [on_first, on_second, on_both];
    let one = |text: &str, engines: &[&str]| {
        let is_loaded = held.contains(&Some(text));
        let readiness = if is_loaded { ModelReadiness::Loaded } else { ModelReadiness::Loadable };
        let engines = engines.iter().map(ToString::to_string).collect();
        ModelView { engines, ..with(text, readiness, 0) }
    };
    WorkerView {
        host: name("x99"),
        tier: Tier::Silver,
        state: WorkerState::Up,
        models: Some(vec![
            one("small", &["first", "second", "both"]),
            one("other", &["first", "second", "both"]),
            one("big", &["both"]),
        ]),
        engines: vec![
            engine("first", &["03:00.0"], on_first),
            engine("second", &["04:00.0"], on_second),
            engine("both", &["03:00.0", "04:00.0"], on_both),
        ],
    }
}

fn used(mut worker: WorkerView, of: &str) -> WorkerView {
    let mut models = worker.models.iter_mut().flatten();
    models.find(|one| one.name == model(of)).unwrap().slots_used = 1;
    worker
}

fn job(id: u128, wanted: &str, class: JobClass, waits: SignedDuration) -> Job {
    let mut parts = numbered(id, Tier::Silver, wanted).parts().clone();
    parts.spec.terms.class = class;
    parts.enqueued_at = now() - waits;
    Job::from_parts(parts).unwrap()
}

fn fresh(id: u128, wanted: &str) -> Job {
    job(id, wanted, JobClass::Interactive, SignedDuration::ZERO)
}

fn plan(workers: &[WorkerView], pending: &[Job], at: Timestamp) -> QueueSteps {
    let (site, homes, needs) = (site(), HashMap::<String, HostName>::new(), HashMap::new());
    plan_queue(&QueuePlan { now: at, site: &site, workers, homes: &homes, needs: &needs }, pending)
}

/// What becomes of one job: how it goes in, or why it waits.
fn way(worker: WorkerView, wanted: &str) -> Result<Way, Reason> {
    match plan(&[worker], &[fresh(1, wanted)], now()).steps.remove(0) {
        Step::Run { way, .. } => Ok(way),
        Step::Wait(hold) => Err(hold.because[0].reason.clone()),
        Step::GiveUp(because) => Err(because.reason),
    }
}

#[test]
fn a_model_goes_where_nothing_is_before_it_takes_the_place_of_another() {
    assert_eq!(way(x99(None, None, None), "small"), Ok(Way::Load));
    assert_eq!(way(x99(Some("other"), None, None), "small"), Ok(Way::Load));
    assert_eq!(way(x99(Some("other"), Some("small"), None), "small"), Ok(Way::Loaded));
}

#[test]
fn a_model_takes_the_place_of_one_that_has_nothing_to_do_and_of_no_other() {
    let full = || x99(Some("other"), Some("other"), None);
    assert_eq!(way(full(), "small"), Ok(Way::Swap));
    assert_eq!(way(used(full(), "other"), "small"), Err(Reason::ENGINES_BUSY));
    // Somebody asked the worker by hand: the controller gave it nothing.
    let mut by_hand = full();
    by_hand.engines[0].busy = 1;
    assert_eq!(way(by_hand.clone(), "small"), Ok(Way::Swap), "the second card is idle");
    by_hand.engines[1].busy = 1;
    assert_eq!(way(by_hand, "small"), Err(Reason::ENGINES_BUSY));
}

#[test]
fn a_model_over_both_cards_needs_both_to_have_nothing_to_do() {
    assert_eq!(way(x99(Some("small"), Some("other"), None), "big"), Ok(Way::Swap));
    let one_works = used(x99(Some("small"), Some("other"), None), "other");
    assert_eq!(way(one_works, "big"), Err(Reason::ENGINES_BUSY));
    assert_eq!(way(x99(None, None, Some("big")), "small"), Ok(Way::Swap));
}

#[test]
fn two_models_of_one_round_do_not_get_the_same_card() {
    let jobs = [fresh(1, "small"), fresh(2, "other"), fresh(3, "big")];
    let QueueSteps { steps, .. } = plan(&[x99(None, None, None)], &jobs, now());
    let ways: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Run { way, .. } => Ok(*way),
            Step::Wait(hold) => Err(hold.because[0].reason.clone()),
            Step::GiveUp(because) => Err(because.reason.clone()),
        })
        .collect();
    assert_eq!(ways, [Ok(Way::Load), Ok(Way::Load), Err(Reason::ENGINES_BUSY)]);
}

#[test]
fn a_model_whose_place_was_taken_is_not_taken_for_loaded() {
    let jobs = [fresh(1, "big"), fresh(2, "small")];
    let QueueSteps { steps, .. } = plan(&[x99(Some("small"), None, None)], &jobs, now());
    assert!(matches!(&steps[0], Step::Run { way: Way::Swap, .. }), "{steps:?}");
    let Step::Wait(hold) = &steps[1] else { panic!("{steps:?}") };
    assert_eq!(hold.because[0].reason, Reason::ENGINES_BUSY);
}

#[test]
fn those_who_keep_a_model_out_take_no_new_jobs_once_it_has_waited_long() {
    let worker = used(x99(Some("other"), None, None), "other");
    let worker = WorkerView { engines: worker.engines[..1].to_vec(), ..worker };
    let more_of_the_same = fresh(9, "other");
    for (class, patience) in [(JobClass::Interactive, 20), (JobClass::Batch, 300)] {
        for (waits, yields) in [(patience - 1, false), (patience, true)] {
            let waits = SignedDuration::from_secs(waits);
            let jobs = [job(1, "small", class, waits), more_of_the_same.clone()];
            let planned = plan(std::slice::from_ref(&worker), &jobs, now());
            let kept_out: Vec<_> = planned.yields.iter().map(|one| (&one.model, &one.to)).collect();
            let expected = (model("other"), model("small"));
            let expected: Vec<_> =
                yields.then_some((&expected.0, &expected.1)).into_iter().collect();
            assert_eq!(kept_out, expected, "{class} {waits:?}");
            match &planned.steps[1] {
                Step::Wait(hold) if yields => {
                    assert_eq!(hold.because[0].reason, Reason::MODEL_MAKES_ROOM);
                }
                Step::Run { way: Way::Loaded, .. } if !yields => {}
                step => panic!("{class} {waits:?}: {step:?}"),
            }
        }
    }
    // A call by the way keeps nobody out, however long it waits.
    let by_the_way = job(1, "small", JobClass::Background, SignedDuration::from_hours(9));
    let planned = plan(&[worker], &[by_the_way], now());
    assert_eq!(planned.yields, []);
}

#[test]
fn a_worker_that_does_not_say_where_models_fit_is_asked() {
    let mut old = x99(Some("other"), Some("other"), None);
    old.models.iter_mut().flatten().for_each(|model| model.engines.clear());
    assert_eq!(way(old, "small"), Ok(Way::Load));
}

#[test]
fn jobs_for_one_model_share_what_is_being_loaded() {
    let jobs = [fresh(1, "big"), fresh(2, "big"), fresh(3, "big")];
    let QueueSteps { steps, .. } = plan(&[x99(None, None, None)], &jobs, now());
    let given = steps.iter().filter(|step| matches!(step, Step::Run { .. })).count();
    assert_eq!(given, 2, "as many as it has slots: {steps:?}");
}
