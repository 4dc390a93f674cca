//! Waking, and the ways in which that fails.

use homelab_domain::power::HeldState;

use super::*;
use crate::power::person::PersonError;

#[tokio::test]
async fn a_job_that_waits_wakes_the_host_once() {
    let bench = Bench::new().await;
    assert_eq!(bench.round().await.state, PowerState::Asleep);
    bench.submit(1, JobClass::Interactive).await;
    let standing = bench.round().await;
    assert_eq!(standing.state, PowerState::Waking);
    assert_eq!(reasons(&standing), [Reason::INTERACTIVE_WAITS, Reason::WAKING]);
    bench.round().await;
    assert_eq!(bench.x99.state().signals, 1);
    assert_eq!(bench.actions().await, ["power.wake"]);
}

#[tokio::test]
async fn a_background_call_wakes_nothing() {
    let bench = Bench::new().await;
    bench.submit(1, JobClass::Background).await;
    assert_eq!(reasons(&bench.round().await), [Reason::NOTHING_WAITS]);
    assert_eq!(bench.x99.state().signals, 0);
}

#[tokio::test]
async fn work_that_can_wait_says_until_when() {
    let bench = Bench::new().await;
    bench.submit(1, JobClass::Batch).await;
    let standing = bench.round().await;
    assert_eq!(reasons(&standing), [Reason::QUEUE_TOO_SMALL]);
    let six_hours = bench.rig.clock_now().checked_add(360 * MINUTE).expect("a moment");
    assert_eq!(standing.next_wake_at, Some(six_hours));
    bench.after(360 * MINUTE).await;
    assert_eq!(bench.x99.state().signals, 1);
}

#[tokio::test]
async fn a_boot_is_followed_to_its_end_and_the_job_says_how_far_it_is() {
    let bench = Bench::new().await;
    let id = bench.submit(1, JobClass::Interactive).await;
    bench.round().await;
    bench.x99.state().knocks = true;
    bench.after(MINUTE).await;
    let (job, _) = bench.rig.jobs.get(id).await.expect("readable").expect("is there");
    let explanation = bench.rig.jobs.explain(&job).await.expect("readable");
    assert_eq!(explanation.expected_wait, Some(2 * MINUTE));
    let told = explanation.reasons.last().expect("a reason");
    assert_eq!(told, "x99 was woken 1 min ago; its network answers; it will be up in about 2 min");
    bench.x99.is_up();
    let standing = bench.after(MINUTE).await;
    assert_eq!(standing.state, PowerState::Awake);
    assert_eq!(standing.proved_at, Some(bench.rig.clock_now()));
    let boot = standing.boot.expect("it booted");
    assert_eq!(boot.reached(BootPhase::NetworkAnswers), Some(MINUTE));
    assert_eq!(boot.reached(BootPhase::WorkerAnswers), Some(2 * MINUTE));
    let next = bench.after(MINUTE).await;
    assert_eq!((next.boots_learnt, next.usual), (1, 2 * MINUTE));
    assert_eq!(bench.actions().await, ["power.wake", "power.awake"]);
}

#[tokio::test]
async fn a_host_that_does_not_wake_is_given_up_and_left_alone_for_longer_each_time() {
    let bench = Bench::new().await;
    bench.submit(1, JobClass::Interactive).await;
    bench.round().await;
    for _ in 0..14 {
        bench.after(MINUTE).await;
    }
    assert_eq!(bench.x99.state().signals, 3);
    let standing = bench.after(MINUTE).await;
    assert_eq!(reasons(&standing), [Reason::DID_NOT_WAKE]);
    assert!(standing.because[0].message.contains("3 signals"), "{standing:?}");
    let standing = bench.round().await;
    assert_eq!(reasons(&standing), [Reason::WAKE_BACKS_OFF]);
    // The pause is as long as the attempt, and twice that after the next.
    assert_eq!(bench.after(14 * MINUTE).await.state, PowerState::Asleep);
    assert_eq!(bench.after(MINUTE).await.state, PowerState::Waking);
    bench.after(15 * MINUTE).await;
    assert_eq!(bench.after(29 * MINUTE).await.state, PowerState::Asleep);
    assert_eq!(bench.after(MINUTE).await.state, PowerState::Waking);
    let failed = bench.audit().await.into_iter().find(|it| it.action == "power.wake_failed");
    assert_eq!(failed.expect("an alarm").actor, crate::audit::ALARM);
}

#[tokio::test]
async fn a_host_that_dies_while_it_boots_is_given_up_with_what_it_reached() {
    let bench = Bench::new().await;
    bench.submit(1, JobClass::Interactive).await;
    bench.round().await;
    bench.x99.state().seen.agent = true;
    bench.after(MINUTE).await;
    bench.x99.state().seen.agent = false;
    bench.after(MINUTE).await;
    let standing = bench.after(13 * MINUTE).await;
    assert_eq!(standing.state, PowerState::Asleep);
    assert_eq!(reasons(&standing), [Reason::DIED_BOOTING]);
    assert!(standing.because[0].message.contains("its agent answered"), "{standing:?}");
    // It had answered, so that no further signal could have helped.
    assert_eq!(bench.x99.state().signals, 1);
}

#[tokio::test]
async fn a_host_that_wakes_late_is_waited_for_and_promises_nothing() {
    let bench = Bench::new().await;
    bench.submit(1, JobClass::Interactive).await;
    bench.round().await;
    bench.x99.state().seen.agent = true;
    let standing = bench.after(8 * MINUTE).await;
    assert_eq!(standing.state, PowerState::Waking);
    assert_eq!(reasons(&standing)[0], Reason::WAKE_LATE);
    assert_eq!(standing.up_at, None);
    bench.x99.is_up();
    assert_eq!(bench.after(MINUTE).await.state, PowerState::Awake);
}

#[tokio::test]
async fn a_controller_that_was_killed_follows_the_boot_that_it_began() {
    let bench = Bench::new().await;
    bench.submit(1, JobClass::Interactive).await;
    bench.round().await;
    let bench = bench.restart().await;
    bench.x99.is_up();
    let standing = bench.after(2 * MINUTE).await;
    assert_eq!(standing.state, PowerState::Awake);
    assert_eq!(bench.x99.state().signals, 1);
}

#[tokio::test]
async fn a_host_that_is_held_asleep_is_not_woken_by_anybody() {
    let bench = Bench::new().await;
    let until = bench.rig.clock_now().checked_add(60 * MINUTE).expect("a moment");
    bench.powers.hold(&x99(), Some((HeldState::Asleep, until)), "ada").await.expect("held");
    bench.submit(1, JobClass::Interactive).await;
    assert_eq!(reasons(&bench.round().await), [Reason::HELD_ASLEEP]);
    let refused = bench.powers.wake(&x99(), "ben").await;
    assert!(matches!(refused, Err(PersonError::HeldAsleep { .. })), "{refused:?}");
    bench.powers.hold(&x99(), None, "ada").await.expect("let go");
    assert_eq!(bench.x99.state().signals, 1);
    assert_eq!(bench.actions().await, ["power.hold", "power.hold", "power.wake"]);
}

#[tokio::test]
async fn a_hold_that_lasts_too_long_or_has_ended_is_refused() {
    let bench = Bench::new().await;
    let now = bench.rig.clock_now();
    for until in [now, now.checked_add(Duration::from_hours(169)).expect("a moment")] {
        let held = bench.powers.hold(&x99(), Some((HeldState::Awake, until)), "ada").await;
        assert!(matches!(held, Err(PersonError::Until(_))), "{until}");
    }
}

#[tokio::test]
async fn a_person_wakes_a_host_whatever_the_plan_says_and_is_named() {
    let bench = Bench::new().await;
    bench.powers.wake(&x99(), "ada").await.expect("asked");
    assert_eq!(bench.round().await.state, PowerState::Waking);
    let entries = bench.audit().await;
    assert_eq!((entries[0].actor.as_str(), entries[0].subject.as_str()), ("ada", "x99"));
}

#[tokio::test]
async fn only_a_host_that_is_off_until_needed_is_woken_and_put_to_sleep() {
    let bench = Bench::new().await;
    assert!(matches!(bench.powers.find("cw-nas"), Err(PersonError::NotOnDemand(_))));
    assert!(matches!(bench.powers.find("y99"), Err(PersonError::NotFound(_))));
    assert_eq!(bench.powers.find("x99").expect("declared"), x99());
}
