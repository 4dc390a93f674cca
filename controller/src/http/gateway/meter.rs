//! How much each key has used: what lets a request in, and what charges it for its answer.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use homelab_common::{clock::Clock, error_chain::Chain, lifecycle::Tasks};
use homelab_domain::allowance::{Account, Gauge, day_of};
use homelab_store::{Store, StoreError, Tx};
use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::warn;

use super::{error::ApiError, key::Key};

/// Accounts that are kept before those that hold nothing are dropped: more than one keys file has.
const ACCOUNTS_MAX: usize = 2_000;

/// The accounts of all keys. Clones are the same.
///
/// What a key has used of its day is kept in the store as well, so that no restart gives it a second
/// budget; rates are short, and forgotten.
#[derive(Clone)]
pub struct Meters {
    accounts: Arc<Mutex<HashMap<String, Account>>>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
    tasks: Tasks,
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

/// Tokens that a key is to be charged.
#[derive(Debug)]
pub struct Charge {
    meters: Meters,
    key: Arc<Key>,
    tokens: u64,
    today: i64,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("accounts", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Meters {
    /// Nobody has used anything yet, as far as is known.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, store: Arc<dyn Store>, tasks: Tasks) -> Self {
        Self { accounts: Arc::default(), clock, store, tasks }
    }

    /// Takes over what the store remembers of the day of these keys.
    ///
    /// # Errors
    /// The store failed.
    pub async fn recall(&self, keys: &[Arc<Key>]) -> Result<(), StoreError> {
        let today = day_of(self.clock.now());
        let mut tx = self.store.read().await?;
        for key in keys.iter().filter(|key| key.limits.tokens_per_day.is_some()) {
            let spent = tx.batches().spent(&key.name, today).await?;
            self.with(key, |account, now| account.recall(spent, now));
        }
        Ok(())
    }

    /// Charges a key for an answer.
    pub fn charge(&self, key: &Arc<Key>, tokens: u64) {
        let Some(charge) = self.charge_for(key, tokens) else { return };
        charge.count();
        if key.limits.tokens_per_day.is_none() {
            return;
        }
        let store = Arc::clone(&self.store);
        self.tasks.spawn(async move {
            let kept = async {
                let mut tx = store.begin().await?;
                charge.keep(tx.as_mut()).await?;
                tx.commit().await
            };
            if let Err(error) = kept.await {
                warn!(key = %charge.key.name, tokens, error = %Chain(&error), "could not keep what a key has used");
            }
        });
    }

    /// What a key is to be charged, for a caller who keeps it together with what it is for; none
    /// when that is nothing.
    #[must_use]
    pub fn charge_for(&self, key: &Arc<Key>, tokens: u64) -> Option<Charge> {
        let today = day_of(self.clock.now());
        (tokens > 0).then(|| Charge { meters: self.clone(), key: Arc::clone(key), tokens, today })
    }

    /// Whether a key has tokens left for one more answer.
    #[must_use]
    pub fn has_left(&self, key: &Key) -> bool {
        let now = self.clock.now();
        self.lock().get(&key.name).is_none_or(|account| account.has_tokens(&key.limits, now))
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

impl Charge {
    /// Remembers it for the day, with whatever else `tx` keeps.
    ///
    /// # Errors
    /// The store failed.
    pub async fn keep(&self, tx: &mut dyn Tx) -> Result<(), StoreError> {
        if self.key.limits.tokens_per_day.is_none() {
            return Ok(());
        }
        tx.batches().spend(&self.key.name, self.today, self.tokens).await
    }

    /// Counts it against the key's limits from now on.
    pub fn count(&self) {
        self.meters.with(&self.key, |account, now| {
            account.spend(&self.key.limits, self.tokens, now);
        });
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
        self.meters.charge(&self.key, tokens);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            self.meters.charge(&self.key, self.shown);
        }
        self.meters.with(&self.key, |account, _| account.leave());
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
