//! What comes back after everything was lost, in which order, and what never would.
//!
//! A cold start is a graph. A service needs its host, the services and secrets that it cannot start
//! without, and a backup of its data that can be opened; a repository needs its host and the secret
//! that opens it; a secret can be had where it is kept. What cannot be reached from the recovery kit
//! and bare hosts is in a loop: a secret that is kept only inside of what it protects.

mod kit;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub use kit::{KitProof, ProofItem, proof_gap};

use crate::{
    ids::{BackupName, HostName, RepositoryName, SecretName, ServiceName},
    site::{Keeper, Site},
};

/// One thing that has to come back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The recovery kit: what a person has in hand.
    Kit,
    /// A host, bare.
    Host(HostName),
    /// A secret.
    Secret(SecretName),
    /// A repository that can be read.
    Repository(RepositoryName),
    /// A backup whose newest snapshot can be restored.
    Backup(BackupName),
    /// A service that works, with its data.
    Service(ServiceName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kit => f.write_str("kit"),
            Self::Host(name) => write!(f, "host/{name}"),
            Self::Secret(name) => write!(f, "secret/{name}"),
            Self::Repository(name) => write!(f, "repository/{name}"),
            Self::Backup(name) => write!(f, "backup/{name}"),
            Self::Service(name) => write!(f, "service/{name}"),
        }
    }
}

impl From<&Keeper> for Subject {
    fn from(keeper: &Keeper) -> Self {
        match keeper {
            Keeper::Kit => Self::Kit,
            Keeper::Service(name) => Self::Service(name.clone()),
            Keeper::Backup(name) => Self::Backup(name.clone()),
        }
    }
}

/// What a thing needs: one of each group.
type Needs = Vec<BTreeSet<Subject>>;

/// One step of a cold start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counts from 1; every step of an earlier stage comes first, those of one stage need not wait
    /// for each other.
    pub stage: u32,
    /// What comes back.
    pub subject: Subject,
    /// What must be back before. Of several places for the same, the one that is back first.
    pub needs: Vec<Subject>,
}

/// Something that would never come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// What stands in it; each needs the next, the last needs the first.
    pub subjects: Vec<Subject>,
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.subjects.first() else { return Ok(()) };
        for subject in &self.subjects {
            write!(f, "{subject} needs ")?;
        }
        write!(f, "{first}")
    }
}

/// The order of a cold start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColdStart {
    /// In order: by stage, hosts first.
    pub steps: Vec<Step>,
    /// Loops. What stands in one is no step, and neither is what needs it.
    pub loops: Vec<Loop>,
    /// Everything that would not come back, those in loops included.
    pub unreachable: BTreeSet<Subject>,
}

impl ColdStart {
    /// Whether a thing comes back.
    #[must_use]
    pub fn reaches(&self, subject: &Subject) -> bool {
        !self.unreachable.contains(subject)
    }
}

/// Plans the cold start of a site.
#[must_use]
pub fn cold_start(site: &Site) -> ColdStart {
    let graph = graph(site);
    let mut back: BTreeMap<Subject, u32> = BTreeMap::from([(Subject::Kit, 0)]);
    let mut steps = Vec::new();
    for stage in 1.. {
        let ready: Vec<_> = graph
            .iter()
            .filter(|(subject, _)| !back.contains_key(subject))
            .filter_map(|(subject, needs)| Some((subject.clone(), met(needs, &back)?)))
            .collect();
        if ready.is_empty() {
            break;
        }
        for (subject, needs) in ready {
            back.insert(subject.clone(), stage);
            steps.push(Step { stage, subject, needs });
        }
    }
    let unreachable: BTreeSet<_> =
        graph.keys().filter(|subject| !back.contains_key(subject)).cloned().collect();
    ColdStart { loops: loops(&graph, &unreachable), steps, unreachable }
}

/// What of each group is back; none when a group has nothing that is.
fn met(needs: &Needs, back: &BTreeMap<Subject, u32>) -> Option<Vec<Subject>> {
    let mut met = Vec::new();
    for group in needs {
        let first = group.iter().filter_map(|one| Some((back.get(one)?, one))).min()?;
        if !met.contains(first.1) {
            met.push(first.1.clone());
        }
    }
    Some(met)
}

fn graph(site: &Site) -> BTreeMap<Subject, Needs> {
    let only = |subject| BTreeSet::from([subject]);
    let mut graph: BTreeMap<Subject, Needs> = BTreeMap::new();
    for host in site.hosts() {
        graph.insert(Subject::Host(host.name.clone()), Vec::new());
    }
    for secret in site.secrets() {
        let keepers = secret.kept_in.iter().map(Subject::from).collect();
        graph.insert(Subject::Secret(secret.name.clone()), vec![keepers]);
    }
    for repository in site.repositories() {
        let host = repository.host.clone().map(Subject::Host);
        let secret = repository.secret.clone().map(Subject::Secret);
        let needs = host.into_iter().chain(secret).map(only).collect();
        graph.insert(Subject::Repository(repository.name.clone()), needs);
    }
    for backup in site.backups() {
        let any = backup.repositories().cloned().map(Subject::Repository).collect();
        graph.insert(Subject::Backup(backup.name.clone()), vec![any]);
    }
    for service in site.services() {
        let name = &service.name;
        let mut needs: Needs = vec![only(Subject::Host(service.host.clone()))];
        needs.extend(service.needs.iter().cloned().map(Subject::Service).map(only));
        let secrets = site.secrets().iter().filter(|secret| secret.services.contains(name));
        needs.extend(secrets.map(|secret| only(Subject::Secret(secret.name.clone()))));
        let backups = site.backups().iter().filter(|backup| backup.services.contains(name));
        needs.extend(backups.map(|backup| only(Subject::Backup(backup.name.clone()))));
        graph.insert(Subject::Service(name.clone()), needs);
    }
    graph
}

/// Walks from each thing that does not come back to something that it waits for, until it comes by
/// where it has been. Everything that waits has something to wait for, so that it does.
fn loops(graph: &BTreeMap<Subject, Needs>, unreachable: &BTreeSet<Subject>) -> Vec<Loop> {
    let waits_for = |subject: &Subject| {
        let needs = graph.get(subject)?.iter();
        let stuck = needs.filter(|group| group.iter().all(|one| unreachable.contains(one)));
        stuck.flat_map(|group| group.iter()).next().cloned()
    };
    let mut found: Vec<Loop> = Vec::new();
    for start in unreachable {
        let mut path = vec![start.clone()];
        while let Some(next) = path.last().and_then(&waits_for) {
            let Some(place) = path.iter().position(|one| *one == next) else {
                path.push(next);
                continue;
            };
            let mut subjects = path.split_off(place);
            // The same loop is met from each of its members.
            let first = subjects.iter().enumerate().min_by_key(|(_, one)| (*one).clone());
            let first = first.map_or(0, |(index, _)| index);
            subjects.rotate_left(first);
            let found_now = Loop { subjects };
            if !found.contains(&found_now) {
                found.push(found_now);
            }
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests;
