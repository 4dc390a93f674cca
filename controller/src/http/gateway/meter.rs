//! How much each key has used: what lets a request in, and what charges it for its answer.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use homelab_common::clock::Clock;
use homelab_domain::allowance::{Account, Gauge};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{error::ApiError, key::Key};

/// Accounts that are kept before those that hold nothing are dropped: more than one keys file has.
const ACCOUNTS_MAX: usize = 2_000;

/// The accounts of all keys. Clones are the same.
#[derive(Clone)]
pub struct Meters {
    accounts: Arc<Mutex<HashMap<String, Account>>>,
    clock: Arc<dyn Clock>,
}

/// One request that was let in. Dropped, it makes room for the next; what it has shown by then is
/// charged when nobody said what it cost.
#[derive(Debug)]
pub struct Ticket {
    meters: Meters,
    key: Arc<Key>,
    shown: u64,
    is_settled: bool,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("accounts", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Meters {
    /// Nobody has used anything yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { accounts: Arc::default(), clock }
    }

    /// Lets a request of `key` in.
    ///
    /// # Errors
    /// 429: a limit of the key is used up.
    pub fn enter(&self, key: &Arc<Key>) -> Result<Ticket, ApiError> {
        let now = self.clock.now();
        let mut accounts = self.lock();
        if accounts.len() >= ACCOUNTS_MAX {
            accounts.retain(|_, account| !account.is_idle(now));
        }
        let account = accounts.entry(key.name.clone()).or_default();
        match account.enter(&key.limits, now) {
            Ok(()) => Ok(Ticket {
                meters: self.clone(),
                key: Arc::clone(key),
                shown: 0,
                is_settled: false,
            }),
            Err(refusal) => {
                Err(ApiError::used_up(&refusal).with_headers(gauges(account, key, now)))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, key: &Key, change: impl FnOnce(&mut Account, jiff::Timestamp)) {
        let now = self.clock.now();
        change(self.lock().entry(key.name.clone()).or_default(), now);
    }
}

impl Ticket {
    /// What is left, as OpenAI's headers say it.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let now = self.meters.clock.now();
        let mut accounts = self.meters.lock();
        gauges(accounts.entry(self.key.name.clone()).or_default(), &self.key, now)
    }

    /// A piece of the answer has been shown; it counts as a token until the cost is known.
    pub fn shows_a_piece(&mut self) {
        self.shown += 1;
    }

    /// The answer cost so many tokens.
    pub fn costs(&mut self, tokens: u64) {
        self.is_settled = true;
        self.meters.with(&self.key, |account, now| account.spend(&self.key.limits, tokens, now));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let shown = if self.is_settled { 0 } else { self.shown };
        self.meters.with(&self.key, |account, now| {
            account.spend(&self.key.limits, shown, now);
            account.leave();
        });
    }
}

fn gauges(account: &Account, key: &Key, now: jiff::Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut show = |names: [&'static str; 3], gauge: Option<Gauge>| {
        let Some(Gauge { limit, remaining, reset }) = gauge else { return };
        let reset = format!("{}ms", reset.as_millis());
        for (name, value) in
            names.into_iter().zip([limit.to_string(), remaining.to_string(), reset])
        {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    };
    show(
        [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ],
        account.requests(&key.limits, now),
    );
    show(
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        account.tokens(&key.limits, now),
    );
    headers
}

#[cfg(test)]
mod tests {
    use homelab_common::clock::ManualClock;
    use homelab_domain::{allowance::Limits, site::Tier};
    use jiff::Timestamp;

    use super::*;
    use crate::http::gateway::key::Models;

    fn key(limits: Limits) -> Arc<Key> {
        let tiers = vec![Tier::Bronze];
        Arc::new(Key { name: "webui".to_owned(), tiers, limits, models: Models::Use })
    }

    #[test]
    fn a_ticket_that_is_dropped_makes_room_and_charges_what_was_shown() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let meters = Meters::new(Arc::new(clock));
        let limits = Limits { at_once: Some(1), tokens_per_minute: Some(100), ..Limits::default() };
        let key = key(limits);
        let mut ticket = meters.enter(&key).expect("room");
        assert_eq!(meters.enter(&key).expect_err("full").status(), 429);
        ticket.shows_a_piece();
        ticket.shows_a_piece();
        drop(ticket);
        let mut ticket = meters.enter(&key).expect("room again");
        assert_eq!(ticket.headers()["x-ratelimit-remaining-tokens"], "98");
        ticket.shows_a_piece();
        ticket.costs(40);
        drop(ticket);
        let ticket = meters.enter(&key).expect("room");
        assert_eq!(
            ticket.headers()["x-ratelimit-remaining-tokens"],
            "58",
            "the cost, not the pieces"
        );
    }
}
