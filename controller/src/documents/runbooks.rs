//! Proposals and decisions about runbooks. An approved one is a document among others: it is found
//! as context, and nothing carries it out.

use std::time::Duration;

use homelab_domain::{
    context::{Document, Refreshed, SourceState, due},
    ids::{JobId, RunbookId, SourceName},
    runbook::{Decision, InvalidRunbook, Runbook, RunbookState, RunbookText, RunbookVerdict},
};
use homelab_store::{Decided, StoreError};
use ring::digest;

use super::{Documents, harvest::Harvest, refresh, sha256};
use crate::{audit, ca::issue::hex};

/// Runbooks that are found as context at most.
const APPROVED_MAX: u32 = 1_000;

/// How often it is written down that they are unchanged.
const SEEN_EVERY: Duration = Duration::from_secs(600);

/// What was written down of a proposal.
const PROPOSED: &str = "runbook.propose";

/// Why a runbook was not proposed.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The text is none.
    #[error(transparent)]
    Text(#[from] InvalidRunbook),
    /// The same id was used for something else.
    #[error("request id {0} was used for another runbook; choose a new one")]
    OtherRequest(RunbookId),
    /// The store failed.
    #[error("could not keep the runbook")]
    Store(#[from] StoreError),
}

/// A runbook that somebody wants to propose.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Identifier that the caller chose.
    pub id: RunbookId,
    /// Its text.
    pub text: String,
    /// Who proposes it.
    pub by: String,
    /// The job whose answer it is.
    pub from_job: Option<JobId>,
}

impl Documents {
    /// Keeps a proposal. Idempotent by its identifier.
    ///
    /// # Errors
    /// The text is no runbook, the identifier is taken, or the store failed.
    pub async fn propose(&self, proposal: Proposal) -> Result<Runbook, ProposeError> {
        let clock = self.0.parts.clock.as_ref();
        let text: RunbookText = proposal.text.parse()?;
        let runbook = Runbook {
            id: proposal.id,
            digest: digest_of(&text),
            text,
            proposed_by: proposal.by,
            proposed_at: clock.now(),
            from_job: proposal.from_job,
            decision: None,
        };
        let mut tx = self.0.parts.store.begin().await?;
        let is_new = tx.runbooks().get(runbook.id).await?.is_none();
        let kept = tx.runbooks().propose(&runbook).await?;
        if kept.digest != runbook.digest || kept.proposed_by != runbook.proposed_by {
            return Err(ProposeError::OtherRequest(runbook.id));
        }
        if is_new {
            let detail = match runbook.from_job {
                Some(job) => format!("digest {}, from job {job}", hex(&runbook.digest)),
                None => format!("digest {}", hex(&runbook.digest)),
            };
            let subject = format!("runbook/{}", runbook.id);
            let entry = audit::entry(clock, &runbook.proposed_by, PROPOSED, subject, detail);
            tx.audit().append(&entry).await?;
        }
        tx.commit().await?;
        Ok(kept)
    }

    /// One runbook.
    ///
    /// # Errors
    /// The store failed.
    pub async fn runbook(&self, id: RunbookId) -> Result<Option<Runbook>, StoreError> {
        self.0.parts.store.read().await?.runbooks().get(id).await
    }

    /// Runbooks, newest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn runbooks(
        &self,
        state: Option<RunbookState>,
        before: Option<RunbookId>,
        limit: u32,
    ) -> Result<Vec<Runbook>, StoreError> {
        self.0.parts.store.read().await?.runbooks().list(state, before, limit).await
    }

    /// Keeps what a person decided, and has the documents follow.
    ///
    /// # Errors
    /// The store failed.
    pub async fn decide(
        &self,
        id: RunbookId,
        digest: [u8; 32],
        decision: Decision,
    ) -> Result<Decided, StoreError> {
        let clock = self.0.parts.clock.as_ref();
        let action = match decision.verdict {
            RunbookVerdict::Approve => "runbook.approve",
            RunbookVerdict::Reject => "runbook.reject",
        };
        let detail = format!("digest {}; {}", hex(&digest), decision.reason);
        let by = decision.by.clone();
        let mut tx = self.0.parts.store.begin().await?;
        let decided = tx.runbooks().decide(id, digest, decision).await?;
        if matches!(decided, Decided::Stands(_)) {
            let entry = audit::entry(clock, by, action, format!("runbook/{id}"), detail);
            tx.audit().append(&entry).await?;
        }
        tx.commit().await?;
        self.0.nudge.nudge();
        Ok(decided)
    }

    /// Keeps the approved runbooks as the documents of their own source; a sentence when they changed.
    pub(super) async fn index_runbooks(
        &self,
        source: &SourceName,
        state: Option<&SourceState>,
    ) -> Result<Option<String>, StoreError> {
        let approved = self.runbooks(Some(RunbookState::Approved), None, APPROVED_MAX).await?;
        let digests: Vec<&[u8]> =
            approved.iter().map(|runbook| runbook.digest.as_slice()).collect();
        let fingerprint = sha256(&digests);
        if refresh::is_known(state, fingerprint) {
            if !due(state, SEEN_EVERY, self.0.parts.clock.now()) {
                return Ok(None);
            }
            let mut tx = self.0.parts.store.begin().await?;
            tx.context().seen(source, self.0.parts.clock.now()).await?;
            tx.commit().await?;
            return Ok(None);
        }
        let documents = approved.iter().map(|runbook| Document {
            path: format!("runbook/{}", runbook.id),
            title: String::new(),
            url: String::new(),
            version: hex(&runbook.digest),
            text: runbook.text.to_string(),
        });
        let harvest = Harvest { documents: documents.collect(), ..Harvest::default() };
        let version = hex(&fingerprint);
        let refreshed: Refreshed = self.keep(source, &version, fingerprint, harvest).await?;
        Ok(Some(refresh::told(source, &refreshed)))
    }
}

/// What an approval is of: the written form.
#[must_use]
pub fn digest_of(text: &RunbookText) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest::digest(&digest::SHA256, text.to_string().as_bytes()).as_ref());
    sum
}
