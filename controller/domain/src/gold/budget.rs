//! Hard limits on what may be spent.

use jiff::Timestamp;

use super::{Asker, Money};
use crate::{ids::BudgetName, schedule::Zone};

crate::words! {
    /// The time that a limit is for.
    Period {
        /// From midnight to midnight in the site's zone.
        Day = "day",
        /// From the first of a month.
        Month = "month",
    }
}

impl Period {
    /// When the period that holds `now` began, and when the next one begins.
    #[must_use]
    pub fn around(self, now: Timestamp, zone: &Zone) -> (Timestamp, Timestamp) {
        let local = zone.local(now);
        let first = match self {
            Self::Day => local.date(),
            Self::Month => local.date().first_of_month(),
        };
        let next = match self {
            Self::Day => first.tomorrow(),
            Self::Month => first.last_of_month().tomorrow(),
        };
        let midnight = |date: jiff::civil::Date| {
            date.to_zoned(local.time_zone().clone()).map(|zoned| zoned.timestamp())
        };
        (
            midnight(first).unwrap_or(Timestamp::MIN),
            next.and_then(midnight).unwrap_or(Timestamp::MAX),
        )
    }
}

/// One budget of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Name.
    pub name: BudgetName,
    /// Whose spending it holds, together; empty means everybody's.
    pub keys: Vec<Asker>,
    /// Most that is spent in a day.
    pub day: Option<Money>,
    /// Most that is spent in a month.
    pub month: Option<Money>,
}

impl Budget {
    /// Whether it holds what this one spends.
    #[must_use]
    pub fn covers(&self, asker: &Asker) -> bool {
        self.keys.is_empty() || self.keys.contains(asker)
    }

    /// Its limits.
    pub fn limits(&self) -> impl Iterator<Item = (Period, Money)> + use<> {
        [(Period::Day, self.day), (Period::Month, self.month)]
            .into_iter()
            .filter_map(|(period, limit)| Some((period, limit?)))
    }
}

/// What one asker has spent within a period, reservations included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Who.
    pub asker: Asker,
    /// Since the day began.
    pub day: Money,
    /// Since the month began.
    pub month: Money,
}

impl Spent {
    const fn within(&self, period: Period) -> Money {
        match period {
            Period::Day => self.day,
            Period::Month => self.month,
        }
    }
}

/// How one limit of a budget stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The budget.
    pub budget: BudgetName,
    /// Which of its limits.
    pub period: Period,
    /// The limit.
    pub limit: Money,
    /// What was spent or is reserved.
    pub spent: Money,
    /// When it begins anew.
    pub renews_at: Timestamp,
}

impl Standing {
    /// What may still be spent.
    #[must_use]
    pub const fn left(&self) -> Money {
        self.limit.less(self.spent)
    }

    /// How each limit of `budgets` stands.
    #[must_use]
    pub fn all(budgets: &[Budget], spent: &[Spent], now: Timestamp, zone: &Zone) -> Vec<Self> {
        let of = |budget: &Budget, period| {
            let covered = spent.iter().filter(|one| budget.covers(&one.asker));
            covered.map(|one| one.within(period)).sum()
        };
        let limits = budgets
            .iter()
            .flat_map(|budget| budget.limits().map(move |(period, limit)| (budget, period, limit)));
        limits
            .map(|(budget, period, limit)| Self {
                budget: budget.name.clone(),
                period,
                limit,
                spent: of(budget, period),
                renews_at: period.around(now, zone).1,
            })
            .collect()
    }
}

/// A limit that has no room for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// The limit.
    pub standing: Standing,
    /// What the request may cost.
    pub wanted: Money,
}

/// The limit that has no room for `wanted`; of several, the one that renews last.
/// None when every budget that covers the asker has room; that at least one covers whoever may use
/// gold is checked when the site file is read.
#[must_use]
pub fn shortfall(
    budgets: &[Budget],
    spent: &[Spent],
    asker: &Asker,
    wanted: Money,
    now: Timestamp,
    zone: &Zone,
) -> Option<Shortfall> {
    let covering: Vec<Budget> =
        budgets.iter().filter(|budget| budget.covers(asker)).cloned().collect();
    Standing::all(&covering, spent, now, zone)
        .into_iter()
        .filter(|standing| standing.left() < wanted)
        .max_by_key(|standing| standing.renews_at)
        .map(|standing| Shortfall { standing, wanted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn asker(text: &str) -> Asker {
        text.parse().unwrap()
    }

    fn budget(name: &str, keys: &[&str], day: Option<&str>, month: Option<&str>) -> Budget {
        Budget {
            name: BudgetName::try_new(name).unwrap(),
            keys: keys.iter().map(|key| asker(key)).collect(),
            day: day.map(money),
            month: month.map(money),
        }
    }

    fn spent(key: &str, day: &str, month: &str) -> Spent {
        Spent { asker: asker(key), day: money(day), month: money(month) }
    }

    fn now() -> Timestamp {
        "2026-10-25T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_day_is_that_of_the_site_even_when_clocks_change() {
        let zone = Zone::try_new("Europe/Amsterdam").unwrap();
        let (begins, ends) = Period::Day.around(now(), &zone);
        assert_eq!(begins.to_string(), "2026-10-24T22:00:00Z");
        assert_eq!(ends.to_string(), "2026-10-25T23:00:00Z");
        let (begins, ends) = Period::Month.around(now(), &zone);
        assert_eq!(begins.to_string(), "2026-09-30T22:00:00Z");
        assert_eq!(ends.to_string(), "2026-10-31T23:00:00Z");
    }

    #[test]
    fn every_budget_that_covers_the_asker_must_have_room() {
        let budgets = [
            budget("all", &[], Some("1.00"), Some("10.00")),
            budget("ann", &["key/ann"], Some("0.20"), None),
        ];
        let spending = [spent("key/ann", "0.15", "0.15"), spent("key/bob", "0.70", "9.00")];
        let short = |key: &str, wanted: &str| {
            shortfall(&budgets, &spending, &asker(key), money(wanted), now(), &Zone::UTC)
                .map(|short| (short.standing.budget.to_string(), short.standing.period))
        };
        assert_eq!(short("key/ann", "0.05"), None);
        assert_eq!(short("key/ann", "0.06"), Some(("ann".to_owned(), Period::Day)));
        assert_eq!(short("key/bob", "0.15"), None);
        assert_eq!(short("key/bob", "0.16"), Some(("all".to_owned(), Period::Day)));
        assert_eq!(short("key/bob", "5.00"), Some(("all".to_owned(), Period::Month)));
    }

    #[test]
    fn a_limit_that_was_lowered_below_what_was_spent_leaves_nothing() {
        let budgets = [budget("all", &[], Some("1.00"), None)];
        let spending = [spent("key/ann", "3.00", "3.00")];
        let standing = Standing::all(&budgets, &spending, now(), &Zone::UTC);
        assert_eq!(standing[0].left(), Money::ZERO);
    }
}
