//! Retention, evidence, drills of all ages, upkeep: the reconcilers around the runs.

use homelab_domain::{
    drill::DrillAge,
    evidence::StatementKind,
    ids::{HostName, RepositoryName, RequestId},
    recovery::{KitProof, ProofItem},
    site::Backup,
};

use super::*;
use crate::{
    audit,
    backup::{
        agents::Upkeep,
        evidence,
        retention::{ApplyRetention, Deed, RetentionError, digest_of},
        upkeep::KeepUpRepositories,
    },
};

const NOW: &str = "2026-02-15T12:00:00Z";

/// Thirty days are kept; drills run on another host and restore the copy.
const KEEPING: &str = r#"
[site]
name = "home"
time-zone = "Europe/Amsterdam"
[[host]]
name = "hx310-db"
address = "127.0.0.1"
daemons = ["backup-agent"]
backup-agent-port = 9001
[[host]]
name = "qotom"
address = "127.0.0.1"
daemons = ["backup-agent"]
backup-agent-port = 9002
[[repository]]
name = "nas"
secret = "nas-key"
[[repository]]
name = "off-site"
place = "parents"
[[secret]]
name = "nas-key"
kept-in = ["kit"]
[retention]
last = 3
daily = 30
weekly = 0
monthly = 0
yearly = 0
[[backup]]
name = "wiki"
host = "hx310-db"
source = "postgres"
repository = "nas"
copies = ["off-site"]
schedule = "30 2 * * *"
rpo = "26h"
drill-schedule = "0 5 * * *"
drill-target = "scratch"
drill-host = "qotom"
drill-repository = "off-site"
"#;

impl Lab {
    /// With a snapshot a day in both repositories, which the one agent stands for.
    async fn keeping(days: u32) -> Self {
        let lab = Self::of(NOW, KEEPING).await;
        lab.agent.set_clock(time(NOW));
        for age in (0..days).rev() {
            lab.agent.hold(lab.aged(age), None);
        }
        lab.look_into_repositories().await;
        lab
    }

    /// The snapshot of so many days ago.
    fn aged(&self, days: u32) -> homelab_domain::run::SnapshotFact {
        let taken_at = time(NOW) - jiff::SignedDuration::from_hours(24 * i64::from(days) + 1);
        snapshot(run_id(1_000 + u128::from(days)), taken_at)
    }

    fn wiki(&self) -> Backup {
        self.backups.declared(&wiki()).expect("it is declared")
    }

    /// Has every backup that goes on end well, so that drills may begin.
    async fn end_open_backups(&self) {
        for run in self.runs().await {
            if run.spec.kind != RunKind::Backup || run.state.kind().is_final() {
                continue;
            }
            let id = run.spec.id;
            eventually("the run at the agent", async || {
                self.agent.begun().contains(&id).then_some(())
            })
            .await;
            self.agent.end(id, RunOutcome::Stored(snapshot(id, self.backups.now())));
            eventually("the end of the run", async || {
                let run = self.runs().await.into_iter().find(|run| run.spec.id == id)?;
                run.state.kind().is_final().then_some(())
            })
            .await;
        }
    }

    async fn retain(&self) -> Done {
        ApplyRetention(self.backups.clone()).activate().await.expect("the agent answers")
    }

    async fn gaps(&self) -> Vec<String> {
        let gaps = self.status().await.risk.gaps;
        gaps.iter().map(|gap| gap.because.reason.to_string()).collect()
    }

    /// What was stated of a kind, the newest first.
    async fn stated(&self, kind: StatementKind) -> Vec<serde_json::Value> {
        let mut tx = self.backups.parts().store.read().await.expect("the store answers");
        let page = PageRequest::first(500);
        let all = tx.attestations().list(kind, None, &page).await.expect("a page").items;
        all.iter().map(|one| serde_json::from_str(&one.statement).expect("JSON")).collect()
    }

    async fn fault(&self) -> Option<String> {
        let store = &self.backups.parts().store;
        evidence::verify(store.as_ref()).await.expect("the store answers").fault
    }
}

/// How old the snapshot was when its test began; none for one that came later.
fn day(id: &str) -> Option<u128> {
    u128::from_str_radix(id, 16).expect("an id of ours").checked_sub(1_000)
}

#[tokio::test]
async fn what_no_policy_keeps_is_given_up_and_deleted_a_week_later() {
    let lab = Lab::keeping(33).await;
    assert!(matches!(lab.retain().await, Done::Changed(_)));
    let given_up = |lab: &Lab| {
        let held = lab.agent.held().into_iter().filter(|(_, is_given_up)| *is_given_up);
        held.filter_map(|(id, _)| day(&id)).collect::<Vec<_>>()
    };
    assert_eq!(given_up(&lab), [30, 31, 32]);
    assert_eq!(lab.agent.held().len(), 33, "it can still be had back");
    assert_eq!(lab.retain().await, Done::Nothing);
    // A week later, with a fresh snapshot so that nothing is too old.
    let later = "2026-02-22T13:00:00Z";
    lab.clock.set(time(later));
    lab.agent.hold(snapshot(run_id(5), time("2026-02-22T12:00:00Z")), None);
    lab.look_into_repositories().await;
    lab.retain().await;
    assert!(lab.agent.held().iter().filter_map(|(id, _)| day(id)).all(|day| day < 30));
    let deleted = lab.stated(StatementKind::Deleted).await;
    assert!(deleted.iter().all(|one| one["plan"].as_str().is_some_and(|plan| plan.len() == 64)));
    assert!(!deleted.is_empty());
    // What was deleted by plan has not vanished.
    lab.clock.advance(Duration::from_secs(3600));
    lab.look_into_repositories().await;
    assert_eq!(lab.stated(StatementKind::Vanished).await.len(), 0);
    assert_eq!(lab.fault().await, None);
}

#[tokio::test]
async fn pitfall_40_a_verified_snapshot_that_vanishes_raises_an_alarm_and_stops_retention() {
    let lab = Lab::keeping(33).await;
    let stolen = lab.aged(12).id;
    lab.agent.steal(&stolen);
    lab.clock.advance(Duration::from_secs(3600));
    lab.look_into_repositories().await;
    let stated = lab.stated(StatementKind::Vanished).await;
    assert!(stated.iter().all(|one| one["snapshot_id"] == *stolen) && stated.len() == 2);
    assert!(lab.gaps().await.contains(&"SNAPSHOT_VANISHED".to_owned()));
    let mut tx = lab.backups.parts().store.read().await.expect("the store answers");
    let alarms =
        tx.audit().list(Some(audit::ALARM), &PageRequest::first(10)).await.expect("a page");
    assert!(alarms.items[0].entry.detail.contains(&stolen), "{:?}", alarms.items[0]);
    drop(tx);
    lab.retain().await;
    assert_eq!(lab.agent.retained(), [], "nothing is given up while something is amiss");
    // A person looks, and lets this one go; the next theft is another matter.
    let wiki = lab.wiki();
    let let_go = lab.backups.acknowledge_brake(
        &wiki,
        "SNAPSHOT_VANISHED",
        &stolen,
        "ada".to_owned(),
        "I pruned by hand".to_owned(),
    );
    assert!(let_go.await.expect("there is such a brake").acknowledged_by.is_some());
    lab.retain().await;
    assert_eq!(lab.agent.retained().len(), 2, "one plan for each repository");
    assert!(!lab.gaps().await.contains(&"SNAPSHOT_VANISHED".to_owned()));
}

#[tokio::test]
async fn pitfall_20_a_full_repository_stops_retention() {
    let lab = Lab::keeping(33).await;
    lab.agent.refuse("REPOSITORY_FULL");
    lab.start(7, RunKind::Backup).await.expect("started");
    lab.until(RunStateKind::Failed).await;
    lab.retain().await;
    assert_eq!(lab.agent.retained(), []);
}

#[tokio::test]
async fn pitfall_21_runs_that_fail_for_days_stop_retention() {
    let lab = Lab::keeping(33).await;
    lab.clock.advance(Duration::from_secs(3 * 24 * 3600));
    lab.retain().await;
    assert_eq!(lab.agent.retained(), [], "the newest good one is older than its target");
}

#[tokio::test]
async fn a_plan_that_changed_since_it_was_looked_at_is_not_carried_out() {
    let lab = Lab::keeping(33).await;
    let (backup, policy) = (lab.wiki(), lab.backups.policy_of(&lab.wiki()));
    let plans = lab.backups.plan_retention_now(&backup, &policy).await.expect("a plan");
    let (nas, digest) = (RepositoryName::try_new("nas").expect("a name"), digest_of(&plans[0]));
    lab.agent.hold(snapshot(run_id(9), time(NOW)), None);
    let apply = |digest: String| {
        let (lab, backup, nas) = (&lab, backup.clone(), nas.clone());
        async move { lab.backups.apply_retention(&backup, &nas, &digest, Deed::CarryOut, "ada").await }
    };
    assert!(matches!(apply(digest).await, Err(RetentionError::Stale(_))));
    let plans = lab.backups.plan_retention_now(&backup, &policy).await.expect("a plan");
    assert_eq!(apply(digest_of(&plans[0])).await.expect("carried out").quarantined, 3);
    let entry = {
        let mut tx = lab.backups.parts().store.read().await.expect("the store answers");
        tx.audit().list(Some("ada"), &PageRequest::first(1)).await.expect("a page").items.remove(0)
    };
    assert_eq!(entry.entry.action, "apply-retention");
}

#[tokio::test]
async fn drills_go_round_the_ages_on_another_host_and_leave_signed_evidence() {
    let lab = Lab::keeping(40).await;
    let mut ages = Vec::new();
    for round in 0..3 {
        lab.clock.set(time(NOW) + jiff::SignedDuration::from_hours(24 * round));
        lab.tick().await;
        lab.end_open_backups().await;
        lab.tick().await;
        let runs = lab.runs().await;
        let drill =
            runs.iter().find(|run| run.spec.kind == RunKind::Drill && !run.state.kind().is_final());
        let drill = drill.expect("a drill is due").clone();
        assert_eq!(drill.spec.host, HostName::try_new("qotom").expect("a name"));
        assert_eq!(drill.spec.repository, RepositoryName::try_new("off-site").ok());
        ages.push((drill.spec.drill_age, drill.spec.snapshot_id.as_deref().and_then(day)));
        eventually("the drill at the agent", async || {
            lab.agent.begun().contains(&drill.spec.id).then_some(())
        })
        .await;
        let fact = drilled(DrillVerdict::Passed, lab.backups.now());
        lab.agent.end(drill.spec.id, RunOutcome::Drilled(fact));
        eventually("the end of the drill", async || {
            let run = lab.runs().await.into_iter().find(|run| run.spec.id == drill.spec.id)?;
            run.state.kind().is_final().then_some(())
        })
        .await;
    }
    // A week old is what is 7 days old when the second drill comes, a day later.
    let expected = [(DrillAge::Newest, 0), (DrillAge::Weekly, 6), (DrillAge::Monthly, 28)];
    assert_eq!(ages, expected.map(|(age, day)| (Some(age), Some(day))));
    let stated = lab.stated(StatementKind::Drill).await;
    assert_eq!(stated.len(), 3);
    let (first, second) = (&stated[2], &stated[1]);
    assert_eq!((&first["age"], &second["age"]), (&"newest".into(), &"weekly".into()));
    assert_eq!(first["source_host"], "hx310-db");
    assert_eq!((&first["drill_host"], &first["repository"]), (&"qotom".into(), &"off-site".into()));
    assert_eq!(lab.fault().await, None);
}

#[tokio::test]
async fn a_part_of_each_repository_is_read_every_day_and_damage_is_told() {
    let lab = Lab::keeping(3).await;
    let keep_up = async || {
        KeepUpRepositories(lab.backups.clone()).activate().await.expect("the agent answers")
    };
    keep_up().await;
    assert_eq!(keep_up().await, Done::Nothing, "once a day");
    let both = [Upkeep::Scrub { parts: 30 }, Upkeep::Prune];
    assert_eq!(lab.agent.upkeep(), [both, both].concat());
    lab.agent.damage("pack 7 does not have its hash");
    lab.clock.advance(Duration::from_secs(25 * 3600));
    keep_up().await;
    let scrubs = lab.agent.upkeep().split_off(4);
    assert!(!scrubs.contains(&Upkeep::Prune), "nothing is freed where something is damaged");
    assert!(lab.gaps().await.contains(&"REPOSITORY_DAMAGED".to_owned()));
}

#[tokio::test]
async fn pitfall_39_copies_are_counted_from_what_was_seen() {
    let lab = Lab::keeping(3).await;
    let rule = lab.backups.copies().await.expect("the store answers").remove(0).rule;
    assert!(rule.is_met(), "{:?}", rule.missing);
    // Nobody has been able to look for a day: what was there counts for nothing.
    lab.agent.deafen("the tunnel is down");
    lab.clock.advance(Duration::from_secs(3600));
    ReadRepositories(lab.backups.clone()).activate().await.expect_err("it cannot be read");
    let view = lab.backups.copies().await.expect("the store answers").remove(0);
    assert_eq!((view.rule.copies, view.rule.off_site), (1, 0));
    assert!(view.copies[2].why_not.as_ref().is_some_and(|why| why.contains("tunnel")));
    assert!(lab.gaps().await.contains(&"COPIES_MISSING".to_owned()));
}

#[tokio::test]
async fn pitfall_37_a_kit_that_nobody_proved_is_a_gap_until_somebody_does() {
    let lab = Lab::keeping(3).await;
    assert!(lab.gaps().await.contains(&"KIT_UNPROVED".to_owned()));
    let item = ProofItem { secret: "nas-key".to_owned(), opened: true, message: String::new() };
    let proof = KitProof {
        at: lab.backups.now(),
        by: "ada".to_owned(),
        fingerprint: lab.backups.kit_fingerprint(),
        items: vec![item],
    };
    let call = |number: u128| RequestId::from(Uuid::from_u128(number));
    let record = async |proof: &KitProof, digest: u8| {
        let kept = lab.backups.record_kit_proof(proof.clone(), call(1), [digest; 32]).await;
        kept.expect("the store answers")
    };
    assert_eq!(record(&proof, 1).await, Some(proof.clone()));
    // The same call comes again, later, since its answer was lost: nothing is stated twice.
    let again = KitProof { at: proof.at + jiff::SignedDuration::from_secs(9), ..proof.clone() };
    assert_eq!(record(&again, 1).await, Some(proof.clone()));
    assert_eq!(record(&again, 2).await, None, "the id is of another call");
    assert_eq!(lab.stated(StatementKind::KitProof).await.len(), 1);
    assert_eq!(lab.backups.last_kit_proof().await.expect("the store answers"), Some(proof));
    assert!(!lab.gaps().await.iter().any(|gap| gap.starts_with("KIT")));
    lab.clock.advance(Duration::from_secs(32 * 24 * 3600));
    assert!(lab.gaps().await.contains(&"KIT_UNPROVED".to_owned()));
}

#[tokio::test]
async fn pitfall_24_a_run_that_nobody_can_ask_about_does_not_keep_the_next_for_ever() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.tick_at("2026-02-02T01:30:30Z").await;
    lab.until_heard().await;
    lab.agent.deafen("no route to host");
    lab.until(RunStateKind::Unknown).await;
    lab.clock.advance(Duration::from_secs(23 * 3600));
    lab.until(RunStateKind::Unknown).await;
    lab.clock.advance(Duration::from_secs(2 * 3600));
    let run = lab.until(RunStateKind::Failed).await;
    assert_eq!(failed(&run).reason.as_str(), "RUN_LOST");
    lab.agent.plug();
    lab.tick().await;
    assert_eq!(lab.newest().await.spec.trigger, RunTrigger::CatchUp);
    lab.until_begun(2).await;
}

#[tokio::test]
async fn pitfall_24_a_run_that_was_stored_while_both_were_restarted_is_not_run_again() {
    let mut lab = Lab::at("2026-02-02T00:00:00Z").await;
    // The agent hears of the run, and the controller dies before it hears back.
    lab.agent.deafen("the network went away");
    lab.tick_at("2026-02-02T01:30:30Z").await;
    let run = lab.until(RunStateKind::Unknown).await;
    lab.restart().await;
    lab.agent.hold(snapshot(run.spec.id, lab.backups.now()), Some(run.spec.id));
    lab.agent.restart();
    lab.agent.plug();
    FollowRuns(lab.backups.clone()).activate().await.expect("the store answers");
    lab.until(RunStateKind::Succeeded).await;
    assert_eq!(lab.agent.begun(), [], "it is in the repository already");
}

#[tokio::test]
async fn a_controller_that_was_taken_over_from_writes_nothing_of_a_run() {
    let lab = Lab::at("2026-02-02T00:00:00Z").await;
    lab.start(7, RunKind::Backup).await.expect("started");
    lab.until_heard().await;
    let later = lab.backups.now() + jiff::SignedDuration::from_hours(1);
    let store = &lab.backups.parts().store;
    let taken = Lease::acquire(store.as_ref(), "standby", later).await.expect("the lease");
    assert_ne!(taken.token(), lab.backups.parts().lease.token());
    lab.agent.end(run_id(7), RunOutcome::Cancelled);
    eventually("the agent's end at the follower", async || {
        let run = lab.newest().await;
        (run.state.kind() == RunStateKind::Running).then_some(())
    })
    .await;
    let stale = lab.backups.look_into(&lab.wiki(), &lab.wiki().repository).await;
    assert!(stale.is_ok(), "nothing is new there, so that nothing is written");
    lab.agent.hold(snapshot(run_id(8), lab.backups.now()), None);
    let refused = lab.backups.look_into(&lab.wiki(), &lab.wiki().repository).await;
    assert!(refused.is_err(), "what is new is kept by the one that leads");
}
