//! The tier that leaves the house, with everything real but the provider.

mod choke;
mod far;
mod rig;
mod sealed;
mod shown;
mod tls;

use homelab_domain::{
    gold::{Action, DataClass},
    job::{JobState, JobStateKind as Kind},
    site::Tier,
};
use homelab_store::{AuditOutcome, GoldOutcome};
use serde_json::{Value, json};

use self::{
    far::{Reply, answer},
    rig::{House, Rig, asks, of_body, rule, usual},
};
use super::*;
use crate::ca::issue::hex;
use crate::job::{
    SubmitError,
    errand::{Errand, ErrandError, ShortCall},
    submission::Refused,
};

fn failure_of(job: &homelab_domain::job::Job) -> (String, String) {
    match job.state() {
        JobState::Failed { failure, .. } => (failure.reason.to_string(), failure.message.clone()),
        state => panic!("{state:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_answered_from_outside_settled_and_written_down() {
    let rig = Rig::new(&usual()).await;
    rig.far.reply(Reply::Chunks(answer("blue", 30, 20)));
    let (job, text) = rig.run(asks(1, "far-small", "What colour is the sky?")).await;
    assert_eq!((job.state().kind(), text.as_str()), (Kind::Succeeded, "blue"));

    let (head, body) = rig.far.requests().remove(0);
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
    assert!(
        head.contains("host: api.far.example\r\n") && head.contains("Bearer sk-far-key"),
        "{head}"
    );
    let sent: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&sent["model"], &sent["max_tokens"]), (&json!("org/far-1"), &json!(1000)));

    let call = rig.settled().await.remove(0);
    let settled = call.settlement.expect("settled");
    assert_eq!((settled.outcome, settled.cost.micros()), (GoldOutcome::Settled, 30 + 200));
    assert_eq!(rig.left().await, 1_000_000 - 230);
    let entry = rig.audit().await.remove(0).entry;
    let digest = hex(ring::digest::digest(&ring::digest::SHA256, body.as_bytes()).as_ref());
    assert_eq!((entry.action.as_str(), entry.actor.as_str()), (ledger::SENT, "key/test"));
    assert!(entry.detail.contains(&digest) && entry.detail.contains("rules plain"), "{entry:?}");
    assert!(!entry.detail.contains("sky"), "{entry:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_leave_as_pseudonyms_and_come_back_across_chunks() {
    let rig = Rig::new(&usual()).await;
    let body = json!({"model": "far-small", "stream": true, "messages": [
        {"role": "user", "content": "Why does x99 at 192.168.200.40 not wake?"}]});
    // What the provider will see is not known before: it answers in pieces of what it was sent.
    let outbound = rig
        .gold
        .outbound(&rig.jobs.check(of_body(1, "far-small", &body)).await.expect("may leave"))
        .await
        .expect("may leave");
    let sent: Value = serde_json::from_slice(outbound.body()).expect("JSON");
    let text = sent["messages"][0]["content"].as_str().expect("text").to_owned();
    let mut chunks: Vec<Value> = text
        .as_bytes()
        .chunks(4)
        .map(|piece| String::from_utf8_lossy(piece).into_owned())
        .map(|piece| json!({"choices": [{"index": 0, "delta": {"content": piece}}]}))
        .collect();
    chunks.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}));
    rig.far.reply(Reply::Chunks(chunks));
    let (job, answer) = rig.run(of_body(1, "far-small", &body)).await;
    assert_eq!(answer, "Why does x99 at 192.168.200.40 not wake?", "{job:?}");
    let (_, sent) = rig.far.requests().remove(0);
    assert!(!sent.contains("x99") && !sent.contains("192.168"), "{sent}");
    // No usage came: it costs what was reserved.
    let call = rig.settled().await.remove(0);
    assert_eq!(call.settlement.expect("settled").outcome, GoldOutcome::Lost);
    assert_eq!(
        (call.call.pseudonyms, call.call.classes.as_str()),
        (2, "1 host-name, 1 private-address")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_leave_is_refused_when_it_is_submitted() {
    let rig = Rig::new(&rule("plain", "\"plain\"", "allow")).await;
    let refused = rig.jobs.submit(asks(1, "far-small", "hi\nssh x99")).await.expect_err("refused");
    let SubmitError::Refused(Refused::NoPlace { because, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(because.reason, Reason::GOLD_REFUSED);
    assert!(because.message.contains("1 host-name"), "{because:?}");
    assert!(because.message.contains("messages[0].content line 2 character 5"), "{because:?}");
    assert_eq!(rig.far.connects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_the_tier_does_not_reach_it() {
    let rig = Rig::new(&usual()).await;
    let mut submission = asks(1, "far-small", "hi");
    submission.tiers_allowed.pop();
    let refused = rig.jobs.submit(submission).await.expect_err("refused");
    assert!(matches!(refused, SubmitError::Refused(Refused::TierNotAllowed(_))), "{refused:?}");
    assert_eq!(rig.far.connects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_to_be_continued_does_not_leave_the_house() {
    let rig = Rig::new(&usual()).await;
    let mut text = asks(1, "far-small", "hi");
    text.request.form = RequestForm::OpenaiCompletion;
    text.request.bytes = br#"{"model":"far-small","prompt":"hi"}"#.to_vec();
    let refused = rig.jobs.submit(text.clone()).await.expect_err("refused");
    let SubmitError::Refused(Refused::NoPlace { because, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(because.reason, Reason::GOLD_REFUSED);
    assert!(because.message.contains("ask for it as a chat"), "{because:?}");
    text.model = "small".to_owned();
    let (job, answer) = rig.run(text).await;
    assert_eq!((job.state().kind(), answer.as_str()), (Kind::Succeeded, "home"));
    assert_eq!(rig.far.connects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_and_the_order_of_texts_are_made_in_the_house_and_nowhere_else() {
    let rig = Rig::new(&usual()).await;
    for errand in [Errand::Embed, Errand::Rerank] {
        let call = |model: &str| ShortCall {
            errand,
            model: model.to_owned(),
            tiers_allowed: vec![Tier::Bronze, Tier::Silver, Tier::Gold],
            request: bytes::Bytes::from_static(b"{}"),
            within: Duration::from_secs(10),
        };
        let made = rig.jobs.fetch(call("small")).await.expect("made in the house");
        assert_eq!(&made.answer[..], b"{}");
        let refused = rig.jobs.fetch(call("far-small")).await.expect_err("stays in the house");
        let ErrandError::Worker { source, .. } = refused else { panic!("{refused:?}") };
        assert!(source.message().contains("chats only"), "{source:?}");
    }
    assert_eq!(rig.far.connects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_at_once_never_spend_more_than_there_is() {
    // Each may cost 10,000 for its answer and some hundred for its question: two fit.
    let rig = Rig::with(&usual(), "0.021", House::Up).await;
    for _ in 0..20 {
        rig.far.reply(Reply::Hang(vec![]));
    }
    let mut jobs = Vec::new();
    for number in 1..=20 {
        jobs.push(rig.jobs.submit(asks(number, "far-small", "hi")).await.expect("taken").job.id());
    }
    // Two hang outside, whichever came first; all others find no room.
    let failed = rig.ended_of(&jobs, 18).await;
    for job in &failed {
        let (reason, message) = failure_of(job);
        assert_eq!(reason, "GOLD_BUDGET_EXHAUSTED");
        assert!(message.contains("budget `house`") && message.contains("this day"), "{message}");
    }
    assert_eq!(rig.far.connects(), 2);
    let denied = rig.audit().await;
    let denied = denied.iter().filter(|entry| entry.entry.outcome == AuditOutcome::Denied);
    assert_eq!(denied.count(), 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_the_request_and_counts_as_lost() {
    let rig = Rig::new(&usual()).await;
    rig.far.reply(Reply::Hang(vec![json!({"choices": [{"index": 0, "delta": {"content": "a"}}]})]));
    let id = rig.jobs.submit(asks(1, "far-small", "hi")).await.expect("taken").job.id();
    rig.until(id, |kind| kind == Kind::Running).await;
    rig.jobs.cancel(id, "ann").await.expect("cancelled");
    rig.far.caller_gone().await;
    let call = rig.settled().await.remove(0);
    let settled = call.settlement.expect("settled");
    assert_eq!((settled.outcome, settled.cost), (GoldOutcome::Lost, call.call.reserved));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_once_text_was_shown_is_not_begun_again() {
    let rig = Rig::new(&usual()).await;
    rig.far
        .reply(Reply::Cut(vec![json!({"choices": [{"index": 0, "delta": {"content": "half"}}]})]));
    let (job, text) = rig.run(asks(1, "far-small", "hi")).await;
    assert_eq!((failure_of(&job).0.as_str(), text.as_str()), ("OUTPUT_ALREADY_SHOWN", "half"));
    assert_eq!(rig.far.connects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_not_there_or_fails_is_tried_again() {
    let rig = Rig::new(&usual()).await;
    rig.far.reply(Reply::Absent);
    rig.far.reply(Reply::Status("503 Busy", "content-length: 0\r\n\r\n"));
    let (job, text) = rig.run(asks(1, "far-small", "hi")).await;
    assert_eq!((job.state().kind(), text.as_str()), (Kind::Succeeded, "fine"));
    let calls = rig.settled().await;
    let outcome = |attempt| {
        let call = calls.iter().find(|call| call.call.attempt == attempt).expect("left");
        call.settlement.expect("settled").outcome
    };
    let expected = [GoldOutcome::Free, GoldOutcome::Lost, GoldOutcome::Settled];
    assert_eq!([outcome(1), outcome(2), outcome(3)], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_refuses_costs_nothing_and_says_why() {
    let rig = Rig::new(&usual()).await;
    let error = "{\"error\":{\"message\":\"too long\"}}";
    let with_body = |status: &'static str| {
        let rest = format!("content-length: {}\r\n\r\n{error}", error.len());
        Reply::Status(status, rest.leak())
    };
    let elsewhere = "location: https://evil.example/v1\r\ncontent-length: 0\r\n\r\n";
    for (number, (reply, reason, part)) in [
        (with_body("400 Bad Request"), "ENGINE_REFUSED", "too long"),
        (with_body("401 Unauthorized"), "PROVIDER_REFUSED", "does not accept the key"),
        (with_body("402 Payment Required"), "PROVIDER_REFUSED", "paid"),
        (
            Reply::Status("307 Temporary Redirect", elsewhere),
            "PROVIDER_REFUSED",
            "points elsewhere",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        rig.far.reply(reply);
        let number = u128::try_from(number).expect("small") + 1;
        let (job, _) = rig.run(asks(number, "far-small", "hi")).await;
        let (failed, message) = failure_of(&job);
        assert_eq!(failed, reason);
        assert!(message.contains(part) && !message.contains("sk-far"), "{message}");
    }
    assert_eq!(rig.far.connects(), 4, "nothing of this is tried again");
    let free =
        rig.settled().await.into_iter().filter(|call| {
            call.settlement.is_some_and(|settled| settled.outcome == GoldOutcome::Free)
        });
    assert_eq!(free.count(), 3, "a redirect is no refusal, and nobody knows what was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_would_send_the_key_elsewhere_do_not() {
    let rig = Rig::new(&usual()).await;
    let mut body = json!({"model": "far-small", "messages": [{"role": "user", "content": "hi"}]});
    for field in ["base_url", "api_base", "api_key", "headers", "extra_headers", "url"] {
        body[field] = json!("https://evil.example");
    }
    rig.run(of_body(1, "far-small", &body)).await;
    let (head, sent) = rig.far.requests().remove(0);
    assert!(head.contains("host: api.far.example\r\n") && !sent.contains("evil"), "{sent}");
    assert!(rig.audit().await[0].entry.detail.contains("withheld: api_base"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_whose_key_is_not_there_takes_no_jobs_and_says_so() {
    let rig = Rig::new(&usual()).await;
    std::fs::remove_file(rig.folder.path().join("far.key")).expect("was there");
    let id = rig.jobs.submit(asks(1, "far-small", "hi")).await.expect("taken").job.id();
    let job = rig.until(id, |kind| kind == Kind::Waiting).await;
    let because = job.state().because();
    assert_eq!(because.reason, Reason::WORKER_UNREACHABLE);
    assert!(because.message.contains("key of far could not be loaded"), "{because:?}");
    assert_eq!(rig.far.connects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_when_the_controller_died_counts_as_lost() {
    let rig = Rig::new(&usual()).await;
    rig.far.reply(Reply::Hang(vec![json!({"choices": [{"index": 0, "delta": {"content": "a"}}]})]));
    let id = rig.jobs.submit(asks(1, "far-small", "hi")).await.expect("taken").job.id();
    rig.until(id, |kind| kind == Kind::Running).await;
    rig.clock.advance(Duration::from_secs(60));
    // The next controller starts over the same store.
    rig.gold.recover().await.expect("settled");
    let call = rig.settled().await.remove(0);
    assert_eq!(call.settlement.expect("settled").outcome, GoldOutcome::Lost);
    rig.tasks.stop_hard();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_says_what_leaves_by_which_rule_and_what_is_left() {
    let rig = Rig::new(&usual()).await;
    let spec = rig.jobs.check(asks(1, "far-small", "wake x99")).await.expect("may leave");
    let job = homelab_domain::job::Job::submit(spec);
    let lines = rig.jobs.outlook(&job).await.join("\n");
    for part in [
        "bytes leave the house for https://api.far.example:443/v1, at a cost of at most 0.01",
        "the text leaves as it is, by rule plain",
        "1 host-name leaves as pseudonyms, by rule names",
        "budget house: 1.00 of 1.00 USD left this day",
    ] {
        assert!(lines.contains(part), "{part} is not in {lines}");
    }
    let destinations = rig.jobs.explain_from_memory(&job).destinations;
    assert!(
        destinations[0].contains("far (https://api.far.example:443/v1, gold, leaves the house)"),
        "{destinations:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_can_be_tried_without_being_sent() {
    let rig = Rig::new(&usual()).await;
    let trial = async |text: &str| {
        let asker = "key/test".parse().expect("an asker");
        let trial = Trial { text: text.to_owned(), asker, tags: vec![] };
        rig.gold.try_text(trial).await.expect("is read")
    };
    assert_eq!(trial("hello").await.action, Action::Allow);
    assert_eq!(trial("wake x99").await.action, Action::Pseudonymise);
    let refused = trial("mail ann@example.org").await;
    assert_eq!(
        (refused.action, &refused.found[0].classes),
        (Action::Refuse, &vec![DataClass::Person])
    );
    assert_eq!(rig.far.connects(), 0);
    assert_eq!(rig.audit().await.len(), 0);
}
