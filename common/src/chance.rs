//! Randomness as a parameter.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;

use crate::clock::Clock;

/// A source of random bytes. Shared as `Arc<dyn Chance>`.
pub trait Chance: fmt::Debug + Send + Sync {
    /// Overwrites `bytes` with random ones.
    fn fill(&self, bytes: &mut [u8]);

    /// A uniformly distributed number.
    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number from 0 up to but not including 1.
    fn fraction(&self) -> f64 {
        // 53 bits are what a double can hold exactly.
        const STEPS: f64 = (1_u64 << 53) as f64;
        (self.u64() >> 11) as f64 / STEPS
    }

    /// `around`, moved by at most `spread` (0 to 1) of itself to either side.
    fn jittered(&self, around: Duration, spread: f64) -> Duration {
        let spread = spread.clamp(0.0, 1.0);
        around.mul_f64(1.0 + spread * (2.0 * self.fraction() - 1.0))
    }
}

/// The operating system's generator, fit for keys and tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemChance;

impl Chance for SystemChance {
    #[expect(
        clippy::expect_used,
        reason = "getrandom(2) fails only on kernels without it, where no key or id may be made"
    )]
    fn fill(&self, bytes: &mut [u8]) {
        SystemRandom::new().fill(bytes).expect("the kernel gives random bytes");
    }
}

/// The same numbers for the same seed: for tests and simulations, never for
/// secrets. The generator is SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub struct SeededChance {
    state: AtomicU64,
}

impl SeededChance {
    /// Starts the series that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Chance for SeededChance {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// A version 7 UUID (RFC 9562): ids made later sort later, to the millisecond.
#[must_use]
pub fn uuid_v7(clock: &dyn Clock, chance: &dyn Chance) -> Uuid {
    let mut random = [0; 10];
    chance.fill(&mut random);
    let millis = u64::try_from(clock.now().as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn the_same_seed_gives_the_same_series() {
        let (a, b) = (SeededChance::new(7), SeededChance::new(7));
        let series: Vec<u64> = (0..4).map(|_| a.u64()).collect();
        assert_eq!(series, (0..4).map(|_| b.u64()).collect::<Vec<_>>());
        assert_ne!(series[0], series[1]);
    }

    #[test]
    fn the_seeded_series_is_the_published_one() {
        // First outputs of SplitMix64 for seed 0, as Vigna's reference program prints them.
        let chance = SeededChance::new(0);
        assert_eq!(chance.u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(chance.u64(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn fractions_stay_below_one() {
        let chance = SeededChance::new(1);
        for _ in 0..10_000 {
            assert!((0.0..1.0).contains(&chance.fraction()));
        }
    }

    #[test]
    fn jitter_stays_within_its_spread() {
        let chance = SeededChance::new(2);
        for _ in 0..1_000 {
            let delay = chance.jittered(Duration::from_secs(10), 0.2);
            assert!((Duration::from_secs(8)..=Duration::from_secs(12)).contains(&delay));
        }
    }

    #[test]
    fn later_ids_sort_later() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let chance = SeededChance::new(3);
        let first = uuid_v7(&clock, &chance);
        clock.advance(Duration::from_millis(1));
        let second = uuid_v7(&clock, &chance);
        assert!(first < second);
        assert_eq!(first.get_version_num(), 7);
    }
}
