//! When it may sleep.

use proptest::prelude::*;

use super::*;
use crate::{
    power::{
        HeldState,
        sleep::{Unproved, Weight, keeper, plan},
    },
    reason::{Because, Reason},
    site::{SleepMethod, WakeMethod},
};

fn vetoes(input: &SleepInput<'_>) -> Vec<Reason> {
    plan(input).vetoes.into_iter().map(|veto| veto.because.reason).collect()
}

#[test]
fn a_host_without_anything_to_do_that_is_known_to_come_back_may_sleep() {
    let power = Power::default();
    let plan = plan(&sleepy(&power));
    assert!(plan.may_sleep(), "{plan:?}");
    assert_eq!(keeper(&plan, &X99).reason, Reason::FALLING_ASLEEP);
}

#[test]
fn each_thing_that_speaks_against_it_is_named() {
    let power = Power::default();
    let demands = queued(1);
    let awake = Hold { state: HeldState::Awake, until: later(HOUR), by: "ada".to_owned() };
    let guest = vec![Because::new(Reason::GUESTS_RUNNING, "guest 101 runs")];
    let run = vec![Because::new(Reason::RUN_OPEN, "run of wiki is open")];
    let fine = || sleepy(&power);
    let cases: Vec<(SleepInput<'_>, &[Reason])> = vec![
        (
            SleepInput { jobs_running: 1, requests_running: Fact::Known(1), ..fine() },
            &[Reason::JOBS_RUNNING],
        ),
        (SleepInput { requests_running: Fact::Known(2), ..fine() }, &[Reason::JOBS_RUNNING]),
        (SleepInput { wake: wake(&power, &demands, None), ..fine() }, &[Reason::JOBS_QUEUED]),
        (SleepInput { idle_since: Fact::Known(ago(MINUTE)), ..fine() }, &[Reason::NOT_IDLE_LONG]),
        (SleepInput { local: Fact::Known(guest), ..fine() }, &[Reason::GUESTS_RUNNING]),
        (SleepInput { open_work: Fact::Known(run), ..fine() }, &[Reason::RUN_OPEN]),
        (SleepInput { wake_armed: Fact::Known(false), ..fine() }, &[Reason::WAKE_NOT_ARMED]),
        (SleepInput { proved_at: None, ..fine() }, &[Reason::WAKE_UNPROVED]),
        (SleepInput { proved_at: Some(ago(31 * 24 * HOUR)), ..fine() }, &[Reason::WAKE_UNPROVED]),
        (
            SleepInput { wake: wake(&power, &[], Some(&awake)), ..fine() },
            // It would be woken again at once, too.
            &[Reason::HELD_AWAKE, Reason::NEXT_WAKE_SOON],
        ),
    ];
    for (input, expected) in cases {
        assert_eq!(vetoes(&input), expected, "{input:?}");
    }
}

#[test]
fn what_nobody_knows_speaks_against_it() {
    let power = Power::default();
    let why = || "the agent does not answer".to_owned();
    let fine = || sleepy(&power);
    for input in [
        SleepInput { requests_running: Fact::Unknown(why()), ..fine() },
        SleepInput { idle_since: Fact::Unknown(why()), ..fine() },
        SleepInput { local: Fact::Unknown(why()), ..fine() },
        SleepInput { open_work: Fact::Unknown(why()), ..fine() },
        SleepInput { wake_armed: Fact::Unknown(why()), ..fine() },
    ] {
        assert_eq!(vetoes(&input), [Reason::FACT_UNKNOWN], "{input:?}");
    }
}

#[test]
fn a_host_that_is_not_woken_by_packet_needs_no_armed_card() {
    let wake = WakeMethod::Plug { url: "http://192.0.2.9/on".to_owned() };
    let power = Power { wake, ..Power::default() };
    let input = SleepInput { wake_armed: Fact::Known(false), ..sleepy(&power) };
    assert!(plan(&input).may_sleep());
}

#[test]
fn a_short_sleep_is_not_worth_it() {
    let power = Power::default();
    let soon = [Demand { latest_start: Some(later(20 * MINUTE)), ..demand(JobClass::Batch) }];
    let input = SleepInput { wake: wake(&power, &soon, None), ..sleepy(&power) };
    assert_eq!(vetoes(&input), [Reason::JOBS_QUEUED, Reason::NEXT_WAKE_SOON]);
}

#[test]
fn a_host_that_never_sleeps_by_itself_does_not() {
    let power = Power { sleep: SleepMethod::Never, ..Power::default() };
    assert_eq!(vetoes(&sleepy(&power)), [Reason::SLEEP_NOT_ALLOWED]);
}

#[test]
fn a_person_may_put_aside_what_does_not_pay_and_nothing_that_would_break() {
    let power = Power::default();
    let demands = queued(3);
    let input = SleepInput {
        wake: wake(&power, &demands, None),
        idle_since: Fact::Known(noon()),
        proved_at: None,
        ..sleepy(&power)
    };
    let soft = plan(&input);
    assert!(!soft.may_sleep());
    let left: Vec<_> = soft.against_person(Unproved::Refused).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].because.reason, Reason::WAKE_UNPROVED);
    assert_eq!(soft.against_person(Unproved::Accepted).count(), 0);
    let busy = plan(&SleepInput { jobs_running: 1, ..input });
    let left: Vec<_> = busy.against_person(Unproved::Accepted).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].weight, Weight::Hard);
}

fn fact<T: Clone + std::fmt::Debug + 'static>(
    values: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Fact<T>> {
    prop_oneof![
        3 => values.prop_map(Fact::Known),
        1 => Just(Fact::Unknown("it hung".to_owned())),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Because>> {
    let one = Just(Because::new(Reason::TASKS_RUNNING, "vzdump runs"));
    prop_oneof![2 => Just(vec![]), 1 => proptest::collection::vec(one, 1..3)]
}

proptest! {
    /// Told apart from the plan on purpose: this is the rule, said in another way.
    #[test]
    fn it_never_sleeps_while_anything_speaks_against_it(
        jobs in prop_oneof![3 => Just(0_u64), 1 => 1..5_u64],
        requests in fact(prop_oneof![3 => Just(0_u64), 1 => 1..5_u64]),
        idle in fact((0_u32..40).prop_map(|minutes| ago(minutes * MINUTE))),
        local in fact(rows()),
        open in fact(rows()),
        armed in fact(prop::bool::weighted(0.8)),
        proved in proptest::option::weighted(0.8, 0_u32..40),
        waiting in prop_oneof![3 => Just(0_usize), 1 => 1..4_usize],
        held in proptest::option::weighted(0.2, prop::bool::ANY),
    ) {
        let power = Power::default();
        let demands = queued(waiting);
        let state = |awake| if awake { HeldState::Awake } else { HeldState::Asleep };
        let hold = held.map(|it| Hold { state: state(it), until: later(HOUR), by: "ada".to_owned() });
        let input = SleepInput {
            wake: wake(&power, &demands, hold.as_ref()),
            jobs_running: jobs,
            requests_running: requests.clone(),
            idle_since: idle.clone(),
            local: local.clone(),
            wake_armed: armed.clone(),
            open_work: open.clone(),
            proved_at: proved.map(|days| ago(days * 24 * HOUR)),
        };
        let clear = jobs == 0
            && requests == Fact::Known(0)
            && matches!(idle, Fact::Known(since) if since <= ago(20 * MINUTE))
            && local == Fact::Known(vec![])
            && open == Fact::Known(vec![])
            && armed == Fact::Known(true)
            && proved.is_some_and(|days| days <= 30)
            && waiting == 0
            && held != Some(true);
        prop_assert_eq!(plan(&input).may_sleep(), clear);
    }
}
