//! From what was seen of a host to how it stands: the decision is the domain's.

use homelab_domain::{
    fleet::{
        Condition, ConditionStatus, DaemonObservation, HostObservation, HostState, host_state,
    },
    reason::{Because, Reason},
};
use homelab_proto::common::v1 as pb;
use homelab_rpc::node::from_proto;
use homelab_store::HostRecord;
use jiff::Timestamp;

use super::registry::HostView;

/// How a host stands, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: HostState,
    /// Why.
    pub because: Because,
    /// Since when; `None` before it was looked at.
    pub since: Option<Timestamp>,
    /// When any of its daemons last answered.
    pub last_seen_at: Option<Timestamp>,
    /// Takes no new work.
    pub drained: bool,
}

impl Standing {
    /// Before it was looked at.
    #[must_use]
    pub fn not_observed() -> Self {
        Self {
            state: HostState::Unknown,
            because: Because::new(Reason::NOT_OBSERVED, "not looked at yet"),
            since: None,
            last_seen_at: None,
            drained: false,
        }
    }
}

/// Decides how a host stands `now`, from what was seen of it and what is remembered of it.
#[must_use]
pub fn assess(view: &HostView, remembered: Option<&HostRecord>, now: Timestamp) -> Standing {
    let seen = view.daemons.iter().filter_map(|daemon| daemon.last_seen_at).max();
    let last_seen_at = seen.max(remembered.and_then(|record| record.last_seen_at));
    let verdict = host_state(
        now,
        view.declared.expected_power,
        &HostObservation {
            daemons: view.daemons.iter().map(|daemon| observation(daemon, remembered)).collect(),
            last_seen_at,
            conditions: conditions(view),
        },
    );
    let since = match remembered.and_then(|record| record.state) {
        Some((before, since)) if before == verdict.state => since,
        _ => now,
    };
    Standing {
        state: verdict.state,
        because: verdict.because,
        since: Some(since),
        last_seen_at,
        drained: remembered.is_some_and(|record| record.drained),
    }
}

fn observation(daemon: &super::DaemonView, remembered: Option<&HostRecord>) -> DaemonObservation {
    let remembered = remembered.is_some_and(|record| record.enrolled.contains(&daemon.kind));
    DaemonObservation {
        kind: daemon.kind,
        // Whoever answers has a certificate, whatever store this controller was started on.
        enrolled: remembered || daemon.last_seen_at.is_some(),
        signal: daemon.signal,
        message: daemon.message.clone(),
    }
}

/// What the agent said last. A host without an agent has nothing to say, which is no fault of it.
fn conditions(view: &HostView) -> Option<(Timestamp, Vec<Condition>)> {
    use homelab_domain::site::DaemonKind;
    let Some(agent) = view.daemon(DaemonKind::Agent) else {
        let seen = view.daemons.iter().filter_map(|daemon| daemon.last_seen_at).max();
        return seen.map(|at| (at, Vec::new()));
    };
    let health = view.health.as_ref()?;
    // By this clock, not the host's: two clocks may differ.
    let said_at = agent.last_sample_at?;
    let conditions = health.conditions.iter().map(|it| condition(it, said_at)).collect();
    Some((said_at, conditions))
}

fn condition(said: &pb::Condition, said_at: Timestamp) -> Condition {
    let status = match said.status() {
        pb::ConditionStatus::True => ConditionStatus::True,
        pb::ConditionStatus::False => ConditionStatus::False,
        pb::ConditionStatus::Unknown | pb::ConditionStatus::Unspecified => ConditionStatus::Unknown,
    };
    let reason = Reason::try_new(said.reason.clone()).unwrap_or(Reason::NOT_OBSERVED);
    Condition {
        kind: said.r#type.clone(),
        status,
        because: Because::new(reason, said.message.clone()),
        since: said.since.as_ref().and_then(from_proto).unwrap_or(said_at),
    }
}
