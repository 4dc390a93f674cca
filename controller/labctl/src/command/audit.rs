//! `labctl audit …`.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    ListAuditEntriesRequest, ListAuditEntriesResponse, VerifyAuditRequest, VerifyAuditResponse,
};

use crate::{
    args::{AuditCommand, AuditListArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, distance, word},
};

/// Runs one verb on the audit log.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: AuditCommand) -> Result<Exit, Failure> {
    match command {
        AuditCommand::List(args) => list(lab, args).await,
        AuditCommand::Verify => verify(lab).await,
    }
}

async fn list(lab: &Lab, args: AuditListArgs) -> Result<Exit, Failure> {
    let request = ListAuditEntriesRequest {
        actor: args.actor,
        page_size: args.limit.into(),
        ..ListAuditEntriesRequest::default()
    };
    let answer: ListAuditEntriesResponse =
        lab.call("list the audit log", call::LIST_AUDIT_ENTRIES, request).await?;
    lab.print(call::LIST_AUDIT_ENTRIES, &answer, || {
        let head = ["number", "when", "who", "did", "to", "outcome", "detail"];
        let mut rows = Rows::new(&head, "Nothing has been recorded yet.");
        for entry in &answer.entries {
            rows.push(
                entry.sequence.to_string(),
                [
                    entry.sequence.to_string(),
                    distance(lab.now(), entry.at),
                    entry.actor.clone(),
                    entry.action.clone(),
                    entry.subject.clone(),
                    word(entry.outcome().as_str_name(), "AUDIT_OUTCOME"),
                    entry.detail.clone(),
                ],
            );
        }
        rows
    })?;
    Ok(Exit::Ok)
}

async fn verify(lab: &Lab) -> Result<Exit, Failure> {
    let answer: VerifyAuditResponse =
        lab.call("verify the audit log", call::VERIFY_AUDIT, VerifyAuditRequest::default()).await?;
    lab.print(call::VERIFY_AUDIT, &answer, || {
        let mut rows = Rows::new(&["intact", "entries", "broken at", "head"], "");
        let intact = if answer.intact { "yes" } else { "NO" };
        let broken = if answer.intact { "-".to_owned() } else { answer.broken_at.to_string() };
        rows.push(
            &answer.head_hash,
            [intact.to_owned(), answer.entries.to_string(), broken, answer.head_hash.clone()],
        );
        rows
    })?;
    if answer.intact {
        Ok(Exit::Ok)
    } else {
        output::say(
            "the chain does not hold: somebody has changed the store behind the controller's back",
        );
        Ok(Exit::Failed)
    }
}
