//! Sleeping, and everything that keeps a host from it.

use homelab_domain::{power::sleep::Unproved, site::SleepMethod};

use super::*;
use crate::power::{
    hands::Look,
    person::{Go, PersonError},
};

#[tokio::test]
async fn an_idle_host_that_is_known_to_wake_is_drained_and_put_to_sleep() {
    let bench = Bench::idle().await;
    let standing = bench.round().await;
    assert_eq!(standing.state, PowerState::Draining);
    {
        let state = bench.x99.state();
        assert_eq!(state.drains, [true]);
        assert_eq!(state.orders.len(), 1);
        assert_eq!((state.orders[0].fence, state.orders[0].method), (1, SleepMethod::PowerOff));
    }
    assert_eq!(bench.actions().await, ["power.sleep"]);
    bench.x99.is_gone();
    assert_eq!(bench.after(MINUTE).await.state, PowerState::Asleep);
    // And it can be woken again at once.
    bench.submit(1, JobClass::Interactive).await;
    assert_eq!(bench.round().await.state, PowerState::Waking);
}

#[tokio::test]
async fn it_never_sleeps_under_load() {
    let bench = Bench::idle().await;
    let said = |reason, message: &str| vec![Because::new(reason, message)];
    let looks = [
        Ok(said(Reason::GUESTS_RUNNING, "guest 101 runs")),
        Ok(said(Reason::FACT_UNKNOWN, "nobody knows who is logged in")),
        Err("it hung".to_owned()),
        Ok(Vec::new()),
    ];
    for look in looks {
        bench.x99.is_up();
        // With nothing to say against it, it works for somebody else.
        bench.x99.works_on(u32::from(look == Ok(Vec::new())));
        let reason = match &look {
            Ok(vetoes) => vetoes.first().map_or(Reason::JOBS_RUNNING, |it| it.reason.clone()),
            Err(_) => Reason::FACT_UNKNOWN,
        };
        bench.x99.state().look = look.map(|vetoes| Look { vetoes, wake_armed: Some(true) });
        for _ in 0..3 {
            let standing = bench.after(30 * MINUTE).await;
            assert_eq!(standing.state, PowerState::Awake, "{reason}");
            assert!(reasons(&standing).contains(&reason), "{reason}: {standing:?}");
        }
    }
    assert_eq!(bench.x99.state().orders, []);
    assert_eq!(bench.x99.state().drains, Vec::<bool>::new());
}

#[tokio::test]
async fn a_job_that_comes_while_it_is_drained_keeps_it_awake() {
    let bench = Bench::idle().await;
    bench.x99.state().late_job = Some((bench.rig.jobs.clone(), wish(7, "large")));
    let standing = bench.round().await;
    assert_eq!(standing.state, PowerState::Awake);
    assert!(reasons(&standing).contains(&Reason::JOBS_QUEUED), "{standing:?}");
    assert_eq!(bench.x99.state().orders, []);
    // And it takes work again.
    assert_eq!(bench.x99.state().drains, [true, false]);
}

#[tokio::test]
async fn requests_that_nobody_knew_of_keep_it_awake() {
    let bench = Bench::idle().await;
    bench.x99.state().running = 2;
    assert_eq!(reasons(&bench.round().await), [Reason::JOBS_RUNNING]);
    assert_eq!(bench.x99.state().drains, [true, false]);
    assert_eq!(bench.x99.state().orders, []);
}

#[tokio::test]
async fn a_host_that_does_not_want_to_sleep_takes_work_and_is_left_alone_for_a_while() {
    let bench = Bench::idle().await;
    bench.x99.state().refuses = Some("polkit says no".to_owned());
    assert_eq!(bench.round().await.because[0].message, "polkit says no");
    bench.after(4 * MINUTE).await;
    assert_eq!(bench.x99.state().orders.len(), 1);
    bench.after(MINUTE).await;
    let state = bench.x99.state();
    assert_eq!(state.orders.len(), 2);
    assert!(state.orders[0].fence < state.orders[1].fence);
    assert_eq!(state.drains, [true, false, true, false]);
}

#[tokio::test]
async fn a_host_that_was_told_to_sleep_and_stays_on_takes_work_again() {
    let bench = Bench::idle().await;
    bench.round().await;
    assert_eq!(bench.after(14 * MINUTE).await.state, PowerState::Draining);
    let standing = bench.after(MINUTE).await;
    assert_eq!(standing.state, PowerState::Awake);
    assert!(standing.because[0].message.contains("is still on"), "{standing:?}");
    assert_eq!(bench.x99.state().drains, [true, false]);
}

#[tokio::test]
async fn a_host_that_nobody_saw_wake_does_not_sleep_until_a_person_accepts_that() {
    let bench = Bench::new().await;
    bench.x99.is_up();
    bench.round().await;
    assert_eq!(reasons(&bench.after(60 * MINUTE).await), [Reason::WAKE_UNPROVED]);
    let host = x99();
    let sleep = |unproved, go| bench.powers.sleep(&host, "ada", unproved, go);
    let refused = sleep(Unproved::Refused, Go::Ahead).await;
    assert!(matches!(refused, Err(PersonError::Vetoed { .. })), "{refused:?}");
    sleep(Unproved::Accepted, Go::Look).await.expect("it could");
    assert_eq!(bench.x99.state().orders, []);
    let standing = sleep(Unproved::Accepted, Go::Ahead).await.expect("it does");
    assert_eq!(standing.state, PowerState::Draining);
    assert_eq!(bench.audit().await[0].actor, "ada");
}

#[tokio::test]
async fn a_person_need_not_wait_until_it_is_idle_but_until_its_work_is_done() {
    let bench = Bench::idle().await;
    bench.x99.works_on(1);
    bench.round().await;
    let busy = bench.powers.sleep(&x99(), "ada", Unproved::Refused, Go::Ahead).await;
    assert!(busy.is_err_and(|error| error.to_string().contains("its worker works on 1 request")));
    bench.x99.works_on(0);
    bench.powers.sleep(&x99(), "ada", Unproved::Refused, Go::Ahead).await.expect("it does");
    assert_eq!(bench.x99.state().orders.len(), 1);
}

#[tokio::test]
async fn what_kept_it_awake_and_what_it_used_is_written_down() {
    let bench = Bench::idle().await;
    bench.x99.speaks_against(Because::new(Reason::SESSIONS_OPEN, "root is logged in"));
    bench.round().await;
    for _ in 0..6 {
        bench.after(Duration::from_secs(10)).await;
    }
    let report = bench.powers.report(1).await.expect("readable");
    assert_eq!(report.kept.len(), 1);
    assert_eq!(report.kept[0].because.message, "root is logged in");
    assert_eq!(report.kept[0].lasted, MINUTE);
    // A minute of 100 W, for nobody.
    assert_eq!(report.energy.len(), 1);
    assert_eq!((report.energy[0].tier, report.energy[0].millijoules), (None, 6_000_000));
    assert_eq!(report.boots.len(), 1);
}

#[tokio::test]
async fn a_worker_that_a_killed_controller_left_drained_takes_work_again() {
    let bench = Bench::idle().await;
    bench.x99.state().refuses = Some("not now".to_owned());
    bench.round().await;
    let bench = bench.restart().await;
    bench.x99.drains();
    bench.round().await;
    let state = bench.x99.state();
    assert_eq!(state.drains, [true, false]);
    // Whatever the killed one had ordered is void.
    assert!(state.voids.iter().all(|fence| *fence > state.orders[0].fence), "{:?}", state.voids);
}
