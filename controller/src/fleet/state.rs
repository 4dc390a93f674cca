//! How a host stands, decided from what was seen of it.

use std::time::Duration;

use homelab_domain::{
    fleet::HostState,
    reason::{Because, Reason},
    site::{DaemonKind, ExpectedPower},
};
use homelab_proto::common::v1::{Condition, ConditionStatus};
use jiff::Timestamp;

use super::registry::{DaemonView, HostView, Standing};

/// How long a daemon may be silent before it counts as gone: three missed samples, so that a lost
/// packet or a restart is not an outage.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How many conditions a sentence names.
const NAMED_MAX: usize = 3;

/// What the store remembers of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The state that was last shown, and since when.
    pub state: Option<(HostState, Timestamp)>,
    /// When it last answered.
    pub last_seen_at: Option<Timestamp>,
    /// Daemons that have enrolled at least once.
    pub enrolled: Vec<DaemonKind>,
    /// Takes no new work.
    pub drained: bool,
}

impl Standing {
    /// Before it was looked at.
    pub(super) fn not_observed() -> Self {
        let because = Because::new(Reason::NOT_OBSERVED, "not looked at yet");
        Self {
            state: HostState::Unknown,
            because,
            since: None,
            last_seen_at: None,
            drained: false,
        }
    }
}

/// Decides how a host stands `now`. `watching_since` is when this controller began to look: silence
/// from before counts for nothing.
#[must_use]
pub fn assess(
    view: &HostView,
    memory: &Memory,
    watching_since: Timestamp,
    now: Timestamp,
) -> Standing {
    let seen = view.daemons.iter().filter_map(|daemon| daemon.last_seen_at).max();
    let last_seen_at = seen.max(memory.last_seen_at);
    let (state, because) = if view.daemons.iter().any(|daemon| daemon.connected) {
        awake(view, memory, watching_since, now)
    } else {
        silent(view, memory, last_seen_at, watching_since, now)
    };
    let since = match memory.state {
        Some((before, since)) if before == state => since,
        _ => now,
    };
    Standing { state, because, since: Some(since), last_seen_at, drained: memory.drained }
}

/// Some daemon answers.
fn awake(
    view: &HostView,
    memory: &Memory,
    watching_since: Timestamp,
    now: Timestamp,
) -> (HostState, Because) {
    let degraded = |reason, message| (HostState::Degraded, Because::new(reason, message));
    let conditions = view.health.as_ref().map(|health| health.conditions.as_slice());
    // What an agent said before it went silent is no longer evidence.
    let agent_answers = view.daemon(DaemonKind::Agent).is_some_and(|agent| agent.connected);
    let conditions = conditions.filter(|_| agent_answers).unwrap_or_default();
    if let Some(message) = named(conditions, ConditionStatus::False) {
        return degraded(Reason::CONDITION_FALSE, message);
    }
    let gone = view.daemons.iter().find(|daemon| {
        let quiet_since = daemon.last_seen_at.unwrap_or(watching_since);
        !daemon.connected && is_over(quiet_since, now)
    });
    if let Some(daemon) = gone {
        let message = if memory.enrolled.contains(&daemon.kind) {
            format!("its {} does not answer: {}", daemon.kind, daemon.message)
        } else {
            format!("its {} has never enrolled; {}", daemon.kind, enroll_hint(view, daemon.kind))
        };
        return degraded(Reason::DAEMON_UNREACHABLE, message);
    }
    if let Some(message) = named(conditions, ConditionStatus::Unknown) {
        return degraded(Reason::CONDITION_UNKNOWN, message);
    }
    let message = match conditions.len() {
        0 => "all its daemons answer".to_owned(),
        count => format!("all its daemons answer and all {count} conditions hold"),
    };
    (HostState::Healthy, Because::new(Reason::ALL_CONDITIONS_HOLD, message))
}

/// No daemon answers.
fn silent(
    view: &HostView,
    memory: &Memory,
    last_seen_at: Option<Timestamp>,
    watching_since: Timestamp,
    now: Timestamp,
) -> (HostState, Because) {
    let Some(main) = view.daemons.first() else {
        let message = "no daemon of it is in the site file, so that nothing can be known of it";
        return (HostState::Unknown, Because::new(Reason::NOT_OBSERVED, message));
    };
    if memory.enrolled.is_empty() && last_seen_at.is_none() {
        let message = format!("never enrolled; {}", enroll_hint(view, main.kind));
        return (HostState::NotEnrolled, Because::new(Reason::NOT_ENROLLED, message));
    }
    let quiet_since = last_seen_at.unwrap_or(watching_since).max(watching_since);
    if !is_over(quiet_since, now) {
        return waiting(view, memory);
    }
    if view.declared.expected_power == ExpectedPower::OnDemand {
        let message = "does not answer, as expected: it is off until needed".to_owned();
        return (HostState::Asleep, Because::new(Reason::EXPECTED_ASLEEP, message));
    }
    let seen = last_seen_at.map_or_else(|| "never seen".to_owned(), |at| format!("last seen {at}"));
    let message = format!("does not answer ({seen}): {}", main.message);
    (HostState::Unreachable, Because::new(Reason::HOST_UNREACHABLE, message))
}

/// Too early to say: the state stays what it was.
fn waiting(view: &HostView, memory: &Memory) -> (HostState, Because) {
    let standing = &view.standing;
    match memory.state {
        Some((state, _)) if standing.since.is_some() => (state, standing.because.clone()),
        Some((state, _)) => {
            let message = "as before the controller started; not looked at since";
            (state, Because::new(Reason::NOT_OBSERVED, message))
        }
        None => {
            let first = Standing::not_observed();
            (first.state, first.because)
        }
    }
}

fn is_over(quiet_since: Timestamp, now: Timestamp) -> bool {
    now.duration_since(quiet_since) >= jiff::SignedDuration::try_from(SILENCE_MAX).unwrap_or_default()
}

fn enroll_hint(view: &HostView, kind: DaemonKind) -> String {
    format!("run `labctl host enroll {} --kind {kind}`", view.declared.name)
}

/// The messages of the conditions with that status, or nothing when there is none.
fn named(conditions: &[Condition], status: ConditionStatus) -> Option<String> {
    let fitting: Vec<_> =
        conditions.iter().filter(|condition| condition.status() == status).collect();
    let first: Vec<_> = fitting
        .iter()
        .take(NAMED_MAX)
        .map(|condition| match condition.message.as_str() {
            "" => condition.r#type.as_str(),
            message => message,
        })
        .collect();
    let more = fitting.len().saturating_sub(NAMED_MAX);
    match (first.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(first.join("; ")),
        (false, more) => Some(format!("{}; and {more} more", first.join("; "))),
    }
}

/// The controller's own statement about the daemons of a host, beside those of its agent.
#[must_use]
pub fn daemons_answer(daemons: &[DaemonView]) -> Option<(ConditionStatus, String)> {
    if daemons.is_empty() {
        return None;
    }
    let silent: Vec<_> = daemons
        .iter()
        .filter(|daemon| !daemon.connected)
        .map(|daemon| format!("{}: {}", daemon.kind, daemon.message))
        .collect();
    Some(if silent.is_empty() {
        (ConditionStatus::True, format!("{} of {} answer", daemons.len(), daemons.len()))
    } else {
        (ConditionStatus::False, silent.join("; "))
    })
}
