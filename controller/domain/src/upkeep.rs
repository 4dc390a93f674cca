//! How long the controller remembers what is over.
//!
//! The audit log is not among it: that one is kept for ever.

use std::time::Duration;

use jiff::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The shortest time that anything is kept: a call that comes twice must still find what it did
/// the first time.
pub const AGE_MIN: Duration = DAY;

/// The shortest time that a request that left the house is kept: the budgets of a month are summed up
/// from them, and the zone of a site is at most a day away from ours.
pub const GOLD_AGE_MIN: Duration = DAY.saturating_mul(33);

/// How long one kind of record is kept, and how many of it. Whichever is reached first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How long after its end.
    pub age: Duration,
    /// How many that have ended; the newest stay.
    pub count: u32,
}

/// How long everything is kept that the controller does not keep for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepRules {
    /// Jobs with their texts and histories.
    pub jobs: Keep,
    /// Runs of backups and drills. The newest of each backup, kind and outcome stays whatever its
    /// age, and so does the one with the newest snapshot: they are what is known of the backup.
    pub runs: Keep,
    /// Certificates, after they have ended.
    pub certificates: Duration,
    /// Enrolment tokens, after they have ended.
    pub tokens: Duration,
    /// Requests that left the house, after they did; at least [`GOLD_AGE_MIN`].
    pub gold: Duration,
}

impl Default for KeepRules {
    fn default() -> Self {
        Self {
            jobs: Keep { age: 30 * DAY, count: 50_000 },
            runs: Keep { age: 400 * DAY, count: 50_000 },
            certificates: 400 * DAY,
            tokens: 400 * DAY,
            gold: 400 * DAY,
        }
    }
}

/// What may be dropped now: all that ended before these moments, and what is too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// Jobs that ended before, and those beyond the newest so many.
    pub jobs: Cutoff,
    /// Runs that ended before, and those beyond the newest so many.
    pub runs: Cutoff,
    /// Certificates that ended before.
    pub certificates: Timestamp,
    /// Tokens that ended before.
    pub tokens: Timestamp,
    /// Requests that left the house before.
    pub gold: Timestamp,
}

/// Where to cut one kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// What ended before this.
    pub before: Timestamp,
    /// What is older than the newest so many.
    pub newest: u32,
}

impl KeepRules {
    /// What may be dropped at `now`.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Cutoffs {
        Cutoffs {
            jobs: self.jobs.at(now),
            runs: self.runs.at(now),
            certificates: before(now, self.certificates),
            tokens: before(now, self.tokens),
            gold: before(now, self.gold.max(GOLD_AGE_MIN)),
        }
    }
}

impl Keep {
    fn at(self, now: Timestamp) -> Cutoff {
        Cutoff { before: before(now, self.age), newest: self.count }
    }
}

/// A clock that is wrong by decades drops nothing.
fn before(now: Timestamp, age: Duration) -> Timestamp {
    now.checked_sub(age.max(AGE_MIN)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gold::Period, schedule::Zone};

    #[test]
    fn everything_is_kept_for_its_own_time() {
        let now = Timestamp::from_second(1_790_000_000).expect("a time");
        let ago = |days: u32| now.checked_sub(DAY * days).expect("a time");
        let cut = KeepRules::default().at(now);
        assert_eq!(cut.jobs, Cutoff { before: ago(30), newest: 50_000 });
        assert_eq!(cut.runs, Cutoff { before: ago(400), newest: 50_000 });
        assert_eq!((cut.certificates, cut.tokens, cut.gold), (ago(400), ago(400), ago(400)));
    }

    #[test]
    fn nothing_is_dropped_within_a_day_or_before_time_began() {
        let now = Timestamp::from_second(1_790_000_000).expect("a time");
        let rules = KeepRules {
            tokens: Duration::ZERO,
            certificates: Duration::from_secs(u64::MAX),
            ..KeepRules::default()
        };
        assert_eq!(rules.at(now).tokens, now.checked_sub(DAY).expect("a time"));
        assert_eq!(rules.at(now).certificates, Timestamp::MIN);
    }

    #[test]
    fn what_a_budget_of_this_month_is_summed_up_from_is_never_dropped() {
        let rules = KeepRules { gold: Duration::ZERO, ..KeepRules::default() };
        let zone = Zone::try_new("Pacific/Kiritimati").expect("a zone");
        for hour in 0..24 * 62 {
            let at = 1_790_000_000 + hour * 3_600;
            let now = Timestamp::from_second(at).expect("a time");
            let (month, _) = Period::Month.around(now, &zone);
            assert!(rules.at(now).gold < month, "{now}");
        }
    }
}
