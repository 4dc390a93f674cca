//! Whether a schedule is in time: ok, due, late, with the grace that its owner gives it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Schedule;

crate::words! {
    /// Whether a schedule is in time.
    Punctuality {
        /// The newest time that it named has been served.
        Ok = "ok",
        /// Its time has come, and its grace has not ended.
        Due = "due",
        /// Its grace has ended, and nothing came of it.
        Late = "late",
        /// Nothing is expected: a person paused it, or its host sleeps.
        Paused = "paused",
    }
}

/// What is known of a schedule when it is asked whether it is in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Nothing before this was expected.
    pub known_since: Timestamp,
    /// When the newest run that ended well was started, or the time that it stands for when that is
    /// later.
    pub last_good: Option<Timestamp>,
    /// How much later than it names a time fires.
    pub jitter: Duration,
    /// How much later still it may end well.
    pub grace: Duration,
    /// Nothing is expected now.
    pub is_paused: bool,
    /// When the maintenance window ended, or will end, that held the newest time: grace begins then.
    pub held_until: Option<Timestamp>,
}

impl Schedule {
    /// Whether it is in time, and since when it is due.
    #[must_use]
    pub fn punctuality(&self, now: Timestamp, served: &Served) -> (Punctuality, Option<Timestamp>) {
        let later = |at: Timestamp, by: Duration| {
            at.checked_add(SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX))
                .unwrap_or(Timestamp::MAX)
        };
        let reached = now.checked_sub(served.jitter).unwrap_or(Timestamp::MIN);
        let after = served.last_good.map_or(served.known_since, |at| at.max(served.known_since));
        let Some(missed) = self.passed(after, reached) else { return (Punctuality::Ok, None) };
        if served.is_paused {
            return (Punctuality::Paused, Some(missed.oldest));
        }
        let begins = later(missed.oldest, served.jitter);
        let begins = served.held_until.map_or(begins, |until| begins.max(until));
        let is_late = now > later(begins, served.grace);
        (if is_late { Punctuality::Late } else { Punctuality::Due }, Some(missed.oldest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Zone;

    fn at(text: &str) -> Timestamp {
        format!("2026-02-{text}:00Z").parse().unwrap()
    }

    fn served(last_good: Option<Timestamp>) -> Served {
        Served {
            known_since: at("01T00:00"),
            last_good,
            jitter: Duration::from_secs(20),
            grace: Duration::from_hours(1),
            is_paused: false,
            held_until: None,
        }
    }

    fn daily(now: Timestamp, served: &Served) -> (Punctuality, Option<Timestamp>) {
        Schedule::try_new("0 2 * * *", Zone::UTC).unwrap().punctuality(now, served)
    }

    #[test]
    fn a_schedule_is_ok_then_due_then_late() {
        let yesterday = served(Some(at("01T02:00")));
        assert_eq!(daily(at("02T01:59"), &yesterday), (Punctuality::Ok, None));
        let due = Some(at("02T02:00"));
        assert_eq!(daily(at("02T02:01"), &yesterday), (Punctuality::Due, due));
        assert_eq!(daily(at("02T03:00"), &yesterday), (Punctuality::Due, due));
        assert_eq!(daily(at("02T03:01"), &yesterday), (Punctuality::Late, due));
        assert_eq!(daily(at("02T03:01"), &served(due)), (Punctuality::Ok, None));
    }

    #[test]
    fn lateness_is_counted_from_the_first_time_that_was_missed() {
        let (state, since) = daily(at("05T02:30"), &served(Some(at("01T02:00"))));
        assert_eq!((state, since), (Punctuality::Late, Some(at("02T02:00"))));
    }

    #[test]
    fn nobody_is_late_while_nothing_is_expected() {
        let paused = Served { is_paused: true, ..served(None) };
        assert_eq!(daily(at("05T02:30"), &paused).0, Punctuality::Paused);
        let held = Served { held_until: Some(at("02T06:00")), ..served(None) };
        let held = |now| daily(now, &Served { known_since: at("02T00:00"), ..held }).0;
        assert_eq!(held(at("02T06:30")), Punctuality::Due);
        assert_eq!(held(at("02T07:01")), Punctuality::Late);
    }
}
