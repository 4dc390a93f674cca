//! From TOML to a checked site.

mod backup;
mod context;
mod gold;
mod power;

use homelab_common::config::{Document, Report, Section, parse};
use homelab_domain::{
    ids::{HostName, ModelName, NetworkName},
    schedule::Zone,
    site::{
        Cidr, Daemon, DaemonKind, ExpectedPower, Host, MacAddress, NetworkSegment, SegmentRule,
        SegmentVerdict, Service, ServiceKind, Site, SiteDraft, Tier, TierConfig,
    },
};
use jiff::Timestamp;

/// Parts that are documented, accepted, and not acted upon yet.
const LATER: [&str; 2] = ["notify", "phase"];

/// Reads a site and names the parts of it that nothing acts upon yet.
pub(super) fn site(
    document: &Document,
    now: Timestamp,
) -> Result<(Site, Vec<&'static str>), Report> {
    let root = document.root();
    let head = root.table("site");
    let name = head.required("name", parse::text(|text| text.parse()));
    let domain = head.or("domain", "home.arpa".to_owned(), parse::text(domain));
    let zone = head.or("time-zone", Zone::UTC, parse::text(Zone::try_new));

    let place = head.or("place", "home".to_owned(), parse::string);
    let hosts = each(&root, "host", |section| host(section, &place, &zone));
    let networks = each(&root, "network", network);
    let segment_rules = each(&root, "segment-rule", segment_rule);
    let services = each(&root, "service", service);
    let repositories = each(&root, "repository", |section| backup::repository(section, &place));
    let keep = backup::default_keep(&root, &zone);
    let backups = each(&root, "backup", |section| backup::backup(section, &zone, keep.as_ref()));
    let windows = each(&root, "window", |section| backup::window(section, &zone));
    let secrets = each(&root, "secret", backup::secret);
    let kit_proof_every = backup::kit_proof_every(&root);
    let ai = root.table("ai");
    let tiers = each(&ai, "tier", tier);
    let gold = gold::gold(&ai);
    let context = context::context(&root);
    let later = LATER.into_iter().filter(|part| root.has(part)).collect();

    let draft = document.finish_with(|| {
        Some(SiteDraft {
            name: name?,
            domain,
            time_zone: zone,
            hosts: hosts?,
            networks: networks?,
            segment_rules: segment_rules?,
            services: services?,
            repositories: repositories?,
            backups: backups?,
            windows: windows?,
            secrets: secrets?,
            kit_proof_every,
            tiers: tiers?,
            gold: gold?,
            context: context?,
        })
    })?;
    match draft.check(now) {
        Ok(site) => Ok((site, later)),
        Err(problems) => {
            for problem in problems {
                point_out(&root, &problem.path, problem.message);
            }
            document.finish_with(|| None)
        }
    }
}

/// Reads every table of a list; `None` when one of them did not read well.
fn each<'d, T>(
    parent: &Section<'d>,
    key: &str,
    read: impl FnMut(&Section<'d>) -> Option<T>,
) -> Option<Vec<T>> {
    // Not lazy: every table must be read for its problems to be reported.
    let read: Vec<Option<T>> = parent.tables(key).iter().map(read).collect();
    read.into_iter().collect()
}

fn host(section: &Section<'_>, home: &str, zone: &Zone) -> Option<Host> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let address = section.required("address", parse::ip_addr);
    let description = section.or("description", String::new(), parse::string);
    let place = section.or("place", home.to_owned(), parse::string);
    let powers = [("on", ExpectedPower::On), ("on-demand", ExpectedPower::OnDemand)];
    let expected_power = section.or("expected-power", ExpectedPower::On, parse::word(&powers));
    let mac = section.optional("mac", parse::text(|text| text.parse::<MacAddress>()));
    let words: Vec<_> = DaemonKind::ALL.iter().map(|kind| (kind.as_str(), *kind)).collect();
    let mut daemons: Vec<_> = section
        .list("daemons", parse::word(&words))
        .into_iter()
        .map(Daemon::on_default_port)
        .collect();
    for kind in DaemonKind::ALL.iter().copied() {
        let key = format!("{kind}-port");
        let Some(port) = section.optional(&key, parse::integer(1..=u16::MAX)) else { continue };
        match daemons.iter_mut().find(|daemon| daemon.kind == kind) {
            Some(daemon) => daemon.port = port,
            None => section.problem(&key, format!("only with `{kind}` among the daemons")),
        }
    }
    let power = power::power(&section.table("power"), zone);
    Some(Host {
        name: name?,
        address: address?,
        description,
        place,
        expected_power,
        mac,
        power: power?,
        daemons,
    })
}

fn network(section: &Section<'_>) -> Option<NetworkSegment> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let vlan = section.optional("vlan", parse::integer(1..=4094_u16));
    let cidr = section.required("cidr", parse::text(|text| text.parse::<Cidr>()));
    section.or("description", String::new(), parse::string);
    Some(NetworkSegment { name: name?, vlan, cidr: cidr? })
}

fn segment_rule(section: &Section<'_>) -> Option<SegmentRule> {
    let segment = |key| section.required(key, parse::text(|text| text.parse::<NetworkName>()));
    let (from, to) = (segment("from"), segment("to"));
    let ports = section.list("ports", parse::integer(1..=u16::MAX));
    let words = [("allow", SegmentVerdict::Allow), ("deny", SegmentVerdict::Deny)];
    let verdict = section.required("verdict", parse::word(&words));
    Some(SegmentRule { from: from?, to: to?, ports, verdict: verdict? })
}

fn service(section: &Section<'_>) -> Option<Service> {
    let words = [
        ("postgres", ServiceKind::Postgres),
        ("http", ServiceKind::Http),
        ("https", ServiceKind::Https),
        ("ssh", ServiceKind::Ssh),
        ("git", ServiceKind::Git),
        ("dns", ServiceKind::Dns),
        ("tcp", ServiceKind::Tcp),
    ];
    let name = section.required("name", parse::text(|text| text.parse()));
    let host = section.required("host", parse::text(|text| text.parse::<HostName>()));
    let port = section.required("port", parse::integer(1..=u16::MAX));
    let kind = section.or("kind", ServiceKind::Tcp, parse::word(&words));
    let needs = section.list("needs", parse::text(|text| text.parse()));
    Some(Service { name: name?, host: host?, port: port?, kind, needs })
}

fn tier(section: &Section<'_>) -> Option<TierConfig> {
    let words: Vec<_> = Tier::ALL.iter().map(|tier| (tier.as_str(), *tier)).collect();
    let tier = section.required("tier", parse::word(&words));
    let hosts = section.list("hosts", parse::text(|text| text.parse::<HostName>()));
    let models = section.list("models", parse::text(|text| text.parse::<ModelName>()));
    let default_model = section.optional("default-model", parse::text(|text| text.parse()));
    Some(TierConfig { tier: tier?, hosts, models, default_model })
}

/// A DNS name of one label or more.
fn domain(text: &str) -> Result<String, &'static str> {
    if text.len() <= 200 && text.split('.').all(|label| crate::config::dns_label(label).is_ok()) {
        Ok(text.to_owned())
    } else {
        Err("a DNS domain in lower case, such as \"home.arpa\"")
    }
}

/// Reports a contradiction at its line. `path` is as the domain counts: `ai.tier[0].default_model`.
fn point_out(root: &Section<'_>, path: &str, message: String) {
    // The domain knows the daemons of a host one by one; the file has them in one list.
    let of_daemon = path.split_once(".daemon[").map(|(host, _)| format!("{host}.daemons"));
    let path = of_daemon.unwrap_or_else(|| path.to_owned()).replace('_', "-");
    let (table, key) = path.rsplit_once('.').unwrap_or(("", &path));
    let mut section = root.clone();
    for step in table.split('.').filter(|step| !step.is_empty()) {
        let indexed = step.strip_suffix(']').and_then(|step| step.split_once('['));
        let below = match indexed {
            Some((list, index)) => {
                let index = index.parse().unwrap_or(usize::MAX);
                section.tables(list).into_iter().nth(index)
            }
            None => section.optional_table(step),
        };
        let Some(below) = below else { break };
        section = below;
    }
    section.problem(key, message);
}
