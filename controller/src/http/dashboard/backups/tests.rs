use homelab_proto::{
    backup::v1::DrillVerdict,
    common::v1::Failure,
    controller::v1::{
        BackupCopies, BackupCopy, BackupRisk, BackupStrategy, CopyRole, CopyRule, DrillEvidence,
        KitProof, Punctuality, RetentionPlan, Run, RunState, RunTrigger, Schedule,
        SnapshotDecision,
    },
};

use super::{one::OneObserved, *};
use crate::{
    backup::convert::{span_message, time_message},
    grpc::backup_schedule::strategy::BackupFacts,
    http::dashboard::view::Tone,
};

const CANARY: &str = "<img src=x onerror=alert(1)>\"'&";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn now() -> Timestamp {
    at("2026-02-02T12:00:00Z")
}

fn hours(hours: u64) -> Option<prost_types::Duration> {
    Some(span_message(std::time::Duration::from_hours(hours)))
}

fn viewer() -> Viewer {
    Viewer { person: "jan".to_owned(), role: "admin", csrf: "c".to_owned() }
}

/// A backup of which everything is known, and all of it is good.
fn well() -> BackupStrategy {
    let run = Run {
        run_id: "r".to_owned(),
        state: RunState::Succeeded.into(),
        finished_at: Some(time_message(at("2026-02-02T02:31:00Z"))),
        ..Run::default()
    };
    BackupStrategy {
        schedule: Some(Schedule {
            backup: "wiki".to_owned(),
            host: "hx310-db".to_owned(),
            punctuality: Punctuality::Ok.into(),
            grace: hours(1),
            next_run_at: Some(time_message(at("2026-02-03T01:30:00Z"))),
            last_run: Some(run),
            ..Schedule::default()
        }),
        risk: Some(BackupRisk {
            backup: "wiki".to_owned(),
            exposure: hours(10),
            rpo: hours(26),
            within_rpo: true,
            rto: hours(1),
            rto_median: Some(span_message(std::time::Duration::from_millis(14_200))),
            within_rto: Some(true),
            copies: Some(CopyRule { copies: 3, media: 3, off_site: 1, met: true, missing: vec![] }),
            newest_verified_at: Some(time_message(at("2026-02-02T02:00:00Z"))),
            punctuality: Punctuality::Ok.into(),
            ..BackupRisk::default()
        }),
        copies: Some(BackupCopies {
            backup: "wiki".to_owned(),
            rule: Some(CopyRule { copies: 3, media: 3, off_site: 1, met: true, missing: vec![] }),
            copies: vec![BackupCopy {
                role: CopyRole::Primary.into(),
                repository: "nas".to_owned(),
                medium: "nas".to_owned(),
                place: "home".to_owned(),
                counts: true,
                ..BackupCopy::default()
            }],
        }),
        last_evidence: Some(DrillEvidence {
            sequence: 4,
            run_id: "d".to_owned(),
            verdict: DrillVerdict::Passed.into(),
            digest: "ab".repeat(32),
            at: Some(time_message(at("2026-02-01T04:00:00Z"))),
            ..DrillEvidence::default()
        }),
        ..BackupStrategy::default()
    }
}

fn last_run(backup: &mut BackupStrategy) -> &mut Run {
    backup.schedule.as_mut().expect("set").last_run.as_mut().expect("set")
}

fn chain() -> Chain {
    Chain { walked_at: Some(now()), sequence: 9, fault: None }
}

fn showing(backups: Vec<BackupStrategy>) -> BackupsObserved {
    let proof = KitProof {
        passed: true,
        at: Some(time_message(at("2026-02-01T00:00:00Z"))),
        ..KitProof::default()
    };
    let strategy = GetStrategyResponse {
        backups,
        generated_at: Some(time_message(now())),
        last_proof: Some(proof),
        next_proof_due_at: Some(time_message(at("2026-03-01T00:00:00Z"))),
        ..GetStrategyResponse::default()
    };
    BackupsObserved { strategy, chain: chain() }
}

fn rendered(observed: &BackupsObserved) -> String {
    page(observed, &viewer(), 7, now()).expect("renders")
}

#[test]
fn what_is_known_to_be_good_is_shown_as_good() {
    assert_eq!(health::health(&well(), &chain()).tone, Tone::Ok);
    let page = rendered(&showing(vec![well()]));
    for words in [
        "Every backup is in order",
        "1 of 1 in time · 1 proved by a drill",
        "in time",
        "10 h</time> of 26 h",
        "14 s",
        "target 60 min",
        "3 of 3 copies · 3 of 2 media · 1 of 1 elsewhere",
        "signed and chained",
        "abababababab",
        "data-events=\"/events/backups\"",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
}

#[test]
fn what_nobody_knows_is_never_shown_as_healthy() {
    type Change = fn(&mut BackupStrategy);
    let unknowns: [(&str, Change); 13] = [
        ("risk", |it| it.risk = None),
        ("schedule", |it| it.schedule = None),
        ("evidence", |it| it.last_evidence = None),
        ("exposure", |it| it.risk.as_mut().expect("set").exposure = None),
        ("too old", |it| it.risk.as_mut().expect("set").within_rpo = false),
        ("too slow", |it| it.risk.as_mut().expect("set").within_rto = Some(false)),
        ("copies", |it| it.risk.as_mut().expect("set").copies = None),
        ("punctuality", |it| it.schedule.as_mut().expect("set").punctuality = 0),
        ("late", |it| {
            it.schedule.as_mut().expect("set").punctuality = Punctuality::Late.into();
        }),
        ("unverified", |it| {
            it.last_evidence.as_mut().expect("set").verdict = DrillVerdict::Unverified.into();
        }),
        ("no verdict", |it| it.last_evidence.as_mut().expect("set").verdict = 0),
        ("evidence from beyond the chain", |it| {
            it.last_evidence.as_mut().expect("set").sequence = 10;
        }),
        ("contact lost", |it| {
            let last = it.schedule.as_mut().expect("set").last_run.as_mut().expect("set");
            last.state = RunState::Unknown.into();
        }),
    ];
    for (what, change) in unknowns {
        let mut backup = well();
        change(&mut backup);
        let health = health::health(&backup, &chain());
        assert!(health.tone > Tone::Idle && health.word() != "ok", "{what}: {health:?}");
        let page = rendered(&showing(vec![backup]));
        assert!(!page.contains("Every backup is in order"), "{what}");
    }
    let empty = health::health(&BackupStrategy::default(), &Chain::default());
    assert!(empty.tone > Tone::Idle, "{empty:?}");
    assert!(!rendered(&BackupsObserved::default()).contains("Every backup is in order"));
}

#[test]
fn a_chain_that_nobody_walked_or_that_is_broken_proves_nothing() {
    let unwalked = BackupsObserved { chain: Chain::default(), ..showing(vec![well()]) };
    assert!(rendered(&unwalked).contains("not checked yet"));
    assert_eq!(health::health(&well(), &Chain::default()).tone, Tone::Warning);
    let fault = Some("statement 3 (drill): its text was changed".to_owned());
    let broken = Chain { sequence: 2, fault, ..chain() };
    assert_eq!(health::health(&well(), &broken).tone, Tone::Critical);
    let page = rendered(&BackupsObserved { chain: broken, ..showing(vec![well()]) });
    assert!(page.contains("does not fit the chain"), "{page}");
    assert!(page.contains("its text was changed"), "{page}");
}

#[test]
fn due_late_and_paused_say_since_when_and_why() {
    let with = |punctuality: Punctuality| {
        let mut backup = well();
        let schedule = backup.schedule.as_mut().expect("set");
        schedule.punctuality = punctuality.into();
        schedule.due_since = Some(time_message(at("2026-02-02T11:30:00Z")));
        schedule.held_by = "hx310-db does not answer".to_owned();
        rendered(&showing(vec![backup]))
    };
    let due = with(Punctuality::Due);
    for words in ["</span> due</span>", "30 min ago", "grace 60 min", "hx310-db does not answer"] {
        assert!(due.contains(words), "{words}: {due}");
    }
    assert!(due.contains("Every backup is in order"), "due is no fault");
    let late = with(Punctuality::Late);
    assert!(late.contains("</span> late</span>") && late.contains("One backup is at risk"));
    assert!(with(Punctuality::Paused).contains("</span> paused</span>"));
}

#[test]
fn a_run_is_shown_with_why_it_began_and_why_it_failed() {
    let mut backup = well();
    let last = last_run(&mut backup);
    last.state = RunState::Failed.into();
    last.started_by = "spiffe://home/user/ada/admin".to_owned();
    last.trigger = RunTrigger::CatchUp.into();
    last.failure = Some(Failure { message: "the disk is full".to_owned(), ..Failure::default() });
    let page = rendered(&showing(vec![backup.clone()]));
    assert!(page.contains("catches up what was missed"), "{page}");
    assert!(page.contains("the disk is full"), "{page}");
    last_run(&mut backup).trigger = RunTrigger::Manual.into();
    assert!(rendered(&showing(vec![backup])).contains(" · by ada<"));
}

#[test]
fn what_others_wrote_is_shown_as_text() {
    let text = || CANARY.to_owned();
    let mut backup = well();
    let schedule = backup.schedule.as_mut().expect("set");
    (schedule.backup, schedule.host, schedule.held_by) = (text(), text(), text());
    let run = schedule.last_run.as_mut().expect("set");
    run.notes = vec![text()];
    run.run_id = text();
    schedule.last_drill = Some(Run { notes: vec![text()], ..run.clone() });
    backup.drill_target = text();
    backup.restore_commands = vec![text()];
    let copies = backup.copies.as_mut().expect("set");
    copies.rule.as_mut().expect("set").missing = vec![text()];
    let copy = &mut copies.copies[0];
    (copy.repository, copy.medium, copy.place) = (text(), text(), text());
    copy.why_not = text();
    let evidence = backup.last_evidence.as_mut().expect("set");
    (evidence.snapshot_id, evidence.digest, evidence.run_id) = (text(), text(), text());
    (evidence.repository, evidence.drill_host, evidence.key_id) = (text(), text(), text());
    let gap = homelab_proto::controller::v1::RiskGap {
        message: text(),
        command: text(),
        ..Default::default()
    };
    backup.risk.as_mut().expect("set").gap_details = vec![gap];
    let mut observed = showing(vec![backup.clone()]);
    observed.strategy.site = text();
    observed.chain.fault = Some(text());
    let viewer = Viewer { person: text(), ..viewer() };
    let all = page(&observed, &viewer, 0, now()).expect("renders");
    let facts = BackupFacts {
        runs: vec![backup.schedule.as_ref().expect("set").last_run.clone().expect("set")],
        evidence: vec![backup.last_evidence.clone().expect("set")],
        plans: vec![RetentionPlan {
            repository: text(),
            decisions: vec![SnapshotDecision {
                snapshot_id: text(),
                reasons: vec![text()],
                ..SnapshotDecision::default()
            }],
            ..RetentionPlan::default()
        }],
        strategy: backup,
    };
    let observed = OneObserved { site: text(), facts, chain: observed.chain };
    let one = one::page(&observed, &viewer, now()).expect("renders");
    for page in [all, one] {
        assert!(!page.contains("<img src=x"), "{page}");
        assert!(page.matches("&#60;img src=x onerror").count() >= 12, "{page}");
        for forbidden in [" style=", "<style", " onclick=", "javascript:"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert_eq!(page.matches("<script").count(), 1);
    }
}

#[test]
fn a_reader_who_does_not_see_is_told_the_same() {
    let page = rendered(&showing(vec![well()]));
    let count = |needle: &str| page.matches(needle).count();
    assert_eq!(count("<h1"), 1);
    assert_eq!(count("<table"), count("<caption"), "every table says what it is");
    assert_eq!(count("<section "), count("aria-labelledby="), "every section has a name");
    assert_eq!(count("<th "), count("scope="), "every head says what it heads");
    assert!(page.contains("aria-current=\"page\">Backups"));
}

#[test]
fn sections_for_many_do_not_change_while_nothing_happens() {
    let (mut observed, first) = (showing(vec![well()]), showing(vec![well()]));
    observed.strategy.generated_at = Some(time_message(at("2026-02-02T12:00:02Z")));
    let first = first.sections(Ages::Counted).expect("renders");
    assert_eq!(first, observed.sections(Ages::Counted).expect("renders"));
    for (name, section) in BackupsObserved::SECTIONS.iter().zip(&first) {
        assert!(section.starts_with(&format!("<section id=\"{name}\"")), "{section}");
    }
}
