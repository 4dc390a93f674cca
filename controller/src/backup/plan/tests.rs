use homelab_domain::{ids::RunId, run::RunSpec};
use homelab_store::Paused;

mod year;

use super::*;
use crate::{backup::tests::time, site::SiteFile};

const NOW: &str = "2026-02-02T12:00:00Z";

fn site(power: &str) -> std::sync::Arc<Site> {
    let text = format!(
        "[site]\nname = \"home\"\n[[repository]]\nname = \"nas\"\n\
         [[host]]\nname = \"x99\"\naddress = \"127.0.0.1\"\nmac = \"02:00:00:00:00:01\"\n\
         expected-power = \"{power}\"\ndaemons = [\"backup-agent\"]\n\
         [[backup]]\nname = \"wiki\"\nhost = \"x99\"\nsource = \"postgres\"\n\
         repository = \"nas\"\nschedule = \"0 2 * * *\"\nrpo = \"26h\"\n\
         drill-schedule = \"0 5 * * 0\"\ndrill-target = \"spare\"\n"
    );
    SiteFile::parse("homelab.toml", &text, time(NOW)).unwrap_or_else(|bad| panic!("{bad}")).site
}

fn key(kind: RunKind) -> ScheduleKey {
    ScheduleKey { backup: BackupName::try_new("wiki").expect("a name"), kind }
}

/// Both schedules are known for a month and have never fired.
fn observed() -> Observed {
    let record = |kind| ScheduleRecord {
        key: key(kind),
        known_since: time("2026-01-02T12:00:00Z"),
        last_fired_for: None,
        paused: None,
    };
    let kinds = [RunKind::Backup, RunKind::Drill];
    let records = kinds.map(|kind| (key(kind), record(kind))).into();
    Observed { records, ..Observed::default() }
}

/// A run of a schedule that goes on.
fn run(kind: RunKind) -> Run {
    Run::start(RunSpec {
        id: RunId::from(uuid::Uuid::from_u128(1)),
        backup: key(kind).backup,
        host: HostName::try_new("x99").expect("a name"),
        kind,
        trigger: RunTrigger::Schedule,
        started_by: "schedule".to_owned(),
        started_at: time(NOW),
        scheduled_for: None,
        snapshot_id: None,
        repository: None,
        drill_age: None,
        notes: Vec::new(),
    })
}

fn decided(kind: RunKind, power: &str, observed: &Observed) -> Decision {
    let all = plan(time(NOW), &site(power), observed);
    all.into_iter().find(|one| one.key == key(kind)).expect("a schedule").decision
}

fn held_by(decision: Decision) -> (String, Timestamp) {
    match decision {
        Decision::Hold { because, since } => (because.reason.to_string(), since),
        other => panic!("not held: {other:?}"),
    }
}

#[test]
fn a_drill_waits_for_something_to_restore_and_for_the_run_that_makes_it() {
    let mut observed = observed();
    let drill = |observed: &Observed| decided(RunKind::Drill, "on", observed);
    assert_eq!(held_by(drill(&observed)).0, "NEVER_BACKED_UP");
    observed.restorable.insert(key(RunKind::Backup).backup);
    observed.open.insert(key(RunKind::Backup));
    assert_eq!(held_by(drill(&observed)).0, "RUN_IN_PROGRESS");
    observed.open.clear();
    assert!(matches!(drill(&observed), Decision::Start { trigger: RunTrigger::CatchUp, .. }));
}

#[test]
fn a_drill_that_goes_on_does_not_keep_a_backup() {
    let mut observed = observed();
    observed.open.insert(key(RunKind::Drill));
    let decision = decided(RunKind::Backup, "on", &observed);
    assert!(matches!(decision, Decision::Start { .. }), "{decision:?}");
}

#[test]
fn a_host_that_sleeps_is_told_from_one_that_is_gone() {
    let mut observed = observed();
    observed.silent.insert(HostName::try_new("x99").expect("a name"), "no route".to_owned());
    let by = |power| held_by(decided(RunKind::Backup, power, &observed));
    let since = time("2026-01-03T02:00:00Z");
    assert_eq!(by("on"), ("HOST_UNREACHABLE".to_owned(), since));
    assert_eq!(by("on-demand"), ("EXPECTED_ASLEEP".to_owned(), since));
}

#[test]
fn the_first_drill_is_due_at_once_and_only_once() {
    let mut observed = observed();
    for record in observed.records.values_mut() {
        record.last_fired_for = Some(time(NOW));
    }
    let drill = |observed: &Observed| decided(RunKind::Drill, "on", observed);
    assert!(matches!(drill(&observed), Decision::Wait { next: Some(_) }), "nothing to drill");
    observed.restorable.insert(key(RunKind::Backup).backup);
    assert!(matches!(drill(&observed), Decision::Start { .. }));
    observed.last.insert(key(RunKind::Drill), run(RunKind::Drill));
    assert!(matches!(drill(&observed), Decision::Wait { next: Some(_) }));
}

#[test]
fn a_paused_schedule_has_no_next_time() {
    let mut observed = observed();
    let paused =
        Paused { by: "ada".to_owned(), reason: "move".to_owned(), at: time(NOW), until: None };
    for record in observed.records.values_mut() {
        record.paused = Some(paused.clone());
    }
    let decision = decided(RunKind::Backup, "on", &observed);
    assert_eq!(decision, Decision::Wait { next: None });
}

#[test]
fn a_pause_with_an_end_makes_up_for_nothing_and_fires_again() {
    let mut observed = observed();
    let until = Some(time("2026-02-04T12:00:00Z"));
    let paused = Paused { by: "ada".to_owned(), reason: "move".to_owned(), at: time(NOW), until };
    for record in observed.records.values_mut() {
        record.paused = Some(paused.clone());
    }
    let at = |now: &str| {
        let all = plan(time(now), &site("on"), &observed);
        all.into_iter().find(|one| one.key == key(RunKind::Backup)).expect("a schedule").decision
    };
    let next = Some(time("2026-02-05T02:00:00Z"));
    assert_eq!(at("2026-02-03T12:00:00Z"), Decision::Wait { next });
    assert!(matches!(at("2026-02-04T12:00:01Z"), Decision::Wait { .. }));
    let fired = at("2026-02-05T02:00:30Z");
    assert!(matches!(fired, Decision::Start { trigger: RunTrigger::Schedule, .. }), "{fired:?}");
}

#[test]
fn each_schedule_is_late_by_its_own_constant_amount() {
    let site = site("on");
    let backup = &site.backups()[0];
    let late = |kind| jitter(backup, &key(kind));
    assert!(late(RunKind::Backup) <= backup.jitter);
    assert_eq!(late(RunKind::Backup), late(RunKind::Backup));
    assert_ne!(late(RunKind::Backup), late(RunKind::Drill));
}
