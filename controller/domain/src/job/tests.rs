use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

fn at(secs: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(secs)
}

fn worker(name: &str) -> HostName {
    HostName::try_new(name).unwrap()
}

pub(crate) fn spec() -> JobSpec {
    JobSpec {
        id: uuid::Uuid::from_u128(1).into(),
        model: ModelName::try_new("tiny").unwrap(),
        tier: Tier::Bronze,
        priority: Priority::DEFAULT,
        submitted_by: "ann".to_owned(),
        submitted_at: at(0),
        deadline: None,
        tokens_max: None,
        record: Record::Full,
        title: "secret title".to_owned(),
        terms: Terms::default(),
        own_ahead: 0,
        request: JobRequest::new(RequestForm::Chat, b"secret prompt".to_vec()),
    }
}

fn failed(retryable: bool) -> Outcome {
    let failure = Failure {
        reason: Reason::WORKER_UNREACHABLE,
        message: "the engine died".to_owned(),
        retryable,
    };
    Outcome::Failed { failure, usage: Usage::default() }
}

fn done() -> Outcome {
    Outcome::Succeeded { usage: Usage::default() }
}

fn running() -> Job {
    let job = Job::submit(spec()).assign(worker("x99"), at(1), at(31)).unwrap();
    job.start(1, at(2)).unwrap()
}

#[test]
fn a_job_lives_from_queue_to_answer() {
    let job = running().wrote(1, 0, 3, at(40)).unwrap().finish(1, done(), at(9)).unwrap();
    let JobState::Succeeded { end, .. } = job.state() else { panic!("{:?}", job.state()) };
    assert_eq!((end.pieces, end.started_at, end.at), (3, Some(at(2)), at(9)));
    assert_eq!(end.worker, Some(worker("x99")));
}

#[test]
fn an_attempt_is_repeated_only_where_nothing_was_shown() {
    let silent = running().finish(1, failed(true), at(9)).unwrap();
    assert_eq!(silent.state().kind(), JobStateKind::Queued);
    let shown = running().wrote(1, 0, 1, at(40)).unwrap().finish(1, failed(true), at(9)).unwrap();
    assert_eq!(shown.state().because().reason, Reason::OUTPUT_ALREADY_SHOWN);
    let hopeless = running().finish(1, failed(false), at(9)).unwrap();
    assert_eq!(hopeless.state().because().reason, Reason::WORKER_UNREACHABLE);
    assert_eq!(hopeless.state().kind(), JobStateKind::Failed);
}

#[test]
fn a_poisonous_job_stops_after_three_attempts() {
    let mut job = Job::submit(spec());
    for attempt in 1..=ATTEMPTS_MAX {
        job = job.assign(worker("x99"), at(1), at(31)).unwrap();
        job = job.finish(attempt, failed(true), at(9)).unwrap();
    }
    assert_eq!(job.state().because().reason, Reason::ATTEMPTS_EXHAUSTED);
    let again = job.retry("ann", at(60)).unwrap();
    let given = again.assign(worker("x99"), at(61), at(90)).unwrap();
    assert_eq!(given.attempts(), Attempts { given: 4, limit: 6 });
}

#[test]
fn a_late_report_is_refused_and_says_who_has_it() {
    let job = running().finish(1, failed(true), at(9)).unwrap();
    let job = job.assign(worker("ryzen"), at(10), at(40)).unwrap();
    let refused = job.finish(1, done(), at(11)).unwrap_err();
    assert!(refused.to_string().contains("attempt 2 has it"), "{refused}");
}

#[test]
fn a_lease_is_lost_only_once_it_has_run_out() {
    assert!(running().lose_lease(at(30)).is_err());
    let job = running().renew(1, at(50)).unwrap().renew(1, at(40)).unwrap();
    assert_eq!(job.state().lease().unwrap().until, at(50));
    let lost = job.lose_lease(at(50)).unwrap();
    assert_eq!(lost.state().because().reason, Reason::LEASE_EXPIRED);
    assert_eq!(lost.state().kind(), JobStateKind::Queued);
}

#[test]
fn a_deadline_keeps_a_job_from_starting_and_not_from_ending() {
    let mut late = spec();
    late.deadline = Some(at(10));
    let job = Job::submit(late);
    assert!(job.clone().expire(at(9)).is_err());
    assert!(job.clone().assign(worker("x99"), at(10), at(40)).is_err());
    assert_eq!(job.clone().expire(at(10)).unwrap().state().kind(), JobStateKind::Expired);
    let given = job.assign(worker("x99"), at(9), at(40)).unwrap();
    assert!(given.expire(at(20)).is_err());
}

#[test]
fn the_prompt_never_shows_in_debug_output() {
    let shown = format!("{:?}", Job::submit(spec()));
    assert!(!shown.contains("secret"), "{shown}");
}

#[derive(Clone, Debug)]
enum Step {
    Wait,
    Ready,
    Assign(u8),
    Start(u32),
    Renew(u32),
    Write(u32),
    Finish(u32, bool, bool),
    Lose,
    Cancel,
    Expire,
    Retry,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let attempt = 0..6_u32;
    let step = prop_oneof![
        1 => Just(Step::Wait),
        1 => Just(Step::Ready),
        4 => (0..3_u8).prop_map(Step::Assign),
        4 => attempt.clone().prop_map(Step::Start),
        1 => attempt.clone().prop_map(Step::Renew),
        2 => attempt.clone().prop_map(Step::Write),
        2 => (attempt, any::<bool>(), any::<bool>())
            .prop_map(|(attempt, good, retryable)| Step::Finish(attempt, good, retryable)),
        1 => Just(Step::Lose),
        1 => Just(Step::Cancel),
        1 => Just(Step::Expire),
        1 => Just(Step::Retry),
    ];
    proptest::collection::vec(step, 1..60)
}

fn take(job: Job, step: &Step, now: Timestamp) -> Result<Job, InvalidTransition> {
    let until = now + SignedDuration::from_secs(3);
    match *step {
        Step::Wait => job.wait(Because::new(Reason::WORKER_ASLEEP, "asleep")),
        Step::Ready => job.ready(),
        Step::Assign(number) => job.assign(worker(&format!("w{number}")), now, until),
        Step::Start(attempt) => job.start(attempt, now),
        Step::Renew(attempt) => job.renew(attempt, until),
        Step::Write(attempt) => {
            let next = match job.state() {
                JobState::Running { pieces, .. } => *pieces,
                _ => 0,
            };
            job.wrote(attempt, next, 1, until)
        }
        Step::Finish(attempt, true, _) => job.finish(attempt, done(), now),
        Step::Finish(attempt, false, retryable) => job.finish(attempt, failed(retryable), now),
        Step::Lose => job.lose_lease(now),
        Step::Cancel => job.cancel("ann", now),
        Step::Expire => job.expire(now),
        Step::Retry => job.retry("ann", now),
    }
}

proptest! {
    /// Whatever happens in whatever order: one owner at most, whose attempt is the
    /// newest and was never given before; an end is left only by a person's retry;
    /// text is never begun a second time within one round.
    #[test]
    fn a_job_has_one_owner_and_ends_once(steps in steps()) {
        let mut job = Job::submit(spec());
        let mut given = 0;
        let mut shown = false;
        for (second, step) in steps.iter().enumerate() {
            let before = job.clone();
            let now = at(i64::try_from(second).unwrap());
            let Ok(after) = take(job.clone(), step, now) else { continue };
            job = after;
            let ended = before.state().kind().is_final();
            prop_assert!(!ended || matches!(step, Step::Retry), "{step:?} left {:?}", before.state());
            if let Some(lease) = job.state().lease() {
                prop_assert_eq!(lease.attempt, job.attempts().given);
            }
            match step {
                Step::Assign(_) => {
                    prop_assert!(before.state().lease().is_none(), "two owners");
                    prop_assert!(job.attempts().given > given, "an attempt was given twice");
                    prop_assert!(!shown, "text is begun again");
                    given = job.attempts().given;
                }
                Step::Start(attempt) | Step::Renew(attempt) | Step::Write(attempt)
                | Step::Finish(attempt, ..) => prop_assert_eq!(*attempt, given),
                Step::Retry => shown = false,
                _ => {}
            }
            shown |= matches!(step, Step::Write(_));
            prop_assert!(job.attempts().given <= job.attempts().limit);
            prop_assert_eq!(Job::from_parts(job.parts().clone()), Some(job.clone()));
        }
    }
}
