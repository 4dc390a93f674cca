use std::time::Duration;

use homelab_domain::{
    ids::{HostName, RequestId},
    job::{JobClass, JobState, Terms},
    reason::Reason as Why,
};
use homelab_rpc::status::Reason;
use tonic::Code;
use uuid::Uuid;

use super::{
    engines::Contact,
    follow::Told,
    rig::{Rig, Step, wish},
    running::LEASE,
    submission::{Refused, Submission},
    *,
};
use homelab_domain::job::JobStateKind as Kind;

async fn text(mut follower: Follower) -> (String, Job) {
    let mut text = String::new();
    loop {
        match follower.next().await.expect("readable").expect("an end comes") {
            Told::Piece(piece) => text.push_str(&piece.content),
            Told::Ended(job) => return (text, job.as_ref().clone()),
            Told::Restarted(_) => text.clear(),
            Told::State(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_free_worker_is_answered_at_once() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Say("Hel", "{}"), Step::Say("lo", "{}"), Step::Done]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    assert_eq!(accepted.job.state().kind(), Kind::Assigned, "no dispatcher was needed");
    let (text, job) = text(accepted.follower).await;
    assert_eq!((text.as_str(), job.state().kind()), ("Hello", Kind::Succeeded));
    assert_eq!(rig.jobs.answer(job.id()).await.expect("readable"), "Hello");
    let (_, events) = rig.jobs.get(job.id()).await.expect("readable").expect("is there");
    let states: Vec<_> = events.iter().map(|event| event.state).collect();
    assert_eq!(states, [Kind::Queued, Kind::Assigned, Kind::Running, Kind::Succeeded]);
    rig.wait_for("nothing is left in memory", || rig.jobs.lives().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_submits_may_leave_and_another_follows_every_piece() {
    let rig = Rig::new().await;
    rig.engines.script(vec![
        Step::Pause,
        Step::Say("Hel", "{}"),
        Step::Say("lo", "{}"),
        Step::Done,
    ]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    drop(accepted.follower);
    let follower = rig.jobs.follow(accepted.job.id(), 0, 0);
    rig.engines.go_on();
    let (text, job) = text(follower).await;
    assert_eq!((text.as_str(), job.state().kind()), ("Hello", Kind::Succeeded));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_submission_twice_is_one_job() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Say("once", "{}"), Step::Done]);
    let first = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    let second = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    assert!(!first.repeated && second.repeated);
    assert_eq!(text(first.follower).await.0, "once");
    assert_eq!(text(second.follower).await.0, "once");
    assert_eq!(rig.engines.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_never_gets_more_than_its_slots() {
    let rig = Rig::new().await;
    for number in 1..=3 {
        rig.engines.script(vec![Step::Say("x", "{}"), Step::Hang]);
        rig.jobs.submit(wish(number, "small")).await.expect("taken");
    }
    rig.round().await;
    rig.wait_for("two run", || rig.engines.busy() == 2).await;
    let third = Uuid::from_u128(3).into();
    let (job, _) = rig.jobs.get(third).await.expect("readable").expect("is there");
    assert_eq!(job.state().kind(), Kind::Queued);
    assert_eq!(
        rig.jobs.plan().standing(third).expect("it waits").hold.because[0].reason,
        Why::NO_FREE_SLOT
    );
    rig.jobs.cancel(Uuid::from_u128(1).into(), "test").await.expect("cancelled");
    rig.wait_for("its slot is free", || rig.engines.busy() == 1).await;
    rig.until_given(third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silver_waits_for_its_sleeping_worker_and_then_runs() {
    let rig = Rig::new().await;
    let accepted = rig.jobs.submit(wish(1, "large")).await.expect("taken");
    let because = accepted.job.state().because();
    assert_eq!((accepted.job.state().kind(), because.reason), (Kind::Waiting, Why::WORKER_ASLEEP));
    let explanation = rig.jobs.explain(&accepted.job).await.expect("readable");
    assert!(explanation.decision.contains("x99"), "{explanation:?}");
    rig.engines.contact("x99", Contact::Connected);
    rig.engines.script(vec![Step::Say("awake", "{}"), Step::Done]);
    rig.round().await;
    assert_eq!(text(accepted.follower).await.0, "awake");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_showed_nothing_is_repeated() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Break("ENGINE_CRASHED", true)]);
    rig.engines.script(vec![Step::Say("second", "{}"), Step::Done]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    rig.until(accepted.job.id(), Kind::Queued).await;
    rig.round().await;
    let (text, job) = text(accepted.follower).await;
    assert_eq!((text.as_str(), job.attempts().given), ("second", 2));
    let attempts: Vec<_> = rig.engines.requests().iter().map(|request| request.attempt).collect();
    assert_eq!(attempts, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_showed_text_is_not_repeated() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Say("half", "{}"), Step::Break("ENGINE_CRASHED", true)]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    let (text, job) = text(accepted.follower).await;
    assert_eq!(text, "half");
    let JobState::Failed { failure, .. } = job.state() else { panic!("{job:?}") };
    assert_eq!(failure.reason, Why::OUTPUT_ALREADY_SHOWN);
    assert_eq!(rig.engines.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_help_is_not_repeated() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Refuse(Code::NotFound, Reason::MODEL_NOT_FOUND)]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    let (_, job) = text(accepted.follower).await;
    let JobState::Failed { failure, .. } = job.state() else { panic!("{job:?}") };
    assert_eq!(failure.reason, Why::MODEL_NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_others_keep_busy_costs_no_attempt() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Refuse(Code::ResourceExhausted, Reason::SLOTS_BUSY)]);
    rig.engines.script(vec![Step::Say("later", "{}"), Step::Done]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    let (text, job) = text(accepted.follower).await;
    assert_eq!((text.as_str(), job.attempts().given), ("later", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_frees_the_engine() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Say("a", "{}"), Step::Hang]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    rig.wait_for("it runs", || rig.engines.busy() == 1).await;
    let job = rig.jobs.cancel(accepted.job.id(), "jan").await.expect("cancelled");
    assert_eq!(job.state().kind(), Kind::Cancelled);
    rig.wait_for("the engine is free", || rig.engines.busy() == 0).await;
    assert_eq!(text(accepted.follower).await.1.state().kind(), Kind::Cancelled);
    let again = rig.jobs.cancel(job.id(), "jan").await.expect("idempotent");
    assert_eq!(again.state().kind(), Kind::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_can_be_asked_for_again_once_per_call() {
    let rig = Rig::new().await;
    let accepted = rig.jobs.submit(wish(1, "large")).await.expect("taken");
    let id = accepted.job.id();
    rig.jobs.cancel(id, "jan").await.expect("cancelled");
    let call: RequestId = Uuid::from_u128(99).into();
    assert_eq!(rig.jobs.retry(id, call, "jan").await.expect("queued").state().kind(), Kind::Queued);
    rig.jobs.cancel(id, "jan").await.expect("cancelled");
    let repeated = rig.jobs.retry(id, call, "jan").await.expect("the same call");
    assert_eq!(
        repeated.state().kind(),
        Kind::Cancelled,
        "the second call of the same id does nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_past_its_deadline_expires_and_those_who_follow_hear_of_it() {
    let rig = Rig::new().await;
    let deadline = rig.clock_now().checked_add(Duration::from_secs(60)).ok();
    let accepted =
        rig.jobs.submit(Submission { deadline, ..wish(1, "large") }).await.expect("taken");
    rig.clock.advance(Duration::from_secs(61));
    rig.round().await;
    assert_eq!(text(accepted.follower).await.1.state().kind(), Kind::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_job_that_showed_nothing_runs_again() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Hang]);
    let id = rig.jobs.submit(wish(1, "small")).await.expect("taken").job.id();
    rig.wait_for("it runs", || rig.engines.busy() == 1).await;
    let rig = rig.restart().await;
    rig.engines.script(vec![Step::Say("after", "{}"), Step::Done]);
    rig.round().await;
    let (job, _) = rig.jobs.get(id).await.expect("readable").expect("was not lost");
    assert_eq!(job.state().kind(), Kind::Assigned, "its lease still runs");
    rig.clock.advance(LEASE);
    rig.round().await;
    let job = rig.until(id, Kind::Succeeded).await;
    assert_eq!(job.attempts().given, 2);
    assert_eq!(rig.jobs.answer(id).await.expect("readable"), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_read_what_was_lost_with_the_controller_is_told_that_the_text_begins_again() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Hang]);
    let id = rig.jobs.submit(wish(1, "small")).await.expect("taken").job.id();
    rig.wait_for("it runs", || rig.engines.busy() == 1).await;
    let rig = rig.restart().await;
    rig.engines.script(vec![
        Step::Say("a", "{}"),
        Step::Say("b", "{}"),
        Step::Say("c", "{}"),
        Step::Done,
    ]);
    // Two pieces of the first attempt were shown, and neither was stored when the controller died.
    let mut early = rig.jobs.follow(id, 2, 1);
    rig.clock.advance(LEASE);
    rig.round().await;
    rig.until(id, Kind::Succeeded).await;
    for follower in [&mut early, &mut rig.jobs.follow(id, 2, 1)] {
        let first = loop {
            match follower.next().await.expect("readable").expect("an end comes") {
                Told::State(_) => {}
                told => break told,
            }
        };
        assert!(matches!(first, Told::Restarted(2)), "{first:?}");
        assert_eq!(follower.told_of(), 2);
    }
    assert_eq!(text(early).await.0, "abc");
    assert_eq!(text(rig.jobs.follow(id, 2, 2)).await.0, "c", "of the same attempt it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_job_that_showed_text_fails_and_says_so() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Say("half", "{}"), Step::Hang]);
    let id = rig.jobs.submit(wish(1, "small")).await.expect("taken").job.id();
    rig.until(id, Kind::Running).await;
    let rig = rig.restart().await;
    rig.clock.advance(LEASE);
    rig.round().await;
    let (job, _) = rig.jobs.get(id).await.expect("readable").expect("is there");
    let JobState::Failed { failure, .. } = job.state() else { panic!("{job:?}") };
    assert_eq!(failure.reason, Why::OUTPUT_ALREADY_SHOWN);
    assert_eq!(rig.jobs.answer(id).await.expect("readable"), "half", "what was shown is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_keeps_a_silent_job() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Say("a", "{}"), Step::Hang]);
    let id = rig.jobs.submit(wish(1, "small")).await.expect("taken").job.id();
    rig.until(id, Kind::Running).await;
    for _ in 0..3 {
        rig.clock.advance(LEASE - Duration::from_secs(1));
        rig.jobs.renew_leases().await;
        rig.round().await;
    }
    assert_eq!(rig.until(id, Kind::Running).await.attempts().given, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_lost_its_lease_is_stopped_and_its_report_is_refused() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Hang]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    rig.wait_for("it runs", || rig.engines.busy() == 1).await;
    rig.clock.advance(LEASE);
    rig.engines.script(vec![Step::Say("second", "{}"), Step::Done]);
    rig.round().await;
    let (text, job) = text(accepted.follower).await;
    assert_eq!((text.as_str(), job.attempts().given), ("second", 2));
    let late = rig
        .store
        .begin()
        .await
        .expect("a transaction")
        .jobs()
        .start(job.id(), 1, rig.clock_now())
        .await;
    assert!(matches!(late, Err(JobError::Refused(_))), "{late:?}");
    rig.wait_for("the first is stopped", || rig.engines.busy() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_who_comes_late_reads_everything_from_the_start() {
    let rig = Rig::new().await;
    let mut steps: Vec<_> = (0..700).map(|_| Step::Say("x", "{}")).collect();
    steps.push(Step::Done);
    rig.engines.script(steps);
    // This one reads nothing until all is said, and falls behind by more than a channel holds.
    let slow = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    rig.until(slow.job.id(), Kind::Succeeded).await;
    assert_eq!(text(slow.follower).await.0.len(), 700);
    assert_eq!(text(rig.jobs.follow(slow.job.id(), 0, 0)).await.0.len(), 700);
    assert_eq!(text(rig.jobs.follow(slow.job.id(), 690, 0)).await.0.len(), 10);
    assert!(rig.jobs.lives().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_where_the_site_has_no_place_for_it() {
    let rig = Rig::new().await;
    let refused = async |submission| match rig.jobs.check(submission).await {
        Err(refused) => refused.to_string(),
        Ok(spec) => panic!("{spec:?}"),
    };
    assert!(refused(wish(1, "nowhere")).await.contains("nowhere"));
    let gold = Submission { tier: Some(Tier::Gold), ..wish(1, "") };
    assert!(refused(gold).await.contains("gold"));
    let bronze_only = Submission { tiers_allowed: vec![Tier::Bronze], ..wish(1, "large") };
    assert!(matches!(rig.jobs.check(bronze_only).await, Err(Refused::TierNotAllowed(_))));
    assert_eq!(rig.jobs.check(wish(1, "")).await.expect("the default").model.as_str(), "small");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_sleeps_stands_in_nobodys_way() {
    let rig = Rig::new().await;
    for number in 10..20 {
        rig.jobs.submit(wish(number, "large")).await.expect("taken");
    }
    rig.engines.script(vec![Step::Say("now", "{}"), Step::Done]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    assert_eq!(accepted.job.state().kind(), Kind::Assigned, "it went straight to its worker");
    assert_eq!(text(accepted.follower).await.0, "now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_submits_many_stands_behind_one_who_submits_one() {
    let rig = Rig::new().await;
    rig.engines.contact("cw-nas", Contact::Unreachable);
    for number in 1..=20 {
        rig.jobs.submit(wish(number, "small")).await.expect("taken");
    }
    rig.clock.advance(Duration::from_secs(35));
    let single = Submission { submitted_by: "key/other".to_owned(), ..wish(50, "small") };
    let single = rig.jobs.submit(single).await.expect("taken").job;
    rig.round().await;
    assert_eq!(rig.jobs.plan().standing(single.id()).expect("it waits").position, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_once_what_it_comes_after_has_succeeded() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Pause, Step::Say("first", "{}"), Step::Done]);
    let first = rig.jobs.submit(wish(1, "small")).await.expect("taken").job.id();
    let after = |number, of: JobId| {
        let terms = Terms { after: vec![of], ..Terms::default() };
        Submission { terms, ..wish(number, "small") }
    };
    let second = rig.jobs.submit(after(2, first)).await.expect("taken");
    rig.round().await;
    let waits = rig.until(second.job.id(), Kind::Waiting).await;
    assert_eq!(waits.state().because().reason, Why::WAITS_FOR_DEPENDENCY);
    let explained = rig.jobs.explain(&waits).await.expect("readable");
    assert!(explained.reasons[0].contains("it comes after job"), "{explained:?}");
    rig.engines.script(vec![Step::Say("second", "{}"), Step::Done]);
    rig.engines.go_on();
    rig.until(first, Kind::Succeeded).await;
    rig.round().await;
    assert_eq!(text(second.follower).await.0, "second");
    let unknown = rig.jobs.submit(after(3, Uuid::from_u128(99).into())).await;
    let unknown = unknown.expect_err("there is none").to_string();
    assert!(unknown.contains("there is no job"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_a_cancelled_job_fails_with_its_reason() {
    let rig = Rig::new().await;
    let first = rig.jobs.submit(wish(1, "large")).await.expect("taken").job.id();
    let terms = Terms { after: vec![first], ..Terms::default() };
    let second = rig.jobs.submit(Submission { terms, ..wish(2, "small") }).await.expect("taken");
    rig.jobs.cancel(first, "jan").await.expect("cancelled");
    rig.round().await;
    let (_, job) = text(second.follower).await;
    let JobState::Failed { failure, .. } = job.state() else { panic!("{job:?}") };
    assert_eq!(failure.reason, Why::DEPENDENCY_FAILED);
    assert!(failure.message.contains("cancelled"), "{}", failure.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_takes_nothing_more_and_what_runs_does_not_count() {
    let limits = QueueLimits { jobs_max: 3, caller_jobs_max: 2, ..crate::config::QUEUE };
    let rig = Rig::with_limits(limits).await;
    let of = |caller: &str, number, model| Submission {
        submitted_by: caller.to_owned(),
        ..wish(number, model)
    };
    rig.engines.script(vec![Step::Hang]);
    rig.jobs.submit(of("key/a", 1, "small")).await.expect("runs");
    rig.jobs.submit(of("key/a", 2, "large")).await.expect("waits");
    rig.jobs.submit(of("key/a", 3, "large")).await.expect("waits");
    let refused = rig.jobs.submit(of("key/a", 4, "large")).await.expect_err("two wait");
    assert!(refused.to_string().contains("2 jobs of key/a wait already"), "{refused}");
    // The same call again is no new job.
    assert!(rig.jobs.submit(of("key/a", 3, "large")).await.expect("known").repeated);
    rig.jobs.submit(of("key/b", 5, "large")).await.expect("waits");
    let refused = rig.jobs.submit(of("key/b", 6, "large")).await.expect_err("three wait");
    assert!(refused.to_string().contains("the queue holds 3"), "{refused}");
    rig.jobs.cancel(Uuid::from_u128(2).into(), "jan").await.expect("cancelled");
    rig.jobs.submit(of("key/b", 6, "large")).await.expect("there is room again");
}

/// Bronze has two models and one engine, which holds `small`.
async fn with_one_engine() -> Rig {
    let rig = Rig::new().await;
    rig.set_site(|site| site.replace("[\"small\"]", "[\"small\", \"other\"]"));
    rig.engines.one_engine_holds("small");
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_while_its_engine_works_on_another_model_and_then_takes_its_place() {
    let rig = with_one_engine().await;
    rig.engines.script(vec![Step::Pause, Step::Done]);
    let first = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    rig.wait_for("it runs", || rig.engines.busy() == 1).await;
    let second = rig.jobs.submit(wish(2, "other")).await.expect("taken");
    let waits = second.job.state().because();
    assert_eq!(waits.reason, Why::ENGINES_BUSY, "{waits:?}");
    rig.engines.go_on();
    assert_eq!(text(first.follower).await.1.state().kind(), Kind::Succeeded);
    rig.round().await;
    assert_eq!(text(second.follower).await.1.state().kind(), Kind::Succeeded);
    let may: Vec<bool> = rig.engines.requests().iter().map(|sent| sent.make_room).collect();
    assert_eq!(may, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_keeps_another_out_for_long_takes_no_new_job() {
    let rig = with_one_engine().await;
    rig.engines.script(vec![Step::Pause, Step::Done]);
    let first = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    rig.wait_for("it runs", || rig.engines.busy() == 1).await;
    let terms = Terms { class: JobClass::Interactive, ..Terms::default() };
    rig.jobs.submit(Submission { terms, ..wish(2, "other") }).await.expect("taken");
    for _ in 0..2 {
        rig.clock.advance(Duration::from_secs(10));
        rig.jobs.renew_leases().await;
        rig.round().await;
    }
    rig.engines.go_on();
    assert_eq!(text(first.follower).await.1.state().kind(), Kind::Succeeded);
    // It comes straight in otherwise: its model is loaded, and a slot is free.
    let late = rig.jobs.submit(wish(3, "small")).await.expect("taken");
    let waits = late.job.state().because();
    assert_eq!(waits.reason, Why::MODEL_MAKES_ROOM, "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forecast_says_what_each_queue_waits_for() {
    let rig = Rig::new().await;
    rig.engines.script(vec![Step::Hang]);
    rig.jobs.submit(wish(1, "small")).await.expect("runs");
    let terms = Terms { class: JobClass::Batch, ..Terms::default() };
    rig.jobs.submit(Submission { terms, ..wish(2, "large") }).await.expect("waits");
    rig.jobs.submit(wish(3, "large")).await.expect("waits");
    let queues = rig.jobs.forecast().await.expect("readable");
    let [bronze, silver] = queues.as_slice() else { panic!("{queues:?}") };
    assert_eq!((bronze.running, bronze.slots, bronze.queued.jobs()), (1, 2, 0));
    assert_eq!((silver.queued.interactive, silver.queued.batch), (1, 1));
    assert_eq!(silver.wake.as_ref().map(HostName::as_str), Some("x99"));
    assert_eq!(silver.decision, "they wait for x99 to wake");
    assert_eq!(silver.next, Some(Uuid::from_u128(2).into()));
    assert_eq!(silver.expected_wait, None, "nothing is known of it yet");
}

impl Rig {
    /// Lets the dispatcher run until a worker has the job.
    async fn until_given(&self, id: JobId) {
        for _ in 0..500 {
            self.round().await;
            let (job, _) = self.jobs.get(id).await.expect("readable").expect("is there");
            if job.state().kind().is_owned() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("job {id} was never given to a worker");
    }
}
