//! Waiting between attempts.

use std::time::Duration;

use crate::chance::Chance;

/// Exponential waiting times: each twice the last, up to a ceiling, shortened
/// by a random part so that many waiters do not come back at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    jitter: f64,
}

/// Why a [`Backoff`] cannot be made of these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackoff {
    /// `min` is zero: a loop without a pause.
    #[error("the shortest wait must be longer than zero")]
    NoWait,
    /// `max` is below `min`.
    #[error("the longest wait must not be shorter than the shortest")]
    MaxBelowMin,
    /// `jitter` is not within 0 to 1.
    #[error("the jitter must be between 0 and 1")]
    Jitter,
}

impl Backoff {
    /// `jitter` is the part of each wait that is random: 0 none, 1 all of it.
    ///
    /// # Errors
    ///
    /// Says which rule the numbers break.
    pub fn try_new(min: Duration, max: Duration, jitter: f64) -> Result<Self, InvalidBackoff> {
        if min.is_zero() {
            return Err(InvalidBackoff::NoWait);
        }
        if max < min {
            return Err(InvalidBackoff::MaxBelowMin);
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(InvalidBackoff::Jitter);
        }
        Ok(Self { min, max, jitter })
    }

    /// How long to wait after the failed attempt number `attempt` (first = 0).
    /// Never longer than the ceiling.
    #[must_use]
    pub fn delay(&self, attempt: u32, chance: &dyn Chance) -> Duration {
        let doubled = self.min.saturating_mul(2_u32.saturating_pow(attempt));
        doubled.min(self.max).mul_f64(1.0 - self.jitter * chance.fraction())
    }
}

/// Calls `operation` with the attempt's number until it succeeds, fails in a way
/// that `worth_retrying` denies, or has been tried `attempts_max` times. The
/// last error is returned.
///
/// Cancel safety: dropping the future drops the attempt in flight; nothing else
/// is held.
///
/// # Errors
///
/// The error of the last attempt.
pub async fn retry<T, E>(
    backoff: Backoff,
    attempts_max: u32,
    chance: &dyn Chance,
    worth_retrying: impl Fn(&E) -> bool,
    mut operation: impl AsyncFnMut(u32) -> Result<T, E>,
) -> Result<T, E> {
    let mut attempt = 0;
    loop {
        match operation(attempt).await {
            Ok(value) => return Ok(value),
            Err(error) if attempt + 1 >= attempts_max || !worth_retrying(&error) => {
                return Err(error);
            }
            Err(_) => tokio::time::sleep(backoff.delay(attempt, chance)).await,
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::SeededChance;

    fn backoff(jitter: f64) -> Backoff {
        Backoff::try_new(Duration::from_secs(1), Duration::from_secs(60), jitter)
            .expect("valid numbers")
    }

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let chance = SeededChance::new(0);
        let waits: Vec<u64> = (0..8).map(|n| backoff(0.0).delay(n, &chance).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(0.0).delay(u32::MAX, &chance), Duration::from_secs(60));
    }

    #[test]
    fn jitter_only_shortens() {
        let chance = SeededChance::new(5);
        for attempt in 0..200 {
            let full = backoff(0.0).delay(attempt, &chance);
            let delay = backoff(0.5).delay(attempt, &chance);
            assert!(delay <= full && delay >= full / 2, "{delay:?} of {full:?}");
        }
    }

    #[test]
    fn senseless_numbers_are_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(Backoff::try_new(Duration::ZERO, second, 0.0), Err(InvalidBackoff::NoWait));
        assert_eq!(Backoff::try_new(2 * second, second, 0.0), Err(InvalidBackoff::MaxBelowMin));
        assert_eq!(Backoff::try_new(second, second, 1.1), Err(InvalidBackoff::Jitter));
        assert_eq!(Backoff::try_new(second, second, f64::NAN), Err(InvalidBackoff::Jitter));
    }

    #[tokio::test(start_paused = true)]
    async fn it_tries_until_success_and_waits_in_between() {
        let began = tokio::time::Instant::now();
        let result = retry(
            backoff(0.0),
            5,
            &SeededChance::new(0),
            |_: &u32| true,
            async |n| {
                if n < 2 { Err(n) } else { Ok(n) }
            },
        )
        .await;
        assert_eq!(result, Ok(2));
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_the_last_error_after_the_last_attempt() {
        let result: Result<(), u32> =
            retry(backoff(0.0), 3, &SeededChance::new(0), |_| true, async |n| Err(n)).await;
        assert_eq!(result, Err(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hopeless_error_is_not_retried() {
        let result: Result<(), u32> =
            retry(backoff(0.0), 3, &SeededChance::new(0), |_| false, async |n| Err(n)).await;
        assert_eq!(result, Err(0));
    }
}
