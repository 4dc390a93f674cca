//! Documents of the house as context of jobs, and runbooks.
//!
//! [`refresh`] reads the sources of the site file and keeps their passages in the store's full-text
//! search; [`attach`] puts what fits a job's text before it, once, when the job comes in;
//! [`runbooks`] keeps what was proposed and what people said to it. Nothing here wakes a host or
//! talks to a model, and only addresses of the site file are dialled.

pub mod attach;
pub mod git;
pub mod harvest;
mod html;
pub mod refresh;
pub mod runbooks;
pub mod wiki;

use std::{
    collections::HashSet,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use homelab_common::{clock::Clock, exec::Exec};
use homelab_domain::{
    context::{ContextSource, Leaves, RUNBOOKS, SourceState, concern},
    fleet::Concern,
    ids::SourceName,
    site::Site,
};
use homelab_store::{Store, StoreError};
use jiff::Timestamp;
use ring::digest;
use tokio::sync::watch;

use crate::task::Nudge;

/// What documents are read and kept with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Runs Git.
    pub exec: Arc<dyn Exec>,
    /// What the site file says now.
    pub site: watch::Receiver<Arc<Site>>,
    /// Where repositories are fetched into.
    pub folder: PathBuf,
}

/// The documents of the house. Clones are the same.
#[derive(Clone)]
pub struct Documents(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// Sources that somebody wants read now.
    wanted: Mutex<HashSet<SourceName>>,
    nudge: Nudge,
    /// Whether old passages were looked for since the start.
    is_swept: AtomicBool,
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents").finish_non_exhaustive()
    }
}

/// One source with what is known of it.
#[derive(Clone, Debug)]
pub struct SourceStanding {
    /// Name.
    pub name: SourceName,
    /// Where its documents are, for people.
    pub origin: String,
    /// Whether passages of it may leave the house.
    pub leaves: Leaves,
    /// What is known; none before it was first looked at.
    pub state: Option<SourceState>,
}

/// There is no such source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no source `{name}`; there are: {known}")]
pub struct NoSource {
    /// What was asked for.
    pub name: String,
    /// Those that there are, in one line.
    pub known: String,
}

impl Documents {
    /// Documents that nobody has read yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let (wanted, nudge) = (Mutex::default(), Nudge::default());
        Self(Arc::new(Inner { parts, wanted, nudge, is_swept: AtomicBool::new(false) }))
    }

    /// All sources, in the order of the site file, approved runbooks last.
    ///
    /// # Errors
    /// The store failed.
    pub async fn sources(&self) -> Result<Vec<SourceStanding>, StoreError> {
        let mut tx = self.0.parts.store.read().await?;
        let states = tx.context().sources().await?;
        let known = |name: &SourceName| states.iter().find(|state| state.name == *name).cloned();
        let site = self.site();
        let mut all: Vec<SourceStanding> = site
            .context()
            .iter()
            .map(|source| SourceStanding {
                name: source.name.clone(),
                origin: source.origin.to_string(),
                leaves: source.leaves,
                state: known(&source.name),
            })
            .collect();
        all.extend(runbooks_source().map(|name| SourceStanding {
            origin: "approved runbooks".to_owned(),
            leaves: Leaves::Never,
            state: known(&name),
            name,
        }));
        Ok(all)
    }

    /// Has a source read soon.
    ///
    /// # Errors
    /// There is no such source.
    pub fn want(&self, name: &str) -> Result<(), NoSource> {
        let name = self.named(name)?;
        self.wanted().insert(name);
        self.0.nudge.nudge();
        Ok(())
    }

    /// What is not well with the sources.
    ///
    /// # Errors
    /// The store failed.
    pub async fn concerns(&self, now: Timestamp) -> Result<Vec<Concern>, StoreError> {
        let sources = self.sources().await?;
        let of = |source: &SourceStanding| concern(&source.name, source.state.as_ref(), now);
        Ok(sources.iter().filter_map(of).collect())
    }

    /// Names of all sources.
    fn names(&self) -> Vec<SourceName> {
        let site = self.site();
        let of_site = site.context().iter().map(|source: &ContextSource| source.name.clone());
        of_site.chain(runbooks_source()).collect()
    }

    fn named(&self, name: &str) -> Result<SourceName, NoSource> {
        let names = self.names();
        let known = || names.iter().map(SourceName::as_str).collect::<Vec<_>>().join(", ");
        let found = names.iter().find(|one| one.as_str() == name).cloned();
        found.ok_or_else(|| NoSource { name: name.chars().take(80).collect(), known: known() })
    }

    fn site(&self) -> Arc<Site> {
        Arc::clone(&self.0.parts.site.borrow())
    }

    fn wanted(&self) -> MutexGuard<'_, HashSet<SourceName>> {
        // Valid after each statement.
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn runbooks_source() -> Option<SourceName> {
    SourceName::try_new(RUNBOOKS).ok()
}

/// SHA-256 over parts, each with its length, so that no two lists of parts give the same bytes.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

#[cfg(test)]
mod tests;
