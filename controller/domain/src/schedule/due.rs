//! Whether a schedule is due now.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Schedule;

/// Most firings that are counted one by one after a long time away.
const MISSED_COUNT_MAX: u32 = 10_000;

/// What is known of a schedule's past, from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The newest time for which it fired; none when it never has.
    pub last_fired_for: Option<Timestamp>,
    /// When the schedule came to be known; nothing before it was missed.
    pub known_since: Timestamp,
}

/// What keeps a schedule from firing although its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    None,
    /// Its last run goes on.
    Running,
    /// A person paused it.
    Paused,
}

/// How a schedule behaves around its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Fires this much later than the expression says, so that not everything
    /// starts in the same second. Drawn once per schedule, not once per look.
    pub jitter: Duration,
    /// A firing later than this is a catch-up, shown as such.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { jitter: Duration::ZERO, grace: Duration::from_mins(5) }
    }
}

/// The firings that were missed, oldest to newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The oldest.
    pub oldest: Timestamp,
    /// The newest: what a catch-up run stands for.
    pub newest: Timestamp,
    /// How many, both included; counted up to 10,000.
    pub count: u32,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing until then.
    Nothing {
        /// The next time, jitter included; none when it never comes again.
        next: Option<Timestamp>,
    },
    /// Its time has come.
    Fire {
        /// The time that the expression names; to be recorded as fired for.
        scheduled_for: Timestamp,
    },
    /// One or more times have passed: one run makes up for all of them.
    CatchUp {
        /// The times that passed; the newest is to be recorded as fired for.
        missed: Missed,
    },
    /// Its time has come, and something keeps it from firing.
    Held {
        /// What.
        by: Hold,
        /// The times that passed.
        missed: Missed,
    },
}

impl Schedule {
    /// Decides whether to fire now.
    ///
    /// A time fires at most once, for `history.last_fired_for` only ever grows:
    /// with a clock that was set back, nothing happens until it has passed that
    /// time again. Any number of missed times makes one catch-up run.
    #[must_use]
    pub fn due(&self, now: Timestamp, history: History, policy: Policy, hold: Hold) -> Due {
        let jitter = SignedDuration::try_from(policy.jitter).unwrap_or(SignedDuration::MAX);
        let after = history.last_fired_for.unwrap_or(history.known_since);
        // What the expression must name at the latest for it to be due now.
        let reached = now.checked_sub(jitter).unwrap_or(Timestamp::MIN);
        let Some(missed) = self.passed(after, reached) else {
            let next = self.next_after(after).and_then(|next| next.checked_add(jitter).ok());
            return Due::Nothing { next };
        };
        if hold != Hold::None {
            return Due::Held { by: hold, missed };
        }
        let late = reached.duration_since(missed.newest).unsigned_abs();
        if missed.count == 1 && late <= policy.grace {
            Due::Fire { scheduled_for: missed.newest }
        } else {
            Due::CatchUp { missed }
        }
    }

    /// The times in `(after, until]`.
    pub(super) fn passed(&self, after: Timestamp, until: Timestamp) -> Option<Missed> {
        let oldest = self.next_after(after).filter(|first| *first <= until)?;
        let mut missed = Missed { oldest, newest: oldest, count: 1 };
        while let Some(next) = self.next_after(missed.newest).filter(|next| *next <= until) {
            missed.newest = next;
            missed.count += 1;
            if missed.count >= MISSED_COUNT_MAX {
                // Years of minutes: the newest is found without counting on.
                let near = until.checked_sub(SignedDuration::from_hours(48)).unwrap_or(after);
                let mut at = near.max(missed.newest);
                while let Some(next) = self.next_after(at).filter(|next| *next <= until) {
                    at = next;
                    missed.newest = next;
                }
                break;
            }
        }
        Some(missed)
    }
}
