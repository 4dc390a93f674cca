//! Documents and runbooks, over gRPC at a whole controller.

use homelab_proto::{
    controller::v1::{
        context_service_client::ContextServiceClient, job_service_client::JobServiceClient,
        propose_runbook_request::Source, runbook_service_client::RunbookServiceClient,
    },
    inference::v1::{ChatMessage, ChatRole},
};

use super::*;

const RUNBOOK: &str =
    "# Wake x99\n\nWhen silver is wanted.\n\n## Steps\n\n1. Send the magic packet.\n";

/// A site whose bronze has a model that no worker answers for, so that its jobs wait.
async fn lab() -> Lab {
    let folder = tempfile::tempdir().expect("a folder");
    let site = "[site]\nname = \"home\"\n[[host]]\nname = \"cw-nas\"\naddress = \"127.0.0.1\"\n\
                daemons = [\"gpu-worker\"]\n[[ai.tier]]\ntier = \"bronze\"\nhosts = [\"cw-nas\"]\n\
                models = [\"small\"]\ndefault-model = \"small\"\n";
    std::fs::write(folder.path().join("homelab.toml"), site).expect("writable");
    let config = config(folder.path(), "state");
    Lab::found(folder, config, Arc::new(SystemClock)).await
}

async fn proposed(lab: &Lab) -> pb::Runbook {
    let request = pb::ProposeRunbookRequest {
        request_id: "01a2087d-9b89-7f3e-bc1c-9162e4d363dd".to_owned(),
        source: Some(Source::Text(RUNBOOK.to_owned())),
    };
    let answer = RunbookServiceClient::new(lab.admin()).propose_runbook(request).await;
    answer.expect("proposed").into_inner().runbook.expect("a runbook")
}

fn decision(runbook: &pb::Runbook, digest: &str) -> pb::DecideRunbookRequest {
    pb::DecideRunbookRequest {
        runbook_id: runbook.runbook_id.clone(),
        digest: digest.to_owned(),
        approve: true,
        reason: "tried it".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_given_an_approved_runbook_and_cites_it() {
    let lab = lab().await;
    let runbook = proposed(&lab).await;
    let mut runbooks = RunbookServiceClient::new(lab.admin());
    let decided = runbooks.decide_runbook(decision(&runbook, &runbook.digest)).await;
    let decided = decided.expect("decided").into_inner().runbook.expect("a runbook");
    assert_eq!(decided.state(), pb::RunbookState::Approved);
    eventually("it is found", async || {
        let request = pb::SearchContextRequest {
            text: "magic packet".to_owned(),
            ..pb::SearchContextRequest::default()
        };
        let found = ContextServiceClient::new(lab.admin()).search_context(request).await;
        !found.expect("searched").into_inner().passages.is_empty()
    })
    .await;
    let request = pb::SubmitJobRequest {
        request_id: "01a2087d-9b89-7f3e-bc1c-9162e4d363de".to_owned(),
        messages: vec![ChatMessage {
            role: ChatRole::User.into(),
            content: "who sends the magic packet to wake x99?".to_owned(),
        }],
        context: Some(pb::ContextWish::default()),
        ..pb::SubmitJobRequest::default()
    };
    let mut jobs = JobServiceClient::new(lab.admin());
    let job = jobs.submit_job(request.clone()).await.expect("taken").into_inner();
    let job = job.job.expect("a job");
    assert_eq!(job.citations[0].source, "runbooks");
    assert_eq!(job.citations[0].version, runbook.digest);
    let again = jobs.submit_job(request).await.expect("the same call").into_inner();
    assert_eq!(again.job.expect("a job").job_id, job.job_id);
    let shown = jobs.get_job(pb::GetJobRequest { job_id: job.job_id }).await.expect("there");
    assert_eq!(shown.into_inner().job.expect("a job").citations, job.citations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runbook_is_approved_by_an_approver_and_as_it_was_read() {
    let lab = lab().await;
    let runbook = proposed(&lab).await;
    let viewer = lab.channel_as(&lab.person("bob").await);
    let mut runbooks = RunbookServiceClient::new(viewer);
    let refused = runbooks.decide_runbook(decision(&runbook, &runbook.digest)).await;
    assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
    let request = pb::GetRunbookRequest { runbook_id: runbook.runbook_id.clone() };
    let shown = runbooks.get_runbook(request).await.expect("shown").into_inner();
    assert_eq!(shown.text, RUNBOOK);
    let mut runbooks = RunbookServiceClient::new(lab.admin());
    let other = runbooks.decide_runbook(decision(&runbook, &"0".repeat(64))).await;
    assert_eq!(reason_of(&other.expect_err("refused")).as_deref(), Some("RUNBOOK_CHANGED"));
    let list = runbooks.list_runbooks(pb::ListRunbooksRequest::default()).await.expect("listed");
    let rows = list.into_inner().runbooks;
    assert_eq!((rows.len(), rows[0].state()), (1, pb::RunbookState::Proposed));
    let text = pb::ProposeRunbookRequest {
        request_id: "01a2087d-9b89-7f3e-bc1c-9162e4d363df".to_owned(),
        source: Some(Source::Text("Sure!\n".to_owned())),
    };
    let refused = runbooks.propose_runbook(text).await.expect_err("no runbook");
    assert!(refused.message().contains("line 1"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_listed_with_what_is_known_and_an_unknown_one_is_named() {
    let lab = lab().await;
    let mut context = ContextServiceClient::new(lab.admin());
    let listed = context.list_context_sources(pb::ListContextSourcesRequest {}).await;
    let sources = listed.expect("listed").into_inner().sources;
    assert_eq!((sources.len(), sources[0].name.as_str()), (1, "runbooks"));
    assert_eq!(sources[0].leaves, "never");
    let request = pb::RefreshContextRequest { source: "wiki".to_owned() };
    let refused = context.refresh_context(request).await.expect_err("there is none");
    assert_eq!(reason_of(&refused).as_deref(), Some("SOURCE_NOT_FOUND"));
    let request = pb::RefreshContextRequest { source: "runbooks".to_owned() };
    context.refresh_context(request).await.expect("read soon");
}
