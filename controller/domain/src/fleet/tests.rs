use jiff::SignedDuration;

use super::*;
use crate::ids::HostName;

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn ago(secs: i64) -> Timestamp {
    now() - SignedDuration::from_secs(secs)
}

fn daemon(kind: DaemonKind, signal: Signal) -> DaemonObservation {
    let message = if signal == Signal::Down { "connection refused" } else { "" };
    DaemonObservation { kind, enrolled: true, signal, message: message.to_owned() }
}

fn condition(status: ConditionStatus) -> Condition {
    Condition {
        kind: "FilesystemsHaveRoom".to_owned(),
        status,
        because: Because::new(Reason::CONDITION_FALSE, "/var is 97 % full"),
        since: ago(60),
    }
}

fn observed(signals: &[Signal], conditions: Option<(i64, Vec<Condition>)>) -> HostObservation {
    HostObservation {
        daemons: signals
            .iter()
            .zip(DaemonKind::ALL)
            .map(|(signal, kind)| daemon(*kind, *signal))
            .collect(),
        last_seen_at: Some(ago(43)),
        conditions: conditions.map(|(secs, all)| (ago(secs), all)),
    }
}

fn state(expected: ExpectedPower, observed: &HostObservation) -> HostState {
    host_state(now(), expected, observed).state
}

#[test]
fn only_what_is_known_to_be_good_is_healthy() {
    let good = || vec![condition(ConditionStatus::True)];
    let of = |conditions| state(ExpectedPower::On, &observed(&[Signal::Up], conditions));
    assert_eq!(of(Some((5, good()))), HostState::Healthy);
    assert_eq!(of(None), HostState::Unknown);
    assert_eq!(of(Some((91, good()))), HostState::Unknown);
    assert_eq!(of(Some((5, vec![condition(ConditionStatus::Unknown)]))), HostState::Degraded);
    assert_eq!(of(Some((5, vec![condition(ConditionStatus::False)]))), HostState::Degraded);
    let unseen = observed(&[Signal::Unknown], Some((5, good())));
    assert_eq!(state(ExpectedPower::On, &unseen), HostState::Unknown);
}

#[test]
fn a_silent_host_is_unreachable_or_asleep_as_expected() {
    let silent = observed(&[Signal::Down, Signal::Down], None);
    let verdict = host_state(now(), ExpectedPower::On, &silent);
    assert_eq!(verdict.state, HostState::Unreachable);
    assert_eq!(verdict.because.message, "last seen 43 s ago; connection refused");
    assert_eq!(state(ExpectedPower::OnDemand, &silent), HostState::Asleep);
}

#[test]
fn one_silent_daemon_degrades_the_host() {
    let half = observed(&[Signal::Up, Signal::Down], Some((5, vec![])));
    let verdict = host_state(now(), ExpectedPower::OnDemand, &half);
    assert_eq!(verdict.state, HostState::Degraded);
    assert_eq!(verdict.because.message, "backup-agent does not answer: connection refused");
}

#[test]
fn a_host_without_any_enrolment_says_so() {
    let mut fresh = observed(&[Signal::Unknown], None);
    fresh.daemons[0].enrolled = false;
    assert_eq!(state(ExpectedPower::On, &fresh), HostState::NotEnrolled);
}

#[test]
fn concerns_come_worst_first_and_name_a_command() {
    let hosts = [
        (HostName::try_new("qotom").unwrap(), HostState::Healthy),
        (HostName::try_new("ryzen").unwrap(), HostState::Degraded),
        (HostName::try_new("x99").unwrap(), HostState::Asleep),
        (HostName::try_new("cw-nas").unwrap(), HostState::Unreachable),
    ]
    .map(|(name, state)| {
        (name, HostVerdict { state, because: Because::new(Reason::HOST_UNREACHABLE, "…") })
    });
    let inputs: Vec<HostInput<'_>> = hosts
        .iter()
        .map(|(name, verdict)| HostInput { name, verdict, since: Some(ago(9)), drained: false })
        .collect();
    let jobs = JobsInput { failed: 2, oldest: None };
    let all = concerns(now(), &inputs, &[], &jobs);
    let shown: Vec<(&str, &str)> =
        all.iter().map(|one| (one.subject.as_str(), one.command.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("host/cw-nas", "labctl host show cw-nas"),
            ("host/ryzen", "labctl host show ryzen"),
            ("job", "labctl job list"),
        ]
    );
    assert_eq!(verdict(&all), Verdict::Critical);
    assert_eq!(verdict(&[]), Verdict::Ok);
}

#[test]
fn waiting_for_a_sleeping_host_is_no_concern_and_waiting_for_nothing_is() {
    let job = |reason| JobsInput {
        failed: 0,
        oldest: Some((uuid::Uuid::nil().into(), ago(3600), Because::new(reason, "…"))),
    };
    assert_eq!(concerns(now(), &[], &[], &job(Reason::WORKER_ASLEEP)), []);
    let all = concerns(now(), &[], &[], &job(Reason::NO_FREE_SLOT));
    assert_eq!(all[0].because.reason, Reason::JOB_WAITS_LONG);
}
