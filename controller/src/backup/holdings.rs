//! What each repository of a backup holds, in full: kept in memory as it was last listed, and in the
//! store as a signed list of everything that was ever seen. A verified snapshot that is gone although
//! nobody gave it up raises an alarm.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use homelab_common::error_chain::Chain;
use homelab_domain::{
    evidence::{Fact, SnapshotFacts},
    ids::{BackupName, RepositoryName},
    run::SnapshotFact,
    site::{Backup, Site},
};
use homelab_store::{SeenSnapshot, SeenState, StoreError};
use jiff::Timestamp;
use tracing::{error, warn};

use super::{
    Backups,
    agents::{CallError, Listed, RepositoryFacts},
    evidence::attest,
};
use crate::{app::Change, audit};

/// Snapshots of one backup in one repository that are listed at most. With more, nobody can say that
/// one of them is gone.
const LISTED_MAX: u16 = 20_000;

/// Why a repository could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its agent did not say.
    #[error(transparent)]
    Agent(#[from] CallError),
    /// What was seen could not be kept.
    #[error("could not keep what was seen")]
    Store(#[from] StoreError),
}

/// What one repository holds of one backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// When it was last listed with success.
    pub listed_at: Option<Timestamp>,
    /// What it held then, the newest first.
    pub listed: Vec<Listed>,
    /// Since when it cannot be read, and why.
    pub trouble: Option<(Timestamp, String)>,
    /// How the repository itself stands.
    pub facts: Option<RepositoryFacts>,
}

impl Shelf {
    /// The snapshot with the newest moment.
    #[must_use]
    pub fn newest(&self) -> Option<&SnapshotFact> {
        self.listed.iter().map(|one| &one.snapshot).max_by_key(|one| one.taken_at)
    }
}

/// All of it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Holdings(Arc<Mutex<BTreeMap<(BackupName, RepositoryName), Shelf>>>);

impl Holdings {
    /// What a repository holds of a backup, as it was last seen.
    #[must_use]
    pub fn shelf(&self, backup: &BackupName, repository: &RepositoryName) -> Shelf {
        let key = (backup.clone(), repository.clone());
        self.lock().get(&key).cloned().unwrap_or_default()
    }

    /// How a repository stands, by whichever agent said so last.
    #[must_use]
    pub fn facts(&self, repository: &RepositoryName) -> Option<RepositoryFacts> {
        let shelves = self.lock();
        let mut of = shelves.iter().filter(|((_, name), _)| name == repository);
        of.find_map(|(_, shelf)| shelf.facts.clone())
    }

    /// Forgets what left the site.
    pub fn retain(&self, site: &Site) {
        self.lock().retain(|(backup, _), _| site.backup(backup).is_some());
    }

    fn change(
        &self,
        backup: &BackupName,
        repository: &RepositoryName,
        change: impl FnOnce(&mut Shelf),
    ) {
        let key = (backup.clone(), repository.clone());
        change(self.lock().entry(key).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(BackupName, RepositoryName), Shelf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How what is there differs from what was seen before.
#[derive(Debug, Default)]
struct Differences<'a> {
    /// Never seen, the oldest first.
    new: Vec<&'a Listed>,
    /// Gone or given up before, and there.
    back: Vec<&'a str>,
    /// There before, given up by nobody, and gone.
    gone: Vec<&'a SeenSnapshot>,
}

fn differences<'a>(known: &'a [SeenSnapshot], listed: &'a [Listed]) -> Differences<'a> {
    let is_whole = listed.len() < usize::from(LISTED_MAX);
    let by_id: BTreeMap<_, _> = known.iter().map(|one| (one.id.as_str(), one)).collect();
    let present: BTreeSet<_> = listed.iter().map(|one| one.snapshot.id.as_str()).collect();
    let mut found = Differences::default();
    for one in listed.iter().rev() {
        match by_id.get(one.snapshot.id.as_str()) {
            None => found.new.push(one),
            Some(seen) if seen.state != SeenState::Present => found.back.push(&seen.id),
            Some(_) => {}
        }
    }
    let gone = known.iter().filter(|one| {
        is_whole && one.state == SeenState::Present && !present.contains(one.id.as_str())
    });
    found.gone.extend(gone);
    found
}

impl Backups {
    /// Asks the agent of a backup what a repository holds, and keeps what it says. The newest
    /// snapshot of it.
    pub(super) async fn look_into(
        &self,
        backup: &Backup,
        repository: &RepositoryName,
    ) -> Result<Option<SnapshotFact>, ReadError> {
        let agents = &self.parts().agents;
        let (host, name) = (&backup.host, &backup.name);
        let facts = agents.repository(host, repository).await.ok();
        let listed = match agents.snapshots(host, repository, name, LISTED_MAX).await {
            Ok(listed) => listed,
            Err(error) => {
                let (why, now) = (Chain(&error).to_string(), self.now());
                self.holdings().change(name, repository, |shelf| {
                    let since = shelf.trouble.as_ref().map_or(now, |(since, _)| *since);
                    shelf.trouble = Some((since, why));
                });
                return Err(error.into());
            }
        };
        self.record(backup, repository, &listed).await?;
        let now = self.now();
        let is_news = facts.is_some() && self.holdings().facts(repository).is_none();
        self.holdings().change(name, repository, |shelf| {
            *shelf = Shelf { listed_at: Some(now), listed, trouble: None, facts };
        });
        if is_news {
            self.became_known();
        }
        Ok(self.holdings().shelf(name, repository).newest().cloned())
    }

    /// Keeps what is new and what is gone, signed.
    async fn record(
        &self,
        backup: &Backup,
        repository: &RepositoryName,
        listed: &[Listed],
    ) -> Result<(), StoreError> {
        let parts = self.parts();
        let known = parts.store.read().await?.snapshots().of(&backup.name).await?;
        let known: Vec<_> = known.into_iter().filter(|one| one.repository == *repository).collect();
        let found = differences(&known, listed);
        if found.new.is_empty() && found.back.is_empty() && found.gone.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let mut tx = parts.store.begin().await?;
        tx.leadership().require(parts.lease.token()).await?;
        for one in &found.new {
            let fact = Fact::Seen(facts_of(backup, repository, &one.snapshot));
            let stated = attest(tx.as_mut(), &parts.signer, now, &fact).await?;
            let seen = SeenSnapshot {
                backup: backup.name.clone(),
                repository: repository.clone(),
                id: one.snapshot.id.clone(),
                sequence: stated.sequence,
                run: one.run,
                taken_at: one.snapshot.taken_at,
                verified_at: one.snapshot.verified_at,
                source_bytes: one.snapshot.source_bytes,
                items: one.items,
                state: SeenState::Present,
                state_since: now,
            };
            tx.snapshots().add(&seen).await?;
        }
        for id in &found.back {
            warn!(backup = %backup.name, %repository, snapshot = id, "a snapshot is there again");
            tx.snapshots().mark(&backup.name, repository, id, SeenState::Present, now).await?;
        }
        for one in &found.gone {
            let fact = Fact::Vanished(SnapshotFacts {
                backup: one.backup.clone(),
                repository: one.repository.clone(),
                snapshot_id: one.id.clone(),
                taken_at: one.taken_at,
                verified_at: one.verified_at,
            });
            attest(tx.as_mut(), &parts.signer, now, &fact).await?;
            tx.snapshots().mark(&one.backup, repository, &one.id, SeenState::Vanished, now).await?;
            let subject = format!("backup/{}", one.backup);
            let detail = format!(
                "verified snapshot {} of {} is gone from `{repository}`, and nobody gave it up",
                one.id, one.taken_at
            );
            error!(backup = %one.backup, %repository, snapshot = one.id, "a verified snapshot has vanished");
            let action = "snapshot-vanished";
            let entry = audit::entry(parts.clock.as_ref(), audit::ALARM, action, subject, detail);
            tx.audit().append(&entry).await?;
        }
        tx.commit().await?;
        if !found.gone.is_empty() {
            parts.events.tell(Change::Audit);
        }
        Ok(())
    }
}

fn facts_of(backup: &Backup, repository: &RepositoryName, one: &SnapshotFact) -> SnapshotFacts {
    SnapshotFacts {
        backup: backup.name.clone(),
        repository: repository.clone(),
        snapshot_id: one.id.clone(),
        taken_at: one.taken_at,
        verified_at: one.verified_at,
    }
}
