//! Which snapshot is drilled next: drills go round the ages, since a newest snapshot that restores
//! says nothing about those that are kept for the day when the newest is wrong.

use std::time::Duration;

use jiff::Timestamp;

crate::words! {
    /// The ages that drills go round.
    DrillAge {
        /// The newest.
        Newest = "newest",
        /// The newest that is a week old.
        Weekly = "weekly",
        /// The newest that is a month old.
        Monthly = "monthly",
    }
}

impl DrillAge {
    /// A snapshot of this age is at least so old.
    #[must_use]
    pub const fn at_least(self) -> Duration {
        match self {
            Self::Newest => Duration::ZERO,
            Self::Weekly => Duration::from_hours(7 * 24),
            Self::Monthly => Duration::from_hours(30 * 24),
        }
    }
}

/// A verified snapshot that could be drilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drillable {
    /// Identifier.
    pub id: String,
    /// Its place in the order in which snapshots came to be known.
    pub sequence: u64,
    /// The moment whose state it holds.
    pub taken_at: Timestamp,
}

/// A drill that was made, whatever it showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drilled {
    /// The age that it was for.
    pub age: DrillAge,
    /// When it ended.
    pub at: Timestamp,
}

/// What to drill, and for which age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The age.
    pub age: DrillAge,
    /// The snapshot.
    pub snapshot_id: String,
}

/// Picks the age that has waited longest among those that something is there for; the younger one
/// when two have waited for ever. None when there is nothing to drill.
#[must_use]
pub fn pick(now: Timestamp, snapshots: &[Drillable], made: &[Drilled]) -> Option<Picked> {
    let waited = |age: DrillAge| made.iter().filter(|one| one.age == age).map(|one| one.at).max();
    let mut ages: Vec<_> = DrillAge::ALL.to_vec();
    ages.sort_by_key(|age| (waited(*age), *age));
    ages.into_iter().find_map(|age| {
        let old = snapshots.iter().filter(|one| {
            let old = Duration::try_from(now.duration_since(one.taken_at)).unwrap_or_default();
            old >= age.at_least()
        });
        let newest = old.max_by_key(|one| one.sequence)?;
        Some(Picked { age, snapshot_id: newest.id.clone() })
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }

    fn days(count: u64) -> Vec<Drillable> {
        let each = 1..=count;
        let day = |sequence: u64| Drillable {
            id: format!("day-{}", count - sequence),
            sequence,
            taken_at: now() - SignedDuration::from_hours(24 * (count - sequence).cast_signed()),
        };
        each.map(day).collect()
    }

    /// Drills once a week, and says what was picked.
    fn rounds(snapshots: &[Drillable], count: usize) -> Vec<String> {
        let (mut made, mut picked) = (Vec::new(), Vec::new());
        for round in 0..count {
            let one = pick(now(), snapshots, &made).unwrap();
            let at = now() + SignedDuration::from_hours(7 * 24 * i64::try_from(round).unwrap());
            made.push(Drilled { age: one.age, at });
            picked.push(format!("{} {}", one.age, one.snapshot_id));
        }
        picked
    }

    #[test]
    fn drills_go_round_the_ages() {
        let ages =
            ["newest day-0", "weekly day-7", "monthly day-30", "newest day-0", "weekly day-7"];
        assert_eq!(rounds(&days(90), 5), ages);
    }

    #[test]
    fn an_age_that_nothing_is_there_for_is_left_out() {
        assert_eq!(rounds(&days(10), 3), ["newest day-0", "weekly day-7", "newest day-0"]);
        assert_eq!(rounds(&days(1), 2), ["newest day-0", "newest day-0"]);
        assert_eq!(pick(now(), &[], &[]), None);
    }

    #[test]
    fn a_snapshot_of_the_future_is_the_newest_and_of_no_other_age() {
        let mut snapshots = days(9);
        let future = now() + SignedDuration::from_hours(1000);
        snapshots.push(Drillable { id: "future".to_owned(), sequence: 99, taken_at: future });
        assert_eq!(rounds(&snapshots, 2), ["newest future", "weekly day-7"]);
    }
}
