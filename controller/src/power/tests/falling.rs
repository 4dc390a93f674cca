//! Orders to sleep of which nobody knows what became, and hosts that come back from them.

use homelab_domain::{
    ids::{BackupName, RepositoryName},
    run::{RunKind, RunOutcome, RunSpec, RunTrigger},
};
use homelab_store::Started;

use super::*;

const NO_ANSWER: &str = "no answer within 25 s";

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_void_before_its_worker_takes_work() {
    let bench = Bench::idle().await;
    bench.x99.state().refuses = Some(NO_ANSWER.to_owned());
    assert_eq!(bench.round().await.because[0].message, NO_ANSWER);
    let state = bench.x99.state();
    assert_eq!((state.orders[0].fence, state.voids.as_slice()), (1, &[2][..]));
    assert_eq!(state.drains, [true, false]);
}

#[tokio::test]
async fn while_an_order_cannot_be_made_void_its_worker_takes_no_work() {
    let bench = Bench::idle().await;
    (bench.x99.state().refuses, bench.x99.state().deaf) = (Some(NO_ANSWER.to_owned()), true);
    bench.round().await;
    bench.after(MINUTE).await;
    assert_eq!(bench.x99.state().drains, [true]);
    bench.x99.state().deaf = false;
    bench.after(MINUTE).await;
    assert_eq!(bench.x99.state().drains, [true, false]);
    assert_eq!(bench.x99.state().orders.len(), 1);
}

#[tokio::test]
async fn a_host_that_obeyed_and_whose_answer_was_lost_is_on_its_way_to_sleep() {
    let bench = Bench::idle().await;
    (bench.x99.state().refuses, bench.x99.state().obeys) = (Some(NO_ANSWER.to_owned()), true);
    assert_eq!(bench.round().await.state, PowerState::Draining);
    assert_eq!(bench.x99.state().drains, [true]);
    assert_eq!(bench.actions().await, ["power.sleep"]);
    bench.x99.is_gone();
    assert_eq!(bench.after(MINUTE).await.state, PowerState::Asleep);
}

#[tokio::test]
async fn a_host_that_somebody_switches_on_by_hand_takes_work_again() {
    let bench = Bench::idle().await;
    bench.round().await;
    bench.x99.is_gone();
    bench.after(MINUTE).await;
    // It was suspended, so that its worker still knows that it takes no work.
    bench.x99.is_up();
    bench.x99.drains();
    let standing = bench.after(5 * MINUTE).await;
    assert_eq!(standing.state, PowerState::Awake);
    assert_eq!(bench.x99.state().drains, [true, false]);
}

#[tokio::test]
async fn a_host_that_still_falls_when_the_controller_starts_is_let_fall() {
    let bench = Bench::idle().await;
    bench.round().await;
    let bench = bench.restart().await;
    bench.x99.drains();
    bench.after(MINUTE).await;
    assert_eq!(bench.x99.state().drains, [true], "its worker takes no work meanwhile");
    // It did not fall after all.
    bench.after(MINUTE).await;
    assert_eq!(bench.x99.state().drains, [true, false]);
}

#[tokio::test]
async fn a_host_that_is_always_on_from_now_on_takes_work_again() {
    let bench = Bench::idle().await;
    (bench.x99.state().refuses, bench.x99.state().deaf) = (Some(NO_ANSWER.to_owned()), true);
    bench.round().await;
    bench.x99.drains();
    bench.x99.state().deaf = false;
    bench.is_always_on();
    bench.powers.round().await.expect("a round");
    assert_eq!(bench.x99.state().drains, [true, false]);
    assert_eq!(bench.powers.board().get(&x99()), None);
}

#[tokio::test]
async fn a_host_that_became_always_on_while_no_controller_ran_takes_work_again() {
    let bench = Bench::idle().await;
    bench.round().await;
    let bench = bench.restart().await;
    bench.is_always_on();
    bench.x99.state().seen.worker = false;
    bench.powers.round().await.expect("a round");
    // Its worker answers later than the controller starts.
    bench.x99.is_up();
    bench.x99.drains();
    bench.powers.round().await.expect("a round");
    assert_eq!(bench.x99.state().drains, [true, false]);
}

#[tokio::test]
async fn a_backup_that_writes_to_a_repository_on_the_host_keeps_it_awake() {
    let bench = Bench::idle().await;
    bench.rig.set_site(|site| {
        format!(
            "{}[[repository]]\nname = \"far\"\nhost = \"x99\"\n[[backup]]\nname = \"wiki\"\n\
             host = \"cw-nas\"\nsource = \"files\"\nrepository = \"far\"\n\
             schedule = \"0 1 * * *\"\nrpo = \"26h\"\n",
            site.replace("[\"gpu-worker\"]", "[\"gpu-worker\", \"backup-agent\"]")
        )
    });
    for (number, kind) in [RunKind::Backup, RunKind::Drill].into_iter().enumerate() {
        let spec = bench.run(number as u128, kind);
        let id = spec.id;
        let mut tx = bench.rig.store.begin().await.expect("writable");
        let started = tx.runs().start(&spec).await.expect("kept");
        assert!(matches!(started, Started::New(_)), "{started:?}");
        tx.commit().await.expect("kept");
        let standing = bench.round().await;
        assert_eq!(reasons(&standing), [Reason::RUN_OPEN]);
        let said = format!("a {kind} of wiki runs on cw-nas with repository far on x99");
        assert_eq!(standing.because[0].message, said);
        let mut tx = bench.rig.store.begin().await.expect("writable");
        let outcome = RunOutcome::Cancelled;
        tx.runs().end(id, outcome, bench.rig.clock_now()).await.expect("kept");
        tx.commit().await.expect("kept");
    }
}

impl Bench {
    fn is_always_on(&self) {
        self.rig.set_site(|site| site.replace("expected-power = \"on-demand\"\n", ""));
    }

    fn run(&self, number: u128, kind: RunKind) -> RunSpec {
        RunSpec {
            id: Uuid::from_u128(number + 1).into(),
            backup: BackupName::try_new("wiki").expect("a name"),
            host: HostName::try_new("cw-nas").expect("a name"),
            kind,
            trigger: RunTrigger::Manual,
            started_by: "ada".to_owned(),
            started_at: self.rig.clock_now(),
            scheduled_for: None,
            snapshot_id: None,
            repository: (kind == RunKind::Drill)
                .then(|| RepositoryName::try_new("far").expect("a name")),
            drill_age: None,
            notes: Vec::new(),
        }
    }
}
