use std::time::Duration;

use super::*;
use crate::{
    ids::{BackupName, ModelName, NetworkName, RepositoryName, SiteName},
    schedule::{Schedule, Zone},
    site::{
        Backup, Daemon, KIT_PROOF_EVERY, Keeper, NetworkSegment, Power, Price, Repository, Secret,
        SegmentRule, SegmentVerdict, Service, ServiceKind, SourceKind, WakeMethod,
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
        place: "home".to_owned(),
        expected_power: ExpectedPower::On,
        mac: None,
        power: Power::default(),
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
        repositories: vec![Repository::new(RepositoryName::try_new("nas").unwrap(), "home")],
        backups: vec![Backup::new(
            BackupName::try_new("wiki").unwrap(),
            name("hx310-db"),
            RepositoryName::try_new("nas").unwrap(),
            SourceKind::Postgres,
            Schedule::try_new("0 3 * * *", Zone::UTC).unwrap(),
            Duration::from_secs(26 * 3600),
        )],
        windows: vec![],
        secrets: vec![],
        kit_proof_every: KIT_PROOF_EVERY,
        gold: crate::site::Gold::default(),
        context: vec![],
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
            needs: vec![],
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

#[test]
fn what_a_backup_names_must_be_there_and_of_its_own() {
    let repository = |text| RepositoryName::try_new(text).unwrap();
    let all = problems(|draft| {
        let other = BackupName::try_new("files").unwrap();
        let mut files = Backup { name: other.clone(), ..draft.backups[0].clone() };
        files.after = vec![draft.backups[0].name.clone()];
        let wiki = &mut draft.backups[0];
        wiki.after = vec![other];
        wiki.copies = vec![repository("nas"), repository("gone")];
        wiki.drill_repository = Some(repository("elsewhere"));
        wiki.drill_host = Some(name("nobody"));
        draft.backups.push(files);
        draft.repositories[0].secret = Some(crate::ids::SecretName::try_new("key").unwrap());
        draft.secrets.push(Secret {
            name: crate::ids::SecretName::try_new("other").unwrap(),
            description: String::new(),
            kept_in: vec![Keeper::Service(crate::ids::ServiceName::try_new("gone").unwrap())],
            services: vec![],
        });
    });
    assert_eq!(
        all,
        [
            "backup[0].drill_host: there is no host `nobody`; known: hx310-db, cw-nas",
            "backup[0].copies: there is no repository `gone`; known: nas",
            "backup[0].copies: `nas` holds it already; a copy is elsewhere",
            "backup[0].drill_repository: `elsewhere` is neither its repository nor one of its copies",
            "backup[0].after: `wiki` would wait for itself",
            "backup[1].after: `files` would wait for itself",
            "repository[0].secret: there is no secret `key`; known: other",
            "secret[0].kept_in: there is no service `gone`; none is declared",
        ]
    );
}

#[test]
fn a_host_that_is_woken_by_packet_needs_a_mac_and_a_sender_that_is_on() {
    let asleep = |draft: &mut SiteDraft, from: &str| {
        draft.hosts.push(host("x99", 40));
        draft.hosts[2].expected_power = ExpectedPower::OnDemand;
        draft.hosts[2].mac = Some("02:00:c0:a8:c8:28".parse().unwrap());
        draft.hosts[2].power.wake = WakeMethod::Packet { from: Some(name(from)), interface: None };
    };
    let mut fine = draft();
    asleep(&mut fine, "cw-nas");
    assert!(fine.check(now()).is_ok());
    let all = problems(|draft| asleep(draft, "gone"));
    assert_eq!(all, ["host[2].power.from: there is no host `gone`; known: hx310-db, cw-nas"]);
    let all = problems(|draft| asleep(draft, "x99"));
    assert_eq!(
        all,
        ["host[2].power.from: `x99` is not always on with an agent; known: hx310-db, cw-nas"]
    );
    let all = problems(|draft| {
        asleep(draft, "cw-nas");
        draft.hosts[2].mac = None;
        draft.hosts[2].power.boot_max = Duration::from_secs(1);
        draft.hosts[2].power.rules.price_max = Some(Price(1));
    });
    let keys: Vec<&str> = all.iter().map(|one| one.split(':').next().unwrap()).collect();
    assert_eq!(keys, ["host[2].power.boot_max", "host[2].power.price_max", "host[2].mac"]);
}

#[test]
fn a_host_with_a_plug_needs_no_mac() {
    let mut draft = draft();
    draft.hosts.push(host("x99", 40));
    draft.hosts[2].expected_power = ExpectedPower::OnDemand;
    let url = "http://192.0.2.9/relay/0?turn=on".to_owned();
    draft.hosts[2].power.wake = WakeMethod::Plug { url };
    assert!(draft.check(now()).is_ok());
}
