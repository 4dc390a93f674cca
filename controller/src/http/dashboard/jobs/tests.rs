use homelab_proto::{
    controller::v1::{JobEvent, JobExplanation, JobState, Tier},
    inference::v1::Usage,
};

use super::{one::OneJob, *};

const CANARY: &str = "<img src=x onerror=alert(1)>\"'&";

fn viewer() -> Viewer {
    Viewer { person: "jan".to_owned(), role: "admin", csrf: "c".to_owned() }
}

fn at(secs: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_790_000_000 + secs, nanos: 0 })
}

fn job(state: JobState) -> Job {
    Job {
        job_id: "0192".to_owned(),
        state: state.into(),
        tier: Tier::Silver.into(),
        model: "large".to_owned(),
        title: CANARY.to_owned(),
        message: "x99 is asleep".to_owned(),
        attempts: 2,
        submitted_at: at(0),
        started_at: at(10),
        finished_at: at(15),
        usage: Some(Usage {
            completion_tokens: Some(120),
            completion_elapsed: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            energy_joules: Some(351.96),
            ..Usage::default()
        }),
        ..Job::default()
    }
}

#[test]
fn what_waits_runs_and_ended_is_told_with_why_rate_and_attempts() {
    let running = RunningJob { job: job(JobState::Running), pieces: 7, tail: CANARY.to_owned() };
    let observed = JobsObserved {
        queues: vec![QueuePlan {
            model: "large".to_owned(),
            waiting: 3,
            interactive: 1,
            decision: "they wait for x99 to wake".to_owned(),
            reasons: vec!["x99 is asleep".to_owned()],
            ..QueuePlan::default()
        }],
        waiting: vec![
            WaitingJob {
                job: job(JobState::Waiting),
                place: Some(2),
                expected_wait: Some(Duration::from_secs(95)),
            },
            WaitingJob { job: job(JobState::Waiting), ..WaitingJob::default() },
        ],
        waiting_count: 4,
        running: vec![WritingJob { running, rate: Some(24.13), is_shown: true }],
        ended: vec![job(JobState::Failed)],
        ..JobsObserved::default()
    };
    let page = page(&observed, &viewer(), 7, Timestamp::UNIX_EPOCH).expect("renders");
    for words in [
        "they wait for x99 to wake",
        "1 awaited",
        "and 2 more",
        "in about 95 s",
        "not known yet",
        "24.1 a second",
        "about 7 tokens",
        "120 tokens",
        "in 5.0 s",
        "href=\"/jobs/0192\"",
        "data-events=\"/events/jobs\"",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(!page.contains("<img src=x"), "{page}");
}

#[test]
fn an_empty_queue_teaches_how_to_ask() {
    let page =
        page(&JobsObserved::default(), &viewer(), 0, Timestamp::UNIX_EPOCH).expect("renders");
    assert!(page.contains("labctl ask"), "{page}");
}

#[test]
fn the_life_of_a_job_is_a_time_line_and_its_text_is_only_text() {
    let event = |state: JobState, secs| JobEvent {
        at: at(secs),
        state: state.into(),
        message: CANARY.to_owned(),
        attempt: 1,
        ..JobEvent::default()
    };
    let observed = OneJob {
        job: Job { answer: CANARY.to_owned(), ..job(JobState::Succeeded) },
        events: vec![event(JobState::Queued, 0), event(JobState::Running, 95)],
        explanation: Some(JobExplanation {
            decision: "it waits".to_owned(),
            destinations: vec!["x99 (192.0.2.40, silver, in the house)".to_owned()],
            ..JobExplanation::default()
        }),
        ..OneJob::default()
    };
    let page = one::page(&observed, &viewer(), Timestamp::UNIX_EPOCH).expect("renders");
    for words in [
        "for 95 s",
        "waited <strong>95 s",
        "in the house",
        "labctl job show 0192",
        "running",
        "352.0 J",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(!page.contains("<img src=x"), "{page}");
}

#[test]
fn a_job_that_leaves_no_text_behind_says_so_in_place_of_its_text() {
    let running = RunningJob { job: job(JobState::Running), pieces: 7, tail: String::new() };
    let private = WritingJob { running, ..WritingJob::default() };
    let observed = JobsObserved { running: vec![private.clone()], ..JobsObserved::default() };
    let list = page(&observed, &viewer(), 0, Timestamp::UNIX_EPOCH).expect("renders");
    assert!(list.contains("not shown: it leaves no text behind"), "{list}");
    let observed =
        OneJob { job: job(JobState::Running), writing: Some(private), ..OneJob::default() };
    let one = one::page(&observed, &viewer(), Timestamp::UNIX_EPOCH).expect("renders");
    assert!(one.contains("only who asked has seen it") && one.contains("about 7 tokens"), "{one}");
}

#[test]
fn only_the_page_of_an_open_job_is_looked_for_again() {
    let page = |is_over| {
        let observed = OneJob { job: job(JobState::Running), is_over, ..OneJob::default() };
        one::page(&observed, &viewer(), Timestamp::UNIX_EPOCH).expect("renders")
    };
    assert!(page(false).contains("data-every=") && !page(true).contains("data-every="));
}

#[test]
fn sections_carry_their_names_and_stand_still_while_nothing_happens() {
    let observed = JobsObserved { ended: vec![job(JobState::Succeeded)], ..Default::default() };
    let first = observed.sections(Ages::Counted).expect("renders");
    assert_eq!(first, observed.sections(Ages::Counted).expect("renders"));
    for (name, section) in JobsObserved::SECTIONS.iter().zip(&first) {
        assert!(section.starts_with(&format!("<section id=\"{name}\"")), "{section}");
    }
}
