//! What the repositories hold: the truth about what could be restored, whatever is remembered here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use homelab_common::error_chain::Chain;
use homelab_domain::{ids::BackupName, run::SnapshotFact, site::Backup};
use jiff::Timestamp;

use super::{Backups, holdings::ReadError};
use crate::{
    app::Change,
    task::{BackgroundTask, Done, Outcome},
};

/// How old what a repository said may become. Snapshots that our own runs make are known at once;
/// this is about those that come and go without us.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// What the repositories were last seen to hold. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<BTreeMap<BackupName, View>>>);

#[derive(Clone, Debug, Default)]
struct View {
    listed_at: Option<Timestamp>,
    newest: Option<SnapshotFact>,
    /// Since when it cannot be read, and why.
    trouble: Option<(Timestamp, String)>,
    /// Counts what our own runs added, so that a listing that began before does not undo it.
    added: u64,
    /// What it was when the newest listing began.
    listed_with: u64,
}

/// A listing that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    added_before: u64,
}

impl Held {
    /// The newest verified snapshot of a backup: what its repository was seen to hold, or, as long
    /// as nobody has looked, what is `remembered`.
    #[must_use]
    pub fn newest(
        &self,
        backup: &BackupName,
        remembered: Option<SnapshotFact>,
    ) -> Option<SnapshotFact> {
        match self.lock().get(backup) {
            Some(view) if view.listed_at.is_some() => view.newest.clone(),
            _ => remembered,
        }
    }

    /// One of our own runs stored a snapshot.
    pub fn add(&self, backup: &BackupName, snapshot: &SnapshotFact) {
        let mut views = self.lock();
        let view = views.entry(backup.clone()).or_default();
        view.added += 1;
        let newer = view.newest.as_ref().is_none_or(|known| known.taken_at <= snapshot.taken_at);
        if newer {
            view.newest = Some(snapshot.clone());
        }
    }

    /// A listing begins.
    #[must_use]
    pub fn begin(&self, backup: &BackupName) -> Listing {
        Listing { added_before: self.lock().get(backup).map_or(0, |view| view.added) }
    }

    /// A listing gave its newest snapshot. True when that is news.
    pub fn listed(
        &self,
        backup: &BackupName,
        listing: Listing,
        newest: Option<SnapshotFact>,
        now: Timestamp,
    ) -> bool {
        let mut views = self.lock();
        let view = views.entry(backup.clone()).or_default();
        let added = (view.added > listing.added_before).then(|| view.newest.take()).flatten();
        let newest = [newest, added].into_iter().flatten().max_by_key(|one| one.taken_at);
        let id = |one: &Option<SnapshotFact>| one.as_ref().map(|one| one.id.clone());
        let is_news = view.listed_at.is_none() || id(&view.newest) != id(&newest);
        let is_news = is_news || view.trouble.is_some();
        view.newest = newest;
        view.listed_with = listing.added_before;
        view.listed_at = Some(now);
        view.trouble = None;
        is_news
    }

    /// A listing failed. True when that is news.
    pub fn failed(&self, backup: &BackupName, why: String, now: Timestamp) -> bool {
        let mut views = self.lock();
        let view = views.entry(backup.clone()).or_default();
        let is_news = view.trouble.is_none();
        let since = view.trouble.as_ref().map_or(now, |(since, _)| *since);
        view.trouble = Some((since, why));
        is_news
    }

    /// Since when the repository of a backup cannot be read, and why.
    #[must_use]
    pub fn trouble(&self, backup: &BackupName) -> Option<(Timestamp, String)> {
        self.lock().get(backup)?.trouble.clone()
    }

    /// Whether it is time to look again: a while has passed, or a run has stored something since.
    #[must_use]
    pub fn is_stale(&self, backup: &BackupName, now: Timestamp) -> bool {
        let views = self.lock();
        let Some(view) = views.get(backup) else { return true };
        let is_old = |at: Timestamp| now.duration_since(at).unsigned_abs() >= AGE_MAX;
        view.listed_at.is_none_or(is_old) || view.added > view.listed_with
    }

    /// Forgets backups that left the site.
    fn retain(&self, known: impl Fn(&BackupName) -> bool) {
        self.lock().retain(|backup, _| known(backup));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BackupName, View>> {
        // Valid after each statement, so a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the agents what their repositories hold: as soon as they answer, then every hour.
#[derive(Debug)]
pub struct ReadRepositories(pub Backups);

#[async_trait]
impl BackgroundTask for ReadRepositories {
    fn name(&self) -> &'static str {
        "read-repositories"
    }

    fn description(&self) -> &'static str {
        "Asks the backup-agents which verified snapshots their repositories hold."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }

    async fn activate(&self) -> Outcome {
        let backups = &self.0;
        let (site, held) = (backups.site(), backups.held());
        held.retain(|name| site.backup(name).is_some());
        backups.holdings().retain(&site);
        let (mut news, mut failed) = (0, None);
        for backup in site.backups() {
            let answers = backups.parts().agents.answers(&backup.host).is_ok();
            if !answers || !held.is_stale(&backup.name, backups.now()) {
                continue;
            }
            match read(backups, backup).await {
                Ok(true) => news += 1,
                Ok(false) => {}
                // One repository that is away does not keep the others from being read.
                Err(error) => {
                    let why = Chain(&error).to_string();
                    news += usize::from(held.failed(&backup.name, why, backups.now()));
                    failed = Some(error);
                }
            }
        }
        if news > 0 {
            backups.parts().events.tell(Change::Backups);
        }
        match (failed, news) {
            (Some(error), _) => Err(error.into()),
            (None, 0) => Ok(Done::Nothing),
            (None, news) => Ok(Done::Changed(format!("learned of {news} backups"))),
        }
    }
}

/// Looks into every repository of a backup. One that is away does not keep the others from being
/// read; what the first one says decides whether anything is known.
async fn read(backups: &Backups, backup: &Backup) -> Result<bool, ReadError> {
    let listing = backups.held().begin(&backup.name);
    let (mut newest, mut primary) = (Vec::new(), Ok(()));
    for repository in backup.repositories().chain(&backup.spool) {
        match backups.look_into(backup, repository).await {
            Ok(found) => newest.extend(found),
            Err(error) if *repository == backup.repository => primary = Err(error),
            // It shows among the copies, with its reason.
            Err(ReadError::Agent(_)) => {}
            Err(error) => return Err(error),
        }
    }
    primary?;
    let newest = newest.into_iter().max_by_key(|one| one.taken_at);
    Ok(backups.held().listed(&backup.name, listing, newest, backups.now()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn fact(id: &str, second: i64) -> SnapshotFact {
        let at = Timestamp::from_second(second).expect("a time");
        SnapshotFact {
            id: id.to_owned(),
            taken_at: at,
            verified_at: at,
            source_bytes: 1,
            stored_bytes: None,
            elapsed: Duration::ZERO,
            payload: Value::Null,
        }
    }

    fn wiki() -> BackupName {
        BackupName::try_new("wiki").expect("a name")
    }

    fn newest(held: &Held) -> Option<String> {
        held.newest(&wiki(), Some(fact("remembered", 5))).map(|one| one.id)
    }

    #[test]
    fn what_is_remembered_counts_until_somebody_has_looked() {
        let held = Held::default();
        assert_eq!(newest(&held).as_deref(), Some("remembered"));
        assert!(held.is_stale(&wiki(), Timestamp::UNIX_EPOCH));
        let listing = held.begin(&wiki());
        assert!(held.listed(&wiki(), listing, None, Timestamp::UNIX_EPOCH), "that is news");
        assert_eq!(newest(&held), None, "a snapshot that is gone cannot be restored");
        assert!(!held.is_stale(&wiki(), Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn a_run_that_ends_while_a_listing_is_on_its_way_is_not_undone_by_it() {
        let held = Held::default();
        let listing = held.begin(&wiki());
        held.add(&wiki(), &fact("new", 20));
        held.listed(&wiki(), listing, Some(fact("old", 10)), Timestamp::UNIX_EPOCH);
        assert_eq!(newest(&held).as_deref(), Some("new"));
        let listing = held.begin(&wiki());
        held.listed(&wiki(), listing, Some(fact("old", 10)), Timestamp::UNIX_EPOCH);
        assert_eq!(newest(&held).as_deref(), Some("old"), "the next listing is the truth again");
    }
}
