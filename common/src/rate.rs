//! How often somebody may do something: a bucket of tokens per key, and one for all together.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

/// Keys that are remembered at once. At some 50 bytes each this is 50 KB.
const KEYS_MAX: usize = 1_024;

/// A bucket of `burst` tokens, into which one falls `every` so often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many at once, after a long silence.
    pub burst: u32,
    /// How long one token takes to come back.
    pub every: Duration,
}

impl Rate {
    /// When the bucket is full again after one token is taken at `now` from a bucket that is full
    /// at `full_at`; or how long to wait for a token.
    fn take(self, full_at: Instant, now: Instant) -> Result<Instant, Duration> {
        let full_at = full_at.max(now) + self.every;
        match full_at.checked_duration_since(now + self.every * self.burst) {
            None | Some(Duration::ZERO) => Ok(full_at),
            Some(wait) => Err(wait),
        }
    }
}

/// Buckets of tokens, one per key, and one for all keys together. It remembers a bounded number of
/// keys: those that have been quiet the longest are forgotten first, and the bucket of all still
/// holds when somebody has more addresses than this remembers.
#[derive(Debug)]
pub struct Limiter<K> {
    each: Rate,
    all: Rate,
    full_at: HashMap<K, Instant>,
    all_full_at: Option<Instant>,
}

impl<K: Copy + Eq + Hash> Limiter<K> {
    /// Full buckets.
    #[must_use]
    pub fn new(each: Rate, all: Rate) -> Self {
        Self { each, all, full_at: HashMap::new(), all_full_at: None }
    }

    /// Takes a token for `key`. Who is refused here takes nothing from the others.
    ///
    /// # Errors
    ///
    /// There is none; how long to wait for one.
    pub fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let own = self.each.take(self.full_at.get(&key).copied().unwrap_or(now), now)?;
        let all = self.all.take(self.all_full_at.unwrap_or(now), now)?;
        if self.full_at.len() >= KEYS_MAX && !self.full_at.contains_key(&key) {
            self.forget(now);
        }
        self.full_at.insert(key, own);
        self.all_full_at = Some(all);
        Ok(())
    }

    /// Forgets whose bucket is full anyway; when there is none, the one that is full soonest.
    fn forget(&mut self, now: Instant) {
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() >= KEYS_MAX {
            let soonest = self.full_at.iter().min_by_key(|(_, full_at)| **full_at);
            if let Some(key) = soonest.map(|(key, _)| *key) {
                self.full_at.remove(&key);
            }
        }
    }
}

/// What counts as one party: an IPv4 address, or the /64 that an IPv6 host chooses from freely.
#[must_use]
pub fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const EACH: Rate = Rate { burst: 3, every: SECOND };
    const ALL: Rate = Rate { burst: 5, every: SECOND };

    fn taken(limiter: &mut Limiter<u32>, key: u32, now: Instant) -> usize {
        (0..100).take_while(|_| limiter.take(key, now).is_ok()).count()
    }

    #[test]
    fn one_key_gets_its_burst_and_then_one_token_at_a_time() {
        let (mut limiter, now) = (Limiter::new(EACH, ALL), Instant::now());
        assert_eq!(taken(&mut limiter, 1, now), 3);
        assert_eq!(limiter.take(1, now), Err(SECOND));
        assert_eq!(limiter.take(1, now + SECOND / 4), Err(SECOND * 3 / 4));
        assert_eq!(taken(&mut limiter, 1, now + SECOND), 1);
        assert_eq!(taken(&mut limiter, 1, now + 100 * SECOND), 3);
    }

    #[test]
    fn a_greedy_key_takes_nothing_from_the_others() {
        let (mut limiter, now) = (Limiter::new(EACH, ALL), Instant::now());
        taken(&mut limiter, 1, now);
        for _ in 0..1_000 {
            limiter.take(1, now).expect_err("refused");
        }
        assert_eq!(taken(&mut limiter, 2, now), 2, "what is left of the five for all");
    }

    #[test]
    fn many_keys_share_one_bucket_and_bounded_memory() {
        let mut limiter = Limiter::new(EACH, Rate { burst: 1_000_000, ..ALL });
        let now = Instant::now();
        for key in 0..10_000 {
            limiter.take(key, now).expect("a newcomer is served");
            assert!(limiter.full_at.len() <= KEYS_MAX);
        }
    }

    #[test]
    fn who_is_still_limited_is_not_forgotten_for_the_quiet() {
        let mut limiter = Limiter::new(EACH, Rate { burst: 1_000_000, ..ALL });
        let now = Instant::now();
        assert_eq!(taken(&mut limiter, 0, now), 3);
        for key in 1..10_000 {
            limiter.take(key, now).expect("a newcomer is served");
        }
        limiter.take(0, now).expect_err("still empty");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_party() {
        let of = |text: &str| party(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
