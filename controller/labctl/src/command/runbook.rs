//! `labctl runbook …`: proposals of jobs and people, decisions of people.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    DecideRunbookRequest, DecideRunbookResponse, GetRunbookRequest, GetRunbookResponse,
    ListRunbooksRequest, ListRunbooksResponse, ProposeRunbookRequest, ProposeRunbookResponse,
    Runbook, RunbookState, propose_runbook_request::Source,
};
use jiff::Timestamp;

use crate::{
    args::{RunbookCommand, RunbookListArgs, RunbookProposeArgs, RunbookWord},
    call,
    failure::Failure,
    lab::Lab,
    output::{Rows, distance, word},
};

/// Runs one verb on runbooks.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: RunbookCommand) -> Result<Exit, Failure> {
    match command {
        RunbookCommand::List(args) => list(lab, &args).await,
        RunbookCommand::Show(args) => show(lab, args.runbook).await,
        RunbookCommand::Propose(args) => propose(lab, args).await,
        RunbookCommand::Approve(args) => {
            let request = DecideRunbookRequest {
                runbook_id: args.runbook,
                digest: args.digest,
                approve: true,
                reason: args.reason,
            };
            decide(lab, request).await
        }
        RunbookCommand::Reject(args) => {
            let digest = match args.digest {
                Some(digest) => digest,
                None => read(lab, &args.runbook).await?.runbook.unwrap_or_default().digest,
            };
            let request = DecideRunbookRequest {
                runbook_id: args.runbook,
                digest,
                approve: false,
                reason: args.reason,
            };
            decide(lab, request).await
        }
    }
}

async fn list(lab: &Lab, args: &RunbookListArgs) -> Result<Exit, Failure> {
    let state = match args.state {
        None => RunbookState::Unspecified,
        Some(RunbookWord::Proposed) => RunbookState::Proposed,
        Some(RunbookWord::Approved) => RunbookState::Approved,
        Some(RunbookWord::Rejected) => RunbookState::Rejected,
    };
    let request = ListRunbooksRequest {
        state: state.into(),
        page_size: args.limit.into(),
        ..ListRunbooksRequest::default()
    };
    let answer: ListRunbooksResponse =
        lab.call("list runbooks", call::LIST_RUNBOOKS, request).await?;
    lab.print(call::LIST_RUNBOOKS, &answer, || rows(lab.now(), &answer.runbooks))?;
    Ok(Exit::Ok)
}

async fn show(lab: &Lab, id: String) -> Result<Exit, Failure> {
    let answer = read(lab, &id).await?;
    let runbook = answer.runbook.as_ref();
    let text = || format!("{}\n{}", answer.text, runbook.map(standing).unwrap_or_default());
    lab.tell(call::GET_RUNBOOK, &answer, || rows(lab.now(), answer.runbook.as_slice()), text)?;
    Ok(Exit::Ok)
}

async fn read(lab: &Lab, id: &str) -> Result<GetRunbookResponse, Failure> {
    let request = GetRunbookRequest { runbook_id: id.to_owned() };
    lab.call(&format!("show runbook {id}"), call::GET_RUNBOOK, request).await
}

async fn propose(lab: &Lab, args: RunbookProposeArgs) -> Result<Exit, Failure> {
    let source = match (args.from_job, args.file) {
        (Some(job), _) => Source::JobId(job),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Failure::new(Exit::Usage, format!("could not read `{}`: {error}", path.display()))
            })?;
            Source::Text(text)
        }
        (None, None) => Source::Text(String::new()),
    };
    let request = ProposeRunbookRequest { request_id: lab.request_id(), source: Some(source) };
    let answer: ProposeRunbookResponse =
        lab.call("propose a runbook", call::PROPOSE_RUNBOOK, request).await?;
    let id = answer.runbook.as_ref().map(|runbook| runbook.runbook_id.as_str()).unwrap_or_default();
    let text = || format!("runbook {id} waits for a person: labctl runbook show {id}\n");
    lab.tell(call::PROPOSE_RUNBOOK, &answer, || rows(lab.now(), answer.runbook.as_slice()), text)?;
    Ok(Exit::Ok)
}

async fn decide(lab: &Lab, request: DecideRunbookRequest) -> Result<Exit, Failure> {
    let done = if request.approve { "approve" } else { "reject" };
    let action = format!("{done} runbook {}", request.runbook_id);
    let answer: DecideRunbookResponse = lab.call(&action, call::DECIDE_RUNBOOK, request).await?;
    let text = || answer.runbook.as_ref().map(standing).unwrap_or_default();
    lab.tell(call::DECIDE_RUNBOOK, &answer, || rows(lab.now(), answer.runbook.as_slice()), text)?;
    Ok(Exit::Ok)
}

fn rows(now: Timestamp, runbooks: &[Runbook]) -> Rows {
    let head = ["runbook", "title", "state", "proposed", "by"];
    let mut rows = Rows::new(&head, "No runbook: labctl runbook propose --from-job JOB");
    for runbook in runbooks {
        rows.push(
            &runbook.runbook_id,
            [
                runbook.runbook_id.clone(),
                runbook.title.clone(),
                word(runbook.state().as_str_name(), "RUNBOOK_STATE"),
                distance(now, runbook.proposed_at),
                runbook.proposed_by.clone(),
            ],
        );
    }
    rows
}

/// Where a runbook stands, and what to do next.
fn standing(runbook: &Runbook) -> String {
    let Runbook { runbook_id: id, digest, decided_by: by, .. } = runbook;
    match runbook.state() {
        RunbookState::Approved => {
            format!("approved by {by}; it is found as context\ndigest {digest}\n")
        }
        RunbookState::Rejected => format!("rejected by {by}\ndigest {digest}\n"),
        RunbookState::Proposed | RunbookState::Unspecified => format!(
            "proposed by {}\ndigest {digest}\n\nlabctl runbook approve {id} --digest {digest}\n\
             labctl runbook reject {id}\n",
            runbook.proposed_by
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposal_says_how_it_is_approved() {
        let runbook = Runbook {
            runbook_id: "7".to_owned(),
            digest: "ab".to_owned(),
            state: RunbookState::Proposed.into(),
            ..Runbook::default()
        };
        assert!(standing(&runbook).contains("labctl runbook approve 7 --digest ab\n"));
    }
}
