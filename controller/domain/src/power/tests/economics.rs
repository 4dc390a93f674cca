//! When waking pays.

use proptest::prelude::*;

use super::*;
use crate::{
    power::{
        HeldState,
        wake::{WakePlan, plan},
    },
    reason::Reason,
    site::{Price, Tariff, WakeRules},
};

fn reasons(plan: &WakePlan) -> Vec<Reason> {
    match plan {
        WakePlan::Wake { because } => vec![because.reason.clone()],
        WakePlan::Stay { because, .. } => because.iter().map(|why| why.reason.clone()).collect(),
    }
}

fn woken_for(input: &WakeInput<'_>) -> Option<Reason> {
    match plan(input) {
        WakePlan::Wake { because } => Some(because.reason),
        WakePlan::Stay { .. } => None,
    }
}

#[test]
fn somebody_who_waits_for_an_answer_wakes_it_at_once() {
    let power = Power::default();
    let demands = [demand(JobClass::Interactive)];
    assert_eq!(woken_for(&wake(&power, &demands, None)), Some(Reason::INTERACTIVE_WAITS));
    let rules = WakeRules { interactive: false, ..WakeRules::default() };
    let power = Power { rules, ..power };
    assert_eq!(woken_for(&wake(&power, &demands, None)), None);
}

#[test]
fn one_job_that_can_wait_does_and_says_until_when() {
    let power = Power { windows: vec![period("0 22 * * *", 8)], ..Power::default() };
    let demands = queued(1);
    let WakePlan::Stay { because, next_at } = plan(&wake(&power, &demands, None)) else {
        panic!("one small job wakes nobody");
    };
    assert_eq!(because[0].reason, Reason::QUEUE_TOO_SMALL);
    assert!(because[0].message.contains("10 jobs or 40000 tokens"), "{}", because[0].message);
    // The oldest job has waited long enough before the window opens.
    assert_eq!(next_at, Some(at("18:00:00")));
}

#[test]
fn enough_queued_jobs_or_tokens_wake_it() {
    let power = Power::default();
    let demands = queued(10);
    assert_eq!(woken_for(&wake(&power, &demands, None)), Some(Reason::QUEUE_PAYS));
    let demands = [Demand { tokens: 40_000, ..demand(JobClass::Batch) }];
    assert_eq!(woken_for(&wake(&power, &demands, None)), Some(Reason::QUEUE_PAYS));
}

#[test]
fn the_oldest_job_wakes_it_when_it_has_waited_long_enough() {
    let power = Power::default();
    let demands = [Demand { since: ago(6 * HOUR), ..demand(JobClass::Batch) }];
    assert_eq!(woken_for(&wake(&power, &demands, None)), Some(Reason::WAITED_LONG));
}

#[test]
fn a_latest_start_wakes_it_a_boot_early() {
    let power = Power::default();
    let must_begin = |span| [Demand { latest_start: Some(later(span)), ..demand(JobClass::Batch) }];
    let demands = must_begin(2 * MINUTE);
    assert_eq!(woken_for(&wake(&power, &demands, None)), Some(Reason::LATEST_START_NEAR));
    let demands = must_begin(10 * MINUTE);
    assert_eq!(plan(&wake(&power, &demands, None)).next_at(noon()), Some(later(8 * MINUTE)));
}

#[test]
fn any_work_wakes_it_while_a_window_is_open() {
    let power = Power { windows: vec![period("0 11 * * *", 3)], ..Power::default() };
    let demands = queued(1);
    assert_eq!(woken_for(&wake(&power, &demands, None)), Some(Reason::WAKE_WINDOW));
    assert_eq!(woken_for(&wake(&power, &[], None)), None);
}

#[test]
fn dear_energy_is_for_those_who_cannot_wait() {
    let rules = WakeRules { price_max: Some(Price(3_000)), ..WakeRules::default() };
    let dear = Tariff { period: period("0 10 * * *", 4), price: Price(4_200) };
    let power = Power { rules, tariffs: vec![dear], ..Power::default() };
    let demands = queued(20);
    let stays = plan(&wake(&power, &demands, None));
    assert_eq!(reasons(&stays), [Reason::ENERGY_DEAR, Reason::QUEUE_TOO_SMALL]);
    assert_eq!(stays.next_at(noon()), Some(at("14:00:00")));
    let demands = [demand(JobClass::Interactive)];
    assert_eq!(woken_for(&wake(&power, &demands, None)), Some(Reason::INTERACTIVE_WAITS));
}

#[test]
fn each_failure_doubles_the_pause_and_it_never_exceeds_six_hours() {
    let power = Power::default();
    let demands = [demand(JobClass::Interactive)];
    let failed = |count| WakeInput {
        failures: Failures { count, last_at: Some(noon()) },
        ..wake(&power, &demands, None)
    };
    let pause = |count| plan(&failed(count)).next_at(noon());
    assert_eq!(pause(1), Some(later(15 * MINUTE)));
    assert_eq!(pause(2), Some(later(30 * MINUTE)));
    assert_eq!(pause(40), Some(later(6 * HOUR)));
    let over = WakeInput { now: later(15 * MINUTE), ..failed(1) };
    assert_eq!(woken_for(&over), Some(Reason::INTERACTIVE_WAITS));
}

#[test]
fn held_awake_it_is_woken_without_any_work() {
    let power = Power::default();
    let hold = Hold { state: HeldState::Awake, until: later(HOUR), by: "ada".to_owned() };
    assert_eq!(woken_for(&wake(&power, &[], Some(&hold))), Some(Reason::HELD_AWAKE));
    let over = WakeInput { now: later(HOUR), ..wake(&power, &[], Some(&hold)) };
    assert_eq!(woken_for(&over), None);
}

fn demands(classes: &'static [JobClass]) -> impl Strategy<Value = Vec<Demand>> {
    let one = (0..classes.len(), 0_u64..500_000, 0_u64..200_000, any::<Option<u16>>()).prop_map(
        move |(which, waited, tokens, latest)| Demand {
            class: classes[which],
            since: ago(Duration::from_secs(waited)),
            tokens,
            latest_start: latest.map(|secs| later(Duration::from_secs(secs.into()))),
        },
    );
    proptest::collection::vec(one, 0..40)
}

proptest! {
    #[test]
    fn background_calls_never_wake_anything(demands in demands(&[JobClass::Background]), open: bool) {
        let windows = if open { vec![period("0 11 * * *", 3)] } else { vec![] };
        let power = Power { windows, ..Power::default() };
        let plan = plan(&wake(&power, &demands, None));
        prop_assert_eq!(plan.next_at(noon()), None);
        prop_assert_eq!(reasons(&plan), [Reason::NOTHING_WAITS]);
    }

    #[test]
    fn nothing_wakes_a_host_that_is_held_asleep(demands in demands(JobClass::ALL), secs in 1_u64..600_000) {
        let power = Power { windows: vec![period("0 11 * * *", 3)], ..Power::default() };
        let until = later(Duration::from_secs(secs));
        let hold = Hold { state: HeldState::Asleep, until, by: "ada".to_owned() };
        let plan = plan(&wake(&power, &demands, Some(&hold)));
        prop_assert_eq!(reasons(&plan), [Reason::HELD_ASLEEP]);
        prop_assert_eq!(plan.next_at(noon()), Some(until));
    }

    #[test]
    fn a_host_that_stays_off_is_planned_for_later_whenever_work_waits(demands in demands(JobClass::ALL)) {
        let power = Power::default();
        let plan = plan(&wake(&power, &demands, None));
        let works = demands.iter().any(|it| it.class != JobClass::Background);
        prop_assert_eq!(plan.next_at(noon()).is_some(), works);
    }
}
