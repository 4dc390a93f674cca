//! Text that is paid for: stored before anybody sees it, and never asked for a second time.

use futures_util::FutureExt as _;
use homelab_domain::{
    job::{JobStateKind as Kind, Record},
    reason::Reason,
};
use serde_json::json;
use std::time::Duration;

use super::{
    failure_of,
    far::Reply,
    rig::{Rig, asks, usual},
};
use crate::{
    gold::LEAVING_BYTES_MAX,
    job::{SubmitError, submission::Refused},
};

fn half() -> Vec<serde_json::Value> {
    vec![json!({"choices": [{"index": 0, "delta": {"content": "half"}}]})]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_text_from_outside_is_stored_before_anybody_sees_it() {
    let rig = Rig::new(&usual()).await;
    rig.far.reply(Reply::Hang(half()));
    let accepted = rig.jobs.submit(asks(1, "far-small", "hi")).await.expect("taken");
    let id = accepted.job.id();
    let seen = async {
        while rig.jobs.lives().get(id).is_none_or(|live| live.glimpse().pieces == 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it is shown");
    let (job, _) = rig.jobs.get(id).await.expect("readable").expect("is there");
    assert_eq!(job.state().kind(), Kind::Running);
    assert_eq!(rig.jobs.answer(id).await.expect("readable"), "half");
    rig.jobs.cancel(id, "ann").await.expect("cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_an_answer_that_was_shown_is_not_paid_for_again() {
    let rig = Rig::new(&usual()).await;
    rig.far.reply(Reply::Hang(half()));
    let accepted = rig.jobs.submit(asks(1, "far-small", "hi")).await.expect("taken");
    let (id, mut follower) = (accepted.job.id(), accepted.follower);
    loop {
        let told = follower.next().await.expect("readable").expect("goes on");
        if matches!(told, crate::job::follow::Told::Piece(_)) {
            break;
        }
    }
    // The very moment after the first text was shown.
    rig.tasks.stop_hard();
    rig.clock.advance(Duration::from_secs(60));
    let (next, tasks) = rig.next_controller();
    let ended = async {
        loop {
            let (job, _) = next.get(id).await.expect("readable").expect("is there");
            if job.state().kind().is_final() {
                return job;
            }
            tokio::task::yield_now().await;
        }
    };
    let job = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it ends");
    assert_eq!(failure_of(&job).0, Reason::OUTPUT_ALREADY_SHOWN.as_str());
    assert_eq!(next.answer(id).await.expect("readable"), "half", "what was shown is kept");
    assert_eq!(rig.far.connects(), 1, "it was asked for once");
    tasks.stop_hard();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_says_of_a_job_that_leaves_no_text_is_not_kept() {
    let rig = Rig::new(&usual()).await;
    let quoting = "{\"error\":{\"message\":\"`my plan` is not allowed\",\"code\":\"bad_words\"}}";
    let rest = format!("content-length: {}\r\n\r\n{quoting}", quoting.len());
    rig.far.reply(Reply::Status("400 Bad Request", rest.leak()));
    let said = serde_json::from_str(quoting).expect("JSON");
    rig.far.reply(Reply::Cut(vec![said]));
    for number in [1, 2] {
        let mut private = asks(number, "far-small", "my plan");
        private.record = Record::Metadata;
        let (job, _) = rig.run(private).await;
        let (_, message) = failure_of(&job);
        assert!(message.contains("bad_words") && !message.contains("my plan"), "{message}");
        let (_, events) = rig.jobs.get(job.id()).await.expect("readable").expect("is there");
        assert!(!format!("{events:?}").contains("my plan"), "{events:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_to_leave_says_the_limit_and_stays() {
    let rig = Rig::new(&usual()).await;
    let large = asks(1, "far-small", &"a ".repeat(LEAVING_BYTES_MAX / 2));
    let refused = rig.jobs.submit(large).await.expect_err("refused");
    let SubmitError::Refused(Refused::NoPlace { because, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(because.reason, Reason::GOLD_REFUSED);
    assert!(
        because.message.contains("4 MiB") && because.message.contains("shorten"),
        "{because:?}"
    );
    assert_eq!(rig.far.connects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_what_a_request_gives_away_holds_nobody_up() {
    let rig = Rig::new(&usual()).await;
    let spec = rig.jobs.check(asks(1, "far-small", "wake x99")).await.expect("may leave");
    // Read on this thread it would be ready at once.
    assert!(rig.gold.objection(&spec).now_or_never().is_none());
    assert_eq!(rig.gold.objection(&spec).await, None);
}
