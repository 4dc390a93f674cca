//! How hosts stand, from what was observed of them.

mod concern;
mod hysteresis;

use std::time::Duration;

use jiff::Timestamp;

pub use concern::{BackupInput, Concern, HostInput, JobsInput, Verdict, concerns, verdict};
pub use hysteresis::{Change, Signal, Steadied, Thresholds};

use crate::{
    reason::{Because, Reason},
    site::{DaemonKind, ExpectedPower},
    text,
};

crate::words! {
    /// How a host stands.
    HostState {
        /// Answers, and every condition holds.
        Healthy = "healthy",
        /// Answers, and some condition does not hold or is unknown.
        Degraded = "degraded",
        /// Does not answer.
        Unreachable = "unreachable",
        /// Does not answer, as expected.
        Asleep = "asleep",
        /// Not found out yet.
        Unknown = "unknown",
        /// In the site file, but never enrolled.
        NotEnrolled = "not_enrolled",
    }
}

crate::words! {
    /// How sure we are about a statement.
    ConditionStatus {
        /// Holds.
        True = "true",
        /// Does not hold.
        False = "false",
        /// Could not be found out.
        Unknown = "unknown",
    }
}

/// One dated statement about a host. True is always the good state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is stated, in CamelCase: `FilesystemsHaveRoom`.
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why.
    pub because: Because,
    /// Since when.
    pub since: Timestamp,
}

/// What was observed of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonObservation {
    /// Which.
    pub kind: DaemonKind,
    /// Whether it has ever enrolled.
    pub enrolled: bool,
    /// Whether it answers, steadied against single failures.
    pub signal: Signal,
    /// Why it does not answer, for people; empty when it does.
    pub message: String,
}

/// What was observed of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostObservation {
    /// Its daemons, as declared.
    pub daemons: Vec<DaemonObservation>,
    /// When any of them last answered.
    pub last_seen_at: Option<Timestamp>,
    /// What its agent last said and when; none when it never did.
    pub conditions: Option<(Timestamp, Vec<Condition>)>,
}

/// How a host stands, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVerdict {
    /// How.
    pub state: HostState,
    /// Why.
    pub because: Because,
}

/// How old what an agent said may be and still count.
pub const CONDITIONS_AGE_MAX: Duration = Duration::from_secs(90);

/// Decides how a host stands. Only a host of which everything is known, lately,
/// and all of it is good, is healthy.
#[must_use]
pub fn host_state(
    now: Timestamp,
    expected: ExpectedPower,
    observed: &HostObservation,
) -> HostVerdict {
    let verdict = |state, reason, message: String| HostVerdict {
        state,
        because: Because::new(reason, message),
    };
    let enrolled: Vec<_> = observed.daemons.iter().filter(|daemon| daemon.enrolled).collect();
    if enrolled.is_empty() {
        let message = "no daemon of it has enrolled".to_owned();
        return verdict(HostState::NotEnrolled, Reason::NOT_ENROLLED, message);
    }
    if enrolled.iter().all(|daemon| daemon.signal == Signal::Down) {
        let seen = last_seen(now, observed.last_seen_at);
        return match expected {
            ExpectedPower::OnDemand => {
                let message = format!("off until needed; {seen}");
                verdict(HostState::Asleep, Reason::EXPECTED_ASLEEP, message)
            }
            ExpectedPower::On => {
                let why = enrolled.first().map_or("", |daemon| daemon.message.as_str());
                let message = if why.is_empty() { seen } else { format!("{seen}; {why}") };
                verdict(HostState::Unreachable, Reason::HOST_UNREACHABLE, message)
            }
        };
    }
    if let Some(daemon) = enrolled.iter().find(|daemon| daemon.signal == Signal::Down) {
        let message = format!("{} does not answer: {}", daemon.kind, daemon.message);
        return verdict(HostState::Degraded, Reason::DAEMON_UNREACHABLE, message);
    }
    if let Some(daemon) = enrolled.iter().find(|daemon| daemon.signal == Signal::Unknown) {
        let message = format!("{} has not been reached yet", daemon.kind);
        return verdict(HostState::Unknown, Reason::NOT_OBSERVED, message);
    }
    if let Some(daemon) = observed.daemons.iter().find(|daemon| !daemon.enrolled) {
        let message = format!("{} has never enrolled", daemon.kind);
        return verdict(HostState::Degraded, Reason::NOT_ENROLLED, message);
    }
    by_conditions(now, observed)
}

/// All daemons answer; what do they say?
fn by_conditions(now: Timestamp, observed: &HostObservation) -> HostVerdict {
    let unknown = |message: String| HostVerdict {
        state: HostState::Unknown,
        because: Because::new(Reason::NOT_OBSERVED, message),
    };
    let Some((said_at, conditions)) = &observed.conditions else {
        return unknown("it answers and has not said how it is yet".to_owned());
    };
    let age = now.duration_since(*said_at).unsigned_abs();
    if age > CONDITIONS_AGE_MAX {
        return unknown(format!("what it last said is {} old", text::span(age)));
    }
    let degraded = |reason: Reason, condition: &Condition| HostVerdict {
        state: HostState::Degraded,
        because: Because::new(reason, format!("{}: {}", condition.kind, condition.because.message)),
    };
    let of = |status| conditions.iter().find(move |condition| condition.status == status);
    match (of(ConditionStatus::False), of(ConditionStatus::Unknown)) {
        (Some(condition), _) => degraded(Reason::CONDITION_FALSE, condition),
        (None, Some(condition)) => degraded(Reason::CONDITION_UNKNOWN, condition),
        (None, None) => HostVerdict {
            state: HostState::Healthy,
            because: Because::new(
                Reason::ALL_CONDITIONS_HOLD,
                format!("{} hold", text::count(conditions.len() as u64, "condition")),
            ),
        },
    }
}

fn last_seen(now: Timestamp, at: Option<Timestamp>) -> String {
    match at {
        None => "never seen".to_owned(),
        Some(at) => {
            format!("last seen {} ago", text::span(now.duration_since(at).unsigned_abs()))
        }
    }
}

#[cfg(test)]
mod tests;
