//! What the parts of a site must have in common.

mod backup;
mod context;
mod gold;
mod power;

use std::{collections::HashMap, fmt, hash::Hash, net::SocketAddr};

use jiff::Timestamp;

use super::{DaemonKind, ExpectedPower, Host, Site, SiteDraft, Tier, TierConfig};
use crate::ids::HostName;

/// One contradiction in a site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteProblem {
    /// Where: `host[2].address`, counted from 0 in the order of the file.
    pub path: String,
    /// What is wrong and what is allowed, for people.
    pub message: String,
}

impl SiteProblem {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for SiteProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl SiteDraft {
    /// Checks the parts against each other; all problems come at once, in the
    /// order of the parts. `now` is where the gaps of schedules are measured.
    pub fn check(self, now: Timestamp) -> Result<Site, Vec<SiteProblem>> {
        let mut problems = Vec::new();
        self.names_are_unique(&mut problems);
        self.hosts_fit(&mut problems);
        self.networks_fit(&mut problems);
        self.services_fit(&mut problems);
        self.backups_fit(now, &mut problems);
        self.repositories_fit(&mut problems);
        self.windows_fit(&mut problems);
        self.secrets_fit(&mut problems);
        self.tiers_fit(&mut problems);
        self.gold_fits(&mut problems);
        self.context_fits(&mut problems);
        if problems.is_empty() { Ok(Site(self)) } else { Err(problems) }
    }

    fn names_are_unique(&self, problems: &mut Vec<SiteProblem>) {
        unique(problems, "host", "name", each(&self.hosts, |host| Some(&host.name)));
        unique(problems, "network", "name", each(&self.networks, |network| Some(&network.name)));
        unique(problems, "service", "name", each(&self.services, |service| Some(&service.name)));
        unique(problems, "repository", "name", each(&self.repositories, |one| Some(&one.name)));
        unique(problems, "backup", "name", each(&self.backups, |backup| Some(&backup.name)));
        unique(problems, "window", "name", each(&self.windows, |window| Some(&window.name)));
        unique(problems, "secret", "name", each(&self.secrets, |secret| Some(&secret.name)));
        unique(problems, "ai.tier", "tier", each(&self.tiers, |config| Some(&config.tier)));
    }

    fn hosts_fit(&self, problems: &mut Vec<SiteProblem>) {
        // All hosts of a demo may share loopback, as long as their ports differ.
        let address = |host: &Host| (!host.address.is_loopback()).then_some(host.address);
        unique(problems, "host", "address", each(&self.hosts, address));
        unique(problems, "host", "daemon", self.loopback_endpoints());
        unique(problems, "host", "mac", each(&self.hosts, |host| host.mac));
        for (index, host) in self.hosts.iter().enumerate() {
            let kinds = each(&host.daemons, |daemon| Some(daemon.kind));
            unique(problems, &format!("host[{index}].daemon"), "kind", kinds);
            if host.expected_power == ExpectedPower::OnDemand {
                self.power_fits(index, host, problems);
            }
        }
    }

    fn loopback_endpoints(&self) -> impl Iterator<Item = (usize, SocketAddr)> {
        let hosts = self.hosts.iter().enumerate().filter(|(_, host)| host.address.is_loopback());
        hosts.flat_map(|(index, host)| {
            let fixed = host.daemons.iter().filter(|daemon| daemon.port != 0);
            fixed.map(move |daemon| (index, SocketAddr::new(host.address, daemon.port)))
        })
    }

    fn networks_fit(&self, problems: &mut Vec<SiteProblem>) {
        unique(problems, "network", "vlan", each(&self.networks, |network| network.vlan));
        for (index, network) in self.networks.iter().enumerate() {
            if network.vlan.is_some_and(|vlan| !(1..=4094).contains(&vlan)) {
                let path = format!("network[{index}].vlan");
                problems.push(SiteProblem::new(path, "1 to 4094 is allowed"));
            }
            for other in
                self.networks.iter().take(index).filter(|it| it.cidr.overlaps(&network.cidr))
            {
                problems.push(SiteProblem::new(
                    format!("network[{index}].cidr"),
                    format!("{} overlaps {} of `{}`", network.cidr, other.cidr, other.name),
                ));
            }
        }
        for (index, rule) in self.segment_rules.iter().enumerate() {
            for (key, name) in [("from", &rule.from), ("to", &rule.to)] {
                if !self.networks.iter().any(|network| network.name == *name) {
                    let known = known(self.networks.iter().map(|network| &network.name));
                    problems.push(SiteProblem::new(
                        format!("segment_rule[{index}].{key}"),
                        format!("there is no network `{name}`; {known}"),
                    ));
                }
            }
        }
    }

    fn services_fit(&self, problems: &mut Vec<SiteProblem>) {
        for (index, service) in self.services.iter().enumerate() {
            if self.find_host(&service.host).is_none() {
                problems.push(self.unknown_host(format!("service[{index}].host"), &service.host));
            }
            if service.port == 0 {
                let path = format!("service[{index}].port");
                problems.push(SiteProblem::new(path, "1 to 65535 is allowed"));
            }
            for name in service.needs.iter().filter(|name| !self.has_service(name)) {
                problems.push(self.unknown_service(format!("service[{index}].needs"), name));
            }
        }
    }

    fn tiers_fit(&self, problems: &mut Vec<SiteProblem>) {
        for (index, config) in self.tiers.iter().enumerate() {
            let path = |key: &str| format!("ai.tier[{index}].{key}");
            for name in &config.hosts {
                match self.find_host(name) {
                    None => problems.push(self.unknown_host(path("hosts"), name)),
                    Some(host) => problems.extend(
                        worker_misfit(config, host).map(|why| SiteProblem::new(path("hosts"), why)),
                    ),
                }
                let elsewhere = self.tiers.iter().take(index).find(|it| it.hosts.contains(name));
                if let Some(other) = elsewhere {
                    problems.push(SiteProblem::new(
                        path("hosts"),
                        format!("`{name}` is already a worker of {}", other.tier),
                    ));
                }
            }
            if let Some(default) = &config.default_model
                && !config.models.contains(default)
            {
                problems.push(SiteProblem::new(
                    path("default_model"),
                    format!("`{default}` is not among the models of the tier"),
                ));
            }
            if config.tier != Tier::Gold && config.hosts.is_empty() {
                problems.push(SiteProblem::new(path("hosts"), "at least one host is needed"));
            }
        }
    }

    fn find_host(&self, name: &HostName) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == *name)
    }

    fn unknown_host(&self, path: String, name: &HostName) -> SiteProblem {
        let known = known(self.hosts.iter().map(|host| &host.name));
        SiteProblem::new(path, format!("there is no host `{name}`; {known}"))
    }
}

fn worker_misfit(config: &TierConfig, host: &Host) -> Option<String> {
    if host.daemon(DaemonKind::GpuWorker).is_none() {
        return Some(format!("`{}` has no gpu-worker", host.name));
    }
    (config.tier == Tier::Bronze && host.expected_power == ExpectedPower::OnDemand)
        .then(|| format!("bronze is always on, and `{}` is on demand", host.name))
}

/// What is looked at in each part that has it, with the place of the part.
fn each<'a, P, T>(
    parts: &'a [P],
    item: impl Fn(&'a P) -> Option<T>,
) -> impl Iterator<Item = (usize, T)> {
    parts.iter().enumerate().filter_map(move |(index, part)| Some((index, item(part)?)))
}

/// Adds a problem for each item that has occurred before.
fn unique<T: fmt::Display + Eq + Hash>(
    problems: &mut Vec<SiteProblem>,
    part: &str,
    key: &str,
    items: impl Iterator<Item = (usize, T)>,
) {
    let mut seen = HashMap::new();
    for (index, item) in items {
        if let Some(first) = seen.get(&item) {
            problems.push(SiteProblem::new(
                format!("{part}[{index}].{key}"),
                format!("`{item}` is taken by {part}[{first}]"),
            ));
        } else {
            seen.insert(item, index);
        }
    }
}

fn known<T: fmt::Display>(names: impl Iterator<Item = T>) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    if names.is_empty() {
        "none is declared".to_owned()
    } else {
        format!("known: {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests;
