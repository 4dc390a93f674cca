//! Reads sources again when they are due.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use homelab_common::error_chain::Chain;
use homelab_domain::{
    context::{
        ContextSource, Cut, Document, GitSource, Origin, Passage, Refreshed, SourceState,
        WikiSource, due, passages,
    },
    gold::{Classifier, DataClass},
    ids::SourceName,
    text,
};
use homelab_store::{PASSAGES_AT_ONCE_MAX, StoreError};
use tracing::{info, warn};

use super::{
    Documents,
    git::{GitError, Repository},
    harvest::Harvest,
    runbooks_source, sha256,
    wiki::{Wiki, WikiError},
};
use crate::task::{BackgroundTask, Done, Driver, Outcome};

/// How often it is looked whether a source is due.
const PERIOD: Duration = Duration::from_secs(30);

/// How long one source may take: a slow one is not to hold up the others for ever.
const SOURCE_DEADLINE: Duration = Duration::from_secs(600);

/// Passages that are dropped in one transaction.
const SWEEP_MAX: u32 = 500;

/// Transactions of one activation that drop passages.
const SWEEPS_MAX: u32 = 200;

/// Changes when documents are cut or kept in another way, so that all are read again.
const FORM: u8 = 1;

/// Why a source was not read.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Wiki(#[from] WikiError),
    #[error("could not keep what was read")]
    Store(#[from] StoreError),
    #[error("not done after {} s", SOURCE_DEADLINE.as_secs())]
    Deadline,
}

/// What came of looking at a source.
enum Looked {
    Unchanged,
    Read(Box<Refreshed>),
}

/// The task that reads sources again.
#[derive(Debug)]
pub struct Refresh(pub Documents);

#[async_trait]
impl BackgroundTask for Refresh {
    fn name(&self) -> &'static str {
        "refresh-context"
    }

    fn description(&self) -> &'static str {
        "Reads documents of [[context.source]] again when they are due."
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn deadline(&self) -> Duration {
        SOURCE_DEADLINE * 8
    }

    async fn activate(&self) -> Outcome {
        let documents = &self.0;
        let states = documents.0.parts.store.read().await?.context().sources().await?;
        let names = documents.names();
        let has_strangers = states.iter().any(|state| !names.contains(&state.name));
        if has_strangers {
            let mut tx = documents.0.parts.store.begin().await?;
            tx.context().retain(&names).await?;
            tx.commit().await?;
        }
        let known = |name: &SourceName| states.iter().find(|state| state.name == *name);
        let mut done = Vec::new();
        for source in documents.site().context() {
            let state = known(&source.name);
            let is_wanted = documents.wanted().remove(&source.name);
            if !is_wanted && !due(state, source.every, documents.0.parts.clock.now()) {
                continue;
            }
            done.extend(documents.look(source, state).await?);
        }
        if let Some(name) = runbooks_source() {
            documents.wanted().remove(&name);
            done.extend(documents.index_runbooks(&name, known(&name)).await?);
        }
        // What an earlier controller left behind is looked for once.
        let is_first = !documents.0.is_swept.swap(true, Ordering::Relaxed);
        if is_first || has_strangers || !done.is_empty() {
            documents.sweep().await?;
        }
        Ok(if done.is_empty() { Done::Nothing } else { Done::Changed(done.join("; ")) })
    }
}

impl Documents {
    /// Has sources read from now on.
    pub fn start(&self, driver: &Driver) {
        driver.start_with(Arc::new(Refresh(self.clone())), self.0.nudge.clone());
    }

    /// Looks at one source and writes down what came of it; a sentence when it changed.
    async fn look(
        &self,
        source: &ContextSource,
        state: Option<&SourceState>,
    ) -> Result<Option<String>, StoreError> {
        let looking = tokio::time::timeout(SOURCE_DEADLINE, self.read(source, state));
        let looked = looking.await.unwrap_or(Err(RefreshError::Deadline));
        let now = self.0.parts.clock.now();
        let mut tx = self.0.parts.store.begin().await?;
        let said = match looked {
            Ok(Looked::Unchanged) => {
                tx.context().seen(&source.name, now).await?;
                None
            }
            Ok(Looked::Read(refreshed)) => Some(told(&source.name, &refreshed)),
            Err(RefreshError::Store(error)) => return Err(error),
            Err(error) => {
                let message = Chain(&error).to_string();
                let failures = tx.context().failed(&source.name, &message, now).await?;
                if failures == 1 {
                    warn!(source = %source.name, error = %message, "a source of documents could not be read");
                }
                None
            }
        };
        tx.commit().await?;
        Ok(said)
    }

    async fn read(
        &self,
        source: &ContextSource,
        state: Option<&SourceState>,
    ) -> Result<Looked, RefreshError> {
        match &source.origin {
            Origin::Git(git) => self.read_git(source, git, state).await,
            Origin::Wiki(wiki) => self.read_wiki(source, wiki, state).await,
        }
    }

    async fn read_git(
        &self,
        source: &ContextSource,
        git: &GitSource,
        state: Option<&SourceState>,
    ) -> Result<Looked, RefreshError> {
        let parts = &self.0.parts;
        let name = source.name.as_str();
        let repository = Repository::new(parts.exec.as_ref(), git, &parts.folder, name);
        let commit = repository.fetch().await?;
        let fingerprint = fingerprint(source, &commit);
        if is_known(state, fingerprint) {
            return Ok(Looked::Unchanged);
        }
        let harvest = repository.read(&commit).await.inspect_err(|_| repository.forget())?;
        let refreshed = self.keep(&source.name, &commit, fingerprint, harvest).await?;
        repository.tidy().await;
        Ok(Looked::Read(Box::new(refreshed)))
    }

    async fn read_wiki(
        &self,
        source: &ContextSource,
        wiki: &WikiSource,
        state: Option<&SourceState>,
    ) -> Result<Looked, RefreshError> {
        let wiki = Wiki::new(wiki, Arc::clone(&self.0.parts.clock));
        let pages = wiki.list().await?;
        let states: String = pages.iter().map(super::wiki::PageRow::state).collect();
        let version = crate::ca::issue::hex(&sha256(&[states.as_bytes()]));
        let fingerprint = fingerprint(source, &version);
        if is_known(state, fingerprint) {
            return Ok(Looked::Unchanged);
        }
        let harvest = wiki.read(&pages).await?;
        let refreshed = self.keep(&source.name, &version, fingerprint, harvest).await?;
        Ok(Looked::Read(Box::new(refreshed)))
    }

    /// Keeps what was read as a new generation, in transactions that hold nobody up.
    pub(super) async fn keep(
        &self,
        source: &SourceName,
        version: &str,
        fingerprint: [u8; 32],
        mut harvest: Harvest,
    ) -> Result<Refreshed, StoreError> {
        let parts = &self.0.parts;
        let classifier = Classifier::of(&self.site());
        let documents = std::mem::take(&mut harvest.documents);
        let (mut found, mut withheld) = (Vec::new(), 0_u32);
        for document in &documents {
            let cut = cut(document, &classifier);
            for heading in &cut.withheld {
                withheld = withheld.saturating_add(1);
                let place = if heading.is_empty() { "before the first heading" } else { heading };
                harvest.note(&document.path, &format!("a passage holds a secret ({place})"));
            }
            if cut.is_cut_off {
                harvest.note(&document.path, "only its first passages are kept");
            }
            found.extend(cut.passages);
        }
        let mut tx = parts.store.begin().await?;
        let generation = tx.context().begin(source).await?;
        tx.commit().await?;
        for some in found.chunks(PASSAGES_AT_ONCE_MAX) {
            let mut tx = parts.store.begin().await?;
            tx.context().put(source, generation, some).await?;
            tx.commit().await?;
        }
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let refreshed = Refreshed {
            at: parts.clock.now(),
            version: version.to_owned(),
            fingerprint,
            documents: count(documents.len()),
            passages: count(found.len()),
            withheld,
            skipped: harvest.skipped,
            notes: harvest.notes,
        };
        let mut tx = parts.store.begin().await?;
        tx.context().publish(source, generation, &refreshed).await?;
        tx.commit().await?;
        info!(%source, documents = refreshed.documents, passages = refreshed.passages, withheld, "a source of documents was read");
        Ok(refreshed)
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        for _ in 0..SWEEPS_MAX {
            let mut tx = self.0.parts.store.begin().await?;
            let dropped = tx.context().sweep(SWEEP_MAX).await?;
            tx.commit().await?;
            if dropped < u64::from(SWEEP_MAX) {
                break;
            }
        }
        Ok(())
    }
}

fn cut(document: &Document, classifier: &Classifier) -> Cut {
    let findings = classifier.find(&document.text).into_iter();
    let secrets = findings.filter(|finding| finding.classes.contains(&DataClass::Secret));
    let secrets: Vec<_> = secrets.map(|finding| finding.span).collect();
    let mut cut = passages(document, &secrets, &sha256);
    // A heading, a title and an address are shown with a passage, and may hold one as well.
    let shows = |passage: &Passage| {
        let shown =
            [&passage.heading, &passage.document, &passage.url].map(String::as_str).join("\n");
        let mut found = classifier.find(&shown).into_iter();
        found.any(|finding| finding.classes.contains(&DataClass::Secret))
    };
    let (hidden, kept) = cut.passages.into_iter().partition(shows);
    cut.passages = kept;
    let hidden: Vec<Passage> = hidden;
    cut.withheld.extend(hidden.iter().map(|_| "in its heading or path".to_owned()));
    cut
}

/// The same while neither the source nor the way in which it is read has changed.
pub(super) fn fingerprint(source: &ContextSource, version: &str) -> [u8; 32] {
    let how = format!("{:?}", source.origin);
    sha256(&[&[FORM], how.as_bytes(), version.as_bytes()])
}

pub(super) fn is_known(state: Option<&SourceState>, fingerprint: [u8; 32]) -> bool {
    let refreshed = state.and_then(|state| state.refreshed.as_ref());
    refreshed.is_some_and(|refreshed| refreshed.fingerprint == fingerprint)
}

pub(super) fn told(name: &SourceName, refreshed: &Refreshed) -> String {
    format!(
        "read {} of {name}, {}",
        text::count(refreshed.documents.into(), "document"),
        text::count(refreshed.passages.into(), "passage"),
    )
}
