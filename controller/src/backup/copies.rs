//! Where the copies of each backup are, from what was seen of them.

use std::collections::BTreeMap;

use homelab_domain::{
    copies::{CopyFact, CopyRole, CopyRule, CopyStatus, judge},
    ids::RepositoryName,
    site::{Backup, Site},
};
use homelab_store::{Scrub, StoreError};

use super::Backups;

/// The copies of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiesView {
    /// As the site file declares it.
    pub backup: Backup,
    /// Whether they make 3-2-1.
    pub rule: CopyRule,
    /// The source, then each repository.
    pub copies: Vec<CopyStatus>,
}

impl Backups {
    /// Where the copies of every backup are, in the order of the site file.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn copies(&self) -> Result<Vec<CopiesView>, StoreError> {
        let site = self.site();
        let scrubs = self.parts().store.read().await?.snapshots().scrubs().await?;
        let scrubs: BTreeMap<_, _> =
            scrubs.into_iter().map(|scrub| (scrub.repository.clone(), scrub)).collect();
        Ok(site.backups().iter().map(|backup| self.copies_of(&site, backup, &scrubs)).collect())
    }

    pub(super) fn copies_of(
        &self,
        site: &Site,
        backup: &Backup,
        scrubs: &BTreeMap<RepositoryName, Scrub>,
    ) -> CopiesView {
        let host = site.host(&backup.host);
        let source = CopyFact {
            role: CopyRole::Source,
            repository: None,
            medium: format!("host/{}", backup.host),
            place: host.map(|host| host.place.clone()).unwrap_or_default(),
            newest_at: Some(self.now()),
            snapshots: None,
            seen_at: None,
            trouble: None,
            damage: None,
            scrubbed_at: None,
            append_only: None,
        };
        let primary = [(CopyRole::Primary, &backup.repository)];
        let copies = backup.copies.iter().map(|name| (CopyRole::Copy, name));
        let spool = backup.spool.iter().map(|name| (CopyRole::Spool, name));
        let repositories = primary.into_iter().chain(copies).chain(spool);
        let facts = repositories.map(|(role, name)| {
            let shelf = self.holdings().shelf(&backup.name, name);
            let declared = site.repository(name);
            let facts = shelf.facts.as_ref();
            let damage = scrubs.get(name).and_then(|scrub| scrub.problems.first().cloned());
            CopyFact {
                role,
                repository: Some(name.clone()),
                medium: declared.map_or_else(|| name.to_string(), |one| one.medium.clone()),
                place: declared.map(|one| one.place.clone()).unwrap_or_default(),
                newest_at: shelf.newest().map(|one| one.taken_at),
                snapshots: shelf.listed_at.and_then(|_| u32::try_from(shelf.listed.len()).ok()),
                seen_at: shelf.listed_at,
                trouble: shelf.trouble.as_ref().map(|(_, why)| why.clone()),
                damage,
                scrubbed_at: facts.and_then(|facts| facts.scrubbed_at),
                append_only: facts.and_then(|facts| facts.append_only),
            }
        });
        let facts = std::iter::once(source).chain(facts).collect();
        let (rule, copies) = judge(self.now(), backup.rpo, facts);
        CopiesView { backup: backup.clone(), rule, copies }
    }
}
