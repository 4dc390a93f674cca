//! How much a key of the gateway may ask for, and what is left of it.
//!
//! Rates are levels that drain steadily: a whole minute's worth may be used at once, and comes back
//! bit by bit, so that there is no moment at which a new minute begins for everybody. What an answer
//! costs is known when it has ended; it is charged then, and a level that is above its brim lets
//! nothing more in until it has drained. So a key overshoots by what runs at once, never by more.

use std::{fmt, time::Duration};

use jiff::Timestamp;

/// What fills a level drains in this time.
const MINUTE_NANOS: i128 = 60_000_000_000;

const DAY_SECONDS: i64 = 24 * 3_600;

/// When a request that was one too many at once is worth another try.
const AT_ONCE_RETRY: Duration = Duration::from_secs(5);

/// What a key may ask for; what is absent has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests within a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens read and written within a minute.
    pub tokens_per_minute: Option<u32>,
    /// Tokens read and written within a day of UTC.
    pub tokens_per_day: Option<u64>,
    /// Requests that wait or run at the same time.
    pub at_once: Option<u32>,
}

/// What a key has used lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    requests: Level,
    tokens: Level,
    day: i64,
    tokens_of_day: u64,
    open: u32,
}

/// Full to the height that drains by this moment; empty from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    empty_at_nanos: i128,
}

/// What is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// Requests of a minute.
    Requests,
    /// Tokens of a minute.
    Tokens,
    /// Tokens of a day.
    Budget,
    /// Requests at once.
    AtOnce,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key may use {limit} {exhausted}; try again in {} s", retry_after.as_secs().max(1))]
pub struct Refusal {
    /// What is used up.
    pub exhausted: Exhausted,
    /// How much of it there is.
    pub limit: u64,
    /// When it is worth another try.
    pub retry_after: Duration,
}

/// How one limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// How much may be used.
    pub limit: u64,
    /// How much is left now.
    pub remaining: u64,
    /// When all of it is there again.
    pub reset: Duration,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Requests => "requests a minute",
            Self::Tokens => "tokens a minute",
            Self::Budget => "tokens a day (UTC)",
            Self::AtOnce => "requests at once",
        })
    }
}

impl Account {
    /// Lets a request in and counts it. Each that was let in must [`Account::leave`].
    ///
    /// # Errors
    /// A limit is used up; nothing was counted.
    pub fn enter(&mut self, limits: &Limits, now: Timestamp) -> Result<(), Refusal> {
        self.turn_day(now);
        if let Some(limit) = limits.at_once.filter(|limit| self.open >= *limit) {
            return Err(refusal(Exhausted::AtOnce, limit.into(), AT_ONCE_RETRY));
        }
        if let Some(limit) = limits.tokens_per_day.filter(|limit| self.tokens_of_day >= *limit) {
            return Err(refusal(Exhausted::Budget, limit, until_next_day(now)));
        }
        if let Some(limit) = limits.tokens_per_minute
            && let Some(wait) = self.tokens.wait(limit, now)
        {
            return Err(refusal(Exhausted::Tokens, limit.into(), wait));
        }
        if let Some(limit) = limits.requests_per_minute {
            if let Some(wait) = self.requests.wait(limit, now) {
                return Err(refusal(Exhausted::Requests, limit.into(), wait));
            }
            self.requests.pour(1, limit, now);
        }
        self.open += 1;
        Ok(())
    }

    /// A request that was let in has ended.
    pub fn leave(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Charges what an answer cost.
    pub fn spend(&mut self, limits: &Limits, tokens: u64, now: Timestamp) {
        self.turn_day(now);
        self.tokens_of_day = self.tokens_of_day.saturating_add(tokens);
        if let Some(limit) = limits.tokens_per_minute {
            self.tokens.pour(tokens, limit, now);
        }
    }

    /// Whether tokens are left for one more answer; what asks by itself waits until then.
    #[must_use]
    pub fn has_tokens(&self, limits: &Limits, now: Timestamp) -> bool {
        let used = if self.day == day_of(now) { self.tokens_of_day } else { 0 };
        limits.tokens_per_day.is_none_or(|limit| used < limit)
            && limits.tokens_per_minute.is_none_or(|limit| self.tokens.wait(limit, now).is_none())
    }

    /// Takes over what a store remembers of the day of `now`.
    pub fn recall(&mut self, tokens: u64, now: Timestamp) {
        self.turn_day(now);
        self.tokens_of_day = self.tokens_of_day.max(tokens);
    }

    /// How the requests of a minute stand.
    #[must_use]
    pub fn requests(&self, limits: &Limits, now: Timestamp) -> Option<Gauge> {
        limits.requests_per_minute.map(|limit| self.requests.gauge(limit, now))
    }

    /// How the tokens of a minute stand; without such a limit, those of the day.
    #[must_use]
    pub fn tokens(&self, limits: &Limits, now: Timestamp) -> Option<Gauge> {
        let minute = limits.tokens_per_minute.map(|limit| self.tokens.gauge(limit, now));
        minute.or_else(|| {
            let limit = limits.tokens_per_day?;
            let used = if self.day == day_of(now) { self.tokens_of_day } else { 0 };
            Some(Gauge { limit, remaining: limit.saturating_sub(used), reset: until_next_day(now) })
        })
    }

    /// Whether forgetting it changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Timestamp) -> bool {
        let spent = self.day == day_of(now) && self.tokens_of_day > 0;
        let nanos = now.as_nanosecond();
        let drained =
            [self.requests, self.tokens].iter().all(|level| level.empty_at_nanos <= nanos);
        self.open == 0 && !spent && drained
    }

    fn turn_day(&mut self, now: Timestamp) {
        let today = day_of(now);
        // A clock that was set back gives nobody a second budget.
        if today > self.day {
            self.day = today;
            self.tokens_of_day = 0;
        }
    }
}

impl Level {
    /// How long until one more fits, if none does now.
    fn wait(self, limit: u32, now: Timestamp) -> Option<Duration> {
        let brim = MINUTE_NANOS - share(limit);
        let above = self.height(now) - brim;
        (above > 0).then(|| nanos(above))
    }

    fn pour(&mut self, count: u64, limit: u32, now: Timestamp) {
        let poured = share(limit).saturating_mul(i128::from(count));
        self.empty_at_nanos = (now.as_nanosecond() + self.height(now)).saturating_add(poured);
    }

    fn gauge(self, limit: u32, now: Timestamp) -> Gauge {
        let height = self.height(now);
        let one = share(limit);
        let used = u64::try_from((height + one - 1) / one).unwrap_or(u64::MAX);
        let limit = u64::from(limit);
        Gauge { limit, remaining: limit.saturating_sub(used), reset: nanos(height) }
    }

    fn height(self, now: Timestamp) -> i128 {
        (self.empty_at_nanos - now.as_nanosecond()).max(0)
    }
}

fn refusal(exhausted: Exhausted, limit: u64, retry_after: Duration) -> Refusal {
    Refusal { exhausted, limit, retry_after }
}

/// The height of one.
fn share(limit: u32) -> i128 {
    (MINUTE_NANOS / i128::from(limit.max(1))).max(1)
}

fn nanos(height: i128) -> Duration {
    Duration::from_nanos(u64::try_from(height).unwrap_or(u64::MAX))
}

/// Number of a day of UTC.
#[must_use]
pub fn day_of(now: Timestamp) -> i64 {
    now.as_second().div_euclid(DAY_SECONDS)
}

fn until_next_day(now: Timestamp) -> Duration {
    let left = DAY_SECONDS - now.as_second().rem_euclid(DAY_SECONDS);
    Duration::from_secs(left.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Limits = Limits {
        requests_per_minute: Some(6),
        tokens_per_minute: None,
        tokens_per_day: None,
        at_once: None,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn refused(account: &mut Account, limits: &Limits, now: Timestamp) -> Refusal {
        account.enter(limits, now).expect_err("is refused")
    }

    #[test]
    fn a_minutes_requests_may_come_at_once_and_then_one_by_one() {
        let mut account = Account::default();
        for _ in 0..6 {
            account.enter(&MINUTE, at(0)).unwrap();
        }
        let why = refused(&mut account, &MINUTE, at(0));
        assert_eq!(
            (why.exhausted, why.retry_after),
            (Exhausted::Requests, Duration::from_secs(10))
        );
        assert_eq!(account.requests(&MINUTE, at(0)).unwrap().remaining, 0);
        account.enter(&MINUTE, at(10)).unwrap();
        refused(&mut account, &MINUTE, at(19));
        account.enter(&MINUTE, at(20)).unwrap();
        let gauge = account.requests(&MINUTE, at(80)).unwrap();
        assert_eq!((gauge.limit, gauge.remaining, gauge.reset), (6, 6, Duration::ZERO));
    }

    #[test]
    fn tokens_are_charged_afterwards_and_held_against_the_next() {
        let limits = Limits { tokens_per_minute: Some(100), ..Limits::default() };
        let mut account = Account::default();
        account.enter(&limits, at(0)).unwrap();
        account.spend(&limits, 250, at(0));
        let why = refused(&mut account, &limits, at(0));
        assert_eq!(why.exhausted, Exhausted::Tokens);
        assert!((90..=91).contains(&why.retry_after.as_secs()), "{why:?}");
        refused(&mut account, &limits, at(90));
        account.enter(&limits, at(91)).unwrap();
    }

    #[test]
    fn a_days_budget_is_back_at_midnight_and_not_before() {
        let limits = Limits { tokens_per_day: Some(1_000), ..Limits::default() };
        let noon = Timestamp::from_second(20_000 * DAY_SECONDS + 12 * 3_600).unwrap();
        let mut account = Account::default();
        account.recall(400, noon);
        assert!(account.has_tokens(&limits, noon));
        account.enter(&limits, noon).unwrap();
        account.spend(&limits, 600, noon);
        let why = refused(&mut account, &limits, noon);
        assert_eq!((why.exhausted, why.retry_after.as_secs()), (Exhausted::Budget, 12 * 3_600));
        assert_eq!(account.tokens(&limits, noon).unwrap().remaining, 0);
        assert!(!account.has_tokens(&limits, noon));
        let midnight = Timestamp::from_second(20_001 * DAY_SECONDS).unwrap();
        account.enter(&limits, midnight).unwrap();
        assert_eq!(account.tokens(&limits, midnight).unwrap().remaining, 1_000);
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_second_budget() {
        let limits = Limits { tokens_per_day: Some(10), ..Limits::default() };
        let mut account = Account::default();
        account.spend(&limits, 10, at(0));
        refused(&mut account, &limits, at(-2 * DAY_SECONDS));
    }

    #[test]
    fn who_leaves_makes_room_for_the_next() {
        let limits = Limits { at_once: Some(2), ..Limits::default() };
        let mut account = Account::default();
        account.enter(&limits, at(0)).unwrap();
        account.enter(&limits, at(0)).unwrap();
        assert_eq!(refused(&mut account, &limits, at(0)).exhausted, Exhausted::AtOnce);
        account.leave();
        account.enter(&limits, at(0)).unwrap();
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let limits = Limits { at_once: Some(1), ..MINUTE };
        let mut account = Account::default();
        account.enter(&limits, at(0)).unwrap();
        let before = account;
        refused(&mut account, &limits, at(0));
        assert_eq!(account, before);
    }

    #[test]
    fn without_limits_nothing_is_refused() {
        let mut account = Account::default();
        for _ in 0..10_000 {
            account.enter(&Limits::default(), at(0)).unwrap();
            account.spend(&Limits::default(), u64::MAX, at(0));
        }
        assert!(account.requests(&Limits::default(), at(0)).is_none());
    }
}
