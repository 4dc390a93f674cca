//! What backups, repositories, windows and secrets must have in common with the rest.

use jiff::Timestamp;

use super::{SiteProblem, known};
use crate::{
    ids::{BackupName, HostName, RepositoryName, ServiceName},
    site::{Backup, DaemonKind, Keeper, SiteDraft},
    text::span,
};

/// How many firings are looked at to find the longest gap of a schedule.
const GAP_SAMPLE: usize = 40;

impl SiteDraft {
    pub(super) fn backups_fit(&self, now: Timestamp, problems: &mut Vec<SiteProblem>) {
        for (index, backup) in self.backups.iter().enumerate() {
            let path = |key: &str| format!("backup[{index}].{key}");
            problems.extend(self.no_agent(path("host"), &backup.host));
            if let Some(host) = &backup.drill_host {
                problems.extend(self.no_agent(path("drill_host"), host));
            }
            let named =
                [("repository", Some(&backup.repository)), ("spool", backup.spool.as_ref())];
            let named = named.into_iter().filter_map(|(key, name)| Some((key, name?)));
            let named = named.chain(backup.copies.iter().map(|name| ("copies", name)));
            for (key, name) in named {
                problems.extend(self.no_repository(path(key), name));
            }
            problems.extend(twice(backup).map(|(key, why)| SiteProblem::new(path(key), why)));
            if let Some(name) = &backup.drill_repository
                && !backup.repositories().any(|one| one == name)
            {
                let why = format!("`{name}` is neither its repository nor one of its copies");
                problems.push(SiteProblem::new(path("drill_repository"), why));
            }
            if backup.drill.is_some() && backup.drill_target.is_none() {
                problems.push(SiteProblem::new(
                    path("drill_target"),
                    "a drill schedule needs a target to restore into",
                ));
            }
            for name in &backup.after {
                problems.extend(self.no_backup(path("after"), name));
            }
            if self.comes_after_itself(backup) {
                let why = format!("`{}` would wait for itself", backup.name);
                problems.push(SiteProblem::new(path("after"), why));
            }
            for name in backup.services.iter().filter(|name| !self.has_service(name)) {
                problems.push(self.unknown_service(path("services"), name));
            }
            problems
                .extend(rpo_too_short(backup, now).map(|why| SiteProblem::new(path("rpo"), why)));
        }
    }

    pub(super) fn repositories_fit(&self, problems: &mut Vec<SiteProblem>) {
        for (index, repository) in self.repositories.iter().enumerate() {
            if let Some(host) = &repository.host
                && self.find_host(host).is_none()
            {
                problems.push(self.unknown_host(format!("repository[{index}].host"), host));
            }
            if let Some(host) = &repository.keeper {
                problems.extend(self.no_agent(format!("repository[{index}].keeper"), host));
            }
            if let Some(secret) = &repository.secret
                && !self.secrets.iter().any(|one| one.name == *secret)
            {
                let known = known(self.secrets.iter().map(|one| &one.name));
                problems.push(SiteProblem::new(
                    format!("repository[{index}].secret"),
                    format!("there is no secret `{secret}`; {known}"),
                ));
            }
        }
    }

    pub(super) fn windows_fit(&self, problems: &mut Vec<SiteProblem>) {
        for (index, window) in self.windows.iter().enumerate() {
            for name in &window.backups {
                problems.extend(self.no_backup(format!("window[{index}].backups"), name));
            }
        }
    }

    pub(super) fn secrets_fit(&self, problems: &mut Vec<SiteProblem>) {
        for (index, secret) in self.secrets.iter().enumerate() {
            let path = |key: &str| format!("secret[{index}].{key}");
            if secret.kept_in.is_empty() {
                let why = "say where it can be had: `kit`, `service/NAME` or `backup/NAME`";
                problems.push(SiteProblem::new(path("kept_in"), why));
            }
            for keeper in &secret.kept_in {
                match keeper {
                    Keeper::Service(name) if !self.has_service(name) => {
                        problems.push(self.unknown_service(path("kept_in"), name));
                    }
                    Keeper::Backup(name) => {
                        problems.extend(self.no_backup(path("kept_in"), name));
                    }
                    Keeper::Kit | Keeper::Service(_) => {}
                }
            }
            for name in secret.services.iter().filter(|name| !self.has_service(name)) {
                problems.push(self.unknown_service(path("services"), name));
            }
        }
    }

    pub(super) fn has_service(&self, name: &ServiceName) -> bool {
        self.services.iter().any(|service| service.name == *name)
    }

    pub(super) fn unknown_service(&self, path: String, name: &ServiceName) -> SiteProblem {
        let known = known(self.services.iter().map(|service| &service.name));
        SiteProblem::new(path, format!("there is no service `{name}`; {known}"))
    }

    fn no_agent(&self, path: String, name: &HostName) -> Option<SiteProblem> {
        let Some(host) = self.find_host(name) else { return Some(self.unknown_host(path, name)) };
        let is_missing = host.daemon(DaemonKind::BackupAgent).is_none();
        is_missing
            .then(|| SiteProblem::new(path, format!("`{name}` has no backup-agent to run it")))
    }

    fn no_repository(&self, path: String, name: &RepositoryName) -> Option<SiteProblem> {
        let is_known = self.repositories.iter().any(|one| one.name == *name);
        (!is_known).then(|| {
            let known = known(self.repositories.iter().map(|one| &one.name));
            SiteProblem::new(path, format!("there is no repository `{name}`; {known}"))
        })
    }

    fn no_backup(&self, path: String, name: &BackupName) -> Option<SiteProblem> {
        let is_known = self.backups.iter().any(|one| one.name == *name);
        (!is_known).then(|| {
            let known = known(self.backups.iter().map(|one| &one.name));
            SiteProblem::new(path, format!("there is no backup `{name}`; {known}"))
        })
    }

    fn comes_after_itself(&self, backup: &Backup) -> bool {
        let mut met: Vec<&BackupName> = Vec::new();
        let mut next: Vec<&BackupName> = backup.after.iter().collect();
        while let Some(name) = next.pop() {
            if *name == backup.name {
                return true;
            }
            if met.contains(&name) {
                continue;
            }
            met.push(name);
            let before = self.backups.iter().find(|one| one.name == *name);
            next.extend(before.into_iter().flat_map(|before| &before.after));
        }
        false
    }
}

/// Repositories that are named for two purposes, or twice for one.
fn twice(backup: &Backup) -> Option<(&'static str, String)> {
    let copies = backup.copies.iter().enumerate();
    for (index, name) in copies {
        let before = backup.copies.iter().take(index);
        if *name == backup.repository || before.clone().any(|one| one == name) {
            return Some(("copies", format!("`{name}` holds it already; a copy is elsewhere")));
        }
    }
    let spool = backup.spool.as_ref()?;
    let is_taken = backup.repositories().any(|one| one == spool);
    is_taken
        .then(|| ("spool", format!("`{spool}` holds it for good; a spool is a place of its own")))
}

/// A backup that runs less often than its target allows misses it on every day
/// on which nothing is wrong.
fn rpo_too_short(backup: &Backup, now: Timestamp) -> Option<String> {
    let gap = backup.schedule.longest_gap(now, GAP_SAMPLE);
    (backup.rpo < gap).then(|| {
        format!(
            "{} is shorter than the {} that can lie between two runs of `{}`",
            span(backup.rpo),
            span(gap),
            backup.schedule.cron(),
        )
    })
}
