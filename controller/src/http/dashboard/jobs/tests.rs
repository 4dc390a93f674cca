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
        waiting: vec![(job(JobState::Waiting), Some(2))],
        waiting_count: 3,
        running: vec![(running, Some(24.13))],
        ended: vec![job(JobState::Failed)],
        ..JobsObserved::default()
    };
    let page = page(&observed, &viewer(), 7, Timestamp::UNIX_EPOCH).expect("renders");
    for words in [
        "they wait for x99 to wake",
        "1 awaited",
        "and 2 more",
        "24.1 a second",
        "7 pieces",
        "120 tokens · 24.0 a second · 5.0 s",
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
    for words in ["95 s", "in the house", "labctl job show 0192", "running"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(!page.contains("<img src=x"), "{page}");
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
