use std::time::Duration;

use super::*;
use crate::{
    ids::{BackupName, ModelName, NetworkName, RepositoryName, SiteName},
    schedule::{Schedule, Zone},
    site::{
        Daemon, NetworkSegment, Repository, SegmentRule, SegmentVerdict, Service, ServiceKind,
        SourceKind,
    },
};

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn name(text: &str) -> HostName {
    HostName::try_new(text).unwrap()
}

fn host(text: &str, last: u8) -> Host {
    Host {
        name: name(text),
        address: [192, 168, 200, last].into(),
        description: String::new(),
        expected_power: ExpectedPower::On,
        mac: None,
        daemons: DaemonKind::ALL.iter().copied().map(Daemon::on_default_port).collect(),
    }
}

fn draft() -> SiteDraft {
    SiteDraft {
        name: SiteName::try_new("home").unwrap(),
        domain: "home.arpa".to_owned(),
        time_zone: Zone::UTC,
        hosts: vec![host("hx310-db", 20), host("cw-nas", 30)],
        networks: vec![NetworkSegment {
            name: NetworkName::try_new("mgmt").unwrap(),
            vlan: Some(200),
            cidr: "192.168.200.0/24".parse().unwrap(),
        }],
        segment_rules: vec![],
        services: vec![],
        repositories: vec![Repository {
            name: RepositoryName::try_new("nas").unwrap(),
            description: String::new(),
        }],
        backups: vec![Backup {
            name: BackupName::try_new("wiki").unwrap(),
            host: name("hx310-db"),
            repository: RepositoryName::try_new("nas").unwrap(),
            source: SourceKind::Postgres,
            schedule: Schedule::try_new("0 3 * * *", Zone::UTC).unwrap(),
            drill: None,
            rpo: Duration::from_secs(26 * 3600),
            drill_target: None,
        }],
        tiers: vec![TierConfig {
            tier: Tier::Bronze,
            hosts: vec![name("cw-nas")],
            models: vec![ModelName::try_new("tiny").unwrap()],
            default_model: Some(ModelName::try_new("tiny").unwrap()),
        }],
    }
}

fn problems(change: impl FnOnce(&mut SiteDraft)) -> Vec<String> {
    let mut draft = draft();
    change(&mut draft);
    draft.check(now()).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_site_whose_parts_fit_is_found_by_name() {
    let site = draft().check(now()).unwrap();
    assert_eq!(site.host(&name("cw-nas")).unwrap().daemon(DaemonKind::Agent).unwrap().port, 7450);
    assert_eq!(site.tier_of(&name("cw-nas")), Some(Tier::Bronze));
    assert!(site.backup(&BackupName::try_new("wiki").unwrap()).is_some());
}

#[test]
fn all_problems_come_at_once() {
    let all = problems(|draft| {
        draft.hosts.push(host("cw-nas", 30));
        draft.backups[0].host = name("nobody");
        draft.backups[0].rpo = Duration::from_secs(3600);
        draft.tiers[0].default_model = Some(ModelName::try_new("huge").unwrap());
    });
    assert_eq!(
        all,
        [
            "host[2].name: `cw-nas` is taken by host[1]",
            "host[2].address: `192.168.200.30` is taken by host[1]",
            "backup[0].host: there is no host `nobody`; known: hx310-db, cw-nas, cw-nas",
            "backup[0].rpo: 1 h is shorter than the 1 d that can lie between two runs of `0 3 * * *`",
            "ai.tier[0].default_model: `huge` is not among the models of the tier",
        ]
    );
}

#[test]
fn a_target_must_allow_for_the_longest_gap_of_the_schedule() {
    let all = problems(|draft| {
        draft.backups[0].schedule = Schedule::try_new("0 3 * * 1-5", Zone::UTC).unwrap();
    });
    assert!(all[0].contains("1 d 2 h is shorter than the 3 d"), "{all:?}");
}

#[test]
fn hosts_of_a_demo_may_share_loopback_with_different_ports() {
    let shared = |draft: &mut SiteDraft, port: u16| {
        for (host, first) in draft.hosts.iter_mut().zip([9000, port]) {
            host.address = [127, 0, 0, 1].into();
            for (daemon, number) in host.daemons.iter_mut().zip(first..) {
                daemon.port = number;
            }
        }
    };
    let mut apart = draft();
    shared(&mut apart, 9010);
    assert!(apart.check(now()).is_ok());
    let all = problems(|draft| shared(draft, 9002));
    assert_eq!(all, ["host[1].daemon: `127.0.0.1:9002` is taken by host[0]"]);
}

#[test]
fn what_a_part_needs_of_another_must_be_there() {
    let all = problems(|draft| {
        draft.hosts[0].daemons.clear();
        draft.hosts[1].expected_power = ExpectedPower::OnDemand;
        draft.repositories.clear();
        draft.backups[0].drill = Some(Schedule::try_new("0 5 * * 0", Zone::UTC).unwrap());
        draft.services.push(Service {
            name: crate::ids::ServiceName::try_new("wiki").unwrap(),
            host: name("gone"),
            port: 0,
            kind: ServiceKind::Https,
        });
        draft.segment_rules.push(SegmentRule {
            from: NetworkName::try_new("mgmt").unwrap(),
            to: NetworkName::try_new("dmz").unwrap(),
            ports: vec![],
            verdict: SegmentVerdict::Deny,
        });
    });
    let paths: Vec<&str> = all.iter().map(|one| one.split(':').next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "host[1].mac",
            "segment_rule[0].to",
            "service[0].host",
            "service[0].port",
            "backup[0].host",
            "backup[0].repository",
            "backup[0].drill_target",
            "ai.tier[0].hosts",
        ]
    );
}

#[test]
fn networks_do_not_overlap() {
    let all = problems(|draft| {
        draft.networks.push(NetworkSegment {
            name: NetworkName::try_new("flat").unwrap(),
            vlan: Some(5000),
            cidr: "192.168.0.0/16".parse().unwrap(),
        });
    });
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[1].contains("192.168.0.0/16 overlaps 192.168.200.0/24 of `mgmt`"), "{all:?}");
}
