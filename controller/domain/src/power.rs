//! When a host is woken, how its boot goes, and when it may sleep.
//!
//! Three pure decisions: [`wake::plan`] weighs who waits against what waking
//! costs, [`boot::judge`] compares a boot with those before, and [`sleep::plan`]
//! collects whatever speaks against sleeping. What nobody knows speaks against
//! it as well. [`energy`] splits what a host used among the jobs that ran.

pub mod boot;
pub mod energy;
pub mod sleep;
pub mod wake;

use std::time::Duration;

use jiff::Timestamp;

crate::words! {
    /// What a person holds a host to.
    HeldState {
        /// It does not go to sleep.
        Awake = "awake",
        /// It is not woken.
        Asleep = "asleep",
    }
}

/// The longest hold: what is forgotten ends by itself.
pub const HOLD_MAX: Duration = Duration::from_hours(7 * 24);

/// A person's word on a host, until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What it is held to.
    pub state: HeldState,
    /// Until when.
    pub until: Timestamp,
    /// Who holds it.
    pub by: String,
}

impl Hold {
    /// Whether it is in force.
    #[must_use]
    pub fn lasts(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

/// The hold that is in force at `now`.
#[must_use]
pub fn in_force(hold: Option<&Hold>, now: Timestamp) -> Option<&Hold> {
    hold.filter(|hold| hold.lasts(now))
}

/// `now` and a span later; the end of time when it does not fit.
pub(crate) fn after(now: Timestamp, span: Duration) -> Timestamp {
    now.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// How long ago something was; zero when the clock says it is still to come.
pub(crate) fn since(then: Timestamp, now: Timestamp) -> Duration {
    let span = now.duration_since(then);
    if span.is_negative() { Duration::ZERO } else { span.unsigned_abs() }
}

#[cfg(test)]
mod tests;
