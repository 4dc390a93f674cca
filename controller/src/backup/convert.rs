//! Between the words of the backup-agent's protocol and ours.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use homelab_domain::{
    reason::{Failure, Reason},
    run::{DrillFact, DrillVerdict, Progress, RunOutcome, SnapshotFact},
};
use homelab_proto::{
    backup::v1 as pb,
    common::v1::{ConditionStatus, Failure as FailureMessage, Progress as ProgressMessage},
};
use homelab_rpc::node::from_proto;
use jiff::Timestamp;
use prost::Message;
use serde_json::{Value, json};

use super::{
    agents::{Listed, RepositoryFacts},
    plan::word,
};

/// Key of the one member of a stored payload: the encoded message, in base64. It keeps every field
/// of the message, also those that only the caller of an API looks at.
const PAYLOAD: &str = "protobuf";

/// What a step is called that the agent gave no name.
const STEP_UNNAMED: &str = "running";

/// What an agent said makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backup-agent's answer has no usable `{0}`")]
pub struct Senseless(pub &'static str);

/// How far a run has come. A run that was heard of always has a step.
#[must_use]
pub fn progress(message: ProgressMessage) -> Progress {
    let named = !message.step.is_empty();
    Progress {
        step: if named { message.step } else { STEP_UNNAMED.to_owned() },
        done_bytes: message.done_bytes,
        total_bytes: message.total_bytes,
        done_items: message.done_items,
        total_items: message.total_items,
    }
}

/// The same for the protocol.
#[must_use]
pub fn progress_message(progress: &Progress) -> ProgressMessage {
    ProgressMessage {
        step: progress.step.clone(),
        done_bytes: progress.done_bytes,
        total_bytes: progress.total_bytes,
        done_items: progress.done_items,
        total_items: progress.total_items,
    }
}

/// The facts of a snapshot.
///
/// # Errors
///
/// A time is missing: without it, nothing can be said of what would be lost.
pub fn snapshot(message: &pb::Snapshot) -> Result<SnapshotFact, Senseless> {
    if message.id.is_empty() {
        return Err(Senseless("snapshot.id"));
    }
    let verified_at = time(message.verified_at.as_ref());
    Ok(SnapshotFact {
        id: message.id.clone(),
        taken_at: time(message.taken_at.as_ref()).ok_or(Senseless("snapshot.taken_at"))?,
        verified_at: verified_at.ok_or(Senseless("snapshot.verified_at"))?,
        source_bytes: message.source_bytes,
        stored_bytes: message.stored_bytes,
        elapsed: span(message.elapsed.as_ref()).unwrap_or_default(),
        payload: payload(message),
    })
}

/// A snapshot as an agent lists it.
///
/// # Errors
///
/// As [`snapshot`].
pub fn listed(message: &pb::Snapshot) -> Result<Listed, Senseless> {
    Ok(Listed {
        run: message.run_id.parse().ok(),
        snapshot: snapshot(message)?,
        items: message.items,
        quarantined_since: time(message.quarantined_at.as_ref()),
        needs: message.needs.iter().filter_map(|run| run.parse().ok()).collect(),
    })
}

/// How a repository stands.
#[must_use]
pub fn repository(message: &pb::Repository) -> RepositoryFacts {
    let room = message.conditions.iter().find(|condition| condition.r#type == "HasRoom");
    RepositoryFacts {
        identity: message.identity.clone(),
        path: message.path.clone(),
        has_room: room.and_then(|room| match room.status() {
            ConditionStatus::True => Some(true),
            ConditionStatus::False => Some(false),
            ConditionStatus::Unknown | ConditionStatus::Unspecified => None,
        }),
        append_only: match message.access() {
            pb::RepositoryAccess::Full => Some(false),
            pb::RepositoryAccess::AppendOnly => Some(true),
            pb::RepositoryAccess::ReadOnly | pb::RepositoryAccess::Unspecified => None,
        },
        scrubbed_at: time(message.scrubbed_at.as_ref()),
        waiting: message.waiting,
        oldest_waiting_at: time(message.oldest_waiting_at.as_ref()),
    }
}

/// The agent's own message about a snapshot.
#[must_use]
pub fn snapshot_message(fact: &SnapshotFact) -> pb::Snapshot {
    unpack(&fact.payload).unwrap_or_else(|| pb::Snapshot {
        id: fact.id.clone(),
        taken_at: Some(time_message(fact.taken_at)),
        verified_at: Some(time_message(fact.verified_at)),
        source_bytes: fact.source_bytes,
        stored_bytes: fact.stored_bytes,
        elapsed: Some(span_message(fact.elapsed)),
        ..pb::Snapshot::default()
    })
}

/// The facts of a drill.
///
/// # Errors
///
/// It came to no verdict, or does not say on which snapshot.
pub fn drill(message: &pb::DrillReport) -> Result<DrillFact, Senseless> {
    let verdict = match message.verdict() {
        pb::DrillVerdict::Passed => DrillVerdict::Passed,
        pb::DrillVerdict::Failed => DrillVerdict::Failed,
        pb::DrillVerdict::Unverified => DrillVerdict::Unverified,
        pb::DrillVerdict::Unspecified => return Err(Senseless("drill.verdict")),
    };
    let finished_at = time(message.finished_at.as_ref()).ok_or(Senseless("drill.finished_at"))?;
    let snapshot_age =
        span(message.snapshot_age.as_ref()).ok_or(Senseless("drill.snapshot_age"))?;
    let elapsed = span(message.elapsed.as_ref()).unwrap_or_default();
    // All three are measured by the clock of one host, so that the moment is exact.
    let snapshot_taken_at = finished_at
        .checked_sub(elapsed)
        .and_then(|began_at| began_at.checked_sub(snapshot_age))
        .map_err(|_| Senseless("drill.snapshot_age"))?;
    Ok(DrillFact {
        verdict,
        snapshot_id: message.snapshot_id.clone(),
        snapshot_taken_at,
        restore_elapsed: span(message.restore_elapsed.as_ref()).unwrap_or_default(),
        elapsed,
        payload: payload(message),
    })
}

/// The agent's own message about a drill.
#[must_use]
pub fn drill_message(fact: &DrillFact) -> pb::DrillReport {
    let verdict = match fact.verdict {
        DrillVerdict::Passed => pb::DrillVerdict::Passed,
        DrillVerdict::Failed => pb::DrillVerdict::Failed,
        DrillVerdict::Unverified => pb::DrillVerdict::Unverified,
    };
    unpack(&fact.payload).unwrap_or_else(|| pb::DrillReport {
        verdict: verdict.into(),
        snapshot_id: fact.snapshot_id.clone(),
        restore_elapsed: Some(span_message(fact.restore_elapsed)),
        elapsed: Some(span_message(fact.elapsed)),
        ..pb::DrillReport::default()
    })
}

/// How a run ended that ended with a failure.
#[must_use]
pub fn failed(message: FailureMessage) -> RunOutcome {
    let failure = failure(message);
    if matches!(failure.reason.as_str(), "CANCELLED" | "RUN_CANCELLED") {
        RunOutcome::Cancelled
    } else {
        RunOutcome::Failed(failure)
    }
}

/// A failure; a reason that is none becomes `RUN_FAILED`.
#[must_use]
pub fn failure(message: FailureMessage) -> Failure {
    let reason = Reason::try_new(message.reason).unwrap_or(Reason::RUN_FAILED);
    Failure { reason, message: message.message, retryable: message.retryable }
}

/// The same for the protocol.
#[must_use]
pub fn failure_message(failure: &Failure) -> FailureMessage {
    FailureMessage {
        reason: failure.reason.to_string(),
        message: failure.message.clone(),
        retryable: failure.retryable,
    }
}

/// That an agent said something that makes no sense: the end of a run, since asking again would
/// give the same.
#[must_use]
pub fn senseless(error: Senseless) -> Failure {
    let message = format!("{error}; do its version and the controller's fit?");
    Failure { reason: word("AGENT_ANSWER_SENSELESS"), message, retryable: false }
}

/// A moment of the protocol.
#[must_use]
pub fn time(message: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    message.and_then(from_proto)
}

/// A moment for the protocol.
#[must_use]
pub fn time_message(at: Timestamp) -> prost_types::Timestamp {
    homelab_rpc::node::to_proto(at)
}

/// A span of the protocol; `None` when it is negative.
#[must_use]
pub fn span(message: Option<&prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(*message?).ok()
}

/// A span for the protocol.
#[must_use]
pub fn span_message(span: Duration) -> prost_types::Duration {
    let max = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    prost_types::Duration::try_from(span).unwrap_or(max)
}

fn payload(message: &impl Message) -> Value {
    json!({ PAYLOAD: STANDARD.encode(message.encode_to_vec()) })
}

fn unpack<M: Message + Default>(payload: &Value) -> Option<M> {
    let bytes = STANDARD.decode(payload.get(PAYLOAD)?.as_str()?).ok()?;
    M::decode(bytes.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn secs(secs: u64) -> Option<prost_types::Duration> {
        Some(span_message(Duration::from_secs(secs)))
    }

    #[test]
    fn a_snapshot_survives_its_stored_form_with_its_manifest() {
        let message = pb::Snapshot {
            id: "ab".repeat(32),
            taken_at: Some(time_message(at("2026-03-01T02:00:00Z"))),
            verified_at: Some(time_message(at("2026-03-01T02:01:00Z"))),
            manifest: Some(pb::Manifest {
                postgres: Some(pb::PostgresManifest {
                    database: "wiki".to_owned(),
                    ..pb::PostgresManifest::default()
                }),
                ..pb::Manifest::default()
            }),
            ..pb::Snapshot::default()
        };
        let fact = snapshot(&message).expect("makes sense");
        assert_eq!(fact.taken_at, at("2026-03-01T02:00:00Z"));
        assert_eq!(snapshot_message(&fact), message);
    }

    #[test]
    fn a_snapshot_without_its_moment_is_not_evidence() {
        let message = pb::Snapshot { id: "ab".to_owned(), ..pb::Snapshot::default() };
        assert_eq!(snapshot(&message), Err(Senseless("snapshot.taken_at")));
        assert_eq!(snapshot(&pb::Snapshot::default()), Err(Senseless("snapshot.id")));
    }

    #[test]
    fn a_drill_is_bound_to_the_moment_of_its_snapshot() {
        let message = pb::DrillReport {
            verdict: pb::DrillVerdict::Unverified.into(),
            snapshot_id: "ab".to_owned(),
            snapshot_age: secs(3_600),
            elapsed: secs(60),
            restore_elapsed: secs(20),
            finished_at: Some(time_message(at("2026-03-01T03:01:00Z"))),
            ..pb::DrillReport::default()
        };
        let fact = drill(&message).expect("makes sense");
        assert_eq!(fact.snapshot_taken_at, at("2026-03-01T02:00:00Z"));
        assert_eq!(fact.restore_elapsed, Duration::from_secs(20));
        assert_eq!(drill_message(&fact), message);
        let silent = pb::DrillReport { verdict: 0, ..message };
        assert_eq!(drill(&silent), Err(Senseless("drill.verdict")));
    }

    #[test]
    fn a_payload_of_another_version_still_shows_the_facts() {
        let message = pb::Snapshot {
            id: "ab".to_owned(),
            taken_at: Some(time_message(at("2026-03-01T02:00:00Z"))),
            verified_at: Some(time_message(at("2026-03-01T02:01:00Z"))),
            ..pb::Snapshot::default()
        };
        let mut fact = snapshot(&message).expect("makes sense");
        fact.payload = Value::Null;
        assert_eq!(snapshot_message(&fact).id, "ab");
    }

    #[test]
    fn a_failure_keeps_its_reason_and_a_cancelled_run_is_no_failure() {
        let message = |reason: &str| FailureMessage {
            reason: reason.to_owned(),
            message: "the disk is full".to_owned(),
            retryable: true,
        };
        let RunOutcome::Failed(failure) = failed(message("DISK_FULL")) else { panic!("a failure") };
        assert_eq!((failure.reason.as_str(), failure.retryable), ("DISK_FULL", true));
        assert_eq!(failure_message(&failure), message("DISK_FULL"));
        assert_eq!(failed(message("CANCELLED")), RunOutcome::Cancelled);
        assert_eq!(super::failure(message("no reason")).reason, Reason::RUN_FAILED);
    }
}
