//! Runbooks that a job or a person proposes, and a person approves.
//!
//! A runbook is a document for people: a title, what it is for, and steps. It is parsed
//! where it comes in, so that whatever is kept has that form. Approving one puts it among
//! the documents that jobs are given as context; nothing here carries out a step.

mod text;

use jiff::Timestamp;

pub use text::{InvalidRunbook, RUNBOOK_BYTES_MAX, RunbookText, STEPS_MAX};

use crate::ids::{JobId, RunbookId};

crate::words! {
    /// Where a runbook stands.
    RunbookState {
        /// It waits for a person.
        Proposed = "proposed",
        /// A person approved of exactly this text.
        Approved = "approved",
        /// A person turned it down, or withdrew an approval.
        Rejected = "rejected",
    }
}

/// One runbook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runbook {
    /// Identifier.
    pub id: RunbookId,
    /// What it says.
    pub text: RunbookText,
    /// SHA-256 of its written form: an approval is of these bytes.
    pub digest: [u8; 32],
    /// Who proposed it: a SPIFFE id, or whoever submitted the job.
    pub proposed_by: String,
    /// When.
    pub proposed_at: Timestamp,
    /// The job whose answer it is.
    pub from_job: Option<JobId>,
    /// What a person decided.
    pub decision: Option<Decision>,
}

impl Runbook {
    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> RunbookState {
        match &self.decision {
            None => RunbookState::Proposed,
            Some(Decision { verdict: RunbookVerdict::Approve, .. }) => RunbookState::Approved,
            Some(Decision { verdict: RunbookVerdict::Reject, .. }) => RunbookState::Rejected,
        }
    }
}

crate::words! {
    /// What a person says to a runbook.
    RunbookVerdict {
        /// It is right.
        Approve = "approve",
        /// It is not.
        Reject = "reject",
    }
}

/// What a person decided about a runbook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub verdict: RunbookVerdict,
    /// Who, as a SPIFFE id.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, in their words; may be empty.
    pub reason: String,
}

/// Why a decision does not stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// The text that was read is another one.
    #[error(
        "its digest is another one: the text was not this one; read it again with `labctl runbook show`"
    )]
    OtherText,
    /// A runbook that was rejected stays so.
    #[error("it was rejected; propose it anew")]
    Rejected,
}

/// Decides about a runbook. An approval may be withdrawn, a rejection may not; the same word again
/// changes nothing, and what stood first stays.
pub fn decide(
    mut runbook: Runbook,
    digest: [u8; 32],
    decision: Decision,
) -> Result<Runbook, Undecided> {
    if runbook.digest != digest {
        return Err(Undecided::OtherText);
    }
    match (runbook.state(), decision.verdict) {
        (RunbookState::Approved, RunbookVerdict::Approve)
        | (RunbookState::Rejected, RunbookVerdict::Reject) => Ok(runbook),
        (RunbookState::Rejected, RunbookVerdict::Approve) => Err(Undecided::Rejected),
        (RunbookState::Proposed, _) | (RunbookState::Approved, RunbookVerdict::Reject) => {
            runbook.decision = Some(decision);
            Ok(runbook)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runbook() -> Runbook {
        Runbook {
            id: uuid::Uuid::from_u128(1).into(),
            text: "# A\nWhy.\n## Steps\n1. Do.\n".parse().unwrap(),
            digest: [1; 32],
            proposed_by: "key/ann".to_owned(),
            proposed_at: Timestamp::UNIX_EPOCH,
            from_job: None,
            decision: None,
        }
    }

    fn said(verdict: RunbookVerdict, by: &str) -> Decision {
        Decision { verdict, by: by.to_owned(), at: Timestamp::UNIX_EPOCH, reason: String::new() }
    }

    #[test]
    fn an_approval_is_of_the_text_that_was_read() {
        let approve = said(RunbookVerdict::Approve, "ann");
        assert_eq!(decide(runbook(), [2; 32], approve.clone()), Err(Undecided::OtherText));
        let approved = decide(runbook(), [1; 32], approve).unwrap();
        assert_eq!(approved.state(), RunbookState::Approved);
        let again = decide(approved, [1; 32], said(RunbookVerdict::Approve, "bob")).unwrap();
        assert_eq!(again.decision.unwrap().by, "ann");
    }

    #[test]
    fn an_approval_can_be_withdrawn_and_a_rejection_cannot() {
        let approved = decide(runbook(), [1; 32], said(RunbookVerdict::Approve, "ann")).unwrap();
        let rejected = decide(approved, [1; 32], said(RunbookVerdict::Reject, "bob")).unwrap();
        assert_eq!(rejected.state(), RunbookState::Rejected);
        let back = decide(rejected, [1; 32], said(RunbookVerdict::Approve, "ann"));
        assert_eq!(back, Err(Undecided::Rejected));
    }
}
