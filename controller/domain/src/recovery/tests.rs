use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{
    fleet::Verdict,
    ids::SiteName,
    reason::Reason,
    schedule::{Schedule, Zone},
    site::{
        Backup, ExpectedPower, Host, KIT_PROOF_EVERY, Power, Repository, Secret, Service,
        ServiceKind, SiteDraft, SourceKind,
    },
};

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn host(name: &str, last: u8) -> Host {
    Host {
        name: HostName::try_new(name).unwrap(),
        address: [192, 168, 200, last].into(),
        description: String::new(),
        place: "home".to_owned(),
        expected_power: ExpectedPower::On,
        mac: None,
        power: Power::default(),
        daemons: vec![crate::site::Daemon::on_default_port(crate::site::DaemonKind::BackupAgent)],
    }
}

fn service(name: &str, needs: &[&str]) -> Service {
    Service {
        name: ServiceName::try_new(name).unwrap(),
        host: HostName::try_new("db").unwrap(),
        port: 1,
        kind: ServiceKind::Tcp,
        needs: needs.iter().map(|name| ServiceName::try_new(name).unwrap()).collect(),
    }
}

fn backup(name: &str, service: &str) -> Backup {
    let names =
        |name| (BackupName::try_new(name).unwrap(), RepositoryName::try_new("nas").unwrap());
    let (name, repository) = names(name);
    let schedule = Schedule::try_new("0 3 * * *", Zone::UTC).unwrap();
    let host = HostName::try_new("db").unwrap();
    let rpo = Duration::from_hours(26);
    Backup {
        services: vec![ServiceName::try_new(service).unwrap()],
        ..Backup::new(name, host, repository, SourceKind::Postgres, schedule, rpo)
    }
}

fn secret(name: &str, kept_in: &[&str]) -> Secret {
    Secret {
        name: SecretName::try_new(name).unwrap(),
        description: String::new(),
        kept_in: kept_in.iter().map(|keeper| keeper.parse().unwrap()).collect(),
        services: vec![],
    }
}

/// A database, a password manager on it, and a wiki; one repository, opened by a key.
fn site(key_kept_in: &[&str]) -> Site {
    let nas = Repository {
        secret: Some(SecretName::try_new("nas-key").unwrap()),
        ..Repository::new(RepositoryName::try_new("nas").unwrap(), "home")
    };
    let draft = SiteDraft {
        name: SiteName::try_new("home").unwrap(),
        domain: "home.arpa".to_owned(),
        time_zone: Zone::UTC,
        hosts: vec![host("db", 20)],
        networks: vec![],
        segment_rules: vec![],
        services: vec![
            service("postgres", &[]),
            service("vaultwarden", &["postgres"]),
            service("wiki", &["postgres"]),
        ],
        repositories: vec![nas],
        backups: vec![backup("databases", "postgres"), backup("passwords", "vaultwarden")],
        windows: vec![],
        secrets: vec![secret("nas-key", key_kept_in)],
        kit_proof_every: KIT_PROOF_EVERY,
        gold: crate::site::Gold::default(),
        context: vec![],
        tiers: vec![],
    };
    draft.check(now()).unwrap()
}

fn order(start: &ColdStart) -> Vec<String> {
    start.steps.iter().map(|step| format!("{} {}", step.stage, step.subject)).collect()
}

#[test]
fn a_cold_start_brings_everything_back_in_an_order_that_works() {
    let start = cold_start(&site(&["kit"]));
    assert_eq!(
        order(&start),
        [
            "1 host/db",
            "1 secret/nas-key",
            "2 repository/nas",
            "3 backup/databases",
            "3 backup/passwords",
            "4 service/postgres",
            "5 service/vaultwarden",
            "5 service/wiki",
        ]
    );
    let mut back = BTreeSet::from([Subject::Kit]);
    for step in &start.steps {
        assert!(step.needs.iter().all(|need| back.contains(need)), "{step:?}");
        back.insert(step.subject.clone());
    }
    assert!(start.loops.is_empty() && start.unreachable.is_empty());
}

#[test]
fn pitfall_38_a_secret_that_is_only_inside_of_what_it_protects_is_a_loop() {
    let start = cold_start(&site(&["service/vaultwarden"]));
    let told: Vec<_> = start.loops.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    for subject in ["secret/nas-key", "service/vaultwarden", "repository/nas"] {
        assert!(told[0].contains(&format!("{subject} needs ")), "{told:?}");
    }
    assert_eq!(order(&start), ["1 host/db"], "nothing else comes back");
    assert!(!start.reaches(&Subject::Secret(SecretName::try_new("nas-key").unwrap())));
}

#[test]
fn pitfall_38_a_secret_inside_its_own_backup_is_a_loop_of_three() {
    let start = cold_start(&site(&["backup/passwords"]));
    let subjects: Vec<_> = start.loops[0].subjects.iter().map(ToString::to_string).collect();
    assert_eq!(subjects, ["secret/nas-key", "backup/passwords", "repository/nas"]);
}

#[test]
fn a_second_place_outside_opens_the_loop() {
    let start = cold_start(&site(&["service/vaultwarden", "kit"]));
    assert!(start.loops.is_empty(), "{:?}", start.loops);
}

#[test]
fn services_that_need_each_other_are_a_loop() {
    let mut draft = site(&["kit"]).into_draft();
    draft.services[0].needs = vec![ServiceName::try_new("wiki").unwrap()];
    let start = cold_start(&draft.check(now()).unwrap());
    assert_eq!(
        start.loops[0].to_string(),
        "service/postgres needs service/wiki needs service/postgres"
    );
    let vaultwarden = Subject::Service(ServiceName::try_new("vaultwarden").unwrap());
    assert!(!start.reaches(&vaultwarden), "it is in no loop, and waits for one");
    assert_eq!(start.loops.len(), 1);
}

fn proof(days_ago: i64, items: &[(&str, bool)]) -> KitProof {
    KitProof {
        at: now() - SignedDuration::from_hours(24 * days_ago),
        by: "ada".to_owned(),
        fingerprint: "f1".to_owned(),
        items: items
            .iter()
            .map(|(secret, opened)| ProofItem {
                secret: (*secret).to_owned(),
                opened: *opened,
                message: "wrong password".to_owned(),
            })
            .collect(),
    }
}

#[test]
fn pitfall_37_a_kit_that_nobody_has_opened_this_month_is_a_risk() {
    let site = site(&["kit"]);
    let gap = |proof: Option<&KitProof>, fingerprint| {
        proof_gap(now(), &site, fingerprint, proof).map(|gap| (gap.because.reason, gap.verdict))
    };
    let good = proof(3, &[("nas-key", true)]);
    assert_eq!(gap(Some(&good), "f1"), None);
    assert_eq!(gap(None, "f1"), Some((Reason::KIT_UNPROVED, Verdict::Warning)));
    let old = proof(32, &[("nas-key", true)]);
    assert_eq!(gap(Some(&old), "f1"), Some((Reason::KIT_UNPROVED, Verdict::Warning)));
    let failed = proof(3, &[("nas-key", false)]);
    assert_eq!(gap(Some(&failed), "f1"), Some((Reason::KIT_FAILED, Verdict::Critical)));
    let another = proof(3, &[("ca-root", true)]);
    assert_eq!(gap(Some(&another), "f1"), Some((Reason::KIT_UNPROVED, Verdict::Warning)));
    assert_eq!(gap(Some(&good), "f2"), Some((Reason::KIT_OUTDATED, Verdict::Warning)));
}
