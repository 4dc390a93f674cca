//! Which snapshots of a dataset stay, and why.
//!
//! A pure plan. Only snapshots of this very backup are ever in question: anything
//! else is not even listed as a candidate. Buckets are filled in the order of
//! transaction groups, newest first, because the clock of a host can jump and those
//! cannot.

use std::collections::BTreeSet;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::{
    inventory::{Dataset, Snapshot},
    names::Guid,
};

/// How many snapshots stay: the newest of so many hours, days, weeks and months.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Hours.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks, from Monday.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
}

impl Default for Policy {
    fn default() -> Self {
        // A day by the hour, a week by the day, a month by the week, half a year.
        Self { hourly: 24, daily: 7, weekly: 4, monthly: 6 }
    }
}

/// What becomes of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What stands after the `@`.
    pub snapshot: String,
    /// Its guid.
    pub guid: Guid,
    /// What is done.
    pub action: Action,
}

/// What is done with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It stays, for these reasons.
    Keep(Vec<String>),
    /// It is destroyed, for this reason.
    Destroy {
        /// Why.
        because: String,
        /// Whether a bookmark must remember it first, because a copy ends with it.
        bookmark_first: bool,
    },
}

/// What must be known beside the snapshots themselves.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// The backup whose snapshots are in question.
    pub backup: String,
    /// Snapshots with which a replica or an archive ends: the next increment builds on them.
    pub bases: BTreeSet<Guid>,
    /// Whether bookmarks can stand in for bases.
    pub bookmarks: bool,
}

/// Decides over every snapshot of this backup, oldest first.
#[must_use]
pub fn plan(
    dataset: &Dataset,
    policy: Policy,
    circumstances: &Circumstances,
    now: Timestamp,
) -> Vec<Decision> {
    let is_ours = |snapshot: &&Snapshot| {
        snapshot.owner.as_ref().is_some_and(|owner| owner.backup == circumstances.backup)
    };
    let newest_first: Vec<&Snapshot> = dataset.snapshots.iter().rev().filter(is_ours).collect();
    let mut buckets = Buckets::new(policy);
    let mut decisions: Vec<Decision> = newest_first
        .into_iter()
        .enumerate()
        .map(|(age, snapshot)| Decision {
            snapshot: snapshot.name.clone(),
            guid: snapshot.guid,
            action: decide(snapshot, age, &mut buckets, circumstances, now),
        })
        .collect();
    decisions.reverse();
    decisions
}

fn decide(
    snapshot: &Snapshot,
    age: usize,
    buckets: &mut Buckets,
    circumstances: &Circumstances,
    now: Timestamp,
) -> Action {
    let mut reasons = Vec::new();
    if age == 0 {
        reasons.push("it is the newest".to_owned());
    }
    if snapshot.creation > now {
        // Made while the clock was wrong: it says nothing of hours and days.
        reasons.push(format!("its time {} lies in the future", snapshot.creation));
    } else {
        reasons.extend(buckets.place(snapshot.creation));
    }
    if snapshot.holds > 0 {
        reasons.push(format!("held ({})", snapshot.holds));
    }
    let is_base = circumstances.bases.contains(&snapshot.guid);
    if is_base && !circumstances.bookmarks {
        reasons.push("a copy ends with it, and this zfs has no bookmarks".to_owned());
    }
    if !reasons.is_empty() {
        return Action::Keep(reasons);
    }
    Action::Destroy {
        because: "no rule of the policy keeps it".to_owned(),
        bookmark_first: is_base,
    }
}

/// How many buckets, what they are called, and where the one of a moment begins.
type Rule = (u32, &'static str, fn(DateTime) -> DateTime);

/// Which hours, days, weeks and months have a snapshot already.
struct Buckets {
    rules: [Rule; 4],
    filled: [BTreeSet<DateTime>; 4],
}

impl Buckets {
    fn new(policy: Policy) -> Self {
        Self {
            rules: [
                (policy.hourly, "hourly", hour),
                (policy.daily, "daily", day),
                (policy.weekly, "weekly", week),
                (policy.monthly, "monthly", month),
            ],
            filled: Default::default(),
        }
    }

    /// Puts the next older snapshot into the buckets that it is the newest of.
    fn place(&mut self, time: Timestamp) -> Vec<String> {
        let time = time.to_zoned(TimeZone::UTC).datetime();
        let mut reasons = Vec::new();
        for ((most, name, start), filled) in self.rules.iter().zip(&mut self.filled) {
            let most = usize::try_from(*most).unwrap_or(usize::MAX);
            if filled.len() < most && filled.insert(start(time)) {
                reasons.push(format!("{name} {} of {most}", filled.len()));
            }
        }
        reasons
    }
}

fn hour(time: DateTime) -> DateTime {
    time.date().at(time.hour(), 0, 0, 0)
}

fn day(time: DateTime) -> DateTime {
    time.date().at(0, 0, 0, 0)
}

fn week(time: DateTime) -> DateTime {
    let days = i64::from(time.date().weekday().to_monday_zero_offset());
    let monday = jiff::Span::new().days(days);
    day(time.checked_sub(monday).unwrap_or(time))
}

fn month(time: DateTime) -> DateTime {
    time.date().first_of_month().at(0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::zfs::{inventory::Owner, names::PREFIX};

    const HOUR: i64 = 3600;

    fn snapshot(number: u64, seconds: i64) -> Snapshot {
        Snapshot {
            name: format!("{PREFIX}{number}"),
            guid: Guid(number),
            createtxg: number,
            creation: Timestamp::from_second(seconds).expect("a time"),
            holds: 0,
            referenced_bytes: 1,
            used_bytes: 1,
            owner: Some(Owner { run: "r".into(), backup: "vault".into() }),
        }
    }

    fn dataset(snapshots: Vec<Snapshot>) -> Dataset {
        Dataset {
            name: "tank/vault".parse().expect("a name"),
            guid: Guid(1),
            properties: Default::default(),
            snapshots,
            bookmarks: Vec::new(),
            children: Vec::new(),
        }
    }

    fn vault() -> Circumstances {
        Circumstances { backup: "vault".into(), bookmarks: true, ..Circumstances::default() }
    }

    fn kept(decisions: &[Decision]) -> Vec<u64> {
        let is_kept = |it: &&Decision| matches!(it.action, Action::Keep(_));
        decisions.iter().filter(is_kept).map(|it| it.guid.0).collect()
    }

    /// A year by the hour, up to noon of 23 November 2026.
    fn year() -> (Dataset, Timestamp) {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().expect("a time");
        let hours = 365 * 24;
        let at = |number: i64| now.as_second() - (hours - number) * HOUR;
        let snapshots = (1..=hours).map(|it| snapshot(it.unsigned_abs(), at(it))).collect();
        (dataset(snapshots), now)
    }

    #[test]
    fn a_year_by_the_hour_comes_down_to_the_policy() {
        let (dataset, now) = year();
        let decisions = plan(&dataset, Policy::default(), &vault(), now);
        let kept = kept(&decisions);
        // 24 hours, 7 days of which 2 are among them, weeks and months that add theirs.
        assert!((34..=41).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last(), Some(&(365 * 24)));
        let Action::Keep(reasons) = &decisions[decisions.len() - 1].action else { panic!("kept") };
        assert_eq!(
            reasons,
            &[
                "it is the newest",
                "hourly 1 of 24",
                "daily 1 of 7",
                "weekly 1 of 4",
                "monthly 1 of 6"
            ]
        );
    }

    #[test]
    fn pruning_by_the_hour_ends_where_pruning_once_a_year_does() {
        let (whole, now) = year();
        let mut living = dataset(Vec::new());
        for snapshot in &whole.snapshots {
            living.snapshots.push(snapshot.clone());
            let decisions = plan(&living, Policy::default(), &vault(), snapshot.creation);
            let kept = kept(&decisions);
            living.snapshots.retain(|it| kept.contains(&it.guid.0));
        }
        let at_once = plan(&whole, Policy::default(), &vault(), now);
        let names: Vec<u64> = living.snapshots.iter().map(|it| it.guid.0).collect();
        assert_eq!(names, kept(&at_once));
    }

    #[test]
    fn what_another_backup_or_person_made_is_not_even_considered() {
        let mut foreign = snapshot(1, 0);
        foreign.owner = None;
        let mut other = snapshot(2, 0);
        other.owner = Some(Owner { run: "r".into(), backup: "other".into() });
        let nothing = Policy { hourly: 0, daily: 0, weekly: 0, monthly: 0 };
        let decisions = plan(&dataset(vec![foreign, other]), nothing, &vault(), Timestamp::MAX);
        assert_eq!(decisions, []);
    }

    #[test]
    fn the_newest_stays_whatever_the_policy_says() {
        let nothing = Policy { hourly: 0, daily: 0, weekly: 0, monthly: 0 };
        let two = dataset(vec![snapshot(1, 0), snapshot(2, 1)]);
        assert_eq!(kept(&plan(&two, nothing, &vault(), Timestamp::MAX)), [2]);
    }

    #[test]
    fn holds_of_anybody_keep_a_snapshot() {
        let nothing = Policy { hourly: 0, daily: 0, weekly: 0, monthly: 0 };
        let mut held = snapshot(1, 0);
        held.holds = 1;
        let two = dataset(vec![held, snapshot(2, 1)]);
        assert_eq!(kept(&plan(&two, nothing, &vault(), Timestamp::MAX)), [1, 2]);
    }

    #[test]
    fn a_base_is_remembered_by_a_bookmark_or_stays() {
        let nothing = Policy { hourly: 0, daily: 0, weekly: 0, monthly: 0 };
        let two = dataset(vec![snapshot(1, 0), snapshot(2, 1)]);
        let mut circumstances = Circumstances { bases: [Guid(1)].into(), ..vault() };
        let decisions = plan(&two, nothing, &circumstances, Timestamp::MAX);
        let Action::Destroy { bookmark_first, .. } = decisions[0].action else {
            panic!("destroyed")
        };
        assert!(bookmark_first);
        circumstances.bookmarks = false;
        assert_eq!(kept(&plan(&two, nothing, &circumstances, Timestamp::MAX)), [1, 2]);
    }

    #[test]
    fn pitfall_22_a_clock_that_jumped_ahead_destroys_nothing() {
        let now = Timestamp::from_second(1_000 * HOUR).expect("a time");
        let mut snapshots: Vec<Snapshot> =
            (1..=10).map(|it| snapshot(it, (990 + it.cast_signed()) * HOUR)).collect();
        // The clock was a year ahead when the last two were made, and came back since.
        snapshots[8].creation = Timestamp::from_second(9_000 * HOUR).expect("a time");
        snapshots[9].creation = Timestamp::from_second(9_001 * HOUR).expect("a time");
        let three = Policy { hourly: 3, daily: 0, weekly: 0, monthly: 0 };
        let kept = kept(&plan(&dataset(snapshots), three, &vault(), now));
        assert_eq!(kept, [6, 7, 8, 9, 10], "three true hours, and the two that cannot be placed");
    }
}
