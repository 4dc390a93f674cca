use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const DAY: i64 = 24 * 3600;

fn now() -> Timestamp {
    "2026-02-15T12:00:00Z".parse().unwrap()
}

fn ago(secs: i64) -> Timestamp {
    now() - SignedDuration::from_secs(secs)
}

fn policy() -> KeepPolicy {
    KeepPolicy { floor_total: 1, ..KeepPolicy::home(Zone::try_new("Europe/Amsterdam").unwrap()) }
}

fn candidate(sequence: u64, taken_at: Timestamp) -> Candidate {
    Candidate {
        id: format!("{sequence:064x}"),
        sequence,
        taken_at,
        verified_at: Some(taken_at),
        source_bytes: 1_000_000,
        items: Some(5_000),
        drilled: None,
        quarantined_since: None,
        needs: Vec::new(),
    }
}

/// One a day, the newest an hour old.
fn days(count: u64) -> Vec<Candidate> {
    let age = |sequence: u64| i64::try_from(count - sequence).unwrap() * DAY + 3600;
    (1..=count).map(|sequence| candidate(sequence, ago(age(sequence)))).collect()
}

fn fresh() -> Evidence {
    Evidence { listed_at: Some(ago(60)), ..Evidence::default() }
}

fn holding(name: &str, snapshots: Vec<Candidate>) -> Holding {
    let repository = RepositoryName::try_new(name).unwrap();
    Holding { repository, snapshots, evidence: fresh() }
}

fn planned(
    policy: &KeepPolicy,
    holdings: &[Holding],
    acknowledged: &[Acknowledgement],
    now: Timestamp,
) -> Vec<Plan> {
    let backup = BackupName::try_new("wiki").unwrap();
    let rpo = Duration::from_hours(26);
    let clock_in_step = Some(true);
    plan(&Request { backup: &backup, policy, rpo, holdings, acknowledged, now, clock_in_step })
}

fn one(snapshots: Vec<Candidate>) -> Plan {
    planned(&policy(), &[holding("nas", snapshots)], &[], now()).remove(0)
}

fn kept(plan: &Plan) -> BTreeSet<u64> {
    let kept = plan.decisions.iter().filter(|decision| decision.verdict == Verdict::Keep);
    kept.map(|decision| decision.snapshot.sequence).collect()
}

fn brakes(plan: &Plan) -> Vec<BrakeKind> {
    plan.brakes.iter().map(|brake| brake.kind).collect()
}

/// The holding after a plan was carried out.
fn applied(holding: &Holding, plan: &Plan, now: Timestamp) -> Holding {
    let mut left = holding.clone();
    left.snapshots.retain(|one| plan.to_delete().all(|id| id != one.id));
    for one in &mut left.snapshots {
        if plan.to_quarantine().any(|id| id == one.id) {
            one.quarantined_since = Some(now);
        }
        if plan.to_rescue().any(|id| id == one.id) {
            one.quarantined_since = None;
        }
    }
    left
}

#[test]
fn a_year_of_days_thins_out_to_days_weeks_months_and_years() {
    let plan = one(days(365));
    let kept = plan.decisions.iter().filter(|decision| decision.verdict == Verdict::Keep);
    let dates: Vec<_> =
        kept.map(|one| one.snapshot.taken_at.strftime("%m-%d").to_string()).collect();
    let expected = [
        // The newest fourteen days,
        "02-15", "02-14", "02-13", "02-12", "02-11", "02-10", "02-09", "02-08", "02-07", "02-06",
        "02-05", "02-04", "02-03",
        "02-02", // the Sundays of eight weeks and the last of months,
        "02-01", "01-31", "01-25", "01-18", "01-11", "01-04", "12-31", "12-28", "11-30", "10-31",
        "09-30", "08-31", "07-31", "06-30", "05-31", "04-30", "03-31",
    ];
    assert_eq!(dates, expected);
    assert!(plan.braked_by().is_some_and(|brake| brake.kind == BrakeKind::TooManyAtOnce));
}

#[test]
fn every_decision_says_why() {
    let plan = one(days(40));
    assert!(plan.decisions.iter().all(|decision| !decision.reasons.is_empty()));
    let newest = &plan.decisions[0].reasons;
    for why in [
        "number 1 of the newest",
        "daily: the newest of 2026-02-15",
        "weekly: the newest of 2026-W07",
    ] {
        assert!(newest.iter().any(|reason| reason == why), "{newest:?} lacks {why}");
    }
}

#[test]
fn pitfall_21_retention_counts_only_verified_snapshots_and_stops_when_new_ones_fail() {
    // Every run of the last three days failed: what they left is not verified.
    let mut snapshots = days(30);
    for failed in snapshots.iter_mut().rev().take(3) {
        failed.verified_at = None;
    }
    let plan = one(snapshots);
    assert_eq!(plan.braked_by().map(|brake| brake.kind), Some(BrakeKind::NewestTooOld));
    assert!(!brakes(&plan).is_empty() && !plan.brakes[0].kind.is_acknowledgeable());
    let newest_good: BTreeSet<u64> = (25..=27).collect();
    assert!(kept(&plan).is_superset(&newest_good), "the floor is of verified ones");
    assert!(kept(&plan).is_superset(&(28..=30).collect()), "what is not verified is not ours");
}

#[test]
fn pitfall_21_an_empty_or_shrunken_dump_stops_everything_until_a_person_has_looked() {
    let mut snapshots = days(30);
    let newest = snapshots.last_mut().unwrap();
    (newest.source_bytes, newest.items) = (400, Some(0));
    let plan = one(snapshots.clone());
    assert_eq!(brakes(&plan), [BrakeKind::SizesCollapsed, BrakeKind::RowsCollapsed]);
    // The next run is as small: the brake stays although the newest now has a twin.
    snapshots.push(Candidate { source_bytes: 400, items: Some(0), ..candidate(31, ago(60)) });
    let plan = one(snapshots.clone());
    assert!(plan.braked_by().is_some(), "{:?}", brakes(&plan));
    let acknowledged: Vec<_> = plan
        .brakes
        .iter()
        .map(|brake| Acknowledgement {
            kind: brake.kind,
            subject: brake.subject.clone(),
            by: "ada: the wiki was emptied on purpose".to_owned(),
        })
        .collect();
    let plan =
        planned(&policy(), &[holding("nas", snapshots.clone())], &acknowledged, now()).remove(0);
    assert_eq!(plan.braked_by(), None);
    // It was this collapse that was seen, not the next one.
    for sequence in 32..=38 {
        snapshots.push(Candidate { source_bytes: 900_000, ..candidate(sequence, ago(50)) });
    }
    snapshots.push(Candidate { source_bytes: 3, ..candidate(39, ago(40)) });
    let plan = planned(&policy(), &[holding("nas", snapshots)], &acknowledged, now()).remove(0);
    assert_eq!(plan.braked_by().map(|brake| brake.kind), Some(BrakeKind::SizesCollapsed));
}

#[test]
fn pitfall_22_snapshots_are_ordered_by_sequence_whatever_their_clocks_said() {
    // The host's clock stood two years back when it booted: the newest has the oldest time.
    let mut snapshots = days(30);
    snapshots.push(candidate(31, ago(730 * DAY)));
    let plan = one(snapshots);
    assert_eq!(plan.decisions[0].snapshot.sequence, 31);
    assert!(kept(&plan).contains(&31), "the newest stays");
    assert!(brakes(&plan).contains(&BrakeKind::ClockMoved));
}

#[test]
fn pitfall_22_a_snapshot_of_the_future_is_left_alone_and_stops_retention() {
    let mut snapshots = days(30);
    snapshots.push(candidate(31, ago(-400 * DAY)));
    let plan = one(snapshots);
    let future = &plan.decisions[0];
    assert!(future.verdict == Verdict::Keep && future.reasons[0].contains("future"));
    assert_eq!(plan.braked_by().map(|brake| brake.kind), Some(BrakeKind::ClockMoved));
    let daily = plan.calendar.iter().filter(|entry| entry.rule == Rule::Daily);
    assert!(
        daily.clone().all(|entry| entry.period.as_str() <= "2026-02-15"),
        "it stands for no day"
    );
}

#[test]
fn pitfall_22_a_clock_that_was_set_back_stops_retention_and_never_shortens_a_quarantine() {
    let mut given_up = candidate(1, ago(100 * DAY));
    given_up.quarantined_since = Some(ago(2 * DAY));
    let mut snapshots = days(30);
    snapshots[0] = given_up;
    let mut back = holding("nas", snapshots);
    back.evidence.latest_seen = Some(ago(-3600));
    let early = now() - SignedDuration::from_hours(24 * 365);
    for at in [now(), early] {
        let plan = planned(&policy(), std::slice::from_ref(&back), &[], at).remove(0);
        assert!(brakes(&plan).contains(&BrakeKind::ClockMoved));
        assert_eq!(plan.to_delete().count(), 0);
    }
}

#[test]
fn pitfall_22_a_clock_that_nothing_keeps_in_step_stops_retention_until_something_does() {
    let backup = BackupName::try_new("wiki").unwrap();
    let (policy, holdings) = (policy(), [holding("nas", days(30))]);
    // That somebody let it go once does not help: only time does.
    let acknowledged = [Acknowledgement {
        kind: BrakeKind::ClockUnsynchronized,
        subject: String::new(),
        by: "ada".to_owned(),
    }];
    let braked = |clock_in_step| {
        let rpo = Duration::from_hours(26);
        let (policy, acknowledged) = (&policy, &acknowledged);
        let request = Request {
            backup: &backup,
            policy,
            rpo,
            holdings: &holdings,
            acknowledged,
            now: now(),
            clock_in_step,
        };
        plan(&request).remove(0).braked_by().map(|brake| brake.kind)
    };
    assert_eq!(braked(Some(false)), Some(BrakeKind::ClockUnsynchronized));
    assert_eq!(braked(Some(true)), None);
    assert_eq!(braked(None), None, "many hosts cannot tell");
}

#[test]
fn a_snapshot_is_deleted_when_its_quarantine_has_ended_and_not_before() {
    let before = holding("nas", days(60));
    let mut policy = policy();
    policy.last = 1;
    let first = planned(&policy, std::slice::from_ref(&before), &[], now()).remove(0);
    let going: Vec<_> = first.to_quarantine().map(str::to_owned).collect();
    assert!(!going.is_empty() && first.to_delete().count() == 0);
    let held = applied(&before, &first, now());
    let later =
        |days: i64| planned(&policy, std::slice::from_ref(&held), &[], ago(-days * DAY)).remove(0);
    assert_eq!(later(6).to_delete().count(), 0);
    let deleted: Vec<_> = later(7).to_delete().map(str::to_owned).collect();
    assert!(going.iter().all(|id| deleted.contains(id)));
}

#[test]
fn a_snapshot_in_quarantine_is_rescued_when_a_rule_wants_it_again() {
    let mut snapshots = days(5);
    snapshots[4].quarantined_since = Some(ago(60));
    let plan = one(snapshots);
    assert_eq!(plan.to_rescue().count(), 1);
    assert!(plan.statement().contains("rescue"));
}

#[test]
fn the_last_that_is_known_to_restore_stays_however_old_it_is() {
    let mut snapshots = days(400);
    snapshots[9].drilled = Some(DrillVerdict::Passed);
    assert!(kept(&one(snapshots)).contains(&10));
}

#[test]
fn what_an_increment_builds_on_stays_with_it_and_says_why() {
    let mut snapshots = days(60);
    let chain: Vec<_> = snapshots[..44].iter().map(|one| one.id.clone()).collect();
    // The last of January stays; of its chain, no rule wants most.
    snapshots[44].needs.clone_from(&chain);
    let plan = one(snapshots);
    let decision = |id: &str| plan.decisions.iter().find(|one| one.snapshot.id == id).unwrap();
    for id in &chain {
        assert_eq!(decision(id).verdict, Verdict::Keep, "{id}");
    }
    let why = "snapshot 00000000 of 2026-01-31T11:00:00Z builds on it";
    assert_eq!(decision(&chain[20]).reasons, [why]);
    assert!(plan.is_empty() || plan.to_quarantine().all(|id| !chain.iter().any(|one| one == id)));
}

#[test]
fn what_can_be_had_back_keeps_what_it_builds_on_from_being_deleted() {
    let mut snapshots = days(60);
    let base = snapshots[2].id.clone();
    (snapshots[2].quarantined_since, snapshots[3].quarantined_since) =
        (Some(ago(30 * DAY)), Some(ago(DAY)));
    snapshots[3].needs = vec![base.clone()];
    let plan = one(snapshots.clone());
    let of =
        |plan: &Plan| plan.decisions.iter().find(|one| one.snapshot.id == base).unwrap().clone();
    assert_eq!(of(&plan).verdict, Verdict::Quarantined { until: ago(-6 * DAY) });
    assert!(of(&plan).reasons.iter().any(|why| why.ends_with("builds on it and can be had back")));
    snapshots[3].quarantined_since = Some(ago(8 * DAY));
    assert_eq!(of(&one(snapshots)).verdict, Verdict::Delete, "both go together");
}

#[test]
fn the_floor_over_all_repositories_keeps_more_where_others_hold_nothing() {
    let mut policy = policy();
    (policy.last, policy.daily, policy.weekly, policy.monthly, policy.yearly) = (1, 0, 0, 0, 0);
    (policy.floor, policy.floor_total) = (2, 6);
    let both = [holding("nas", days(10)), holding("off-site", days(10))];
    let counts = |plans: Vec<Plan>| plans.iter().map(|plan| kept(plan).len()).collect::<Vec<_>>();
    assert_eq!(counts(planned(&policy, &both, &[], now())), [3, 3]);
    let empty = [holding("nas", days(10)), holding("off-site", Vec::new())];
    assert_eq!(counts(planned(&policy, &empty, &[], now())), [6, 0]);
    let mut away = both.clone();
    away[1].evidence.trouble = Some("the mount hangs".to_owned());
    let plans = planned(&policy, &away, &[], now());
    assert_eq!(plans.len(), 1, "what cannot be read is not planned for");
    assert_eq!(counts(plans), [6], "and does not count");
}

#[test]
fn what_is_not_known_and_what_is_full_stops_retention() {
    let braked = |change: &dyn Fn(&mut Evidence)| {
        let mut holding = holding("nas", days(30));
        change(&mut holding.evidence);
        brakes(&planned(&policy(), &[holding], &[], now())[0])
    };
    assert_eq!(braked(&|_| {}), []);
    assert_eq!(braked(&|it| it.listed_at = Some(ago(4 * 3600))), [BrakeKind::UnverifiedEvidence]);
    assert_eq!(braked(&|it| it.listed_at = None), [BrakeKind::UnverifiedEvidence]);
    let failed = |it: &mut Evidence| it.last_drill = Some(DrillVerdict::Failed);
    assert_eq!(braked(&failed), [BrakeKind::UnverifiedEvidence]);
    assert_eq!(braked(&|it| it.is_full = true), [BrakeKind::RepositoryFull]);
    let gone = |it: &mut Evidence| it.vanished = vec!["ab".repeat(32)];
    assert_eq!(braked(&gone), [BrakeKind::SnapshotVanished]);
}

#[test]
fn a_plan_that_would_do_something_else_has_another_statement() {
    let plan = one(days(30));
    assert_eq!(plan.statement(), one(days(30)).statement());
    assert_ne!(plan.statement(), one(days(31)).statement());
}

#[test]
fn the_calendar_shows_days_that_nothing_stands_for() {
    let mut snapshots = days(10);
    snapshots.remove(7);
    let plan = one(snapshots);
    let missing = plan.calendar.iter().find(|entry| entry.period == "2026-02-13").unwrap();
    assert_eq!((missing.rule, &missing.snapshot_id), (Rule::Daily, &None));
}

#[test]
fn both_hours_of_an_autumn_night_are_hours() {
    let mut policy = policy();
    (policy.last, policy.hourly, policy.daily) = (0, 4, 0);
    (policy.weekly, policy.monthly, policy.yearly, policy.floor) = (0, 0, 0, 1);
    let hours = ["00:30", "01:30", "02:30"].iter().enumerate();
    let night = hours.map(|(index, hour)| {
        candidate(index as u64 + 1, format!("2026-10-25T{hour}:00Z").parse().unwrap())
    });
    let at = "2026-10-25T02:40:00Z".parse().unwrap();
    let plan = planned(&policy, &[holding("nas", night.collect())], &[], at).remove(0);
    assert_eq!(kept(&plan), BTreeSet::from([1, 2, 3]));
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    // Ages of up to three years and a little of the future, so that clocks are moved as well.
    let chance = prop::bool::weighted;
    let given_up = prop::option::weighted(0.2, 0..20 * DAY);
    let each = (-2 * DAY..3 * 365 * DAY, chance(0.9), chance(0.1), chance(0.6), given_up);
    prop::collection::vec(each, 0..80).prop_map(|all| {
        let mut made: Vec<Candidate> = Vec::new();
        for ((age, is_verified, is_drilled, is_increment, given_up), sequence) in
            all.into_iter().zip(1..)
        {
            let mut one = candidate(sequence, ago(age));
            one.verified_at = is_verified.then_some(one.taken_at);
            one.drilled = is_drilled.then_some(DrillVerdict::Passed);
            one.quarantined_since = given_up.map(ago);
            // Each names its whole chain, the oldest first.
            if let Some(base) = made.last().filter(|_| is_increment) {
                one.needs = base.needs.iter().chain([&base.id]).cloned().collect();
            }
            made.push(one);
        }
        made
    })
}

fn any_policy() -> impl Strategy<Value = KeepPolicy> {
    let counts = (0..5_u32, 0..5_u32, 0..10_u32, 0..10_u32, 0..10_u32, 0..4_u32);
    (counts, 0..6_u32, 0..12_u32).prop_map(|(counts, floor, floor_total)| {
        let (last, hourly, daily, weekly, monthly, yearly) = counts;
        KeepPolicy { last, hourly, daily, weekly, monthly, yearly, floor, floor_total, ..policy() }
    })
}

proptest! {
    #[test]
    fn never_fewer_verified_snapshots_stay_than_the_floors_say(
        policy in any_policy(),
        here in any_candidates(),
        there in any_candidates(),
    ) {
        let verified = |all: &[Candidate]| all.iter().filter(|one| one.verified_at.is_some()).count();
        let holdings = [holding("nas", here), holding("off-site", there)];
        let plans = planned(&policy, &holdings, &[], now());
        let mut total = 0;
        for (holding, plan) in holdings.iter().zip(&plans) {
            let stay = plan.decisions.iter().filter(|one| one.verdict == Verdict::Keep);
            let stay = stay.filter(|one| one.snapshot.verified_at.is_some()).count();
            prop_assert!(stay >= verified(&holding.snapshots).min(policy.floor.max(1) as usize));
            total += stay;
        }
        let all: usize = holdings.iter().map(|one| verified(&one.snapshots)).sum();
        prop_assert!(total >= all.min(policy.floor_total as usize));
    }

    #[test]
    fn the_newest_verified_snapshot_always_stays(policy in any_policy(), all in any_candidates()) {
        let newest = all.iter().rev().find(|one| one.verified_at.is_some());
        let newest = newest.map(|one| one.sequence);
        let plan = planned(&policy, &[holding("nas", all)], &[], now()).remove(0);
        prop_assert!(newest.is_none_or(|newest| kept(&plan).contains(&newest)));
    }

    #[test]
    fn what_was_not_verified_is_never_given_up(policy in any_policy(), all in any_candidates()) {
        let plan = planned(&policy, &[holding("nas", all)], &[], now()).remove(0);
        for decision in &plan.decisions {
            prop_assert!(decision.snapshot.verified_at.is_some() || decision.verdict == Verdict::Keep);
        }
    }

    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(policy in any_policy(), all in any_candidates()) {
        let before = holding("nas", all);
        let plan = planned(&policy, std::slice::from_ref(&before), &[], now()).remove(0);
        let after = applied(&before, &plan, now());
        prop_assert!(planned(&policy, std::slice::from_ref(&after), &[], now())[0].is_empty());
        // And when the quarantine is over and everything is gone, what stays is what stayed.
        let mut over = after;
        over.snapshots.retain(|one| one.quarantined_since.is_none());
        let again = planned(&policy, &[over], &[], now()).remove(0);
        prop_assert!(again.is_empty(), "{:?}", again.to_quarantine().collect::<Vec<_>>());
    }

    #[test]
    fn what_stays_can_be_restored_because_what_it_builds_on_stays(
        policy in any_policy(),
        all in any_candidates(),
    ) {
        let plan = planned(&policy, &[holding("nas", all)], &[], now()).remove(0);
        let verdicts: BTreeMap<_, _> =
            plan.decisions.iter().map(|one| (one.snapshot.id.as_str(), one.verdict)).collect();
        for decision in &plan.decisions {
            for needed in decision.snapshot.needs.iter().map(|id| verdicts[id.as_str()]) {
                match decision.verdict {
                    Verdict::Keep => prop_assert_eq!(needed, Verdict::Keep),
                    Verdict::Delete => {}
                    _ => prop_assert_ne!(needed, Verdict::Delete),
                }
            }
        }
    }

    #[test]
    fn a_policy_that_keeps_more_keeps_everything_that_one_kept_that_keeps_less(
        less in any_policy(),
        more in any_policy(),
        all in any_candidates(),
    ) {
        let more = KeepPolicy {
            last: less.last + more.last,
            hourly: less.hourly + more.hourly,
            daily: less.daily + more.daily,
            weekly: less.weekly + more.weekly,
            monthly: less.monthly + more.monthly,
            yearly: less.yearly + more.yearly,
            floor: less.floor + more.floor,
            // What the total keeps depends on what the rules leave to it.
            floor_total: 0,
            ..less.clone()
        };
        let less = KeepPolicy { floor_total: 0, ..less };
        let stay = |policy: &KeepPolicy| kept(&planned(policy, &[holding("nas", all.clone())], &[], now())[0]);
        prop_assert!(stay(&more).is_superset(&stay(&less)));
    }

    #[test]
    fn the_order_in_which_snapshots_are_listed_changes_nothing(
        policy in any_policy(),
        all in any_candidates(),
    ) {
        let mut reversed = all.clone();
        reversed.reverse();
        let plans = |all| planned(&policy, &[holding("nas", all)], &[], now());
        prop_assert_eq!(plans(all), plans(reversed));
    }
}
