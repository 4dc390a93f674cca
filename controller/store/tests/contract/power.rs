//! Power of hosts that are off until needed.

use std::time::Duration;

use homelab_domain::{
    ids::JobId,
    power::{
        HeldState, Hold,
        boot::{Boot, BootEnd, BootPhase},
    },
    reason::{Because, Reason},
    site::Tier,
};
use homelab_store::{JobEnergy, Kept, PowerRecord};
use jiff::civil::{Date, date};
use uuid::Uuid;

use crate::bench::{Bench, at, host};

fn today() -> Date {
    date(2026, 11, 23)
}

fn yesterday() -> Date {
    date(2026, 11, 22)
}

fn boot(secs: i64) -> Boot {
    let because = Because::new(Reason::INTERACTIVE_WAITS, "somebody waits");
    Boot::begin(host("x99"), at(secs), because, "plan")
}

pub(crate) async fn a_boot_is_kept_as_it_goes_on(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    let mut second = boot(500);
    tx.power().keep_boot(&boot(100)).await.unwrap();
    tx.power().keep_boot(&second).await.unwrap();
    second.reach(BootPhase::AgentAnswers, at(570));
    (second.signals, second.signalled_at) = (2, at(550));
    let why = Because::new(Reason::DIED_BOOTING, "its worker did not answer");
    second.end = Some(BootEnd { at: at(900), failure: Some(why) });
    tx.power().keep_boot(&second).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.power().boots(&host("x99"), 10).await.unwrap(), [second.clone(), boot(100)]);
    assert_eq!(tx.power().boots(&host("x99"), 1).await.unwrap(), [second]);
    assert_eq!(tx.power().boots(&host("other"), 10).await.unwrap(), []);
}

pub(crate) async fn a_hold_replaces_the_one_before_and_can_be_let_go(bench: &Bench) {
    let hold = |state, until| Hold { state, until: at(until), by: "ada".to_owned() };
    let mut tx = bench.store.begin().await.unwrap();
    tx.power().set_hold(&host("x99"), Some(&hold(HeldState::Awake, 50))).await.unwrap();
    let asleep = hold(HeldState::Asleep, 90);
    tx.power().set_hold(&host("x99"), Some(&asleep)).await.unwrap();
    assert_eq!(tx.power().holds().await.unwrap(), [(host("x99"), asleep)]);
    tx.power().set_hold(&host("x99"), None).await.unwrap();
    tx.power().set_hold(&host("x99"), None).await.unwrap();
    assert_eq!(tx.power().holds().await.unwrap(), []);
}

pub(crate) async fn fences_only_rise_and_the_newest_proof_counts(bench: &Bench) {
    let x99 = host("x99");
    let mut tx = bench.store.begin().await.unwrap();
    tx.power().proved(&x99, at(70)).await.unwrap();
    tx.power().proved(&x99, at(60)).await.unwrap();
    tx.power().slept(&x99, at(80)).await.unwrap();
    assert_eq!(tx.power().next_fence(&x99).await.unwrap(), 1);
    assert_eq!(tx.power().next_fence(&x99).await.unwrap(), 2);
    assert_eq!(tx.power().next_fence(&host("other")).await.unwrap(), 1);
    let rows = tx.power().hosts().await.unwrap();
    let other = PowerRecord { host: host("other"), fence: 1, proved_at: None, slept_at: None };
    let known =
        PowerRecord { host: x99, fence: 2, proved_at: Some(at(70)), slept_at: Some(at(80)) };
    assert_eq!(rows, [other, known]);
}

pub(crate) async fn what_kept_a_host_awake_adds_up_by_day_and_reason(bench: &Bench) {
    let kept = |day, reason, message: &str, secs| Kept {
        host: host("x99"),
        day,
        because: Because::new(reason, message),
        lasted: Duration::from_secs(secs),
    };
    let mut tx = bench.store.begin().await.unwrap();
    for one in [
        kept(yesterday(), Reason::JOBS_RUNNING, "1 job runs", 10),
        kept(today(), Reason::SESSIONS_OPEN, "root on pts/0", 5),
        kept(today(), Reason::JOBS_RUNNING, "1 job runs", 20),
        kept(today(), Reason::JOBS_RUNNING, "2 jobs run", 30),
    ] {
        tx.power().kept_awake(&one).await.unwrap();
    }
    let all = tx.power().keepers(yesterday()).await.unwrap();
    assert_eq!(
        all,
        [
            kept(today(), Reason::JOBS_RUNNING, "2 jobs run", 50),
            kept(today(), Reason::SESSIONS_OPEN, "root on pts/0", 5),
            kept(yesterday(), Reason::JOBS_RUNNING, "1 job runs", 10),
        ]
    );
    assert_eq!(tx.power().keepers(today()).await.unwrap().len(), 2);
}

pub(crate) async fn energy_adds_up_by_job_tier_and_day(bench: &Bench) {
    let x99 = host("x99");
    let job = |id: u128| JobId::from(Uuid::from_u128(id));
    let used = |id, millijoules| JobEnergy { job: job(id), tier: Tier::Silver, millijoules };
    let mut tx = bench.store.begin().await.unwrap();
    tx.power().used(&x99, yesterday(), 7, &[used(1, 100)]).await.unwrap();
    tx.power().used(&x99, today(), 0, &[used(1, 50), used(2, 3)]).await.unwrap();
    tx.power().used(&x99, today(), 5, &[]).await.unwrap();
    tx.power().used(&x99, today(), 6, &[used(2, 4)]).await.unwrap();
    assert_eq!(tx.power().energy_of(job(1)).await.unwrap(), Some(150));
    assert_eq!(tx.power().energy_of(job(9)).await.unwrap(), None);
    let days = tx.power().energy(yesterday()).await.unwrap();
    let mut rows: Vec<_> =
        days.iter().map(|it| (it.day, it.tier, it.jobs, it.millijoules)).collect();
    rows.sort();
    assert_eq!(
        rows,
        [
            (yesterday(), None, 0, 7),
            (yesterday(), Some(Tier::Silver), 1, 100),
            (today(), None, 0, 11),
            (today(), Some(Tier::Silver), 2, 57),
        ]
    );
    assert_eq!(days[0].day, today());
}

pub(crate) async fn old_days_and_boots_are_forgotten_and_open_boots_are_not(bench: &Bench) {
    let x99 = host("x99");
    let mut tx = bench.store.begin().await.unwrap();
    for secs in [100, 200, 300, 400] {
        let end = (secs > 100).then(|| BootEnd { at: at(secs + 50), failure: None });
        tx.power().keep_boot(&Boot { end, ..boot(secs) }).await.unwrap();
    }
    tx.power().used(&x99, yesterday(), 7, &[]).await.unwrap();
    tx.power().used(&x99, today(), 8, &[]).await.unwrap();
    assert_eq!(tx.power().forget(today(), 2).await.unwrap(), 2);
    let left: Vec<_> =
        tx.power().boots(&x99, 10).await.unwrap().iter().map(|it| it.started_at).collect();
    assert_eq!(left, [at(400), at(300), at(100)]);
    assert_eq!(tx.power().energy(yesterday()).await.unwrap().len(), 1);
    assert_eq!(tx.power().forget(today(), 2).await.unwrap(), 0);
}
