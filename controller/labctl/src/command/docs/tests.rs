//! Both documents in full, from fixed facts: what a reader is shown changes only on purpose.

use std::{env, fs, path::Path};

use homelab_proto::{
    backup::v1::{DrillVerdict, SourceKind},
    controller::v1::{
        BackupCopies, BackupCopy, BackupRisk, BackupStrategy, ColdStart, ColdStartStep, CopyRole,
        CopyRule, DrillEvidence, KeepPolicy, KitProof, KitRepository, KitSecret, MaintenanceWindow,
        Punctuality, RiskGap, Schedule,
    },
};

use super::*;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// So many hours after the first of February.
fn at(hours: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_769_904_000 + hours * 3_600, nanos: 0 })
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Drilled, copied and in time.
fn wiki() -> BackupStrategy {
    let copy = |role: CopyRole, repository: &str, medium: &str, place: &str| BackupCopy {
        role: role.into(),
        repository: repository.to_owned(),
        medium: medium.to_owned(),
        place: place.to_owned(),
        newest_at: at(26),
        counts: true,
        scrubbed_at: at(-100),
        ..BackupCopy::default()
    };
    let rule = CopyRule { copies: 3, media: 3, off_site: 1, met: true, missing: Vec::new() };
    BackupStrategy {
        schedule: Some(Schedule {
            backup: "wiki".to_owned(),
            host: "hx310-db".to_owned(),
            cron: "30 2 * * *".to_owned(),
            time_zone: "Europe/Amsterdam".to_owned(),
            drill_cron: "0 5 * * 0".to_owned(),
            rpo: seconds(93_600),
            rto: seconds(1_800),
            grace: seconds(3_600),
            jitter: seconds(90),
            punctuality: Punctuality::Ok.into(),
            windows: texts(&["parity-check"]),
            ..Schedule::default()
        }),
        risk: Some(BackupRisk {
            backup: "wiki".to_owned(),
            exposure: seconds(7_200),
            within_rpo: true,
            rto_median: seconds(240),
            rto_95: seconds(300),
            last_rto: seconds(250),
            ..BackupRisk::default()
        }),
        copies: Some(BackupCopies {
            backup: "wiki".to_owned(),
            rule: Some(rule),
            copies: vec![
                copy(CopyRole::Source, "", "host/hx310-db", "home"),
                copy(CopyRole::Primary, "nas", "unraid-array", "home"),
                copy(CopyRole::Copy, "parents", "usb-disk", "parents"),
            ],
        }),
        retention: Some(KeepPolicy {
            last: 3,
            daily: 14,
            weekly: 8,
            floor: 3,
            quarantine: seconds(604_800),
            ..KeepPolicy::default()
        }),
        last_evidence: Some(DrillEvidence {
            sequence: 42,
            verdict: DrillVerdict::Passed.into(),
            at: at(20),
            snapshot_id: "ab".repeat(32),
            snapshot_taken_at: at(2),
            repository: "nas".to_owned(),
            drill_host: "qotom".to_owned(),
            restore_elapsed: seconds(250),
            digest: "cd".repeat(32),
            ..DrillEvidence::default()
        }),
        source_kind: SourceKind::Postgres.into(),
        services: texts(&["wiki"]),
        drill_target: "nas-postgres on qotom".to_owned(),
        restore_commands: texts(&["restic -r /mnt/nas restore ID --target /var/tmp/restore-wiki"]),
    }
}

/// Nothing of it is known to be good.
fn photos() -> BackupStrategy {
    let gap = RiskGap {
        message: "never backed up: everything would be lost".to_owned(),
        command: "labctl backup run photos".to_owned(),
        ..RiskGap::default()
    };
    BackupStrategy {
        schedule: Some(Schedule {
            backup: "photos".to_owned(),
            host: "cw-nas".to_owned(),
            cron: "0 3 * * *".to_owned(),
            time_zone: "Europe/Amsterdam".to_owned(),
            rpo: seconds(93_600),
            punctuality: Punctuality::Late.into(),
            ..Schedule::default()
        }),
        risk: Some(BackupRisk { gap_details: vec![gap], ..BackupRisk::default() }),
        source_kind: SourceKind::Zfs.into(),
        ..BackupStrategy::default()
    }
}

fn facts() -> GetStrategyResponse {
    let repository = |name: &str, place: &str, secret: &str| KitRepository {
        name: name.to_owned(),
        location: format!("the repository {name}"),
        place: place.to_owned(),
        medium: format!("{name}-disk"),
        secret: secret.to_owned(),
        paths: vec![format!("hx310-db:/mnt/{name}")],
        ..KitRepository::default()
    };
    let step = |number, stage, subject: &str, needs: &[&str], command: &str| ColdStartStep {
        number,
        stage,
        subject: subject.to_owned(),
        title: format!("bring {subject} back"),
        needs: texts(needs),
        commands: texts(&[command]),
        measured: (stage == 3).then(|| seconds(250)).flatten(),
    };
    let secret = |name: &str, kept_in: &[&str], why_not: &str| KitSecret {
        name: name.to_owned(),
        opens: format!("what {name} says"),
        kept_in: texts(kept_in),
        reachable: why_not.is_empty(),
        why_not: why_not.to_owned(),
    };
    GetStrategyResponse {
        site: "home".to_owned(),
        generated_at: at(28),
        time_zone: "Europe/Amsterdam".to_owned(),
        backups: vec![wiki(), photos()],
        repositories: vec![
            repository("nas", "home", "nas-key"),
            repository("parents", "parents", "parents-key"),
        ],
        cold_start: Some(ColdStart {
            steps: vec![
                step(1, 1, "host/hx310-db", &[], "labctl host enroll hx310-db"),
                step(2, 1, "secret/nas-key", &["kit"], "true"),
                step(3, 2, "repository/nas", &["secret/nas-key"], "restic -r /mnt/nas snapshots"),
                step(4, 3, "backup/wiki", &["repository/nas"], "homelab-backup-agent restore wiki"),
                step(
                    5,
                    4,
                    "service/wiki",
                    &["host/hx310-db", "backup/wiki"],
                    "systemctl start wiki",
                ),
            ],
            loops: texts(&["secret/vault-key needs service/vault needs secret/vault-key"]),
        }),
        last_proof: Some(KitProof {
            at: at(-24),
            by: "spiffe://home/user/ada/admin".to_owned(),
            passed: true,
            ..KitProof::default()
        }),
        next_proof_due_at: at(700),
        windows: vec![MaintenanceWindow {
            name: "parity-check".to_owned(),
            cron: "0 4 1 * *".to_owned(),
            time_zone: "Europe/Amsterdam".to_owned(),
            length: seconds(36_000),
            description: "unRAID reads all of its disks".to_owned(),
            ..MaintenanceWindow::default()
        }],
        secrets: vec![
            secret("nas-key", &["kit", "service/vault"], ""),
            secret("vault-key", &["service/vault"], "it is only inside of what it opens"),
        ],
    }
}

/// Compares with the document in `testdata`; `UPDATE=1` writes it anew.
fn is_as_written(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, text).expect("testdata can be written");
    }
    let written = fs::read_to_string(&path).expect("the document is in testdata");
    assert_eq!(text, written, "UPDATE=1 accepts it");
}

#[test]
fn the_strategy_reads_as_it_was_agreed() {
    let text = strategy::document(&facts());
    is_as_written(STRATEGY, &text);
    for said in
        ["26 h", "4 min", "unraid-array", "`nas-key`", "number 42", "**everything, too much**"]
    {
        assert!(text.contains(said), "{said}");
    }
}

#[test]
fn the_runbook_brings_back_first_what_others_need() {
    let text = runbook::document(&facts());
    is_as_written(RUNBOOK, &text);
    let order =
        ["host/hx310-db", "secret/nas-key", "repository/nas", "backup/wiki", "service/wiki"];
    let places: Vec<_> =
        order.iter().map(|subject| text.find(&format!("**bring {subject}"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
    assert!(text.contains("needs service/vault needs secret/vault-key"));
}

#[test]
fn a_document_that_a_person_wrote_is_left_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join(STRATEGY);
    assert!(ours_or_nothing(&path).is_ok(), "there is nothing yet");
    write(&path, &format!("{MARK}# Ours\n")).expect("written");
    assert!(ours_or_nothing(&path).is_ok());
    fs::write(&path, "# Mine\n").expect("written");
    let Err(Failure::Said(trouble)) = ours_or_nothing(&path) else { panic!("it is a person's") };
    assert!(trouble.what.contains(STRATEGY), "{}", trouble.what);
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1, "nothing half-written");
}
