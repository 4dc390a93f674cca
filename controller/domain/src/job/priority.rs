//! Who goes first, and why nobody waits for ever.

use std::time::Duration;

use jiff::Timestamp;

/// The urgency of a job, 0 to 100; higher goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

/// The number is no priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no priority: 0 to 100 is allowed, and higher goes first")]
pub struct InvalidPriority(pub u32);

impl Priority {
    /// The priority of a job that names none.
    pub const DEFAULT: Self = Self(50);

    /// Waiting this long is worth one point, so that the most urgent job of all
    /// never overtakes one that has waited 50 minutes longer.
    pub const AGEING: Duration = Duration::from_secs(30);

    /// Each job of the same caller that waits already puts a new one back by this much, so that
    /// who submits hundreds does not keep away who submits one.
    pub const FAIRNESS: Duration = Duration::from_secs(10);

    /// More of them put it back no further: age must win in the end.
    const OWN_AHEAD_MAX: u32 = 300;

    /// Checks a number.
    pub fn try_new(points: u32) -> Result<Self, InvalidPriority> {
        match u8::try_from(points) {
            Ok(points) if points <= 100 => Ok(Self(points)),
            _ => Err(InvalidPriority(points)),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// The points of a job that has waited since `enqueued_at`: its own and one
    /// for each [`Self::AGEING`] of waiting. Without limit, so that it comes to
    /// the front some day.
    #[must_use]
    pub fn effective(self, enqueued_at: Timestamp, now: Timestamp) -> u64 {
        let waited = now.duration_since(enqueued_at);
        let waited = if waited.is_negative() { Duration::ZERO } else { waited.unsigned_abs() };
        u64::from(self.0) + waited.as_secs() / Self::AGEING.as_secs()
    }

    /// Orders jobs by their effective priority without knowing the time: all age
    /// at the same speed, so a head start in points is a head start in time, and so is
    /// what those of the same caller that wait before it cost. In microseconds; smaller
    /// goes first. The idea is that of start-time fair queueing (Goyal, Vin, Cheng 1996):
    /// a place in the order is given once, when a job comes in.
    #[must_use]
    pub fn queue_key(self, enqueued_at: Timestamp, own_ahead: u32) -> i64 {
        const POINT_MICROS: i64 = 30_000_000;
        const TURN_MICROS: i64 = 10_000_000;
        let turns = i64::from(own_ahead.min(Self::OWN_AHEAD_MAX));
        enqueued_at.as_microsecond() - i64::from(self.0) * POINT_MICROS + turns * TURN_MICROS
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn priority(points: u32) -> Priority {
        Priority::try_new(points).unwrap()
    }

    #[test]
    fn the_least_urgent_job_overtakes_the_most_urgent_after_fifty_minutes() {
        let early = Timestamp::UNIX_EPOCH;
        let later = |mins| early + SignedDuration::from_mins(mins);
        assert!(priority(100).queue_key(later(49), 0) < priority(0).queue_key(early, 0));
        assert!(priority(100).queue_key(later(51), 0) > priority(0).queue_key(early, 0));
    }

    #[test]
    fn the_key_orders_like_the_effective_priority_at_any_time() {
        let at = |secs| Timestamp::from_second(secs).unwrap();
        for (a, b) in [((10, 0), (90, 3000)), ((50, 0), (50, 31)), ((0, 0), (100, 2900))] {
            let key = |(points, secs)| priority(points).queue_key(at(secs), 0);
            let effective = |(points, secs), now| priority(points).effective(at(secs), now);
            for now in [at(4_000), at(40_000)] {
                let by_key = key(a).cmp(&key(b));
                let by_points = effective(b, now).cmp(&effective(a, now));
                assert!(by_key == by_points || by_points.is_eq(), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn one_job_of_another_caller_goes_before_most_of_a_crowd() {
        let at = |secs| Timestamp::from_second(secs).unwrap();
        let crowd: Vec<i64> =
            (0..500).map(|number| Priority::DEFAULT.queue_key(at(0), number)).collect();
        let single = Priority::DEFAULT.queue_key(at(60), 0);
        assert_eq!(crowd.iter().filter(|key| **key < single).count(), 6);
        // Nobody is put back by more than fifty minutes.
        let late = Priority::DEFAULT.queue_key(at(3_001), 0);
        assert!(crowd.iter().all(|key| *key < late));
    }

    #[test]
    fn more_than_a_hundred_is_no_priority() {
        assert_eq!(Priority::try_new(101), Err(InvalidPriority(101)));
        assert_eq!(Priority::try_new(356), Err(InvalidPriority(356)));
    }
}
