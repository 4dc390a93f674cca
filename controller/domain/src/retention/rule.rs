//! The rules of a policy, and the periods that they speak of.

use std::collections::BTreeSet;

use jiff::Zoned;

use super::{Candidate, KeepPolicy};

crate::words! {
    /// What keeps a snapshot.
    Rule {
        /// Being one of the newest.
        Last = "last",
        /// Being the newest of an hour.
        Hourly = "hourly",
        /// Being the newest of a day.
        Daily = "daily",
        /// Being the newest of an ISO week.
        Weekly = "weekly",
        /// Being the newest of a month.
        Monthly = "monthly",
        /// Being the newest of a year.
        Yearly = "yearly",
    }
}

impl Rule {
    /// How many the policy lets it keep.
    pub(super) const fn count(self, policy: &KeepPolicy) -> u32 {
        match self {
            Self::Last => policy.last,
            Self::Hourly => policy.hourly,
            Self::Daily => policy.daily,
            Self::Weekly => policy.weekly,
            Self::Monthly => policy.monthly,
            Self::Yearly => policy.yearly,
        }
    }

    /// The period that a moment lies in, as people write it; none for the rule that knows no periods.
    pub(super) fn period(self, at: &Zoned) -> Option<String> {
        Some(match self {
            Self::Last => return None,
            // The offset tells the two hours of an autumn night apart.
            Self::Hourly => at.strftime("%Y-%m-%d %H:00 %:z").to_string(),
            Self::Daily => at.strftime("%Y-%m-%d").to_string(),
            Self::Weekly => at.strftime("%G-W%V").to_string(),
            Self::Monthly => at.strftime("%Y-%m").to_string(),
            Self::Yearly => at.strftime("%Y").to_string(),
        })
    }

    /// Why, for people.
    pub(super) fn because(self, period: &str) -> String {
        match self {
            Self::Last => format!("number {period} of the newest"),
            _ => format!("{self}: the newest of {period}"),
        }
    }

    /// What it keeps of `newest_first`: of each period that occurs, the first that was met, until
    /// there are enough. The order is that of sequences; with clocks that were moved, a period may
    /// come twice and is served once.
    pub(super) fn representatives<'a>(
        self,
        policy: &KeepPolicy,
        newest_first: &[&'a Candidate],
    ) -> Vec<(String, &'a Candidate)> {
        let count = usize::try_from(self.count(policy)).unwrap_or(usize::MAX);
        let mut met = BTreeSet::new();
        let mut found = Vec::new();
        for (place, one) in newest_first.iter().enumerate() {
            if found.len() >= count {
                break;
            }
            let period = self.period(&policy.zone.local(one.taken_at));
            let period = period.unwrap_or_else(|| (place + 1).to_string());
            if met.insert(period.clone()) {
                found.push((period, *one));
            }
        }
        found
    }
}
