//! Runbooks from proposal to document.

use homelab_domain::runbook::{Decision, RunbookVerdict};
use homelab_store::Decided;

use super::{
    super::runbooks::{Proposal, ProposeError},
    rig::{Rig, now},
};

const TEXT: &str = "# Wake x99\n\nWhen silver sleeps.\n\n## Steps\n\n1. Send the magic packet.\n";

fn proposal(text: &str) -> Proposal {
    Proposal {
        id: uuid::Uuid::from_u128(1).into(),
        text: text.to_owned(),
        by: "spiffe://home/user/ann/operator".to_owned(),
        from_job: None,
    }
}

fn said(verdict: RunbookVerdict) -> Decision {
    let by = "spiffe://home/user/ann/operator+approver".to_owned();
    Decision { verdict, by, at: now(), reason: "tried it".to_owned() }
}

#[tokio::test]
async fn a_runbook_is_found_as_context_from_its_approval_to_its_rejection() {
    let rig = Rig::new("").await;
    let runbook = rig.documents.propose(proposal(TEXT)).await.expect("proposed");
    rig.look().await;
    assert!(rig.found("magic packet").await.is_empty(), "nobody has read it");
    let approve = said(RunbookVerdict::Approve);
    let decided = rig.documents.decide(runbook.id, runbook.digest, approve).await;
    assert!(matches!(decided, Ok(Decided::Stands(_))));
    rig.look().await;
    let found = rig.found("magic packet").await;
    assert!(found[0].starts_with("[1] runbooks: runbook/00000000-"), "{found:?}");
    assert!(found[0].ends_with("Wake x99 > Steps"), "{found:?}");
    let reject = said(RunbookVerdict::Reject);
    rig.documents.decide(runbook.id, runbook.digest, reject).await.expect("kept");
    rig.look().await;
    assert!(rig.found("magic packet").await.is_empty());
}

#[tokio::test]
async fn proposals_and_decisions_are_in_the_audit_log_with_their_digest() {
    let rig = Rig::new("").await;
    let runbook = rig.documents.propose(proposal(TEXT)).await.expect("proposed");
    rig.documents.propose(proposal(TEXT)).await.expect("the same again");
    rig.documents
        .decide(runbook.id, runbook.digest, said(RunbookVerdict::Approve))
        .await
        .expect("kept");
    let store = &rig.documents.0.parts.store;
    let page = homelab_store::PageRequest::first(10);
    let rows = crate::audit::list(store.as_ref(), None, &page).await.expect("readable").items;
    let actions: Vec<&str> = rows.iter().map(|row| row.entry.action.as_str()).collect();
    assert_eq!(actions, ["runbook.approve", "runbook.propose"]);
    let digest = crate::ca::issue::hex(&runbook.digest);
    assert!(rows.iter().all(|row| row.entry.detail.contains(&digest)));
}

#[tokio::test]
async fn a_text_of_another_form_is_no_runbook() {
    let rig = Rig::new("").await;
    let refused = rig.documents.propose(proposal("Sure! First, …")).await;
    assert!(matches!(refused, Err(ProposeError::Text(error)) if error.line == 1));
    rig.documents.propose(proposal(TEXT)).await.expect("proposed");
    let other = rig.documents.propose(proposal(&TEXT.replace("magic", "other"))).await;
    assert!(matches!(other, Err(ProposeError::OtherRequest(_))));
}
