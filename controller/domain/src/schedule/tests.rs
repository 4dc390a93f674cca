use std::time::Duration;

use jiff::{SignedDuration, Timestamp, civil};
use proptest::prelude::*;

use super::*;

fn amsterdam(cron: &str) -> Schedule {
    Schedule::try_new(cron, Zone::try_new("Europe/Amsterdam").unwrap()).unwrap()
}

fn local(year: i16, month: i8, day: i8, hour: i8, minute: i8) -> Timestamp {
    let civil = civil::date(year, month, day).at(hour, minute, 0, 0);
    civil.in_tz("Europe/Amsterdam").unwrap().timestamp()
}

/// Local readings of the next firings, with the offset that tells 02:30 from 02:30.
fn next(schedule: &Schedule, mut after: Timestamp, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..count {
        after = schedule.next_after(after).unwrap();
        found.push(schedule.zone().local(after).strftime("%m-%d %H:%M %:z").to_string());
    }
    found
}

/// Lives through `days`, asleep until the next time each time, and records what
/// the schedule fires for.
fn live(schedule: &Schedule, from: Timestamp, days: i64) -> Vec<Timestamp> {
    let mut history = History { last_fired_for: None, known_since: from };
    let mut fired = Vec::new();
    let (mut now, end) = (from, from + SignedDuration::from_hours(24 * days));
    while now < end {
        match schedule.due(now, history, Policy::default(), Hold::None) {
            Due::Fire { scheduled_for } => {
                history.last_fired_for = Some(scheduled_for);
                fired.push(scheduled_for);
            }
            Due::Nothing { next } => now = next.unwrap(),
            other => panic!("{other:?}"),
        }
    }
    fired
}

#[test]
fn a_wrong_expression_says_what_is_wrong() {
    let refused = |cron: &str| Schedule::try_new(cron, Zone::UTC).unwrap_err().to_string();
    assert!(refused("61 3 * * *").contains("`61 3 * * *`"));
    assert!(refused("0 3 30 2 *").contains("never comes"), "{}", refused("0 3 30 2 *"));
    assert!(Schedule::try_new("0 0 3 * * *", Zone::UTC).is_err(), "seconds are not ours");
    assert!("Europe/Atlantis".parse::<Zone>().is_err());
}

#[test]
fn a_year_of_nights_fires_once_each_both_shifts_included() {
    let schedule = amsterdam("30 2 * * *");
    let from = local(2026, 1, 1, 0, 0);
    let fired = live(&schedule, from, 365);
    assert_eq!(fired.len(), 365);
    let dates: std::collections::BTreeSet<_> =
        fired.iter().map(|at| schedule.zone().local(*at).date()).collect();
    assert_eq!(dates.len(), 365, "a day was left out or came twice");
}

#[test]
fn a_time_that_a_spring_night_leaves_out_fires_at_the_end_of_the_gap() {
    let before = local(2026, 3, 28, 12, 0);
    let times = next(&amsterdam("30 2 * * *"), before, 2);
    assert_eq!(times, ["03-29 03:00 +02:00", "03-30 02:30 +02:00"]);
    // Both times of a step lie in the gap: the night is not left out.
    let times = next(&amsterdam("*/30 2 * * *"), before, 3);
    assert_eq!(times, ["03-29 03:00 +02:00", "03-30 02:00 +02:00", "03-30 02:30 +02:00"]);
    // What comes again within the hour needs nothing.
    let times = next(&amsterdam("30 * * * *"), local(2026, 3, 29, 1, 0), 2);
    assert_eq!(times, ["03-29 01:30 +01:00", "03-29 03:30 +02:00"]);
}

#[test]
fn a_time_that_an_autumn_night_has_twice_fires_once() {
    let times = next(&amsterdam("30 2 * * *"), local(2026, 10, 24, 12, 0), 2);
    assert_eq!(times, ["10-25 02:30 +02:00", "10-26 02:30 +01:00"]);
    // Steps go on in real time.
    let times = next(&amsterdam("*/30 * * * *"), local(2026, 10, 25, 1, 30), 4);
    let expected =
        ["10-25 02:00 +02:00", "10-25 02:30 +02:00", "10-25 02:00 +01:00", "10-25 02:30 +01:00"];
    assert_eq!(times, expected);
}

#[test]
fn a_clock_that_goes_back_fires_nothing_twice() {
    let schedule = amsterdam("0 3 * * *");
    let at = local(2026, 6, 10, 3, 0);
    let history =
        History { last_fired_for: Some(at), known_since: at - SignedDuration::from_hours(48) };
    let back = at - SignedDuration::from_hours(1);
    for minutes in 0..=60 {
        let now = back + SignedDuration::from_mins(minutes);
        let due = schedule.due(now, history, Policy::default(), Hold::None);
        assert_eq!(due, Due::Nothing { next: Some(local(2026, 6, 11, 3, 0)) });
    }
}

#[test]
fn a_night_away_makes_one_catch_up_run() {
    let schedule = amsterdam("0 * * * *");
    let last = local(2026, 6, 9, 22, 0);
    let history = History { last_fired_for: Some(last), known_since: last };
    let now = local(2026, 6, 10, 7, 20);
    let due = schedule.due(now, history, Policy::default(), Hold::None);
    let missed =
        Missed { oldest: local(2026, 6, 9, 23, 0), newest: local(2026, 6, 10, 7, 0), count: 9 };
    assert_eq!(due, Due::CatchUp { missed });
    let history = History { last_fired_for: Some(missed.newest), ..history };
    let due = schedule.due(now, history, Policy::default(), Hold::None);
    assert_eq!(due, Due::Nothing { next: Some(local(2026, 6, 10, 8, 0)) });
}

#[test]
fn years_away_are_counted_in_bounded_time() {
    let schedule = amsterdam("* * * * *");
    let last = local(2020, 1, 1, 0, 0);
    let history = History { last_fired_for: Some(last), known_since: last };
    let now = local(2026, 6, 10, 7, 20);
    let Due::CatchUp { missed } = schedule.due(now, history, Policy::default(), Hold::None) else {
        panic!("a catch-up is due");
    };
    assert_eq!((missed.newest, missed.count), (now, MISSED_LIMIT));
}

const MISSED_LIMIT: u32 = 10_000;

#[test]
fn nothing_before_it_was_known_is_missed() {
    let schedule = amsterdam("0 3 * * *");
    let now = local(2026, 6, 10, 12, 0);
    let history = History { last_fired_for: None, known_since: now };
    let due = schedule.due(now, history, Policy::default(), Hold::None);
    assert_eq!(due, Due::Nothing { next: Some(local(2026, 6, 11, 3, 0)) });
}

#[test]
fn what_runs_or_is_paused_is_held_and_says_what_passed() {
    let schedule = amsterdam("0 3 * * *");
    let at = local(2026, 6, 10, 3, 0);
    let history = History { last_fired_for: None, known_since: at - SignedDuration::from_hours(1) };
    for by in [Hold::Running, Hold::Paused] {
        let due = schedule.due(at, history, Policy::default(), by);
        assert_eq!(due, Due::Held { by, missed: Missed { oldest: at, newest: at, count: 1 } });
    }
}

#[test]
fn jitter_moves_the_moment_and_not_the_time_that_it_stands_for() {
    let schedule = amsterdam("0 3 * * *");
    let at = local(2026, 6, 10, 3, 0);
    let history = History { last_fired_for: None, known_since: at - SignedDuration::from_hours(1) };
    let policy = Policy { jitter: Duration::from_secs(90), ..Policy::default() };
    let due =
        |secs| schedule.due(at + SignedDuration::from_secs(secs), history, policy, Hold::None);
    assert_eq!(due(89), Due::Nothing { next: Some(at + SignedDuration::from_secs(90)) });
    assert_eq!(due(90), Due::Fire { scheduled_for: at });
}

#[test]
fn the_longest_gap_of_working_days_is_the_weekend() {
    let gap = amsterdam("0 3 * * 1-5").longest_gap(local(2026, 6, 10, 0, 0), 20);
    assert_eq!(gap, Duration::from_secs(3 * 86_400));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However often and irregularly it is looked at, each time fires once.
    #[test]
    fn every_time_fires_exactly_once_in_order(
        minute in 0..60_u32,
        every in 1..12_u32,
        day in 0..360_i64,
        steps in proptest::collection::vec(1..240_i64, 1..120),
    ) {
        let schedule = amsterdam(&format!("{minute} */{every} * * *"));
        let start = local(2026, 1, 1, 0, 0) + SignedDuration::from_hours(24 * day);
        let mut history = History { last_fired_for: None, known_since: start };
        let mut accounted = 0_u32;
        let mut now = start;
        for step in steps {
            now += SignedDuration::from_mins(step);
            let newest = match schedule.due(now, history, Policy::default(), Hold::None) {
                Due::Fire { scheduled_for } => { accounted += 1; scheduled_for }
                Due::CatchUp { missed } => { accounted += missed.count; missed.newest }
                Due::Nothing { next } => { prop_assert!(next.unwrap() > now); continue }
                Due::Held { .. } => unreachable!(),
            };
            prop_assert!(newest <= now);
            prop_assert!(history.last_fired_for.is_none_or(|last| last < newest));
            history.last_fired_for = Some(newest);
        }
        let mut expected = 0_u32;
        let mut at = start;
        while let Some(next) = schedule.next_after(at).filter(|next| *next <= now) {
            prop_assert!(next > at);
            at = next;
            expected += 1;
        }
        prop_assert_eq!(accounted, expected);
    }
}
