//! Reads all data of each repository by and by, and frees the room of what was deleted.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use homelab_common::error_chain::Chain;
use homelab_domain::{
    ids::{HostName, RepositoryName, RunId},
    site::{Repository, Site},
};
use homelab_store::Scrub;
use tracing::{error, warn};

use super::{
    Backups,
    agents::{CallError, Upkeep},
};
use crate::{
    app::Change,
    audit,
    task::{BackgroundTask, Done, Outcome},
};

/// A part of each repository is read this often.
const EVERY: Duration = Duration::from_hours(24);

/// More parts than this are too small to be worth a round.
const PARTS_MAX: u32 = 365;

/// Reads a part of each repository a day, so that all of it is read in the time that the site file
/// gives it; afterwards frees what can be freed.
#[derive(Debug)]
pub(super) struct KeepUpRepositories(pub(super) Backups);

#[async_trait]
impl BackgroundTask for KeepUpRepositories {
    fn name(&self) -> &'static str {
        "keep-up-repositories"
    }

    fn description(&self) -> &'static str {
        "Reads the data of the repositories by parts, and frees the room of what was deleted."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1800)
    }

    fn deadline(&self) -> Duration {
        Duration::from_hours(12)
    }

    async fn activate(&self) -> Outcome {
        let backups = &self.0;
        let site = backups.site();
        let mut tx = backups.parts().store.read().await?;
        let scrubs = tx.snapshots().scrubs().await?;
        let open = tx.runs().open().await?;
        drop(tx);
        let scrubbed: BTreeMap<_, _> =
            scrubs.into_iter().map(|scrub| (scrub.repository, scrub.at)).collect();
        let (mut done, mut failed) = (Vec::new(), None);
        for repository in site.repositories() {
            let is_recent = scrubbed
                .get(&repository.name)
                .is_some_and(|at| backups.now().duration_since(*at).unsigned_abs() < EVERY);
            let Some(host) = keeper(&site, repository) else { continue };
            let is_busy = open.iter().any(|run| run.spec.host == host);
            let is_silent = backups.parts().agents.answers(&host).is_err();
            // A repository that holds nothing yet has nothing to read.
            let is_empty = backups.holdings().facts(&repository.name).is_none();
            if is_recent || is_busy || is_silent || is_empty {
                continue;
            }
            match backups.keep_up(repository, &host).await {
                Ok(problems) => done.push(format!("`{}`: {problems} problems", repository.name)),
                Err(error) => {
                    warn!(repository = %repository.name, error = %Chain(error.as_ref()), "could not read a repository through");
                    failed = Some(error);
                }
            }
        }
        match (failed, done.is_empty()) {
            (Some(error), _) => Err(error),
            (None, true) => Ok(Done::Nothing),
            (None, false) => Ok(Done::Changed(format!("read a part of {}", done.join(", ")))),
        }
    }
}

/// The host whose agent does the upkeep of a repository: the one that may delete in it, else the
/// first that uses it.
fn keeper(site: &Site, repository: &Repository) -> Option<HostName> {
    let of = |name: &RepositoryName| {
        let mut backups = site.backups().iter();
        let user = backups.find(|one| one.repositories().chain(&one.spool).any(|it| it == name));
        user.map(|backup| backup.host.clone())
    };
    repository.keeper.clone().or_else(|| of(&repository.name))
}

/// Into how many parts a repository is divided so that one a day reads all of it in time.
fn parts(repository: &Repository) -> u32 {
    let days = repository.scrub_every.as_secs() / EVERY.as_secs();
    u32::try_from(days).unwrap_or(PARTS_MAX).clamp(1, PARTS_MAX)
}

impl Backups {
    async fn keep_up(
        &self,
        repository: &Repository,
        host: &HostName,
    ) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let (agents, name) = (&self.parts().agents, &repository.name);
        let scrub = Upkeep::Scrub { parts: parts(repository) };
        let problems = agents.keep_up(host, name, self.new_run_id(), scrub).await?;
        self.keep_scrub(name, &problems).await?;
        if problems.is_empty() {
            // What an append-only agent may not do is done by the keeper, where there is one.
            match agents.keep_up(host, name, self.new_run_id(), Upkeep::Prune).await {
                Ok(_) => {}
                Err(CallError::Refused { failure, .. }) => {
                    warn!(repository = %name, message = failure.message, "a repository was not pruned");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(problems.len())
    }

    async fn keep_scrub(
        &self,
        repository: &RepositoryName,
        problems: &[String],
    ) -> Result<(), homelab_store::StoreError> {
        let parts = self.parts();
        let scrub =
            Scrub { repository: repository.clone(), at: self.now(), problems: problems.to_vec() };
        let mut tx = parts.store.begin().await?;
        tx.leadership().require(parts.lease.token()).await?;
        tx.snapshots().scrubbed(&scrub).await?;
        if let Some(first) = problems.first() {
            error!(%repository, problems = problems.len(), first, "a repository is damaged");
            let subject = format!("repository/{repository}");
            let detail = format!("{} problems; the first: {first}", problems.len());
            let clock = parts.clock.as_ref();
            let entry = audit::entry(clock, audit::ALARM, "repository-damaged", subject, detail);
            tx.audit().append(&entry).await?;
        }
        tx.commit().await?;
        parts.events.tell(Change::Backups);
        Ok(())
    }

    fn new_run_id(&self) -> RunId {
        let parts = self.parts();
        homelab_common::chance::uuid_v7(parts.clock.as_ref(), parts.chance.as_ref()).into()
    }
}
